"""Live curves in trackio, Weights & Biases, TensorBoard or MLflow, through accelerate's trackers.

``sweep("runs", configs, partial(tracked, train, "trackio"))`` trains as without a tracker, to the same bytes in the same
folders.

What counts stays ``metrics.jsonl``. Each line that a run logs there goes to the tracker too, from a thread of its own, so that
a tracker that is slow, down or missing costs one line of warning and some points of a curve. Left out are the warm-up, whose
steps are negative, and numbers that are not finite. A run that goes on sends what it trains from then on.
"""

from __future__ import annotations

import math
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from itpo.config import RunConfig
from itpo.runs.files import UNNAMED, plain
from itpo.runs.paths import project_root
from itpo.runs.platform import numeric_platform
from itpo.runs.store import Run

TRACKERS = ("trackio", "wandb", "tensorboard", "mlflow")
_PROJECT = "itpo"
_MOST_WAITING = 1000  # lines that wait for a slow tracker before some are left out [O]
_PATIENCE = 15.0  # seconds that the end of a run waits for the last lines to be sent [O]; MLflow takes half of them to start
_given_up: set[str] = set()  # trackers that did not answer in time: this process waits for none of them twice


def tracked(train: Callable[[Any, Run], None], tracker: str, config: Any, run: Run) -> None:
    """Train as ``train(config, run)`` does, and send what the run logs to one of :data:`TRACKERS`.

    Raises ``ValueError`` for a tracker of another name, and whatever ``train`` raises, but nothing for a tracker that fails.

    >>> tracked(print, "abacus", None, Run(Path("nowhere"), None))
    Traceback (most recent call last):
    ValueError: unknown tracker 'abacus': use one of trackio, wandb, tensorboard, mlflow
    """
    if tracker not in TRACKERS:
        raise ValueError(f"unknown tracker {tracker!r}: use one of {', '.join(TRACKERS)}")
    if tracker in _given_up:
        return train(config, run)
    sender = _Sender(tracker, run)
    run.listeners.append(sender.hear)
    try:
        train(config, run)
    finally:
        run.listeners.remove(sender.hear)
        sender.close()


class _Sender:
    """A queue of lines, and the thread that empties it."""

    def __init__(self, tracker: str, run: Run) -> None:
        self.tracker, self.run = tracker, run
        self.lines: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_MOST_WAITING)
        self.warned = self.failed = False
        self.thread = threading.Thread(target=self._send_all, name=f"tracker {tracker}", daemon=True)
        self.thread.start()

    def hear(self, line: Mapping[str, Any]) -> None:
        """Take a line of ``metrics.jsonl``; never waits."""
        if line["step"] < 0 or self.failed:
            return
        try:
            self.lines.put_nowait(line)
        except queue.Full:
            self._warn("is too slow: some points of its curves are left out")

    def close(self) -> None:
        """Let the last lines be sent, for a moment."""
        end = time.monotonic() + _PATIENCE
        with suppress(queue.Full):
            self.lines.put(None, timeout=_PATIENCE)
        self.thread.join(max(0.0, end - time.monotonic()))
        if self.thread.is_alive():
            _given_up.add(self.tracker)
            self._warn("does not answer: its curves end early, and further runs of this process have none")

    def _warn(self, text: str) -> None:
        if not self.warned:
            self.warned = True
            where = f"tracker {self.tracker} of {self.run.folder}"
            print(f"{where} {text}; the run goes on, and metrics.jsonl has all", file=sys.stderr, flush=True)

    def _send_all(self) -> None:
        try:
            opened = None
            while (line := self.lines.get()) is not None:
                if (
                    opened is None
                ):  # only now: a run may fail before it logs anything, and its first step is known
                    opened = _open(self.tracker, self.run, line["step"])
                    opened.store_init_configuration(_settings(self.run.config))
                values = {
                    name: value for name, value in line.items() if name != "step" and math.isfinite(value)
                }
                opened.log(values, step=line["step"])
            if opened is not None:
                opened.finish()
        except (
            BaseException
        ) as error:  # some trackers end the process that cannot reach them: here only this thread
            self.failed = True
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._warn(f"failed ({reason[:300]}): it gets no more")


def _open(tracker: str, run: Run, step: int) -> Any:
    """Accelerate's tracker for a run, with a name that people can read."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if tracker not in [str(getattr(name, "value", name)) for name in get_available_trackers()]:
        raise ImportError(f"it is not installed: pip install {tracker}")
    PartialState()  # without it accelerate's own messages raise
    title = _title(run)
    every: dict[str, dict[str, Any]] = {
        "trackio": {"run_name": _PROJECT, "name": title},
        "wandb": {"run_name": _PROJECT, "name": title, "id": title, "resume": "allow"},
        "tensorboard": {"run_name": title, "logging_dir": run.folder.parent / "tensorboard"},
        "mlflow": {"experiment_name": _PROJECT, "run_name": title},
    }
    if step > 0:
        every["tensorboard"]["purge_step"] = step  # what an interrupted run sent after its last checkpoint
    opened = LOGGER_TYPE_TO_CLASS[tracker](**every[tracker])
    if hasattr(opened, "start"):  # older versions start when they are made
        opened.start()
    return opened


def _title(run: Run) -> str:
    config, name = run.config, run.folder.name[:8]
    if not isinstance(config, RunConfig):
        return name
    parts = (config.task.name, config.method.name, config.estimator.name, f"seed{config.seed}", name)
    return "-".join(part.replace(":", ".") for part in parts)


def _settings(config: Any) -> dict[str, Any]:
    """The config by full names, and where and with which code it is trained."""
    known: dict[str, Any] = {"git": _git_state(project_root())}
    for name, value in _leaves({**plain(config, "config"), "platform": numeric_platform()}):
        known[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return known


def _leaves(document: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        inner = path if key in ("options", UNNAMED) else (*path, key)
        if isinstance(value, Mapping):
            yield from _leaves(value, inner)
        elif key != "class":
            yield ".".join(inner), value


def _git_state(folder: Path) -> str:
    """The commit that is checked out, and whether files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (", changed" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "none"
