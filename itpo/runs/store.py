"""Run store: one folder a run, named by the hash of what determines its numbers.

What determines them is the config, seed included, and the version of the library's numerics, :data:`itpo.NUMERICS`.
A finished run is loaded instead of trained again, and an interrupted one goes on from its last checkpoint
and ends with the same bytes as one that was never interrupted, provided that it goes on on the same numeric platform:

    <root>/<hash>/
        config.json       format, config and version of the numerics
        platform.json     libraries, device, processor and threads that train it, by the step from which on they did
        metrics.jsonl     one JSON object a line, with "step"; a number that is not finite is null
        dialogues.jsonl   sampled dialogues, each with "step"
        timing.jsonl      seconds a step: the only file that differs between two equal runs
        monitor/          step_000040.safetensors: small named tensors over training
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
from typing import TYPE_CHECKING, Any, SupportsFloat

from filelock import AcquireReturnProxy
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from itpo import NUMERICS
from itpo.runs.files import (
    IN_WORK,
    RunBusyError,
    RunFolderError,
    check_run,
    digests,
    explain_full_disk,
    finite,
    folder_name,
    hash_json,
    json_bytes,
    json_lines,
    plain,
    read_json,
    read_json_lines,
    sha256,
    sync,
    take_lock,
    tensor_bytes,
    write_file,
)
from itpo.runs.platform import differences, numeric_platform

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PlatformError", "Run", "RunBusyError", "RunFolderError", "Store", "fingerprint"]

_UNTRAINED = ("config.json", "platform.json")
_LOGS = ("metrics.jsonl", "dialogues.jsonl", "timing.jsonl")
_FROM_START = "delete {} to train the run from its start"
_PATIENCE = 10.0  # seconds: a killed sweep's children end a moment after it, and their locks with them
_held: dict[Path, AcquireReturnProxy] = {}


class PlatformError(RuntimeError):
    """A run would go on on another numeric platform than it began on, and would end with other bytes than on either."""


def fingerprint(run: Run) -> str:
    """SHA-256 over metrics, dialogues, readings and adapters: equal for two runs exactly if these files are.

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

    def __init__(self, folder: Path, config: Any, mix_platforms: bool = False) -> None:
        self.folder = folder
        self.config = config
        self.mix_platforms = mix_platforms

    @property
    def done(self) -> bool:
        """Whether the run is finished."""
        return (self.folder / "done.json").exists()

    @contextmanager
    def _writing(self, restoring: bool = False) -> Iterator[None]:
        with explain_full_disk(self.folder):
            if self.folder not in _held:
                _held[self.folder] = take_lock(_lock_path(self.folder), patience=_PATIENCE)
                if not restoring and any(path.name not in _UNTRAINED for path in self.folder.iterdir()):
                    self.release()
                    raise RuntimeError(f"{self.folder} holds a started or finished run: call restore() first")
                if not restoring:
                    self._note_platform(None)
            if self.done:
                raise RuntimeError(f"{self.folder} holds a finished run: read it, or train another config")
            yield

    def release(self) -> None:
        """Give up the lock without finishing, so that another process can go on with the run."""
        if self.folder in _held:
            _held.pop(self.folder).lock.release()

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

    def save_monitor(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Write small named tensors as they are at this step."""
        with self._writing():
            write_file(self.folder / "monitor" / f"step_{step:06d}.safetensors", tensor_bytes(tensors))

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
            state |= {"sizes": sizes, "monitor": self._monitor_names()}
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
        is damaged, and :class:`PlatformError` if it was written on another numeric platform (processor, libraries, threads),
        unless the store mixes platforms.
        """
        with self._writing(restoring=True):
            state = self._state()
            sizes, readings = state.get("sizes", {}), state.get("monitor", [])
            for log, size in sizes.items():
                path = self.folder / log
                if not path.exists() or path.stat().st_size < size:
                    raise RunFolderError(path, "is shorter than at the last checkpoint")
            if missing := set(readings) - set(self._monitor_names()):
                raise RunFolderError(self.folder / "monitor" / min(missing), "is missing")
            tensors = self._state_tensors(state) if state else {}
            self._note_platform(state.get("step"))
            for log in _LOGS:
                if log in sizes:
                    os.truncate(self.folder / log, sizes[log])
                else:
                    (self.folder / log).unlink(missing_ok=True)
            for name in set(self._monitor_names()) - set(readings):
                (self.folder / "monitor" / name).unlink()
            keep = ("monitor", "checkpoint") if state else ("monitor",)
            for path in [path for path in self.folder.iterdir() if path.is_dir() and path.name not in keep]:
                shutil.rmtree(path)
            return (state["step"], tensors) if state else None

    def _note_platform(self, step: int | None) -> None:
        """Record where the run begins, or goes on from ``step``: on the last platform, unless asked to mix them."""
        path, here = self.folder / "platform.json", numeric_platform()
        noted = [] if step is None else read_json(path)["platforms"]
        # Steps after the checkpoint are gone, and platforms that trained nothing else with them.
        entries = [entry for entry in noted if entry["from_step"] < (step or 0)] or noted[:1]
        changed = differences(here, entries[-1]["platform"]) if entries else []
        if changed and not self.mix_platforms:
            raise PlatformError(
                f"{self.folder} was trained to step {step} on another numeric platform ({'; '.join(changed)}): go on there, "
                "or ask for mixed platforms (mix_platforms=True, --mix-platforms): the run is then like none of either, and says so"
            )
        if changed or not entries:
            entries.append({"from_step": step or 0, "platform": here})
        if entries != noted:
            write_file(path, json_bytes(platforms=entries))

    def platforms(self) -> list[dict[str, Any]]:
        """The numeric platforms that trained the run, each with the step ``from_step`` on; more than one where they were mixed."""
        path = self.folder / "platform.json"
        return list(read_json(path)["platforms"]) if path.exists() else []

    def _state(self) -> dict[str, Any]:
        path = self.folder / "checkpoint" / "state.json"
        remedy = _FROM_START.format(path.parent)
        state = read_json(path, remedy) if path.exists() else {}
        if state and not {"step", "tensors", "sha256", "sizes", "monitor"} <= set(state):
            raise RunFolderError(path, "is not a checkpoint of this library", remedy)
        return state

    def _state_tensors(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        path = self.folder / "checkpoint" / state["tensors"]
        content = path.read_bytes() if path.exists() else b""
        if sha256(content) != state["sha256"]:
            raise RunFolderError(path, "is missing or damaged", _FROM_START.format(path.parent))
        return load(content)

    def _monitor_names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "monitor").glob("step_*.safetensors"))

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

    def monitor(self) -> list[tuple[int, dict[str, Tensor]]]:
        """What was read of the monitor set, as (step, tensors), by step. Raises :class:`RunFolderError` if one is damaged."""
        result = []
        for path in (self.folder / "monitor" / name for name in self._monitor_names()):
            try:
                result.append((int(path.stem[5:]), load(path.read_bytes())))
            except (SafetensorError, ValueError) as error:
                raise RunFolderError(path, f"is not a reading of the monitor set ({error})") from error
        return sorted(result, key=lambda reading: reading[0])

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
    import pandas as pd  # here: training itself reads no frame

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

    def __init__(self, root: Path | str, mix_platforms: bool = False) -> None:
        self.root, self.mix_platforms = Path(root).resolve(), mix_platforms

    def open(self, config: Any) -> Run:
        """The run of this config (a frozen dataclass): a new folder, or the existing one after a check.

        Raises ``TypeError`` if the config holds what JSON cannot, and :class:`RunFolderError`, changing nothing, if the folder
        is not ours, its config does not give its name, or a file of a finished run is not as it was when it finished.
        """
        run, content = Run(self.folder(config), config, self.mix_platforms), _content(config)
        if _is_absent(run.folder):
            with explain_full_disk(self.root):
                self._create(run.folder, content)
        check_run(run.folder)
        if run.done:
            run._remove_checkpoint()
        return run

    def folder(self, config: Any) -> Path:
        """Where the run of this config is or would be; makes nothing."""
        return self.root / folder_name(_content(config))

    def _create(self, folder: Path, content: Mapping[str, Any]) -> None:
        with take_lock(self.root / ".locks" / "create.lock", patience=60.0):
            if _is_absent(folder):
                partial = folder.with_name(f"{IN_WORK}-run")
                partial.mkdir(exist_ok=True)
                document = {"format": "itpo-run", "version": 1, **content}
                write_file(partial / "config.json", json_bytes(**document))
                os.rename(partial, folder)
                sync(self.root)

    def artifact(
        self,
        kind: str,
        determinants: Mapping[str, Any],
        build: Callable[[Path], Any],
    ) -> Path:
        """The folder ``models/<kind>-<hash>`` that ``build(folder)`` filled, once for these determinants.

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
        content = {"numerics": NUMERICS, "kind": kind, "determinants": plain(determinants, "determinants")}
        folder = self.root / "models" / f"{kind}-{folder_name(content)}"
        if _is_absent(folder):
            with explain_full_disk(self.root), take_lock(_lock_path(folder), patience=float("inf")):
                if _is_absent(folder):
                    _build(folder, content, build)
        document = read_json(folder / "artifact.json")
        document.pop("platform", None)
        if document != {"format": "itpo-artifact", "version": 1, **content}:
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
    document = {"format": "itpo-artifact", "version": 1, **content, "platform": numeric_platform()}
    write_file(partial / "artifact.json", json_bytes(**document))
    os.rename(partial, folder)
    sync(folder.parent)


def _content(config: Any) -> dict[str, Any]:
    """What determines the numbers of a config's run."""
    name = type(config).__name__
    if not getattr(getattr(config, "__dataclass_params__", None), "frozen", False):
        raise TypeError(f"{name} is not a frozen dataclass: decorate it @dataclass(frozen=True)")
    return {"numerics": NUMERICS, "config": plain(config, name)}


def _is_absent(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
