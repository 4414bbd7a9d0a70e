"""The command line: what it lists, and what it refuses."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from itpo import __version__
from itpo.__main__ import main
from itpo.apps.configs import named_config, parse_changes, with_settings
from itpo.apps.terminal import one_line
from itpo.attribution import known_methods
from itpo.estimators import ESTIMATORS
from itpo.runs import artifacts
from itpo.runs.files import sealed_bytes
from itpo.runs.store import Run, Store
from itpo.specs import PretrainedModel


def test_methods_lists_every_method_and_estimator() -> None:
    command = [sys.executable, "-m", "itpo", "methods"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert not found.stderr, "bitsandbytes, say, and what it misses on some CPUs"
    printed = found.stdout
    named = {line.split()[0] for line in printed.splitlines() if line.startswith("  ") and line[2] != " "}
    assert named == {*known_methods(), *ESTIMATORS}
    value_model = printed.partition("  value_model")[2].splitlines()[1]
    assert value_model.split("; ") == [" " * 20 + "per token", "needs a critic", "trained by ppo"]


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    commands = [
        "train",
        "sweep",
        "check",
        "chat",
        "export",
        "data",
        "plan",
        "check-model",
        "methods",
        "figures",
        "runs",
    ]
    listed = printed.partition("Commands:")[2].partition("Examples:")[0]
    assert re.findall(r"^  ([a-z-]+)  +[A-Z]", listed, re.MULTILINE) == commands
    assert "..." not in listed, "a line of help is cut off"
    assert main(["--version"]) == 0 and capsys.readouterr().out.strip() == __version__


def test_the_methods_beside_table_1_are_not_all_said_to_be_of_other_papers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["methods"]) == 0
    assert "methods, of other papers and our own, to compare with" in capsys.readouterr().out


def test_help_says_what_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    for command, says in {
        "check": "Scripted task such as math or corridor, or module:name of your own",
        "chat": "Folder of a finished run, or the first letters of its name",
        "export": "Folder of a finished run, or the first letters of its name",
    }.items():
        assert main([command, "--help"]) == 0
        assert says in " ".join(capsys.readouterr().out.split())


def test_a_pipe_whose_reader_is_gone_is_no_line_of_ours() -> None:
    with pytest.raises(BrokenPipeError), one_line(OSError):
        raise BrokenPipeError


@pytest.fixture
def of_another_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes an artifact of the store ``tmp_path`` as another machine would."""

    def make(**determinants: object) -> Path:
        there = artifacts.making_platform() | {"processor": "abacus"}
        with monkeypatch.context() as patch:
            patch.setattr(artifacts, "making_platform", lambda: there)
            build = lambda folder: (folder / "model.safetensors").write_bytes(b"")  # noqa: E731
            return Store(tmp_path).artifact("base", determinants, build)

    return make


def test_a_base_of_another_platform_is_refused_in_a_line(
    of_another_platform: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("itpo.apps.check_model.runs_root", lambda: tmp_path)
    config = named_config("laptop", "corridor")
    tiny = of_another_platform(task=config.task, model=config.model)
    packaged = of_another_platform(model=PretrainedModel("smollm2"))
    commands = {
        tiny: ["chat", "--task", "corridor", "--store", str(tmp_path)],
        packaged: ["check-model", "smollm2"],
    }
    for folder, command in commands.items():
        assert main(command) == 2
        printed = capsys.readouterr().err
        assert printed.startswith(f"{folder} was made on another numeric platform (processor: abacus there")
        assert printed.count("\n") == 1


def test_check_says_in_a_line_what_cannot_be_checked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data that is no scripted task, and a run that began on another platform."""
    monkeypatch.setattr("itpo.runs.paths.runs_root", lambda: tmp_path)
    assert main(["check", "math", "--profile", "consumer"]) == 2
    assert capfd.readouterr().err.startswith("testbed checks are for scripted tasks; ")
    run = Store(tmp_path).open(named_config("smoke", "math"))
    _begin_elsewhere(run)
    assert main(["check", "math", "--profile", "smoke"]) == 2
    printed = capfd.readouterr().err
    assert printed.startswith(f"{run.folder}: ") and "threads: 64 there, 1 here" in printed
    assert printed.count("\n") == 1


SMALL = ["--profile", "smoke", "--set", "steps=2", "--set", "model.steps=5", "--set", "eval_dialogues=4"]


def _begin_elsewhere(run: Run) -> None:
    """A checkpoint of a run that another platform trained."""
    run.log(0, {"success": 0.0})
    run.checkpoint(0, {})
    run.release()
    (noted,) = run.platforms()
    noted["platform"]["threads"] = 64
    path = run.folder / "platform.json"
    path.write_bytes(sealed_bytes("itpo-run-platform", platforms=[noted]))


def test_train_refuses_to_go_on_with_a_run_of_another_platform(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--method", "uniform", *SMALL, "--store", str(tmp_path)]
    assert main([*command, "--dry-run"]) == 0
    folder = Path(capfd.readouterr().out.strip())
    run = Store(tmp_path).open(
        with_settings(named_config("smoke", "math", "uniform"), parse_changes(SMALL[3::2]))
    )
    assert run.folder == folder
    _begin_elsewhere(run)
    assert main(command) == 2
    printed = capfd.readouterr().err
    assert (
        "threads: 64 there, 1 here" in printed and "--mix-platforms" in printed and "Traceback" not in printed
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--profile labtop", "unknown profile 'labtop': did you mean laptop?"),
        ("--task maths", "unknown task 'maths': did you mean math"),
        ("--method norm_itop", "unknown method 'norm_itop': did you mean norm_itpo"),
        ("--estimator reinforce", "unknown estimator 'reinforce': use one of rloo, grpo, ppo"),
        ("--method nowhere:ENTRY", "nowhere:ENTRY cannot be imported"),
        ("--method value_model", "needs the values of a critic"),
        ("--set stps=3", "unknown setting 'stps': did you mean steps?"),
        ("--set steps", "'steps' is not a setting: write name=value"),
        ("--set name=x", "several settings are called 'name'"),
        ("--set steps=-1", "steps is -1; it must be a whole number at least 1"),
        ("--set steps=few", "steps is 'few'; it must be a whole number"),
        ("--set policy_clip_norm=null", "policy_clip_norm is None; it must be a finite number"),
        ("--set kl_coef=NaN", "kl_coef is nan; it must be a finite number"),
        ("--seed 0 --set seed=3", "seed is not a setting to change: say it by the option --seed"),
        ("--set task.name=medical", "task.name is not a setting to change: say it by the option --task"),
        ("--set method.name=itpo", "method.name is not a setting to change"),
        ("--set estimator.name=ppo", "estimator.name is not a setting to change"),
        ("--seed one", "--seed"),
        ("--stepz 3", "--stepz"),
        ("--steps 0", "steps is 0; it must be a whole number at least 1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_train_says_what_is_wrong_in_a_line(
    options: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *options.split(), "--store", str(tmp_path / "runs")]) == 2
    printed = capsys.readouterr()
    assert says in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--response -3000", "response is -3000; it must be a whole number at least 1"),
        ("--prompt -1", "prompt is -1"),
        ("--adapters -1", "adapters is -1"),
        ("--dialogues 0", "dialogues is 0"),
        ("--max-rows 0", "max_rows is 0"),
        ("--gpu inf", "gpu is inf; it must be a finite number of GiB above 0"),
        ("--gpu nan", "gpu is nan"),
        ("--gpu -24", "gpu is -24.0"),
        ("--gpu 24 --precision nf8", "--precision"),
        ("--model no/such", "neither a folder or file with a config nor one of"),
    ],
)
def test_plan_refuses_sizes_that_are_none(
    options: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--model", "Qwen/Qwen2.5-3B-Instruct", "--gpu", "24", *options.split()]) == 2
    printed = capsys.readouterr()
    assert says in printed.err and printed.err.count("\n") == 1 and not printed.out


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two good rows, one that is repeated, a broken line and a row without its answer."""
    good = [{"question": f"What is {i} + 0?", "answer": f"#### {i}"} for i in (1, 2, 1)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*map(json.dumps, good), '{"question": "Half', '{"question": "What?"}']))
    return path


def test_data_stops_at_the_first_bad_row(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(rows), "--format", "gsm8k"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"{rows}, row 4: is not JSON") and printed.err.count("\n") == 1
    assert not printed.out


def test_data_skips_bad_rows_and_lists_them(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(rows), "--format", "gsm8k", "--skip-bad"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "2 examples of math, 1 repeated, 2 skipped",
        "first example: rows:1",
        "  user> What is 1 + 0?",
        "  goal: What is 1 + 0?",
        "  answer: 1",
    ]
    assert [line.partition(": is")[0] for line in lines[5:6]] == [f"skipped: {rows}, row 4"]
    assert lines[6].startswith(f"skipped: {rows}, row 5: column 'answer' is missing") and len(lines) == 7


def test_data_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "absent.jsonl", "--format", "math"]) == 2
    assert capsys.readouterr().err == "absent.jsonl: there is no such file or folder: check the path\n"


def test_a_person_is_the_doctor_of_a_scripted_patient(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.stdin", io.StringIO("Where is the pain?\n?\nYou have acute gastric edema. Take ice.\n")
    )
    assert main(["chat", "--task", "medical", "--as", "assistant"]) == 0
    printed = capsys.readouterr().out
    assert "user> doctor , this pain worries me ." in printed and "(you might say: " in printed
    assert "The user knew: complaint: pain, place: " in printed and "\nscore: 0." in printed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--data x.jsonl", "--data needs --format"),
        ("--data x.jsonl --format math", "--data needs --model or --run"),
        ("--data x.jsonl --format math --as assistant", "needs --url and --model-name"),
        ("--data x.jsonl --format math --free", "exclude each other"),
        ("--url http://127.0.0.1:9/v1 --model-name m", "--url needs --data"),
        ("--url http://127.0.0.1:9/v1", "need each other"),
        ("--free --as assistant", "leave --free out"),
        ("--run nowhere", "nowhere is not the folder of a run"),
        ("--run nowhere --method itpo", "--run and --method exclude each other"),
        ("--seed 3", "--estimator, --seed and --set are of a run: name its --method too"),
        ("--method norm_itop --store nowhere", "unknown method 'norm_itop': did you mean norm_itpo"),
        (
            "--method itpo --seed 1 --store nowhere",
            "no finished run of method itpo, seed 1 in nowhere: train it by `itpo",
        ),
        ("--data x.jsonl --format math --model nowhere", "x.jsonl: there is no such file"),
        ("--free --model nowhere", "no model in nowhere"),
        ("--task maths", "unknown task 'maths': did you mean math"),
        ("--data x.jsonl --format gsm8 --run r", "unknown format 'gsm8': did you mean gsm8k"),
        ("--run nowhere --profile labtop", "unknown profile 'labtop': did you mean laptop?"),
        ("--format gsm8k", "--format needs --data"),
        ("--as assistant --method nonsense --store nowhere", "unknown method 'nonsense'"),
        (
            "--as assistant --method itpo --seed 1 --store nowhere",
            "no finished run of method itpo, seed 1 in nowhere: train it by `itpo",
        ),
        ("--as assistant --model somewhere", "takes the model's place: leave --model out"),
        ("--max-tokens 0", "'--max-tokens': Input should be greater than or equal to 1"),
        ("--max-tokens -5", "'--max-tokens': Input should be greater than or equal to 1"),
    ],
)
def test_chat_says_what_its_options_lack(options: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", *options.split()]) == 2
    assert says in capsys.readouterr().err
