"""Conversations of a person with a policy, or with a user that is scripted or played by a language model."""

from collections.abc import Callable, Iterator

import pytest

from itpo.apps.chat import Scene, Talker, converse, real_scene, scripted_scene
from itpo.data import Example
from itpo.dialogue import Message
from itpo.specs import Endpoint
from itpo.tasks.registry import TASKS, get_task

NOBODY = Endpoint("http://127.0.0.1:9/v1", "m", attempts=1)


def typed(*lines: str) -> Callable[[str], str]:
    """What a person types, and then the end of the input."""
    left: Iterator[str] = iter(lines)

    def hear(prompt: str) -> str:
        for line in left:
            return line
        raise EOFError

    return hear


@pytest.mark.parametrize("name", TASKS)
def test_a_person_who_takes_every_hint_solves_the_task(name: str) -> None:
    """As the assistant, whose hints are those of the expert policy; and those of the user keep the conversation going."""
    scene = scripted_scene(get_task(name), seed=1)
    shown: list[str] = []

    def hear(prompt: str) -> str:
        asked = shown and shown[-1].startswith("(you might say: ")
        return shown.pop()[len("(you might say: ") : -1] if asked else "?"

    messages = converse(scene.parties["user"], scene, "assistant", shown.append, hear)
    assert shown[-1] == "score: 1.00" and shown[-2] == f"The user knew: {scene.knows}"
    assert [m.role for m in messages] == ["user", "assistant"] * (len(messages) // 2)


def test_turns_are_limited_and_only_the_other_is_shown() -> None:
    scene = Scene("all", (Message("user", "hi"),), 2, score=lambda messages: len(messages) / 10)
    shown: list[str] = []
    messages = converse(lambda messages: "yes", scene, say=shown.append, hear=typed("a", "b", "c"))
    assert [message.content for message in messages] == ["hi", "yes", "a", "yes"]
    assert shown[0].startswith("You play the user. There are 2 assistant turns.") and "hint" not in shown[0]
    assert shown[0].endswith("\nWhat you know: all")
    assert shown[1:] == ["user> hi", "assistant> yes", "assistant> yes", "score: 0.40"]


def test_nothing_said_is_not_scored() -> None:
    scene, shown = scripted_scene(get_task("math"), seed=0), []
    assert len(converse(scene.parties["user"], scene, "assistant", shown.append, typed())) == 1
    assert shown[-1].startswith("The user knew: ")


def test_a_judge_who_is_gone_is_no_score() -> None:
    prompt = (Message("user", "I cough."),)
    example = Example("p", "medical", prompt, "since today", {"diagnosis": "a", "recommendation": "b"})
    scene, shown = real_scene([example], 0, NOBODY), []
    converse(lambda messages: None, scene, "assistant", shown.append, typed("It is a cold."))
    assert scene.opening == prompt and shown[-1].startswith("no score: no reply from http://127.0.0.1:9/v1")


def test_a_policy_answers_in_its_own_words(tiny_folder) -> None:
    talker = Talker(tiny_folder, None, max_turn_tokens=6, seed=0)
    scene, words = scripted_scene(get_task("math"), seed=0), {*get_task("math").words, "<|end|>"}
    messages = converse(talker.answer, scene, say=lambda line: None, hear=typed("Maybe 3."))
    assert [m.role for m in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[2].content == "maybe 3 ." and set(messages[1].content.split()) <= words
