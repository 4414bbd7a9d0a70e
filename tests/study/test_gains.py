"""Gains paired by seed, against sums by hand, and the sentences that they give."""

import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest

from itpo.figures import comparison
from itpo.study import gains
from itpo.study.experiment import ARMS, best_rates
from itpo.study.profiles import get_profile

TASKS, RATES, SEEDS = ("math", "medical"), (5e-4, 1e-3), range(100, 107)
LAPTOP = get_profile("laptop")


def runs(arms=("trajectory_share", "norm_itpo", "norm_itpo_to_go"), seeds=SEEDS) -> pd.DataFrame:
    """Results of a band, in a shuffled order."""
    rng = np.random.default_rng(0)
    lines = [
        (task, ARMS[arm].method.name, arm, "rloo", rate, seed, rng.uniform(0.2, 0.8))
        for task, arm, rate, seed in itertools.product(TASKS, arms, RATES, seeds)
        if not arm.endswith("to_go") or rate == 1e-3
    ]
    frame = pd.DataFrame(lines, columns=["task", "row", "arm", "estimator", "rate", "seed", "speed"])
    return frame.sample(frac=1.0, random_state=1)


def differences(frame: pd.DataFrame, task: str, arm: str, rate: float) -> list[float]:
    speed = {(x.task, x.arm, x.rate, x.seed): x.speed for x in frame.itertuples()}
    return [100 * (speed[task, arm, rate, s] - speed[task, "trajectory_share", rate, s]) for s in SEEDS]


def test_the_band_is_the_mean_of_paired_differences_on_each_task_and_over_tasks() -> None:
    frame = runs()
    table = gains.band(frame).set_index(["panel", "arm", "rate"])
    assert len(table) == 3 * 3 and set(table["row"]) == {"norm_itpo"}
    for arm, rate in (("norm_itpo", 5e-4), ("norm_itpo", 1e-3), ("norm_itpo_to_go", 1e-3)):
        each = {task: differences(frame, task, arm, rate) for task in TASKS}
        for task in TASKS:
            line = table.loc[task, arm, rate]
            half = (
                2.446912 * statistics.stdev(each[task]) / math.sqrt(7)
            )  # Student's t of 6 degrees of freedom
            mean = statistics.mean(each[task])
            assert (line["mean"], line["low"]) == pytest.approx((mean, mean - half), rel=1e-5)
        assert table.loc["all tasks", arm, rate]["mean"] == pytest.approx(
            statistics.mean(map(statistics.mean, each.values()))
        )
        assert table.loc["all tasks", arm, rate]["clusters"] == 14
    assert comparison.band(table.reset_index()).axes[-1].get_title() == "all tasks"


def test_few_seeds_have_no_interval_and_a_task_that_lacks_an_arm_leaves_no_line_for_all() -> None:
    few = gains.band(runs(seeds=range(100, 105)))
    assert few[["low", "high"]].isna().all(axis=None) and few["mean"].notna().all()
    lacking = runs().query("not (task == 'math' and arm == 'norm_itpo_to_go')")
    table = gains.band(lacking)
    assert set(table.loc[table["arm"] == "norm_itpo_to_go", "panel"]) == {"medical"}


def test_a_run_without_its_counterpart_is_named() -> None:
    frame = runs().query(
        "not (task == 'math' and row == 'trajectory_share' and seed == 103 and rate == 0.001)"
    )
    with pytest.raises(ValueError, match=r"task math, rate 0.001, seed 103, which norm_itpo has: train it"):
        gains.paired(frame, ["task", "rate"])
    with pytest.raises(ValueError, match="several runs of trajectory_share with the same task, seed"):
        gains.paired(runs(), ["task"])


def test_table_dots_have_the_gain_of_every_seed() -> None:
    frame = runs(("trajectory_share", "uniform", "norm_itpo")).query("rate == 0.001")
    drawn = gains.table_dots(frame)
    own = drawn["seeds"].query("task == 'medical' and row == 'uniform'").sort_values("seed")["gain"]
    assert own.tolist() == pytest.approx(differences(frame, "medical", "uniform", 1e-3))
    line = drawn["means"].query("task == 'medical' and row == 'uniform'").iloc[0]
    assert line["mean"] == pytest.approx(own.mean()) and line["low"] < own.mean() < line["high"]
    assert len(comparison.table_dots(**drawn).axes) == 2


def test_sentences_follow_the_numbers() -> None:
    table = pd.DataFrame({"panel": "all tasks", "arm": "itpo", "rate": RATES, "mean": [-4.0, 2.0]})
    table = table.assign(low=[-6.0, -1.0], high=[-2.0, 5.0])
    text = gains.band_text(table, LAPTOP)
    assert text == (
        "- **ITPO with outcome**: -4.0 at 0.0005, +2.0 at 0.001 points; interval above 0 at 0, below 0 at 1 of 2 rates."
    )
    few = gains.band_text(table.assign(low=np.nan, high=np.nan), LAPTOP)
    assert few == "- **ITPO with outcome**: -4.0 at 0.0005, +2.0 at 0.001 points; no interval below 6 seeds."
    outcomes = pd.DataFrame({"task": "math", "rate": [5e-4, 5e-4, 1e-3], "outcome": [0.5, 0.7, 0.7]})
    text = gains.choice_text(outcomes, best_rates(outcomes), get_profile("smoke"))
    assert text == "- (smoke, not meaningful) math: 0.001, with 70.0 %, 10.0 points ahead of the next."
