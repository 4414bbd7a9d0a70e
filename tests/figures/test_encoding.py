"""Data frames survive the way through CSV files."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itpo.figures.publishing.encoding import read_table, write_table

NUMBERS = st.floats().map(lambda number: float(f"{number:.6g}"))
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"))
COLUMNS = {
    "str": (st.one_of(TEXTS, st.sampled_from(["", "nan", "NA", "1", "True", ","])), "str"),
    "float64": (NUMBERS, "float64"),
    "int64": (st.integers(-(2**62), 2**62), "int64"),
    "Int64": (st.one_of(st.none(), st.integers(-(2**62), 2**62)), "Int64"),
    "bool": (st.booleans(), "bool"),
    "boolean": (st.one_of(st.none(), st.booleans()), "boolean"),
}


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """Tables of any columns with names of their own."""
    rows = draw(st.integers(0, 4))
    kinds = draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=4))
    labels = draw(st.lists(TEXTS.filter(bool), min_size=len(kinds), max_size=len(kinds), unique=True))
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
    back = read_table(path, columns)
    pd.testing.assert_frame_equal(back, frame)
    before = path.read_bytes()
    assert write_table(back, path) == columns and path.read_bytes() == before


def test_a_table_loses_its_index_but_not_names(tmp_path: Path) -> None:
    frame = pd.DataFrame({"row": ["itpo", "prime"], "mean": [1 / 3, np.nan]}, index=[3, 8])
    columns = write_table(frame, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "row,mean\nitpo,0.333333\nprime,\n"
    assert list(read_table(tmp_path / "t.csv", columns).index) == [0, 1]
    for lossy in (frame.set_index("row"), frame.pivot(columns="row")):
        with pytest.raises(ValueError, match="t.csv.*reset_index"):
            write_table(lossy, tmp_path / "t.csv")


def test_objects_are_written_as_what_they_are_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [True, False]}).astype(object)
    columns = write_table(frame, path)
    assert columns == {"a": "int64", "b": "str", "c": "bool"}
    assert read_table(path, columns)["b"].tolist() == ["x", ""]  # a missing text is an empty one
    with pytest.raises(TypeError, match="t.csv: column 'a' is neither numbers nor bools nor text"):
        write_table(pd.DataFrame({"a": ["x", 1]}), path)
    columns = write_table(pd.DataFrame({"a": ["x\r\ny\rz", "\r"]}), path)
    assert read_table(path, columns)["a"].tolist() == ["x\ny\nz", "\n"]
    for name in (None, 1, "", "\r"):
        with pytest.raises(TypeError, match="cannot be a column's name"):
            write_table(pd.DataFrame({name: ["x"]}), path)
    with pytest.raises(ValueError, match="t.csv: two columns have one name"):
        write_table(pd.DataFrame([[1, 2]], columns=["a", "a"]), path)


@pytest.mark.parametrize(
    "text", ["", "a\n1\n", "a,c\n1,2\n", "a,b\n1\n", "a,b\n1,x\n", "a,b\n1,2.5\n", "a,b\n1,2,3\n"]
)
def test_a_damaged_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.csv"
    columns = write_table(pd.DataFrame({"a": [1], "b": [2]}), path)
    path.write_text(text)
    with pytest.raises(ValueError):
        read_table(path, columns)
