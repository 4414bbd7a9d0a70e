"""Conversations of a person with a policy, or with a user that is scripted or played by a language model."""

from collections.abc import Callable, Iterator

import pytest

from itpo.__main__ import main
from itpo.apps.chat import Scene, Talker, converse, real_scene, scripted_scene
from itpo.apps.terminal import visible
from itpo.data import Example
from itpo.dialogue import Message
from itpo.rollout.endpoint import EndpointError
from itpo.specs import Endpoint
from itpo.tasks.registry import PROSE, TASKS, get_task

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


EVIL = "a\x1b[2J\x1b]0;title\x07b\rc\x9b1mc\x08\u202ed\u2066e\ud800\x00\nscore: 1.00\u2028user> f"


def test_nothing_that_others_say_steers_the_terminal_or_reads_as_someone_else(capsys) -> None:
    """Neither a server's words, nor hints, nor what the user knows, nor a server's errors."""

    def score(messages: list[Message]) -> float:
        raise EndpointError(EVIL)

    said, moves = {"assistant": lambda messages: EVIL}, {"assistant": lambda messages: [EVIL]}
    scene = Scene(EVIL, (Message("user", EVIL),), 2, said, moves, score)
    messages = converse(lambda messages: EVIL, scene, "assistant", hear=typed("?", "well", ""))
    assert messages[2].content == EVIL  # what is scored is what was said
    printed = capsys.readouterr().out
    assert printed.isascii() and all(letter.isprintable() or letter == "\n" for letter in printed)
    assert "user> a\\x1b[2J" in printed and "\\u202ed" in printed and "\\ud800" in printed
    begins = [
        line.split(">")[0].split(":")[0].split(".")[0] for line in printed.splitlines() if line[0] != " "
    ]
    said = ["user", "(you might say", "user", "The user knew", "no score"]
    assert begins == ["You play the assistant", "Find out what the user wants", *said]


def test_an_error_of_a_command_is_shown_so_too(tmp_path, capsys) -> None:
    assert main(["chat", "--data", str(tmp_path / "\x1b[2J\u202e"), "--format", "gsm8k", "--model", "m"]) == 2
    printed = capsys.readouterr().err
    assert r"\x1b[2J\u202e" in printed and printed.count("\n") == 1 and printed.strip().isprintable()


def test_ordinary_writing_is_shown_as_it_is() -> None:
    for text in ("naïve café", "日本語", "שלום", "👩\u200d👧", "tab\there", "x² ≤ √2 – “q”"):
        assert visible(text) == text


def test_a_policy_answers_in_its_own_words(tiny_folder) -> None:
    talker = Talker(tiny_folder, None, max_turn_tokens=6, seed=0)
    scene, words = scripted_scene(get_task("math"), seed=0), {*get_task("math").words, "<|end|>"}
    messages = converse(talker.answer, scene, say=lambda line: None, hear=typed("Maybe 3."))
    assert [m.role for m in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[2].content == "maybe 3 ." and set(messages[1].content.split()) <= words


def test_words_are_put_into_a_tasks_spelling_but_not_into_that_of_one_in_ordinary_writing() -> None:
    """Whose model learned capitals, and whose user and score read any writing."""
    for name, said in (("math", "is it 3 . really ?"), ("math_prose", "Is it 3. Really?")):
        scene = scripted_scene(get_task(name), seed=0)
        lines = typed("Is it 3. Really?", "")
        messages = converse(scene.parties["user"], scene, "assistant", lambda line: None, lines)
        assert messages[1].content == said
    moves = scene.moves["user"](messages[:2])
    assert moves and all(move[0].isupper() for move in moves)
    lines = typed("a", "")
    heard = converse(lambda messages: "How many?", scene, "user", lambda line: None, lines)[2].content
    assert heard[0].isupper() and " ." not in heard


@pytest.mark.parametrize("role", ["user", "assistant"])
@pytest.mark.parametrize("name", [*TASKS, *PROSE])
def test_the_letter_of_a_move_says_it_and_looking_changes_nothing(name: str, role: str) -> None:
    """Every move offered is one that the scripted party may make here; there are several of them, each of another kind."""

    def talk(hear: Callable[[list[str]], str]) -> tuple[list[Message], list[str]]:
        scene, shown = scripted_scene(get_task(name), seed=2), []
        other = scene.parties["assistant" if role == "user" else "user"]
        return converse(other, scene, role, shown.append, lambda prompt: hear(shown)), shown

    def letter(shown: list[str]) -> str:
        return (
            "a)" if shown[-1].startswith("  ") and sum(line.startswith("  a  ") for line in shown) < 4 else ""
        )

    messages, shown = talk(letter)
    moves = [line[5:] for line in shown if line.startswith("  a  ")]
    own = [message.content for message in messages if message.role == role][role == "user" :]
    assert own == moves[: len(own)] and len(own) > 1 and any(line.startswith("  b  ") for line in shown)
    words = iter([*own, ""])
    assert talk(lambda shown: next(words))[0] == messages
