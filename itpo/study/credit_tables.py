"""Credit against the oracle in tables: fidelity, agreement, claims C7 to C9, for the notebook on credit.

Runs and measurements in, tables out, as in :mod:`itpo.study.tables`; what is measured is in :mod:`itpo.study.credit_fidelity`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from itpo.attribution import get_method
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
from itpo.study.ranks import mean_defined, spearman_rows
from itpo.study.statistics import INTERVALS, Verdict, judge
from itpo.study.tables import DASH, ESTIMATOR, METHOD, Column, as_text, interval_columns, percent

# Continuations of each history that the notebooks measure: under a run's own final policy, and under the reference [O].
CONTINUATIONS = {"smoke": (4, 8), "laptop": (16, 64)}
# Decision points of the paper's expert study, best and worst turns together, and how many agree with the experts [S].
REPORTED_DECISIONS = 64
REPORTED_HITS = {"Gemini-3.0-Pro": 58, "Norm-ITPO": 48, "ITPO": 47, "chance": 16}
SIDES = ("best", "worst")
RIVALS = ("chance", "place")  # a guess, and always naming the place that is most often right


def fidelity_table(runs: Sequence[Run], oracles: Sequence[Run]) -> pd.DataFrame:
    """A line for each run: estimator, row, seed, success, fidelity (pooled, within), its ceilings, and agreement.

    ``preference`` is the fidelity within dialogues of the method's preference instead of its credit. For the best and the worst
    turn apart: ``best_hits`` of ``best_decisions``, ``best_chance``, the hits of a guess, and ``best_place``, the hits of
    always naming the one place, ``best_place_name``, that is most often right over all of these runs.
    """
    scored = [score_turns(*pair) for pair in zip(runs, oracles, strict=True)]
    sides = {side: [agreement(s.preference, s.truth, side) for s in scored] for side in SIDES}
    table = pd.DataFrame([_line(one) for one in scored])
    for side, found in sides.items():
        every = sum((one.places for one in found), Counter[int]())
        place = min(every, key=lambda at: (-every[at], at < 0, abs(at)), default=0)
        for name in ("hits", "decisions", "chance"):
            table[f"{side}_{name}"] = [getattr(one, name) for one in found]
        table[f"{side}_place"] = [one.places[place] for one in found]
        table[f"{side}_place_name"] = place_name(place)
    return table


def place_name(place: int) -> str:
    """A turn's place in words: 0 is the first, -1 the last.

    >>> [place_name(place) for place in (0, 2, -1, -2)]
    ['turn 1', 'turn 3', 'the last turn', 'turn 2 from the end']
    """
    if place >= 0:
        return f"turn {place + 1}"
    return "the last turn" if place == -1 else f"turn {-place} from the end"


def _line(scored: Scored) -> dict[str, Any]:
    config, truth = scored.run.config, scored.truth
    worth, mask = true_advantage(truth), truth.turn_mask.numpy()
    return {
        "estimator": config.estimator.name,
        "row": config.method.name,
        "seed": config.seed,
        "success": scored.run.summary()["success"],
        "pooled": pooled(scored.credit, worth, mask),
        "within": within(scored.credit, worth, mask),
        "preference": within(scored.preference, worth, mask),
        **{f"{kind}_ceiling": ceiling(truth, kind) for kind in STATISTICS},
    }


def agreement_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """The agreement of :func:`fidelity_table` as shares of decisions, and those of both rivals.

    Columns: estimator, row, seed, side, decisions, share, chance, place. Runs without a decision on a side are left out.
    """
    parts = []
    for side in SIDES:
        own = frame[frame[f"{side}_decisions"] > 0]
        counts = {
            name: own[f"{side}_{ending}"] for name, ending in (("share", "hits"), *((r, r) for r in RIVALS))
        }
        shares = {name: count / own[f"{side}_decisions"] for name, count in counts.items()}
        columns = {"side": side, "decisions": own[f"{side}_decisions"], **shares}
        parts.append(own[["estimator", "row", "seed"]].assign(**columns))
    return pd.concat(parts, ignore_index=True)


def spread(
    frame: pd.DataFrame, columns: Sequence[str], by: Sequence[str], kind: str = "real"
) -> pd.DataFrame:
    """Mean over seeds and interval of ``columns``: a line for each group of ``by`` and column, named ``measure``.

    ``kind`` says what the columns are, a key of :data:`itpo.study.statistics.INTERVALS`.

    >>> frame = pd.DataFrame({"row": ["itpo"] * 3, "within": [0.4, 0.5, 0.6]})
    >>> spread(frame, ["within"], ["row"]).round(3).to_dict("records")
    [{'row': 'itpo', 'measure': 'within', 'mean': 0.5, 'low': 0.252, 'high': 0.748, 'n': 3}]
    """
    lines = []
    for key, runs in frame.groupby(list(by), sort=False):
        for column in columns:
            group = dict(zip(by, key, strict=True)) | {"measure": column}
            lines.append(group | vars(INTERVALS[kind](runs[column])))
    return pd.DataFrame(lines)


def fidelity_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """:func:`fidelity_table` over seeds, a line for each estimator and method: means with intervals, and sums of decisions."""
    lines = []
    for (estimator, row), runs in frame.groupby(["estimator", "row"], sort=False):
        line: dict[str, Any] = {"truth": "oracle", "estimator": estimator, "row": row}
        line |= interval_columns("success", INTERVALS["share"](runs["success"]))
        for name in ("pooled", "within", "preference"):
            line |= interval_columns(name, INTERVALS["correlation"](runs[name]))
        line |= {f"{kind}_ceiling": runs[f"{kind}_ceiling"].mean() for kind in STATISTICS}
        counts = [f"{side}_{name}" for side in SIDES for name in ("hits", "decisions", *RIVALS)]
        line |= {f"{side}_place_name": runs[f"{side}_place_name"].iloc[0] for side in SIDES}
        lines.append(line | runs[counts].sum().to_dict())
    return pd.DataFrame(lines)


def options_finding(table: pd.DataFrame) -> str:
    """How far apart the readings of :func:`option_table` are, from its :func:`spread`, in a sentence for each measure.

    >>> lines = {"measure": "pooled", "mean": [0.3, 0.4], "low": [0.2, 0.35], "high": [0.36, 0.45]}
    >>> options_finding(pd.DataFrame(lines))
    'Over the 2 readings *pooled* is 0.30 to 0.40; the intervals of the best and the worst overlap.'
    """
    sentences = []
    for measure, lines in table.groupby("measure", sort=False):
        worst, best = lines.loc[lines["mean"].idxmin()], lines.loc[lines["mean"].idxmax()]
        overlap = "overlap" if best["low"] <= worst["high"] else "do not overlap"
        sentences.append(
            f"Over the {len(lines)} readings *{measure}* is {worst['mean']:.2f} to {best['mean']:.2f}; "
            f"the intervals of the best and the worst {overlap}."
        )
    return " ".join(sentences)


FIDELITY_COLUMNS = (
    ESTIMATOR,
    METHOD,
    percent("success after training, sampled (%)", "success"),
    Column("pooled", "pooled", 1.0, 2),
    Column("within dialogues", "within", 1.0, 2),
    Column("preference, within", "preference", 1.0, 2),
    *(Column(f"{kind} ceiling", f"{kind}_ceiling", 1.0, 2) for kind in STATISTICS),
)


def agreement_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Hits and decisions of :func:`fidelity_table`, summed over seeds, and last the reported counts [S]."""
    columns = [Column("truth", "truth"), ESTIMATOR, Column("who", METHOD.source)]
    for side in SIDES:
        columns += [
            Column(f"{side} turn", partial(_hits_of, side=side)),
            Column(f"{side}: chance", f"{side}_chance", 1.0, 1),
            Column(f"{side}: one place", partial(_place_of, side=side)),
        ]
    text = as_text(fidelity_summary(frame), [*columns, Column("both", lambda line: DASH)])
    empty = dict.fromkeys(text, DASH) | {"truth": "experts [S]"}
    counts = {who: f"{hits} of {REPORTED_DECISIONS}" for who, hits in REPORTED_HITS.items()}
    known = [{**empty, "who": who, "both": both} for who, both in counts.items()]
    return pd.concat([text, pd.DataFrame(known)], ignore_index=True)


def _hits_of(line: pd.Series, side: str) -> str:
    return f"{line[f'{side}_hits']:.1f} of {line[f'{side}_decisions']:.0f}"


def _place_of(line: pd.Series, side: str) -> str:
    return f"{line[f'{side}_place']:.0f} ({line[f'{side}_place_name']})"


def agreement_verdicts(frame: pd.DataFrame, rows: Sequence[str] = ("itpo", "norm_itpo")) -> list[Verdict]:
    """Claim C9 for our truth, best and worst turn apart, each against a guess and against always naming one place."""
    shares = agreement_shares(frame[frame["row"].isin(rows)])
    verdicts = []
    for (row, side), part in shares.groupby(["row", "side"], sort=False):
        rivals = {"chance": "a guess", "place": f"always naming {frame[f'{side}_place_name'].iloc[0]}"}
        for rival, what in rivals.items():
            statement = (
                f"{get_method(row).label}: its {side} turn is the oracle's more often than {what} hits"
            )
            verdicts.append(judge("C9", statement, part["share"] - part[rival]))
    return verdicts


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
