"""What the estimators make of the same rewards, and what differs when they train: the pictures of notebook 05."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from itpo.figures._parts import (
    add_band,
    add_legend,
    add_shading,
    look,
    mark_warm_up,
    methods_in,
    panels,
    step_axis,
    symmetric,
    where,
)
from itpo.figures.style import BODY, COLUMN, INK, QUIET, SERIES, SIGNED, SMALL, TEXT

WORST = -1.0  # a lower explained variance is cut off: the critic misleads, by how much is of no interest


def turn_credit(table: pd.DataFrame) -> Figure:
    """The advantage of each turn of a few dialogues under each estimator, as a table of coloured numbers.

    ``table`` has dialogue, turn, reward (the turn's, written without colour) and a column for each estimator.
    """
    columns = ["reward", *table.columns.drop(["dialogue", "turn", "reward"])]
    numbers = table[columns].to_numpy(dtype=float)
    shown = np.ma.masked_array(numbers, mask=np.broadcast_to(np.array(columns) == "reward", numbers.shape))
    scale = symmetric(shown)
    figure, ((ax,),) = panels(COLUMN, 0.19 * len(table) + 1.0)
    ax.imshow(shown, cmap=SIGNED, norm=scale, aspect="auto")
    for (line, column), value in np.ndenumerate(numbers):
        text, ink = f"{value:.2f}", "black"
        if column:
            text, ink = f"{value:+.2f}", "white" if abs(2 * scale(value) - 1) > 0.7 else "black"
        ax.text(column, line, text, ha="center", va="center", fontsize=SMALL, color=ink)
    for last in np.flatnonzero(table["dialogue"].ne(table["dialogue"].shift(-1)))[:-1]:
        ax.axhline(last + 0.5, color=INK, linewidth=0.8)
    ax.set_xticks(range(len(columns)), [column.replace(" ", "\n", 1) for column in columns])
    names = [f"{line.dialogue}, turn {line.turn}" for line in table.itertuples()]
    ax.set_yticks(range(len(names)), names)
    ax.xaxis.tick_top()
    ax.tick_params(labelsize=SMALL, length=0)
    ax.tick_params(axis="x", labelsize=5.5)  # "trajectory" is as wide as a column
    ax.grid(visible=False)
    bar = figure.colorbar(
        ScalarMappable(scale, SIGNED), ax=ax, location="bottom", aspect=30, fraction=0.06, pad=0.02
    )
    bar.set_label("advantage (no unit)", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    return figure


def credit_by_length(table: pd.DataFrame, ylabel: str) -> Figure:
    """The same turn's credit in dialogues of more and more turns (column ``turns``), a line for each other column."""
    figure, ((ax,),) = panels(COLUMN, 2.2)
    for (color, dash, marker), name in zip(SERIES, table.columns.drop("turns"), strict=False):
        ax.plot(table["turns"], table[name], color=color, ls=dash, marker=marker, markersize=3.5, label=name)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("turns of the dialogue", fontsize=BODY)
    ax.set_ylabel(ylabel, fontsize=BODY)
    ax.tick_params(labelsize=SMALL)
    add_legend(figure, 2, handlelength=3)
    return figure


def explained_variance(band: pd.DataFrame) -> Figure:
    """How much of the returns the critic predicts, a line for each method; ``band`` has row, step, mean (over seeds)."""
    figure, ((ax,),) = panels(COLUMN, 2.6)
    ax.axhline(0, color=QUIET, linewidth=0.9, linestyle="-.", label="no better than a constant")
    for row, method in methods_in(band).items():
        add_band(ax, where(band, row=row), shaded=False, linewidth=1.4, **look(method))
    mark_warm_up(ax, float(band["step"].min()))
    ax.set_ylim(max(WORST, min(-0.1, float(band["mean"].min()) - 0.05)), 1.0)
    step_axis(ax, 8)
    ax.set_xlabel("training step", fontsize=BODY)
    ax.set_ylabel("explained variance", fontsize=BODY)
    ax.tick_params(labelsize=SMALL)
    add_legend(figure, 2, handlelength=2.8)
    return figure


def turns_over_training(band: pd.DataFrame, ylabel: str = "turns of a dialogue") -> Figure:
    """F16, F17: length of a dialogue against training step, a panel for each setting, a line and interval for each method.

    ``band`` has setting, row, step, mean, low, high. The vertical range is that of the means; a wider interval is cut off.
    """
    settings, methods = list(dict.fromkeys(band["setting"])), methods_in(band)
    figure, (axes,) = panels(TEXT, 2.1, 1, len(settings), sharex=True, sharey=True)
    for ax, setting in zip(axes, settings, strict=True):
        for row, method in methods.items():
            add_band(ax, where(band, setting=setting, row=row), linewidth=1.5, **look(method))
        ax.set_title(setting, fontsize=BODY)
        step_axis(ax, 5)
        ax.xaxis.label.set_size(BODY)
        ax.tick_params(labelsize=SMALL)
    low, high = float(band["mean"].min()), float(band["mean"].max())
    margin = 0.15 * max(high - low, 0.1)
    axes[0].set_ylim(low - margin, high + margin)
    axes[0].set_ylabel(ylabel, fontsize=BODY)
    add_shading(figure, "95 % interval")
    add_legend(figure, 4)
    return figure
