"""The notebook runner, held to what it promises with a real kernel and throw-away notebooks."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
import run_notebooks

TESTS = Path(__file__).parent
SOURCE = """\
# %% [markdown]
# # A title

# %% tags=["parameters"]
profile = "laptop"

# %%
import sys, warnings
from pathlib import Path
print(profile, sys.executable, Path.cwd())
warnings.warn("look here")

# %%
1 + 1
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00_first.py").write_text(SOURCE)
    return tmp_path


GOES_ON = "Ctrl-C stops; the same command goes on."  # the last line of the plan


def call(root: Path, *arguments: str) -> None:
    run_notebooks.main(["--root", str(root), *arguments])


def printed(notebook: Path) -> str:
    """All that a notebook's cells printed to standard output."""
    outputs = [output for cell in nbformat.read(notebook, 4).cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def test_laptop_rewrites_the_pair_and_leaves_no_trace_of_the_machine(root: Path, capsys) -> None:
    call(root)
    pair = root / "notebooks" / "00_first.ipynb"
    notebook = nbformat.read(pair, 4)
    nbformat.validate(notebook)
    assert notebook.metadata == run_notebooks.METADATA
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, 1, 2, 3]
    assert notebook.cells[-1].outputs[0].data["text/plain"] == "2"
    text = pair.read_text()
    assert "papermill" not in text and "ipykernel" not in text
    for folder in (root, Path(sys.prefix), Path.home()):
        assert str(folder) not in text
    assert printed(pair).startswith("laptop ")
    assert "00_first ... " in capsys.readouterr().out
    call(root, "--check")


def test_two_runs_write_the_same_bytes(root: Path) -> None:
    tables = "import pandas as pd\ntable = pd.DataFrame({'turn': [1, 2]})\ndisplay(table.style, table.style.hide())\n"
    (root / "notebooks" / "00_first.py").write_text(f"{SOURCE}\n# %%\n{tables}\n# %%\ntable.style\n")
    pair, written = root / "notebooks" / "00_first.ipynb", []
    for _ in range(2):
        call(root)
        written.append(pair.read_text())
    assert written[0] == written[1]
    assert [f"T_{n:05d}_row1_col0" in written[0] for n in range(4)] == [True, True, True, False]


def test_other_profiles_run_beside_the_committed_outputs_in_this_environment(root: Path) -> None:
    call(root, "--profile", "smoke", "00")
    assert not (root / "notebooks" / "00_first.ipynb").exists()
    profile, executable, folder = printed(root / "build" / "smoke" / "00_first.ipynb").split()
    assert profile == "smoke"
    assert Path(executable).parent == Path(sys.executable).parent
    assert Path(folder) == (root / "notebooks").resolve()


def test_a_terminal_shows_how_far_training_is(root: Path) -> None:
    (root / "notebooks" / "00_first.py").write_text(
        "# %%\nimport toy_training as toy\nfrom itpo.runs.sweep import sweep\n"
        f"sweep({str(root / 'runs')!r}, [toy.Toy()], toy.walk)\n"
    )
    paths = [TESTS, Path(run_notebooks.__file__).parents[1]]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "TOY_PAUSE": "1",
        "COLUMNS": "70",
    }
    ours, theirs = os.openpty()
    command = [sys.executable, run_notebooks.__file__, "--root", str(root)]
    errors = root / "errors"  # jupyter's client may complain of tasks left behind, in the middle of a line
    with errors.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=file)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # raised when the other side has ended
        while chunk := os.read(ours, 4096):
            shown += chunk
    assert process.wait(60) == 0, shown.decode() + errors.read_text()
    states = shown.decode().partition(GOES_ON)[2].lstrip("\r\n").partition("\n")[0].split("\r")
    assert states[0] == "00_first ... " and any("00_first ... training: " in state for state in states)
    assert all(len(state.removesuffix(run_notebooks.ERASE)) < 70 for state in states[:-2])
    assert (
        f"00_first ... {run_notebooks.ERASE}" in states[-2] and "s -> notebooks/00_first.ipynb" in states[-2]
    )


def test_a_failure_names_the_cell_and_keeps_the_old_outputs(root: Path) -> None:
    """What runs beside it ends; nothing is started after it."""
    source, pair = (root / "notebooks" / f"00_first.{end}" for end in ("py", "ipynb"))
    for name in ("01_beside", "02_never"):
        (root / "notebooks" / f"{name}.py").write_text(f"# %%\nimport time\ntime.sleep(3)\nprint({name!r})\n")
    source.write_text(SOURCE + "\n# %%\nraise ValueError('no such luck')\n")
    pair.write_text("old")
    with pytest.raises(
        SystemExit, match=r"(?s)no such luck.*00_first.py failed.*build/laptop/00_first.ipynb"
    ):
        call(root, "--jobs", "2")
    assert pair.read_text() == "old"
    assert printed(root / "build" / "laptop" / "00_first.ipynb").startswith("laptop")
    assert printed(root / "notebooks" / "01_beside.ipynb") == "01_beside\n"
    assert not (root / "build" / "laptop" / "02_never.ipynb").exists()


def test_what_a_running_one_has_so_far_can_be_read_where_the_plan_says(root: Path, capsys) -> None:
    """The second cell reads what the first one printed."""
    path = root / "build" / "laptop" / "00_first.partial.ipynb"
    second = f"import nbformat\nprint(nbformat.read({str(path)!r}, 4).cells[0].outputs[0].text)"
    (root / "notebooks" / "00_first.py").write_text(f"# %%\nprint(6 * 7)\n\n# %%\n{second}\n")
    call(root)
    assert "What a running one has so far: build/laptop/NAME.partial.ipynb." in capsys.readouterr().out
    assert printed(root / "notebooks" / "00_first.ipynb").count("42") == 2
    assert not path.exists()


MEET = """\
# %%
import os, time
from pathlib import Path
Path("{own}").touch()
while not Path("{other}").exists():
    time.sleep(0.02)
print(os.environ["ITPO_WORKERS"], os.environ["OMP_NUM_THREADS"])
"""


def test_two_run_side_by_side_and_share_the_cores(root: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(run_notebooks, "cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # what the user says would count
    (root / "notebooks" / "00_first.py").write_text(MEET.format(own="a", other="b"))
    (root / "notebooks" / "01_second.py").write_text(MEET.format(own="b", other="a"))
    call(root)
    for name in ("00_first", "01_second"):
        assert printed(root / "notebooks" / f"{name}.ipynb") == "3 1\n"
    lines = capsys.readouterr().out.partition(GOES_ON)[2].split("\n")[1:-1]
    assert sorted(line.partition(" ")[0] for line in lines) == ["00_first", "01_second"]
    assert all(re.fullmatch(r"\w+ \.\.\. \d+ s -> notebooks/\w+\.ipynb", line) for line in lines)


def test_ctrl_c_ends_every_kernel_and_keeps_the_old_outputs(root: Path) -> None:
    text = "# %%\nimport os, time\nopen(f'{}', 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    for name in ("00_first", "01_second"):
        (root / "notebooks" / f"{name}.py").write_text(text.replace("{}", f"../{name}.pid"))
        (root / "notebooks" / f"{name}.ipynb").write_text("old")
    command = [sys.executable, run_notebooks.__file__, "--root", str(root), "--jobs", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        command,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        text=True,
        **pipes,
    )
    pids = [root / f"{name}.pid" for name in ("00_first", "01_second")]
    wait_for(lambda: all(path.exists() and path.read_text() for path in pids))
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "\nstopped: the same command goes on; what was trained is kept in runs/\n"
    wait_for(lambda: not any(Path(f"/proc/{path.read_text()}").exists() for path in pids))
    assert {path.read_text() for path in (root / "notebooks").glob("*.ipynb")} == {"old"}


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Look again and again until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_sync_keeps_outputs_of_unchanged_cells_only(root: Path) -> None:
    call(root)
    source, pair = (root / "notebooks" / f"00_first.{end}" for end in ("py", "ipynb"))
    before = pair.read_bytes()
    call(root, "--sync", "--check")
    assert pair.read_bytes() == before
    source.write_text(SOURCE.replace("1 + 1", "1 + 2"))
    with pytest.raises(SystemExit, match=r"00_first.py: cell 3 differs(?s:.*)make notebooks"):
        call(root, "--check")
    call(root, "--sync", "--check")
    cells = nbformat.read(pair, 4).cells
    assert cells[2].outputs and not cells[3].outputs
    assert cells[3].execution_count is None


def test_check_finds_a_missing_pair_and_a_lost_tag_and_sync_repairs_both(root: Path) -> None:
    with pytest.raises(SystemExit, match="has no .ipynb"):
        call(root, "--check")
    call(root, "--sync", "--check")
    pair = root / "notebooks" / "00_first.ipynb"
    notebook = nbformat.read(pair, 4)
    del notebook.cells[1].metadata["tags"]
    nbformat.write(notebook, pair)
    with pytest.raises(SystemExit, match="cell 1 differs"):
        call(root, "--check")
    call(root, "--sync", "--check")


@pytest.mark.parametrize("size", [0, 1, 200, -1, -2, -100])
def test_a_half_written_pair_is_named_by_check_and_mended_by_sync(root: Path, size: int, capsys) -> None:
    call(root, "--sync")
    pair = root / "notebooks" / "00_first.ipynb"
    whole = pair.read_bytes()
    damaged = [whole[:size]]
    if size == 0:
        damaged += [b"[]", b"{}", b"null", b"\xff", b'{"cells": 1}', b'{"cells": [{}]}', b"[" * 99_999]
    for content in damaged:
        if content.strip() == whole.strip():  # all but the last end of a line
            continue
        pair.write_bytes(content)
        with pytest.raises(
            SystemExit, match=r"\A00_first.py: 00_first.ipynb is damaged.*\n.*make notebooks\Z"
        ):
            call(root, "--check")
        call(root, "--sync", "--check")
        assert pair.read_bytes() == whole


KILL = """
import os, random, signal, sys, threading, time
import run_notebooks
root, delay = sys.argv[1], float(sys.argv[2])
threading.Thread(target=lambda: (time.sleep(delay), os.kill(os.getpid(), signal.SIGKILL)), daemon=True).start()
while True:
    for text in ("1 + 1", "2 + 2"):
        with open(f"{root}/notebooks/00_first.py", "w") as file:
            file.write("# %%\\n" * 300 + text)
        run_notebooks.main(["--root", root, "--sync"])
"""


def test_a_killed_writer_leaves_a_whole_pair(root: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(run_notebooks.__file__).parent)}
    call(root, "--sync")
    for number in range(4):
        command = [sys.executable, "-c", KILL, str(root), str(0.1 + 0.037 * number)]
        assert subprocess.run(command, env=environment, check=False, timeout=60).returncode == -9
        nbformat.validate(nbformat.read(root / "notebooks" / "00_first.ipynb", 4))
    (root / "notebooks" / "00_first.py").write_text(SOURCE)
    call(root, "--sync", "--check")


def test_a_full_disk_is_one_line_and_keeps_the_old_pair(root: Path) -> None:
    call(root, "--sync")
    pair = root / "notebooks" / "00_first.ipynb"
    before = pair.read_bytes()
    (root / "notebooks" / "00_first.py").write_text(f"{SOURCE}\n'{'x' * 5000}'\n")
    limit = "import resource, sys, run_notebooks; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, -1)); "
    command = [
        sys.executable,
        "-c",
        f"{limit}run_notebooks.main(sys.argv[1:])",
        "--root",
        str(root),
        "--sync",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(run_notebooks.__file__).parent)}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"no space to write in {root}" in done.stderr and "free some space" in done.stderr
    assert pair.read_bytes() == before and {p.name for p in pair.parent.iterdir()} == {
        pair.name,
        "00_first.py",
    }


def test_half_a_character_is_written_as_its_escape(root: Path) -> None:
    pair = root / "notebooks" / "00_first.ipynb"
    executed = run_notebooks.read_source(pair.with_suffix(".py"))
    executed.cells[-1].outputs = [nbformat.v4.new_output("stream", text="\ud800|\N{GRINNING FACE}")]
    run_notebooks.write_pair(pair.with_suffix(".py"), executed, root)
    assert r"\ud800|" in pair.read_text() and printed(pair) == "\ud800|\N{GRINNING FACE}"


def test_papermill_alone_runs_a_pair_with_another_profile(root: Path) -> None:
    call(root, "--sync")
    command = "papermill notebooks/00_first.ipynb out.ipynb -p profile smoke"
    subprocess.run([sys.executable, "-m", *command.split()], cwd=root, check=True, capture_output=True)
    profile, executable, _ = printed(root / "out.ipynb").split()
    assert profile == "smoke"
    assert Path(executable).parent == Path(sys.executable).parent


def test_unknown_notebook_and_wrong_default_are_refused(root: Path) -> None:
    with pytest.raises(SystemExit, match=r"no notebook 07.*00_first"):
        call(root, "07")
    (root / "notebooks" / "00_first.py").write_text(SOURCE.replace('"laptop"', '"smoke"'))
    with pytest.raises(SystemExit, match="must default to laptop or smol, not smoke"):
        call(root)


def test_a_notebook_without_parameters_runs_as_it_is(root: Path) -> None:
    (root / "notebooks" / "00_first.py").write_text("# %%\nprint('plain')\n")
    call(root, "--profile", "smoke")
    assert printed(root / "build" / "smoke" / "00_first.ipynb") == "plain\n"


def test_a_profile_runs_the_notebooks_that_have_it(root: Path) -> None:
    """A notebook that trains a real model has outputs of its own profile, and is left out at the laptop's."""
    (root / "notebooks" / "08_real.py").write_text(SOURCE.replace('"laptop"', '"smol"'))
    call(root)
    assert not (root / "notebooks" / "08_real.ipynb").exists()
    call(root, "--profile", "smol")
    assert printed(root / "notebooks" / "08_real.ipynb").startswith("smol")
    assert not (root / "build" / "smol" / "00_first.ipynb").exists()
    call(root, "--profile", "smoke")
    assert {path.stem for path in (root / "build" / "smoke").glob("*.ipynb")} == {"00_first", "08_real"}
    with pytest.raises(SystemExit, match="08_real: cannot be run at the profile laptop"):
        call(root, "--profile", "laptop", "08")
    with pytest.raises(SystemExit, match="at the profile smke, only at: consumer, laptop, smoke, smol"):
        call(root, "--profile", "smke")
    with pytest.raises(SystemExit, match="--jobs -1: at least 1"):
        call(root, "--jobs", "-1")


def test_the_plan_says_order_questions_and_times(root: Path, capsys) -> None:
    """The first curve first; times of the repository until there are own ones; how long the rest takes."""
    (root / "notebooks" / "01_training.py").write_text(
        "# %% [markdown]\n# # What is learned?\n# Text.\n\n# %%\n1\n"
    )
    workers = run_notebooks.cores()  # what one notebook at a time trains with
    kept = {"laptop": {"00_first": 5400 * workers, "01_training": 90 * workers}}
    (root / "notebooks" / "times.json").write_text(json.dumps(kept))
    call(root, "--jobs", "1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "2 notebooks at profile laptop, 1 at a time, about 1 h 32 min as measured last"
    )
    start = next(number for number, line in enumerate(lines) if line.startswith("  "))
    assert [line.split(maxsplit=2) for line in lines[start : start + 1]] == [
        ["01_training", "2", "min  What is learned?"]
    ]
    assert lines[start + 1].split() == ["00_first", "1", "h", "30", "min", "A", "title"]
    assert lines[start + 2 : start + 4] == [
        "What a running one has so far: build/laptop/NAME.partial.ipynb.",
        "Ctrl-C stops; the same command goes on.",
    ]
    ended = lines[start + 4 :]
    assert re.fullmatch(r"01_training \.\.\. \d+ s -> .*\.ipynb \(about 1 h 30 min left\)", ended[0])
    assert ended[1].startswith("00_first ... ") and "left" not in ended[1]
    own = json.loads((root / "build" / "laptop" / "times.json").read_text())
    assert set(own) == {"00_first", "01_training"} and max(own.values()) < 90 * workers
    assert json.loads((root / "notebooks" / "times.json").read_text()) == kept
    run_notebooks.write_times(root, "smoke", {"00_first": 3.2}, keep=True)
    assert json.loads((root / "notebooks" / "times.json").read_text()) == kept | {"smoke": {"00_first": 3}}


def test_time_left_is_that_of_the_longest_or_of_all_shared() -> None:
    times = {"a": 600.0, "b": 60.0, "c": 60.0}
    assert run_notebooks.time_left(["a", "b", "c"], {}, times, 2) == "about 10 min"
    assert run_notebooks.time_left(["b", "c"], {"a": 540.0}, times, 1) == "about 3 min"
    assert run_notebooks.time_left([], {"b": 90.0}, times, 1) == "about 1 s"
    assert run_notebooks.time_left(["new"], {}, times, 1) == run_notebooks.time_left([], {}, times, 1) == ""
