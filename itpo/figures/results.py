"""Figures of the main comparison: learning curves (F4), reward dynamics (F2), rank stability (F3) and Kendall's tau (F5).

Every function takes tables of :mod:`itpo.study.tables` or :mod:`itpo.study.reward_dynamics` and returns a matplotlib ``Figure``; none computes
anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from itpo.attribution import get_method
from itpo.figures.style import ACCENT, COLUMN, INK, METHOD_COLORS, NEGATIVE, POSITIVE, QUIET, SMALL, TEXT

PALE = "#e4e4e4"
# How the four lists of rewards that F3 compares are drawn: colour, line style, width, label.
ITEM_STYLES = {
    "turns": (METHOD_COLORS["norm_itpo"], "-", 1.8, "turns (4)"),
    "tokens": (ACCENT, "-", 1.8, "tokens (2)"),
    "few tokens": (ACCENT, ":", 1.3, "as many random tokens as turns [O]"),
    "token groups": (INK, "--", 1.1, "tokens shuffled, then summed to turns [O]"),
}
CREDIT_STYLES = {True: (POSITIVE, "o", "successful dialogues"), False: (NEGATIVE, "s", "failed dialogues")}


def _new(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, np.ndarray]:
    figure = plt.figure(figsize=(width, height), layout="constrained")
    plt.close(figure)  # a notebook shows what a cell returns; an open figure it would show once more
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _band(ax: Axes, band: pd.DataFrame, color: str, shaded: bool = True, **line: Any) -> None:
    if shaded:
        ax.fill_between(band["step"], band["low"], band["high"], color=color, alpha=0.15, linewidth=0)
    ax.plot(band["step"], band["mean"], color=color, **line)


def _row(frame: pd.DataFrame, row: str) -> pd.DataFrame:
    return frame[frame["row"] == row]


def learning_curves(
    band: pd.DataFrame, seeds: pd.DataFrame, measure: str = "success", baseline: str = "trajectory_share"
) -> Figure:
    """F4, F8, F9: outcome on fresh problems by training step, a panel a row; the baseline's mean is dashed in the others.

    ``band`` has row, step, mean, low, high; ``seeds`` row, seed, step, value; ``measure`` says what the outcome is called. The
    vertical range is that of the single runs; a wider band is cut off.
    """
    rows = list(band["row"].unique())
    lines = 1 if len(rows) <= 5 else 2  # more than five panels side by side are too narrow for their titles
    columns = -(-len(rows) // lines)
    figure, axes = _new(TEXT, 0.3 + 2.0 * lines, lines, columns, sharex=True, sharey=True)
    for spare in axes.flat[len(rows) :]:
        spare.remove()
    low, high = seeds["value"].min(), seeds["value"].max()
    margin = 0.08 * max(high - low, 0.05)
    for number, (ax, row) in enumerate(zip(axes.flat, rows, strict=False)):
        color, reference = METHOD_COLORS[row], _row(band, baseline)
        for _, run in _row(seeds, row).groupby("seed"):
            ax.plot(run["step"], run["value"], color=color, linewidth=0.6, alpha=0.6)
        if row != baseline:
            ax.plot(reference["step"], reference["mean"], color=INK, linewidth=1.0, linestyle="--")
        _band(ax, _row(band, row), color, linewidth=1.8, marker="o", markersize=2.5)
        ax.set_title(
            get_method(row).label.replace(" ", "\n"), color=color, fontweight="bold", va="center", pad=12
        )
        if number + columns >= len(rows):  # nothing is below it
            ax.set_xlabel("training step")
            ax.tick_params(labelbottom=True)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for ax in axes[:, 0]:
        ax.set_ylabel(f"{measure} on\nfresh problems")
    axes[0, 0].set_ylim(max(0, low - margin), min(1, high + margin))
    return figure


def stability(band: pd.DataFrame, level: float = 0.8) -> Figure:
    """F3: Spearman correlation with the last step's order, a panel a row: turns, tokens and the two controls.

    ``band`` has row, items, step, mean, low, high; ``level`` is drawn as a thin line.
    """
    rows = list(band["row"].unique())
    figure, axes = _new(TEXT, 2.7, 1, len(rows), sharex=True, sharey=True)
    for ax, row in zip(axes[0], rows, strict=True):
        for items, (color, style, width, label) in ITEM_STYLES.items():
            part = _row(band[band["items"] == items], row)
            _band(ax, part, color, shaded=style == "-", linestyle=style, linewidth=width, label=label)
        ax.axhline(level, color=QUIET, linewidth=0.7)
        ax.set_title(get_method(row).label)
        ax.set_xlabel("training step")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    lowest = float(np.nanmin(band["mean"]))
    axes[0, 0].set_ylim(min(0.0, lowest - 0.1), 1.02)
    axes[0, 0].set_ylabel("Spearman with the last step")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=SMALL, handlelength=2.2)
    return figure


def kendall_over_training(
    batches: pd.DataFrame, probes: pd.DataFrame, ceilings: pd.DataFrame, reported: tuple[float, float]
) -> Figure:
    """F5: Kendall's tau-b of implicit return and outcome, on fresh batches (left) and on the fixed probes (right).

    ``batches`` and ``probes`` have row, step, mean, low, high; ``ceilings`` panel ("batches" or "probes"), row, step,
    value: the tau of a perfect ranking. ``reported`` is the range of secondary sources, drawn as a shaded band.
    """
    figure, axes = _new(TEXT, 2.7, 1, 2, sharey=True)
    titles = ("fresh training batches, before learning from them", "the same probe dialogues throughout")
    for ax, panel, band, title in zip(axes[0], ("batches", "probes"), (batches, probes), titles, strict=True):
        ax.axhspan(*reported, color=PALE, linewidth=0)
        ax.axhline(0, color=QUIET, linewidth=0.7)
        for row in band["row"].unique():
            _band(ax, _row(band, row), METHOD_COLORS[row], linewidth=1.6, label=get_method(row).label)
            ceiling = _row(ceilings[ceilings["panel"] == panel], row)
            ax.plot(ceiling["step"], ceiling["value"], color=METHOD_COLORS[row], linestyle=":", linewidth=1.2)
        ax.set_title(title)
        ax.set_xlabel("training step")
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _mark_warm_up(axes[0, 0], float(batches["step"].min()))
    means = pd.concat([batches["mean"], probes["mean"]])
    axes[0, 0].set_ylim(min(-0.1, float(means.min()) - 0.05), max(reported[1], float(means.max())) + 0.08)
    axes[0, 0].set_ylabel("Kendall's tau-b")
    axes[0, 1].annotate(
        "reported range [S]",
        (0.98, reported[1]),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=SMALL,
    )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    dotted = axes[0, 0].plot([], [], color=INK, linestyle=":", label="tau of a perfect ranking")[0]
    figure.legend(
        [*handles, dotted], [*labels, dotted.get_label()], loc="outside upper center", ncols=4, fontsize=SMALL
    )
    return figure


def _mark_warm_up(ax: Axes, first: float) -> None:
    if first < 0:
        ax.axvline(-0.5, color=QUIET, linewidth=0.8, linestyle="--")
        for text, side, shift in (("warm-up", "right", -2), ("training", "left", 2)):
            ax.annotate(
                text,
                (-0.5, 0.02),
                xycoords=("data", "axes fraction"),
                xytext=(shift, 0),
                textcoords="offset points",
                ha=side,
                fontsize=5.5,
            )


@dataclass(frozen=True)
class Case:
    """One dialogue over training, as F2 draws it: C assistant tokens, K turns, S steps; rewards relative, in [-1, 1].

    ``turn_of`` names each token's turn; ``kinds`` says what each turn does and ``answers`` what the user says after it.
    """

    steps: Sequence[int]
    words: Sequence[str]
    turn_of: Sequence[int]
    kinds: Sequence[str]
    answers: Sequence[str]
    turn_rewards: Float[np.ndarray, "S K"]
    token_rewards: Float[np.ndarray, "S C"]


def reward_dynamics(case: Case, colors: str = "RdBu") -> Figure:
    """F2: one dialogue's relative rewards over training, turns above, tokens below, on one axis of its words."""
    figure, axes = _new(TEXT, 4.3, 2, 1, sharex=True, sharey=True)
    turn_of = np.asarray(case.turn_of)
    panels = ((case.turn_rewards[:, turn_of], "turns (4)"), (case.token_rewards, "tokens (2)"))
    for ax, (values, name) in zip(axes[:, 0], panels, strict=True):
        ax.pcolormesh(_edges(len(case.words)), _edges(len(case.steps)), values, cmap=colors, vmin=-1, vmax=1)
        ax.set_yticks(*_step_ticks(case.steps))
        ax.set_ylabel(f"{name}\ntraining step")
        ax.grid(visible=False)
        for end in np.flatnonzero(np.diff(turn_of)):
            ax.axvline(end + 0.5, color="white", linewidth=3)
    for k, kind in enumerate(case.kinds):
        columns = np.flatnonzero(turn_of == k)
        text = f"{k + 1}  " + "\n".join(kind.replace("_", " ").split(" ", 1))
        top = axes[0, 0].get_xaxis_transform()
        style = {"transform": top, "ha": "center", "va": "bottom", "fontsize": SMALL}
        missed = kind == "missed repair"
        axes[0, 0].text(
            columns.mean(), 1.02, text, color=ACCENT if missed else INK, fontweight="bold", **style
        )
        if case.answers[k]:
            axes[0, 0].text(
                columns[-1] + 0.5, 1.2 + 0.09 * (k % 2), f"user: {case.answers[k]}", color=QUIET, **style
            )
    axes[1, 0].set_xticks(
        range(len(case.words)), [word.strip("<|>") for word in case.words], rotation=90, fontsize=SMALL
    )
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), colors), ax=axes, fraction=0.03, pad=0.01)
    bar.set_label("reward relative to the largest (no unit)", fontsize=SMALL)
    return figure


def _edges(count: int) -> Float[np.ndarray, " n"]:
    return np.arange(count + 1) - 0.5


def _step_ticks(steps: Sequence[int]) -> tuple[list[int], list[str]]:
    every = max(1, round(len(steps) / 6))
    places = list(range(0, len(steps), every))
    return places, [str(steps[i]) for i in places]


def credit_by_kind(band: pd.DataFrame) -> Figure:
    """Mean centred turn reward of each kind of turn, in successful and in failed probe dialogues.

    ``band`` has kind, success, mean, low, high; kinds from top to bottom as in the table.
    """
    kinds = list(dict.fromkeys(band["kind"]))
    figure, axes = _new(COLUMN, 0.9 + 0.26 * len(kinds))
    ax = axes[0, 0]
    ax.axvline(0, color=QUIET, linewidth=0.8)
    for success, (color, marker, _) in CREDIT_STYLES.items():
        part = band[band["success"] == success]
        heights = np.array([kinds.index(kind) for kind in part["kind"]]) + (-0.14 if success else 0.14)
        ax.hlines(heights, part["low"], part["high"], color=color, linewidth=1.2)
        ax.scatter(part["mean"], heights, color=color, marker=marker, s=18, zorder=3)
    ax.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    ax.invert_yaxis()
    reach = 1.4 * float(np.nanmax(np.abs(band["mean"]))) or 1.0
    ax.set_xlim(-reach, reach)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("turn reward minus dialogue's mean (logits)")
    handles = [Patch(color=color, label=label) for color, _, label in CREDIT_STYLES.values()]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=SMALL)
    return figure
