"""The arguments of a drawing as text files and back: tables as CSV, everything else as JSON.

What JSON lacks is written as an object with one telling key: ``{"tuple": [...]}``, ``{"mapping": [[key, value], ...]}``,
``{"float": "nan"}``, ``{"array": [...], "shape": [...], "kind": "float"}``, ``{"record": "Case", "fields": {...}}`` for a
dataclass, ``{"table": "F04.csv", "columns": [...]}``. Floats keep six significant digits. Nothing that is read is evaluated,
and the only types that are made are dataclasses of the module that draws.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

FLOAT = "%.6g"
ARRAYS = {"f": "float", "i": "int", "u": "int", "b": "bool", "U": "str"}  # by numpy's letter


def encode(value: Any, module: ModuleType) -> Any:
    """A value as JSON takes it; dataclasses must be visible in ``module``, the one that draws.

    Errors: TypeError for what cannot be written, a data frame inside another value among it.

    >>> import itpo.figures.results as draw
    >>> encode((1, {"eta": np.array([0.1, np.nan])}), draw)
    {'tuple': [1, {'mapping': [['eta', {'array': [0.1, {'float': 'nan'}], 'shape': [2], 'kind': 'float'}]]}]}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(FLOAT % value) if math.isfinite(value) else {"float": str(value)}
    if type(value) is tuple:
        return {"tuple": [encode(item, module) for item in value]}
    if isinstance(value, Mapping):
        pairs = ((encode(key, module), encode(item, module)) for key, item in value.items())
        return {"mapping": [list(pair) for pair in pairs]}
    if isinstance(value, list | range):
        return [encode(item, module) for item in value]
    if dataclasses.is_dataclass(value) and getattr(module, type(value).__name__, None) is type(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {
            "record": type(value).__name__,
            "fields": {name: encode(item, module) for name, item in fields.items()},
        }
    if hasattr(value, "__array__") and not isinstance(value, pd.DataFrame):
        return _encode_array(value, module)
    raise TypeError(
        f"a {type(value).__name__} cannot be written for {module.__name__}: pass text, numbers, lists, mappings, arrays, "
        "dataclasses of that module, or a data frame as an argument of its own"
    )


def _encode_array(value: Any, module: ModuleType) -> dict[str, Any]:
    array = np.asarray(value)
    if array.dtype == object and all(isinstance(item, str) for item in array.flat):
        array = array.astype(str)
    if array.dtype.kind not in ARRAYS:
        raise TypeError(f"an array of {array.dtype} cannot be written: make it one of numbers, bools or text")
    flat = encode(array.ravel().tolist(), module)
    return {"array": flat, "shape": list(array.shape), "kind": ARRAYS[array.dtype.kind]}


def decode(value: Any, module: ModuleType, folder: Path) -> Any:
    """What :func:`encode` wrote; tables are read from ``folder``.

    Errors: ValueError for what it cannot have written, FileNotFoundError for a table that is not there.

    >>> import itpo.figures.results as draw
    >>> decode({"mapping": [[1, {"tuple": [{"float": "-inf"}]}]]}, draw, Path())
    {1: (-inf,)}
    """
    if isinstance(value, list):
        return [decode(item, module, folder) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"float": text}:
            return float(text)
        case {"tuple": list(items)}:
            return tuple(decode(item, module, folder) for item in items)
        case {"mapping": list(pairs)}:
            return {decode(key, module, folder): decode(item, module, folder) for key, item in pairs}
        case {"array": list(items), "shape": shape, "kind": kind} if kind in ARRAYS.values():
            return np.array(decode(items, module, folder), dtype=kind).reshape(shape)
        case {"record": name, "fields": dict(fields)}:
            record = getattr(module, name, None)
            if isinstance(record, type) and dataclasses.is_dataclass(record):
                return record(**{key: decode(item, module, folder) for key, item in fields.items()})
        case {"table": name, "columns": list(columns)} if Path(name).name == name:
            return read_table(folder / name, columns)
    raise ValueError(f"{str(value)[:60]} is nothing that was written for {module.__name__}")


# Tables. A CSV says neither what its columns are nor which empty texts are missing; the list of columns beside it does.


def write_table(frame: pd.DataFrame, path: Path) -> list[dict[str, Any]]:
    """Write a data frame as CSV, without its index; returns what :func:`read_table` must know of its columns.

    Errors: TypeError for a column that is neither numbers nor bools nor text, ValueError for named levels, which would be lost.
    """
    if frame.index.nlevels > 1 or frame.columns.nlevels > 1 or frame.index.name is not None:
        raise ValueError(f"{path.name}: index and columns are not written as such; reset_index() first")
    columns: list[dict[str, Any]] = []
    for place, label in enumerate(frame.columns):
        cells = frame.iloc[:, place]
        label = label.item() if isinstance(label, np.generic) else label
        if not isinstance(label, str | int | float):
            raise TypeError(f"{path.name}: {label!r} cannot be a column's label: make it text or a number")
        column: dict[str, Any] = {"label": label, "kind": _kind(cells, path)}
        if column["kind"] == "text" and cells.isna().any():
            column["missing"] = np.flatnonzero(cells.isna()).tolist()
        columns.append(column)
    frame.to_csv(path, index=False, float_format=FLOAT, lineterminator="\n")
    return columns


def _kind(cells: pd.Series, path: Path) -> str:
    cells = cells.astype(object) if isinstance(cells.dtype, pd.CategoricalDtype) else cells
    cells = cells.infer_objects()
    nullable = types.is_extension_array_dtype(cells.dtype)
    if types.is_bool_dtype(cells.dtype):
        return "boolean" if nullable else "bool"
    if types.is_integer_dtype(cells.dtype):
        return "Int64" if nullable else "int64"
    if types.is_float_dtype(cells.dtype):
        return "float64"
    if all(isinstance(cell, str) for cell in cells.dropna()):
        return "text"
    raise TypeError(f"{path.name}: column {cells.name!r} is neither numbers nor bools nor text: make it one")


def read_table(path: Path, columns: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table that :func:`write_table` wrote, with its column labels and types.

    Errors: ValueError if the file has other columns or cells than ``columns`` says.

    >>> import tempfile
    >>> frame = pd.DataFrame({"step": [0, 1], "row": ["itpo", None]})
    >>> with tempfile.TemporaryDirectory() as place:
    ...     columns = write_table(frame, Path(place) / "F04.csv")
    ...     read_table(Path(place) / "F04.csv", columns).equals(frame)
    True
    """
    with path.open(encoding="utf-8", newline="") as file:
        head, *lines = list(csv.reader(file)) or [[]]
    if head != [str(column["label"]) for column in columns] or any(len(line) != len(head) for line in lines):
        raise ValueError(f"{path.name} does not have the columns that it was written with")
    series = [
        _column([line[place] for line in lines], column).rename(place) for place, column in enumerate(columns)
    ]
    frame = pd.concat(series, axis=1) if series else pd.DataFrame()
    return frame.set_axis([column["label"] for column in columns], axis=1)


def _column(cells: list[str], column: Mapping[str, Any]) -> pd.Series:
    kind, missing = column["kind"], set(column.get("missing", ()))
    if kind == "text":
        return pd.Series([None if i in missing else text for i, text in enumerate(cells)], dtype="str")
    if kind in ("bool", "boolean"):
        values: list[Any] = [{"True": True, "False": False, "": None}[text] for text in cells]
    elif kind in ("int64", "Int64"):
        values = [int(text) if text else None for text in cells]
    elif kind == "float64":
        values = [float(text) if text else math.nan for text in cells]
    else:
        raise ValueError(f"{kind} is no kind of column")
    return pd.Series(values, dtype=kind)
