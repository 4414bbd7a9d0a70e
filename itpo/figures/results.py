"""Figures of rewards over training: dynamics of one dialogue (F2), rank stability (F3), Kendall's tau (F5), kinds of turns.

Their frames are those of :mod:`itpo.study.reward_dynamics`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from itpo.figures._parts import (
    add_band,
    add_legend,
    add_shading,
    mark_warm_up,
    methods_in,
    panels,
    possible,
    step_axis,
    where,
)
from itpo.figures.style import ACCENT, COLUMN, INK, NEGATIVE, PALE, POSITIVE, QUIET, SIGNED, SMALL, TEXT

# How the four lists of rewards that F3 compares are drawn: colour, line style, width, label.
ITEM_STYLES: dict[str, tuple[str, str, float, str]] = {
    "turns": (POSITIVE, "-", 1.8, "turns (4)"),
    "tokens": (NEGATIVE, "-", 1.8, "tokens (2)"),
    "few tokens": (NEGATIVE, ":", 1.3, "as many random tokens as turns [O]"),
    "token groups": (INK, "--", 1.1, "tokens shuffled, then summed to turns [O]"),
}
OUTCOME_STYLES = {True: (POSITIVE, "o", "successful dialogues"), False: (NEGATIVE, "s", "failed dialogues")}


def stability(band: pd.DataFrame, level: float = 0.8) -> Figure:
    """F3: Spearman correlation with the last step's order, a panel a method: turns, tokens and the two controls.

    ``band`` has row, items, step, mean, low, high: mean over seeds and, shaded for the two without a control, its interval.
    ``level`` is drawn as a thin line.
    """
    methods = methods_in(band)
    figure, axes = panels(TEXT, 2.7, 1, len(methods), sharex=True, sharey=True)
    for ax, (row, method) in zip(axes[0], methods.items(), strict=True):
        for items, (color, style, width, label) in ITEM_STYLES.items():
            curve = possible(where(band, row=row, items=items), -1.0, 1.0)
            add_band(ax, curve, color, shaded=style == "-", linestyle=style, linewidth=width, label=label)
        ax.axhline(level, color=QUIET, linewidth=0.9, linestyle="-.", label=f"level of {level:g}")
        ax.set_title(method.label)
        step_axis(ax, 6)
    axes[0, 0].set_ylim(min(0.0, float(np.nanmin(band["mean"])) - 0.1), 1.02)
    axes[0, 0].set_ylabel("Spearman with the last step")
    add_shading(figure, "95 % interval")
    add_legend(figure, 3, handlelength=2.2)
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
        # Hatched, as intervals are shaded.
        ax.axhspan(
            *reported, facecolor="none", edgecolor=PALE, hatch="////", linewidth=0, label="reported range [S]"
        )
        ax.axhline(0, color=QUIET, linewidth=0.9, linestyle="-.", label="chance")
        for row, method in methods_in(band).items():
            shown = possible(where(band, row=row), -1.0, 1.0)
            add_band(ax, shown, method.color, linewidth=1.6, label=method.label)
            ceiling = where(ceilings, panel=panel, row=row)
            ax.plot(ceiling["step"], ceiling["value"], color=method.color, linestyle=":", linewidth=1.2)
        ax.set_title(title)
        step_axis(ax, 8)
    mark_warm_up(axes[0, 0], float(batches["step"].min()))
    means = pd.concat([batches["mean"], monitor["mean"]])
    axes[0, 0].set_ylim(min(-0.1, float(means.min()) - 0.05), max(reported[1], float(means.max())) + 0.08)
    axes[0, 0].set_ylabel("Kendall's tau-b")
    axes[0, 0].plot([], [], color=INK, linestyle=":", label="ceiling: tau of a perfect ranking")
    add_shading(figure, "95 % interval")
    add_legend(figure, 4)
    return figure


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

    ``band`` has kind, success, mean, low, high; kinds from top to bottom as in the table. An interval is cut off at the axes.
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
    ax.set_ylim(len(kinds) - 0.5, -0.5)
    reach = 1.4 * float(np.nanmax(np.abs(band["mean"]))) or 1.0
    ax.set_xlim(-reach, reach)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("turn reward minus dialogue's mean (logits)")
    handles = [
        Line2D([], [], color=color, marker=marker, ms=4, lw=1.2, label=f"{label}: mean, 95 % interval")
        for color, marker, label in OUTCOME_STYLES.values()
    ]
    figure.legend(handles=handles, loc="outside upper center", fontsize=SMALL)
    return figure
