"""How the method works, in one picture: the framework (F1), drawn from a made-up dialogue."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from itpo.attribution import METHODS
from itpo.figures._parts import blank, where
from itpo.figures.style import ACCENT, BODY, INK, NORM, RAW, SMALL, TEXT

PALE = "#f0f0f0"
TOKEN = METHODS["prime"].color


# A made-up dialogue: token rewards, and by turn their sums (4), weights (5) at temperature 0.4 and rewards (6) of the outcome.
# The numbers are written by hand to two digits; a test holds them against `itpo.turns`.
_TOKENS = ((0.05, -0.1, 0.1, 0.05), (0.15, 0.3, -0.1, 0.2, 0.05), (-0.1, 0.05, 0.05, -0.1))
TURNS = pd.DataFrame(
    {
        "turn": [1, 2, 3],
        "turn_reward": [0.1, 0.6, -0.1],
        "weight": [0.2, 0.68, 0.12],
        "reward": [0.1, 0.34, 0.06],
    }
)
TOKENS = pd.DataFrame(
    [(turn, reward) for turn, rewards in enumerate(_TOKENS, 1) for reward in rewards],
    columns=["turn", "token_reward"],
)
OUTCOME, TEMPERATURE = 0.5, 0.4

HEIGHT = 4.0  # inches, of F1
LEFT, PITCH = 2.74, 0.9  # where the first turn begins, and from turn to turn
LANES = {"token": 2.5, "turn": 1.82, "weight": 1.1, "reward": 0.36}  # base lines


def framework(turns: pd.DataFrame = TURNS, tokens: pd.DataFrame = TOKENS, outcome: float = OUTCOME) -> Figure:
    """F1: policy and user talk, the outcome trains the PRM, and the PRM says how the turns share the outcome.

    ``turns`` has turn, turn_reward (4), weight (5) and reward (6), ``tokens`` turn and token_reward (2).
    """
    figure = blank(TEXT, HEIGHT)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, TEXT), ylim=(0, HEIGHT))
    ax.axis("off")
    _loop(ax, outcome)
    _lane_labels(ax)
    for number, (_, turn) in enumerate(turns.iterrows()):
        _turn_column(ax, LEFT + number * PITCH, turn, where(tokens, turn=turn["turn"])["token_reward"])
    return figure


def _loop(ax: Axes, outcome: float) -> None:
    """The boxes around the lanes, and the arrows of one step of Algorithm 1."""
    _box(ax, 0.06, 2.54, 1.2, 1.4, "", edge="#cccccc", face="white")
    _box(ax, 0.16, 3.34, 1.0, 0.46, "user", face=PALE)
    _box(ax, 0.16, 2.66, 1.0, 0.46, r"policy $\pi_\theta$")
    _arrow(ax, (0.66, 3.33), (0.66, 3.13), both=True)
    _arrow(ax, (1.28, 3.57), (1.46, 3.57))
    _arrow(ax, (5.4, 3.57), (5.78, 3.57))
    _box(ax, 5.8, 3.34, 1.05, 0.46, f"outcome $R={outcome:g}$", edge=ACCENT)
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
        (0.58, NORM, "rewards at turn ends (6)\n$w_k\\,R$, in all $R$"),
    )
    for y, color, text in labels:
        ax.text(1.54, y, text, ha="left", va="center", fontsize=SMALL, color=color, linespacing=1.6)


def _turn_column(ax: Axes, start: float, turn: pd.Series, token_rewards: pd.Series) -> None:
    """One turn of the dialogue: its two messages, and beneath them the bars of each lane."""
    first, last = start + 0.36, start + 0.84
    _box(ax, start, 3.34, 0.32, 0.46, "user", face=PALE)
    _box(ax, first, 3.34, last - first, 0.46, f"turn {turn['turn']:g}")
    ax.add_patch(Rectangle((first, 0.2), last - first, 3.08, fc="#f5f7fa", ec="none", zorder=-1))
    for base in LANES.values():
        ax.plot((first, last), (base, base), color="#b5b5b5", lw=0.7)
    for t, reward in enumerate(token_rewards):
        _bar(ax, first + 0.04 + 0.4 * (t + 0.5) / len(token_rewards), LANES["token"], reward, 0.06, TOKEN)
    for lane, column, color in (
        ("turn", "turn_reward", RAW),
        ("weight", "weight", NORM),
        ("reward", "reward", NORM),
    ):
        _bar(ax, last - 0.08, LANES[lane], 0.6 * turn[column], 0.1, color)
        text: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": SMALL, "color": INK}
        ax.text(first + 0.3, LANES[lane] + 0.05, f"{turn[column]:.2f}", **text)


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
