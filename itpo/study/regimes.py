"""The map of regimes: in which dialogues has turn-wise credit anything to gain, and does Norm-ITPO gain it?

One task, :mod:`itpo.tasks.corridor`, whose dialogues have a fixed length, so that nothing but the number and place of the
turns that matter differs. Three methods under RLOO: trajectory-share, Norm-ITPO, and a judge that never errs, which splits an
outcome equally over the pivots. More turns, more pivots (sparser success), other places of the pivots, fewer rollouts
a prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from itpo.config import Estimator, Method, RunConfig, TaskSpec
from itpo.fields import Options, check
from itpo.figures.settings import MEASURES
from itpo.runs.store import Run
from itpo.specs import RuleJudge, TinyLM
from itpo.study.statistics import Interval, t_interval
from itpo.study.tables import (
    BASELINE,
    MEASURE,
    METHOD,
    Column,
    effects,
    gains_on_baseline,
    interval_columns,
    percent,
    points,
    results,
)
from itpo.tasks.corridor import POSITIONS

# The best of four settings each on the cell in the middle, by `python -m benchmarks.tune --task corridor_9_3_early
# trajectory_share judge norm_itpo` [O]; 2e-3 is the largest rate tried.
REGIME_METHODS = (
    Method("trajectory_share", policy_lr=2e-3),
    Method("norm_itpo", policy_lr=2e-3, beta=0.2),
    Method("judge", policy_lr=2e-3),
)
SETTINGS = ["length", "pivots", "position", "rollouts"]
TO_GO = Estimator("rloo", Options(baseline="to_go"))


@dataclass(frozen=True)
class RegimeGrid:
    """The runs of a map: ``run`` is the cell in the middle, whose neighbours differ from it in one setting of the slices.

    ``turns`` by ``pivots`` is the map, with pivots at first; ``positions`` and ``rollouts`` (a prompt, as many dialogues a
    step in all) are slices through its middle. Every cell has all ``seeds``. Baselines are compared with ``fresh_seeds``, and
    what is seen there is looked at again with ``more_seeds``; nothing else has these.
    """

    name: str
    run: RunConfig
    turns: tuple[int, ...]
    pivots: tuple[int, ...]
    positions: tuple[str, ...]
    rollouts: tuple[int, ...]
    seeds: tuple[int, ...]
    fresh_seeds: tuple[int, ...]
    more_seeds: tuple[int, ...]

    def cells(self) -> list[RunConfig]:
        """The runs of the map: every number of turns with every number of pivots.

        >>> len(get_regime_grid("laptop").cells())
        135
        """
        return self._on_tasks({"turns": t, "pivots": p} for t in self.turns for p in self.pivots)

    def positions_slice(self) -> list[RunConfig]:
        """The middle of the map with the pivots at each place.

        >>> [config.task.options["position"] for config in get_regime_grid("laptop").positions_slice()][::15]
        ['early', 'spread', 'late']
        """
        return self._on_tasks({**_corridor(self.run), "position": place} for place in self.positions)

    def rollouts_slice(self) -> list[RunConfig]:
        """The middle of the map with each number of rollouts a prompt, and as many dialogues a step.

        >>> sorted({config.rollouts * config.prompts for config in get_regime_grid("laptop").rollouts_slice()})
        [32]
        """
        dialogues = self.run.prompts * self.run.rollouts
        return self._rows(replace(self.run, rollouts=n, prompts=dialogues // n) for n in self.rollouts)

    def baselines(self) -> list[RunConfig]:
        """The slice over rollouts with ``fresh_seeds``, under the run's own baseline of RLOO and under "to_go".

        Trajectory-share, with one reward a dialogue, has the same advantages under both and is there once.

        >>> len(get_regime_grid("laptop").baselines())
        100
        """
        runs = replace(self, seeds=self.fresh_seeds).rollouts_slice()
        return runs + [replace(run, estimator=TO_GO) for run in runs if run.method.name != BASELINE]

    def fewest_rollouts(self) -> list[RunConfig]:
        """The cell with the fewest rollouts a prompt, with ``more_seeds``, under the baseline "to_go" of RLOO.

        >>> len(get_regime_grid("laptop").fewest_rollouts())
        48
        """
        cell = replace(self, seeds=self.more_seeds, rollouts=(min(self.rollouts),))
        return [replace(config, estimator=TO_GO) for config in cell.rollouts_slice()]

    def _on_tasks(self, options: Iterable[dict[str, Any]]) -> list[RunConfig]:
        return self._rows(replace(self.run, task=TaskSpec("corridor", Options(o))) for o in options)

    def _rows(self, runs: Iterable[RunConfig]) -> list[RunConfig]:
        """Each of the runs by every method with every seed."""
        return [
            replace(run, method=m, seed=seed) for run in runs for m in REGIME_METHODS for seed in self.seeds
        ]


BASE = TinyLM(48, layers=2, heads=4, steps=1500, dialogues_per_step=8, learning_rate=4e-3)
LAPTOP = RegimeGrid(
    name="laptop",
    run=RunConfig(
        method=REGIME_METHODS[0],
        seed=0,
        steps=40,
        task=TaskSpec("corridor", Options(turns=9, pivots=3)),
        model=BASE,
        max_turn_tokens=6,
        prompts=8,
        rollouts=4,
        policy_minibatches=2,
        prm_minibatches=4,
        warmup=5,
        judge=RuleJudge(error_rate=0.0),
        eval_every=5,
        eval_dialogues=128,
        monitor_dialogues=8,
        monitor_every=40,
        checkpoint_every=20,
    ),
    turns=(6, 9, 12),
    pivots=(2, 3, 4),
    positions=POSITIONS,
    rollouts=(2, 4, 8, 16),
    seeds=(0, 1, 2, 3, 4),
    fresh_seeds=(5, 6, 7, 8, 9),
    more_seeds=tuple(range(10, 26)),
)
SMOKE = replace(
    LAPTOP,
    name="smoke",
    run=replace(
        LAPTOP.run,
        steps=2,
        task=TaskSpec("corridor", Options(turns=3, pivots=2)),
        model=replace(BASE, steps=50),
        warmup=1,
        eval_every=1,
        eval_dialogues=16,
        monitor_every=2,
        checkpoint_every=2,
    ),
    turns=(2, 3),
    pivots=(1, 2),
    positions=("early", "late"),
    rollouts=(2, 4),
    seeds=(0, 1),
    fresh_seeds=(2, 3),
    more_seeds=(4, 5),
)
REGIME_GRIDS = {grid.name: grid for grid in (SMOKE, LAPTOP)}


def _corridor(config: RunConfig) -> Mapping[str, Any]:
    """The options of a run's corridor."""
    assert isinstance(config.task, TaskSpec)
    return config.task.options


def get_regime_grid(name: str) -> RegimeGrid:
    """The map of the profile called ``name``; raises ``ValueError`` listing those that have one otherwise.

    >>> get_regime_grid("laptop").run.task.options["turns"]
    9
    """
    check(
        "profile",
        name in REGIME_GRIDS,
        name,
        f"one of {', '.join(REGIME_GRIDS)}, which have a map of regimes",
    )
    return REGIME_GRIDS[name]


def regime_results(runs: Sequence[Run]) -> pd.DataFrame:
    """:func:`itpo.study.tables.results` with each run's settings (``SETTINGS``) and its outcome before training, ``start``."""
    tasks = pd.DataFrame([_corridor(run.config) for run in runs]).rename(columns={"turns": "length"})
    start = [float(run.metrics()["eval_success"].dropna().iloc[0]) for run in runs]
    return results(runs).join(tasks).assign(rollouts=[run.config.rollouts for run in runs], start=start)


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """:func:`itpo.study.tables.gains_on_baseline` in each cell, and ``start``, the mean of trajectory-share before training.

    ``frame`` is :func:`regime_results`.
    """
    start = frame[frame["row"] == BASELINE].groupby(SETTINGS, sort=False)["start"].mean()
    return gains_on_baseline(frame, SETTINGS).join(start, on=SETTINGS)


GAIN_COLUMNS = (
    Column("turns", "length"),
    Column("pivots", "pivots"),
    Column("place", "position"),
    Column("rollouts", "rollouts"),
    METHOD,
    MEASURE,
    percent("warm start (%)", "start"),
    percent("trajectory-share (%)", BASELINE),
    points("gain (points)", "gain"),
)


def baseline_gains(frame: pd.DataFrame) -> pd.DataFrame:
    """:func:`gains` under each baseline of RLOO, which a first column names.

    ``frame`` is :func:`regime_results` of :meth:`RegimeGrid.baselines`; trajectory-share has the same runs under all.
    """
    usual, split = (frame[(frame["row"] == BASELINE) == same] for same in (True, False))
    groups = split.groupby("baseline", sort=False)
    tables = {name: gains(pd.concat([usual, group])) for name, group in groups}
    return pd.concat(tables, names=["baseline"]).reset_index("baseline").reset_index(drop=True)


def baseline_changes(frame: pd.DataFrame) -> pd.DataFrame:
    """What each method that splits the outcome gains in each cell by the baseline "to_go" over "released", paired by seed.

    ``frame`` as for :func:`baseline_gains`. Columns: ``SETTINGS``, row, measure, ``change`` with its t-interval.
    """
    lines = []
    for key, cell in frame[frame["row"] != BASELINE].groupby([*SETTINGS, "row"], sort=False):
        for measure in MEASURES:
            difference = effects(cell.assign(row=cell["baseline"]), "to_go", "released", measure)
            change = interval_columns("change", t_interval(difference))
            lines.append(dict(zip([*SETTINGS, "row"], key, strict=True)) | {"measure": measure} | change)
    return pd.DataFrame(lines)


CHANGE_COLUMNS = (Column("rollouts", "rollouts"), METHOD, MEASURE, points("change", "change"))


def pooled_gains(frame: pd.DataFrame, row: str, baseline: str, measure: str) -> pd.Series:
    """A method's gain on trajectory-share under one baseline of RLOO, its mean over all cells, for each seed.

    ``frame`` as for :func:`baseline_gains`. Raises ``ValueError`` if a cell lacks a seed that another has, or a run of
    trajectory-share.

    >>> cell = dict.fromkeys(SETTINGS, 4) | {"seed": 0}
    >>> lines = [(BASELINE, "released", 0.5), ("judge", "released", 0.25), ("judge", "to_go", 0.75)]
    >>> frame = pd.DataFrame(lines, columns=["row", "baseline", "success"]).assign(**cell)
    >>> pooled_gains(frame, "judge", "to_go", "success").tolist()
    [0.25]
    """
    usual = frame[frame["row"] == BASELINE]
    own = frame[(frame["row"] == row) & (frame["baseline"] == baseline)]
    pair = [runs.pivot(index=SETTINGS, columns="seed", values=measure) for runs in (own, usual)]
    difference = pair[0] - pair[1]
    lacking = difference.index[difference.isna().any(axis=1)].tolist()
    if lacking or difference.empty:
        raise ValueError(
            f"{row} under {baseline} and {BASELINE} do not have the same seeds in the cells {lacking} (length, pivots, "
            "position, rollouts): train what is missing"
        )
    return pair[0].mean() - pair[1].mean()


TREND = ("mean", "per doubling of turns", "per further pivot")


def trend(frame: pd.DataFrame, row: str, measure: str) -> dict[str, Interval]:
    """How a method's gain changes with the settings of the map: t-intervals over seeds of the three numbers of ``TREND``.

    In each seed the gains of all cells are fitted by least squares with an intercept, log2 of the turns, and the pivots.
    ``"mean"`` is the mean gain over cells, ``"per doubling of turns"`` and ``"per further pivot"`` are the slopes. All seeds of
    a cell share its base model, so the intervals leave out what other bases would do.

    >>> cells = [(turns, pivots, seed) for turns in (2, 4) for pivots in (1, 2) for seed in (0, 1)]
    >>> lines = [(row, *cell, cell[1] * (row == "judge")) for row in (BASELINE, "judge") for cell in cells]
    >>> frame = pd.DataFrame(lines, columns=["row", "length", "pivots", "seed", "success"])
    >>> {name: round(slope.mean, 6) + 0.0 for name, slope in trend(frame, "judge", "success").items()}
    {'mean': 1.5, 'per doubling of turns': 0.0, 'per further pivot': 1.0}
    """
    keys = ["seed", "length", "pivots"]
    pair = [frame[frame["row"] == name].set_index(keys)[measure].sort_index() for name in (row, BASELINE)]
    numbers = []
    for _, gain in (pair[0] - pair[1]).reset_index().groupby("seed"):
        design = np.column_stack([np.ones(len(gain)), np.log2(gain["length"]), gain["pivots"]])
        slopes = np.linalg.lstsq(design, gain[measure].to_numpy(), rcond=None)[0]
        numbers.append([gain[measure].mean(), *slopes[1:]])
    return {name: t_interval(values) for name, values in zip(TREND, np.transpose(numbers), strict=True)}


def trend_table(frame: pd.DataFrame) -> pd.DataFrame:
    """:func:`trend` of every method beside trajectory-share and measure: a line each, with three intervals."""
    lines = []
    for row, measure in product([row for row in frame["row"].unique() if row != BASELINE], MEASURES):
        line: dict[str, Any] = {"row": row, "measure": measure}
        for name, interval in trend(frame, row, measure).items():
            line |= interval_columns(name, interval)
        lines.append(line)
    return pd.DataFrame(lines)


TREND_COLUMNS = (METHOD, MEASURE, *(points(name, name) for name in TREND))
