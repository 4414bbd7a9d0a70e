"""Leases between processes, on one machine or on several that share a folder: who trains a run now.

What a machine knows of another's system locks depends on the file system, so a lease is a file, ``<lock>.lease/<number>``, that
its holder made exclusively. The highest number counts, and nothing lowers it: to take a lease is to make the next number, to
release it is to rename it ``<number>.free``. A holder on this machine keeps a lease while its process lives; one on another
machine, or in another container, while the time of the file changes, which its process sees to.
"""

from __future__ import annotations

import json
import os
import platform
import re
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

LEASE = 60.0  # seconds without a sign after which a holder on another machine counts as gone [O]
BEAT = 5.0  # seconds between two signs [O]; a file server may round times to whole seconds
_LEASE_NAME = re.compile(r"[0-9]+(\.free)?")
_POLLS = (0.05, 1.0)  # seconds between two looks, at first and at last


class RunBusyError(RuntimeError):
    """Another process is training this run, or has taken it over."""


class _Held(NamedTuple):
    """What the file of a lease says: its holder, and the time of its last sign."""

    holder: dict[str, Any]
    sign: int
    folder: Path

    @property
    def is_near(self) -> bool:
        """Whether the holder's process can be looked for: it is on this machine, and the file no copy of its own."""
        return (self.holder.get("machine"), self.holder.get("folder")) == (_machine(), str(self.folder))

    @property
    def is_dead(self) -> bool:
        """Whether the holder was on this machine, and is no more."""
        return self.is_near and not _lives(self.holder["pid"], self.holder["born"])

    @property
    def is_lost(self) -> bool:
        """Whether the holder cannot be looked for, and gave no sign for ``LEASE``, by the clock that dates its signs."""
        return not self.is_near and self.sign >= 0 and _time_in(self.folder) - self.sign >= LEASE * 1e9

    def __str__(self) -> str:
        if not self.holder:
            return "another process"
        return f"process {self.holder['pid']} on {self.holder['host']}"


class Lease:
    """An exclusive right of this process, until :meth:`release` or the end of a ``with``; made by :func:`take_lock`."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self._content = content
        self._over = threading.Event()
        threading.Thread(target=self._show_life, name=f"lease of {path.parent.stem}", daemon=True).start()

    def _show_life(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(OSError):  # what became of it, check() sees
                os.utime(self.path)

    def check(self) -> None:
        """Raise :class:`RunBusyError` if another process took the lease over, because no sign of this one reached it."""
        try:
            kept = self.path.read_bytes() == self._content
        except OSError:
            kept = False
        if not kept:
            raise RunBusyError(
                f"{self.path.parent.stem} was taken over by another process, which had heard nothing of this one for "
                f"{LEASE:.0f} s: this one stops; start it again to wait for the other"
            )

    def release(self) -> None:
        """Give the lease up."""
        self._over.set()
        with suppress(OSError):  # taken over
            os.rename(self.path, self.path.with_name(f"{self.path.name}.free"))

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock_path(folder: Path) -> Path:
    """The lock of a run or of what several start from.

    >>> lock_path(Path("runs/0123")).as_posix()
    'runs/.locks/0123.lock'
    """
    return folder.parent / ".locks" / f"{folder.name}.lock"


def take_lock(path: Path, patience: float) -> Lease:
    """Take an exclusive lease within ``patience`` seconds, or as soon as it is certain that its holder is gone.

    Raises :class:`RunBusyError`, which names the process that holds it, afterwards.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place, take_lock(path := Path(place) / "0123.lock", patience=0.0):
    ...     take_lock(path, patience=0.0)
    Traceback (most recent call last):
        ...
    itpo.runs.locks.RunBusyError: 0123 in ... is in use by process ...: wait for it, or stop it
    """
    folder = path.resolve().with_suffix(".lease")
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    seen, seen_at, alive, delay = None, start, patience <= 0, _POLLS[0]
    while True:
        number, held = _current(folder)
        now = time.monotonic()
        if held and (number, held.sign) != seen:
            alive = alive or seen is not None or (held.is_near and not held.is_dead)
            seen, seen_at = (number, held.sign), now
        expired = (
            held and not held.is_near and now - seen_at >= LEASE
        )  # whatever becomes of the folder's clock
        if not held or held.is_dead or expired or held.is_lost:
            if lease := _make(folder, number + 1):
                return lease
        elif alive and now - start >= patience:
            raise RunBusyError(
                f"{path.stem} in {path.parent.parent} is in use by {held}: wait for it, or stop it"
            )
        time.sleep(delay)
        delay = min(1.2 * delay, _POLLS[1])


def is_locked(path: Path) -> bool:
    """Whether a process holds the lease; one on another machine that was lost less than ``LEASE`` ago counts still.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place, take_lock(path := Path(place) / "0123.lock", patience=0.0):
    ...     is_locked(path), is_locked(Path(place) / "4567.lock")
    (True, False)
    """
    _, held = _current(path.resolve().with_suffix(".lease"))
    return held is not None and not held.is_dead and not held.is_lost


def _numbers(folder: Path) -> list[tuple[int, str]]:
    """The leases of a folder; what others put there, such as ``.nfs0000`` or ``.DS_Store``, is none."""
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted((int(name.removesuffix(".free")), name) for name in names if _LEASE_NAME.fullmatch(name))


def _current(folder: Path) -> tuple[int, _Held | None]:
    """The number that counts now, 0 before the first, and who holds it, ``None`` where nobody does."""
    number, name = max(_numbers(folder), default=(0, ".free"))
    if name.endswith(".free"):
        return number, None
    try:
        # Opened, not only looked at: a network file system then asks its server, whatever it remembers.
        with open(folder / name, "rb") as file:
            sign, content = os.fstat(file.fileno()).st_mtime_ns, file.read()
    except OSError:  # released or taken over meanwhile: look again
        return number, _Held({}, -1, folder)
    with suppress(ValueError):
        return number, _Held(json.loads(content), sign, folder)
    return number, _Held({}, sign, folder)  # just being written, or its holder died at that


def _time_in(folder: Path) -> int:
    """Now, in nanoseconds, by the clock of the folder's file system, which may be a server's; by ours where we cannot write."""
    probe = folder / f".now-{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime_ns
    except OSError:
        return time.time_ns()
    finally:
        with suppress(OSError):
            probe.unlink()


def _make(folder: Path, number: int) -> Lease | None:
    """Take the lease of this number, unless another process has it or a higher one."""
    path = folder / str(number)
    here = {"host": platform.node(), "machine": _machine(), "folder": str(folder), "token": uuid.uuid4().hex}
    content = json.dumps(here | {"pid": os.getpid(), "born": _birth(os.getpid())}).encode()
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        return None
    except OSError:
        path.unlink(missing_ok=True)
        raise
    others = [(other, name) for other, name in _numbers(folder) if name != path.name]
    if any(other > number for other, _ in others):
        path.unlink(missing_ok=True)  # we had looked long ago
        return None
    for _, name in others:
        (folder / name).unlink(missing_ok=True)
    return Lease(path, content)


def _machine() -> str:
    """What is equal for two processes exactly if one can look for the other: the machine since its start, and its container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{platform.node()} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return f"{platform.node()} {uuid.getnode():x}"


def _lives(pid: int, born: str | None) -> bool:
    """Whether a process of this machine is still there, and not a later one of its number."""
    return psutil.pid_exists(pid) and _birth(pid) in (born, None)


def _birth(pid: int) -> str | None:
    """What tells a process from a later one of its number: "ended" for one whose parent has yet to notice, ``None`` where the
    system does not tell."""
    try:
        if Path(
            "/proc/self/stat"
        ).exists():  # in ticks since the machine's start, whatever becomes of its clock
            state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            return "ended" if state in "ZX" else fields[18]
        process = psutil.Process(pid)
        return "ended" if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except (OSError, psutil.Error):
        return None
