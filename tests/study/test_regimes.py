"""The map of regimes: what its runs differ in, gains and slopes against numbers by hand, one cell trained for real."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from itpo.config import Estimator
from itpo.runs.sweep import sweep
from itpo.study import regimes
from itpo.study.regimes import RegimeGrid, get_regime_grid
from itpo.study.statistics import Interval
from itpo.study.tables import as_text
from itpo.trainer import train

every_grid = pytest.mark.parametrize("grid", regimes.REGIME_GRIDS.values(), ids=lambda grid: grid.name)
METHODS = {"trajectory_share", "norm_itpo", "judge"}


@every_grid
def test_slices_cross_the_map_in_its_middle(grid: RegimeGrid) -> None:
    cells, places, rollouts = grid.cells(), grid.positions_slice(), grid.rollouts_slice()
    middle = [config for config in cells if config.task == grid.run.task]
    assert {(c.method.name, c.seed) for c in middle} == {
        (row, seed) for row in METHODS for seed in grid.seeds
    }
    assert set(middle) == set(cells) & set(places) == set(cells) & set(rollouts)
    for configs in (cells, places, rollouts):
        assert len(set(configs)) == len(configs)


@every_grid
def test_runs_differ_in_nothing_but_what_the_map_says(grid: RegimeGrid) -> None:
    for configs, fields in ((grid.cells(), {"task"}), (grid.rollouts_slice(), {"rollouts", "prompts"})):
        for config in configs:
            other = {
                field.name
                for field in dataclasses.fields(config)
                if getattr(config, field.name) != getattr(grid.run, field.name)
            }
            assert other <= fields | {"method", "seed"}
            assert config.judge.error_rate == 0.0
            assert config.prompts * config.rollouts == grid.run.prompts * grid.run.rollouts
    sizes = {(c.task.options["turns"], c.task.options["pivots"]) for c in grid.cells()}
    assert sizes == {(turns, pivots) for turns in grid.turns for pivots in grid.pivots}


@every_grid
def test_both_baselines_are_compared_with_the_same_runs_on_fresh_seeds(grid: RegimeGrid) -> None:
    configs = grid.baselines()
    assert len(set(configs)) == len(configs) and {c.seed for c in configs} == set(grid.fresh_seeds)
    assert not set(grid.fresh_seeds) & set(grid.seeds)
    kinds = {(c.method.name, c.estimator.baseline, c.rollouts) for c in configs}
    assert kinds == {("trajectory_share", "released", n) for n in grid.rollouts} | {
        (row, baseline, n)
        for row in METHODS - {"trajectory_share"}
        for baseline in ("released", "to_go")
        for n in grid.rollouts
    }
    old = {dataclasses.replace(c, seed=grid.seeds[0], estimator=Estimator("rloo")) for c in configs}
    assert old == {dataclasses.replace(c, seed=grid.seeds[0]) for c in grid.rollouts_slice()}


@every_grid
def test_the_cell_with_the_fewest_rollouts_is_looked_at_with_seeds_of_its_own(grid: RegimeGrid) -> None:
    configs = grid.fewest_rollouts()
    assert {(c.method.name, c.seed) for c in configs} == {
        (row, seed) for row in METHODS for seed in grid.more_seeds
    }
    assert {c.estimator.baseline for c in configs} == {"to_go"} and {c.rollouts for c in configs} == {
        min(grid.rollouts)
    }
    assert not set(grid.more_seeds) & {*grid.seeds, *grid.fresh_seeds}
    usual = {dataclasses.replace(c, seed=grid.seeds[0], estimator=Estimator("rloo")) for c in configs}
    assert usual < {dataclasses.replace(c, seed=grid.seeds[0]) for c in grid.rollouts_slice()}


def test_a_profile_without_a_map_is_refused() -> None:
    with pytest.raises(
        ValueError, match="profile is 'smol'; it must be one of smoke, laptop, which have a map"
    ):
        get_regime_grid("smol")


def frame() -> pd.DataFrame:
    """Four cells, two seeds; the judge gains 0.1 a doubling and 0.02 a pivot, a bit more in seed 1; Norm-ITPO nothing."""
    lines = []
    for length, pivots, seed in [(a, b, s) for a in (2, 8) for b in (1, 2) for s in (0, 1)]:
        usual = 0.3 - 0.1 * pivots + 0.01 * seed
        gain = 0.1 * np.log2(length) + 0.02 * pivots + 0.04 * seed
        for row, value in (("trajectory_share", usual), ("norm_itpo", usual), ("judge", usual + gain)):
            lines.append((row, length, pivots, "early", 4, seed, usual / 2, value, value / 2))
    columns = ["row", *regimes.SETTINGS, "seed", "start", "success", "speed"]
    return pd.DataFrame(lines, columns=columns)


def test_gains_are_paired_and_carry_intervals() -> None:
    table = regimes.gains(frame())
    assert len(table) == 4 * 2 * 2
    line = table[
        (table["length"] == 8)
        & (table["pivots"] == 2)
        & (table["row"] == "judge")
        & (table["measure"] == "success")
    ].iloc[0]
    assert line["gain"] == pytest.approx(0.36) and line["gain_n"] == 2
    half = stats.t.ppf(0.975, 1) * np.std([0.34, 0.38], ddof=1) / np.sqrt(2)
    assert [line["gain_low"], line["gain_high"]] == pytest.approx([0.36 - half, 0.36 + half])
    assert line["trajectory_share"] == pytest.approx(0.105) and line["start"] == pytest.approx(0.0525)
    assert table.loc[table["row"] == "norm_itpo", "gain"].abs().max() == 0.0
    text = as_text(table, regimes.GAIN_COLUMNS)
    assert len(text) == len(table) and text["gain (points)"].str.contains(r"^\+36\.0 \[").any()


def test_gains_under_each_baseline_are_those_of_its_own_runs() -> None:
    whole = frame().assign(baseline="released")
    split = whole[whole["row"] != "trajectory_share"]
    other = split.assign(baseline="to_go", success=split["success"] + 0.5)
    both = pd.concat([whole, other]).sample(frac=1.0, random_state=2)
    table = regimes.baseline_gains(both)
    for baseline, part in table.groupby("baseline"):
        expected = regimes.gains(
            whole if baseline == "released" else pd.concat([whole[whole["row"] == "trajectory_share"], other])
        )
        keys = [*regimes.SETTINGS, "row", "measure"]
        pd.testing.assert_series_equal(
            part.set_index(keys)["gain"].sort_index(), expected.set_index(keys)["gain"].sort_index()
        )
    assert set(table["baseline"]) == {"released", "to_go"}
    changes = regimes.baseline_changes(both)
    assert len(changes) == 4 * 2 * 2 and set(changes["change_n"]) == {2}
    wanted = changes["measure"].map({"success": 0.5, "speed": 0.0})
    np.testing.assert_allclose(changes["change"], wanted, atol=1e-12)
    mean = np.mean([0.1 * np.log2(length) + 0.02 * pivots for length in (2, 8) for pivots in (1, 2)])
    pooled = regimes.pooled_gains(both, "judge", "to_go", "success")
    assert pooled.to_dict() == pytest.approx({0: mean + 0.5, 1: mean + 0.54})
    assert regimes.pooled_gains(both, "norm_itpo", "released", "success").abs().max() < 1e-12


@pytest.mark.parametrize(("measure", "factor"), [("success", 1.0), ("speed", 0.5)])
def test_slopes_are_those_that_the_cells_were_made_with(measure: str, factor: float) -> None:
    shuffled = frame().sample(frac=1.0, random_state=0)
    found = regimes.trend(shuffled, "judge", measure)
    assert found["per doubling of turns"].mean == pytest.approx(0.1 * factor)
    assert found["per further pivot"].mean == pytest.approx(0.02 * factor)
    by_seed = [0.2 + 0.03 + 0.04 * seed for seed in (0, 1)]
    assert found["mean"].mean == pytest.approx(factor * np.mean(by_seed)) and found["mean"].n == 2
    none = regimes.trend(shuffled, "norm_itpo", measure)
    assert all(isinstance(x, Interval) and abs(x.mean) < 1e-12 for x in none.values())
    assert as_text(regimes.trend_table(shuffled), regimes.TREND_COLUMNS).shape == (4, 5)


def test_a_seed_missing_in_one_row_is_refused() -> None:
    whole = frame()
    part = whole[~((whole["row"] == "judge") & (whole["seed"] == 1))]
    with pytest.raises(ValueError, match="train both"):
        regimes.gains(part)

    both = whole.assign(baseline="released")
    assert len(regimes.pooled_gains(both, "judge", "released", "success")) == 2
    cell = (both["length"] == 8) & (both["pivots"] == 2) & (both["seed"] == 1)
    for row in ("judge", "trajectory_share"):
        with pytest.raises(
            ValueError, match=r"same seeds in the cells \[\(8, 2, 'early', 4\)\].*train what is missing"
        ):
            regimes.pooled_gains(both[~(cell & (both["row"] == row))], "judge", "released", "success")
    with pytest.raises(ValueError, match="do not have the same seeds"):
        regimes.pooled_gains(both, "judge", "to_go", "success")


def test_one_cell_trained_for_real(tmp_path: Path) -> None:
    smoke = get_regime_grid("smoke")
    configs = [config for config in smoke.cells() if config.task == smoke.run.task and config.seed == 0]
    found = regimes.regime_results(sweep(tmp_path, configs, train, workers=1))
    assert set(found["row"]) == METHODS and set(found["start"]) == {found["start"][0]}
    assert found[["length", "pivots", "position", "rollouts"]].drop_duplicates().values.tolist() == [
        [3, 2, "early", 4]
    ]
    assert found["turns"].tolist() == [3.0] * 3, "all dialogues have the same length"
    assert found["success"].between(0, 1).all()
