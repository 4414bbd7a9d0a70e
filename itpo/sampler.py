"""Batched multi-turn generation with one key/value cache that is kept across all turns of a dialogue.

Each turn appends one left-padded block to the cache: the last sampled token of the turn before, the user's reply and the
marker that opens the next assistant turn. Positions follow the attention mask, so ragged rows see exactly what they would see
alone. Dialogues that have ended leave the batch, and the cache with them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from itpo.backbone import Backbone
from itpo.dialogue import ChatFormat, Dialogue, Message
from itpo.tasks import Task


@dataclass(frozen=True)
class Sampling:
    """How a turn is decoded, and how many dialogues are held at a time.

    Temperature 1 without truncation keeps importance ratios exact [C]. Raises ``ValueError`` for a ``max_rows`` below 1.
    """

    max_turn_tokens: int = 24
    greedy: bool = False
    # Where one thread is fastest [O]: fewer rows waste calls, more no longer fit the processor's caches.
    max_rows: int = 512

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise ValueError(f"max_rows is {self.max_rows}: at least one dialogue must be held at a time")


@dataclass
class _Open:
    """A dialogue that is still going on."""

    example: Any
    messages: list[Message]
    rng: random.Random
    ids: list[int]
    mask: list[bool]
    logp: list[float]
    block: list[int]
    turn: list[int] = field(default_factory=list)

    def close(self, task: Task) -> Dialogue:
        """Score the conversation and freeze it."""
        outcome = float(task.score(self.example, self.messages))
        if not 0.0 <= outcome <= 1.0:
            raise ValueError(f"task {task.name!r} scored {outcome}; an outcome must be in [0, 1]")
        messages, ids, mask = tuple(self.messages), tuple(self.ids), tuple(self.mask)
        return Dialogue(self.example, messages, ids, mask, tuple(self.logp), outcome)


class _Cache:
    """The key/value cache of the dialogues that go on, and which of its columns are real tokens."""

    def __init__(self, backbone: Backbone, rows: int) -> None:
        self.model = backbone.model
        self.device = next(self.model.parameters()).device
        self.values = DynamicCache()
        self.mask = torch.zeros((rows, 0), dtype=torch.bool, device=self.device)

    def append(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Feed a block (rows, W) and return the logits after its last column."""
        self.mask = torch.cat([self.mask, mask], dim=1)
        positions = (self.mask.long().cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        output = self.model(
            input_ids=ids,
            attention_mask=self.mask.long(),
            position_ids=positions,
            past_key_values=self.values,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these."""
        index = torch.tensor(rows, device=self.device)
        self.values.batch_select_indices(index)
        self.mask = self.mask[index]


@torch.no_grad()
def rollout(
    backbone: Backbone,
    chat: ChatFormat,
    task: Task,
    examples: Sequence[Any],
    rngs: Sequence[random.Random],
    generator: torch.Generator,
    sampling: Sampling,
    histories: Sequence[Sequence[Message]] | None = None,
) -> list[Dialogue]:
    """Hold one conversation per example, ``sampling.max_rows`` at a time, under the backbone's active adapter.

    ``rngs`` drive the users (one generator a dialogue), ``generator`` the policy's sampling. With ``histories``, each
    conversation goes on from its history, which must end with a user message; the assistant turns in it count as context,
    not as choices of the policy. Histories are text and are encoded anew. With a word-level tokenizer this gives the ids
    that were sampled, also of turns cut off by their token limit, but for special tokens inside a turn, which text does not
    show; other tokenizers may split words otherwise than the policy did.

    Up to ``max_rows`` dialogues are one batch in the order of ``examples``; more are split into batches by the length of
    their histories. Returns the finished dialogues in the order of ``examples``, with the log-probability of each sampled
    token.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from itpo.backbone import Adapter
    >>> from itpo.embedded import EmbeddedModel, load, warm_start
    >>> from itpo.tasks import get_task
    >>> task, spec = get_task("math"), EmbeddedModel(hidden_size=16, layers=1, heads=2, steps=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model, tokenizer = load(warm_start(task, task.novice, spec, Path(folder)))
    >>> backbone, users = Backbone(model, ["policy"], Adapter()), [random.Random(0), random.Random(1)]
    >>> problems = [task.sample(user) for user in users]
    >>> generator = torch.Generator().manual_seed(0)
    >>> dialogues = rollout(backbone, ChatFormat(tokenizer), task, problems, users, generator, Sampling())
    >>> [d.messages[0].role for d in dialogues]
    ['user', 'user']

    Raises ``ValueError`` if the lists differ in length, a history does not end with a user message, or a score leaves [0, 1].
    """
    if histories is None:
        histories = [task.opening(example) for example in examples]
    if not len(examples) == len(rngs) == len(histories):
        raise ValueError(
            f"got {len(examples)} examples, {len(rngs)} user generators and {len(histories)} histories: "
            "pass one of each for every dialogue"
        )
    states = [_start(chat, *parts) for parts in zip(examples, histories, rngs, strict=True)]
    for batch in _batches(states, sampling.max_rows):
        _converse(_Cache(backbone, len(batch)), chat, task, batch, generator, sampling)
    return [state.close(task) for state in states]


def _batches(states: list[_Open], max_rows: int) -> list[list[_Open]]:
    """All states as they are if they fit into one batch; else those of similar history together, the longest first.

    A row is padded to the longest history of its batch, and a lack of memory shows in the first batch.
    """
    if len(states) > max_rows:
        states = sorted(states, key=lambda state: len(state.ids), reverse=True)
    return [states[start : start + max_rows] for start in range(0, len(states), max_rows)]


def _converse(
    cache: _Cache,
    chat: ChatFormat,
    task: Task,
    going: list[_Open],
    generator: torch.Generator,
    sampling: Sampling,
) -> None:
    """Let assistant and user take turns until every dialogue of the batch is over."""
    while going:
        _assistant_turn(cache, chat, going, generator, sampling)
        stay = [row for row, state in enumerate(going) if _user_turn(state, chat, task)]
        if stay and len(stay) < len(going):
            cache.keep(stay)
        going = [going[row] for row in stay]


def _start(chat: ChatFormat, example: Any, history: Sequence[Message], rng: random.Random) -> _Open:
    if not history or history[-1].role != "user":
        raise ValueError("a conversation must end with a user message for the assistant to answer")
    ids, _ = chat.encode(history)
    return _Open(example, list(history), rng, list(ids), [False] * len(ids), [0.0] * len(ids), ids)


def _assistant_turn(
    cache: _Cache, chat: ChatFormat, states: list[_Open], generator: torch.Generator, sampling: Sampling
) -> None:
    """Sample one turn for every dialogue; the last token of each stays out of the cache until the next block."""
    width = max(len(s.block) for s in states)
    ids = torch.tensor(
        [[chat.pad_id] * (width - len(s.block)) + s.block for s in states], device=cache.device
    )
    mask = torch.tensor(
        [[False] * (width - len(s.block)) + [True] * len(s.block) for s in states], device=cache.device
    )
    open_ = torch.ones(len(states), dtype=torch.bool, device=cache.device)
    lengths = torch.zeros(len(states), dtype=torch.int64, device=cache.device)
    tokens: list[Tensor] = []
    logps: list[Tensor] = []
    for _ in range(sampling.max_turn_tokens):
        logp = torch.log_softmax(cache.append(ids, mask), dim=-1)
        if sampling.greedy:  # noqa: SIM108
            chosen = logp.argmax(1, keepdim=True)
        else:
            chosen = torch.multinomial(logp.exp(), 1, generator=generator)
        tokens.append(torch.where(open_[:, None], chosen, chat.pad_id))
        logps.append(logp.gather(1, chosen).masked_fill(~open_[:, None], 0.0))
        lengths += open_
        open_ = open_ & (chosen.squeeze(1) != chat.eos_id)
        if not bool(open_.any()):
            break
        ids, mask = tokens[-1], open_[:, None]
    turn_ids, turn_logps = torch.cat(tokens, 1).tolist(), torch.cat(logps, 1).tolist()
    for state, row, row_logp, length in zip(states, turn_ids, turn_logps, lengths.tolist(), strict=True):
        state.turn = row[:length]
        state.ids += state.turn
        state.mask += [True] * length
        state.logp += row_logp[:length]
        state.messages.append(Message("assistant", chat.text(state.turn)))


def _user_turn(state: _Open, chat: ChatFormat, task: Task) -> bool:
    """Let the user answer; false when the conversation is over."""
    turns = sum(m.role == "assistant" for m in state.messages)
    reply = None if turns >= task.max_turns else task.reply(state.example, state.messages, state.rng)
    if reply is None:
        return False
    state.messages.append(Message("user", reply))
    block = chat.user_block(reply, closed=state.turn[-1] == chat.eos_id)
    state.ids += block
    state.mask += [False] * len(block)
    state.logp += [0.0] * len(block)
    state.block = [state.turn[-1], *block]
    return True
