"""What the README says in numbers and names is what the committed files say."""

import re
from pathlib import Path

import pandas as pd
import pytest

from itpo.attribution import METHODS
from itpo.estimators import ESTIMATORS
from itpo.tasks.registry import TASKS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = README.split("\n## Results\n")[1].split("\n## ")[0]


def cells(first: str) -> list[list[str]]:
    """The cells of every line of the results' tables whose first cell begins so."""
    lines = [line for line in RESULTS.splitlines() if line.startswith(f"| {first}")]
    return [[cell.strip().strip("*") for cell in line.strip("|").split("|")] for line in lines]


def interval(mean: float, low: float, high: float, digits: int) -> str:
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def test_the_ledger_is_that_of_the_report() -> None:
    ledger = pd.read_csv(ROOT / "figures" / "ledger.csv")
    wanted = []
    for line in ledger.itertuples():
        digits = 1 if line.unit == "points" else 2
        effect = interval(line.effect, line.wide_low, line.wide_high, digits)
        counts = f"{line.replicated}, {line.not_replicated}, {line.cells}"
        wanted.append([f"{line.claim}, {line.part}", f"{effect} {line.unit}", counts, line.ruling])
    shown = [[claim, *rest] for claim, _, *rest in cells("C") if re.match(r"C\d", claim)]
    assert shown == wanted


@pytest.mark.parametrize("row", METHODS)
def test_results_are_those_of_table_1(row: str) -> None:
    table = pd.read_csv(ROOT / "figures" / "T1.csv").set_index(["task", "estimator", "row"])["success"]
    ((_, *shown),) = cells(METHODS[row].label)
    for task, text in zip(TASKS, shown, strict=True):
        wanted = [table.get((task, estimator, row)) for estimator in ESTIMATORS]
        assert text.split(", ") == ["–" if value is None else f"{100 * value:.1f}" for value in wanted]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gains_of_norm_itpo_are_those_of_table_1(estimator: str) -> None:
    table = pd.read_csv(ROOT / "figures" / "T1.csv").set_index(["task", "estimator", "row"])
    ((_, *shown),) = cells(f"gain of Norm-ITPO, {ESTIMATORS[estimator].label}")
    for task, text in zip(TASKS, shown, strict=True):
        line = table.loc[(task, estimator, "norm_itpo")]
        assert text == interval(*(100 * line[["gain", "gain_low", "gain_high"]]), digits=1)


def test_files_and_notebooks_that_it_names_exist() -> None:
    names = re.findall(r"`(figures/[\w./]+)`", README) + re.findall(r"\]\((figures/[^)]+)\)", README)
    names += [f"notebooks/{name}.py" for name in re.findall(r"`(\d\d_\w+)`", README)]
    assert len(names) > 50
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_its_first_example_gives_what_it_says() -> None:
    code, said = re.search(r"```python\n(.*?)(attribution\.norm_itpo.*?)\n```", README, re.DOTALL).groups()
    call, result = said.split("\n# ")
    names: dict[str, object] = {}
    exec(f"{code}\nresult = {call}", names)
    assert repr(names["result"]) == result
