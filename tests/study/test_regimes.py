"""The map of regimes: what its cells differ in, and one of them measured for real."""

import dataclasses
from pathlib import Path

import pytest

from itpo.runs.store import Store
from itpo.study import regimes
from itpo.study.microscope import map_table, measure
from itpo.study.regimes import RegimeGrid, get_regime_grid

every_grid = pytest.mark.parametrize("grid", regimes.REGIME_GRIDS.values(), ids=lambda grid: grid.name)


@every_grid
def test_slices_cross_the_map_in_its_middle(grid: RegimeGrid) -> None:
    cells = grid.cells()
    groups = {group: [cell for key, cell in cells.items() if key[0] == group] for group, _ in cells}
    assert {len(set(own)) - len(own) for own in groups.values()} == {0}
    (middle,) = set.intersection(*map(set, groups.values()))
    assert middle.run == grid.run
    assert len(groups["length and pivots"]) == len(grid.turns) * len(grid.pivots)


@every_grid
def test_cells_differ_in_nothing_but_what_the_map_says(grid: RegimeGrid) -> None:
    for (group, setting), cell in grid.cells().items():
        other = {
            field.name
            for field in dataclasses.fields(cell.run)
            if getattr(cell.run, field.name) != getattr(grid.run, field.name)
        }
        assert other <= ({"rollouts", "prompts"} if group.startswith("rollouts") else {"task"})
        assert cell.run.judge.error_rate == 0.0
        assert cell.run.prompts * cell.run.rollouts == grid.run.prompts * grid.run.rollouts
        options = cell.run.task.options
        said = {
            "length and pivots": f"{options['turns']} turns, {options['pivots']} pivots",
            "place": options["position"],
            "rollouts a prompt": str(cell.run.rollouts),
        }
        assert setting == said[group]


def test_a_profile_without_a_map_is_refused() -> None:
    with pytest.raises(
        ValueError, match="profile is 'smol'; it must be one of smoke, laptop, which have a map"
    ):
        get_regime_grid("smol")


def test_one_cell_measured_for_real(tmp_path: Path, unchecked: None) -> None:
    grid = get_regime_grid("smoke")
    key = ("place", "early")
    run = Store(tmp_path).open(grid.cells()[key])
    measure(run.config, run)
    table = map_table({key: run})
    assert table["name"].tolist() == list(regimes.METHODS[1:])
    assert table[["group", "setting"]].drop_duplicates().values.tolist() == [list(key)]
    metrics = run.metrics().query("step >= 1")
    assert len(metrics) == grid.batches and (metrics["turns"] == 3.0).all(), (
        "all dialogues have the same length"
    )
