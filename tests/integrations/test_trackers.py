"""Trackers: what a run logs arrives live, changes nothing of the run, and a tracker that fails costs one line."""

import importlib
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from itpo.config import Method, RunConfig
from itpo.integrations import trackers
from itpo.integrations.trackers import tracked
from itpo.runs.store import Run, Store, fingerprint
from itpo.runs.sweep import sweep

sys.path.insert(0, str(Path(__file__).parents[1]))  # child processes import the toy by its name
toy = importlib.import_module("toy_training")


def _events(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard's own reader finds under a folder: values by step, by name."""
    reader = EventAccumulator(str(folder)).Reload()
    return {
        name: {event.step: event.value for event in reader.Scalars(name)} for name in reader.Tags()["scalars"]
    }


def _trained(root: Path, tracker: str | None = None) -> Run:
    run = Store(root).open(toy.Toy())
    train = partial(tracked, toy.walk, tracker) if tracker else toy.walk
    train(run.config, run)
    return run


def test_tensorboard_shows_what_a_sweep_logs_and_the_run_is_as_without(tmp_path: Path) -> None:
    (run,) = sweep(
        tmp_path / "with", [toy.Toy()], partial(tracked, toy.walk, "tensorboard"), workers=1, progress=False
    )
    metrics = run.metrics().set_index("step")
    events = _events(tmp_path / "with" / "tensorboard" / run.folder.name[:8])
    assert events["loss"] == pytest.approx(metrics["loss"].to_dict())
    assert events["count"] == metrics["count"].to_dict()
    assert 2 not in events["ratio"] and len(events["ratio"]) == 9, "a number that is not finite is left out"
    alone = _trained(tmp_path / "without")
    assert run.folder.name == alone.folder.name and fingerprint(run) == fingerprint(alone)


def test_curves_appear_while_the_run_trains(tmp_path: Path) -> None:
    seen = []

    def slow(config: Any, run: Run) -> None:
        for step in range(3):
            run.log(step, {"success": step / 2})
            folder, end = tmp_path / "tensorboard" / run.folder.name[:8], time.monotonic() + 60
            while time.monotonic() < end and step not in _written(folder):
                time.sleep(0.1)
            seen.append(_written(folder))
        run.finish({})

    def _written(folder: Path) -> dict[int, float]:
        return _events(folder).get("success", {}) if folder.exists() else {}

    tracked(slow, "tensorboard", toy.Toy(), Store(tmp_path).open(toy.Toy()))
    assert seen == [{0: 0.0}, {0: 0.0, 1: 0.5}, {0: 0.0, 1: 0.5, 2: 1.0}]


def test_a_run_that_goes_on_takes_back_what_it_trains_again(tmp_path: Path) -> None:
    def interrupted(config: Any, run: Run) -> None:
        for step in range(1, 6):
            run.log(step, {"loss": 100.0})
        run.release()

    run = Store(tmp_path).open(toy.Toy())
    tracked(interrupted, "tensorboard", run.config, run)
    time.sleep(1.1)  # files of events are ordered by their second
    tracked(toy.walk, "tensorboard", run.config, run)
    events = _events(tmp_path / "tensorboard" / run.folder.name[:8])
    assert events["loss"] == pytest.approx(run.metrics().set_index("step")["loss"].to_dict())


@dataclass
class Odd:
    """A tracker that does something else when it is asked to."""

    log: Callable[..., Any] = lambda values, step: None
    store_init_configuration: Callable[[Any], Any] = lambda values: None
    finish: Callable[[], Any] = lambda: None


def _fail(*_: Any, **__: Any) -> None:
    raise ConnectionError("no route\nto the server")


def _leave(*_: Any, **__: Any) -> None:
    sys.exit("cannot reach the server")


@pytest.mark.parametrize(
    "odd", [Odd(log=_fail), Odd(store_init_configuration=_fail), Odd(finish=_fail), Odd(log=_leave), None]
)
def test_a_tracker_that_fails_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], odd: Odd | None
) -> None:
    monkeypatch.setattr(trackers, "_open", lambda *_: odd or _fail())
    run = _trained(tmp_path / "with", "wandb")
    assert run.done and run.listeners == []
    assert fingerprint(run) == fingerprint(_trained(tmp_path / "without"))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"tracker wandb of {run.folder} failed (") and "server" in line
    assert line.endswith("it gets no more; the run goes on, and metrics.jsonl has all")


def test_a_tracker_that_hangs_neither_stops_nor_slows_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hung = threading.Event()
    monkeypatch.setattr(trackers, "_open", lambda *_: Odd(log=lambda values, step: hung.wait()))
    monkeypatch.setattr(trackers, "_MOST_WAITING", 3)
    monkeypatch.setattr(trackers, "_PATIENCE", 0.2)
    monkeypatch.setattr(trackers, "_given_up", set())
    took: list[float] = []

    def timed(config: Any, run: Run) -> None:
        start = time.monotonic()
        toy.walk(config, run)
        took.append(time.monotonic() - start)

    run = Store(tmp_path / "with").open(toy.Toy())
    start = time.monotonic()
    tracked(timed, "mlflow", run.config, run)
    assert time.monotonic() - start - took[0] < 5, "its end waits for a moment alone"
    other = Store(tmp_path / "with").open(toy.Toy(seed=1))
    tracked(toy.walk, "mlflow", other.config, other)
    assert other.done and trackers._given_up == {"mlflow"}, "nobody waits for it twice"
    hung.set()
    assert fingerprint(run) == fingerprint(_trained(tmp_path / "without"))
    (line,) = capfd.readouterr().err.splitlines()
    assert "is too slow: some points of its curves are left out; the run goes on" in line


def test_a_tracker_that_is_not_installed_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    assert _trained(tmp_path, "mlflow").done
    assert "ImportError: it is not installed: pip install mlflow" in capfd.readouterr().err


def test_a_failing_run_fails_as_without_a_tracker(tmp_path: Path) -> None:
    run = Store(tmp_path).open(toy.Toy(accident="raise"))
    with pytest.raises(ArithmeticError):
        tracked(toy.walk, "tensorboard", run.config, run)
    run.release()
    assert len(_events(tmp_path / "tensorboard" / run.folder.name[:8])["loss"]) == 5


def test_settings_name_method_seed_git_and_platform(tmp_path: Path) -> None:
    config = RunConfig(Method("norm_itpo"), seed=3, steps=24)
    settings = trackers._settings(config)
    assert settings["seed"] == 3 and settings["method.name"] == "norm_itpo"
    assert settings["estimator.name"] == "rloo" and settings["method.temperature"] == 0.4
    assert "platform.libraries.torch" in settings and "platform.processor" in settings
    assert settings["git"] == trackers._git_state(Path(__file__).parent) != ""
    assert all(isinstance(value, bool | int | float | str) for value in settings.values())
    assert trackers._git_state(tmp_path) == "none"
    run = Store(tmp_path).open(config)
    assert trackers._title(run) == f"math-norm_itpo-rloo-seed3-{run.folder.name[:8]}"
