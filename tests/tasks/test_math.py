"""Math tutoring: every rule of the module's text by a scripted conversation, and its limits on any text."""

import dataclasses
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itpo.dialogue import Message
from itpo.models.tiny import scripted_dialogue
from itpo.tasks.math import EXPERT, NOISY_EXPERT, MathTutoring, Problem, act_of, compute
from itpo.tasks.registry import get_task

PLUS = Problem("sam", "apples", "plus", 3, 4)
MINUS = Problem("ana", "coins", "minus", 6, 2)
TIMES = Problem("leo", "pens", "times", 5, 6)
PROBLEMS = (PLUS, MINUS, TIMES)
ASK_FIRST = {"plus": "how many apples at first ?", "minus": "how many coins at first ?"}
ASK_FIRST["times"] = "how many boxes are there ?"
ASK_SECOND = {"plus": "how many more apples came ?", "minus": "how many coins went away ?"}
ASK_SECOND["times"] = "how many pens in each box ?"
PRESS, CHECK = "exactly how many ?", "are you sure ?"
CLEAR = MathTutoring(clear=1.0, vague=0.0)
VAGUE = MathTutoring(clear=0.0, vague=1.0)
WRONG = MathTutoring(clear=0.0, vague=0.0, mistaken=1.0)
UNSURE = MathTutoring(clear=0.0, vague=0.0, mistaken=0.0)


def hear(task, example, *turns, seed=0):
    """The user's replies to these assistant turns, one after another."""
    rng = random.Random(seed)
    messages, replies = task.opening(example), []
    for turn in turns:
        messages.append(Message("assistant", turn))
        replies.append(task.reply(example, messages, rng))
        messages.append(Message("user", str(replies[-1])))
    return replies


def numbers(text):
    return [int(n) for n in re.findall(r"\d+", text)]


every_seed = pytest.mark.parametrize("seed", range(12))


@pytest.mark.parametrize("example", PROBLEMS, ids=lambda p: p.operation)
def test_the_story_hides_its_numbers(example):
    for task in (CLEAR, VAGUE, WRONG):
        (message,) = task.opening(example)
        assert message.role == "user" and not numbers(message.content)
        assert example.item in message.content and message.content.startswith(example.name)


@every_seed
@pytest.mark.parametrize("example", PROBLEMS, ids=lambda p: p.operation)
def test_a_clear_user_states_what_is_asked(example, seed):
    asks = ASK_FIRST[example.operation], ASK_SECOND[example.operation]
    assert [act_of(ask) for ask in asks] == ["ask_first", "ask_second"]
    assert [numbers(r) for r in hear(CLEAR, example, *asks, seed=seed)] == [[example.first], [example.second]]
    swapped = hear(CLEAR, example, *reversed(asks), seed=seed)
    assert [numbers(r) for r in swapped] == [[example.second], [example.first]]


@every_seed
@pytest.mark.parametrize("example", PROBLEMS, ids=lambda p: p.operation)
def test_a_vague_answer_is_repaired_by_pressing_at_once_only(example, seed):
    first, second = ASK_FIRST[example.operation], ASK_SECOND[example.operation]
    vague, repaired = hear(VAGUE, example, first, PRESS, seed=seed)
    assert not numbers(vague) and numbers(repaired) == [example.first]
    assert numbers(hear(VAGUE, example, first, f"ok . {PRESS}", seed=seed)[1]) == [example.first]
    # Pressing repairs the number that was asked for last, whichever it is.
    assert numbers(hear(VAGUE, example, first, PRESS, second, PRESS, seed=seed)[3]) == [example.second]
    for between in (CHECK, "take your time .", first, "so what", ""):
        late = hear(VAGUE, example, first, between, PRESS, seed=seed)
        assert not any(map(numbers, late)), late
    # Another number in between: pressing is about that one, and the first stays unknown.
    replies = hear(VAGUE, example, first, second, PRESS, first, PRESS, seed=seed)
    assert [numbers(r) for r in replies] == [[], [], [example.second], [], []]


@every_seed
@pytest.mark.parametrize("example", PROBLEMS, ids=lambda p: p.operation)
def test_a_doubtful_answer_is_repaired_by_checking_at_once_only(example, seed):
    first, second = ASK_FIRST[example.operation], ASK_SECOND[example.operation]
    doubtful, repaired = hear(WRONG, example, first, CHECK, seed=seed)
    assert numbers(doubtful) and numbers(doubtful) != [example.first]
    assert numbers(repaired) == [example.first]
    assert numbers(hear(WRONG, example, second, CHECK, seed=seed)[1]) == [example.second]
    for between in (PRESS, "take your time .", first, CHECK + " exactly how many ?"):
        replies = hear(WRONG, example, first, between, CHECK, seed=seed)
        late = replies[2]
        assert not numbers(late), replies
    replies = hear(WRONG, example, first, second, CHECK, first, CHECK, seed=seed)
    assert numbers(replies[2]) == [example.second] and not numbers(replies[3]) and not numbers(replies[4])


@every_seed
def test_pressing_does_not_repair_a_doubtful_answer_nor_checking_a_vague_one(seed):
    assert not numbers(hear(WRONG, PLUS, ASK_FIRST["plus"], PRESS, seed=seed)[1])
    assert not numbers(hear(VAGUE, PLUS, ASK_FIRST["plus"], CHECK, seed=seed)[1])
    assert numbers(hear(UNSURE, PLUS, ASK_FIRST["plus"], seed=seed)[0]) == [3]


@every_seed
@pytest.mark.parametrize("task", [CLEAR, VAGUE, WRONG])
def test_each_number_is_told_once(task, seed):
    ask = ASK_FIRST["plus"]
    again = hear(task, PLUS, ask, ask, ask, seed=seed)[1:]
    assert again == ["you know that now ."] * 2
    assert numbers(hear(CLEAR, PLUS, ask, ASK_SECOND["plus"], ask, seed=seed)[2]) == []


@every_seed
@pytest.mark.parametrize("which", ["first", "second"])
def test_an_assumed_number_is_never_told(which, seed):
    ask = {"first": ASK_FIRST, "second": ASK_SECOND}[which]["plus"]
    what = {"first": "apples at first", "second": "more apples came"}[which]
    assume = f"let us say 5 {what} ."
    assert act_of(assume) == f"assume_{which}"
    for task in (CLEAR, VAGUE, WRONG):
        for after in (ask, PRESS, CHECK, assume):
            assert not any(map(numbers, hear(task, PLUS, assume, after, PRESS, CHECK, seed=seed)))
    # The other number is told all the same.
    other = {"first": ASK_SECOND, "second": ASK_FIRST}[which]["plus"]
    assert numbers(hear(CLEAR, PLUS, assume, other, seed=seed)[1]) == [
        PLUS.second if which == "first" else PLUS.first
    ]


@every_seed
def test_an_answer_ends_the_conversation(seed):
    for text in ("so 3 plus 4 : the answer is 7 .", "answer is 99", f"{CHECK} the answer is 1 ."):
        assert hear(CLEAR, PLUS, ASK_FIRST["plus"], text, seed=seed)[1] is None
    assert None not in hear(CLEAR, PLUS, "the answer", "the answer is", "answer : 7", seed=seed)


def test_how_often_the_user_is_clear_vague_or_mistaken(unchecked):
    task, kinds, wrong = MathTutoring(clear=0.5, vague=0.25, mistaken=0.9), {}, 0
    for seed in range(2500):
        (reply,) = hear(task, PLUS, ASK_FIRST["plus"], seed=seed)
        kind = (
            "vague"
            if not numbers(reply)
            else "doubtful"
            if reply.startswith(("maybe", "i think"))
            else "clear"
        )
        kinds[kind] = kinds.get(kind, 0) + 1
        wrong += kind == "doubtful" and numbers(reply) != [3]
        assert kind != "clear" or numbers(reply) == [3]
    assert kinds["clear"] / 2500 == pytest.approx(0.5, abs=0.035)
    assert kinds["vague"] / 2500 == pytest.approx(0.25, abs=0.035)
    assert wrong / kinds["doubtful"] == pytest.approx(0.9, abs=0.035)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("so 3 plus 4 : the answer is 7 .", 1.0),
        ("the answer is 7", 1.0),
        ("the answer is 8 . no , the answer is 7 .", 1.0),
        ("the answer is 7 . no , the answer is 8 .", 0.0),
        ("the answer is 77 .", 0.0),
        ("the answer is 70 .", 0.0),
        ("so 3 plus 4 : the answer is 8 .", 0.0),
        ("7", 0.0),
        ("the answer is seven .", 0.0),
        ("the answer is", 0.0),
        ("", 0.0),
    ],
)
def test_score_is_an_exact_match_of_the_last_answer(text, score):
    story = CLEAR.opening(PLUS)
    assert CLEAR.score(PLUS, [*story, Message("assistant", text)]) == score


def test_score_reads_the_assistants_last_message_only():
    story = CLEAR.opening(PLUS)
    right, other = Message("assistant", "the answer is 7 ."), Message("assistant", "how many ?")
    assert CLEAR.score(PLUS, story) == 0.0
    assert CLEAR.score(PLUS, [*story, Message("user", "the answer is 7 .")]) == 0.0
    assert CLEAR.score(PLUS, [*story, right, Message("user", "ok ."), other]) == 0.0
    assert CLEAR.score(PLUS, [*story, other, Message("user", "the answer is 8 ."), right]) == 1.0


def test_problems_have_an_answer_that_can_be_said():
    words = set(CLEAR.words)
    for i in range(500):
        p = CLEAR.sample(random.Random(i))
        result = {"plus": p.first + p.second, "minus": p.first - p.second, "times": p.first * p.second}
        assert p.answer == result[p.operation] == compute(p.operation, p.first, p.second) >= 0
        assert str(p.answer) in words


def test_the_ideal_tutor_solves_the_task_and_the_novice_does_not(mean_outcome, unchecked):
    assert mean_outcome("math", EXPERT, 500) >= 0.95
    assert 0.3 <= mean_outcome("math", NOISY_EXPERT, 500) <= 0.55


@pytest.mark.parametrize(
    "lacking", [{"press": 0.0}, {"check": 0.0}, {"assume": 0.5}, {"chat": 0.7}], ids=lambda h: next(iter(h))
)
def test_every_habit_matters(lacking, mean_outcome, unchecked):
    assert mean_outcome("math", dataclasses.replace(EXPERT, **lacking), 200) < 0.85


def test_the_tutor_says_only_what_it_heard(unchecked):
    """The same conversation with other hidden numbers gets the same answer: the tutor does not know them."""
    task = get_task("math")
    for seed in range(50):
        example, messages, _ = scripted_dialogue(task, EXPERT, random.Random(seed))
        other = dataclasses.replace(example, first=example.first + 1, second=example.second + 1)
        for end in range(1, len(messages), 2):
            one, two = (
                task.scripted_policy(e, messages[:end], random.Random(seed), EXPERT) for e in (example, other)
            )
            assert one == two


def judged(example, *said):
    """The judge's scores of a conversation, assistant and user in turns after the story."""
    messages = CLEAR.opening(example)
    for i, text in enumerate(said):
        messages.append(Message(("assistant", "user")[i % 2], text))
    return CLEAR.turn_scores(example, messages)


FIRST_Q, SECOND_Q = "how many coins at first ?", "how many coins went away ?"


@pytest.mark.parametrize(
    ("said", "scores"),
    [
        ((), []),
        (("let us draw a picture .",), [0]),
        ((PRESS, "you know that now .", CHECK, "yes ."), [0, 0]),
        ((FIRST_Q, "it is 6 .", SECOND_Q, "it is 2 .", "so 6 minus 2 : the answer is 4 ."), [1, 1, 1]),
        ((SECOND_Q, "it is 2 .", FIRST_Q, "it is 6 .", "the answer is 4 ."), [1, 1, 1]),
        ((FIRST_Q, "it is 6 .", FIRST_Q, "you know that now .", SECOND_Q, "it is 2 ."), [1, 0, 1]),
        ((FIRST_Q, "it is 6 .", CHECK, "yes .", PRESS, "you know that now ."), [1, 0, 0]),
        # Only the right repair after a vague or doubtful answer, and only at once.
        ((FIRST_Q, "quite a few .", PRESS, "it is 6 .", SECOND_Q), [1, 1, 1]),
        ((FIRST_Q, "a lot of coins .", CHECK, "yes .", PRESS), [1, 0, 0]),
        ((FIRST_Q, "quite a few .", SECOND_Q, "it is 2 .", "the answer is 4 ."), [1, 0, 0]),
        ((FIRST_Q, "maybe 3 .", CHECK, "oh , it is 6 .", SECOND_Q), [1, 1, 1]),
        ((FIRST_Q, "i think 3 .", PRESS, "you know that now .", CHECK), [1, 0, 0]),
        ((FIRST_Q, "it is 6 .", SECOND_Q, "maybe 3 .", "the answer is 3 ."), [1, 1, 0]),
        # The judge follows the conversation, not the hidden numbers: 3 was told, 6 is meant.
        ((FIRST_Q, "maybe 3 .", SECOND_Q, "it is 2 .", "the answer is 1 ."), [1, 0, 1]),
        ((FIRST_Q, "maybe 3 .", SECOND_Q, "it is 2 .", "the answer is 4 ."), [1, 0, 0]),
        ((FIRST_Q, "maybe 3 .", CHECK, "oh , it is 6 .", SECOND_Q, "it is 2 .", "answer is 4"), [1, 1, 1, 1]),
        ((FIRST_Q, "maybe 3 .", CHECK, "oh , it is 6 .", SECOND_Q, "it is 2 .", "answer is 1"), [1, 1, 1, 0]),
        ((FIRST_Q, "maybe 2 .", SECOND_Q, "it is 5 .", "so 5 minus 2 : the answer is 3 ."), [1, 0, 1]),
        # Nothing is known of an assumed number, of one that was not asked for, or of one that the tutor said itself.
        (("let us say 6 coins at first .", "fine .", FIRST_Q, "you know that now ."), [0, 0]),
        (("let us say 6 coins at first .", "fine .", SECOND_Q, "it is 2 .", "the answer is 4 ."), [0, 1, 0]),
        ((SECOND_Q, "it is 2 .", "the answer is 4 ."), [1, 0]),
        (("the answer is 4 .",), [0]),
        (("is it 6 at first ?", "a lot of coins .", SECOND_Q, "it is 2 .", "the answer is 4 ."), [1, 0, 0]),
        # What was told stays told, whatever is assumed or said about it afterwards.
        (
            (
                FIRST_Q,
                "it is 6 .",
                "let us say 3 coins at first .",
                "you know that now .",
                SECOND_Q,
                "it is 2 .",
                "the answer is 4 .",
            ),
            [1, 0, 1, 1],
        ),
        # The last answer of a message counts, as it does for the outcome.
        (
            (FIRST_Q, "it is 6 .", SECOND_Q, "it is 2 .", "the answer is 8 . no , the answer is 4 ."),
            [1, 1, 1],
        ),
        (
            (FIRST_Q, "it is 6 .", SECOND_Q, "it is 2 .", "the answer is 4 . no , the answer is 8 ."),
            [1, 1, 0],
        ),
    ],
)
def test_which_turns_are_good(said, scores):
    assert judged(MINUS, *said) == scores


@pytest.mark.parametrize(("example", "result"), [(PLUS, 6), (TIMES, 8)], ids=["plus", "times"])
def test_a_good_answer_is_the_storys_operation_on_what_was_told(example, result):
    said = ASK_FIRST[example.operation], "it is 2 .", ASK_SECOND[example.operation], "it is 4 ."
    assert judged(example, *said, f"the answer is {result} .") == [1, 1, 1]
    assert judged(example, *said, f"the answer is {example.answer} .") == [1, 1, 0]


def test_turns_are_judged_by_what_came_before_and_not_by_the_hidden_numbers(unchecked):
    task = get_task("math")
    for seed in range(300):
        example, messages, outcome = scripted_dialogue(task, NOISY_EXPERT, random.Random(seed))
        scores = task.turn_scores(example, messages)
        other = dataclasses.replace(example, first=example.first + 1, second=example.second + 1)
        assert task.turn_scores(other, messages) == scores
        for end in range(len(messages) + 1):
            assert task.turn_scores(example, messages[:end]) == scores[: end // 2]
        # By the replies alone: the user told something new wherever a turn was good.
        for turn in range(len(scores) - 1):
            reply = messages[2 * turn + 2].content
            assert not scores[turn] or numbers(reply) or reply.startswith(("quite", "a lot"))
        assert min(scores) == 0 or outcome == 1


@pytest.mark.parametrize(
    ("text", "act"),
    [
        ("are you sure ? exactly how many ?", "check"),
        ("exactly how many ? are you sure ? the answer is 3 .", "answer"),
        ("exactly how many apples at first ?", "press"),
        ("apples at first more apples came", "ask_first"),
        ("let us say 3 more apples came apples at first .", "assume_first"),
        ("let us say 3", "chat"),
        ("the answer is", "chat"),
        ("answer is 3", "answer"),
        ("", "chat"),
        ("at first", "ask_first"),
        ("in each box", "ask_second"),
    ],
)
def test_what_an_assistant_message_does(text, act):
    assert act_of(text) == act == get_task("math").act(text)


fragments = [
    *MathTutoring().words,
    ASK_FIRST["plus"],
    ASK_SECOND["times"],
    PRESS,
    CHECK,
    "answer is 7",
    "let us say",
]
fragments += ["{n}", "{item}", "{", "%s", "\n", "", "12345678901234567890", "٣", "-1", "<|end|>", "maybe 3 ."]
anything = st.lists(st.sampled_from(fragments), max_size=6).map(" ".join) | st.text(max_size=20)


@given(
    turns=st.lists(anything, min_size=1, max_size=5), seed=st.integers(0, 99), which=st.sampled_from(PROBLEMS)
)
def test_any_text_gets_a_reply_and_a_score(turns, seed, which):
    task, rng = get_task("math"), random.Random(seed)
    words = set(task.words)
    messages = task.opening(which)
    for turn in turns:
        messages.append(Message("assistant", turn))
        assert task.score(which, messages) in (0.0, 1.0)
        scores = task.turn_scores(which, messages)
        assert len(scores) == len(messages) // 2 and set(scores) <= {0.0, 1.0}
        # Stateless: the same messages and the same generator state give the same reply from any instance.
        state = rng.getstate()
        reply = task.reply(which, messages, rng)
        rng.setstate(state)
        assert MathTutoring().reply(which, list(messages), rng) == reply
        assert (reply is None) == (act_of(turn) == "answer")
        if reply is None:
            break
        assert set(reply.split()) <= words
        messages.append(Message("user", reply))


@given(turns=st.lists(anything, min_size=1, max_size=5), seed=st.integers(0, 99))
def test_the_tutor_goes_on_from_any_conversation(turns, seed):
    task = get_task("math")
    messages = task.opening(PLUS)
    for turn in turns:
        messages.append(Message("assistant", turn))
        reply = task.reply(PLUS, messages, random.Random(seed))
        if reply is None:
            return
        messages.append(Message("user", reply))
        assert task.scripted_policy(PLUS, messages, random.Random(seed), NOISY_EXPERT)
