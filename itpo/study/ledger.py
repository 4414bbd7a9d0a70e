"""The replication ledger: every claim's effects, cell by cell, and one ruling each.

A *cell* is one task under one estimator. An effect is a number for each seed of a cell, such as a difference of two rows in
one seed. The pooled effect is the mean over cells of their means over seeds. Its interval is a bootstrap that resamples seeds
within cells, and, for the wider one that rules, tasks too (Davison and Hinkley 1997, section 3.8: resample the levels of
a nested sample from the top).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike

from itpo.attribution import get_method
from itpo.runs.store import Run
from itpo.study import credit_tables
from itpo.study.reported import smallest_gain
from itpo.study.reward_dynamics import spearman_curves
from itpo.study.statistics import Interval, Verdict, judge, ruling
from itpo.study.tables import BASELINE, effects, results

EFFECTS = ["claim", "part", "task", "estimator", "seed", "effect"]
DRAWS = 9999


@dataclass(frozen=True)
class Claim:
    """One line of the ledger: what is claimed, in which unit effects are, and what would count.

    ``expected`` is "gain" or "no gain", as in :func:`itpo.study.statistics.judge`; ``scale`` turns effects into ``unit``.
    """

    name: str
    part: str
    statement: str
    unit: str = "points"
    scale: float = 100.0
    expected: str = "gain"


CLAIMS = (
    Claim("C1", "after training", "Norm-ITPO beats trajectory-share"),
    Claim("C1", "over training", "the same by the mean over training"),
    Claim("C2", "after training", "Norm-ITPO beats ITPO"),
    Claim("C2", "most under PPO", "it gains more under PPO than under RLOO and GRPO"),
    Claim("C3", "ITPO", "turn-wise ITPO beats token-wise PRIME"),
    Claim("C3", "Norm-ITPO", "turn-wise Norm-ITPO beats token-wise PRIME"),
    Claim("C4", "uniform", "uniform decomposition gives no reliable gain", expected="no gain"),
    Claim("C4", "judge", "a judge's decomposition gives no reliable gain", expected="no gain"),
    Claim("C5", "all tokens", "turn rewards keep their order better than token rewards", "Spearman", 1.0),
    Claim("C5", "control", "and better than shuffled tokens, summed to turns", "Spearman", 1.0),
    Claim("C6", "sign", "the implicit return ranks dialogues better than chance", "tau-b", 1.0),
    Claim("C6", "size", "tau reaches the reported 0.5 [S]; effect: tau - 0.5", "tau-b", 1.0),
    Claim("C7", "sign", "ITPO and Norm-ITPO order turns alike, better than chance", "Spearman", 1.0),
    Claim("C7", "size", "above the reported 0.9 [S]; effect: minus 0.9", "Spearman", 1.0),
    Claim("C8", "drift", "un-normalised, the slope of reward on outcome grows", "logits", 1.0),
    Claim("C9", "ITPO", "its favourite turns are the oracle's, above chance"),
    Claim("C9", "Norm-ITPO", "its favourite turns are the oracle's, above chance"),
)

# Differences of two rows, paired by seed: (claim, part) -> better, worse, column of `itpo.study.tables.results`.
_PAIRS = {
    ("C1", "after training"): ("norm_itpo", BASELINE, "success"),
    ("C1", "over training"): ("norm_itpo", BASELINE, "mean_success"),
    ("C2", "after training"): ("norm_itpo", "itpo", "success"),
    ("C3", "ITPO"): ("itpo", "prime", "success"),
    ("C3", "Norm-ITPO"): ("norm_itpo", "prime", "success"),
    ("C4", "uniform"): ("uniform", BASELINE, "success"),
    ("C4", "judge"): ("judge", BASELINE, "success"),
}


def effect_lines(claim: str, part: str, task: str, estimator: str, values: ArrayLike) -> pd.DataFrame:
    """Effects of one cell, numbered by seed: claim, part, task, estimator, seed, effect.

    >>> effect_lines("C8", "drift", "math", "rloo", [0.5, 0.25])["effect"].tolist()
    [0.5, 0.25]
    """
    numbers = np.asarray(values, dtype=float)
    found = pd.DataFrame({"seed": range(len(numbers)), "effect": numbers})
    return found.assign(claim=claim, part=part, task=task, estimator=estimator)[EFFECTS]


def row_effects(frame: pd.DataFrame) -> pd.DataFrame:
    """The effects of C1 to C4, from :func:`itpo.study.tables.results` of every cell.

    C2's "most under PPO" is, for each task and seed, the gain under PPO less the mean gain under the other estimators.
    """
    lines = []
    for (task, estimator), cell in frame.groupby(["task", "estimator"], sort=False):
        for (claim, part), (better, worse, column) in _PAIRS.items():
            lines.append(effect_lines(claim, part, task, estimator, effects(cell, better, worse, column)))
    found = pd.concat(lines, ignore_index=True)
    gains = found[(found["claim"] == "C2")].pivot(
        index=["task", "seed"], columns="estimator", values="effect"
    )
    if "ppo" in gains and len(gains.columns) > 1:
        more = gains["ppo"] - gains.drop(columns="ppo").mean(axis=1)
        for task, values in more.groupby("task", sort=False):
            found = pd.concat([found, effect_lines("C2", "most under PPO", task, "ppo", values)])
    return found.reset_index(drop=True)


def reward_effects(task: str, estimator: str, runs: Sequence[Run]) -> pd.DataFrame:
    """The effects of C5 to C8 in one cell, from the probes of its runs; rows without a PRM are left out.

    C5, C6, C8: by seed, the mean over the rows with a PRM. C7: of the ITPO and the Norm-ITPO run of each seed, after training.
    """
    judged = [run for run in runs if get_method(run.config.method.name).needs_prm]
    known = spearman_curves(judged, np.random.default_rng(0))
    before = known[known["step"] < known["step"].max()]
    means = before.groupby(["row", "items", "seed"], sort=False)["value"].mean().unstack("items")
    by_seed = means.groupby("seed").mean()
    tau = results(judged).groupby("seed")["tau"].mean()
    order = credit_tables.order_curves(judged)
    order = order[(order["step"] == order["step"].max()) & (order["pair"] == "same seed")]["value"]
    slope = (
        credit_tables.slope_curves(judged)
        .groupby(["seed", "row"], sort=False)["value"]
        .agg(["first", "last"])
    )
    drift = (slope["last"] - slope["first"]).groupby("seed").mean()
    found = {
        ("C5", "all tokens"): by_seed["turns"] - by_seed["tokens"],
        ("C5", "control"): by_seed["turns"] - by_seed["token groups"],
        ("C6", "sign"): tau,
        ("C6", "size"): tau - 0.5,
        ("C7", "sign"): order,
        ("C7", "size"): order - 0.9,
        ("C8", "drift"): drift,
    }
    lines = [effect_lines(*claim, task, estimator, list(values)) for claim, values in found.items()]
    return pd.concat(lines, ignore_index=True)


def agreement_effects(task: str, estimator: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The effects of C9 in one cell, from :func:`itpo.study.credit_tables.fidelity_table`: share of decision points hit, above chance."""
    parts = {"ITPO": "itpo", "Norm-ITPO": "norm_itpo"}
    lines = [
        effect_lines("C9", part, task, estimator, frame.loc[frame["row"] == row, "above_chance"])
        for part, row in parts.items()
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
    known = frame[np.isfinite(frame["effect"])]
    by_task = [
        [cell["effect"].to_numpy(dtype=float) for _, cell in part.groupby("estimator", sort=False)]
        for _, part in known.groupby("task", sort=False)
    ]
    cells = [cell for part in by_task for cell in part]
    if not cells:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(np.mean([cell.mean() for cell in cells]))
    if max(map(len, cells)) < 2:
        return Interval(mean, float("nan"), float("nan"), len(known))
    if tasks_too:
        slots = []
        for _ in by_task:  # each resampled task draws seeds of its own
            each = np.stack([bootstrap_means(part, rng, draws).mean(1) for part in by_task], axis=1)
            slots.append(each[np.arange(draws), rng.integers(len(by_task), size=draws)])
        resampled = np.stack(slots, axis=1).mean(1)
    else:
        resampled = bootstrap_means(cells, rng, draws).mean(1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(mean, float(low), float(high), len(known))


def cell_verdicts(frame: pd.DataFrame, claim: Claim) -> list[tuple[str, str, Verdict]]:
    """(task, estimator, verdict) of each cell of one claim's effects, by its own t-interval.

    >>> claim = next(claim for claim in CLAIMS if claim.name == "C1")
    >>> (task, estimator, verdict), = cell_verdicts(effect_lines("C1", "", "math", "rloo", [0.11, 0.12, 0.13]), claim)
    >>> task, estimator, verdict.ruling
    ('math', 'rloo', 'replicated')
    """
    return [
        (
            task,
            estimator,
            judge(claim.name, claim.statement, cell["effect"], claim.expected, smallest_gain(task)),
        )
        for (task, estimator), cell in frame.groupby(["task", "estimator"], sort=False)
    ]


def ledger(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A line for every claim that ``frame`` has effects of: pooled effect, both intervals, counts of cells, and the ruling.

    Columns: claim, part, statement, unit, effect, low, high (seeds), wide_low, wide_high (tasks and seeds), runs, cells,
    and of the cells ``replicated``, ``not_replicated``; ``ruling`` follows from the wide interval where there are two
    tasks or more, else from that over seeds. The margin of a claim of absence is the mean over tasks of the smallest gain
    that would matter.
    """
    lines = []
    for claim in CLAIMS:
        part = frame[(frame["claim"] == claim.name) & (frame["part"] == claim.part)]
        if part.empty:
            continue
        narrow, wide = pooled(part, rng, False), pooled(part, rng, True)
        margin = float(np.mean([smallest_gain(task) for task in part["task"].unique()]))
        several = part["task"].nunique() > 1
        cells = [verdict.ruling for _, _, verdict in cell_verdicts(part, claim)]
        lines.append(
            {
                "claim": claim.name,
                "part": claim.part,
                "statement": claim.statement,
                "unit": claim.unit,
                "effect": narrow.mean * claim.scale,
                "low": narrow.low * claim.scale,
                "high": narrow.high * claim.scale,
                "wide_low": wide.low * claim.scale if several else float("nan"),
                "wide_high": wide.high * claim.scale if several else float("nan"),
                "runs": narrow.n,
                "cells": len(cells),
                "replicated": cells.count("replicated"),
                "not_replicated": cells.count("not replicated"),
                "ruling": ruling(wide if several else narrow, claim.expected, margin),
            }
        )
    return pd.DataFrame(lines)


def ledger_text(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`ledger` as people read it."""

    def bounds(low: pd.Series, high: pd.Series, digits: Sequence[int]) -> list[str]:
        found = zip(low, high, digits, strict=True)
        return ["–" if np.isnan(a) else f"[{a:+.{d}f}, {b:+.{d}f}]" for a, b, d in found]

    digits = [1 if unit == "points" else 2 for unit in table["unit"]]
    sizes = zip(table["effect"], table["unit"], digits, strict=True)
    cells = zip(table["replicated"], table["not_replicated"], table["cells"], strict=True)
    return pd.DataFrame(
        {
            "claim": table["claim"] + ", " + table["part"],
            "what is claimed": table["statement"],
            "effect": [f"{size:+.{d}f} {unit}" for size, unit, d in sizes],
            "over seeds": bounds(table["low"], table["high"], digits),
            "over tasks and seeds": bounds(table["wide_low"], table["wide_high"], digits),
            "cells for, against, of": [f"{yes}, {no}, {all_}" for yes, no, all_ in cells],
            "ruling": table["ruling"],
        }
    )


def cell_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Every cell's effect with its t-interval, in the claim's unit, and the ruling that it alone would get."""
    lines = []
    for claim in CLAIMS:
        part = frame[(frame["claim"] == claim.name) & (frame["part"] == claim.part)]
        for task, estimator, verdict in cell_verdicts(part, claim) if len(part) else ():
            effect = verdict.effect
            numbers = {name: getattr(effect, name) * claim.scale for name in ("mean", "low", "high")}
            who = {"claim": claim.name, "part": claim.part, "task": task, "estimator": estimator}
            lines.append({**who, "unit": claim.unit, **numbers, "n": effect.n, "ruling": verdict.ruling})
    return pd.DataFrame(lines)
