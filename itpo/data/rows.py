"""Rows of local files and of datasets on the Hugging Face hub, each with the place it came from.

A JSON file is read line by line, so that one broken line spoils one row, and its rows are numbered as an editor
numbers lines. Rows of the other formats are counted from 1.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_PROBE_SECONDS = 5.0


class DataError(ValueError):
    """A file, a dataset or a row that examples cannot be made of.

    ``where`` is the file or dataset, ``row`` the row in it (from 1; ``None`` where no single row is at fault).
    """

    def __init__(self, where: str, row: int | None, wrong: str, remedy: str) -> None:
        super().__init__(f"{where}{'' if row is None else f', row {row}'}: {wrong}: {remedy}")
        self.where, self.row, self.wrong = where, row, wrong


@dataclass(frozen=True)
class Row:
    """One row: the file or dataset, its number there (from 1), and its columns, or what is wrong with it."""

    where: str
    number: int
    value: dict[str, Any] | DataError


def read_rows(source: str | Path, split: str, config: str | None) -> Iterator[Row]:
    """The rows of a local file, of the data files in a local folder, or of a dataset on the hub.

    A source that exists on disk is local. Of a folder all data files below it are read in the order of their names;
    where some are named after splits (``train-00000.parquet``), only those of ``split``. A hub name is
    ``owner/name``; ``split`` and ``config`` choose among its parts. Raises :class:`DataError` for a source that is
    neither or cannot be read; a broken line of JSON is a row that holds its error.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     (Path(place) / "rows.jsonl").write_text('{"question": "1 + 1?"}') and None
    ...     [(row.number, row.value) for row in read_rows(place, "train", None)]
    [(1, {'question': '1 + 1?'})]
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = _data_files(path, split)
    elif path.exists():
        files = [path]
    elif isinstance(source, str) and _HUB_NAME.fullmatch(source) and _ending(path) is None:
        yield from _hub(source, split, config)
        return
    else:
        raise DataError(str(source), None, "there is no such file or folder", "check the path")
    for file in files:
        ending = _ending(file)
        if ending is None:
            raise DataError(str(file), None, f"has the ending {file.suffix!r}", f"use one of {_KNOWN}")
        for number, value in _READERS[ending](file):
            yield Row(str(file), number, _columns(str(file), number, value))


def stem(where: str) -> str:
    """The name of a file or dataset without its folder and ending, as rows without an id are called.

    >>> stem("data/train.jsonl.gz")
    'train'
    """
    name = Path(where).name
    return name.removesuffix(name[-len(ending) :]) if (ending := _ending(Path(name))) else Path(name).stem


def _ending(path: Path) -> str | None:
    """Which of the endings that we read a file has, upper case or lower; ``None`` for another."""
    return next((ending for ending in _READERS if path.name.lower().endswith(ending)), None)


def _columns(where: str, number: int, value: Any) -> dict[str, Any] | DataError:
    if isinstance(value, dict | DataError):
        return value
    remedy = "write an object with the columns as its keys"
    return DataError(where, number, f"is a JSON {type(value).__name__}, not an object", remedy)


def _data_files(folder: Path, split: str) -> list[Path]:
    below = (path for path in sorted(folder.rglob("*")) if _ending(path) and path.is_file())
    # A clone of a hub dataset has caches in hidden folders, and descriptions in JSON beside the data.
    files = [
        path
        for path in below
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not path.name.startswith("dataset_info")
    ]
    named = [path for path in files if re.match(r"(train|test|validation)\b", path.name.replace("_", "-"))]
    if named:
        files = [path for path in named if path.name.startswith(split)]
    if not files:
        wrong = f"holds no {split} files" if named else f"holds no data files ({_KNOWN})"
        raise DataError(
            str(folder), None, wrong, "name the folder that the data was downloaded to, or another split"
        )
    return files


def _content(path: Path) -> bytes:
    """What a file holds, unpacked where its name ends in ``.gz``, without a byte-order mark."""
    try:
        packed = path.read_bytes()
        content = gzip.decompress(packed) if path.name.lower().endswith(".gz") else packed
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            str(path), None, f"cannot be read ({error})", "download or write the file again"
        ) from error
    return content.removeprefix(b"\xef\xbb\xbf")


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON list, or one row a line where the file does not begin with ``[``."""
    content = _content(path)
    if not content.lstrip().startswith(b"["):
        yield from _lines(path, content)
        return
    try:
        rows = json.loads(content, object_pairs_hook=_object)
    except _RepeatedKey as error:
        raise DataError(str(path), None, str(error), "give each its own name") from error
    except (ValueError, RecursionError) as error:
        raise DataError(str(path), None, _not_json(error), "download or write the file again") from error
    yield from enumerate(rows, 1)


def _lines(path: Path, content: bytes) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line, object_pairs_hook=_object)
        except _RepeatedKey as error:
            remedy = "give each its own name, or skip bad rows"
            yield number, DataError(str(path), number, str(error), remedy)
        except (ValueError, RecursionError) as error:
            remedy = "repair or delete the line, or skip bad rows"
            yield number, DataError(str(path), number, _not_json(error), remedy)


class _RepeatedKey(ValueError):
    """An object of JSON has a key twice: which of its values is meant is not known."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RepeatedKey(f"has the key {_repeated(name for name, _ in pairs)!r} twice in one object")
    return found


def _repeated(names: Iterable[str]) -> str | None:
    """The first name that occurs a second time."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _check_header(path: Path, names: Iterable[str]) -> None:
    """Refuse a table of which one column would hide another."""
    if name := _repeated(filter(None, names)):  # a column without a name hides nothing
        raise DataError(str(path), None, f"has two columns {name!r}", "delete one or give it another name")


def _not_json(error: ValueError | RecursionError) -> str:
    return (
        "is nested too deeply to be read" if isinstance(error, RecursionError) else f"is not JSON ({error})"
    )


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    return _lines(path, _content(path))


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        text = io.StringIO(_content(path).decode(), newline="")
        reader = csv.DictReader(text)
        _check_header(path, reader.fieldnames or ())
        for number, row in enumerate(reader, 1):
            more = row.pop(None, [])
            if any(field.strip() for field in more):
                wrong, remedy = (
                    f"has more fields than the header (from {more[0]!r} on)",
                    "quote fields with commas",
                )
                yield number, DataError(str(path), number, wrong, f"{remedy}, or skip bad rows")
            else:
                yield number, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(str(path), None, f"is not CSV in UTF-8 ({error})", "write the file again") from error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_header(path, file.schema_arrow.names)
            batches = (row for batch in file.iter_batches(1024) for row in batch.to_pylist())
            yield from enumerate(batches, 1)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            str(path), None, f"is not parquet ({error})", "download or write the file again"
        ) from error


_PLAIN = {".json": _json, ".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv}
_READERS = {**_PLAIN, ".parquet": _parquet, **{f"{ending}.gz": reader for ending, reader in _PLAIN.items()}}
_KNOWN = f"{', '.join(_PLAIN)} (also with .gz) or .parquet"


def _hub(name: str, split: str, config: str | None) -> Iterator[Row]:
    """The rows of a hub dataset, downloaded at first; from the cache alone where ``HF_HUB_OFFLINE`` is set."""
    import datasets
    from huggingface_hub import HfApi

    remedy = (
        f"where there is network, run 'hf download {name} --repo-type dataset --local-dir FOLDER', copy FOLDER here, "
        "and pass its path; or set HF_HUB_OFFLINE=1 if this dataset has been loaded here before"
    )
    offline = datasets.config.HF_HUB_OFFLINE
    try:
        if not offline:  # load_dataset tries again and again for half a minute; this asks once
            HfApi().dataset_info(name, timeout=_PROBE_SECONDS)
        rows: Iterable[dict[str, Any]] = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # each layer below (hub, HTTP, datasets) has its own kinds of error
        wrong = "is not in the local cache" if offline else "is not a local path, and the hub did not give it"
        raise DataError(name, None, f"{wrong} ({type(error).__name__}: {error})", remedy) from error
    for number, row in enumerate(rows, 1):
        yield Row(name, number, row)
