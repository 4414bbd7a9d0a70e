"""What the estimators make of the same rewards, and what differs when they train: the pictures of notebook 05.

Every function takes data and returns a matplotlib ``Figure``; none computes anything.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from itpo.attribution import get_method
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

SIGNED = colormaps["RdBu"]  # red below zero, blue above; colour-blind safe
LINES = (
    (INK, "-", "o"),
    (ACCENT, "--", "s"),
    (POSITIVE, "-.", "^"),
    (NEGATIVE, ":", "D"),
    ("#0072B2", (0, (5, 1)), "v"),
)
WORST = (
    -1.0
)  # explained variance below this is cut off: the critic misleads, and by how much is of no interest
ROW_DASHES = {"uniform": ":", "judge": "-.", "value_model": "--", "itpo": "--", "prime": "-."}


def turn_credit(table: pd.DataFrame, paid: str) -> Figure:
    """What each estimator tells each turn of a few dialogues, as a table of coloured numbers.

    ``table`` has dialogue, turn, ``paid`` (the turn's reward, written without colour) and a column for each estimator.
    """
    columns = list(table.columns.drop(["dialogue", "turn"]))
    numbers = table[columns].to_numpy(dtype=float)
    shown = np.ma.masked_array(numbers, mask=np.broadcast_to(np.array(columns) == paid, numbers.shape))
    bound = max(float(np.abs(shown).max()), 1e-9)  # a colour scale needs a width
    scale = Normalize(-bound, bound)
    figure, ax = plt.subplots(figsize=(COLUMN, 0.19 * len(table) + 0.6), layout="constrained")
    ax.imshow(shown, cmap=SIGNED, norm=scale, aspect="auto")
    for (line, column), value in np.ndenumerate(numbers):
        dark = columns[column] != paid and abs(2 * scale(value) - 1) > 0.7
        text = f"{value:.2f}" if columns[column] == paid else f"{value:+.2f}"
        ax.text(
            column, line, text, ha="center", va="center", fontsize=SMALL, color="white" if dark else "black"
        )
    for last in np.flatnonzero(table["dialogue"].ne(table["dialogue"].shift(-1)))[:-1]:
        ax.axhline(last + 0.5, color=INK, linewidth=0.8)
    ax.set_xticks(range(len(columns)), columns)
    names = [
        f"{dialogue}, turn {turn}" for dialogue, turn in zip(table["dialogue"], table["turn"], strict=True)
    ]
    ax.set_yticks(range(len(names)), names)
    ax.xaxis.tick_top()
    ax.tick_params(labelsize=SMALL, length=0)
    ax.grid(visible=False)
    return shown_once(figure)


def credit_by_length(table: pd.DataFrame, ylabel: str) -> Figure:
    """The same turn's credit in dialogues of more and more turns (column ``turns``), a line for each other column."""
    figure, ax = plt.subplots(figsize=(COLUMN, 2.2), layout="constrained")
    for (color, dash, marker), name in zip(LINES, table.columns.drop("turns"), strict=False):
        ax.plot(table["turns"], table[name], color=color, ls=dash, marker=marker, markersize=3.5, label=name)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("turns of the dialogue", fontsize=BODY)
    ax.set_ylabel(ylabel, fontsize=BODY)
    ax.tick_params(labelsize=SMALL)
    figure.legend(loc="outside upper center", ncols=2, fontsize=SMALL, handlelength=3)
    return shown_once(figure)


def explained_variance(band: pd.DataFrame) -> Figure:
    """How much of the returns the critic predicts, a line for each row; ``band`` has row, step, mean (over seeds)."""
    figure, ax = plt.subplots(figsize=(COLUMN, 2.6), layout="constrained")
    ax.axhline(0, color=QUIET, linewidth=0.7)
    for row, part in band.groupby("row", sort=False):
        color, dash = METHOD_COLORS[row], ROW_DASHES.get(row, "-")
        ax.plot(part["step"], part["mean"], color=color, ls=dash, linewidth=1.4, label=get_method(row).label)
    if band["step"].min() < 0:
        ax.axvline(-0.5, color=QUIET, linewidth=0.8, linestyle="--")
    ax.set_ylim(max(WORST, min(-0.1, float(band["mean"].min()) - 0.05)), 1.0)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel("training step (negative: warm-up)", fontsize=BODY)
    ax.set_ylabel("explained variance", fontsize=BODY)
    ax.tick_params(labelsize=SMALL)
    figure.legend(loc="outside upper center", ncols=2, fontsize=SMALL, handlelength=2.8)
    return shown_once(figure)


def turns_over_training(band: pd.DataFrame, ylabel: str = "turns of a dialogue") -> Figure:
    """F16, F17: length of a dialogue against training step, a panel for each setting, a line and interval for each row.

    ``band`` has setting, row, step, mean, low, high. The vertical range is that of the means; a wider interval is cut off.
    """
    settings = list(dict.fromkeys(band["setting"]))
    figure, grid = plt.subplots(
        1, len(settings), figsize=(TEXT, 2.1), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for ax, setting in zip(grid[0], settings, strict=True):
        for row, part in band[band["setting"] == setting].groupby("row", sort=False):
            color, dash = METHOD_COLORS[row], ROW_DASHES.get(row, "-")
            ax.fill_between(part["step"], part["low"], part["high"], color=color, alpha=0.15, linewidth=0)
            ax.plot(part["step"], part["mean"], color=color, ls=dash, linewidth=1.5, label=get_method(row).label)
        ax.set_title(setting, fontsize=BODY)
        ax.set_xlabel("training step", fontsize=BODY)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.tick_params(labelsize=SMALL)
    low, high = float(band["mean"].min()), float(band["mean"].max())
    margin = 0.15 * max(high - low, 0.1)
    grid[0, 0].set_ylim(low - margin, high + margin)
    grid[0, 0].set_ylabel(ylabel, fontsize=BODY)
    lines = {line.get_label(): line for ax in grid[0] for line in ax.lines}
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=4, fontsize=SMALL)
    return shown_once(figure)
