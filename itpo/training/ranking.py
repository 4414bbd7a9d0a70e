"""Two rankings of dialogues by a score: what the trainer logs of the PRM, and the notebooks analyse."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def ranking_auc(scores: ArrayLike, outcomes: ArrayLike) -> float:
    """Probability that a successful dialogue scores above a failed one (ties count half).

    Success is an outcome above 0.5. ``nan`` where all dialogues succeed or all fail: nothing can be ranked.

    >>> ranking_auc([0.1, 0.4, 0.9], [0, 0, 1])
    1.0
    """
    scores, won = np.asarray(scores, dtype=float), np.asarray(outcomes, dtype=float) > 0.5
    if won.all() or not won.any():
        return float("nan")
    ranks = stats.rankdata(scores)
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
    return float(stats.kendalltau(scores, outcomes).statistic)
