"""What the notebooks say: short cells, exercises with folded solutions, and no result that a new run could make wrong.

Nothing is executed: that is `make notebooks`.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import jupytext
import pytest
from markdown_it import MarkdownIt
from nbconvert.filters.markdown_mistune import markdown2html_mistune

NOTEBOOKS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "notebooks").glob("[0-9]*.py"))}
MOST_WORDS = 150  # of a markdown cell
SOLUTION = re.compile(r"<details><summary>Solution</summary>\n\n(.*?)\n</details>", re.DOTALL)
# Sentences on the numbers of one run, which stand still when the run is made again: an interval, a signed number of points.
RESULT = re.compile(
    r"what the committed run|written after seeing"
    r"|\d\s*\[[-+]?\d[\d.]*,\s*[-+]?\d|(?<![\w$])[-+]\d+(?:\.\d+)? (?:points|and [-+]\d)",
    re.IGNORECASE,
)
AS_COMMITTED = re.compile(r"as committed on \d{4}-\d\d-\d\d", re.IGNORECASE)


def cells(name: str, kind: str) -> list[str]:
    return [cell.source for cell in jupytext.read(NOTEBOOKS[name]).cells if cell.cell_type == kind]


def hard_coded(text: str) -> Iterator[str]:
    """The paragraphs that state a result and not of which day's run."""
    paragraphs = re.split(r"\n\s*\n", re.sub(r"\$[^$]*\$", "$x$", text))  # formulas are no results
    return (p for p in paragraphs if RESULT.search(p) and not AS_COMMITTED.search(p))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_cell_is_a_wall_of_text_or_of_code(name: str) -> None:
    assert [text for text in cells(name, "markdown") if len(text.split()) > MOST_WORDS] == []
    lines = [sum(bool(line.strip()) for line in code.splitlines()) for code in cells(name, "code")]
    assert median(lines) < 10


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_question_comes_first(name: str) -> None:
    first = cells(name, "markdown")[0]
    assert first.startswith("# ") and "?" in first


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_results_are_computed_or_say_of_which_day_they_are(name: str) -> None:
    assert [p for text in cells(name, "markdown") for p in hard_coded(text)] == []


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("**What the committed run says.** H1 holds.", 1),
        ("**What the committed run says**, as committed on 2026-11-26: H1 holds.", 0),
        ("The judge is 14.5 [6.5, 22.4] points behind.", 1),
        ("Its gain is -0.6 points, and +4.7 points later.\n\nElsewhere +1.5 points.", 2),
        ("Gains of the reported size (3.4 points on math [S]) are assumed.", 0),
        (r"An outcome $R\in[0,1]$, $+0.625 and -0.25$, clip(0.8, 1.2), a 95 % interval.", 0),
    ],
)
def test_what_counts_as_a_result(text: str, wrong: int) -> None:
    assert len(list(hard_coded(text))) == wrong


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_two_or_three_exercises_have_folded_solutions_that_render(name: str) -> None:
    texts = [text for text in cells(name, "markdown") if "<details>" in text]
    asked = re.findall(r"^\*\*(\d)\.\*\* ", "\n".join(texts), re.MULTILINE)
    solutions = SOLUTION.findall("\n".join(texts))
    assert asked in (["1", "2"], ["1", "2", "3"]) and len(solutions) == len(asked)
    for text in texts:
        for page in (
            markdown2html_mistune(text),
            MarkdownIt().render(text),
        ):  # as pages of documents, as CommonMark
            assert page.count("<details><summary>Solution</summary>\n") == page.count("</details>")
            # Inside the fold text is text, and code is code.
            assert page.count("<details>") == len(re.findall(r"</summary>\s*<(?:p|pre|div)\b", page))
            assert "```" not in page


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_code_of_solutions_uses_what_the_notebook_has(name: str) -> None:
    known = set(dir(builtins))
    for code in cells(name, "code"):
        known |= names(code, ast.Store)
    for solution in SOLUTION.findall("\n".join(cells(name, "markdown"))):
        for code in re.findall(r"```python\n(.*?)```", solution, re.DOTALL):
            assert names(code, ast.Load) <= known | names(code, ast.Store)


def names(code: str, use: type[ast.expr_context]) -> set[str]:
    """The names that code reads, or those that it gives to something: by assigning, importing or defining it."""
    nodes = list(ast.walk(ast.parse(code)))
    found = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, use)}
    if use is ast.Store:
        found |= {
            a.asname or a.name for n in nodes if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names
        }
        found |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        found |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return found


def test_the_install_cell_is_the_same_everywhere_and_does_nothing_outside_of_colab() -> None:
    first, second = (cells(name, "code")[0] for name in ("00_tour", "01_training"))
    assert first == second and "google.colab" in first
    loaded = {}
    exec(first, loaded)
    assert set(loaded) <= {"__builtins__", "sys"}
