"""What README and docs/results.md say of the results stands so in the committed data, each number beside its own claim."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ANSWER = README.split("\n## The answer\n")[1].split("\n## ")[0]
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
WORDS = " ".join(RESULTS.split())
EFFECT = r"[+-]\d+\.\d+ \[[+-]\d+\.\d+, [+-]\d+\.\d+\](?: (?:Spearman|tau-b|logits))?"

# The claim and part of the ledger behind each line of the two tables, in their order.
LINES = [
    *((f"P{number}", "speed") for number in range(1, 9)),
    *(("P1", f"under {name}") for name in ("RLOO", "GRPO", "PPO")),
    ("C2", "most under PPO"),
    ("P6", "under GRPO"),
    ("C4", "uniform"),
    ("C4", "judge"),
    ("further", "outcome"),
    ("further", "baseline"),
    ("C9", "norm_itpo, best, chance"),
    ("C9", "norm_itpo, best, place"),
    ("C9", "norm_itpo, worst, place"),
    ("C5", "all tokens"),
    ("C6", "tau-b"),
    ("C7", "order"),
    ("C8", "drift"),
]


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "figures" / f"{name}.csv", keep_default_na=False, na_values=[""])


LEDGER = read("ledger").set_index(["claim", "part"])
CELLS = read("ledger_cells").set_index(["claim", "part", "task", "estimator"]).sort_index()
GAINS = read("band_gains").set_index(["panel", "arm", "rate"])
TABLE = read("T1").set_index(["task", "estimator", "row"])
WORTH = read("microscope_table").set_index(["task", "policy_steps", "name"])


def effect(claim: str, part: str) -> str:
    line = LEDGER.loc[(claim, part)]
    digits, unit = (1, "") if line["unit"] == "points" else (2, f" {line['unit']}")
    effect, low, high = (f"{line[name]:+.{digits}f}" for name in ("effect", "low", "high"))
    return f"{effect} [{low}, {high}]{unit}"


def test_every_line_of_the_tables_is_its_line_of_the_ledger() -> None:
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in RESULTS.splitlines()
        if re.search(rf"\| {EFFECT} \|", line)
    ]
    assert [line[1] for line in lines] == [effect(*key) for key in LINES]
    ruled = [line[2].split(",")[0] for line in lines]
    assert ruled == LEDGER.loc[LINES, "ruling"].tolist()
    names = (
        "Norm-ITPO",
        "equal split",
        "random split",
        "without outcome",
        "with the outcome",
        "PRIME",
        "signed",
        "signed",
    )
    assert all(name in line[0] for name, line in zip(names, lines, strict=False))


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (
            ANSWER,
            [("P1", "speed"), ("P2", "speed"), ("P3", "speed"), ("further", "outcome"), ("P7", "speed")],
        ),
        (RESULTS.split("**After training**")[1].split("\n\n")[0], [("P1", "level")]),
    ],
)
def test_every_number_of_a_sentence_is_that_of_its_claim(text: str, keys: list[tuple[str, str]]) -> None:
    assert re.findall(EFFECT, text) == [effect(*key) for key in keys]


def test_what_is_said_of_single_tasks_is_so() -> None:
    rate, lowest = 2e-3, 5e-4
    for arm in ("itpo", "prime", "signed_norm_itpo"):
        low = GAINS["low"].xs((arm, rate), level=("arm", "rate"))
        assert (low[["math", "documents"]] > 0).all() and low["medical"] < 0, arm
    for arm in ("itpo", "signed_norm_itpo"):
        line = GAINS.loc[("medical", arm, lowest)]
        assert 2 <= line["mean"] <= 3 and line["low"] > 0
    assert "lead by two to three points at the lowest rate" in WORDS
    assert "On medical recommendation they gain two to three points, at the lowest rate" in " ".join(
        ANSWER.split()
    )
    documents = CELLS.loc[("P4", "speed", "documents", "rloo"), "effect"]
    assert f"on documents it is {-documents:.1f} points behind" in WORDS
    lost, collapsed = (
        [TABLE.loc[("medical", "grpo", row), name] for row in ("itpo", "prime")]
        for name in ("gain", "collapsed")
    )
    assert f"lose {-100 * lost[0]:.0f} and {-100 * lost[1]:.0f} points, and" in WORDS
    assert f"and {collapsed[0]:.0f} and {collapsed[1]:.0f} of their 6 runs collapse" in WORDS
    assert f"loses {-GAINS.loc[('medical', 'itpo_released', rate), 'mean']:.0f} points in training" in WORDS


def test_what_is_said_of_the_best_turn_and_of_lengths_is_so() -> None:
    def rulings(claim: str, part: str) -> dict[str, str]:
        return CELLS.loc[(claim, part)]["ruling"].droplevel("estimator").to_dict()

    alone = {"math": "open", "documents": "holds", "medical": "open"}
    assert rulings("C9", "norm_itpo, best, chance") == alone
    assert set(rulings("C9", "norm_itpo, worst, place").values()) == {"holds"}
    assert rulings("C5", "all tokens") == alone | {"documents": "reversed"}
    assert rulings("further", "baseline") == alone
    length = CELLS.loc[("P1", "length")]["ruling"].unstack("estimator")
    assert length.loc["medical"].to_dict() == {"grpo": "reversed", "ppo": "holds", "rloo": "reversed"}
    assert length.loc["documents"].to_dict() == {"grpo": "reversed", "ppo": "holds", "rloo": "open"}
    assert length.loc["math"].to_dict() == {"grpo": "open", "ppo": "holds", "rloo": "open"}
    assert (
        CELLS.loc[("C8", "drift", "math"), "high"].item()
        < 0
        < CELLS.loc[("C8", "drift", "documents"), "low"].item()
    )


def test_what_is_said_of_the_microscope_is_so() -> None:
    def span(steps: int, *names: str) -> str:
        worth = WORTH["worth"].xs(steps, level="policy_steps").unstack()[list(names)]
        return f"{worth.min(axis=None):.1f} to {worth.max(axis=None):.1f}"

    uses = ("itpo", "prime", "signed_norm_itpo")
    assert f"three uses of the PRM are worth {span(0, *uses)} batches" in WORDS
    assert f"Norm-ITPO is worth {span(0, 'norm_itpo')} of one" in WORDS
    assert f"Norm-ITPO then is worth {span(12, 'norm_itpo')} of a batch" in WORDS
    counted = WORTH[WORTH["counts"]]["difference"].unstack("name")
    assert (counted.xs(12, level="policy_steps")[list(uses)].fillna(0) <= 0).all(axis=None)
    six = counted.xs(6, level="policy_steps")[list(uses)]
    assert (
        (six.loc["math"] < 0).all()
        and (six.loc["documents"] > 0).all()
        and not (six.loc["medical"] > 0).any()
    )
    assert "the same three are ahead on documents alone, and behind on math" in WORDS


def test_the_rank_correlation_of_training_and_microscope_is_that_of_the_tables() -> None:
    gains = GAINS["mean"].xs(2e-3, level="rate").unstack("panel")[list(WORTH.index.levels[0])]
    gains.loc["trajectory_share"] = 0.0
    means = WORTH["difference"].groupby(["name", "task"]).mean().unstack("task")
    means.loc["trajectory_share"] = 0.0
    both = gains.index.intersection(means.index)
    found = {task: stats.spearmanr(means.loc[both, task], gains.loc[both, task]).statistic for task in gains}
    assert len(both) == 9 and "over nine methods" in WORDS
    said = f"is {found['math']:.2f} on math, {found['documents']:.2f} on documents and {found['medical']:.2f} on medical"
    assert said in WORDS


def test_what_is_said_of_smollm2_is_so() -> None:
    table = read("microscope_real_table")
    usual = table[table["name"] == "trajectory_share"].set_index("policy_steps")["cosine"]
    assert "no difference from trajectory-share counts" in WORDS and not table["counts"].any()
    assert "after 4 steps the true gradient itself is lost in noise" in WORDS
    assert usual.isna().to_dict() == {0: False, 4: True}
    real = read("T_real_model").set_index("row")
    after = [f"{real.loc[row, 'success']:.2f}" for row in ("trajectory_share", "norm_itpo")]
    assert f"{real['before'].iloc[0]:.2f} before, {' and '.join(after)} after" in WORDS


DATA = [path.stem for path in sorted((ROOT / "figures").glob("*.csv"))]


@pytest.mark.parametrize("name", DATA)
def test_every_number_lies_within_its_interval_and_what_is_possible(name: str) -> None:
    table = read(name)
    triples = [(c, f"{c}_low", f"{c}_high") for c in table if f"{c}_low" in table]
    triples += [(c, "low", "high") for c in ("mean", "effect") if c in table and "low" in table]
    for middle, low, high in triples:
        known = table[[middle, low, high]].dropna()
        slack = 1e-5 * known.abs().max(axis=1)  # files hold six digits
        assert (known[low] <= known[middle] + slack).all() and (known[middle] <= known[high] + slack).all(), (
            middle
        )
    bounds = {
        "cosine": (-1, 1),
        "bias": (-1, 1),
        "snr": (0, np.inf),
        "success": (0, 1),
        "greedy_success": (0, 1),
    }
    for column, (least, most) in bounds.items():
        for end in ("", "_low", "_high"):
            if f"{column}{end}" in table:
                assert table[f"{column}{end}"].dropna().between(least, most).all(), f"{column}{end}"
    if "unit" in table:
        points = table.loc[table["unit"] == "points", ["effect", "low", "high"]]
        assert (points.abs().max() <= 100).all()


def test_every_result_is_dated() -> None:
    assert re.search(r"Every number on this page is as committed on \d{4}-\d\d-\d\d", WORDS)
    assert re.search(r"as committed on \d{4}-\d\d-\d\d", ANSWER)
