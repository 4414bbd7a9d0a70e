"""One example of real data for all three tasks, and how the rows of each public dataset become one.

Columns are those of section 6 of the paper's released data: CollabLLM's multi-turn sets (math, documents),
MTMedDialog (medical), and the plain problem sets MATH and GSM8K.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from itpo.data.answers import is_bare, reference_answer
from itpo.dialogue import Message
from itpo.thoughts import says_something

_ROLES = ("system", "user", "assistant")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MARK = re.compile(r"\\(?:boxed|fbox)|####")  # of a final answer
_REPAIR = "repair the row, or skip bad rows"
_COMPLAINT, _INSTRUCTION = "Patient's description: ", "\nDecide next action:"


@dataclass(frozen=True)
class Example:
    """One conversation to be had, from real data.

    ``id`` is unique within a source; ``task`` is ``"math"``, ``"documents"`` or ``"medical"``. ``prompt`` is what
    the assistant sees first: it ends with the user's first message. ``goal`` is what only the user simulator knows:
    the full problem, the request with the article to be written, or what the patient can tell. ``reference`` is
    what outcomes are scored against: ``{"answer": ...}``, ``{"document": ...}``, or ``{"diagnosis": ...,
    "recommendation": ...}``. ``metadata`` holds the row's remaining facts, such as level, type and worked solution.

    Plain problem sets (MATH, GSM8K, generated) hide nothing: their prompt is the whole problem. For a
    conversation, a user simulator has to open it from ``goal`` instead.
    """

    id: str
    task: str
    prompt: tuple[Message, ...]
    goal: str
    reference: Mapping[str, str]
    metadata: Mapping[str, Any] = field(default_factory=dict)


class RowError(ValueError):
    """What is wrong with a row, and the remedy; the caller adds where the row is."""

    def __init__(self, wrong: str, remedy: str) -> None:
        super().__init__(wrong)
        self.wrong, self.remedy = wrong, remedy


@dataclass(frozen=True)
class Format:
    """A row layout: the task of its examples, how a row is read, and the hub dataset (and configuration) that has it."""

    task: str
    read: Callable[[Mapping[str, Any], str], Example]
    hub: str | None = None
    config: str | None = None


def _column(row: Mapping[str, Any], name: str) -> Any:
    """The value at a dotted name; raises :class:`RowError` where it is missing or null."""
    value: Any = row
    for key in name.split("."):
        if not isinstance(value, Mapping) or value.get(key) is None:
            found = ", ".join(sorted(value)) if isinstance(value, Mapping) else type(value).__name__
            raise RowError(f"column {name!r} is missing (found: {found})", "check the format and the file")
        value = value[key]
    return value


def _text(row: Mapping[str, Any], name: str) -> str:
    value = _column(row, name)
    if not (isinstance(value, str) and says_something(value)):
        raise RowError(f"column {name!r} is {reprlib.repr(value)}, not text", _REPAIR)
    return value


def _identity(row: Mapping[str, Any], name: str, default: str) -> str:
    try:
        return str(_column(row, name))
    except RowError:
        return default


def _rest(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names if row.get(name) is not None}


def _opening(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """A system message, if there is one, and the first of the user; later ones are of a conversation that has been had."""
    messages = _column(row, "prompt")
    if not isinstance(messages, list) or not messages:
        remedy = "keep it as a list, in JSON lines or parquet" if isinstance(messages, str) else _REPAIR
        raise RowError(
            f"the conversation in 'prompt' is {reprlib.repr(messages)}, not a list of messages", remedy
        )
    opening: list[Message] = []
    for position, message in enumerate(messages, 1):
        fields = message if isinstance(message, Mapping) else {}
        role, content = fields.get("role"), _joined(fields.get("content"))
        if role not in _ROLES:
            raise RowError(
                f"message {position} of 'prompt' has the role {reprlib.repr(role)}",
                f"use one of {', '.join(_ROLES)}",
            )
        if role == "assistant" or (role == "system" and opening):
            wrong = f"message {position} of 'prompt' is of the {role}, before the user has said anything"
            remedy = (
                "begin with the user's message, or with one system message and the user's, or skip bad rows"
            )
            raise RowError(wrong, remedy)
        if not (isinstance(content, str) and says_something(content)):
            raise RowError(
                f"the content of message {position} of 'prompt' is {reprlib.repr(content)}, not text", _REPAIR
            )
        opening.append(Message(role, content))
        if role == "user":
            return tuple(opening)
    raise RowError("the conversation in 'prompt' has no message of the user", _REPAIR)


def _joined(content: Any) -> Any:
    """Content as one text where it comes as parts that are all text, as ``[{"type": "text", "text": "Hello"}]``."""
    if not isinstance(content, list):
        return content
    parts: list[Any] = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    kinds = {part.get("type", "text") for part in content if isinstance(part, Mapping)}
    return "\n".join(parts) if kinds <= {"text"} and all(isinstance(part, str) for part in parts) else content


def check_example(example: Example) -> None:
    """Refuse what later steps cannot use: texts that cannot be encoded, and a conversation with nothing left to ask.

    Raises :class:`RowError`.

    >>> check_example(Example("1", "documents", (Message("user", "write of music"),), "write of music", {"document": "..."}))
    Traceback (most recent call last):
        ...
    itpo.data.formats.RowError: the first message of the user tells the whole goal, so that nothing is left to ask
    """
    if example.task != "math" and example.prompt[-1].content.strip() == example.goal.strip():
        wrong = "the first message of the user tells the whole goal, so that nothing is left to ask"
        raise RowError(wrong, "let the first message hold a part of the goal only, or skip bad rows")
    values: list[Any] = [
        example.id,
        example.goal,
        dict(example.reference),
        dict(example.metadata),
        *(message.content for message in example.prompt),
    ]
    while values:  # not by recursion: metadata may be nested to any depth
        value = values.pop()
        if isinstance(value, str) and (surrogate := _SURROGATE.search(value)):
            around = value[max(surrogate.start() - 20, 0) : surrogate.end() + 20]
            wrong = f"{ascii(around)} has half of a character (a lone surrogate), which cannot be encoded"
            raise RowError(wrong, _REPAIR)
        if isinstance(value, Mapping):
            values += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            values += value


def _answer(row: Mapping[str, Any], column: str) -> str:
    """The answer that a column marks as final, or is: a number, or a text of one line without words."""
    value = _column(row, column)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    text = _text(row, column).strip()
    try:
        return reference_answer(text)
    except ValueError as error:
        if mark := _MARK.search(text):  # the whole text is no answer then
            wrong = f"column {column!r}: no answer can be read behind its mark {mark[0]}, or its braces do not close"
            raise RowError(wrong, _REPAIR) from error
        if is_bare(text):
            return text
        raise RowError(f"column {column!r}: {error}", _REPAIR) from error


def _collabllm_math(row: Mapping[str, Any], default: str) -> Example:
    solution = _text(row, "single_turn_completion")
    return Example(
        id=_identity(row, "conv_id", default),
        task="math",
        prompt=_opening(row),
        goal=_text(row, "single_turn_prompt"),
        reference={"answer": _answer(row, "single_turn_completion")},
        metadata={"solution": solution, **_rest(row, "single_turn_metadata")},
    )


def _collabllm_documents(row: Mapping[str, Any], default: str) -> Example:
    return Example(
        id=_identity(row, "conv_id", default),
        task="documents",
        prompt=_opening(row),
        goal=_text(row, "single_turn_prompt"),
        reference={"document": _text(row, "single_turn_completion")},
        metadata=_rest(row, "single_turn_metadata"),
    )


def problem(identity: str, text: str, answer: str, metadata: Mapping[str, Any]) -> Example:
    """An example of a plain problem set: prompt and goal are both the whole problem."""
    return Example(identity, "math", (Message("user", text),), text, {"answer": answer}, metadata)


def _math(row: Mapping[str, Any], default: str) -> Example:
    """The layout of MATH, also with the answer in a column of its own and then perhaps without a solution."""
    given = next((name for name in ("expected_answer", "answer") if row.get(name) is not None), None)
    solution = _text(row, "solution") if given is None or row.get("solution") is not None else None
    answer = _answer(row, "solution") if given is None else _given(row, given)
    metadata = {**({} if solution is None else {"solution": solution}), **_rest(row, "level", "type")}
    return problem(_identity(row, "id", default), _text(row, "problem"), answer, metadata)


def _given(row: Mapping[str, Any], column: str) -> str:
    """The answer in a column of answers, which may be a few words; a worked solution there is read as one."""
    value = row[column]
    bare = isinstance(value, str) and not _MARK.search(value) and is_bare(value, words=5)
    return _text(row, column) if bare else _answer(row, column)


def _gsm8k(row: Mapping[str, Any], default: str) -> Example:
    """The layout of GSM8K, whose answers are worked solutions; bare answers are read, too."""
    answer, given = _answer(row, "answer"), row["answer"]
    metadata = {"solution": given} if isinstance(given, str) and given.strip() != answer else {}
    return problem(_identity(row, "id", default), _text(row, "question"), answer, metadata)


def _mtmeddialog(row: Mapping[str, Any], default: str) -> Example:
    """The layout of training, or (``self_report``) the flat one that the evaluation script of its authors reads."""
    if "self_report" in row:
        opening = [{"role": "user", "content": f"{_COMPLAINT}{_text(row, 'self_report')}"}]
        facts = {
            "patient_information": row.get("dialogue"),
            "enhanced_description": row.get("enhanced_description"),
        }
        row = {"prompt": opening, "reward_model": {"ground_truth": row, **facts}}
    truth = "reward_model.ground_truth"
    reference = {name: _text(row, f"{truth}.{name}") for name in ("diagnosis", "recommendation")}
    prompt, told = _opening(row), _told(row["reward_model"].get("patient_information"))
    if row["reward_model"].get("enhanced_description") is not None:
        goal = _text(row, "reward_model.enhanced_description")
    elif told:
        complaint = prompt[-1].content.removeprefix(_COMPLAINT).partition(_INSTRUCTION)[0]
        goal = "\n".join([complaint, *(f"Doctor: {asked}\nPatient: {answered}" for asked, answered in told)])
    else:
        raise RowError("there is no patient information", _REPAIR)
    return Example(
        id=_identity(row, "extra_info.index", default),
        task="medical",
        prompt=prompt,
        goal=goal,
        reference=reference,
        metadata={"patient_information": told},
    )


def _told(turns: Any) -> tuple[tuple[str, str], ...]:
    """Pairs of what the doctor asked and the patient answered.

    A turn without an answer is left out: there the doctor closes the conversation, often with the advice itself.
    """
    if not isinstance(turns, list | None) or not all(isinstance(turn, Mapping) for turn in turns or []):
        raise RowError(f"the patient information is {reprlib.repr(turns)}, not a list of turns", _REPAIR)
    pairs = []
    for position, turn in enumerate(turns or [], 1):
        asked, answered = (
            _said(turn.get(name), name, position) for name in ("doctor_question", "patient_response")
        )
        if asked and answered:
            pairs.append((asked, answered))
    return tuple(pairs)


def _said(value: Any, name: str, position: int) -> str:
    """What one side said in a turn: a text, a list of texts, or nothing."""
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RowError(
            f"{name} of turn {position} of the patient information is {reprlib.repr(value)}, not text",
            _REPAIR,
        )
    return " ".join(texts).strip()


# The hub set that CollabLLM's own code takes MATH from is lighteval/MATH-Hard. MTMedDialog comes as files in the
# folder data/ of the repository DoctorAgent-RL of its authors; a hub name is not known to us.
FORMATS: Mapping[str, Format] = {
    "collabllm-math": Format("math", _collabllm_math, "collabllm/collabllm-multiturn-math-hard-large"),
    "collabllm-documents": Format(
        "documents", _collabllm_documents, "collabllm/collabllm-multiturn-medium-large"
    ),
    "math": Format("math", _math, "lighteval/MATH-Hard"),
    "gsm8k": Format("math", _gsm8k, "openai/gsm8k", "main"),
    "mtmeddialog": Format("medical", _mtmeddialog),
}
