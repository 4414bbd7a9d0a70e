"""Figures of runs with a pretrained model: success in a short run, and what a step takes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from itpo.figures._parts import methods_in, panels, step_axis, where
from itpo.figures.style import ACCENT, INK, LIGHT, NEGATIVE, POSITIVE, SMALL, TEXT

# Parts of a step are no methods: none of these is the colour of one.
PART_COLORS = dict(
    zip(
        ("generation", "reference", "prm", "critic", "policy"),
        (POSITIVE, "#c9cdd6", LIGHT, NEGATIVE, ACCENT),
        strict=True,
    )
)
PART_LABELS = {"prm": "PRM", "policy": "policy update", "critic": "critic update"}


def success(frame: pd.DataFrame) -> Figure:
    """Outcome on fresh problems by training step, the methods beside each other at each step.

    ``frame`` has row, step, mean, low, high: intervals are over problems, for one run cannot speak of other runs.
    """
    figure, ((ax,),) = panels(0.62 * TEXT, 2.2)
    steps, methods = sorted(frame["step"].unique()), methods_in(frame)
    apart = 0.06 * (steps[1] - steps[0] if len(steps) > 1 else 1)
    for number, (row, method) in enumerate(methods.items()):
        curve = where(frame, row=row).sort_values("step")
        place = curve["step"] + apart * (number - (len(methods) - 1) / 2)
        errors = (curve["mean"] - curve["low"], curve["high"] - curve["mean"])
        style = {"color": method.color, "marker": "o", "markersize": 3.5, "linewidth": 1.4}
        ax.errorbar(place, curve["mean"], errors, elinewidth=0.9, capsize=2, label=method.label, **style)
    step_axis(ax, 6)
    ax.set_ylabel("outcome on\nfresh problems")
    ax.set_ylim(0, 1)
    ax.legend(loc="upper left", fontsize=SMALL)
    return figure


def costs(seconds: pd.DataFrame, memory: pd.DataFrame) -> Figure:
    """What a training step takes: seconds by part for each method (left), memory by part (right).

    ``seconds`` has row, part, seconds; ``memory`` part, when ("held" or "peak"), bytes.
    """
    figure, ((left, right),) = panels(TEXT, 2.0, 1, 2)
    methods = methods_in(seconds)
    by_part = seconds.pivot(index="row", columns="part", values="seconds").reindex(list(methods)).fillna(0.0)
    start = np.zeros(len(methods))
    for part in [part for part in PART_COLORS if part in by_part]:
        style = {"color": PART_COLORS[part], "height": 0.6, "label": PART_LABELS.get(part, part)}
        left.barh(range(len(methods)), by_part[part], left=start, **style)
        start += by_part[part].to_numpy()
    left.set_yticks(range(len(methods)), [method.label for method in methods.values()])
    left.invert_yaxis()
    left.set_xlabel("seconds a training step")
    left.set_ylim(len(methods) - 0.4, -1.3)
    left.legend(loc="upper right", ncols=3, fontsize=SMALL, borderpad=0.2)
    colors = memory["when"].map({"held": INK, "peak": "#c9cdd6"})
    right.barh(range(len(memory)), memory["bytes"] / 2**20, color=colors, height=0.65)
    right.set_yticks(range(len(memory)), memory["part"])
    right.invert_yaxis()
    right.set_xlabel("MiB: held all the time (dark),\nadded at most meanwhile (light)")
    for ax in (left, right):
        ax.tick_params(labelsize=SMALL)
        ax.grid(axis="y", visible=False)
    return figure
