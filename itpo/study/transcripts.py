"""Conversations of a finished run to be read and compared: before and after training, or by the task's own scripts.

Runs in, :class:`Conversation` and the frames of :mod:`itpo.figures.conversations` out, for the notebook on tasks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from itpo import turns
from itpo.attribution import METHODS
from itpo.config import TaskSpec
from itpo.dialogue import Dialogue, Message, collate
from itpo.models.tiny import scripted_dialogue
from itpo.specs import RealData
from itpo.study.statistics import Interval, share_interval, t_interval
from itpo.study.tables import interval_columns, interval_of
from itpo.tasks.base import ScriptedTask
from itpo.training.learner import Learner


@dataclass(frozen=True)
class Conversation:
    """A finished conversation of K assistant turns.

    ``kinds`` says what each assistant turn does; ``weights`` are the w_k of eq. (5), or empty where no PRM was asked.
    ``scores`` are named; the first is the outcome R in [0, 1]. ``hidden`` is what the user knew and the assistant did not.
    Raises ``ValueError`` for another number of kinds or weights than of assistant turns.

    >>> messages = Message("user", "help me ."), Message("assistant", "how many pears ?")
    >>> conversation = Conversation(messages, kinds=("ask",), scores={"success": 1.0}, weights=(1.0,))
    >>> conversation.outcome, conversation.result
    (1.0, 'success 1.00')
    """

    messages: tuple[Message, ...]
    kinds: tuple[str, ...]
    scores: Mapping[str, float]
    weights: tuple[float, ...] = ()
    hidden: str = ""

    def __post_init__(self) -> None:
        if len(self.kinds) != self.turns or len(self.weights) not in (0, self.turns):
            raise ValueError(
                f"there are {self.turns} assistant turns, but {len(self.kinds)} kinds and {len(self.weights)} weights: "
                "pass one for each turn"
            )

    @property
    def turns(self) -> int:
        """How many assistant turns there are."""
        return sum(message.role == "assistant" for message in self.messages)

    @property
    def outcome(self) -> float:
        """R, the first of the scores."""
        return next(iter(self.scores.values()))

    @property
    def result(self) -> str:
        """All scores in words."""
        return ", ".join(f"{name} {value:.2f}" for name, value in self.scores.items())


def table(conversations: Mapping[str, Conversation]) -> pd.DataFrame:
    """Conversations by title as :mod:`itpo.figures.conversations` shows them, a line for each message."""
    lines = []
    for title, held in conversations.items():
        weights = iter(held.weights or [None] * held.turns)
        turns = iter(zip(range(1, held.turns + 1), held.kinds, weights, strict=True))
        for message in held.messages:
            turn, kind, weight = next(turns) if message.role == "assistant" else (None, "", None)
            lines.append(
                {
                    "conversation": title,
                    "role": message.role,
                    "text": message.content,
                    "turn": turn,
                    "kind": kind.replace("_", " "),
                    "weight": weight,
                    "outcome": held.outcome,
                    "result": held.result,
                    "hidden": held.hidden,
                }
            )
    return pd.DataFrame(lines).astype({"turn": "Int64", "weight": float})


class Reading(NamedTuple):
    """How people read a task: what its outcome is called, what an example hides, and the measure beside the outcome."""

    outcome: str
    hidden: Callable[[Any], str]
    beside: str = ""
    measure: Callable[[Any, Sequence[Message]], float] | None = None


def reading_of(task: TaskSpec | RealData) -> Reading:
    """How people read a task: a scripted one as its entry says, one on real data by its goal.

    >>> reading_of(TaskSpec("documents")).outcome
    'character BLEU'
    """
    if isinstance(task, RealData):
        return Reading("outcome", lambda example: example.goal)
    entry = task.entry
    return Reading(entry.outcome, entry.hidden, entry.beside, entry.measure)


def hold(learner: Learner, adapter: str | None, count: int, stream: str) -> list[Conversation]:
    """Conversations of a learner with ``count`` fresh users, by its policy ("policy") or the untrained reference (``None``).

    ``stream`` decides problems, users and sampling, so that both have the same problems, and users that draw the same.
    """
    dialogues, _ = learner.collect(stream, count, 1, adapter, evaluate=True)
    return read(learner, dialogues)


def scripted(learner: Learner, params: Any, number: int) -> Conversation:
    """A conversation that the task's scripted assistant holds with these params; ``number`` decides the problem."""
    task = learner.task
    if not isinstance(task, ScriptedTask):
        raise TypeError(f"{type(task).__name__} has no scripted assistant: only scripted tasks do")
    problem, messages, outcome = scripted_dialogue(task, params, random.Random(f"scripted/{number}"))
    ids, mask = learner.chat.encode(messages, written=True)
    unsampled = (0.0,) * len(ids)
    dialogue = Dialogue(problem, tuple(messages), tuple(ids), tuple(mask), unsampled, outcome)
    return read(learner, [dialogue])[0]


def read(learner: Learner, dialogues: Sequence[Dialogue]) -> list[Conversation]:
    """Finished dialogues with the kind of each turn and, where the learner has a PRM, the weights (5) that it gives.

    The settings of (2), (4) and (5) are those of the learner's method, or else the defaults of Norm-ITPO.
    """
    task, reading = learner.task, reading_of(learner.config.task)
    weights = _weights(learner, dialogues) if learner.method.needs_prm else [()] * len(dialogues)
    conversations = []
    for dialogue, shares in zip(dialogues, weights, strict=True):
        messages = dialogue.messages
        scores = {reading.outcome: dialogue.outcome}
        if reading.measure:
            scores[reading.beside] = reading.measure(dialogue.example, messages)
        kinds = (
            task.turn_kinds(messages) if isinstance(task, ScriptedTask) else [""] * dialogue.assistant_turns
        )
        hidden = reading.hidden(dialogue.example)
        conversations.append(Conversation(messages, tuple(kinds), scores, shares, hidden))
    return conversations


def _weights(learner: Learner, dialogues: Sequence[Dialogue]) -> list[tuple[float, ...]]:
    options = METHODS["norm_itpo"].options | dict(learner.config.method.options)
    batch = collate(dialogues, 1, learner.chat.pad_id)
    token_rewards = learner.token_rewards(batch, learner.log_probs(batch, None))
    has_turn = turns.turn_mask(batch.turn_ids)
    turn_rewards = turns.aggregate(token_rewards, batch.turn_ids, options["reduction"])
    weights = turns.normalize(turn_rewards, has_turn, options["temperature"])
    return [tuple(row[mask].tolist()) for row, mask in zip(weights, has_turn, strict=True)]


def choose(before: Sequence[Conversation]) -> tuple[int, str]:
    """Which problem to show, and the rule that chose it; only the conversations before training are looked at."""
    failed = [conversation.outcome <= 0.5 for conversation in before]
    missed = [
        fails and "missed repair" in conversation.kinds
        for fails, conversation in zip(failed, before, strict=True)
    ]
    unrepaired = (
        "the first whose conversation before training leaves an answer unrepaired and has R at most 0.5"
    )
    rules = [
        (missed, unrepaired),
        (failed, "the first whose conversation before training has R at most 0.5"),
        ([True] * len(failed), "the first"),
    ]
    meets, rule = next(rule for rule in rules if any(rule[0]))
    return meets.index(True), rule


SHARES = ("outcome", "beside")  # what is between 0 and 1 in a comparison


def comparison(task: str, held: Mapping[str, Sequence[Conversation]]) -> pd.DataFrame:
    """Means over the same problems with 95 % intervals, a line for each policy; the first one is what others gain on.

    Columns: task, policy, and for ``outcome``, ``gain`` (paired by problem), ``beside`` (the task's second measure) and
    ``turns`` those of :func:`itpo.study.tables.interval_columns`. Outcomes and second measures are shares, whose intervals
    are Wilson's; the others are Student's.
    """
    outcomes = {policy: [one.outcome for one in conversations] for policy, conversations in held.items()}
    first, *_ = held
    lines = []
    for policy, conversations in held.items():
        pairs = zip(outcomes[policy], outcomes[first], strict=True)
        columns = {
            "outcome": outcomes[policy],
            "gain": [after - before for after, before in pairs] if policy != first else [],
            "beside": [value for one in conversations for value in list(one.scores.values())[1:]],
            "turns": [float(one.turns) for one in conversations],
        }
        line: dict[str, Any] = {"task": task, "policy": policy}
        for name, values in columns.items():
            line |= interval_columns(name, (_share if name in SHARES else t_interval)(values))
        lines.append(line)
    return pd.DataFrame(lines)


def _share(values: Sequence[float]) -> Interval:
    return share_interval(float(np.mean(values)), len(values)) if values else t_interval(values)


def comparison_text(frame: pd.DataFrame) -> pd.DataFrame:
    """:func:`comparison` of several tasks as people read it."""
    lines = []
    for _, line in frame.iterrows():
        reading = reading_of(TaskSpec(line["task"]))
        texts = {name: interval_of(line, name).text(digits=2) for name in ("outcome", "beside", "turns")}
        gain = interval_of(line, "gain")
        lines.append(
            {
                "task": line["task"],
                "policy": line["policy"],
                "outcome R": f"{reading.outcome} {texts['outcome']}",
                "gain of R": gain.text(digits=2, sign="+") if gain.n else "–",
                "beside it": f"{reading.beside} {texts['beside']}" if reading.beside else "–",
                "turns": texts["turns"],
            }
        )
    return pd.DataFrame(lines)
