"""Tune the methods of Table 1, all with the same budget: ``python -m benchmarks.tune [--task math] [method ...]``.

Four settings a method, 40 steps each, on one seed that no result uses. The setting with the highest mean outcome on fresh
problems over training is kept in ``itpo.study.profiles.TUNED``, for every estimator. RLOO tunes them, or PPO where only it can
train the method. All methods of a task take about a quarter of an hour on two cores. Writes ``figures/tuning.csv``, in which
lines of other tasks and methods stay as they are.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import pandas as pd

from itpo.attribution import METHODS
from itpo.config import Estimator, Method, RunConfig, allows
from itpo.runs.paths import project_root, runs_root
from itpo.runs.store import Run
from itpo.runs.sweep import sweep
from itpo.study.profiles import get_profile
from itpo.tasks.registry import TASKS
from itpo.trainer import train

SEED, STEPS = 1000, 40
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3)
CANDIDATES = [
    *(
        Method(name, policy_lr=lr)
        for name in ("trajectory_share", "uniform", "value_model", "judge")
        for lr in RATES
    ),
    *(
        Method(name, outcome_coef=extra, policy_lr=rate, beta=beta)
        for name, extra in (("prime", 5.0), ("itpo", 5.0), ("norm_itpo", 0.0))
        for rate, beta in ((5e-4, 0.2), (1e-3, 0.2), (2e-3, 0.2), (1e-3, 0.05))
    ),
]


def configs(task: str, methods: list[str]) -> list[RunConfig]:
    """One run of the task for every candidate setting of these methods."""
    base = replace(get_profile("laptop").on(task).run, steps=STEPS, seed=SEED)
    chosen = [method for method in CANDIDATES if method.name in methods]
    estimators = ["rloo" if allows("rloo", method.name) else "ppo" for method in chosen]
    return [replace(base, method=m, estimator=Estimator(e)) for m, e in zip(chosen, estimators, strict=True)]


def summarize(task: str, runs: list[Run]) -> pd.DataFrame:
    """Settings and scores of each run."""
    lines = []
    for run in runs:
        method, evaluations = run.config.method, run.metrics()["eval_success"].dropna()
        settings = {
            "policy_lr": method.policy_lr,
            "beta": method.beta,
            "eta": method.options.get("temperature", 0.4),
        }
        scores = {"mean_success": evaluations.mean(), "final_success": run.summary()["success"]}
        lines.append(
            {"task": task, "row": method.name, **settings, "outcome_coef": method.outcome_coef, **scores}
        )
    return pd.DataFrame(lines)


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Tasks and methods as in Table 1, the best setting of each first."""
    keys = {
        "task": list(TASKS).index,
        "row": list(METHODS).index,
        "mean_success": lambda score: -score,
    }
    return table.sort_values(list(keys), key=lambda column: column.map(keys[column.name]), ignore_index=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", choices=[[], *METHODS], help="(default: all)")
    parser.add_argument("--task", choices=TASKS, default="math")
    options = parser.parse_args()
    task, methods = options.task, options.methods or list(METHODS)
    path = project_root() / "figures" / "tuning.csv"
    result = summarize(task, sweep(runs_root(), configs(task, methods), train))
    if path.is_file():
        old = pd.read_csv(path)
        result = pd.concat([old[(old["task"] != task) | ~old["row"].isin(methods)], result])
    result = in_order(result)
    result.to_csv(path, index=False, float_format="%.6g")
    print(result.to_string(index=False))
