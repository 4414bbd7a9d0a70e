"""The arguments of drawings survive the way through files."""

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itpo.dialogue import Message
from itpo.figures import conversations, method, results
from itpo.figures.publishing.encoding import decode, encode, read_table, write_table


def six(number: float) -> float:
    """A number to six significant digits."""
    return float(f"{number:.6g}")


def through_json(value: object, module=results) -> object:
    written = json.dumps(encode(value, module), allow_nan=False)
    return decode(json.loads(written), module, Path("nowhere"))


def same(one: object, other: object) -> bool:
    """Equal, of the same types throughout, in the same order, and nan like nan."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    return one == other


NUMBERS = st.floats().map(six)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), NUMBERS, st.text())
KEYS = st.one_of(st.booleans(), st.integers(), st.text(), st.tuples(st.text(), st.integers()))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
    ),
    max_leaves=12,
)


@given(VALUES)
def test_plain_values_come_back_with_their_types(value: object) -> None:
    assert same(through_json(value), value)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[0.1, np.nan, np.inf], [-np.inf, -0.0, 2e-30]]),
        np.zeros((0, 3)),
        np.array(2.5),
        np.arange(4, dtype=np.int32),
        np.array([True, False]),
        np.array(["", "a"]),
        torch.tensor([[1.5, -2.0]]),
        pd.Series(["a", ""], index=[7, 9]),
        pd.Series([1, 2]),
    ],
    ids=str,
)
def test_arrays_come_back(array: object) -> None:
    found = through_json(array)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, np.asarray(array))
    assert found.dtype.kind == ("U" if found.dtype.kind == "U" else np.asarray(array).dtype.kind)


def test_floats_keep_six_digits() -> None:
    assert through_json(2 / 3) == 0.666667
    assert through_json(np.float32(0.1)) == 0.1
    np.testing.assert_array_equal(through_json(np.array([2 / 3, 123456789.0])), [0.666667, 123457000.0])


def test_dataclasses_come_back_nested() -> None:
    said = (Message("user", "is 1 < 2 ?"), Message("assistant", ""))
    talks = {"one": conversations.Conversation(said, ("ask",), {"success": 1.0}, (0.25,), hidden="x")}
    assert through_json(talks, conversations) == talks
    credit = method.TurnCredit("t", ["a"], 0, torch.tensor([0.5]), (0.1, 1.0), np.ones((2, 1)))
    (found,) = through_json([credit], method)
    assert (found.title, found.texts, found.temperatures) == ("t", ["a"], (0.1, 1.0))
    assert np.shape(found.weights) == (2, 1)


@dataclass(frozen=True)
class Stranger:
    secret: int = 1


def test_what_cannot_be_written_is_refused_by_name() -> None:
    for value in (Stranger(), object(), {1, 2}, pd.DataFrame({"a": [1]}), 1j):
        with pytest.raises(
            TypeError, match=f"a {type(value).__name__} cannot be written for itpo.figures.resul"
        ):
            encode([value], results)
    with pytest.raises(TypeError, match="array of object"):
        encode(np.array([None, 1]), results)


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"record": "Path", "fields": {}},
        {"record": "Figure", "fields": {}},
        {"record": "Stranger", "fields": {}},
        {"record": "__import__", "fields": {}},
        {"table": "../secrets.csv", "columns": []},
        {"array": [1], "shape": [1], "kind": "object"},
        {"tuple": 3},
    ],
    ids=str,
)
def test_what_cannot_have_been_written_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="nothing that was written for"):
        decode(written, results, Path())


# Tables

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
COLUMNS = {
    "text": (st.one_of(st.none(), TEXTS, st.sampled_from(["", "nan", "NA", "1", "True", ","])), "str"),
    "float64": (NUMBERS, "float64"),
    "int64": (st.integers(-(2**62), 2**62), "int64"),
    "Int64": (st.one_of(st.none(), st.integers(-(2**62), 2**62)), "Int64"),
    "bool": (st.booleans(), "bool"),
    "boolean": (st.one_of(st.none(), st.booleans()), "boolean"),
}


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """Tables of any columns, with labels that need not be different."""
    rows = draw(st.integers(0, 4))
    kinds = draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=4))
    labels = draw(st.lists(st.one_of(TEXTS, st.integers()), min_size=len(kinds), max_size=len(kinds)))
    series = []
    for kind in kinds:
        cells, dtype = COLUMNS[kind]
        series.append(pd.Series(draw(st.lists(cells, min_size=rows, max_size=rows)), dtype=dtype))
    return pd.concat(series, axis=1).set_axis(labels, axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


COUNT = itertools.count()


@given(frame=frames())
def test_tables_come_back_with_their_types_and_are_written_the_same_again(
    folder: Path, frame: pd.DataFrame
) -> None:
    path = folder / f"{next(COUNT)}.csv"
    columns = json.loads(json.dumps(write_table(frame, path)))
    found = read_table(path, columns)
    pd.testing.assert_frame_equal(found, frame)
    before = path.read_bytes()
    assert write_table(found, path) == columns and path.read_bytes() == before


def test_a_table_loses_its_index_but_not_names(tmp_path: Path) -> None:
    frame = pd.DataFrame({"row": ["itpo", "prime"], "mean": [1 / 3, np.nan]}, index=[3, 8])
    columns = write_table(frame, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "row,mean\nitpo,0.333333\nprime,\n"
    assert list(read_table(tmp_path / "t.csv", columns).index) == [0, 1]
    for lossy in (frame.set_index("row"), frame.pivot(columns="row")):
        with pytest.raises(ValueError, match="t.csv.*reset_index"):
            write_table(lossy, tmp_path / "t.csv")


def test_objects_are_written_as_what_they_are_or_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [True, False]}).astype(object)
    kinds = [column["kind"] for column in write_table(frame, tmp_path / "t.csv")]
    assert kinds == ["int64", "text", "bool"]
    with pytest.raises(TypeError, match="t.csv: column 'a' is neither numbers nor bools nor text"):
        write_table(pd.DataFrame({"a": ["x", 1]}), tmp_path / "t.csv")
    with pytest.raises(TypeError, match="cannot be a column's label"):
        write_table(pd.DataFrame({None: ["x"]}), tmp_path / "t.csv")


@pytest.mark.parametrize("text", ["", "a\n1\n", "a,c\n1,2\n", "a,b\n1\n", "a,b\n1,x\n", "a,b\n1,2.5\n"])
def test_a_damaged_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.csv"
    columns = write_table(pd.DataFrame({"a": [1], "b": [2]}), path)
    path.write_text(text)
    with pytest.raises(ValueError):
        read_table(path, columns)
