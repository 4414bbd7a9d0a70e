"""The figures of the main comparison: drawn from tables, legible, and the same bytes for the same data."""

import io
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from itpo.figures import results as draw
from itpo.figures.style import COLUMN, TEXT, use_style

METHODS = ("trajectory_share", "uniform", "prime", "itpo", "norm_itpo")
JUDGED = METHODS[2:]


def seeds(rows: tuple[str, ...] = METHODS) -> pd.DataFrame:
    lines = [
        (row, seed, step, 0.3 + 0.01 * step + 0.02 * seed)
        for row in rows
        for seed in (0, 1)
        for step in (0, 10, 20)
    ]
    return pd.DataFrame(lines, columns=["row", "seed", "step", "value"])


def band(rows: tuple[str, ...] = METHODS, first: int = 0, spread: float = 0.1) -> pd.DataFrame:
    lines = [(row, step, 0.4, 0.4 - spread, 0.4 + spread, 2) for row in rows for step in range(first, 21, 5)]
    return pd.DataFrame(lines, columns=["row", "step", "mean", "low", "high", "seeds"])


def items(spread: float = 0.1) -> pd.DataFrame:
    return pd.concat([band(JUDGED, spread=spread).assign(items=name) for name in draw.ITEM_STYLES])


def ceilings() -> pd.DataFrame:
    return pd.concat(
        [band(JUDGED).rename(columns={"mean": "value"}).assign(panel=p) for p in ("batches", "probes")]
    )


def credit() -> pd.DataFrame:
    lines = [
        ("ask_first", True, 0.2, 0.1, 0.3),
        ("ask_first", False, -0.1, -0.2, 0.0),
        ("chat", False, 0.1, np.nan, np.nan),
    ]
    return pd.DataFrame(lines, columns=["kind", "success", "mean", "low", "high"])


CASE = draw.Case(
    steps=[0, 5, 10],
    words=["how", "many", "?", "<|end|>", "so", "5", "<|end|>"],
    turn_of=[0, 0, 0, 0, 1, 1, 1],
    kinds=["ask_first", "missed repair"],
    answers=["a lot of pears .", ""],
    turn_rewards=np.array([[0.5, -1.0], [0.2, -1.0], [1.0, -0.5]]),
    token_rewards=np.linspace(-1, 1, 21).reshape(3, 7),
)

MAKERS: dict[str, Callable[[], Figure]] = {
    "learning_curves": lambda: draw.learning_curves(band(), seeds()),
    "stability": lambda: draw.stability(items()),
    "kendall": lambda: draw.kendall_over_training(band(JUDGED, -5), band(JUDGED), ceilings(), (0.5, 0.75)),
    "reward_dynamics": lambda: draw.reward_dynamics(CASE),
    "credit_by_kind": lambda: draw.credit_by_kind(credit()),
}


@pytest.fixture(autouse=True)
def _style() -> None:
    use_style()


def test_no_figure_stays_open() -> None:
    for make in MAKERS.values():
        make()
    assert not plt.get_fignums()


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


@pytest.mark.parametrize("name", MAKERS)
def test_same_data_same_bytes(name: str) -> None:
    assert png(MAKERS[name]()) == png(MAKERS[name]())


@pytest.mark.parametrize("name", MAKERS)
def test_widths_are_those_of_a_paper_and_axes_are_labelled(name: str) -> None:
    figure = MAKERS[name]()
    assert figure.get_figwidth() in (COLUMN, TEXT)
    labels = [ax.get_xlabel() for ax in figure.axes] + [ax.get_ylabel() for ax in figure.axes]
    assert any("step" in label or "logits" in label for label in labels)


@pytest.mark.parametrize("name", MAKERS)
def test_text_is_legible_and_inside_the_saved_picture(name: str) -> None:
    figure = MAKERS[name]()
    figure.draw_without_rendering()
    for ax in figure.axes:
        for text in (*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels(), ax.title):
            assert not text.get_text() or text.get_fontsize() >= 5.5


def test_legends_stand_beside_the_axes() -> None:
    for name in ("stability", "kendall", "credit_by_kind"):
        figure = MAKERS[name]()
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert not any(box.overlaps(ax.get_window_extent()) for ax in figure.axes)


def test_a_panel_for_each_row_with_the_baseline_in_it() -> None:
    figure = draw.learning_curves(band(), seeds())
    assert [ax.get_title().replace("\n", " ") for ax in figure.axes][1] == "Uniform decomposition"
    assert [len(ax.lines) for ax in figure.axes] == [3, 4, 4, 4, 4]


def test_wide_bands_do_not_flatten_the_curves() -> None:
    wide = draw.learning_curves(band(spread=9.0), seeds()).axes[0].get_ylim()
    assert wide == draw.learning_curves(band(), seeds()).axes[0].get_ylim()
    assert 0 <= wide[0] < 0.3 and 0.5 < wide[1] <= 1


def test_undefined_bands_are_drawn_as_lines_only() -> None:
    figure = draw.stability(items(spread=np.nan))
    assert png(figure) and all(len(ax.lines) == 5 for ax in figure.axes)


def test_case_has_a_cell_for_each_token_and_step() -> None:
    turns, tokens = draw.reward_dynamics(CASE).axes[:2]
    for ax, expected in ((turns, CASE.turn_rewards[:, [0, 0, 0, 0, 1, 1, 1]]), (tokens, CASE.token_rewards)):
        np.testing.assert_allclose(np.asarray(ax.collections[0].get_array()).reshape(3, 7), expected)
    assert [label.get_text() for label in tokens.get_xticklabels()][:4] == ["how", "many", "?", "end"]
    assert any("a lot of pears" in text.get_text() for text in turns.texts)
