"""What holds for every embedded task; the rules of each are in a file of its own."""

import random

import pytest

from itpo.dialogue import ChatFormat
from itpo.models.tiny import build_tokenizer, scripted_dialogue
from itpo.tasks.base import ScriptedTask, Task
from itpo.tasks.registry import TASKS, get_task


def test_unknown_tasks_are_named_with_the_known():
    with pytest.raises(ValueError, match="unknown task 'chess'; known tasks: .*math"):
        get_task("chess")


@pytest.mark.parametrize("name", TASKS)
def test_the_task_is_known_by_its_name(name):
    task = get_task(name)
    assert isinstance(task, ScriptedTask) and isinstance(task, Task) and task.name == name


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
