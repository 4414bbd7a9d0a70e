"""Runs are listed, shown and removed where and as it is asked, whatever is wrong with one of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from itpo.__main__ import main
from itpo.apps.configs import named_config
from itpo.apps.finding import list_runs
from itpo.runs.store import Run, Store
from itpo.study.measured import measured_methods
from itpo.study.microscope import MicroscopeConfig
from itpo.study.oracle import OracleConfig

pytestmark = pytest.mark.usefixtures("unchecked")
Refused = Callable[..., str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def refused(root: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command in the store, which is refused; returns the one line that says why."""

    def run(*command: str) -> str:
        assert main([*command, "--store", str(root)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def written(root: Path, seed: int, finished: bool = True) -> Run:
    """A run of one step with made-up numbers."""
    run = Store(root).open(named_config("smoke", "math", "uniform", seed=seed))
    run.log(0, {"success": 0.5})
    if finished:
        run.finish({"success": 0.5, "greedy_success": 0.25})
    return run


def test_options_before_a_subcommand_are_refused_and_nothing_is_removed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(root, seed=0)
    for given, says in {
        ("--store", str(root)): "--store ...",
        ("--seed", "0"): "--seed ...",
        ("--set", "prompts=2", "--status", "finished"): "--set ... --status ...",
    }.items():
        assert main(["runs", *given, "remove", "--profile", "smoke", "--yes", "--store", str(root)]) == 2
        line = f"options before 'remove' say nothing to it: write itpo runs remove {says}\n"
        assert capsys.readouterr().err == line
    assert len(list_runs(root).runs) == 1
    assert main(["runs", "--store", str(root)]) == 0


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("done.json", '{"format": "itpo-run-done", ', "done.json: cannot be read (Expecting property name"),
        ("metrics.jsonl", '{"step": 0, "succ\n', "metrics.jsonl: has a line that is not JSON"),
    ],
)
def test_a_damaged_run_is_named_and_the_others_are_listed(
    root: Path, name: str, wrong: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = written(root, seed=0), written(root, seed=1, finished=name == "done.json")
    (bad.folder / name).write_text(wrong)
    bad.release()
    assert main(["runs", "--store", str(root)]) == 0
    printed = capsys.readouterr()
    assert str(good.folder) in printed.out and str(bad.folder) not in printed.out
    assert printed.err.startswith(f"{bad.folder}: ") and says in printed.err and printed.err.count("\n") == 1
    assert main(["runs", "show", "--method", "uniform", "--store", str(root)]) == 2
    printed = capsys.readouterr()
    assert f"folder: {good.folder}\n" in printed.out and "0.500 sampled" in printed.out
    assert says in printed.err and printed.err.count("\n") == 1


def test_facts_hold_of_a_named_run_that_is_removed(
    root: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    run = written(root, seed=0)
    for name in (run.folder.name[:6], str(run.folder)):
        assert refused("runs", "remove", name, "--status", "stopped", "--yes") == (
            f"{name} is not the folder of a run of status stopped: see `itpo runs`"
        )
    assert run.folder.exists()
    command = ["runs", "remove", run.folder.name[:6], "--status", "finished", "--yes", "--store", str(root)]
    assert main(command) == 0 and not run.folder.exists()
    assert capsys.readouterr().out == f"{run.folder}\n1 removed\n"


def test_busy_runs_stay_and_are_named_and_the_others_are_removed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [written(root, seed, finished=seed == 1) for seed in (0, 1, 2)]  # two keep their locks
    assert main(["runs", "remove", "--profile", "smoke", "--yes", "--store", str(root)]) == 2
    printed = capsys.readouterr()
    assert [run.folder.exists() for run in runs] == [True, False, True]
    assert printed.out.endswith("\n1 removed, 2 not\n") and printed.err.count(" is in use by process ") == 2
    assert {line.split()[0] for line in printed.err.splitlines()} == {
        runs[0].folder.name,
        runs[2].folder.name,
    }
    for run in runs:
        run.release()


@pytest.fixture
def measurements(root: Path) -> list[Path]:
    """Finished measurements of the two kinds that the library has."""
    config = named_config("smoke", "math", "norm_itpo")
    microscope = MicroscopeConfig(config, 0, measured_methods(config, ("trajectory_share",)))
    runs = [Store(root).open(measured) for measured in (microscope, OracleConfig(config))]
    for run in runs:
        run.log(0, {"success": 0.5})
        run.finish({})
    return [run.folder for run in runs]


def test_measurements_are_counted_and_not_listed(
    root: Path, measurements: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = written(root, seed=0)
    assert main(["runs", "--store", str(root)]) == 0
    printed = capsys.readouterr()
    assert printed.err == "measurements, which have no policy, not listed: 2\n"
    assert str(run.folder) in printed.out
    assert not any(str(folder) in printed.out for folder in measurements)
    assert main(["runs", "remove", measurements[0].name, "--yes", "--store", str(root)]) == 0
    assert not measurements[0].exists() and measurements[1].exists()


@pytest.mark.parametrize("command", ["runs show {}", "chat --run {}", "export {} adapter"])
def test_a_measurement_in_the_place_of_a_policy_is_called_one(
    root: Path, refused: Refused, measurements: list[Path], command: str
) -> None:
    says = " is a measurement, which has no trained policy: name a run that `itpo runs` lists"
    for folder in measurements:
        assert refused(*command.format(folder).split()) == f"{folder}{says}"
