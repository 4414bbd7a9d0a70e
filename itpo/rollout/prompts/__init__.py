"""The prompts of simulated users and judges, as text files of this folder; all are our own wording [O].

They ask for what is known of the paper's: a JSON reply with a thought and a response, and ``[[TERMINATE CHAT]]`` to end [S].
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from string import Template

from itpo.dialogue import Message


def fill(name: str, **fields: str) -> str:
    """The prompt of the file ``<name>.txt`` with its ``$fields`` filled in.

    Raises ``FileNotFoundError`` for an unknown prompt, ``KeyError`` for a field that it has and ``fields`` has not.

    >>> fill("judge_accuracy", conversation="...", reference="42").count("42")
    1
    """
    text = files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(fields).strip()


def transcript(messages: Sequence[Message], user: str = "User", assistant: str = "Assistant") -> str:
    """A conversation as text, without system messages.

    >>> print(transcript([Message("user", "hello"), Message("assistant", "hi")]))
    User: hello
    Assistant: hi
    """
    names = {"user": user, "assistant": assistant}
    return "\n".join(f"{names[m.role]}: {m.content}" for m in messages if m.role in names)
