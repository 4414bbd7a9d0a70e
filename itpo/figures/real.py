"""Figures of runs with a pretrained model: success in a short run, and what a step takes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from itpo.attribution import get_method
from itpo.figures.style import INK, METHOD_COLORS, SMALL, TEXT

PART_COLORS = {
    "generation": "#0072B2",
    "reference": "#999999",
    "prm": "#E69F00",
    "critic": "#CC79A7",
    "policy": "#009E73",
}
PART_LABELS = {"prm": "PRM", "policy": "policy update", "critic": "critic update"}


def success(frame: pd.DataFrame) -> Figure:
    """Outcome on fresh problems by training step, the rows beside each other at each step.

    ``frame`` has row, step, mean, low, high: intervals are over problems, for one run cannot speak of other runs.
    """
    figure = Figure(figsize=(0.62 * TEXT, 2.2), layout="constrained")
    ax = figure.subplots()
    steps = sorted(frame["step"].unique())
    apart = 0.06 * (steps[1] - steps[0] if len(steps) > 1 else 1)
    rows = list(frame["row"].unique())
    for number, row in enumerate(rows):
        part = frame[frame["row"] == row].sort_values("step")
        place = part["step"] + apart * (number - (len(rows) - 1) / 2)
        errors = (part["mean"] - part["low"], part["high"] - part["mean"])
        ax.errorbar(
            place,
            part["mean"],
            errors,
            color=METHOD_COLORS[row],
            marker="o",
            markersize=3.5,
            linewidth=1.4,
            elinewidth=0.9,
            capsize=2,
            label=get_method(row).label,
        )
    ax.set_xlabel("training step")
    ax.set_ylabel("outcome on\nfresh problems")
    ax.set_ylim(0, 1)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.legend(loc="upper left", fontsize=SMALL)
    return figure


def costs(seconds: pd.DataFrame, memory: pd.DataFrame) -> Figure:
    """What a training step takes: seconds by part for each row (left), memory by part (right).

    ``seconds`` has row, part, seconds; ``memory`` part, when ("held" or "peak"), bytes.
    """
    figure = Figure(figsize=(TEXT, 2.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = list(dict.fromkeys(seconds["row"]))
    by_part = seconds.pivot(index="row", columns="part", values="seconds").reindex(rows).fillna(0.0)
    start = np.zeros(len(rows))
    for part in [part for part in PART_COLORS if part in by_part]:
        label = PART_LABELS.get(part, part)
        left.barh(
            range(len(rows)), by_part[part], left=start, color=PART_COLORS[part], height=0.6, label=label
        )
        start += by_part[part].to_numpy()
    left.set_yticks(range(len(rows)), [get_method(row).label for row in rows])
    left.invert_yaxis()
    left.set_xlabel("seconds a training step")
    left.set_ylim(len(rows) - 0.4, -1.3)
    left.legend(loc="upper right", ncols=3, fontsize=SMALL, borderpad=0.2)
    colors = memory["when"].map({"held": INK, "peak": "#56B4E9"})
    right.barh(range(len(memory)), memory["bytes"] / 2**20, color=colors, height=0.65)
    right.set_yticks(range(len(memory)), memory["part"])
    right.invert_yaxis()
    right.set_xlabel("MiB: held all the time (dark),\nadded at most meanwhile (light)")
    for ax in (left, right):
        ax.tick_params(labelsize=SMALL)
        ax.grid(axis="y", visible=False)
    return figure
