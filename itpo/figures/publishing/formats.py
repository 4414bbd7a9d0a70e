"""Text tables in the forms in which people read them: Markdown, LaTeX and HTML; none computes anything.

Captions and notes may hold ``**bold**`` and `` `code` ``, which each form writes its own way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

# What LaTeX reads as a command, and what pdflatex's usual fonts lack.
TEX = {
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


def latex(columns: Sequence[str], rows: Iterable[Sequence[str]], name: str, caption: str) -> str:
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
    body = [f"      {_tex_row(row)}" for row in rows]
    lines = [
        r"% needs \usepackage{adjustbox,booktabs}",
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{_tex_marks(caption)}}}",
        f"  \\label{{tab:{name}}}",
        r"  \begin{adjustbox}{max width=\textwidth}",
        f"    \\begin{{tabular}}{{{'l' * len(columns)}}}",
        r"      \toprule",
        f"      {_tex_row(columns)}",
        r"      \midrule",
        *body,
        r"      \bottomrule",
        r"    \end{tabular}",
        r"  \end{adjustbox}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def tex(text: str) -> str:
    """Text for LaTeX, every letter of it printed as it stands.

    >>> print(tex("50 % of $x_k$ – a < b"))
    50 \\% of \\$x\\_k\\$ -- a $<$ b
    """
    return "".join(TEX.get(letter, letter) for letter in text)


def _tex_row(row: Sequence[str]) -> str:
    # A bracket after the end of a line would be read as its option.
    first = f"{{{tex(row[0])}}}" if row[0].startswith("[") else tex(row[0])
    return rf"{' & '.join([first, *map(tex, row[1:])])} \\"


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
