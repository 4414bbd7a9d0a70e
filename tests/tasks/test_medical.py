"""Medical recommendation: every rule of the module's text by a scripted conversation, and its limits on any text."""

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itpo.dialogue import Message
from itpo.models.tiny import scripted_dialogue
from itpo.tasks.medical import (
    EXPERT,
    NOISY_EXPERT,
    TREATMENTS,
    VALUES,
    MedicalRecommendation,
    Patient,
    act_of,
    knowledge_base,
)
from itpo.tasks.registry import get_task

RASH = Patient("rash", "head", "days", "pollen")
PAIN = Patient("pain", "belly", "years", "nothing")
SWELLING = Patient("swelling", "back", "hours", "pollen")
PATIENTS = (RASH, PAIN, SWELLING)
EVERYBODY = [
    Patient(complaint, place, time, allergy)
    for complaint in ("pain", "rash", "swelling")
    for place in ("head", "chest", "belly", "back")
    for time in ("hours", "days", "months", "years")
    for allergy in ("nothing", "pollen")
]
TIME, ALLERGY = "how long have you had it ?", "what gives you allergies ?"
CLARIFY, CONFIRM, CHAT = "please be exact .", "are you sure ?", "do not worry ."
LEADS = {"place": "it is in your chest , right ?", "time": "it has been months , right ?"}
CLEAR = MedicalRecommendation(clear=1.0, unsure=0.0)
UNSURE = MedicalRecommendation(clear=0.0, unsure=1.0)
WRONG = MedicalRecommendation(clear=0.0, unsure=0.0, mistaken=1.0)
DOUBTING = MedicalRecommendation(clear=0.0, unsure=0.0, mistaken=0.0)
every_seed = pytest.mark.parametrize("seed", range(12))
every_patient = pytest.mark.parametrize("example", PATIENTS, ids=lambda p: p.complaint)


def place_of(example):
    return f"where is the {example.complaint} ?"


def hear(task, example, *turns, seed=0):
    """The patient's replies to these assistant turns, one after another."""
    rng = random.Random(seed)
    messages, replies = task.opening(example), []
    for turn in turns:
        messages.append(Message("assistant", turn))
        replies.append(task.reply(example, messages, rng))
        messages.append(Message("user", str(replies[-1])))
    return replies


def findings(text):
    """Every place, duration or allergy that a message names."""
    return [word for word in text.split() if any(word in values for values in VALUES.values())]


def diagnosis(example, remedy=None):
    return f"you have {' '.join(example.diagnosis)} . take {remedy or example.remedy} ."


@every_patient
def test_the_opening_tells_the_complaint_only(example):
    for task in (CLEAR, UNSURE, WRONG):
        (message,) = task.opening(example)
        assert message.role == "user" and example.complaint in message.content.split()
        assert not findings(message.content)
        assert [message] == task.opening(dataclasses.replace(example, place="chest", time="months"))


@every_seed
@every_patient
def test_a_clear_patient_states_what_is_asked(example, seed):
    asks = {place_of(example): example.place, TIME: example.time, ALLERGY: example.allergy}
    assert [act_of(ask) for ask in asks] == ["ask_place", "ask_time", "ask_allergy"]
    assert [findings(r) for r in hear(CLEAR, example, *asks, seed=seed)] == [[v] for v in asks.values()]
    backwards = hear(CLEAR, example, *reversed(asks), seed=seed)
    assert [findings(r) for r in backwards] == [[v] for v in reversed(asks.values())]


@every_seed
@every_patient
@pytest.mark.parametrize(("task", "repair"), [(UNSURE, CLARIFY), (WRONG, CONFIRM)])
def test_an_answer_is_repaired_at_once_only(task, repair, example, seed):
    place = place_of(example)
    first, repaired = hear(task, example, place, repair, seed=seed)
    assert findings(first) == [] if task is UNSURE else findings(first)[0] != example.place
    assert findings(repaired) == [example.place]
    assert findings(hear(task, example, place, f"ok . {repair}", seed=seed)[1]) == [example.place]
    # The repair is about the finding that was asked for last.
    assert findings(hear(task, example, place, repair, TIME, repair, seed=seed)[3]) == [example.time]
    other = {CLARIFY: CONFIRM, CONFIRM: CLARIFY}[repair]
    for between in (other, CHAT, place, ALLERGY, LEADS["time"], "so what", ""):
        late = hear(task, example, place, between, repair, place, repair, seed=seed)
        assert not any(map(findings, late[2:])), late
    # Another finding in between: the repair is about that one, and the first stays as it was.
    replies = hear(task, example, place, TIME, repair, place, repair, seed=seed)
    assert findings(replies[2]) == [example.time] and not any(map(findings, replies[3:]))


@every_seed
def test_the_wrong_repair_undoes_nothing(seed):
    assert not findings(hear(WRONG, RASH, TIME, CLARIFY, seed=seed)[1])
    assert not findings(hear(UNSURE, RASH, TIME, CONFIRM, seed=seed)[1])
    assert not any(map(findings, hear(CLEAR, RASH, TIME, CONFIRM, CLARIFY, seed=seed)[1:]))
    assert findings(hear(DOUBTING, RASH, TIME, seed=seed)[0]) == ["days"]


@every_seed
@pytest.mark.parametrize("task", [CLEAR, UNSURE, WRONG])
def test_each_finding_is_told_once(task, seed):
    for ask in (place_of(RASH), TIME, ALLERGY):
        assert hear(task, RASH, ask, ask, ask, seed=seed)[1:] == ["we had that ."] * 2
        assert hear(task, RASH, ask, CHAT, ask, seed=seed)[2] == "we had that ."


@every_seed
@pytest.mark.parametrize("which", ["place", "time"])
def test_what_a_leading_question_suggests_is_never_told(which, seed):
    ask = {"place": place_of(RASH), "time": TIME}[which]
    assert act_of(LEADS[which]) == f"lead_{which}"
    for task in (CLEAR, UNSURE, WRONG):
        for after in (ask, CLARIFY, CONFIRM, LEADS[which]):
            assert not any(map(findings, hear(task, RASH, LEADS[which], after, CLARIFY, CONFIRM, seed=seed)))
    other, value = {"place": (TIME, RASH.time), "time": (place_of(RASH), RASH.place)}[which]
    assert findings(hear(CLEAR, RASH, LEADS[which], other, seed=seed)[1]) == [value]


@every_seed
def test_a_diagnosis_ends_the_conversation(seed):
    for text in (diagnosis(RASH), diagnosis(PAIN), f"{CONFIRM} you have a bad cold . take tea"):
        assert hear(CLEAR, RASH, TIME, text, seed=seed)[1] is None
    unfinished = "take tea .", "you have chronic dorsal edema .", "chronic dorsal edema . take tea ."
    assert None not in hear(CLEAR, RASH, *unfinished, seed=seed)


def test_how_often_the_patient_is_clear_unsure_or_mistaken(unchecked):
    task, kinds, wrong = MedicalRecommendation(clear=0.5, unsure=0.25, mistaken=0.9), {}, 0
    for seed in range(2500):
        (reply,) = hear(task, RASH, TIME, seed=seed)
        doubtful = reply.startswith(("maybe", "i guess"))
        kind = "unsure" if not findings(reply) else "doubtful" if doubtful else "clear"
        kinds[kind] = kinds.get(kind, 0) + 1
        wrong += kind == "doubtful" and findings(reply) != ["days"]
        assert kind != "clear" or findings(reply) == ["days"]
    assert kinds["clear"] / 2500 == pytest.approx(0.5, abs=0.035)
    assert kinds["unsure"] / 2500 == pytest.approx(0.25, abs=0.035)
    assert wrong / kinds["doubtful"] == pytest.approx(0.9, abs=0.035)
    allergies = [MedicalRecommendation(allergic=0.3).sample(random.Random(i)).allergy for i in range(2500)]
    assert allergies.count("pollen") / 2500 == pytest.approx(0.3, abs=0.035)


def test_every_patient_can_be_drawn():
    assert {CLEAR.sample(random.Random(i)) for i in range(2000)} == set(EVERYBODY)


def test_points_by_enumeration():
    """All diagnoses for all patients, against the rule stated once more in another way."""
    words = set(CLEAR.words)
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
                messages = [*CLEAR.opening(patient), Message("assistant", diagnosis(other, remedy))]
                tolerated = TREATMENTS[patient.time][patient.allergy == "pollen"]
                wanted = {0: 0, 1: 0, 2: 2, 3: 10 if remedy == tolerated else 6}[sum(alike)]
                assert CLEAR.points(patient, messages) == wanted
                assert CLEAR.score(patient, messages) == wanted / 10


def test_score_reads_the_assistants_last_message_only():
    right, other = Message("assistant", diagnosis(RASH)), Message("assistant", CHAT)
    story = CLEAR.opening(RASH)
    assert CLEAR.score(RASH, story) == 0.0
    assert CLEAR.score(RASH, [*story, Message("user", diagnosis(RASH))]) == 0.0
    assert CLEAR.score(RASH, [*story, right, Message("user", "ok ."), other]) == 0.0
    assert CLEAR.score(RASH, [*story, other, Message("user", diagnosis(PAIN)), right]) == 1.0
    twice = Message("assistant", f"{diagnosis(PAIN)} no , {diagnosis(RASH)}")
    assert CLEAR.score(RASH, [*story, twice]) == 1.0


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


def test_the_ideal_doctor_solves_the_task_and_the_novice_does_not(mean_outcome, unchecked):
    assert mean_outcome("medical", EXPERT, 500) == 1.0
    assert 0.3 <= mean_outcome("medical", NOISY_EXPERT, 500) <= 0.5


@pytest.mark.parametrize(
    "lacking",
    [{"clarify": 0.0}, {"confirm": 0.0}, {"allergy": 0.0}, {"lead": 0.5}, {"chat": 0.7}],
    ids=lambda h: next(iter(h)),
)
def test_every_habit_matters(lacking, mean_outcome, unchecked):
    assert mean_outcome("medical", dataclasses.replace(EXPERT, **lacking), 200) < 0.85


def test_the_doctor_says_only_what_they_heard(unchecked):
    """The same conversation with another hidden illness gets the same answer: the doctor does not know it."""
    task = get_task("medical")
    for seed in range(50):
        example, messages, _ = scripted_dialogue(task, EXPERT, random.Random(seed))
        other = dataclasses.replace(example, place="none", time="none", allergy="none")
        for end in range(1, len(messages), 2):
            one, two = (
                task.scripted_policy(e, messages[:end], random.Random(seed), EXPERT) for e in (example, other)
            )
            assert one == two


def conversation(*texts):
    return [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]


START = "doctor , this rash worries me ."
TOLD = (START, "where is the rash ?", "it is my head .", TIME, "days already .")
JUDGED = [
    ((*TOLD, ALLERGY, "just pollen .", diagnosis(RASH)), [1, 1, 1, 1]),
    ((*TOLD, diagnosis(RASH)), [1, 1, 0]),  # allergies were not asked for, however lucky the remedy is
    ((*TOLD, ALLERGY, "nothing .", diagnosis(RASH)), [1, 1, 1, 0]),
    ((*TOLD, TIME, "we had that .", CLARIFY, "we had that .", CONFIRM, "yes ."), [1, 1, 0, 0, 0]),
    ((START, CHAT, "ok .", LEADS["time"], "fine .", TIME, "we had that ."), [0, 0, 0]),
    ((START, TIME, "hard to say .", CLARIFY, "days already .", ALLERGY, "nothing ."), [1, 1, 1]),
    ((START, TIME, "hard to say .", CONFIRM, "yes .", CLARIFY, "we had that ."), [1, 0, 0]),
    ((START, TIME, "maybe years .", ALLERGY, "nothing .", CONFIRM, "yes ."), [1, 0, 0]),
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
    assert CLEAR.turn_scores(RASH, conversation(*texts)) == scores
    # The hidden findings are not read.
    other = Patient("rash", "back", "months", "nothing")
    assert CLEAR.turn_scores(other, conversation(*texts)) == scores


def test_a_judge_finds_no_fault_with_the_ideal_doctor(unchecked):
    task = get_task("medical")
    for seed in range(100):
        example, messages, _ = scripted_dialogue(task, EXPERT, random.Random(seed))
        assert set(task.turn_scores(example, messages)) == {1.0}


def test_the_kinds_of_turns(unchecked):
    task, seen = get_task("medical"), set()
    texts = (START, TIME, "hard to say .", CHAT, "ok .", CLARIFY, "we had that .", LEADS["place"], "fine .")
    assert task.turn_kinds(conversation(*texts)) == ["ask_time", "missed repair", "clarify", "lead_place"]
    for seed in range(300):
        _, messages, _ = scripted_dialogue(task, NOISY_EXPERT, random.Random(seed))
        kinds = task.turn_kinds(messages)
        acts = [task.act(m.content) for m in messages if m.role == "assistant"]
        assert len(kinds) == len(acts)
        assert all(kind in (act, "missed repair") for kind, act in zip(kinds, acts, strict=True))
        seen |= set(kinds)
    assert seen == set(task.kinds)


@pytest.mark.parametrize(
    ("text", "act"),
    [
        ("are you sure ? please be exact .", "confirm"),
        ("please be exact . where is the pain ?", "clarify"),
        (f"{CONFIRM} {diagnosis(RASH)}", "diagnose"),
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
    assert act_of(text) == act == get_task("medical").act(text)


fragments = [*CLEAR.words, place_of(RASH), TIME, ALLERGY, CLARIFY, CONFIRM, *LEADS.values(), diagnosis(PAIN)]
fragments += ["you have", "{value}", "{", "%s", "\n", "", "<|end|>", "maybe head .", "hard to say ."]
anything = st.lists(st.sampled_from(fragments), max_size=6).map(" ".join) | st.text(max_size=20)


@given(
    turns=st.lists(anything, min_size=1, max_size=6), seed=st.integers(0, 99), which=st.sampled_from(PATIENTS)
)
def test_any_text_gets_a_reply_and_a_score(turns, seed, which):
    task, rng = get_task("medical"), random.Random(seed)
    words = set(task.words)
    messages = task.opening(which)
    for count, turn in enumerate(turns, 1):
        messages.append(Message("assistant", turn))
        assert task.score(which, messages) in (0.0, 0.2, 0.6, 1.0)
        assert len(task.turn_scores(which, messages)) == len(task.turn_kinds(messages)) == count
        assert set(task.turn_kinds(messages)) <= set(task.kinds)
        # Stateless: the same messages and the same generator state give the same reply from any instance.
        state = rng.getstate()
        reply = task.reply(which, messages, rng)
        rng.setstate(state)
        assert MedicalRecommendation().reply(which, list(messages), rng) == reply
        assert (reply is None) == (act_of(turn) == "diagnose")
        if reply is None:
            break
        assert set(reply.split()) <= words
        messages.append(Message("user", reply))


@given(turns=st.lists(anything, min_size=1, max_size=6), seed=st.integers(0, 99))
def test_the_doctor_goes_on_from_any_conversation(turns, seed):
    task = get_task("medical")
    messages = task.opening(RASH)
    for turn in turns:
        messages.append(Message("assistant", turn))
        reply = task.reply(RASH, messages, random.Random(seed))
        if reply is None:
            return
        messages.append(Message("user", reply))
        assert task.scripted_policy(RASH, messages, random.Random(seed), NOISY_EXPERT)
