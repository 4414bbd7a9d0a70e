"""Options that several commands share: the facts by which runs are found, and what a shell completes after them."""

# No `from __future__ import annotations`: typer would have to evaluate every option's type from text.

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from itpo.apps.terminal import one_line


def _completed(kind: str) -> Callable[[str], list[str]]:
    """Names of a kind that begin as what was typed; the libraries that know them are loaded only then."""

    def complete(incomplete: str) -> list[str]:
        """Those names."""
        from itpo.apps.finding import STATUSES
        from itpo.attribution import known_methods
        from itpo.estimators import ESTIMATORS
        from itpo.study.profiles import PROFILES
        from itpo.tasks.registry import NAMES

        known = {"task": NAMES, "method": known_methods(), "estimator": ESTIMATORS, "profile": PROFILES}
        return [name for name in (known | {"status": STATUSES})[kind] if name.startswith(incomplete)]

    return complete


def named(kind: str, help: str) -> Any:
    """An option that takes the name of a task, method, estimator, profile or status, and completes it."""
    return typer.Option(f"--{kind}", metavar="NAME", help=help, autocompletion=_completed(kind))


SETTING = typer.Option(
    "--set",
    metavar="NAME=VALUE",
    help="A setting other than the profile's; may be repeated",
    show_default=False,
)
StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Run store  [default: runs/ of the checkout]")
]
ProfileOption = Annotated[str, named("profile", "Scale: smoke, laptop, smol, consumer or consumer_full")]
SettingsOption = Annotated[list[str] | None, SETTING]

_FACTS: dict[str, Any] = {
    "task": Annotated[str | None, named("task", "Of the run")],
    "method": Annotated[str | None, named("method", "Of the run")],
    "estimator": Annotated[str | None, named("estimator", "Of the run")],
    "seed": Annotated[int | None, typer.Option("--seed", help="Of the run")],
    "profile": Annotated[str | None, named("profile", "That the run is nearest to")],
    "status": Annotated[str | None, named("status", "finished, running, stopped or waiting")],
    "set_": SettingsOption,
    "store": StoreOption,
}


def finds_runs(*left_out: str, **help: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the options that say which runs are meant, but those ``left_out``; it gets a store and the facts.

    They are its parameters ``root`` and ``facts``. ``help`` has other texts for some of the options.
    """

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        """The command with these options."""
        shown = {name: hint for name, hint in _FACTS.items() if name not in left_out}
        shown |= {name: Annotated[str | None, named(name, text)] for name, text in help.items()}

        @wraps(function)
        def command(*args: Any, **given: Any) -> int:
            """The command, told the store and the facts."""
            root, facts = _read({name: given.pop(name, None) for name in _FACTS})
            return function(*args, **given, root=root, facts=facts)

        own = [p for p in inspect.signature(function).parameters.values() if p.name not in ("root", "facts")]
        keyword = inspect.Parameter.KEYWORD_ONLY
        added = [
            inspect.Parameter(name, keyword, default=None, annotation=hint) for name, hint in shown.items()
        ]
        command.__signature__ = inspect.Signature([*own, *added], return_annotation=int)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
        return command

    return decorate


def _read(given: dict[str, Any]) -> tuple[Path, Any]:
    """The store and the facts; names are checked once the runs are known."""
    from itpo.apps.configs import parse_changes
    from itpo.apps.finding import Facts
    from itpo.fields import Options
    from itpo.runs.paths import runs_root

    store, changes = given.pop("store"), given.pop("set_")
    with one_line(ValueError):
        return store or runs_root(), Facts(**given, settings=Options(parse_changes(changes or [])))
