"""Optimizer states that go through a checkpoint, for PyTorch's AdamW and the 8-bit one of GPUs (which runs on CPUs too)."""

import pytest
import torch
from torch import nn

from itpo.models.optimizers import adamw, get_state, set_state
from itpo.runs.files import tensor_bytes


def train(weight, optimizer, steps, first=0):
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()


def eight_bits(weights):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason='needs the extra "gpu"')
    return bitsandbytes.optim.PagedAdamW8bit(weights, lr=1e-2, weight_decay=0.0)


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("make", [lambda weights: adamw(weights, 1e-2), eight_bits])
@pytest.mark.parametrize("size", [10, 8192])
def test_a_resumed_optimizer_goes_on_as_if_it_had_never_stopped(make, size):
    weight = nn.Parameter(torch.ones(size))
    optimizer = make([weight])
    assert not get_state(optimizer, weight)
    train(weight, optimizer, 3)
    other = nn.Parameter(weight.detach().clone())
    resumed = make([other])
    state = {name: value.clone() for name, value in get_state(optimizer, weight).items()}
    assert tensor_bytes(state)
    set_state(resumed, other, state)
    train(weight, optimizer, 3, first=3)
    train(other, resumed, 3, first=3)
    assert torch.equal(weight, other)


def test_an_empty_state_is_that_before_the_first_step():
    weight = nn.Parameter(torch.ones(4))
    optimizer = adamw([weight], 1e-2)
    train(weight, optimizer, 2)
    set_state(optimizer, weight, {})
    assert not get_state(optimizer, weight)


def test_8_bit_states_take_a_quarter():
    weight = nn.Parameter(torch.ones(2**16))
    optimizer = eight_bits([weight])
    train(weight, optimizer, 1)
    sizes = {
        name: value.numel() * value.element_size() for name, value in get_state(optimizer, weight).items()
    }
    per_weight = sum(size for name, size in sizes.items() if "map" not in name and name != "step") / 2**16
    assert per_weight == pytest.approx(2 * (1 + 4 / 256))
