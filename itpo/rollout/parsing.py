"""What a language model replied, read leniently: JSON in any wrapping, broken JSON repaired, and nothing ever evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

TERMINATE = "[[TERMINATE CHAT]]"  # what a simulated user says to end the conversation [S]


class ReplyError(ValueError):
    """A reply that cannot be read as what was asked for."""


def _read_object(text: str, *keys: str) -> dict[str, Any]:
    """The JSON object with these keys in a reply; of several, the first that has them all.

    Code fences, text around it, missing quotes, commas and brackets are tolerated (json-repair). Raises ``ReplyError``
    where there is none.

    >>> _read_object('Sure! ```json {"thought": "short", "response": "yes", }```', "response")["response"]
    'yes'
    """
    import json_repair

    try:
        parsed = json_repair.loads(text) if "{" in text else None
    except (ValueError, RecursionError):  # such as hundreds of brackets in a row
        parsed = None
    for candidate in parsed if isinstance(parsed, list) else [parsed]:
        if isinstance(candidate, dict) and all(key in candidate for key in keys):
            return candidate
    raise ReplyError(f"the reply has no JSON object with {', '.join(map(repr, keys))}: {text[:160]!r}")


def read_response(text: str) -> str | None:
    """What a simulated user says: the "response" of its JSON reply, ``None`` where it ends the conversation.

    A reply without any brace is taken as the response itself: small models often forget the form [O]. Raises ``ReplyError``
    for JSON without a response, and for an empty one.

    >>> read_response('{"thought": "I have what I need", "response": "Thanks! [[TERMINATE CHAT]]"}') is None
    True
    >>> read_response("It began two days ago.")
    'It began two days ago.'
    """
    response = _read_object(text, "response")["response"] if "{" in text else text
    if not isinstance(response, str) or not response.strip():
        raise ReplyError(f"the response is {response!r}, not text")
    return None if TERMINATE in response else response.strip()


def read_number(text: str, key: str, low: float, high: float) -> float:
    """The finite number in [low, high] that a judge's JSON reply has under ``key``; digits in quotes count.

    Raises ``ReplyError`` for anything else.

    >>> read_number('{"thought": "almost", "score": "7"}', "score", 0.0, 10.0)
    7.0
    """
    return _number(_read_object(text, key)[key], key, low, high)


def read_numbers(text: str, key: str, low: float, high: float) -> list[float]:
    """The list of finite numbers in [low, high] that a judge's JSON reply has under ``key``.

    Raises ``ReplyError`` for anything else.

    >>> read_numbers('{"thought": "", "scores": [3, 0.5]}', "scores", 0.0, 10.0)
    [3.0, 0.5]
    """
    values = _read_object(text, key)[key]
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ReplyError(f"{key!r} is {values!r}, not a list of numbers")
    return [_number(value, key, low, high) for value in values]


def _number(value: Any, key: str, low: float, high: float) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:  # no comparison holds for NaN
        raise ReplyError(f"{key!r} is {value!r}, not a number from {low:g} to {high:g}")
    return number
