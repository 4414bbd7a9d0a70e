"""Rankings, against scipy's, bit for bit."""

import math

import numpy as np
import pytest
from scipy import stats

from itpo.training.ranking import kendall, ranking_auc


@pytest.mark.parametrize("digits", [0, 1, 7])
@pytest.mark.parametrize("levels", [2, 3, 50])
def test_tau_and_auc_are_those_of_scipy(digits: int, levels: int) -> None:
    rng = np.random.default_rng(10 * levels + digits)
    for _ in range(60):
        count = rng.integers(2, 140)
        scores = rng.normal(size=count).round(digits).astype(np.float32)
        outcomes = rng.integers(0, levels, count) / (levels - 1)
        if np.ptp(scores) and np.ptp(outcomes):
            assert kendall(scores, outcomes) == stats.kendalltau(scores.astype(float), outcomes).statistic
        won = outcomes > 0.5
        if won.any() and not won.all():
            wins, losses = scores[won].astype(float), scores[~won].astype(float)
            above = stats.mannwhitneyu(wins, losses).statistic
            assert ranking_auc(scores, outcomes) == above / (len(wins) * len(losses))


def test_what_cannot_be_ranked_is_nan() -> None:
    for scores, outcomes in (([1, 2], [1, 1]), ([1, 1], [0, 1]), ([math.nan, 1], [0, 1]), ([2], [1])):
        assert math.isnan(kendall(scores, outcomes))
    for scores, outcomes in (([1, 2], [1, 1]), ([1, 2], [0, 0]), ([math.nan, 1], [0, 1])):
        assert math.isnan(ranking_auc(scores, outcomes))
