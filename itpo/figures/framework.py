"""How the method works, drawn: the framework (F1) and the pictures of the notebooks that explain it.

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
from matplotlib.patches import FancyBboxPatch, Rectangle
from numpy.typing import ArrayLike, NDArray

from itpo.figures.style import ACCENT, COLUMN, NEGATIVE, POSITIVE, ROW_COLORS, TEXT

INK, QUIET, PALE = "#333333", "#8c8c8c", "#f0f0f0"
NORM, RAW, TOKEN = ROW_COLORS["norm_itpo"], ROW_COLORS["itpo"], ROW_COLORS["prime"]
SMALL, BODY = 6.5, 7.5  # points


@dataclass(frozen=True)
class Illustration:
    """A made-up dialogue for F1: token rewards by turn, their sums (4), weights (5) and pay (6) at outcome ``outcome``.

    The numbers are written by hand to two digits; a test holds them against :mod:`itpo.turns`.
    """

    token_rewards: tuple[tuple[float, ...], ...]
    turn_rewards: tuple[float, ...]
    weights: tuple[float, ...]
    pay: tuple[float, ...]
    outcome: float
    temperature: float

    def table(self) -> pd.DataFrame:
        """The numbers in the picture, a row for each turn."""
        return pd.DataFrame(
            {
                "turn": range(1, len(self.weights) + 1),
                "token_rewards": [" ".join(f"{r:g}" for r in turn) for turn in self.token_rewards],
                "turn_reward": self.turn_rewards,
                "weight": self.weights,
                "pay": self.pay,
                "outcome": self.outcome,
                "temperature": self.temperature,
            }
        )


EXAMPLE = Illustration(
    token_rewards=((0.05, -0.1, 0.1, 0.05), (0.15, 0.3, -0.1, 0.2, 0.05), (-0.1, 0.05, 0.05, -0.1)),
    turn_rewards=(0.1, 0.6, -0.1),
    weights=(0.2, 0.68, 0.12),
    pay=(0.1, 0.34, 0.06),
    outcome=0.5,
    temperature=0.4,
)


HEIGHT = 4.0  # inches, of F1
LEFT, PITCH = 2.74, 0.9  # where the first turn begins, and from turn to turn
LANES = {"token": 2.5, "turn": 1.82, "weight": 1.1, "pay": 0.36}  # base lines


def framework(example: Illustration = EXAMPLE) -> Figure:
    """F1: policy and user talk, the outcome trains the PRM, and the PRM says to which turns the outcome is paid."""
    figure = plt.figure(figsize=(TEXT, HEIGHT))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, TEXT), ylim=(0, HEIGHT))
    ax.axis("off")
    _loop(ax, example)
    _lane_labels(ax)
    for k in range(len(example.weights)):
        _turn_column(ax, example, k)
    return _shown_once(figure)


def _loop(ax: Axes, example: Illustration) -> None:
    """The boxes around the lanes, and the arrows of one step of Algorithm 1."""
    _box(ax, 0.06, 2.54, 1.2, 1.4, "", edge="#cccccc", face="white")
    _box(ax, 0.16, 3.34, 1.0, 0.46, "user", face=PALE)
    _box(ax, 0.16, 2.66, 1.0, 0.46, r"policy $\pi_\theta$")
    _arrow(ax, (0.66, 3.33), (0.66, 3.13), both=True)
    _arrow(ax, (1.28, 3.57), (1.46, 3.57))
    _arrow(ax, (5.4, 3.57), (5.78, 3.57))
    _box(ax, 5.8, 3.34, 1.05, 0.46, f"outcome $R={example.outcome:g}$", edge=ACCENT)
    _arrow(ax, (6.54, 3.32), (6.54, 2.9), color=ACCENT)
    ax.text(6.47, 3.11, "BCE (3)", ha="right", va="center", fontsize=SMALL, color=ACCENT)
    _box(ax, 5.8, 2.32, 1.05, 0.56, "PRM $\\pi_\\phi$\nreference $\\pi_{ref}$")
    _arrow(ax, (5.78, 2.6), (5.48, 2.6))
    for name, y in (("sum", 2.12), ("softmax", 1.43), (r"$\times R$", 0.71)):
        color = INK if name == "sum" else NORM
        _arrow(ax, (5.5, y + 0.14), (5.5, y - 0.14), color=color)
        ax.text(5.58, y, name, ha="left", va="center", fontsize=SMALL, color=color)
    _arrow(ax, (6.85, 3.57), (6.94, 3.57), (6.94, 0.71), (5.92, 0.71), color=ACCENT)
    _arrow(ax, (1.46, 0.58), (1.28, 0.58), color=NORM)
    _box(ax, 0.16, 0.26, 1.0, 0.66, "advantages:\nRLOO, GRPO\nor PPO", edge=NORM)
    _arrow(ax, (0.66, 0.94), (0.66, 2.52), color=NORM)
    ax.text(0.74, 1.75, "update", ha="left", va="center", fontsize=SMALL, color=NORM)


def _lane_labels(ax: Axes) -> None:
    labels = (
        (3.57, INK, "a dialogue of\n$K$ turns"),
        (2.56, INK, "token rewards (1)-(2)\n$r_t=\\beta\\,\\log(\\pi_\\phi/\\pi_{ref})$"),
        (1.9, INK, "turn rewards (4)\n$R_k=$ sum of $r_t$ in turn $k$"),
        (1.24, NORM, "pivot posterior (5)\n$w_k=$ softmax$(R_k/\\eta)$"),
        (0.58, NORM, "paid at turn ends (6)\n$w_k\\,R$, in all $R$"),
    )
    for y, color, text in labels:
        ax.text(1.54, y, text, ha="left", va="center", fontsize=SMALL, color=color, linespacing=1.6)


def _turn_column(ax: Axes, example: Illustration, k: int) -> None:
    """One turn of the dialogue: what is said, and beneath it the bars of each lane."""
    start = LEFT + k * PITCH
    first, last = start + 0.36, start + 0.84
    _box(ax, start, 3.34, 0.32, 0.46, "user", face=PALE)
    _box(ax, first, 3.34, last - first, 0.46, f"turn {k + 1}")
    ax.add_patch(Rectangle((first, 0.2), last - first, 3.08, fc="#f5f7fa", ec="none", zorder=-1))
    for base in LANES.values():
        ax.plot((first, last), (base, base), color="#b5b5b5", lw=0.7)
    rewards = example.token_rewards[k]
    for t, reward in enumerate(rewards):
        _bar(ax, first + 0.04 + 0.4 * (t + 0.5) / len(rewards), LANES["token"], reward, 0.06, TOKEN)
    for name, value, color in (
        ("turn", example.turn_rewards[k], RAW),
        ("weight", example.weights[k], NORM),
        ("pay", example.pay[k], NORM),
    ):
        _bar(ax, last - 0.08, LANES[name], 0.6 * value, 0.1, color)
        y = LANES[name] + 0.05
        ax.text(first + 0.3, y, f"{value:.2f}", ha="right", va="bottom", fontsize=SMALL, color=INK)


def _bar(ax: Axes, x: float, base: float, height: float, width: float, color: str) -> None:
    ax.add_patch(Rectangle((x - width / 2, base), width, height, fc=color, ec="none", zorder=2))


def _box(ax: Axes, x: float, y: float, width: float, height: float, text: str, **look: str) -> None:
    """A rounded box with centred text; ``x``, ``y`` is its lower left corner, in inches."""
    shape = f"round,pad=0,rounding_size={min(0.08, width / 4)}"
    edge, face = look.get("edge", INK), look.get("face", "white")
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, fc=face, ec=edge, lw=0.9))
    if text:
        ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=BODY, color=INK)


def _arrow(ax: Axes, *points: tuple[float, float], color: str = INK, both: bool = False) -> None:
    """An arrow along straight segments through ``points``."""
    for start, end in zip(points[:-2], points[1:-1], strict=True):
        ax.plot(*zip(start, end, strict=True), color=color, lw=1.1, solid_capstyle="round")
    style = "<|-|>" if both else "-|>"
    look = {"arrowstyle": style, "mutation_scale": 7, "color": color, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=points[-1], xytext=points[-2], arrowprops=look)


# One pale colour a turn, told apart by colour-blind readers too (Okabe and Ito's, lightened).
TURN_COLORS = ("#b3d9f2", "#fbe3b0", "#b3e2d5", "#f0cfe0", "#f5d0b8", "#dddddd")
SIGNED = colormaps["RdBu"]  # red below zero, blue above; colour-blind safe


def _shown_once(figure: Figure) -> Figure:
    """The figure, taken out of pyplot's list: a notebook would show it at the end of the cell and as its value."""
    plt.close(figure)
    return figure


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
    return _shown_once(figure)


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
    return _shown_once(figure)


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
    return _shown_once(figure)


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
            ax.bar(at, np.asarray(paid)[b, at], width=0.9, lw=0, color=ROW_COLORS[name], zorder=3)
            ax.plot(at, np.asarray(returns[name])[b, at], "_", ms=4, color=ACCENT, zorder=4)
            ax.grid(axis="x", visible=False)
            ax.tick_params(labelsize=SMALL)
    for ax, title in zip(grid[0], titles, strict=True):
        ax.set_title(title, fontsize=BODY)
    figure.supxlabel("token of the dialogue", fontsize=BODY)
    figure.supylabel("reward (bar) and return (dash)", fontsize=BODY)
    return _shown_once(figure)


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
    return _shown_once(figure)


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
    return _shown_once(figure)


LINES, DASHES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#000000"), ("-", "--", "-.", ":", "-")


def baseline_bias(table: pd.DataFrame) -> Figure:
    """Return of equally good dialogues by their number of turns (column ``turns``), one bar colour for each other column."""
    figure, ax = plt.subplots(figsize=(COLUMN, 1.9), layout="constrained")
    at = np.arange(len(table))
    for offset, color, name in zip((-0.2, 0.2), (ACCENT, NORM), table.columns.drop("turns"), strict=True):
        bars = ax.bar(at + offset, table[name], width=0.36, color=color, label=name)
        ax.bar_label(bars, fmt="%+g", fontsize=SMALL, padding=1)
    ax.axhline(0, color=INK, lw=0.8)
    ax.margins(y=0.18)
    ax.set_xticks(at, [str(k) for k in table["turns"]])
    ax.set(xlabel="turns of the dialogue", ylabel="return of its first token")
    ax.legend(fontsize=SMALL, title="baseline", title_fontsize=SMALL)
    return _shown_once(figure)


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
    return _shown_once(figure)
