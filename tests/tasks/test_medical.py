"""Medical recommendation: what is its own beside the engine's rules, which test_slots.py holds it to."""

import dataclasses
import random

import pytest
from scripted import conversation, hear

from itpo.dialogue import Message
from itpo.tasks.medical import TREATMENTS, MedicalRecommendation, Patient, knowledge_base

RASH = Patient("rash", "head", "days", "pollen")
PAIN = Patient("pain", "belly", "years", "nothing")
EVERYBODY = [
    Patient(complaint, place, time, allergy)
    for complaint in ("pain", "rash", "swelling")
    for place in ("head", "chest", "belly", "back")
    for time in ("hours", "days", "months", "years")
    for allergy in ("nothing", "pollen")
]
TIME, ALLERGY = "how long have you had it ?", "what gives you allergies ?"
CLARIFY, VERIFY, CHAT = "please be exact .", "are you sure ?", "do not worry ."
LEADS = {"place": "it is in your chest , right ?", "time": "it has been months , right ?"}
TASK = MedicalRecommendation()


def diagnosis(example, remedy=None):
    return f"you have {' '.join(example.diagnosis)} . take {remedy or example.remedy} ."


@pytest.mark.parametrize("complaint", ["pain", "rash", "swelling"])
def test_the_opening_tells_the_complaint(complaint):
    (message,) = TASK.opening(dataclasses.replace(RASH, complaint=complaint))
    assert complaint in message.content.split()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    "options", [{"clear": 1.0}, {"clear": 0.0, "vague": 1.0}, {"clear": 0.0, "vague": 0.0}]
)
def test_allergies_are_told_clearly_and_once(options, seed):
    for patient in (RASH, PAIN):
        told, again = hear(MedicalRecommendation(**options), patient, ALLERGY, ALLERGY, seed=seed)
        assert told in (f"{patient.allergy} .", f"just {patient.allergy} .") and again == "we had that ."


def test_how_many_patients_have_allergies():
    allergies = [MedicalRecommendation(allergic=0.3).sample(random.Random(i)).allergy for i in range(2500)]
    assert allergies.count("pollen") / 2500 == pytest.approx(0.3, abs=0.035)


@pytest.mark.parametrize("seed", range(12))
def test_a_diagnosis_ends_the_conversation(seed):
    for text in (diagnosis(RASH), diagnosis(PAIN), f"{VERIFY} you have a bad cold . take tea"):
        assert hear(TASK, RASH, TIME, text, seed=seed)[1] is None
    unfinished = "take tea .", "you have chronic dorsal edema .", "chronic dorsal edema . take tea ."
    assert None not in hear(TASK, RASH, *unfinished, seed=seed)


def test_every_patient_can_be_drawn():
    assert {TASK.sample(random.Random(i)) for i in range(2000)} == set(EVERYBODY)


def test_points_by_enumeration():
    """All diagnoses for all patients, against the rule stated once more in another way."""
    words = set(TASK.words)
    remedies = [remedy for pair in TREATMENTS.values() for remedy in pair]
    assert len(set(remedies)) == 8
    for patient in EVERYBODY[::5]:
        for other in EVERYBODY:
            alike = (
                patient.complaint == other.complaint,
                patient.place == other.place,
                patient.time == other.time,
            )
            for remedy in remedies:
                assert set(diagnosis(other, remedy).split()) <= words
                messages = [*TASK.opening(patient), Message("assistant", diagnosis(other, remedy))]
                tolerated = TREATMENTS[patient.time][patient.allergy == "pollen"]
                wanted = {0: 0, 1: 0, 2: 2, 3: 10 if remedy == tolerated else 6}[sum(alike)]
                assert TASK.points(patient, messages) == wanted
                assert TASK.score(patient, messages) == wanted / 10


def test_score_reads_the_assistants_last_message_only():
    right, other = Message("assistant", diagnosis(RASH)), Message("assistant", CHAT)
    story = TASK.opening(RASH)
    assert TASK.score(RASH, story) == 0.0
    assert TASK.score(RASH, [*story, Message("user", diagnosis(RASH))]) == 0.0
    assert TASK.score(RASH, [*story, right, Message("user", "ok ."), other]) == 0.0
    assert TASK.score(RASH, [*story, other, Message("user", diagnosis(PAIN)), right]) == 1.0
    twice = Message("assistant", f"{diagnosis(PAIN)} no , {diagnosis(RASH)}")
    assert TASK.score(RASH, [*story, twice]) == 1.0


def test_the_knowledge_base_lists_every_illness_once():
    lines = knowledge_base()
    assert len(lines) == len(set(lines)) == 48
    for patient in EVERYBODY:
        (line,) = [
            li
            for li in lines
            if li.startswith(f"{patient.complaint} in the {patient.place} for {patient.time}:")
        ]
        assert " ".join(patient.diagnosis) in line
        before, after = line.split(" (with allergies: ")
        assert patient.remedy == (
            after.rstrip(")") if patient.allergy == "pollen" else before.split("take ")[1]
        )
    assert len({p.diagnosis for p in EVERYBODY}) == 48
    assert all(first != second for first, second in TREATMENTS.values())


START = "doctor , this rash worries me ."
TOLD = (START, "where is the rash ?", "it is my head .", TIME, "days already .")
JUDGED = [
    ((*TOLD, ALLERGY, "just pollen .", diagnosis(RASH)), [1, 1, 1, 1]),
    ((*TOLD, diagnosis(RASH)), [1, 1, 0]),  # allergies were not asked for, however lucky the remedy is
    ((*TOLD, ALLERGY, "nothing .", diagnosis(RASH)), [1, 1, 1, 0]),
    ((*TOLD, TIME, "we had that .", CLARIFY, "we had that .", VERIFY, "yes ."), [1, 1, 0, 0, 0]),
    ((START, CHAT, "ok .", LEADS["time"], "fine .", TIME, "we had that ."), [0, 0, 0]),
    ((START, TIME, "hard to say .", CLARIFY, "days already .", ALLERGY, "nothing ."), [1, 1, 1]),
    ((START, TIME, "hard to say .", VERIFY, "yes .", CLARIFY, "we had that ."), [1, 0, 0]),
    ((START, TIME, "maybe years .", ALLERGY, "nothing .", VERIFY, "yes ."), [1, 0, 0]),
    ((START, TIME, "maybe years .", diagnosis(RASH)), [1, 0]),
    # Told wrongly and not repaired: the turn after it is at fault, the diagnosis that follows from it is not.
    (
        (
            *TOLD[:3],
            TIME,
            "maybe years .",
            ALLERGY,
            "just pollen .",
            diagnosis(dataclasses.replace(RASH, time="years")),
        ),
        [1, 1, 0, 1],
    ),
]


@pytest.mark.parametrize(("texts", "scores"), JUDGED)
def test_what_a_judge_thinks_of_each_turn(texts, scores):
    assert TASK.turn_scores(RASH, conversation(*texts)) == scores
    # The hidden findings are not read.
    other = Patient("rash", "back", "months", "nothing")
    assert TASK.turn_scores(other, conversation(*texts)) == scores


def test_names_of_turns():
    texts = START, TIME, "hard to say .", CHAT, "ok .", CLARIFY, "we had that .", LEADS["place"], "fine ."
    assert TASK.turn_kinds(conversation(*texts)) == ["ask_time", "missed repair", "clarify", "lead_place"]


@pytest.mark.parametrize(
    ("text", "act"),
    [
        ("are you sure ? please be exact .", "verify"),
        ("please be exact . where is the pain ?", "clarify"),
        (f"{VERIFY} {diagnosis(RASH)}", "diagnose"),
        ("it is in your back , right ? where is the pain ?", "lead_place"),
        ("it has been days , right ?", "lead_time"),
        ("it is in your back .", "chat"),
        ("right ?", "chat"),
        ("how long have you had it ? where is the pain ?", "ask_place"),
        ("how long", "ask_time"),
        ("allergies ?", "ask_allergy"),
        ("you have acute edema . take tea", "chat"),
        ("", "chat"),
    ],
)
def test_what_an_assistant_message_does(text, act):
    assert TASK.act(text) == act
