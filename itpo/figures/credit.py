"""Figures of credit against the oracle: one dialogue, fidelity (F23), best and worst turns (F21), order (F6), slope (F7).

Their frames are those of :mod:`itpo.study.credit_tables`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from itpo.attribution import MethodEntry
from itpo.estimators import get_estimator
from itpo.figures._parts import (
    add_band,
    add_legend,
    add_shading,
    methods_in,
    panels,
    possible,
    step_axis,
    where,
)
from itpo.figures.style import BODY, COLUMN, INK, NEGATIVE, POSITIVE, QUIET, SIGNED, SMALL, TEXT


def story(turns: pd.DataFrame, credit: pd.DataFrame) -> Figure:
    """A dialogue turn by turn: its text above an arrow from the value before to the value after, and each method's credit.

    ``turns`` has user (the message before the turn), assistant, before, before_se, after, after_se: values and their standard
    errors, in turn order. ``credit`` has row, turn (from 1), reward, printed, and preference, shown as colour: relative to the
    dialogue's mean and the largest deviation from it, in [-1, 1].
    """
    figure, ((left, right),) = panels(
        TEXT, 1.1 + 0.56 * len(turns), 1, 2, sharey=True, width_ratios=(1.0, 0.95)
    )
    small, bold = {"fontsize": SMALL, "va": "center"}, {"fontsize": BODY, "va": "center", "weight": "bold"}
    for k, turn in enumerate(turns.itertuples()):
        change, error = turn.after - turn.before, np.hypot(turn.before_se, turn.after_se)
        color = POSITIVE if change > 0 else NEGATIVE if change < 0 else QUIET
        left.text(0, k - 0.36, f"user: {turn.user}", color="#6b6b6b", **small)
        left.text(0, k - 0.11, f"{k + 1}  {turn.assistant}", color=INK, **bold)
        left.plot([0, 1], [k + 0.22] * 2, color="#d9d9d9", lw=0.8, zorder=1)
        left.plot([turn.before, turn.after], [k + 0.22] * 2, color=color, lw=5, solid_capstyle="butt")
        dot: dict[str, Any] = {"color": INK, "marker": "o", "ms": 4, "lw": 1, "zorder": 3}
        left.errorbar(turn.before, k + 0.22, xerr=turn.before_se, mfc="white", **dot)
        left.errorbar(turn.after, k + 0.22, xerr=turn.after_se, mfc=INK, **dot)
        left.text(1.06, k + 0.22, f"{change:+.2f} ± {error:.2f}", color=INK, **small)
    left.set(xlim=(-0.04, 1.36), ylim=(len(turns) - 0.45, -0.55), yticks=[])
    left.set_xlabel("value V (share of success)")
    left.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "", "0.5", "", "1"])
    left.set_title("open dot: V before; full: V after; advantage ± s.e.", fontsize=SMALL)
    left.grid(visible=False)
    _rewards(right, credit)
    return figure


def _rewards(ax: Axes, credit: pd.DataFrame) -> None:
    methods = methods_in(credit)
    reward, preference = (
        credit.pivot(index="turn", columns="row", values=column)[list(methods)].to_numpy()
        for column in ("reward", "preference")
    )
    edges = (np.arange(count + 1) - 0.5 for count in reward.T.shape)
    look: dict[str, Any] = {"cmap": SIGNED, "vmin": -1.6, "vmax": 1.6, "edgecolors": "white", "linewidth": 2}
    mesh = ax.pcolormesh(*edges, preference, **look)
    for (k, number), value in np.ndenumerate(reward):
        text = f"{value:+.2f}" if value else "0"
        ax.text(number, k, text, ha="center", va="center", fontsize=SMALL)
    names = [method.label for method in methods.values()]
    ax.set_xticks(range(len(names)), names, fontsize=SMALL, rotation=25, ha="right")
    ax.set_title("printed: reward; colour: which turns the method prefers", fontsize=SMALL)
    ax.grid(visible=False)
    bar = ax.figure.colorbar(mesh, ax=ax, location="bottom", aspect=40, fraction=0.05, pad=0.02)
    bar.ax.set_xlim(-1, 1)
    bar.set_label("preference less its mean, by the largest deviation", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)


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
    methods = methods_in(pd.concat([reference, band]))
    height = 0.7 + 0.24 * len(methods) * len(measures)
    figure, grid = panels(TEXT, height, len(measures), len(estimators), sharex=True, sharey=True)
    for axes, measure in zip(grid, measures, strict=True):
        for ax, estimator in zip(axes, estimators, strict=True):
            for frame, shift, face in ((band, -0.17, None), (reference, 0.2, "white")):
                _intervals(ax, where(frame, estimator=estimator, measure=measure), methods, shift, face, -1.0)
            ticks = where(ceilings, estimator=estimator, measure=f"{measure}_ceiling")
            heights = _heights(ticks, methods)
            ax.vlines(ticks["mean"], heights - 0.4, heights + 0.05, color=INK, lw=1.5)
            ax.axvline(reference_ceilings[measure], color=QUIET, lw=1, ls=":")
            ax.axvline(0, color=QUIET, lw=0.8)
            ax.grid(visible=False, axis="y")
        _name_methods(axes[0], methods)
        axes[0].set_ylabel("all turns pooled" if measure == "pooled" else f"{measure} dialogues")
    grid[0, 0].set(ylim=(len(methods) - 0.5, -0.5), xlim=_reach(pd.concat([band, reference])))
    for ax, estimator in zip(grid[0], estimators, strict=True):
        ax.set_title(get_estimator(estimator).label)
    for ax in grid[-1]:
        ax.set_xlabel("Spearman with truth")
    figure.legend(handles=_fidelity_keys(), loc="outside upper center", ncols=3, fontsize=SMALL)
    return figure


def _heights(frame: pd.DataFrame, methods: Mapping[str, MethodEntry]) -> np.ndarray:
    return np.array([list(methods).index(row) for row in frame["row"]])


def _name_methods(ax: Axes, methods: Mapping[str, MethodEntry]) -> None:
    ax.set_yticks(range(len(methods)), [method.label for method in methods.values()], fontsize=SMALL)


def _intervals(
    ax: Axes,
    frame: pd.DataFrame,
    methods: Mapping[str, MethodEntry],
    shift: float = 0.0,
    face: str | None = None,
    least: float = 0.0,
) -> None:
    """A dot and its interval for each method that has a number, which lies between ``least`` and 1."""
    frame = possible(frame, least, 1.0)
    for line, height in zip(frame.itertuples(), _heights(frame, methods) + shift, strict=True):
        color = methods[str(line.row)].color
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
        Line2D([], [], color=QUIET, lw=0.8, label="chance"),
    ]


def best_and_worst(band: pd.DataFrame, reported: Mapping[str, float]) -> Figure:
    """F21: share of decision points at which a method's best and its worst turn is the oracle's; right: experts' study.

    ``band`` has side ("best", "worst"), row, measure ("share" with mean, low, high; "chance" and "place", what a guess and
    always naming one place would hit, with mean); ``reported`` the shares of the paper's study by name [S], and "chance".
    """
    methods, sides = methods_in(band), list(band["side"].unique())
    widths, size = [1] * len(sides) + [0.8], 1.1 + 0.3 * len(methods)
    figure, (axes,) = panels(TEXT, size, 1, len(widths), sharex=True, width_ratios=widths)
    rivals = {"chance": ":", "place": "-"}
    for ax, side in zip(axes, sides, strict=False):
        _intervals(ax, where(band, side=side, measure="share"), methods)
        for rival, dash in rivals.items():
            line = where(band, side=side, measure=rival)
            heights = _heights(line, methods)
            ax.vlines(line["mean"], heights - 0.3, heights + 0.3, color=INK, lw=1.5, ls=dash)
        _name_methods(ax, methods if ax is axes[0] else {})
        ax.set(ylim=(len(methods) - 0.5, -0.5), xlim=(-0.04, 1.04), title=f"{side} turn")
    names = [name for name in reported if name != "chance"]
    axes[-1].plot([reported[name] for name in names], range(len(names)), "D", color=QUIET, ms=4)
    axes[-1].axvline(reported["chance"], color=INK, lw=1.5, ls=rivals["chance"])
    axes[-1].set_yticks(range(len(names)), names, fontsize=SMALL)
    axes[-1].set(ylim=(len(names) - 0.5, -0.5))
    axes[-1].set_title("both, experts [S]:\nanother task and truth", fontsize=SMALL)
    for ax in axes:
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("share hit")
    keys = [
        Line2D([], [], color=INK, marker="o", ms=4, lw=1.2, label="our runs: mean, 95 % interval"),
        Line2D([], [], color=QUIET, marker="D", ms=4, ls="", label="reported [S]"),
        Line2D([], [], color=INK, lw=1.5, ls=rivals["chance"], label="chance"),
        Line2D([], [], color=INK, lw=1.5, ls=rivals["place"], label="always the one best place"),
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=4, fontsize=SMALL)
    return figure


def order_agreement(band: pd.DataFrame, reported: float) -> Figure:
    """F6: Spearman of the turn rewards of two PRMs over training, a panel for each estimator.

    ``band`` has estimator, pair ("same seed", "other seed"), step, mean, low, high; ``reported`` is the [S] value.
    """
    estimators = list(band["estimator"].unique())
    figure, (axes,) = panels(TEXT, 2.3, 1, len(estimators), sharex=True, sharey=True)
    for ax, estimator in zip(axes, estimators, strict=True):
        same, other = (where(band, estimator=estimator, pair=f"{name} seed") for name in ("same", "other"))
        same = possible(same, -1.0, 1.0)
        add_band(ax, same, POSITIVE, lw=1.6, label="ITPO and Norm-ITPO, same seed")
        add_band(ax, other, NEGATIVE, shaded=False, ls="--", lw=1.6, label="Norm-ITPO, two seeds [O]")
        ax.axhline(reported, color=QUIET, lw=1, ls=":", label="reported, at least [S]")
        ax.set_title(get_estimator(estimator).label)
        step_axis(ax, 6)
    axes[0].set(ylim=_reach(band), ylabel="Spearman within dialogues")
    add_shading(figure, "95 % interval")
    add_legend(figure, 4)
    return figure


def slopes(band: pd.DataFrame) -> Figure:
    """F7: slope of the summed implicit reward on the outcome over training, by method, and that of Norm-ITPO's rewards: 1.

    ``band`` has row, step, mean, low, high.
    """
    figure, ((ax,),) = panels(COLUMN, 2.4)
    for row, method in methods_in(band).items():
        add_band(ax, where(band, row=row), method.color, lw=1.6, label=f"{method.label}'s PRM")
    ax.axhline(1.0, color=INK, ls="--", lw=1, label="Norm-ITPO's rewards (6)")
    ax.axhline(0.0, color=QUIET, lw=0.9, ls="-.", label="no relation")
    add_shading(figure, "95 % interval")
    low, high = min(0.0, float(band["mean"].min())), max(1.0, float(band["mean"].max()))
    margin = 0.15 * (high - low)
    ax.set(ylim=(low - margin, high + margin), ylabel="slope of reward on outcome")
    step_axis(ax, 6)
    add_legend(figure, 2)
    return figure
