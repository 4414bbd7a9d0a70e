"""Losses over assistant tokens: clipped surrogate, KL to the reference, clipped value loss, masked mean.

In signatures B counts dialogues and T tokens. Log-probabilities are in nats. Every mean takes an optional `denominator`, the
number of assistant tokens of the whole minibatch: losses of micro-batches divided by it add up to the loss of the minibatch.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# A log-ratio above this is cut before it is exponentiated, since exp overflows float32 from 89 on. No token
# of a policy that is anywhere near the one it is compared with gets there.
MAX_LOG_RATIO = 20.0
CORRECTIONS = (
    "none",
    "token",
    "sequence",
)  # of sampling by slightly other probabilities, see `truncated_weights`


def _masked_log_ratio(logp: Tensor, other_logp: Tensor, mask: Tensor) -> Tensor:
    if logp.shape != other_logp.shape:
        raise ValueError(
            f"log-probabilities of shapes {tuple(logp.shape)} and {tuple(other_logp.shape)} do not match; "
            "score the same tokens with both models"
        )
    _check_mask(mask, logp)
    # Masked before the exponential: an overflow on padding would turn the gradient into NaN.
    return torch.where(mask, logp - other_logp, 0).clamp(max=MAX_LOG_RATIO)


def _check_mask(mask: Tensor, values: Tensor) -> None:
    if mask.dtype != torch.bool or mask.ndim != 2 or mask.shape != values.shape:
        raise ValueError(
            f"mask must be bool and of the values' shape {tuple(values.shape)} = (B, T), got {mask.dtype} "
            f"of shape {tuple(mask.shape)}; convert it with mask.bool()"
        )


def _check_surrogate(advantages: Tensor, logp: Tensor, clip: float) -> None:
    if advantages.shape != logp.shape:
        raise ValueError(
            f"advantages of shape {tuple(advantages.shape)} do not match log-probabilities of shape "
            f"{tuple(logp.shape)}; pass one advantage for each token"
        )
    if not clip > 0:
        raise ValueError(f"clip must be positive, got {clip}; the released runs use 0.2")


def masked_mean(
    values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], denominator: int | None = None
) -> Float[Tensor, ""]:
    """Average the masked values, sum_{t in mask} v_t / N; 0 for an empty mask. On token entropies this is the entropy bonus.

    Source: the released code, which averages every policy loss over assistant tokens. N is `denominator`, or else the number
    of masked tokens here. Raises ValueError if the mask is not bool or not of the values' shape, or for a denominator below 1.

    >>> masked_mean(torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[True, True, False]])).item()
    2.0
    """
    _check_mask(mask, values)
    if denominator is not None and denominator < 1:
        raise ValueError(
            f"denominator must be at least 1, got {denominator}; pass the minibatch's token count"
        )
    count = mask.sum().clamp(min=1) if denominator is None else denominator
    return torch.where(mask, values, 0).sum() / count


def importance_ratio(
    logp: Float[Tensor, "B T"], old_logp: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Compute the probability ratio of the new policy to the sampling one, rho_t = exp(log pi - log pi_old); 1 off the mask.

    Source: the ratio inside the clipped surrogate (Schulman et al., 2017). Deviation: it is cut at exp(20), to keep it finite.

    Raises ValueError if the mask is not bool, or if shapes differ.

    >>> logp, old_logp = torch.tensor([[-1.0, -9.0]]), torch.tensor([[-1.0, -1.0]])
    >>> importance_ratio(logp, old_logp, torch.tensor([[True, False]])).tolist()
    [[1.0, 1.0]]
    """
    return _masked_log_ratio(logp, old_logp, mask).exp()


def clipped_surrogate(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip: float = 0.2,
    denominator: int | None = None,
    weights: Float[Tensor, "B T"] | None = None,
) -> Float[Tensor, ""]:
    """Score a policy step, -mean_t w_t min(rho_t A_t, clip(rho_t, 1 - c, 1 + c) A_t), to be minimised.

    Source: PPO (Schulman et al., 2017), averaged over assistant tokens as in the released code, whose c is 0.2. Deviation:
    ratios are cut at exp(20), which keeps them finite. Gradients reach `logp` only. For `denominator` see `masked_mean`. The
    weights w_t are 1, or those of `truncated_weights`.

    Raises ValueError if shapes differ, if the mask is not bool, or for a clip or denominator that is not positive.

    >>> logp = torch.log(torch.tensor([[0.9, 0.5]]))
    >>> old_logp = torch.log(torch.tensor([[0.5, 0.5]]))
    >>> loss = clipped_surrogate(logp, old_logp, torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool))
    >>> round(loss.item(), 4)
    -1.1
    """
    _check_surrogate(advantages, logp, clip)
    ratio = importance_ratio(logp, old_logp.detach(), mask)
    advantages = advantages.detach()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    if weights is not None:
        if weights.shape != logp.shape:
            raise ValueError(
                f"weights of shape {tuple(weights.shape)} do not match log-probabilities of shape {tuple(logp.shape)}; "
                "pass one weight for each token"
            )
        surrogate = weights.detach() * surrogate
    return -masked_mean(surrogate, mask, denominator)


def truncated_weights(
    logp: Float[Tensor, "B T"],
    sampled_logp: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    correction: str = "token",
    cap: float = 2.0,
) -> Float[Tensor, "B T"]:
    """Weigh tokens that were sampled by slightly other probabilities than training's, w_t = min(pi_t / mu_t, C).

    Here pi_t is the token's probability as training computes it before the policy moves, and mu_t that by which it was sampled.
    "token" takes each token's own ratio; "sequence" takes the product of the ratios of a row's tokens for all of them; "none"
    is 1, as is every weight off the mask.

    Source: truncated importance sampling (Ionides, 2008) against the mismatch of sampler and trainer, in the two forms of TRL
    and verl; 2 is verl's cap C. The sequence form is unbiased but for the cap, and noisier the longer the rows are.

    Raises ValueError if shapes differ, if the mask is not bool, for an unknown correction, or for a cap below 1.

    >>> logp, sampled = torch.log(torch.tensor([[0.5, 0.9, 0.1]])), torch.log(torch.tensor([[0.4, 0.3, 0.1]]))
    >>> mask = torch.tensor([[True, True, False]])
    >>> truncated_weights(logp, sampled, mask).tolist()
    [[1.25, 2.0, 1.0]]
    >>> truncated_weights(logp, sampled, mask, "sequence", cap=5.0).round(decimals=2).tolist()
    [[3.75, 3.75, 1.0]]
    """
    if correction not in CORRECTIONS:
        raise ValueError(f"unknown correction {correction!r}; known: {', '.join(CORRECTIONS)}")
    if not cap >= 1:
        raise ValueError(f"cap must be at least 1, got {cap}; verl uses 2")
    log_ratio = _masked_log_ratio(logp, sampled_logp, mask).detach()
    if correction == "none":
        return torch.ones_like(log_ratio)
    if correction == "sequence":
        log_ratio = log_ratio.sum(1, keepdim=True).clamp(max=MAX_LOG_RATIO).expand_as(log_ratio)
    return torch.where(mask, log_ratio.exp().clamp(max=cap), 1.0)


def sampling_mismatch(
    logp: Float[Tensor, "B T"], sampled_logp: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> dict[str, float]:
    """Measure by how much training's log-probabilities differ from those that sampled, in nats: mean, median, 99 % and largest.

    `ess` is the effective sample size of the untruncated token ratios r_t, (sum r)^2 / (n sum r^2), as a share of the n tokens:
    1 where both agree (Kong, 1992). An empty mask gives 0 and an `ess` of 1.

    Raises ValueError if shapes differ, or if the mask is not bool.

    >>> logp, sampled = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -2.0]])
    >>> mismatch = sampling_mismatch(logp, sampled, torch.ones(1, 2, dtype=torch.bool))
    >>> {name: round(value, 3) for name, value in mismatch.items()}
    {'mismatch': 0.25, 'mismatch_median': 0.0, 'mismatch_99': 0.5, 'mismatch_max': 0.5, 'ess': 0.943}
    """
    ratios = _masked_log_ratio(logp, sampled_logp, mask)[mask].double().exp()
    sizes = (logp - sampled_logp)[mask].double().abs().sort().values
    if not len(sizes):
        return {"mismatch": 0.0, "mismatch_median": 0.0, "mismatch_99": 0.0, "mismatch_max": 0.0, "ess": 1.0}
    return {
        "mismatch": sizes.mean().item(),
        "mismatch_median": sizes[(len(sizes) - 1) // 2].item(),
        "mismatch_99": sizes[-1 - (len(sizes) - 1) // 100].item(),
        "mismatch_max": sizes[-1].item(),
        "ess": (ratios.sum().square() / (len(ratios) * ratios.square().sum())).item(),
    }


def clip_fraction(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip: float = 0.2,
) -> Float[Tensor, ""]:
    """Measure the share of assistant tokens whose gradient the clipping removes.

    Those are the tokens with A_t > 0 and rho_t > 1 + c, or A_t < 0 and rho_t < 1 - c. Raises as `clipped_surrogate`.

    >>> logp = torch.log(torch.tensor([[0.9, 0.5]]))
    >>> old_logp = torch.log(torch.tensor([[0.5, 0.5]]))
    >>> clip_fraction(logp, old_logp, torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)).item()
    0.5
    """
    _check_surrogate(advantages, logp, clip)
    ratio = importance_ratio(logp.detach(), old_logp, mask)
    clipped = ((advantages > 0) & (ratio > 1 + clip)) | ((advantages < 0) & (ratio < 1 - clip))
    return masked_mean(clipped.to(logp.dtype), mask)


def kl_k3(
    logp: Float[Tensor, "B T"],
    ref_logp: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    denominator: int | None = None,
) -> Float[Tensor, ""]:
    """Estimate the KL divergence from the policy to the reference in nats, mean_t exp(d_t) - d_t - 1.

    Here d_t = log pi_ref - log pi at token t.

    Source: the k3 estimator (Schulman, 2020), which the released code uses with coefficient 1e-3. It is never negative, and
    unbiased on tokens drawn from the policy. Deviation: d_t is cut at 20, which keeps the estimate finite. Gradients reach
    `logp` only. For `denominator` see `masked_mean`.

    Raises ValueError if shapes differ, if the mask is not bool, or for a denominator below 1.

    >>> logp, mask = torch.tensor([[-1.0, -2.0]]), torch.tensor([[True, False]])
    >>> round(kl_k3(logp, torch.tensor([[-2.0, -9.0]]), mask).item(), 4)
    0.3679
    """
    difference = _masked_log_ratio(ref_logp.detach(), logp, mask)
    # expm1 keeps the digits that exp(d) - 1 loses while the two models are close, as early in training.
    return masked_mean(torch.expm1(difference) - difference, mask, denominator)


def value_loss(
    values: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip: float,
    denominator: int | None = None,
) -> Float[Tensor, ""]:
    """Score a critic, 1/2 mean_t max((v_t - G_t)^2, (clip(v_t, u_t - c, u_t + c) - G_t)^2), to be minimised.

    Here u_t is the value at the time of the rollout. The maximum takes the gradient from a value that has moved towards G_t by
    more than c.

    Source: the value clipping of the PPO implementation in OpenAI's baselines (Dhariwal et al., 2017); the released code has
    no PPO. Gradients reach `values` only. For `denominator` see `masked_mean`.

    Raises ValueError if shapes differ, if the mask is not bool, or for a clip or denominator that is not positive.

    >>> values, old_values = torch.tensor([[0.9, 0.5]]), torch.tensor([[0.5, 0.5]])
    >>> loss = value_loss(values, old_values, torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), clip=0.2)
    >>> round(loss.item(), 4)
    0.085
    """
    for name, other in (("old_values", old_values), ("returns", returns)):
        if other.shape != values.shape:
            raise ValueError(
                f"{name} of shape {tuple(other.shape)} do not match values of shape {tuple(values.shape)}; "
                "pass one of each for each token"
            )
    _check_mask(mask, values)
    if not clip > 0:
        raise ValueError(f"clip must be positive, got {clip}; PPO's usual choice is 0.2, inf turns it off")
    # Masked before the squares: an overflow on padding would turn the gradient into NaN.
    values, old_values, returns = (
        torch.where(mask, tensor, 0) for tensor in (values, old_values.detach(), returns.detach())
    )
    bounded = values.clamp(old_values - clip, old_values + clip)
    worse = torch.maximum((values - returns).square(), (bounded - returns).square())
    return masked_mean(worse, mask, denominator) / 2
