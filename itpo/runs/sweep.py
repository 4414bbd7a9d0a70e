"""Train many runs in parallel processes; finished ones are loaded, interrupted ones go on."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from itpo.runs.artifacts import being_made
from itpo.runs.files import hash_json
from itpo.runs.processes import Executor, Outcome, Pool, Processes, Train, function_of
from itpo.runs.store import Run, Store

Name = TypeVar("Name", bound=Hashable)
_POLL_SECONDS = 2.0
PROGRESS = "ITPO_PROGRESS"
WORKERS = "ITPO_WORKERS"
MOST_WORKERS = 16  # unless asked for [O]; each takes about 0.2 GB of memory beside what they share


class SweepError(RuntimeError):
    """Some runs of a sweep failed; the message has their folders and the first traceback, ``failures`` has all.

    ``remedies`` has, by folder, the message of each error that says itself what to do.
    """

    def __init__(self, failed: Sequence[tuple[Run, Outcome]], total: int) -> None:
        self.failures = tuple((run, outcome.text) for run, outcome in failed)
        self.remedies = {run.folder: outcome.remedy for run, outcome in failed if outcome.remedy}
        others = "".join(
            f"\nalso failed: {run.folder}: {outcome.error or outcome.text.splitlines()[-1]}"
            for run, outcome in failed[1:]
        )
        run, text = self.failures[0]
        super().__init__(f"{len(failed)} of {total} runs failed. {run.folder}:\n{text.rstrip()}{others}")


def default_workers() -> int:
    """How many processes train if nobody says: one for each core that this process may use, ``MOST_WORKERS`` at most.

    The environment variable ``WORKERS`` says, where several sweeps share the cores. Raises ``ValueError`` if it is no such
    number.

    >>> 1 <= default_workers() <= MOST_WORKERS
    True
    """
    if share := os.environ.get(WORKERS):
        if not (share.isdecimal() and int(share) > 0):
            raise ValueError(f"{WORKERS} is {share!r}: set it to a whole number at least 1, or to nothing")
        return int(share)
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return min(len(affinity(0)) if affinity else os.cpu_count() or 1, MOST_WORKERS)


def sweep(
    store_root: Path | str,
    configs: Sequence[Any],
    train: Train,
    workers: int | None = None,
    progress: bool = True,
    mix_platforms: bool = False,
    executor: Executor = Processes,
) -> list[Run]:
    """Load or train the run of each config and return them in the order of ``configs``.

    For example ``sweep("runs", [replace(config, seed=seed) for seed in range(5)], train)``, or in a script
    the same under ``if __name__ == "__main__":``, because each process imports the script.

    ``train(config, run)`` must be a function of a module (or a ``functools.partial`` of one): each of
    ``workers`` fresh processes (if not given, :func:`default_workers`), with one torch thread, imports it
    by name. It resumes by ``run.restore()`` and ends with ``run.finish(...)``. A config has ``steps``, which
    the progress bar counts against the steps in ``metrics.jsonl``. Global random generators are seeded
    before every run, so that none depends on the runs its process trained before.

    When a run fails the others still finish; then :class:`SweepError` is raised. Raises ``ValueError``,
    before anything is trained, if ``train`` or a config's class cannot be imported or ``workers`` (or ``WORKERS``) is not
    positive, and :class:`itpo.runs.store.RunFolderError` for a damaged folder. A run that began on another numeric platform
    fails unless ``mix_platforms``. An interrupt ends the processes; their runs resume next time. A run that another process
    trains is waited for, and then loaded, or trained where that one left it.

    The runs are trained by processes of this machine, or where ``executor`` says, such as :class:`itpo.integrations.ray.Ray`:
    on machines that share the store's folder.
    """
    if workers is None and executor is Processes:
        workers = default_workers()
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}: at least one process must train")
    for thing in (train, *{type(config) for config in configs}):
        _require_importable(thing)
    store = Store(store_root, mix_platforms)
    runs = [store.open(config) for config in configs]
    todo = list({run.folder: run for run in runs if not run.done}.values())
    for run in todo:
        run.release()
    start = time.monotonic()
    with _Progress(todo, progress) as bar:
        trained, failures = _train_all(executor(store, train, todo, workers), todo, bar) if todo else (0, [])
    if failures:
        raise SweepError(failures, len(runs))
    took = _duration(time.monotonic() - start)
    counts = f"{len(runs) - trained} loaded, {trained} trained in {took}"
    bar.conclude(f"{len(runs)} runs: {counts}{_mixture(runs)}")
    return [store.open(config) for config in configs]


def sweep_groups(
    store_root: Path | str, groups: Mapping[Name, Sequence[Any]], train: Train, **options: Any
) -> dict[Name, list[Run]]:
    """:func:`sweep` over the configs of all groups at once; returns the runs of each group under its name.

    Processes start once and none waits at the end of a group. The groups take turns, so that what the runs of
    one start from, such as a task's base model, is made for several groups at a time.

    >>> sweep_groups("runs", {"nothing": []}, train=print, progress=False)
    {'nothing': []}
    """
    turns = zip_longest(*([(name, config) for config in configs] for name, configs in groups.items()))
    pairs = [pair for turn in turns for pair in turn if pair is not None]
    trained: dict[Name, list[Run]] = {name: [] for name in groups}
    runs = sweep(store_root, [config for _, config in pairs], train, **options)
    for (name, _), run in zip(pairs, runs, strict=True):
        trained[name].append(run)
    return trained


def _require_importable(thing: Any) -> None:
    thing = function_of(thing)
    in_notebook = thing.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__")
    if in_notebook or "<" in thing.__qualname__:
        name = f"{thing.__module__}.{thing.__qualname__}"
        raise ValueError(f"another process cannot import {name}: define it at the top level of a module")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _train_all(pool: Pool, todo: Sequence[Run], bar: _Progress) -> tuple[int, list[tuple[Run, Outcome]]]:
    """Hand out the runs; returns how many were trained, and the failed ones with their outcomes.

    Runs that other processes train are left to the end, and waited for.
    """
    pending, waiting, trained = deque(todo), deque[Run](), 0
    going: dict[Path, Run] = {}
    failures: list[tuple[Run, Outcome]] = []
    elsewhere: set[Path] = set()
    try:
        while pending or waiting or going:
            while (pending or waiting) and pool.has_room():
                hurried, run = bool(pending), (pending or waiting).popleft()
                going[run.folder] = run
                pool.submit(run, hurried)
            ready = pool.wait(_POLL_SECONDS)
            ended = len(todo) - len(pending) - len(waiting) - len(going)
            bar.update([*going.values(), *waiting], ended, len(elsewhere))
            for run, outcome in ready:
                del going[run.folder]
                elsewhere.discard(run.folder)
                trained += outcome.kind == "trained"
                if outcome.kind == "busy":
                    elsewhere.add(run.folder)
                    waiting.append(run)
                if outcome.kind == "failed":
                    failures.append((run, outcome))
    finally:
        pool.end()
    return trained, failures


def _mixture(runs: Sequence[Run]) -> str:
    """A few words where the runs were trained on several numeric platforms, which their records tell apart."""
    platforms = {hash_json(entry["platform"]) for run in runs for entry in run.platforms()}
    return f"; on {len(platforms)} numeric platforms, see platform.json" if len(platforms) > 1 else ""


class _Cell:
    """A line in a notebook's output that each write replaces, so that a saved notebook holds only the last.

    Whoever runs the notebook sees the line in the file that the environment variable ``PROGRESS`` names, if there is one.
    """

    def __init__(self) -> None:
        from IPython.display import display  # here: no child process needs it, and it takes long to import

        self.handle = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        """Show this text in place of the one before; empty ones, with which tqdm clears its bar, are left out."""
        if text.strip():
            self.handle.update({"text/plain": text.strip()}, raw=True)
            if path := os.environ.get(PROGRESS):
                Path(path).write_text(text.strip(), encoding="utf-8")

    def flush(self) -> None:
        """Nothing is held back; tqdm asks for the method."""


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and hasattr(shell.get_ipython(), "kernel")


class _Progress:
    """A bar of training steps in plain text, drawn seldom and replaced by a last line.

    It is drawn on stderr; in a notebook, where stderr would keep every state of the bar, in a line of its own.
    """

    def __init__(self, todo: Sequence[Run], show: bool) -> None:
        self.show = show
        self.cell = _Cell() if show and _in_notebook() else None
        self.steps = {run.folder: run.checkpoint_step() for run in todo}
        self.bar = tqdm(
            total=sum(run.config.steps for run in todo),
            initial=sum(self.steps.values()),
            desc="training",
            unit="step",
            file=self.cell or sys.stderr,
            mininterval=_POLL_SECONDS if self.cell or sys.stderr.isatty() else 5 * _POLL_SECONDS,
            miniters=0,
            smoothing=0.1,
            ncols=120 if self.cell else min(shutil.get_terminal_size((120, 0)).columns - 1, 120),
            leave=False,
            disable=not (show and todo),
        )

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, running: Iterable[Run], ended: int, elsewhere: int) -> None:
        """Move the bar to the steps that the running and finished runs have done; say how many other processes train."""
        for run in running:
            self.steps[run.folder] = max(self.steps[run.folder], min(run.steps_done(), run.config.steps))
        waiting = f", waiting for {elsewhere} that others train" if elsewhere else ""
        models = {folder.parent / "models" for folder in self.steps}
        making = "".join(f", a model is being made: {text}" for place in models for text in being_made(place))
        self.bar.set_postfix_str(f"{ended} of {len(self.steps)} runs{waiting}{making}", refresh=False)
        self.bar.update(sum(self.steps.values()) - self.bar.n)

    def conclude(self, text: str) -> None:
        """Leave one line in place of the bar."""
        if self.cell:
            self.cell.write(text)
        elif self.show:
            print(text)
