"""Medical recommendation, embedded: a patient tells one complaint and has to be asked for the rest.

The illness follows from the complaint, its place and its duration, the remedy from the duration and the allergies. Asked
where it is or for how long, the patient says so, is unsure ("hard to say"), or is mistaken ("maybe chest").
Only the very next assistant turn can repair that: "please be exact" after an unsure answer, "are you sure ?" after a doubtful
one. Each finding can be asked for once, and a leading question ("it is in your back , right ?") is only agreed to: the
patient never tells what was put in their mouth. So a diagnosis is often lost early, and the turns after that, the
question about allergies among them, still vary and matter little.

Nothing here is medicine: the illnesses and remedies are made up by the tables below, and :func:`knowledge_base`
prints them. ``python -m itpo testbed_checks medical`` measures whether the task is fit for its purpose (see :mod:`itpo.study.testbed`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from itpo.dialogue import Message
from itpo.tasks.registry import TaskEntry
from itpo.tasks.repairs import turn_kinds

Act = Literal[
    "ask_place",
    "ask_time",
    "ask_allergy",
    "clarify",
    "confirm",
    "lead_place",
    "lead_time",
    "diagnose",
    "chat",
]

# An illness is named after its duration, its place and its complaint: "acute gastric edema".
NAMES = {"pain": "neuralgia", "rash": "dermatitis", "swelling": "edema"}
REGIONS = {"head": "cranial", "chest": "thoracic", "belly": "gastric", "back": "dorsal"}
COURSES = {"hours": "acute", "days": "subacute", "months": "persistent", "years": "chronic"}
VALUES: dict[str, tuple[str, ...]] = {
    "place": tuple(REGIONS),
    "time": tuple(COURSES),
    "allergy": ("nothing", "pollen"),
}

# Remedy without and with allergies.
TREATMENTS = {
    "hours": ("ice", "rest"),
    "days": ("tea", "warmth"),
    "months": ("cream", "drops"),
    "years": ("pills", "syrup"),
}

COMPLAINT = "doctor , this {complaint} worries me ."
ASKS = {
    "place": "where is the {complaint} ?",
    "time": "how long have you had it ?",
    "allergy": "what gives you allergies ?",
}
LEADS = {"place": "it is in your {value} , right ?", "time": "it has been {value} , right ?"}
CLARIFY, CONFIRM = "please be exact .", "are you sure ?"
OPENERS = ("", "", "ok . ", "good . ", "thank you . ", "i see . ")
CHATS = ("do not worry .", "you are in good hands .", "please sit down .", "it is cold today .")
DIAGNOSIS = "you have {course} {region} {name} . take {remedy} ."
REPLIES = {
    "clear place": ("in my {value} .", "it is my {value} ."),
    "clear time": ("for {value} now .", "{value} already ."),
    "doubtful": ("maybe {value} .", "i guess {value} ."),
    "unsure": ("hard to say .", "well , it varies ."),
    "correction": ("oh , {value} .", "sorry , {value} ."),
    "clear allergy": ("{value} .", "just {value} ."),
    "again": ("we had that .",),
    "yes": ("yes .",),
    "agreed": ("if you say so .", "fine ."),
    "chat": ("ok .", "thank you .", "what next ?", "is it bad ?"),
}
REPAIRS = {"unsure": "clarify", "doubtful": "confirm"}  # the only turn that undoes such an answer

ACCURATE = 8  # points of 10 from which a recommendation counts as accurate [S]


@dataclass(frozen=True)
class Patient:
    """What the patient complains of, and what they have to be asked for."""

    complaint: str
    place: str
    time: str
    allergy: str

    @property
    def diagnosis(self) -> tuple[str, str, str]:
        """Course, region and name of the illness."""
        return COURSES[self.time], REGIONS[self.place], NAMES[self.complaint]

    @property
    def remedy(self) -> str:
        """The remedy for this illness that this patient tolerates."""
        return TREATMENTS[self.time][VALUES["allergy"].index(self.allergy)]


@dataclass(frozen=True)
class PolicyParams:
    """How often a scripted doctor does the right thing where there is a choice (probabilities in [0, 1])."""

    clarify: float = 1.0
    confirm: float = 1.0
    allergy: float = 1.0
    lead: float = 0.0
    chat: float = 0.0
    swap: float = 0.0


EXPERT = PolicyParams()
# The warm start imitates this doctor: the skills that pay are a minority, so that neither sampling nor greedy decoding
# already solves the task [O].
NOISY_EXPERT = PolicyParams(clarify=0.12, confirm=0.12, allergy=0.4, lead=0.12, chat=0.12, swap=0.3)


def knowledge_base() -> list[str]:
    """Every illness, how it shows and what helps, one a line.

    >>> print("\\n".join(knowledge_base()[:2]))
    pain in the head for hours: acute cranial neuralgia, take ice (with allergies: rest)
    pain in the head for days: subacute cranial neuralgia, take tea (with allergies: warmth)
    """
    lines = []
    for complaint in NAMES:
        for place in REGIONS:
            for time in COURSES:
                patient = Patient(complaint, place, time, "none")
                first, second = TREATMENTS[time]
                shows = f"{complaint} in the {place} for {time}"
                lines.append(
                    f"{shows}: {' '.join(patient.diagnosis)}, take {first} (with allergies: {second})"
                )
    return lines


def act_of(text: str) -> Act:
    """What an assistant message does, read from its words; anything unknown is chat.

    >>> act_of("ok . are you sure ?"), act_of("it is in your back , right ?")
    ('confirm', 'lead_place')
    """
    if _diagnosis(text):
        return "diagnose"
    if "are you sure" in text:
        return "confirm"
    if "be exact" in text:
        return "clarify"
    if "right ?" in text and ("in your" in text or "has been" in text):
        return "lead_place" if "in your" in text else "lead_time"
    if "where is" in text:
        return "ask_place"
    if "how long" in text:
        return "ask_time"
    return "ask_allergy" if "allergies" in text else "chat"


def _diagnosis(text: str) -> tuple[str, str, str, str] | None:
    """Course, region, name and remedy of the last diagnosis in a message."""
    found = re.findall(r"you have (\w+) (\w+) (\w+) \. take (\w+)", text)
    return found[-1] if found else None


def _diagnose(complaint: str, told: Mapping[str, Any]) -> str:
    """The final words of a doctor who goes by the complaint and these findings."""
    patient = Patient(complaint, told["place"], told["time"], told["allergy"])
    course, region, name = patient.diagnosis
    return DIAGNOSIS.format(course=course, region=region, name=name, remedy=patient.remedy)


def _finding(act: Act) -> str:
    """What a question is about; empty for other acts."""
    return act.partition("_")[2]


def _value(finding: str, text: str) -> str | None:
    """What a message says about a finding."""
    return next((word for word in text.split() if word in VALUES.get(finding, ())), None)


def _kind(text: str) -> str:
    """Which kind of reply a user message is, for the patient's and the doctor's memory."""
    if text.startswith(("maybe", "i guess")):
        return "doubtful"
    return "unsure" if text.startswith(("hard to say", "well")) else "other"


class MedicalRecommendation:
    """The embedded medical task (see the module's text for its rules).

    ``clear``, ``unsure``: how often the patient states a finding clearly or cannot say; else they are doubtful, and then
    wrong with probability ``mistaken``. ``allergic`` is the share of patients with allergies, which are always told clearly.
    """

    name = "medical"
    max_turns = 6
    skills: tuple[str, ...] = ("clarify", "confirm")
    kinds: tuple[str, ...] = (
        "ask_place",
        "ask_time",
        "clarify",
        "confirm",
        "missed repair",
        "lead_place",
        "lead_time",
        "ask_allergy",
        "chat",
        "diagnose",
    )
    shortcuts: tuple[str, ...] = ("lead_place", "lead_time")
    expert = EXPERT
    noisy_expert = NOISY_EXPERT
    act = staticmethod(act_of)

    def __init__(
        self, clear: float = 0.5, unsure: float = 0.25, mistaken: float = 0.9, allergic: float = 0.5
    ) -> None:
        self.clear, self.unsure, self.mistaken, self.allergic = clear, unsure, mistaken, allergic

    @property
    def words(self) -> list[str]:
        """Every word that patient or doctor may say, sorted."""
        texts = [COMPLAINT, *ASKS.values(), *LEADS.values(), CLARIFY, CONFIRM, *OPENERS, *CHATS, DIAGNOSIS]
        texts += [text for replies in REPLIES.values() for text in replies]
        texts += [value for values in VALUES.values() for value in values]
        texts += [*NAMES, *NAMES.values(), *COURSES.values(), *REGIONS.values()]
        texts += [remedy for remedies in TREATMENTS.values() for remedy in remedies]
        return sorted({word for text in texts for word in text.split() if "{" not in word})

    def sample(self, rng: random.Random) -> Patient:
        """Draw a patient."""
        complaint, place, time = (rng.choice(list(table)) for table in (NAMES, REGIONS, COURSES))
        return Patient(complaint, place, time, VALUES["allergy"][rng.random() < self.allergic])

    def opening(self, example: Patient) -> list[Message]:
        """The complaint and nothing else."""
        return [Message("user", COMPLAINT.format(complaint=example.complaint))]

    def reply(self, example: Patient, messages: Sequence[Message], rng: random.Random) -> str | None:
        """The patient's answer to the last assistant message; ``None`` after a diagnosis."""
        acts = [act_of(m.content) for m in messages if m.role == "assistant"]
        before, act = _kind(messages[-2].content), acts[-1]

        def say(kind: str, value: str = "") -> str:
            return rng.choice(REPLIES[kind]).format(value=value)

        if act == "diagnose":
            return None
        finding = _finding(act)
        if finding:
            if finding in map(_finding, acts[:-1]):
                return say("again")
            if act.startswith("lead"):
                return say("agreed")
            return self._state(example, finding, say, rng)
        if act == REPAIRS.get(before):
            asked = next(_finding(a) for a in reversed(acts) if _finding(a))
            value = getattr(example, asked)
            return say(f"clear {asked}", value) if before == "unsure" else say("correction", value)
        return say({"clarify": "again", "confirm": "yes"}.get(act, "chat"))

    def _state(self, example: Patient, finding: str, say: Callable[..., str], rng: random.Random) -> str:
        value, draw = getattr(example, finding), rng.random()
        if finding == "allergy" or draw < self.clear:
            return say(f"clear {finding}", value)
        if draw < self.clear + self.unsure:
            return say("unsure")
        if rng.random() < self.mistaken:
            value = rng.choice([other for other in VALUES[finding] if other != value])
        return say("doubtful", value)

    @staticmethod
    def points(example: Patient, messages: Sequence[Message]) -> int:
        """The paper's scale of 0 to 10 [S]: 6 for the diagnosis and, if that is right, 4 for the remedy.

        A diagnosis with one of its three words wrong gets 2 of the 6. The last assistant message counts; 8 to 10 is accurate,
        which here takes all 10.
        """
        last = next((m.content for m in reversed(messages) if m.role == "assistant"), "")
        *words, remedy = _diagnosis(last) or ("", "", "", "")
        wrong = sum(word != right for word, right in zip(words, example.diagnosis, strict=True))
        if wrong:
            return 2 if wrong == 1 else 0
        return 10 if remedy == example.remedy else 6

    def score(self, example: Patient, messages: Sequence[Message]) -> float:
        """The points of :meth:`points`, divided by 10."""
        return self.points(example, messages) / 10

    def turn_scores(self, example: Patient, messages: Sequence[Message]) -> list[float]:
        """What a careful judge who has the rules in hand thinks of each assistant turn: 1 good, 0 bad.

        After an unsure or doubtful answer only its repair is good. Otherwise it is good to ask for a finding that was neither
        asked for nor suggested before, and to diagnose when the patient has told all three findings, with the illness and
        the remedy that follow from them *as told*: a turn is not blamed for what an earlier one left wrong. All else is bad. Of
        the example only the complaint is read, which the patient told first.

        >>> said = "where is the rash ?", "maybe back .", "are you sure ?", "oh , head .", "it has been days , right ?"
        >>> roles = "assistant", "user", "assistant", "user", "assistant"
        >>> messages = [Message(role, text) for role, text in zip(roles, said)]
        >>> MedicalRecommendation().turn_scores(Patient("rash", "head", "days", "pollen"), messages)
        [1.0, 1.0, 0.0]
        """
        scores: list[float] = []
        asked: list[str] = []
        told: dict[str, str] = {}
        kind = "other"
        for message in messages:
            if message.role != "assistant":
                kind = _kind(message.content)
                value = _value(asked[-1], message.content) if asked else None
                told |= {asked[-1]: value} if value else {}
                continue
            act = act_of(message.content)
            finding = _finding(act)
            if kind in REPAIRS:
                good = act == REPAIRS[kind]
            elif act == "diagnose":
                good = len(told) == 3 and _diagnosis(message.content) == _diagnosis(
                    _diagnose(example.complaint, told)
                )
            else:
                good = act.startswith("ask") and finding not in asked
            scores.append(float(good))
            asked += [finding] if finding else []
        return scores

    def turn_kinds(self, messages: Sequence[Message]) -> list[str]:
        """The act of each assistant turn, or "missed repair" where it should have undone the answer before it.

        >>> said = Message("user", "hard to say ."), Message("assistant", "do not worry ."), Message("user", "ok .")
        >>> MedicalRecommendation().turn_kinds([*said, Message("assistant", "please be exact .")])
        ['missed repair', 'clarify']
        """
        return turn_kinds(messages, act_of, _kind, REPAIRS)

    def scripted_policy(
        self, example: Patient, messages: Sequence[Message], rng: random.Random, params: PolicyParams
    ) -> str:
        """What a scripted doctor with these params says next; of the patient they know the conversation only."""
        opener = rng.choice(OPENERS) if len(messages) > 1 else ""
        kind = _kind(messages[-1].content)
        if kind == "unsure" and rng.random() < params.clarify:
            return opener + CLARIFY
        if kind == "doubtful" and rng.random() < params.confirm:
            return opener + CONFIRM
        if rng.random() < params.chat:
            return opener + rng.choice(CHATS)
        heard = self._heard(messages)
        pending = [finding for finding in ("place", "time") if finding not in heard]
        if pending:
            finding = pending[-1] if rng.random() < params.swap else pending[0]
            if rng.random() < params.lead:
                return opener + LEADS[finding].format(value=rng.choice(VALUES[finding]))
            return opener + ASKS[finding].format(complaint=example.complaint)
        if "allergy" not in heard and rng.random() < params.allergy:
            return opener + ASKS["allergy"]
        # What was never told is guessed; without a word about allergies there are none.
        guess = {f: heard.get(f) or rng.choice(VALUES[f]) for f in ("place", "time")}
        return opener + _diagnose(example.complaint, {"allergy": "nothing", **heard, **guess})

    @staticmethod
    def _heard(messages: Sequence[Message]) -> dict[str, str | None]:
        """What the conversation says about each finding: absent if never asked, ``None`` if asked in vain."""
        heard: dict[str, str | None] = {}
        asked = ""
        for message in messages[1:]:
            if message.role == "assistant":
                finding = _finding(act_of(message.content))
                if finding:
                    asked = finding
                    heard.setdefault(asked, _value(asked, message.content))
            elif value := _value(asked, message.content):
                heard[asked] = value
        return heard


def _hidden(patient: Patient) -> str:
    findings = f"{patient.place}, {patient.time}, allergies: {patient.allergy}"
    return f"{findings}; {' '.join(patient.diagnosis)}, take {patient.remedy}"


def is_accurate(patient: Patient, messages: Sequence[Message]) -> float:
    """1 where a recommendation has ``ACCURATE`` points or more, else 0.

    >>> patient = Patient("rash", "head", "days", "pollen")
    >>> is_accurate(patient, [Message("assistant", "you have subacute cranial dermatitis . take warmth .")])
    1.0
    """
    return float(MedicalRecommendation.points(patient, messages) >= ACCURATE)


ENTRY = TaskEntry(
    "medical",
    MedicalRecommendation,
    title="medical recommendation",
    outcome="score",
    hidden=_hidden,
    beside="accurate",
    measure=is_accurate,
)
