"""The scripted tasks by name.

A new task is one module with a class that has the members of :class:`itpo.tasks.base.ScriptedTask` and an ``ENTRY``, and its
name below. A task outside the library is named ``module:name`` in a run's config: its entry, or the class itself.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from itpo.dialogue import Message
from itpo.tasks.base import ScriptedTask

TASKS = ("math", "documents", "medical")  # those of the paper
# In ordinary writing, for models that learned theirs elsewhere.
PROSE = tuple(f"{name}_prose" for name in TASKS)
NAMES = (*TASKS, "corridor", *PROSE)


@dataclass(frozen=True)
class TaskEntry:
    """A scripted task and how people read it."""

    name: str
    build: Callable[..., ScriptedTask]  # its keyword arguments are the task's options
    title: str
    outcome: str = "outcome"  # what tables call it
    hidden: Callable[[Any], str] = str  # what an example hides from the assistant
    beside: str = ""  # what tables call `measure`, which is reported beside the outcome
    measure: Callable[[Any, Sequence[Message]], float] | None = None
    # In place of the bounds of a testbed check, by its name in `itpo.study.testbed.BOUNDS`.
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    # From 1 on for an entry outside the library; to be raised with every change of what the task does.
    version: int = 0


def get_entry(name: str) -> TaskEntry:
    """The entry of the task called ``name``, one of ``NAMES`` or a reader's own, ``module:name``.

    Raises ``ValueError`` listing the known ones for another name.

    >>> get_entry("math").title, get_entry("math_prose").outcome
    ('math tutoring', 'success')
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        own = getattr(importlib.import_module(module), attribute)
        if isinstance(own, TaskEntry):
            return own
        return TaskEntry(name, own, title=attribute, version=getattr(own, "version", 0))
    if name not in NAMES:
        raise ValueError(
            f"unknown task {name!r}; known tasks: {', '.join(NAMES)}, or module:name of your own"
        )
    # A module is imported when its task is asked for.
    entry: TaskEntry = importlib.import_module(f"itpo.tasks.{name.removesuffix('_prose')}").ENTRY
    if name not in PROSE:
        return entry
    prose = importlib.import_module("itpo.tasks.prose")
    return replace(entry, name=name, build=prose.in_prose(entry.build))


def get_task(name: str, options: Mapping[str, Any] | None = None) -> ScriptedTask:
    """Build the task called ``name`` with these options.

    Raises ``ValueError`` for an unknown name, or an option that the task does not have or that is out of range.

    >>> get_task("math").max_turns, get_task("math_prose").name, get_task("math", {"clear": 0.9}).clear
    (5, 'math_prose', 0.9)
    """
    build = get_entry(name).build
    try:
        inspect.signature(build).bind(**(options or {}))
    except TypeError as error:
        known = ", ".join(inspect.signature(build).parameters) or "none"
        raise ValueError(f"options of task {name!r}: {error}; it has: {known}") from None
    return build(**(options or {}))


def default_options(name: str) -> dict[str, Any]:
    """The options that a task has beside those that must be given, with their defaults.

    >>> sorted(default_options("math"))
    ['clear', 'mistaken', 'vague']
    """
    parameters = inspect.signature(get_entry(name).build).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}
