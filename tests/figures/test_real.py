"""The pictures of the notebook on a real model: legible, true to their data, and the same bytes for the same data."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from itpo.figures import real as draw
from itpo.figures.style import TEXT

pytestmark = pytest.mark.usefixtures("figure_style")

CURVES = pd.DataFrame(
    [
        (row, step, 0.2 + 0.02 * step, 0.1, 0.7)
        for row in ("trajectory_share", "norm_itpo")
        for step in (0, 4, 8)
    ],
    columns=["row", "step", "mean", "low", "high"],
)
SECONDS = pd.DataFrame(
    [("trajectory_share", "generation", 20.0), ("trajectory_share", "policy", 40.0)]
    + [("norm_itpo", part, 10.0) for part in ("generation", "reference", "prm", "policy")],
    columns=["row", "part", "seconds"],
)
MEMORY = pd.DataFrame(
    [("base", "held", 500 * 2**20), ("adapters (2)", "held", 40 * 2**20), ("rollout", "peak", 300 * 2**20)],
    columns=["part", "when", "bytes"],
)
MAKERS: dict[str, Callable[[], Figure]] = {
    "success": lambda: draw.success(CURVES),
    "success of one step": lambda: draw.success(CURVES[CURVES["step"] == 0]),
    "costs": lambda: draw.costs(SECONDS, MEMORY),
}


@pytest.mark.parametrize("name", MAKERS)
def test_figure_is_legible_and_a_notebook_shows_it_once(
    name: str, text_boxes: Callable[[Figure], dict[Text, Bbox]]
) -> None:
    figure = MAKERS[name]()
    assert not plt.get_fignums() and figure.get_figwidth() <= TEXT
    boxes = text_boxes(figure)
    assert all(text.get_fontsize() >= 6 for text in boxes)
    assert all(ax.get_xlabel() for ax in figure.axes)


@pytest.mark.parametrize("name", MAKERS)
def test_no_text_overlaps_another_or_leaves_the_page(
    name: str, check_apart: Callable[[Figure], None]
) -> None:
    check_apart(MAKERS[name]())


@pytest.mark.parametrize("name", MAKERS)
def test_same_data_give_the_same_bytes(name: str, png: Callable[[Figure], bytes]) -> None:
    assert png(MAKERS[name]()) == png(MAKERS[name]())


def test_bars_add_up_to_the_step_and_parts_have_one_entry_each() -> None:
    left, right = draw.costs(SECONDS, MEMORY).axes
    ends = {bar.get_y(): 0.0 for bar in left.patches}
    for bar in left.patches:
        ends[bar.get_y()] = max(ends[bar.get_y()], bar.get_x() + bar.get_width())
    assert sorted(ends.values()) == [40.0, 60.0]
    labels = left.get_legend_handles_labels()[1]
    assert sorted(labels) == ["PRM", "generation", "policy update", "reference"]
    assert [bar.get_width() for bar in right.patches] == [500, 40, 300]


def test_the_curve_passes_through_its_means() -> None:
    (ax,) = draw.success(CURVES).axes
    drawn = [line.get_ydata().tolist() for line in ax.lines if len(line.get_xdata()) == 3]
    assert [0.2, 0.28, 0.36] in [[round(y, 6) for y in ys] for ys in drawn]
