"""The worth of a turn in the math task from a table: the mean outcome of what a conversation has come to.

A conversation of the math task is summed up by a few words: how many turns it has had, what is known of each number, and
whether the last answer calls for repair. The value V of such a state is the mean outcome of dialogues that pass through it, Q
that of those which go on with one act, and Q - V is what the act is worth. No method sees these numbers; they are a reference
for the gradient microscope, at a small part of the price of :mod:`itpo.study.oracle`. All of it is our own choice [O].
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from itpo.dialogue import Dialogue, Message
from itpo.tasks.math import MathTutoring
from itpo.tasks.prose import Prose, read
from itpo.tasks.slots import REPAIRS, slot_of

State = tuple[Any, ...]
FEWEST = (
    10  # visits of a state, or of an act in it, below which a dialogue's own outcome stands for their mean
)


def is_tabular(task: Any) -> bool:
    """Whether states of this task can be named: it is the math task, in either spelling.

    >>> is_tabular(MathTutoring()), is_tabular(Prose(MathTutoring()))
    (True, True)
    """
    return isinstance(task.task if isinstance(task, Prose) else task, MathTutoring)


def moves(task: Any, messages: Sequence[Message]) -> list[tuple[State, str]]:
    """The state before each assistant turn of a math dialogue, and the act that was chosen there.

    A state is (turns so far, what is known of the first and of the second number, the kind of the last reply). A number is
    ``unknown``, ``vague``, ``doubtful``, ``told`` or ``assumed``. An answer is an act of its own where it follows from what
    was told.

    >>> said = ["leo has pens .", "how many pens at first ?", "a lot of pens .", "exactly how many ?", "there are 3 ."]
    >>> messages = [Message("assistant" if number % 2 else "user", text) for number, text in enumerate(said)]
    >>> for state, act in moves(MathTutoring(), messages):
    ...     print(*state, "->", act)
    0 unknown unknown other -> ask_first
    1 vague unknown vague -> clarify
    """
    return [step for step, _ in _walk(task, messages)]


def _walk(
    task: Any, messages: Sequence[Message], example: Any = None
) -> list[tuple[tuple[State, str], bool]]:
    """The moves, and whether each is an answer that follows from what was told."""
    if isinstance(task, Prose):
        task, messages = task.task, [Message(m.role, read(m.content)) for m in messages]
    known = dict.fromkeys(task.slots, "unknown")
    told: dict[str, Any] = {}
    asked, act, kind = "", "", "other"
    steps: list[tuple[tuple[State, str], bool]] = []
    for message in messages:
        if message.role == "assistant":
            act = task.act(message.content)
            follows = act == task.final and example is not None
            follows = follows and task.follows(example, told, message.content)
            steps.append((((len(steps), *known.values(), kind), act), follows))
            continue
        repaired, slot, kind = act == REPAIRS.get(kind), slot_of(act), task.reply_kind(message.content)
        asked = slot or asked
        told |= task.mentions(message.content, asked)
        if repaired:
            known[asked] = "told"
        elif slot and known[slot] == "unknown":
            answered = kind if kind in REPAIRS else "told"
            known[slot] = answered if act.startswith("ask") else "assumed"
    return steps


class TabularOracle:
    """V and Q of the states that some dialogues passed through, in units of the outcome.

    >>> turns = [Message("user", "leo has pens ."), Message("assistant", "the answer is 3 .")]
    >>> dialogues = [Dialogue(None, tuple(turns), (), (), (), outcome) for outcome in (0.0, 1.0)]
    >>> oracle = TabularOracle(MathTutoring(), dialogues, fewest=1)
    >>> oracle.states, oracle.advantages(dialogues[:1]).tolist()
    (1, [[0.0]])
    """

    def __init__(self, task: Any, dialogues: Sequence[Dialogue], fewest: int = FEWEST) -> None:
        self.task, self.fewest = task, fewest
        self._visits: Counter[Any] = Counter()
        self._sums: defaultdict[Any, float] = defaultdict(float)
        for dialogue in dialogues:
            for state, act in self._moves(dialogue):
                for key in (state, (state, act)):
                    self._visits[key] += 1
                    self._sums[key] += dialogue.outcome

    def _moves(self, dialogue: Dialogue) -> list[tuple[State, str]]:
        steps = _walk(self.task, dialogue.messages, dialogue.example)
        return [(state, f"{act} that follows" if follows else act) for (state, act), follows in steps]

    @property
    def states(self) -> int:
        """How many states the table knows, those with few visits included."""
        return len({key for key in self._visits if not isinstance(key[0], tuple)})

    def _mean(self, key: Any, outcome: float) -> float:
        visits = self._visits[key]
        return self._sums[key] / visits if visits >= self.fewest else outcome

    def advantages(self, dialogues: Sequence[Dialogue]) -> Float[Tensor, "B K"]:
        """Q - V of every turn, 0 where a dialogue has none; the dialogues should not be those that the table is made of."""
        table = torch.zeros(len(dialogues), max(dialogue.assistant_turns for dialogue in dialogues))
        for row, dialogue in enumerate(dialogues):
            for turn, (state, act) in enumerate(self._moves(dialogue)):
                outcome = dialogue.outcome
                table[row, turn] = self._mean((state, act), outcome) - self._mean(state, outcome)
        return table
