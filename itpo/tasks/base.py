"""What the sampler and the trainer need to know of a task."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from itpo.dialogue import Message

# A user's reply, or an outcome; an exception where user or judge failed.
Answer = str | None | Exception
Score = float | Exception

MAX_TURNS = {"math": 5, "documents": 5, "medical": 6}  # of the assistant; a user turn between each two [S]


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
class ScriptedTask(Task, Protocol):
    """A task that brings its own small language: words, and a scripted policy to learn them from."""

    expert: Any  # the params of a policy that solves the task
    noisy_expert: Any  # the params of the policy that the base model imitates
    skills: tuple[str, ...]  # acts that the expert needs and the noisy expert shows too rarely
    kinds: tuple[str, ...]  # what turns are called in tables and figures, in this order
    shortcuts: tuple[str, ...]  # those of them that take for granted what should have been asked

    @property
    def words(self) -> list[str]:
        """Every word that user or scripted policy may say."""
        ...

    def scripted_policy(
        self, example: Any, messages: Sequence[Message], rng: random.Random, params: Any
    ) -> str:
        """What a scripted policy with these params says next."""
        ...

    def act(self, text: str) -> str:
        """What an assistant message does, in the task's own terms."""
        ...

    def turn_kinds(self, messages: Sequence[Message]) -> list[str]:
        """Which of ``kinds`` each assistant turn is."""
        ...

    def turn_scores(self, example: Any, messages: Sequence[Message]) -> list[float]:
        """What a careful judge who knows the rules thinks of each assistant turn, from 0 (bad) to 1 (good)."""
        ...
