"""The common engine of the tasks in which a user hides values that an assistant has to ask for.

What the assistant can ask for is a *slot*: a number, a subject, a place. Asked, the user states the value clearly, answers
vaguely, or gives a doubtful and mostly wrong value. Only the very next assistant turn can repair that: ``clarify`` undoes a
vague answer, ``verify`` a doubtful one. Each slot can be asked for once, and what the assistant takes for granted is never
told. So the turns that decide the outcome often come early, nothing repairs them later, and the turns after them vary without
mattering: the structure in which turn-wise credit has something to gain.

A task on this engine brings its words, its examples, its score and the few rules of its own.
"""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from itpo.dialogue import Message

OPENERS = ("", "", "ok . ", "good . ", "thank you . ", "i see . ")  # of assistant turns
REPAIRS = {"vague": "clarify", "doubtful": "verify"}  # the only act that undoes such an answer


@dataclass(frozen=True)
class PolicyParams:
    """How often a scripted policy does what (probabilities in [0, 1]); the defaults are those of the expert."""

    clarify: float = 1.0  # after a vague answer
    verify: float = 1.0  # after a doubtful answer
    shortcut: float = 0.0  # takes for granted what it should ask for
    chat: float = 0.0
    swap: float = 0.0  # asks for the last open slot before the first


def slot_of(act: str) -> str:
    """What an act is about; empty for acts that are about no slot.

    >>> slot_of("ask_first"), slot_of("chat")
    ('first', '')
    """
    return act.partition("_")[2]


def check_shares(**shares: float) -> None:
    """Raise ``ValueError`` that names the first of these shares which is not between 0 and 1.

    >>> check_shares(clear=0.5, vague=7.0)
    Traceback (most recent call last):
        ...
    ValueError: vague is 7.0; it must be a share from 0 to 1
    """
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}; it must be a share from 0 to 1")


class SlotTask(ABC):
    """A scripted task on the engine; a subclass sets the attributes below and adds ``sample``, ``opening``, ``score``.

    Acts are called ``ask_SLOT``, ``clarify``, ``verify``, ``chat``, by the name of the ``final`` one, or by the name of a way
    to take a slot for granted, such as ``assume_SLOT``. Texts may have fields in braces: ``{value}`` in replies, and any
    attribute of the example. ``clear``, ``vague``: how often the user states a value clearly or is vague about it; else it is
    doubtful, and then wrong with probability ``mistaken``.
    """

    name: str
    max_turns: int
    slots: tuple[str, ...]  # what every scripted policy asks for, in this order
    values: Mapping[str, Sequence[Any]]  # what may be hidden in each slot
    always_clear: tuple[str, ...] = ()  # slots that the user is never vague or mistaken about
    cues: Mapping[str, str]  # by act, the regular expression that shows it; the first one found counts
    final: str  # the act that is scored
    questions: Mapping[str, str]  # by slot, those of ``slots`` first
    clarify: str
    verify = "are you sure ?"
    chats: tuple[str, ...]
    replies: Mapping[str, tuple[str, ...]]  # by kind, or by kind and slot
    other_words: Sequence[str]
    shortcuts: tuple[str, ...]
    skills: tuple[str, ...] = ("clarify", "verify")
    expert = PolicyParams()
    # The base model imitates this one. What pays is a minority: neither sampling nor greedy decoding solves the task yet [O].
    noisy_expert: PolicyParams

    def __init__(self, clear: float = 0.5, vague: float = 0.25, mistaken: float = 0.9) -> None:
        self.clear, self.vague, self.mistaken = clear, vague, mistaken
        check_shares(clear=clear, vague=vague, mistaken=mistaken)
        self._cues = {act: re.compile(cue, re.DOTALL) for act, cue in self.cues.items()}
        # How the replies begin that call for repair.
        self._signs = {kind: tuple(text.partition("{")[0] for text in self.replies[kind]) for kind in REPAIRS}
        asks = [f"ask_{slot}" for slot in self.questions]
        first, later = asks[: len(self.slots)], asks[len(self.slots) :]
        self.kinds: tuple[str, ...] = (*first, *self.skills, "missed repair", *self.shortcuts, *later)
        self.kinds += ("chat", self.final)

    @property
    def words(self) -> list[str]:
        """Every word that user or scripted policy may say, sorted."""
        texts = [self.clarify, self.verify, *OPENERS, *self.chats, *self.other_words]
        texts += chain(self.questions.values(), *self.replies.values())
        texts += map(str, chain(*self.values.values()))
        return sorted({word for text in texts for word in text.split() if "{" not in word})

    def act(self, text: str) -> str:
        """What an assistant message does, read from its words; anything unknown is chat."""
        return next((act for act, cue in self._cues.items() if cue.search(text)), "chat")

    def reply_kind(self, text: str) -> str:
        """Whether a user message is "vague" or "doubtful", which calls for repair, or "other"."""
        return next((kind for kind, signs in self._signs.items() if text.startswith(signs)), "other")

    def acts(self, messages: Sequence[Message]) -> Iterator[str]:
        """The act of every assistant message."""
        return (self.act(message.content) for message in messages if message.role == "assistant")

    # The user

    def reply(self, example: Any, messages: Sequence[Message], rng: random.Random) -> str | None:
        """The user's answer to the last assistant message; ``None`` ends the conversation."""
        *past, act = self.acts(messages)
        slot, settled = slot_of(act), [slot_of(earlier) for earlier in past if slot_of(earlier)]
        if act == self.final:
            return self.receive(example, past, messages[-1].content, rng)
        if slot in settled:
            return self.say("again", example, rng)
        # A final act that did not end the conversation has settled what was not asked for before.
        if slot and (not act.startswith("ask") or self.final in past):
            return self.say("assumed", example, rng)
        if slot:
            return self._state(slot, example, rng)
        kind = self.reply_kind(messages[-2].content)
        if act == REPAIRS.get(kind):
            return self.say({"vague": "clear", "doubtful": "correction"}[kind], example, rng, settled[-1])
        return self.say({"clarify": "again", "verify": "yes"}.get(act, "chat"), example, rng)

    def receive(self, example: Any, past: Sequence[str], text: str, rng: random.Random) -> str | None:
        """The user's answer to a final act, after these acts; ``None`` ends the conversation."""
        return None

    def say(self, kind: str, example: Any, rng: random.Random, slot: str = "", value: Any = None) -> str:
        """One of the replies of a kind, with this value, or else the one that the example has in this slot."""
        replies = self.replies.get(f"{kind} {slot}") or self.replies[kind]
        value = getattr(example, slot) if slot and value is None else value
        return rng.choice(replies).format(value=value, **vars(example))

    def _state(self, slot: str, example: Any, rng: random.Random) -> str:
        draw, value = rng.random(), getattr(example, slot)
        if slot in self.always_clear or draw < self.clear:
            return self.say("clear", example, rng, slot)
        if draw < self.clear + self.vague:
            return self.say("vague", example, rng)
        if rng.random() < self.mistaken:
            value = rng.choice([other for other in self.values[slot] if other != value])
        return self.say("doubtful", example, rng, slot, value)

    # What was said

    def mentions(self, text: str, slot: str) -> dict[str, Any]:
        """The values that a message names, by slot, where ``slot`` was asked for last: of each the first one."""
        words = text.split()
        named = {slot: [word for word in words if word in values] for slot, values in self.values.items()}
        return {slot: values[0] for slot, values in named.items() if values}

    def heard(self, messages: Sequence[Message]) -> dict[str, Any]:
        """What a conversation says about each slot: absent if it was never asked for, ``None`` if in vain."""
        heard: dict[str, Any] = {}
        asked = ""
        for message in messages[1:]:
            if message.role == "assistant":
                slot = slot_of(self.act(message.content))
                asked = slot or asked
                self.note(heard, slot, message.content)
            else:
                heard |= self.mentions(message.content, asked)
        return heard

    def note(self, heard: dict[str, Any], slot: str, text: str) -> None:
        """Add what an assistant message asks for, or takes for granted, to what was heard."""
        if slot:
            heard.setdefault(slot, self.mentions(text, slot).get(slot))

    # Scores and names of turns

    @abstractmethod
    def follows(self, example: Any, told: Mapping[str, Any], text: str) -> bool:
        """Whether a final message is right by what the user has told; the hidden values are not read."""

    def turn_scores(self, example: Any, messages: Sequence[Message]) -> list[float]:
        """What a careful judge who knows the rules thinks of each assistant turn: 1 good, 0 bad.

        After a vague or doubtful answer only its repair is good. Otherwise it is good to ask for what was neither asked for nor
        taken for granted before, and to give the final answer that follows from all values *as told*: a turn is not blamed
        for what an earlier one left wrong. All else is bad. The hidden values are not read.
        """
        scores: list[float] = []
        told: dict[str, Any] = {}
        past: list[str] = []
        asked, kind = "", "other"
        for message in messages:
            if message.role != "assistant":
                kind = self.reply_kind(message.content)
                told |= self.mentions(message.content, asked)
                continue
            act = self.act(message.content)
            slot = slot_of(act)
            if kind in REPAIRS:
                good = act == REPAIRS[kind]
            elif act == self.final:
                good = self.follows(example, told, message.content)
            else:
                good = act.startswith("ask") and slot not in map(slot_of, past) and self.final not in past
            scores.append(float(good))
            past.append(act)
            asked = slot or asked
        return scores

    def turn_kinds(self, messages: Sequence[Message]) -> list[str]:
        """The act of each assistant turn, or "missed repair" where it should have undone the answer before it."""
        kinds: list[str] = []
        repair = None
        for message in messages:
            if message.role != "assistant":
                repair = REPAIRS.get(self.reply_kind(message.content))
                continue
            act = self.act(message.content)
            kinds.append("missed repair" if repair and act != repair else act)
        return kinds

    # The scripted policy

    def scripted_policy(
        self, example: Any, messages: Sequence[Message], rng: random.Random, params: Any
    ) -> str:
        """What a scripted policy with these params says next; it knows the conversation, not the hidden values."""
        opener = rng.choice(OPENERS) if len(messages) > 1 else ""
        kind = self.reply_kind(messages[-1].content)
        if kind == "vague" and rng.random() < params.clarify:
            return opener + self.clarify
        if kind == "doubtful" and rng.random() < params.verify:
            return opener + self.verify
        if rng.random() < params.chat:
            return opener + rng.choice(self.chats).format(**vars(example))
        return self.proceed(opener, example, self.heard(messages), rng, params)

    def proceed(
        self, opener: str, example: Any, heard: Mapping[str, Any], rng: random.Random, params: Any
    ) -> str:
        """What the scripted policy says when it neither repairs nor chats: a question, a shortcut, or the final words."""
        if not self.pending(heard):
            return opener + self.finish(example, heard, rng, params)
        slot = self.pending(heard)[-1 if rng.random() < params.swap else 0]
        if rng.random() < params.shortcut:
            return opener + self.take_for_granted(slot, example, rng)
        return opener + self.question(slot, example)

    def pending(self, heard: Mapping[str, Any]) -> list[str]:
        """The slots that the scripted policy has still to ask for."""
        return [slot for slot in self.slots if slot not in heard]

    def question(self, slot: str, example: Any) -> str:
        """How a slot is asked for."""
        return self.questions[slot].format(**vars(example))

    def take_for_granted(self, slot: str, example: Any, rng: random.Random) -> str:
        """What is said instead of a question, with a value drawn at random."""
        raise TypeError(
            f"{type(self).__name__} takes nothing for granted: define take_for_granted, or set no shortcuts"
        )

    def finish(self, example: Any, heard: Mapping[str, Any], rng: random.Random, params: Any) -> str:
        """The final words; values that were never told are guessed."""
        raise TypeError(
            f"{type(self).__name__} has no final words: define finish, or a scripted_policy of its own"
        )

    def guess(self, heard: Mapping[str, Any], slots: Sequence[str], rng: random.Random) -> dict[str, Any]:
        """The values heard, those that were not told drawn at random."""
        return {slot: heard.get(slot) or rng.choice(self.values[slot]) for slot in slots}
