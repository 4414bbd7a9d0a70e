"""Judges score every assistant turn of a finished dialogue, for the method "LLM-as-a-judge" of Table 1.

The outcome is split over the turns in proportion to these scores. A judge is another program and may fail: its answer is
checked here, and a dialogue that could not be judged is reported, never scored zero. (The released code gives zero reward
where it cannot read its judge of outcomes [C].)
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from itpo.dialogue import Dialogue, Message
from itpo.tasks.base import ScriptedTask


class JudgeError(RuntimeError):
    """A judge failed, or answered what cannot be read as scores."""


_FAILURES = (JudgeError, TimeoutError, ConnectionError)  # what a judge may raise; all else is a bug


@runtime_checkable
class Judge(Protocol):
    """Scores the assistant turns of a dialogue, each for itself."""

    def scores(self, example: Any, messages: Sequence[Message], rng: random.Random) -> Sequence[float]:
        """One finite score >= 0 for each assistant message, in order; only their proportions matter.

        Raises ``JudgeError``, ``TimeoutError`` or ``ConnectionError`` where the judge cannot say. A judge behind a server
        keeps its own time limits and pauses between calls, and turns its client's own exceptions into these.
        """
        ...


@runtime_checkable
class ConcurrentJudge(Judge, Protocol):
    """A judge that can be asked for many dialogues at a time."""

    def all_scores(
        self,
        examples: Sequence[Any],
        conversations: Sequence[Sequence[Message]],
        rngs: Sequence[random.Random],
    ) -> Sequence[Sequence[float] | Exception]:
        """:meth:`Judge.scores` of each dialogue, what it would raise in the place of each that fails."""
        ...


class ScriptedJudge:
    """A judge who knows the rules of a scripted task and makes mistakes at a known rate; no model is needed [O].

    Each score of ``task.turn_scores`` (in [0, 1]) is replaced by 1 - score with probability ``error_rate``, independently
    of the others: 0 is a judge who is always right, 0.5 one whose scores tell nothing. Raises ``ValueError`` for a
    rate outside [0, 1].

    >>> from itpo.tasks.registry import get_task
    >>> task, rng = get_task("math"), random.Random(0)
    >>> example = task.sample(rng)
    >>> messages = [*task.opening(example), Message("assistant", "take your time .")]
    >>> [ScriptedJudge(task, rate).scores(example, messages, rng) for rate in (0.0, 1.0)]
    [[0.0], [1.0]]
    """

    def __init__(self, task: ScriptedTask, error_rate: float) -> None:
        if not 0 <= error_rate <= 1:
            raise ValueError(f"error_rate is a probability in [0, 1], not {error_rate}")
        self.task, self.error_rate = task, error_rate

    def scores(self, example: Any, messages: Sequence[Message], rng: random.Random) -> list[float]:
        """One score in [0, 1] for each assistant message; takes one draw from ``rng`` for each."""
        right = self.task.turn_scores(example, messages)
        return [1 - score if rng.random() < self.error_rate else score for score in right]


@dataclass(frozen=True)
class Judgement:
    """The scores of many dialogues, and which of them could not be judged."""

    # One finite number >= 0 for each assistant turn of each dialogue. All ones for dialogues in `failed`, so that their outcome
    # is shared equally, and for those whose user or judge of outcomes had failed, which are not shown to the judge.
    scores: list[list[float]]
    failed: list[int]  # numbers of the dialogues that could not be judged
    retries: int  # calls beyond the first of each dialogue
    reasons: list[str] = field(default_factory=list)  # of each of `failed`, from its last call


def judge_dialogues(
    judge: Judge, dialogues: Sequence[Dialogue], rngs: Sequence[random.Random], retries: int
) -> Judgement:
    """Have every dialogue judged, calling again at most ``retries`` times for a dialogue whose call failed.

    A call fails if it raises ``JudgeError``, ``TimeoutError`` or ``ConnectionError``, or if its answer is not one finite
    number >= 0 for each assistant turn (bools and strings are not numbers). Any other exception is a bug and is passed on.
    Dialogue b draws from ``rngs[b]`` alone, and goes on drawing from it when it is judged again: the same prompt with the
    same seed would only fail again. Raises ``ValueError`` unless there are as many generators as dialogues and
    ``retries`` >= 0.

    >>> class Mute:
    ...     def scores(self, example, messages, rng):
    ...         return []
    >>> story, turn = Message("user", "sam has some pens ."), Message("assistant", "how many ?")
    >>> dialogue = Dialogue(None, (story, turn), ids=(), response_mask=(), sampled_logp=(), outcome=1.0)
    >>> judgement = judge_dialogues(Mute(), [dialogue], [random.Random(0)], retries=2)
    >>> judgement.scores, judgement.failed, judgement.retries
    ([[1.0]], [0], 2)
    >>> judgement.reasons
    ['JudgeError: the judge gave 0 scores for 1 assistant turns: expected one for each']
    """
    if len(rngs) != len(dialogues):
        raise ValueError(
            f"{len(dialogues)} dialogues but {len(rngs)} random generators: pass one for each dialogue"
        )
    if retries < 0:
        raise ValueError(f"retries is how often a failed call is repeated, 0 or more, not {retries}")
    scores = [[1.0] * dialogue.assistant_turns for dialogue in dialogues]
    complete = [number for number, dialogue in enumerate(dialogues) if dialogue.failure is None]
    reasons: dict[int, str] = {}
    repeated = 0
    # A concurrent judge is shown all dialogues at once, any other judge one after another.
    for pending in [complete] if isinstance(judge, ConcurrentJudge) else [[number] for number in complete]:
        for call in range(retries + 1):
            repeated += len(pending) if call else 0
            failures: dict[int, str] = {}
            for number, answer in zip(pending, _ask(judge, dialogues, rngs, pending), strict=True):
                try:
                    if isinstance(answer, Exception):
                        raise answer
                    scores[number] = _read(answer, dialogues[number].assistant_turns)
                except _FAILURES as error:
                    failures[number] = f"{type(error).__name__}: {error}"
            pending = list(failures)
        reasons |= failures
    return Judgement(scores, list(reasons), repeated, list(reasons.values()))


def _ask(
    judge: Judge, dialogues: Sequence[Dialogue], rngs: Sequence[random.Random], numbers: Sequence[int]
) -> Sequence[Any]:
    """The judge's answer to each of these dialogues, or the failure in its place."""
    asked = [(dialogues[n].example, dialogues[n].messages, rngs[n]) for n in numbers]
    if isinstance(judge, ConcurrentJudge):
        return judge.all_scores(*map(list, zip(*asked, strict=True))) if asked else []
    answers: list[Any] = []
    for question in asked:
        try:
            answers.append(judge.scores(*question))
        except _FAILURES as error:
            answers.append(error)
    return answers


def _read(answer: Any, turns: int) -> list[float]:
    """The answer as floats; raises ``JudgeError`` if it is not one finite number >= 0 for each turn."""
    # A dict, a set or bytes would pass for numbers when iterated.
    if not isinstance(answer, Sequence) or isinstance(answer, str | bytes | bytearray):
        raise JudgeError(
            f"the judge answered {answer!r}: expected a list of {turns} scores, one for each assistant turn"
        )
    if len(answer) != turns:
        raise JudgeError(
            f"the judge gave {len(answer)} scores for {turns} assistant turns: expected one for each"
        )
    scores = []
    for turn, score in enumerate(answer):
        try:
            value = float(score) if not isinstance(score, bool) and isinstance(score, Real) else math.nan
        except OverflowError:  # an integer beyond the largest float
            value = math.inf
        if not 0 <= value < math.inf:  # no comparison holds for NaN
            raise JudgeError(f"the judge gave turn {turn} the score {score!r}: expected a finite number >= 0")
        scores.append(value)
    return scores
