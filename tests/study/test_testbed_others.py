"""The other tasks of the paper pass their testbed checks; in a file of their own, so that two processes share the training."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from itpo.tasks.registry import TASKS


@pytest.mark.parametrize("task", sorted({*TASKS} - {"math"}))
def test_a_task_passes_every_check(task: str, check_testbed: Callable[[str], None]) -> None:
    check_testbed(task)
