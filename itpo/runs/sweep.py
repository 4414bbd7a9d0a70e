"""Train many runs in parallel processes; finished ones are loaded, interrupted ones go on."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from itpo.runs.store import Run, RunBusyError, RunFinishedError, Store

Train = Callable[[Any, Run], None]
Name = TypeVar("Name", bound=Hashable)
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
_POLL_SECONDS = 2.0
PROGRESS = "ITPO_PROGRESS"
MOST_WORKERS = 16  # unless asked for [O]; each takes about 0.2 GB of memory beside what they share


class SweepError(RuntimeError):
    """Some runs of a sweep failed; the message has their folders and the first traceback, ``failures`` has all."""

    def __init__(self, failures: Sequence[tuple[Run, str]], total: int) -> None:
        self.failures = tuple(failures)
        others = "".join(
            f"\nalso failed: {run.folder}: {text.splitlines()[-1]}" for run, text in failures[1:]
        )
        run, text = failures[0]
        super().__init__(f"{len(failures)} of {total} runs failed. {run.folder}:\n{text.rstrip()}{others}")


class _Result(NamedTuple):
    """What became of a run in a child: "trained", or in another sweep "loaded" or "busy", or "failed" with a traceback."""

    outcome: str
    text: str = ""


@dataclass(frozen=True)
class _Worker:
    """One child process and our end of the pipe to it."""

    process: Any
    connection: Connection


def default_workers() -> int:
    """How many processes train if nobody says: one for each core that this process may use, ``MOST_WORKERS`` at most.

    >>> 1 <= default_workers() <= MOST_WORKERS
    True
    """
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return min(len(affinity(0)) if affinity else os.cpu_count() or 1, MOST_WORKERS)


def sweep(
    store_root: Path | str,
    configs: Sequence[Any],
    train: Train,
    workers: int | None = None,
    progress: bool = True,
    mix_platforms: bool = False,
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
    before anything is trained, if ``train`` or a config's class cannot be imported or ``workers`` is not
    positive, and :class:`itpo.runs.store.RunFolderError` for a damaged folder. A run that began on another numeric platform
    fails unless ``mix_platforms``. An interrupt ends the processes; their runs resume next time. A run that another process
    trains is waited for, and then loaded, or trained where that one left it.
    """
    if workers is None:
        workers = default_workers()
    if workers < 1:
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
        trained, failures = _train_all(store, todo, train, workers, bar)
    if failures:
        raise SweepError(failures, len(runs))
    took = _duration(time.monotonic() - start)
    bar.conclude(f"{len(runs)} runs: {len(runs) - trained} loaded, {trained} trained in {took}")
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


def _function(thing: Any) -> Any:
    """What a partial application calls in the end."""
    while isinstance(thing, partial):
        thing = thing.func
    return thing


def _require_importable(thing: Any) -> None:
    thing = _function(thing)
    in_notebook = thing.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__")
    if in_notebook or "<" in thing.__qualname__:
        name = f"{thing.__module__}.{thing.__qualname__}"
        raise ValueError(f"another process cannot import {name}: define it at the top level of a module")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _train_all(
    store: Store, todo: Sequence[Run], train: Train, workers: int, bar: _Progress
) -> tuple[int, list[tuple[Run, str]]]:
    """Hand out the runs, one at a time to each process; returns how many were trained, and (run, traceback) of the failed ones.

    Runs that other processes train are left to the end, and waited for.
    """
    pending, waiting, trained = deque(todo), deque[Run](), 0
    failures: list[tuple[Run, str]] = []
    idle: list[_Worker] = []
    busy: dict[_Worker, Run] = {}
    elsewhere: set[Path] = set()
    try:
        while pending or waiting or busy:
            while (pending or waiting) and len(busy) < workers:
                worker, run = idle.pop() if idle else _start(store, train), (pending or waiting).popleft()
                busy[worker] = run
                with suppress(BrokenPipeError):  # it died: the wait below sees that
                    worker.connection.send((train, run.config, run.folder, bool(pending)))
            ready = wait([worker.connection for worker in busy], timeout=_POLL_SECONDS)
            ended = len(todo) - len(pending) - len(waiting) - len(busy)
            bar.update([*busy.values(), *waiting], ended, len(elsewhere))
            for worker in [worker for worker in busy if worker.connection in ready]:
                run, result = busy.pop(worker), _result(worker)
                if worker.process.exitcode is None:
                    idle.append(worker)
                elsewhere.discard(run.folder)
                trained += result.outcome == "trained"
                if result.outcome == "busy":
                    elsewhere.add(run.folder)
                    waiting.append(run)
                if result.outcome == "failed":
                    failures.append((run, result.text))
    finally:
        _end([*idle, *busy])
    return trained, failures


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(5.0)
        worker.process.kill()


def _start(store: Store, train: Train) -> _Worker:
    if (
        torch.cuda.is_available()
    ):  # which a fork does not survive once a library has used it while it was imported
        context: Any = get_context("spawn")
    else:
        # A server that has imported torch, transformers and peft forks the children of all sweeps of this process: each would
        # take seconds to import them.
        context = get_context("forkserver")
        context.set_forkserver_preload([_function(train).__module__])
    ours, theirs = context.Pipe()
    with _environment(_ONE_THREAD):  # read when the server imports torch, before any code of ours runs there
        process = context.Process(target=_work, args=(theirs, store, dict(os.environ)), daemon=True)
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _result(worker: _Worker) -> _Result:
    """What a process sends at the end of a run."""
    try:
        return _Result(*worker.connection.recv())
    except (EOFError, ConnectionResetError):
        worker.process.join()
        code = worker.process.exitcode
        text = f"the process ended with exit code {code} (-9: killed, perhaps for lack of memory)"
        return _Result("failed", text)


def _work(connection: Connection, store: Store, environment: dict[str, str]) -> None:
    """What a child does: train the runs it is sent until it is terminated or its parent is gone."""
    os.environ.clear()  # the server's is that of the first sweep
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets the interrupt too, and ends its children
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    while True:
        try:
            train, config, folder, hurried = connection.recv()
            result = _train_one(train, config, folder, store, hurried)
        except EOFError:
            return
        except Exception:
            result = _Result("failed", traceback.format_exc())
        connection.send(tuple(result))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _train_one(train: Train, config: Any, folder: Path, store: Store, hurried: bool) -> _Result:
    """Train one run; ``hurried`` is whether other runs could be trained while another process has this one."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    run = store.open(config)
    if run.folder != folder:
        text = "the library changed since the sweep began: restart the process that called it"
        return _Result("failed", text)
    if run.done or (hurried and run.busy()):
        return _Result("loaded" if run.done else "busy")
    try:
        train(config, run)
    except RunBusyError:
        return _Result("busy")
    except RunFinishedError:  # by another process since it was opened
        return _Result("loaded")
    except Exception:
        return _Result("failed", traceback.format_exc())
    finally:
        run.release()
    return _Result("trained") if run.done else _Result("failed", f"{train} returned without run.finish(...)")


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
            ncols=120,
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
        self.bar.set_postfix_str(f"{ended} of {len(self.steps)} runs{waiting}", refresh=False)
        self.bar.update(sum(self.steps.values()) - self.bar.n)

    def conclude(self, text: str) -> None:
        """Leave one line in place of the bar."""
        if self.cell:
            self.cell.write(text)
        elif self.show:
            print(text)
