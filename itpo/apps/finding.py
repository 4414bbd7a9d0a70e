"""Runs by what people know of them: task, method, estimator, seed, profile and settings, instead of a hash."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from itpo.apps.configs import (
    check_name,
    finished_run,
    is_measurement,
    named_config,
    parse_changes,
    settings,
)
from itpo.attribution import known_methods
from itpo.config import RunConfig, from_json
from itpo.estimators import ESTIMATORS
from itpo.fields import Options
from itpo.runs.files import RunFolderError, read_json
from itpo.runs.store import Run
from itpo.study.profiles import PROFILES
from itpo.tasks.registry import NAMES

_NAMES = ("task", "method", "estimator", "seed", "profile", "status")
STATUSES = ("finished", "running", "stopped", "waiting")


@dataclass(frozen=True)
class Facts:
    """What is known of a run; ``None`` and no settings where anything will do."""

    task: str | None = None
    method: str | None = None
    estimator: str | None = None
    seed: int | None = None
    profile: str | None = None
    status: str | None = None
    settings: Mapping[str, Any] = field(default_factory=Options)

    def given(self) -> dict[str, Any]:
        """The facts that are known, by name, each setting among them."""
        named = {
            name: value for name, value in vars(self).items() if value is not None and name != "settings"
        }
        return named | dict(self.settings)

    def __str__(self) -> str:
        """The facts in words.

        >>> print(Facts(task="math", method="norm_itpo", seed=3))
        task math, method norm_itpo, seed 3
        """
        return ", ".join(f"{name} {value}" for name, value in self.given().items())


class Listed(NamedTuple):
    """A run of a store: the profile that it is nearest to, its ``settings`` that the profile has otherwise, and its status."""

    run: Run
    profile: str
    settings: Mapping[str, Any]
    status: str

    def facts(self) -> dict[str, Any]:
        """What tells it from other runs."""
        config = self.run.config
        names = {"task": config.task.name, "method": config.method.name, "estimator": config.estimator.name}
        return (
            names
            | {"seed": config.seed, "profile": self.profile, "status": self.status}
            | dict(self.settings)
        )


class Found(NamedTuple):
    """The runs of a store, a line for each folder that cannot be read, and the folders of measurements."""

    runs: list[Listed]
    others: list[str]
    measurements: list[Path]


def list_runs(root: Path) -> Found:
    """Every run of a store, by task, method, estimator, profile, settings and seed. Reads; changes nothing.

    >>> list_runs(Path("nowhere"))
    Found(runs=[], others=[], measurements=[])
    """
    runs: list[Listed] = []
    others: list[str] = []
    measurements: list[Path] = []
    for path in sorted(root.glob("[!.]*/config.json")):
        try:
            written = read_json(path).get("config")
            if is_measurement(written):
                measurements.append(path.parent.resolve())
                continue
            config = from_json(written)
            if not isinstance(config, RunConfig):
                raise ValueError("its config is none of this library's trainer")
            run = Run(path.parent.resolve(), config)
            runs.append(Listed(run, *_described(config), status_of(run)))
        except (RunFolderError, ValueError) as error:
            others.append(f"{path.parent}: {error}")
    return Found(sorted(runs, key=_order), others, measurements)


def _order(listed: Listed) -> tuple[Any, ...]:
    config = listed.run.config
    names = (config.task.name, config.method.name, config.estimator.name, listed.profile)
    return (*names, repr(sorted(listed.settings.items(), key=repr)), config.seed)


def status_of(run: Run) -> str:
    """Whether a run is finished, running (another process trains it), stopped on the way, or waiting for its first step."""
    if run.done:
        return "finished"
    if run.busy():
        return "running"
    return "stopped" if (run.folder / "metrics.jsonl").exists() else "waiting"


def _described(config: RunConfig) -> tuple[str, Mapping[str, Any]]:
    """The profile that needs the fewest other settings to give this config, and these."""
    own = settings(config)
    best: tuple[str, Mapping[str, Any]] | None = None
    for name in PROFILES:
        base = _base(name, config.task.name, config.method.name, config.estimator.name)
        if base is None:
            continue
        other = {
            key: value
            for key, value in own.items()
            if key != "seed" and (key not in base or base[key] != value)
        }
        if best is None or len(other) < len(best[1]):
            best = name, other
    profile, changes = best or ("", {})
    return profile, {_short(key, own): value for key, value in changes.items()}


@lru_cache(maxsize=1024)
def _base(profile: str, task: str, method: str, estimator: str) -> dict[str, Any] | None:
    try:
        return settings(named_config(profile, task, method, estimator))
    except ValueError:  # the profile has no such run
        return None


def _short(name: str, known: Iterable[str]) -> str:
    """The end of a setting's name, where no other ends so, as ``--set`` takes it."""
    end = name.rpartition(".")[2]
    same = [other for other in known if other == end or other.endswith(f".{end}")]
    return end if len(same) == 1 else name


def matching(runs: Iterable[Listed], facts: Facts) -> list[Listed]:
    """The runs of which all facts hold; a setting may be one that their profile has.

    Raises ``ValueError`` with the nearest names for a name that neither the library nor a run has.
    """
    runs = list(runs)
    check_facts(facts, runs)
    wanted = facts.given()
    return [run for run in runs if all(_value(run, name) == value for name, value in wanted.items())]


def _value(listed: Listed, name: str) -> Any:
    known = listed.facts()
    if name in known:
        return known[name]
    own = settings(listed.run.config)
    return next((own[full] for full in own if full == name or full.endswith(f".{name}")), None)


def check_facts(facts: Facts, runs: Iterable[Listed] = ()) -> None:
    """Refuse names that neither the library nor one of the runs has, with a ``ValueError`` that says the nearest.

    >>> check_facts(Facts(method="norm_itop"))
    Traceback (most recent call last):
    ValueError: unknown method 'norm_itop': did you mean norm_itpo or signed_norm_itpo?
    """
    library = {
        "task": NAMES,
        "method": known_methods(),
        "estimator": ESTIMATORS,
        "profile": PROFILES,
        "status": STATUSES,
    }
    for kind, known in library.items():
        name = getattr(facts, kind)
        if name is not None:
            check_name(kind, name, dict.fromkeys([*known, *(run.facts()[kind] for run in runs)]))
    full = {name for run in runs for name in settings(run.run.config)} if facts.settings else set()
    for name in facts.settings if full else ():
        check_name("setting", name, sorted({*full, *(other.rpartition(".")[2] for other in full)}))


def the_run(root: Path, facts: Facts) -> Run:
    """The one finished run of which the facts hold, with its policy.

    Raises ``ValueError``, where there is none or are several, which says what there is and what tells them apart.

    >>> the_run(Path("nowhere"), Facts(task="math", method="itpo", seed=0))
    Traceback (most recent call last):
    ValueError: no finished run of task math, method itpo, seed 0 in nowhere: train it by `itpo train --task math --method ...`
    """
    facts = replace(facts, status="finished")
    runs = list_runs(root).runs
    found = matching(runs, facts)
    if len(found) == 1:
        return finished_run(found[0].run.folder)
    said = str(replace(facts, status=None))
    if found:
        raise ValueError(
            f"{len(found)} finished runs are of {said}: add {_differences(found)}, or name one by --run"
        )
    raise ValueError(
        f"no finished run of {said} in {root}: {_nearest(runs, facts)}train it by `{train_command(facts)}`"
    )


def _differences(found: Iterable[Listed]) -> str:
    """What tells runs apart, as options."""
    found = list(found)
    options = []
    for name in dict.fromkeys(name for one in found for name in one.facts()):
        if (values := _values(found, name)).count(",") > 0:
            options.append(f"--{name} ({values})" if name in _NAMES else f"--set {name}= ({values})")
    return " and ".join(options)


def _values(found: Iterable[Listed], name: str) -> str:
    """The values of a fact among runs, the first of them if they are many."""
    values = sorted({_text(_value(run, name)) for run in found}, key=lambda text: (len(text), text))
    return ", ".join([*values[:8], *["..."] * (len(values) > 8)])


def _nearest(runs: list[Listed], facts: Facts) -> str:
    """What there is where one fact alone is another."""
    given = facts.given()
    for name in reversed(given):
        rest = {key: value for key, value in given.items() if key != name}
        near = [run for run in runs if all(_value(run, key) == value for key, value in rest.items())]
        if near:
            return f"there are some with {name} {_values(near, name)}; else "
    return ""


def _text(value: Any) -> str:
    """A value as ``--set`` reads it: JSON, but for texts that are not read as something else."""
    plain = isinstance(value, str) and parse_changes([f"name={value}"]) == {"name": value}
    return value if plain else json.dumps(value, ensure_ascii=False)


def train_command(facts: Facts) -> str:
    """The command that trains a run of these facts.

    >>> train_command(Facts(task="math", seed=1, status="stopped", settings={"policy_lr": 0.002}))
    'itpo train --task math --seed 1 --set policy_lr=0.002'
    """
    named = {name: value for name, value in facts.given().items() if name != "status"}
    options = (
        [f"--{name}", str(value)] if name in _NAMES else ["--set", f"{name}={_text(value)}"]
        for name, value in named.items()
    )
    return shlex.join(["itpo", "train", *chain.from_iterable(options)])


def run_at(text: str | Path, root: Path) -> Path:
    """The folder of a run: a path, or its name in the store, or the first letters of that where no other begins so.

    Raises ``ValueError`` for several; the path as it is where there is none.

    >>> run_at("nowhere", Path("runs")).name
    'nowhere'
    """
    if Path(text).exists() or not re.fullmatch("[0-9a-f]{4,16}", str(text)):
        return Path(text)
    found = [path for path in root.glob(f"{text}*") if (path / "config.json").exists()]
    if len(found) > 1:
        raise ValueError(
            f"several runs in {root} begin with {text}: {', '.join(path.name for path in found)}"
        )
    return found[0] if found else Path(text)
