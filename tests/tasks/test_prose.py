"""The scripted tasks in ordinary writing: the same conversations, read and scored alike."""

import random
import re

import pytest

from itpo.dialogue import Message
from itpo.models.tiny import scripted_dialogue
from itpo.tasks.base import ScriptedTask
from itpo.tasks.prose import read, write
from itpo.tasks.registry import PROSE, get_task


@pytest.mark.parametrize("name", PROSE)
def test_conversations_are_those_of_the_task(name):
    prose, plain = get_task(name), get_task(name.removesuffix("_prose"))
    assert isinstance(prose, ScriptedTask) and prose.name == name
    for seed in range(300):
        params = (plain.expert, plain.noisy_expert)[seed % 2]
        example, written, outcome = scripted_dialogue(prose, params, random.Random(seed))
        same, spoken, plain_outcome = scripted_dialogue(plain, params, random.Random(seed))
        assert (example, outcome) == (same, plain_outcome)
        assert [(m.role, read(m.content)) for m in written] == [(m.role, m.content) for m in spoken]
        assert prose.turn_kinds(written) == plain.turn_kinds(spoken)
        assert prose.turn_scores(example, written) == plain.turn_scores(example, spoken)
        assert [prose.act(m.content) for m in written] == [plain.act(m.content) for m in spoken]


@pytest.mark.parametrize("name", PROSE)
def test_it_looks_like_writing(name):
    task = get_task(name)
    for seed in range(100):
        for message in scripted_dialogue(task, task.noisy_expert, random.Random(seed))[1]:
            text = message.content
            assert text[0].isupper() or text[0].isdigit()
            assert not re.search(r"\s[.,:;?!]|[.?!] [a-z]|\bi\b", text), text


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("The answer is 12.", "the answer is 12 ."),
        ("so 3.5 pens,\n ok ?", "so 3.5 pens , ok ?"),
        ("Are  you SURE?!", "are you sure ? !"),
        ("", ""),
    ],
)
def test_what_a_model_may_write_is_read(text, same):
    assert read(text) == same == read(write(same))


def test_an_answer_is_found_in_any_writing():
    task = get_task("math_prose")
    problem = task.sample(random.Random(0))
    messages = [*task.opening(problem), Message("assistant", f"Great!\nTHE  ANSWER is {problem.answer}.")]
    assert task.score(problem, messages) == 1.0 and task.reply(problem, messages, random.Random(0)) is None
