"""Math tutoring: a user hides the numbers of a word problem, and is vague or mistaken about them.

The story is told, its two numbers are not. Asked for a number, the user states it, answers vaguely ("quite a few"), or gives a
doubtful and mostly wrong value ("maybe 3"); "exactly how many ?" and "are you sure ?" repair that, see
:mod:`itpo.tasks.slots`. A number that the tutor assumes is never told.

``python -m itpo check math`` measures whether the task is fit to compare methods on (see :mod:`itpo.study.testbed`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from itpo.dialogue import Message
from itpo.tasks.registry import TaskEntry
from itpo.tasks.slots import PolicyParams, SlotTask

NAMES = ("sam", "ana", "leo", "mia", "tom", "eva")
ITEMS = ("apples", "pears", "coins", "books", "pens", "cards")
STORIES = {
    "plus": "{name} has some {item} and gets more . how many now ?",
    "minus": "{name} has some {item} and gives a few away . how many are left ?",
    "times": "{name} has boxes with {item} in each box . how many {item} in all ?",
}
AMOUNTS = {
    "first": {"plus": "{item} at first", "minus": "{item} at first", "times": "boxes are there"},
    "second": {"plus": "more {item} came", "minus": "{item} went away", "times": "{item} in each box"},
}
NUMBERS = range(2, 7)


@dataclass(frozen=True)
class Problem:
    """A word problem: who, what, the operation, and the two numbers that the user hides."""

    name: str
    item: str
    operation: str
    first: int
    second: int

    @property
    def answer(self) -> int:
        """The reference answer."""
        return compute(self.operation, self.first, self.second)


def compute(operation: str, first: int, second: int) -> int:
    """The result of the story's operation.

    >>> compute("times", 3, 4)
    12
    """
    return {"plus": first + second, "minus": first - second, "times": first * second}[operation]


def _answer(text: str) -> int | None:
    """The last final answer in a message."""
    answers = re.findall(r"answer is (\d+)", text)
    return int(answers[-1]) if answers else None


class MathTutoring(SlotTask):
    """The task of the module's text; ``clear``, ``vague`` and ``mistaken`` as in :class:`itpo.tasks.slots.SlotTask`.

    >>> task = MathTutoring()
    >>> task.act("ok . are you sure ?"), task.act("so 2 plus 3 : the answer is 5 .")
    ('verify', 'answer')
    """

    name = "math"
    max_turns = 5
    slots = ("first", "second")
    values = {"first": NUMBERS, "second": NUMBERS}
    cues = {
        "answer": r"answer is \d+",
        "verify": "are you sure",
        "clarify": "exactly how many",
        "assume_first": r"\A(?=.*say).*(at first|boxes are there)",
        "assume_second": r"\A(?=.*say).*(came|went away|in each)",
        "ask_first": "at first|boxes are there",
        "ask_second": "came|went away|in each",
    }
    final = "answer"
    questions = dict.fromkeys(slots, "how many {amount} ?")
    clarify = "exactly how many ?"
    chats = ("let us draw a picture .", "take your time .", "do you like {item} ?", "we can do this .")
    replies = {
        "clear": ("there are {value} .", "it is {value} ."),
        "doubtful": ("maybe {value} .", "i think {value} ."),
        "vague": ("quite a few .", "a lot of {item} ."),
        "correction": ("oh , it is {value} .", "sorry , it is {value} ."),
        "again": ("you know that now .",),
        "yes": ("yes .",),
        "assumed": ("if you say so .", "fine ."),
        "chat": ("ok .", "i like {item} .", "nice .", "what next ?"),
    }
    other_words = (
        *STORIES,
        *STORIES.values(),
        *(amount for amounts in AMOUNTS.values() for amount in amounts.values()),
        *NAMES,
        *ITEMS,
        "let us say",
        "so : the answer is",
        *map(str, range(max(NUMBERS) ** 2 + 1)),
    )
    shortcuts: tuple[str, ...] = ("assume_first", "assume_second")
    noisy_expert = PolicyParams(clarify=0.12, verify=0.12, shortcut=0.12, chat=0.12, swap=0.3)

    def sample(self, rng: random.Random) -> Problem:
        """Draw a problem; a subtraction never goes below zero."""
        operation = rng.choice(list(STORIES))
        first, second = rng.choice(NUMBERS), rng.choice(NUMBERS)
        if operation == "minus" and first < second:
            first, second = second, first
        return Problem(rng.choice(NAMES), rng.choice(ITEMS), operation, first, second)

    def opening(self, example: Problem) -> list[Message]:
        """The story without its numbers."""
        return [Message("user", STORIES[example.operation].format(**vars(example)))]

    def score(self, example: Problem, messages: Sequence[Message]) -> float:
        """1 if the last assistant message gives the reference answer, else 0 (exact match)."""
        last = next((m.content for m in reversed(messages) if m.role == "assistant"), "")
        return float(_answer(last) == example.answer)

    def mentions(self, text: str, slot: str) -> dict[str, int]:
        """The last number that a message names, which is about the slot asked for last."""
        numbers = re.findall(r"\d+", text)
        return {slot: int(numbers[-1])} if slot and numbers else {}

    def follows(self, example: Problem, told: Mapping[str, int], text: str) -> bool:
        """Whether an answer is the result of the story's operation on the numbers told."""
        # No sign: of two numbers told wrongly the second may be the larger, and no answer below zero can be said.
        return len(told) == 2 and _answer(text) == abs(compute(example.operation, **told))

    def question(self, slot: str, example: Problem) -> str:
        """How a number is asked for."""
        return self.questions[slot].format(amount=self._amount(slot, example))

    def take_for_granted(self, slot: str, example: Problem, rng: random.Random) -> str:
        """An assumed number."""
        return f"let us say {rng.choice(NUMBERS)} {self._amount(slot, example)} ."

    @staticmethod
    def _amount(slot: str, example: Problem) -> str:
        return AMOUNTS[slot][example.operation].format(item=example.item)

    def finish(self, example: Problem, heard: Mapping[str, Any], rng: random.Random, params: Any) -> str:
        """The answer for the numbers heard."""
        numbers = list(self.guess(heard, self.slots, rng).values())
        if example.operation == "minus":
            numbers.sort(reverse=True)
        result = compute(example.operation, *numbers)
        return f"so {numbers[0]} {example.operation} {numbers[1]} : the answer is {result} ."


def _hidden(problem: Problem) -> str:
    return f"{problem.first} {problem.operation} {problem.second}, answer {problem.answer}"


ENTRY = TaskEntry("math", MathTutoring, title="math tutoring", outcome="success", hidden=_hidden)
