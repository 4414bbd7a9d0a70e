"""The tables of the result notebooks against runs written by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from itpo.figures import style
from itpo.runs.store import Run
from itpo.study import claims, statistics, tables
from itpo.study.profiles import Profile, get_profile


def main_text(table: pd.DataFrame) -> pd.DataFrame:
    return tables.as_text(table, tables.main_columns(table))


def test_results_and_main_table(written_runs: list[Run], three_seeds: Profile) -> None:
    frame = tables.results(written_runs)
    assert len(frame) == 18
    assert set(frame["estimator"]) == {"rloo"} and set(frame["baseline"]) == {"released"}
    line = frame[(frame["row"] == "uniform") & (frame["seed"] == 1)].iloc[0]
    assert line["speed"] == pytest.approx(0.41) and line["arm"] == "uniform" and np.isnan(line["tau"])
    table = tables.main_table(frame)
    assert table["gain"].tolist()[1:] == pytest.approx([0.1, 0.3, 0.4, 0.5, 0.6])
    assert np.isnan(table["gain"][0]) and np.isnan(table["tau"][0])
    text = main_text(table)
    assert text["gain [S]"].tolist() == ["–", "+0.94", "-0.19", "+0.69", "+0.00", "+3.44"]
    assert text["paper [S] (%)"][4] == "29.06 (one source)"
    assert "for 3 of the 4 rows" in claims.order_text(table, three_seeds)


@pytest.mark.parametrize(
    ("outcomes", "collapsed"),
    [
        ([0.3, 0.4, 0.5, 0.6], False),
        ([0.5, 0.9, 0.5, 0.5, 0.5], True),  # no higher than the first step
        ([0.1, 0.9, 0.9, 0.9, 0.7, 0.7, 0.7], True),  # 20 points below its best three steps
        ([0.1, 0.9, 0.9, 0.9, 0.71, 0.7, 0.7], False),
        ([0.5], True),  # nothing was learned
    ],
)
def test_a_run_collapses_by_the_stated_rule(outcomes: list[float], collapsed: bool) -> None:
    assert tables.has_collapsed(outcomes) is collapsed


def test_differences_are_paired_by_seed_in_any_order(written_runs: list[Run]) -> None:
    frame = tables.results(written_runs)
    expected = tables.effects(frame, "norm_itpo", "uniform", "success")
    np.testing.assert_allclose(expected, [0.5, 0.5, 0.5])
    mixed = frame.sample(frac=1.0, random_state=0)
    np.testing.assert_allclose(tables.effects(mixed, "norm_itpo", "uniform", "success"), expected)
    with pytest.raises(ValueError, match="train both"):
        tables.effects(frame.iloc[1:], "norm_itpo", "trajectory_share", "success")


def test_verdicts_are_marked_at_the_smoke_profile(three_seeds: Profile) -> None:
    verdict = statistics.judge("C1", "Norm-ITPO beats PRIME", [0.1, 0.2, 0.3])
    lines = claims.verdict_text([verdict, verdict], three_seeds).splitlines()
    assert len(lines) == 2 and all("not meaningful" in line for line in lines)
    assert "not meaningful" not in claims.verdict_text([verdict], get_profile("laptop"))


def test_one_seed_fills_every_table_without_an_interval(written_runs: list[Run]) -> None:
    frame = tables.results([run for run in written_runs if run.config.seed == 0])
    text = main_text(tables.main_table(frame))
    assert "no interval from 1 seed" in text.iloc[1, 1]


METHODS = ("trajectory_share", "itpo", "norm_itpo")


def runs_of(
    estimator: str,
    *levels: list[float],
    turns: float = 3.0,
    rows: tuple[str, ...] = METHODS,
    task: str = "math",
) -> pd.DataFrame:
    """A frame of results: the success of each row in seeds 0, 1, ...; a row has half a turn more than the one before."""
    lines = [
        (row, estimator, "released", seed, value, turns + 0.5 * place + 0.1 * seed * place)
        for place, (row, values) in enumerate(zip(rows, levels, strict=True))
        for seed, value in enumerate(values)
    ]
    frame = pd.DataFrame(lines, columns=["row", "estimator", "baseline", "seed", "success", "turns"])
    return frame.assign(
        task=task,
        greedy_success=frame["success"],
        speed=frame["success"],
        collapsed=0.0,
        auc=np.nan,
        tau=np.nan,
    )


RLOO = runs_of("rloo", [0.5, 0.6, 0.5, 0.6], [0.6, 0.7, 0.6, 0.7], [0.7, 0.81, 0.72, 0.83])
PPO = runs_of("ppo", [0.8, 0.8, 0.8], [0.3, 0.3, 0.4], [0.7, 0.72, 0.8])


def test_every_estimator_is_compared_with_its_own_baseline() -> None:
    table = tables.main_table(pd.concat([RLOO, PPO])).set_index(["estimator", "row"])
    assert table.loc[("rloo", "norm_itpo"), "gain"] == pytest.approx(0.215)
    assert table.loc[("ppo", "norm_itpo"), "gain"] == pytest.approx(-0.06)
    assert table.loc[("ppo", "norm_itpo"), "reported_gain"] == pytest.approx(0.0034)
    text = tables.as_text(table := table.reset_index(), tables.estimator_columns(table))
    assert text["estimator"].tolist() == ["RLOO"] * 3 + ["PPO"] * 3
    assert text["paper [S] (%)"].tolist() == ["29.06", "29.06 (one source)", "32.50", "26.81", "–", "27.15"]
    assert text["gain [S]"].tolist() == ["–", "+0.00", "+3.44", "–", "–", "+0.34"]


def test_every_task_is_compared_with_its_own_baseline_and_report() -> None:
    medical = runs_of("rloo", [0.2, 0.3], [0.4, 0.5], [0.1, 0.3], task="medical")
    table = tables.main_table(pd.concat([RLOO, medical]))
    assert table.set_index(["task", "row"]).loc[("medical", "norm_itpo"), "gain"] == pytest.approx(-0.05)
    assert "score over training (%)" in main_text(table[table["task"] == "medical"])


def test_runs_of_two_estimators_are_never_paired_by_accident() -> None:
    with pytest.raises(ValueError, match="one task, estimator"):
        tables.effects(pd.concat([RLOO, PPO]), "norm_itpo", "itpo", "success")


def test_length_of_dialogues_is_ruled_by_the_interval(three_seeds: Profile) -> None:
    swapped = RLOO.assign(turns=-RLOO["turns"])
    even = RLOO.assign(turns=3.0)
    one = RLOO[RLOO["seed"] == 0]
    text = claims.turns_text({"a": RLOO, "b": swapped, "c": even, "d": one}, get_profile("laptop"))
    rulings = [line.split("**")[1] for line in text.splitlines()]
    assert rulings == ["longer dialogues", "shorter dialogues", *["no clear difference"] * 2]
    assert text.startswith("- a: +1.30 [") and "not meaningful" in claims.turns_text({"a": RLOO}, three_seeds)


def test_columns_write_numbers_intervals_and_what_is_missing() -> None:
    lines = [
        {"row": "itpo", "x": 0.125, "text": "a"}
        | tables.interval_columns("gain", statistics.t_interval([0.1, 0.3]))
    ]
    lines += [
        {"row": "judge", "x": np.nan, "text": "b"}
        | tables.interval_columns("gain", statistics.Interval(np.nan, np.nan, np.nan, 0))
    ]
    columns = [
        tables.METHOD,
        tables.Column("x", "x", 2.0, 1, "+"),
        tables.Column("text", "text"),
        tables.percent("%", "gain"),
    ]
    text = tables.as_text(pd.DataFrame(lines, index=[7, 7]), columns)
    assert text["row"].tolist() == ["ITPO", "LLM-as-a-judge"] and text["text"].tolist() == ["a", "b"]
    assert (
        text["x"].tolist() == ["+0.2", "–"]
        and text["%"][1] == "–"
        and text["%"][0].startswith("20.0 [-107.1, 147.1")
    )
    with pytest.raises(KeyError, match="loss"):
        tables.as_text(pd.DataFrame(lines), [tables.points("loss", "loss")])


def test_a_task_without_reported_numbers_has_a_table() -> None:
    corridor = runs_of("rloo", [0.2, 0.3], [0.4, 0.5], [0.1, 0.3], task="corridor")
    table = tables.main_table(corridor)
    assert table[["reported", "reported_gain"]].isna().all(axis=None)
    text = main_text(table)
    assert set(text["paper [S] (%)"]) == set(text["gain [S]"]) == {"–"}
    assert "No outcomes are reported" in claims.order_text(table, get_profile("laptop"))


def test_curves_and_bands(written_runs: list[Run]) -> None:
    curves = tables.curves(written_runs, "prm_kendall", smooth=3)
    assert set(curves["row"]) == {"prime", "itpo", "norm_itpo"}
    band = tables.bands(curves.sample(frac=1.0, random_state=0), kind="correlation")
    assert band[["low", "high"]].isna().all(axis=None)  # three seeds give a correlation no interval
    band = tables.bands(curves.sample(frac=1.0, random_state=0))
    assert (band["low"] < band["mean"]).all()
    for _, part in band.groupby("row"):
        assert part["step"].tolist() == [-1, 0, 1, 2, 3]
        assert part["mean"].tolist() == pytest.approx([0.26] * 5)
    assert tables.curves(written_runs, "nothing").empty


def test_tables_are_written_with_their_label(
    three_seeds: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "output_folder", lambda profile: tmp_path)
    tables.write_table(pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [0.5]}), "T0", three_seeds, "A note.")
    assert "These numbers mean nothing" in (tmp_path / "T0.md").read_text()
    assert (tmp_path / "T0.csv").read_text() == "b\n0.5\n"


def test_settings_of_methods(three_seeds: Profile) -> None:
    settings = tables.settings_text(three_seeds.methods)
    assert settings["row"].tolist()[-1] == "Norm-ITPO"
    assert (
        settings["options"].tolist()[-1] == "temperature 0.4, reduction sum" and settings["options"][0] == "–"
    )
