"""Seconds per training step at 16 x 8 rollouts, by part: ``python -m benchmarks.step [--steps 10]``.

One thread, laptop profile, trajectory-share and Norm-ITPO in turn within one process. Beside seconds it prints each part as a
multiple of the step's own reference pass (one forward pass over all dialogues without adapters), which does not depend on
how busy the machine is.
"""

from __future__ import annotations

import argparse

import pandas as pd
import torch

from itpo.config import RunConfig
from itpo.runs.paths import runs_root
from itpo.runs.store import Store
from itpo.study.profiles import get_profile
from itpo.trainer import training_step
from itpo.training.build import build_learner
from itpo.training.learner import Learner
from itpo.training.profiling import Timer

PARTS = ["generation", "reference", "prm", "signals", "critic", "policy"]


def measure(config: RunConfig, learner: Learner, steps: int) -> pd.Series:
    """Median seconds of each part over ``steps`` training steps, the first not counted."""
    laps, tokens = [], []
    for step in range(steps + 1):
        timer = Timer()
        batch, _ = training_step(learner, f"benchmark/{step}", timer)
        laps.append(timer.seconds)
        tokens.append(int(batch.attention_mask.sum()))
    frame = pd.DataFrame(laps)[PARTS].iloc[1:]
    result = frame.median()
    result["step"] = frame.sum(axis=1).median()
    result["tokens per dialogue"] = sum(tokens) / len(tokens) / (config.prompts * config.rollouts)
    result["us per token"] = 1e6 * result["step"] / (sum(tokens) / len(tokens))
    return result


def main() -> None:
    """Measure both methods and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help="counted steps (default: %(default)s)")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    profile, table = get_profile("laptop"), {}
    for method in ("trajectory_share", "norm_itpo"):
        config = profile.config(method, seed=0)
        table[method] = measure(config, build_learner(config, Store(runs_root())), steps)
    frame = pd.DataFrame(table)
    print(frame.round(3).to_string())
    print("\nas multiples of the reference pass")
    print((frame.loc[[*PARTS, "step"]] / frame.loc["reference"]).round(2).to_string())


if __name__ == "__main__":
    main()
