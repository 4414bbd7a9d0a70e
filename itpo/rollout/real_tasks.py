"""The three tasks on real data: a language model plays the user, and a reference or a judge scores the outcome.

All users of a batch answer at once, and so do judges. What a user or judge could not answer is an error in its place; the
dialogue is then left out of the update. The released code gives it reward zero [C] (``lost="zero"``).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from itpo.data import Example, answers_match
from itpo.dialogue import Message
from itpo.rollout.endpoint import the_only
from itpo.rollout.llm_judge import HIGHEST, ModelJudge
from itpo.rollout.users import ModelUser
from itpo.specs import RealData
from itpo.tasks.base import MAX_TURNS, Answer, Score
from itpo.tasks.bleu import UNITS, without_marker


class RealTask(ABC):
    """What the three tasks share: examples that are drawn at random, and a simulated user.

    ``lost`` says what becomes of a dialogue without readable judgement: left out ("drop"), or outcome 0 as in the released
    code ("zero"). Subclasses say what a finished conversation is worth. Raises ``ValueError`` for no examples, and for one of
    another task.
    """

    name: str
    max_turns: int

    def __init__(self, examples: Sequence[Example], user: ModelUser, lost: str = "drop") -> None:
        wrong = next((example for example in examples if example.task != self.name), None)
        if not examples or wrong:
            problem = f"example {wrong.id!r} is of task {wrong.task!r}" if wrong else "there are no examples"
            raise ValueError(f"{problem}: pass examples of task {self.name!r}, as load_examples reads them")
        if lost not in ("drop", "zero"):
            raise ValueError(f"lost is {lost!r}; it must be drop or zero")
        self.examples, self.user, self.lost = tuple(examples), user, lost

    @property
    def lanes(self) -> int:
        """How many batches of dialogues a rollout should hold at a time."""
        return getattr(self.user, "lanes", 1)

    def sample(self, rng: random.Random) -> Example:
        """Draw one of the examples."""
        return rng.choice(self.examples)

    def opening(self, example: Example) -> list[Message]:
        """The example's prompt; where it gives the goal away, see :meth:`itpo.rollout.users.ModelUser.open`."""
        return list(example.prompt)

    def reply(self, example: Example, messages: Sequence[Message], rng: random.Random) -> str | None:
        """The user's answer to the last assistant message; ``None`` ends the conversation. Raises ``EndpointError``."""
        return the_only(self.replies([example], [messages], [rng]))

    def replies(
        self,
        examples: Sequence[Example],
        conversations: Sequence[Sequence[Message]],
        rngs: Sequence[random.Random],
    ) -> Sequence[Answer]:
        """What all these users say next, asked at once."""
        return self.user.replies(examples, conversations, rngs)

    def score(self, example: Example, messages: Sequence[Message]) -> float:
        """Outcome in [0, 1] of a finished conversation. Raises ``EndpointError`` where a judge cannot say."""
        return the_only(self.scores([example], [messages]))

    def scores(
        self, examples: Sequence[Example], conversations: Sequence[Sequence[Message]]
    ) -> Sequence[Score]:
        """The outcomes of all these conversations, judged at once."""
        scores = self.outcomes(examples, conversations)
        return [0.0 if isinstance(score, Exception) and self.lost == "zero" else score for score in scores]

    @abstractmethod
    def outcomes(
        self, examples: Sequence[Example], conversations: Sequence[Sequence[Message]]
    ) -> Sequence[Score]:
        """What each conversation is worth, an error where a judge could not say; each task has its own."""


class RealMath(RealTask):
    """Math tutoring: the user hides parts of the problem, accuracy is the outcome [S].

    The last assistant message is compared with the reference by :func:`itpo.data.answers_match`, or, with a ``judge``, the
    conversation is judged.
    """

    name, max_turns = "math", MAX_TURNS["math"]

    def __init__(
        self,
        examples: Sequence[Example],
        user: ModelUser,
        judge: ModelJudge | None = None,
        lost: str = "drop",
    ) -> None:
        super().__init__(examples, user, lost)
        self.judge = judge

    def outcomes(
        self, examples: Sequence[Example], conversations: Sequence[Sequence[Message]]
    ) -> Sequence[Score]:
        """1 for the right answer, else 0."""
        if self.judge is not None:
            return self.judge.accuracy(examples, conversations)
        pairs = zip(examples, conversations, strict=True)
        return [float(answers_match(_last(messages), e.reference["answer"])) for e, messages in pairs]


class RealDocuments(RealTask):
    """Document writing: BLEU of the extracted final document against the article [S].

    Two traps of the released code are options: ``unit="characters"`` is its BLEU ("words": sacreBLEU), and ``keep_marker``
    leaves the extracted document's leading marker in the scored string [C].
    """

    name, max_turns = "documents", MAX_TURNS["documents"]

    def __init__(
        self,
        examples: Sequence[Example],
        user: ModelUser,
        judge: ModelJudge,
        unit: str = "characters",
        keep_marker: bool = False,
        lost: str = "drop",
    ) -> None:
        super().__init__(examples, user, lost)
        if unit not in UNITS:
            raise ValueError(f"unit is {unit!r}; it must be one of {', '.join(UNITS)}")
        self.judge, self.unit, self.keep_marker = judge, unit, keep_marker

    def outcomes(
        self, examples: Sequence[Example], conversations: Sequence[Sequence[Message]]
    ) -> Sequence[Score]:
        """BLEU in [0, 1] of each extracted document."""
        documents = self.judge.documents(conversations)
        return [self._bleu(*pair) for pair in zip(documents, examples, strict=True)]

    def _bleu(self, document: str | Exception, example: Example) -> Score:
        if isinstance(document, Exception):
            return document
        scored = document if self.keep_marker else without_marker(document)
        return UNITS[self.unit](scored, example.reference["document"])


class RealMedical(RealTask):
    """Medical recommendation: a patient who answers what is asked, and a judge of diagnosis and recommendation [S].

    The outcome is the mean of the two scores, divided by 10 [O]. With ``accurate_from`` it is 1 where that mean reaches it
    and else 0: 8 to 10 is accurate [S].
    """

    name, max_turns = "medical", MAX_TURNS["medical"]

    def __init__(
        self,
        examples: Sequence[Example],
        user: ModelUser,
        judge: ModelJudge,
        accurate_from: float | None = None,
        lost: str = "drop",
    ) -> None:
        super().__init__(examples, user, lost)
        self.judge, self.accurate_from = judge, accurate_from

    def outcomes(
        self, examples: Sequence[Example], conversations: Sequence[Sequence[Message]]
    ) -> Sequence[Score]:
        """The judge's scores, normalised to [0, 1]."""
        return [self._outcome(grades) for grades in self.judge.diagnosis(examples, conversations)]

    def _outcome(self, grades: tuple[float, float] | Exception) -> Score:
        if isinstance(grades, Exception):
            return grades
        mean = sum(grades) / len(grades)
        return mean / HIGHEST if self.accurate_from is None else float(mean >= self.accurate_from)


def make_real_task(data: RealData, examples: Sequence[Example], user: ModelUser, judge: Any) -> RealTask:
    """The task of these examples as the specification says.

    Answers to math problems are compared by rule unless ``data.judged``: a judge of the policy's size errs more. Raises
    ``ValueError`` where a judge is needed and there is none.

    >>> from itpo.data import generate_gsm
    >>> from itpo.rollout.endpoint import EndpointModel
    >>> from itpo.specs import Endpoint
    >>> user = ModelUser(EndpointModel(Endpoint("http://127.0.0.1:8000/v1", "qwen")))
    >>> make_real_task(RealData("gsm8k"), generate_gsm(2, seed=0), user, judge=None).max_turns
    5
    """
    name = data.name
    if judge is None and (name != "math" or data.judged):
        raise ValueError(
            f"real data of task {name!r} needs a judge: set judge to FrozenBase, Endpoint or Custom"
        )
    if name == "math":
        return RealMath(examples, user, judge if data.judged else None, data.lost)
    if name == "documents":
        return RealDocuments(examples, user, judge, data.unit, data.keep_marker, data.lost)
    return RealMedical(examples, user, judge, data.accurate_from, data.lost)


def _last(messages: Sequence[Message]) -> str:
    return next((m.content for m in reversed(messages) if m.role == "assistant"), "")
