"""Advantage estimators against loops over lists, their invariances, and the released baseline's bias."""

import math
import statistics

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


def brute_released(rewards, mask, n):
    means = []
    for row, keep in zip(rewards, mask, strict=True):
        kept = [r for r, k in zip(row, keep, strict=True) if k]
        means.append(sum(kept) / len(kept) if kept else 0.0)
    result = []
    for i, (row, keep) in enumerate(zip(rewards, mask, strict=True)):
        group = means[i // n * n : i // n * n + n]
        scale, baseline = (n / (n - 1), sum(group) / (n - 1)) if n > 1 else (1.0, 0.0)
        result.append([r * scale - baseline if k else 0.0 for r, k in zip(row, keep, strict=True)])
    return result


def brute_trajectory_returns(rewards, mask, n):
    """Reward-to-go of each masked token, less the mean total of the other rollouts of the prompt."""
    kept = [[r if k else 0.0 for r, k in zip(*pair, strict=True)] for pair in zip(rewards, mask, strict=True)]
    result = []
    for i, row in enumerate(kept):
        others = [sum(kept[j]) for j in range(i // n * n, i // n * n + n) if j != i]
        baseline = statistics.fmean(others) if others else 0.0
        result.append([sum(row[t:]) - baseline if mask[i][t] else 0.0 for t in range(len(row))])
    return result


@given(data=st.data())
def test_rloo_against_loops(batches, data):
    batch = data.draw(batches)
    rewards, mask, n = batch.token_rewards, batch.response_mask, batch.group_size
    released = advantages.rloo(rewards, mask, n)
    expected = torch.tensor(brute_released(rewards.tolist(), mask.tolist(), n), dtype=torch.float64)
    torch.testing.assert_close(released, expected)
    whole = advantages.returns(advantages.rloo(rewards, mask, n, baseline="trajectory"), mask)
    expected = torch.tensor(brute_trajectory_returns(rewards.tolist(), mask.tolist(), n), dtype=torch.float64)
    torch.testing.assert_close(whole, expected)


def test_released_baseline_is_biased_by_turn_counts():
    baselined = advantages.rloo(TURN_COUNTS, TURN_COUNTS > 0, 3)
    torch.testing.assert_close(
        advantages.returns(baselined, TURN_COUNTS > 0)[:, 0],
        torch.tensor([0.625, -0.25, -2.0], dtype=torch.float64),
    )


def test_trajectory_baseline_has_no_such_bias():
    baselined = advantages.rloo(TURN_COUNTS, TURN_COUNTS > 0, 3, baseline="trajectory")
    first = advantages.returns(baselined, TURN_COUNTS > 0)[:, 0]
    torch.testing.assert_close(first, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("baseline", advantages.BASELINES)
def test_both_baselines_are_leave_one_out_for_one_reward_a_row(baseline):
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


def test_a_row_without_reward_positions_counts_as_one_that_earned_nothing():
    mask = torch.tensor([[True], [False]])
    for baseline in advantages.BASELINES:
        assert advantages.rloo(torch.tensor([[1.0], [7.0]]), mask, 2, baseline).tolist() == [[1.0], [0.0]]


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_preserved(dtype):
    rewards, mask = TURN_COUNTS.to(dtype), TURN_COUNTS > 0
    for baseline in advantages.BASELINES:
        baselined = advantages.rloo(rewards, mask, 3, baseline)
        assert baselined.dtype == advantages.returns(baselined, mask).dtype == dtype
    assert advantages.whiten(rewards, mask).dtype == dtype


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
        (lambda: advantages.rloo(ONES, ALL, 2, "mean"), "choose one of released, trajectory"),
        (lambda: advantages.returns(ONES, ALL.float()), "response_mask must be bool"),
        (lambda: advantages.returns(ONES[0], ALL[0]), "response_mask must be bool"),
        (lambda: advantages.whiten(ONES, ALL[:, :1]), "mask must be bool"),
        (lambda: advantages.whiten(ONES * math.inf, ALL), "not finite under the mask"),
    ],
)
def test_wrong_input_is_named(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
