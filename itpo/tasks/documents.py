"""Document writing: a user wants a short text and does not say about what, for whom and in which tone.

Asked for the subject or the audience, the user says it, is vague ("surprise me"), or names a doubtful and mostly wrong one
("maybe chess"); "please name one" and "are you sure ?" repair that, see :mod:`itpo.tasks.slots`. Whatever a draft has filled in
before it was asked for, the user lets stand. The tone is what the user notices in a draft: the first one that has it wrong is
sent back, the second one is taken as it is.

The score is the character 4-gram BLEU of the last draft against the text that the user had in mind, as in the released code
[C]; the usual one over words stands beside it in :mod:`itpo.tasks.bleu`. ``python -m itpo check documents`` measures whether
the task is fit to compare methods on (see :mod:`itpo.study.testbed`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from itpo.dialogue import Message
from itpo.tasks.bleu import character_bleu, word_bleu
from itpo.tasks.registry import TaskEntry
from itpo.tasks.slots import PolicyParams, SlotTask

# The texts have as few words in common as possible: a draft on the wrong subject should earn little.
BODIES = {
    "gardens": {
        "children": "dig a hole and watch one tiny bean climb",
        "parents": "muddy boots will teach patience better than lectures",
        "experts": "acid soil slows young roots despite regular feeding",
        "beginners": "buy mint first because mint survives nearly everything",
    },
    "music": {
        "children": "clap hands while the big drum goes boom",
        "parents": "half an hour of daily practice needs your praise",
        "experts": "this slow theme returns inverted in g minor",
        "beginners": "three easy chords carry almost any popular song",
    },
    "cooking": {
        "children": "wash every berry then squash them into dough",
        "parents": "packed lunches taste fresher if made at night",
        "experts": "low heat stops butter sauces from losing gloss",
        "beginners": "boil pasta until soft but keep some water",
    },
    "chess": {
        "children": "brave horses jump over pawns to save kings",
        "parents": "losing calmly is what our young players learn",
        "experts": "black equalizes by pushing f5 before castling",
        "beginners": "guard your queen and develop both knights early",
    },
}
CLOSINGS = {"warm": "hugs !", "formal": "regards .", "funny": "haha !"}
VALUES = {"subject": tuple(BODIES), "audience": tuple(BODIES["chess"]), "tone": tuple(CLOSINGS)}
MARKER = "draft :"
PLAN = "{tone} {subject} for {audience} ."  # said before each draft
WISH = "please write a short text for me ."


@dataclass(frozen=True)
class Wish:
    """What the text should be about, who will read it, and how it should sound."""

    subject: str
    audience: str
    tone: str

    @property
    def target(self) -> str:
        """The text that the user has in mind.

        >>> Wish("music", "children", "warm").target
        'clap hands while the big drum goes boom . hugs !'
        """
        return f"{BODIES[self.subject][self.audience]} . {CLOSINGS[self.tone]}"

    @property
    def draft(self) -> str:
        """What a writer says who takes this to be the wish."""
        return f"{PLAN.format(**asdict(self))} {MARKER} {self.target}"


def extract(text: str, keep_marker: bool = False) -> str | None:
    """The last draft in a message, or ``None``; the released code scores the leading marker with it [C].

    >>> extract("ok . draft : hello . hugs !"), extract("draft : hello", keep_marker=True), extract("hello")
    ('hello . hugs !', 'draft : hello', None)
    """
    _, marker, draft = text.rpartition(MARKER)
    return f"{MARKER if keep_marker else ''}{draft}".strip() if marker else None


class DocumentWriting(SlotTask):
    """The task of the module's text; ``clear``, ``vague`` and ``mistaken`` as in :class:`itpo.tasks.slots.SlotTask`.

    ``smooth`` and ``keep_marker`` choose between our score and the released code's, see
    :func:`itpo.tasks.bleu.character_bleu` and :func:`extract`.

    >>> task = DocumentWriting()
    >>> task.act("ok . are you sure ?"), task.act("draft : hello . hugs !")
    ('verify', 'draft')
    """

    name = "documents"
    max_turns = 5
    slots = ("subject", "audience")
    values = VALUES
    cues = {
        "draft": MARKER,
        "verify": r"are you sure \?",
        "clarify": r"please name one \.",
        "ask_subject": r"what is it about \?",
        "ask_audience": r"who will read it \?",
    }
    final = "draft"
    questions = {"subject": "what is it about ?", "audience": "who will read it ?"}
    clarify = "please name one ."
    chats = ("good texts take time .", "let me think .", "i like to write .", "this will be nice .")
    replies = {
        "clear": ("{value} , please .", "{value} this time ."),
        "doubtful": ("maybe {value} .", "i guess {value} ."),
        "vague": ("surprise me .", "nothing special ."),
        "correction": ("oh , {value} .", "sorry , {value} ."),
        "tone": ("make it {value} .", "more {value} , please ."),
        "again": ("we had that .",),
        "assumed": ("as you wrote it .",),
        "yes": ("yes .",),
        "start": ("a nice start .", "go on ."),
        "chat": ("ok .", "nice .", "what next ?", "i can wait ."),
    }
    other_words = (
        WISH,
        MARKER,
        PLAN,
        *CLOSINGS.values(),
        *(body for bodies in BODIES.values() for body in bodies.values()),
    )
    shortcuts: tuple[str, ...] = ("early draft",)
    noisy_expert = PolicyParams(clarify=0.12, verify=0.12, shortcut=0.15, chat=0.12, swap=0.3)

    def __init__(
        self,
        clear: float = 0.33,
        vague: float = 0.35,
        mistaken: float = 0.95,
        smooth: bool = True,
        keep_marker: bool = False,
    ) -> None:
        super().__init__(clear, vague, mistaken)
        self.smooth, self.keep_marker = smooth, keep_marker

    def sample(self, rng: random.Random) -> Wish:
        """Draw a wish."""
        return Wish(*map(rng.choice, VALUES.values()))

    def opening(self, example: Wish) -> list[Message]:
        """The wish for a text, the same for every example."""
        return [Message("user", WISH)]

    def receive(self, example: Wish, past: Sequence[str], text: str, rng: random.Random) -> str | None:
        """The user on a draft: the second is kept as it is, the first if its tone is right and all was asked for."""
        if self.final in past:
            return None
        if CLOSINGS[example.tone] not in text:
            return self.say("tone", example, rng, "tone")
        return None if self._all_asked(past) else self.say("start", example, rng)

    @staticmethod
    def _all_asked(acts: Sequence[str]) -> bool:
        return {"ask_subject", "ask_audience"} <= set(acts)

    def score(self, example: Wish, messages: Sequence[Message]) -> float:
        """Character BLEU of the conversation's last draft against the target, in [0, 1]; 0 if nothing was drafted."""
        return character_bleu(["", *drafts(messages, self.keep_marker)][-1], example.target, self.smooth)

    def follows(self, example: Wish, told: Mapping[str, str], text: str) -> bool:
        """Whether a draft is the text for subject and audience as told, in the tone wished for, or any before that."""
        if not set(self.slots) <= set(told):
            return False
        tones = [told["tone"]] if "tone" in told else VALUES["tone"]
        return extract(text) in [Wish(told["subject"], told["audience"], tone).target for tone in tones]

    def turn_kinds(self, messages: Sequence[Message]) -> list[str]:
        """The act of each turn; "early draft" while something has not been asked for, "missed repair" as in the engine.

        >>> texts = Message("user", "surprise me ."), Message("assistant", "let me think ."), Message("user", "ok .")
        >>> DocumentWriting().turn_kinds([*texts, Message("assistant", "draft : hello . hugs !")])
        ['missed repair', 'early draft']
        """
        acts = list(self.acts(messages))
        kinds = super().turn_kinds(messages)
        return [
            "early draft" if kind == "draft" and not self._all_asked(acts[:turn]) else kind
            for turn, kind in enumerate(kinds)
        ]

    def note(self, heard: dict[str, Any], slot: str, text: str) -> None:
        """Add what was asked for, and what a draft has filled in, which the next draft keeps."""
        if slot:
            heard.setdefault(slot, None)
        for subject, bodies in BODIES.items():
            for audience, body in bodies.items():
                if body in text:
                    heard["subject"] = heard.get("subject") or subject
                    heard["audience"] = heard.get("audience") or audience
                    return

    def proceed(
        self, opener: str, example: Wish, heard: Mapping[str, Any], rng: random.Random, params: Any
    ) -> str:
        """A question, or a draft, which is early with probability ``params.shortcut``; what was never told is guessed."""
        pending = self.pending(heard)
        if pending and rng.random() >= params.shortcut:
            return opener + self.question(pending[-1 if rng.random() < params.swap else 0], example)
        return Wish(**self.guess(heard, tuple(VALUES), rng)).draft


def drafts(messages: Sequence[Message], keep_marker: bool = False) -> list[str]:
    """Every draft of a conversation."""
    found = (extract(m.content, keep_marker) for m in messages if m.role == "assistant")
    return [draft for draft in found if draft is not None]


def word_score(wish: Wish, messages: Sequence[Message]) -> float:
    """sacreBLEU over words of the last draft that is not empty, in [0, 1]; 0 if there is none.

    >>> word_score(Wish("music", "children", "warm"), [Message("assistant", "let me think .")])
    0.0
    """
    return word_bleu(["", *filter(None, drafts(messages))][-1], wish.target)


ENTRY = TaskEntry(
    "documents",
    DocumentWriting,
    title="document writing",
    outcome="character BLEU",
    hidden=lambda wish: wish.target,
    beside="word BLEU",
    measure=word_score,
)
