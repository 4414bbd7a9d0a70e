"""Statistics of the replication: arrays in, named numbers out.

n seeds, S observed steps, P dialogues of the monitor set, M items of a dialogue (turns or tokens). Equation and claim numbers
are those of the ITPO paper. A number that the data do not determine is ``nan``, never an exception; the docstrings say when.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy import stats

from itpo import turns

INCONCLUSIVE = "inconclusive at this scale"
EXPECTED = ("gain", "no gain")


def kendall_ceiling(success: float | ArrayLike, dialogues: int) -> Float[np.ndarray, "..."]:
    """The largest tau-b that scores without ties can reach against yes/no outcomes, sqrt(2 p (1 - p) n / (n - 1)).

    Between untied scores and outcomes of which a share p is 1, ``tau_b = (2 AUC - 1) * ceiling``: tau-b falls when success
    moves away from one half, however well the scores rank. Source: the definition of tau-b with n0 n1 untied pairs.

    ``nan`` where p is 0 or 1 or ``nan``. Errors: ValueError for fewer than two dialogues.

    >>> kendall_ceiling([0.5, 0.9, 1.0], dialogues=10).round(3).tolist()
    [0.745, 0.447, nan]
    """
    if dialogues < 2:
        raise ValueError(f"tau ranks pairs of dialogues, got {dialogues} dialogue(s); pass at least 2")
    share = np.asarray(success, dtype=float)
    ceiling = np.sqrt(np.clip(2 * share * (1 - share), 0, None) * dialogues / (dialogues - 1))
    return np.where((share > 0) & (share < 1), ceiling, np.nan)


@dataclass(frozen=True)
class Interval:
    """A mean over n seeds with a confidence interval; ``low`` and ``high`` are ``nan`` where n is below 2.

    >>> print(Interval(0.5, 0.4, 0.6, 3)), print(Interval(0.5, float("nan"), float("nan"), 1))
    0.500 [0.400, 0.600]
    0.500 (no interval from 1 seed)
    (None, None)
    """

    mean: float
    low: float
    high: float
    n: int

    def text(self, scale: float = 1.0, digits: int = 3, sign: str = "") -> str:
        """The interval as text, multiplied by ``scale``; ``sign="+"`` writes the sign of positive numbers too."""
        mean, low, high = (f"{scale * x:{sign}.{digits}f}" for x in (self.mean, self.low, self.high))
        seeds = f"{self.n} seed{'s' if self.n != 1 else ''}"
        return f"{mean} [{low}, {high}]" if self.n > 1 else f"{mean} (no interval from {seeds})"

    def __str__(self) -> str:
        return self.text()


def _finite(values: ArrayLike) -> Float[np.ndarray, " n"]:
    numbers = np.asarray(values, dtype=float).ravel()
    return numbers[np.isfinite(numbers)]


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean over seeds with Student's interval, mean -+ t_{n-1} s / sqrt(n).

    It has its nominal coverage at any n >= 2 if the values are normal. Values that are not finite are left out, and n
    counts the others. One value gives its mean without an interval, none gives ``nan``; equal values give a point (scipy's
    interval is ``nan`` there).

    >>> print(t_interval([0.4, 0.5, 0.6]))
    0.500 [0.252, 0.748]
    """
    numbers = _finite(values)
    n = len(numbers)
    if n < 2:
        return Interval(float(numbers[0]) if n else float("nan"), float("nan"), float("nan"), n)
    mean = float(numbers.mean())
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1) * numbers.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def share_interval(mean: float, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's interval of a share seen in n independent dialogues; for outcomes between 0 and 1 it is rather too wide.

    scipy's takes whole numbers of successes only. Raises ``ValueError`` for a mean outside [0, 1] or n below 1.

    >>> print(share_interval(0.25, 64))
    0.250 [0.160, 0.368]
    """
    if not 0 <= mean <= 1 or n < 1:
        raise ValueError(f"mean {mean} of {n}: a share of at least one dialogue lies between 0 and 1")
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return Interval(mean, max(0.0, centre - half), min(1.0, centre + half), n)


def bootstrap_interval(values: ArrayLike, rng: np.random.Generator, confidence: float = 0.95) -> Interval:
    """Mean over seeds with the percentile bootstrap's interval (9999 resamples, drawn with ``rng``).

    It cannot reach beyond the smallest and the largest value; :func:`bootstrap_coverage` says what that costs with few
    seeds. Values that are not finite, and fewer than two values, are treated as in :func:`t_interval`.

    >>> print(bootstrap_interval([0.4, 0.5, 0.6], np.random.default_rng(0)))
    0.500 [0.400, 0.600]
    """
    numbers = _finite(values)
    if len(numbers) < 2:
        return t_interval(numbers)
    result = stats.bootstrap(
        (numbers,), np.mean, confidence_level=confidence, method="percentile", rng=rng, vectorized=True
    )
    low, high = result.confidence_interval
    return Interval(float(numbers.mean()), float(low), float(high), len(numbers))


def bootstrap_coverage(seeds: int) -> float:
    """The most that a percentile bootstrap over n seeds can cover of a symmetric distribution's mean: 1 - 2^(1 - n).

    With probability 2^(1 - n) all n values lie on one side of it, and every resampled mean then does too.

    >>> bootstrap_coverage(3), bootstrap_coverage(5)
    (0.75, 0.9375)
    """
    return 1 - 2.0 ** (1 - seeds)


def area_under_curve(steps: ArrayLike, values: ArrayLike) -> float:
    """Mean height of a curve between its first and last step (trapezoids), in the units of ``values``.

    ``nan`` for fewer than two points. Errors: ValueError unless ``steps`` rises and matches ``values``.

    >>> area_under_curve([0, 10, 30], [0.0, 1.0, 1.0])
    0.8333333333333334
    """
    at, height = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    if at.shape != height.shape or at.ndim != 1 or bool((np.diff(at) <= 0).any()):
        raise ValueError(
            f"steps {at.tolist()} must rise and give one position for each of {height.size} values"
        )
    return float(np.trapezoid(height, at) / (at[-1] - at[0])) if len(at) > 1 else float("nan")


def step_above_for_good(steps: ArrayLike, values: ArrayLike, level: float) -> float:
    """First step from which a curve never falls below ``level`` again; ``nan`` if it ends below (or at ``nan``).

    >>> step_above_for_good([0, 5, 10, 15], [0.9, 0.5, 0.8, 0.9], level=0.8)
    10.0
    """
    at, above = np.asarray(steps, dtype=float), np.asarray(values, dtype=float) >= level
    if not len(at) or not above[-1]:
        return float("nan")
    below = np.flatnonzero(~above)
    return float(at[below[-1] + 1]) if len(below) else float(at[0])


def spearman_rows(
    first: Float[np.ndarray, "*rows M"],
    second: Float[np.ndarray, "*rows M"],
    mask: Bool[np.ndarray, "*rows M"],
) -> Float[np.ndarray, "*rows"]:
    """Spearman's rank correlation of two score lists, for every row at once and over the items that ``mask`` marks.

    Ties share their mean rank (scipy takes lists of one length). ``nan`` for a row with fewer than two items,
    or in which one list is constant: it has no order to compare. Scores off the mask are never read.

    >>> a, b = np.array([[1.0, 2.0, 9.0], [1.0, 1.0, 1.0]]), np.array([[5.0, 4.0, 0.0], [1.0, 2.0, 3.0]])
    >>> spearman_rows(a, b, np.array([[True, True, False], [True, True, True]])).tolist()
    [-1.0, nan]
    """
    ranks = [_centred_ranks(np.where(mask, scores, np.nan), mask) for scores in (first, second)]
    norms = np.sqrt((ranks[0] ** 2).sum(-1) * (ranks[1] ** 2).sum(-1))
    return np.divide((ranks[0] * ranks[1]).sum(-1), norms, out=np.full(norms.shape, np.nan), where=norms > 0)


def _centred_ranks(scores: Float[np.ndarray, "*rows M"], mask: Bool[np.ndarray, "*rows M"]) -> np.ndarray:
    ranks = np.where(mask, stats.rankdata(scores, axis=-1, nan_policy="omit"), 0.0)
    # Ranks are multiples of one half, so their sums are exact and a constant row is exactly zero.
    return np.where(mask, ranks - ranks.sum(-1, keepdims=True) / mask.sum(-1, keepdims=True).clip(1), 0.0)


def spearman_to_final(
    values: Float[np.ndarray, "S P M"], mask: Bool[np.ndarray, "P M"]
) -> Float[np.ndarray, "S P"]:
    """Rank correlation of each dialogue's items at each step with those at the last step (the paper's Figure 3, C5).

    The last row is 1 by construction, or ``nan`` where :func:`spearman_rows` is.

    >>> values = np.array([[[1.0, 3.0, 2.0]], [[1.0, 2.0, 3.0]]])
    >>> spearman_to_final(values, np.ones((1, 3), dtype=bool)).tolist()
    [[0.5], [1.0]]
    """
    return spearman_rows(
        values, np.broadcast_to(values[-1], values.shape), np.broadcast_to(mask, values.shape)
    )


def mean_defined(values: Float[np.ndarray, "S P"]) -> Float[np.ndarray, " S"]:
    """Mean over dialogues of each step's defined numbers; ``nan`` at a step that has none.

    >>> mean_defined(np.array([[1.0, np.nan], [np.nan, np.nan]])).tolist()
    [1.0, nan]
    """
    defined = np.isfinite(values)
    count = defined.sum(1)
    total = np.where(defined, values, 0.0).sum(1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def sample_items(
    mask: Bool[np.ndarray, "P M"], counts: Int[np.ndarray, " P"], rng: np.random.Generator
) -> Bool[np.ndarray, "P M"]:
    """Draw ``counts[p]`` of the items that ``mask`` marks in row p, without replacement, all subsets equally likely.

    A row with fewer items keeps all of them. Used to compare tokens with turns at an equal number of items [O].

    >>> sample_items(np.array([[True, True, False]]), np.array([2]), np.random.default_rng(0)).tolist()
    [[True, True, False]]
    """
    keys = np.where(mask, rng.random(mask.shape), 2.0)
    return mask & (keys.argsort(1).argsort(1) < counts[:, None])


def shuffle_items(mask: Bool[np.ndarray, "P M"], rng: np.random.Generator) -> Int[np.ndarray, "P M"]:
    """A random permutation of the marked positions of every row, as indices; the other positions stay.

    ``np.take_along_axis(values, shuffle_items(mask, rng), 1)`` moves a dialogue's values among its assistant tokens, so
    that its turns become random groups of tokens of the same sizes [O].

    >>> shuffle_items(np.array([[True, False, True]]), np.random.default_rng(1)).tolist()
    [[2, 1, 0]]
    """
    # Both orders list the marked positions first: the plain one by position, the random one by a random key.
    plain = np.argsort(np.where(mask, 0.0, 1.0), axis=1, kind="stable")
    drawn = np.argsort(np.where(mask, rng.random(mask.shape), 2.0), axis=1, kind="stable")
    result = np.empty(mask.shape, dtype=np.int64)
    np.put_along_axis(result, plain, drawn, 1)
    return result


def sum_turns(
    values: Float[np.ndarray, "S P T"], turn_ids: Int[np.ndarray, "P T"]
) -> Float[np.ndarray, "S P K"]:
    """Equation (4) at each of S steps: :func:`itpo.turns.aggregate` for arrays.

    >>> sum_turns(np.array([[[1.0, 2.0, 9.0, 4.0]]]), np.array([[0, 0, -1, 1]])).tolist()
    [[[3.0, 4.0]]]
    """
    ids = torch.from_numpy(turn_ids)
    return np.stack([turns.aggregate(torch.from_numpy(step), ids).numpy() for step in values])


def rank_stability(
    token_rewards: Float[np.ndarray, "S P T"],
    turn_ids: Int[np.ndarray, "P T"],
    rng: np.random.Generator,
    draws: int = 20,
) -> dict[str, Float[np.ndarray, " S"]]:
    """How far the order within a dialogue is that of the last step, for turns (4), tokens (2) and two controls [O].

    Keys: "turns"; "tokens"; "few tokens", as many random tokens as the dialogue has turns, since short rankings and long
    ones are not alike; "token groups", token rewards shuffled in their dialogue before they are summed over turns of
    the same sizes, which tells what summing alone does. The controls are means over ``draws``. Each number is a mean
    over the dialogues in which it is defined.

    >>> rewards = np.array([[[1.0, 5.0, 0.0, 2.0]], [[1.0, 2.0, 0.0, 4.0]]])
    >>> curves = rank_stability(rewards, np.array([[0, 0, -1, 1]]), np.random.default_rng(0))
    >>> curves["turns"].round(1).tolist(), curves["tokens"].round(1).tolist()
    ([-1.0, 1.0], [0.5, 1.0])
    """
    token_mask = turn_ids >= 0
    turn_mask = turns.turn_mask(torch.from_numpy(turn_ids)).numpy()
    few, groups = [], []
    for _ in range(draws):
        some = sample_items(token_mask, turn_mask.sum(1), rng)
        few.append(mean_defined(spearman_to_final(token_rewards, some)))
        shuffled = np.take_along_axis(token_rewards, shuffle_items(token_mask, rng)[None], 2)
        groups.append(mean_defined(spearman_to_final(sum_turns(shuffled, turn_ids), turn_mask)))
    return {
        "turns": mean_defined(spearman_to_final(sum_turns(token_rewards, turn_ids), turn_mask)),
        "tokens": mean_defined(spearman_to_final(token_rewards, token_mask)),
        "few tokens": np.mean(few, axis=0),
        "token groups": np.mean(groups, axis=0),
    }


def relative_to_largest(values: Float[np.ndarray, "S M"]) -> Float[np.ndarray, "S M"]:
    """Divide every row by its largest absolute value, so that it lies in [-1, 1] and keeps its signs; zeros stay zeros.

    >>> relative_to_largest(np.array([[1.0, -2.0], [0.0, 0.0]])).tolist()
    [[0.5, -1.0], [0.0, 0.0]]
    """
    largest = np.abs(values).max(-1, keepdims=True)
    return np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)


@dataclass(frozen=True)
class Verdict:
    """What the data say about one claim: its effect over seeds and the ruling that follows by the stated rule."""

    claim: str
    statement: str
    effect: Interval
    ruling: str
    rule: str

    def sentence(self, scale: float = 100.0, digits: int = 1, unit: str = "points") -> str:
        """The verdict in one sentence, its effect multiplied by ``scale``."""
        size = self.effect.text(scale, digits, "+")
        if self.effect.n > 1:
            size += f"{' ' * bool(unit)}{unit}, n = {self.effect.n} seeds"
        return f"**{self.claim}** ({self.statement}): {size}: **{self.ruling}**."


def judge(
    claim: str,
    statement: str,
    effects: ArrayLike,
    expected: str = "gain",
    margin: float = 0.0,
    confidence: float = 0.95,
) -> Verdict:
    """Rule on a claim from its effect in each seed, by the t-interval of their mean.

    ``expected="gain"``: replicated if the whole interval lies above 0, not replicated if it lies below, else inconclusive.
    ``expected="no gain"`` (a claim of absence, which a wide interval must not pass): not replicated if the whole
    interval lies above 0, replicated if it ends below ``margin``, the smallest gain that would matter, else
    inconclusive. Inconclusive too where no spread was measured: one seed, or seeds that agree to the last digit,
    whose interval is a point by accident.

    Errors: ValueError for another ``expected``, or for "no gain" without a positive margin.

    >>> judge("C1", "Norm-ITPO beats trajectory-share", [0.1, 0.11, 0.12]).ruling
    'replicated'
    >>> judge("C4", "uniform gives no gain", [0.0, 0.3, -0.3], "no gain", margin=0.03).ruling
    'inconclusive at this scale'
    """
    if expected not in EXPECTED or (expected == "no gain" and margin <= 0):
        raise ValueError(
            f"expected {expected!r} with margin {margin}: use 'gain', or 'no gain' with margin > 0"
        )
    effect = t_interval(effects, confidence)
    level = f"{confidence:.0%} interval"
    if expected == "gain":
        rule = f"{level} above 0: replicated; below 0: not replicated; else {INCONCLUSIVE}"
    else:
        rule = f"{level} above 0: not replicated; ends below {margin:.3g}: replicated; else {INCONCLUSIVE}"
    return Verdict(claim, statement, effect, ruling(effect, expected, margin), rule)


def ruling(interval: Interval, expected: str, margin: float) -> str:
    """What the rule of :func:`judge` says of any interval, a bootstrap's too.

    >>> ruling(Interval(0.2, 0.1, 0.3, 9), "gain", 0.0), ruling(Interval(0.0, -0.1, 0.1, 9), "no gain", 0.03)
    ('replicated', 'inconclusive at this scale')
    """
    if not interval.low < interval.high:  # a point by accident, or nan
        return INCONCLUSIVE
    if expected == "gain":
        held, failed = interval.low > 0, interval.high < 0
    else:
        held, failed = interval.low <= 0 and interval.high < margin, interval.low > 0
    return "replicated" if held else "not replicated" if failed else INCONCLUSIVE
