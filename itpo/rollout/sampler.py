"""Batched multi-turn generation with one key/value cache that is kept across all turns of a dialogue.

Each turn appends one left-padded block to the cache: the last sampled token of the turn before, the user's reply and the
marker that opens the next assistant turn. Positions follow the attention mask, so ragged rows see exactly what they would see
alone. Dialogues that have ended leave the batch, and the cache with them.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from itpo.dialogue import ChatFormat, Dialogue, Message
from itpo.models.backbone import Backbone
from itpo.tasks.base import Answer, ConcurrentTask, Score, Task


@dataclass(frozen=True)
class Sampling:
    """How a turn is decoded, and how many dialogues are held at a time.

    Temperature 1 without truncation keeps importance ratios exact [C]. Without ``thought_credit``, the tokens of a thought
    before the speech of a turn are context like the user's: outside the response mask, so that they earn nothing and nothing
    is learned from them. Raises ``ValueError`` for a ``max_rows`` below 1.
    """

    max_turn_tokens: int = 24
    greedy: bool = False
    # Where one thread is fastest [O]: fewer rows waste calls, more no longer fit the processor's caches.
    max_rows: int = 512
    thought_credit: bool = True

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
    prompt_length: int
    turn: list[int] = field(default_factory=list)
    failure: str | None = None

    def fail(self, error: Exception) -> None:
        """Note why the dialogue is lost."""
        self.failure = f"{type(error).__name__}: {error}"

    def close(self, outcome: float) -> Dialogue:
        """Freeze the conversation."""
        messages, ids, mask = tuple(self.messages), tuple(self.ids), tuple(self.mask)
        logp = tuple(self.logp)
        return Dialogue(self.example, messages, ids, mask, logp, outcome, self.failure, self.prompt_length)


class _Cache:
    """The key/value cache of the dialogues that go on, and which of its columns are real tokens."""

    def __init__(self, backbone: Backbone, rows: int) -> None:
        self.model, self.device = backbone.model, backbone.device
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
    token. Users and judges of a :class:`itpo.tasks.base.ConcurrentTask` are asked all at once; a dialogue for which one fails
    ends there, with its ``failure``.

    Raises ``ValueError`` if the lists differ in length, a history does not end with a user message, or a score leaves [0, 1].

    A tiny model of the math task is trained, holds two conversations, and answers a question:

    >>> import tempfile
    >>> from pathlib import Path
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
    ...     turns = take_turns(backbone, chat, [[Message("user", "how many ?")]], generator, Sampling())
    >>> [dialogue.messages[0].role for dialogue in dialogues], len(answers), len(turns)
    (['user', 'user'], 1, 1)
    """
    if histories is None:
        histories = [task.opening(example) for example in examples]
    if not len(examples) == len(rngs) == len(histories):
        raise ValueError(
            f"got {len(examples)} examples, {len(rngs)} user generators and {len(histories)} histories: "
            "pass one of each for every dialogue"
        )
    states = [_start(chat, *each) for each in zip(examples, histories, rngs, strict=True)]
    generator = _on_device(generator, backbone.device)
    for batch in _batches(states, sampling.max_rows):
        _converse(backbone, chat, task, batch, generator, sampling)
    return _close(task, states)


@torch.no_grad()
def speak(
    backbone: Backbone,
    chat: ChatFormat,
    conversations: Sequence[Sequence[Message]],
    generator: torch.Generator,
    sampling: Sampling,
) -> list[str]:
    """What the backbone under its active adapter says next in each conversation, which must end with a user message."""
    return [text for text, _ in take_turns(backbone, chat, conversations, generator, sampling)]


@torch.no_grad()
def take_turns(
    backbone: Backbone,
    chat: ChatFormat,
    conversations: Sequence[Sequence[Message]],
    generator: torch.Generator,
    sampling: Sampling,
) -> list[tuple[str, bool]]:
    """:func:`speak`, and whether each turn is whole: neither cut off by the limit of tokens nor within a thought."""
    states = [_start(chat, None, messages, random.Random()) for messages in conversations]
    generator = _on_device(generator, backbone.device)
    for batch in _batches(states, sampling.max_rows):
        _assistant_turn(_Cache(backbone, len(batch)), chat, batch, generator, sampling)
    return [(s.messages[-1].content, s.turn[-1] == chat.eos_id and chat.speech(s.turn).whole) for s in states]


def _on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """The generator itself where the model is on its device; elsewhere one that it seeds there, by a draw of its own."""
    if generator.device == device:
        return generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator(device).manual_seed(int(seed))


def _batches(states: list[_Open], max_rows: int) -> list[list[_Open]]:
    """All states as they are if they fit into one batch; else those of similar history together, the longest first.

    A row is padded to the longest history of its batch, and a lack of memory shows in the first batch.
    """
    if len(states) > max_rows:
        states = sorted(states, key=lambda state: len(state.ids), reverse=True)
    return [states[start : start + max_rows] for start in range(0, len(states), max_rows)]


def _converse(
    backbone: Backbone,
    chat: ChatFormat,
    task: Task,
    batch: list[_Open],
    generator: torch.Generator,
    sampling: Sampling,
) -> None:
    """Let assistant and user take turns until every dialogue of the batch is over.

    The policy speaks in one lane after the other, in an order that does not depend on how fast users answer, so that
    the generator's draws do not either.
    """
    count = task.lanes if isinstance(task, ConcurrentTask) else 1
    size = -(-len(batch) // count) or 1
    waiting: deque[tuple[_Cache, list[_Open], Callable[[], Sequence[Answer]]]] = deque()

    def let_speak(cache: _Cache, going: list[_Open]) -> None:
        """Let the policy speak in these dialogues, and begin to ask their users."""
        _assistant_turn(cache, chat, going, generator, sampling)
        ask = partial(_replies, task, going)
        waiting.append((cache, going, _meanwhile(ask) if count > 1 else ask))

    for lane in (batch[start : start + size] for start in range(0, len(batch), size)):
        let_speak(_Cache(backbone, len(lane)), lane)
    while waiting:
        cache, going, answers = waiting.popleft()
        pairs = zip(going, answers(), strict=True)
        stay = [row for row, pair in enumerate(pairs) if _user_turn(*pair, chat)]
        if stay and len(stay) < len(going):
            cache.keep(stay)
        if stay:
            let_speak(cache, [going[row] for row in stay])


def _meanwhile(ask: Callable[[], Sequence[Answer]]) -> Callable[[], Sequence[Answer]]:
    """Begin to ask in another thread; calling what is returned waits for the answers."""
    future: Future[Sequence[Answer]] = Future()

    def work() -> None:
        """Leave the answers, or what went wrong, in the future."""
        try:
            future.set_result(ask())
        except BaseException as error:  # raised where the answers are awaited
            future.set_exception(error)

    # A daemon, unlike those of an executor: Ctrl-C need not wait for a slow server.
    threading.Thread(target=work, daemon=True).start()
    return future.result


def _replies(task: Task, states: list[_Open]) -> Sequence[Answer]:
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


def _start(chat: ChatFormat, example: Any, history: Sequence[Message], rng: random.Random) -> _Open:
    if not history or history[-1].role != "user":
        raise ValueError("a conversation must end with a user message for the assistant to answer")
    ids, _ = chat.encode(history)
    return _Open(example, list(history), rng, list(ids), [False] * len(ids), [0.0] * len(ids), ids, len(ids))


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
        thought = 0 if sampling.thought_credit else chat.speech_begins(state.turn)
        state.mask += [False] * thought + [True] * (length - thought)
        state.logp += [0.0] * thought + row_logp[thought:length]
        state.messages.append(Message("assistant", chat.speech(state.turn).text))


def _user_turn(state: _Open, answer: Answer, chat: ChatFormat) -> bool:
    """Append the user's reply; false when the conversation is over."""
    if isinstance(answer, Exception):
        state.fail(answer)
        return False
    if answer is None:
        return False
    state.messages.append(Message("user", answer))
    block = chat.user_block(answer, closed=state.turn[-1] == chat.eos_id)
    state.ids += block
    state.mask += [False] * len(block)
    state.logp += [0.0] * len(block)
    state.block = [state.turn[-1], *block]
    return True
