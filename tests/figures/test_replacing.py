"""Whenever a process that publishes ends, readers find all that was there before, or all that is new; and so on a full disk."""

import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from figure_examples import band, ceilings

from itpo.figures import results, style
from itpo.figures.publishing import gallery
from itpo.figures.publishing.registry import publish, publish_table, read_folder, redraw

BAND = pd.DataFrame({"kind": ["ask"], "success": [True], "mean": [0.3], "low": [0.1], "high": [0.5]})


def three_frames() -> None:
    frames = {"batches": band(("itpo",)), "monitor": band(("itpo",))[::-1], "ceilings": ceilings(("itpo",))}
    publish(results.kendall_over_training, "F05_x", "smoke", "Before.", **frames, reported=[0.5, 0.7])


def one_frame() -> None:
    publish(results.credit_by_kind, "F05_x", "smoke", "After.", band=BAND)


def table(columns: str = "ab") -> None:
    text = pd.DataFrame({column: ["1", "2"] for column in columns})
    publish_table(text, text, "F05_x", "smoke", f"Scale {columns}.", f"Note {columns}.")


def draw_again() -> None:
    list(redraw(style.output_folder("smoke")))


def page() -> None:
    gallery.build(style.output_folder("smoke"))


def one_frame_with_other_numbers() -> None:
    """Of which the images are still to be drawn."""
    one_frame()
    path = style.output_folder("smoke") / "F05_x.csv"
    path.write_text(path.read_text().replace("0.3", "0.4"))


def page_of_before() -> None:
    table()
    page()
    table("abc")


CHANGES: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
    "a figure with fewer files": (three_frames, one_frame),
    "a table with other columns": (table, lambda: table("abc")),
    "a figure becomes a table": (one_frame, table),
    "other images of one record": (one_frame_with_other_numbers, draw_again),
    "the page": (page_of_before, page),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure_style: None) -> Path:
    """Where figures are published in a test."""
    found = tmp_path / "figures"
    found.mkdir()
    monkeypatch.setattr(style, "output_folder", lambda profile: found)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."
    }


def restore(folder: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def both(folder: Path, change: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files before and after a change, which is not yet made."""
    before, after = CHANGES[change]
    before()
    old = contents(folder)
    after()
    new = contents(folder)
    assert new != old and not [path for path in folder.iterdir() if path.name[0] == "."]
    return old, new


def in_child(act: Callable[[], None]) -> int:
    """The exit status of a copy of this process that does this: 0 if done, 3 for a full disk, 4 otherwise; -9 if killed."""
    child = os.fork()
    if child == 0:
        status = 4
        try:
            act()
            status = 0
        except OSError as error:
            status = 3 if "no space to write in" in str(error) and "free some space" in str(error) else 4
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check_whole(folder: Path, old: dict[str, bytes], new: dict[str, bytes]) -> None:
    """Each file is an old or a new one, and all are of one time for a reader."""
    found = contents(folder)
    assert old.keys() & new.keys() <= found.keys() <= old.keys() | new.keys()
    assert all(content in (old.get(name), new.get(name)) for name, content in found.items())
    read_folder(folder)
    assert contents(folder) in (old, new)


@pytest.mark.parametrize("change", CHANGES)
def test_a_kill_before_any_operation_on_files_leaves_all_old_or_all_new(folder: Path, change: str) -> None:
    old, new = both(folder, change)
    act = CHANGES[change][1]

    def killed_at(number: int) -> int:
        def act_and_die() -> None:
            left = iter(range(number))

            def hook(event: str, arguments: tuple[object, ...]) -> None:
                on_files = event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.listdir")
                if on_files and str(folder) in str(arguments[0]) and next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            act()

        restore(folder, old)
        return in_child(act_and_die)

    number, outcomes = 0, set()
    while (status := killed_at(number)) == -signal.SIGKILL:
        check_whole(folder, old, new)
        outcomes.add(contents(folder) == new)
        if number % 5 == 0:  # publishing again leaves nothing of the one that was killed
            act()
            assert contents(folder) == new and not [path for path in folder.iterdir() if path.name[0] == "."]
        number += 1
    assert status == 0 and number >= 5 and outcomes == {True, False}


def test_a_kill_at_any_moment_leaves_all_old_or_all_new(folder: Path) -> None:
    change = "a table with other columns"
    old, new = both(folder, change)
    rng = random.Random(0)
    for _ in range(40):

        def act_and_die(delay: float = rng.uniform(0, 0.02)) -> None:
            def die() -> None:
                time.sleep(delay)
                os.kill(os.getpid(), signal.SIGKILL)

            threading.Thread(target=die).start()
            while True:
                CHANGES[change][0]()
                CHANGES[change][1]()

        assert in_child(act_and_die) == -signal.SIGKILL
        check_whole(folder, old, new)


@pytest.mark.parametrize("change", CHANGES)
def test_a_full_disk_is_explained_and_changes_nothing(folder: Path, change: str) -> None:
    old, new = both(folder, change)
    statuses = set()
    for size in (0, 1, 40, 400, 1000, 4000, 8000, 16000, 10**6):

        def act(size: int = size) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            CHANGES[change][1]()

        restore(folder, old)
        status = in_child(act)
        statuses.add(status)
        assert contents(folder) == {0: new, 3: old}[status]
        assert not [path for path in folder.iterdir() if path.name[0] == "."]
    assert statuses == {0, 3}


def test_an_error_while_drawing_keeps_what_was_published(folder: Path) -> None:
    one_frame()
    before = contents(folder)
    with pytest.raises(KeyError):
        publish(results.credit_by_kind, "F05_x", "smoke", "c", band=BAND.drop(columns="mean"))
    assert contents(folder) == before and len(before) == len(list(folder.iterdir()))


def test_a_users_own_files_stay(folder: Path) -> None:
    three_frames()
    (folder / "F05_x.notes.txt").write_text("mine")
    one_frame()
    assert (folder / "F05_x.notes.txt").read_text() == "mine"
    assert {path.suffix for path in folder.glob("F05_x.*")} == {".csv", ".json", ".pdf", ".png", ".txt"}


def test_published_files_have_the_permissions_that_the_umask_leaves(folder: Path) -> None:
    mask = os.umask(0o027)
    try:
        one_frame()
        page()
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}
