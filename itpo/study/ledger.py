"""The replication ledger: every claim's effects, cell by cell, and one ruling each.

A *cell* is one task under one estimator. An effect is a number for each seed of a cell, such as a difference of two methods
in one seed. The pooled effect is the mean over cells of their means over seeds. Its interval is a bootstrap that resamples
seeds within cells, and, for the wider one that rules, tasks too (Davison and Hinkley 1997, section 3.8: resample the levels of
a nested sample from the top).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike

from itpo.attribution import METHODS, get_method
from itpo.runs.store import Run
from itpo.study import credit_tables
from itpo.study.claims import statement
from itpo.study.reported import smallest_gain
from itpo.study.reward_dynamics import spearman_curves
from itpo.study.statistics import Interval, judge, ruling
from itpo.study.tables import BASELINE, DASH, NO_INTERVAL, Column, effects, results

EFFECTS = ["claim", "part", "task", "estimator", "seed", "effect"]
DRAWS = 9999


@dataclass(frozen=True)
class Line:
    """One line of the ledger: what is claimed, in which unit effects are, and what would count.

    ``expected`` is "gain" or "no gain", as in :func:`itpo.study.statistics.judge`; ``scale`` turns effects into ``unit``.
    """

    claim: str
    part: str
    statement: str
    unit: str = "points"
    scale: float = 100.0
    expected: str = "gain"


LINES = (
    Line("C1", "after training", "Norm-ITPO beats trajectory-share"),
    Line("C1", "over training", "the same by the mean over training"),
    Line("C2", "after training", "Norm-ITPO beats ITPO"),
    Line("C2", "most under PPO", "it gains more under PPO than under RLOO and GRPO"),
    Line("C3", "ITPO", "turn-wise ITPO beats token-wise PRIME"),
    Line("C3", "Norm-ITPO", "turn-wise Norm-ITPO beats token-wise PRIME"),
    Line("C4", "uniform", "uniform decomposition gives no reliable gain", expected="no gain"),
    Line("C4", "judge", "a judge's decomposition gives no reliable gain", expected="no gain"),
    Line("C5", "all tokens", "turn rewards keep their order better than token rewards", "Spearman", 1.0),
    Line("C5", "control", "and better than shuffled tokens, summed to turns", "Spearman", 1.0),
    Line("C6", "sign", "the implicit return ranks dialogues better than chance", "tau-b", 1.0),
    Line("C6", "size", "tau reaches the reported 0.5 [S]; effect: tau - 0.5", "tau-b", 1.0),
    Line("C7", "sign", "ITPO and Norm-ITPO order turns alike, better than chance", "Spearman", 1.0),
    Line("C7", "size", "above the reported 0.9 [S]; effect: minus 0.9", "Spearman", 1.0),
    Line("C8", "drift", "un-normalised, the slope of reward on outcome grows", "logits", 1.0),
    Line("C9", "ITPO", "its favourite turns are the oracle's, above chance"),
    Line("C9", "Norm-ITPO", "its favourite turns are the oracle's, above chance"),
)
# Differences of two methods, paired by seed: (claim, part) -> better, worse, column of `itpo.study.tables.results`.
_PAIRS = {
    ("C1", "after training"): ("norm_itpo", BASELINE, "success"),
    ("C1", "over training"): ("norm_itpo", BASELINE, "speed"),
    ("C2", "after training"): ("norm_itpo", "itpo", "success"),
    ("C3", "ITPO"): ("itpo", "prime", "success"),
    ("C3", "Norm-ITPO"): ("norm_itpo", "prime", "success"),
    ("C4", "uniform"): ("uniform", BASELINE, "success"),
    ("C4", "judge"): ("judge", BASELINE, "success"),
}


def further_lines(methods: Iterable[str]) -> dict[Line, tuple[str, str, str]]:
    """Lines for claims of the registry that ``LINES`` does not have, a reader's own; their part is the method's name.

    >>> further_lines(["norm_itpo", "itpo", "after training"])
    {}
    """
    names = [name for name in methods if name in METHODS or ":" in name]
    pairs = {(name, claim.rival, "success"): claim for name in names for claim in get_method(name).claims}
    return {
        Line(claim.name, pair[0], statement(pair[0], claim), expected=claim.expected): pair
        for pair, claim in pairs.items()
        if pair not in _PAIRS.values()
    }


def effect_lines(claim: str, part: str, task: str, estimator: str, values: ArrayLike) -> pd.DataFrame:
    """Effects of one cell, numbered by seed: claim, part, task, estimator, seed, effect.

    >>> effect_lines("C8", "drift", "math", "rloo", [0.5, 0.25])["effect"].tolist()
    [0.5, 0.25]
    """
    numbers = np.asarray(values, dtype=float)
    frame = pd.DataFrame({"seed": range(len(numbers)), "effect": numbers})
    return frame.assign(claim=claim, part=part, task=task, estimator=estimator)[EFFECTS]


def row_effects(frame: pd.DataFrame) -> pd.DataFrame:
    """The effects of C1 to C4, and of the claims of further methods, from :func:`itpo.study.tables.results` of every cell.

    A claim is asked where both of its methods are. C2's "most under PPO" is, for each task and seed, the gain under PPO less
    the mean gain under the other estimators.
    """
    lines = []
    for (task, estimator), cell in frame.groupby(["task", "estimator"], sort=False):
        rows = cell["row"].unique().tolist()
        further = {(line.claim, line.part): pair for line, pair in further_lines(rows).items()}
        for (claim, part), (better, worse, column) in (_PAIRS | further).items():
            if better in rows and worse in rows:
                values = effects(cell, better, worse, column)
                lines.append(effect_lines(claim, part, task, estimator, values))
    every = pd.concat(lines, ignore_index=True) if lines else pd.DataFrame(columns=EFFECTS)
    second = every[(every["claim"] == "C2") & (every["part"] == "after training")]
    gains = second.pivot(index=["task", "seed"], columns="estimator", values="effect")
    if "ppo" in gains and len(gains.columns) > 1:
        more = gains["ppo"] - gains.drop(columns="ppo").mean(axis=1)
        for task, values in more.groupby("task", sort=False):
            every = pd.concat([every, effect_lines("C2", "most under PPO", task, "ppo", values)])
    return every.reset_index(drop=True)


def reward_effects(task: str, estimator: str, runs: Sequence[Run]) -> pd.DataFrame:
    """The effects of C5 to C8 in one cell, from the monitor sets of its runs; methods without a PRM are left out.

    C5, C6, C8: by seed, the mean over the methods with a PRM. C7: of ITPO and Norm-ITPO in each seed, after training.
    """
    judged = [run for run in runs if run.config.method.entry.needs_prm]
    curves = spearman_curves(judged, np.random.default_rng(0))
    before = curves[curves["step"] < curves["step"].max()]
    means = before.groupby(["row", "items", "seed"], sort=False)["value"].mean().unstack("items")
    by_seed = means.groupby("seed").mean()
    tau = results(judged).groupby("seed")["tau"].mean()
    order = credit_tables.order_curves(judged)
    order = order[(order["step"] == order["step"].max()) & (order["pair"] == "same seed")]["value"]
    by_run = credit_tables.slope_curves(judged).groupby(["seed", "row"], sort=False)["value"]
    slope = by_run.agg(["first", "last"])
    drift = (slope["last"] - slope["first"]).groupby("seed").mean()
    values = {
        ("C5", "all tokens"): by_seed["turns"] - by_seed["tokens"],
        ("C5", "control"): by_seed["turns"] - by_seed["token groups"],
        ("C6", "sign"): tau,
        ("C6", "size"): tau - 0.5,
        ("C7", "sign"): order,
        ("C7", "size"): order - 0.9,
        ("C8", "drift"): drift,
    }
    lines = [effect_lines(*claim, task, estimator, list(effect)) for claim, effect in values.items()]
    return pd.concat(lines, ignore_index=True)


def agreement_effects(task: str, estimator: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The effects of C9 in one cell, from ``fidelity_table``: share of decision points hit, above chance."""
    lines = [
        effect_lines(
            "C9", get_method(row).label, task, estimator, frame.loc[frame["row"] == row, "above_chance"]
        )
        for row in ("itpo", "norm_itpo")
    ]
    return pd.concat(lines, ignore_index=True)


def bootstrap_means(
    cells: Sequence[np.ndarray], rng: np.random.Generator, draws: int
) -> Float[np.ndarray, "draws C"]:
    """Means of the cells in each draw, their seeds resampled independently within every cell.

    >>> bootstrap_means([np.array([1.0, 1.0]), np.array([2.0])], np.random.default_rng(0), 3).tolist()
    [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]
    """
    means = [cell[rng.integers(len(cell), size=(draws, len(cell)))].mean(1) for cell in cells]
    return np.stack(means, axis=1)


def pooled(frame: pd.DataFrame, rng: np.random.Generator, tasks_too: bool, draws: int = DRAWS) -> Interval:
    """Mean over cells with a percentile bootstrap over seeds; with ``tasks_too`` over tasks and seeds, tasks first.

    ``frame`` has the effects of one claim. ``n`` of the result counts runs. With few seeds and three tasks the
    interval is too narrow rather than too wide (see :func:`itpo.study.statistics.bootstrap_coverage`). ``nan`` bounds where no
    cell has two seeds. Effects that are not finite are left out.

    >>> cells = [effect_lines("C1", "", task, "rloo", values) for task, values in (("a", [0.0, 0.1]), ("b", [0.4, 0.5]))]
    >>> print(pooled(pd.concat(cells), np.random.default_rng(0), tasks_too=False))
    0.250 [0.200, 0.300]
    >>> print(pooled(pd.concat(cells), np.random.default_rng(0), tasks_too=True))
    0.250 [0.025, 0.475]
    """
    finite = frame[np.isfinite(frame["effect"])]
    by_task = [
        [cell["effect"].to_numpy(dtype=float) for _, cell in lines.groupby("estimator", sort=False)]
        for _, lines in finite.groupby("task", sort=False)
    ]
    cells = [cell for cells_of_task in by_task for cell in cells_of_task]
    if not cells:
        return NO_INTERVAL
    mean = float(np.mean([cell.mean() for cell in cells]))
    if max(map(len, cells)) < 2:
        return Interval(mean, float("nan"), float("nan"), len(finite))
    if tasks_too:
        slots = []
        for _ in by_task:  # each resampled task draws seeds of its own
            each = np.stack([bootstrap_means(task, rng, draws).mean(1) for task in by_task], axis=1)
            slots.append(each[np.arange(draws), rng.integers(len(by_task), size=draws)])
        resampled = np.stack(slots, axis=1).mean(1)
    else:
        resampled = bootstrap_means(cells, rng, draws).mean(1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(mean, float(low), float(high), len(finite))


def _effects_by_line(frame: pd.DataFrame) -> Iterator[tuple[Line, pd.DataFrame]]:
    """Every line that the frame has effects of, with them."""
    for line in (*LINES, *further_lines(frame["part"].unique())):
        own = frame[(frame["claim"] == line.claim) & (frame["part"] == line.part)]
        if not own.empty:
            yield line, own


def cell_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Every cell's effect with its t-interval, in the claim's unit, and the ruling that it alone would get.

    >>> cell_table(effect_lines("C8", "drift", "math", "rloo", [0.11, 0.12, 0.13]))[["mean", "n", "ruling"]].values.tolist()
    [[0.12, 3, 'replicated']]
    """
    lines = []
    for line, own in _effects_by_line(frame):
        for (task, estimator), values in own.groupby(["task", "estimator"], sort=False)["effect"]:
            verdict = judge(line.claim, line.statement, values, line.expected, smallest_gain(task))
            cell = {"claim": line.claim, "part": line.part, "task": task, "estimator": estimator}
            bounds = {name: getattr(verdict.effect, name) * line.scale for name in ("mean", "low", "high")}
            ends = {"n": verdict.effect.n, "ruling": verdict.ruling}
            lines.append({**cell, "unit": line.unit, **bounds, **ends})
    return pd.DataFrame(lines)


def ledger(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A line for every claim that ``frame`` has effects of: pooled effect, both intervals, counts of cells, and the ruling.

    Columns: claim, part, statement, unit, effect, low, high (seeds), wide_low, wide_high (tasks and seeds), runs, cells,
    and of the cells ``replicated``, ``not_replicated``; ``ruling`` follows from the wide interval where there are two
    tasks or more, else from that over seeds. The margin of a claim of absence is the mean over tasks of the smallest gain
    that would matter.
    """
    lines = []
    for line, own in _effects_by_line(frame):
        narrow, wide = pooled(own, rng, False), pooled(own, rng, True)
        several = own["task"].nunique() > 1
        margin = float(np.mean([smallest_gain(task) for task in own["task"].unique()]))
        cells = cell_table(own)["ruling"].tolist()
        lines.append(
            {
                "claim": line.claim,
                "part": line.part,
                "statement": line.statement,
                "unit": line.unit,
                "effect": narrow.mean * line.scale,
                "low": narrow.low * line.scale,
                "high": narrow.high * line.scale,
                "wide_low": wide.low * line.scale if several else np.nan,
                "wide_high": wide.high * line.scale if several else np.nan,
                "runs": narrow.n,
                "cells": len(cells),
                "replicated": cells.count("replicated"),
                "not_replicated": cells.count("not replicated"),
                "ruling": ruling(wide if several else narrow, line.expected, margin),
            }
        )
    return pd.DataFrame(lines)


def _title(line: pd.Series) -> str:
    part = line["part"]
    return f"{line['claim']}, {get_method(part).label if ':' in part else part}"


def _signed(line: pd.Series, name: str) -> str:
    return f"{line[name]:+.{1 if line['unit'] == 'points' else 2}f}"


def _bounds(line: pd.Series, low: str, high: str) -> str:
    return DASH if np.isnan(line[low]) else f"[{_signed(line, low)}, {_signed(line, high)}]"


LEDGER_COLUMNS = (
    Column("claim", _title),
    Column("what is claimed", "statement"),
    Column("effect", lambda line: f"{_signed(line, 'effect')} {line['unit']}"),
    Column("over seeds", lambda line: _bounds(line, "low", "high")),
    Column("over tasks and seeds", lambda line: _bounds(line, "wide_low", "wide_high")),
    Column("cells for, against, of", lambda x: f"{x['replicated']}, {x['not_replicated']}, {x['cells']}"),
    Column("ruling", "ruling"),
)
