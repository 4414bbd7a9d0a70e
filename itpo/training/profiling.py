"""What a run takes: bytes of what it holds, the most that rollout and update add to that, and seconds by part of a step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from itpo.models.optimizers import get_state
from itpo.runs.store import Run

if TYPE_CHECKING:  # a table is made where it is asked for: the trainer only times
    import pandas as pd

    from itpo.training.learner import Learner

PARTS = (
    "generation",
    "reference",
    "prm",
    "signals",
    "critic",
    "policy",
)  # of a step, as the trainer times them


class Timer:
    """Seconds of the parts of a step, each timed by ``with``.

    >>> timer = Timer()
    >>> with timer("generation"):
    ...     pass
    >>> list(timer.seconds)
    ['generation']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the seconds that the block takes to the part."""
        since = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - since


def tensor_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of some tensors.

    >>> tensor_bytes([torch.zeros(2, 3), torch.zeros(4, dtype=torch.uint8)])
    28
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters of a model, with the scales of 4-bit ones.

    >>> model_bytes(nn.Linear(2, 2))
    24
    """
    return _weight_bytes(list(model.parameters()))


def _weight_bytes(weights: Sequence[Tensor]) -> int:
    states = [getattr(weight, "quant_state", None) for weight in weights]
    return tensor_bytes(weights) + sum(
        tensor_bytes([state.absmax, state.state2.absmax]) for state in states if state is not None
    )


def peak_bytes(call: Callable[[], Any], device: torch.device, below: float = math.inf) -> int:
    """The most that a call allocates on the device beyond what there was; on a CPU, in blocks of fewer bytes than ``below``.

    >>> peak_bytes(lambda: torch.zeros(1000) + torch.ones(1000), torch.device("cpu"))
    12000
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        call()
    assert measured.profiler is not None and measured.profiler.kineto_results is not None
    events = [e for e in measured.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes() if abs(event.nbytes()) < below else 0
        most = max(most, held)
    return most


def memory(learner: Learner) -> pd.DataFrame:
    """Columns part, when ("held" all the time, or "peak": what the call adds at most while it runs) and bytes.

    Takes one training batch with the learner's policy, and one optimizer step of each adapter, which moves it: for a learner
    that is not needed afterwards.
    """
    backbone, config, device = learner.backbone, learner.config, learner.backbone.device
    adapters = [p for name in backbone.names for p in backbone.parameters(name).values()]
    lines = [("base", "held", _weight_bytes(backbone.frozen()))]
    lines += [(f"adapters ({len(backbone.names)})", "held", tensor_bytes(adapters))]
    taken: list[Any] = []
    rollout = peak_bytes(
        lambda: taken.extend(learner.collect("footprint", config.prompts, config.rollouts, "policy")), device
    )
    _, batch = taken
    reference = learner.log_probs(batch, None)
    advantage = torch.zeros_like(reference)
    peaks = {"rollout": rollout}
    if learner.method.needs_prm:
        peaks["update of the PRM"] = peak_bytes(
            lambda: learner.update_prm(batch, reference, "footprint"), device
        )
    peaks["update of the policy"] = peak_bytes(
        lambda: learner.update_policy(batch, advantage, reference, "footprint"), device
    )
    pairs = [(o, p) for n, o in learner.optimizers.items() for p in backbone.parameters(n).values()]
    states = [state for optimizer, p in pairs for state in get_state(optimizer, p).values()]
    lines += [("optimizer state", "held", tensor_bytes(states))]
    lines += [(part, "peak", size) for part, size in peaks.items()]
    import pandas as pd

    return pd.DataFrame(lines, columns=["part", "when", "bytes"])


def seconds(runs: Sequence[Run]) -> pd.DataFrame:
    """Mean seconds of each part of a training step: columns row, part, seconds; parts that take no time are left out."""
    import pandas as pd

    lines = []
    for run in runs:
        means = run.timing().mean()
        parts = [part for part in PARTS if part in means]
        lines += [
            (run.config.method.name, part, means[part])
            for part in parts
            if means[part] >= 0.01 * means[parts].sum()
        ]
    return pd.DataFrame(lines, columns=["row", "part", "seconds"])
