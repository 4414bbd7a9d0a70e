"""The replication's verdicts: what results say of the paper's claims, and how that is put into words.

Every verdict is a difference paired by seed with its t-interval, judged by one rule (:func:`itpo.study.statistics.judge`). Those on
rewards are in :mod:`itpo.study.reward_dynamics` (C5, C6) and :mod:`itpo.study.credit_tables` (C7 to C9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from itpo.attribution import get_method
from itpo.estimators import ESTIMATORS, get_estimator
from itpo.study.profiles import Profile
from itpo.study.reported import smallest_gain
from itpo.study.statistics import Verdict, judge, t_interval
from itpo.study.tables import BASELINE, by_seed, effects, mark
from itpo.training.ranking import kendall


def row_verdicts(frame: pd.DataFrame, column: str = "success") -> list[Verdict]:
    """Claims C1, C3 and C4 for one task and estimator, judged by ``column`` of :func:`itpo.study.tables.results`.

    Errors: ValueError for the runs of several tasks.
    """
    (task,) = _one(frame["task"])

    def gain(claim: str, better: str, worse: str) -> Verdict:
        statement = f"{get_method(better).label} beats {get_method(worse).label}"
        return judge(claim, statement, effects(frame, better, worse, column))

    def nothing(claim: str, row: str) -> Verdict:
        statement = f"{get_method(row).label} gives no reliable gain on {get_method(BASELINE).label}"
        return judge(claim, statement, effects(frame, row, BASELINE, column), "no gain", smallest_gain(task))

    return [
        gain("C1", "norm_itpo", BASELINE),
        gain("C3", "itpo", "prime"),
        gain("C3, normalised", "norm_itpo", "prime"),
        nothing("C4, uniform", "uniform"),
        nothing("C4, judge", "judge"),
    ]


def estimator_verdicts(frame: pd.DataFrame, column: str = "success") -> list[Verdict]:
    """Claims C1 and C2 for one task under each estimator of the frame, and whether C2's gain is larger under PPO.

    C2 is read as a gain of Norm-ITPO on ITPO; "most under PPO" as its difference to the other estimators, paired by the seeds
    that both have. ``column`` is one of :func:`itpo.study.tables.results`.
    """
    parts = dict(list(frame.groupby("estimator", sort=False)))
    pairs = {"C1": BASELINE, "C2": "itpo"}
    found = [
        judge(
            f"{claim}, {get_estimator(name).label}",
            f"{get_method('norm_itpo').label} beats {get_method(worse).label}",
            effects(part, "norm_itpo", worse, column),
        )
        for claim, worse in pairs.items()
        for name, part in parts.items()
    ]
    gains = {name: _gain(part, column) for name, part in parts.items()}
    for name in (other for other in parts if other != "ppo" and "ppo" in parts):
        statement = f"{get_method('norm_itpo').label} gains more on {get_method('itpo').label}"
        claim = f"C2, PPO against {ESTIMATORS[name].label}"
        found.append(judge(claim, statement, gains["ppo"] - gains[name]))
    return found


def _gain(part: pd.DataFrame, column: str) -> pd.Series:
    ours, other = (by_seed(part[part["row"] == row], column) for row in ("norm_itpo", "itpo"))
    return ours - other


def verdict_text(
    verdicts: Sequence[Verdict], profile: Profile, scale: float = 100.0, unit: str = "points"
) -> str:
    """One line a verdict, each marked as meaningless at the smoke profile."""
    digits = 1 if scale == 100.0 else 3
    return "\n".join(f"- {mark(profile)}{verdict.sentence(scale, digits, unit)}" for verdict in verdicts)


def turns_text(groups: Mapping[str, pd.DataFrame], profile: Profile, row: str = "norm_itpo") -> str:
    """Whether a row's dialogues are longer after training than the baseline's, a line for each frame of results.

    Differences of mean turns, paired by seed, with the t-interval; no claim of the paper.
    """
    lines = []
    for name, frame in groups.items():
        interval = t_interval(effects(frame, row, BASELINE, "turns"))
        spread = interval.high > interval.low  # nan, or a point by accident, shows no spread
        word = "longer" if interval.low > 0 else "shorter" if interval.high < 0 else ""
        ruling = f"{word} dialogues" if spread and word else "no difference can be told"
        lines.append(f"- {mark(profile)}{name}: {interval.text(1.0, 2, '+')} turns: **{ruling}**.")
    return "\n".join(lines)


def order_text(table: pd.DataFrame, profile: Profile) -> str:
    """How our order of the rows of one estimator and the signs of their gains compare with the reported ones [S]."""
    claimed = np.sign(table["reported_gain"].round(6))
    others = table[claimed.abs() > 0]
    agree = others.loc[np.sign(others["gain"]) == claimed[others.index], "label"].tolist()
    tau = kendall(table["success"], table["reported"])
    order = ", ".join(table.sort_values("success", ascending=False, kind="stable")["label"])
    return (
        f"{mark(profile)}Our order by the mean: {order}. Its Kendall tau-b with the reported one [S] over {len(table)} rows is "
        f"{tau:+.2f}. The sign of the gain is as reported for {len(agree)} of the {len(others)} rows with a reported one"
        f"{': ' + ', '.join(agree) if agree else ''}; signs of means, without regard to their intervals."
    )


def _one(tasks: pd.Series) -> list[str]:
    found = list(tasks.unique())
    if len(found) != 1:
        raise ValueError(f"runs of {len(found)} tasks ({', '.join(found)}): pass those of one")
    return found
