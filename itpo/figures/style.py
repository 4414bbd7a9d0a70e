"""One look for all figures: sizes of a paper's columns, colours, captions, and where figures are kept.

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
import seaborn as sns
from matplotlib.figure import Figure

from itpo.attribution import METHODS
from itpo.runs.paths import project_root

COMMITTED = ("laptop", "smol")  # the profiles whose figures and notebook outputs are kept in the repository
COLUMN, TEXT = 3.4, 7.0  # widths in inches: one column, both columns
SMALL, BODY = 6.5, 7.5  # font sizes in points

# Colours of what is no method: no method has one of them. They differ in lightness too, for colour-blind readers.
ACCENT, POSITIVE, NEGATIVE, LIGHT = "#b5179e", "#1a1a80", "#b2182b", "#9acd32"
INK, QUIET, PALE = "#333333", "#8a8f98", "#e4e4e4"
# Colour, line and marker of curves that are no methods, in order.
SERIES: tuple[tuple[str, Any, str], ...] = (
    (POSITIVE, "-", "o"),
    (NEGATIVE, "--", "s"),
    (ACCENT, "-.", "^"),
    (LIGHT, ":", "D"),
    (INK, (0, (5, 1)), "v"),
)
RAW, NORM = (METHODS[name].color for name in ("itpo", "norm_itpo"))  # where they stand for these two methods
SIGNED = plt.get_cmap("RdBu")  # red below zero, blue above

_notebook = ""


def use_style(notebook: str = "") -> None:
    """Set fonts and grid for figures that are read at column width.

    ``notebook`` ("02_main_results") is where figures published from now on come from, for the gallery to link.
    """
    global _notebook
    _notebook = notebook
    sns.set_theme(context="paper", style="whitegrid", font_scale=0.9)
    mpl.rcParams.update({"figure.dpi": 100, "savefig.dpi": 200, "axes.titlesize": 9, "legend.frameon": False})


def notebook() -> str:
    """The notebook that :func:`use_style` was last called with, or an empty text.

    >>> use_style("02_main_results")
    >>> notebook()
    '02_main_results'
    """
    return _notebook


def add_caption(figure: Figure, caption: str) -> Figure:
    """Write the caption under the axes, wrapped to the figure's width.

    >>> add_caption(Figure(), "[smoke] Two words.").texts[0].get_text()
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
