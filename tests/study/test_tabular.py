"""The table of the math task against its rules: what is known, what an answer is worth, and sums that must be 0."""

import random
from collections import defaultdict

import pytest
import torch

from itpo.dialogue import Dialogue, Message
from itpo.models.tiny import scripted_dialogue
from itpo.study.tabular import TabularOracle, is_tabular, moves
from itpo.tasks.registry import get_task


def dialogues(name: str, first: int, count: int) -> list[Dialogue]:
    task = get_task(name)
    held = []
    for seed in range(first, first + count):
        example, messages, outcome = scripted_dialogue(task, task.noisy_expert, random.Random(seed))
        held.append(Dialogue(example, tuple(messages), (), (), (), outcome))
    return held


def test_states_say_what_the_user_said() -> None:
    said = """ana has some pens and gets more . how many now ?
        how many pens at first ?| maybe 3 .| are you sure ?| sorry , it is 4 .
        let us say 2 more pens came .| fine .| how many more pens came ?| you know that now .
        so 4 plus 2 : the answer is 6 ."""
    first, *rest = [text.strip() for line in said.split("\n") for text in line.split("|")]
    roles = ["user", *["assistant", "user"] * 5][: len(rest) + 1]
    messages = [Message(role, text) for role, text in zip(roles, [first, *rest], strict=True)]
    assert moves(get_task("math"), messages) == [
        ((0, "unknown", "unknown", "other"), "ask_first"),
        ((1, "doubtful", "unknown", "doubtful"), "verify"),
        ((2, "told", "unknown", "other"), "assume_second"),
        ((3, "told", "assumed", "other"), "ask_second"),
        ((4, "told", "assumed", "other"), "answer"),
    ]


def test_a_number_is_told_exactly_if_the_user_has_said_the_hidden_one_for_certain() -> None:
    task, seen = get_task("math"), 0
    for dialogue in dialogues("math", 0, 300):
        for turn, ((number, *known, _), _) in enumerate(moves(task, dialogue.messages)):
            assert number == turn
            said = [m.content for m in dialogue.messages[: 2 * turn + 1] if m.role == "user"]
            sure = [t for t in said if t.startswith(("there are", "it is", "oh", "sorry"))]
            assert sum(value == "told" for value in known) == len(sure)
            seen += len(sure)
    assert seen > 300


def test_an_answer_from_two_told_numbers_is_right_and_others_lose() -> None:
    held = dialogues("math", 0, 700)
    oracle = TabularOracle(get_task("math"), held)
    gains, certain = defaultdict(list), 0
    table = oracle.advantages(held)
    for row, dialogue in zip(table, held, strict=True):
        steps = moves(get_task("math"), dialogue.messages)
        for worth, (state, act) in zip(row, steps, strict=False):
            gains[state].append(float(worth))
            if state[1:] == ("told", "told", "other") and act == "answer" and dialogue.outcome == 1.0:
                certain += 1
                assert worth >= -1e-6
    assert certain > 10 and oracle.states > 30
    for (
        values
    ) in gains.values():  # acts are worth nothing on average, where all of them were seen often enough
        assert abs(sum(values)) < 0.02 * len(values) + 10
    repairs = [
        float(row[turn])
        for row, dialogue in zip(table, held, strict=True)
        for turn, (state, act) in enumerate(moves(get_task("math"), dialogue.messages))
        if act in ("clarify", "verify")
    ]
    assert sum(repairs) / len(repairs) > 0.15, "the turns that repair an answer are what decides a dialogue"


def test_prose_has_the_same_table() -> None:
    plain, prose = (
        TabularOracle(get_task(name), dialogues(name, 0, 300), fewest=1) for name in ("math", "math_prose")
    )
    assert plain.states == prose.states
    torch.testing.assert_close(
        plain.advantages(dialogues("math", 0, 20)), prose.advantages(dialogues("math_prose", 0, 20))
    )


def test_what_was_seen_too_seldom_stands_for_itself() -> None:
    held = dialogues("math", 0, 5)
    assert not TabularOracle(get_task("math"), held).advantages(held).any()


@pytest.mark.parametrize("name", ["medical", "documents"])
def test_other_tasks_have_no_table(name: str) -> None:
    assert not is_tabular(get_task(name))
