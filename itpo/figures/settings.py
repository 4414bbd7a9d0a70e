"""Figures of what settings do: ablations (F18 to F20), the map of regimes, and the baselines of RLOO."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from itpo.attribution import get_method
from itpo.figures._parts import add_legend, methods_in, panels, where
from itpo.figures.style import BODY, INK, QUIET, SMALL, TEXT

# What is shown of runs: a column of `itpo.study.tables.results`, and what it is called.
MEASURES = {"success": "after training", "speed": "over training"}
MARKERS = "so^DvP*X"  # of the first method, the second, and so on
BASELINES = {"released": (":", "s"), "to_go": ("-", "o")}  # of RLOO: line and marker


def settings(
    band: pd.DataFrame, xlabel: str, own: int | float | str, reference: pd.DataFrame | None = None
) -> Figure:
    """Success against the values of one setting, evenly spaced in the frame's order, a line and intervals for each method.

    ``band`` has row, setting, measure (a key of ``MEASURES``, a panel each), mean, low, high. ``own`` is the grid's value,
    marked by a thin line. ``reference``, of the same columns but for the setting, is a method without the setting: dashed.
    Raises ValueError if ``own`` is none of the values.
    """
    values = list(dict.fromkeys(band["setting"]))
    figure, (axes,) = panels(TEXT, 2.4, 1, len(MEASURES), sharex=True, sharey=True)
    for ax, (measure, title) in zip(axes, MEASURES.items(), strict=True):
        ax.axvline(values.index(own), color=QUIET, linewidth=0.8, linestyle=":")
        for number, (row, method) in enumerate(methods_in(band).items()):
            line = where(band, row=row, measure=measure)
            places = [values.index(value) + 0.08 * number for value in line["setting"]]
            reach = [line["mean"] - line["low"], line["high"] - line["mean"]]
            style = {"color": method.color, "marker": MARKERS[number % len(MARKERS)], "markersize": 4.5}
            ax.errorbar(places, line["mean"], reach, capsize=2, linewidth=1.4, label=method.label, **style)
        if reference is not None:
            for _, line in where(reference, measure=measure).iterrows():
                method = get_method(line["row"])
                ax.axhspan(line["low"], line["high"], color=method.color, alpha=0.08, linewidth=0)
                ax.axhline(line["mean"], color=method.color, lw=1.0, ls="--", label=method.label)
        _ticks(ax, values, title)
        ax.set_xlabel(xlabel, fontsize=BODY)
    axes[0].set_ylabel("success on fresh problems", fontsize=BODY)
    add_legend(figure, 3)
    return figure


def regimes(table: pd.DataFrame) -> Figure:
    """The map of regimes: gains on trajectory-share by number of turns and of pivots, a line of panels for each measure.

    ``table`` is :func:`itpo.study.regimes.gains` of the map. Left: trajectory-share itself, by the measure and, below it in
    brackets, before training. Blue gains and red losses share one scale, on which white is 0; below each its interval.
    """
    methods, limit = methods_in(table), 100 * table["gain"].abs().max()
    figure, grid = panels(TEXT, 4.4, len(MEASURES), 1 + len(methods))
    for axes, (measure, title) in zip(grid, MEASURES.items(), strict=True):
        usual = (
            100
            * where(table, measure=measure, row=next(iter(methods))).set_index(["length", "pivots"])[
                ["trajectory_share", "start"]
            ]
        )
        texts = [f"{x:.0f}\n({y:.0f})" for x, y in usual.to_numpy()]
        _heat(axes[0], usual["trajectory_share"], texts, "Greys", 0.0, 180.0)
        axes[0].set_title(f"Trajectory-share (%)\n{title}", fontsize=BODY, color=INK)
        for ax, (row, method) in zip(axes[1:], methods.items(), strict=True):
            gain = (
                100
                * where(table, measure=measure, row=row).set_index(["length", "pivots"])[
                    ["gain", "gain_low", "gain_high"]
                ]
            )
            texts = [f"{x:+.1f}\n[{low:+.0f}, {high:+.0f}]" for x, low, high in gain.to_numpy()]
            _heat(ax, gain["gain"], texts, "RdBu", -limit, limit)
            ax.set_title(f"{method.label}: gain (points)\n{title}", fontsize=BODY, color=INK)
        axes[0].set_ylabel("pivotal turns", fontsize=BODY)
    for ax in grid[-1]:
        ax.set_xlabel("assistant turns", fontsize=BODY)
    return figure


def _heat(ax: Axes, values: pd.Series, texts: list[str], palette: str, low: float, high: float) -> None:
    """Values and texts by length and pivots, few pivots at the bottom."""
    tables = [
        series.unstack("length").sort_index(ascending=False)
        for series in (values, pd.Series(texts, values.index))
    ]
    style = {"cmap": palette, "vmin": low, "vmax": high, "cbar": False, "linewidths": 1.0}
    sns.heatmap(tables[0], annot=tables[1], fmt="", annot_kws={"fontsize": SMALL}, ax=ax, **style)
    ax.set(xlabel="", ylabel="")
    ax.tick_params(labelsize=SMALL, length=0)
    ax.tick_params(axis="y", rotation=0)


def baseline_gains(table: pd.DataFrame) -> Figure:
    """Gains on trajectory-share against the rollouts a prompt, a line for each baseline, a panel for each method and measure.

    ``table`` is :func:`itpo.study.regimes.baseline_gains`.
    """
    methods, values = methods_in(table), list(dict.fromkeys(table["rollouts"]))
    figure, grid = panels(TEXT, 3.9, len(MEASURES), len(methods), sharex=True, sharey="row")
    for (measure, title), axes in zip(MEASURES.items(), grid, strict=True):
        for (row, method), ax in zip(methods.items(), axes, strict=True):
            shown = where(table, measure=measure, row=row)
            ax.axhline(0, color=get_method("trajectory_share").color, linewidth=1.0)
            for number, (baseline, line) in enumerate(shown.groupby("baseline", sort=False)):
                places = [values.index(value) + 0.12 * number for value in line["rollouts"]]
                gain, low, high = (100 * line[name] for name in ("gain", "gain_low", "gain_high"))
                dash, marker = BASELINES[str(baseline)]
                style = {"color": method.color, "ls": dash, "marker": marker, "markersize": 4}
                bars = ax.errorbar(places, gain, [gain - low, high - gain], capsize=2, lw=1.3, **style)
                bars.set_label(str(baseline))
            _ticks(ax, values, f"{method.label}, {title}")
        axes[0].set_ylabel("gain (points)", fontsize=BODY)
    for ax in grid[-1]:
        ax.set_xlabel("rollouts a prompt", fontsize=BODY)
    add_legend(figure, 3, title="baseline of RLOO", title_fontsize=SMALL, handlelength=3)
    return figure


def _ticks(ax: Axes, values: list, title: str) -> None:
    """Evenly spaced values of a setting on the horizontal axis, and the panel's title."""
    ax.set_title(title, fontsize=BODY, color=INK)
    ax.set_xticks(range(len(values)), [str(value) for value in values])
    ax.tick_params(labelsize=SMALL)
    ax.grid(visible=False, axis="x")
