"""Conversations between an engine that writes the assistant's turns and the users of a task.

What the policy sampled is kept as the tokens that it sampled; what users say is encoded and appended.

A tiny model of the math task is trained, holds two conversations, and answers a question:

>>> import tempfile
>>> from pathlib import Path
>>> from itpo.models.backbone import Backbone
>>> from itpo.models.tiny import load, pretrain_by_imitation
>>> from itpo.specs import Adapter, TinyLM
>>> from itpo.tasks.registry import get_task
>>> task, spec = get_task("math"), TinyLM(hidden_size=16, layers=1, heads=2, steps=1)
>>> with tempfile.TemporaryDirectory() as folder:
...     model, tokenizer = load(pretrain_by_imitation(task, task.noisy_expert, spec, Path(folder)))
>>> backbone, chat = Backbone(model, ["policy"], Adapter(rank=2)), ChatFormat(tokenizer)
>>> users = [random.Random(0), random.Random(1)]
>>> problems, generator = [task.sample(user) for user in users], torch.Generator().manual_seed(0)
>>> with backbone.use("policy"):
...     dialogues = rollout(backbone, chat, task, problems, users, generator, Sampling())
...     answers = speak(backbone, chat, [[Message("user", "how many pens ?")]], generator, Sampling())
...     turns = take_turns(backbone, chat, [[Message("user", "how many ?")]], [generator], Sampling())
>>> [dialogue.messages[0].role for dialogue in dialogues], len(answers), len(turns)
(['user', 'user'], 1, 1)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from itpo.chat import ChatFormat, ContextError
from itpo.dialogue import Dialogue, Message
from itpo.models.adapters import AdaptedModel
from itpo.rollout.engine import Decoding, Engine, Following, Turn, TurnEngine, at_once, meanwhile
from itpo.tasks.base import Answer, ConcurrentTask, Score, Task


@dataclass(frozen=True)
class Sampling:
    """How a turn is decoded, and how many dialogues are held at a time.

    Temperature 1 without truncation keeps importance ratios exact [C]. Without ``thought_credit``, the tokens of a thought
    before the speech of a turn are context like the user's: outside the response mask, so that they earn nothing and nothing
    is learned from them. Raises ``ValueError`` for ``max_turn_tokens``, ``max_rows`` or ``read_budget`` below 1.
    """

    max_turn_tokens: int = 24
    greedy: bool = False
    # Where one thread is fastest [O]: fewer rows waste calls, more no longer fit the processor's caches.
    max_rows: int = 512
    thought_credit: bool = True
    read_budget: int = 16384  # padded tokens of one forward pass; changes no result beyond rounding

    def __post_init__(self) -> None:
        if self.max_turn_tokens < 1:
            raise ValueError(
                f"max_turn_tokens is {self.max_turn_tokens}: a turn must have room for at least one token"
            )
        if self.max_rows < 1:
            raise ValueError(f"max_rows is {self.max_rows}: at least one dialogue must be held at a time")
        if self.read_budget < 1:
            raise ValueError(f"read_budget is {self.read_budget}: at least one token must be read at a time")


@dataclass
class _Open:
    """A dialogue that is still going on."""

    example: Any
    messages: list[Message]
    rng: random.Random
    ids: list[int]
    mask: list[bool]
    logp: list[float]
    prompt_length: int
    closed: bool = False  # whether the last turn has its end marker
    whole: bool = False  # and no open thought
    failure: str | None = None

    def fail(self, error: Exception) -> None:
        """Note why the dialogue is lost."""
        self.failure = f"{type(error).__name__}: {error}"

    def close(self, outcome: float) -> Dialogue:
        """Freeze the conversation."""
        messages, ids, mask = tuple(self.messages), tuple(self.ids), tuple(self.mask)
        logp = tuple(self.logp)
        return Dialogue(self.example, messages, ids, mask, logp, outcome, self.failure, self.prompt_length)


@torch.no_grad()
def rollout(
    backbone: AdaptedModel | None,
    chat: ChatFormat,
    task: Task,
    examples: Sequence[Any],
    rngs: Sequence[random.Random],
    generator: torch.Generator,
    sampling: Sampling,
    histories: Sequence[Sequence[Message]] | None = None,
    engine: Engine | None = None,
) -> list[Dialogue]:
    """Hold one conversation per example, ``sampling.max_rows`` at a time, under the backbone's active adapter.

    ``rngs`` drive the users (one generator a dialogue), ``generator`` the policy's sampling, in which no dialogue depends on
    another. With ``histories``, each conversation goes on from its history, which must end with a user message; the assistant
    turns in it count as context, not as choices of the policy. Histories are text and are encoded anew. With a word-level
    tokenizer this gives the ids that were sampled, also of turns cut off by their token limit, but for special tokens inside a
    turn, which text does not show; other tokenizers may split words otherwise than the policy did.

    ``engine`` writes the turns; by default one that suits the backbone. Returns the finished dialogues in the order of
    ``examples``, with the log-probability of each sampled token. Users and judges of a
    :class:`itpo.tasks.base.ConcurrentTask` are asked all at once; a dialogue for which one fails ends there, with its
    ``failure``, and so does one in which a turn of ``max_turn_tokens`` may no longer fit into the model's context.

    Raises ``ValueError`` if the lists differ in length, a history does not end with a user message, or a score leaves [0, 1].
    """
    if histories is None:
        histories = [task.opening(example) for example in examples]
    if not len(examples) == len(rngs) == len(histories):
        raise ValueError(
            f"got {len(examples)} examples, {len(rngs)} user generators and {len(histories)} histories: "
            "pass one of each for every dialogue"
        )
    starts = zip(examples, histories, rngs, strict=True)
    states = [_start(chat, sampling, *start) for start in starts]
    going = [number for number, state in enumerate(states) if state.failure is None]
    concurrent = isinstance(task, ConcurrentTask) and task.lanes > 1

    def ask(rows: Sequence[int], turns: Sequence[Turn]) -> Future[Following]:
        """Let the users of these dialogues answer, in another thread where that pays."""
        heard = [states[going[row]] for row in rows]
        _hear(heard, turns, chat, sampling)
        answers = partial(_answers, task, heard, chat, sampling)
        return meanwhile(answers) if concurrent else at_once(answers())

    if engine is None:
        if backbone is None:
            raise ValueError("without a backbone, pass the engine that writes the turns")
        engine = TurnEngine(backbone)
    uniforms = _uniforms(len(states), task.max_turns, sampling, generator)[going]
    lanes = task.lanes if isinstance(task, ConcurrentTask) else 1
    prompts = [states[number].ids for number in going]
    engine.converse(prompts, uniforms, _decoding(chat, sampling, lanes), ask)
    return _close(task, states)


@torch.no_grad()
def speak(
    backbone: AdaptedModel,
    chat: ChatFormat,
    conversations: Sequence[Sequence[Message]],
    generator: torch.Generator,
    sampling: Sampling,
) -> list[str]:
    """What the backbone under its active adapter says next in each conversation, which must end with a user message."""
    generators = [generator] * len(conversations)  # which draw one after the other
    return [text for text, _ in take_turns(backbone, chat, conversations, generators, sampling)]


@torch.no_grad()
def take_turns(
    backbone: AdaptedModel,
    chat: ChatFormat,
    conversations: Sequence[Sequence[Message]],
    generators: Sequence[torch.Generator],
    sampling: Sampling,
    engine: Engine | None = None,
) -> list[tuple[str, bool]]:
    """:func:`speak`, and whether each turn is whole: neither cut off by the limit of tokens nor within a thought.

    Each conversation is drawn by a generator of its own. Raises :class:`itpo.chat.ContextError` for one that is too long for
    the model.
    """
    states = [_start(chat, sampling, None, messages, random.Random()) for messages in conversations]
    for state in states:
        chat.check_room(len(state.ids), sampling.max_turn_tokens)

    def ask(rows: Sequence[int], turns: Sequence[Turn]) -> Future[Following]:
        """One turn is all."""
        _hear([states[row] for row in rows], turns, chat, sampling)
        return at_once([None] * len(rows))

    uniforms = torch.cat([_uniforms(1, 1, sampling, generator) for generator in generators])
    engine = engine or TurnEngine(backbone)
    engine.converse([state.ids for state in states], uniforms, _decoding(chat, sampling), ask)
    return [(state.messages[-1].content, state.whole) for state in states]


def _uniforms(dialogues: int, turns: int, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """The numbers that decide each token of each turn of each dialogue."""
    # Of 24 bits, as `draw` wants them; greedy turns need none.
    shape = (dialogues, turns, 0 if sampling.greedy else sampling.max_turn_tokens)
    return torch.rand(shape, generator=generator).double()


def _decoding(chat: ChatFormat, sampling: Sampling, lanes: int = 1) -> Decoding:
    limits = (sampling.max_turn_tokens, sampling.greedy, sampling.max_rows)
    return Decoding(chat.end_ids, chat.pad_id, *limits, lanes, sampling.read_budget)


def _hear(states: Sequence[_Open], turns: Sequence[Turn], chat: ChatFormat, sampling: Sampling) -> None:
    """Take down the turns that were written."""
    for state, turn in zip(states, turns, strict=True):
        ids, logps = turn
        speech = chat.speech(ids)
        thought = 0 if sampling.thought_credit else chat.speech_begins(ids)
        state.ids += ids
        state.mask += [False] * thought + [True] * (len(ids) - thought)
        state.logp += [0.0] * thought + logps[thought:]
        state.messages.append(Message("assistant", speech.text))
        state.closed = ids[-1] == chat.eos_id
        state.whole = ids[-1] in chat.end_ids and speech.whole


def _answers(task: Task, states: Sequence[_Open], chat: ChatFormat, sampling: Sampling) -> Following:
    """What comes after the last turn of each dialogue."""
    answers = zip(states, _replies(task, states), strict=True)
    return [_user_turn(state, answer, chat, sampling) for state, answer in answers]


def _replies(task: Task, states: Sequence[_Open]) -> Sequence[Answer]:
    """The users' replies; ``None`` too where the last turn has been taken."""
    answers: list[Answer] = [None] * len(states)
    asked = [
        row for row, s in enumerate(states) if sum(m.role == "assistant" for m in s.messages) < task.max_turns
    ]
    arguments = [(states[row].example, states[row].messages, states[row].rng) for row in asked]
    if not isinstance(task, ConcurrentTask):
        replies: Sequence[Answer] = [task.reply(*each) for each in arguments]
    else:
        replies = task.replies(*map(list, zip(*arguments, strict=True))) if arguments else []
    for row, answer in zip(asked, replies, strict=True):
        answers[row] = answer
    return answers


def _close(task: Task, states: list[_Open]) -> list[Dialogue]:
    """Score the conversations that did not fail, and freeze all."""
    whole = [state for state in states if state.failure is None]
    if not isinstance(task, ConcurrentTask):
        scores: Sequence[Score] = [task.score(state.example, state.messages) for state in whole]
    else:
        scores = task.scores([s.example for s in whole], [s.messages for s in whole]) if whole else []
    outcomes = dict.fromkeys(map(id, states), 0.0)
    for state, score in zip(whole, scores, strict=True):
        if isinstance(score, Exception):
            state.fail(score)
        elif 0.0 <= score <= 1.0:
            outcomes[id(state)] = float(score)
        else:
            raise ValueError(f"task {task.name!r} scored {score}; an outcome must be in [0, 1]")
    return [state.close(outcomes[id(state)]) for state in states]


def _start(
    chat: ChatFormat, sampling: Sampling, example: Any, history: Sequence[Message], rng: random.Random
) -> _Open:
    if not history or history[-1].role != "user":
        raise ValueError("a conversation must end with a user message for the assistant to answer")
    ids = chat.opening(history)
    state = _Open(example, list(history), rng, ids, [False] * len(ids), [0.0] * len(ids), len(ids))
    _go_on(state, [], chat, sampling)
    return state


def _user_turn(state: _Open, answer: Answer, chat: ChatFormat, sampling: Sampling) -> list[int] | None:
    """Append the user's reply and return its tokens; ``None`` when the conversation is over."""
    if isinstance(answer, Exception):
        state.fail(answer)
        return None
    if answer is None:
        return None
    state.messages.append(Message("user", answer))
    return _go_on(state, chat.user_block(answer, closed=state.closed), chat, sampling)


def _go_on(state: _Open, block: list[int], chat: ChatFormat, sampling: Sampling) -> list[int] | None:
    """Append a block; ``None`` where no whole turn may fit into the model's context after it, and the dialogue is lost."""
    try:
        chat.check_room(len(state.ids) + len(block), sampling.max_turn_tokens)
    except ContextError as error:
        state.fail(error)
        return None
    state.ids += block
    state.mask += [False] * len(block)
    state.logp += [0.0] * len(block)
    return block
