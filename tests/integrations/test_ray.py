"""Sweeps on Ray, as far as Ray is not needed: `make test-ray` does the rest on a cluster."""

import importlib
import socket
import sys
from pathlib import Path

import pytest

from itpo.integrations import ray as on_ray
from itpo.integrations.ray import Ray
from itpo.runs.processes import Outcome, Processes
from itpo.runs.store import Store
from itpo.runs.sweep import sweep

sys.path.insert(0, str(Path(__file__).parents[1]))  # child processes import the toy by its name
toy = importlib.import_module("toy_training")


def test_without_ray_this_machine_trains_and_a_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (run,) = sweep(tmp_path, [toy.Toy()], toy.walk, progress=False, executor=Ray(num_gpus=0.5))
    assert run.done and capfd.readouterr().err == f"{on_ray.MISSING}\n"
    pool = Ray()(Store(tmp_path), toy.walk, [run, run], 1)
    assert isinstance(pool, Processes) and pool.workers == 1


def test_a_node_without_the_store_fails_the_run_by_name(tmp_path: Path) -> None:
    """It would else train where nobody looks."""
    elsewhere = Store(tmp_path / "shared")
    folder = elsewhere.folder(toy.Toy())
    kind, text, error, remedy = on_ray._train(elsewhere, toy.walk, toy.Toy(), folder, False, None)
    assert kind == "failed" and text == error == f"FileNotFoundError: {remedy}"
    assert remedy.startswith(f"{folder} is not on ") and "all nodes of the cluster share" in remedy
    with pytest.raises(FileNotFoundError, match="all nodes of the cluster share"):
        on_ray._make_base(elsewhere, toy.Toy())
    assert not list(tmp_path.iterdir())
    elsewhere.open(toy.Toy())
    assert on_ray._train(elsewhere, toy.walk, toy.Toy(), folder, False, None) == Outcome("trained")


def test_a_cluster_that_does_not_answer_is_named_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for name in (address, f"ray://{address}"):
        with pytest.raises(ConnectionError, match=f"no Ray cluster answers at {name} .*: start one"):
            on_ray._require_answer(name)
    on_ray._require_answer("auto")
    on_ray._require_answer(None)
