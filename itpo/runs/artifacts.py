"""What several runs start from, such as a base model: a folder that is there whole or not at all, and unchanged.

Its ``artifact.json`` holds the hash of every other file of the folder, and its own. Those that nearly every run needs come
with the library, in :data:`SHIPPED`, the same bytes on every platform; ``tools/make_bases.py`` makes them again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
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
from itpo.runs.locks import is_locked, lock_path, take_lock
from itpo.runs.platform import PlatformError, differences, making_platform

UNFINISHED = "unfinished-*.safetensors"  # what a maker goes on from after an interruption
PROGRESS = "progress.txt"  # how far a maker is
SHIPPED = Path(__file__).parents[1] / "models" / "bases"
_DOCUMENT = "artifact.json"
_INSTALL_AGAIN = "install the library again, or bring the file back"
_MADE_AGAIN = "move the folder away: it is made again"


def make_or_check(
    folder: Path,
    lock: Path,
    content: Mapping[str, Any],
    build: Callable[[Path], Any],
    mix_platforms: bool = False,
) -> None:
    """Have the folder filled by ``build`` where it is missing; else see that it is as it was made, and made here.

    Raises :class:`itpo.runs.files.RunFolderError`, which names the file, for one that was changed, added or removed, or that
    was made for something else than ``content``; and :class:`itpo.runs.platform.PlatformError` for a folder that was made on
    another numeric platform, unless ``mix_platforms``.

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
    document = read_artifact(folder)
    if document["content"] != content:
        raise RunFolderError(folder / _DOCUMENT, "is not what this folder's name stands for", _MADE_AGAIN)
    there = {name: value for name, value in document["platform"].items() if name != "threads"}
    changes = differences(making_platform(), there)
    if changes and not mix_platforms:
        raise PlatformError(
            f"{folder} was made on another numeric platform ({'; '.join(changes)}): {_MADE_AGAIN} here, or ask for mixed "
            "platforms (mix_platforms=True, --mix-platforms)"
        )


def read_artifact(folder: Path, remedy: str = _MADE_AGAIN) -> dict[str, Any]:
    """What ``artifact.json`` says of a folder whose files are all as they were made.

    Raises :class:`itpo.runs.files.RunFolderError`, which names the file, for one that was changed, added or removed.

    >>> read_artifact(Path("nowhere"))
    Traceback (most recent call last):
        ...
    itpo.runs.files.RunFolderError: nowhere/artifact.json: the file is missing; nothing was changed there: move the folder ...
    """
    document = read_sealed(folder / _DOCUMENT, "itpo-artifact", remedy)
    if name := changed(_hashes(folder), document["files"]):
        raise RunFolderError(folder / name, "was changed, added or removed after it was made", remedy)
    return document


def write_artifact(folder: Path, content: Mapping[str, Any], **notes: Any) -> None:
    """Seal a folder: write what it is, where it was made and the hashes of its files; ``notes`` come beside them.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = (Path(place) / "a.txt").write_text("made")
    ...     write_artifact(Path(place), {"seed": 1})
    ...     list(read_artifact(Path(place))["files"])
    ['a.txt']
    """
    made = {"content": content, "platform": making_platform(), "files": _hashes(folder)}
    write_file(folder / _DOCUMENT, sealed_bytes("itpo-artifact", **made, **notes))


def find_shipped(kind: str, determinants: Any) -> Path | None:
    """The folder that comes with the library for these determinants (:func:`itpo.runs.files.plain`), if there is one.

    Raises :class:`itpo.runs.files.RunFolderError`, which names the file, if one of its files is not as it was made.

    >>> find_shipped("base", {"model": "none"}) is None
    True
    """
    for path in sorted(SHIPPED.glob(f"*/{_DOCUMENT}")):
        if _shipped_content(path) == {"kind": kind, "determinants": determinants}:
            read_artifact(path.parent, _INSTALL_AGAIN)
            return path.parent
    return None


@cache
def _shipped_content(path: Path) -> Any:
    return read_sealed(path, "itpo-artifact", _INSTALL_AGAIN)["content"]


def being_made(models: Path) -> list[str]:
    """How far each folder under ``models`` is that some process makes now, such as "step 300 of 1400".

    >>> being_made(Path("nowhere"))
    []
    """
    texts = []
    for path in sorted(models.glob(f"{IN_WORK}-*/{PROGRESS}")):
        folder = models / path.parent.name.removeprefix(f"{IN_WORK}-")
        with suppress(OSError):  # just finished
            if is_locked(lock_path(folder)):  # a process that was killed leaves its text, but no lock
                texts.append(path.read_text(encoding="utf-8"))
    return texts


def _hashes(folder: Path) -> dict[str, str]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: file_hash(path) for name, path in files.items() if name != _DOCUMENT}


def _build(folder: Path, content: Mapping[str, Any], build: Callable[[Path], Any]) -> None:
    partial = folder.with_name(f"{IN_WORK}-{folder.name}")
    partial.mkdir(parents=True, exist_ok=True)
    for path in partial.iterdir():  # of a process that was killed
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.match(UNFINISHED):
            path.unlink()
    build(partial)
    write_artifact(partial, content)
    mode = (partial / _DOCUMENT).stat().st_mode
    for path in partial.rglob("*"):
        if path.is_file():
            path.chmod(mode)  # safetensors keeps what it writes to the user, whatever the umask
        sync(path)
    os.rename(partial, folder)
    sync(folder.parent)
