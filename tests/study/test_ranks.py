"""Rankings against brute force and scipy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from itpo.study import ranks
from itpo.training import ranking

SEEDS = st.integers(0, 2**16)


def concordance(a: np.ndarray, b: np.ndarray) -> tuple[int, int, int]:
    """Concordant minus discordant pairs, and the pairs untied in each list, by counting."""
    pairs = list(itertools.combinations(range(len(a)), 2))
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in pairs]
    return int(sum(x * y for x, y in signs)), sum(x != 0 for x, _ in signs), sum(y != 0 for _, y in signs)


def ragged(seed: int, rows: int = 6, items: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two score lists with ties, and a mask whose rows have 0 to ``items`` items."""
    rng = np.random.default_rng(seed)
    mask = np.arange(items) < rng.integers(0, items + 1, rows)[:, None]
    return rng.integers(0, 4, (rows, items)) * 1.0, rng.integers(0, 4, (rows, items)) * 1.0, mask


# Rankings of dialogues


@given(SEEDS)
def test_kendall_counts_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, outcomes = rng.integers(0, 5, 9) * 1.0, rng.integers(0, 2, 9) * 1.0
    surplus, untied, untied_outcomes = concordance(scores, outcomes)
    if untied and untied_outcomes:
        expected = surplus / math.sqrt(untied * untied_outcomes)
        assert ranking.kendall(scores, outcomes) == pytest.approx(expected)
    else:
        assert math.isnan(ranking.kendall(scores, outcomes))


@given(SEEDS)
def test_auc_counts_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, won = rng.integers(0, 4, 9), rng.random(9) > 0.5
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[won] for b in scores[~won]]
    assert ranking.ranking_auc(scores, won) == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True)


@given(SEEDS, st.integers(2, 12))
def test_kendall_is_auc_times_its_ceiling(seed: int, dialogues: int) -> None:
    rng = np.random.default_rng(seed)
    scores, outcomes = rng.permutation(dialogues), (rng.random(dialogues) > 0.5) * 1.0
    ceiling = float(ranks.kendall_ceiling(outcomes.mean(), dialogues))
    expected = (2 * ranking.ranking_auc(scores, outcomes) - 1) * ceiling
    assert ranking.kendall(scores, outcomes) == pytest.approx(expected, nan_ok=True)


@given(SEEDS, st.integers(2, 12))
def test_no_untied_score_ranks_better_than_its_ceiling(seed: int, dialogues: int) -> None:
    """It is the tau-b of scores that follow the outcomes, ties broken anyhow; the formula for yes or no agrees."""
    rng = np.random.default_rng(seed)
    for outcomes in (rng.integers(0, 4, dialogues) / 3, rng.integers(0, 2, dialogues) * 1.0):
        best = ranking.kendall(outcomes + 0.01 * rng.permutation(dialogues), outcomes)
        assert ranks.tau_ceiling(outcomes) == pytest.approx(best, nan_ok=True)
    expected = ranks.kendall_ceiling(outcomes.mean(), dialogues)
    assert ranks.tau_ceiling(outcomes) == pytest.approx(float(expected), nan_ok=True)


def test_ceiling_needs_two_dialogues() -> None:
    for measure in (lambda: ranks.kendall_ceiling(0.5, 1), lambda: ranks.tau_ceiling([0.5])):
        with pytest.raises(ValueError, match="at least 2"):
            measure()


@given(st.lists(st.sampled_from([0.2, 0.8, 0.9, math.nan]), max_size=6))
def test_step_above_for_good_is_the_first_that_lasts(values: list[float]) -> None:
    lasting = [s for s in range(len(values)) if all(v >= 0.8 for v in values[s:])]
    expected = float(lasting[0]) if lasting else math.nan
    assert ranks.step_above_for_good(range(len(values)), values, 0.8) == pytest.approx(expected, nan_ok=True)


# Rankings inside dialogues


@given(SEEDS)
def test_spearman_rows_is_scipys_on_every_row(seed: int) -> None:
    first, second, mask = ragged(seed)
    for a, b, keep, found in zip(first, second, mask, ranks.spearman_rows(first, second, mask), strict=True):
        a, b = a[keep], b[keep]
        defined = len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0
        assert found == pytest.approx(stats.spearmanr(a, b).statistic if defined else np.nan, nan_ok=True)


@given(SEEDS)
def test_spearman_sees_order_only_and_nothing_off_the_mask(seed: int) -> None:
    first, second, mask = ragged(seed)
    expected = ranks.spearman_rows(first, second, mask)
    stretched = np.where(mask, np.exp(first), np.inf)
    wider = [np.pad(x, ((0, 0), (0, 2)), constant_values=9.0) for x in (stretched, second)]
    found = ranks.spearman_rows(wider[0], wider[1], np.pad(mask, ((0, 0), (0, 2))))
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(ranks.spearman_rows(-first, second, mask), -expected)


def test_spearman_to_final_ends_at_one_or_nan() -> None:
    values = np.random.default_rng(0).random((4, 3, 5))
    values[:, 2] = 1.0
    found = ranks.spearman_to_final(values, np.ones((3, 5), dtype=bool))
    assert found.shape == (4, 3)
    np.testing.assert_array_equal(found[-1], [1.0, 1.0, np.nan])
    np.testing.assert_allclose(ranks.mean_defined(found)[0], found[0, :2].mean())


@given(SEEDS)
def test_samples_and_shuffles_keep_to_the_mask(seed: int) -> None:
    values, _, mask = ragged(seed)
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, len(mask))
    drawn = ranks.sample_items(mask, counts, rng)
    assert not (drawn & ~mask).any()
    np.testing.assert_array_equal(drawn.sum(1), np.minimum(counts, mask.sum(1)))
    shuffled = np.take_along_axis(values, ranks.shuffle_items(mask, rng), 1)
    np.testing.assert_array_equal(shuffled[~mask], values[~mask])
    for before, after, keep in zip(values, shuffled, mask, strict=True):
        assert sorted(before[keep]) == sorted(after[keep])


def test_samples_and_shuffles_are_uniform() -> None:
    mask, rng = np.tile([True, False, True, True], (6000, 1)), np.random.default_rng(0)
    chosen = ranks.sample_items(mask, np.full(len(mask), 2), rng).mean(0)
    np.testing.assert_allclose(chosen, [2 / 3, 0, 2 / 3, 2 / 3], atol=0.02)
    orders = {tuple(row) for row in ranks.shuffle_items(mask, rng).tolist()}
    assert len(orders) == 6 and all(row[1] == 1 for row in orders)


def test_rank_stability_is_a_loop_over_dialogues() -> None:
    rng = np.random.default_rng(0)
    rewards, ids = rng.random((3, 4, 12)), np.tile([0, 0, 0, -1, 1, 1, 1, -1, 2, 2, 2, 2], (4, 1))
    found = ranks.rank_stability(rewards, ids, rng)
    for step in range(3):
        tokens, turns = [], []
        for p in range(4):
            now, end = rewards[step, p], rewards[-1, p]
            sums = [[row[ids[p] == k].sum() for k in range(3)] for row in (now, end)]
            turns.append(stats.spearmanr(*sums).statistic)
            tokens.append(stats.spearmanr(now[ids[p] >= 0], end[ids[p] >= 0]).statistic)
        assert found["turns"][step] == pytest.approx(np.mean(turns))
        assert found["tokens"][step] == pytest.approx(np.mean(tokens))
    assert all(values[-1] == pytest.approx(1.0) for values in found.values())


def test_controls_of_rank_stability_do_what_they_are_for() -> None:
    """Where a stable part belongs to whole turns, summing shuffled tokens must lose it; single tokens hardly see it."""
    rng, ids = np.random.default_rng(0), np.tile(np.repeat([0, 1, 2, 3], 8), (200, 1))
    by_turn = rng.normal(size=(200, 4)).repeat(8, axis=1)
    noise = rng.normal(size=(2, 200, 32))
    found = ranks.rank_stability(0.5 * by_turn + noise, ids, rng, draws=5)
    assert found["turns"][0] > found["token groups"][0] + 0.1
    assert found["turns"][0] > found["few tokens"][0] + 0.1
    assert found["few tokens"][0] == pytest.approx(found["tokens"][0], abs=0.05)


def test_relative_rewards_keep_signs() -> None:
    values = np.random.default_rng(0).normal(size=(5, 4))
    found = ranks.relative_to_largest(values)
    np.testing.assert_allclose(np.abs(found).max(1), 1.0)
    np.testing.assert_array_equal(np.sign(found), np.sign(values))
