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
    """A data frame of texts and numbers as a Markdown table, each row on one line; a missing value is written as a dash.

    >>> print(markdown(pd.DataFrame({"row": ["ITPO"], "tau": [0.25], "step": [None]})))
    | row | tau | step |
    |---|---|---|
    | ITPO | 0.25 | – |
    >>> print(markdown(pd.DataFrame({"p(a | b)": ["`a`\\nb"]})))
    | p(a \\| b) |
    |---|
    | \\`a\\` b |
    """

    def plain(cell: str) -> str:
        return re.sub(r"(\\*)([|`])", r"\1\1\\\2", _one_line(cell))

    lines = [list(map(str, frame.columns)), *cells(frame)]
    head, *rows = (f"| {' | '.join(map(plain, line))} |" for line in lines)
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
    # A bracket or a star after the end of a line would be read as its option.
    first, *lines = [
        re.sub(r"^([\[*].*?)(?= & |$)", r"{\1}", " & ".join(tex(cell) for cell in line)) + r" \\"
        for line in (columns, *rows)
    ]
    return "\n".join(
        [
            r"% needs \usepackage{adjustbox,booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex_marks(caption)}}}",
            rf"\label{{tab:{name}}}",
            r"\begin{adjustbox}{max width=\textwidth}",
            rf"\begin{{tabular}}{{{'l' * len(columns)}}}",
            r"\toprule",
            first,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{adjustbox}",
            r"\end{table}",
        ]
    )


def tex(text: str) -> str:
    """Text for LaTeX, every letter of it printed as it stands, on one line.

    >>> print(tex("50 % of $x_k$ – a < b"))
    50 \\% of \\$x\\_k\\$ -- a $<$ b
    """
    return _one_line(text).translate(TEX)


def _one_line(text: str) -> str:
    """Text without the ends of lines and the control characters, which end a table's row or a compilation."""
    return re.sub(r"\s*[\x00-\x1f\x7f-\x9f\u2028\u2029]\s*", " ", text)


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
