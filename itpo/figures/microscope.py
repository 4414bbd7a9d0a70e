"""Figures of the gradient microscope: what each method's credit is worth, and a map of it over settings.

Worth is how many times the batch trajectory-share would need for as good a gradient; axes and colours are logarithmic. The
frames are those of :mod:`itpo.study.microscope_tables`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from itpo.attribution import get_method
from itpo.figures._parts import BASELINE, panels, where, wrapped
from itpo.figures.style import BODY, INK, PALE, QUIET, SIGNED, SMALL, TEXT

MARKERS = "osD^v"  # of the policies, in order
TICKS = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
LEAST, MOST = 1 / 16, 32.0  # of the axis; beyond it a mark stands at its end
DEEPEST = 3.0  # doublings at which colours end


def _color(row: str) -> str:
    """The colour of a method; that of texts where the row is no method."""
    return get_method(row).color if row else INK


def _text(value: float) -> str:
    """A worth in at most three digits; fractions of 1 as they are said.

    >>> _text(2.96), _text(12.3), _text(0.25), _text(1 / 16)
    ('3.0', '12', '.25', '.06')
    """
    if value >= 9.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2f}".removeprefix("0")


def worths(table: pd.DataFrame) -> Figure:
    """What each method's credit is worth, a panel for each task, a line for each method, a mark for each policy.

    ``table`` has panel, policy (a text), name, label, row (a method, or empty), worth, worth_low, worth_high, counts. Marks
    are filled where the difference to trajectory-share, the line at 1, ``counts``. Worths that are ``nan`` are left out.
    """
    names = table.drop_duplicates("name").set_index("name")
    policies, parts = list(dict.fromkeys(table["policy"])), list(dict.fromkeys(table["panel"]))
    figure, (axes,) = panels(TEXT, 1.1 + 0.235 * len(names), 1, len(parts), sharex=True, sharey=True)
    usual = get_method(BASELINE)
    for ax, part in zip(axes, parts, strict=True):
        ax.axvline(1, color=usual.color, lw=0.9, zorder=1)
        for number, policy in enumerate(policies):
            shift = 0.24 * (number - (len(policies) - 1) / 2)
            for line in where(table, panel=part, policy=policy).dropna(subset="worth").itertuples():
                _mark(ax, line, list(names.index).index(line.name) + shift, MARKERS[number])
        for place in range(0, len(names), 2):
            ax.axhspan(place - 0.5, place + 0.5, color=PALE, alpha=0.45, lw=0, zorder=0)
        ax.set_title(part, fontsize=BODY, color=INK)
        ax.set(xscale="log", xlim=(LEAST / 1.15, MOST * 1.15), ylim=(len(names) - 0.5, -0.5))
        ax.set_xticks(TICKS, [_tick(tick) for tick in TICKS])
        ax.set_xticks([], minor=True)
        ax.set_yticks(range(len(names)), names["label"])
        ax.tick_params(labelsize=SMALL, length=0)
        ax.grid(visible=False, axis="y")
    figure.supxlabel("worth: times the batch (log scale), with 95 % interval", fontsize=BODY)
    figure.supylabel("credit by", fontsize=BODY)
    shape: dict[str, Any] = {"color": INK, "ls": "", "ms": 4.5}
    keys = [Line2D([], [], marker=m, label=p, **shape) for m, p in zip(MARKERS, policies, strict=False)]
    keys.append(Line2D([], [], marker="o", mfc="white", label="no clear difference", **shape))
    keys.append(Line2D([], [], color=usual.color, lw=0.9, label=usual.label))
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), fontsize=SMALL)
    return figure


def _tick(value: float) -> str:
    return f"{value:g}" if value >= 1 else f"1/{1 / value:g}"


def _mark(ax: Axes, line: Any, place: float, marker: str) -> None:
    color, at = _color(line.row), float(np.clip(line.worth, LEAST, MOST))
    if line.name != BASELINE and line.worth_low == line.worth_low:
        ax.hlines(place, max(line.worth_low, LEAST), min(line.worth_high, MOST), color=color, lw=0.9)
    face = color if line.counts or line.name == BASELINE else "white"
    style: dict[str, Any] = {"color": color, "mfc": face, "ms": 4, "mew": 0.9, "zorder": 3}
    ax.plot(at, place, marker if at == line.worth else "<" if at == LEAST else ">", **style)


def worth_map(table: pd.DataFrame) -> Figure:
    """A map of what methods are worth: a line for each setting, a column for each method, in groups of settings.

    ``table`` has group, setting (texts), name, label, worth, counts. Blue is worth more than trajectory-share, red less, white
    is 1; cells whose difference does not ``count`` are grey, and those without a number empty.
    """
    names = table.drop_duplicates("name").set_index("name")["label"]
    settings = table[["group", "setting"]].drop_duplicates().reset_index(drop=True)
    values, counted = (
        table.pivot(index=["group", "setting"], columns="name", values=column)
        .reindex(index=pd.MultiIndex.from_frame(settings), columns=names.index)
        .to_numpy()
        for column in ("worth", "counts")
    )
    figure, ((ax,),) = panels(TEXT, 1.6 + 0.21 * len(settings), 1, 1)
    gaps = (settings["group"] != settings["group"].shift()).cumsum() - 1
    places = settings.index + 0.45 * gaps
    for place, worth_line, line in zip(places, values, counted, strict=True):
        for column, (worth, counts) in enumerate(zip(worth_line, line, strict=True)):
            if np.isfinite(worth):
                _cell(ax, column, place, float(worth), bool(counts))
    for group, lines in settings.groupby("group", sort=False):
        label = wrapped(str(group), 18)
        middle = places[lines.index].mean()
        ax.annotate(label, (-0.5, middle), (-150, 0), textcoords="offset points", **_SIDE)
    ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(places.max() + 0.5, -0.5))
    ax.set_xticks(range(len(names)), names, rotation=40, ha="left", rotation_mode="anchor")
    ax.set_yticks(places, settings["setting"])
    ax.xaxis.tick_top()
    ax.tick_params(labelsize=SMALL, length=0)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    figure.supylabel("setting", fontsize=BODY)
    ax.set_xlabel("method; numbers: worth in times the batch", fontsize=BODY)
    keys = [
        Patch(color=SIGNED(0.85), label="worth more than trajectory-share"),
        Patch(color=SIGNED(0.15), label="worth less"),
        Patch(color=PALE, label="no clear difference"),
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=3, fontsize=SMALL)
    return figure


_SIDE: dict[str, Any] = {"ha": "left", "va": "center", "fontsize": SMALL, "color": QUIET}


def _cell(ax: Axes, column: int, place: float, worth: float, counts: bool) -> None:
    doublings = np.log2(max(worth, 2.0**-DEEPEST))
    shade = 0.5 + 0.5 * float(np.clip(doublings / DEEPEST, -1, 1))
    color = SIGNED(shade) if counts else PALE
    ax.add_patch(Rectangle((column - 0.48, place - 0.46), 0.96, 0.92, facecolor=color, lw=0))
    ink = "white" if counts and abs(shade - 0.5) > 0.32 else INK if counts else QUIET
    ax.text(column, place, _text(worth), ha="center", va="center", fontsize=SMALL, color=ink)
