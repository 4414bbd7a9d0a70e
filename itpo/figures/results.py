"""Figures of the main comparison: learning curves (F4), reward dynamics (F2), rank stability (F3) and Kendall's tau (F5).

Their frames are those of :mod:`itpo.study.tables` and :mod:`itpo.study.reward_dynamics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from itpo.figures._parts import add_band, add_legend, methods_in, panels, step_axis, where, wrapped
from itpo.figures.style import ACCENT, COLUMN, INK, NEGATIVE, NORM, POSITIVE, QUIET, SIGNED, SMALL, TEXT

PALE = "#e4e4e4"
# How the four lists of rewards that F3 compares are drawn: colour, line style, width, label.
ITEM_STYLES = {
    "turns": (NORM, "-", 1.8, "turns (4)"),
    "tokens": (ACCENT, "-", 1.8, "tokens (2)"),
    "few tokens": (ACCENT, ":", 1.3, "as many random tokens as turns [O]"),
    "token groups": (INK, "--", 1.1, "tokens shuffled, then summed to turns [O]"),
}
OUTCOME_STYLES = {True: (POSITIVE, "o", "successful dialogues"), False: (NEGATIVE, "s", "failed dialogues")}


def learning_curves(
    band: pd.DataFrame, seeds: pd.DataFrame, measure: str = "success", baseline: str = "trajectory_share"
) -> Figure:
    """F4, F8, F9: outcome on fresh problems by training step, a panel a method; dashed in the others: the baseline's mean.

    ``band`` has row, step, mean, low, high; ``seeds`` row, seed, step, value; ``measure`` says what the outcome is called. The
    vertical range is that of the single runs; a wider band is cut off.
    """
    methods, reference = methods_in(band), where(band, row=baseline)
    lines = (
        1 if len(methods) <= 5 else 2
    )  # more than five panels side by side are too narrow for their titles
    columns = -(-len(methods) // lines)
    figure, axes = panels(TEXT, 0.3 + 2.0 * lines, lines, columns, sharex=True, sharey=True)
    for spare in axes.flat[len(methods) :]:
        spare.remove()
    low, high = seeds["value"].min(), seeds["value"].max()
    margin = 0.08 * max(high - low, 0.05)
    for number, (ax, (row, method)) in enumerate(zip(axes.flat, methods.items(), strict=False)):
        color = method.color
        for _, run in where(seeds, row=row).groupby("seed"):
            ax.plot(run["step"], run["value"], color=color, linewidth=0.6, alpha=0.6)
        if row != baseline:
            ax.plot(reference["step"], reference["mean"], color=INK, linewidth=1.0, linestyle="--")
        add_band(ax, where(band, row=row), color, linewidth=1.8, marker="o", markersize=2.5)
        ax.set_title(wrapped(method.label, 16), color=color, fontweight="bold", va="center", pad=12)
        last = number + columns >= len(methods)  # nothing is below it
        step_axis(ax, 4, "training step" if last else "")
        ax.tick_params(labelbottom=last)
    for ax in axes[:, 0]:
        ax.set_ylabel(f"{measure} on\nfresh problems")
    axes[0, 0].set_ylim(max(0, low - margin), min(1, high + margin))
    return figure


def stability(band: pd.DataFrame, level: float = 0.8) -> Figure:
    """F3: Spearman correlation with the last step's order, a panel a method: turns, tokens and the two controls.

    ``band`` has row, items, step, mean, low, high; ``level`` is drawn as a thin line.
    """
    methods = methods_in(band)
    figure, axes = panels(TEXT, 2.7, 1, len(methods), sharex=True, sharey=True)
    for ax, (row, method) in zip(axes[0], methods.items(), strict=True):
        for items, (color, style, width, label) in ITEM_STYLES.items():
            curve = where(band, row=row, items=items)
            add_band(ax, curve, color, shaded=style == "-", linestyle=style, linewidth=width, label=label)
        ax.axhline(level, color=QUIET, linewidth=0.7)
        ax.set_title(method.label)
        step_axis(ax, 6)
    axes[0, 0].set_ylim(min(0.0, float(np.nanmin(band["mean"])) - 0.1), 1.02)
    axes[0, 0].set_ylabel("Spearman with the last step")
    add_legend(figure, 4, handlelength=2.2)
    return figure


def kendall_over_training(
    batches: pd.DataFrame, monitor: pd.DataFrame, ceilings: pd.DataFrame, reported: Sequence[float]
) -> Figure:
    """F5: Kendall's tau-b of implicit return and outcome, on fresh batches (left) and on the monitor set (right).

    ``batches`` and ``monitor`` have row, step, mean, low, high; ``ceilings`` panel ("batches" or "monitor"), row, step,
    value: the tau of a perfect ranking. ``reported`` are the ends of the range in secondary sources, a shaded band.
    """
    figure, axes = panels(TEXT, 2.7, 1, 2, sharey=True)
    titles = (
        "fresh training batches, before learning from them",
        "the monitor set, the same dialogues throughout",
    )
    for ax, panel, band, title in zip(
        axes[0], ("batches", "monitor"), (batches, monitor), titles, strict=True
    ):
        ax.axhspan(*reported, color=PALE, linewidth=0)
        ax.axhline(0, color=QUIET, linewidth=0.7)
        for row, method in methods_in(band).items():
            add_band(ax, where(band, row=row), method.color, linewidth=1.6, label=method.label)
            ceiling = where(ceilings, panel=panel, row=row)
            ax.plot(ceiling["step"], ceiling["value"], color=method.color, linestyle=":", linewidth=1.2)
        ax.set_title(title)
        step_axis(ax, 8)
    _mark_warm_up(axes[0, 0], float(batches["step"].min()))
    means = pd.concat([batches["mean"], monitor["mean"]])
    axes[0, 0].set_ylim(min(-0.1, float(means.min()) - 0.05), max(reported[1], float(means.max())) + 0.08)
    axes[0, 0].set_ylabel("Kendall's tau-b")
    place: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "ha": "right",
        "va": "bottom",
        "fontsize": SMALL,
    }
    axes[0, 1].annotate("reported range [S]", (0.98, reported[1]), **place)
    axes[0, 0].plot([], [], color=INK, linestyle=":", label="tau of a perfect ranking")
    add_legend(figure, 4)
    return figure


def _mark_warm_up(ax: Axes, first: float) -> None:
    if first < 0:
        ax.axvline(-0.5, color=QUIET, linewidth=0.8, linestyle="--")
        place: dict[str, Any] = {
            "xycoords": ("data", "axes fraction"),
            "textcoords": "offset points",
            "fontsize": 5.5,
        }
        for text, side, shift in (("warm-up", "right", -2), ("training", "left", 2)):
            ax.annotate(text, (-0.5, 0.02), xytext=(shift, 0), ha=side, **place)


def reward_dynamics(rewards: pd.DataFrame, turns: pd.DataFrame) -> Figure:
    """F2: one dialogue's relative rewards over training, turns above, tokens below, on one axis of its words.

    ``rewards`` has step, position, turn, token, turn_reward, token_reward, a line for each step and assistant token, rewards
    in [-1, 1]; ``turns`` has turn, kind and answer: what each turn does, and what the user says after it.
    """
    figure, axes = panels(TEXT, 4.3, 2, 1, sharex=True, sharey=True)
    tokens = rewards.drop_duplicates("position").sort_values("position")
    turn_of, steps = tokens["turn"].to_numpy(), sorted(rewards["step"].unique())
    every = max(1, round(len(steps) / 6))
    for ax, column, name in zip(
        axes[:, 0], ("turn_reward", "token_reward"), ("turns (4)", "tokens (2)"), strict=True
    ):
        values = rewards.pivot(index="step", columns="position", values=column).to_numpy()
        edges = (np.arange(count + 1) - 0.5 for count in values.T.shape)
        ax.pcolormesh(*edges, values, cmap=SIGNED, vmin=-1, vmax=1)
        ax.set_yticks(range(0, len(steps), every), [str(step) for step in steps[::every]])
        ax.set_ylabel(f"{name}\ntraining step")
        ax.grid(visible=False)
        for end in np.flatnonzero(np.diff(turn_of)):
            ax.axvline(end + 0.5, color="white", linewidth=3)
    top = axes[0, 0]
    style = {"transform": top.get_xaxis_transform(), "ha": "center", "va": "bottom", "fontsize": SMALL}
    for number, turn in enumerate(turns.itertuples()):
        at = np.flatnonzero(turn_of == turn.turn)
        text = f"{turn.turn}  " + "\n".join(turn.kind.replace("_", " ").split(" ", 1))
        color = ACCENT if turn.kind == "missed repair" else INK
        top.text(at.mean(), 1.02, text, color=color, fontweight="bold", **style)
        if turn.answer:
            height = 1.2 + 0.09 * (number % 2)
            top.text(at[-1] + 0.5, height, f"user: {turn.answer}", color=QUIET, **style)
    words = [token.strip("<|>") for token in tokens["token"]]
    axes[1, 0].set_xticks(range(len(words)), words, rotation=90, fontsize=SMALL)
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), SIGNED), ax=axes, fraction=0.03, pad=0.01)
    bar.set_label("reward relative to the largest (no unit)", fontsize=SMALL)
    return figure


def credit_by_kind(band: pd.DataFrame) -> Figure:
    """Mean centred turn reward of each kind of turn, in successful and in failed dialogues of the monitor set.

    ``band`` has kind, success, mean, low, high; kinds from top to bottom as in the table.
    """
    kinds = list(dict.fromkeys(band["kind"]))
    figure, ((ax,),) = panels(COLUMN, 0.9 + 0.26 * len(kinds))
    ax.axvline(0, color=QUIET, linewidth=0.8)
    for success, (color, marker, _) in OUTCOME_STYLES.items():
        means = where(band, success=success)
        heights = np.array([kinds.index(kind) for kind in means["kind"]]) + (-0.14 if success else 0.14)
        ax.hlines(heights, means["low"], means["high"], color=color, linewidth=1.2)
        ax.scatter(means["mean"], heights, color=color, marker=marker, s=18, zorder=3)
    ax.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    ax.invert_yaxis()
    reach = 1.4 * float(np.nanmax(np.abs(band["mean"]))) or 1.0
    ax.set_xlim(-reach, reach)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("turn reward minus dialogue's mean (logits)")
    handles = [Patch(color=color, label=label) for color, _, label in OUTCOME_STYLES.values()]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=SMALL)
    return figure
