"""Figures of settings and of the map: what is drawn is what the tables say, and texts do not overlap."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from itpo.figures import settings as draw
from itpo.figures.style import TEXT

COLUMNS = ["row", "setting", "measure", "mean", "low", "high"]


def band(values, rows=("norm_itpo",)):
    lines = [
        (row, value, measure, 0.5 + 0.1 * k, 0.4 + 0.1 * k, 0.55 + 0.1 * k)
        for k, row in enumerate(rows)
        for value in values
        for measure in draw.MEASURES
    ]
    return pd.DataFrame(lines, columns=COLUMNS)


def test_values_keep_their_order_and_the_own_one_is_marked(check_apart):
    values = ["early", "spread", "late"]
    figure = draw.settings(band(values, ("trajectory_share", "norm_itpo", "judge")), "place", "spread")
    assert len(figure.axes) == len(draw.MEASURES) and figure.get_figwidth() == TEXT
    for ax in figure.axes:
        assert [label.get_text() for label in ax.get_xticklabels()] == values
        assert ax.lines[0].get_xdata()[0] == 1, "the thin line stands at the second value"
        heights = [bars.lines[0].get_ydata()[0] for bars in ax.containers]
        assert heights == pytest.approx([0.5, 0.6, 0.7])
    check_apart(figure)


def test_a_reference_is_a_dashed_line_at_its_mean(check_apart):
    reference = band([0], ("trajectory_share",)).drop(columns="setting").assign(mean=0.8)
    figure = draw.settings(band([0.1, 0.4, 1.6]), "eta", 0.4, reference)
    for ax in figure.axes:
        dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
        assert [line.get_ydata()[0] for line in dashed] == [0.8]
    check_apart(figure)


def test_an_own_value_that_was_not_run_is_refused():
    with pytest.raises(ValueError, match="0.2"):
        draw.settings(band([0.1, 0.4]), "eta", 0.2)


def gains():
    lines = [
        (length, pivots, "early", 4, row, measure, sign * 0.01 * length * pivots)
        for length in (4, 6, 12)
        for pivots in (1, 2)
        for row, sign in (("norm_itpo", -1), ("judge", 1))
        for measure in draw.MEASURES
    ]
    frame = pd.DataFrame(
        lines, columns=["length", "pivots", "position", "rollouts", "row", "measure", "gain"]
    )
    return frame.assign(
        gain_low=frame["gain"] - 0.1,
        gain_high=frame["gain"] + 0.1,
        baseline=0.01 * frame["length"],
        start=0.02,
    )


def test_the_map_has_few_pivots_at_the_bottom_and_white_at_no_gain(check_apart):
    figure = draw.regimes(gains().sample(frac=1.0, random_state=1).sort_values("row"))
    axes = np.array(figure.axes).reshape(2, 3)
    for line in axes:
        usual, judge, norm = line
        assert usual.texts[0].get_text() == "4\n(2)"
        assert judge.get_title().startswith("LLM-as-a-judge: gain") and norm.get_title().startswith(
            "Norm-ITPO"
        )
        assert [label.get_text() for label in judge.get_yticklabels()] == ["2", "1"]
        assert [label.get_text() for label in judge.get_xticklabels()] == ["4", "6", "12"]
        assert (
            judge.texts[2].get_text() == "+24.0\n[+14, +34]"
            and norm.texts[5].get_text() == "-12.0\n[-22, -2]"
        )
        mesh = judge.collections[0]
        assert mesh.norm.vmin == -mesh.norm.vmax == pytest.approx(-24.0)
        np.testing.assert_allclose(mesh.get_array(), [[8, 12, 24], [4, 6, 12]])
    check_apart(figure)


def test_gains_by_baseline_stand_at_their_rollouts_around_no_gain(check_apart):
    lines = [
        (charge, row, measure, n, 0.01 * n + 0.1 * k)
        for k, charge in enumerate(draw.CHARGES)
        for row in ("norm_itpo", "judge")
        for measure in draw.MEASURES
        for n in (2, 4, 8, 16)
    ]
    table = pd.DataFrame(lines, columns=["charge", "row", "measure", "rollouts", "gain"])
    figure = draw.baseline_gains(table.assign(gain_low=table["gain"] - 0.05, gain_high=table["gain"] + 0.1))
    assert len(figure.axes) == 4
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == ["2", "4", "8", "16"]
    for ax in figure.axes:
        assert ax.lines[0].get_ydata()[0] == 0
        assert [bars.get_label() for bars in ax.containers] == list(draw.CHARGES)
        for k, bars in enumerate(ax.containers):
            assert list(bars.lines[0].get_ydata()) == pytest.approx([n + 10 * k for n in (2, 4, 8, 16)])
            ends = bars.lines[2][0].get_segments()[0][:, 1]
            assert list(ends) == pytest.approx([2 + 10 * k - 5, 2 + 10 * k + 10])
    check_apart(figure)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")
