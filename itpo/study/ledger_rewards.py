"""The ledger's effects of rewards, C5 to C9, on the runs of Table 1 under RLOO: runs in, lines of the ledger's effects out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from itpo.runs.store import Run
from itpo.study.credit_tables import RIVALS, SIDES, agreement_shares, order_curves, slope_curves
from itpo.study.ledger import EFFECTS, NotRuledError, check_seeds, refusal
from itpo.study.profiles import Profile
from itpo.study.protocol import REWARDS
from itpo.study.reward_dynamics import last_taus, monitor_curves, spearman_curves

JUDGED = ("itpo", "norm_itpo")  # whose turns are compared with the oracle's, and with each other's


def reward_effects(task: str, runs: Sequence[Run], profile: Profile) -> pd.DataFrame:
    """The effects of C5 to C8 on one task, from the monitor sets of its runs of Table 1; methods without a PRM are left out.

    C5, C6, C8: by seed, the mean over the methods with a PRM. C7: of ITPO and Norm-ITPO in each seed, after training. Where a
    finished run of such a method is missing, none is ruled on, and the reason names it.
    """
    names = [method.name for method in profile.methods if method.entry.needs_prm]
    own = {run.folder: run for run in runs if run.done and run.config.estimator.name == "rloo"}.values()
    try:
        for name in names:
            there = [run.config.seed for run in own if run.config.method.name == name]
            _check_seeds(f"{task}, {name}, rloo", there, profile, "train it to its end")
    except NotRuledError as error:
        lines = [line for (claim, _), line in REWARDS.items() if claim != "C9"]
        return pd.concat([refusal(line, str(error)) for line in lines])
    judged = [run for run in own if run.config.method.name in names and run.config.seed in profile.seeds]
    values = _reward_values(judged)
    made_of = {claim: 2 if claim[0] == "C7" else len(names) for claim in values}
    parts = [_lines(*claim, task, effect, made_of[claim]) for claim, effect in values.items()]
    return pd.concat(parts, ignore_index=True)


def _reward_values(judged: Sequence[Run]) -> dict[tuple[str, str], pd.Series]:
    """The effect of each claim by seed."""
    curves = spearman_curves(judged, np.random.default_rng(0))
    before = curves[curves["step"] < curves["step"].max()]
    order = (
        before.groupby(["row", "items", "seed"], sort=False)["value"]
        .mean()
        .unstack("items")
        .groupby("seed")
        .mean()
    )
    taus = last_taus(monitor_curves(judged)).groupby("seed")[["value", "share"]].mean()
    alike = order_curves(judged)
    alike = alike[(alike["step"] == alike["step"].max()) & (alike["pair"] == "same seed")]
    slope = slope_curves(judged).groupby(["seed", "row"], sort=False)["value"].agg(["first", "last"])
    return {
        ("C5", "all tokens"): order["turns"] - order["tokens"],
        ("C5", "control"): order["turns"] - order["token groups"],
        ("C6", "share"): taus["share"],
        ("C6", "tau-b"): taus["value"],
        ("C7", "order"): alike.set_index("seed")["value"],
        ("C8", "drift"): (slope["last"] - slope["first"]).groupby("seed").mean(),
    }


def agreement_effects(task: str, frame: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """The effects of C9 on one task, from :func:`itpo.study.credit_tables.fidelity_table`, in points.

    The share of decisions that a run hits less that of a guess, or of always naming one place. Runs without a decision are
    left out; where a run is missing, the claims of its method are not ruled on.
    """
    frame = frame[frame["estimator"] == "rloo"]
    shares, parts = agreement_shares(frame[frame["seed"].isin(profile.seeds)]), []
    for row in JUDGED:
        try:
            there = frame.loc[frame["row"] == row, "seed"].tolist()
            _check_seeds(f"oracle of {task}, {row}, rloo", there, profile, "measure it")
        except NotRuledError as error:
            lines = [REWARDS["C9", f"{row}, {side}, {rival}"] for side, rival in product(SIDES, RIVALS)]
            parts += [refusal(line, str(error)) for line in lines]
            continue
        for side, rival in product(SIDES, RIVALS):
            own = shares[(shares["row"] == row) & (shares["side"] == side)].set_index("seed")
            effect = 100 * (own["share"] - own[rival])
            parts.append(_lines("C9", f"{row}, {side}, {rival}", task, effect, 1))
    return pd.concat(parts, ignore_index=True)


def _check_seeds(what: str, there: list[int], profile: Profile, remedy: str) -> None:
    """:func:`itpo.study.ledger.check_seeds`, and raise its error for the first seed of Table 1 that is missing too."""
    check_seeds(what, there, profile)
    if missing := [seed for seed in profile.seeds if seed not in there]:
        raise NotRuledError(f"missing run: {what}, seed {missing[0]}: {remedy}")


def _lines(claim: str, part: str, task: str, effect: pd.Series, runs: int) -> pd.DataFrame:
    named = {"claim": claim, "part": part, "task": task, "estimator": "rloo", "runs": runs, "reason": ""}
    return effect.rename("effect").rename_axis("seed").reset_index().assign(**named)[EFFECTS]
