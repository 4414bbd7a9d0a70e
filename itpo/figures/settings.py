"""Figures of what settings do (F18 to F20, the map of regimes): data in, a matplotlib ``Figure`` out, nothing computed."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from itpo.attribution import get_method
from itpo.figures.style import BODY, INK, METHOD_COLORS, QUIET, SMALL, TEXT, shown_once

# What is shown of runs: a column of `itpo.study.tables.results`, and what it is called.
MEASURES = {"success": "after training", "mean_success": "mean over training"}
MARKERS = {"trajectory_share": "s", "norm_itpo": "o", "judge": "^"}
CHARGES = {"released": (":", "s"), "to_go": ("-", "o")}  # baselines of RLOO: line and marker


def settings(
    band: pd.DataFrame, xlabel: str, own: int | float | str, reference: pd.DataFrame | None = None
) -> Figure:
    """Success against the values of one setting, evenly spaced in the frame's order, a line and intervals for each row.

    ``band`` has row, setting, measure (a key of ``MEASURES``, a panel each), mean, low, high. ``own`` is the grid's value,
    marked by a thin line. ``reference``, of the same columns but for the setting, is a row without the setting: dashed.
    """
    values = list(dict.fromkeys(band["setting"]))
    figure, axes = plt.subplots(
        1, len(MEASURES), figsize=(TEXT, 2.4), layout="constrained", sharex=True, sharey=True
    )
    for ax, (measure, title) in zip(axes, MEASURES.items(), strict=True):
        ax.axvline(values.index(own), color=QUIET, linewidth=0.8, linestyle=":")
        for number, (row, part) in enumerate(band[band["measure"] == measure].groupby("row", sort=False)):
            places = [values.index(value) + 0.08 * number for value in part["setting"]]
            reach = [part["mean"] - part["low"], part["high"] - part["mean"]]
            style = {"color": METHOD_COLORS[row], "marker": MARKERS[row], "markersize": 4.5}
            ax.errorbar(
                places, part["mean"], reach, capsize=2, linewidth=1.4, label=get_method(row).label, **style
            )
        if reference is not None:
            for _, line in reference[reference["measure"] == measure].iterrows():
                color, label = METHOD_COLORS[line["row"]], get_method(line["row"]).label
                ax.axhspan(line["low"], line["high"], color=color, alpha=0.08, linewidth=0)
                ax.axhline(line["mean"], color=color, linewidth=1.0, linestyle="--", label=label)
        ax.set_title(title, fontsize=BODY, color=INK)
        ax.set_xticks(range(len(values)), [str(value) for value in values])
        ax.set_xlabel(xlabel, fontsize=BODY)
        ax.tick_params(labelsize=SMALL)
        ax.grid(visible=False, axis="x")
    axes[0].set_ylabel("success on fresh problems", fontsize=BODY)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=SMALL)
    return shown_once(figure)


def regimes(table: pd.DataFrame) -> Figure:
    """The map of regimes: gains on trajectory-share by number of turns and of pivots, a line of panels for each measure.

    ``table`` is :func:`itpo.study.regimes.gains` of the map. Left: trajectory-share itself, by the measure and, below it in
    brackets, before training. Blue gains and red losses share one scale, on which white is 0; below each its interval.
    """
    rows = list(dict.fromkeys(table["row"]))
    limit = 100 * table["gain"].abs().max()
    figure, axes = plt.subplots(
        len(MEASURES), 1 + len(rows), figsize=(TEXT, 4.4), layout="constrained", squeeze=False
    )
    for line, (measure, title) in zip(axes, MEASURES.items(), strict=True):
        part = table[table["measure"] == measure]
        usual = part[part["row"] == rows[0]]
        texts = [
            f"{100 * x:.0f}\n({100 * y:.0f})" for x, y in zip(usual["baseline"], usual["start"], strict=True)
        ]
        usual = usual.assign(value=100 * usual["baseline"], text=texts)
        _heat(line[0], usual, "Greys", 0.0, 180.0)
        line[0].set_title(f"Trajectory-share (%)\n{title}", fontsize=BODY, color=INK)
        for ax, row in zip(line[1:], rows, strict=True):
            gain = part[part["row"] == row]
            bounds = zip(gain["gain"], gain["gain_low"], gain["gain_high"], strict=True)
            texts = [f"{100 * x:+.1f}\n[{100 * low:+.0f}, {100 * high:+.0f}]" for x, low, high in bounds]
            _heat(ax, gain.assign(value=100 * gain["gain"], text=texts), "RdBu", -limit, limit)
            ax.set_title(f"{get_method(row).label}: gain (points)\n{title}", fontsize=BODY, color=INK)
        line[0].set_ylabel("pivotal turns", fontsize=BODY)
    for ax in axes[-1]:
        ax.set_xlabel("assistant turns", fontsize=BODY)
    return shown_once(figure)


def baseline_gains(table: pd.DataFrame) -> Figure:
    """Gains on trajectory-share against the rollouts a prompt, a line for each baseline, a panel for each row and measure.

    ``table`` is :func:`itpo.study.regimes.baseline_gains`.
    """
    rows, values = (list(dict.fromkeys(table[name])) for name in ("row", "rollouts"))
    figure, axes = plt.subplots(
        len(MEASURES),
        len(rows),
        figsize=(TEXT, 3.9),
        layout="constrained",
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    for (measure, title), line in zip(MEASURES.items(), axes, strict=True):
        for row, ax in zip(rows, line, strict=True):
            shown = table[(table["measure"] == measure) & (table["row"] == row)]
            ax.axhline(0, color=METHOD_COLORS["trajectory_share"], linewidth=1.0)
            for number, (charge, part) in enumerate(shown.groupby("charge", sort=False)):
                places = [values.index(value) + 0.12 * number for value in part["rollouts"]]
                gain, low, high = (100 * part[name] for name in ("gain", "gain_low", "gain_high"))
                dash, marker = CHARGES[str(charge)]
                style = {"color": METHOD_COLORS[row], "ls": dash, "marker": marker, "markersize": 4}
                bars = ax.errorbar(places, gain, [gain - low, high - gain], capsize=2, lw=1.3, **style)
                bars.set_label(str(charge))
            ax.set_title(f"{get_method(row).label}, {title}", fontsize=BODY, color=INK)
            ax.set_xticks(range(len(values)), [str(value) for value in values])
            ax.tick_params(labelsize=SMALL)
            ax.grid(visible=False, axis="x")
        line[0].set_ylabel("gain (points)", fontsize=BODY)
    for ax in axes[-1]:
        ax.set_xlabel("rollouts a prompt", fontsize=BODY)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    names = {"title": "baseline of RLOO", "title_fontsize": SMALL, "handlelength": 3}
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=SMALL, **names)
    return shown_once(figure)


def _heat(ax: Axes, frame: pd.DataFrame, palette: str, low: float, high: float) -> None:
    """``value`` and ``text`` by length and pivots, few pivots at the bottom."""
    values = frame.pivot(index="pivots", columns="length", values="value").sort_index(ascending=False)
    texts = frame.pivot(index="pivots", columns="length", values="text").sort_index(ascending=False)
    style = {"cmap": palette, "vmin": low, "vmax": high, "cbar": False, "linewidths": 1.0}
    sns.heatmap(values, annot=texts, fmt="", annot_kws={"fontsize": SMALL}, ax=ax, **style)
    ax.set(xlabel="", ylabel="")
    ax.tick_params(labelsize=SMALL, length=0)
    ax.tick_params(axis="y", rotation=0)
