"""Under the run store: hashes of configs, and files that survive a crash.

A whole file is written beside its place, synced and moved there, so that a crash at any moment leaves the
old one or the new one. What decides a number is hashed in a JSON file that holds its own hash too.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

IN_WORK = ".partial"
UNNAMED = "unnamed"

_START_OVER = "move the folder away (or delete it) and start again"
_SEALED = 2  # version of the documents that hold their own hash
_DOCUMENTS = {
    "itpo-run-done": "the end of a run",
    "itpo-run-progress": "the progress of a run",
    "itpo-run-platform": "the platforms of a run",
    "itpo-run-inputs": "the inputs of a run",
    "itpo-checkpoint": "a checkpoint",
    "itpo-artifact": "a made model or result",
}
_RECORDS = ("config.json", "platform.json", "inputs.json", "timing.jsonl")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FREE_SPACE = "free some space and start again: the run then resumes from its last checkpoint"
_hashes: dict[Path, tuple[tuple[int, int, int], str]] = {}


class RunFolderError(RuntimeError):
    """A folder of the store is corrupt, was edited, or is not ours. It is never overwritten."""

    def __init__(self, path: Path, wrong: str, remedy: str = _START_OVER) -> None:
        super().__init__(f"{path}: {wrong}; nothing was changed there: {remedy}")


def sha256(content: bytes | str) -> str:
    """64 hex digits for bytes, or for text in UTF-8.

    >>> sha256("abc")[:8]
    'ba7816bf'
    """
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys.

    >>> hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    True
    """
    return sha256(json.dumps(value, sort_keys=True, allow_nan=False))


def plain(value: Any, where: str) -> Any:
    """A config value as JSON; a dataclass keeps its class name, so that two classes with equal fields differ.

    Fields that are not to name a run (``metadata={"names_run": False}``) come under ``UNNAMED``, see :func:`naming_part`.

    >>> from itpo.specs import Adapter
    >>> plain({"betas": (0.9, 0.99)}, "optimizer"), plain(Adapter(), "adapter")
    ({'betas': [0.9, 0.99]}, {'class': 'Adapter', 'rank': 16, 'alpha': 32})
    >>> plain({"lr": float("nan")}, "optimizer")
    Traceback (most recent call last):
        ...
    TypeError: optimizer.lr is nan: use finite numbers, strings, None, lists, dicts and dataclasses
    """
    if is_dataclass(value) and not isinstance(value, type):
        inner: dict[str, Any] = {"class": type(value).__qualname__}
        for field in fields(value):
            into = inner if field.metadata.get("names_run", True) else inner.setdefault(UNNAMED, {})
            into[field.name] = plain(getattr(value, field.name), f"{where}.{field.name}")
        return inner
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(v, f"{where}.{key}") for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if value is None or isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise TypeError(f"{where} is {value!r}: use finite numbers, strings, None, lists, dicts and dataclasses")


def naming_part(value: Any) -> Any:
    """What :func:`plain` gave, without the settings that decide no number, such as a server's address.

    >>> naming_part({"class": "Endpoint", "model": "qwen", "unnamed": {"url": "http://127.0.0.1:8000/v1"}})
    {'class': 'Endpoint', 'model': 'qwen'}
    """
    if isinstance(value, Mapping):
        of_class = "class" in value  # elsewhere the name has no meaning
        return {key: naming_part(v) for key, v in value.items() if key != UNNAMED or not of_class}
    return [naming_part(v) for v in value] if isinstance(value, list) else value


def finite(value: Any) -> Any:
    """The same JSON value with None for each float that is not finite.

    >>> finite({"auc": float("nan"), "success": [0.5]})
    {'auc': None, 'success': [0.5]}
    """
    if isinstance(value, Mapping):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Say in an ``OSError`` for lack of space which folder it was and what to do.

    >>> with explain_full_disk(Path("runs")):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
        ...
    OSError: [Errno 28] no space to write in runs (No space left on device); free some space and start again: the run then ...
    """
    try:
        yield
    except (
        Exception
    ) as error:  # libraries written in Rust raise errors of their own that end in "(os error 28)"
        code = getattr(error, "errno", None) or next(
            (c for c in _FULL if f"(os error {c})" in str(error)), None
        )
        if code not in _FULL or _FREE_SPACE in str(error):
            raise
        reason = f"no space to write in {folder} ({getattr(error, 'strerror', None) or os.strerror(code)})"
        raise OSError(code, f"{reason}; {_FREE_SPACE}") from error


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, survive a loss of power.

    >>> sync(Path("."))
    """
    windows = os.name == "nt"  # opens no folder, and writes out what it may write to alone
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file so that a crash at any moment leaves the old one or the new one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     write_file(Path(place) / "done.json", json_bytes(steps=24))
    ...     read_json(Path(place) / "done.json"), os.listdir(place)
    ({'steps': 24}, ['done.json'])
    """
    path.parent.mkdir(exist_ok=True)
    partial = path.parent / f"{IN_WORK}-{uuid.uuid4().hex}"  # its own: another machine may write here too
    try:
        partial.write_bytes(content)
        sync(partial)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def json_bytes(**content: Any) -> bytes:
    """A JSON document that people can read. Raises ``TypeError`` or ``ValueError`` for what JSON cannot hold.

    >>> json_bytes(steps=24)
    b'{\\n  "steps": 24\\n}\\n'
    """
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def json_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """One JSON object a line; a float that is not finite becomes null.

    >>> json_lines([{"step": 0, "auc": float("nan")}])
    b'{"step": 0, "auc": null}\\n'
    """
    lines = [json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n" for record in records]
    return "".join(lines).encode()


def read_json(path: Path, remedy: str = _START_OVER) -> dict[str, Any]:
    """A JSON object from a file. Raises :class:`RunFolderError` with the remedy if there is none.

    >>> read_json(Path("nowhere") / "config.json")
    Traceback (most recent call last):
        ...
    itpo.runs.files.RunFolderError: nowhere/config.json: the file is missing; nothing was changed there: move the folder ...
    """
    try:
        content = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise RunFolderError(path, "the file is missing", remedy) from None
    except (ValueError, OSError, RecursionError) as error:
        raise RunFolderError(path, f"cannot be read ({error})", remedy) from error
    if not isinstance(content, dict):
        raise RunFolderError(path, "is not a JSON object", remedy)
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def sealed_bytes(format: str, **content: Any) -> bytes:
    """A JSON document that holds the hash of all its other content; :func:`read_sealed` reads it.

    >>> json.loads(sealed_bytes("itpo-checkpoint", step=2))["sha256"][:8]
    '04842e8e'
    """
    document = json.loads(json.dumps({"format": format, "version": _SEALED, **content}, allow_nan=False))
    return json_bytes(**document, sha256=hash_json(document))


def read_sealed(path: Path, format: str, remedy: str = _START_OVER) -> dict[str, Any]:
    """The document of :func:`sealed_bytes` in a file. Raises :class:`RunFolderError` for another one, or if it was changed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     write_file(path := Path(place) / "done.json", sealed_bytes("itpo-run-done", summary={"success": 0.0}))
    ...     write_file(path, path.read_bytes().replace(b"0.0", b"0.99"))
    ...     read_sealed(path, "itpo-run-done")
    Traceback (most recent call last):
        ...
    itpo.runs.files.RunFolderError: ...done.json: was changed: its content does not give the hash that stands in it; nothing ...
    """
    document = read_json(path, remedy)
    if (document.get("format"), document.get("version")) != (format, _SEALED):
        raise RunFolderError(
            path, f"is not {_DOCUMENTS[format]} of this library's format, version {_SEALED}", remedy
        )
    if document.pop("sha256", None) != hash_json(document):
        raise RunFolderError(
            path, "was changed: its content does not give the hash that stands in it", remedy
        )
    return document


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a log; a last line without its end is still being written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     write_file(log := Path(place) / "metrics.jsonl", json_lines([{"step": 0}, {"step": 1}])[:-3])
    ...     read_json_lines(log)
    [{'step': 0}]
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise RunFolderError(path, f"has a line that is not JSON ({error})") from error


def digests(folder: Path) -> dict[str, str]:
    """Hash of every file of a run that must not depend on when and how often it was interrupted.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     write_file(Path(place) / "metrics.jsonl", b"")
    ...     digests(Path(place)) == {"metrics.jsonl": sha256(b"")}
    True
    """
    paths = [*folder.glob("metrics.jsonl"), *folder.glob("dialogues.jsonl"), *folder.glob("*.safetensors")]
    for inner in folder.glob("*/"):
        if inner.name != "checkpoint":  # which goes when the run is finished, maybe at this moment
            paths += inner.rglob("*.safetensors")
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: sha256(path.read_bytes()) for name, path in sorted(names.items())}


def records(folder: Path) -> dict[str, str]:
    """Hash of every file of a run that decides a number or says how it came about: :func:`digests` and the records beside.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     write_file(Path(place) / "policy" / "adapter_config.json", b"{}")
    ...     list(records(Path(place)))
    ['policy/adapter_config.json']
    """
    paths = [folder / name for name in _RECORDS if (folder / name).exists()]
    paths += folder.glob("*/adapter_config.json")
    return digests(folder) | {p.relative_to(folder).as_posix(): sha256(p.read_bytes()) for p in paths}


def file_hash(path: Path) -> str:
    """SHA-256 of a large file, once a process as long as its time, size and place stay.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     write_file(Path(place) / "weights", b"abc")
    ...     file_hash(Path(place) / "weights")[:8]
    'ba7816bf'
    """
    path = path.resolve()
    stat = path.stat()
    seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    if _hashes.get(path, (None, ""))[0] != seen:
        with open(path, "rb") as file:
            _hashes[path] = seen, hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[path][1]


def changed(actual: Mapping[str, str], expected: Mapping[str, str]) -> str | None:
    """The first name, in the order of the alphabet, whose hash is another, or that only one of the two has.

    >>> changed({"a": "1", "b": "2"}, {"a": "1"})
    'b'
    """
    names = sorted(actual.keys() | expected.keys())
    return next((name for name in names if actual.get(name) != expected.get(name)), None)


def folder_name(content: Mapping[str, Any]) -> str:
    """16 hex digits for what determines the numbers of a run or artifact.

    >>> folder_name({"numerics": 1, "config": {"seed": 0}}) == folder_name({"config": {"seed": 0}, "numerics": 1})
    True
    """
    return hash_json(naming_part(content))[:16]


def check_run(folder: Path) -> dict[str, Any]:
    """What ``config.json`` says in a run's folder, whose content belongs to its name and, once finished, has not changed.

    Raises :class:`RunFolderError` otherwise.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     write_file(Path(place) / "config.json", json_bytes(format="notes"))
    ...     check_run(Path(place))
    Traceback (most recent call last):
        ...
    itpo.runs.files.RunFolderError: ...config.json: is not the config of a run of this library's format, version 1; nothing ...
    """
    path = folder / "config.json"
    document = read_json(path)
    if document.get("format") != "itpo-run" or document.get("version") != 1:
        raise RunFolderError(path, "is not the config of a run of this library's format, version 1")
    if folder_name({key: document.get(key) for key in ("numerics", "config")}) != folder.name:
        raise RunFolderError(path, "was edited: its content no longer gives the folder its name")
    if not (folder / "done.json").exists():
        return document
    done = read_sealed(folder / "done.json", "itpo-run-done")
    if name := changed(records(folder), done["files"]):
        raise RunFolderError(folder / name, "was changed, added or removed after the run finished")
    return document


def is_absent(folder: Path) -> bool:
    """Whether nothing stands in the place of a folder, or an empty one.

    >>> is_absent(Path("nowhere")), is_absent(Path("."))
    (True, False)
    """
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors in the safetensors format; the same tensors always give the same bytes."""
    from safetensors.torch import save  # here: whoever writes text alone need not import torch

    return save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})
