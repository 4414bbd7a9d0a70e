"""Conversations of a finished run to be read and compared: before and after training, or by the task's own scripts.

Runs in, :class:`itpo.figures.conversations.Conversation` and tables out, for the notebook on tasks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from itpo import turns
from itpo.analysis import t_interval
from itpo.config import RunConfig
from itpo.dialogue import Dialogue, Message, collate
from itpo.embedded import scripted_dialogue
from itpo.figures.conversations import Conversation
from itpo.learner import Learner
from itpo.tables import interval_columns, interval_of
from itpo.tasks import EmbeddedTask, get_task
from itpo.tasks.bleu import word_bleu
from itpo.tasks.documents import Wish, extract
from itpo.tasks.math import Problem
from itpo.tasks.medical import MedicalRecommendation, Patient

ACCURATE = 8  # points of 10 from which a recommendation counts as accurate [S]


def _hidden_numbers(problem: Problem) -> str:
    return f"{problem.first} {problem.operation} {problem.second}, answer {problem.answer}"


def _hidden_findings(patient: Patient) -> str:
    findings = f"{patient.place}, {patient.time}, allergies: {patient.allergy}"
    return f"{findings}; {' '.join(patient.diagnosis)}, take {patient.remedy}"


def word_score(wish: Wish, messages: Sequence[Message]) -> float:
    """sacreBLEU over words of the last draft, in [0, 1]; 0 if nothing was drafted.

    >>> word_score(Wish("music", "children", "warm"), [Message("assistant", "let me think .")])
    0.0
    """
    drafts = [extract(message.content) for message in messages if message.role == "assistant"]
    return word_bleu(next((draft for draft in reversed(drafts) if draft), ""), wish.target)


def is_accurate(patient: Patient, messages: Sequence[Message]) -> float:
    """1 where a recommendation has 8 points or more, else 0.

    >>> import random
    >>> task = get_task("medical")
    >>> patient, messages, score = scripted_dialogue(task, task.ideal, random.Random(0))
    >>> score, is_accurate(patient, messages), is_accurate(patient, messages[:1])
    (1.0, 1.0, 0.0)
    """
    return float(MedicalRecommendation.points(patient, messages) >= ACCURATE)


class Reading(NamedTuple):
    """How people read a task: what its outcome is called, what an example hides, and the measure beside the outcome."""

    outcome: str
    hidden: Callable[[Any], str]
    beside: str = ""
    measure: Callable[[Any, Sequence[Message]], float] | None = None


READINGS = {
    "math": Reading("success", _hidden_numbers),
    "documents": Reading("character BLEU", lambda wish: wish.target, "word BLEU", word_score),
    "medical": Reading("score", _hidden_findings, "accurate", is_accurate),
}
READINGS |= {f"{task}_prose": reading for task, reading in READINGS.items()}  # in whichever writing


def reading_of(config: RunConfig) -> Reading:
    """How people read the task of a run: an embedded one, in whichever writing, or one on real data.

    >>> from itpo.profiles import get_profile
    >>> reading_of(get_profile("laptop").on("documents").config("itpo", seed=0)).outcome
    'character BLEU'
    """
    if config.data is not None:
        return Reading("outcome", lambda example: example.goal)
    return READINGS[config.task]


def hold(learner: Learner, adapter: str | None, count: int, stream: str) -> list[Conversation]:
    """Conversations of a learner with ``count`` fresh users, by its policy ("policy") or the untrained reference (``None``).

    ``stream`` decides problems, users and sampling, so that both have the same problems, and users that draw the same.
    """
    dialogues, _ = learner.collect(stream, count, 1, adapter, evaluate=True)
    return read(learner, dialogues)


def scripted(learner: Learner, habits: Any, number: int) -> Conversation:
    """A conversation that the task's scripted assistant holds with these habits; ``number`` decides the problem."""
    task = get_task(learner.config.task)
    problem, messages, outcome = scripted_dialogue(task, habits, random.Random(f"scripted/{number}"))
    ids, mask = learner.chat.encode(messages)
    unsampled = (0.0,) * len(ids)
    dialogue = Dialogue(problem, tuple(messages), tuple(ids), tuple(mask), unsampled, outcome)
    return read(learner, [dialogue])[0]


def read(learner: Learner, dialogues: Sequence[Dialogue]) -> list[Conversation]:
    """Finished dialogues with the kind of each turn and, where the learner has a PRM, the weights (5) that it gives.

    The settings of (2), (4) and (5) are those of the learner's method.
    """
    task, reading = learner.task, reading_of(learner.config)
    weights = _weights(learner, dialogues) if learner.row.needs_prm else [()] * len(dialogues)
    found = []
    for dialogue, shares in zip(dialogues, weights, strict=True):
        scores = {reading.outcome: dialogue.outcome}
        if reading.measure:
            scores[reading.beside] = reading.measure(dialogue.example, dialogue.messages)
        count = sum(message.role == "assistant" for message in dialogue.messages)
        kinds = task.turn_kinds(dialogue.messages) if isinstance(task, EmbeddedTask) else [""] * count
        found.append(
            Conversation(dialogue.messages, tuple(kinds), scores, shares, reading.hidden(dialogue.example))
        )
    return found


def _weights(learner: Learner, dialogues: Sequence[Dialogue]) -> list[tuple[float, ...]]:
    method, batch = learner.config.method, collate(dialogues, 1, learner.chat.pad_id)
    rewards = learner.token_rewards(batch, learner.log_probs(batch, None))
    scores, mask = turns.aggregate(rewards, batch.turn_ids, method.reduction), turns.turn_mask(batch.turn_ids)
    weights = turns.normalize(scores, mask, method.eta)
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
    ``turns`` those of :func:`itpo.tables.interval_columns`.
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
        reading = READINGS[line["task"]]
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
