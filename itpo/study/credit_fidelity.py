"""Credit fidelity: how well the reward that a method gives each turn agrees with what the turn is truly worth.

Runs and measurements of :mod:`itpo.study.oracle` in, numbers out, of which :mod:`itpo.study.credit_tables` makes tables. P
dialogues of the monitor set of at most K turns, the same for every run of a task and base model. The truth is the advantage of
each turn under a policy, mostly the run's own final one. All of it is our own choice [O]; the paper compares with experts'
judgement instead [S].
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import optimize
from torch import Tensor

from itpo import attribution, prm, turns
from itpo.config import Method
from itpo.rollout.seeding import seeded
from itpo.runs.store import Run
from itpo.study.oracle import TurnValues, read
from itpo.study.ranks import spearman_rows
from itpo.training.sharing import SPEAKING

# What decides the monitor set and its judge's scores: runs that agree in these have the same.
SAME_DIALOGUES = ("task", "model", "user", "judge", "engine", "monitor_dialogues", *SPEAKING)


@dataclass(frozen=True)
class Scored:
    """The rewards of a run's method for every turn, beside the truth.

    ``credit`` is the method's own reward of each turn, summed over its tokens, before ``coef`` weighs it: shares of the
    outcome, or logits where the rewards are the PRM's (then without the outcome that may be added as a second source).
    Trajectory-share, which prefers no turn, gives each of them R. ``preference`` orders the turns of a dialogue: the shares
    before the outcome multiplies them, so that a failed dialogue has an order too, and the credit itself where rewards are no
    shares. Both are 0 where there is no turn.
    """

    run: Run
    credit: Float[np.ndarray, "P K"]
    preference: Float[np.ndarray, "P K"]
    outcome: Float[np.ndarray, " P"]
    truth: TurnValues


def true_advantage(truth: TurnValues) -> Float[np.ndarray, "P K"]:
    """The advantage of each turn, in units of the outcome, without the rounding errors that would break ties.

    >>> before, after, se = torch.tensor([[0.4, 0.0]]), torch.tensor([[0.7, 0.3]]), torch.zeros(1, 2)
    >>> truth = TurnValues(before, after, se, se, (after - before, after - before), torch.ones(1, 2, dtype=torch.bool))
    >>> truth.advantage.unique().numel(), true_advantage(truth).tolist()
    (2, [[0.3, 0.3]])
    """
    return truth.advantage.numpy().astype(np.float64).round(6)


def score_turns(run: Run, oracle: Run, method: Method | None = None) -> Scored:
    """Compute the rewards of a finished run's method for each turn of the monitor set, whose truth ``oracle`` measured.

    ``method``, left out, is the run's own; another one reads the same PRM (or critic) with other settings of (2) and (4)-(6).
    PRM and critic are those after the last step. Errors: ValueError if the oracle measured other dialogues or the policy of
    another run, or the run kept no readings that the method needs.
    """
    _check_pair(run, oracle)
    values, signals = read(oracle)
    method = run.config.method if method is None else method
    entry, ids, outcome = method.entry, signals["turn_ids"], signals["outcome"]
    inputs: dict[str, Any] = {**method.options, "turn_ids": ids, "response_mask": ids >= 0}
    inputs |= {"judge_scores": signals["judge_scores"], **_last_readings(run, ids >= 0, method)}

    def turn_rewards(outcomes: Tensor) -> Float[np.ndarray, "P K"]:
        """The rewards if the dialogues had these outcomes; a random method draws the same shares each time."""
        if entry.granularity == "trajectory":
            return (outcomes[:, None] * values.turn_mask).numpy().astype(np.float64)
        generator = seeded("fidelity", run.config.seed)
        rewards = attribution.attribute(method.name, outcome=outcomes, generator=generator, **inputs)
        return turns.aggregate(rewards.float(), ids).numpy().astype(np.float64)

    credit = turn_rewards(outcome)
    shares = entry.carries_outcome and not entry.needs_values
    preference = turn_rewards(torch.ones_like(outcome)) if shares else credit
    return Scored(run, credit, preference, outcome.numpy().astype(np.float64), values)


def _check_pair(run: Run, oracle: Run) -> None:
    measured = oracle.config
    differ = [name for name in SAME_DIALOGUES if getattr(measured.run, name) != getattr(run.config, name)]
    if differ:
        raise ValueError(
            f"the oracle measured other dialogues than those of {run.folder}, which differs in {', '.join(differ)}"
        )
    if measured.policy == "trained" and measured.run != run.config:
        raise ValueError(
            f"the oracle measured the policy of another run than {run.folder}: use OracleConfig(run.config)"
        )


def _last_readings(run: Run, mask: Bool[Tensor, "P T"], method: Method) -> dict[str, Tensor]:
    """Token rewards and values of the monitor set at the end of training, where the run has them."""
    last = saved[-1][1] if (saved := run.monitor()) else {}
    readings: dict[str, Tensor] = {}
    if "log_ratio" in last:
        rewards = prm.token_rewards(last["log_ratio"], torch.zeros_like(last["log_ratio"]), mask, method.beta)
        readings["token_rewards"] = prm.rescale(rewards, mask, method.scale)
    if "values" in last:  # kept as the run weighs them, whatever the coef of another method
        readings["values"] = last["values"].sum(0) / run.config.method.coef
    return readings


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

    A dialogue counts if its truth orders at least two turns; a method that gives all of them the same credit counts as 0
    there. ``nan`` if no dialogue counts.

    >>> credit, truth = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[0.1, 0.4], [0.3, 0.2]])
    >>> within(credit, truth, np.ones((2, 2), dtype=bool))
    0.5
    """
    return _mean_of_rows(credit, truth, mask, _ordered(truth, mask))


def _ordered(scores: Float[np.ndarray, "P K"], mask: Bool[np.ndarray, "P K"]) -> Bool[np.ndarray, " P"]:
    """Dialogues in which not all turns score the same."""
    return ~np.isnan(spearman_rows(scores, scores, mask))


def _mean_of_rows(
    first: Float[np.ndarray, "P K"],
    second: Float[np.ndarray, "P K"],
    mask: Bool[np.ndarray, "P K"],
    counted: Bool[np.ndarray, " P"],
) -> float:
    correlations = spearman_rows(first, second, mask)[counted]
    return float(np.nan_to_num(correlations).mean()) if len(correlations) else float("nan")


STATISTICS = {"pooled": pooled, "within": within}


def _rank_correlation(rho: float, items: Int[np.ndarray, " D"]) -> float:
    """Mean over D lists of so many items of the Spearman correlation expected of normal pairs correlated by ``rho``.

    Source: Moran, 1948: 6 / (pi (n + 1)) * (asin rho + (n - 2) asin(rho / 2)).
    """
    terms = np.arcsin(rho) + (items - 2) * np.arcsin(rho / 2)
    return float((6 / (np.pi * (items + 1)) * terms).mean())


def _halves_agree(truth: TurnValues, kind: str) -> tuple[float, Int[np.ndarray, " D"]]:
    """Linear correlation of the exact truth with the oracle's, squared, and the sizes of the lists that ``kind`` ranks."""
    if kind not in STATISTICS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(STATISTICS)}")
    first, second = (half.numpy().astype(np.float64).round(6) for half in truth.halves)
    mask = truth.turn_mask.numpy()
    counted = _ordered(true_advantage(truth), mask)
    r, items = pooled(first, second, mask), mask.sum(keepdims=True).ravel()
    if kind == "within":
        r, items = _mean_of_rows(first, second, mask, counted), mask.sum(1)[counted]
    if not r > 0:  # or nan: nothing to agree on, in lists of any size
        return r * 0.0, np.array([2])
    # Rounding may leave the largest possible correlation a little below 1.
    most = _rank_correlation(1.0, items)
    rho = 1.0 if r >= most else optimize.brentq(lambda x: _rank_correlation(x, items) - r, 0.0, 1.0)
    return 2 * rho / (1 + rho), items


def reliability(truth: TurnValues, kind: str) -> float:
    """How well two measurements by an oracle like this one would agree, by the statistic ``kind`` ("pooled", "within").

    The advantages of either half of the continuations are correlated, that is taken to the scale of a linear correlation rho
    (Moran's formula: a rank correlation of few items is not linear in the noise), and Spearman and Brown's 2 rho / (1 + rho) is
    that of the whole, taken back. 0 if the halves contradict each other. "Within" counts the dialogues that the whole orders.
    Errors: ValueError for another kind.

    >>> exact = torch.tensor([[0.0, 0.5, -0.5]])
    >>> zero, mask = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)
    >>> round(reliability(TurnValues(zero, exact, zero, zero, (exact, exact), mask), "within"), 6)
    1.0
    """
    return _rank_correlation(*_halves_agree(truth, kind))


def ceiling(truth: TurnValues, kind: str) -> float:
    """The fidelity that a perfect credit would show against this oracle, as noise in the truth lowers every correlation.

    The linear correlation of the exact truth with a measurement is the root of that of two measurements (correction for
    attenuation; Spearman, 1904); :func:`reliability` says how ranks are dealt with. Exact for normal advantages and noise, else
    an approximation.

    >>> exact = torch.tensor([[0.0, 0.5, -0.5]])
    >>> zero, mask = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)
    >>> ceiling(TurnValues(zero, exact, zero, zero, (exact, -exact), mask), "pooled")
    0.0
    """
    rho, items = _halves_agree(truth, kind)
    return _rank_correlation(np.sqrt(rho), items)


@dataclass(frozen=True)
class Agreement:
    """How often a method's best (or worst) turn is the oracle's: hits in a number of decisions, and the hits of a guess.

    ``places`` has the hits of whoever always names one place, from the first turn (0, 1, ...) or the last (-1, -2, ...).
    """

    hits: float
    decisions: int
    chance: float
    places: Counter[int]


def agreement(
    preference: Float[np.ndarray, "P K"], truth: TurnValues, side: str = "best", certainty: float = 2.0
) -> Agreement:
    """Compare the best (or "worst") turn of every dialogue in which the oracle is clear about which one that is.

    Clear: it leads every other turn by more than ``certainty`` standard errors of their difference. Among turns that a
    method likes equally it has to guess: their share of a hit counts. Errors: ValueError for another side.

    >>> values = torch.tensor([[0.0, 1.0, 0.0]])
    >>> zero, mask = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)
    >>> truth = TurnValues(zero, values, zero, zero, (values, values), mask)
    >>> agreement(np.array([[0.1, 0.6, 0.3]]), truth).hits, agreement(np.ones((1, 3)), truth).hits
    (1.0, 0.3333333333333333)
    >>> dict(agreement(np.ones((1, 3)), truth).places)
    {1: 1, -2: 1}
    >>> agreement(np.ones((1, 3)), truth, "worst").decisions  # two turns are worst
    0
    """
    if side not in ("best", "worst"):
        raise ValueError(f"side is {side!r}; it must be 'best' or 'worst'")
    sign = 1.0 if side == "best" else -1.0
    worth, errors = sign * true_advantage(truth), truth.advantage_se.numpy().astype(np.float64)
    hits, decisions, chance, places = 0.0, 0, 0.0, Counter[int]()
    for p, has_turn in enumerate(truth.turn_mask.numpy()):
        true, error, liked = worth[p][has_turn], errors[p][has_turn], sign * preference[p][has_turn]
        if len(true) < 2:
            continue
        top = int(true.argmax())
        lead = true[top] - np.delete(true, top)
        if (lead <= certainty * np.hypot(error[top], np.delete(error, top))).any():
            continue
        favourites = np.flatnonzero(liked == liked.max())
        hits += float(top in favourites) / len(favourites)
        decisions += 1
        chance += 1 / len(true)
        places.update((top, top - len(true)))
    return Agreement(hits, decisions, chance, places)
