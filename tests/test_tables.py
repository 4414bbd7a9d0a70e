"""The tables of the result notebooks against runs written by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from itpo import analysis, tables
from itpo.profiles import Profile, get_profile
from itpo.runs import Run


def test_results_and_main_table(written_runs: list[Run], three_seeds: Profile) -> None:
    frame = tables.results(written_runs)
    assert len(frame) == 15
    line = frame[(frame["row"] == "uniform") & (frame["seed"] == 1)].iloc[0]
    assert line["mean_success"] == pytest.approx(0.41) and np.isnan(line["tau"])
    table = tables.main_table(frame, np.random.default_rng(0))
    assert table["gain"].tolist()[1:] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert np.isnan(table["gain"][0]) and np.isnan(table["tau"][0])
    text = tables.main_text(table)
    assert text["gain [S]"].tolist() == ["–", "+0.94", "+0.69", "+0.00", "+3.44"]
    assert text["paper [S] (%)"][3] == "29.06 (one source)"
    assert "for 3 of the 3 rows" in tables.order_text(table, three_seeds)


def test_differences_are_paired_by_seed_in_any_order(written_runs: list[Run]) -> None:
    frame = tables.results(written_runs)
    expected = tables.effects(frame, "norm_itpo", "uniform", "success")
    np.testing.assert_allclose(expected, [0.3, 0.3, 0.3])
    mixed = frame.sample(frac=1.0, random_state=0)
    np.testing.assert_allclose(tables.effects(mixed, "norm_itpo", "uniform", "success"), expected)
    with pytest.raises(ValueError, match="train both"):
        tables.effects(frame.iloc[1:], "norm_itpo", "trajectory_share", "success")


def test_verdicts_are_marked_at_the_smoke_profile(written_runs: list[Run], three_seeds: Profile) -> None:
    verdicts = tables.math_verdicts(tables.results(written_runs))
    assert [verdict.claim for verdict in verdicts] == ["C1", "C3", "C3, normalised", "C4"]
    lines = tables.verdict_text(verdicts, three_seeds).splitlines()
    assert all("not meaningful" in line for line in lines)
    assert "not meaningful" not in tables.verdict_text(verdicts, get_profile("laptop"))


def test_one_seed_fills_every_table_without_an_interval(written_runs: list[Run]) -> None:
    frame = tables.results([run for run in written_runs if run.config.seed == 0])
    text = tables.main_text(tables.main_table(frame, np.random.default_rng(0)))
    assert "no interval from 1 seed" in text.iloc[1, 1]
    assert all(verdict.ruling == analysis.INCONCLUSIVE for verdict in tables.math_verdicts(frame))


def test_curves_and_bands(written_runs: list[Run]) -> None:
    curves = tables.curves(written_runs, "prm_kendall", smooth=3)
    assert set(curves["row"]) == {"prime", "itpo", "norm_itpo"}
    band = tables.bands(curves.sample(frac=1.0, random_state=0))
    for _, part in band.groupby("row"):
        assert part["step"].tolist() == [-1, 0, 1, 2, 3]
        assert part["mean"].tolist() == pytest.approx([0.26] * 5)
    assert tables.curves(written_runs, "nothing").empty


def test_tables_are_written_with_their_label(
    three_seeds: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "output_folder", lambda profile: tmp_path)
    tables.write_table(pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [0.5]}), "T0", three_seeds, "A note.")
    assert "These numbers mean nothing" in (tmp_path / "T0.md").read_text()
    assert (tmp_path / "T0.csv").read_text() == "b\n0.5\n"


def test_settings_and_tuning(three_seeds: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tables.settings_text(three_seeds.methods)["row"].tolist()[-1] == "Norm-ITPO"
    monkeypatch.setattr(tables, "project_root", lambda: tmp_path)
    assert "no tuning record" in tables.tuning_text()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "tuning.csv").write_text("row,beta\nitpo,0.2\n")
    assert "| itpo | 0.2 |" in tables.tuning_text()
