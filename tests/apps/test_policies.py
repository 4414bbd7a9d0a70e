"""The smallest script: train, list, talk with piped input, export; by facts instead of hashes, and as real processes."""

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from itpo.__main__ import main
from itpo.apps.finding import Facts, list_runs, the_run
from itpo.apps.terminal import paint
from itpo.apps.training import chosen_config, train_policy
from itpo.runs.store import Store, fingerprint
from itpo.tasks.registry import get_task

pytestmark = pytest.mark.usefixtures("unchecked")
SIZES = {"prompts": 2, "rollouts": 2, "eval_dialogues": 4, "monitor_dialogues": 2}
TINY = ["--profile", "smoke", *(word for name, size in SIZES.items() for word in ("--set", f"{name}={size}"))]
TRAIN = ["train", "--method", "uniform", "--steps", "2", *TINY]


def shell(*arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """A command as a person types it, without colours and in a window of this width."""
    environment = os.environ | {"MPLBACKEND": "Agg"} | options.pop("environment", {})
    command = [sys.executable, "-m", "itpo", *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False, **options
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two finished runs that differ by their seed."""
    root = tmp_path_factory.mktemp("runs")
    done = shell(*TRAIN, "--store", str(root))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    config = chosen_config("smoke", "math", "uniform", "rloo", 0, {**SIZES, "steps": 2})
    assert lines[-1] == str(Store(root).folder(config))
    assert (Path(lines[-1]) / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert (
        "step 0 to 1" in done.stdout
        and "before training" in done.stdout
        and "\x1b" not in done.stdout + done.stderr
    )
    other = train_policy("math", "uniform", seed=1, profile="smoke", store=root, steps=2, **SIZES)
    assert other.done and other.config.seed == 1
    return root


def test_a_run_is_found_by_facts_talked_to_and_exported(store: Path, tmp_path: Path) -> None:
    talk = shell(
        "chat",
        "--method",
        "uniform",
        "--seed",
        "0",
        "--store",
        str(store),
        "--max-tokens",
        "8",
        input="maybe 3 .\n\n",
    )
    assert talk.returncode == 0, talk.stderr
    said = re.findall(r"^assistant> (.*)$", talk.stdout, re.MULTILINE)
    words = {*get_task("math").words, "<|end|>"}
    assert said and {word for line in said for word in line.split()} <= words
    assert "user> maybe 3 ." in talk.stdout, "what is piped in is shown"
    folder = tmp_path / "adapter"
    assert main(["export", str(folder), "--method", "uniform", "--seed", "1", "--store", str(store)]) == 0
    assert (folder / "adapter_model.safetensors").exists()


def test_the_command_trains_as_a_sweep_does(store: Path, tmp_path: Path) -> None:
    """To the byte, though in the process of the command."""
    from itpo.runs.sweep import sweep
    from itpo.trainer import train

    run = the_run(store, Facts(method="uniform", seed=0))
    (other,) = sweep(tmp_path, [run.config], train, workers=1, progress=False)
    assert fingerprint(other) == fingerprint(run)
    assert other.platforms()[0]["platform"] == run.platforms()[0]["platform"]


def test_the_list_says_facts_and_other_settings_and_filters(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["runs", "--store", str(store)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "task",
        "method",
        "estimator",
        "seed",
        "profile",
        "steps",
        "outcome",
        "settings",
        "folder",
    ]
    for seed, line in enumerate(lines):
        run = the_run(store, Facts(seed=seed))
        others = ["eval_dialogues=4", "monitor_dialogues=2", "prompts=2", "rollouts=2", "steps=2"]
        wanted = [
            "math",
            "uniform",
            "rloo",
            str(seed),
            "smoke",
            "2",
            "of",
            "2",
            f"{run.summary()['success']:.3f}",
        ]
        assert sorted(line.split()) == sorted([*wanted, *others, str(run.folder)])
    assert (
        main(
            [
                "runs",
                "list",
                "--seed",
                "1",
                "--set",
                "prompts=2",
                "--status",
                "finished",
                "--store",
                str(store),
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.count("\n") == 2
    assert main(["runs", "list", "--seed", "7", "--store", str(store)]) == 0
    assert capsys.readouterr().out.startswith(f"no runs of seed 7 in {store}")


def test_a_run_is_shown_by_facts_or_the_first_letters_of_its_name(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = the_run(store, Facts(seed=1))
    shown = []
    for which in (["--seed", "1"], [run.folder.name[:6]], [str(run.folder)]):
        assert main(["runs", "show", *which, "--store", str(store)]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] == shown[2]
    assert "method: uniform\n" in shown[0] and f"{run.summary()['greedy_success']:.3f}" in shown[0]
    assert f"folder: {run.folder}" in shown[0]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("runs list --task maths", "unknown task 'maths': did you mean math"),
        ("runs list --status finish", "unknown status 'finish': did you mean finished?"),
        ("runs list --set promts=2", "unknown setting 'promts': did you mean prompts?"),
        ("runs show", "say which: a folder, or facts"),
        ("runs show 0000", "0000 is not the folder of a run"),
        ("runs remove", "say which: a folder, or facts"),
        ("runs remove --seed 1", "nobody can be asked here: add --yes"),
        ("runs remove nothing --yes", "nothing is not the folder of a run"),
        ("runs shwo", "No such command 'shwo'. Did you mean 'show'"),
        (
            "chat --method uniform",
            "2 finished runs are of method uniform: add --seed (0, 1), or name one by --run",
        ),
        (
            "chat --method uniform --seed 5",
            "there are some with seed 0, 1; else train it by `itpo train --method uniform",
        ),
        ("export --method uniform x y", "name the run, by its folder or by facts"),
        ("export x", "name the run, by its folder or by facts"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(
    command: str, says: str, store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    before = len(list_runs(store).runs)
    assert main([*command.split(), "--store", str(store)]) == 2
    printed = capsys.readouterr().err
    assert says in printed and printed.count("\n") == 1 and len(list_runs(store).runs) == before


def test_a_small_window_has_no_line_too_long(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for folders, which are not to be broken, and commands to be copied."""
    monkeypatch.setenv("COLUMNS", "40")
    here = ["--store", str(store)]
    for command in (["runs", *here], ["train", "--help"], ["runs", "show", "--seed", "0", *here]):
        assert main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        assert not [
            line for line in lines if len(line) > 40 and str(store) not in line and "  itpo " not in line
        ]


def test_colours_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("x", "#0072b2", terminal) == "\x1b[38;2;0;114;178mx\x1b[0m"
    assert paint("x", "#0072b2", io.StringIO()) == "x"
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert paint("x", "#0072b2", terminal) == "x"


def test_runs_are_removed_but_never_one_that_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        Store(tmp_path).open(chosen_config("smoke", "math", "uniform", "rloo", seed, {}))
        for seed in (0, 1, 2)
    ]
    runs[0].log(0, {"success": 0.5})  # takes its lock
    (runs[1].folder / "config.json").write_text('{"format": "itpo-run"}')  # damaged
    assert main(["runs", "remove", str(runs[1].folder), "--yes", "--store", str(tmp_path)]) == 0
    assert main(["runs", "remove", "--seed", "0", "--yes", "--store", str(tmp_path)]) == 2
    assert "is in use by process" in capsys.readouterr().err
    runs[0].release()
    assert main(["runs", "remove", "--profile", "smoke", "--yes", "--store", str(tmp_path)]) == 0
    assert not list_runs(tmp_path).runs and {path.name for path in tmp_path.iterdir()} == {".locks"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    assert main(["runs", "remove", str(tmp_path / "mine"), "--yes"]) == 2 and (tmp_path / "mine").exists()


def test_ctrl_c_says_that_the_same_command_goes_on_and_it_does(tmp_path: Path) -> None:
    command = [*TRAIN, "--steps", "14", "--verbose", "--store", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "itpo", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    said = ""
    while "step 3 " not in said:
        said += process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)
    out, rest = process.communicate(timeout=60)
    assert process.returncode == 130 and not out
    assert (
        rest.endswith("\nstopped: the same command goes on from the last checkpoint\n")
        and "Traceback" not in rest
    )
    (listed,) = list_runs(tmp_path).runs
    assert listed.status == "stopped" and listed.run.checkpoint_step() >= 2
    done = shell(*command)
    steps = [int(step) for step in re.findall(r"^step (\d+)  .*kl ", done.stderr, re.MULTILINE)]
    assert (
        done.returncode == 0 and steps == list(range(listed.run.config.steps))[steps[0] :] and steps[0] >= 2
    )
