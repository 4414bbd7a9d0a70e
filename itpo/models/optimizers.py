"""Which optimizer an adapter gets, and its state as named tensors for checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn


def adamw(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW without weight decay: on a GPU with moments of 8 bits that may leave it under pressure, else PyTorch's own.

    Raises ``ImportError`` for parameters on a GPU without bitsandbytes.

    >>> type(adamw([nn.Parameter(torch.zeros(2))], 1e-3)).__name__
    'AdamW'
    """
    own = list(parameters)
    if all(parameter.device.type != "cuda" for parameter in own):
        return torch.optim.AdamW(own, lr=learning_rate, weight_decay=0.0, fused=True)
    if find_spec("bitsandbytes") is None:
        raise ImportError("8-bit optimizer states need bitsandbytes: pip install 'itpo[gpu]'")
    from bitsandbytes.optim import PagedAdamW8bit

    return PagedAdamW8bit(own, lr=learning_rate, weight_decay=0.0)


def get_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """What an optimizer remembers of one parameter, by name; empty before its first step.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> optimizer = adamw([weight], 1e-3)
    >>> weight.sum().backward()
    >>> optimizer.step()
    >>> sorted(get_state(optimizer, weight))
    ['exp_avg', 'exp_avg_sq', 'step']
    """
    return {name: torch.as_tensor(value) for name, value in optimizer.state[parameter].items()}


def set_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, state: Mapping[str, Tensor]) -> None:
    """Take up what :func:`get_state` gave; an empty state is that before the first step.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> optimizer = adamw([weight], 1e-3)
    >>> set_state(optimizer, weight, {"step": torch.tensor(3.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)})
    >>> float(get_state(optimizer, weight)["step"])
    3.0
    """
    if not state:
        optimizer.state.pop(parameter, None)
    elif isinstance(optimizer, torch.optim.AdamW):
        optimizer.state[parameter] = dict(state)
    else:
        _fill_quantised(optimizer, parameter, state)


def _fill_quantised(optimizer: Any, parameter: nn.Parameter, state: Mapping[str, Tensor]) -> None:
    """Into the buffers of a bitsandbytes optimizer, which makes pages of its own for them; it counts steps in an ``int``."""
    (group,) = optimizer.param_groups
    position = next(i for i, p in enumerate(group["params"]) if p is parameter)
    optimizer.init_state(group, parameter, 0, position)
    for name, value in state.items():
        if name == "step":
            optimizer.state[parameter][name] = int(value)
        else:
            optimizer.state[parameter][name].copy_(value)
