"""The first lines of the report follow the ledger, whatever it says."""

import pandas as pd
import pytest

from itpo.study import ledger, report
from itpo.study.profiles import get_profile
from itpo.study.statistics import HOLDS, OPEN, REVERSED, SAME

LAPTOP = get_profile("laptop")


@pytest.fixture(scope="module")
def table(experiment_runs: pd.DataFrame) -> pd.DataFrame:
    return ledger.ledger(ledger.effects(experiment_runs, LAPTOP), LAPTOP)


@pytest.fixture(scope="module")
def cells(experiment_runs: pd.DataFrame) -> pd.DataFrame:
    return ledger.cell_table(ledger.effects(experiment_runs, LAPTOP), LAPTOP)


def test_ten_lines_at_most_and_every_primary_claim_under_its_ruling(
    table: pd.DataFrame, cells: pd.DataFrame
) -> None:
    lines = report.answers(table, cells, LAPTOP, ["A sentence on gradients."]).splitlines()
    assert len(lines) <= 10 and "A sentence on gradients." in lines[-2]
    assert lines[0].startswith("- **What holds** (5 of 8 primary claims")
    for line in table[table["family"] == "primary"].itertuples():
        (said,) = [text for text in lines if text.startswith(f"- **{report.TITLES[line.ruling]}**")]
        assert (
            f"{line.claim}, {line.statement} ({line.effect:+.1f} [{line.low:+.1f}, {line.high:+.1f}] points)"
            in said
        )
    assert not any("not meaningful" in line for line in lines)
    smoke = report.answers(table, cells, get_profile("smoke")).splitlines()
    assert all(line.startswith("- (smoke, not meaningful)") for line in smoke)


@pytest.mark.parametrize("ruling", [HOLDS, REVERSED, SAME, OPEN])
def test_advice_follows_the_comparisons_at_the_rate_of_table_1(
    table: pd.DataFrame, cells: pd.DataFrame, ruling: str
) -> None:
    keys = table[["claim", "part"]].apply(tuple, axis=1)
    mine = keys.isin([("P1", "speed"), ("P7", "speed"), ("further", "outcome")])
    said = report.advice(table.assign(ruling=table["ruling"].where(~mine, ruling)), cells)
    best = table[mine].sort_values("effect").iloc[-1]
    is_at = "igned Norm-ITPO is" if ruling == HOLDS else "igned Norm-ITPO, is at"
    assert best["claim"] == "P7" and f"{is_at} {report.number(best)}" in said
    assert ("stay with trajectory-share" in said) == (ruling != HOLDS)
    own = table[table["claim"] == "best of the sweep"]
    assert len(own) == 4 and all(
        f"{report.number(line)}, {line['ruling']}" in said for _, line in own.iterrows()
    )


def test_advice_names_the_tasks_that_gain_nothing(table: pd.DataFrame, cells: pd.DataFrame) -> None:
    signed = cells[(cells["claim"] == "P7") & (cells["part"] == "speed")]
    assert signed["ruling"].tolist() == [HOLDS] * 3
    assert "Signed Norm-ITPO is" in report.advice(table, cells) and "but not" not in report.advice(
        table, cells
    )
    medical = signed.index[signed["task"] == "medical"]
    changed = cells.assign(ruling=cells["ruling"].where(~cells.index.isin(medical), OPEN))
    said = report.advice(table, changed)
    assert f"but not on medical ({report.number(cells.loc[medical[0]])}, open), " in said


def test_what_is_missing_is_said(experiment_runs: pd.DataFrame) -> None:
    gone = experiment_runs[~((experiment_runs["arm"] == "norm_itpo") & (experiment_runs["seed"] == 109))]
    effects = ledger.effects(gone, LAPTOP)
    cells = ledger.cell_table(effects, LAPTOP)
    lines = report.answers(ledger.ledger(effects, LAPTOP), cells, LAPTOP)
    said = "**Not ruled, as a run is missing**: P2 (missing run: math, norm_itpo, rate 0.002, rloo, seed 109: train it"
    assert said in lines
    nothing = ledger.ledger(ledger.effects(experiment_runs.head(0), LAPTOP), LAPTOP)
    assert report.advice(nothing, cells.head(0)).endswith("not known, as runs are missing.")
    assert report.answers(nothing, cells.head(0), LAPTOP).startswith(
        "- **What holds** (0 of 8 primary claims"
    )


def test_rewards_and_correlations_are_written_with_their_units() -> None:
    line = pd.Series({"effect": 0.61, "low": float("nan"), "high": float("nan"), "unit": "Spearman"})
    assert report.number(line) == "+0.61 Spearman"
