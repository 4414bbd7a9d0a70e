"""Chunked log-probabilities and entropies against the plain pass, in values, gradients and memory."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from itpo.models import token_stats


def make(positions=23, hidden=8, vocabulary=50, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(hidden, vocabulary, bias=False).requires_grad_(False)
    layer.weight.copy_(scale * torch.randn(vocabulary, hidden, generator=generator))
    states = torch.randn(positions, hidden, generator=generator)
    chosen = torch.randint(vocabulary, (positions,), generator=generator)
    return layer, states, chosen


def gradient(layer, states, chosen, chunk, weights):
    states = states.clone().requires_grad_()
    logp, entropy = token_stats.token_stats(layer, states, chosen, chunk)
    (weights[0] * logp + weights[1] * entropy).sum().backward()
    return logp.detach(), entropy.detach(), states.grad


@pytest.mark.parametrize("chunk", [1, 4, 22])
@pytest.mark.parametrize("uses", [(1.0, 0.0), (0.0, 1.0), (1.0, -0.5)])
def test_chunks_change_nothing(chunk, uses):
    layer, states, chosen = make()
    columns = torch.randn(2, len(states), generator=torch.Generator().manual_seed(1))
    weights = torch.tensor(uses)[:, None] * columns
    whole, parts = (gradient(layer, states, chosen, size, weights) for size in (23, chunk))
    for expected, actual in zip(whole, parts, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert layer.weight.grad is None


def test_the_whole_in_one_chunk_is_the_plain_formula_bit_for_bit():
    layer, states, chosen = make()
    logp, entropy = token_stats.token_stats(layer, states, chosen, len(states))
    full = torch.log_softmax(layer(states), dim=-1)
    assert torch.equal(logp, full[torch.arange(len(states)), chosen])
    assert torch.equal(entropy, -(full.exp() * full).sum(1))


@pytest.mark.parametrize("chunk", [3, 23])
def test_far_apart_logits_stay_finite(chunk):
    layer, states, chosen = make(scale=300.0)
    results = gradient(layer, states, chosen, chunk, torch.ones(2, len(states)))
    assert all(bool(torch.isfinite(result).all()) for result in results)


def test_a_head_in_16_bits_is_reduced_in_float32():
    layer, states, chosen = make()
    layer, states = layer.bfloat16(), states.bfloat16()
    weights = torch.ones(2, len(states))
    whole, parts = (gradient(layer, states, chosen, size, weights) for size in (23, 5))
    assert parts[0].dtype == torch.float32 and parts[2].dtype == torch.bfloat16
    for expected, actual in zip(whole[:2], parts[:2], strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts[2], whole[2], atol=0.1, rtol=0.05)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_more_logits_exist_than_those_of_a_chunk():
    layer, states, chosen = make(positions=40)
    with Largest() as seen:
        gradient(layer, states, chosen, 8, torch.ones(2, 40))
    assert seen.elements == 8 * 50
