"""One look for all figures: sizes of a paper's columns, colours, legends, captions, and where figures are kept.

A drawing takes data frames, numbers and texts, and returns a matplotlib ``Figure``; it computes nothing. A method has the
colour, dash and label of its entry in :data:`itpo.attribution.METHODS`. :func:`itpo.figures.publishing.registry.publish` writes
a figure with the data in it beside it.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from itpo.attribution import METHODS, MethodEntry, get_method
from itpo.runs.paths import project_root

COMMITTED = ("laptop", "smol")  # the profiles whose figures and notebook outputs are kept in the repository
COLUMN, TEXT = 3.4, 7.0  # widths in inches: one column, both columns
SMALL, BODY = 6.5, 7.5  # font sizes in points

# Colours of what is no method, from Okabe and Ito's palette, which colour-blind readers can tell apart.
ACCENT, POSITIVE, NEGATIVE = "#D55E00", "#009E73", "#CC79A7"
INK, QUIET = "#333333", "#8c8c8c"
RAW, NORM = (METHODS[name].color for name in ("itpo", "norm_itpo"))
SIGNED = plt.get_cmap("RdBu")  # red below zero, blue above

_notebook = ""


def use_style(notebook: str = "") -> None:
    """Set fonts and grid for figures that are read at column width.

    ``notebook`` ("02_main_results") is where figures published from now on come from, for the gallery to link.
    """
    global _notebook
    _notebook = notebook
    sns.set_theme(context="paper", style="whitegrid", font_scale=0.9)
    mpl.rcParams.update({"figure.dpi": 110, "savefig.dpi": 200, "axes.titlesize": 9, "legend.frameon": False})


def notebook() -> str:
    """The notebook that :func:`use_style` was last called with, or an empty text.

    >>> use_style("02_main_results")
    >>> notebook()
    '02_main_results'
    """
    return _notebook


# Methods


def methods_in(frame: pd.DataFrame) -> dict[str, MethodEntry]:
    """The methods in a frame's column ``row``: those of the package in their order, then others (``module:name``) by name.

    >>> list(methods_in(pd.DataFrame({"row": ["norm_itpo", "prime", "norm_itpo"]})))
    ['prime', 'norm_itpo']
    """
    names = set(frame["row"])
    ordered = [name for name in METHODS if name in names] + sorted(names - METHODS.keys())
    return {name: get_method(name) for name in ordered}


def where(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The lines of a frame that have these values in these columns.

    >>> where(pd.DataFrame({"row": ["itpo", "prime"], "step": [0, 0], "mean": [0.1, 0.2]}), row="prime", step=0)["mean"].item()
    0.2
    """
    chosen = np.ones(len(frame), dtype=bool)
    for column, value in values.items():
        chosen &= (frame[column] == value).to_numpy()
    return frame[chosen]


# Figures and their parts


def blank(width: float, height: float, **options: Any) -> Figure:
    """An empty figure of this size in inches that pyplot does not list: a notebook would show a listed one twice.

    >>> plt.fignum_exists(blank(COLUMN, 2.0).number)
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


def add_band(ax: Axes, band: pd.DataFrame, color: str, shaded: bool = True, **line: Any) -> None:
    """A curve of the means and, shaded, its interval, by the columns ``step``, ``mean``, ``low`` and ``high``."""
    if shaded:
        ax.fill_between(band["step"], band["low"], band["high"], color=color, alpha=0.15, linewidth=0)
    ax.plot(band["step"], band["mean"], color=color, **line)


def step_axis(ax: Axes, ticks: int, label: str = "training step") -> None:
    """Whole numbers on the horizontal axis, in at most so many intervals."""
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))


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


def add_caption(figure: Figure, caption: str) -> Figure:
    """Write the caption under the axes, wrapped to the figure's width.

    >>> add_caption(blank(COLUMN, 2.0), "[smoke] Two words.").texts[0].get_text()
    '[smoke] Two words.'
    """
    width = int(figure.get_figwidth() * 19)
    figure.text(0.01, -0.01, "\n".join(textwrap.wrap(caption, width)), ha="left", va="top", fontsize=7)
    return figure


def output_folder(profile: str) -> Path:
    """Where a profile's figures go: ``figures/`` for the committed profiles, else ``build/<profile>/figures``.

    >>> output_folder("laptop") == project_root() / "figures"
    True
    """
    root = project_root()
    folder = root / "figures" if profile in COMMITTED else root / "build" / profile / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
