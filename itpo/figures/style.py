"""One look for all figures: a colour for each method, sizes of a paper's columns, and how a figure is published.

A figure function takes data and returns a matplotlib ``Figure``; it computes nothing. :func:`publish` writes it with the
table of the numbers in it beside it.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from itpo.paths import project_root

COMMITTED = ("laptop", "smol")  # the profiles whose figures and notebook outputs are kept in the repository
COLUMN, TEXT = 3.4, 7.0  # widths in inches: one column, both columns

# Okabe and Ito's colour-blind-safe palette; the same colour for a method in every figure.
ROW_COLORS = {
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


def use_style() -> None:
    """Set fonts and grid for figures that are read at column width."""
    sns.set_theme(context="paper", style="whitegrid", font_scale=0.9)
    mpl.rcParams.update({"figure.dpi": 110, "savefig.dpi": 200, "axes.titlesize": 9, "legend.frameon": False})


def shown_once(figure: Figure) -> Figure:
    """The figure, taken out of pyplot's list: a notebook would show it at the end of the cell and as its value."""
    plt.close(figure)
    return figure


def output_folder(profile: str) -> Path:
    """Where a profile's figures go: ``figures/`` for the committed profiles, else ``build/<profile>/figures``."""
    root = project_root()
    folder = root / "figures" if profile in COMMITTED else root / "build" / profile / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def add_caption(figure: Figure, caption: str) -> Figure:
    """Write the caption under the axes, wrapped to the figure's width."""
    width = int(figure.get_figwidth() * 19)
    figure.text(0.01, -0.01, "\n".join(textwrap.wrap(caption, width)), ha="left", va="top", fontsize=7)
    return figure


def publish(figure: Figure, name: str, numbers: pd.DataFrame, profile: str, caption: str) -> Figure:
    """Caption a figure and write ``<name>.png`` and ``<name>.csv`` (the numbers in it) to the profile's folder.

    The caption gets the profile's name in front. Returns the figure, to be shown by the notebook.
    """
    folder = output_folder(profile)
    add_caption(figure, f"[{profile}] {caption}")
    figure.savefig(folder / f"{name}.png", bbox_inches="tight", metadata={"Software": None})
    numbers.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    return figure
