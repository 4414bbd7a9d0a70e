"""Credit fidelity: how well what a row pays each turn agrees with what the turn is truly worth.

Runs and measurements of :mod:`itpo.oracle` in, tables out. P probe dialogues of at most K turns, the same for every run of a
task and base model. The truth is the advantage of each turn under the run's own final policy, and all of it is our own
choice [O]; the paper compares with experts' judgement instead (64 decision points).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from itpo import attribution, prm, turns
from itpo.analysis import spearman_rows
from itpo.learner import seeded
from itpo.oracle import TurnValues, read
from itpo.profiles import Method
from itpo.runs import Run


@dataclass(frozen=True)
class Scored:
    """What a run's row says of every turn, beside the truth.

    ``credit`` is the reward of each turn in units of the outcome; trajectory-share, which prefers no turn, gives each of them
    R. ``preference`` orders the turns of a dialogue: the shares of the outcome before they are multiplied by it, so that a
    failed dialogue has an order too, and the credit itself where a row pays no shares. Both are 0 where there is no turn.
    """

    run: Run
    credit: Float[np.ndarray, "P K"]
    preference: Float[np.ndarray, "P K"]
    outcome: Float[np.ndarray, " P"]
    truth: TurnValues

    @property
    def mask(self) -> Bool[np.ndarray, "P K"]:
        """The turns that each dialogue has."""
        return self.truth.turn_mask.numpy()

    @property
    def advantage(self) -> Float[np.ndarray, "P K"]:
        """The true advantage of each turn, in units of the outcome."""
        return self.truth.advantage.numpy().astype(np.float64)


def score_turns(run: Run, oracle: Run, method: Method | None = None) -> Scored:
    """Ask the row of a finished run what it would pay each turn of the probe dialogues; ``oracle`` measured their truth.

    ``method``, left out, is the run's own; another one reads the same PRM with other settings of eq. (4)-(6). Errors:
    ValueError if the run kept no probe that its row needs, or the oracle measured other dialogues.
    """
    values, signals = read(oracle)
    method = run.config.method if method is None else method
    row, ids = attribution.get_row(method.row), signals["turn_ids"]
    outcome, mask = signals["outcome"], ids >= 0
    known: dict[str, Any] = {"turn_ids": ids, "response_mask": mask, "judge_scores": signals["judge_scores"]}
    known |= {"temperature": method.eta, "reduction": method.reduction}
    known |= _last_probe(run, signals, method)

    def paid(outcomes: Tensor) -> Float[np.ndarray, "P K"]:
        generator = seeded("fidelity", run.config.seed)
        rewards = attribution.attribute(row.name, outcome=outcomes, generator=generator, **known)
        by_turn = turns.aggregate(rewards.float(), ids)
        if row.granularity == "trajectory":
            by_turn = outcomes[:, None] * values.turn_mask
        return by_turn.numpy().astype(np.float64)

    shares = row.carries_outcome and not row.needs_values
    credit = paid(outcome)
    preference = paid(torch.ones_like(outcome)) if shares else credit
    return Scored(run, credit, preference, outcome.numpy().astype(np.float64), values)


def _last_probe(run: Run, signals: dict[str, Tensor], method: Method) -> dict[str, Tensor]:
    """Token rewards and values of the probe dialogues at the end of training, where the run has them."""
    probes = run.probes()
    if not probes:
        return {}
    (_, first), (_, last) = probes[0], probes[-1]
    if not torch.equal(first["turn_ids"], signals["turn_ids"]):
        raise ValueError(
            f"{run.folder} and the oracle have other probe dialogues: measure it with OracleConfig(run.config)"
        )
    found: dict[str, Tensor] = {}
    mask = signals["turn_ids"] >= 0
    if "log_ratio" in last:
        rewards = prm.token_rewards(last["log_ratio"], torch.zeros_like(last["log_ratio"]), mask, method.beta)
        found["token_rewards"] = prm.rescale(rewards, mask, method.scale)
    if "values" in last:
        found["values"] = last["values"].sum(0) / method.coef
    return found


def pooled(
    credit: Float[np.ndarray, "P K"], truth: Float[np.ndarray, "P K"], mask: Bool[np.ndarray, "P K"]
) -> float:
    """Spearman's correlation of credit and truth over all turns of all dialogues; ``nan`` where one is constant.

    It asks both questions at once: which dialogues went well, and which turns made them so.

    >>> both = np.array([[1.0, 2.0], [3.0, 0.0]])
    >>> pooled(both, both**3, np.array([[True, True], [True, False]]))
    1.0
    """
    every = np.ones(int(mask.sum()), dtype=bool)
    return float(spearman_rows(credit[mask], truth[mask], every))


def within(
    credit: Float[np.ndarray, "P K"], truth: Float[np.ndarray, "P K"], mask: Bool[np.ndarray, "P K"]
) -> float:
    """Mean over dialogues of Spearman's correlation between the turns of one dialogue: which of its turns mattered.

    A dialogue counts if its truth orders at least two turns; a row that gives all of them the same credit has found nothing
    there, which counts as 0. ``nan`` if no dialogue counts.

    >>> credit, truth = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[0.1, 0.4], [0.3, 0.2]])
    >>> within(credit, truth, np.ones((2, 2), dtype=bool))
    0.5
    """
    ordered = ~np.isnan(spearman_rows(truth, truth, mask))
    found = spearman_rows(credit, truth, mask)[ordered]
    return float(np.nan_to_num(found).mean()) if len(found) else float("nan")


def reliability(scored: Scored, statistic: Any) -> float:
    """The largest fidelity that this oracle can show: the square root of its own reliability.

    The two halves of its continuations are correlated by ``statistic`` (:func:`pooled` or :func:`within`), the Spearman-Brown
    formula 2r / (1 + r) gives the reliability of the whole, and noise in the truth lowers every correlation with it by the
    root of that (correction for attenuation; Spearman, 1904).
    """
    first, second = (half.numpy().astype(np.float64) for half in scored.truth.halves)
    r = statistic(first, second, scored.mask)
    return float(np.sqrt(max(2 * r / (1 + r), 0.0)))


@dataclass(frozen=True)
class Agreement:
    """How often a row's best (or worst) turn is the oracle's: hits in a number of decisions, and the hits of a guess."""

    hits: float
    decisions: int
    chance: float


def agreement(scored: Scored, side: str = "best", certainty: float = 2.0) -> Agreement:
    """Compare the best (or "worst") turn of every dialogue in which the oracle is certain which one that is.

    Certain: the truth's best turn leads the next by ``certainty`` standard errors of their difference. Among turns that a row
    likes equally it has to guess: their share of a hit counts. Errors: ValueError for another side.
    """
    if side not in ("best", "worst"):
        raise ValueError(f"side is {side!r}; it must be 'best' or 'worst'")
    sign = 1.0 if side == "best" else -1.0
    errors = scored.truth.advantage_se.numpy()
    hits, decisions, chance = 0.0, 0, 0.0
    for p, has_turn in enumerate(scored.mask):
        truth, liked, error = (
            x[p][has_turn] for x in (sign * scored.advantage, sign * scored.preference, errors)
        )
        if len(truth) < 2:
            continue
        order = np.argsort(-truth, kind="stable")
        first, second = order[0], order[1]
        if truth[first] - truth[second] <= certainty * np.hypot(error[first], error[second]):
            continue
        top = np.flatnonzero(np.isclose(liked, liked.max(), rtol=1e-9, atol=0))
        hits += (first in top) / len(top)
        decisions += 1
        chance += 1 / len(truth)
    return Agreement(hits, decisions, chance)


def fidelity(runs: Sequence[Run], oracles: Sequence[Run]) -> pd.DataFrame:
    """A line for each run: estimator, row, seed, success, fidelity (pooled, within), its ceilings, and agreement.

    ``best_hits`` and ``worst_hits`` of ``best_decisions`` and ``worst_decisions``; ``chance`` is the share of both that a guess
    would hit.
    """
    return pd.DataFrame([_line(score_turns(*pair)) for pair in zip(runs, oracles, strict=True)])


def _line(scored: Scored) -> dict[str, Any]:
    config, mask = scored.run.config, scored.mask
    best, worst = agreement(scored, "best"), agreement(scored, "worst")
    decisions = best.decisions + worst.decisions
    return {
        "estimator": config.estimator,
        "row": config.method.row,
        "seed": config.seed,
        "success": scored.run.summary()["success"],
        "pooled": pooled(scored.credit, scored.advantage, mask),
        "within": within(scored.credit, scored.advantage, mask),
        "preference": within(scored.preference, scored.advantage, mask),
        "pooled_ceiling": reliability(scored, pooled),
        "within_ceiling": reliability(scored, within),
        "best_hits": best.hits,
        "best_decisions": best.decisions,
        "worst_hits": worst.hits,
        "worst_decisions": worst.decisions,
        "chance": (best.chance + worst.chance) / decisions if decisions else float("nan"),
    }


def turn_table(scored: Iterable[Scored]) -> pd.DataFrame:
    """A line for each turn of each run's probe dialogues: credit, preference, truth and its standard error."""
    parts = []
    for one in scored:
        dialogue, turn = np.nonzero(one.mask)
        config = one.run.config
        at = one.mask
        columns = {"credit": one.credit[at], "preference": one.preference[at], "advantage": one.advantage[at]}
        columns |= {"se": one.truth.advantage_se.numpy()[at], "outcome": one.outcome[dialogue]}
        who = {"estimator": config.estimator, "row": config.method.row, "seed": config.seed}
        parts.append(pd.DataFrame({**who, "dialogue": dialogue, "turn": turn, **columns}))
    return pd.concat(parts, ignore_index=True)
