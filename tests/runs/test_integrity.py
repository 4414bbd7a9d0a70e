"""Never a wrong number from a store: what was changed or lost is refused by name, and nothing of a user's is deleted."""

import importlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from itpo.config import Method, RunConfig, TaskSpec
from itpo.runs import store as store_module
from itpo.runs.files import digests, read_json
from itpo.runs.store import Run, RunFolderError, Store, fingerprint
from itpo.runs.sweep import sweep
from itpo.specs import Adapter, Custom, PretrainedModel, RealData, TinyLM
from itpo.trainer import train
from itpo.training.build import base_model, trained

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
toy = importlib.import_module("toy_training")

SMALL = RunConfig(
    method=Method("norm_itpo"),
    seed=0,
    steps=2,
    task=TaskSpec("corridor", {"turns": 2, "pivots": 1, "position": "spread"}),
    model=TinyLM(16, 1, 2, steps=3, dialogues_per_step=4),
    adapter=Adapter(2, 4),
    max_turn_tokens=4,
    prompts=2,
    rollouts=2,
    warmup=1,
    eval_dialogues=2,
    monitor_dialogues=2,
    checkpoint_every=1,
)


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a finished run."""
    root = tmp_path_factory.mktemp("whole")
    train(SMALL, Store(root).open(SMALL))
    return root


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    """A copy of that store."""
    return Path(shutil.copytree(whole, tmp_path / "finished"))


@pytest.fixture
def unfinished(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a run that stopped in its second step, after its first checkpoint."""
    root = tmp_path / "unfinished"
    shutil.copytree(whole / "models", root / "models")
    stop(SMALL, root, monkeypatch)
    return root


def stop(config: RunConfig, root: Path, monkeypatch: pytest.MonkeyPatch, at: int = 1) -> None:
    """Train until step ``at`` is logged."""
    real = Run.log

    def log(run: Run, step: int, metrics: Any) -> None:
        real(run, step, metrics)
        if step == at and "policy" not in metrics and "ratio_error" in metrics:
            raise KeyboardInterrupt

    run = Store(root).open(config)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "log", log)
        train(config, run)
    run.release()


def flip(path: Path, at: int = -1) -> None:
    changed = bytearray(path.read_bytes())
    changed[at] ^= 1
    path.write_bytes(changed)


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def lose_a_reading(folder: Path) -> None:
    """Delete a file of the monitor set, and its entry."""
    (folder / "monitor" / "step_000002.safetensors").unlink()
    edit(folder / "done.json", lambda done: done["files"].pop("monitor/step_000002.safetensors"))


FINISHED = {
    "summary": (
        lambda f: edit(f / "done.json", lambda d: d["summary"].update(success=0.99)),
        "done.json: was changed",
    ),
    "reading": (lose_a_reading, "done.json: was changed"),
    "adapter's settings": (
        lambda f: edit(f / "policy" / "adapter_config.json", lambda d: d.update(lora_alpha=3200)),
        "policy/adapter_config.json: was changed",
    ),
    "platform": (
        lambda f: edit(f / "platform.json", lambda d: d["platforms"].pop()),
        "platform.json: was changed",
    ),
    "inputs": (lambda f: (f / "inputs.json").unlink(), "inputs.json: was changed, added or removed"),
    "config": (lambda f: edit(f / "config.json", lambda d: d.update(note=1)), "config.json: was changed"),
    "times": (lambda f: flip(f / "timing.jsonl", 0), "timing.jsonl: was changed"),
    "end": (lambda f: (f / "done.json").unlink(), "done.json: is lost"),
}


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_run_that_is_not_as_it_ended_is_refused(finished: Path, name: str) -> None:
    folder = Store(finished).folder(SMALL)
    damage, message = FINISHED[name]
    damage(folder)
    before = content(finished)
    with pytest.raises(RunFolderError) as caught:
        train(SMALL, Store(finished).open(SMALL))
    assert message in str(caught.value) and "move the folder away" in str(caught.value)
    assert {path: text for path, text in content(finished).items() if ".locks" not in path.parts} == {
        path: text for path, text in before.items() if ".locks" not in path.parts
    }
    for lease in store_module._held.values():
        lease.release()
    store_module._held.clear()


def _state(folder: Path, step: int) -> None:
    edit(folder / "checkpoint" / "state.json", lambda state: state.update(step=step))


UNFINISHED = {
    "metric": (
        lambda f: edit_text(f / "metrics.jsonl", '"prm_loss": 0', '"prm_loss": 1'),
        "metrics.jsonl: was changed",
    ),
    "reading": (
        lambda f: flip(f / "monitor" / "step_000000.safetensors"),
        "step_000000.safetensors: was changed",
    ),
    "step 2": (lambda f: _state(f, 2), "state.json: was changed"),
    "step 99": (lambda f: _state(f, 99), "state.json: was changed"),
    "state": (lambda f: (f / "checkpoint" / "state.json").unlink(), "state.json: is lost"),
    "checkpoint": (lambda f: shutil.rmtree(f / "checkpoint"), "state.json: is lost"),
    "tensors": (lambda f: flip(next((f / "checkpoint").glob("*.safetensors"))), "is missing or damaged"),
    "inputs": (lambda f: (f / "inputs.json").unlink(), "inputs.json: is missing"),
    "platform": (
        lambda f: edit(f / "platform.json", lambda d: d.update(version=3)),
        "platform.json: is not the platforms",
    ),
}


@pytest.mark.parametrize("name", UNFINISHED)
def test_an_unfinished_run_that_is_not_as_at_its_checkpoint_is_refused(unfinished: Path, name: str) -> None:
    folder = Store(unfinished).folder(SMALL)
    damage, message = UNFINISHED[name]
    damage(folder)
    before = content(folder)
    run = Store(unfinished).open(SMALL)
    with pytest.raises(RunFolderError) as caught:
        train(SMALL, run)
    run.release()
    assert message in str(caught.value) and "move the folder away" in str(caught.value)
    assert content(folder) == before


def test_what_is_whole_goes_on_to_the_same_end_and_leaves_what_is_not_its_own(
    unfinished: Path, whole: Path
) -> None:
    folder = Store(unfinished).folder(SMALL)
    own = [
        folder / "notes" / "thesis.txt",
        folder / "policy" / "mine.txt",
        folder / "checkpoint" / "mine.txt",
    ]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (folder / "policy" / "adapter_model.safetensors").write_bytes(b"half written")
    run = Store(unfinished).open(SMALL)
    train(SMALL, run)
    assert fingerprint(run) == fingerprint(Store(whole).open(SMALL))
    assert all(path.read_text() == "mine" for path in own)


def test_an_end_that_was_killed_before_its_last_line_is_completed(finished: Path) -> None:
    run = Store(finished).open(SMALL)
    (run.folder / "progress.json").unlink()
    assert Store(finished).open(SMALL).done
    assert read_json(run.folder / "progress.json")["reached"] == "end"


def _zero(path: Path) -> None:
    tensors = {name: torch.zeros_like(t) for name, t in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


BASES = {
    "bit": (lambda f: flip(f / "model.safetensors"), "model.safetensors"),
    "zeros": (lambda f: _zero(f / "model.safetensors"), "model.safetensors"),
    "template": (lambda f: (f / "chat_template.jinja").write_text("{{ messages }}"), "chat_template.jinja"),
    "tokenizer": (lambda f: flip(f / "tokenizer.json", 40), "tokenizer.json"),
    "another file": (lambda f: (f / "adapter_config.json").write_text("{}"), "adapter_config.json"),
    "its record": (lambda f: edit(f / "artifact.json", lambda d: d["files"].clear()), "artifact.json"),
}


@pytest.mark.parametrize("name", BASES)
def test_a_base_model_that_is_not_as_it_was_made_is_refused(finished: Path, name: str) -> None:
    store, (damage, message) = Store(finished), BASES[name]
    folder = Path(base_model(SMALL, store))
    damage(folder)
    other = replace(SMALL, seed=1)
    for use in (lambda: trained(store.open(SMALL)), lambda: train(other, store.open(other))):
        with pytest.raises(
            RunFolderError, match=f"{message}: was changed.*move the folder away: it is made again"
        ):
            use()
    shutil.move(folder, finished / "away")
    assert trained(store.open(SMALL)).config == SMALL  # made again, with the same bytes


def test_a_run_goes_on_with_the_base_and_the_data_that_it_began_with(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: Any
) -> None:
    base = shutil.copytree(base_model(SMALL, Store(whole)), tmp_path / "base")
    rows = [{"question": f"sam has {n} pens{' .' * n}", "answer": f"#### {n}"} for n in range(2, 22)]
    data = tmp_path / "problems.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    config = replace(
        SMALL,
        task=RealData("gsm8k", str(data)),
        user=Custom("own_parts:Parrot", 1, {"words": "how many ?"}),
        judge=Custom("own_parts:Lengths", 1),
        model=PretrainedModel(str(base)),
    )
    stop(config, tmp_path / "runs", monkeypatch)
    good = {
        path: path.read_bytes()
        for path in (data, Path(base) / "model.safetensors", Path(base) / "chat_template.jinja")
    }
    for path, text in good.items():
        path.write_bytes(
            text.replace(b"#### 5", b"#### 6") if path == data else text[:-1] + bytes([text[-1] ^ 1])
        )
        run = Store(tmp_path / "runs").open(config)
        with pytest.raises(RunFolderError, match=f"inputs.json: the run began with another .*{path.name}"):
            train(config, run)
        run.release()
        path.write_bytes(text)
    train(config, run)
    assert run.done
    data.write_bytes(good[data].replace(b"#### 5", b"#### 6"))
    with pytest.raises(RunFolderError, match="began with another data"):
        trained(run)


def test_others_can_read_what_a_run_writes(whole: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    files = [path for path in whole.rglob("*") if path.is_file() and ".locks" not in path.parts]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    assert "adapter_model.safetensors" in modes and "model.safetensors" in modes
    assert set(modes.values()) == {0o666 & ~mask}


def test_two_sweeps_on_one_store_share_the_work(tmp_path: Path) -> None:
    code = (
        "import sys, toy_training as toy\nfrom itpo.runs.sweep import sweep\n"
        "if __name__ == '__main__':\n"
        "    sweep(sys.argv[1], [toy.Toy(seed=s) for s in range(3)], toy.walk, workers=2)\n"
    )
    (tmp_path / "two.py").write_text(code)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        "TOY_PAUSE": "0.3",
    }
    command = [sys.executable, str(tmp_path / "two.py"), str(tmp_path / "runs")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    sweeps = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    outputs = [process.communicate(timeout=240)[0] for process in sweeps]
    assert [process.returncode for process in sweeps] == [0, 0], outputs
    trained_runs = [int(output.split(" loaded, ")[1].split()[0]) for output in outputs]
    assert sum(trained_runs) == 3
    configs = [toy.Toy(seed=seed) for seed in range(3)]
    alone = sweep(tmp_path / "alone", configs, toy.walk, progress=False)
    assert [fingerprint(Store(tmp_path / "runs").open(c)) for c in configs] == [
        fingerprint(run) for run in alone
    ]


def test_a_sweep_trains_on_what_another_process_left(tmp_path: Path) -> None:
    """It holds the run's lock for a while, and then gives it up in the middle."""
    config = toy.Toy(accident=None)
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    code = (
        "import sys, time, toy_training as toy\nfrom itpo.runs.store import Store\n"
        "run = Store(sys.argv[1]).open(toy.Toy())\nrun.log(1, {'loss': 1.0})\nprint('held', flush=True)\ntime.sleep(4)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    holder = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    start = time.monotonic()
    (run,) = sweep(tmp_path, [config], toy.walk, progress=False)
    assert time.monotonic() - start > 2 and holder.wait() == 0
    toy.walk(config, alone := Store(tmp_path / "alone").open(config))
    assert fingerprint(run) == fingerprint(alone)


def test_a_small_campaign_finds_nothing_silent_and_nothing_unclear() -> None:
    from benchmarks import faults

    chosen = [config for config in faults.configs() if config.method.name == "norm_itpo"][:1]
    campaign = faults.run(60, 3, seed=0, minutes=1.0, chosen=chosen)
    assert not campaign.bad, "\n".join([campaign.table(), *campaign.bad])
    assert sum(counts.total() for counts in campaign.counts.values()) > 60


def test_a_checkpoint_that_goes_meanwhile_does_not_stop_whoever_reads_a_finished_run(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that finished it removes the folder, seen and gone before it is read."""
    folder, scandir = Store(finished).folder(SMALL), os.scandir
    before = digests(folder)
    (folder / "checkpoint").mkdir()

    def scan(path: Any = "."):
        if Path(path).name == "checkpoint":
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert digests(folder) == before and "monitor/step_000002.safetensors" in before
