"""The scripted tasks by name.

To add one, write one module with a class that has the members of :class:`itpo.tasks.base.ScriptedTask` and an ``ENTRY``, and
its name here; or keep it in a module of your own, and name it ``module:name`` in a run's config.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from itpo.dialogue import Message
from itpo.tasks.base import ScriptedTask


@dataclass(frozen=True)
class TaskEntry:
    """A scripted task and how people read it.

    ``build`` makes the task; its keyword arguments are the task's options. ``outcome`` is what tables call the outcome,
    ``hidden`` says what an example hides from the assistant, and ``measure``, called ``beside``, is reported beside the
    outcome. ``bounds`` replaces those of a testbed check, by its name (see :mod:`itpo.study.testbed`). An entry from outside
    the library states a ``version``, to be raised with every change of what the task does.
    """

    name: str
    build: Callable[..., ScriptedTask]
    title: str
    outcome: str = "outcome"
    hidden: Callable[[Any], str] = str
    beside: str = ""
    measure: Callable[[Any, Sequence[Message]], float] | None = None
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    version: int = 0


TASKS = ("math", "documents", "medical")  # those of the paper
PROSE = tuple(
    f"{name}_prose" for name in TASKS
)  # in ordinary writing, for models that learned theirs elsewhere
NAMES = (*TASKS, "corridor", *PROSE)


def get_entry(name: str) -> TaskEntry:
    """The entry of the task called ``name``, one of ``NAMES`` or a reader's own, ``module:name``.

    Raises ``ValueError`` listing the known ones for another name.

    >>> get_entry("math").title, get_entry("math_prose").outcome
    ('math tutoring', 'success')
    """
    if ":" in name:
        return _entry_of_reader(name)
    if name in NAMES:  # a module is imported when its task is asked for
        entry: TaskEntry = importlib.import_module(f"itpo.tasks.{name.removesuffix('_prose')}").ENTRY
        if name not in PROSE:
            return entry
        prose = importlib.import_module("itpo.tasks.prose")
        return replace(entry, name=name, build=partial(prose.in_prose, entry.build))
    raise ValueError(f"unknown task {name!r}; known tasks: {', '.join(NAMES)}, or module:name of your own")


def _entry_of_reader(name: str) -> TaskEntry:
    module, _, attribute = name.partition(":")
    thing = getattr(importlib.import_module(module), attribute)
    if isinstance(thing, TaskEntry):
        return thing
    return TaskEntry(name, thing, title=attribute, version=getattr(thing, "version", 0))


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
