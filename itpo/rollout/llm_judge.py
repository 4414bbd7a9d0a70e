"""A language model as judge of outcomes and of turns.

The prompts are ``prompts/judge_*.txt``. A judgement that cannot be had is an error in its place, never a score.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from itpo.data import Example
from itpo.dialogue import Message
from itpo.rollout.endpoint import EndpointError, LanguageModel, the_only
from itpo.rollout.parsing import read_document, read_number, read_numbers
from itpo.rollout.prompts import fill, transcript
from itpo.thoughts import THOUGHT_TAGS

_T = TypeVar("_T")
HIGHEST = 10.0  # of a judge's scores [S]


class ModelJudge:
    """Judges dialogues on real examples with a language model, many at a time.

    Outcome judges ask with seed 0, so that equal dialogues get equal judgements where the server keeps to its seed; a reply
    that cannot be read is asked for again by the model's own retries. Thoughts between ``tags`` are not read.
    """

    def __init__(self, model: LanguageModel, tags: Mapping[str, str] = THOUGHT_TAGS) -> None:
        self.model, self.tags = model, tags

    def accuracy(
        self, examples: Sequence[Example], conversations: Sequence[Sequence[Message]]
    ) -> list[float | EndpointError]:
        """1 where the assistant's last answer equals ``reference["answer"]``, else 0."""
        prompts = [
            fill("judge_accuracy", conversation=transcript(messages), reference=example.reference["answer"])
            for example, messages in zip(examples, conversations, strict=True)
        ]
        return self._ask(prompts, partial(read_number, key="score", low=0.0, high=1.0, tags=self.tags))

    def documents(self, conversations: Sequence[Sequence[Message]]) -> list[str | EndpointError]:
        """The final document of each conversation as the judge copied it, with the leading marker that the prompt asks for."""
        prompts = [fill("judge_document", conversation=transcript(messages)) for messages in conversations]
        return self._ask(prompts, partial(read_document, tags=self.tags))

    def diagnosis(
        self, examples: Sequence[Example], conversations: Sequence[Sequence[Message]]
    ) -> list[tuple[float, float] | EndpointError]:
        """Scores from 0 to 10 for the doctor's (diagnosis, recommendation)."""
        prompts = [
            fill(
                "judge_diagnosis",
                conversation=transcript(messages, "Patient", "Doctor"),
                diagnosis=example.reference["diagnosis"],
                recommendation=example.reference["recommendation"],
            )
            for example, messages in zip(examples, conversations, strict=True)
        ]
        return self._ask(prompts, self._grades)

    def scores(self, example: Example, messages: Sequence[Message], rng: random.Random) -> Sequence[float]:
        """A score from 0 to 10 for each assistant message (:class:`itpo.tasks.judging.Judge`). Raises ``EndpointError``."""
        return the_only(self.all_scores([example], [messages], [rng]))

    def all_scores(
        self,
        examples: Sequence[Example],
        conversations: Sequence[Sequence[Message]],
        rngs: Sequence[random.Random],
    ) -> list[Sequence[float] | EndpointError]:
        """:meth:`scores` of many dialogues at a time, an error in the place of each that could not be judged."""
        prompts = []
        for example, messages in zip(examples, conversations, strict=True):
            count = sum(message.role == "assistant" for message in messages)
            fields = {"count": str(count), "form": ", ".join(["0"] * count)}
            fields |= {"goal": example.goal, "conversation": _numbered(messages)}
            prompts.append(fill("judge_turns", **fields))
        seeds = [rng.getrandbits(31) for rng in rngs]
        read = partial(read_numbers, key="scores", low=0.0, high=HIGHEST, tags=self.tags)
        return self.model.ask(_questions(prompts), seeds, read)

    def _ask(self, prompts: Sequence[str], read: Callable[[str], _T]) -> list[_T | EndpointError]:
        return self.model.ask(_questions(prompts), [0] * len(prompts), read)

    def _grades(self, text: str) -> tuple[float, float]:
        read = partial(read_number, text, low=0.0, high=HIGHEST, tags=self.tags)
        return read("diagnosis"), read("recommendation")


def _questions(prompts: Sequence[str]) -> list[list[Message]]:
    return [[Message("user", prompt)] for prompt in prompts]


def _numbered(messages: Sequence[Message]) -> str:
    """The conversation with the assistant's messages numbered from 1.

    >>> print(_numbered([Message("user", "hello"), Message("assistant", "hi"), Message("user", "ok")]))
    User: hello
    Assistant (1): hi
    User: ok
    """
    lines: list[str] = []
    turns = 0
    for message in messages:
        turns += message.role == "assistant"
        lines.append(transcript([message], assistant=f"Assistant ({turns})"))
    return "\n".join(line for line in lines if line)
