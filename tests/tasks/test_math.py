"""Math tutoring: what is its own beside the engine's rules, which test_slots.py holds it to."""

import random

import pytest
from scripted import conversation, hear

from itpo.dialogue import Message
from itpo.tasks.math import MathTutoring, Problem, compute

TASK = MathTutoring()
PLUS = Problem("sam", "apples", "plus", 3, 4)
MINUS = Problem("ana", "coins", "minus", 6, 2)
TIMES = Problem("leo", "pens", "times", 5, 6)
ASK_FIRST = {"plus": "how many apples at first ?", "times": "how many boxes are there ?"}
ASK_SECOND = {"plus": "how many more apples came ?", "times": "how many pens in each box ?"}
CLARIFY, VERIFY = "exactly how many ?", "are you sure ?"


@pytest.mark.parametrize("example", [PLUS, MINUS, TIMES], ids=lambda p: p.operation)
def test_the_story_names_who_and_what(example):
    (message,) = TASK.opening(example)
    assert example.item in message.content and message.content.startswith(example.name)


@pytest.mark.parametrize("seed", range(12))
def test_both_repairs_at_once_are_a_verification(seed):
    doubtful = MathTutoring(clear=0.0, vague=0.0, mistaken=1.0)
    replies = hear(doubtful, PLUS, ASK_FIRST["plus"], f"{VERIFY} {CLARIFY}", VERIFY, seed=seed)
    assert "3" in replies[1].split() and replies[2] == "yes ."


@pytest.mark.parametrize("seed", range(12))
def test_an_answer_ends_the_conversation(seed):
    for text in ("so 3 plus 4 : the answer is 7 .", "answer is 99", f"{VERIFY} the answer is 1 ."):
        assert hear(TASK, PLUS, ASK_FIRST["plus"], text, seed=seed)[1] is None
    assert None not in hear(TASK, PLUS, "the answer", "the answer is", "answer : 7", seed=seed)


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
    story = TASK.opening(PLUS)
    assert TASK.score(PLUS, [*story, Message("assistant", text)]) == score


def test_score_reads_the_assistants_last_message_only():
    story = TASK.opening(PLUS)
    right, other = Message("assistant", "the answer is 7 ."), Message("assistant", "how many ?")
    assert TASK.score(PLUS, story) == 0.0
    assert TASK.score(PLUS, [*story, Message("user", "the answer is 7 .")]) == 0.0
    assert TASK.score(PLUS, [*story, right, Message("user", "ok ."), other]) == 0.0
    assert TASK.score(PLUS, [*story, other, Message("user", "the answer is 8 ."), right]) == 1.0


def test_problems_have_an_answer_that_can_be_said():
    words = set(TASK.words)
    for i in range(500):
        p = TASK.sample(random.Random(i))
        result = {"plus": p.first + p.second, "minus": p.first - p.second, "times": p.first * p.second}
        assert p.answer == result[p.operation] == compute(p.operation, p.first, p.second) >= 0
        assert str(p.answer) in words


def judged(example, *texts):
    """The judge's scores of a conversation, assistant and user in turns after the story."""
    return TASK.turn_scores(example, conversation(TASK.opening(example)[0].content, *texts))


FIRST_Q, SECOND_Q = "how many coins at first ?", "how many coins went away ?"


@pytest.mark.parametrize(
    ("texts", "scores"),
    [
        ((), []),
        (("let us draw a picture .",), [0]),
        ((CLARIFY, "you know that now .", VERIFY, "yes ."), [0, 0]),
        ((FIRST_Q, "it is 6 .", SECOND_Q, "it is 2 .", "so 6 minus 2 : the answer is 4 ."), [1, 1, 1]),
        ((SECOND_Q, "it is 2 .", FIRST_Q, "it is 6 .", "the answer is 4 ."), [1, 1, 1]),
        ((FIRST_Q, "it is 6 .", FIRST_Q, "you know that now .", SECOND_Q, "it is 2 ."), [1, 0, 1]),
        ((FIRST_Q, "it is 6 .", VERIFY, "yes .", CLARIFY, "you know that now ."), [1, 0, 0]),
        # Only the right repair after a vague or doubtful answer, and only at once.
        ((FIRST_Q, "quite a few .", CLARIFY, "it is 6 .", SECOND_Q), [1, 1, 1]),
        ((FIRST_Q, "a lot of coins .", VERIFY, "yes .", CLARIFY), [1, 0, 0]),
        ((FIRST_Q, "quite a few .", SECOND_Q, "it is 2 .", "the answer is 4 ."), [1, 0, 0]),
        ((FIRST_Q, "maybe 3 .", VERIFY, "oh , it is 6 .", SECOND_Q), [1, 1, 1]),
        ((FIRST_Q, "i think 3 .", CLARIFY, "you know that now .", VERIFY), [1, 0, 0]),
        ((FIRST_Q, "it is 6 .", SECOND_Q, "maybe 3 .", "the answer is 3 ."), [1, 1, 0]),
        # The judge follows the conversation, not the hidden numbers: 3 was told, 6 is meant.
        ((FIRST_Q, "maybe 3 .", SECOND_Q, "it is 2 .", "the answer is 1 ."), [1, 0, 1]),
        ((FIRST_Q, "maybe 3 .", SECOND_Q, "it is 2 .", "the answer is 4 ."), [1, 0, 0]),
        (
            (FIRST_Q, "maybe 3 .", VERIFY, "oh , it is 6 .", SECOND_Q, "it is 2 .", "answer is 4"),
            [1, 1, 1, 1],
        ),
        (
            (FIRST_Q, "maybe 3 .", VERIFY, "oh , it is 6 .", SECOND_Q, "it is 2 .", "answer is 1"),
            [1, 1, 1, 0],
        ),
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
def test_which_turns_are_good(texts, scores):
    assert judged(MINUS, *texts) == scores


@pytest.mark.parametrize(("example", "result"), [(PLUS, 6), (TIMES, 8)], ids=["plus", "times"])
def test_a_good_answer_is_the_storys_operation_on_what_was_told(example, result):
    texts = ASK_FIRST[example.operation], "it is 2 .", ASK_SECOND[example.operation], "it is 4 ."
    assert judged(example, *texts, f"the answer is {result} .") == [1, 1, 1]
    assert judged(example, *texts, f"the answer is {example.answer} .") == [1, 1, 0]


@pytest.mark.parametrize(
    ("text", "act"),
    [
        ("are you sure ? exactly how many ?", "verify"),
        ("exactly how many ? are you sure ? the answer is 3 .", "answer"),
        ("exactly how many apples at first ?", "clarify"),
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
    assert TASK.act(text) == act
