"""The other embedded tasks pass their testbed_checks; in a file of their own, so that two processes share the training."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from itpo.tasks.registry import TASKS


@pytest.mark.parametrize("task", sorted(TASKS.keys() - {"math"}))
def test_a_task_passes_every_gate(task: str, check_gates: Callable[[str], None]) -> None:
    check_gates(task)
