"""The pictures of the notebook on estimators: made from data, legible, and the same bytes for the same data."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from itpo.attribution import METHODS
from itpo.figures import estimators as draw
from itpo.figures import results
from itpo.figures.style import COLUMN, TEXT

pytestmark = pytest.mark.usefixtures("figure_style")

CREDIT = pd.DataFrame(
    {
        "dialogue": ["A", "B", "B"],
        "turn": [1, 1, 2],
        "paid": [9.0, 0.0, 0.5],
        "RLOO\nreleased": [1.0, -1.0, 0.25],
        "RLOO\ntraject.": [0.5, -1.0, 0.25],
        "RLOO\nto_go": [0.5, -1.0, 0.5],
        "GRPO": [0.75, -1.0, 0.25],
        "PPO\n$\\lambda$ = 1": [0.5, -0.5, 0.0],
        "PPO\n$\\lambda$ = 0": [0.25, -0.5, 0.0],
    }
)
LINES = ("RLOO, released", "RLOO, trajectory", "RLOO, to_go", "GRPO", "PPO")
LENGTHS = pd.DataFrame(
    {"turns": [2, 3, 4]} | {name: [0.5, 0.4 - 0.1 * k, 0.1] for k, name in enumerate(LINES)}
)


def band(rows: tuple[str, ...], mean: float = 0.4, first: int = -3) -> pd.DataFrame:
    lines = [(row, step, mean + 0.01 * step, 0.2, 0.6) for row in rows for step in range(first, 10, 2)]
    return pd.DataFrame(lines, columns=["row", "step", "mean", "low", "high"])


def seeds(rows: tuple[str, ...]) -> pd.DataFrame:
    lines = [(row, seed, step, 0.3 + 0.1 * seed) for row in rows for seed in (0, 1) for step in (0, 5, 10)]
    return pd.DataFrame(lines, columns=["row", "seed", "step", "value"])


ALL = tuple(METHODS)
SETTINGS = ("RLOO, charged per turn", "RLOO, charged once", "RLOO, turn by turn", "GRPO", "PPO")
TURNS = pd.concat(
    [band(("trajectory_share", "uniform", "norm_itpo"), 3.5, 0).assign(setting=name) for name in SETTINGS]
)
MAKERS: dict[str, Callable[[], Figure]] = {
    "turn_credit": lambda: draw.turn_credit(CREDIT, "paid"),
    "credit_by_length": lambda: draw.credit_by_length(LENGTHS, "advantage of turn 2"),
    "explained_variance": lambda: draw.explained_variance(band(ALL)),
    "turns_over_training": lambda: draw.turns_over_training(TURNS),
    "curves_of_six_rows": lambda: results.learning_curves(band(ALL[:6], first=0), seeds(ALL[:6])),
    "curves_of_all_rows": lambda: results.learning_curves(band(ALL, first=0), seeds(ALL)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_figure_is_legible_and_a_notebook_shows_it_once(
    name: str, text_boxes: Callable[[Figure], dict[Text, Bbox]]
) -> None:
    figure = MAKERS[name]()
    assert figure.get_figwidth() in (COLUMN, TEXT)
    assert plt.get_fignums() == []
    assert all(text.get_fontsize() >= 5.5 for text in text_boxes(figure))


@pytest.mark.parametrize("name", MAKERS)
def test_no_text_overlaps_another_or_leaves_the_page(
    name: str, check_apart: Callable[[Figure], None]
) -> None:
    check_apart(MAKERS[name]())


@pytest.mark.parametrize("name", MAKERS)
def test_same_data_give_the_same_bytes(name: str, png: Callable[[Figure], bytes]) -> None:
    assert png(MAKERS[name]()) == png(MAKERS[name]())


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "turn_credit"])  # it names its columns
def test_axes_are_labelled(name: str) -> None:
    figure = MAKERS[name]()
    assert any(ax.get_xlabel() for ax in figure.axes) and any(ax.get_ylabel() for ax in figure.axes)


def test_cells_hold_the_numbers_and_what_is_paid_has_no_colour() -> None:
    ax = draw.turn_credit(CREDIT, "paid").axes[0]
    assert [text.get_text() for text in ax.texts][:3] == ["9.00", "+1.00", "+0.50"]
    colours = ax.images[0].get_array()
    assert colours is not None and colours.mask[:, 0].all() and not colours.mask[:, 1:].any()
    assert ax.images[0].norm.vmax == 1.0
    assert len(ax.lines) == 1  # between the two dialogues


def test_a_critic_that_misleads_is_cut_off() -> None:
    low, high = draw.explained_variance(band(ALL, mean=-50.0)).axes[0].get_ylim()
    assert (low, high) == (draw.WORST, 1.0)


def test_seven_rows_stand_in_two_lines_and_the_lowest_of_each_column_names_its_axis() -> None:
    figure = MAKERS["curves_of_all_rows"]()
    assert [bool(ax.get_xlabel()) for ax in figure.axes] == [False] * 3 + [True] * 4
    assert [bool(ax.get_ylabel()) for ax in figure.axes] == [True, *[False] * 3, True, *[False] * 2]
