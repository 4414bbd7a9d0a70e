"""The figures of credit against the oracle: drawn from tables, legible, and the same bytes for the same data."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from itpo.attribution import METHODS
from itpo.config import allows
from itpo.estimators import ESTIMATORS
from itpo.figures import credit as draw
from itpo.figures.style import COLUMN, SMALL, TEXT


def band(measures, mean=0.3, spread=0.2):
    """A line for each estimator, row that it can train, and measure."""
    lines = [
        (estimator, row, measure, mean, mean - spread, mean + spread, 3)
        for estimator in ESTIMATORS
        for row in METHODS
        if allows(estimator, row)
        for measure in measures
    ]
    return pd.DataFrame(lines, columns=["estimator", "row", "measure", "mean", "low", "high", "n"])


def over_steps(column, values):
    lines = [
        (estimator, value, step, 0.8, 0.6, 1.0)
        for estimator in ESTIMATORS
        for value in values
        for step in (0, 5, 10)
    ]
    return pd.DataFrame(lines, columns=["estimator", column, "step", "mean", "low", "high"])


BEFORE, AFTER = np.array([0.1, 0.4, 0.25]), np.array([0.1, 0.6, 0.0])
ERROR = np.array([0.05, 0.1, 0.0])
STORY = draw.Story(
    heard=["sam has boxes with coins in each box . how many coins in all ?", "a lot of boxes .", "ok ."],
    said=["how many boxes are there ?", "ok . exactly how many ?", "so 2 times 6 : the answer is 12 ."],
    before=BEFORE,
    before_se=ERROR,
    after=AFTER,
    after_se=ERROR,
    pays={row: np.array([0.0, -1.25, 0.5]) for row in METHODS},
    likes={row: np.array([0.0, -1.0, 1.0]) for row in METHODS},
)
KINDS = ["pooled", "within"]
REPORTED = {"Gemini-3.0-Pro": 0.9, "Norm-ITPO": 0.75, "ITPO": 0.73, "chance": 0.25}


def fidelity_figure(spread=0.2):
    ceilings = band([f"{kind}_ceiling" for kind in KINDS], 0.9)
    return draw.credit_fidelity(
        band(KINDS, spread=spread), ceilings, band(KINDS, 0.4), dict.fromkeys(KINDS, 0.95)
    )


MAKERS = {
    "story": lambda: draw.story(STORY),
    "credit_fidelity": fidelity_figure,
    "best_and_worst": lambda: draw.best_and_worst(band(["share", "chance"]), REPORTED),
    "order_agreement": lambda: draw.order_agreement(over_steps("pair", ["same seed", "other seed"]), 0.9),
    "slopes": lambda: draw.slopes(over_steps("row", ["prime", "itpo", "norm_itpo"])),
}


@pytest.mark.parametrize("name", MAKERS)
def test_same_data_same_bytes_and_no_open_figure(name, png):
    assert png(MAKERS[name]()) == png(MAKERS[name]())
    assert not plt.get_fignums()


@pytest.mark.parametrize("name", MAKERS)
def test_text_is_legible_and_apart(name, check_apart, text_boxes):
    figure = MAKERS[name]()
    assert figure.get_figwidth() in (COLUMN, TEXT)
    check_apart(figure)
    assert min(text.get_fontsize() for text in text_boxes(figure)) >= SMALL


def test_story_says_what_the_oracle_measured(figure_style):
    left, right = draw.story(STORY).axes
    written = [text.get_text() for text in left.texts]
    assert written[3] == "user: a lot of boxes ." and written[4].startswith("2  ok . exactly")
    assert [text for text in written if "±" in text] == ["+0.00 ± 0.07", "+0.20 ± 0.14", "-0.25 ± 0.00"]
    assert [text.get_text() for text in right.texts] == ["0", "-1.25", "+0.50"] * len(METHODS)
    shade = np.asarray(right.collections[0].get_array()).reshape(3, len(METHODS))
    np.testing.assert_array_equal(shade[:, 0], STORY.likes["itpo"])


def test_a_panel_for_each_estimator_and_measure(figure_style):
    figure = fidelity_figure()
    assert [ax.get_title() for ax in figure.axes] == ["RLOO", "GRPO", "PPO", "", "", ""]
    dots = [sum(line.get_marker() == "o" for line in ax.lines) for ax in figure.axes]
    assert dots == [2 * (len(METHODS) - 1)] * 2 + [2 * len(METHODS)] + [2 * (len(METHODS) - 1)] * 2 + [
        2 * len(METHODS)
    ]


def test_wide_or_missing_intervals_change_no_axis(figure_style, png):
    limits = fidelity_figure().axes[0].get_xlim()
    assert fidelity_figure(spread=50.0).axes[0].get_xlim() == limits
    assert fidelity_figure(spread=np.nan).axes[0].get_xlim() == limits
    nothing = band(["share", "chance"], mean=np.nan)
    assert png(draw.best_and_worst(nothing, REPORTED))
    assert png(draw.order_agreement(over_steps("pair", ["same seed"]).assign(mean=np.nan), 0.9))
