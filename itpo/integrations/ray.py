"""Sweeps on a Ray cluster: ``sweep("runs", configs, train, executor=Ray(address="auto", num_gpus=0.25))``.

A run is a task of Ray, which finds it a place and starts it again when its process or its node is lost; the run then goes on
from its last checkpoint. The store is a folder that all nodes share, at the same path (:mod:`itpo.runs.store`), and the library
is installed on each. All else is as in :func:`itpo.runs.sweep.sweep`: results, errors, and that nothing is trained twice.
"""

from __future__ import annotations

import importlib
import platform
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itpo.config import RunConfig
from itpo.runs.files import hash_json, plain
from itpo.runs.processes import Outcome, Pool, Processes, Train, train_one
from itpo.runs.store import Run, Store
from itpo.runs.sweep import default_workers
from itpo.training.build import base_model

MISSING = "Ray is not installed (pip install 'itpo[ray]'): the runs are trained by processes of this machine"


@dataclass(frozen=True)
class Ray:
    """The executor for a cluster; without Ray, that of this machine, which one sentence on stderr then says.

    ``address`` is Ray's ("auto", "host:port"); without one, this machine's cluster, or a new one. Each run takes ``num_cpus``
    and ``num_gpus`` (parts are allowed), and is started again up to ``retries`` times when its process or node is lost.
    ``options`` are further ones of Ray's tasks, such as ``memory``, ``label_selector`` or ``runtime_env``. Raises
    ``ConnectionError`` where there is no such cluster.
    """

    address: str | None = None
    num_cpus: float = 1
    num_gpus: float = 0
    retries: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, store: Store, train: Train, todo: Sequence[Run], workers: int | None) -> Pool:
        """Make the pool that trains these runs; see :data:`itpo.runs.processes.Executor`."""
        try:
            ray = importlib.import_module("ray")
        except ImportError:
            print(MISSING, file=sys.stderr)
            return Processes(store, train, todo, workers or default_workers())
        if not ray.is_initialized():
            _require_answer(self.address)
            ray.init(
                self.address, logging_level="ERROR", **({} if self.address else {"include_dashboard": False})
            )
        options = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "max_retries": self.retries}
        return _Tasks(ray, store, train, workers, options | dict(self.options))


def _require_answer(address: str | None) -> None:
    """Raise ``ConnectionError`` at once where nobody listens; Ray itself would try for minutes."""
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10.0).close()
        except OSError as error:
            remedy = "start one (ray start --head), or name another"
            raise ConnectionError(f"no Ray cluster answers at {address} ({error}): {remedy}") from error


class _Tasks:
    """The tasks of one sweep; see :class:`itpo.runs.processes.Pool`."""

    def __init__(
        self, ray: Any, store: Store, train: Train, workers: int | None, options: Mapping[str, Any]
    ) -> None:
        self.ray, self.store, self.train, self.workers = ray, store, train, workers
        self._task = ray.remote(**options)(_train)
        self._make = ray.remote(**options)(_make_base)
        self._bases: dict[str, Any] = {}
        self._runs: dict[Any, Run] = {}

    def has_room(self) -> bool:
        """Whether fewer runs than asked for are with Ray, which holds those that find no place yet."""
        return self.workers is None or len(self._runs) < self.workers

    def submit(self, run: Run, hurried: bool) -> None:
        """Hand the run to Ray, to be started once its base model is there."""
        task = self._task.options(name=run.folder.name)
        base = self._base(run.config)
        self._runs[task.remote(self.store, self.train, run.config, run.folder, hurried, base)] = run

    def _base(self, config: Any) -> Any:
        """What Ray waits for before it starts the run: one task for all runs of a base model."""
        if not isinstance(config, RunConfig):
            return None
        key = hash_json(plain([config.task, config.model], "base model"))
        if key not in self._bases:
            self._bases[key] = self._make.options(name=f"base model {key[:8]}").remote(self.store, config)
        return self._bases[key]

    def wait(self, seconds: float) -> list[tuple[Run, Outcome]]:
        """What the tasks that ended return; Ray's own words for those whose process or node was lost too often."""
        ready, _ = self.ray.wait(list(self._runs), timeout=seconds)
        return [(self._runs.pop(task), self._outcome(task)) for task in ready]

    def _outcome(self, task: Any) -> Outcome:
        try:
            return Outcome(*self.ray.get(task))
        except self.ray.exceptions.RayTaskError as error:  # of the base model, with its traceback
            lost = isinstance(error.cause, FileNotFoundError)
            return _lost(str(error.cause)) if lost else Outcome("failed", str(error.cause or error))
        except self.ray.exceptions.RayError as error:
            return Outcome("failed", f"{type(error).__name__}: {error}")

    def end(self) -> None:
        """Cancel what is still trained."""
        for task in [*self._runs, *self._bases.values()]:
            self.ray.cancel(task, force=True)


def _train(
    store: Store, train: Train, config: Any, folder: Path, hurried: bool, base: Any
) -> tuple[str, ...]:
    """One run, in a worker of Ray; ``base`` was waited for."""
    if not (folder / "config.json").exists():
        return tuple(_lost(_not_shared(folder)))
    return tuple(train_one(train, config, folder, store, hurried))


def _make_base(store: Store, config: Any) -> None:
    if not store.root.exists():
        raise FileNotFoundError(_not_shared(store.root))
    import torch

    torch.set_num_threads(1)
    base_model(config, store)


def _not_shared(path: Path) -> str:
    here = platform.node()
    return f"{path} is not on {here}: the store must be a folder that all nodes of the cluster share, at the same path"


def _lost(remedy: str) -> Outcome:
    line = f"FileNotFoundError: {remedy}"
    return Outcome("failed", line, line, remedy)
