"""What results say, in words: verdicts as sentences, the length of dialogues, the order of methods.

Verdicts of one task are those of :func:`itpo.study.statistics.judge`; the ledger takes tasks together. Those on rewards are in
:mod:`itpo.study.reward_dynamics` (C5, C6) and :mod:`itpo.study.credit_tables` (C7 to C9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from itpo.attribution import Claim, get_method
from itpo.study.profiles import Profile
from itpo.study.statistics import Verdict, t_interval
from itpo.study.tables import BASELINE, effects, mark
from itpo.training.ranking import kendall


def statement(row: str, claim: Claim) -> str:
    """What a claim says of a method.

    >>> statement("itpo", Claim("C3", "prime")), statement("uniform", Claim("C4", "trajectory_share", "no gain"))
    ('ITPO beats PRIME', 'Uniform decomposition gives no reliable gain on Trajectory-share')
    """
    verb = "beats" if claim.expected == "gain" else "gives no reliable gain on"
    return f"{get_method(row).label} {verb} {get_method(claim.rival).label}"


def verdict_text(
    verdicts: Sequence[Verdict], profile: Profile, scale: float = 100.0, unit: str = "points"
) -> str:
    """One line a verdict, each marked as meaningless at the smoke profile."""
    digits = 1 if scale == 100.0 else 3
    return "\n".join(f"- {mark(profile)}{verdict.sentence(scale, digits, unit)}" for verdict in verdicts)


def turns_text(groups: Mapping[str, pd.DataFrame], profile: Profile, row: str = "norm_itpo") -> str:
    """Whether a method's dialogues are longer after training than the baseline's, a line for each frame of results.

    Differences of mean turns, paired by seed, with the t-interval; no claim of the paper.
    """
    lines = []
    for name, frame in groups.items():
        interval = t_interval(effects(frame, row, BASELINE, "turns"))
        spread = interval.high > interval.low  # nan, or a point by accident, shows no spread
        word = "longer" if interval.low > 0 else "shorter" if interval.high < 0 else ""
        ruling = f"{word} dialogues" if spread and word else "no clear difference"
        lines.append(f"- {mark(profile)}{name}: {interval.text(1.0, 2, '+')} turns: **{ruling}**.")
    return "\n".join(lines)


def order_text(table: pd.DataFrame, profile: Profile) -> str:
    """How our order of the methods of one estimator and the signs of their gains compare with the reported ones [S]."""
    if table["reported"].isna().all():
        return f"{mark(profile)}No outcomes are reported of this task and estimator."
    claimed = np.sign(table["reported_gain"].round(6))
    others = table[claimed.abs() > 0]
    agree = others.loc[np.sign(others["gain"]) == claimed[others.index], "label"].tolist()
    known = table.dropna(subset="reported")
    tau = kendall(known["speed"], known["reported"])
    order = ", ".join(table.sort_values("speed", ascending=False, kind="stable")["label"])
    return (
        f"{mark(profile)}Our order by the mean: {order}. Its Kendall tau-b with the reported one [S] over {len(known)} rows is "
        f"{tau:+.2f}. The sign of the gain is as reported for {len(agree)} of the {len(others)} rows with a reported "
        f"gain other than 0{': ' + ', '.join(agree) if agree else ''}; signs of means, without regard to their intervals."
    )
