"""What the inner products of gradients say: cosine, bias, noise, and what a method's credit is worth.

M things are measured (methods, and the reference, whose mean is the true gradient), N batches each. Products of two different
batches have no noise in their mean, so every number here is made of means over pairs of batches (U-statistics), and its
standard error of the same means without each batch in turn (jackknife).

>>> rng = np.random.default_rng(0)
>>> reference = np.array([1.0, 0.0]) + rng.normal(size=(40, 2))
>>> gradients = np.stack([reference, reference, np.array([1.0, 1.0]) + 0.1 * rng.normal(size=(40, 2))])
>>> names = ("reference", "trajectory_share", "turned")
>>> own, cross = gradients @ gradients.swapaxes(1, 2), gradients @ reference.T
>>> products = Products(names, own, cross)
>>> for statistic in (cosines, biases, signal_to_noise, worths):
...     print(statistic.__name__, statistic(products)[1:, 0].round(1))
cosines [0.6 0.8]
biases [1.  0.8]
signal_to_noise [  0.6 107.8]
worths [1.  3.5]
>>> microscope_table(products)[["name", "counts"]].values.tolist()
[['trajectory_share', False], ['turned', False]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from itpo.study.statistics import Interval, holm
from itpo.study.tables import BASELINE, DASH, Column, interval_columns, interval_of, p_text

LEVEL = 0.05  # of all differences at one policy together
MOST_WORTH = 100  # batches: beyond it a table says no more than that


@dataclass(frozen=True)
class Products:
    """Products of gradients: ``own[m, a, b]`` of m in batches a and b, ``cross[m, a, b]`` of m in a and the reference in b.

    ``names[0]`` is the reference. Raises ``ValueError`` unless there are as many names as layers, and at least 4 batches.
    """

    names: tuple[str, ...]
    own: Float[np.ndarray, "M N N"]
    cross: Float[np.ndarray, "M N N"]

    def __post_init__(self) -> None:
        layers, batches, _ = self.own.shape
        if len(self.names) != layers or batches < 4:
            raise ValueError(
                f"{layers} layers of products of {batches} batches, and the names {', '.join(self.names)}: pass one name for "
                "each layer, and at least 4 batches"
            )

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return self.own.shape[1]


# Means over batches and pairs of batches. The last axis is 1 + N: of all batches, then without each of them.


def pair_means(products: Float[np.ndarray, "*M N N"]) -> Float[np.ndarray, "*M J"]:
    """Mean over ordered pairs of two different batches: of all, then without the first batch, without the second, and so on.

    >>> pair_means(np.array([[9.0, 1.0, 2.0], [1.0, 9.0, 3.0], [2.0, 3.0, 9.0]])).tolist()
    [2.0, 3.0, 2.0, 1.0]
    """
    count = products.shape[-1]
    different = np.where(np.eye(count, dtype=bool), 0.0, products)
    total = different.sum((-2, -1))[..., None]
    without = (total - different.sum(-1) - different.sum(-2)) / ((count - 1) * (count - 2))
    return np.concatenate([total / (count * (count - 1)), without], axis=-1)


def batch_means(values: Float[np.ndarray, "*M N"]) -> Float[np.ndarray, "*M J"]:
    """Mean over batches: of all, then without the first, without the second, and so on.

    >>> batch_means(np.array([1.0, 2.0, 6.0])).tolist()
    [3.0, 4.0, 3.5, 1.5]
    """
    count, total = values.shape[-1], values.sum(-1, keepdims=True)
    return np.concatenate([total / count, (total - values) / (count - 1)], axis=-1)


def jackknife(values: Float[np.ndarray, " J"]) -> tuple[float, float]:
    """An estimate and its standard error, from the estimate of all batches and those without each of them.

    For a mean it is the usual standard error, s / sqrt(N). ``nan`` where one of the numbers is.

    >>> estimate, error = jackknife(batch_means(np.array([1.0, 2.0, 6.0])))
    >>> estimate, round(error, 6), round(stats.sem([1.0, 2.0, 6.0]).item(), 6)
    (3.0, 1.527525, 1.527525)
    """
    whole, without = float(values[0]), values[1:]
    count = len(without)
    return whole, float(np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()))


def _root(values: Float[np.ndarray, "*J"]) -> Float[np.ndarray, "*J"]:
    """Square roots; ``nan`` of what is not above 0: a squared length that cannot be told from noise."""
    return np.sqrt(np.where(values > 0, values, np.nan))


def cosines(products: Products) -> Float[np.ndarray, "M J"]:
    """Mean cosine between a batch's gradient and the true one; see :func:`pair_means` for the last axis.

    The gradient's direction in one batch times the reference in every other, divided by the true gradient's length, the square
    root of the mean product of the reference in two batches. So the noise of the reference does not shrink it. ``nan`` where
    the reference cannot be told from noise.
    """
    lengths = _root(np.diagonal(products.own, axis1=1, axis2=2))
    return pair_means(products.cross / lengths[:, :, None]) / _root(pair_means(products.own[0]))


def biases(products: Products) -> Float[np.ndarray, "M J"]:
    """Cosine between a method's mean gradient and the true one, without the noise of either: 1 is no bias in direction.

    Estimates may lie above 1. ``nan`` where one of the two cannot be told from noise.
    """
    squares = pair_means(products.own)
    return pair_means(products.cross) / (_root(squares) * _root(squares[0]))


def signal_to_noise(products: Products) -> Float[np.ndarray, "M J"]:
    """Squared length of a method's mean gradient, over the sum of its entries' variances in one batch.

    Below 0 where the mean cannot be told from noise.
    """
    signal = pair_means(products.own)
    with np.errstate(divide="ignore", invalid="ignore"):  # of a method that gives no gradient
        return signal / (batch_means(np.diagonal(products.own, axis1=1, axis2=2)) - signal)


def worths(products: Products, baseline: str = BASELINE) -> Float[np.ndarray, "M J"]:
    """What a method's credit is worth: how many times the batch trajectory-share would need for the same cosine.

    The gradient of an unbiased method with n times the batch has n times the signal-to-noise ratio, and with many parameters a
    ratio of s makes a cosine of sqrt(s / (1 + s)). So n is the ratio of c^2 / (1 - c^2). 0 where the cosine is not above 0,
    ``nan`` where it is not below 1.
    """
    cosine = cosines(products).clip(min=0)
    odds = cosine**2 / np.where(cosine < 1, 1 - cosine**2, np.nan)
    usual = odds[products.names.index(baseline)]
    return odds / np.where(usual > 0, usual, np.nan)


def interval(
    values: Float[np.ndarray, " J"], low: float = -np.inf, high: float = np.inf, confidence: float = 0.95
) -> Interval:
    """Student's interval by the jackknife error, N - 1 degrees of freedom; it and the estimate are within the bounds given.

    An estimate from which the noise was taken off may be beyond what is possible, such as a cosine of 1.01. Where the number
    or its error is ``nan``, the interval is of no batch: it is written as a dash.

    >>> print(interval(batch_means(np.array([0.5, 0.9, 1.0])), 0.0, 1.0))
    0.800 [0.143, 1.000]
    """
    estimate, error = jackknife(values)
    count = len(values) - 1
    half = float(stats.t.ppf(0.5 + confidence / 2, count - 1)) * error
    mean, first, last = np.clip([estimate, estimate - half, estimate + half], low, high).tolist()
    return Interval(mean, first, last, count if np.isfinite(half) else 0)


def ratio_interval(values: Float[np.ndarray, " J"]) -> Interval:
    """:func:`interval` of numbers that are above 0, by way of their logarithms; ``nan`` bounds where one of them is not.

    >>> print(ratio_interval(batch_means(np.array([1.0, 2.0, 3.0]))))
    2.000 [0.560, 7.138]
    """
    of_logs = interval(np.log(np.where(values > 0, values, np.nan)))
    return Interval(float(values[0]), float(np.exp(of_logs.low)), float(np.exp(of_logs.high)), of_logs.n)


def differences(products: Products, baseline: str = BASELINE) -> pd.DataFrame:
    """How much each cosine is above trajectory-share's, paired by batch: name, ``difference`` (interval), p, p_adjusted.

    p is that of Student's t with the jackknife error and N - 1 degrees of freedom; p_adjusted is Holm's over all lines.
    Neither the reference nor trajectory-share has a line. p is ``nan`` where a cosine is, and where no spread was measured.
    """
    every = cosines(products)
    usual, lines = every[products.names.index(baseline)], []
    for name, own in zip(products.names[1:], every[1:], strict=True):
        if name != baseline:
            estimate, error = jackknife(own - usual)
            p = 2 * float(stats.t.sf(abs(estimate) / error, products.batches - 1)) if error > 0 else np.nan
            lines.append({"name": name, **interval_columns("difference", interval(own - usual)), "p": p})
    frame = pd.DataFrame(lines)
    return frame.assign(p_adjusted=holm(frame["p"])) if len(frame) else frame


def microscope_table(products: Products, baseline: str = BASELINE) -> pd.DataFrame:
    """A line for each method: ``cosine``, ``bias``, ``snr``, ``worth``, ``difference``, all intervals; p, p_adjusted, counts.

    ``counts`` says whether the adjusted p of the difference is below ``LEVEL``.
    """
    statistics: dict[str, Any] = {
        "cosine": [interval(values, -1.0, 1.0) for values in cosines(products)],
        "bias": [interval(values, -1.0, 1.0) for values in biases(products)],
        "snr": [interval(values, 0.0) for values in signal_to_noise(products)],
        "worth": [ratio_interval(values) for values in worths(products, baseline)],
    }
    lines = []
    for number, name in enumerate(products.names):
        line: dict[str, Any] = {"name": name}
        for statistic, intervals in statistics.items():
            line |= interval_columns(statistic, intervals[number])
        lines.append(line)
    frame = pd.DataFrame(lines).merge(differences(products, baseline), on="name", how="left")
    return frame.iloc[1:].assign(counts=frame["p_adjusted"].iloc[1:] < LEVEL).reset_index(drop=True)


COLUMNS = (
    Column("method", "label"),
    Column("worth (times the batch)", lambda line: _worth_text(line)),
    Column("cosine with the true gradient", "cosine", 1.0, 2),
    Column("difference to trajectory-share", "difference", 1.0, 2, "+"),
    Column("p, adjusted", lambda line: p_text(line["p_adjusted"])),
    Column("cosine of the mean (bias)", "bias", 1.0, 2),
    Column("signal to noise", "snr", 1.0, 2),
)


def _worth_text(line: pd.Series) -> str:
    found = interval_of(line, "worth")
    if not np.isfinite([found.low, found.high]).all() or found.low >= found.high:
        return f"{found.mean:.2f}" if np.isfinite(found.mean) else DASH
    if found.high > MOST_WORTH:
        return f"{found.mean:.2f} [{found.low:.2f}, above {MOST_WORTH}]"
    return found.text(digits=2)


def _worth_range(lines: pd.DataFrame) -> str:
    least, most = lines["worth"].min(), lines["worth"].max()
    return f"{least:.1f}" if f"{least:.1f}" == f"{most:.1f}" else f"{least:.1f} to {most:.1f}"


def better_anywhere(table: pd.DataFrame, what: str) -> str:
    """Which methods have a gradient that is clearly better than trajectory-share's at some line of ``table``, in a sentence.

    ``what`` is what its lines differ in, such as "values".

    >>> table = pd.DataFrame({"label": ["iStar", "GiGPO"], "counts": [True, False], "difference": [0.1, 0.2]})
    >>> better_anywhere(table, "values")
    'Clearly better than trajectory-share at some of the values: iStar.'
    >>> better_anywhere(table[1:], "values")
    'No method is clearly better than trajectory-share at any of the values.'
    """
    better = table.loc[table["counts"] & (table["difference"] > 0), "label"].unique()
    if len(better):
        return f"Clearly better than trajectory-share at some of the {what}: {', '.join(better)}."
    return f"No method is clearly better than trajectory-share at any of the {what}."


def unknown(table: pd.DataFrame, baseline: str = BASELINE) -> list[str]:
    """Of which policies nothing can be said, as the true gradient is lost in noise: a sentence for each.

    ``table`` is :func:`itpo.study.microscope.worth_table`.

    >>> unknown(pd.DataFrame({"name": BASELINE, "policy_steps": [0, 4], "cosine": [0.3, np.nan]}))
    ['After 4 steps the true gradient cannot be told from noise: more batches are needed to compare anything with it.']
    """
    usual = table[(table["name"] == baseline) & table["cosine"].isna()]
    return [
        f"After {steps} steps the true gradient cannot be told from noise: more batches are needed to compare anything with it."
        for steps in usual["policy_steps"]
    ]


def worths_in_words(table: pd.DataFrame, name: str) -> list[str]:
    """What one method is worth at each setting of a map, a sentence for each group of settings.

    ``table`` is :func:`itpo.study.microscope.map_table`.

    >>> lines = {"group": "place", "setting": ["early", "late"], "name": "istar", "label": "iStar", "worth": [1.25, 0.5]}
    >>> worths_in_words(pd.DataFrame(lines), "istar")
    ['iStar by **place**: 1.2 (early), 0.5 (late).']
    """
    own = table[table["name"] == name]
    return [
        f"{lines['label'].iloc[0]} by **{group}**: "
        + ", ".join(f"{line.worth:.1f} ({line.setting})" for line in lines.itertuples())
        + "."
        for group, lines in own.groupby("group", sort=False)
    ]


def findings(table: pd.DataFrame, names: Sequence[str], where: str) -> list[str]:
    """A sentence for each of the methods called ``names``, counted over the lines of ``table`` that it has.

    ``table`` is :func:`itpo.study.microscope.worth_table`, and ``where`` what its lines differ in, such as "policies".

    >>> lines = {"name": "istar", "label": "iStar", "counts": [True, False], "difference": 0.1, "worth": [4.0, 2.0]}
    >>> findings(pd.DataFrame(lines), ["istar"], "policies")
    ['**iStar**: a better gradient than trajectory-share at 1 of 2 policies, worse at 0; worth 2.0 to 4.0 times the batch.']
    """
    sentences = []
    for name in names:
        lines = table[table["name"] == name].dropna(subset="worth")
        if len(lines):
            better, worse = (
                int((lines["counts"] & (sign * lines["difference"] > 0)).sum()) for sign in (1, -1)
            )
            sentences.append(
                f"**{lines['label'].iloc[0]}**: a better gradient than trajectory-share at {better} of {len(lines)} {where}, "
                f"worse at {worse}; worth {_worth_range(lines)} times the batch."
            )
    return sentences
