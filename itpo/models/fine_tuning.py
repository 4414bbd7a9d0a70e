"""Supervised fine-tuning on the assistant's tokens of conversations: the one loop behind tiny models and imitation."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from torch.optim.lr_scheduler import LinearLR
from tqdm import tqdm

from itpo.runs.artifacts import PROGRESS, UNFINISHED
from itpo.runs.files import hash_json, sha256, tensor_bytes, write_file
from itpo.runs.platform import making_platform

Encoded = tuple[Sequence[int], Sequence[bool]]  # ids and response mask of a conversation
SAVE_SECONDS = 60.0  # between two checkpoints [O]
_SHOW_SECONDS = 2.0


def fine_tune(
    model: Any,
    draw: Callable[[random.Random], Sequence[Encoded]],
    rng: random.Random,
    steps: int,
    learning_rate: float,
    pad_id: int,
    *,
    weight_decay: float = 0.0,
    dialogues_per_pass: int | None = None,
    head_everywhere: bool = False,
    folder: Path | None = None,
    stop: int | None = None,
) -> None:
    """Train all weights on the conversations that ``draw`` returns at each step, the assistant's tokens alone.

    AdamW with linear learning-rate decay and gradients clipped at norm 1. ``draw`` takes its randomness from ``rng``.
    ``dialogues_per_pass`` bounds what must fit into memory (``None``: no bound) and changes results by rounding only. So does
    ``head_everywhere``, which applies the vocabulary's head to all tokens instead of those that predict an assistant's token.

    With a ``folder``, checkpoints are written there once a minute, and a training that was interrupted goes on from the last
    one on the same numeric platform, to the same bits; nothing of them is left at the end. A terminal shows a bar. ``stop``
    ends the training after so many of the ``steps``.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=10, **size))
    >>> conversation = [1, 2, 7], [False, False, True]
    >>> fine_tune(model, lambda rng: [conversation], random.Random(0), steps=60, learning_rate=0.05, pad_id=0)
    >>> int(model(torch.tensor([[1, 2]])).logits[0, -1].argmax())
    7
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    training = _Training(model, optimizer, LinearLR(optimizer, 1.0, 0.02, total_iters=steps), rng)
    begun = 0
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        begun = training.resume(folder)
    saved = shown = time.monotonic()
    quiet = parent_process() is not None or not sys.stderr.isatty()  # the parent shows what PROGRESS says
    numbers = range(begun, steps if stop is None else min(stop, steps))
    bar = tqdm(numbers, "making the base model", initial=begun, total=steps, leave=False, disable=quiet)
    for step in bar:
        if folder and time.monotonic() - shown > _SHOW_SECONDS:
            (folder / PROGRESS).write_text(f"step {step} of {steps}", encoding="utf-8")
            shown = time.monotonic()
        encoded = draw(rng)
        optimizer.zero_grad()
        _accumulate(model, encoded, dialogues_per_pass or len(encoded), pad_id, head_everywhere)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        training.schedule.step()
        if folder and time.monotonic() - saved >= SAVE_SECONDS:
            training.save(folder, step + 1)
            saved = time.monotonic()
    if folder:
        for path in (*folder.glob(UNFINISHED), folder / PROGRESS):
            path.unlink(missing_ok=True)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads for a while: sums depend on how work is divided.

    >>> with threads(1):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Training:
    """The state of a training, to be written and read back."""

    def __init__(self, model: Any, optimizer: Any, schedule: LinearLR, rng: random.Random) -> None:
        self.parameters = dict(model.named_parameters())
        self.optimizer, self.schedule, self.rng = optimizer, schedule, rng

    def save(self, folder: Path, step: int) -> None:
        """Replace the last checkpoint; a crash leaves the old one or the new one."""
        _, words, _ = self.rng.getstate()
        state: dict[str, Tensor] = {"step": torch.tensor(step), "rng": torch.tensor(words)}
        state["rate"] = torch.tensor(self.optimizer.param_groups[0]["lr"], dtype=torch.float64)
        for name, parameter in self.parameters.items():
            state[name] = parameter
            state |= {f"{name}|{key}": value for key, value in self.optimizer.state[parameter].items()}
        content = tensor_bytes(state)
        path = folder / UNFINISHED.replace("*", _digest(content))
        write_file(path, content)
        for other in folder.glob(UNFINISHED):
            if other != path:
                other.unlink()

    def resume(self, folder: Path) -> int:
        """Take up the checkpoint of the folder; returns the steps done: 0 without one, or if it is damaged or of elsewhere."""
        for path in folder.glob(UNFINISHED):
            content = path.read_bytes()
            if path.name != UNFINISHED.replace("*", _digest(content)):
                continue
            with suppress(SafetensorError):
                self._take(load(content))
                return self.schedule.last_epoch
        return 0

    @torch.no_grad()
    def _take(self, state: dict[str, Tensor]) -> None:
        version, _, spare = self.rng.getstate()
        self.rng.setstate((version, tuple(state["rng"].tolist()), spare))
        self.optimizer.param_groups[0]["lr"] = state["rate"].item()
        self.schedule.last_epoch = int(state["step"])
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])
            prefix = f"{name}|"
            own = {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
            self.optimizer.state[parameter] = own


def _digest(content: bytes) -> str:
    """Of a checkpoint and the platform it was made on: where one of them is another, it is not gone on with."""
    return sha256(content + hash_json(making_platform()).encode())[:16]


def _accumulate(
    model: Any, encoded: Sequence[Encoded], size: int, pad_id: int, head_everywhere: bool
) -> None:
    """Add up the gradient of the mean loss of the assistant's tokens, from so many conversations at a time."""
    tokens = sum(sum(mask) for _, mask in encoded)
    for start in range(0, len(encoded), size):
        loss = _summed_loss(model, encoded[start : start + size], pad_id, head_everywhere)
        (loss / tokens).backward()


def _summed_loss(
    model: Any, encoded: Sequence[Encoded], pad_id: int, head_everywhere: bool = False
) -> torch.Tensor:
    """Cross-entropy (nats), summed over the assistant's tokens."""
    width = max(len(ids) for ids, _ in encoded)
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row, _ in encoded])
    mask = torch.tensor([[*row, *[False] * (width - len(row))] for _, row in encoded])
    predicts = pad(mask[:, 1:], (0, 1))
    states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    logits = head(states)[predicts] if head_everywhere else head(states[predicts])
    return cross_entropy(logits, ids[mask], reduction="sum")
