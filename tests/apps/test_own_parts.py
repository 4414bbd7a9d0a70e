"""A reader's own method and task in the current folder, in every command, as the script ``itpo`` starts it."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from itpo.__main__ import main
from itpo.apps.training import train_policy
from itpo.runs.store import Run

pytestmark = pytest.mark.usefixtures("unchecked")
NAMES = ("mine:TASK", "mine:METHOD")
SIZES = {"steps": 1, "prompts": 2, "rollouts": 2, "eval_dialogues": 2, "monitor_dialogues": 2}
SIZES |= {"model.steps": 2, "task.sides": 50}
Script = Callable[..., str]


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Makes this process one that has not looked into the current folder, whose first path is that of a script."""
    before = [path for path in sys.path if path not in ("", str(Path.cwd()))]

    def fresh() -> None:
        monkeypatch.setattr(sys, "path", list(before))
        sys.modules.pop("mine", None)

    yield fresh
    sys.modules.pop("mine", None)


@pytest.fixture
def script(
    forget: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Script:
    """Runs a command that succeeds, and returns what it printed."""

    def run(*command: str, typed: str = "") -> str:
        forget()
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        assert main(list(command)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module of the reader's."""
    text = "from own_method import ENTRY as METHOD\nfrom own_task import ENTRY as TASK\n"
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path, forget: Callable[[], None]) -> Run:
    """A run of the method on the task, trained from Python, which finds the module in the current folder too."""
    forget()
    settings = {name.replace(".", "__"): value for name, value in SIZES.items()}
    return train_policy(*NAMES, profile="smoke", seed=0, store=folder / "runs", **settings)


def test_a_run_is_listed_shown_talked_to_and_exported(run: Run, folder: Path, script: Script) -> None:
    store = ["--store", str(folder / "runs")]
    assert f"{NAMES[0]}  {NAMES[1]}  rloo" in script("runs", *store)
    assert f"method: {NAMES[1]}\n" in script("runs", "show", run.folder.name, *store)
    for facts in (["--run", str(run.folder)], ["--task", NAMES[0], "--method", NAMES[1], *store]):
        talk = script("chat", "--example", "1", *facts, typed="right\n\n")
        assert "There are 2 assistant turns." in talk and "\nassistant> " in talk
        assert "What you know: 46\n" in talk, "a coin of the run's 50 sides"
        assert "\n\nWhat each turn earned." in talk
    script("export", run.folder.name, "adapter", *store)
    assert "{'sides': 50}" in (folder / "adapter" / "README.md").read_text()


def test_a_task_is_talked_about_without_a_run(folder: Path, script: Script) -> None:
    talk = script("chat", "--task", NAMES[0], "--as", "assistant", typed="0\n")
    assert "user> guess\n" in talk and "The user knew: " in talk


def test_a_module_that_is_not_there_is_said_in_a_line(
    folder: Path, forget: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    forget()
    assert main(["chat", "--task", "yours:TASK"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("yours:TASK cannot be imported") and printed.count("\n") == 1
