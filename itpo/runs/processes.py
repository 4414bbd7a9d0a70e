"""Where the runs of a sweep are trained: what an executor is, and that of this machine, which trains in child processes."""

from __future__ import annotations

import os
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from itpo.runs.store import Run, RunBusyError, RunFinishedError, Store

Train = Callable[[Any, Run], None]
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class Outcome(NamedTuple):
    """What became of a run: "trained", or in another sweep "loaded" or "busy", or "failed" with a traceback.

    ``error`` is what it failed by, in one line; ``remedy`` is the message alone where that says itself what to do.
    """

    kind: str
    text: str = ""
    error: str = ""
    remedy: str = ""


@runtime_checkable
class Pool(Protocol):
    """What trains the runs of one sweep, several at a time."""

    def has_room(self) -> bool:
        """Whether it takes another run now."""

    def submit(self, run: Run, hurried: bool) -> None:
        """Train a run; ``hurried`` is whether others could be trained while another process has this one."""

    def wait(self, seconds: float) -> list[tuple[Run, Outcome]]:
        """The runs that ended, as soon as one did, and at the latest after so many seconds."""

    def end(self) -> None:
        """Stop all that is still trained: it goes on from its last checkpoint another time."""


# Makes the pool that trains these runs, so many at a time (None: as many as there is room for).
Executor = Callable[[Store, Train, Sequence[Run], int | None], Pool]


def train_one(train: Train, config: Any, folder: Path, store: Store, hurried: bool) -> Outcome:
    """Train one run in this process, with one thread and random generators as at the start of any other.

    ``folder`` is where whoever asks expects it. Never raises: an error is an outcome.

    >>> import tempfile
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Toy:
    ...     steps: int = 1
    >>> root = tempfile.TemporaryDirectory()
    >>> store = Store(root.name)
    >>> train_one(lambda config, run: run.finish({}), Toy(), store.folder(Toy()), store, hurried=False)
    Outcome(kind='trained', text='', error='', remedy='')
    """
    try:
        torch.set_num_threads(1)
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        run = store.open(config)
        if run.folder != folder:
            text = "the library changed since the sweep began: restart the process that called it"
            return Outcome("failed", text)
        if run.done or (hurried and run.busy()):
            return Outcome("loaded" if run.done else "busy")
        try:
            train(config, run)
        except RunBusyError:
            return Outcome("busy")
        except RunFinishedError:  # by another process since it was opened
            return Outcome("loaded")
        finally:
            run.release()
        return (
            Outcome("trained") if run.done else Outcome("failed", f"{train} returned without run.finish(...)")
        )
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> Outcome:
    """The outcome of an error that is being handled.

    What to do say the library's own errors, those of files and packages, and a value or number that the library itself refused.
    """
    kind, message = type(error), " ".join(str(error).split())
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    refused = isinstance(error, ValueError | FloatingPointError) and _is_ours(
        frame.f_globals.get("__name__", "")
    )
    known = _is_ours(kind.__module__) or isinstance(error, OSError | ImportError) or refused
    line = f"{kind.__qualname__}: {message}"
    return Outcome("failed", traceback.format_exc(), line, message if known else "")


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == __name__.partition(".")[0]


def function_of(thing: Any) -> Any:
    """What a partial application calls in the end.

    >>> function_of(partial(partial(max, 1), 2)) is max
    True
    """
    while isinstance(thing, partial):
        thing = thing.func
    return thing


@dataclass(frozen=True)
class _Worker:
    """One child process and our end of the pipe to it."""

    process: Any
    connection: Connection


class Processes:
    """Child processes of this one; see :class:`Pool`."""

    def __init__(self, store: Store, train: Train, todo: Sequence[Run], workers: int | None) -> None:
        self.store, self.train, self.workers = store, train, min(len(todo), workers or len(todo))
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, Run] = {}

    def has_room(self) -> bool:
        """Whether fewer processes train than are to."""
        return len(self._busy) < self.workers

    def submit(self, run: Run, hurried: bool) -> None:
        """Send the run to a process that has nothing to do, or to a new one."""
        worker = self._idle.pop() if self._idle else _start(self.store, self.train)
        self._busy[worker] = run
        with suppress(BrokenPipeError):  # it died: wait() sees that
            worker.connection.send((self.train, run.config, run.folder, hurried))

    def wait(self, seconds: float) -> list[tuple[Run, Outcome]]:
        """What the processes that are done say, or that they died."""
        ready = wait([worker.connection for worker in self._busy], timeout=seconds)
        ended = []
        for worker in [worker for worker in self._busy if worker.connection in ready]:
            ended.append((self._busy.pop(worker), _outcome(worker)))
            if worker.process.exitcode is None:
                self._idle.append(worker)
        return ended

    def end(self) -> None:
        """End the processes."""
        workers = [*self._idle, *self._busy]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(5.0)
            worker.process.kill()


def _start(store: Store, train: Train) -> _Worker:
    # CUDA does not survive a fork once a library has used it while it was imported; Windows has no fork.
    if torch.cuda.is_available() or "forkserver" not in get_all_start_methods():
        context: Any = get_context("spawn")
    else:
        # A server that has imported torch, transformers and peft forks the children of all sweeps of this process: each would
        # take seconds to import them.
        context = get_context("forkserver")
        given = [value for value in getattr(train, "args", ()) if callable(value)]
        context.set_forkserver_preload([function_of(thing).__module__ for thing in (train, *given)])
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


def _outcome(worker: _Worker) -> Outcome:
    """What a process sends at the end of a run."""
    try:
        return Outcome(*worker.connection.recv())
    except (EOFError, ConnectionResetError):
        worker.process.join()
        code = worker.process.exitcode
        text = f"the process ended with exit code {code} (-9: killed, perhaps for lack of memory)"
        return Outcome("failed", text)


def _work(connection: Connection, store: Store, environment: dict[str, str]) -> None:
    """What a child does: train the runs it is sent until it is terminated or its parent is gone."""
    os.environ.clear()  # the server's is that of the first sweep
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets the interrupt too, and ends its children
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            train, config, folder, hurried = connection.recv()
            outcome = train_one(train, config, folder, store, hurried)
        except EOFError:
            return
        except Exception as error:  # what was sent cannot be read here
            outcome = _failed(error)
        connection.send(tuple(outcome))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
