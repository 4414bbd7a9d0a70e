"""Log-probability and entropy of chosen tokens from hidden states, without holding all logits at once.

Logits are positions x vocabulary numbers: 4096 positions of a vocabulary of 150,000 take 2.3 GiB in float32, four times that
with their gradients. Here they exist for one chunk of positions at a time, and are computed again for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import log_softmax


def token_stats(
    head: nn.Module, states: Float[Tensor, "N H"], chosen: Int64[Tensor, " N"], chunk: int
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Log-probability of the ``chosen`` tokens and entropy (nats) of the distributions that ``head`` makes of N states.

    At most ``chunk`` positions have logits at a time. Up to that many are one plain pass, whose graph is kept; with more, only
    the states are kept. Gradients reach the states, never the head, which is frozen. Logits are reduced in float32.

    >>> head, states = nn.Linear(4, 10), torch.randn(6, 4)
    >>> whole = token_stats(head, states, torch.arange(6), chunk=6)
    >>> parts = token_stats(head, states, torch.arange(6), chunk=2)
    >>> all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, parts))
    True
    """
    if len(states) > chunk:
        return _Chunked.apply(head, states, chosen, chunk)
    logp = log_softmax(head(states).float(), dim=-1)
    return logp.gather(1, chosen[:, None]).squeeze(1), -(logp.exp() * logp).sum(1)


class _Chunked(torch.autograd.Function):
    """The same, chunk by chunk, with the logits recomputed in the backward pass.

    With p = softmax(z), chosen token y and entropy H: d log p_y / dz = 1_y - p and dH / dz = -p (log p + H).
    """

    @staticmethod
    def forward(
        ctx: Any, head: nn.Module, states: Tensor, chosen: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies; only the states are kept."""
        logps, entropies = [], []
        for part, tokens in zip(states.split(chunk), chosen.split(chunk), strict=True):
            logp = _log_softmax(head(part))
            logps.append(logp.gather(1, tokens[:, None]).squeeze(1))
            entropies.append(-logp.exp().mul_(logp).sum(1))
        entropy = torch.cat(entropies)
        ctx.save_for_backward(states, chosen, entropy)
        ctx.head, ctx.chunk = head, chunk
        return torch.cat(logps), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, logp_grad: Tensor, entropy_grad: Tensor) -> tuple[None, Tensor, None, None]:
        """The gradient of the states, with the logits of each chunk computed again."""
        states, *columns = ctx.saved_tensors
        parts = zip(*(x.split(ctx.chunk) for x in (states, *columns, logp_grad, entropy_grad)), strict=True)
        return None, torch.cat([_states_grad(ctx.head, *part) for part in parts]), None, None


def _states_grad(
    head: nn.Module, states: Tensor, chosen: Tensor, entropy: Tensor, logp_grad: Tensor, entropy_grad: Tensor
) -> Tensor:
    """Gradient with respect to one chunk of states; in place, so that logits and probabilities are all that is held."""
    with torch.enable_grad():
        states = states.detach().requires_grad_()
        logits = head(states)
    logp = _log_softmax(logits.detach())
    p = logp.exp()
    grad = logp.add_(entropy[:, None]).mul_(entropy_grad[:, None]).add_(logp_grad[:, None]).mul_(p).neg_()
    del p
    grad.scatter_add_(1, chosen[:, None], logp_grad[:, None])
    (result,) = torch.autograd.grad(logits, states, grad.to(logits.dtype))
    return result


def _log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities in place of a float32 copy."""
    logits = logits.float()
    return logits.sub_(logits.logsumexp(1, keepdim=True))
