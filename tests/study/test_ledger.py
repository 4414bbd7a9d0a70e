"""The ledger: effects by cell, intervals held against resampling written as loops, and rulings by the stated rule."""

import numpy as np
import pandas as pd
import pytest

from itpo.runs.store import Run
from itpo.study import credit_tables, ledger
from itpo.study.reported import smallest_gain
from itpo.study.statistics import INCONCLUSIVE, Interval
from itpo.study.statistics import ruling as rule_on
from itpo.study.tables import as_text

METHODS = ["trajectory_share", "uniform", "judge", "prime", "itpo", "norm_itpo"]


def results(task: str, estimator: str, lift: float = 0.0) -> pd.DataFrame:
    """Three seeds of every row; Norm-ITPO is ``lift`` above all others, plus a little in each seed."""
    lines = []
    for row in METHODS:
        for seed in range(3):
            value = 0.5 + 0.1 * seed + (lift + 0.01 * seed if row == "norm_itpo" else 0.0)
            lines.append(
                {"row": row, "seed": seed, "success": value, "speed": value / 2, "task": task}
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
    text = as_text(table, ledger.LEDGER_COLUMNS)
    assert text.iloc[0]["effect"] == "+21.0 points" and len(text) == len(table) == 8
    cells = ledger.cell_table(ledger.row_effects(pd.concat(frames)))
    assert set(cells.loc[cells["part"] == "after training", "mean"].round(6)) == {21.0}
    assert min(map(smallest_gain, ("math", "documents", "medical"))) > 0


def test_reward_effects_are_those_of_the_rows_with_a_prm(judged_runs: list[Run], written_runs: list[Run]):
    found = ledger.reward_effects("math", "rloo", judged_runs)
    assert (
        set(found["claim"]) == {"C5", "C6", "C7", "C8"}
        and (found.groupby(["claim", "part"]).size() == 3).all()
    )
    values = {key: part["effect"].to_numpy() for key, part in found.groupby(["claim", "part"])}
    taus = {seed: [] for seed in range(3)}
    for run in judged_runs:
        taus[run.config.seed].append(run.metrics().query("step >= 0")["prm_kendall"].mean())
    assert values["C6", "sign"] == pytest.approx([np.mean(x) for x in taus.values()])
    assert values["C6", "sign"] - values["C6", "size"] == pytest.approx([0.5] * 3)
    assert values["C7", "sign"] - values["C7", "size"] == pytest.approx([0.9] * 3)
    slopes = credit_tables.slope_curves(judged_runs)
    for seed in range(3):
        growth = [
            x["value"].iloc[-1] - x["value"].iloc[0] for _, x in slopes[slopes["seed"] == seed].groupby("row")
        ]
        assert values["C8", "drift"][seed] == pytest.approx(np.mean(growth))
    with_others = ledger.reward_effects("math", "rloo", written_runs)
    pd.testing.assert_frame_equal(with_others, found)


def test_agreement_effects_are_by_row_and_need_no_order():
    lines = [
        ("itpo", 0, 0.1),
        ("itpo", 1, 0.3),
        ("norm_itpo", 0, -0.2),
        ("norm_itpo", 1, 0.0),
        ("prime", 0, 9.0),
    ]
    frame = pd.DataFrame(lines, columns=["row", "seed", "above_chance"])
    found = ledger.agreement_effects("math", "rloo", frame)
    assert found["effect"].tolist() == [0.1, 0.3, -0.2, 0.0]
    table = ledger.ledger(found, np.random.default_rng(0))
    assert table[["claim", "part"]].values.tolist() == [["C9", "ITPO"], ["C9", "Norm-ITPO"]]
    assert table["effect"].tolist() == pytest.approx([20.0, -10.0]) and table["wide_low"].isna().all()
