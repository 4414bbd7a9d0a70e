"""Ranks of training beside those of the microscope, from runs written by hand."""

import numpy as np
import pandas as pd
import pytest

from itpo.runs.store import Store
from itpo.study.agreement import agreement, trained_gains, training_ranks
from itpo.study.experiment import get_experiment
from itpo.study.profiles import get_profile

SMOKE = get_profile("smoke")
SPEEDS = {"trajectory_share": 0.5, "itpo": 0.7, "norm_itpo": 0.4, "uniform": 0.45}


@pytest.fixture
def store(tmp_path) -> Store:
    """Math: four arms with all seeds, a fifth with one; documents: a method alone, whose baseline is missing."""
    store = Store(tmp_path)
    for cell, configs in get_experiment("smoke").band(SMOKE).items():
        seeds = {("math", "prime"): 1, ("documents", "itpo"): 9}.get((cell.task, cell.arm), 0)
        seeds = 9 if cell.task == "math" and cell.arm in SPEEDS else seeds
        for number, config in enumerate(configs[:seeds]):
            run = store.open(config)
            for step in range(4):
                run.log(step, {"success": SPEEDS.get(cell.arm, 0.0) + 0.1 * number + 0.01 * step})
            run.finish({"success": 0.5, "greedy_success": 0.5, "turns": 4.0, "tokens": 20.0})
    return store


def test_gains_are_those_of_finished_methods_whose_baseline_is_finished(store: Store) -> None:
    before = sorted(path.name for path in store.root.iterdir())
    frame = trained_gains(SMOKE, store)
    gains = {(line.task, line.name): line.gain for line in frame.itertuples(index=False)}
    wanted = {("math", name): 100 * (speed - 0.5) for name, speed in SPEEDS.items() if speed != 0.5}
    assert gains == pytest.approx(wanted)
    assert sorted(path.name for path in store.root.iterdir()) == before, "looking makes no folder"


def test_ranks_and_the_method_that_is_furthest_apart() -> None:
    names = ["trajectory_share", "itpo", "norm_itpo", "uniform", "oracle"]
    table = pd.DataFrame(
        [
            {"task": "math", "name": name, "label": name.upper(), "difference": difference + shift}
            for name, difference in zip(names, [np.nan, -0.1, 0.2, -0.3, 0.5], strict=True)
            for shift in (-0.05, 0.05)
        ]
    )
    gains = pd.DataFrame(
        [{"task": "math", "name": name, "gain": 100 * (SPEEDS[name] - 0.5)} for name in names[1:4]]
    )
    ranks = training_ranks(table, gains).set_index("name")
    assert ranks["rank_microscope"].to_dict() == {
        "trajectory_share": 2,
        "itpo": 3,
        "norm_itpo": 1,
        "uniform": 4,
    }
    assert ranks["rank_training"].to_dict() == {
        "trajectory_share": 2,
        "itpo": 1,
        "norm_itpo": 4,
        "uniform": 3,
    }
    assert ranks.loc["norm_itpo", "difference"] == pytest.approx(0.2)
    (text,) = agreement(ranks.reset_index())
    assert text.startswith("**math**: rank correlation -0.40 over 4 methods")
    assert text.endswith("furthest apart: NORM_ITPO, rank 1 by the microscope and 4 by training.")
    assert agreement(ranks.reset_index().head(2)) == []


def test_a_method_whose_cosine_is_not_known_at_a_policy_is_not_ranked_as_no_difference() -> None:
    lines = [("trajectory_share", np.nan), ("itpo", np.nan), ("itpo", 0.3), ("uniform", np.nan)]
    table = pd.DataFrame(
        [{"task": "math", "name": name, "label": name, "difference": x} for name, x in lines]
    )
    gains = pd.DataFrame([{"task": "math", "name": name, "gain": 1.0} for name in ("itpo", "uniform")])
    ranks = training_ranks(table, gains).set_index("name")
    assert ranks["difference"].to_dict() == {"trajectory_share": 0.0, "itpo": 0.3}
    assert ranks["rank_microscope"].to_dict() == {"trajectory_share": 2, "itpo": 1}
