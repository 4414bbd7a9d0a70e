"""A task from outside the package, with an entry of its own: guess which side of a coin is up."""

import random
from collections.abc import Sequence

from itpo.dialogue import Message
from itpo.tasks.registry import TaskEntry


class Guess:
    """Two guesses, of which the last one counts; the user says whether the first was right. No act of it is a skill."""

    version = 3
    name, max_turns = "guess", 2
    expert, noisy_expert = 1.0, 0.3  # how often a wrong guess is changed
    skills: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("guess",)
    shortcuts: tuple[str, ...] = ()

    def __init__(self, sides: int = 2) -> None:
        if sides < 2:
            raise ValueError(f"a coin has 2 sides or more, not {sides}")
        self.sides = sides

    @property
    def words(self) -> list[str]:
        """Every word that is said."""
        return sorted({"guess", "right", "wrong", *map(str, range(self.sides))})

    def sample(self, rng: random.Random) -> int:
        """Toss the coin."""
        return rng.randrange(self.sides)

    def opening(self, example: int) -> list[Message]:
        """The user's first words."""
        return [Message("user", "guess")]

    def reply(self, example: int, messages: Sequence[Message], rng: random.Random) -> str | None:
        """Whether the first guess was right; nothing after the second."""
        return ("wrong", "right")[messages[-1].content == str(example)] if len(messages) == 2 else None

    def score(self, example: int, messages: Sequence[Message]) -> float:
        """1 if the last guess is right, else 0."""
        return float(len(messages) > 1 and messages[-1].content == str(example))

    def act(self, text: str) -> str:
        """Every turn is a guess."""
        return "guess"

    def turn_kinds(self, messages: Sequence[Message]) -> list[str]:
        """Every turn is a guess."""
        return ["guess" for message in messages if message.role == "assistant"]

    def turn_scores(self, example: int, messages: Sequence[Message]) -> list[float]:
        """1 for a right guess."""
        return [float(m.content == str(example)) for m in messages if m.role == "assistant"]

    def scripted_policy(
        self, example: int, messages: Sequence[Message], rng: random.Random, params: float
    ) -> str:
        """The first guess is 0; a wrong one becomes 1, a right one is kept."""
        if len(messages) == 1:
            return "0"
        changed = messages[-1].content == "wrong" and rng.random() < params
        return "1" if changed else messages[-2].content


ENTRY = TaskEntry(
    "guess",
    Guess,
    title="guessing",
    outcome="right guesses",
    hidden=lambda side: f"side {side}",
    bounds={"sampled": (0.0, 1.0), "lift": (-1.0, 1.0)},
    version=3,
)


class Sized(Guess):
    """A task that cannot be made without an option."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
