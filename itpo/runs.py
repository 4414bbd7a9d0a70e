"""Run store: one folder a run, named by the hash of what determines its numbers.

What determines them is the config, seed included, and :func:`numerics_version` of the code that runs it.
A finished run is loaded instead of trained again, and an interrupted one goes on from its last checkpoint
and ends with the same bytes as one that was never interrupted:

    <root>/<hash>/
        config.json       format, config, numerics and library versions
        metrics.jsonl     one JSON object a line, with "step"; a number that is not finite is null
        dialogues.jsonl   sampled dialogues, each with "step"
        timing.jsonl      seconds a step: the only file that differs between two equal runs
        probe/            step_000040.safetensors: small named tensors over training
        policy/, prm/ ... adapters, written by the trainer at the end
        checkpoint/       the last training state, until the run is finished
        done.json         summary, and hashes of the files above; there only when the run is finished

Files are safetensors and JSON, never pickles. ``<root>/models/`` holds what several runs start from,
``<root>/.locks/`` the locks that keep two processes from training one run.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, SupportsFloat

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from itpo.storage import (
    IN_WORK,
    RunBusyError,
    RunFolderError,
    check_run,
    digests,
    explain_full_disk,
    finite,
    hash_json,
    json_bytes,
    json_lines,
    library_versions,
    numerics_version,
    plain,
    read_json,
    read_json_lines,
    sha256,
    sync,
    take_lock,
    tensor_bytes,
    write_file,
)

__all__ = ["Run", "RunBusyError", "RunFolderError", "Store", "fingerprint", "numerics_version"]

_LOGS = ("metrics.jsonl", "dialogues.jsonl", "timing.jsonl")
_FROM_START = "delete {} to train the run from its start"
_PATIENCE = 10.0  # seconds: a killed sweep's children end a moment after it, and their locks with them
_held: dict[Path, IO[str]] = {}


def fingerprint(run: Run) -> str:
    """SHA-256 over metrics, dialogues, probes and adapters: equal for two runs exactly if these files are.

    >>> import tempfile
    >>> root = tempfile.TemporaryDirectory()
    >>> fingerprint(Run(Path(root.name), config=None))[:12]
    '44136fa355b3'
    """
    return hash_json(digests(run.folder))


class Run:
    """One run's folder; made by :meth:`Store.open`.

    Whatever writes takes the run's lock first and keeps it until :meth:`finish`, :meth:`release` or the end
    of the process. It raises :class:`RunBusyError` while another process holds the lock, ``RuntimeError``
    if the run is finished or was started before and not restored, and ``OSError`` that says what to do
    when the disk is full.
    """

    def __init__(self, folder: Path, config: Any) -> None:
        self.folder = folder
        self.config = config

    @property
    def done(self) -> bool:
        """Whether the run is finished."""
        return (self.folder / "done.json").exists()

    @contextmanager
    def _writing(self, restoring: bool = False) -> Iterator[None]:
        with explain_full_disk(self.folder):
            if self.folder not in _held:
                _held[self.folder] = take_lock(_lock_path(self.folder), patience=_PATIENCE)
                if not restoring and any(path.name != "config.json" for path in self.folder.iterdir()):
                    self.release()
                    raise RuntimeError(f"{self.folder} holds a started or finished run: call restore() first")
            if self.done:
                raise RuntimeError(f"{self.folder} holds a finished run: read it, or train another config")
            yield

    def release(self) -> None:
        """Give up the lock without finishing, so that another process can go on with the run."""
        if self.folder in _held:
            _held.pop(self.folder).close()

    def _append(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        content = json_lines(records)
        with self._writing(), open(self.folder / name, "ab") as file:
            file.write(content)

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Append one line to ``metrics.jsonl``; what is not finite is written as null and read back as nan.

        Raises ``ValueError`` if a metric is called "step".
        """
        self._append("metrics.jsonl", [_numbers(step, metrics)])

    def log_time(self, step: int, seconds: Mapping[str, SupportsFloat]) -> None:
        """Append the seconds that each part of a step took to ``timing.jsonl``, which no comparison reads."""
        self._append("timing.jsonl", [_numbers(step, seconds)])

    def save_dialogues(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Append JSON records to ``dialogues.jsonl``, each with its step."""
        self._append("dialogues.jsonl", [{"step": step, **record} for record in records])

    def save_probe(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Write small named tensors as they are at this step."""
        with self._writing():
            write_file(self.folder / "probe" / f"step_{step:06d}.safetensors", tensor_bytes(tensors))

    def checkpoint(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Replace the last checkpoint by the whole training state, and note how long the logs are now.

        A crash leaves the old checkpoint or the new one.
        """
        folder, content = self.folder / "checkpoint", tensor_bytes(tensors)
        digest = sha256(content)
        name = f"step_{step:06d}-{digest[:8]}.safetensors"
        with self._writing():
            logs = {log: self.folder / log for log in _LOGS if (self.folder / log).exists()}
            for path in (*logs.values(), self.folder):
                sync(path)
            state = {"step": step, "tensors": name, "sha256": digest}
            sizes = {log: path.stat().st_size for log, path in logs.items()}
            state |= {"sizes": sizes, "probes": self._probe_names()}
            document = json_bytes(**state)
            write_file(folder / name, content)
            write_file(folder / "state.json", document)
            for path in folder.iterdir():
                if path.name not in (name, "state.json"):
                    path.unlink()

    def restore(self) -> tuple[int, dict[str, Tensor]] | None:
        """Go back to the last checkpoint: its step and tensors; ``None`` if there is none.

        Whatever was logged or saved after it (without one: everything) is removed, so that the files end as
        if the run had never stopped. A run that was already started must be restored before anything is
        written. Raises :class:`RunFolderError`, before it changes anything, if the checkpoint or a file
        is damaged.
        """
        with self._writing(restoring=True):
            state = self._state()
            sizes, probes = state.get("sizes", {}), state.get("probes", [])
            for log, size in sizes.items():
                path = self.folder / log
                if not path.exists() or path.stat().st_size < size:
                    raise RunFolderError(path, "is shorter than at the last checkpoint")
            if missing := set(probes) - set(self._probe_names()):
                raise RunFolderError(self.folder / "probe" / min(missing), "is missing")
            tensors = self._state_tensors(state) if state else {}
            for log in _LOGS:
                if log in sizes:
                    os.truncate(self.folder / log, sizes[log])
                else:
                    (self.folder / log).unlink(missing_ok=True)
            for name in set(self._probe_names()) - set(probes):
                (self.folder / "probe" / name).unlink()
            keep = ("probe", "checkpoint") if state else ("probe",)
            for path in [path for path in self.folder.iterdir() if path.is_dir() and path.name not in keep]:
                shutil.rmtree(path)
            return (state["step"], tensors) if state else None

    def _state(self) -> dict[str, Any]:
        path = self.folder / "checkpoint" / "state.json"
        remedy = _FROM_START.format(path.parent)
        state = read_json(path, remedy) if path.exists() else {}
        if state and not {"step", "tensors", "sha256", "sizes", "probes"} <= set(state):
            raise RunFolderError(path, "is not a checkpoint of this library", remedy)
        return state

    def _state_tensors(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        path = self.folder / "checkpoint" / state["tensors"]
        content = path.read_bytes() if path.exists() else b""
        if sha256(content) != state["sha256"]:
            raise RunFolderError(path, "is missing or damaged", _FROM_START.format(path.parent))
        return load(content)

    def _probe_names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "probe").glob("step_*.safetensors"))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write ``done.json`` with the summary (JSON) and the hash of each file; remove the checkpoint."""
        with self._writing():
            for path in [self.folder, *self.folder.rglob("*")]:
                path.unlink() if path.name == IN_WORK else sync(path)
            content = {"format": "itpo-run-done", "version": 1, "summary": finite(summary)}
            write_file(self.folder / "done.json", json_bytes(**content, files=digests(self.folder)))
            self._remove_checkpoint()
        self.release()

    def _remove_checkpoint(self) -> None:
        shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)  # another process may be doing the same

    def checkpoint_step(self) -> int:
        """The step of the last checkpoint, 0 if there is none."""
        return int(self._state().get("step", 0))

    def steps_done(self) -> int:
        """The last step in ``metrics.jsonl``, 0 before the first."""
        lines = read_json_lines(self.folder / "metrics.jsonl")
        return int(lines[-1]["step"]) if lines else 0

    def metrics(self) -> pd.DataFrame:
        """All logged metrics, a row for each :meth:`log`."""
        return _frame(read_json_lines(self.folder / "metrics.jsonl"))

    def timing(self) -> pd.DataFrame:
        """Seconds by part, a row for each :meth:`log_time`."""
        return _frame(read_json_lines(self.folder / "timing.jsonl"))

    def probes(self) -> list[tuple[int, dict[str, Tensor]]]:
        """Every probe as (step, tensors), by step. Raises :class:`RunFolderError` if one is damaged."""
        result = []
        for path in (self.folder / "probe" / name for name in self._probe_names()):
            try:
                result.append((int(path.stem[5:]), load(path.read_bytes())))
            except (SafetensorError, ValueError) as error:
                raise RunFolderError(path, f"is not a probe ({error})") from error
        return sorted(result, key=lambda probe: probe[0])

    def dialogues(self) -> list[dict[str, Any]]:
        """Every saved dialogue record, with its step."""
        return read_json_lines(self.folder / "dialogues.jsonl")

    def summary(self) -> dict[str, Any]:
        """What :meth:`finish` was given. Raises :class:`RunFolderError` if the run is not finished."""
        return read_json(self.folder / "done.json", "train the run to its end")["summary"]


def _numbers(step: int, values: Mapping[str, SupportsFloat]) -> dict[str, Any]:
    if "step" in values:
        raise ValueError('a value may not be called "step": the line already has the step under that name')
    numbers = {k: v.item() if isinstance(v, Tensor) else v for k, v in values.items()}
    return {"step": step, **{k: v if isinstance(v, int) else float(v) for k, v in numbers.items()}}


def _frame(lines: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([{k: float("nan") if v is None else v for k, v in line.items()} for line in lines])


def _lock_path(folder: Path) -> Path:
    return folder.parent / ".locks" / f"{folder.name}.lock"


class Store:
    """A folder of runs and of the models they start from.

    >>> import tempfile
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Toy:
    ...     seed: int = 0
    >>> root = tempfile.TemporaryDirectory()
    >>> run = Store(Path(root.name)).open(Toy(seed=1))
    >>> run.log(1, {"success": 0.5})
    >>> run.finish({"success": 0.5})
    >>> again = Store(Path(root.name)).open(Toy(seed=1))
    >>> again.done, again.summary(), again.metrics()["success"].tolist()
    (True, {'success': 0.5}, [0.5])
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).resolve()

    def open(self, config: Any) -> Run:
        """The run of this config (a frozen dataclass): a new folder, or the existing one after a check.

        A config may have ``code``, the modules that decide its numbers beside those of every run (see
        :func:`numerics_version`). Raises ``TypeError`` if the config holds what JSON cannot, and
        :class:`RunFolderError`, changing nothing, if the folder is not ours, its config does not give its
        name, or a file of a finished run is not as it was when it finished.
        """
        name = type(config).__name__
        if not getattr(getattr(config, "__dataclass_params__", None), "frozen", False):
            raise TypeError(f"{name} is not a frozen dataclass: decorate it @dataclass(frozen=True)")
        numerics = numerics_version(getattr(config, "code", ()))
        content = {"numerics": numerics, "config": plain(config, name)}
        folder = self.root / hash_json(content)[:16]
        run = Run(folder, config)
        if _is_absent(folder):
            with explain_full_disk(self.root):
                self._create(folder, content)
        check_run(folder)
        if run.done:
            run._remove_checkpoint()
        return run

    def _create(self, folder: Path, content: Mapping[str, Any]) -> None:
        with take_lock(self.root / ".locks" / "create.lock", patience=60.0):
            if _is_absent(folder):
                partial = folder.with_name(f"{IN_WORK}-run")
                partial.mkdir(exist_ok=True)
                document = {"format": "itpo-run", "version": 1, "libraries": library_versions(), **content}
                write_file(partial / "config.json", json_bytes(**document))
                os.rename(partial, folder)
                sync(self.root)

    def artifact(
        self,
        kind: str,
        determinants: Mapping[str, Any],
        build: Callable[[Path], Any],
        code: Sequence[str] = (),
    ) -> Path:
        """The folder ``models/<kind>-<hash>`` that ``build(folder)`` filled, once for these determinants and ``code``.

        A folder is there completely or not at all; a process that asks while another builds waits for it.
        Raises ``ValueError`` for a kind that cannot be part of a file name, and whatever ``build`` raises.

        >>> import tempfile
        >>> root = tempfile.TemporaryDirectory()
        >>> store = Store(root.name)
        >>> path = store.artifact("text", {"seed": 1}, lambda folder: (folder / "a.txt").write_text("made"))
        >>> store.artifact("text", {"seed": 1}, lambda folder: 1 / 0) == path, (path / "a.txt").read_text()
        (True, 'made')
        """
        if not re.fullmatch(r"[A-Za-z0-9_]+", kind):
            raise ValueError(f"kind {kind!r} names a folder: use letters, digits and underscores")
        content = {"numerics": numerics_version(code), "kind": kind}
        content["determinants"] = plain(determinants, "determinants")
        folder = self.root / "models" / f"{kind}-{hash_json(content)[:16]}"
        if _is_absent(folder):
            with explain_full_disk(self.root), take_lock(_lock_path(folder), patience=float("inf")):
                if _is_absent(folder):
                    _build(folder, content, build)
        if read_json(folder / "artifact.json") != {"format": "itpo-artifact", "version": 1, **content}:
            raise RunFolderError(folder / "artifact.json", "is not what this folder's name stands for")
        return folder


def _build(folder: Path, content: Mapping[str, Any], build: Callable[[Path], Any]) -> None:
    partial = folder.with_name(f"{IN_WORK}-{folder.name}")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    build(partial)
    for path in partial.rglob("*"):
        sync(path)
    write_file(partial / "artifact.json", json_bytes(format="itpo-artifact", version=1, **content))
    os.rename(partial, folder)
    sync(folder.parent)


def _is_absent(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
