"""The registry of scripted tasks, tasks from outside the package, and what holds for every task's words."""

import random

import pytest
from own_task import Guess

from itpo.chat import ChatFormat
from itpo.config import TaskSpec
from itpo.models.tiny import build_tokenizer, scripted_dialogue
from itpo.tasks.base import ScriptedTask, Task
from itpo.tasks.registry import NAMES, PROSE, TASKS, TaskEntry, default_options, get_entry, get_task


def test_unknown_tasks_are_named_with_the_known():
    with pytest.raises(
        ValueError, match="unknown task 'chess'; known tasks: .*math.*, or module:name of your own"
    ):
        get_task("chess")
    with pytest.raises(ValueError, match="task is 'chess'; it must be one of math,"):
        TaskSpec("chess")


@pytest.mark.parametrize("name", NAMES)
def test_the_task_is_known_by_its_name(name):
    task = get_task(name, {"turns": 3, "pivots": 1} if name == "corridor" else {})
    assert isinstance(task, ScriptedTask) and isinstance(task, Task) and task.name == name
    entry = get_entry(name)
    assert entry.name == name and entry.title and bool(entry.measure) == bool(entry.beside)
    example = task.sample(random.Random(0))
    hidden = entry.hidden(example)
    assert isinstance(hidden, str) and hidden not in task.opening(example)[0].content
    assert entry.measure is None or 0 <= entry.measure(example, task.opening(example)) <= 1


@pytest.mark.parametrize("name", [*TASKS, *PROSE])
def test_options_reach_the_task_and_unknown_ones_are_refused(name):
    assert {"clear", "vague", "mistaken"} <= set(default_options(name)) == set(TaskSpec(name).options)
    task = TaskSpec(name, {"clear": 0.9}).build()
    assert getattr(task, "task", task).clear == 0.9
    with pytest.raises(
        ValueError, match=f"options of task {name!r}: .*'blur'; it has: clear, vague, mistaken"
    ):
        get_task(name, {"blur": 1.0})


@pytest.mark.parametrize("attribute", ["Guess", "ENTRY"])
def test_a_readers_own_task_is_a_class_or_an_entry(attribute):
    name = f"own_task:{attribute}"
    spec = TaskSpec(name, version=3)
    assert spec.options == {"sides": 2} and isinstance(spec.entry, TaskEntry) and spec.entry.version == 3
    task = TaskSpec(name, {"sides": 4}, version=3).build()
    assert isinstance(task, Guess) and task.sides == 4
    assert spec.entry.title == ("guessing" if attribute == "ENTRY" else "Guess")
    with pytest.raises(ValueError, match="version of own_task:.* is 2; it must be the 3 that it states"):
        TaskSpec(name, version=2)
    with pytest.raises(ValueError, match="options of task 'own_task:.*'; it has: sides"):
        TaskSpec(name, {"faces": 4}, version=3)
    with pytest.raises(ValueError, match="a coin has 2 sides or more, not 1"):
        TaskSpec(name, {"sides": 1}, version=3)


@pytest.mark.parametrize("name", TASKS)
def test_every_word_is_in_the_vocabulary(name, unchecked):
    task = get_task(name)
    tokenizer = build_tokenizer(task.words)
    chat, words, heard = ChatFormat(tokenizer), set(task.words), set()
    assert task.words == sorted(words) and not any("{" in w or " " in w for w in words)
    for seed in range(500):
        params = (task.expert, task.noisy_expert)[seed % 2]
        _, messages, _ = scripted_dialogue(task, params, random.Random(seed))
        ids, _ = chat.encode(messages)
        assert tokenizer.unk_token_id not in ids and len(ids) <= 110
        for message in messages:
            heard |= set(message.content.split())
            assert chat.text(chat.assistant_ids(message.content)) == message.content
            assert message.role == "user" or len(chat.assistant_ids(message.content)) <= 24
    assert heard <= words
