"""Run store: one folder a run, named by the hash of what determines its numbers.

What determines them is the config, seed included, and the version of the library's numerics, :data:`itpo.NUMERICS`.
A finished run is loaded instead of trained again, and an interrupted one goes on from its last checkpoint
and ends with the same bytes as one that was never interrupted, provided that it goes on on the same numeric platform:

    <root>/<hash>/
        config.json       format, config and version of the numerics
        platform.json     libraries, device, processor and threads that train it, by the step from which on they did
        inputs.json       hashes of what it reads beside its config: the base model's files, real examples
        metrics.jsonl     one JSON object a line, with "step"; a number that is not finite is null
        dialogues.jsonl   sampled dialogues, each with "step"
        timing.jsonl      seconds a step: the only file that differs between two equal runs
        monitor/          step_000040.safetensors: small named tensors over training
        policy/, prm/ ... adapters, written by the trainer at the end
        checkpoint/       the last training state and hashes of the logs at that step, until the run is finished
        progress.json     whether there was a checkpoint or an end, so that a lost one is missed
        done.json         summary, and hashes of the files above; there only when the run is finished

Documents that hold hashes hold their own too: what was changed is refused by name, and nothing is deleted that the store did
not write. Files are safetensors and JSON, never pickles. ``<root>/models/`` holds what several runs start from,
``<root>/.locks/`` the locks that keep two processes from training one run.

The root may be a folder that several machines share, at the same path on each, where a file that one closed is what another
opens next and exclusive creation is exclusive, as on NFS, Lustre or a cluster's home; a bucket of objects is not.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, SupportsFloat

from torch import Tensor

from itpo import NUMERICS
from itpo.runs.artifacts import find_shipped, make_or_check
from itpo.runs.checkpoints import BRING_BACK, LOGS, checked_tensors, log_hashes
from itpo.runs.files import (
    IN_WORK,
    RunFolderError,
    changed,
    check_run,
    explain_full_disk,
    finite,
    folder_name,
    is_absent,
    json_bytes,
    json_lines,
    plain,
    read_json,
    read_sealed,
    records,
    sealed_bytes,
    sha256,
    sync,
    tensor_bytes,
    write_file,
)
from itpo.runs.locks import Lease, RunBusyError, is_locked, lock_path, take_lock
from itpo.runs.platform import PlatformError, differences, numeric_platform
from itpo.runs.reading import Readings, fingerprint

__all__ = ["PlatformError", "Run", "RunBusyError", "RunFolderError", "Store", "fingerprint"]

_UNTRAINED = ("config.json", "platform.json", "inputs.json")
_ADAPTERS = ("policy", "prm", "critic")
_ADAPTER_FILES = ("adapter_config.json", "*.safetensors")
_CHECKPOINT_FILES = ("state.json", "step_*.safetensors", f"{IN_WORK}*")
_PATIENCE = 10.0  # seconds: a killed sweep's children end a moment after it, and their locks with them
_held: dict[Path, Lease] = {}


class RunFinishedError(RuntimeError):
    """A finished run would be written."""


class Run(Readings):
    """One run's folder; made by :meth:`Store.open`.

    Whatever writes takes the run's lock first and keeps it until :meth:`finish`, :meth:`release` or the end of the process. It
    raises :class:`RunBusyError` while another process holds the lock or once it has taken it over, because nothing was heard of
    this one for a minute (:mod:`itpo.runs.locks`), :class:`RunFinishedError` if the run is finished,
    ``RuntimeError`` if it was started before and not restored, and ``OSError`` that says what to do when the disk is full.
    """

    def __init__(self, folder: Path, config: Any, mix_platforms: bool = False) -> None:
        super().__init__(folder, config)
        self.mix_platforms = mix_platforms
        self.inputs: Mapping[str, Mapping[str, str]] | None = None
        self.listeners: list[Callable[[Mapping[str, Any]], None]] = []

    @contextmanager
    def _writing(self, restoring: bool = False) -> Iterator[None]:
        with explain_full_disk(self.folder):
            if self.folder in _held:
                _held[self.folder].check()
            else:
                _held[self.folder] = take_lock(lock_path(self.folder), patience=_PATIENCE)
                if not restoring and any(path.name not in _UNTRAINED for path in self.folder.iterdir()):
                    self.release()
                    raise RuntimeError(f"{self.folder} holds a started or finished run: call restore() first")
                if not restoring:
                    self._note_start(None)
            if self.done:
                raise RunFinishedError(
                    f"{self.folder} holds a finished run: read it, or train another config"
                )
            yield

    def busy(self) -> bool:
        """Whether another process holds the run's lock."""
        return self.folder not in _held and is_locked(lock_path(self.folder))

    def release(self) -> None:
        """Give up the lock without finishing, so that another process can go on with the run."""
        if self.folder in _held:
            _held.pop(self.folder).release()

    def remove(self) -> None:
        """Remove the folder with all that is in it, at once for whoever looks.

        Raises :class:`RunFolderError` for a folder that is no run's, and :class:`RunBusyError` while a process trains it.
        """
        if self.folder.is_symlink() or read_json(self.folder / "config.json").get("format") != "itpo-run":
            raise RunFolderError(self.folder, "is not the folder of a run", "name one that is")
        with take_lock(lock_path(self.folder), patience=0.0):
            gone = self.folder.with_name(f"{IN_WORK}-{uuid.uuid4().hex}")
            os.rename(self.folder, gone)
            shutil.rmtree(gone)

    def _append(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        content = json_lines(records)
        with self._writing(), open(self.folder / name, "ab") as file:
            file.write(content)

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Append one line to ``metrics.jsonl``; what is not finite is written as null and read back as nan. Then each of
        ``listeners`` gets the line.

        Raises ``ValueError`` if a metric is called "step".
        """
        line = _numbers(step, metrics)
        self._append("metrics.jsonl", [line])
        for hear in self.listeners:
            hear(line)

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
            for path in (*(self.folder / log for log in LOGS if (self.folder / log).exists()), self.folder):
                sync(path)
            state = {"step": step, "tensors": {name: digest}, **log_hashes(self.folder)}
            document = sealed_bytes("itpo-checkpoint", **state)
            write_file(folder / name, content)
            write_file(folder / "state.json", document)
            self._note_progress("checkpoint")
            for path in folder.glob("step_*.safetensors"):
                if path.name != name:
                    path.unlink()

    def restore(self) -> tuple[int, dict[str, Tensor]] | None:
        """Go back to the last checkpoint: its step and tensors; ``None`` if there is none.

        Whatever was logged or saved after it (without one: everything) is removed, so that the files end as
        if the run had never stopped; files that no run writes stay. A run that was already started must be restored before
        anything is written. Raises :class:`RunFolderError`, before it changes anything, if the checkpoint or a file
        is damaged or lost, or the run began with other inputs, and :class:`PlatformError` if it was written on another numeric
        platform (processor, libraries, threads), unless the store mixes platforms.
        """
        with self._writing(restoring=True):
            state = self._state()
            tensors = checked_tensors(self.folder, state) if state else {}
            self._note_start(state.get("step"))
            logs, files = state.get("logs", {}), state.get("files", {})
            for log in LOGS:
                if log in logs:
                    os.truncate(self.folder / log, logs[log]["size"])
                else:
                    (self.folder / log).unlink(missing_ok=True)
            for name in self._monitor_names():
                if f"monitor/{name}" not in files:
                    (self.folder / "monitor" / name).unlink()
            for name in _ADAPTERS:
                _remove_files(self.folder / name, _ADAPTER_FILES)
            if not state:
                _remove_files(self.folder / "checkpoint", _CHECKPOINT_FILES)
            return (state["step"], tensors) if state else None

    def _note_start(self, step: int | None) -> None:
        """Record where and from what the run begins, or see that it goes on so from ``step``."""
        if step is not None:
            self._check_inputs()
        self._note_platform(step)
        if step is None and self.inputs is not None:
            write_file(self.folder / "inputs.json", sealed_bytes("itpo-run-inputs", inputs=self.inputs))

    def declare(self, inputs: Mapping[str, Mapping[str, str]]) -> None:
        """Say, before the run is restored or written, what it reads beside its config: by kind, hashes by name.

        They are kept from the run's start on. Raises :class:`RunFolderError` where a finished run, or one that would go on
        from a checkpoint, began with others.
        """
        self.inputs = inputs
        if self.done or self.checkpoint_step():
            self._check_inputs()

    def _check_inputs(self) -> None:
        path = self.folder / "inputs.json"
        if self.inputs is None or not path.exists():  # lost, it is missed by the checkpoint or the end
            return
        noted = read_sealed(path, "itpo-run-inputs", BRING_BACK)["inputs"]
        for kind in sorted(noted.keys() | self.inputs.keys()):
            if name := changed(self.inputs.get(kind, {}), noted.get(kind, {})):
                wrong = f"the run began with another {kind}: {name} was changed, added or removed since"
                raise RunFolderError(path, wrong, BRING_BACK)

    def _note_platform(self, step: int | None) -> None:
        """Record where the run begins, or goes on from ``step``: on the last platform, unless asked to mix them."""
        path, here = self.folder / "platform.json", numeric_platform()
        noted = [] if step is None else read_sealed(path, "itpo-run-platform", BRING_BACK)["platforms"]
        # Steps after the checkpoint are gone, and platforms that trained nothing else with them.
        entries = [entry for entry in noted if entry["from_step"] < (step or 0)] or noted[:1]
        changes = differences(here, entries[-1]["platform"]) if entries else []
        if changes and not self.mix_platforms:
            raise PlatformError(
                f"{self.folder} was trained to step {step} on another numeric platform ({'; '.join(changes)}): go on there, "
                "or ask for mixed platforms (mix_platforms=True, --mix-platforms): the run is then like none of either, and "
                "says so"
            )
        if changes or not entries:
            entries.append({"from_step": step or 0, "platform": here})
        if entries != noted:
            write_file(path, sealed_bytes("itpo-run-platform", platforms=entries))

    def _state(self) -> dict[str, Any]:
        """What the last checkpoint says, empty if there was none."""
        path, reached = self.folder / "checkpoint" / "state.json", self._progress()
        if reached == "end" and not self.done:
            raise RunFolderError(
                self.folder / "done.json", "is lost: the run had come to its end", BRING_BACK
            )
        if path.exists():
            return read_sealed(path, "itpo-checkpoint", BRING_BACK)
        if reached == "checkpoint" and not self.done:
            raise RunFolderError(path, "is lost: the run had a checkpoint", BRING_BACK)
        return {}

    def _progress(self) -> str | None:
        """Whether the run came to a "checkpoint" or to its "end"."""
        path = self.folder / "progress.json"
        return str(read_sealed(path, "itpo-run-progress")["reached"]) if path.exists() else None

    def _note_progress(self, reached: str) -> None:
        if self._progress() != reached:
            write_file(self.folder / "progress.json", sealed_bytes("itpo-run-progress", reached=reached))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write ``done.json`` with the summary (JSON) and the hash of each file; remove the checkpoint."""
        with self._writing():
            for path in [self.folder, *self.folder.rglob("*")]:
                path.unlink() if path.name.startswith(IN_WORK) else sync(path)
            content = {"summary": finite(summary), "files": records(self.folder)}
            write_file(self.folder / "done.json", sealed_bytes("itpo-run-done", **content))
            self._conclude()
        self.release()

    def _conclude(self) -> None:
        self._note_progress("end")
        _remove_files(self.folder / "checkpoint", _CHECKPOINT_FILES)

    def _conclude_if_killed(self) -> None:
        """Do what :meth:`finish` does last where a process was killed before that."""
        if self._progress() != "end" or (self.folder / "checkpoint").exists():
            with (
                suppress(RunBusyError, OSError),  # another process does it, or nobody may write here
                take_lock(lock_path(self.folder), patience=0.0),
            ):
                self._conclude()

    def checkpoint_step(self) -> int:
        """The step of the last checkpoint, 0 if there is none."""
        try:
            return int(self._state().get("step", 0))
        except RunFolderError:
            if self.done:  # another process finished it meanwhile
                return 0
            raise


def _numbers(step: int, values: Mapping[str, SupportsFloat]) -> dict[str, Any]:
    if "step" in values:
        raise ValueError('a value may not be called "step": the line already has the step under that name')
    numbers = {k: v.item() if isinstance(v, Tensor) else v for k, v in values.items()}
    return {"step": step, **{k: v if isinstance(v, int) else float(v) for k, v in numbers.items()}}


def _remove_files(folder: Path, patterns: Iterable[str]) -> None:
    """Remove the files of these names, and the folder where nothing else is in it."""
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


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
        if is_absent(run.folder):
            with explain_full_disk(self.root):
                self._create(run.folder, content)
        check_run(run.folder)
        if run.done:
            run._conclude_if_killed()
        return run

    def folder(self, config: Any) -> Path:
        """Where the run of this config is or would be; makes nothing."""
        return self.root / folder_name(_content(config))

    def _create(self, folder: Path, content: Mapping[str, Any]) -> None:
        with take_lock(self.root / ".locks" / "create.lock", patience=60.0):
            if is_absent(folder):
                partial = folder.with_name(f"{IN_WORK}-run")
                partial.mkdir(exist_ok=True)
                document = {"format": "itpo-run", "version": 1, **content}
                write_file(partial / "config.json", json_bytes(**document))
                os.rename(partial, folder)
                sync(self.root)

    def artifact(self, kind: str, determinants: Mapping[str, Any], build: Callable[[Path], Any]) -> Path:
        """The folder ``models/<kind>-<hash>`` that ``build(folder)`` filled, once for these determinants.

        Or that which ships with the library (:func:`itpo.runs.artifacts.find_shipped`). A folder is there completely or not at
        all; a process that asks while another builds waits for it. Raises ``ValueError`` for a kind that cannot be part of a
        file name, :class:`RunFolderError` if one of its files is no longer as it was made, :class:`PlatformError` if it was
        made on another numeric platform, unless the store mixes platforms, and whatever ``build`` raises.

        >>> import tempfile
        >>> root = tempfile.TemporaryDirectory()
        >>> store = Store(root.name)
        >>> path = store.artifact("text", {"seed": 1}, lambda folder: (folder / "a.txt").write_text("made"))
        >>> store.artifact("text", {"seed": 1}, lambda folder: 1 / 0) == path, (path / "a.txt").read_text()
        (True, 'made')
        """
        if not re.fullmatch(r"[A-Za-z0-9_]+", kind):
            raise ValueError(f"kind {kind!r} names a folder: use letters, digits and underscores")
        determined = plain(determinants, "determinants")
        if shipped := find_shipped(kind, determined):
            return shipped
        content = {"numerics": NUMERICS, "kind": kind, "determinants": determined}
        folder = self.root / "models" / f"{kind}-{folder_name(content)}"
        make_or_check(folder, lock_path(folder), content, build, self.mix_platforms)
        return folder


def _content(config: Any) -> dict[str, Any]:
    """What determines the numbers of a config's run."""
    name = type(config).__name__
    if not getattr(getattr(config, "__dataclass_params__", None), "frozen", False):
        raise TypeError(f"{name} is not a frozen dataclass: decorate it @dataclass(frozen=True)")
    return {"numerics": NUMERICS, "config": plain(config, name)}
