"""Users played by a language model: behind a server, or the policy's own frozen base."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch

from itpo.chat import ChatFormat, ContextError
from itpo.data import Example
from itpo.dialogue import Message
from itpo.models.adapters import AdaptedModel
from itpo.rollout.endpoint import EndpointError, LanguageModel
from itpo.rollout.engine import Engine
from itpo.rollout.parsing import ReplyError, read_response
from itpo.rollout.prompts import fill, transcript
from itpo.rollout.sampler import Sampling, take_turns
from itpo.thoughts import THOUGHT_TAGS

_T = TypeVar("_T")
ATTEMPTS = 3  # to have a user open a conversation, or to have the base model reply readably [O]


class ModelUser:
    """Plays the user of real examples with a language model, many conversations at a time.

    Each call shows the model the example's goal and the conversation so far (``prompts/user_<task>.txt``), so the user has no
    memory beside the messages. One draw from a conversation's generator becomes the seed of its reply. Thoughts between
    ``tags`` are not said.
    """

    def __init__(self, model: LanguageModel, tags: Mapping[str, str] = THOUGHT_TAGS) -> None:
        self.model, self.tags = model, tags

    @property
    def lanes(self) -> int:
        """How many batches of dialogues a rollout should hold at a time."""
        return self.model.lanes

    def replies(
        self,
        examples: Sequence[Example],
        conversations: Sequence[Sequence[Message]],
        rngs: Sequence[random.Random],
    ) -> list[str | None | EndpointError]:
        """What each user says next; ``None`` where it ends the conversation, an error where there is no reply."""
        pairs = zip(examples, conversations, strict=True)
        prompts = [
            fill(f"user_{example.task}", goal=example.goal, conversation=transcript(messages))
            for example, messages in pairs
        ]
        return self._ask(prompts, rngs)

    def open(self, examples: Sequence[Example], seed: int) -> list[Example]:
        """The same examples, opened by the user with a first message that hides part of the goal.

        For plain problem sets, whose prompt is the whole problem. A user who says nothing, or what cannot be read, is asked
        again, three times in all. Raises :class:`EndpointError` if one stays without opening.

        >>> from itpo.data import generate_gsm
        >>> class Shy:
        ...     lanes = 1
        ...     def ask(self, prompts, seeds, read):
        ...         return [read('{"thought": "hide it", "response": "I need help."}') for _ in prompts]
        >>> ModelUser(Shy()).open(generate_gsm(1, seed=0), seed=0)[0].prompt
        (Message(role='user', content='I need help.'),)
        """
        openings: dict[str, str | None | EndpointError] = {}
        for attempt in range(ATTEMPTS):
            left = [example for example in examples if not isinstance(openings.get(example.id), str)]
            prompts = [fill(f"open_{example.task}", goal=example.goal) for example in left]
            again = f"/{attempt}" if attempt else ""
            texts = self._ask(prompts, [random.Random(f"{seed}/{example.id}{again}") for example in left])
            openings |= {example.id: text for example, text in zip(left, texts, strict=True)}
        opened = []
        for example in examples:
            text = openings[example.id]
            if not isinstance(text, str):
                raise text or EndpointError(f"the user of {example.id} ended the conversation it should open")
            opened.append(replace(example, prompt=(Message("user", text),)))
        return opened

    def _ask(self, prompts: Sequence[str], rngs: Sequence[random.Random]) -> list[str | None | EndpointError]:
        questions = [[Message("user", prompt)] for prompt in prompts]
        return self.model.ask(
            questions, [rng.getrandbits(31) for rng in rngs], partial(read_response, tags=self.tags)
        )


class FrozenBaseModel:
    """The frozen base of a backbone as a language model, its adapters off: one GPU holds policy, user and judge [O].

    ``engine`` writes what it says; by default the backbone's own decoding.
    """

    lanes = 1  # it needs the policy's own processor

    def __init__(
        self, backbone: AdaptedModel, chat: ChatFormat, sampling: Sampling, engine: Engine | None = None
    ) -> None:
        self.backbone, self.chat, self.sampling, self.engine = backbone, chat, sampling, engine

    def ask(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int], read: Callable[[str], _T]
    ) -> list[_T | EndpointError]:
        """One reply for each prompt.

        What is cut off by the token limit or cannot be read is asked for again with the next seed, three times in all; a
        greedy model would only say the same again. What leaves no room for a reply in the model's context is not asked.
        """
        answers: dict[int, _T | EndpointError] = {}
        too_long: dict[int, _T | EndpointError] = {}
        for n, prompt in enumerate(prompts):
            try:
                self.chat.check_room(len(self.chat.opening(prompt)), self.sampling.max_turn_tokens)
            except ContextError as error:
                too_long[n] = EndpointError(f"the base model as user or judge: {error}")
        for attempt in range(1 if self.sampling.greedy else ATTEMPTS):
            unread = [
                n for n in range(len(prompts)) if isinstance(answers.get(n, EndpointError()), EndpointError)
            ]
            if left := [n for n in unread if n not in too_long]:
                generators = [torch.Generator().manual_seed(seeds[n] + attempt) for n in left]
                with self.backbone.use(None):
                    questions = [prompts[n] for n in left]
                    parts = (self.backbone, self.chat, questions, generators, self.sampling)
                    turns = take_turns(*parts, engine=self.engine)
                answers |= {n: self._read(*turn, read) for n, turn in zip(left, turns, strict=True)}
        answers |= too_long
        return [answers[n] for n in range(len(prompts))]

    @staticmethod
    def _read(text: str, whole: bool, read: Callable[[str], _T]) -> _T | EndpointError:
        try:
            if not whole:
                raise ReplyError(f"the reply is cut off, raise max_tokens: {text[:160]!r}")
            return read(text)
        except ReplyError as error:
            return EndpointError(f"the base model as user or judge: {error}")
