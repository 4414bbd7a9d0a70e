"""One look for all figures: a colour for each method, sizes of a paper's columns, captions, and where figures are kept.

A figure function takes data and returns a matplotlib ``Figure``; it computes nothing. :func:`itpo.figures.publishing.registry.publish`
writes it with the data in it beside it.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from itpo.runs.paths import project_root

COMMITTED = ("laptop", "smol")  # the profiles whose figures and notebook outputs are kept in the repository
COLUMN, TEXT = 3.4, 7.0  # widths in inches: one column, both columns

# Okabe and Ito's colour-blind-safe palette; the same colour for a method in every figure.
METHOD_COLORS = {
    "trajectory_share": "#000000",
    "uniform": "#999999",
    "value_model": "#CC79A7",
    "judge": "#009E73",
    "prime": "#E69F00",
    "itpo": "#56B4E9",
    "norm_itpo": "#0072B2",
}
ACCENT, POSITIVE, NEGATIVE = "#D55E00", "#009E73", "#CC79A7"
INK, QUIET = "#333333", "#8c8c8c"
SMALL, BODY = 6.5, 7.5  # font sizes in points


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
    """The notebook that :func:`use_style` was told of, or an empty text.

    >>> use_style("02_main_results")
    >>> notebook()
    '02_main_results'
    """
    return _notebook


def shown_once(figure: Figure) -> Figure:
    """The figure, taken out of pyplot's list: a notebook would show it at the end of the cell and as its value.

    >>> figure = shown_once(plt.figure())
    >>> plt.fignum_exists(figure.number)
    False
    """
    plt.close(figure)
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


def add_caption(figure: Figure, caption: str) -> Figure:
    """Write the caption under the axes, wrapped to the figure's width.

    >>> figure = add_caption(shown_once(plt.figure(figsize=(COLUMN, 2))), "[smoke] Two words.")
    >>> figure.texts[0].get_text()
    '[smoke] Two words.'
    """
    width = int(figure.get_figwidth() * 19)
    figure.text(0.01, -0.01, "\n".join(textwrap.wrap(caption, width)), ha="left", va="top", fontsize=7)
    return figure
