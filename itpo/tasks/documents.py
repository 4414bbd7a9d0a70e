"""Document writing, embedded: a user wants a short text and does not say about what, for whom and in which tone.

Asked for the subject or the audience, the user says it, is vague ("surprise me"), or names a doubtful and mostly wrong
one ("maybe chess"). Only the very next assistant turn can repair that: "please name one" after a vague answer, "are you
sure ?" after a doubtful one. Each can be asked for once, and whatever a draft has filled in before it was asked for,
the user lets stand. The tone is what the user notices in a draft: the first one that has it wrong is sent back, the second
one is taken as it is. So the turns that decide most of the score often come early, nothing repairs them later, and the
turns after them vary while little is left to win.

The score is the character 4-gram BLEU of the last draft against the text that the user had in mind, as in the released code
[C]; the usual one over words stands beside it in :mod:`itpo.tasks.bleu`. ``python -m itpo testbed_checks documents`` measures whether
the task is fit for its purpose (see :mod:`itpo.study.testbed`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from itpo.dialogue import Message
from itpo.tasks.bleu import character_bleu, word_bleu
from itpo.tasks.registry import TaskEntry
from itpo.tasks.repairs import turn_kinds

Act = Literal["ask_subject", "ask_audience", "specify", "confirm", "draft", "chat"]

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
ASKS = {"subject": "what is it about ?", "audience": "who will read it ?"}
SPECIFY, CONFIRM = "please name one .", "are you sure ?"
OPENERS = ("", "", "ok . ", "good . ", "thank you . ", "i see . ")
CHATS = ("good texts take time .", "let me think .", "i like to write .", "this will be nice .")
REPLIES = {
    "clear": ("{value} , please .", "{value} this time ."),
    "doubtful": ("maybe {value} .", "i guess {value} ."),
    "vague": ("surprise me .", "nothing special ."),
    "correction": ("oh , {value} .", "sorry , {value} ."),
    "tone": ("make it {value} .", "more {value} , please ."),
    "again": ("we had that .",),
    "settled": ("as you wrote it .",),
    "yes": ("yes .",),
    "start": ("a nice start .", "go on ."),
    "chat": ("ok .", "nice .", "what next ?", "i can wait ."),
}
REPAIRS = {"vague": "specify", "doubtful": "confirm"}  # the only turn that undoes such an answer


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


@dataclass(frozen=True)
class PolicyParams:
    """How often a scripted writer does the right thing where there is a choice (probabilities in [0, 1])."""

    specify: float = 1.0
    confirm: float = 1.0
    rush: float = 0.0
    chat: float = 0.0
    swap: float = 0.0


EXPERT = PolicyParams()
# The warm start imitates this writer: the skills that pay are a minority, so that neither sampling nor greedy decoding
# already solves the task [O].
NOISY_EXPERT = PolicyParams(specify=0.12, confirm=0.12, rush=0.15, chat=0.12, swap=0.3)


def extract(text: str, keep_marker: bool = False) -> str | None:
    """The last draft in a message, or ``None``; the released code scores the leading marker with it [C].

    >>> extract("ok . draft : hello . hugs !"), extract("draft : hello", keep_marker=True), extract("hello")
    ('hello . hugs !', 'draft : hello', None)
    """
    _, found, draft = text.rpartition(MARKER)
    if not found:
        return None
    return (MARKER + draft if keep_marker else draft).strip()


def act_of(text: str) -> Act:
    """What an assistant message does, read from its words; anything unknown is chat.

    >>> act_of("ok . are you sure ?"), act_of("draft : hello . hugs !")
    ('confirm', 'draft')
    """
    if MARKER in text:
        return "draft"
    if CONFIRM in text:
        return "confirm"
    if SPECIFY in text:
        return "specify"
    if ASKS["subject"] in text:
        return "ask_subject"
    return "ask_audience" if ASKS["audience"] in text else "chat"


def _told(text: str) -> dict[str, str]:
    """What a user message says about the attributes."""
    return {a: word for word in text.split() for a, values in VALUES.items() if word in values}


def _drafted(text: str) -> dict[str, str]:
    """Subject and audience of the known text that a draft contains; empty if there is none."""
    return next(
        (
            {"subject": subject, "audience": audience}
            for subject, bodies in BODIES.items()
            for audience, body in bodies.items()
            if body in text
        ),
        {},
    )


def _kind(text: str) -> str:
    """Which kind of reply a user message is, for the user's and the writer's memory."""
    if text.startswith(("maybe", "i guess")):
        return "doubtful"
    return "vague" if text in REPLIES["vague"] else "other"


class DocumentWriting:
    """The embedded document task (see the module's text for its rules).

    ``clear``, ``vague``: how often the user names a subject or an audience clearly or is vague about it; else they are
    doubtful, and then wrong with probability ``mistaken``. ``smooth`` and ``keep_marker`` choose between our score and the
    released code's, see :func:`itpo.tasks.bleu.character_bleu` and :func:`extract`.
    """

    name = "documents"
    max_turns = 5
    skills: tuple[str, ...] = ("specify", "confirm")
    kinds: tuple[str, ...] = (
        "ask_subject",
        "ask_audience",
        "specify",
        "confirm",
        "missed repair",
        "early draft",
        "chat",
        "draft",
    )
    shortcuts: tuple[str, ...] = ("early draft",)
    expert = EXPERT
    noisy_expert = NOISY_EXPERT
    act = staticmethod(act_of)

    def __init__(
        self,
        clear: float = 0.33,
        vague: float = 0.35,
        mistaken: float = 0.95,
        smooth: bool = True,
        keep_marker: bool = False,
    ) -> None:
        self.clear, self.vague, self.mistaken = clear, vague, mistaken
        self.smooth, self.keep_marker = smooth, keep_marker

    @property
    def words(self) -> list[str]:
        """Every word that user or writer may say, sorted."""
        texts = [WISH, *ASKS.values(), SPECIFY, CONFIRM, MARKER, PLAN, *OPENERS, *CHATS, *CLOSINGS.values()]
        texts += [text for replies in REPLIES.values() for text in replies]
        texts += [body for bodies in BODIES.values() for body in bodies.values()]
        texts += [value for values in VALUES.values() for value in values]
        return sorted({word for text in texts for word in text.split() if "{" not in word})

    def sample(self, rng: random.Random) -> Wish:
        """Draw a wish."""
        return Wish(*(rng.choice(VALUES[attribute]) for attribute in ("subject", "audience", "tone")))

    def opening(self, example: Wish) -> list[Message]:
        """The wish for a text, the same for every example."""
        return [Message("user", WISH)]

    def reply(self, example: Wish, messages: Sequence[Message], rng: random.Random) -> str | None:
        """The user's answer to the last assistant message; ``None`` after the draft that they keep."""
        acts = [act_of(m.content) for m in messages if m.role == "assistant"]
        before, act = _kind(messages[-2].content), acts[-1]

        def say(kind: str, value: str = "") -> str:
            return rng.choice(REPLIES[kind]).format(value=value)

        if act == "draft":
            return self._read(example, acts, messages[-1].content, say)
        if act.startswith("ask"):
            if act in acts[:-1]:
                return say("again")
            attribute = act.partition("_")[2]
            return say("settled") if "draft" in acts else self._state(example, attribute, say, rng)
        if act == REPAIRS.get(before):
            asked = next(a for a in reversed(acts) if a.startswith("ask")).partition("_")[2]
            return say("clear" if before == "vague" else "correction", getattr(example, asked))
        return say({"specify": "again", "confirm": "yes"}.get(act, "chat"))

    @staticmethod
    def _read(example: Wish, acts: Sequence[Act], text: str, say: Callable[..., str]) -> str | None:
        """The user on a draft: the second is kept as it is, the first if its tone is right and all was asked for."""
        if acts.count("draft") > 1:
            return None
        if CLOSINGS[example.tone] not in text:
            return say("tone", example.tone)
        return None if {"ask_subject", "ask_audience"} <= set(acts) else say("start")

    def _state(self, example: Wish, attribute: str, say: Callable[..., str], rng: random.Random) -> str:
        value, draw = getattr(example, attribute), rng.random()
        if draw < self.clear:
            return say("clear", value)
        if draw < self.clear + self.vague:
            return say("vague")
        if rng.random() < self.mistaken:
            value = rng.choice([other for other in VALUES[attribute] if other != value])
        return say("doubtful", value)

    def score(self, example: Wish, messages: Sequence[Message]) -> float:
        """Character BLEU of the conversation's last draft against the target, in [0, 1]; 0 if nothing was drafted."""
        drafts = [extract(m.content, self.keep_marker) for m in messages if m.role == "assistant"]
        final = next((draft for draft in reversed(drafts) if draft is not None), "")
        return character_bleu(final, example.target, self.smooth)

    def turn_scores(self, example: Wish, messages: Sequence[Message]) -> list[float]:
        """What a careful judge who has the rules in hand thinks of each assistant turn: 1 good, 0 bad.

        After a vague or doubtful answer only its repair is good. Otherwise it is good to ask for what was neither asked for
        nor drafted before, and to draft when the user has told subject and audience, the text that belongs to them *as
        told* in the tone that was wished for, or any tone before that: a turn is not blamed for what an earlier one left
        wrong. All else is bad. The hidden wish is not read.

        >>> said = "what is it about ?", "maybe chess .", "are you sure ?", "oh , music .", "draft : hello . hugs !"
        >>> roles = "assistant", "user", "assistant", "user", "assistant"
        >>> messages = [Message(role, text) for role, text in zip(roles, said)]
        >>> DocumentWriting().turn_scores(Wish("music", "parents", "warm"), messages)
        [1.0, 1.0, 0.0]
        """
        scores: list[float] = []
        told: dict[str, str] = {}
        past: list[Act] = []
        kind = "other"
        for message in messages:
            if message.role != "assistant":
                kind = _kind(message.content)
                told |= _told(message.content)
                continue
            act = act_of(message.content)
            if kind in REPAIRS:
                good = act == REPAIRS[kind]
            elif act == "draft":
                tones = [told["tone"]] if "tone" in told else VALUES["tone"]
                good = {"subject", "audience"} <= set(told) and extract(message.content) in [
                    Wish(told["subject"], told["audience"], tone).target for tone in tones
                ]
            else:
                good = act.startswith("ask") and act not in past and "draft" not in past
            scores.append(float(good))
            past.append(act)
        return scores

    def turn_kinds(self, messages: Sequence[Message]) -> list[str]:
        """The act of each assistant turn, or "missed repair" where it should have undone the answer before it.

        A draft is "early" while the subject or the audience has not been asked for.

        >>> said = Message("user", "surprise me ."), Message("assistant", "let me think ."), Message("user", "ok .")
        >>> DocumentWriting().turn_kinds([*said, Message("assistant", "draft : hello . hugs !")])
        ['missed repair', 'early draft']
        """
        acts = [act_of(message.content) for message in messages if message.role == "assistant"]
        kinds = turn_kinds(messages, act_of, _kind, REPAIRS)
        for turn, kind in enumerate(kinds):
            if kind == "draft" and not {"ask_subject", "ask_audience"} <= set(acts[:turn]):
                kinds[turn] = "early draft"
        return kinds

    def scripted_policy(
        self, example: Wish, messages: Sequence[Message], rng: random.Random, params: PolicyParams
    ) -> str:
        """What a scripted writer with these params says next; it knows the conversation, not the wish."""
        opener = rng.choice(OPENERS) if len(messages) > 1 else ""
        kind = _kind(messages[-1].content)
        if kind == "vague" and rng.random() < params.specify:
            return opener + SPECIFY
        if kind == "doubtful" and rng.random() < params.confirm:
            return opener + CONFIRM
        if rng.random() < params.chat:
            return opener + rng.choice(CHATS)
        heard = self._heard(messages)
        pending = [attribute for attribute in ("subject", "audience") if attribute not in heard]
        if pending and rng.random() >= params.rush:
            return opener + ASKS[pending[-1] if rng.random() < params.swap else pending[0]]
        # What was never told is guessed.
        return Wish(*(heard.get(a) or rng.choice(VALUES[a]) for a in ("subject", "audience", "tone"))).draft

    @staticmethod
    def _heard(messages: Sequence[Message]) -> dict[str, str | None]:
        """What the conversation says about each attribute: absent if never asked, ``None`` if asked in vain.

        What an earlier draft has filled in counts, too: the next draft keeps it.
        """
        heard: dict[str, str | None] = {}
        for message in messages:
            if message.role == "assistant":
                act = act_of(message.content)
                if act.startswith("ask"):
                    heard.setdefault(act.partition("_")[2], None)
                for attribute, filled in _drafted(message.content).items():
                    heard[attribute] = heard.get(attribute) or filled
            else:
                heard |= _told(message.content)
        return heard


def word_score(wish: Wish, messages: Sequence[Message]) -> float:
    """sacreBLEU over words of the last draft, in [0, 1]; 0 if nothing was drafted.

    >>> word_score(Wish("music", "children", "warm"), [Message("assistant", "let me think .")])
    0.0
    """
    drafts = [extract(message.content) for message in messages if message.role == "assistant"]
    return word_bleu(next((draft for draft in reversed(drafts) if draft), ""), wish.target)


ENTRY = TaskEntry(
    "documents",
    DocumentWriting,
    title="document writing",
    outcome="character BLEU",
    hidden=lambda wish: wish.target,
    beside="word BLEU",
    measure=word_score,
)
