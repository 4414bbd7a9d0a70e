"""Leases: exclusive among processes, kept while their holder lives, and taken over from a machine that is gone."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from itpo.runs import locks
from itpo.runs.locks import RunBusyError, is_locked, lock_path, take_lock
from itpo.runs.processes import train_one
from itpo.runs.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))
toy = importlib.import_module("toy_training")

LEASE, BEAT = 1.0, 0.1
ELSEWHERE = "locks._machine = lambda: 'another machine';"
HOLD = "lease = locks.take_lock(path, 60.0); print('held', flush=True); sys.stdin.readline(); "


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LEASE", LEASE)
    monkeypatch.setattr(locks, "BEAT", BEAT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".locks" / "run.lock"


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Start a process that does something with the lock, here or as if it were on another machine."""
    processes = []

    def run(code: str, before: str = "") -> "subprocess.Popen[str]":
        setting = f"locks.LEASE, locks.BEAT = {LEASE}, {BEAT}; path = Path({str(path)!r});"
        code = (
            f"import sys; from pathlib import Path; from itpo.runs import locks\n{setting} {before}\n{code}"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen([sys.executable, "-c", code], **pipes))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def _held(process: "subprocess.Popen[str]") -> "subprocess.Popen[str]":
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def _took(path: Path, patience: float) -> float:
    begun = time.monotonic()
    take_lock(path, patience).release()
    return time.monotonic() - begun


def _last_sign(path: Path) -> float:
    return max(lease.stat().st_mtime for lease in path.with_suffix(".lease").iterdir())


def test_no_two_processes_hold_it_at_once(path: Path, start: Start) -> None:
    """Each adds to a number in a file, not at one stroke; half of them cannot see whether the others live."""
    number = path.with_name("number")
    path.parent.mkdir()
    number.write_text("0")
    code = (
        f"number = Path({str(number)!r})\n"
        "for _ in range(40):\n"
        "    with locks.take_lock(path, float('inf')) as lease:\n"
        "        old = int(number.read_text()); lease.check(); number.write_text(str(old + 1))\n"
    )
    for process in [start(code, before) for before in ("", ELSEWHERE, "", ELSEWHERE)]:
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert number.read_text() == "160"
    assert len(os.listdir(path.with_suffix(".lease"))) == 1


def test_threads_of_one_process_exclude_one_another(path: Path) -> None:
    inside, most = [], []

    def work() -> None:
        with take_lock(path, float("inf")):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_a_killed_process_of_this_machine_leaves_it_at_once(path: Path, start: Start) -> None:
    process = _held(start(HOLD))
    assert is_locked(path)
    with pytest.raises(
        RunBusyError, match=f"run in .* is in use by process {process.pid} on .*: wait for it"
    ):
        take_lock(path, 0.0)
    process.kill()
    state = Path(f"/proc/{process.pid}/stat")
    while state.exists() and " Z " not in state.read_text():  # dead, though its parent has not asked yet
        time.sleep(0.01)
    assert not is_locked(path) and _took(path, 0.0) < LEASE / 2


def test_a_stopped_process_of_this_machine_keeps_it(path: Path, start: Start) -> None:
    process = _held(start(HOLD))
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(RunBusyError, match=f"process {process.pid}"):
        take_lock(path, 2 * LEASE)


def test_a_living_process_elsewhere_keeps_it(path: Path, start: Start) -> None:
    process = _held(start(HOLD, ELSEWHERE))
    with pytest.raises(RunBusyError, match=f"process {process.pid}"):
        take_lock(path, 2 * LEASE)
    assert process.stdin is not None
    process.communicate("\n", timeout=60)  # it ends without having released the lease, as any process may
    assert is_locked(path) and LEASE / 2 < _took(path, 0.5) < 20 * LEASE
    assert not is_locked(path)


def test_a_lease_from_before_a_restart_is_free_for_whoever_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody had to wait for it meanwhile: its last sign is old enough. So `itpo train` goes on, and the run can be removed."""
    config, store = toy.Toy(), Store(tmp_path)

    def leave_lease() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(locks, "_machine", lambda: "this machine, before its restart")
            patch.setattr(locks.Lease, "_show_life", lambda lease: None)
            take_lock(lock_path(store.folder(config)), 0.0)

    leave_lease()
    run = store.open(config)
    assert run.busy()
    with pytest.raises(RunBusyError):
        run.remove()
    time.sleep(1.2 * LEASE)
    assert not run.busy()
    outcome = train_one(lambda config, run: run.finish({}), config, run.folder, store, hurried=True)
    assert outcome.kind == "trained"
    leave_lease()
    time.sleep(1.2 * LEASE)
    run.remove()
    assert not run.folder.exists()


def test_a_process_elsewhere_that_comes_to_life_again_sees_that_it_lost(path: Path, start: Start) -> None:
    code = HOLD + "\ntry: lease.check()\nexcept locks.RunBusyError as error: print(error)"
    process = _held(start(code, ELSEWHERE))
    process.send_signal(signal.SIGSTOP)
    time.sleep(2 * BEAT)
    lease = take_lock(path, 0.1)  # more patient than asked, as the holder has shown no life
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate("\n", timeout=60)
    assert "run was taken over by another process, which had heard nothing of this one for 1 s" in output
    lease.check()  # and the loser took nothing away
    assert is_locked(path)
    lease.release()


def test_a_lease_whose_holder_wrote_nothing_is_taken_over_in_the_end(path: Path) -> None:
    take_lock(path, 0.0).release()
    (path.with_suffix(".lease") / "2").touch()
    sign = _last_sign(path)
    with pytest.raises(RunBusyError, match="in use by another process"):
        take_lock(path, 0.0)
    take_lock(path, 0.1).release()
    assert time.time() - sign >= LEASE


def test_a_copy_of_a_store_in_use_is_free_in_the_end(path: Path, tmp_path: Path) -> None:
    with take_lock(path, 0.0):
        shutil.copytree(path.parent, tmp_path / "copy")
        copied = tmp_path / "copy" / path.name
        sign = _last_sign(copied)
        assert is_locked(copied)
        take_lock(copied, 0.1).release()
        assert time.time() - sign >= LEASE
        assert is_locked(path)


def test_a_later_process_of_the_same_number_is_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(locks, "_birth", lambda pid: "long ago")
        take_lock(path, 0.0)
    assert not is_locked(path) and _took(path, 0.0) < LEASE / 2


def test_a_run_that_was_taken_over_is_written_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the one that lost it; a sweep then waits for the other."""
    config = toy.Toy()
    run = Store(tmp_path).open(config)
    monkeypatch.setattr(locks, "BEAT", 60.0)  # it is stalled
    run.log(1, {"loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(locks, "_machine", lambda: "another machine")
        other = take_lock(tmp_path / ".locks" / f"{run.folder.name}.lock", 0.1)
    before = (run.folder / "metrics.jsonl").read_bytes()
    for write in (lambda: run.log(2, {"loss": 2.0}), lambda: run.checkpoint(2, {}), run.restore):
        with pytest.raises(RunBusyError, match="was taken over by another process"):
            write()
    assert (run.folder / "metrics.jsonl").read_bytes() == before
    outcome = train_one(
        lambda config, _: run.log(2, {"loss": 2.0}), config, run.folder, Store(tmp_path), False
    )
    assert outcome.kind == "busy"
    run.release()
    other.check()
    other.release()


@pytest.mark.parametrize("name", [".nfs0000000012", ".DS_Store", "2.free.swp", "notes.txt"])
def test_what_others_put_beside_leases_is_none_and_stays(path: Path, name: str) -> None:
    folder = path.with_suffix(".lease")
    folder.mkdir(parents=True)
    (folder / name).touch()
    assert not is_locked(path)
    with take_lock(path, 0.0):
        assert is_locked(path)
    take_lock(path, 0.0).release()
    assert not is_locked(path) and sorted(os.listdir(folder)) == sorted([name, "2.free"])


def test_whoever_looked_long_ago_withdraws(path: Path) -> None:
    """It saw lease 1 expired and slept; meanwhile others had leases 2 and 3, and the first two files are gone."""
    for _ in range(2):
        take_lock(path, 0.0).release()
    lease, folder = take_lock(path, 0.0), path.with_suffix(".lease")
    assert locks._make(folder, 2) is None and locks._make(folder, 3) is None
    assert os.listdir(folder) == ["3"]
    lease.check()
    lease.release()
