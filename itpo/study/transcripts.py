"""Conversations of a finished run to be read and compared: before and after training, or by the task's own scripts.

Runs in, :class:`itpo.figures.conversations.Conversation` and tables out, for the notebook on tasks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from itpo import turns
from itpo.config import TaskSpec
from itpo.specs import RealData
from itpo.tasks.base import ScriptedTask
from itpo.dialogue import Dialogue, Message, collate
from itpo.figures.conversations import Conversation
from itpo.models.tiny import scripted_dialogue
from itpo.study.statistics import t_interval
from itpo.study.tables import interval_columns, interval_of
from itpo.training.learner import Learner

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
    problem, messages, outcome = scripted_dialogue(task, params, random.Random(f"scripted/{number}"))
    ids, mask = learner.chat.encode(messages)
    unsampled = (0.0,) * len(ids)
    dialogue = Dialogue(problem, tuple(messages), tuple(ids), tuple(mask), unsampled, outcome)
    return read(learner, [dialogue])[0]


def read(learner: Learner, dialogues: Sequence[Dialogue]) -> list[Conversation]:
    """Finished dialogues with the kind of each turn and, where the learner has a PRM, the weights (5) that it gives.

    The settings of (2), (4) and (5) are those of the learner's method.
    """
    task, reading = learner.task, reading_of(learner.config.task)
    weights = _weights(learner, dialogues) if learner.method.needs_prm else [()] * len(dialogues)
    found = []
    for dialogue, shares in zip(dialogues, weights, strict=True):
        scores = {reading.outcome: dialogue.outcome}
        if reading.measure:
            scores[reading.beside] = reading.measure(dialogue.example, dialogue.messages)
        count = sum(message.role == "assistant" for message in dialogue.messages)
        kinds = task.turn_kinds(dialogue.messages) if isinstance(task, ScriptedTask) else [""] * count
        found.append(
            Conversation(dialogue.messages, tuple(kinds), scores, shares, reading.hidden(dialogue.example))
        )
    return found


def _weights(learner: Learner, dialogues: Sequence[Dialogue]) -> list[tuple[float, ...]]:
    method, batch = learner.config.method, collate(dialogues, 1, learner.chat.pad_id)
    rewards = learner.token_rewards(batch, learner.log_probs(batch, None))
    scores, mask = turns.aggregate(rewards, batch.turn_ids, method.options.get("reduction", "sum")), turns.turn_mask(batch.turn_ids)
    weights = turns.normalize(scores, mask, method.options.get("temperature", 0.4))
    return [tuple(row[has].tolist()) for row, has in zip(weights, mask, strict=True)]


def choose(before: Sequence[Conversation]) -> tuple[int, str]:
    """Which problem to show, and the rule that chose it; only the conversations before training are looked at."""
    failed = [talk.outcome <= 0.5 for talk in before]
    missed = [bad and "missed repair" in talk.kinds for bad, talk in zip(failed, before, strict=True)]
    rules = [
        (
            missed,
            "the first whose conversation before training leaves an answer unrepaired and has R at most 0.5",
        ),
        (failed, "the first whose conversation before training has R at most 0.5"),
        ([True] * len(failed), "the first"),
    ]
    meets, rule = next(rule for rule in rules if any(rule[0]))
    return meets.index(True), rule


def comparison(task: str, held: Mapping[str, Sequence[Conversation]]) -> pd.DataFrame:
    """Means over the same problems with a 95 % t-interval, a line for each policy; the first one is what others gain on.

    Columns: task, policy, and for ``outcome``, ``gain`` (paired by problem), ``beside`` (the measure of ``READINGS``) and
    ``turns`` those of :func:`itpo.study.tables.interval_columns`.
    """
    outcomes = {policy: [talk.outcome for talk in talks] for policy, talks in held.items()}
    first, *_ = held
    lines = []
    for policy, talks in held.items():
        pairs = zip(outcomes[policy], outcomes[first], strict=True)
        columns = {
            "outcome": outcomes[policy],
            "gain": [after - before for after, before in pairs] if policy != first else [],
            "beside": [value for talk in talks for value in list(talk.scores.values())[1:]],
            "turns": [float(talk.turns) for talk in talks],
        }
        line: dict[str, Any] = {"task": task, "policy": policy}
        for name, values in columns.items():
            line |= interval_columns(name, t_interval(values))
        lines.append(line)
    return pd.DataFrame(lines)


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
