"""The run store: what is written comes back, and no crash, edit or full disk goes unnoticed."""

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import itpo
from itpo import NUMERICS
from itpo.runs import store
from itpo.runs.files import write_file
from itpo.runs.platform import numeric_platform
from itpo.runs.store import PlatformError, Run, RunBusyError, RunFolderError, Store, fingerprint

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))  # child processes import the toy by its name
toy = importlib.import_module("toy_training")


def _toy_process(function: str, root: Path, pause: float = 0.0) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(Path(itpo.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TOY_PAUSE": str(pause), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "toy_training.py"), function, str(root)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _train(root: Path) -> Run:
    run = Store(root).open(toy.Toy())
    toy.train(run.config, run)
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _train(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Run]:
    """A run with a checkpoint at step 2 and a log of 3 steps, whose process is gone."""
    run = Store(tmp_path).open(toy.Toy())
    for step in (1, 2, 3):
        run.log(step, {"loss": 1.0 / step})
        run.save_monitor(step, {"weight": torch.tensor([float(step)])})
        run.save_dialogues(step, [{"outcome": step}])
        if step == 2:
            run.checkpoint(step, {"weight": torch.tensor([2.0])})
    run.release()
    yield run
    run.release()


def _content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_reads_back_what_was_saved(finished: Run) -> None:
    metrics = finished.metrics()
    assert metrics["step"].tolist() == list(range(1, 11))
    assert metrics["count"].dtype.kind == "i"
    assert math.isnan(metrics["ratio"][1]) and metrics["ratio"].drop(1).eq(1.0).all()
    assert finished.summary() == {"best": metrics["loss"].min()}
    assert [step for step, _ in finished.monitor()] == [2, 4, 6, 8, 10]
    assert finished.monitor()[0][1]["weight"].shape == (1, 3)
    assert [d["step"] for d in finished.dialogues()] == [4, 4, 8, 8]
    assert finished.dialogues()[0]["messages"] == [["user", "¿qué?"]]
    assert set(finished.timing()) == {"step", "pid", "parent", "threads", "pause"}
    assert not (finished.folder / "checkpoint").exists()


def test_files_are_valid_json_and_the_config_is_readable(finished: Run) -> None:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    for line in (finished.folder / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    document = json.loads((finished.folder / "config.json").read_text())
    assert document["format"] == "itpo-run" and document["numerics"] == NUMERICS
    assert document["config"]["optimizer"] == {"class": "Optimizer", "lr": 0.01, "betas": [0.9, 0.99]}
    (platform,) = finished.platforms()
    assert platform == {"from_step": 0, "platform": numeric_platform()}
    assert platform["platform"]["libraries"]["torch"] == torch.__version__.split("+")[0]


def test_a_finished_run_is_loaded_and_can_no_longer_be_written(finished: Run) -> None:
    again = Store(finished.folder.parent).open(toy.Toy())
    before = _content(again.folder)
    assert again.done and again.folder == finished.folder
    with pytest.raises(RuntimeError, match="finished run"):
        again.log(11, {"loss": 0.0})
    with pytest.raises(RuntimeError, match="finished run"):
        again.restore()
    assert _content(again.folder) == before
    again.release()


def test_killed_at_any_moment_a_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    process = _toy_process("kill_at_every_sync", tmp_path)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    ends = [line.split()[1] for line in output.splitlines()]
    assert len(ends) > 30 and len(set(ends)) == 1


def test_kill_9_frees_the_lock_and_the_run_resumes_to_the_same_bytes(
    tmp_path: Path, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_PATIENCE", 0.1)
    run = Store(tmp_path).open(toy.Toy())
    process = _toy_process("train_one", tmp_path, pause=0.2)
    while run.steps_done() < 5:
        assert process.poll() is None
        time.sleep(0.02)
    with pytest.raises(RunBusyError, match=f"process {process.pid}"):
        run.restore()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with open(run.folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 6, "lo')
    assert run.steps_done() == len(run.metrics()) == 5
    assert run.checkpoint_step() == 3
    toy.train(run.config, run)
    assert fingerprint(run) == fingerprint(finished)
    assert [f.name for f in run.folder.rglob("*.partial")] == []


def test_restore_returns_the_checkpoint_and_removes_what_came_after(started: Run) -> None:
    with open(started.folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 4, "lo')
    restored = started.restore()
    assert restored is not None
    step, tensors = restored
    assert (step, tensors["weight"].tolist()) == (2, [2.0])
    assert started.metrics()["step"].tolist() == [1, 2]
    assert [step for step, _ in started.monitor()] == [1, 2]
    assert [d["outcome"] for d in started.dialogues()] == [1, 2]


def test_without_a_checkpoint_restore_clears_everything(tmp_path: Path) -> None:
    run = Store(tmp_path).open(toy.Toy())
    empty = fingerprint(run)
    run.log(1, {"loss": 1.0})
    run.save_monitor(1, {"weight": torch.zeros(1)})
    for name in ("policy", "critic"):
        (run.folder / name).mkdir()
        (run.folder / name / "adapter.safetensors").write_bytes(b"half written")
    assert run.restore() is None
    assert fingerprint(run) == empty and not (run.folder / "critic").exists() and run.metrics().empty


def test_a_started_run_must_be_restored_before_it_is_written(started: Run) -> None:
    before = _content(started.folder)
    with pytest.raises(RuntimeError, match=r"call restore\(\) first"):
        started.log(4, {"loss": 0.0})
    assert _content(started.folder) == before


def test_a_full_disk_is_explained_and_the_run_resumes(tmp_path: Path, finished: Run) -> None:
    process = _toy_process("train_with_small_files", tmp_path)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    run = Store(tmp_path).open(toy.Toy())
    assert f"no space to write in {run.folder}" in output and "resumes from its last checkpoint" in output
    assert fingerprint(run) == fingerprint(finished)


def test_two_who_write_one_file_leave_a_whole_one(tmp_path: Path) -> None:
    """As two machines that share a folder may."""
    path, texts = tmp_path / "state.json", [letter * 100_000 for letter in "ab"]
    errors: list[OSError] = []

    def write(text: str) -> None:
        try:
            for _ in range(20):
                write_file(path, text.encode())
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and path.read_text() in texts and os.listdir(tmp_path) == ["state.json"]


def _edit(name: str, old: str, new: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json: the file is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: cannot be read"),
        (lambda f: (f / "config.json").write_bytes(b"\xff"), "config.json: cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json: is not a JSON object"),
        (_edit("config.json", "itpo-run", "other"), "config.json: is not the config of a run"),
        (_edit("config.json", '"version": 1', '"version": 2'), "config.json: is not the config of a run"),
        (_edit("config.json", '"seed": 0', '"seed": 1'), "config.json: was edited"),
        (_edit("config.json", f'"numerics": {NUMERICS}', '"numerics": 0'), "config.json: was edited"),
        (_edit("metrics.jsonl", "1.0", "1.5"), "metrics.jsonl: was changed"),
        (_edit("dialogues.jsonl", "user", "tool"), "dialogues.jsonl: was changed"),
        (
            lambda f: os.truncate(f / "monitor" / "step_000004.safetensors", 9),
            "step_000004.safetensors: was changed",
        ),
        (
            lambda f: (f / "monitor" / "step_000004.safetensors").unlink(),
            "step_000004.safetensors: was changed",
        ),
        (
            lambda f: os.truncate(f / "policy" / "adapter_model.safetensors", 0),
            "adapter_model.safetensors: was",
        ),
        (lambda f: (f / "done.json").write_text('{"best": 1}'), "done.json: is not the end of a run"),
        (lambda f: (f / "done.json").write_text(""), "done.json: cannot be read"),
    ],
)
def test_a_damaged_or_foreign_folder_is_named_and_left_alone(
    tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    folder = _train(tmp_path).folder
    damage(folder)
    before = _content(folder)
    with pytest.raises(RunFolderError) as caught:
        Store(tmp_path).open(toy.Toy())
    assert message in str(caught.value) and str(folder) in str(caught.value)
    assert "move the folder away" in str(caught.value)
    assert _content(folder) == before


def test_a_foreign_file_or_folder_in_the_place_of_a_run_is_left_alone(tmp_path: Path) -> None:
    folder = Store(tmp_path / "a").open(toy.Toy()).folder
    (tmp_path / "b" / folder.name).mkdir(parents=True)
    (tmp_path / "b" / folder.name / "thesis.txt").write_text("mine")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / folder.name).write_text("mine")
    for root in (tmp_path / "b", tmp_path / "c"):
        before = _content(root)
        with pytest.raises(RunFolderError, match=folder.name):
            Store(root).open(toy.Toy())
        assert _content(root) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_edit("checkpoint/state.json", "{", "["), "state.json: cannot be read"),
        (
            lambda f: (f / "checkpoint" / "state.json").write_text('{"step": 2}'),
            "state.json: is not a checkpoint",
        ),
        (lambda f: os.truncate(next((f / "checkpoint").glob("*.safetensors")), 20), "is missing or damaged"),
        (lambda f: next((f / "checkpoint").glob("*.safetensors")).unlink(), "is missing or damaged"),
        (lambda f: os.truncate(f / "metrics.jsonl", 10), "metrics.jsonl: is shorter than at the last"),
        (
            lambda f: (f / "monitor" / "step_000001.safetensors").unlink(),
            "step_000001.safetensors: is missing",
        ),
    ],
)
def test_a_damaged_checkpoint_is_named_and_nothing_is_removed(
    started: Run, damage: Callable[[Path], Any], message: str
) -> None:
    damage(started.folder)
    before = _content(started.folder)
    with pytest.raises(RunFolderError) as caught:
        started.restore()
    assert message in str(caught.value) and str(started.folder) in str(caught.value)
    assert _content(started.folder) == before


def test_damaged_logs_and_readings_of_an_unfinished_run_are_named(started: Run) -> None:
    os.truncate(started.folder / "monitor" / "step_000001.safetensors", 9)
    with pytest.raises(RunFolderError, match="step_000001.safetensors: is not a reading of the monitor set"):
        started.monitor()
    (started.folder / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(RunFolderError, match="metrics.jsonl: has a line that is not JSON"):
        started.metrics()
    with pytest.raises(RunFolderError, match="done.json: the file is missing.*train the run to its end"):
        started.summary()


def test_values_that_json_cannot_hold_are_refused_before_anything_is_written(started: Run) -> None:
    started.restore()
    before = _content(started.folder)
    with pytest.raises(ValueError, match="step"):
        started.log(3, {"step": 3.0})
    with pytest.raises(TypeError):
        started.save_dialogues(3, [{"outcome": torch.ones(1)}])
    assert _content(started.folder) == before


@pytest.mark.parametrize(
    "other",
    [
        toy.Toy(seed=1),
        toy.Toy(steps=11),
        toy.Toy(checkpoint_every=4),
        toy.Toy(accident="raise"),
        toy.Toy(optimizer=toy.Optimizer(lr=0.1)),
        toy.Toy(optimizer=toy.Optimizer(betas=(0.9, 0.999))),
    ],
)
def test_any_field_of_a_config_gives_another_folder(tmp_path: Path, other: Any) -> None:
    store = Store(tmp_path)
    assert store.open(toy.Toy()).folder == store.open(replace(toy.Toy())).folder != store.open(other).folder


def test_two_config_classes_with_equal_fields_differ(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Left:
        seed: int = 0

    @dataclass(frozen=True)
    class Right:
        seed: int = 0

    assert Store(tmp_path).open(Left()).folder != Store(tmp_path).open(Right()).folder


def test_a_config_that_cannot_name_a_folder_is_refused(tmp_path: Path) -> None:
    @dataclass
    class Changing:
        seed: int = 0

    @dataclass(frozen=True)
    class Wide:
        inner: Any

    with pytest.raises(TypeError, match="Changing is not a frozen dataclass"):
        Store(tmp_path).open(Changing())
    for value in (float("nan"), torch.ones(1), {1: 2}, tmp_path):
        with pytest.raises(TypeError, match=r"Wide\.inner\[0\] is"):
            Store(tmp_path).open(Wide([value]))
    assert not list(tmp_path.iterdir())


def test_fingerprint_sees_results_and_not_the_clock(finished: Run, tmp_path: Path) -> None:
    run = _train(tmp_path)
    assert fingerprint(run) == fingerprint(finished)
    (run.folder / "timing.jsonl").write_text("")
    assert fingerprint(run) == fingerprint(finished)
    (run.folder / "prm").mkdir()
    (run.folder / "prm" / "adapter_model.safetensors").write_bytes(b"x")
    assert fingerprint(run) != fingerprint(finished)


def test_an_artifact_is_built_once_when_several_ask_at_the_same_time(tmp_path: Path) -> None:
    built: list[Path] = []
    answers: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        time.sleep(0.2)
        (folder / "model.txt").write_text("weights")

    def ask() -> None:
        answers.append(Store(tmp_path).artifact("warm", {"config": toy.Toy()}, build))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1 and len(set(answers)) == 1 and len(answers) == 4
    assert (answers[0] / "model.txt").read_text() == "weights"
    assert answers[0].parent == tmp_path.resolve() / "models" and answers[0].name.startswith("warm-")
    assert Store(tmp_path).artifact("warm", {"config": toy.Toy(seed=1)}, build) != answers[0]


def test_a_broken_build_leaves_no_artifact_and_the_next_starts_afresh(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise ArithmeticError("no convergence")

    with pytest.raises(ArithmeticError):
        Store(tmp_path).artifact("warm", {}, broken)
    folder = Store(tmp_path).artifact("warm", {}, lambda folder: (folder / "whole.txt").write_text("whole"))
    assert sorted(path.name for path in folder.iterdir()) == ["artifact.json", "whole.txt"]
    (folder / "artifact.json").write_text("{}")
    with pytest.raises(RunFolderError, match="artifact.json"):
        Store(tmp_path).artifact("warm", {}, broken)
    with pytest.raises(ValueError, match="names a folder"):
        Store(tmp_path).artifact("../warm", {}, broken)


# The numeric platform


def _elsewhere(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let this process be on another platform."""
    there = numeric_platform() | changes
    monkeypatch.setattr(store, "numeric_platform", lambda: there)


def test_a_resume_on_another_platform_is_refused_by_name_unless_asked_for(
    started: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, before = started.folder.parent, _content(started.folder)
    libraries = numeric_platform()["libraries"] | {"torch": "1.0"}
    _elsewhere(monkeypatch, libraries=libraries, cpu_capability="NONE", threads=77)
    with pytest.raises(PlatformError) as caught:
        started.restore()
    message = str(caught.value)
    assert f"torch: {torch.__version__.split('+')[0]} there, 1.0 here" in message
    assert "cpu_capability" in message and "threads: 1 there, 77 here" in message and "device" not in message
    assert "trained to step 2" in message and "mix_platforms=True" in message
    assert _content(started.folder) == before
    started.release()
    mixed = Store(root, mix_platforms=True).open(toy.Toy())
    restored = mixed.restore()
    assert restored is not None and restored[0] == 2
    first, second = mixed.platforms()
    assert (first["from_step"], second["from_step"]) == (0, 2)
    assert first["platform"]["threads"] == 1 and second["platform"]["threads"] == 77
    assert second["platform"] == store.numeric_platform()
    mixed.release()


def test_a_platform_whose_steps_are_gone_is_forgotten(started: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It went on from step 2 and was killed before its first checkpoint: nothing of it is left."""
    alone, root = started.platforms(), started.folder.parent
    with monkeypatch.context() as patch:
        _elsewhere(patch, threads=77)
        mixed = Store(root, mix_platforms=True).open(toy.Toy())
        mixed.restore()
        mixed.log(3, {"loss": 1.0})
        mixed.release()
        assert len(mixed.platforms()) == 2
    again = Store(root).open(toy.Toy())
    again.restore()
    assert again.platforms() == alone
    again.release()


def test_a_platform_that_trained_to_a_checkpoint_stays(started: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    root = started.folder.parent
    with monkeypatch.context() as patch:
        _elsewhere(patch, threads=77)
        mixed = Store(root, mix_platforms=True).open(toy.Toy())
        mixed.restore()
        mixed.checkpoint(4, {"weight": torch.zeros(1)})
        mixed.release()
        mixed.restore()
        assert [p["from_step"] for p in mixed.platforms()] == [0, 2]  # on the same one: nothing to note
        mixed.release()
    with pytest.raises(PlatformError, match="trained to step 4 .*threads: 77 there, 1 here"):
        Store(root).open(toy.Toy()).restore()
    started.release()


def test_threads_of_this_process_are_part_of_the_platform(started: Run) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        with pytest.raises(PlatformError, match=f"threads: {before} there, {before + 1} here"):
            started.restore()
    finally:
        torch.set_num_threads(before)


def test_a_start_is_free_to_be_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that of a run without a checkpoint, which has nothing of where it began."""
    here = Store(tmp_path / "here").open(toy.Toy())
    here.log(1, {"loss": 1.0})
    here.release()
    _elsewhere(monkeypatch, processor="abacus")
    for root in (tmp_path / "here", tmp_path / "there"):
        run = Store(root).open(toy.Toy())
        assert run.restore() is None and run.folder.name == here.folder.name
        assert [p["platform"]["processor"] for p in run.platforms()] == ["abacus"]
        run.release()


# The folder's name


def test_asking_for_the_folder_makes_nothing(tmp_path: Path) -> None:
    folder = Store(tmp_path / "runs").folder(toy.Toy())
    assert not list(tmp_path.iterdir()) and folder == Store(tmp_path / "runs").open(toy.Toy()).folder


def test_raising_the_version_of_the_numerics_renames_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Store(tmp_path).folder(toy.Toy())
    monkeypatch.setattr(store, "NUMERICS", NUMERICS + 1)
    assert Store(tmp_path).folder(toy.Toy()) != before


def test_only_what_decides_a_number_is_in_the_name(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Server:
        model: str = "a"
        url: str = field(default="http://one", metadata={"names_run": False})

    @dataclass(frozen=True)
    class Nested:
        user: Server = Server()
        options: Any = ()

    folder = Store(tmp_path).folder
    assert folder(Nested()) == folder(Nested(Server(url="http://two"))) != folder(Nested(Server("b")))
    written = json.loads((Store(tmp_path).open(Nested()).folder / "config.json").read_text())
    assert written["config"]["user"] == {
        "class": written["config"]["user"]["class"],
        "model": "a",
        "unnamed": {"url": "http://one"},
    }
    # A key of that name in somebody's own options counts like any other.
    assert folder(Nested(options={"unnamed": 1})) != folder(Nested(options={"unnamed": 2}))
