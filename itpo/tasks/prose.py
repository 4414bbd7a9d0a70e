"""A scripted task in ordinary writing, for language models that learned theirs elsewhere.

The scripted tasks speak in lower-case words with spaces around punctuation, one token each for a tiny model of their own. Here
the same users and policies say "Maybe 3. How many pens?" instead of "maybe 3 . how many pens ?". What happens in a
conversation, and how it is scored, is decided by the task itself, which reads every message back in its own spelling.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from itpo.dialogue import Message
from itpo.tasks.base import ScriptedTask


def write(text: str) -> str:
    """A scripted task's words in ordinary writing: capitals at the start of sentences, no space before punctuation.

    >>> write("ok . i think 3 . how many pens ?")
    'Ok. I think 3. How many pens?'
    """
    joined = re.sub(r"\s+([.,:;?!])", r"\1", text)
    capital = re.sub(r"(?:^|(?<=[.?!] ))[a-z]", lambda start: start[0].upper(), joined)
    return re.sub(r"\bi\b", "I", capital)


def read(text: str) -> str:
    """Any writing in the scripted tasks' spelling: lower case, punctuation apart, on one line. The inverse of :func:`write`.

    >>> read("Ok. I think 3.  How many pens?")
    'ok . i think 3 . how many pens ?'
    """
    return " ".join(re.sub(r"([.,:;?!])(?!\d)", r" \1 ", text.lower()).split())


class Prose:
    """A task whose users and scripted policies write as people do; everything else is the task's own.

    >>> from itpo.tasks.registry import get_task
    >>> task = Prose(get_task("math"))
    >>> problem = task.sample(random.Random(0))
    >>> print(task.opening(problem)[0].content)
    Leo has some pens and gives a few away. How many are left?
    """

    def __init__(self, task: ScriptedTask) -> None:
        self.task, self.name, self.max_turns = task, f"{task.name}_prose", task.max_turns
        self.skills, self.expert, self.noisy_expert = task.skills, task.expert, task.noisy_expert
        self.kinds, self.shortcuts = task.kinds, task.shortcuts

    @property
    def words(self) -> list[str]:
        """Every word of the task, in its own spelling."""
        return self.task.words

    def sample(self, rng: random.Random) -> Any:
        """Draw one of the task's examples."""
        return self.task.sample(rng)

    def opening(self, example: Any) -> list[Message]:
        """The user's first message, written out."""
        return [Message(m.role, write(m.content)) for m in self.task.opening(example)]

    def reply(self, example: Any, messages: Sequence[Message], rng: random.Random) -> str | None:
        """The user's answer, written out; ``None`` ends the conversation."""
        reply = self.task.reply(example, _read_all(messages), rng)
        return None if reply is None else write(reply)

    def score(self, example: Any, messages: Sequence[Message]) -> float:
        """The task's outcome in [0, 1]."""
        return self.task.score(example, _read_all(messages))

    def act(self, text: str) -> str:
        """What kind of turn an assistant message is."""
        return self.task.act(read(text))

    def turn_kinds(self, messages: Sequence[Message]) -> list[str]:
        """What each assistant turn is called in tables and figures."""
        return self.task.turn_kinds(_read_all(messages))

    def scripted_policy(
        self, example: Any, messages: Sequence[Message], rng: random.Random, params: Any
    ) -> str:
        """What the scripted policy says next, written out."""
        return write(self.task.scripted_policy(example, _read_all(messages), rng, params))

    def turn_scores(self, example: Any, messages: Sequence[Message]) -> list[float]:
        """What a careful judge thinks of each assistant turn."""
        return self.task.turn_scores(example, _read_all(messages))


def in_prose(build: Callable[..., ScriptedTask]) -> Callable[..., Prose]:
    """What builds the same task, with the same options, in ordinary writing.

    >>> from itpo.tasks.math import MathTutoring
    >>> in_prose(MathTutoring)(clear=0.9).name
    'math_prose'
    """

    @functools.wraps(build)
    def build_in_prose(**options: Any) -> Prose:
        return Prose(build(**options))

    return build_in_prose


def _read_all(messages: Sequence[Message]) -> list[Message]:
    return [Message(message.role, read(message.content)) for message in messages]
