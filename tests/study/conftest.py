"""Made-up results of the whole experiment, for the ledger and the report."""

import numpy as np
import pandas as pd
import pytest

from itpo.study.experiment import ARMS, get_experiment
from itpo.study.ledger import KEYS
from itpo.study.profiles import get_profile
from itpo.tasks.registry import TASKS

# What each arm adds to the mean outcome of training; a method that is not here adds nothing.
LIFTS = {"itpo": 0.06, "prime": 0.02, "signed_norm_itpo": 0.08, "uniform": -0.07, "itpo_released": -0.1}
NOISE = {"math": 0.02, "documents": 0.06, "medical": 0.03}


@pytest.fixture(scope="session")
def experiment_runs() -> pd.DataFrame:
    """A line of `tables.results` for every run of the band and of Table 1; runs of a task and seed share most of their luck."""
    profile, rng = get_profile("laptop"), np.random.default_rng(0)
    runs = [
        (config, cell.arm)
        for cell, configs in get_experiment("laptop").band(profile).items()
        for config in configs
    ]
    for task in TASKS:
        for estimator in ("rloo", "grpo", "ppo"):
            for config in profile.on(task).grid(estimator):
                name = config.method.name
                runs.append((config, name if estimator == "rloo" and name in ARMS else ""))
    luck = {(task, seed): rng.normal() for task in TASKS for seed in range(100, 110)}
    lines = []
    for config, arm in runs:
        task, estimator = config.task.name, config.estimator
        key = (
            task,
            config.method.name,
            arm,
            estimator.name,
            estimator.baseline,
            config.method.policy_lr,
            config.seed,
        )
        lift = LIFTS.get(arm or config.method.name, 0.0) - 0.03 * (config.method.policy_lr < 1e-3)
        noise = NOISE[task] * (luck[task, config.seed] + 0.5 * rng.normal())
        level = min(1.0, 0.9 + lift + noise / 2)
        measures = {"speed": 0.5 + lift + noise, "greedy_success": level, "success": 0.95 * level}
        measures |= {
            "collapsed": float(rng.random() < 0.1),
            "turns": 4 + rng.normal() / 5,
            "auc": 0.7,
            "tau": 0.2,
        }
        lines.append(dict(zip(KEYS, key, strict=True)) | measures)
    return pd.DataFrame(lines).drop_duplicates(KEYS, ignore_index=True)
