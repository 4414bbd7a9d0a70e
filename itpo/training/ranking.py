"""Two rankings of dialogues by a score: what the trainer logs of the PRM, and the notebooks analyse."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def ranking_auc(scores: ArrayLike, outcomes: ArrayLike) -> float:
    """Probability that a successful dialogue scores above a failed one (ties count half).

    Success is an outcome above 0.5. ``nan`` where nothing can be ranked: all dialogues succeed or fail.

    >>> ranking_auc([0.1, 0.4, 0.9], [0, 0, 1])
    1.0
    """
    scores, won = np.asarray(scores, dtype=float), np.asarray(outcomes, dtype=float) > 0.5
    if won.all() or not won.any() or np.isnan(scores).any():
        return float("nan")
    _, number, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[number]  # equal scores share the mean of their ranks
    wins = int(won.sum())
    return float((ranks[won].sum() - wins * (wins + 1) / 2) / (wins * (len(scores) - wins)))


def kendall(scores: ArrayLike, outcomes: ArrayLike) -> float:
    """Kendall's tau-b between two lists; ``nan`` where one of them is constant.

    >>> kendall([1, 2, 3], [1, 2, 3])
    1.0
    """
    scores, outcomes = np.asarray(scores, dtype=float), np.asarray(outcomes, dtype=float)
    if np.ptp(scores) == 0 or np.ptp(outcomes) == 0:
        return float("nan")
    pairs = len(scores) * (len(scores) - 1) // 2
    agreeing = sum(
        float(np.sign(scores[i] - scores[i + 1 :]) @ np.sign(outcomes[i] - outcomes[i + 1 :]))
        for i in range(len(scores) - 1)
    )
    tau = agreeing / np.sqrt(pairs - _ties(scores)) / np.sqrt(pairs - _ties(outcomes))
    return float(np.clip(tau, -1.0, 1.0))


def _ties(values: np.ndarray) -> int:
    """How many pairs are equal."""
    _, counts = np.unique(values, return_counts=True)
    return int((counts * (counts - 1) // 2).sum())
