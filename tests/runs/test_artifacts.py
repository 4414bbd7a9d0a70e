"""Made models: those of another platform are refused by name, and those that ship are found instead of made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy_training as toy

from itpo.runs import artifacts
from itpo.runs.artifacts import PROGRESS, being_made, write_artifact
from itpo.runs.files import RunFolderError
from itpo.runs.locks import lock_path, take_lock
from itpo.runs.store import PlatformError, Store
from itpo.runs.sweep import _Progress


def write(folder: Path) -> None:
    (folder / "model.txt").write_text("weights")


def broken(folder: Path) -> None:
    raise AssertionError("is not to be made")


def test_one_that_was_made_elsewhere_is_named_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Store(tmp_path).artifact("warm", {}, write)
    here = artifacts.making_platform()
    monkeypatch.setattr(artifacts, "making_platform", lambda: here | {"processor": "another"})
    with pytest.raises(PlatformError) as caught:
        Store(tmp_path).artifact("warm", {}, broken)
    message = str(caught.value)
    assert str(folder) in message and f"processor: {here['processor']} there, another here" in message
    assert "move the folder away" in message and "--mix-platforms" in message and "\n" not in message
    assert Store(tmp_path, mix_platforms=True).artifact("warm", {}, broken) == folder


def test_the_number_of_threads_is_no_other_platform(tmp_path: Path) -> None:
    """Makers set it themselves, and older records have it."""
    folder = Store(tmp_path).artifact("warm", {}, write)
    document = json.loads((folder / "artifact.json").read_text())
    assert "threads" not in document["platform"]
    platform = {**document["platform"], "threads": 7}
    sealed = artifacts.sealed_bytes(
        "itpo-artifact", content=document["content"], platform=platform, files=document["files"]
    )
    (folder / "artifact.json").write_bytes(sealed)
    assert Store(tmp_path).artifact("warm", {}, broken) == folder


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shipped" / "small"
    folder.mkdir(parents=True)
    write(folder)
    write_artifact(folder, {"kind": "warm", "determinants": {"size": 1}})
    monkeypatch.setattr(artifacts, "SHIPPED", folder.parent)
    return folder


def test_one_that_ships_is_found_and_nothing_is_made(
    tmp_path: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "making_platform", lambda: {"processor": "another"})  # it is data
    store = Store(tmp_path / "runs")
    assert store.artifact("warm", {"size": 1}, broken) == shipped
    assert not store.root.exists()
    for kind, size in (("warm", 2), ("cold", 1)):
        assert store.artifact(kind, {"size": size}, write).parent == store.root / "models"


def _other_record(folder: Path) -> None:
    path = folder / "artifact.json"
    path.write_text(path.read_text().replace('"size": 1', '"size": 2'))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "model.txt").write_text("Weights"), "model.txt: was changed"),
        (lambda folder: (folder / "model.txt").unlink(), "model.txt: was changed, added or removed"),
        (lambda folder: (folder / "more.txt").write_text(""), "more.txt: was changed, added or removed"),
        (_other_record, "artifact.json: was changed: its content does not give the hash"),
    ],
)
def test_one_that_ships_and_was_changed_is_named(
    tmp_path: Path, shipped: Path, damage: Any, named: str
) -> None:
    damage(shipped)
    with pytest.raises(RunFolderError, match=f"{named}.*install the library again"):
        Store(tmp_path / "runs").artifact("warm", {"size": 1}, broken)


def test_how_far_makers_are_is_read_beside_their_folders(tmp_path: Path) -> None:
    seen = []

    def slow(folder: Path) -> None:
        (folder / PROGRESS).write_text("step 3 of 7")
        seen.extend(being_made(tmp_path / "models"))
        (folder / PROGRESS).unlink()

    folder = Store(tmp_path).artifact("warm", {}, slow)
    assert seen == ["step 3 of 7"] and being_made(tmp_path / "models") == []
    assert [path.name for path in folder.iterdir()] == ["artifact.json"]


def test_a_sweep_shows_what_is_being_made(tmp_path: Path, unchecked: None) -> None:
    run, folder = Store(tmp_path).open(toy.Toy()), tmp_path / "models" / ".partial-base-1"
    folder.mkdir(parents=True)
    (folder / PROGRESS).write_text("step 3 of 7")
    with _Progress([run], show=False) as bar:
        with take_lock(lock_path(tmp_path / "models" / "base-1"), 0.0):
            bar.update([run], 0, 0)
            assert bar.bar.postfix == "0 of 1 runs, a model is being made: step 3 of 7"
        bar.update([run], 0, 0)  # its maker was killed
        assert bar.bar.postfix == "0 of 1 runs"
