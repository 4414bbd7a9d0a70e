"""Tune rows of Table 1, all with the same budget: ``python -m benchmarks.tune [row ...]`` writes ``figures/tuning.csv``.

Four settings a row, 40 steps each, on one seed that no result uses. The setting with the highest mean success on fresh
problems over training is kept in ``itpo.profiles.METHODS``, for every estimator. RLOO tunes them, or PPO where only it can
train the row. All rows take about a quarter of an hour on two cores; lines of rows that are not named stay as they are.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import pandas as pd

from itpo.attribution import ROWS
from itpo.paths import project_root, runs_root
from itpo.profiles import Method, RunConfig, allows, get_profile
from itpo.runs import Run
from itpo.sweep import sweep
from itpo.trainer import train

SEED, STEPS = 1000, 40
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


def configs(rows: list[str]) -> list[RunConfig]:
    """One run for every candidate setting of these rows."""
    base = replace(get_profile("laptop").run, seed=SEED, steps=STEPS)
    chosen = [method for method in CANDIDATES if method.row in rows]
    estimators = ["rloo" if allows("rloo", method.row) else "ppo" for method in chosen]
    return [replace(base, method=m, estimator=e) for m, e in zip(chosen, estimators, strict=True)]


def summarize(runs: list[Run]) -> pd.DataFrame:
    """Settings and scores of each run."""
    lines = []
    for run in runs:
        method, evaluations = run.config.method, run.metrics()["eval_success"].dropna()
        settings = {"policy_lr": method.policy_lr, "beta": method.beta, "eta": method.eta}
        scores = {"mean_success": evaluations.mean(), "final_success": run.summary()["success"]}
        lines.append({"row": method.row, **settings, "outcome_coef": method.outcome_coef, **scores})
    return pd.DataFrame(lines)


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows as in Table 1, the best setting of each first."""
    place = {row: i for i, row in enumerate(ROWS)}
    table = table.assign(place=table["row"].map(place)).sort_values(
        ["place", "mean_success"], ascending=[True, False], ignore_index=True
    )
    return table.drop(columns="place")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="rows to tune (default: all)")
    rows = parser.parse_args().rows or list(ROWS)
    path = project_root() / "figures" / "tuning.csv"
    result = summarize(sweep(runs_root(), configs(rows), train))
    if path.is_file():
        old = pd.read_csv(path)
        result = pd.concat([old[~old["row"].isin(rows)], result])
    result = in_order(result)
    result.to_csv(path, index=False, float_format="%.6g")
    print(result.to_string(index=False))
