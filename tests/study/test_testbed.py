"""The embedded math task passes its testbed_checks at laptop scale; what a gate is, and how the command reports."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from itpo.__main__ import main
from itpo.study.testbed import TestbedCheck


def test_the_math_task_passes_every_gate(check_gates: Callable[[str], None]) -> None:
    check_gates("math")


@pytest.mark.parametrize(
    ("value", "passed"), [(0.2, True), (0.45, True), (0.19, False), (0.46, False), (float("nan"), False)]
)
def test_a_gate_is_a_closed_range(value: float, passed: bool) -> None:
    assert TestbedCheck("warm start", value, 0.2, 0.45).passed is passed


def test_an_unknown_task_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["testbed_checks", "chess"])
    assert "math" in capsys.readouterr().err
