"""The command line: what it lists, and what it refuses."""

import subprocess
import sys

import pytest

from itpo.__main__ import main
from itpo.attribution import ROWS
from itpo.estimators import ESTIMATORS


def test_estimators_lists_every_row_and_estimator() -> None:
    command = [sys.executable, "-m", "itpo", "estimators"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    named = {line.split()[0] for line in printed.splitlines() if line.startswith("  ") and line[2] != " "}
    assert named == {*ROWS, *ESTIMATORS}
    value_model = printed.partition("  value_model")[2].splitlines()[1]
    assert value_model.split("; ") == [" " * 20 + "per token", "needs a critic", "trained by ppo"]


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0 and "gates" in printed and "estimators" in printed
