"""Data frames as CSV files and back, with their column types; floats keep six significant digits."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api import types

FLOAT = "%.6g"
_BOOL = {"True": True, "False": False}.__getitem__
# How a cell of each type of column is read; an empty one is missing, but for text.
READ: dict[str, Callable[[str], Any]] = {
    "str": str,
    "float64": float,
    "int64": int,
    "Int64": int,
    "bool": _BOOL,
    "boolean": _BOOL,
}


def utf8(text: str) -> bytes:
    """Text as bytes; half a character (a lone surrogate, as JSON may hold) becomes the replacement character.

    >>> utf8("ok \\ud800").decode()
    'ok \ufffd'
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def write_table(frame: pd.DataFrame, path: Path) -> dict[str, str]:
    """Write a data frame as CSV, without its index; returns the type of each column, for :func:`read_table`.

    A missing text is written as an empty one, a carriage return as a line feed. Errors: TypeError for a column that is neither
    numbers nor bools nor text, or whose name is no text; ValueError for two columns of one name, or named levels, which would
    be lost.
    """
    if frame.index.nlevels > 1 or frame.columns.nlevels > 1 or frame.index.name is not None:
        raise ValueError(f"{path.name}: index and columns are not written as such; reset_index() first")
    if not frame.columns.is_unique:
        raise ValueError(f"{path.name}: two columns have one name; rename one of {list(frame.columns)}")
    columns = {label: _type(frame[label], path) for label in frame.columns}
    texts = [label for label, kind in columns.items() if kind == "str"]
    frame = frame.assign(**{label: frame[label].str.replace("\r\n?", "\n", regex=True) for label in texts})
    path.write_bytes(utf8(frame.to_csv(index=False, float_format=FLOAT, lineterminator="\n")))
    return columns


def _type(cells: pd.Series, path: Path) -> str:
    if not isinstance(cells.name, str) or not cells.name or "\r" in cells.name:
        raise TypeError(f"{path.name}: {cells.name!r} cannot be a column's name: make it text")
    values = cells.astype(object) if isinstance(cells.dtype, pd.CategoricalDtype) else cells
    if types.is_object_dtype(values):  # pandas' own type of text refuses half a character
        values = pd.Series([utf8(v).decode() if isinstance(v, str) else v for v in values], dtype=object)
    kind = values.infer_objects().dtype
    nullable = types.is_extension_array_dtype(kind)
    if types.is_bool_dtype(kind):
        return "boolean" if nullable else "bool"
    if types.is_integer_dtype(kind):
        return "Int64" if nullable else "int64"
    if types.is_float_dtype(kind):
        return "float64"
    if all(isinstance(value, str) for value in values.dropna()):
        return "str"
    raise TypeError(f"{path.name}: column {cells.name!r} is neither numbers nor bools nor text: make it one")


def read_table(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """The table that :func:`write_table` wrote, with the types that it returned.

    Errors: ValueError if the file has other columns or cells than these.

    >>> import tempfile
    >>> frame = pd.DataFrame({"step": [0, 1], "row": ["itpo", "NA"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     columns = write_table(frame, Path(folder) / "F04.csv")
    ...     read_table(Path(folder) / "F04.csv", columns).equals(frame)
    True
    """
    with path.open(encoding="utf-8", newline="") as file:
        head, *lines = list(csv.reader(file)) or [[]]
    if head != list(columns) or any(len(line) != len(head) for line in lines):
        raise ValueError(
            f"{path.name} has the columns {head}, or lines of other lengths: it was written with {list(columns)}"
        )
    frame = {}
    for number, (label, kind) in enumerate(columns.items()):
        cells = [line[number] for line in lines]
        values = [READ[kind](cell) if cell or kind == "str" else None for cell in cells]
        frame[label] = pd.Series(values, dtype=kind)
    return pd.DataFrame(frame)
