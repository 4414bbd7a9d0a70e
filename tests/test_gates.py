"""The embedded tasks pass their gates at laptop scale; what a gate is, and how the command reports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from itpo.__main__ import main
from itpo.gates import Gate
from itpo.tasks import TASKS


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_task_passes_every_gate(task: str) -> None:
    """The command itself: real warm start, real training; loaded from the checkout's store where they are there already.

    In a process of its own, for the shape checks of this one would take longer than the training.
    """
    command = [sys.executable, "-m", "itpo", "gates", task]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(lines) == 9 and all(line.startswith("pass ") for line in lines), result.stdout


@pytest.mark.parametrize(
    ("value", "passed"), [(0.2, True), (0.45, True), (0.19, False), (0.46, False), (float("nan"), False)]
)
def test_a_gate_is_a_closed_range(value: float, passed: bool) -> None:
    assert Gate("warm start", value, 0.2, 0.45).passed is passed


def test_an_unknown_task_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["gates", "chess"])
    assert "math" in capsys.readouterr().err
