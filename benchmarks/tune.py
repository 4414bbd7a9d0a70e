"""Tune rows of Table 1, all with the same budget: ``python -m benchmarks.tune [--task math] [row ...]``.

Four settings a row, 40 steps each, on one seed that no result uses. The setting with the highest mean outcome on fresh
problems over training is kept in ``itpo.study.profiles.TUNED``, for every estimator. RLOO tunes them, or PPO where only it can
train the row. All rows of a task take about a quarter of an hour on two cores. Writes ``figures/tuning.csv``, in which lines of
other tasks and rows stay as they are.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import pandas as pd

from itpo.attribution import METHODS
from itpo.config import Method, RunConfig, allows
from itpo.runs.paths import project_root, runs_root
from itpo.runs.store import Run
from itpo.runs.sweep import sweep
from itpo.study.profiles import get_profile
from itpo.study.regimes import get_regime_grid
from itpo.tasks.registry import TASKS
from itpo.trainer import train

SEED, STEPS = 1000, 40
MAP = get_regime_grid("laptop").run  # the middle of the map of regimes is tuned as it is run there
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3)
CANDIDATES = [
    *(
        Method(row, policy_lr=lr)
        for row in ("trajectory_share", "uniform", "value_model", "judge")
        for lr in RATES
    ),
    *(
        Method(row, outcome_coef=extra, policy_lr=rate, beta=beta)
        for row, extra in (("prime", 5.0), ("itpo", 5.0), ("norm_itpo", 0.0))
        for rate, beta in ((5e-4, 0.2), (1e-3, 0.2), (2e-3, 0.2), (1e-3, 0.05))
    ),
]


def configs(task: str, rows: list[str]) -> list[RunConfig]:
    """One run of the task for every candidate setting of these rows."""
    run = MAP if task == MAP.task else replace(get_profile("laptop").on(task).run, steps=STEPS)
    base = replace(run, seed=SEED)
    chosen = [method for method in CANDIDATES if method.name in rows]
    estimators = ["rloo" if allows("rloo", method.name) else "ppo" for method in chosen]
    return [replace(base, method=m, estimator=e) for m, e in zip(chosen, estimators, strict=True)]


def summarize(runs: list[Run]) -> pd.DataFrame:
    """Settings and scores of each run."""
    lines = []
    for run in runs:
        method, evaluations = run.config.method, run.metrics()["eval_success"].dropna()
        settings = {"policy_lr": method.policy_lr, "beta": method.beta, "eta": method.eta}
        scores = {"mean_success": evaluations.mean(), "final_success": run.summary()["success"]}
        who = {"task": run.config.task, "row": method.name}
        lines.append({**who, **settings, "outcome_coef": method.outcome_coef, **scores})
    return pd.DataFrame(lines)


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Tasks and rows as in Table 1, the best setting of each first."""
    keys = {
        "task": [*TASKS, MAP.task].index,
        "row": list(METHODS).index,
        "mean_success": lambda score: -score,
    }
    return table.sort_values(list(keys), key=lambda column: column.map(keys[column.name]), ignore_index=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[[], *METHODS], help="rows to tune (default: all)")
    parser.add_argument("--task", choices=[*TASKS, MAP.task], default="math")
    options = parser.parse_args()
    task, rows = options.task, options.rows or list(METHODS)
    path = project_root() / "figures" / "tuning.csv"
    result = summarize(sweep(runs_root(), configs(task, rows), train))
    if path.is_file():
        old = pd.read_csv(path)
        result = pd.concat([old[(old["task"] != task) | ~old["row"].isin(rows)], result])
    result = in_order(result)
    result.to_csv(path, index=False, float_format="%.6g")
    print(result.to_string(index=False))
