"""Tasks: what a user wants, how it answers, and how a finished conversation is scored.

A new task is one module with one class that has the members of :class:`Task`, and one line in ``TASKS``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

from itpo.dialogue import Message

# What a user says, or an outcome; an exception where user or judge could not say.
Answer = str | None | Exception
Score = float | Exception


@runtime_checkable
class Task(Protocol):
    """What the sampler and the trainer need to know of a task.

    The user is stateless: a reply depends on the example, the messages so far and the random generator alone, so
    that a conversation can be continued from any point.
    """

    name: str
    max_turns: int

    def sample(self, rng: random.Random) -> Any:
        """Draw one example (the user's latent goal)."""
        ...

    def opening(self, example: Any) -> list[Message]:
        """The messages before the first assistant turn."""
        ...

    def reply(self, example: Any, messages: Sequence[Message], rng: random.Random) -> str | None:
        """The user's answer to the last assistant message; ``None`` ends the conversation."""
        ...

    def score(self, example: Any, messages: Sequence[Message]) -> float:
        """Outcome ``R`` in [0, 1] of a finished conversation, without the length penalty."""
        ...


@runtime_checkable
class ConcurrentTask(Task, Protocol):
    """A task whose users and judges can be asked many at a time, and may fail for some of the dialogues.

    With more than one of ``lanes``, a batch is divided into that many parts: the policy speaks in one while the users of the
    others answer, in another thread.
    """

    lanes: int

    def replies(
        self,
        examples: Sequence[Any],
        conversations: Sequence[Sequence[Message]],
        rngs: Sequence[random.Random],
    ) -> Sequence[Answer]:
        """:meth:`Task.reply` of many conversations, an exception in the place of each that fails."""
        ...

    def scores(self, examples: Sequence[Any], conversations: Sequence[Sequence[Message]]) -> Sequence[Score]:
        """:meth:`Task.score` of many conversations, an exception in the place of each that fails."""
        ...


@runtime_checkable
class EmbeddedTask(Task, Protocol):
    """A task that also brings its own small language: words, and a tutor to learn them from."""

    skills: tuple[str, ...]  # acts that the ideal tutor needs and the warm start shows too rarely
    ideal: Any  # the habits of a tutor that solves the task
    novice: Any  # the habits that the warm start imitates
    kinds: tuple[str, ...]  # what turns are called in tables and figures, in this order
    shortcuts: tuple[str, ...]  # those of them that take for granted what should have been asked

    @property
    def words(self) -> list[str]:
        """Every word that user or tutor may say."""
        ...

    def act(self, text: str) -> str:
        """What kind of turn an assistant message is, in the task's own terms."""
        ...

    def turn_kinds(self, messages: Sequence[Message]) -> list[str]:
        """Which of ``kinds`` each assistant turn is; "missed repair" where it left an answer that it should have undone."""
        ...

    def tutor(self, example: Any, messages: Sequence[Message], rng: random.Random, habits: Any) -> str:
        """What a scripted tutor with these habits says next."""
        ...

    def turn_scores(self, example: Any, messages: Sequence[Message]) -> list[float]:
        """What a careful judge who knows the rules thinks of each assistant turn, from 0 (bad) to 1 (good)."""
        ...


def _math() -> EmbeddedTask:
    from itpo.tasks.math import MathTutoring

    return MathTutoring()


def _documents() -> EmbeddedTask:
    from itpo.tasks.documents import DocumentWriting

    return DocumentWriting()


def _medical() -> EmbeddedTask:
    from itpo.tasks.medical import MedicalRecommendation

    return MedicalRecommendation()


def _corridor(name: str) -> EmbeddedTask:
    from itpo.tasks.corridor import Corridor

    return Corridor.named(name)


def _in_prose(task: Callable[[], EmbeddedTask]) -> EmbeddedTask:
    from itpo.tasks.prose import Prose

    return Prose(task())


TASKS: dict[str, Callable[[], EmbeddedTask]] = {"math": _math, "documents": _documents, "medical": _medical}
# The same tasks in ordinary writing, for models that learned theirs elsewhere.
PROSE = {f"{name}_prose": partial(_in_prose, task) for name, task in TASKS.items()}


# Families of tasks for the map of regimes: the name's first part, and what builds a task from its whole name.
REGIMES: dict[str, Callable[[str], EmbeddedTask]] = {"corridor": _corridor}


def get_task(name: str) -> EmbeddedTask:
    """Build the task called ``name``, one of ``TASKS`` or ``PROSE`` or of the families ``REGIMES``.

    Raises ``ValueError`` listing them for another name, or saying what is wrong with the settings in it.

    >>> get_task("math").max_turns, get_task("math_prose").name, get_task("corridor_6_2_early").max_turns
    (5, 'math_prose', 6)
    """
    known = TASKS | PROSE
    if name in known:
        return known[name]()
    if (family := name.partition("_")[0]) in REGIMES:
        return REGIMES[family](name)
    listed = ", ".join([*sorted(known), *(f"{family}_..." for family in REGIMES)])
    raise ValueError(f"unknown task {name!r}; known tasks: {listed}")
