"""Figures of what one setting does (F18, F19, F20): data in, a matplotlib ``Figure`` out, nothing computed."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from itpo.attribution import ROWS
from itpo.figures.style import BODY, INK, QUIET, ROW_COLORS, SMALL, TEXT, shown_once

PANELS = {"success": "after training", "mean_success": "mean over training"}
MARKERS = {"trajectory_share": "s", "norm_itpo": "o"}


def settings(band: pd.DataFrame, xlabel: str, own: float, reference: pd.DataFrame | None = None) -> Figure:
    """Success against the values of one setting, evenly spaced, a line and intervals for each row.

    ``band`` has row, setting, measure (a key of ``PANELS``, a panel each), mean, low, high. ``own`` is the profile's value and
    is drawn as a thin line. ``reference``, of the same columns but for the setting, is a row without the setting: dashed.
    """
    values = sorted(set(band["setting"]))
    figure, axes = plt.subplots(
        1, len(PANELS), figsize=(TEXT, 2.4), layout="constrained", sharex=True, sharey=True
    )
    for ax, (measure, title) in zip(axes, PANELS.items(), strict=True):
        ax.axvline(values.index(own), color=QUIET, linewidth=0.8, linestyle=":")
        for number, (row, part) in enumerate(band[band["measure"] == measure].groupby("row", sort=False)):
            part = part.sort_values("setting")
            places = [values.index(value) + 0.08 * number for value in part["setting"]]
            reach = [part["mean"] - part["low"], part["high"] - part["mean"]]
            style = {"color": ROW_COLORS[row], "marker": MARKERS.get(row, "o"), "markersize": 4.5}
            ax.errorbar(places, part["mean"], reach, capsize=2, linewidth=1.4, label=ROWS[row].label, **style)
        if reference is not None:
            for _, line in reference[reference["measure"] == measure].iterrows():
                color, label = ROW_COLORS[line["row"]], ROWS[line["row"]].label
                ax.axhspan(line["low"], line["high"], color=color, alpha=0.08, linewidth=0)
                ax.axhline(line["mean"], color=color, linewidth=1.0, linestyle="--", label=label)
        ax.set_title(title, fontsize=BODY, color=INK)
        ax.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        ax.set_xlabel(xlabel, fontsize=BODY)
        ax.tick_params(labelsize=SMALL)
        ax.grid(visible=False, axis="x")
    axes[0].set_ylabel("success on fresh problems", fontsize=BODY)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=SMALL)
    return shown_once(figure)
