"""How the method works, step by step: the pictures of the notebooks that explain it (00 and 01).

Every function takes data and returns a matplotlib ``Figure``; none computes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

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

NORM, RAW = METHOD_COLORS["norm_itpo"], METHOD_COLORS["itpo"]
# One pale colour a turn, told apart by colour-blind readers too (Okabe and Ito's, lightened).
TURN_COLORS = ("#b3d9f2", "#fbe3b0", "#b3e2d5", "#f0cfe0", "#f5d0b8", "#dddddd")
SIGNED = colormaps["RdBu"]  # red below zero, blue above; colour-blind safe
BARS = (ACCENT, NORM, POSITIVE)
LINES, DASHES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#000000"), ("-", "--", "-.", ":", "-")


def _symmetric(values: NDArray[np.floating]) -> Normalize:
    bound = max(float(np.abs(values).max()), 1e-9)  # a colour scale needs a width
    return Normalize(-bound, bound)


def token_text(
    words: Sequence[str], turn_ids: Sequence[int], values: ArrayLike | None = None, label: str = ""
) -> Figure:
    """A dialogue token by token, one message a line: the policy's tokens coloured, all others (turn id -1) white.

    The colour is the turn's or, with ``values`` (one a token), the value's, which is then also printed under the token;
    ``label`` names it, with its unit.
    """
    numbers = np.zeros(len(words)) if values is None else np.asarray(values, dtype=float)
    scale, bound = _symmetric(numbers), np.abs(numbers).max()
    pitch, foot, least = (0.24, 0.08, 0.0) if values is None else (0.38, 0.72, 0.36)  # inches
    places = _places(words, turn_ids, least)
    height = (places[-1][0] + 1) * pitch + foot
    figure = plt.figure(figsize=(TEXT, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, TEXT), ylim=(0, height))
    ax.axis("off")
    for t, (line, x, width) in enumerate(places):
        y, turn, face = height - line * pitch - 0.21, turn_ids[t], "white"
        if turn >= 0:
            face = to_hex(SIGNED(scale(numbers[t]))) if values is not None else TURN_COLORS[turn % 6]
        ink = QUIET if turn < 0 else "white" if abs(numbers[t]) > 0.7 * bound else "black"
        ax.add_patch(Rectangle((x, y), width, 0.18, fc=face, ec="#cccccc", lw=0.5))
        middle = x + width / 2
        ax.text(
            middle, y + 0.085, words[t], ha="center", va="center", family="monospace", fontsize=7, color=ink
        )
        if turn >= 0 and abs(numbers[t]) >= 0.005:  # what would print as 0.00 is left out
            ax.text(middle, y - 0.02, f"{numbers[t]:+.2f}", ha="center", va="top", fontsize=5.5, color=INK)
        if t == 0 or turn != turn_ids[t - 1]:
            who = f"turn {turn + 1}" if turn >= 0 else "user"
            ax.text(0.05, y + 0.085, who, va="center", fontsize=SMALL, color=INK)
    if values is not None:
        bar = figure.add_axes((0.3, 0.44 / height, 0.4, 0.1 / height))
        figure.colorbar(ScalarMappable(scale, SIGNED), cax=bar, orientation="horizontal")
        bar.tick_params(labelsize=SMALL)
        bar.set_xlabel(label, fontsize=BODY, labelpad=1)
    return shown_once(figure)


def _places(words: Sequence[str], turn_ids: Sequence[int], least: float) -> list[tuple[int, float, float]]:
    """Line, left edge and width of each token (inches); a new message, and what does not fit, begins a new line."""
    places: list[tuple[int, float, float]] = []
    line, x = 0, 0.55
    for t, word in enumerate(words):
        width = 0.06 * len(word) + 0.09
        width = max(width, least) if turn_ids[t] >= 0 else width
        if t and (turn_ids[t] != turn_ids[t - 1] or x + width > TEXT - 0.05):
            line, x = line + 1, 0.55
        places.append((line, x, width))
        x += width + 0.03
    return places


def prm_learning(metrics: pd.DataFrame) -> Figure:
    """The PRM's AUC and loss on dialogues it has not seen, over batches (columns ``batch``, ``prm_auc``, ``prm_loss``)."""
    figure, axes = plt.subplots(1, 2, figsize=(TEXT, 1.9), layout="constrained")
    for ax, column, name in (
        (axes[0], "prm_auc", "AUC"),
        (axes[1], "prm_loss", "loss (3) [nats]"),
    ):
        ax.plot(metrics["batch"], metrics[column], "o", ms=3, color=NORM)
        ax.set(xlabel="batches learned from before", ylabel=name)
    axes[0].axhline(0.5, color=QUIET, ls="--", lw=1, label="chance")
    axes[0].legend(fontsize=SMALL, loc="lower right")
    return shown_once(figure)


@dataclass(frozen=True)
class TurnCredit:
    """What the PRM says of one dialogue: its turns as text, turn rewards (K,), and weights (temperatures, K).

    ``pivot`` is the turn (from 0) at which, by the task's rules, the dialogue was decided; it is marked.
    """

    title: str
    texts: Sequence[str]
    pivot: int
    rewards: ArrayLike
    temperatures: Sequence[float]
    weights: ArrayLike


def turn_credit(dialogues: Sequence[TurnCredit]) -> Figure:
    """Turn rewards as bars beside the weights they become at several temperatures, one dialogue a row."""
    heights = [len(d.texts) + 1.6 for d in dialogues]
    figure, grid = plt.subplots(
        len(dialogues),
        2,
        figsize=(TEXT, 0.26 * sum(heights)),
        layout="constrained",
        height_ratios=heights,
        width_ratios=(1.1, 1),
        squeeze=False,
    )
    for row, (bars, cells) in enumerate(grid):
        d, turns = dialogues[row], np.arange(len(dialogues[row].texts))
        rewards, weights = np.asarray(d.rewards, dtype=float), np.asarray(d.weights, dtype=float).T
        bars.barh(turns, rewards, color=RAW, height=0.6)
        bars.axvline(0, color=QUIET, lw=0.8)
        bars.grid(axis="y", visible=False)
        bars.set_yticks(turns, d.texts)
        bars.get_yticklabels()[d.pivot].set(fontweight="bold", color=ACCENT)
        bars.set(ylim=(len(turns) - 0.4, -0.6))
        bars.set_title(d.title, loc="left", x=0, fontsize=BODY)
        cells.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (k, j), weight in np.ndenumerate(weights):
            ink = "white" if weight > 0.55 else "black"
            cells.text(j, k, f"{weight:.2f}", ha="center", va="center", fontsize=SMALL, color=ink)
        cells.set_xticks(range(len(d.temperatures)), [f"{eta:g}" for eta in d.temperatures])
        cells.set_yticks(turns, [str(k + 1) for k in turns])
        cells.set_ylabel("turn", fontsize=SMALL)
        cells.grid(False)
        for ax in (bars, cells):
            ax.tick_params(labelsize=SMALL)
    grid[-1, 0].set_xlabel("turn reward $R_k$ (4) [logits]", fontsize=BODY)
    grid[-1, 1].set_xlabel(r"weight $w_k$ (5) at temperature $\eta$ [logits]", fontsize=BODY)
    return shown_once(figure)


def _shade_turns(ax: Axes, turn_ids: NDArray[np.integer]) -> None:
    for k in range(int(turn_ids.max()) + 1):
        at = np.flatnonzero(turn_ids == k)
        if len(at):
            ax.axvspan(at[0] - 0.5, at[-1] + 0.5, color="#eef2f7", lw=0, zorder=0)


def pay(
    rewards: Mapping[str, ArrayLike],
    returns: Mapping[str, ArrayLike],
    turn_ids: ArrayLike,
    titles: Sequence[str],
    labels: Mapping[str, str],
) -> Figure:
    """What each row of Table 1 pays: rewards (bars) and the return that a token gets (line), both (B, T) for each row.

    A picture row for each row of Table 1, a column for each dialogue; assistant turns are shaded.
    """
    ids = np.asarray(turn_ids)
    figure, grid = plt.subplots(
        len(rewards),
        len(ids),
        figsize=(TEXT, 0.85 * len(rewards) + 0.5),
        layout="constrained",
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    for axes, (name, paid) in zip(grid, rewards.items(), strict=True):
        axes[0].set_ylabel(labels[name].replace(" ", "\n").replace("-", "-\n"), fontsize=SMALL)
        for b, ax in enumerate(axes):
            at = np.flatnonzero(ids[b] >= 0)
            _shade_turns(ax, ids[b])
            ax.axhline(0, color=QUIET, lw=0.6)
            ax.bar(at, np.asarray(paid)[b, at], width=0.9, lw=0, color=METHOD_COLORS[name], zorder=3)
            ax.plot(at, np.asarray(returns[name])[b, at], "_", ms=4, color=ACCENT, zorder=4)
            ax.grid(axis="x", visible=False)
            ax.tick_params(labelsize=SMALL)
    for ax, title in zip(grid[0], titles, strict=True):
        ax.set_title(title, fontsize=BODY)
    figure.supxlabel("token of the dialogue", fontsize=BODY)
    figure.supylabel("reward (bar) and return (dash)", fontsize=BODY)
    return shown_once(figure)


def token_grid(values: ArrayLike, turn_ids: ArrayLike, label: str, rows: Sequence[str]) -> Figure:
    """A few short dialogues as a table of coloured numbers, one token a cell; user tokens and padding are left blank."""
    numbers, ids = np.asarray(values, dtype=float), np.asarray(turn_ids)
    shown = np.ma.masked_where(ids < 0, numbers)
    figure, ax = plt.subplots(figsize=(TEXT, 0.28 * len(rows) + 0.8), layout="constrained")
    scale = _symmetric(numbers[ids >= 0])
    image = ax.imshow(shown, cmap=SIGNED, norm=scale, aspect="auto")
    for (b, t), value in np.ndenumerate(numbers):
        if ids[b, t] >= 0:
            ink = "white" if abs(2 * scale(value) - 1) > 0.7 else "black"
            ax.text(t, b, f"{value:.2f}", ha="center", va="center", fontsize=SMALL, color=ink)
    ax.set_xticks(range(ids.shape[1]), [str(t) for t in range(ids.shape[1])])
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xlabel("token", fontsize=BODY)
    ax.grid(False)
    ax.tick_params(labelsize=SMALL)
    bar = figure.colorbar(image, ax=ax, pad=0.01)
    bar.set_label(label, fontsize=BODY)
    bar.ax.tick_params(labelsize=SMALL)
    return shown_once(figure)


def weight_curves(temperatures: ArrayLike, weights: ArrayLike, titles: Sequence[str]) -> Figure:
    """Weights (5) over temperature, a panel for each dialogue, a line for each turn; (temperatures, B, K), 0: no such turn."""
    eta, w = np.asarray(temperatures), np.asarray(weights)
    figure, (axes,) = plt.subplots(
        1, len(titles), figsize=(TEXT, 1.8), layout="constrained", sharey=True, squeeze=False
    )
    for b, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        for k in range(w.shape[2]):
            if w[:, b, k].any():
                ax.plot(eta, w[:, b, k], label=f"turn {k + 1}", color=LINES[k], ls=DASHES[k])
        ax.axvline(0.4, color=QUIET, lw=0.8, ls=":")
        ax.set(xscale="log", ylim=(-0.04, 1.04))
        ax.set_title(title, fontsize=BODY)
        ax.tick_params(labelsize=SMALL)
    axes[0].set_ylabel("weight $w_k$", fontsize=BODY)
    figure.supxlabel(r"temperature $\eta$ [units of $R_k$]", fontsize=BODY)
    handles = max((ax.get_legend_handles_labels() for ax in axes), key=lambda pair: len(pair[0]))
    figure.legend(*handles, loc="outside upper center", ncols=len(handles[0]), fontsize=SMALL)
    return shown_once(figure)


def baseline_bias(table: pd.DataFrame) -> Figure:
    """Return of equally good dialogues by their number of turns (column ``turns``), one bar colour for each other column."""
    figure, ax = plt.subplots(figsize=(COLUMN, 1.9), layout="constrained")
    at, names = np.arange(len(table)), table.columns.drop("turns")
    width = 0.8 / len(names)
    for number, (color, name) in enumerate(zip(BARS[: len(names)], names, strict=True)):
        bars = ax.bar(
            at + width * (number - (len(names) - 1) / 2), table[name], 0.9 * width, color=color, label=name
        )
        ax.bar_label(bars, fmt="%+g", fontsize=SMALL, padding=1)
    ax.axhline(0, color=INK, lw=0.8)
    ax.margins(y=0.18)
    ax.set_xticks(at, [str(k) for k in table["turns"]])
    ax.set(xlabel="turns of the dialogue", ylabel="return of its first token")
    ax.legend(fontsize=SMALL, title="baseline", title_fontsize=SMALL)
    return shown_once(figure)


def loss_curves(surrogate: pd.DataFrame, divergence: pd.DataFrame, entropy: pd.DataFrame) -> Figure:
    """The three parts of the policy loss as curves; in each table the first column is the axis, the others are lines."""
    figure, axes = plt.subplots(1, 3, figsize=(TEXT, 2.1), layout="constrained")
    for ax, table, ylabel in zip(
        axes,
        (surrogate, divergence, entropy),
        ("surrogate loss of a token", "estimate [nats]", "entropy [nats]"),
        strict=True,
    ):
        for color, dash, name in zip(
            (POSITIVE, NEGATIVE, INK), ("-", "--", ":"), table.columns[1:], strict=False
        ):
            ax.plot(table.iloc[:, 0], table[name], color=color, ls=dash, label=name)
        ax.set_xlabel(table.columns[0], fontsize=BODY)
        ax.set_ylabel(ylabel, fontsize=BODY)
        ax.tick_params(labelsize=SMALL)
        if len(table.columns) > 2:
            ax.legend(fontsize=SMALL)
    return shown_once(figure)
