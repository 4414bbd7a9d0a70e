"""Everything public is explained: every function and class says what it does, and every function is shown at work."""

import ast
import doctest
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "itpo"
NOTEBOOKS = sorted((PACKAGE.parent / "notebooks").glob("*.py"))
# Programs, which are called by their command line: the README and notebooks show that.
PROGRAMS = ("__main__.py", "data/verifier.py", "apps/")

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Public(NamedTuple):
    """A public function, class or method: its module's file, its name ("MethodEntry.options" for a method), its definition."""

    module: str
    name: str
    node: Definition


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def public(module: str, body: list[ast.stmt], prefix: str = "") -> Iterator[Public]:
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield Public(module, prefix + node.name, node)
            if isinstance(node, ast.ClassDef):
                yield from public(module, node.body, f"{node.name}.")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if not re.match("_[^_]", path.name)]
MODULES = {path.relative_to(PACKAGE).as_posix(): tree(path) for path in FILES}
PUBLIC = [item for module, code in MODULES.items() for item in public(module, code.body)]


def examples(code: ast.Module) -> Iterator[ast.Module]:
    """The examples in the docstrings of a module."""
    for node in ast.walk(code):
        if isinstance(node, ast.Module | Definition) and (text := ast.get_docstring(node)):
            yield from (ast.parse(example.source) for example in doctest.DocTestParser().get_examples(text))


def used(code: ast.AST) -> set[str]:
    """Every name that code reads or calls, as a name or after a dot; importing alone is no use."""
    names = {node.id for node in ast.walk(code) if isinstance(node, ast.Name)}
    return names | {node.attr for node in ast.walk(code) if isinstance(node, ast.Attribute)}


@pytest.fixture(scope="module")
def shown() -> set[str]:
    code = [example for module in MODULES.values() for example in examples(module)]
    return set().union(*map(used, [*code, *map(tree, NOTEBOOKS)]))


def test_all_that_is_public_says_what_it_does():
    silent = [item[:2] for item in PUBLIC if not ast.get_docstring(item.node)]
    assert not silent


def test_every_public_function_is_at_work_in_a_notebook_or_in_an_example(shown):
    functions = [  # methods are shown with their classes
        item
        for item in PUBLIC
        if not isinstance(item.node, ast.ClassDef)
        and "." not in item.name
        and not item.module.startswith(PROGRAMS)
    ]
    missing = [item[:2] for item in functions if item.name not in shown]
    assert not missing
