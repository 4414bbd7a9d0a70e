"""What drawings are made of: figures and panels, bands, legends, axes, and the methods in a frame."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from itpo.attribution import METHODS, MethodEntry, get_method
from itpo.figures.style import INK, QUIET, SMALL

BASELINE = "trajectory_share"  # with which the other methods are compared


def methods_in(frame: pd.DataFrame) -> dict[str, MethodEntry]:
    """The methods in a frame's column ``row``: those of the package in their order, then others (``module:name``) by name.

    >>> list(methods_in(pd.DataFrame({"row": ["norm_itpo", "prime", "norm_itpo"]})))
    ['prime', 'norm_itpo']
    """
    names = set(frame["row"])
    ordered = [name for name in METHODS if name in names] + sorted(names - METHODS.keys())
    return {name: get_method(name) for name in ordered}


def look(method: MethodEntry) -> dict[str, Any]:
    """Colour, dash and label of a method's curve."""
    return {"color": method.color, "linestyle": method.dash, "label": method.label}


def where(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The lines of a frame that have these values in these columns.

    >>> where(pd.DataFrame({"row": ["itpo", "prime"], "step": [0, 0], "mean": [0.1, 0.2]}), row="prime", step=0)["mean"].item()
    0.2
    """
    chosen = np.ones(len(frame), dtype=bool)
    for column, value in values.items():
        chosen &= (frame[column] == value).to_numpy()
    return frame[chosen]


def possible(frame: pd.DataFrame, least: float, most: float) -> pd.DataFrame:
    """The frame with the columns low and high only where the whole interval can be true; elsewhere they are ``nan``.

    >>> frame = pd.DataFrame({"mean": [0.5, 0.98], "low": [0.4, 0.9], "high": [0.6, 1.06]})
    >>> possible(frame, 0.0, 1.0)["high"].tolist()
    [0.6, nan]
    """
    inside = (frame["low"] >= least) & (frame["high"] <= most)
    return frame.assign(low=frame["low"].where(inside), high=frame["high"].where(inside))


def blank(width: float, height: float, **options: Any) -> Figure:
    """An empty figure of this size in inches that pyplot does not list: a notebook would show a listed one twice.

    >>> plt.fignum_exists(blank(3.4, 2.0).number)
    False
    """
    figure = plt.figure(figsize=(width, height), **options)
    plt.close(figure)
    return figure


def panels(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of this size in inches with a grid of axes; ``options`` are those of ``Figure.subplots``."""
    figure = blank(width, height, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def add_legend(figure: Figure, columns: int, **options: Any) -> None:
    """A legend above the panels that names everything labelled in any of them once."""
    handles: dict[Any, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    place: dict[str, Any] = {"loc": "outside upper center", "ncols": columns, "fontsize": SMALL}
    figure.legend(list(handles.values()), list(handles), **place, **options)


def add_shading(figure: Figure, label: str) -> None:
    """An entry for shaded bands in the legend that :func:`add_legend` makes."""
    figure.axes[-1].fill_between([], [], color=INK, alpha=0.15, linewidth=0, label=label)


def add_band(ax: Axes, band: pd.DataFrame, color: str, shaded: bool = True, **line: Any) -> None:
    """A curve of the means and, shaded, its interval, by the columns ``step``, ``mean``, ``low`` and ``high``."""
    if shaded:
        ax.fill_between(band["step"], band["low"], band["high"], color=color, alpha=0.15, linewidth=0)
    ax.plot(band["step"], band["mean"], color=color, **line)


def step_axis(ax: Axes, ticks: int, label: str = "training step") -> None:
    """Whole numbers on the horizontal axis, in at most so many intervals."""
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))


def mark_warm_up(ax: Axes, first: float) -> None:
    """A dashed line where training begins, with what is on either side of it, if the first step is a negative one."""
    if first < 0:
        ax.axvline(-0.5, color=QUIET, linewidth=0.8, linestyle="--")
        place: dict[str, Any] = {
            "xycoords": ("data", "axes fraction"),
            "textcoords": "offset points",
            "fontsize": 5.5,
        }
        for text, side, shift in (("warm-up", "right", -2), ("training", "left", 2)):
            ax.annotate(text, (-0.5, 0.02), xytext=(shift, 0), ha=side, **place)


def symmetric(values: np.ndarray) -> Normalize:
    """A colour scale for numbers around 0."""
    bound = max(float(np.abs(values).max()), 1e-9)  # a scale needs a width
    return Normalize(-bound, bound)


def wrapped(text: str, width: int) -> str:
    """A label in lines of at most so many letters, unless one word is longer.

    >>> wrapped("LLM-as-a-judge", 11)
    'LLM-as-a-\\njudge'
    """
    return textwrap.fill(text, width, break_long_words=False)
