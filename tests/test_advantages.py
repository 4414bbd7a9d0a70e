"""Advantage estimators against loops over lists, their invariances, and the released baseline's bias."""

import math
import statistics
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itpo import advantages

# Outcome 1 split evenly over 1, 2 and 4 turns by three rollouts of one prompt.
TURN_COUNTS = torch.tensor(
    [[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]],
    dtype=torch.float64,
)


def kept_of(rewards, mask):
    """The rewards at the masked positions of each row, as lists."""
    return [[r for r, k in zip(*pair, strict=True) if k] for pair in zip(rewards, mask, strict=True)]


def ids_of(group, rows):
    """The group of every row: as it is, or by the size of groups of consecutive rows."""
    return [i // group for i in range(rows)] if isinstance(group, int) else group.tolist()


def rest_of_group(kept, i, group):
    """The rewards of the other rollouts of row i's prompt, but of those that have none."""
    ids = ids_of(group, len(kept))
    return [other for j, other in enumerate(kept) if j != i and ids[j] == ids[i] and other]


def brute_released(rewards, mask, n):
    kept = kept_of(rewards, mask)
    result = []
    for i, (row, keep) in enumerate(zip(rewards, mask, strict=True)):
        others = [statistics.fmean(other) for other in rest_of_group(kept, i, n)]
        # r n/(n-1) - sum_j m_j/(n-1): r less the others' mean, plus what r exceeds its own row's mean by, over n-1.
        result.append([0.0] * len(row))
        for t, r in enumerate(row):
            if keep[t] and others:
                own = (r - statistics.fmean(kept[i])) / len(others)
                result[i][t] = r - statistics.fmean(others) + own
            elif keep[t]:
                result[i][t] = r
    return result


def brute_trajectory_returns(rewards, mask, n):
    """Reward-to-go of each masked token, less the mean total of the other rollouts of the prompt."""
    kept = kept_of(rewards, mask)
    result = []
    for i, keep in enumerate(mask):
        others = [sum(other) for other in rest_of_group(kept, i, n)]
        baseline = statistics.fmean(others) if others else 0.0
        # The masked rewards before position t are not in its reward-to-go.
        togo = [sum(kept[i][sum(keep[:t]) :]) for t in range(len(keep))]
        result.append([g - baseline if k else 0.0 for g, k in zip(togo, keep, strict=True)])
    return result


def brute_to_go(rewards, mask, n):
    """Reward-to-go of each masked token, less the mean of those of the prompt's other rollouts with as many before."""
    kept = kept_of(rewards, mask)
    result = []
    for i, keep in enumerate(mask):
        result.append([0.0] * len(keep))
        for t in (t for t, k in enumerate(keep) if k):
            k = sum(keep[:t])
            others = [sum(other[k:]) for other in rest_of_group(kept, i, n) if len(other) > k]
            result[i][t] = sum(kept[i][k:]) - (statistics.fmean(others) if others else 0.0)
    return result


def drop_rows(data, mask):
    """Take the reward positions of some rows away, as of dialogues that were dropped."""
    dropped = data.draw(st.lists(st.booleans(), min_size=len(mask), max_size=len(mask)))
    return mask & ~torch.tensor(dropped)[:, None]


def draw_groups(data, rows):
    """Ids of groups of any size, a single row too, in any order and of any value."""
    values = st.sampled_from([0, 1, -7, 2**62])
    return torch.tensor(data.draw(st.lists(values, min_size=rows, max_size=rows)))


@given(data=st.data())
def test_rloo_against_loops(batches, data):
    batch = data.draw(batches)
    rewards, mask = batch.token_rewards, drop_rows(data, batch.response_mask)
    n = data.draw(st.sampled_from([batch.group_size, draw_groups(data, len(rewards))]))
    released = advantages.rloo(rewards, mask, n)
    expected = torch.tensor(brute_released(rewards.tolist(), mask.tolist(), n), dtype=torch.float64)
    torch.testing.assert_close(released, expected)
    whole = advantages.returns(advantages.rloo(rewards, mask, n, baseline="trajectory"), mask)
    expected = torch.tensor(brute_trajectory_returns(rewards.tolist(), mask.tolist(), n), dtype=torch.float64)
    torch.testing.assert_close(whole, expected)
    still = advantages.returns(advantages.rloo(rewards, mask, n, baseline="to_go"), mask)
    expected = torch.tensor(brute_to_go(rewards.tolist(), mask.tolist(), n), dtype=torch.float64)
    torch.testing.assert_close(still, expected)


def test_released_baseline_is_biased_by_turn_counts():
    baselined = advantages.rloo(TURN_COUNTS, TURN_COUNTS > 0, 3)
    torch.testing.assert_close(
        advantages.returns(baselined, TURN_COUNTS > 0)[:, 0],
        torch.tensor([0.625, -0.25, -2.0], dtype=torch.float64),
    )


@pytest.mark.parametrize("baseline", ["trajectory", "to_go"])
def test_the_other_baselines_have_no_such_bias(baseline):
    baselined = advantages.rloo(TURN_COUNTS, TURN_COUNTS > 0, 3, baseline)
    first = advantages.returns(baselined, TURN_COUNTS > 0)[:, 0]
    torch.testing.assert_close(first, torch.zeros(3, dtype=torch.float64))


def test_to_go_compares_a_turn_with_those_that_got_as_far():
    returns = advantages.returns(
        advantages.rloo(TURN_COUNTS, TURN_COUNTS > 0, 3, baseline="to_go"), TURN_COUNTS > 0
    )
    # The second turn of the dialogue of two has 1/2 to come, that of the dialogue of four 3/4, which goes on alone after it.
    expected = [[0, 0, 0, 0], [0, -0.25, 0, 0], [0, 0.25, 0.5, 0.25]]
    torch.testing.assert_close(returns, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("baseline", advantages.BASELINES)
def test_all_baselines_are_leave_one_out_for_one_reward_a_row(baseline):
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.5]])
    mask = torch.tensor([[False, True]] * 3)
    expected = torch.tensor([[0.0, 0.75], [0.0, -0.75], [0.0, 0.0]])
    torch.testing.assert_close(advantages.rloo(rewards, mask, 3, baseline), expected)


@pytest.mark.parametrize("baseline", advantages.BASELINES)
@given(data=st.data())
def test_a_group_is_the_same_alone_among_others_and_padded(batches, baseline, data):
    batch = data.draw(batches)
    rewards, mask, n = batch.token_rewards, batch.response_mask, batch.group_size
    together = advantages.rloo(rewards, mask, n, baseline)
    torch.testing.assert_close(advantages.rloo(rewards[-n:], mask[-n:], n, baseline), together[-n:])
    # Rows change places inside their groups, and groups among each other.
    order = torch.arange(len(mask)).view(-1, n).flip(0, 1).flatten()
    torch.testing.assert_close(advantages.rloo(rewards[order], mask[order], n, baseline), together[order])
    pad = torch.nn.functional.pad
    wide = advantages.rloo(pad(rewards, (0, 2), value=9.0), pad(mask, (0, 2)), n, baseline)
    torch.testing.assert_close(wide, pad(together, (0, 2)))


@pytest.mark.parametrize("baseline", advantages.BASELINES)
def test_a_group_of_one_keeps_its_rewards(baseline):
    mask = torch.tensor([[True, False], [True, True]])
    rewards = torch.tensor([[1.0, 9.0], [0.5, 0.25]])
    assert advantages.rloo(rewards, mask, 1, baseline).tolist() == [[1.0, 0.0], [0.5, 0.25]]


@pytest.mark.parametrize("baseline", advantages.BASELINES)
def test_a_row_without_reward_positions_is_left_out_of_its_group(baseline):
    rewards = torch.tensor([[1.0, 0.5], [7.0, 7.0], [0.25, 7.0], [7.0, 7.0], [1.0, 0.5], [7.0, 7.0]])
    mask = torch.tensor([[True, True], [False, False], [True, False]] + [[False, False]] + [[True, True]])
    mask = torch.cat([mask, torch.tensor([[False, False]])])
    result = advantages.rloo(rewards, mask, 3, baseline)
    # Two rows of the first group remain, and are a group of two.
    assert torch.equal(result[[0, 2]], advantages.rloo(rewards[[0, 2]], mask[[0, 2]], 2, baseline))
    # The one that remains of the second group has nobody to be compared with.
    assert result[3:].tolist() == [[0.0, 0.0], [1.0, 0.5], [0.0, 0.0]]
    assert result[1].tolist() == [0.0, 0.0]


@given(data=st.data())
def test_grpo_against_the_standard_library(batches, data):
    batch = data.draw(batches)
    rewards, mask = batch.token_rewards, drop_rows(data, batch.response_mask)
    n = data.draw(st.sampled_from([batch.group_size, draw_groups(data, len(rewards))]))
    result = advantages.grpo(rewards, mask, n)
    assert (result[~mask] == 0).all()
    ids = torch.tensor(ids_of(n, len(rewards)))
    for one in ids.unique():
        group, keep = rewards[ids == one], mask[ids == one]
        kept, actual = group[keep].tolist(), result[ids == one][keep]
        if len(kept) < 2:
            assert (actual == 0).all()
        else:
            scaled = [(r - statistics.fmean(kept)) / statistics.stdev(kept) for r in kept]
            # What the 1e-8 added to the variance changes.
            rtol = 1e-8 / statistics.variance(kept)
            torch.testing.assert_close(actual, torch.tensor(scaled).to(actual), rtol=rtol, atol=1e-5)


@given(data=st.data())
def test_grpo_of_a_group_is_the_same_alone_among_others_padded_and_in_any_order(batches, data):
    batch = data.draw(batches)
    rewards, mask, n = batch.token_rewards, batch.response_mask, batch.group_size
    together = advantages.grpo(rewards, mask, n)
    torch.testing.assert_close(advantages.grpo(rewards[-n:], mask[-n:], n), together[-n:])
    order = torch.arange(len(mask)).view(-1, n).flip(0, 1).flatten()
    torch.testing.assert_close(advantages.grpo(rewards[order], mask[order], n), together[order])
    pad = torch.nn.functional.pad
    wide = advantages.grpo(pad(rewards, (0, 2), value=9.0), pad(mask, (0, 2)), n)
    torch.testing.assert_close(wide, pad(together, (0, 2)))
    torch.testing.assert_close(advantages.grpo(1000 * rewards + 5, mask, n), together, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(advantages.grpo(rewards, mask, len(mask)), advantages.whiten(rewards, mask))


# Every estimator that compares the rollouts of a group.
COMPARED = {name: partial(advantages.rloo, baseline=name) for name in advantages.BASELINES}
COMPARED["grpo"] = advantages.grpo
compared = pytest.mark.parametrize("estimator", COMPARED.values(), ids=COMPARED)


@compared
@given(data=st.data())
def test_equal_groups_are_the_same_by_size_and_by_ids(batches, estimator, data):
    batch = data.draw(batches)
    rewards, mask, n = batch.token_rewards, drop_rows(data, batch.response_mask), batch.group_size
    names = torch.randperm(len(mask) // n, generator=torch.Generator().manual_seed(0)) - 2
    # Bit for bit: the recorded runs know sizes alone.
    assert torch.equal(estimator(rewards, mask, names.repeat_interleave(n)), estimator(rewards, mask, n))


@compared
@given(data=st.data())
def test_neither_the_order_of_rows_nor_other_groups_nor_names_matter(batches, estimator, data):
    batch = data.draw(batches)
    rewards, mask = batch.token_rewards, drop_rows(data, batch.response_mask)
    ids = draw_groups(data, len(mask))
    whole = estimator(rewards, mask, ids)
    order = torch.tensor(data.draw(st.permutations(range(len(mask)))))
    torch.testing.assert_close(estimator(rewards[order], mask[order], ids[order]), whole[order])
    torch.testing.assert_close(estimator(rewards, mask, 3 - ids), whole)
    part = torch.isin(ids, ids.unique()[: data.draw(st.integers(0, 4))])
    for rows in (part, ~part):
        torch.testing.assert_close(estimator(rewards[rows], mask[rows], ids[rows]), whole[rows])


def test_grpo_is_biased_by_turn_counts_too():
    first = advantages.returns(advantages.grpo(TURN_COUNTS, TURN_COUNTS > 0, 3), TURN_COUNTS > 0)[:, 0]
    # Seven reward positions of mean 3/7 and variance 13/168.
    expected = (1 - torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64) * 3 / 7) / math.sqrt(13 / 168)
    torch.testing.assert_close(first, expected)


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567, 1e6])
def test_groups_that_cannot_be_normalised_give_exact_zeros(value):
    rewards = torch.tensor([[value, value], [value, 7.0], [3.0, 7.0], [7.0, 7.0], [1.0, 2.0], [3.0, 7.0]])
    mask = torch.tensor([[True, True], [True, False], [True, False]] + [[False, False]] + [[True, True]])
    mask = torch.cat([mask, torch.tensor([[True, False]])])
    result = advantages.grpo(rewards, mask, 2)
    # Equal rewards, and a single one beside a row that was dropped; the third group is an ordinary one.
    assert torch.equal(result[:4], torch.zeros(4, 2))
    torch.testing.assert_close(result[4:], torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))


def brute_gae(rewards, values, gamma, lam):
    """Advantages of one dialogue from the sum that defines them; only its assistant tokens are passed."""
    steps = range(len(rewards))
    ahead = [*values[1:], 0.0]
    delta = [rewards[t] + gamma * ahead[t] - values[t] for t in steps]
    return [sum((gamma * lam) ** (s - t) * delta[s] for s in steps if s >= t) for t in steps]


factors = st.sampled_from([0.0, 0.5, 0.95, 1.0])


@given(data=st.data(), gamma=factors, lam=factors)
def test_gae_against_its_definition(batches, data, gamma, lam):
    batch = data.draw(batches)
    rewards, mask = batch.token_rewards, batch.response_mask
    values = rewards.roll(1, -1) / 2
    actual, targets = advantages.gae(rewards, values, mask, gamma, lam)
    for i, keep in enumerate(mask):
        expected = brute_gae(rewards[i, keep].tolist(), values[i, keep].tolist(), gamma, lam)
        torch.testing.assert_close(actual[i, keep], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(targets[mask], (actual + values)[mask])
    assert (actual[~mask] == 0).all() and (targets[~mask] == 0).all()


@given(data=st.data())
def test_gae_steps_over_user_tokens_and_padding(batches, data):
    batch = data.draw(batches)
    rewards, mask, values = batch.token_rewards, batch.response_mask, batch.token_rewards.roll(1, -1)
    plain = advantages.gae(rewards, values, mask, 0.9, 0.8)
    # Two tokens that are not the assistant's are put after every token.
    spread = torch.arange(mask.shape[1]) * 3
    wide = []
    for source, junk in ((rewards, math.nan), (values, math.inf), (mask, False)):
        wide.append(torch.full((len(mask), 3 * mask.shape[1]), junk, dtype=source.dtype))
        wide[-1][:, spread] = source
    for narrow, stretched in zip(plain, advantages.gae(*wide, 0.9, 0.8), strict=True):
        torch.testing.assert_close(stretched[:, spread], narrow)
        assert stretched.count_nonzero() == narrow.count_nonzero()


@given(data=st.data())
def test_gae_without_discount_is_the_return_less_the_value(batches, data):
    batch = data.draw(batches)
    rewards, mask, values = batch.token_rewards, batch.response_mask, batch.token_rewards.roll(1, -1)
    actual, targets = advantages.gae(rewards, values, mask)
    expected = advantages.returns(rewards, mask)
    torch.testing.assert_close(targets, expected)
    torch.testing.assert_close(actual, torch.where(mask, expected - values, 0))


@given(data=st.data(), gamma=factors, lam=factors)
def test_gae_of_sums_is_the_sum_of_gaes(batches, data, gamma, lam):
    batch = data.draw(batches)
    mask, rewards = batch.response_mask, (batch.token_rewards, batch.token_rewards.roll(1, -1).square())
    values = (batch.token_rewards.roll(2, -1), batch.token_rewards.roll(1, 0) - 1)
    whole = advantages.gae(sum(rewards), sum(values), mask, gamma, lam)
    parts = [advantages.gae(r, v, mask, gamma, lam) for r, v in zip(rewards, values, strict=True)]
    for total, first, second in zip(whole, *parts, strict=True):
        torch.testing.assert_close(total, first + second)


@given(data=st.data())
def test_explained_variance_against_the_standard_library(batches, data):
    batch = data.draw(batches)
    mask, targets, values = batch.response_mask, batch.token_rewards, batch.token_rewards.roll(1, -1)
    actual = advantages.explained_variance(values, targets, mask)
    kept = targets[mask].tolist()
    if len(kept) < 2:
        assert actual.isnan()
        return
    left = (targets - values)[mask].tolist()
    expected = 1 - statistics.variance(left) / statistics.variance(kept)
    assert actual.item() == pytest.approx(expected, rel=1e-9)
    half = advantages.explained_variance(targets / 2, targets, mask)
    assert half.item() == pytest.approx(0.75)  # half of the spread is left, a quarter of its square


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567, 1e6])
def test_returns_that_do_not_vary_cannot_be_explained(value):
    mask = torch.ones(7, 13, dtype=torch.bool)
    values = torch.randn(7, 13, generator=torch.Generator().manual_seed(0))
    assert advantages.explained_variance(values, torch.full((7, 13), value), mask).isnan()


@given(data=st.data())
def test_returns_against_loops(batches, data):
    batch = data.draw(batches)
    rewards, mask = batch.token_rewards.tolist(), batch.response_mask.tolist()
    expected = [
        [sum(row[s] for s in range(t, len(row)) if keep[s]) if keep[t] else 0.0 for t in range(len(row))]
        for row, keep in zip(rewards, mask, strict=True)
    ]
    result = advantages.returns(batch.token_rewards, batch.response_mask)
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64))


@given(data=st.data())
def test_whiten_against_the_standard_library(batches, data):
    batch = data.draw(batches)
    values, mask = batch.token_rewards, batch.response_mask
    whitened = advantages.whiten(values, mask)
    kept = values[mask].tolist()
    assert (whitened[~mask] == 0).all()
    if len(kept) < 2:
        assert (whitened == 0).all()
        return
    mean, deviation = statistics.fmean(kept), math.sqrt(statistics.variance(kept) + 1e-8)
    torch.testing.assert_close(whitened[mask], (values[mask] - mean) / deviation)
    torch.testing.assert_close(
        whitened[mask].var(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_values_whiten_to_exact_zeros(value, dtype):
    values = torch.full((7, 13), value, dtype=dtype)
    mask = torch.ones(7, 13, dtype=torch.bool)
    mask[2, 4:] = False
    assert torch.equal(advantages.whiten(values, mask), torch.zeros(7, 13, dtype=dtype))


def test_a_batch_of_equal_outcomes_gives_almost_no_advantage():
    rewards = torch.zeros(56, 3)
    rewards[:, 2] = torch.linspace(0.1, 0.9, 7).repeat_interleave(8)
    mask = rewards > 0
    everywhere = torch.ones(56, 3, dtype=torch.bool)
    returns = advantages.returns(advantages.rloo(rewards, mask, 8), everywhere)
    assert returns.std() > 0  # what rounding has left, which must not become advantages of size 1
    assert advantages.whiten(returns, everywhere).abs().max() < 1e-2


@pytest.mark.parametrize("shape", [(2, 3), (2, 0)])
def test_a_batch_without_assistant_tokens_gives_zeros(shape):
    nothing = torch.zeros(shape, dtype=torch.bool)
    for baseline in advantages.BASELINES:
        assert torch.equal(advantages.rloo(torch.ones(shape), nothing, 2, baseline), torch.zeros(shape))
    assert torch.equal(advantages.returns(torch.ones(shape), nothing), torch.zeros(shape))
    assert torch.equal(advantages.whiten(torch.ones(shape), nothing), torch.zeros(shape))
    assert torch.equal(advantages.grpo(torch.ones(shape), nothing, 2), torch.zeros(shape))
    for result in advantages.gae(torch.ones(shape), torch.ones(shape), nothing):
        assert torch.equal(result, torch.zeros(shape))
    assert advantages.explained_variance(torch.ones(shape), torch.ones(shape), nothing).isnan()


def test_values_off_the_mask_never_count():
    mask = torch.tensor([[True, False, True], [True, True, False]])
    clean = torch.tensor([[1.0, 0.0, 2.0], [3.0, 5.0, 0.0]])
    dirty = torch.where(mask, clean, math.nan)
    for baseline in advantages.BASELINES:
        assert torch.equal(
            advantages.rloo(dirty, mask, 2, baseline), advantages.rloo(clean, mask, 2, baseline)
        )
    assert torch.equal(advantages.returns(dirty, mask), advantages.returns(clean, mask))
    assert torch.equal(advantages.whiten(dirty, mask), advantages.whiten(clean, mask))
    assert torch.equal(advantages.grpo(dirty, mask, 2), advantages.grpo(clean, mask, 2))
    for actual, expected in zip(
        advantages.gae(dirty, dirty, mask), advantages.gae(clean, clean, mask), strict=True
    ):
        assert torch.equal(actual, expected)
    assert torch.equal(
        advantages.explained_variance(dirty.square(), dirty, mask),
        advantages.explained_variance(clean.square(), clean, mask),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_preserved(dtype):
    rewards, mask = TURN_COUNTS.to(dtype), TURN_COUNTS > 0
    for baseline in advantages.BASELINES:
        baselined = advantages.rloo(rewards, mask, 3, baseline)
        assert baselined.dtype == advantages.returns(baselined, mask).dtype == dtype
    assert advantages.whiten(rewards, mask).dtype == advantages.grpo(rewards, mask, 3).dtype == dtype
    assert {result.dtype for result in advantages.gae(rewards, rewards, mask, 0.9, 0.9)} == {dtype}
    assert advantages.explained_variance(rewards, rewards, mask).dtype == dtype
    assert advantages.explained_variance(rewards, rewards * 0, mask).dtype == dtype


ONES = torch.ones(4, 3)
ALL = ONES > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: advantages.rloo(ONES, ALL.long(), 2), "reward_mask must be bool"),
        (lambda: advantages.rloo(ONES, ALL[:2], 2), "reward_mask must be bool"),
        (lambda: advantages.rloo(ONES, ALL, 3), "group_size 3 does not divide the 4 rows"),
        (lambda: advantages.rloo(ONES, ALL, 0), "group_size 0 does not divide"),
        (lambda: advantages.rloo(ONES, ALL, -2), "group_size -2 does not divide"),
        (lambda: advantages.rloo(ONES, ALL, torch.tensor([0, 0, 1])), "3 group ids for 4 rows; pass"),
        (
            lambda: advantages.grpo(ONES, ALL, torch.zeros(4)),
            "must be int64 of shape .B,., got torch.float32",
        ),
        (lambda: advantages.grpo(ONES, ALL, torch.zeros(4, 1).long()), "of shape .4, 1.; pass the id"),
        (lambda: advantages.rloo(ONES, ALL, 2, "mean"), "choose one of released, trajectory, to_go"),
        (lambda: advantages.returns(ONES, ALL.float()), "response_mask must be bool"),
        (lambda: advantages.returns(ONES[0], ALL[0]), "response_mask must be bool"),
        (lambda: advantages.whiten(ONES, ALL[:, :1]), "mask must be bool"),
        (lambda: advantages.whiten(ONES * math.inf, ALL), r"values of rows \[0, 1, 2, 3\] are not finite"),
        (lambda: advantages.grpo(ONES, ALL.long(), 2), "reward_mask must be bool"),
        (lambda: advantages.grpo(ONES, ALL, 3), "group_size 3 does not divide the 4 rows"),
        (lambda: advantages.grpo(ONES * math.nan, ALL, 2), "rewards of rows .* are not finite"),
        (lambda: advantages.gae(ONES, ONES, ALL, gamma=1.1), "gamma must lie between 0 and 1, got 1.1"),
        (lambda: advantages.gae(ONES, ONES, ALL, lam=-0.1), "lam must lie between 0 and 1"),
        (lambda: advantages.gae(ONES, ONES, ALL, lam=math.nan), "lam must lie between 0 and 1"),
        (lambda: advantages.gae(ONES, ONES[:2], ALL), "one value for each token"),
        (lambda: advantages.gae(ONES, ONES, ALL.float()), "response_mask must be bool"),
        (lambda: advantages.gae(ONES * math.inf, ONES, ALL), "rewards of rows .* are not finite"),
        (lambda: advantages.gae(ONES, ONES * math.nan, ALL), "values of rows .* are not finite"),
        (lambda: advantages.explained_variance(ONES, ONES[:, :1], ALL), "returns of shape"),
        (lambda: advantages.explained_variance(ONES, ONES, ALL.long()), "mask must be bool"),
        (lambda: advantages.explained_variance(ONES * math.nan, ONES, ALL), "values of rows"),
        (lambda: advantages.explained_variance(ONES, ONES * math.inf, ALL), "returns of rows"),
    ],
)
def test_wrong_input_is_named(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
