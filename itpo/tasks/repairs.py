"""What assistant turns are called in tables and figures, for tasks in which some answers call for repair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from itpo.dialogue import Message


def turn_kinds(
    messages: Sequence[Message],
    act_of: Callable[[str], str],
    kind_of: Callable[[str], str],
    repairs: Mapping[str, str],
) -> list[str]:
    """The act of each assistant turn, or "missed repair" where it should have undone the answer before it.

    ``act_of`` reads the act of an assistant message, ``kind_of`` the kind of a user message, and ``repairs`` names the only
    act that undoes an answer of a kind; other kinds need none.

    >>> roles = "user", "assistant", "user", "assistant"
    >>> messages = [Message(role, text) for role, text in zip(roles, ("vague", "chat", "clear", "answer"))]
    >>> turn_kinds(messages, str, str, {"vague": "press"})
    ['missed repair', 'answer']
    """
    kinds: list[str] = []
    wanted: str | None = None
    for message in messages:
        if message.role != "assistant":
            wanted = repairs.get(kind_of(message.content))
            continue
        act = act_of(message.content)
        kinds.append("missed repair" if wanted and act != wanted else act)
    return kinds
