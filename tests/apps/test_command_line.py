"""The command line: what it lists, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from itpo.__main__ import main
from itpo.attribution import METHODS
from itpo.estimators import ESTIMATORS


def test_estimators_lists_every_row_and_estimator() -> None:
    command = [sys.executable, "-m", "itpo", "estimators"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert not found.stderr, "bitsandbytes, say, and what it misses on some CPUs"
    printed = found.stdout
    named = {line.split()[0] for line in printed.splitlines() if line.startswith("  ") and line[2] != " "}
    assert named == {*METHODS, *ESTIMATORS}
    value_model = printed.partition("  value_model")[2].splitlines()[1]
    assert value_model.split("; ") == [" " * 20 + "per token", "needs a critic", "trained by ppo"]


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0
    assert all(command in printed for command in ("testbed_checks", "chat", "data", "estimators", "export"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two good rows, one that is repeated, a broken line and a row without its answer."""
    good = [{"question": f"What is {i} + 0?", "answer": f"#### {i}"} for i in (1, 2, 1)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*map(json.dumps, good), '{"question": "Half', '{"question": "What?"}']))
    return path


def test_data_stops_at_the_first_bad_row(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(rows), "--format", "gsm8k"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"{rows}, row 4: is not JSON") and printed.err.count("\n") == 1
    assert not printed.out


def test_data_skips_bad_rows_and_lists_them(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(rows), "--format", "gsm8k", "--skip-bad"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "2 examples of math, 1 repeated, 2 skipped",
        "first example: rows:1",
        "  user> What is 1 + 0?",
        "  goal: What is 1 + 0?",
        "  answer: 1",
    ]
    assert [line.partition(": is")[0] for line in lines[5:6]] == [f"skipped: {rows}, row 4"]
    assert lines[6].startswith(f"skipped: {rows}, row 5: column 'answer' is missing") and len(lines) == 7


def test_data_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "absent.jsonl", "--format", "math"]) == 2
    assert capsys.readouterr().err == "absent.jsonl: there is no such file or folder: check the path\n"


def test_a_person_is_the_doctor_of_a_scripted_patient() -> None:
    command = [sys.executable, "-m", "itpo", "chat", "--task", "medical", "--as", "assistant"]
    said = "Where is the pain?\n?\nYou have acute gastric edema. Take ice.\n"
    found = subprocess.run(command, input=said, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert "user> doctor , this pain worries me ." in found.stdout and "(you might say: " in found.stdout
    assert "The user knew: complaint: pain, place: " in found.stdout and "\nscore: 0." in found.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--data x.jsonl", "--data needs --format"),
        ("--data x.jsonl --format math", "--data needs --model or --run"),
        ("--data x.jsonl --format math --as assistant", "needs --url and --model-name"),
        ("--data x.jsonl --format math --free", "exclude each other"),
        ("--url http://127.0.0.1:9/v1 --model-name m", "--url needs --data"),
        ("--url http://127.0.0.1:9/v1", "need each other"),
        ("--free --as assistant", "leave --free out"),
        ("--run nowhere", "nowhere has no trained policy"),
        ("--data x.jsonl --format math --model nowhere", "x.jsonl: there is no such file"),
        ("--free --model nowhere", "no model in nowhere"),
    ],
)
def test_chat_says_what_its_options_lack(options: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", *options.split()]) == 2
    assert says in capsys.readouterr().err
