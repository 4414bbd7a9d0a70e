"""The ledger: effects by cell, intervals held against resampling written as loops, and rulings by the stated rule."""

import numpy as np
import pandas as pd
import pytest

from itpo import ledger
from itpo.analysis import INCONCLUSIVE, Interval
from itpo.analysis import ruling as rule_on
from itpo.reported import smallest_gain

ROWS = ["trajectory_share", "uniform", "judge", "prime", "itpo", "norm_itpo"]


def results(task: str, estimator: str, lift: float = 0.0) -> pd.DataFrame:
    """Three seeds of every row; Norm-ITPO is ``lift`` above all others, plus a little in each seed."""
    lines = []
    for row in ROWS:
        for seed in range(3):
            value = 0.5 + 0.1 * seed + (lift + 0.01 * seed if row == "norm_itpo" else 0.0)
            lines.append(
                {"row": row, "seed": seed, "success": value, "mean_success": value / 2, "task": task}
            )
    return pd.DataFrame(lines).assign(estimator=estimator)


def test_row_effects_are_differences_paired_by_seed():
    found = ledger.row_effects(pd.concat([results("math", "rloo", 0.2), results("math", "ppo", 0.3)]))
    gains = found[(found["claim"] == "C1") & (found["part"] == "after training")]
    assert gains["effect"].round(6).tolist() == [0.2, 0.21, 0.22, 0.3, 0.31, 0.32]
    halves = found[(found["claim"] == "C1") & (found["part"] == "over training")]
    assert np.allclose(2 * halves["effect"], gains["effect"])
    assert found.loc[found["part"] == "most under PPO", "effect"].round(6).tolist() == [0.1, 0.1, 0.1]
    assert (found.loc[found["claim"] == "C4", "effect"] == 0).all()


def test_the_bootstrap_over_seeds_is_that_of_a_loop():
    cells = {"math": [0.0, 0.1, 0.5], "medical": [0.3, 0.2, 0.4]}
    frame = pd.concat([ledger.effect_lines("C1", "x", task, "rloo", x) for task, x in cells.items()])
    found = ledger.pooled(frame, np.random.default_rng(0), tasks_too=False)
    rng, means = np.random.default_rng(1), []
    for _ in range(4000):
        means.append(np.mean([np.mean(rng.choice(x, len(x))) for x in cells.values()]))
    assert found.mean == pytest.approx(0.25) and found.n == 6
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


def test_tasks_that_disagree_widen_the_interval():
    frame = pd.concat(
        [ledger.effect_lines("C1", "x", t, "rloo", [x, x]) for t, x in (("math", 0.0), ("medical", 1.0))]
    )
    narrow = ledger.pooled(frame, np.random.default_rng(0), tasks_too=False)
    wide = ledger.pooled(frame, np.random.default_rng(0), tasks_too=True)
    assert (narrow.low, narrow.high) == (0.5, 0.5)
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_undefined_effects_are_left_out_and_one_seed_has_no_interval():
    frame = ledger.effect_lines("C5", "x", "math", "rloo", [float("nan"), 0.25])
    found = ledger.pooled(frame, np.random.default_rng(0), tasks_too=False)
    assert (found.mean, found.n) == (0.25, 1) and np.isnan(found.low)
    assert rule_on(found, "gain", 0.0) == INCONCLUSIVE


@pytest.mark.parametrize(
    ("bounds", "expected", "ruling"),
    [
        ((0.01, 0.2), "gain", "replicated"),
        ((-0.2, -0.01), "gain", "not replicated"),
        ((-0.1, 0.1), "gain", INCONCLUSIVE),
        ((0.2, 0.2), "gain", INCONCLUSIVE),
        ((-0.1, 0.02), "no gain", "replicated"),
        ((-0.1, 0.05), "no gain", INCONCLUSIVE),
        ((0.01, 0.02), "no gain", "not replicated"),
    ],
)
def test_the_rule(bounds, expected, ruling):
    assert rule_on(Interval(sum(bounds) / 2, *bounds, 9), expected, 0.03) == ruling


def test_the_ledger_rules_by_the_wide_interval_and_counts_cells():
    frames = [results(task, e, 0.2) for task in ("math", "documents", "medical") for e in ("rloo", "ppo")]
    table = ledger.ledger(ledger.row_effects(pd.concat(frames)), np.random.default_rng(0))
    line = table.iloc[0]
    assert (line["claim"], line["ruling"], line["cells"], line["replicated"]) == ("C1", "replicated", 6, 6)
    assert line["effect"] == pytest.approx(21.0) and 20.0 <= line["wide_low"] <= line["wide_high"] <= 22.0
    text = ledger.ledger_text(table)
    assert text.iloc[0]["effect"] == "+21.0 points" and len(text) == len(table) == 8
    cells = ledger.cell_table(ledger.row_effects(pd.concat(frames)))
    assert set(cells.loc[cells["part"] == "after training", "mean"].round(6)) == {21.0}
    assert min(map(smallest_gain, ("math", "documents", "medical"))) > 0
