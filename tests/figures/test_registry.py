"""Published figures and tables are drawn from the files beside them, again and again."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from figure_examples import CASE, PAIR, band, ceilings, story_frames
from matplotlib.figure import Figure

from itpo.figures import conversations, credit, results, style
from itpo.figures.publishing import gallery, registry
from itpo.figures.publishing.registry import (
    PublishedError,
    find_drawing,
    publish,
    publish_table,
    read,
    redraw,
)

BAND = pd.DataFrame(
    {"kind": ["ask", "guess", "ask"], "success": [True, True, False], "mean": [1 / 3, 0.5, np.nan]}
).assign(low=lambda f: f["mean"] - 0.2, high=lambda f: f["mean"] + 0.2)
TABLE = pd.DataFrame({"row": ["a_b & c", "[d]"], "gain (%)": ["+1.5 [0.5, 2.5]", "–"]})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure_style: None) -> Path:
    """Where figures are published in a test."""
    monkeypatch.setattr(style, "output_folder", lambda profile: tmp_path)
    style.use_style("07_tasks")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kinds(name: str = "F02_kinds") -> Figure:
    return publish(results.credit_by_kind, name, "smoke", "A $w_k$ caption.", band=BAND)


def kendall() -> Figure:
    curves = band(("itpo",))
    shown = {
        "batches": curves,
        "monitor": curves[::-1],
        "ceilings": ceilings(("itpo",)),
        "reported": [0.5, 0.75],
    }
    return publish(results.kendall_over_training, "F05_kendall", "smoke", "Two panels.", **shown)


def story() -> Figure:
    return publish(credit.story, "F23_story", "smoke", "A story.", **story_frames())


def dynamics() -> Figure:
    return publish(results.reward_dynamics, "F02_dynamics", "smoke", "A case.", **CASE)


def conversation() -> Figure:
    return publish(conversations.picture, "F22_dialogues", "smoke", "Two.", messages=PAIR)


def table() -> str:
    numbers = pd.DataFrame({"gain": [1 / 3, None]})
    return publish_table(
        TABLE, numbers, "T1_gains", "smoke", "Profile `smoke`: **nothing**.", "A note, 50 %."
    )


PUBLISHERS: dict[str, Callable[[], object]] = {
    "F02_dynamics": dynamics,
    "F02_kinds": kinds,
    "F05_kendall": kendall,
    "F22_dialogues": conversation,
    "F23_story": story,
    "T1_gains": table,
}


def test_a_figure_is_written_with_the_data_that_draw_it(folder: Path) -> None:
    figure = kinds()
    assert figure.axes[0].get_xlabel() == "turn reward minus dialogue's mean (logits)"
    assert set(contents(folder)) == {f"F02_kinds.{end}" for end in ("csv", "json", "pdf", "png")}
    record = json.loads((folder / "F02_kinds.json").read_text())
    assert (record["notebook"], record["profile"]) == ("07_tasks", "smoke")
    assert record["draw"] == "results.credit_by_kind"
    assert record["frames"]["band"]["file"] == "F02_kinds.csv" and record["values"] == {}
    assert (folder / "F02_kinds.csv").read_text().splitlines()[1] == "ask,True,0.333333,0.133333,0.533333"
    assert any("[smoke] A $w_k$ caption." in text.get_text() for text in figure.texts)


def test_further_tables_are_named_after_their_arguments(folder: Path) -> None:
    kendall()
    numbers = {name for name in contents(folder) if name.endswith(".csv")}
    assert numbers == {"F05_kendall.csv", "F05_kendall.monitor.csv", "F05_kendall.ceilings.csv"}


@pytest.mark.parametrize("name", PUBLISHERS)
def test_what_is_drawn_again_has_the_same_bytes(folder: Path, name: str) -> None:
    PUBLISHERS[name]()
    before = contents(folder)
    for path in folder.iterdir():
        if path.suffix not in (".csv", ".json"):
            path.unlink()
    assert [record.name for record in redraw(folder)] == [name]
    assert contents(folder) == before


def test_the_command_draws_the_same_in_another_process(folder: Path) -> None:
    for make in PUBLISHERS.values():
        make()
    before = contents(folder)
    command = [sys.executable, "-m", "itpo", "figures", str(folder)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    assert [line.partition(":")[0] for line in printed.splitlines()[:-1]] == sorted(PUBLISHERS)
    assert "6 figures and tables in" in printed.splitlines()[-1]
    after = contents(folder)
    assert after.pop("index.html").startswith(b"<!doctype html>")
    assert after == before


def test_an_image_shows_what_is_in_its_data(folder: Path) -> None:
    kinds()
    image, path = (folder / "F02_kinds.png").read_bytes(), folder / "F02_kinds.csv"
    path.write_text(path.read_text().replace("0.333333", "0.3"))
    assert len(list(redraw(folder))) == 1
    assert (folder / "F02_kinds.png").read_bytes() != image


def test_a_vector_file_says_neither_when_nor_by_what_it_was_made(folder: Path) -> None:
    kinds()
    written = (folder / "F02_kinds.pdf").read_bytes()
    assert written.startswith(b"%PDF") and b"/FontFile" in written or b"/CharProcs" in written
    for trace in (b"CreationDate", b"/Producer", b"/Creator"):
        assert trace not in written
    assert b"Software" not in (folder / "F02_kinds.png").read_bytes()


def test_publishing_again_leaves_no_file_of_before_and_touches_no_other(folder: Path) -> None:
    kendall()
    kinds("F05_kendall_other")
    kinds("F05_kendall")
    ends = ("csv", "json", "pdf", "png")
    assert set(contents(folder)) == {f"F05_kendall{more}.{end}" for more in ("", "_other") for end in ends}


def elsewhere(band: pd.DataFrame) -> Figure:
    return Figure()


def test_what_could_not_be_drawn_again_is_not_published(folder: Path) -> None:
    with pytest.raises(ValueError, match="elsewhere is no drawing of itpo.figures"):
        publish(elsewhere, "F00_test", "smoke", "", band=BAND)
    with pytest.raises(TypeError, match="'bands'"):
        publish(results.credit_by_kind, "F00_test", "smoke", "", band=BAND, bands=BAND)
    with pytest.raises(ValueError, match="no data frame among the arguments"):
        publish(results.credit_by_kind, "F00_test", "smoke", "", band=[])
    for value in (np.zeros(2), object(), {1, 2}, math.nan, [BAND]):
        with pytest.raises((TypeError, ValueError), match="F00_test: .*pass data frames, numbers, texts"):
            publish(results.stability, "F00_test", "smoke", "", band=BAND, level=value)
    with pytest.raises(ValueError, match=r"F0\.test.* cannot name a figure"):
        publish(results.credit_by_kind, "F0.test", "smoke", "", band=BAND)
    assert not contents(folder)


@pytest.mark.parametrize(
    "where",
    [
        "os.system",
        "results",
        "credit._rewards",
        "results.panels",
        "parts.panels",
        "results.Figure",
        "conversations.html",
        "style.add_caption",
        "published.publish",
        "itpo.figures.results.stability",
        "../results.stability",
        "",
    ],
)
def test_nothing_but_a_drawing_is_found_by_name(where: str) -> None:
    with pytest.raises(ValueError, match="is no drawing of itpo.figures"):
        find_drawing(where)


def changed(**fields: object) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | fields)


def frames(file: str, argument: str = "band") -> Callable[[str], str]:
    return changed(frames={argument: {"file": file, "columns": {}}})


DAMAGES: dict[str, Callable[[str], str]] = {
    "cut off": lambda text: text[:100],
    "empty": lambda text: "",
    "no object": lambda text: "[]",
    "another kind": changed(kind="film"),
    "another name": changed(name="F03_other"),
    "a field too many": changed(surprise=1),
    "unknown function": changed(draw="os.system"),
    "unknown argument": changed(values={"bands": 1}),
    "no arguments": changed(frames={}),
    "a frame that says nothing": changed(frames={"band": {"eval": "1"}}),
    "a file outside": changed(frames={"band": {"file": "/etc/passwd", "columns": {}}}),
    "a file above": changed(frames={"band": {"file": "../F02_kinds.csv", "columns": {}}}),
    "a file that is gone": changed(frames={"band": {"file": "gone.csv", "columns": {}}}),
    "an address": frames("javascript:alert(1).csv"),
    "another address": frames("https://example.org/F02_kinds.csv"),
    "a file outside by its argument": frames("F02_kinds.x/../../y.csv", "x/../../y"),
    "a number as a file": changed(frames={"band": {"file": 1, "columns": {}}}),
    "a number as a caption": changed(caption=1),
    "deep nesting": lambda text: "[" * 99_999,
    "an unknown type": changed(frames={"band": {"file": "F02_kinds.csv", "columns": {"kind": "film"}}}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_one_error_with_file_and_remedy(folder: Path, damage: str, capsys) -> None:
    kinds()
    path = folder / "F02_kinds.json"
    path.write_text(DAMAGES[damage](path.read_text()))
    with pytest.raises(
        PublishedError, match=r"F02_kinds.json cannot be drawn .*: restore it .*, or run .*notebook"
    ):
        list(redraw(folder))


def test_an_empty_folder_is_an_error_with_a_remedy(folder: Path) -> None:
    with pytest.raises(PublishedError, match="no published figures.*make reproduce"):
        list(redraw(folder))


def test_what_is_no_name_of_a_file_never_becomes_one(folder: Path) -> None:
    name = "javascript:alert(1)"
    kinds()
    text = (folder / "F02_kinds.json").read_text()
    (folder / f"{name}.json").write_text(changed(name=name, frames={})(text))
    with pytest.raises(PublishedError, match=r"'javascript:alert\(1\)' cannot name a figure"):
        read(folder / f"{name}.json")


def test_a_table_of_anything_but_texts_is_damaged(folder: Path) -> None:
    table()
    path = folder / "T1_gains.json"
    text = path.read_text()
    for fields in (
        {"rows": [[1, 2]]},
        {"rows": [["a"]]},
        {"rows": 3},
        {"columns": [["a"], "b"]},
        {"scale": None},
    ):
        path.write_text(changed(**fields)(text))
        with pytest.raises(PublishedError, match=r"T1_gains.json cannot be drawn"):
            read(path)


def test_half_a_character_is_replaced_wherever_it_stands(folder: Path) -> None:
    broken, mended = "a\ud800b\ud83d\ude00", "a\ufffdb\N{GRINNING FACE}"
    text = pd.DataFrame({"a": pd.Series([broken], dtype=object)})  # pandas' own type of text refuses it
    publish_table(text, text, "T9", "smoke", broken, broken)
    record = read(folder / "T9.json")
    assert isinstance(record, registry.PublishedTable)
    assert (record.rows, record.caption, record.scale) == ([[mended]], mended, mended)
    assert all(mended in (folder / f"T9.{end}").read_text() for end in ("csv", "json", "md", "tex"))
    messages = PAIR.assign(text=pd.Series(broken, index=sorted({*PAIR.index}), dtype=object))
    publish(conversations.picture, "F22_x", "smoke", "a\ud800b", messages=messages)
    assert "a\ufffdb" in (folder / "F22_x.json").read_text() and mended in (folder / "F22_x.csv").read_text()
    before = contents(folder)
    assert len(list(redraw(folder))) == 2 and contents(folder) == before
    gallery.build(folder)
    assert mended in (folder / "index.html").read_text()


def test_cells_cannot_break_a_table(folder: Path) -> None:
    text = pd.DataFrame(
        {
            "a | b": ["x|y", "[1] & c", "*", "end\\"],
            "n\n2": ["1\r\n\r\n2", "`c`", "a\\|b", "\x1b\x00 #$%^~{}_"],
        }
    )
    shown = publish_table(text, text, "T9", "smoke", "Scale\n\nof it.", "Note.").splitlines()
    assert shown[:6] == [
        r"| a \| b | n 2 |",
        "|---|---|",
        r"| x\|y | 1 2 |",
        r"| [1] & c | \`c\` |",
        r"| * | a\\\|b |",
        r"| end\ |   #$%^~{}_ |",
    ]
    source = (folder / "T9.tex").read_text()
    rows = source.partition("\\midrule\n")[2].partition("\n\\bottomrule")[0].splitlines()
    assert rows == [
        r"x$|$y & 1 2 \\",
        r"{[1] \& c} & `c` \\",
        r"{*} & a\textbackslash{}$|$b \\",
        r"end\textbackslash{} &   \#\$\%\textasciicircum{}\textasciitilde{}\{\}\_ \\",
    ]
    assert r"\caption{Note. Scale of it.}" in source


def test_a_table_is_written_for_people_latex_and_machines(folder: Path) -> None:
    shown = table()
    assert shown.splitlines() == [
        "| row | gain (%) |",
        "|---|---|",
        "| a_b & c | +1.5 [0.5, 2.5] |",
        "| [d] | – |",
        "",
        "A note, 50 %.",
    ]
    text = (folder / "T1_gains.md").read_text()
    assert text == f"# T1_gains\n\nProfile `smoke`: **nothing**.\n\n{shown}\n"
    assert (folder / "T1_gains.csv").read_text() == 'gain\n0.333333\n""\n'
    source = (folder / "T1_gains.tex").read_text()
    assert r"\caption{A note, 50 \%. Profile \texttt{smoke}: \textbf{nothing}.}" in source
    assert r"a\_b \& c & +1.5 [0.5, 2.5] \\" in source
    assert r"{[d]} & -- \\" in source  # a bracket after \\ would be its option
    assert source.count("{") == source.count("}")
    record = read(folder / "T1_gains.json")
    assert isinstance(record, registry.PublishedTable)
    assert (record.columns, record.rows[1]) == (["row", "gain (%)"], ["[d]", "–"])
