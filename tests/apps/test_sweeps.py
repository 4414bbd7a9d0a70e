"""Sweeps from a file: which runs it asks for, what is refused, and that they are trained where and as it is asked."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from itpo.__main__ import main
from itpo.apps.configs import named_config
from itpo.apps.sweeps import name_tracker, print_failures, read_configs
from itpo.integrations import ray as on_ray
from itpo.rollout.sampler import Sampling
from itpo.runs.processes import Outcome, train_one
from itpo.runs.store import Run, Store
from itpo.runs.sweep import WORKERS, SweepError
from itpo.trainer import stop_if_diverged
from itpo.training.learner import DialoguesLost

SMALL = """
profile = "smoke"
tasks = ["math"]
methods = ["norm_itpo", "trajectory_share"]
seeds = 2
[set]
steps = 1
warmup = 1
eval_dialogues = 4
model.steps = 5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(SMALL)
    return path


def test_a_file_asks_for_every_combination(file: Path) -> None:
    configs = read_configs(file)
    assert [(c.method.name, c.seed) for c in configs] == [
        ("norm_itpo", 0),
        ("norm_itpo", 1),
        ("trajectory_share", 0),
        ("trajectory_share", 1),
    ]
    assert {(c.task.name, c.estimator.name, c.steps, c.model.steps) for c in configs} == {
        ("math", "rloo", 1, 5)
    }
    file.write_text('profile = "smoke"\ntasks = "medical"\nestimators = ["grpo", "ppo"]\nseeds = [7]')
    assert [(c.task.name, c.method.name, c.estimator.name, c.seed) for c in read_configs(file)] == [
        ("medical", "norm_itpo", "grpo", 7),
        ("medical", "norm_itpo", "ppo", 7),
    ]


def test_a_dry_run_lists_runs_and_folders_and_makes_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    assert main(["sweep", str(file), "--store", str(root), "--dry-run", "--executor", "ray"]) == 0
    expected = [
        f"math {c.method.name} rloo seed {c.seed}  {Store(root).folder(c)}" for c in read_configs(file)
    ]
    assert capsys.readouterr().out.splitlines() == expected and not root.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("metods = ['itpo']", "unknown key 'metods': did you mean methods?"),
        ("methods = ['norm_itbo']", "unknown method 'norm_itbo': did you mean norm_itpo"),
        ("methods = []", "methods is []: write a name, or a list of names"),
        ("tasks = 3", "tasks is 3: write a name, or a list of names"),
        ("estimators = ['rlo']", "unknown estimator 'rlo': did you mean rloo?"),
        ("profile = 'smok'", "unknown profile 'smok': did you mean smok"),
        ("profile = ['smoke', 'laptop']", "profile is ['smoke', 'laptop']: write a name"),
        ("seeds = ['a']", "seeds is ['a']: write how many, or a list of whole numbers"),
        ("seeds = 0", "seeds is 0: write how many"),
        ("set = 3", "set is 3: write a table of settings, [set]"),
        ("seeds = 3\n[set]\nseed = 7", "seed is not a setting to change: say it by the option --seed, or in"),
        ("[set.method]\nname = 'itpo'", "in a sweep's file by methods"),
        ("[set]\nstepz = 3", "unknown setting 'stepz': did you mean steps"),
        ("[set.model]\nstepz = 3", "unknown setting 'model.stepz'"),
        ("[set]\nsteps = 1.5", "steps is 1.5"),
        ("methods = ['value_model']", "use ppo"),
        ("methods = [", "Invalid"),
        (b"\xff", "utf-8"),
        (None, "No such file"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_wrong_in_a_file_is_named_in_a_line(
    tmp_path: Path, text: str | bytes | None, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["sweep", str(path), "--store", str(tmp_path / "runs")]) == 2
    printed = capsys.readouterr()
    assert says in printed.err and str(path) in printed.err and printed.err.count("\n") == 1
    assert not printed.out and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("workers", ["0", "two", "-1"])
def test_a_number_of_workers_that_is_none_is_named_in_a_line(
    file: Path,
    tmp_path: Path,
    workers: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(WORKERS, workers)
    assert main(["sweep", str(file), "--store", str(tmp_path / "runs")]) == 2
    printed = capsys.readouterr().err
    assert printed == f"ITPO_WORKERS is {workers!r}: set it to a whole number at least 1, or to nothing\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("unchecked")
def test_errors_that_say_what_to_do_are_printed_in_a_line_and_others_with_their_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def own(config: Any, run: Run) -> None:
        raise ValueError("a reader's task went wrong")

    def lost(config: Any, run: Run) -> None:
        raise DialoguesLost("user or judge failed\nMend that and start again")

    def diverged(config: Any, run: Run) -> None:
        run.log(0, {"success": 0.0})
        learner = SimpleNamespace(skipped={"policy": 3}, config=SimpleNamespace(max_skipped=2), state=dict)
        stop_if_diverged(learner, run, 0)

    def refused(config: Any, run: Run) -> None:
        Sampling(max_rows=0)

    store = Store(tmp_path)

    def failure(work: Any, seed: int) -> tuple[Run, Outcome]:
        run = store.open(named_config("smoke", "math", seed=seed))
        return run, train_one(work, run.config, run.folder, store, hurried=False)

    failed = [failure(work, seed) for seed, work in enumerate((lost, refused, diverged))]
    assert print_failures(SweepError(failed, total=4)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith(": user or judge failed Mend that and start again")
    assert lines[1].endswith(": max_rows is 0: at least one dialogue must be held at a time")
    assert "3 optimizer steps had a loss" in lines[2] and len(lines) == 3
    assert print_failures(SweepError([failure(own, 3), *failed], total=4)) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback") and "\nValueError: a reader's task went wrong\n" in printed


@pytest.mark.parametrize("options", ["--address auto", "--gpus 1", "--cpus 2"])
def test_options_of_ray_need_it(file: Path, options: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(file), *options.split()]) == 2
    assert "need --executor ray" in capsys.readouterr().err


def test_a_tracker_without_a_name_is_the_default_one(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert name_tracker(["train", "--tracker", "--seed", "3"]) == [
        "train",
        "--tracker",
        "trackio",
        "--seed",
        "3",
    ]
    assert name_tracker(["train", "--tracker"]) == ["train", "--tracker", "trackio"]
    assert name_tracker(["train", "--tracker", "wandb"]) == ["train", "--tracker", "wandb"]
    assert main(["train", "--tracker", "tensorbord", "--dry-run"]) == 2
    assert "unknown tracker 'tensorbord': did you mean tensorboard?" in capsys.readouterr().err


def test_a_sweep_is_trained_here_where_ray_is_missing(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its curves are in TensorBoard, in folders that do not know of it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    file.write_text(SMALL.replace("seeds = 2", "seeds = [1]"))
    root = tmp_path / "runs"
    command = ["sweep", str(file), "--store", str(root), "--executor", "ray", "--tracker", "tensorboard"]
    assert main(command) == 0
    printed = capfd.readouterr()
    assert on_ray.MISSING in printed.err and "pip install 'itpo[ray]'" in on_ray.MISSING
    lines = printed.out.splitlines()
    assert lines[0].startswith("2 runs: 0 loaded, 2 trained in ") and len(lines) == 3
    for config, line in zip(read_configs(file), lines[1:], strict=True):
        run = Store(root).open(config)
        assert run.done and line.endswith(str(run.folder))
        (curves,) = (root / "tensorboard").glob(f"*{run.folder.name[:8]}")
        assert re.fullmatch(rf"math-{config.method.name}-rloo-seed{config.seed}-\w{{8}}", curves.name)
        assert list(curves.glob("events.*"))
