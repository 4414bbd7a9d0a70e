"""Whole runs of ``ITPOTrainer``: several processes, and the example of the page on engines. For ``make test-trl``."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trl_parts
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.engine
QUIET = {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)


def launch(program: str, processes: int, *arguments: object, timeout: float = 300) -> None:
    """Run a program of the tests in several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, str(ROOT / "tests" / program), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]


def train(folder: Path, processes: int, *arguments: object) -> list[dict[str, torch.Tensor]]:
    """The weights of each process of a run; each has its share of the twelve conversations of a batch."""
    launch("trl_parts.py", processes, folder, *arguments)
    return [load_file(folder / f"rank_{rank}.safetensors") for rank in range(processes)]


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_two_processes_are_one(tmp_path, say):
    """Six conversations each, in groups of four, two of twelve without an outcome: a group lies on both, and is ragged."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder in (alone, together):
        trl_parts.write_model(folder / "model")
    trl_parts.main(str(alone), "norm_itpo", "4")
    one = load_file(alone / "rank_0.safetensors")
    first, second = train(together, 2, "norm_itpo", 4)
    assert largest_difference(first, second) == 0
    apart = largest_difference(one, first)
    moved = max(float(weight.abs().max()) for name, weight in first.items() if "lora_B" in name)
    assert moved > 1e-3 and apart < 1e-4 * moved
    resumed = train(together, 2, "norm_itpo", 4, together / "run" / "checkpoint-2")
    assert largest_difference(resumed[0], first) == largest_difference(resumed[1], first) == 0
    say(
        f"two processes: weights equal on both, within {apart:.1e} of one process (they moved by {moved:.1e}), and equal "
        "again after resuming from a checkpoint"
    )


@pytest.mark.parametrize("kind", ["server", "fsdp"])
def test_conversations_that_are_sampled_together_are_those_of_each_process_alone(kind, tmp_path, say):
    """A server shares the turns out by numbers of prompts, and shards of a model speak only all at once."""
    launch("trl_users.py", 2, kind, tmp_path, timeout=120)
    first, second = (json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in (0, 1))
    assert first["asked"] == second["asked"]
    open_ = [
        list(itertools.zip_longest(*own, fillvalue=0))
        for own in zip(first["own"], second["own"], strict=True)
    ]
    assert [[max(pair) for pair in batch] for batch in open_] == first["asked"]
    pairs = set(itertools.chain(*open_))
    assert any(one > other for one, other in pairs) and any(one < other for one, other in pairs)
    assert any(0 in pair for pair in pairs), "one process has ended before the other"
    say(f"{kind}: conversations as alone, with these numbers open on two processes: {sorted(pairs)}")


def test_the_example_of_the_page_runs(tmp_path, monkeypatch, say):
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8").split("\n## TRL\n")[1]
    (example,) = re.findall(r"```python\n(.*?)```", page.split("\n## ")[0], re.DOTALL)
    assert len(example.splitlines()) <= 15
    assert example in (ROOT / "README.md").read_text(encoding="utf-8"), "the README shows the same"
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "docs/engines.md", "exec"), names)
    history = names["trainer"].state.log_history  # type: ignore[attr-defined]
    steps = [entry for entry in history if "prm/loss" in entry]
    assert names["trainer"].state.global_step == 3 and history[-1]["train_runtime"] > 0
    found = {key: round(steps[0][key], 3) for key in ("reward", "prm/loss", "completions/mean_length")}
    say(f"the example of docs/engines.md trained three steps: {found}")
