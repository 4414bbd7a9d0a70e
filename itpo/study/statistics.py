"""Statistics over seeds and tasks: intervals, and the rule of `docs/protocol.md` by which claims are judged.

A number that the data do not determine is ``nan``, never an exception; the docstrings say when.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import special, stats

MARGIN = 0.03  # difference of two mean outcomes that matters: 3 points
MIN_SEEDS = 6  # below, bounded quantities have no interval
HOLDS, REVERSED, SAME, OPEN = "holds", "reversed", "no difference of 3 points", "open"
EXPECTED = ("gain", "no gain")


@dataclass(frozen=True)
class Interval:
    """A mean over n seeds with a confidence interval; ``low`` and ``high`` are ``nan`` where n seeds give none.

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
        known = self.low <= self.high
        return f"{mean} [{low}, {high}]" if known else f"{mean} (no interval from {seeds})"

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


def logit_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean over seeds of a share, with an interval within 0 and 1: Student's for the logit of the mean, taken back.

    The standard error is carried to the logit by its slope 1 / (m (1 - m)), so that single seeds may be 0 or 1. No interval
    below ``MIN_SEEDS`` seeds; seeds that are equal give a point. Values that are not finite are left out. Raises
    ``ValueError`` for values outside of [0, 1].

    >>> print(logit_interval([0.9, 1.0, 1.0, 0.9, 1.0, 1.0]))
    0.967 [0.844, 0.994]
    """
    plain = t_interval(values, confidence)
    numbers = _finite(values)
    if ((numbers < 0) | (numbers > 1)).any():
        raise ValueError(f"a share lies between 0 and 1, got {numbers.min():g} to {numbers.max():g}")
    if plain.n < MIN_SEEDS:
        return Interval(plain.mean, float("nan"), float("nan"), plain.n)
    if not 0 < plain.mean < 1:
        return plain
    half = (plain.high - plain.mean) / (plain.mean * (1 - plain.mean))
    low, high = special.expit(special.logit(plain.mean) + np.array([-half, half]))
    return Interval(plain.mean, float(low), float(high), plain.n)


def fisher_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean over seeds of a correlation, with an interval within -1 and 1: Student's for the mean of Fisher's z, taken back.

    No interval below ``MIN_SEEDS`` seeds. Values that are not finite are left out; a correlation of 1 counts as 1 - 1e-6.

    >>> print(fisher_interval([0.9, 0.95, 0.8, 0.9, 0.99, 0.97]))
    0.943 [0.832, 0.982]
    """
    plain = t_interval(fisher_z(values), confidence)
    mean, low, high = np.tanh([plain.mean, plain.low, plain.high]).tolist()
    known = plain.n >= MIN_SEEDS
    return Interval(mean, low if known else float("nan"), high if known else float("nan"), plain.n)


def fisher_z(values: ArrayLike) -> Float[np.ndarray, "..."]:
    """Fisher's z of correlations, artanh r; one of 1 counts as 1 - 1e-6.

    >>> fisher_z([0.0, 0.5]).round(3).tolist()
    [0.0, 0.549]
    """
    return np.arctanh(np.clip(np.asarray(values, dtype=float), 1e-6 - 1, 1 - 1e-6))


# The interval of a mean over seeds by what is averaged: a real number, a share in [0, 1], a correlation in [-1, 1].
INTERVALS = {"real": t_interval, "share": logit_interval, "correlation": fisher_interval}


# The rule of docs/protocol.md


@dataclass(frozen=True)
class Effect:
    """A mean over tasks of means over seeds, with its standard error and degrees of freedom, from ``n`` clusters.

    A cluster is a task and a seed. ``se`` and ``df`` are ``nan`` where a task has one seed.
    """

    mean: float
    se: float
    df: float
    n: int

    def interval(self, confidence: float = 0.95) -> Interval:
        """Student's interval. No spread, as in seeds that agree to the last digit, gives a point.

        >>> print(cluster_effect([[0.1, 0.2], [0.3, 0.4]]).interval())
        0.250 [0.098, 0.402]
        """
        half = self.se * float(stats.t.ppf(0.5 + confidence / 2, self.df)) if self.se else 0.0
        return Interval(self.mean, self.mean - half, self.mean + half, self.n)

    @property
    def p(self) -> float:
        """Two-sided p-value of no effect; ``nan`` without a spread."""
        return float(2 * stats.t.sf(abs(self.mean) / self.se, self.df)) if self.se > 0 else float("nan")


def cluster_t(groups: Sequence[Float[np.ndarray, "..."]]) -> tuple[np.ndarray, ...]:
    """Mean, standard error and degrees of freedom of the mean over groups of their means over the last axis.

    Groups may differ in size and variance: the degrees of freedom are those of Welch and Satterthwaite. Source: B. L. Welch,
    The generalization of Student's problem when several different population variances are involved, Biometrika, 1947.

    >>> [round(float(x), 3) for x in cluster_t([np.array([0.1, 0.2]), np.array([0.3, 0.4])])]
    [0.25, 0.035, 2.0]
    """
    means = np.stack([group.mean(-1) for group in groups])
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.stack([group.var(-1, ddof=1) / group.shape[-1] for group in groups])
        sizes = np.stack([np.broadcast_to(group.shape[-1] - 1, group.shape[:-1]) for group in groups])
        df = parts.sum(0) ** 2 / (parts**2 / sizes).sum(0)
    return np.asarray(means.mean(0)), np.asarray(np.sqrt(parts.sum(0)) / len(groups)), np.asarray(df)


def cluster_effect(groups: Sequence[ArrayLike]) -> Effect:
    """The effect of the groups, one for each task, that hold a number for each seed: :func:`cluster_t`.

    Tasks are fixed: nothing is said of others. Numbers that are not finite, and tasks without any, are left out.

    >>> effect = cluster_effect([[0.1, 0.2, 0.3], [0.3, 0.4, float("nan")]])
    >>> print(effect.interval(), f"df = {effect.df:.2f}, p = {effect.p:.3f}, n = {effect.n}")
    0.275 [0.151, 0.399] df = 2.88, p = 0.006, n = 5
    """
    finite = [numbers for group in groups if len(numbers := _finite(group))]
    count = sum(map(len, finite))
    if not finite:
        return Effect(float("nan"), float("nan"), float("nan"), 0)
    if min(map(len, finite)) < 2:
        return Effect(float(np.mean([group.mean() for group in finite])), float("nan"), float("nan"), count)
    mean, se, df = cluster_t(finite)
    return Effect(float(mean), float(se), float(df), count)


def holm(p_values: ArrayLike) -> Float[np.ndarray, "... m"]:
    """P-values adjusted together by Holm's method, along the last axis.

    A ``nan`` stays one, and counts as a test that found nothing. Source: S. Holm, A simple sequentially rejective multiple
    test procedure, Scandinavian Journal of Statistics, 1979.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    filled = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(filled, axis=-1)
    factors = np.arange(p.shape[-1], 0, -1)
    steps = np.maximum.accumulate(np.take_along_axis(filled, order, -1) * factors, axis=-1).clip(max=1.0)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, steps, -1)
    return np.where(np.isnan(p), np.nan, adjusted)


def ruling(
    effect: Effect, expected: str = "gain", margin: float | None = MARGIN, p_adjusted: float | None = None
) -> str:
    """What the protocol says of an effect.

    A gain: its 95 % interval above 0 ``holds``, below 0 is ``reversed``; else the 90 % interval within ``margin`` of 0 (two
    one-sided tests at 5 %) is no difference that matters; else ``open``. Where ``p_adjusted`` is given, as for primary
    claims, the first two need it to be below 5 %. Without a margin, as for effects that are not in points, there is no
    third. "no gain" holds if the 90 % interval ends below the margin and the 95 % interval is not above 0, which reverses it.
    Open too where no spread was measured: one seed, or seeds that agree to the last digit.

    Errors: ValueError for another ``expected``, or for "no gain" without a positive margin.

    >>> ruling(cluster_effect([[0.1, 0.2, 0.3], [0.3, 0.4, 0.4]])), ruling(cluster_effect([[-0.01, 0.01, 0.0]]), "no gain")
    ('holds', 'holds')
    """
    if expected not in EXPECTED or (expected == "no gain" and not margin):
        raise ValueError(
            f"expected {expected!r} with margin {margin}: use 'gain', or 'no gain' with margin > 0"
        )
    if not effect.se > 0:
        return OPEN
    wide, narrow = effect.interval(), effect.interval(0.9)
    if expected == "no gain":
        return REVERSED if wide.low > 0 else HOLDS if margin is not None and narrow.high < margin else OPEN
    significant = p_adjusted is None or p_adjusted < 0.05
    if significant and (wide.low > 0 or wide.high < 0):
        return HOLDS if wide.low > 0 else REVERSED
    return SAME if margin is not None and -margin < narrow.low and narrow.high < margin else OPEN


@dataclass(frozen=True)
class Verdict:
    """What the seeds of one task say about one claim: its effect and the ruling that follows."""

    claim: str
    statement: str
    effect: Interval
    ruling: str

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
    margin: float | None = MARGIN,
    kind: str = "real",
) -> Verdict:
    """Rule on a claim from its effect in each seed of one task, by :func:`ruling`; correlations by their Fisher's z.

    ``kind`` is a key of ``INTERVALS``. Open where its interval needs more seeds.

    >>> judge("C1", "Norm-ITPO above trajectory-share", [0.1, 0.11, 0.12]).ruling
    'holds'
    """
    shown = INTERVALS[kind](effects)
    effect = cluster_effect([fisher_z(effects) if kind == "correlation" else effects])
    known = shown.low <= shown.high
    return Verdict(claim, statement, shown, ruling(effect, margin=margin) if known else OPEN)
