"""Configs as people meet them: in the folder of a run, and as settings with names."""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from itpo.apps.terminal import import_from_here
from itpo.attribution import known_methods
from itpo.config import Estimator, Method, RunConfig, TaskSpec, from_json
from itpo.estimators import ESTIMATORS
from itpo.fields import Options
from itpo.runs.files import UNNAMED, check_run, plain
from itpo.runs.store import Run
from itpo.study.profiles import PROFILES
from itpo.tasks.registry import NAMES

# Classes of configs in run folders that hold no policy: by name, as importing their modules costs a listing a second.
_MEASUREMENTS = ("MicroscopeConfig", "OracleConfig")


def is_measurement(config: Any) -> bool:
    """Whether a config, as it is written in a run's folder, is one of the library's measurements, which train no policy.

    >>> is_measurement({"class": "OracleConfig"}), is_measurement({"class": "RunConfig"})
    (True, False)
    """
    return isinstance(config, Mapping) and config.get("class") in _MEASUREMENTS


def refuse_measurement(folder: Path) -> NoReturn:
    """Say that a folder holds a measurement where a trained policy is wanted, in a ``ValueError``."""
    raise ValueError(
        f"{folder} is a measurement, which has no trained policy: name a run that `itpo runs` lists"
    )


def finished_run(folder: Path) -> Run:
    """The run with a trained policy in a folder.

    Raises ``ValueError`` for a folder that is none, for a measurement, or where another version of the library wrote it, and
    :class:`itpo.runs.store.RunFolderError` for a damaged one.

    >>> finished_run(Path("nowhere"))
    Traceback (most recent call last):
    ValueError: nowhere is not the folder of a run: name one, such as runs/0123456789abcdef
    """
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        document = None
    if not isinstance(document, dict) or document.get("format") != "itpo-run":
        raise ValueError(f"{folder} is not the folder of a run: name one, such as runs/0123456789abcdef")
    config = check_run(folder.resolve())["config"]
    if is_measurement(config):
        refuse_measurement(folder)
    run = Run(folder.resolve(), from_json(config))
    if not run.done:
        raise ValueError(f"the run {folder} is not finished: train it to its end")
    if not (run.folder / "policy" / "adapter_config.json").is_file():
        raise ValueError(f"the run {folder} has no policy: name one that trained a policy, not a measurement")
    return run


def settings(config: RunConfig) -> dict[str, Any]:
    """Every setting of a config by its name, with those of its parts behind a dot.

    >>> from itpo.config import Method
    >>> values = settings(RunConfig(Method("norm_itpo"), seed=0, steps=24))
    >>> values["steps"], values["method.temperature"], values["judge.error_rate"]
    (24, 0.4, 0.2)
    """
    return {_name(path): value for path, value in _leaves(plain(config, "config"))}


def with_settings(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """The config with other settings, each by its full name or by the end of it where only one setting has that.

    Raises ``ValueError`` with the nearest names for an unknown one, and for a value that the config refuses.

    >>> from itpo.config import Method
    >>> changed = with_settings(RunConfig(Method("norm_itpo"), seed=0, steps=24), {"steps": 2, "temperature": 0.1, "rank": 4})
    >>> changed.steps, changed.method.options["temperature"], changed.adapter.rank
    (2, 0.1, 4)
    """
    document = plain(config, "config")
    paths = {_name(path): path for path, _ in _leaves(document)}
    for name, value in changes.items():
        *parts, last = paths[_full_name(name, paths)]
        place = document
        for part in parts:
            place = place[part]
        place[last] = value
    changed = from_json(document)
    assert isinstance(changed, RunConfig)
    return changed


def refuse_named(changes: Iterable[str]) -> None:
    """Refuse settings that are said by an option of their own, or by a list of a sweep's file, and would override it.

    >>> refuse_named({"steps": 2, "seed": 3})
    Traceback (most recent call last):
    ValueError: seed is not a setting to change: say it by the option --seed, or in a sweep's file by seeds
    """
    for kind in ("task", "method", "estimator", "seed"):
        name = kind if kind == "seed" else f"{kind}.name"
        if name in changes:
            raise ValueError(
                f"{name} is not a setting to change: say it by the option --{kind}, or in a sweep's file by {kind}s"
            )


def _full_name(name: str, known: Iterable[str]) -> str:
    """The setting that a name means: its own, or the only one that ends so."""
    known = list(known)
    found = [name] if name in known else [full for full in known if full.endswith(f".{name}")]
    if len(found) > 1:
        raise ValueError(f"several settings are called {name!r}: write one of {', '.join(found)}")
    if not found:
        check_name("setting", name, sorted({*known, *(full.rpartition(".")[2] for full in known)}))
    return found[0]


def parse_changes(texts: Iterable[str]) -> dict[str, Any]:
    """Settings as ``name=value``: values are JSON where they can be, such as 4, 1e-3, true and null, and else text.

    Raises ``ValueError`` for a text without an equals sign.

    >>> parse_changes(["steps=4", "scale=released", "beta=1e-2"])
    {'steps': 4, 'scale': 'released', 'beta': 0.01}
    """
    changes: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not a setting: write name=value, such as steps=4")
        try:
            changes[name] = json.loads(value)
        except ValueError:
            changes[name] = value
    return changes


def named_config(
    profile_name: str,
    task: str,
    method: str = "trajectory_share",
    estimator: str = "rloo",
    seed: int = 0,
    options: Mapping[str, Any] = Options(),
) -> RunConfig:
    """A profile's config by names. A method or task that the profile does not have comes with default settings
    but for the task's ``options``.

    Raises ``ValueError`` for an unknown name, and for what cannot be combined.

    >>> named_config("laptop", "medical", "norm_itpo").method.beta
    0.05
    """
    for kind, name, known in (
        ("profile", profile_name, PROFILES),
        ("task", task, NAMES),
        ("method", method, known_methods()),
        ("estimator", estimator, ESTIMATORS),
    ):
        if kind not in ("task", "method") or ":" not in name:
            check_name(kind, name, known)
    profile = PROFILES[profile_name]
    profile = profile.on(task) if task in profile.settings else profile
    run = profile.run
    if task not in profile.settings:
        run = replace(run, task=TaskSpec(task, Options(options), _stated_version(task)))
    own = Method(method, version=_stated_version(method))
    chosen = next((known for known in profile.methods if known.name == method), own)
    return replace(run, method=chosen, estimator=Estimator(estimator), seed=seed)


def named_task(name: str) -> TaskSpec:
    """A scripted task by its name, one of the library or a reader's own, with default options.

    Raises ``ValueError`` for an unknown name, with the nearest ones.

    >>> named_task("medical").build().max_turns
    6
    """
    if ":" not in name:
        check_name("task", name, NAMES)
    return TaskSpec(name, version=_stated_version(name))


def _stated_version(name: str) -> int:
    """The version that a reader's own ``module:name`` states; 0 for a name of the library, or where it states none."""
    module, colon, attribute = name.partition(":")
    if not colon:
        return 0
    import_from_here()  # also where no command line did: in a script of another folder
    try:
        return int(getattr(getattr(importlib.import_module(module), attribute), "version", 0))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{name} cannot be imported ({error}): write module:name of a module in this folder"
        ) from error


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Refuse an unknown name with a ``ValueError`` that says the nearest known ones, or all where none is near.

    >>> check_name("profile", "labtop", ["smoke", "laptop"])
    Traceback (most recent call last):
    ValueError: unknown profile 'labtop': did you mean laptop?
    """
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known)
        remedy = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(known)}"
        raise ValueError(f"unknown {kind} {name!r}: {remedy}")


def _leaves(document: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        elif key != "class":
            yield (*path, key), value


def _name(path: tuple[str, ...]) -> str:
    return ".".join(part for part in path if part not in ("options", UNNAMED))
