"""Sweeps as a file says them: every combination of tasks, methods, estimators and seeds of a profile, trained or only listed.

profile = "smoke"
tasks = ["math", "medical"]
methods = ["norm_itpo", "trajectory_share"]
estimators = ["rloo"]
seeds = [0, 1, 2]       # or only how many: 3

[set]                   # other settings, by the names of `itpo train --set`
steps = 24
"""

# No `from __future__ import annotations`: typer would have to evaluate every option's type from text.

import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from itpo.apps import options
from itpo.apps.terminal import GOES_ON, expected_errors, one_line, stoppable, visible

if TYPE_CHECKING:
    from itpo.apps.training import TrainingError
    from itpo.config import RunConfig
    from itpo.runs.store import Run
    from itpo.runs.sweep import SweepError

TrackerOption = Annotated[
    str | None,
    typer.Option(
        "--tracker",
        metavar="[NAME]",
        help="Live curves in trackio (where no name follows), wandb, tensorboard or mlflow",
    ),
]
_LISTS = {"tasks": ["math"], "methods": ["norm_itpo"], "estimators": ["rloo"]}


@stoppable(GOES_ON)
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="What to train")],
    executor: Annotated[Literal["local", "ray"], typer.Option(help="Where to train")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster: auto, or host:port  [default: this machine's]")
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, help="Of one run on Ray")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="Of one run on Ray; parts are allowed")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time  [default: one for each core; on Ray all]")
    ] = None,
    tracker: TrackerOption = None,
    store: options.StoreOption = None,
    mix_platforms: Annotated[
        bool, typer.Option("--mix-platforms", help="Go on with runs that began on another numeric platform")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the runs; make nothing")] = False,
) -> int:
    """Train or load every run that a file asks for.

    On this machine, or on a Ray cluster. Their folders are listed last. A file says, for example:

    \b
    profile = "laptop"
    tasks = ["math", "medical"]
    methods = ["norm_itpo", "trajectory_share"]
    estimators = ["rloo"]
    seeds = [0, 1, 2]   # or only how many: 3
    [set]               # other settings, by the names of itpo train --set
    steps = 24
    """
    from itpo.runs.paths import runs_root
    from itpo.runs.store import Store

    if executor == "local" and (address or gpus or cpus != 1):
        raise typer.TyperException("--address, --cpus and --gpus need --executor ray")
    root = store or runs_root()
    with one_line(ValueError, OSError):
        configs = read_configs(file)
        train = with_tracker(tracker)
    status = 0
    if not dry_run:
        from itpo.integrations.ray import Ray
        from itpo.runs import sweep as sweeping
        from itpo.runs.processes import Executor, Processes

        where: Executor = Ray(address, cpus, gpus) if executor == "ray" else Processes
        try:
            with one_line(*expected_errors()):
                sweeping.sweep(root, configs, train, workers, mix_platforms=mix_platforms, executor=where)
        except sweeping.SweepError as error:
            status = print_failures(error)
    for config in dict.fromkeys(configs):
        print(f"{_title(config)}  {Store(root).folder(config)}")
    return status


def read_configs(path: Path) -> "list[RunConfig]":
    """The configs of a sweep's file.

    Raises ``ValueError`` for what is no such file, with the nearest names for an unknown one, and ``OSError`` for none at all.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return list(_configs(document))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _configs(document: dict[str, Any]) -> "Iterator[RunConfig]":
    from itpo.apps.configs import check_name, named_config, refuse_named, with_settings

    for key in document:
        check_name("key", key, [*_LISTS, "profile", "seeds", "set"])
    tasks, methods, estimators = (_names(key, document.get(key, default)) for key, default in _LISTS.items())
    profile = document.get("profile", "laptop")
    if not isinstance(profile, str):
        raise ValueError(f'profile is {profile!r}: write a name, such as "laptop"')
    changes = dict(_flat(document.get("set", {})))
    refuse_named(changes)
    options = {name[5:]: value for name, value in changes.items() if name.startswith("task.")}
    seeds = _seeds(document.get("seeds", [0]))
    for task, method, estimator, seed in product(tasks, methods, estimators, seeds):
        yield with_settings(named_config(profile, task, method, estimator, seed, options), changes)


def _names(key: str, value: Any) -> list[str]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key} is {value!r}: write a name, or a list of names")
    return names


def _seeds(value: Any) -> list[int]:
    seeds = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    whole = isinstance(seeds, list) and all(isinstance(s, int) and not isinstance(s, bool) for s in seeds)
    if not whole or not seeds:
        raise ValueError(f"seeds is {value!r}: write how many, or a list of whole numbers")
    return seeds


def _flat(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Settings of tables within tables, by their full names."""
    if not isinstance(settings, Mapping):
        raise ValueError(f"set is {settings!r}: write a table of settings, [set]")
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def with_tracker(tracker: str | None) -> "Callable[[Any, Run], None]":
    """The library's training, with a tracker where one is asked for. Raises ``ValueError`` for an unknown one."""
    from functools import partial

    from itpo.apps.configs import check_name
    from itpo.trainer import train

    if tracker is None:
        return train
    from itpo.integrations.trackers import TRACKERS, tracked

    check_name("tracker", tracker, TRACKERS)
    return partial(tracked, train, tracker)


def name_tracker(arguments: list[str]) -> list[str]:
    """The arguments with the name of the default tracker after a ``--tracker`` that no name follows."""
    named = []
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=False):
        named += (
            [argument, "trackio"] if argument == "--tracker" and following.startswith("-") else [argument]
        )
    return named


def print_failures(error: "SweepError | TrainingError") -> int:
    """One line for each error that says what to do, as the library's own do; the traceback of any other.

    Returns the exit status: 2 where all say what to do, else 1.
    """
    for run, report in error.failures:
        remedy = error.remedies.get(run.folder)
        print(visible(f"{run.folder}: {remedy}") if remedy else report.rstrip(), file=sys.stderr)
    return 2 if len(error.remedies) == len(error.failures) else 1


def _title(config: "RunConfig") -> str:
    return f"{config.task.name} {config.method.name} {config.estimator.name} seed {config.seed}"
