"""Text tables in the forms in which people read them: Markdown, LaTeX and HTML; none computes anything.

Captions and notes may hold ``**bold**`` and `` `code` ``, which each form writes its own way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

# What LaTeX reads as a command, and what pdflatex's usual fonts lack.
TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{letter: f"\\{letter}" for letter in "{}$&#_%"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "|": "$|$",
        "–": "--",
        "—": "---",
        "…": r"\dots{}",
        "·": r"$\cdot$",
        "×": r"$\times$",
        "±": r"$\pm$",
        "−": "$-$",
        "≤": r"$\le$",
        "≥": r"$\ge$",
        "→": r"$\to$",
        "η": r"$\eta$",
        "β": r"$\beta$",
        "λ": r"$\lambda$",
        "τ": r"$\tau$",
    }
)


def cells(frame: pd.DataFrame) -> list[list[str]]:
    """The cells of a data frame of texts and numbers as people read them; a missing value is written as a dash.

    >>> cells(pd.DataFrame({"row": ["ITPO"], "tau": [0.123456], "step": [None]}))
    [['ITPO', '0.1235', '–']]
    """

    def cell(value: Any) -> str:
        return "–" if pd.isna(value) else f"{value:.4g}" if isinstance(value, float) else str(value)

    return [[cell(value) for value in row] for row in frame.itertuples(index=False)]


def markdown(frame: pd.DataFrame) -> str:
    """A data frame of texts and numbers as a Markdown table; a missing value is written as a dash.

    >>> print(markdown(pd.DataFrame({"row": ["ITPO"], "tau": [0.25], "step": [None]})))
    | row | tau | step |
    |---|---|---|
    | ITPO | 0.25 | – |
    """
    head, *rows = (f"| {' | '.join(line)} |" for line in [list(map(str, frame.columns)), *cells(frame)])
    return "\n".join([head, "|" + "---|" * len(frame.columns), *rows])


def latex(columns: Sequence[str], rows: Sequence[Sequence[str]], name: str, caption: str) -> str:
    """A text table as a LaTeX ``table`` with a caption and the label ``tab:<name>``, no wider than the text.

    >>> print(latex(["row", "gain (%)"], [["ITPO", "–"]], "T0_gains", "A `smoke` run."))
    % needs \\usepackage{adjustbox,booktabs}
    \\begin{table}
    \\centering
    \\caption{A \\texttt{smoke} run.}
    \\label{tab:T0_gains}
    \\begin{adjustbox}{max width=\\textwidth}
    \\begin{tabular}{ll}
    \\toprule
    row & gain (\\%) \\\\
    \\midrule
    ITPO & -- \\\\
    \\bottomrule
    \\end{tabular}
    \\end{adjustbox}
    \\end{table}
    """
    frame = pd.DataFrame(rows).set_axis([tex(column) for column in columns], axis=1)
    tabular = frame.style.hide().format(tex).to_latex(hrules=True, column_format="l" * len(columns))
    # A bracket after the end of a line would be read as its option.
    tabular = re.sub(r"^(\[[^&\n]*?) (&|\\\\)", r"{\1} \2", tabular, flags=re.MULTILINE)
    return (
        "% needs \\usepackage{adjustbox,booktabs}\n\\begin{table}\n\\centering\n"
        f"\\caption{{{_tex_marks(caption)}}}\n\\label{{tab:{name}}}\n"
        f"\\begin{{adjustbox}}{{max width=\\textwidth}}\n{tabular}\\end{{adjustbox}}\n\\end{{table}}"
    )


def tex(text: str) -> str:
    """Text for LaTeX, every letter of it printed as it stands.

    >>> print(tex("50 % of $x_k$ – a < b"))
    50 \\% of \\$x\\_k\\$ -- a $<$ b
    """
    return text.translate(TEX)


def _tex_marks(text: str) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", tex(text))
    return re.sub(r"`(.+?)`", r"\\texttt{\1}", text)


def html_marks(text: str) -> Markup:
    """Text with ``**bold**`` and `` `code` `` as HTML, everything else escaped.

    >>> print(html_marks("**a < b** in `x`"))
    <strong>a &lt; b</strong> in <code>x</code>
    """
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text)))
    return Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", text))
