"""What several runs start from, such as a base model: a folder that is there whole or not at all, and unchanged.

Its ``artifact.json`` holds the hash of every other file of the folder, and its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from itpo.runs.files import (
    IN_WORK,
    RunFolderError,
    changed,
    explain_full_disk,
    file_hash,
    is_absent,
    read_sealed,
    sealed_bytes,
    sync,
    write_file,
)
from itpo.runs.locks import take_lock
from itpo.runs.platform import numeric_platform

_DOCUMENT = "artifact.json"
_MADE_AGAIN = "move the folder away: it is made again"


def make_or_check(folder: Path, lock: Path, content: Mapping[str, Any], build: Callable[[Path], Any]) -> None:
    """Have the folder filled by ``build`` where it is missing; else see that it is as it was made.

    Raises :class:`itpo.runs.files.RunFolderError`, which names the file, for one that was changed, added or removed, or that
    was made for something else than ``content``.

    >>> import tempfile
    >>> place = tempfile.TemporaryDirectory()
    >>> folder, lock = Path(place.name) / "models" / "text-1", Path(place.name) / "lock"
    >>> make_or_check(folder, lock, {"seed": 1}, lambda folder: (folder / "a.txt").write_text("made"))
    >>> _ = (folder / "a.txt").write_text("changed")
    >>> make_or_check(folder, lock, {"seed": 1}, lambda folder: 1 / 0)
    Traceback (most recent call last):
        ...
    itpo.runs.files.RunFolderError: ...a.txt: was changed, added or removed after it was made; nothing ... it is made again
    >>> place.cleanup()
    """
    if is_absent(folder):
        with explain_full_disk(folder), take_lock(lock, patience=float("inf")):
            if is_absent(folder):
                _build(folder, content, build)
    document = read_sealed(folder / _DOCUMENT, "itpo-artifact", _MADE_AGAIN)
    if document["content"] != content:
        raise RunFolderError(folder / _DOCUMENT, "is not what this folder's name stands for", _MADE_AGAIN)
    if name := changed(_hashes(folder), document["files"]):
        raise RunFolderError(folder / name, "was changed, added or removed after it was made", _MADE_AGAIN)


def _hashes(folder: Path) -> dict[str, str]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: file_hash(path) for name, path in files.items() if name != _DOCUMENT}


def _build(folder: Path, content: Mapping[str, Any], build: Callable[[Path], Any]) -> None:
    partial = folder.with_name(f"{IN_WORK}-{folder.name}")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    build(partial)
    hashes = _hashes(partial)
    document = sealed_bytes("itpo-artifact", content=content, platform=numeric_platform(), files=hashes)
    write_file(partial / _DOCUMENT, document)
    mode = (partial / _DOCUMENT).stat().st_mode
    for path in partial.rglob("*"):
        if path.is_file():
            path.chmod(mode)  # safetensors keeps what it writes to the user, whatever the umask
        sync(path)
    os.rename(partial, folder)
    sync(folder.parent)
