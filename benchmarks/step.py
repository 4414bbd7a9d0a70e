"""Processor time of a training step at 16 x 8 rollouts, by part: ``python -m benchmarks.step [--steps 10]``.

One thread, laptop profile: trajectory-share, Norm-ITPO, and trajectory-share under PPO, whose critic has a column of its own.
Beside milliseconds it prints each part as a multiple of the step's own reference pass (one forward pass over all dialogues
without adapters), which does not depend on the machine.

``--transformers`` measures the tiny model by the Hugging Face path, too, step by step in turn within one process.
``--before FOLDER`` measures the code of another checkout on the same base model, process by process in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from itpo.config import RunConfig
from itpo.runs.paths import runs_root
from itpo.runs.store import Store
from itpo.study.profiles import get_profile
from itpo.trainer import training_step
from itpo.training.build import base_model
from itpo.training.learner import Learner
from itpo.training.profiling import Timer

PARTS = ["generation", "reference", "prm", "signals", "critic", "policy"]


class ProcessorTimer(Timer):
    """What this process computes, whoever else is at work on the machine."""

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the processor seconds that the block takes to the part."""
        since = time.process_time()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.process_time() - since


def configs() -> dict[str, RunConfig]:
    """What is measured, by name."""
    profile = get_profile("laptop")
    named = {name: profile.config(name, seed=0) for name in ("trajectory_share", "norm_itpo")}
    return named | {"ppo": profile.config("trajectory_share", seed=0, estimator="ppo")}


def load(folder: Path, transformers: bool) -> tuple[Any, Any]:
    """Base model and tokenizer; a checkout from before the lean model has the Hugging Face path alone."""
    if transformers or not (Path(sys.modules["itpo"].__path__[0]) / "models" / "lean.py").is_file():
        from itpo.models import tiny

        return tiny.load(folder)
    from itpo.models.loading import load_model

    return load_model(get_profile("laptop").run.model, folder)


def measure(learners: dict[str, Learner], steps: int) -> pd.DataFrame:
    """Median milliseconds of each part over so many training steps of each learner in turn, the first not counted."""
    laps: dict[str, list[dict[str, float]]] = {name: [] for name in learners}
    for step in range(steps + 1):
        for name, learner in learners.items():
            timer = ProcessorTimer()
            training_step(learner, f"benchmark/{step}", timer)
            laps[name].append(timer.seconds)
    columns = {}
    for name, seconds in laps.items():
        frame = 1e3 * pd.DataFrame(seconds)[PARTS].iloc[1:]
        columns[name] = pd.concat([frame.median(), pd.Series({"step": frame.sum(axis=1).median()})])
    return pd.DataFrame(columns)


def here(base: Path, names: list[str], steps: int, transformers: bool) -> pd.DataFrame:
    """Measure the code of this process: the lean path, and the Hugging Face path where it is asked for."""
    tables = []
    for name in names:
        with tempfile.TemporaryDirectory() as store:
            paths = {f"{name}, transformers": True, name: False} if transformers else {name: False}
            learners = {
                title: Learner(configs()[name], *load(base, other), Path(store))
                for title, other in paths.items()
            }
            tables.append(measure(learners, steps))
    return pd.concat(tables, axis=1)


def against(checkout: Path, base: Path, steps: int, rounds: int = 3) -> pd.DataFrame:
    """Measure this code and that of another checkout in processes that take turns; the least of each part counts."""
    tables: dict[str, list[pd.DataFrame]] = {}
    for name in [*configs()] * rounds:
        for title, root in ((f"{name}, before", checkout), (name, Path(__file__).parents[1])):
            command = [sys.executable, __file__, "--steps", str(steps), "--base", str(base), "--only", name]
            environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
            output = subprocess.run(
                command, cwd=root, env=environment, check=True, capture_output=True, text=True
            ).stdout
            tables.setdefault(title, []).append(pd.DataFrame(json.loads(output.splitlines()[-1])))
    return pd.DataFrame({title: pd.concat(each, axis=1).min(axis=1) for title, each in tables.items()})


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help="counted steps (default: %(default)s)")
    parser.add_argument("--transformers", action="store_true", help="the Hugging Face path, too")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="a checkout to compare with")
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = options.base or Path(base_model(get_profile("laptop").run, Store(runs_root())))
    if options.only:
        print(json.dumps(here(base, [options.only], options.steps, False).to_dict()))
        return
    if options.before:
        frame = against(options.before.resolve(), base.resolve(), options.steps)
    else:
        frame = here(base, list(configs()), options.steps, options.transformers)
    print(frame.round(1).to_string())
    print("\nas multiples of the reference pass")
    print((frame / frame.loc["reference"]).round(2).to_string())
    other = "before" if options.before else "transformers"
    if f"ppo, {other}" in frame:
        ratios = {name: frame[name] / frame[f"{name}, {other}"] for name in configs()}
        print(f"\nas multiples of the same part, {other}")
        print(pd.DataFrame(ratios).round(2).to_string())


if __name__ == "__main__":
    main()
