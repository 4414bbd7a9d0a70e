"""Math tutoring, embedded: a user hides the numbers of a word problem, and is vague or mistaken about them.

The story is told, its two numbers are not. Asked for a number, the user states it, answers vaguely ("quite a few"),
or gives a doubtful and mostly wrong value ("maybe 3"). Only the very next assistant turn can repair that: "exactly how
many ?" after a vague answer, "are you sure ?" after a doubtful one. Each number can be asked for once; a
number the tutor assumes is never told. So the turns that decide the outcome often come early, nothing repairs them later,
and the turns after them vary without mattering: the structure in which turn-wise credit has something to gain.

``python -m itpo testbed_checks math`` measures whether the task is fit for that purpose (see :mod:`itpo.study.testbed`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from itpo.dialogue import Message
from itpo.tasks.registry import TaskEntry
from itpo.tasks.repairs import turn_kinds

Act = Literal["ask_first", "ask_second", "press", "check", "assume_first", "assume_second", "answer", "chat"]

NAMES = ("sam", "ana", "leo", "mia", "tom", "eva")
ITEMS = ("apples", "pears", "coins", "books", "pens", "cards")
STORIES = {
    "plus": "{name} has some {item} and gets more . how many now ?",
    "minus": "{name} has some {item} and gives a few away . how many are left ?",
    "times": "{name} has boxes with {item} in each box . how many {item} in all ?",
}
FIRST = {"plus": "{item} at first", "minus": "{item} at first", "times": "boxes are there"}
SECOND = {"plus": "more {item} came", "minus": "{item} went away", "times": "{item} in each box"}
OPENERS = ("", "", "ok . ", "good . ", "thank you . ", "i see . ")
CHATS = ("let us draw a picture .", "take your time .", "do you like {item} ?", "we can do this .")
REPLIES = {
    "clear": ("there are {n} .", "it is {n} ."),
    "doubtful": ("maybe {n} .", "i think {n} ."),
    "vague": ("quite a few .", "a lot of {item} ."),
    "correction": ("oh , it is {n} .", "sorry , it is {n} ."),
    "again": ("you know that now .",),
    "yes": ("yes .",),
    "assumed": ("if you say so .", "fine ."),
    "chat": ("ok .", "i like {item} .", "nice .", "what next ?"),
}
REPAIRS = {"vague": "press", "doubtful": "check"}  # the only turn that undoes such an answer
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


@dataclass(frozen=True)
class PolicyParams:
    """How often a scripted tutor does the right thing where there is a choice (probabilities in [0, 1])."""

    press: float = 1.0
    check: float = 1.0
    assume: float = 0.0
    chat: float = 0.0
    swap: float = 0.0


EXPERT = PolicyParams()
# The warm start imitates this tutor: the skills that pay are a minority, so that neither sampling nor greedy decoding
# already solves the task [O].
NOISY_EXPERT = PolicyParams(press=0.12, check=0.12, assume=0.12, chat=0.12, swap=0.3)


def compute(operation: str, first: int, second: int) -> int:
    """The result of the story's operation.

    >>> compute("times", 3, 4)
    12
    """
    return {"plus": first + second, "minus": first - second, "times": first * second}[operation]


def act_of(text: str) -> Act:
    """What an assistant message does, read from its words; anything unknown is chat.

    >>> act_of("ok . are you sure ?"), act_of("so 2 plus 3 : the answer is 5 .")
    ('check', 'answer')
    """
    if re.search(r"answer is \d+", text):
        return "answer"
    if "are you sure" in text:
        return "check"
    if "exactly how many" in text:
        return "press"
    first = "at first" in text or "boxes are there" in text
    second = "came" in text or "went away" in text or "in each" in text
    if not first and not second:
        return "chat"
    if "say" in text:
        return "assume_first" if first else "assume_second"
    return "ask_first" if first else "ask_second"


def _number(text: str) -> int | None:
    found = re.findall(r"\d+", text)
    return int(found[-1]) if found else None


def _answer(text: str) -> int | None:
    """The last final answer in a message."""
    found = re.findall(r"answer is (\d+)", text)
    return int(found[-1]) if found else None


def _kind(text: str) -> str:
    """Which kind of reply a user message is, for the user's and the tutor's memory."""
    if text.startswith(("maybe", "i think")):
        return "doubtful"
    if text.startswith(("quite", "a lot")):
        return "vague"
    return "other"


class MathTutoring:
    """The embedded math-tutoring task (see the module's text for its rules).

    ``clear``, ``vague``: how often the user states a number clearly or is vague about it; else it is doubtful, and
    then wrong with probability ``mistaken``.
    """

    name = "math"
    max_turns = 5
    skills: tuple[str, ...] = ("press", "check")
    kinds: tuple[str, ...] = (
        "ask_first",
        "ask_second",
        "press",
        "check",
        "missed repair",
        "assume_first",
        "assume_second",
        "chat",
        "answer",
    )
    shortcuts: tuple[str, ...] = ("assume_first", "assume_second")
    expert = EXPERT
    noisy_expert = NOISY_EXPERT
    act = staticmethod(act_of)

    def __init__(self, clear: float = 0.5, vague: float = 0.25, mistaken: float = 0.9) -> None:
        self.clear, self.vague, self.mistaken = clear, vague, mistaken

    @property
    def words(self) -> list[str]:
        """Every word that user or tutor may say, sorted."""
        texts = [
            *STORIES.values(),
            *FIRST.values(),
            *SECOND.values(),
            *OPENERS,
            *CHATS,
            *NAMES,
            *ITEMS,
            *STORIES,
        ]
        texts += [text for replies in REPLIES.values() for text in replies]
        texts += ["exactly how many ?", "are you sure ?", "let us say", "so : the answer is"]
        texts += [str(n) for n in range(max(NUMBERS) ** 2 + 1)]
        return sorted({word for text in texts for word in text.split() if "{" not in word})

    def sample(self, rng: random.Random) -> Problem:
        """Draw a problem; a subtraction never goes below zero."""
        operation = rng.choice(list(STORIES))
        first, second = rng.choice(NUMBERS), rng.choice(NUMBERS)
        if operation == "minus" and first < second:
            first, second = second, first
        return Problem(rng.choice(NAMES), rng.choice(ITEMS), operation, first, second)

    def opening(self, example: Problem) -> list[Message]:
        """The story without its numbers."""
        return [Message("user", STORIES[example.operation].format(name=example.name, item=example.item))]

    def reply(self, example: Problem, messages: Sequence[Message], rng: random.Random) -> str | None:
        """The user's answer to the last assistant message; ``None`` after a final answer."""
        acts = [act_of(m.content) for m in messages if m.role == "assistant"]
        before = _kind(messages[-2].content)
        act = acts[-1]

        def say(kind: str, number: int | None = None) -> str:
            return rng.choice(REPLIES[kind]).format(n=number, item=example.item)

        if act == "answer":
            return None
        if act.startswith(("ask", "assume")):
            which = act.partition("_")[2]
            if any(a.endswith(which) for a in acts[:-1]):
                return say("again")
            if act.startswith("assume"):
                return say("assumed")
            return self._state(getattr(example, which), say, rng)
        if act == "press" and before == "vague":
            return say("clear", self._asked(example, acts))
        if act == "check":
            return say("correction", self._asked(example, acts)) if before == "doubtful" else say("yes")
        return say("again" if act == "press" else "chat")

    def _state(self, number: int, say: Callable[..., str], rng: random.Random) -> str:
        draw = rng.random()
        if draw < self.clear:
            return say("clear", number)
        if draw < self.clear + self.vague:
            return say("vague")
        if rng.random() < self.mistaken:
            number = rng.choice([n for n in NUMBERS if n != number])
        return say("doubtful", number)

    @staticmethod
    def _asked(example: Problem, acts: Sequence[Act]) -> int:
        """The number that the last question was about."""
        last = next(a for a in reversed(acts) if a.startswith("ask"))
        return example.first if last == "ask_first" else example.second

    def score(self, example: Problem, messages: Sequence[Message]) -> float:
        """1 if the last assistant message gives the reference answer, else 0 (exact match)."""
        last = next((m.content for m in reversed(messages) if m.role == "assistant"), "")
        return float(_answer(last) == example.answer)

    def turn_scores(self, example: Problem, messages: Sequence[Message]) -> list[float]:
        """What a careful judge who has the rules in hand thinks of each assistant turn: 1 good, 0 bad.

        After a vague or doubtful answer only its repair is good. Otherwise it is good to ask for a number that was neither
        asked for nor assumed before, and to answer when the user has told both numbers, with the right result for the
        numbers *as told*: a turn is not blamed for what an earlier one left wrong. All else is bad: asking again, assuming,
        chatting, a press or check that nothing called for. The hidden numbers are not read.

        >>> said = "how many pens went away ?", "maybe 5 .", "how many pens at first ?", "it is 6 .", "the answer is 1 ."
        >>> roles = "assistant", "user", "assistant", "user", "assistant"
        >>> turns = [Message(role, text) for role, text in zip(roles, said)]
        >>> MathTutoring().turn_scores(Problem("sam", "pens", "minus", 6, 2), turns)
        [1.0, 0.0, 1.0]
        """
        scores: list[float] = []
        told: dict[str, int] = {}
        asked, which, kind = set(), "", "other"
        for message in messages:
            if message.role != "assistant":
                kind, number = _kind(message.content), _number(message.content)
                if which and number is not None:
                    told[which] = number
                continue
            act = act_of(message.content)
            topic = act.partition("_")[2]
            if kind in REPAIRS:
                good = act == REPAIRS[kind]
            elif act == "answer":
                good = len(told) == 2 and _answer(message.content) == self._result(example, told)
            else:
                good = act.startswith("ask") and topic not in asked
            scores.append(float(good))
            if topic:
                asked.add(topic)
                which = topic
        return scores

    def turn_kinds(self, messages: Sequence[Message]) -> list[str]:
        """The act of each assistant turn, or "missed repair" where it should have undone the answer before it.

        >>> said = Message("user", "a lot of pens ."), Message("assistant", "are you sure ?"), Message("user", "yes .")
        >>> MathTutoring().turn_kinds([*said, Message("assistant", "ok .")])
        ['missed repair', 'chat']
        """
        return turn_kinds(messages, act_of, _kind, REPAIRS)

    @staticmethod
    def _result(example: Problem, told: dict[str, int]) -> int:
        # No sign: of two numbers told wrongly the second may be the larger, and no answer below zero can be said.
        return abs(compute(example.operation, told["first"], told["second"]))

    def scripted_policy(
        self, example: Problem, messages: Sequence[Message], rng: random.Random, params: PolicyParams
    ) -> str:
        """What a scripted tutor with these params says next; it knows the conversation, not the hidden numbers."""
        opener = rng.choice(OPENERS) if len(messages) > 1 else ""
        kind = _kind(messages[-1].content)
        if kind == "vague" and rng.random() < params.press:
            return opener + "exactly how many ?"
        if kind == "doubtful" and rng.random() < params.check:
            return opener + "are you sure ?"
        heard = self._heard(messages)
        if rng.random() < params.chat:
            return opener + rng.choice(CHATS).format(item=example.item)
        pending = [which for which in ("first", "second") if which not in heard]
        if not pending:
            return opener + self._final(example, heard, rng)
        which = pending[-1] if rng.random() < params.swap else pending[0]
        what = (FIRST if which == "first" else SECOND)[example.operation].format(item=example.item)
        if rng.random() < params.assume:
            return f"{opener}let us say {rng.choice(NUMBERS)} {what} ."
        return f"{opener}how many {what} ?"

    @staticmethod
    def _heard(messages: Sequence[Message]) -> dict[str, int | None]:
        """What the conversation says about each number: absent if never asked, ``None`` if asked in vain."""
        heard: dict[str, int | None] = {}
        which = ""
        for message in messages[1:]:
            number = _number(message.content)
            if message.role == "assistant":
                act = act_of(message.content)
                if act.startswith(("ask", "assume")):
                    which = act.partition("_")[2]
                    heard.setdefault(which, number)
            elif number is not None:
                heard[which] = number
        return heard

    @staticmethod
    def _final(example: Problem, heard: dict[str, int | None], rng: random.Random) -> str:
        guess = [heard[which] or rng.choice(NUMBERS) for which in ("first", "second")]
        if example.operation == "minus":
            guess.sort(reverse=True)
        return f"so {guess[0]} {example.operation} {guess[1]} : the answer is {compute(example.operation, *guess)} ."


def _hidden(problem: Problem) -> str:
    return f"{problem.first} {problem.operation} {problem.second}, answer {problem.answer}"


ENTRY = TaskEntry("math", MathTutoring, title="math tutoring", outcome="success", hidden=_hidden)
