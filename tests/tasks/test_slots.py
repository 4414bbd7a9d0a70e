"""The slot-filling engine on each task: who tells what and when, what repairs an answer, and its limits on any text."""

import dataclasses
import random
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import conversation, hear

from itpo.dialogue import Message
from itpo.models.tiny import scripted_dialogue
from itpo.tasks.documents import VALUES, DocumentWriting, Wish
from itpo.tasks.math import MathTutoring, Problem
from itpo.tasks.medical import VALUES as FINDINGS
from itpo.tasks.medical import MedicalRecommendation, Patient
from itpo.tasks.registry import TASKS, get_task

VERIFY = "are you sure ?"


def numbers(text):
    return [int(n) for n in re.findall(r"\d+", text)]


def among(values):
    return lambda text: [word for word in text.split() if any(word in row for row in values.values())]


class Case(NamedTuple):
    """A task and its words, as its text describes them."""

    build: Callable[..., Any]
    examples: tuple[Any, ...]
    asks: Callable[[Any], dict[str, str]]  # the question for each slot that the user may be vague about
    clarify: str
    chat: str
    again: str
    named: Callable[[str], list[Any]]  # every hidden value that a text names
    other: Callable[[Any], Any]  # an example with the same story and other hidden values
    shortcuts: dict[str, str]  # what takes a slot for granted, if there are acts for it
    between: tuple[str, ...]  # more turns after which a repair is too late
    noisy: tuple[float, float]  # mean outcome of the noisy expert
    lacking: tuple[dict[str, float], ...]  # what the expert must not be without
    low: float  # outcome of the expert without it
    flawless: float  # outcome of a dialogue without a bad turn
    outcomes: Callable[[float], bool]
    fragments: tuple[str, ...]


PLUS, MINUS = Problem("sam", "apples", "plus", 3, 4), Problem("ana", "coins", "minus", 6, 2)
TIMES = Problem("leo", "pens", "times", 5, 6)
FIRST = {"plus": "how many apples at first ?", "minus": "how many coins at first ?"}
FIRST["times"] = "how many boxes are there ?"
SECOND = {"plus": "how many more apples came ?", "minus": "how many coins went away ?"}
SECOND["times"] = "how many pens in each box ?"
CHESS, MUSIC = Wish("chess", "experts", "formal"), Wish("music", "children", "warm")
RASH = Patient("rash", "head", "days", "pollen")
COMMON = ({"clarify": 0.0}, {"verify": 0.0}, {"shortcut": 0.5}, {"chat": 0.7})
CASES = {
    "math": Case(
        MathTutoring,
        (PLUS, MINUS, TIMES),
        lambda p: {"first": FIRST[p.operation], "second": SECOND[p.operation]},
        "exactly how many ?",
        "take your time .",
        "you know that now .",
        numbers,
        lambda p: dataclasses.replace(p, first=p.first + 1, second=p.second + 1),
        {"first": "let us say 5 apples at first .", "second": "let us say 5 more apples came ."},
        (),
        (0.3, 0.55),
        COMMON,
        0.85,
        1.0,
        lambda r: r in (0.0, 1.0),
        ("answer is 7", "let us say", "12345678901234567890", "٣", "-1", "{n}", "{item}", "maybe 3 ."),
    ),
    "documents": Case(
        DocumentWriting,
        (CHESS, MUSIC, Wish("cooking", "parents", "funny")),
        lambda w: {"subject": "what is it about ?", "audience": "who will read it ?"},
        "please name one .",
        "let me think .",
        "we had that .",
        among(VALUES),
        lambda w: SimpleNamespace(),  # nothing of a wish may be read
        {},
        (f"draft : {MUSIC.target}",),
        (0.3, 0.5),
        COMMON,
        0.8,
        0.8,  # the last turn may be a draft whose tone could not be known
        lambda r: 0.0 <= r <= 1.0,
        (f"draft : {CHESS.target}", f"draft : {MUSIC.target}", "draft :", "maybe chess .", "surprise me ."),
    ),
    "medical": Case(
        MedicalRecommendation,
        (RASH, Patient("pain", "belly", "years", "nothing"), Patient("swelling", "back", "hours", "pollen")),
        lambda p: {"place": f"where is the {p.complaint} ?", "time": "how long have you had it ?"},
        "please be exact .",
        "do not worry .",
        "we had that .",
        among(FINDINGS),
        lambda p: dataclasses.replace(p, place="none", time="none", allergy="none"),
        {"place": "it is in your chest , right ?", "time": "it has been months , right ?"},
        ("what gives you allergies ?", "it has been months , right ?"),
        (0.3, 0.5),
        (*COMMON, {"allergy": 0.0}),
        0.85,
        1.0,
        lambda r: r in (0.0, 0.2, 0.6, 1.0),
        ("you have chronic gastric neuralgia . take pills .", "you have", "maybe head .", "hard to say ."),
    ),
}
every_seed = pytest.mark.parametrize("seed", range(12))
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_example = pytest.mark.parametrize(
    ("case", "example"),
    [(case, example) for case in CASES.values() for example in case.examples],
    ids=[f"{name}{i}" for name, case in CASES.items() for i in range(len(case.examples))],
)


def clear(case):
    return case.build(clear=1.0, vague=0.0)


def vague(case):
    return case.build(clear=0.0, vague=1.0)


def wrong(case):
    return case.build(clear=0.0, vague=0.0, mistaken=1.0)


every_user = pytest.mark.parametrize("user", [clear, vague, wrong])


@every_user
@every_example
def test_the_opening_hides_the_values(case, example, user, unchecked):
    (message,) = user(case).opening(example)
    assert message.role == "user" and not case.named(message.content)
    assert user(case).opening(case.other(example)) == [message]


@every_seed
@every_example
def test_a_clear_user_states_what_is_asked(case, example, seed):
    asks, task = case.asks(example), clear(case)
    assert [task.act(ask) for ask in asks.values()] == [f"ask_{slot}" for slot in asks]
    values = [[getattr(example, slot)] for slot in asks]
    assert [case.named(r) for r in hear(task, example, *asks.values(), seed=seed)] == values
    backwards = hear(task, example, *reversed(asks.values()), seed=seed)
    assert [case.named(r) for r in backwards] == values[::-1]


@every_seed
@every_example
@pytest.mark.parametrize("user", [vague, wrong])
def test_an_answer_is_repaired_at_once_only(case, example, user, seed):
    task, named = user(case), case.named
    repair, other = (case.clarify, VERIFY) if user is vague else (VERIFY, case.clarify)
    (slot, ask), (next_slot, next_ask) = case.asks(example).items()
    value, next_value = getattr(example, slot), getattr(example, next_slot)
    answer, repaired = hear(task, example, ask, repair, seed=seed)
    assert named(answer) == [] if user is vague else named(answer) and named(answer) != [value]
    assert named(repaired) == [value]
    assert named(hear(task, example, ask, f"ok . {repair}", seed=seed)[1]) == [value]
    assert named(hear(task, example, next_ask, repair, seed=seed)[1]) == [next_value]
    # The repair is about what was asked for last.
    assert named(hear(task, example, ask, repair, next_ask, repair, seed=seed)[3]) == [next_value]
    for between in (other, case.chat, ask, "so what", "", *case.between):
        late = hear(task, example, ask, between, repair, ask, repair, seed=seed)
        assert not any(map(named, late[2 if between in case.between else 1 :])), late
    # A second repair has nothing to add; another question in between leaves the first slot as it was.
    assert not any(map(named, hear(task, example, ask, repair, repair, ask, repair, seed=seed)[2:]))
    replies = hear(task, example, ask, next_ask, repair, ask, repair, seed=seed)
    assert named(replies[2]) == [next_value] and not any(map(named, replies[3:]))


@every_seed
@every_example
def test_the_wrong_repair_undoes_nothing(case, example, seed):
    for ask in case.asks(example).values():
        assert not case.named(hear(wrong(case), example, ask, case.clarify, seed=seed)[1])
        assert not case.named(hear(vague(case), example, ask, VERIFY, seed=seed)[1])
        replies = hear(clear(case), example, ask, VERIFY, case.clarify, seed=seed)
        assert not any(map(case.named, replies[1:]))


@every_seed
@every_example
def test_a_doubtful_user_may_be_right(case, example, seed):
    slot, ask = next(iter(case.asks(example).items()))
    (reply,) = hear(case.build(clear=0.0, vague=0.0, mistaken=0.0), example, ask, seed=seed)
    assert case.named(reply) == [getattr(example, slot)] and reply.startswith(("maybe", "i think", "i guess"))


@every_seed
@every_user
@every_case
def test_each_slot_is_told_once(case, user, seed):
    example = case.examples[0]
    for ask in case.asks(example).values():
        assert hear(user(case), example, ask, ask, ask, seed=seed)[1:] == [case.again] * 2
        assert hear(user(case), example, ask, case.chat, ask, seed=seed)[2] == case.again
    one, two = case.asks(example).values()
    assert hear(clear(case), example, one, two, one, seed=seed)[2] == case.again


@every_seed
@every_user
@pytest.mark.parametrize(
    ("case", "slot"), [(case, slot) for case in CASES.values() for slot in case.shortcuts]
)
def test_what_was_taken_for_granted_is_never_told(case, slot, user, seed):
    task, example, shortcut = user(case), case.examples[0], case.shortcuts[slot]
    assert task.act(shortcut) in task.shortcuts and task.act(shortcut).endswith(slot)
    for after in (case.asks(example)[slot], case.clarify, VERIFY, shortcut):
        replies = hear(task, example, shortcut, after, case.clarify, VERIFY, seed=seed)
        assert not any(map(case.named, replies))
    # The other slot is told all the same.
    ((other, ask),) = ((s, a) for s, a in case.asks(example).items() if s != slot)
    assert case.named(hear(clear(case), example, shortcut, ask, seed=seed)[1]) == [getattr(example, other)]


@every_case
def test_how_often_the_user_is_clear_vague_or_mistaken(case, unchecked):
    task, example = case.build(clear=0.45, vague=0.3, mistaken=0.9), case.examples[0]
    for slot, ask in case.asks(example).items():
        right, kinds, mistaken = [getattr(example, slot)], {}, 0
        for seed in range(2500):
            (reply,) = hear(task, example, ask, seed=seed)
            doubtful = reply.startswith(("maybe", "i think", "i guess"))
            kind = "vague" if not case.named(reply) else "doubtful" if doubtful else "clear"
            kinds[kind] = kinds.get(kind, 0) + 1
            mistaken += kind == "doubtful" and case.named(reply) != right
            assert kind != "clear" or case.named(reply) == right
        assert kinds["clear"] / 2500 == pytest.approx(0.45, abs=0.035)
        assert kinds["vague"] / 2500 == pytest.approx(0.3, abs=0.035)
        assert mistaken / kinds["doubtful"] == pytest.approx(0.9, abs=0.035)


@pytest.mark.parametrize("name", CASES)
def test_the_expert_solves_the_task_and_the_noisy_expert_does_not(name, mean_outcome, unchecked):
    task, (low, high) = get_task(name), CASES[name].noisy
    expert = mean_outcome(name, task.expert, 500)
    assert expert == 1.0 if name == "medical" else expert >= 0.95
    assert low <= mean_outcome(name, task.noisy_expert, 500) <= high


@pytest.mark.parametrize(
    ("name", "lacking"), [(n, lack) for n, case in CASES.items() for lack in case.lacking]
)
def test_the_expert_must_do_all_of_it(name, lacking, mean_outcome, unchecked):
    params = dataclasses.replace(get_task(name).expert, **lacking)
    assert mean_outcome(name, params, 200) < CASES[name].low


@pytest.mark.parametrize("name", CASES)
def test_the_expert_says_only_what_it_heard_and_makes_no_bad_turn(name, unchecked):
    """The same conversation with other hidden values gets the same answer: the expert does not know them."""
    task = get_task(name)
    for seed in range(100):
        example, messages, _ = scripted_dialogue(task, task.expert, random.Random(seed))
        assert set(task.turn_scores(example, messages)) == {1.0}
        for end in range(1, len(messages), 2):
            one, two = (
                task.scripted_policy(e, messages[:end], random.Random(seed), task.expert)
                for e in (example, CASES[name].other(example))
            )
            assert one == two


@pytest.mark.parametrize("name", CASES)
def test_turns_are_judged_by_what_came_before_and_not_by_the_hidden_values(name, unchecked):
    task, case = get_task(name), CASES[name]
    flawless = 0
    for seed in range(300):
        example, messages, outcome = scripted_dialogue(task, task.noisy_expert, random.Random(seed))
        scores = task.turn_scores(example, messages)
        assert set(scores) <= {0.0, 1.0}
        assert task.turn_scores(case.other(example), messages) == scores
        for end in range(len(messages) + 1):
            assert task.turn_scores(example, messages[:end]) == scores[: end // 2]
        # By the replies alone: the user told something new, or was vague, wherever a turn was good.
        for turn in range(len(scores) - 1):
            reply = messages[2 * turn + 2].content
            assert not scores[turn] or case.named(reply) or task.reply_kind(reply) == "vague"
        assert min(scores) == 0 or outcome >= case.flawless
        flawless += min(scores) == 1
    assert flawless > 10


@pytest.mark.parametrize("name", CASES)
def test_the_kinds_of_turns(name, unchecked):
    task, seen = get_task(name), set()
    for seed in range(300):
        _, messages, _ = scripted_dialogue(task, task.noisy_expert, random.Random(seed))
        kinds = task.turn_kinds(messages)
        acts = [task.act(m.content) for m in messages if m.role == "assistant"]
        assert len(kinds) == len(acts)
        for kind, act in zip(kinds, acts, strict=True):
            assert kind in (act, "missed repair") or (kind, act) == ("early draft", "draft")
        seen |= set(kinds)
    assert seen == set(task.kinds) and set(task.shortcuts) < set(task.kinds) > set(task.skills)


@every_case
def test_a_missed_repair_is_named_once(case):
    task, ask = case.build(), next(iter(case.asks(case.examples[0]).values()))
    unsure, doubtful = (task.replies[kind][0].format(value=3, item="pens") for kind in ("vague", "doubtful"))
    for answer, repair, name in ((unsure, case.clarify, "clarify"), (doubtful, VERIFY, "verify")):
        assert task.turn_kinds(conversation("hello", ask, answer, repair))[1] == name
        kinds = task.turn_kinds(conversation("hello", ask, answer, case.chat, "ok .", repair))
        assert kinds[1:] == ["missed repair", name]


def any_text(name):
    """Words of the task and pieces of its sentences in any order, and any other text."""
    case = CASES[name]
    pieces = [*case.build().words, *case.asks(case.examples[0]).values(), case.clarify, VERIFY]
    pieces += [*case.shortcuts.values(), *case.fragments, "{value}", "{", "%s", "\n", "", "<|end|>"]
    return st.lists(st.sampled_from(pieces), max_size=6).map(" ".join) | st.text(max_size=20)


@pytest.mark.parametrize("name", CASES)
@given(data=st.data(), seed=st.integers(0, 99), which=st.integers(0, 2))
def test_any_text_gets_a_reply_and_a_score(name, data, seed, which):
    task, rng, example = get_task(name), random.Random(seed), CASES[name].examples[which]
    words, messages = set(task.words), task.opening(example)
    for count, turn in enumerate(data.draw(st.lists(any_text(name), min_size=1, max_size=6)), 1):
        messages.append(Message("assistant", turn))
        assert CASES[name].outcomes(task.score(example, messages))
        scores, kinds = task.turn_scores(example, messages), task.turn_kinds(messages)
        assert len(scores) == len(kinds) == count
        assert set(scores) <= {0.0, 1.0} and set(kinds) <= set(task.kinds)
        # Stateless: the same messages and the same generator state give the same reply from any instance.
        state = rng.getstate()
        reply = task.reply(example, messages, rng)
        rng.setstate(state)
        assert CASES[name].build().reply(example, list(messages), rng) == reply
        assert reply is not None or task.act(turn) == task.final
        assert reply is None or name == "documents" or task.act(turn) != task.final
        if reply is None:
            break
        assert set(reply.split()) <= words
        messages.append(Message("user", reply))
        # The scripted policy goes on from any conversation.
        assert task.scripted_policy(example, messages, random.Random(seed), task.noisy_expert)


@pytest.mark.parametrize("options", [{"clear": 7.0}, {"vague": -0.1}, {"mistaken": 1.5}])
@pytest.mark.parametrize("name", TASKS)
def test_shares_of_a_task_are_from_0_to_1(name: str, options: dict[str, float]):
    with pytest.raises(ValueError, match="is .* it must be a share from 0 to 1"):
        get_task(name, options)
