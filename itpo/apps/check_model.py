"""Can a reader's own model be trained here? Its template, turn end, numbers and adapters; and what memory and time it takes."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from itpo.chat import ChatFormat
from itpo.chat_template import Message
from itpo.models import memory
from itpo.models.backbone import Backbone
from itpo.models.imitation import PACKAGED
from itpo.models.loading import load_base, locate
from itpo.models.memory import DoesNotFit, Work
from itpo.models.probe import Parity, check_parity
from itpo.models.shapes import GIB, find_shape
from itpo.runs.paths import runs_root
from itpo.runs.store import Store
from itpo.specs import Adapter, PretrainedModel

CARDS = (12.0, 16.0, 24.0, 48.0, 80.0)  # GiB of GPUs that people have
_ROWS, _READ, _WRITTEN = 4, 64, 8  # dialogues, tokens and steps of the measurement
# Passes over a step's tokens, as forward passes: reference, PRM before and in its update, rewards, and the policy's update;
# one with its backward pass counts as three.
_PASSES = 1 + 3 + 1 + 3


class UnfitError(Exception):
    """The model cannot be trained here; the message says why in one line."""


@dataclass(frozen=True)
class Question:
    """What is asked: which model, at which precision, with which adapters, for dialogues of how many tokens."""

    name: str
    precision: str = "full"
    rank: int = 16
    prompt: int = 1024
    response: int = 4096


def find(name: str) -> str:
    """The folder of a model that a package brings, made in the run store the first time; any other name as it is."""
    if name not in PACKAGED:
        return name
    made = Store(runs_root()).artifact("base", {"model": PretrainedModel(name)}, PACKAGED[name])
    return str(made)


def check_model(question: Question) -> Iterator[str]:
    """The lines of the report, as they are found out. Raises :class:`UnfitError` at the first thing that does not hold."""
    model, tokenizer = _or_unfit(lambda: load_base(question.name, question.precision))
    yield from of_model(model, tokenizer, question)
    yield from _memory(question)


def of_model(model: Any, tokenizer: Any, question: Question) -> Iterator[str]:
    """What can be said of a model and a tokenizer that are loaded. Raises as :func:`check_model`."""
    count = sum(p.numel() for p in model.parameters())
    yield f"model: {type(model).__name__}, {count / 1e6:,.1f} million numbers, computed in {_short(model.dtype)}"
    chat = _or_unfit(lambda: ChatFormat(tokenizer, model=model))
    yield from _conversation(chat)
    adapter = Adapter(question.rank, 2 * question.rank)
    backbone = _or_unfit(lambda: Backbone(model, ["policy", "prm"], adapter))
    yield from _adapted(backbone)
    yield f"decoding: {_DECODERS[type(backbone.decoder(1)).__name__]}"
    for parity in _or_unfit(lambda: check_parity(backbone)):
        yield _agreement(parity)
    yield from _or_unfit(lambda: _times(backbone, question))


_DECODERS = {
    "CachedDecoder": "keys and values are kept over a dialogue",
    "RereadingDecoder": "states are handed from token to token, so that each turn begins by reading its dialogue anew",
}


def _or_unfit(ask: Callable[[], Any]) -> Any:
    """What a part says; whatever it raises is a reason in one line. (Files that are missing are not the model's fault.)"""
    try:
        return ask()
    except (FileNotFoundError, ImportError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        known = isinstance(error, ValueError) and text
        raise UnfitError(text if known else f"{type(error).__name__}: {text}") from error


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _conversation(chat: ChatFormat) -> Iterator[str]:
    """The template's boundaries, and where a turn ends."""
    decode = chat.tokenizer.decode
    turn = chat.assistant_ids("Hello there.")
    yield "template:"
    for what, ids in (
        ("before the first turn", chat.opening([Message("user", "Hi.")])),
        ("a turn", turn),
        ("between turns", chat.user_block("Go on.")),
        ("after a turn that was cut off", chat.user_block("Go on.", closed=False)),
    ):
        yield f"  {what}: {decode(list(ids))!r} ({len(ids)} tokens)"
    for departure in chat.departures:
        yield f"  note: {departure}"
    ends = ", ".join(f"{decode([i])!r} ({i})" for i in chat.end_ids)
    yield f"turn end: {decode([chat.eos_id])!r} ({chat.eos_id}); generation stops at {ends}"
    yield f"context: {chat.context or 'not said'} tokens"


def _adapted(backbone: Backbone) -> Iterator[str]:
    """Which layers carry adapters, and which matrices do not."""
    layers = Counter(
        re.sub(r"\.\d+\.", ".*.", name) for name, m in backbone.model.named_modules() if hasattr(m, "lora_A")
    )
    trained = sum(p.numel() for p in backbone.parameters("policy").values())
    yield f"LoRA: {sum(layers.values())} layers, {trained / 1e6:,.2f} million numbers an adapter"
    for name, count in sorted(layers.items()):
        yield f"  {name}: {count}"
    frozen = {
        re.sub(r"\.\d+\.", ".*.", name)
        for name, p in backbone.model.named_parameters()
        if p.ndim == 3 and "lora_" not in name and "conv" not in name
    }
    if frozen:
        yield f"  frozen, without adapter: {', '.join(sorted(frozen))}"


def _agreement(parity: Parity) -> str:
    """The three passes under one adapter."""
    sizes = ", ".join(f"{name} {size:.1e}" for name, size in parity.largest().items())
    under = (
        "the reference"
        if parity.adapter is None
        else f"a random adapter, which moves up to {parity.moved:.2g}"
    )
    kind = "largest" if parity.full_precision else "mean"
    return f"parity under {under}: {kind} difference from a plain forward pass in nats: {sizes} (allowed {parity.bound:g})"


def _times(backbone: Backbone, question: Question) -> list[str]:
    """Seconds a step takes here, from a short measurement."""
    vocabulary = backbone.model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(_ROWS * _READ).reshape(_ROWS, _READ) % vocabulary
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False

    def seconds(work: Callable[[], Any]) -> float:
        """Of one call, the second one."""
        for _ in range(2):
            start = time.perf_counter()
            work()
            if backbone.device.type == "cuda":
                torch.cuda.synchronize()
        return time.perf_counter() - start

    def train() -> None:
        """One pass with its backward pass."""
        logp, _ = backbone.token_stats(ids, mask)
        logp.sum().backward()
        for parameter in backbone.parameters("policy").values():
            parameter.grad = None

    with backbone.use("policy"):
        trained = seconds(train) / 3 / ids.numel()
        decoder = backbone.decoder(_ROWS)
        here, real = ids.to(backbone.device), torch.ones_like(ids, dtype=torch.bool, device=backbone.device)
        decoder.append(here, real)
        written = seconds(lambda: [decoder.append(here[:, :1], real[:, :1]) for _ in range(_WRITTEN)])
    written /= _WRITTEN
    tokens = question.prompt + question.response
    sampled, learned = written * question.response / _ROWS, _PASSES * trained * tokens
    return [
        f"time here: {1e3 * written:.1f} ms for a token of {_ROWS} dialogues at once, {1 / trained:,.0f} tokens a second in a "
        "forward pass of training",
        f"  so a step of 128 dialogues of {question.prompt} + {question.response} tokens takes about "
        f"{_duration(128 * (sampled + learned))}, of which {_duration(128 * sampled)} are sampling, {_ROWS} dialogues at a "
        "time (more at a time are faster, as far as memory goes)",
    ]


def _duration(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} seconds"


def _memory(question: Question) -> Iterator[str]:
    """The largest settings on each card, or that it does not fit."""
    work = Work(
        prompt=question.prompt, response=question.response, rank=question.rank, precision=question.precision
    )
    yield f"memory, {question.precision}, dialogues of {work.prompt} + {work.response} tokens:"
    try:
        shape = find_shape(locate(question.name))
    except ValueError as error:
        yield f"  not known: {error}"
        return
    for card in CARDS:
        try:
            settings = memory.choose(shape, work, card)
        except DoesNotFit:
            yield f"  {card:g} GiB: does not fit"
        else:
            parts = memory.budget(shape, work, settings)
            peak = max(parts.training_peak, parts.rollout_peak) / GIB
            yield f"  {card:g} GiB: fits, with {settings.max_rows} dialogues held at a time; peak {peak:.1f} GiB"
