"""What a reader brings along, for tests: a task, a user and a judge; child processes of sweeps import them from here."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from itpo.dialogue import Message
from itpo.tasks.math import MathTutoring


class EasyMath(MathTutoring):
    """Math tutoring in which everybody succeeds."""

    version = 1

    def score(self, example: Any, messages: Sequence[Message]) -> float:
        """1, whatever was said."""
        return 1.0


class Parrot:
    """A user who opens with its ``words``, answers with them, and leaves after ``patience`` of its messages."""

    version = 1

    def __init__(self, words: str, patience: int = 2) -> None:
        self.words, self.patience = words, patience

    def open(self, examples: Sequence[Any], seed: int) -> list[Any]:
        """The examples, opened by these words and the example's number."""
        return [replace(e, prompt=(Message("user", f"{self.words} {e.id}"),)) for e in examples]

    def replies(
        self,
        examples: Sequence[Any],
        conversations: Sequence[Sequence[Message]],
        rngs: Sequence[random.Random],
    ) -> list[str | None]:
        """The words, or nothing any more."""
        spoken = [sum(message.role == "user" for message in messages) for messages in conversations]
        return [self.words if count < self.patience else None for count in spoken]


class Lengths:
    """A judge who likes long messages; half of the examples are right."""

    version = 1

    def scores(self, example: Any, messages: Sequence[Message], rng: random.Random) -> list[float]:
        """The length of each assistant message."""
        return [float(len(message.content)) for message in messages if message.role == "assistant"]

    def accuracy(self, examples: Sequence[Any], conversations: Sequence[Sequence[Message]]) -> list[float]:
        """1 for every other answer."""
        return [float(len(example.goal) % 2) for example in examples]
