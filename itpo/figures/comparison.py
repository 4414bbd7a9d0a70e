"""Figures of the main comparison: the ledger as a forest plot, Table 1 as dots, gains over learning rates, speed.

Differences are in points, outcomes are shares. An interval that is ``nan``, or that goes beyond what is possible, is not drawn.
The frames are those of :mod:`itpo.study.gains` and :mod:`itpo.study.ledger`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from itpo.attribution import get_method
from itpo.estimators import get_estimator
from itpo.figures._parts import (
    BASELINE,
    add_band,
    add_legend,
    methods_in,
    panels,
    possible,
    step_axis,
    where,
    wrapped,
)
from itpo.figures.style import ACCENT, BODY, INK, NEGATIVE, PALE, POSITIVE, QUIET, SMALL, TEXT

MARGIN = 3.0  # points: smaller differences do not matter, see docs/protocol.md
# Colour and marker of each ruling; a marker of another ruling is an open circle.
RULINGS = {
    "holds": (POSITIVE, "^", POSITIVE),
    "reversed": (NEGATIVE, "v", NEGATIVE),
    "no difference of 3 points": (ACCENT, "s", ACCENT),
    "open": (QUIET, "o", "white"),
}
FAMILIES = {"primary": "primary claims", "secondary": "secondary", "rewards": "rewards"}
LINE = 0.105  # inches, of a line of small text
WIDEST = 40.0  # points: a forest plot is no wider for an interval, though it may be for an effect


def forest(ledger: pd.DataFrame) -> Figure:
    """The ledger's claims in points, a line each: effect, 95 % interval and ruling; primary claims above the others.

    ``ledger`` has claim, part, statement, unit, effect, low, high, family, ruling; lines in other units are left out.
    Differences smaller than 3 points are shaded. An interval that goes on beyond the axis ends in an arrow.
    Raises ValueError if no line is in points.
    """
    shown = where(ledger, unit="points").dropna(subset="effect")
    if shown.empty:
        raise ValueError("no line of the ledger is in points with an effect: there is nothing to draw")
    parts = [(title, where(shown, family=family)) for family, title in FAMILIES.items()]
    parts = [(title, lines) for title, lines in parts if len(lines)]
    texts = [[_claim_text(line) for line in lines.itertuples()] for _, lines in parts]
    heights = [sum(text.count("\n") + 1.7 for text in part) for part in texts]
    size = LINE * sum(heights) + 0.2 * len(parts) + 0.75
    shape: dict[str, Any] = {"height_ratios": heights, "width_ratios": (1.0, 1.1)}
    figure, grid = panels(TEXT, size, len(parts), 2, sharex="col", sharey="row", **shape)
    limit = _limit(shown)
    for (ax, beside), (title, lines), names in zip(grid, parts, texts, strict=True):
        _claims(ax, beside, lines, names, limit)
        ax.set_title(title, fontsize=BODY, loc="left", x=0, color=INK)
    grid[-1, 0].set_xlabel("effect with 95 % interval (points)", fontsize=BODY)
    figure.legend(handles=_ruling_keys(shown), loc="outside upper center", ncols=5, fontsize=SMALL)
    return figure


def _claim_text(line: Any) -> str:
    part = f", {line.part}" if isinstance(line.part, str) and line.part else ""
    return wrapped(f"{line.claim}{part}: {line.statement}", 46)


def _limit(lines: pd.DataFrame) -> float:
    """Half the width of the axis, in points."""
    reach = np.nanmax(lines[["low", "high"]].abs().to_numpy(), initial=0.0)
    return float(max(2 * MARGIN, 1.1 * lines["effect"].abs().max(), min(WIDEST, 1.05 * reach)))


def _claims(ax: Axes, beside: Axes, lines: pd.DataFrame, names: list[str], limit: float) -> None:
    sizes = np.array([name.count("\n") + 1.7 for name in names])
    places = np.cumsum(sizes) - sizes / 2
    _no_gain(ax, vertical=True)
    for y, line in zip(places, possible(lines, -100.0, 100.0).itertuples(), strict=True):
        color, marker, face = RULINGS.get(str(line.ruling), RULINGS["open"])
        ax.hlines(y, max(line.low, -limit), min(line.high, limit), color=color, lw=1.3)
        for end, arrow in ((-limit, "<"), (limit, ">")):
            if line.low < end < line.high:
                ax.plot(end, y, arrow, color=color, ms=3.5, clip_on=False)
        ax.plot(line.effect, y, marker, color=color, mfc=face, mec=color, ms=4.5, zorder=3)
        interval = f" [{line.low:+.1f}, {line.high:+.1f}]" if line.low == line.low else ""
        place: dict[str, Any] = {"va": "center", "fontsize": SMALL}
        beside.text(0.0, y, f"{line.effect:+.1f}{interval}", color=INK, **place)
        beside.text(0.47, y, wrapped(str(line.ruling), 26), color=INK if face == "white" else color, **place)
    beside.set(xlim=(0, 1))
    beside.axis("off")
    ax.set(ylim=(sizes.sum(), 0), xlim=(-limit, limit))
    ax.set_yticks(places, names, fontsize=SMALL)
    ax.tick_params(axis="x", labelsize=SMALL)
    ax.grid(visible=False, axis="y")


def _ruling_keys(lines: pd.DataFrame) -> list[Any]:
    keys: list[Any] = [
        Line2D([], [], color=color, marker=marker, mfc=face, ms=4.5, lw=1.3, label=ruling)
        for ruling, (color, marker, face) in RULINGS.items()
        if ruling in set(lines["ruling"])
    ]
    return [*keys, Patch(color=PALE, label=f"smaller than {MARGIN:g} points")]


def _no_gain(ax: Axes, vertical: bool = False) -> None:
    """A line at no difference, and the margin shaded."""
    span, line = (ax.axvspan, ax.axvline) if vertical else (ax.axhspan, ax.axhline)
    span(-MARGIN, MARGIN, color=PALE, lw=0, zorder=0, label=f"smaller than {MARGIN:g} points")
    usual = get_method(BASELINE)
    line(0, color=usual.color, lw=0.9, zorder=1, label=usual.label)


def table_dots(means: pd.DataFrame, seeds: pd.DataFrame) -> Figure:
    """Table 1 as gains on trajectory-share, a line of panels for each task, a column for each estimator.

    ``means`` has task, estimator, row, mean, low, high: the mean over seeds and its interval, a large dot; ``seeds`` has task,
    estimator, row, seed, gain: a small dot each. Gains in points, paired by seed within task and estimator.
    """
    methods, names = methods_in(means), list(means["task"].unique())
    columns = list(means["estimator"].unique())
    size = 0.75 + len(names) * (0.16 * len(methods) + 0.16)
    figure, grid = panels(TEXT, size, len(names), len(columns), sharex=True, sharey=True)
    for axes, task in zip(grid, names, strict=True):
        for ax, estimator in zip(axes, columns, strict=True):
            _no_gain(ax, vertical=True)
            for number, (row, method) in enumerate(methods.items()):
                own = {"task": task, "estimator": estimator, "row": row}
                each, line = where(seeds, **own), where(means, **own)
                look: dict[str, Any] = {"color": method.color, "linestyle": "none", "marker": "o"}
                ax.plot(each["gain"], [number + 0.22] * len(each), ms=2.2, mew=0, alpha=0.65, **look)
                for mean in possible(line, -100.0, 100.0).itertuples():
                    ax.hlines(number - 0.12, mean.low, mean.high, color=method.color, lw=1.4)
                    ax.plot(mean.mean, number - 0.12, ms=4.5, zorder=3, **look)
            ax.set_yticks(range(len(methods)), [method.label for method in methods.values()])
            ax.set_ylim(len(methods) - 0.4, -0.6)
            ax.tick_params(labelsize=SMALL)
            ax.grid(visible=False, axis="y")
        axes[0].set_ylabel(task, fontsize=BODY)
    for ax, estimator in zip(grid[0], columns, strict=True):
        ax.set_title(get_estimator(estimator).label, fontsize=BODY)
    for ax in grid[-1]:
        ax.set_xlabel("gain (points)", fontsize=BODY)
    dot: dict[str, Any] = {"color": INK, "marker": "o"}
    keys = [
        Line2D([], [], **dot, ms=4.5, lw=1.4, label="mean, 95 % interval"),
        Line2D([], [], **dot, ms=2.2, lw=0, label="a seed"),
        *grid[0, 0].get_legend_handles_labels()[0],
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=4, fontsize=SMALL)
    return figure


def _arms(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """How each arm is drawn: in its method's colour and dash, filled where it is the first of that method, else open."""
    looks: dict[str, dict[str, Any]] = {}
    known: set[str] = set()
    for number, line in enumerate(frame.drop_duplicates("arm").itertuples()):
        method = get_method(str(line.row))
        face = "white" if line.row in known else method.color
        known.add(str(line.row))
        style = {"color": method.color, "linestyle": method.dash, "marker": "os^Dv"[number % 5], "mfc": face}
        looks[str(line.arm)] = style | {"label": str(line.label)}
    return looks


def band(gains: pd.DataFrame) -> Figure:
    """Gain of each arm on trajectory-share at the same learning rate, against that rate; a panel for each task, and for all.

    ``gains`` has panel, arm, row, label, rate, mean, low, high, in points. Arms that were trained at one rate alone are single
    points. Arms are set apart sideways, that their intervals can be told apart.
    """
    titles, looks = list(gains["panel"].unique()), _arms(gains)
    figure, (axes,) = panels(TEXT, 2.9, 1, len(titles), sharex=True, sharey=True)
    rates = sorted(gains["rate"].unique())
    for ax, title in zip(axes, titles, strict=True):
        _no_gain(ax)
        for number, (arm, look) in enumerate(looks.items()):
            line = possible(where(gains, panel=title, arm=arm), -100.0, 100.0).sort_values("rate")
            places = line["rate"] * 1.05 ** (number - (len(looks) - 1) / 2)
            reach = (line["mean"] - line["low"], line["high"] - line["mean"])
            ax.errorbar(places, line["mean"], reach, lw=1.1, elinewidth=0.9, ms=3.2, **look)
        ax.set_xscale("log")
        ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_title(title, fontsize=BODY)
        ax.tick_params(labelsize=SMALL)
        ax.grid(visible=False, axis="x")
    axes[0].set_ylabel("gain on trajectory-share (points)", fontsize=BODY)
    figure.supxlabel("learning rate of the policy", fontsize=BODY)
    add_legend(figure, 5, handlelength=2.6)
    return figure


def rates(outcomes: pd.DataFrame, chosen: pd.DataFrame, ylabel: str = "mean outcome of training") -> Figure:
    """Outcome of trajectory-share by learning rate, a panel for each task: small dots are seeds, a line joins their means.

    ``outcomes`` has task, rate, seed, outcome, a line for each run; ``chosen`` task and rate: the rate that was taken, ringed.
    """
    tasks = list(outcomes["task"].unique())
    figure, (axes,) = panels(TEXT, 2.0, 1, len(tasks), sharex=True)
    color, values = get_method(BASELINE).color, sorted(outcomes["rate"].unique())
    for ax, task in zip(axes, tasks, strict=True):
        runs = where(outcomes, task=task)
        means = runs.groupby("rate")["outcome"].mean()
        taken = means[means.index.isin(where(chosen, task=task)["rate"])]
        ax.plot(runs["rate"], runs["outcome"], "o", color=color, ms=2.5, alpha=0.5, mew=0, label="a seed")
        ax.plot(means.index, means, "o-", color=color, ms=4.5, lw=1.4, label="mean over seeds")
        ring: dict[str, Any] = {"ls": "none", "marker": "o", "ms": 10, "mfc": "none", "mew": 1.3}
        ax.plot(taken.index, taken, color=ACCENT, label="chosen rate", **ring)
        ax.set_xscale("log")
        ax.set_xlim(0.8 * values[0], 1.25 * values[-1])
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_title(task, fontsize=BODY)
        ax.tick_params(labelsize=SMALL)
    axes[0].set_ylabel(ylabel, fontsize=BODY)
    figure.supxlabel("learning rate of the policy", fontsize=BODY)
    add_legend(figure, 3)
    return figure


def speed_curves(band: pd.DataFrame, baseline: str = BASELINE) -> Figure:
    """F4, F8, F9: outcome of the training dialogues by step, a line of panels for each task, a column for each method.

    ``band`` has task, row, step, mean, low, high: mean over seeds and its interval, shaded; an outcome lies in [0, 1].
    The curve of the baseline is drawn in every panel, without its interval.
    """
    tasks: Sequence[str] = list(band["task"].unique())
    methods = {row: method for row, method in methods_in(band).items() if row != baseline}
    usual = get_method(baseline)
    size = 0.75 + 0.95 * len(tasks)
    figure, grid = panels(TEXT, size, len(tasks), len(methods), sharex=True, sharey="row")
    for axes, task in zip(grid, tasks, strict=True):
        reference = where(band, task=task, row=baseline)
        for ax, (row, method) in zip(axes, methods.items(), strict=True):
            ax.plot(reference["step"], reference["mean"], color=usual.color, lw=0.9, label=usual.label)
            add_band(ax, possible(where(band, task=task, row=row), 0.0, 1.0), method.color, lw=1.6)
            ax.tick_params(labelsize=SMALL)
            ax.margins(x=0.02)
        axes[0].set_ylabel(task, fontsize=BODY)
    for ax, method in zip(grid[0], methods.values(), strict=True):
        ax.set_title(wrapped(method.label, 14), color=method.color, fontsize=BODY, fontweight="bold")
    for ax in grid[-1]:
        step_axis(ax, 4, "")
    figure.supxlabel("training step", fontsize=BODY)
    figure.supylabel("outcome of the training dialogues", fontsize=BODY)
    keys = [
        Line2D([], [], color=INK, lw=1.6, label="the method of the column: mean over seeds"),
        Patch(color=INK, alpha=0.15, lw=0, label="its 95 % interval"),
        Line2D([], [], color=usual.color, lw=0.9, label=f"{usual.label}: mean"),
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=3, fontsize=SMALL)
    return figure
