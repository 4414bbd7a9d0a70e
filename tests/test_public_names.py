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
PROGRAMS = {"__main__.py", "data/verifier.py"}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Public(NamedTuple):
    """A public function, class or method, and the name by which people find it."""

    name: str
    node: Definition
    within: Path


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def public(body: list[ast.stmt], path: Path, prefix: str) -> Iterator[Public]:
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield Public(f"{prefix}{node.name}", node, path)
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, path, f"{prefix}{node.name}.")


MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
PUBLIC = [item for name, path in MODULES.items() for item in public(tree(path).body, path, f"{name}: ")]


def examples(path: Path) -> Iterator[ast.Module]:
    """The examples in the docstrings of a module."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree(path)):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield from (ast.parse(example.source) for example in doctest.DocTestParser().get_examples(text))


def used(code: ast.AST) -> set[str]:
    """Every name that code reads or calls, as a name or after a dot; importing alone is no use."""
    names = {node.id for node in ast.walk(code) if isinstance(node, ast.Name)}
    return names | {node.attr for node in ast.walk(code) if isinstance(node, ast.Attribute)}


@pytest.fixture(scope="module")
def shown() -> set[str]:
    code = [example for path in MODULES.values() for example in examples(path)]
    return set().union(*map(used, [*code, *map(tree, NOTEBOOKS)]))


def test_all_that_is_public_says_what_it_does():
    silent = [item.name for item in PUBLIC if not ast.get_docstring(item.node)]
    assert len(PUBLIC) > 500 and not silent


def test_every_public_function_is_at_work_in_a_notebook_or_in_an_example(shown):
    functions = [
        item
        for item in PUBLIC
        if isinstance(item.node, ast.FunctionDef)
        and re.fullmatch(r"\S+: \w+", item.name)  # methods are shown with their classes
        and item.within.relative_to(PACKAGE).as_posix() not in PROGRAMS
    ]
    missing = [item.name for item in functions if item.node.name not in shown]
    assert len(functions) > 300 and not missing
