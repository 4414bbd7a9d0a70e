"""Medical recommendation: a patient tells one complaint and has to be asked for the rest.

The illness follows from the complaint, its place and its duration, the remedy from the duration and the allergies. Asked
where it is or for how long, the patient says so, is vague ("hard to say"), or is mistaken ("maybe chest"); "please be exact"
and "are you sure ?" repair that, see :mod:`itpo.tasks.slots`. A leading question ("it is in your back , right ?") is only
agreed to: the patient never tells what was put in their mouth. Allergies are always told clearly.

Nothing here is medicine: the illnesses and remedies are made up by the tables below, and :func:`knowledge_base` prints them.
``python -m itpo check medical`` measures whether the task is fit to compare methods on (see :mod:`itpo.study.testbed`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from itpo.dialogue import Message
from itpo.tasks.registry import TaskEntry
from itpo.tasks.slots import PolicyParams, SlotTask, check_shares

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
LEADS = {"place": "it is in your {value} , right ?", "time": "it has been {value} , right ?"}
DIAGNOSIS = "you have {course} {region} {name} . take {remedy} ."

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

    @property
    def recommendation(self) -> str:
        """The right final words."""
        course, region, name = self.diagnosis
        return DIAGNOSIS.format(course=course, region=region, name=name, remedy=self.remedy)


@dataclass(frozen=True)
class DoctorParams(PolicyParams):
    """How often a scripted doctor does what; ``allergy`` is how often they ask for allergies."""

    allergy: float = 1.0


def knowledge_base() -> list[str]:
    """Every illness, how it shows and what helps, one a line.

    >>> print("\\n".join(knowledge_base()[:2]))
    pain in the head for hours: acute cranial neuralgia, take ice (with allergies: rest)
    pain in the head for days: subacute cranial neuralgia, take tea (with allergies: warmth)
    """
    lines = []
    for complaint in NAMES:
        for place in REGIONS:
            for time, (first, second) in TREATMENTS.items():
                illness = " ".join(Patient(complaint, place, time, "nothing").diagnosis)
                remedies = f"take {first} (with allergies: {second})"
                lines.append(f"{complaint} in the {place} for {time}: {illness}, {remedies}")
    return lines


def _diagnosis(text: str) -> tuple[str, str, str, str] | None:
    """Course, region, name and remedy of the last diagnosis in a message."""
    diagnoses = re.findall(MedicalRecommendation.cues["diagnose"], text)
    return diagnoses[-1] if diagnoses else None


class MedicalRecommendation(SlotTask):
    """The task of the module's text; ``clear``, ``vague`` and ``mistaken`` as in :class:`itpo.tasks.slots.SlotTask`.

    ``allergic`` is the share of patients with allergies.

    >>> task = MedicalRecommendation()
    >>> task.act("ok . are you sure ?"), task.act("it is in your back , right ?")
    ('verify', 'lead_place')
    """

    name = "medical"
    max_turns = 6
    slots = ("place", "time")
    values = VALUES
    always_clear = ("allergy",)
    cues = {
        "diagnose": r"you have (\w+) (\w+) (\w+) \. take (\w+)",
        "verify": "are you sure",
        "clarify": "be exact",
        "lead_place": r"\A(?=.*right \?).*in your",
        "lead_time": r"\A(?=.*right \?).*has been",
        "ask_place": "where is",
        "ask_time": "how long",
        "ask_allergy": "allergies",
    }
    final = "diagnose"
    questions = {
        "place": "where is the {complaint} ?",
        "time": "how long have you had it ?",
        "allergy": "what gives you allergies ?",
    }
    clarify = "please be exact ."
    chats = ("do not worry .", "you are in good hands .", "please sit down .", "it is cold today .")
    replies = {
        "clear place": ("in my {value} .", "it is my {value} ."),
        "clear time": ("for {value} now .", "{value} already ."),
        "clear allergy": ("{value} .", "just {value} ."),
        "doubtful": ("maybe {value} .", "i guess {value} ."),
        "vague": ("hard to say .", "well , it varies ."),
        "correction": ("oh , {value} .", "sorry , {value} ."),
        "again": ("we had that .",),
        "yes": ("yes .",),
        "assumed": ("if you say so .", "fine ."),
        "chat": ("ok .", "thank you .", "what next ?", "is it bad ?"),
    }
    other_words = (
        COMPLAINT,
        *LEADS.values(),
        DIAGNOSIS,
        *NAMES,
        *NAMES.values(),
        *COURSES.values(),
        *REGIONS.values(),
        *(remedy for remedies in TREATMENTS.values() for remedy in remedies),
    )
    shortcuts: tuple[str, ...] = ("lead_place", "lead_time")
    expert = DoctorParams()
    noisy_expert = DoctorParams(clarify=0.12, verify=0.12, allergy=0.4, shortcut=0.12, chat=0.12, swap=0.3)

    def __init__(
        self, clear: float = 0.5, vague: float = 0.25, mistaken: float = 0.9, allergic: float = 0.5
    ) -> None:
        super().__init__(clear, vague, mistaken)
        check_shares(allergic=allergic)
        self.allergic = allergic

    def sample(self, rng: random.Random) -> Patient:
        """Draw a patient."""
        complaint, place, time = (rng.choice(list(table)) for table in (NAMES, REGIONS, COURSES))
        return Patient(complaint, place, time, VALUES["allergy"][rng.random() < self.allergic])

    def opening(self, example: Patient) -> list[Message]:
        """The complaint and nothing else."""
        return [Message("user", COMPLAINT.format(complaint=example.complaint))]

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

    def follows(self, example: Patient, told: Mapping[str, str], text: str) -> bool:
        """Whether illness and remedy are those of the complaint, which was told first, and the three findings told."""
        patient = Patient(example.complaint, **told) if len(told) == 3 else None
        return patient is not None and _diagnosis(text) == (*patient.diagnosis, patient.remedy)

    def take_for_granted(self, slot: str, example: Patient, rng: random.Random) -> str:
        """A leading question."""
        return LEADS[slot].format(value=rng.choice(VALUES[slot]))

    def finish(self, example: Patient, heard: Mapping[str, Any], rng: random.Random, params: Any) -> str:
        """The question about allergies, or the diagnosis; without a word about allergies there are none."""
        if "allergy" not in heard and rng.random() < params.allergy:
            return self.question("allergy", example)
        findings = {"allergy": "nothing", **heard, **self.guess(heard, self.slots, rng)}
        return Patient(example.complaint, **findings).recommendation


def is_accurate(patient: Patient, messages: Sequence[Message]) -> float:
    """1 where a recommendation has ``ACCURATE`` points or more, else 0.

    >>> patient = Patient("rash", "head", "days", "pollen")
    >>> is_accurate(patient, [Message("assistant", patient.recommendation)])
    1.0
    """
    return float(MedicalRecommendation.points(patient, messages) >= ACCURATE)


def _hidden(patient: Patient) -> str:
    findings = f"{patient.place}, {patient.time}, allergies: {patient.allergy}"
    return f"{findings}; {' '.join(patient.diagnosis)}, take {patient.remedy}"


ENTRY = TaskEntry(
    "medical",
    MedicalRecommendation,
    title="medical recommendation",
    outcome="score",
    hidden=_hidden,
    beside="accurate",
    measure=is_accurate,
)
