"""A walk down a corridor: dialogues of a fixed length in which a few turns, at a chosen place, decide the outcome.

A visitor says what is ahead, a door of some colour or an open hall, and the assistant what to do. Each colour opens to one
action. Nobody says to which: the visitor walks on whatever was said, in the same words, and never goes back to a door. The
outcome is 1 if every door was opened, else 0. In a hall anything may be said, and nothing follows from it. Some halls have a
sign that names an action, which scripted policies repeat: a base model that never needs to be sure of an action cannot become
sure of one, for its frozen output embeddings stay too close to each other. So number, share and place of the turns that matter
are options of the task and all else is equal: a map of the regimes in which turn-wise credit has something to gain.

``Corridor(6, 2, "early")`` has 6 assistant turns, the first 2 of them at doors.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from itpo.dialogue import Message
from itpo.tasks.registry import TaskEntry

# What opens a door of each colour, and what a noisy expert takes for it.
OPENS = {"red": "push", "blue": "pull", "green": "slide", "black": "knock"}
TEMPTS = {"red": "pull", "blue": "slide", "green": "knock", "black": "push"}
ACTIONS = tuple(OPENS.values())
SIGNS = tuple(f"sign {action}" for action in ACTIONS)
HALLS = ("open hall", "long hall", "empty hall", *SIGNS)
PASTIMES = ("look", "walk", "hum", "wave", "sing", "rest", "talk", "jump")
MANNERS = ("around", "slowly", "softly", "about", "twice", "again")
POSITIONS = ("early", "spread", "late")
HALL = "hall"


@dataclass(frozen=True)
class Walk:
    """What is ahead at each assistant turn: the colour of a door, or ``"hall"``."""

    ahead: tuple[str, ...]


@dataclass(frozen=True)
class PolicyParams:
    """How often a scripted policy opens a door, and how often it does what tempts; else any other action (probabilities)."""

    right: float = 1.0
    tempted: float = 0.0


def act_of(text: str) -> str:
    """What an assistant message does: one of ``ACTIONS`` where it says just that, else ``"pastime"``.

    >>> act_of("push it"), act_of("hum softly"), act_of("push it pull it")
    ('push', 'pastime', 'pastime')
    """
    match = re.fullmatch(rf"({'|'.join(ACTIONS)}) it", text)
    return match[1] if match else "pastime"


def _signed_action(text: str) -> str | None:
    """The action that a sign in a hall names, if there is one."""
    return text.removeprefix("sign ") if text in SIGNS else None


def _colour(text: str) -> str | None:
    """The colour of the door that a visitor sees, if it sees one."""
    match = re.fullmatch(rf"({'|'.join(OPENS)}) door", text)
    return match[1] if match else None


class Corridor:
    """The corridor of ``turns`` assistant turns with ``pivots`` doors (see the module's text for its rules).

    ``position`` says where the doors are: the first turns ("early"), the last ("late"), or anywhere ("spread"). Raises
    ``ValueError`` for an unknown position, or unless there are at least one door and as many turns as doors.
    """

    skills: tuple[str, ...] = ACTIONS
    kinds: tuple[str, ...] = ("opened", "not opened", HALL)
    shortcuts: tuple[str, ...] = ()  # nothing is asked here
    expert = PolicyParams()
    # The right action is common enough to be found and rarer than the tempting one, so that greedy decoding opens no door [O].
    noisy_expert = PolicyParams(right=0.4, tempted=0.5)
    act = staticmethod(act_of)

    def __init__(self, turns: int = 6, pivots: int = 2, position: str = "early") -> None:
        if not 1 <= pivots <= turns:
            raise ValueError(
                f"a corridor of {turns} turns cannot have {pivots} pivots: take from 1 to {turns}"
            )
        if position not in POSITIONS:
            raise ValueError(
                f"position of the pivots is {position!r}; it must be one of {', '.join(POSITIONS)}"
            )
        self.max_turns, self.pivots, self.position = turns, pivots, position
        self.name = "corridor"

    @property
    def words(self) -> list[str]:
        """Every word that visitor or assistant may say, sorted: the same for all corridors."""
        return sorted({*OPENS, *ACTIONS, *PASTIMES, *MANNERS, "it", "door", *" ".join(HALLS).split()})

    def sample(self, rng: random.Random) -> Walk:
        """Draw the places of the doors, if they are not settled, and the colour of each."""
        turns = range(self.max_turns)
        where = {
            "early": turns[: self.pivots],
            "spread": rng.sample(turns, self.pivots),
            "late": turns[self.max_turns - self.pivots :],
        }[self.position]
        return Walk(tuple(rng.choice(list(OPENS)) if turn in where else HALL for turn in turns))

    def opening(self, example: Walk) -> list[Message]:
        """What is ahead at first."""
        return [Message("user", _view(example.ahead[0], 0))]

    def reply(self, example: Walk, messages: Sequence[Message], rng: random.Random) -> str | None:
        """What is ahead next, whatever was said; ``None`` at the end of the corridor."""
        turn = sum(message.role == "assistant" for message in messages)
        return _view(example.ahead[turn], rng.randrange(len(HALLS))) if turn < self.max_turns else None

    def score(self, example: Walk, messages: Sequence[Message]) -> float:
        """1 if the assistant opened every door of the corridor, else 0."""
        acts = [act_of(message.content) for message in messages if message.role == "assistant"]
        acts += ["never reached"] * (self.max_turns - len(acts))
        return float(all(a == HALL or OPENS[a] == act for a, act in zip(example.ahead, acts, strict=True)))

    def turn_kinds(self, messages: Sequence[Message]) -> list[str]:
        """Whether each assistant turn opened a door, or was said in a hall.

        >>> messages = [Message("user", "red door"), Message("assistant", "pull it"), Message("user", "open hall")]
        >>> Corridor(2, 1, "early").turn_kinds([*messages, Message("assistant", "pull it")])
        ['not opened', 'hall']
        """
        opened, missed, hall = self.kinds
        kinds = []
        for view, turn in zip(messages, messages[1:], strict=False):
            if turn.role == "assistant":
                colour = _colour(view.content)
                right = colour is not None and OPENS[colour] == act_of(turn.content)
                kinds.append(hall if colour is None else opened if right else missed)
        return kinds

    def turn_scores(self, example: Walk, messages: Sequence[Message]) -> list[float]:
        """What a careful judge who knows the doors thinks of each assistant turn: 1 where it opened one, else 0."""
        return [float(kind == self.kinds[0]) for kind in self.turn_kinds(messages)]

    def scripted_policy(
        self, example: Walk, messages: Sequence[Message], rng: random.Random, params: PolicyParams
    ) -> str:
        """What a scripted policy with these params says next; it sees what is ahead."""
        colour = _colour(messages[-1].content)
        if action := _signed_action(messages[-1].content):
            return f"{action} it"
        if colour is None:
            return f"{rng.choice(PASTIMES)} {rng.choice(MANNERS)}"
        draw = rng.random()
        if draw < params.right:
            return f"{OPENS[colour]} it"
        if draw < params.right + params.tempted:
            return f"{TEMPTS[colour]} it"
        return f"{rng.choice([a for a in ACTIONS if a not in (OPENS[colour], TEMPTS[colour])])} it"


def _view(ahead: str, which: int) -> str:
    """How the visitor puts it; one of several ways for a hall."""
    return HALLS[which] if ahead == HALL else f"{ahead} door"


def _hidden(walk: Walk) -> str:
    return ", ".join(walk.ahead)


ENTRY = TaskEntry("corridor", Corridor, title="a corridor", outcome="success", hidden=_hidden)
