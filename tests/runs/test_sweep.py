"""Sweeps: runs trained in parallel by real processes, which fail, are killed and go on."""

import importlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbclient import NotebookClient

import itpo
from itpo.runs import store
from itpo.runs.platform import numeric_platform
from itpo.runs.store import Run, Store, fingerprint
from itpo.runs.sweep import MOST_WORKERS, SweepError, _duration, default_workers, sweep, sweep_groups

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))  # child processes import the toy by its name
toy = importlib.import_module("toy_training")


def _train(root: Path, config: Any) -> Run:
    run = Store(root).open(config)
    toy.walk(config, run)
    return run


def test_two_processes_train_what_is_missing_and_the_order_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_PAUSE", "0.05")
    environment = dict(os.environ)
    loaded = _train(tmp_path / "sweep", toy.Toy(seed=1))
    configs = [toy.Toy(seed=2), toy.Toy(seed=1), toy.Toy(seed=3), toy.Toy(seed=4), toy.Toy(seed=2)]
    results = sweep(tmp_path / "sweep", configs, toy.walk, workers=2)
    assert [run.config for run in results] == configs and all(run.done for run in results)
    assert results[1].folder == loaded.folder and results[0].folder == results[4].folder
    trained = [results[i].timing() for i in (0, 2, 3)]
    assert all(timing["threads"].eq(1).all() for timing in trained)
    pids = {int(timing["pid"].iloc[0]) for timing in trained}
    assert len(pids) == 2 and os.getpid() not in pids
    alone = _train(tmp_path / "alone", toy.Toy(seed=4))
    assert fingerprint(results[3]) == fingerprint(alone)
    captured = capfd.readouterr()
    assert captured.out.startswith("5 runs: 2 loaded, 3 trained in ") and captured.out.count("\n") == 1
    assert "training" in captured.err and "/30" in captured.err and len(captured.err) < 2000
    assert dict(os.environ) == environment


def test_the_children_of_all_sweeps_have_one_parent_and_todays_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = sweep(tmp_path, [toy.Toy(seed=0)], toy.walk, progress=False)
    monkeypatch.setenv("TOY_PAUSE", "0.001")
    (second,) = sweep(tmp_path, [toy.Toy(seed=1)], toy.walk, progress=False)
    before, after = first.timing(), second.timing()
    assert set(before["parent"]) == set(after["parent"]) != {os.getpid()}
    assert set(before["pid"]).isdisjoint(after["pid"])
    assert set(before["pause"]) == {0.0} and set(after["pause"]) == {0.001}
    assert set(after["threads"]) == {1}


def test_where_there_is_a_gpu_nothing_is_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        (run,) = sweep(tmp_path / "spawned", [toy.Toy()], toy.walk, progress=False)
    timing = run.timing()
    assert set(timing["parent"]) == {os.getpid()} != set(timing["pid"]) and set(timing["threads"]) == {1}
    assert fingerprint(run) == fingerprint(_train(tmp_path / "alone", toy.Toy()))


def test_groups_are_trained_in_one_sweep_and_take_turns(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    groups = {"few": [toy.Toy(seed=0)], "none": [], "many": [toy.Toy(seed=s) for s in (1, 2, 0)]}
    trained = sweep_groups(tmp_path, groups, toy.walk, workers=1)
    assert {name: [run.config for run in runs] for name, runs in trained.items()} == groups
    assert list(trained) == list(groups) and all(run.done for runs in trained.values() for run in runs)
    assert capfd.readouterr().out.startswith("4 runs: 1 loaded, 3 trained in ")
    ended = sorted(trained["many"], key=lambda run: (run.folder / "done.json").stat().st_mtime_ns)
    assert [run.config.seed for run in ended] == [0, 1, 2], (
        "one process: the first of each group, then the rest"
    )


def test_a_sweep_says_that_its_runs_are_of_several_platforms(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = numeric_platform() | {"processor": "abacus"}
    with monkeypatch.context() as patch:
        patch.setattr(store, "numeric_platform", lambda: there)
        _train(tmp_path, toy.Toy(seed=1))
    _train(tmp_path, toy.Toy(seed=2))
    sweep(tmp_path, [toy.Toy(seed=1)], toy.walk)
    sweep(tmp_path, [toy.Toy(seed=1), toy.Toy(seed=2)], toy.walk)
    first, second = capfd.readouterr().out.splitlines()
    assert first == "1 runs: 1 loaded, 0 trained in 0 s"
    assert second == "2 runs: 2 loaded, 0 trained in 0 s; on 2 numeric platforms, see platform.json"


def test_finished_runs_need_no_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _train(tmp_path, toy.Toy())
    assert sweep(tmp_path, [toy.Toy()], toy.walk)[0].done
    assert capfd.readouterr().out == "1 runs: 1 loaded, 0 trained in 0 s\n"
    assert sweep(tmp_path, [toy.Toy()], toy.walk, progress=False)[0].done
    assert sum(map(len, capfd.readouterr())) == 0


def test_failing_and_killed_children_are_named_and_the_others_finish(tmp_path: Path) -> None:
    configs = [toy.Toy(accident=accident) for accident in ("raise", "die", "leave", None)]
    configs.append(toy.Toy(seed=1))
    with pytest.raises(SweepError) as caught:
        sweep(tmp_path, configs, toy.walk, progress=False)
    store = Store(tmp_path)
    runs = [store.open(config) for config in configs]
    assert [run.done for run in runs] == [False, False, False, True, True]
    message = str(caught.value)
    assert "3 of 5 runs failed" in message and "ArithmeticError: the toy went wrong" in message
    assert str(runs[0].folder) in message and str(runs[1].folder) in message
    texts = {run.folder: text for run, text in caught.value.failures}
    assert "Traceback" in texts[runs[0].folder] and "toy_training.py" in texts[runs[0].folder]
    assert "exit code -9" in texts[runs[1].folder]
    assert "returned without run.finish" in texts[runs[2].folder]
    assert [run.checkpoint_step() for run in runs[:3]] == [3, 3, 3]
    runs[0].restore()  # the lock of a failed run is free
    runs[0].release()


def test_an_error_of_several_lines_is_named_in_one_with_what_to_do(tmp_path: Path) -> None:
    configs = [toy.Toy(accident="raise"), toy.Toy(accident="refuse")]
    with pytest.raises(SweepError) as caught:
        sweep(tmp_path, configs, toy.walk, progress=False, workers=1)
    folder = Store(tmp_path).folder(configs[1])
    assert f"also failed: {folder}: RunFolderError: {folder}: is odd, as the toy says; " in str(caught.value)
    (said,) = caught.value.remedies.items()
    assert said[0] == folder and said[1].startswith(f"{folder}: is odd, as the toy says; nothing was changed")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_when_the_sweep_is_killed_its_children_end_and_the_runs_resume(
    tmp_path: Path, number: signal.Signals
) -> None:
    path = os.pathsep.join([str(Path(itpo.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TOY_PAUSE": "0.2"}
    command = [sys.executable, str(TESTS / "toy_training.py"), "sweep_one", str(tmp_path / "killed")]
    parent = subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    run = Store(tmp_path / "killed").open(toy.Toy(steps=40))
    while run.steps_done() < 4:
        assert parent.poll() is None
        time.sleep(0.02)
    parent.send_signal(number)
    _, errors = parent.communicate(timeout=120)
    if number == signal.SIGINT:
        assert errors.rstrip().endswith("KeyboardInterrupt") and errors.count("Traceback") == 1
    toy.walk(run.config, run)  # its lock must be free
    assert len(run.timing()) == 40 and run.timing()["pid"].nunique() == 2  # it went on, not began anew
    assert fingerprint(run) == fingerprint(_train(tmp_path / "alone", run.config))


def test_a_saved_notebook_holds_one_line_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_PAUSE", "0.3")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(Path(itpo.__file__).parents[1])]))
    code = f"""
        import toy_training as toy
        from itpo.runs.sweep import sweep
        sweep({str(tmp_path)!r}, [toy.Toy()], toy.walk)[0].done"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(code))])
    NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    line, result = notebook.cells[0].outputs
    assert line.data["text/plain"].startswith("1 runs: 0 loaded, 1 trained in ")
    assert result.data["text/plain"] == "True"


def test_what_another_process_cannot_import_is_refused_at_once(tmp_path: Path) -> None:
    def local(config: Any, run: Run) -> None:
        raise AssertionError

    for train in (local, lambda config, run: None, partial(local)):
        with pytest.raises(ValueError, match="top level of a module"):
            sweep(tmp_path, [toy.Toy()], train)
    with pytest.raises(ValueError, match="at least one process"):
        sweep(tmp_path, [toy.Toy()], toy.walk, workers=0)
    assert not list(tmp_path.iterdir())


def test_a_process_for_each_core_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 1), (4, 4), (64, MOST_WORKERS)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, n=cores: set(range(n)), raising=False)
        assert default_workers() == expected
    monkeypatch.delattr(os, "sched_getaffinity")
    for cores, expected in ((3, 3), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda n=cores: n)
        assert default_workers() == expected


def test_durations_are_readable() -> None:
    assert [_duration(s) for s in (0.4, 59.6, 250.0, 7325.0)] == [
        "0 s",
        "1 min 0 s",
        "4 min 10 s",
        "2 h 2 min",
    ]
