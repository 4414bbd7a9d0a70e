"""Figures of credit against the oracle: one dialogue, fidelity (F23), best and worst turns (F21), order (F6), slope (F7).

Every function takes tables of :mod:`itpo.study.credit_tables` and returns a matplotlib ``Figure``; none computes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from itpo.attribution import METHODS, get_method
from itpo.estimators import ESTIMATORS
from itpo.figures.style import (
    ACCENT,
    BODY,
    COLUMN,
    INK,
    METHOD_COLORS,
    NEGATIVE,
    POSITIVE,
    QUIET,
    SMALL,
    TEXT,
    shown_once,
)

SHORT = {
    "trajectory_share": "trajectory-\nshare",
    "uniform": "uniform",
    "value_model": "value\nmodel",
    "judge": "judge",
}
SIGNED = plt.get_cmap("RdBu")  # red below zero, blue above


@dataclass(frozen=True)
class Story:
    """One dialogue of K assistant turns beside the oracle: what was said, values with standard errors, and what rows pay.

    ``heard`` is the user's message before each turn. ``pays`` holds for each row its credit, printed, and ``likes`` its
    preference relative to the dialogue's mean and the largest deviation from it, in [-1, 1], shown as colour.
    """

    heard: Sequence[str]
    said: Sequence[str]
    before: Float[np.ndarray, " K"]
    before_se: Float[np.ndarray, " K"]
    after: Float[np.ndarray, " K"]
    after_se: Float[np.ndarray, " K"]
    pays: Mapping[str, Float[np.ndarray, " K"]]
    likes: Mapping[str, Float[np.ndarray, " K"]]


def story(told: Story) -> Figure:
    """A dialogue turn by turn: its text above an arrow from the value before to the value after, and what each row pays."""
    turns = len(told.said)
    figure, (left, right) = plt.subplots(
        1,
        2,
        figsize=(TEXT, 0.75 + 0.56 * turns),
        sharey=True,
        width_ratios=(1.0, 0.95),
        layout="constrained",
    )
    for k in range(turns):
        change = told.after[k] - told.before[k]
        color = POSITIVE if change > 0 else NEGATIVE if change < 0 else QUIET
        left.text(0, k - 0.36, f"user: {told.heard[k]}", fontsize=SMALL, color="#6b6b6b", va="center")
        left.text(
            0, k - 0.11, f"{k + 1}  {told.said[k]}", fontsize=BODY, fontweight="bold", color=INK, va="center"
        )
        left.plot([0, 1], [k + 0.22] * 2, color="#d9d9d9", lw=0.8, zorder=1)
        left.plot([told.before[k], told.after[k]], [k + 0.22] * 2, color=color, lw=5, solid_capstyle="butt")
        for x, error, face in (
            (told.before[k], told.before_se[k], "white"),
            (told.after[k], told.after_se[k], INK),
        ):
            left.errorbar(x, k + 0.22, xerr=error, color=INK, marker="o", ms=4, mfc=face, lw=1, zorder=3)
        se = float(np.hypot(told.before_se[k], told.after_se[k]))
        left.text(1.06, k + 0.22, f"{change:+.2f} ± {se:.2f}", fontsize=SMALL, va="center", color=INK)
    left.set(xlim=(-0.04, 1.36), ylim=(turns - 0.45, -0.55), yticks=[], xlabel="value V (share of success)")
    left.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "", "0.5", "", "1"])
    left.set_title("open dot: V before; full: V after; advantage ± s.e.", fontsize=SMALL)
    left.grid(visible=False)
    _payments(right, told)
    return shown_once(figure)


def _payments(ax: Axes, told: Story) -> None:
    shade = np.array(list(told.likes.values())).T
    ax.pcolormesh(
        np.arange(len(told.pays) + 1) - 0.5,
        np.arange(len(told.said) + 1) - 0.5,
        shade,
        cmap=SIGNED,
        vmin=-1.6,
        vmax=1.6,
        edgecolors="white",
        linewidth=2,
    )
    for i, credit in enumerate(told.pays.values()):
        for k, amount in enumerate(credit):
            ax.text(i, k, f"{amount:+.2f}" if amount else "0", ha="center", va="center", fontsize=SMALL)
    names = [SHORT.get(row, get_method(row).label.replace("-", "-\n")) for row in told.pays]
    ax.set_xticks(range(len(names)), names, fontsize=SMALL)
    ax.set_title("printed: pay; colour: preferred (blue), not (red)", fontsize=SMALL)
    ax.grid(visible=False)


def credit_fidelity(
    band: pd.DataFrame,
    ceilings: pd.DataFrame,
    reference: pd.DataFrame,
    reference_ceilings: Mapping[str, float],
) -> Figure:
    """F23: Spearman of credit and true advantage, pooled (above) and within dialogues (below), a panel for each estimator.

    ``band`` has estimator, row, measure, mean, low, high: against each run's own final policy (filled). ``reference``, the
    same against the reference policy (open). ``ceilings`` has estimator, row, measure ("pooled_ceiling", ...), mean: a tick;
    ``reference_ceilings`` by measure: a dotted line.
    """
    estimators, measures = list(band["estimator"].unique()), list(band["measure"].unique())
    rows = [row for row in METHODS if row in set(band["row"])]
    figure, grid = plt.subplots(
        len(measures),
        len(estimators),
        figsize=(TEXT, 0.7 + 0.24 * len(rows) * len(measures)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, measure in zip(grid, measures, strict=True):
        for ax, estimator in zip(axes, estimators, strict=True):
            for frame, shift, face in ((band, -0.17, None), (reference, 0.2, "white")):
                chosen = frame[(frame["estimator"] == estimator) & (frame["measure"] == measure)]
                _intervals(ax, chosen, rows, shift, face)
            ticks = ceilings[
                (ceilings["estimator"] == estimator) & (ceilings["measure"] == f"{measure}_ceiling")
            ]
            heights = np.array([rows.index(row) for row in ticks["row"]])
            ax.vlines(ticks["mean"], heights - 0.4, heights + 0.05, color=INK, lw=1.5)
            ax.axvline(reference_ceilings[measure], color=QUIET, lw=1, ls=":")
            ax.axvline(0, color=QUIET, lw=0.8)
            ax.grid(visible=False, axis="y")
        axes[0].set_yticks(range(len(rows)), [get_method(row).label for row in rows], fontsize=SMALL)
        axes[0].set_ylabel("all turns pooled" if measure == "pooled" else f"{measure} dialogues")
    grid[0, 0].set(ylim=(len(rows) - 0.5, -0.5), xlim=_reach(pd.concat([band, reference])))
    for ax, estimator in zip(grid[0], estimators, strict=True):
        ax.set_title(ESTIMATORS[estimator].label)
    for ax in grid[-1]:
        ax.set_xlabel("Spearman with truth")
    figure.legend(handles=_fidelity_keys(), loc="outside upper center", ncols=4, fontsize=SMALL)
    return shown_once(figure)


def _intervals(ax: Axes, chosen: pd.DataFrame, rows: Sequence[str], shift: float, face: str | None) -> None:
    """A dot and its interval for each row that has a number."""
    for line in chosen.itertuples():
        color, height = METHOD_COLORS[line.row], rows.index(line.row) + shift
        ax.hlines(height, line.low, line.high, color=color, lw=1.2)
        ax.plot(line.mean, height, "o", color=color, mfc=face or color, ms=4, zorder=3)


def _reach(bands: pd.DataFrame) -> tuple[float, float]:
    """From below the lowest mean to 1; wider intervals are cut off."""
    lowest = float(np.nanmin(bands["mean"])) if bands["mean"].notna().any() else 0.0
    return min(-0.25, lowest - 0.1), 1.03


def _fidelity_keys() -> list[Line2D]:
    dot: dict[str, Any] = {"color": INK, "marker": "o", "ms": 4, "lw": 1.2}
    return [
        Line2D([], [], **dot, label="truth under the run's own policy"),
        Line2D([], [], **dot, mfc="white", label="under the reference"),
        Line2D([], [], color=INK, marker="|", ls="", ms=7, mew=1.5, label="ceiling of the former"),
        Line2D([], [], color=QUIET, ls=":", label="ceiling of the latter"),
    ]


def best_and_worst(band: pd.DataFrame, reported: Mapping[str, float]) -> Figure:
    """F21: share of decision points at which a row's best or worst turn is the oracle's (left); experts' study (right).

    ``band`` has estimator, row, measure ("share" with mean, low, high, and "chance" with mean); ``reported`` the shares of
    the paper's study by name [S], "chance" among them.
    """
    rows = [row for row in METHODS if row in set(band["row"])]
    estimators = list(band["estimator"].unique())
    figure, axes = plt.subplots(
        1,
        len(estimators) + 1,
        figsize=(TEXT, 0.75 + 0.24 * len(rows)),
        sharex=True,
        width_ratios=[1] * len(estimators) + [0.8],
        layout="constrained",
    )
    for ax, estimator in zip(axes, estimators, strict=False):
        ours = band[band["estimator"] == estimator]
        _intervals(ax, ours[ours["measure"] == "share"], rows, 0.0, None)
        chance = ours[ours["measure"] == "chance"]
        heights = np.array([rows.index(row) for row in chance["row"]])
        ax.vlines(chance["mean"], heights - 0.3, heights + 0.3, color=INK, lw=1.5, ls=":")
        ax.set_yticks(
            range(len(rows)), [get_method(r).label for r in rows] if ax is axes[0] else [], fontsize=SMALL
        )
        ax.set(ylim=(len(rows) - 0.5, -0.5), xlim=(-0.04, 1.04), title=ESTIMATORS[estimator].label)
    names = [name for name in reported if name != "chance"]
    axes[-1].plot([reported[name] for name in names], range(len(names)), "D", color=QUIET, ms=4)
    axes[-1].axvline(reported["chance"], color=INK, lw=1.5, ls=":")
    axes[-1].text(reported["chance"] + 0.05, len(names) - 0.6, "chance", fontsize=SMALL)
    axes[-1].set_yticks(range(len(names)), names, fontsize=SMALL)
    axes[-1].set(ylim=(len(names) - 0.5, -0.5))
    axes[-1].set_title("experts [S]:\nanother task and truth", fontsize=SMALL)
    for ax in axes:
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("share hit")
    return shown_once(figure)


def order_agreement(band: pd.DataFrame, reported: float) -> Figure:
    """F6: Spearman of the turn rewards of two PRMs over training, a panel for each estimator.

    ``band`` has estimator, pair ("same seed", "other seed"), step, mean, low, high; ``reported`` is the [S] value.
    """
    estimators = list(band["estimator"].unique())
    figure, axes = plt.subplots(
        1, len(estimators), figsize=(TEXT, 2.3), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    styles = {
        "same seed": (METHOD_COLORS["norm_itpo"], "-", "ITPO and Norm-ITPO, same seed"),
        "other seed": (ACCENT, "--", "Norm-ITPO, two seeds [O]"),
    }
    for ax, estimator in zip(axes[0], estimators, strict=True):
        for pair, (color, dashes, label) in styles.items():
            part = band[(band["estimator"] == estimator) & (band["pair"] == pair)]
            if pair == "same seed":
                ax.fill_between(part["step"], part["low"], part["high"], color=color, alpha=0.15, lw=0)
            ax.plot(part["step"], part["mean"], color=color, ls=dashes, lw=1.6, label=label)
        ax.axhline(reported, color=QUIET, lw=1, ls=":", label="reported, at least [S]")
        ax.set(title=ESTIMATORS[estimator].label, xlabel="training step")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes[0, 0].set(ylim=_reach(band), ylabel="Spearman within dialogues")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=SMALL)
    return shown_once(figure)


def slopes(band: pd.DataFrame) -> Figure:
    """F7: slope of the summed implicit reward on the outcome over training, by row, and that of what Norm-ITPO pays: 1.

    ``band`` has row, step, mean, low, high.
    """
    figure, ax = plt.subplots(figsize=(COLUMN, 2.4), layout="constrained")
    for row, part in band.groupby("row", sort=False):
        ax.fill_between(
            part["step"], part["low"], part["high"], color=METHOD_COLORS[str(row)], alpha=0.15, lw=0
        )
        ax.plot(
            part["step"],
            part["mean"],
            color=METHOD_COLORS[str(row)],
            lw=1.6,
            label=f"{get_method(row).label}'s PRM",
        )
    ax.axhline(1.0, color=INK, ls="--", lw=1, label="Norm-ITPO's pay (6)")
    ax.axhline(0.0, color=QUIET, lw=0.7)
    low, high = min(0.0, float(band["mean"].min())), max(1.0, float(band["mean"].max()))
    margin = 0.15 * (high - low)
    ax.set(ylim=(low - margin, high + margin), xlabel="training step", ylabel="slope of reward on outcome")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.legend(loc="outside upper center", ncols=2, fontsize=SMALL)
    return shown_once(figure)
