"""The map of regimes: in which dialogues has turn-wise credit anything to gain, and does Norm-ITPO gain it?

One task, :mod:`itpo.tasks.corridor`, whose dialogues have a fixed length, so that nothing but the number and place of the
turns that matter differs. Three rows under RLOO: trajectory-share, Norm-ITPO, and a judge that never errs, which splits an
outcome equally over the pivots. More turns, more pivots (sparser success), other places of the pivots, fewer rollouts
a prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from itpo.attribution import get_method
from itpo.config import Estimator, Method, RunConfig, TaskSpec
from itpo.figures.settings import MEASURES
from itpo.runs.store import Run
from itpo.specs import Options, RuleJudge, TinyLM
from itpo.study.statistics import Interval, t_interval
from itpo.study.tables import BASELINE, effects, interval_columns, interval_texts, results
from itpo.tasks.corridor import POSITIONS, Corridor

# The best of four settings each on the cell in the middle, by `python -m benchmarks.tune --task corridor_9_3_early
# trajectory_share judge norm_itpo` [O]; 2e-3 is the largest rate tried.
REGIME_METHODS = (
    Method("trajectory_share", policy_lr=2e-3),
    Method("norm_itpo", policy_lr=2e-3, beta=0.2),
    Method("judge", policy_lr=2e-3),
)
SETTINGS = ["length", "pivots", "position", "rollouts"]


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

    @property
    def middle(self) -> Corridor:
        """The task of the slices."""
        return _corridor(self.run)

    def cells(self) -> list[RunConfig]:
        """The runs of the map: every number of turns with every number of pivots.

        >>> len(get_regime_grid("laptop").cells())
        135
        """
        sizes = [Options(turns=turns, pivots=pivots) for turns in self.turns for pivots in self.pivots]
        return self._cells_with(sizes)

    def positions_slice(self) -> list[RunConfig]:
        """The middle of the map with the pivots at each place.

        >>> [config.task.options["position"] for config in get_regime_grid("laptop").positions_slice()][::15]
        ['early', 'spread', 'late']
        """
        middle = self.run.task.options if isinstance(self.run.task, TaskSpec) else {}
        return self._cells_with([Options(middle | {"position": position}) for position in self.positions])

    def rollouts_slice(self) -> list[RunConfig]:
        """The middle of the map with each number of rollouts a prompt, and as many dialogues a step.

        >>> sorted({config.rollouts * config.prompts for config in get_regime_grid("laptop").rollouts_slice()})
        [32]
        """
        dialogues = self.run.prompts * self.run.rollouts
        return self._rows(replace(self.run, rollouts=n, prompts=dialogues // n) for n in self.rollouts)

    def baselines(self) -> list[RunConfig]:
        """The slice over rollouts with ``fresh_seeds``, under the run's own baseline of RLOO and under "to_go".

        Trajectory-share, which pays once a dialogue, has the same advantages under both and is there once.

        >>> len(get_regime_grid("laptop").baselines())
        100
        """
        runs = replace(self, seeds=self.fresh_seeds).rollouts_slice()
        split = [config for config in runs if config.method.name != BASELINE]
        return runs + [
            replace(config, estimator=Estimator("rloo", Options(baseline="to_go"))) for config in split
        ]

    def fewest_rollouts(self) -> list[RunConfig]:
        """The cell with the fewest rollouts a prompt, with ``more_seeds``, under the baseline "to_go" of RLOO.

        >>> len(get_regime_grid("laptop").fewest_rollouts())
        48
        """
        cell = replace(self, seeds=self.more_seeds, rollouts=(min(self.rollouts),))
        return [
            replace(config, estimator=Estimator("rloo", Options(baseline="to_go")))
            for config in cell.rollouts_slice()
        ]

    def _cells_with(self, options: Iterable[Options]) -> list[RunConfig]:
        return self._rows(replace(self.run, task=TaskSpec("corridor", o)) for o in options)

    def _rows(self, runs: Iterable[RunConfig]) -> list[RunConfig]:
        """Each of the runs by every row with every seed."""
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


def _corridor(config: RunConfig) -> Corridor:
    assert isinstance(config.task, TaskSpec)
    corridor = config.task.build()
    assert isinstance(corridor, Corridor)
    return corridor


def get_regime_grid(name: str) -> RegimeGrid:
    """The map of the profile called ``name``; raises ``ValueError`` listing those that have one otherwise.

    >>> get_regime_grid("laptop").middle.max_turns
    9
    """
    if name not in REGIME_GRIDS:
        raise ValueError(
            f"profile {name!r} has no map of regimes; profiles that have one: {', '.join(REGIME_GRIDS)}"
        )
    return REGIME_GRIDS[name]


def regime_results(runs: Sequence[Run]) -> pd.DataFrame:
    """:func:`itpo.study.tables.results` with each run's settings (``SETTINGS``) and its outcome before training, ``start``."""
    frame = results(runs)
    tasks = [_corridor(run.config) for run in runs]
    return frame.assign(
        length=[task.max_turns for task in tasks],
        pivots=[task.pivots for task in tasks],
        position=[task.position for task in tasks],
        rollouts=[run.config.rollouts for run in runs],
        start=[float(run.metrics()["eval_success"].dropna().iloc[0]) for run in runs],
    )


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each cell, row beside trajectory-share, and measure: what the row gains, paired by seed, with a t-interval.

    ``frame`` is :func:`regime_results`. Columns: ``SETTINGS``, row, measure (a key of ``MEASURES``), ``gain`` with its
    interval, and of the cell ``start`` and ``baseline`` (means of trajectory-share before training, and by the measure).
    """
    lines = []
    for key, cell in frame.groupby(SETTINGS, sort=False):
        usual = cell[cell["row"] == BASELINE]
        for measure in MEASURES:
            known = {"start": usual["start"].mean(), "baseline": usual[measure].mean()}
            for row in [row for row in cell["row"].unique() if row != BASELINE]:
                gain = interval_columns("gain", t_interval(effects(cell, row, BASELINE, measure)))
                lines.append(
                    dict(zip(SETTINGS, key, strict=True)) | {"row": row, "measure": measure} | gain | known
                )
    return pd.DataFrame(lines)


def baseline_gains(frame: pd.DataFrame) -> pd.DataFrame:
    """:func:`gains` under each baseline of RLOO, which a first column, ``charge``, names.

    ``frame`` is :func:`regime_results` of :meth:`RegimeGrid.baselines`: all are compared with the same runs of trajectory-share.
    """
    usual, split = (frame[(frame["row"] == BASELINE) == same] for same in (True, False))
    parts = {name: gains(pd.concat([usual, part])) for name, part in split.groupby("baseline", sort=False)}
    return pd.concat(parts, names=["charge"]).reset_index("charge").reset_index(drop=True)


def baseline_changes(frame: pd.DataFrame) -> pd.DataFrame:
    """What each row that splits the outcome gains in each cell by the baseline "to_go" over "released", paired by seed.

    ``frame`` as for :func:`baseline_gains`. Columns: ``SETTINGS``, row, measure, ``change`` with its t-interval.
    """
    lines = []
    for key, cell in frame[frame["row"] != BASELINE].groupby([*SETTINGS, "row"], sort=False):
        for measure in MEASURES:
            difference = effects(cell.assign(row=cell["baseline"]), "to_go", "released", measure)
            change = interval_columns("change", t_interval(difference))
            lines.append(dict(zip([*SETTINGS, "row"], key, strict=True)) | {"measure": measure} | change)
    return pd.DataFrame(lines)


def pooled_gains(frame: pd.DataFrame, row: str, baseline: str, measure: str) -> pd.Series:
    """A row's gain on trajectory-share under one baseline of RLOO, its mean over all cells, for each seed.

    ``frame`` as for :func:`baseline_gains`.

    >>> lines = [(BASELINE, "released", 0, 0.5), ("judge", "released", 0, 0.25), ("judge", "to_go", 0, 0.75)]
    >>> frame = pd.DataFrame(lines, columns=["row", "baseline", "seed", "success"])
    >>> pooled_gains(frame, "judge", "to_go", "success").tolist()
    [0.25]
    """
    usual = frame[frame["row"] == BASELINE]
    part = frame[(frame["row"] == row) & (frame["baseline"] == baseline)]
    return part.groupby("seed")[measure].mean() - usual.groupby("seed")[measure].mean()


def trend(frame: pd.DataFrame, row: str, measure: str) -> dict[str, Interval]:
    """How a row's gain changes with the settings of the map: t-intervals over seeds of three numbers.

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
    gain = (pair[0] - pair[1]).reset_index()
    found = []
    for _, part in gain.groupby("seed"):
        design = np.column_stack([np.ones(len(part)), np.log2(part["length"]), part["pivots"]])
        slopes = np.linalg.lstsq(design, part[measure].to_numpy(), rcond=None)[0]
        found.append([part[measure].mean(), *slopes[1:]])
    names = ("mean", "per doubling of turns", "per further pivot")
    return {name: t_interval(values) for name, values in zip(names, np.transpose(found), strict=True)}


def gains_text(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`gains` as people read it, in percent and points."""
    return pd.DataFrame(
        {
            "turns": table["length"],
            "pivots": table["pivots"],
            "place": table["position"],
            "rollouts": table["rollouts"],
            "row": [get_method(row).label for row in table["row"]],
            "measure": [MEASURES[measure] for measure in table["measure"]],
            "warm start (%)": [f"{100 * x:.1f}" for x in table["start"]],
            "trajectory-share (%)": [f"{100 * x:.1f}" for x in table["baseline"]],
            "gain (points)": interval_texts(table, "gain", sign="+"),
        }
    )


def trend_table(frame: pd.DataFrame) -> pd.DataFrame:
    """:func:`trend` of every row beside trajectory-share and measure: a line for each number, with its interval."""
    return pd.DataFrame(
        [
            {"row": row, "measure": measure, "number": name} | interval_columns("gain", interval)
            for row in [row for row in frame["row"].unique() if row != BASELINE]
            for measure in MEASURES
            for name, interval in trend(frame, row, measure).items()
        ]
    )


def trend_text(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`trend_table` as people read it, in points: a line for each row and measure, a column for each number."""
    lines = []
    for (row, measure), part in table.groupby(["row", "measure"], sort=False):
        numbers = dict(zip(part["number"], interval_texts(part, "gain", sign="+"), strict=True))
        lines.append({"row": get_method(row).label, "measure": MEASURES[measure]} | numbers)
    return pd.DataFrame(lines)
