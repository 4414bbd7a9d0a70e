"""Testbed checks: the math task passes them at laptop scale, a task from outside the package can be measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from own_task import ENTRY

from itpo.__main__ import main
from itpo.config import RunConfig, TaskSpec
from itpo.runs.store import Store
from itpo.specs import FrozenBase, PretrainedModel, RealData, TinyLM
from itpo.study import testbed
from itpo.study.profiles import get_profile


def test_the_math_task_passes_every_check(check_testbed: Callable[[str], None]) -> None:
    check_testbed("math")


@pytest.mark.parametrize(
    ("value", "passed"), [(0.2, True), (0.45, True), (0.19, False), (0.46, False), (float("nan"), False)]
)
def test_a_check_is_a_closed_range(value: float, passed: bool) -> None:
    assert testbed.TestbedCheck("base model", value, 0.2, 0.45).passed is passed


def own_config() -> RunConfig:
    profile = get_profile("smoke").on(TaskSpec("own_task:ENTRY", version=3))
    model = TinyLM(hidden_size=16, layers=1, heads=2, steps=300, dialogues_per_step=8)
    return replace(profile.config("trajectory_share", 0), model=model)


def test_a_task_without_skills_is_measured_by_the_bounds_of_its_entry(
    tmp_path: Path, unchecked: None
) -> None:
    checks = testbed.measure(own_config(), Store(tmp_path), dialogues=200)
    values = {check.name: check.value for check in checks}
    evaluated = Store(tmp_path).open(own_config()).metrics()["eval_success"].dropna()
    gain = max(evaluated) - values["base model: right guesses, sampled"]
    assert len(evaluated) > 2 and checks[-1].value == pytest.approx(gain)
    assert list(values) == [
        "expert: right guesses",
        "base model: right guesses, sampled",
        "base model: right guesses, greedy",
        "base model: finishes right, nothing to repair",
        "outcome from the words, logistic classifier: AUC",
        f"{own_config().method.entry.label}: gain in right guesses",
    ]
    assert values["expert: right guesses"] == 1.0 and not any(map(math.isnan, values.values()))
    bounds = {check.name: (check.low, check.high) for check in checks}
    assert bounds["base model: right guesses, sampled"] == ENTRY.bounds["sampled"]
    assert bounds["base model: right guesses, greedy"] == testbed.BOUNDS["greedy"]


def test_bounds_of_unknown_checks_and_real_data_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("own_task.ENTRY", replace(ENTRY, bounds={"speed": (0.0, 1.0)}))
    with pytest.raises(ValueError, match="for speed: known checks are expert, sampled, greedy, skill"):
        testbed.measure(own_config(), Store(tmp_path))
    real = replace(
        own_config(),
        task=RealData("math"),
        user=FrozenBase(),
        judge=FrozenBase(),
        model=PretrainedModel("folder"),
    )
    with pytest.raises(
        ValueError, match="testbed checks are for scripted tasks; 'math' is a task on real data"
    ):
        testbed.measure(real, Store(tmp_path))


def test_an_unknown_task_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "chess"]) == 2
    assert "math" in capsys.readouterr().err
