"""How the method works, step by step: the pictures of the notebooks that explain it (00 and 01)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from itpo.figures._parts import add_legend, blank, methods_in, panels, symmetric, where, wrapped
from itpo.figures.style import (
    ACCENT,
    BODY,
    COLUMN,
    INK,
    NEGATIVE,
    POSITIVE,
    QUIET,
    RAW,
    SERIES,
    SIGNED,
    SMALL,
    TEXT,
)

# One pale colour a turn, told apart by colour-blind readers too (Okabe and Ito's, lightened).
TURN_COLORS = ("#b3d9f2", "#fbe3b0", "#b3e2d5", "#f0cfe0", "#f5d0b8", "#dddddd")


def token_text(tokens: pd.DataFrame, label: str = "") -> Figure:
    """A dialogue token by token, one message a line: the policy's tokens coloured, all others white.

    ``tokens`` has token and turn (from 1; 0: not the policy's). The colour is the turn's or, where there is a column value,
    the value's, which is then also printed under the token; ``label`` names it, with its unit.
    """
    valued = "value" in tokens
    values = tokens["value"].to_numpy(dtype=float) if valued else np.zeros(len(tokens))
    words, turns = tokens["token"].tolist(), tokens["turn"].tolist()
    scale, bound = symmetric(values), np.abs(values).max()
    pitch, foot, least = (0.38, 0.72, 0.36) if valued else (0.24, 0.08, 0.0)  # inches
    places = _places(words, turns, least)
    height = (places[-1][0] + 1) * pitch + foot
    figure = blank(TEXT, height)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, TEXT), ylim=(0, height))
    ax.axis("off")
    for t, (word, turn, value, (line, x, width)) in enumerate(zip(words, turns, values, places, strict=True)):
        y, face = height - line * pitch - 0.21, "white"
        if turn:
            face = to_hex(SIGNED(scale(value))) if valued else TURN_COLORS[(turn - 1) % len(TURN_COLORS)]
        ink = QUIET if not turn else "white" if abs(value) > 0.7 * bound else "black"
        ax.add_patch(Rectangle((x, y), width, 0.18, fc=face, ec="#cccccc", lw=0.5))
        middle: dict[str, Any] = {"x": x + width / 2, "ha": "center"}
        ax.text(y=y + 0.085, s=word, va="center", family="monospace", fontsize=7, color=ink, **middle)
        if turn and abs(value) >= 0.005:  # what would print as 0.00 is left out
            ax.text(y=y - 0.02, s=f"{value:+.2f}", va="top", fontsize=5.5, color=INK, **middle)
        if t == 0 or turn != turns[t - 1]:
            speaker = f"turn {turn}" if turn else "user"
            ax.text(0.05, y + 0.085, speaker, va="center", fontsize=SMALL, color=INK)
    if valued:
        bar = figure.add_axes((0.3, 0.44 / height, 0.4, 0.1 / height))
        figure.colorbar(ScalarMappable(scale, SIGNED), cax=bar, orientation="horizontal")
        bar.tick_params(labelsize=SMALL)
        bar.set_xlabel(label, fontsize=BODY, labelpad=1)
    return figure


def _places(words: list[str], turns: list[int], least: float) -> list[tuple[int, float, float]]:
    """Line, left edge and width of each token (inches); a new message, and what does not fit, begins a new line."""
    places: list[tuple[int, float, float]] = []
    line, x = 0, 0.55
    for t, (word, turn) in enumerate(zip(words, turns, strict=True)):
        width = 0.06 * len(word) + 0.09
        width = max(width, least) if turn else width
        if t and (turn != turns[t - 1] or x + width > TEXT - 0.05):
            line, x = line + 1, 0.55
        places.append((line, x, width))
        x += width + 0.03
    return places


def prm_learning(metrics: pd.DataFrame) -> Figure:
    """The PRM's AUC and loss on dialogues it has not seen, over batches (columns ``batch``, ``prm_auc``, ``prm_loss``)."""
    figure, (axes,) = panels(TEXT, 1.9, 1, 2)
    for ax, column, name in zip(axes, ("prm_auc", "prm_loss"), ("AUC", "loss (3) [nats]"), strict=True):
        ax.plot(metrics["batch"], metrics[column], "o", ms=3, color=POSITIVE)
        ax.set(xlabel="batches learned from before", ylabel=name)
    axes[0].axhline(0.5, color=QUIET, ls="--", lw=1, label="chance")
    axes[0].legend(fontsize=SMALL, loc="lower right")
    return figure


def turn_credit(turns: pd.DataFrame) -> Figure:
    """Turn rewards as bars beside the weights they become at several temperatures, one dialogue a row.

    ``turns`` has dialogue (a title), text, pivotal, reward, a line for each turn in order; each further column is named after
    a temperature and holds the weights (5). A pivotal turn, at which the dialogue was decided, is marked.
    """
    temperatures = turns.columns.drop(["dialogue", "text", "pivotal", "reward"])
    dialogues = dict(list(turns.groupby("dialogue", sort=False)))
    heights = [len(dialogue) + 1.6 for dialogue in dialogues.values()]
    sizes = {"height_ratios": heights, "width_ratios": (1.1, 1)}
    figure, grid = panels(TEXT, 0.26 * sum(heights), len(dialogues), 2, **sizes)
    for (bars, cells), (title, dialogue) in zip(grid, dialogues.items(), strict=True):
        places = np.arange(len(dialogue))
        bars.barh(places, dialogue["reward"], color=RAW, height=0.6)
        bars.axvline(0, color=QUIET, lw=0.8)
        bars.grid(axis="y", visible=False)
        bars.set_yticks(places, dialogue["text"])
        for place in np.flatnonzero(dialogue["pivotal"]):
            bars.get_yticklabels()[place].set(fontweight="bold", color=ACCENT)
        bars.set(ylim=(len(places) - 0.4, -0.6))
        bars.set_title(title, loc="left", x=0, fontsize=BODY)
        weights = dialogue[temperatures].to_numpy(dtype=float)
        cells.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (k, column), weight in np.ndenumerate(weights):
            ink = "white" if weight > 0.55 else "black"
            cells.text(column, k, f"{weight:.2f}", ha="center", va="center", fontsize=SMALL, color=ink)
        cells.set_xticks(range(len(temperatures)), temperatures)
        cells.set_yticks(places, [str(k + 1) for k in places])
        cells.set_ylabel("turn", fontsize=SMALL)
        cells.grid(False)
        for ax in (bars, cells):
            ax.tick_params(labelsize=SMALL)
    grid[-1, 0].set_xlabel("turn reward $R_k$ (4) [logits]", fontsize=BODY)
    grid[-1, 1].set_xlabel(r"weight $w_k$ (5) at temperature $\eta$ [logits]", fontsize=BODY)
    return figure


def rewards(tokens: pd.DataFrame) -> Figure:
    """The rewards of each method (bars) and the return of each token (dash), a column of pictures for each dialogue.

    ``tokens`` has row, dialogue (a title), token (its place in the dialogue), turn, reward and return, a line for each
    assistant token; assistant turns are shaded.
    """
    methods, titles = methods_in(tokens), list(dict.fromkeys(tokens["dialogue"]))
    height = 0.85 * len(methods) + 0.5
    figure, grid = panels(TEXT, height, len(methods), len(titles), sharex=True, sharey="row")
    for axes, (row, method) in zip(grid, methods.items(), strict=True):
        axes[0].set_ylabel(wrapped(method.label, 11), fontsize=SMALL)
        for ax, title in zip(axes, titles, strict=True):
            shown = where(tokens, row=row, dialogue=title)
            for _, turn in shown.groupby("turn"):
                ax.axvspan(
                    turn["token"].min() - 0.5, turn["token"].max() + 0.5, color="#eef2f7", lw=0, zorder=0
                )
            ax.axhline(0, color=QUIET, lw=0.6)
            ax.bar(shown["token"], shown["reward"], width=0.9, lw=0, color=method.color, zorder=3)
            ax.plot(shown["token"], shown["return"], "_", ms=4, color=ACCENT, zorder=4)
            ax.grid(axis="x", visible=False)
            ax.tick_params(labelsize=SMALL)
    for ax, title in zip(grid[0], titles, strict=True):
        ax.set_title(title, fontsize=BODY)
    figure.supxlabel("token of the dialogue (shaded: a turn of the assistant)", fontsize=BODY)
    figure.supylabel("reward (bar) and return (dash)", fontsize=BODY)
    return figure


def token_grid(table: pd.DataFrame, label: str) -> Figure:
    """A few short dialogues as a table of coloured numbers, one token a cell.

    ``table`` has dialogue (a title) and a column for each token, ``nan`` where nothing is to be shown.
    """
    values = table.drop(columns="dialogue").to_numpy(dtype=float)
    figure, ((ax,),) = panels(TEXT, 0.28 * len(table) + 0.8)
    scale = symmetric(values[np.isfinite(values)])
    image = ax.imshow(np.ma.masked_invalid(values), cmap=SIGNED, norm=scale, aspect="auto")
    for line, token in np.argwhere(np.isfinite(values)):
        ink = "white" if abs(2 * scale(values[line, token]) - 1) > 0.7 else "black"
        style = {"ha": "center", "va": "center", "fontsize": SMALL, "color": ink}
        ax.text(token, line, f"{values[line, token]:.2f}", **style)
    ax.set_xticks(range(values.shape[1]), [str(t) for t in range(values.shape[1])])
    ax.set_yticks(range(len(table)), table["dialogue"])
    ax.set_xlabel("token", fontsize=BODY)
    ax.grid(False)
    ax.tick_params(labelsize=SMALL)
    bar = figure.colorbar(image, ax=ax, pad=0.01)
    bar.set_label(label, fontsize=BODY)
    bar.ax.tick_params(labelsize=SMALL)
    return figure


def weight_curves(weights: pd.DataFrame) -> Figure:
    """Weights (5) over temperature, a panel for each dialogue, a line for each turn.

    ``weights`` has dialogue (a title), turn (from 1), temperature, weight.
    """
    titles = list(dict.fromkeys(weights["dialogue"]))
    figure, (axes,) = panels(TEXT, 1.8, 1, len(titles), sharey=True)
    for ax, title in zip(axes, titles, strict=True):
        for turn, curve in where(weights, dialogue=title).groupby("turn"):
            color, dash, _ = SERIES[(turn - 1) % len(SERIES)]
            ax.plot(curve["temperature"], curve["weight"], color=color, ls=dash, label=f"turn {turn}")
        ax.axvline(0.4, color=QUIET, lw=0.9, label=r"$\eta$ = 0.4")
        ax.set(xscale="log", ylim=(-0.04, 1.04))
        ax.set_title(title, fontsize=BODY)
        ax.tick_params(labelsize=SMALL)
    axes[0].set_ylabel("weight $w_k$", fontsize=BODY)
    figure.supxlabel(r"temperature $\eta$ [units of $R_k$]", fontsize=BODY)
    add_legend(figure, weights["turn"].nunique() + 1)
    return figure


def baseline_bias(table: pd.DataFrame) -> Figure:
    """Return of equally good dialogues by their number of turns (column ``turns``), one bar colour for each other column."""
    figure, ((ax,),) = panels(COLUMN, 1.9)
    places, names = np.arange(len(table)), table.columns.drop("turns")
    width = 0.8 / len(names)
    for number, ((color, *_), name) in enumerate(zip(SERIES, names, strict=False)):
        at = places + width * (number - (len(names) - 1) / 2)
        bars = ax.bar(at, table[name], 0.9 * width, color=color, label=name)
        ax.bar_label(bars, fmt="%+g", fontsize=SMALL, padding=1)
    ax.axhline(0, color=INK, lw=0.8)
    ax.margins(y=0.18)
    ax.set_xticks(places, [str(k) for k in table["turns"]])
    ax.set(xlabel="turns of the dialogue", ylabel="return of its first token")
    ax.legend(fontsize=SMALL, title="baseline", title_fontsize=SMALL)
    return figure


def loss_curves(surrogate: pd.DataFrame, divergence: pd.DataFrame, entropy: pd.DataFrame) -> Figure:
    """The three parts of the policy loss as curves; in each table the first column is the axis, the others are lines."""
    figure, (axes,) = panels(TEXT, 2.1, 1, 3)
    labels = ("surrogate loss of a token", "estimate [nats]", "entropy [nats]")
    for ax, table, ylabel in zip(axes, (surrogate, divergence, entropy), labels, strict=True):
        looks = zip((POSITIVE, NEGATIVE, INK), ("-", "--", ":"), table.columns[1:], strict=False)
        for color, dash, name in looks:
            ax.plot(table.iloc[:, 0], table[name], color=color, ls=dash, label=name)
        ax.set_xlabel(table.columns[0], fontsize=BODY)
        ax.set_ylabel(ylabel, fontsize=BODY)
        ax.tick_params(labelsize=SMALL)
        if len(table.columns) > 2:
            ax.legend(fontsize=SMALL)
    return figure
