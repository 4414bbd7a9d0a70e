"""Locks between processes, which the system drops when the process that holds one ends, however it ends."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout


class RunBusyError(RuntimeError):
    """Another process is training this run."""


def take_lock(path: Path, patience: float) -> AcquireReturnProxy:
    """Take an exclusive lock within ``patience`` seconds, held to the end of a ``with``, until ``.lock.release()``, or until
    the process ends, however it ends.

    Raises :class:`RunBusyError`, which names the process that holds it, afterwards.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place, take_lock(path := Path(place) / "0123.lock", patience=0.0):
    ...     take_lock(path, patience=0.0)
    Traceback (most recent call last):
        ...
    itpo.runs.locks.RunBusyError: 0123 in ... is in use by process ...: wait for it, or stop it
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(path, is_singleton=False, thread_local=False), path.with_suffix(".holder")
    try:
        held = lock.acquire(timeout=patience if math.isfinite(patience) else -1, poll_interval=0.05)
    except Timeout:
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise RunBusyError(
            f"{path.stem} in {path.parent.parent} is in use by {who}: wait for it, or stop it"
        ) from None
    holder.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
    return held
