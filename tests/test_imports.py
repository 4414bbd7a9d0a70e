"""Who may import whom, what an import loads, and what help costs."""

import ast
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "itpo"
METHOD = {"turns", "prm", "attribution", "advantages", "losses", "estimators", "rivals"}
# From below: a part may import those before it, and none beside it. (Only the modules of the method import one another.)
LEVELS = [
    {"extras"},
    METHOD,
    {"thoughts"},
    {"chat_template"},
    {"chat"},
    {"dialogue"},
    {"tasks", "data"},
    {"fields"},
    {"specs"},
    {"config"},
    {"models"},
    {"rollout"},
]
LEVELS += [{"training"}, {"trainer"}, {"integrations"}, {"study"}, {"apps"}]
HEAVY = {
    "openai",
    "sacrebleu",
    "nltk",
    "pandas",
    "sklearn",
    "datasets",
    "math_verify",
    "matplotlib",
    "seaborn",
}


def name_of(path: Path) -> str:
    """The module in a file, without the package: ``tasks.math`` for ``itpo/tasks/math.py``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imports(module: str) -> Iterator[str]:
    """Every module that one imports, at its top or within a function."""
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relative to itself, as no other module does"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name for name in inner if name.removeprefix("itpo.") in FILES]
            yield from found or [str(node.module)]


def allowed(part: str) -> set[str]:
    """The parts of the library that one may import, beside itself."""
    if part == "runs":
        return set()
    if part == "figures":
        return {"attribution", "estimators", "runs.paths", "runs.files"}
    if part == "__main__":
        return {"apps"}
    level = next(i for i, parts in enumerate(LEVELS) if part in parts)
    below = set().union(*LEVELS[:level])
    shared = METHOD if part in METHOD else {"runs"}
    return below | shared | ({"figures"} if part in ("study", "apps") else set())


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_point_down(module: str) -> None:
    part = module.partition(".")[0]
    if module == "__init__":
        assert not [name for name in imports(module) if name.startswith("itpo") and name != "itpo.extras"]
        return
    wrong = []
    for name in imports(module):
        package, _, inner = name.partition(".")
        if package == "itpo" and inner:
            within = {inner, inner.partition(".")[0]}
            if not within & (allowed(part) | {part}):
                wrong.append(name)
    assert not wrong, f"itpo.{module} imports {', '.join(wrong)}: only what stands below it in LEVELS"


@pytest.mark.parametrize("module", sorted(METHOD))
def test_the_method_needs_torch_alone(module: str) -> None:
    packages = {name.partition(".")[0] for name in imports(module)} - sys.stdlib_module_names
    assert packages <= {"torch", "jaxtyping", "itpo"}


# A run of the tiny model, on a base that ships.
TRAIN = """
import tempfile
from dataclasses import replace
from itpo import trainer
from itpo.runs.store import Store
from itpo.study.profiles import get_profile
sizes = {"steps": 1, "warmup": 1, "prompts": 1, "rollouts": 2, "eval_dialogues": 2, "monitor_dialogues": 2}
config = replace(get_profile("smoke").config("norm_itpo", 0), **sizes)
with tempfile.TemporaryDirectory() as folder:
    trainer.train(config, Store(folder).open(config))
"""


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import itpo.turns, itpo.attribution, itpo.losses", HEAVY | {"transformers", "peft", "scipy"}),
        ("import itpo.trainer", HEAVY | {"transformers", "peft", "scipy"}),
        (TRAIN, HEAVY | {"transformers", "peft", "scipy"}),
        ("import run_notebooks", HEAVY | {"torch", "papermill"}),
        ("from itpo.__main__ import main; main(['runs'])", HEAVY | {"transformers", "peft", "scipy"}),
        (
            "from itpo.__main__ import main; main(['train', '--dry-run'])",
            HEAVY | {"transformers", "peft", "scipy"},
        ),
        (
            "from itpo.apps.configs import named_config; named_config('laptop', 'math')",
            HEAVY | {"transformers"},
        ),
        ("from itpo.__main__ import main; main(['methods'])", HEAVY | {"transformers", "scipy"}),
        ("from itpo.__main__ import main; main(['train', '--help'])", HEAVY | {"torch", "numpy"}),
    ],
)
def test_libraries_are_loaded_where_they_are_used(code: str, absent: set[str]) -> None:
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent / "tools")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    printed = done.stdout
    assert not absent & set(printed.splitlines()[-1].split())


def test_help_costs_less_than_a_second_of_processor_time() -> None:
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    command = [sys.executable, "-m", "itpo", "--help"]
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    assert spent() - before < 1
