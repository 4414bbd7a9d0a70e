"""Credit against the oracle in tables: fidelity, agreement, claims C7 to C9, for the notebook on credit.

Runs and measurements in, tables out, as in :mod:`itpo.study.tables`; what is measured is in :mod:`itpo.study.credit_fidelity`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from itpo.attribution import get_method
from itpo.estimators import get_estimator
from itpo.runs.store import Run
from itpo.study import reward_dynamics
from itpo.study.credit_fidelity import (
    STATISTICS,
    Scored,
    agreement,
    ceiling,
    pooled,
    reliability,
    score_turns,
    true_advantage,
    within,
)
from itpo.study.oracle import TurnValues
from itpo.study.statistics import Verdict, judge, mean_defined, spearman_rows, t_interval
from itpo.study.tables import DASH, ESTIMATOR, METHOD, Column, as_text, interval_columns, percent

# Continuations of each history that the notebooks measure: under a run's own final policy, and under the reference [O].
CONTINUATIONS = {"smoke": (4, 8), "laptop": (16, 64)}
# Decision points of the paper's expert study, and how many of them agree with the experts [S].
REPORTED_DECISIONS = 64
SIDES = ("best_", "worst_", "")  # of the preferences, and both together
REPORTED_HITS = {"Gemini-3.0-Pro": 58, "Norm-ITPO": 48, "ITPO": 47, "chance": 16}


def fidelity_table(runs: Sequence[Run], oracles: Sequence[Run]) -> pd.DataFrame:
    """A line for each run: estimator, row, seed, success, fidelity (pooled, within), its ceilings, and agreement.

    ``preference`` is the fidelity within dialogues of the method's preference instead of its credit. ``hits`` are those of
    ``decisions``, best and worst turns together; ``chance`` is the share of them that a guess would hit and ``above_chance``
    by how much the method's share is larger (``nan`` where nothing was to be decided).
    """
    return pd.DataFrame([_line(score_turns(*pair)) for pair in zip(runs, oracles, strict=True)])


def _line(scored: Scored) -> dict[str, Any]:
    config, truth = scored.run.config, scored.truth
    worth, mask = true_advantage(truth), truth.turn_mask.numpy()
    sides = {side: agreement(scored.preference, truth, side) for side in ("best", "worst")}
    hits, decisions = (sum(getattr(s, name) for s in sides.values()) for name in ("hits", "decisions"))
    chance = sum(s.chance for s in sides.values()) / decisions if decisions else float("nan")
    counts = {
        f"{side}_{name}": getattr(s, name) for side, s in sides.items() for name in ("hits", "decisions")
    }
    return {
        "estimator": config.estimator.name,
        "row": config.method.name,
        "seed": config.seed,
        "success": scored.run.summary()["success"],
        "pooled": pooled(scored.credit, worth, mask),
        "within": within(scored.credit, worth, mask),
        "preference": within(scored.preference, worth, mask),
        **{f"{kind}_ceiling": ceiling(truth, kind) for kind in STATISTICS},
        **counts,
        "hits": hits,
        "decisions": decisions,
        "chance": chance,
        "above_chance": hits / decisions - chance if decisions else float("nan"),
    }


def spread(frame: pd.DataFrame, columns: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    """Mean over seeds and t-interval of ``columns``: a line for each group of ``by`` and column, named ``measure``.

    >>> frame = pd.DataFrame({"row": ["itpo"] * 3, "within": [0.4, 0.5, 0.6]})
    >>> spread(frame, ["within"], ["row"]).round(3).to_dict("records")
    [{'row': 'itpo', 'measure': 'within', 'mean': 0.5, 'low': 0.252, 'high': 0.748, 'n': 3}]
    """
    lines = []
    for key, runs in frame.groupby(list(by), sort=False):
        for column in columns:
            group = dict(zip(by, key, strict=True)) | {"measure": column}
            lines.append(group | vars(t_interval(runs[column])))
    return pd.DataFrame(lines)


def fidelity_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """:func:`fidelity_table` over seeds, a line for each estimator and method: means with t-intervals, and sums of decisions.

    ``chance`` is here the number of hits of a guess.
    """
    lines = []
    for (estimator, row), runs in frame.groupby(["estimator", "row"], sort=False):
        line: dict[str, Any] = {"truth": "oracle", "estimator": estimator, "row": row}
        for name in ("success", "pooled", "within", "preference"):
            line |= interval_columns(name, t_interval(runs[name]))
        line |= {f"{kind}_ceiling": runs[f"{kind}_ceiling"].mean() for kind in STATISTICS}
        line |= {
            f"{side}{name}": runs[f"{side}{name}"].sum() for side in SIDES for name in ("hits", "decisions")
        }
        lines.append(line | {"chance": (runs["chance"] * runs["decisions"]).sum()})
    return pd.DataFrame(lines)


FIDELITY_COLUMNS = (
    ESTIMATOR,
    METHOD,
    percent("success (%)", "success"),
    Column("pooled", "pooled", 1.0, 2),
    Column("within dialogues", "within", 1.0, 2),
    Column("preference, within", "preference", 1.0, 2),
    *(Column(f"{kind} ceiling", f"{kind}_ceiling", 1.0, 2) for kind in STATISTICS),
)


def agreement_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Hits and decisions of :func:`fidelity_table`, summed over seeds, and last the reported counts [S]."""
    names = {"best_": "best", "worst_": "worst", "": "both"}
    columns = [Column("truth", "truth"), ESTIMATOR, Column("who", METHOD.source)]
    columns += [Column(names[side], partial(_hits_of, side=side)) for side in SIDES]
    text = as_text(fidelity_summary(frame), [*columns, Column("chance", "chance", 1.0, 1)])
    experts = {"truth": "experts [S]", "estimator": DASH, "best": DASH, "worst": DASH}
    chance = str(REPORTED_HITS["chance"])
    counts = {
        who: f"{hits} of {REPORTED_DECISIONS}" for who, hits in REPORTED_HITS.items() if who != "chance"
    }
    known = [{**experts, "who": who, "both": both, "chance": chance} for who, both in counts.items()]
    return pd.concat([text, pd.DataFrame(known)], ignore_index=True)


def _hits_of(line: pd.Series, side: str) -> str:
    return f"{line[f'{side}hits']:.1f} of {line[f'{side}decisions']:.0f}"


def agreement_verdicts(frame: pd.DataFrame, rows: Sequence[str] = ("itpo", "norm_itpo")) -> list[Verdict]:
    """Claim C9, worded for our truth: share of decisions hit minus that of a guess, by seed, for each estimator and method."""
    statement = "turn preferences agree with the oracle better than chance"
    groups = frame[frame["row"].isin(rows)].groupby(["estimator", "row"], sort=False)["above_chance"]
    return [
        judge("C9", f"{get_estimator(estimator).label}, {get_method(row).label}: {statement}", shares)
        for (estimator, row), shares in groups
    ]


def option_table(
    runs: Sequence[Run], oracles: Sequence[Run], options: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """Fidelity of the same runs with other settings of :class:`Method`: a line for each of ``options`` and run.

    Columns: the settings, seed, ``pooled`` (credit) and ``preference`` (within dialogues).
    """
    lines = []
    for option in options:
        for run, oracle in zip(runs, oracles, strict=True):
            scored = score_turns(run, oracle, run.config.method.with_settings(**option))
            worth, mask = true_advantage(scored.truth), scored.truth.turn_mask.numpy()
            numbers = {"pooled": pooled(scored.credit, worth, mask)}
            numbers["preference"] = within(scored.preference, worth, mask)
            lines.append({**option, "seed": run.config.seed, **numbers})
    return pd.DataFrame(lines)


def oracle_table(measured: Mapping[str, TurnValues]) -> pd.DataFrame:
    """How exact measurements are: a line each with turns, spread of the advantages, their standard error, and ceilings."""
    lines = []
    for name, truth in measured.items():
        mask = truth.turn_mask
        line: dict[str, Any] = {"oracle": name, "turns": int(mask.sum())}
        line["s.d. of advantages"] = float(truth.advantage[mask].std())
        line["their standard error"] = float(truth.advantage_se[mask].square().mean().sqrt())
        line |= {f"reliability, {kind}": reliability(truth, kind) for kind in STATISTICS}
        lines.append(line | {f"ceiling, {kind}": ceiling(truth, kind) for kind in STATISTICS})
    return pd.DataFrame(lines)


# Order and scale over training (C7, C8)


def order_curves(runs: Sequence[Run], min_turns: int = 3) -> pd.DataFrame:
    """Spearman's correlation, within dialogues, of the turn rewards (4) of two runs' PRMs: estimator, pair, seed, step, value.

    ``pair`` is "same seed" (ITPO and Norm-ITPO of one seed) or "other seed" (two neighbouring seeds of Norm-ITPO, for
    comparison). Dialogues of at least ``min_turns`` turns count. As softmax keeps the order, this is that of (5) too.
    """
    readings = {
        (run.config.estimator.name, run.config.method.name, run.config.seed): reward_dynamics.read_monitor(
            run
        )
        for run in runs
        if run.config.method.name in ("itpo", "norm_itpo")
    }
    curves = []
    for (estimator, row, seed), norm in readings.items():
        rivals = {"same seed": ("itpo", seed), "other seed": ("norm_itpo", seed + 1)}
        for pair, key in rivals.items() if row == "norm_itpo" else ():
            if (rival := readings.get((estimator, *key))) is not None:
                mask = norm.turn_mask & (norm.turn_mask.sum(1) >= min_turns)[:, None]
                mask = np.broadcast_to(mask, norm.turn_rewards.shape)
                value = mean_defined(spearman_rows(norm.turn_rewards, rival.turn_rewards, mask))
                curve = {
                    "estimator": estimator,
                    "pair": pair,
                    "seed": seed,
                    "step": norm.steps,
                    "value": value,
                }
                curves.append(pd.DataFrame(curve))
    return pd.concat(curves, ignore_index=True)


def slope_curves(runs: Sequence[Run]) -> pd.DataFrame:
    """Least-squares slope of the summed implicit reward on the outcome, over the monitor set: row, seed, step, value (logits).

    Methods without a PRM are left out.
    """
    curves = []
    for run in (run for run in runs if run.config.method.entry.needs_prm):
        readings = reward_dynamics.read_monitor(run)
        centred = readings.outcome - readings.outcome.mean()
        total = (centred**2).sum() or np.nan  # all won or all lost: no slope
        slope = readings.token_rewards.sum(-1) @ centred / total
        curve = {
            "row": run.config.method.name,
            "seed": run.config.seed,
            "step": readings.steps,
            "value": slope,
        }
        curves.append(pd.DataFrame(curve))
    return pd.concat(curves, ignore_index=True)
