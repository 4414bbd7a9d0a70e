"""The process reward model's equations against loops over lists, and its gradients against the formula."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itpo import prm

MASK = torch.tensor([[True, True, False, True], [False, True, False, False], [False] * 4])
RATIO = torch.tensor([[0.5, -1.0, 7.0, 2.0], [3.0, 0.25, -4.0, 1.0], [9.0, 9.0, 9.0, 9.0]])


def brute_loss(ratio, outcome, mask, beta):
    losses = []
    for row, target, keep in zip(ratio.tolist(), outcome.tolist(), mask.tolist(), strict=True):
        p = 1 / (1 + math.exp(-beta * math.fsum(q for q, k in zip(row, keep, strict=True) if k)))
        losses.append(-target * math.log(p) - (1 - target) * math.log(1 - p))
    return sum(losses) / len(losses)


@given(data=st.data(), beta=st.floats(1e-3, 5))
def test_token_rewards_against_loops(batches, data, beta):
    batch = data.draw(batches)
    reference = batch.token_rewards.flip(-1)
    rewards = prm.token_rewards(batch.token_rewards, reference, batch.response_mask, beta)
    for i, row in enumerate(batch.response_mask.tolist()):
        for t, inside in enumerate(row):
            ratio = batch.token_rewards[i, t].item() - reference[i, t].item()
            assert rewards[i, t].item() == pytest.approx(beta * ratio if inside else 0.0)


def test_token_rewards_are_beta_times_the_log_ratio():
    ratio = prm.log_ratio(RATIO, torch.zeros_like(RATIO), MASK)
    assert ratio.tolist() == [[0.5, -1.0, 0.0, 2.0], [0.0, 0.25, 0.0, 0.0], [0.0] * 4]
    assert torch.equal(prm.token_rewards(RATIO, torch.zeros_like(RATIO), MASK, 0.5), ratio / 2)


def test_what_stands_on_user_tokens_never_counts():
    padding = torch.where(MASK, RATIO, -math.inf)
    assert torch.isfinite(prm.token_rewards(padding, padding, MASK, 0.05)).all()
    loss = prm.outcome_loss(padding, torch.ones(3), MASK, 0.05)
    assert loss == prm.outcome_loss(RATIO, torch.ones(3), MASK, 0.05)


@given(data=st.data(), beta=st.floats(1e-3, 2))
def test_outcome_loss_against_loops(batches, data, beta):
    batch = data.draw(batches)
    loss = prm.outcome_loss(batch.token_rewards, batch.outcome, batch.response_mask, beta)
    expected = brute_loss(batch.token_rewards, batch.outcome, batch.response_mask, beta)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_outcome_loss_is_stable_for_any_beta():
    outcome = torch.tensor([0.0, 1.0, 0.5])
    # Logits 1.5 beta, 0.25 beta and 0: the first is wrong by its whole logit, the second is right.
    for beta in (1e3, 1e6, 1e30):
        loss = prm.outcome_loss(RATIO, outcome, MASK, beta)
        torch.testing.assert_close(loss, torch.tensor((1.5 * beta + math.log(2)) / 3))
    tiny = prm.outcome_loss(RATIO, outcome, MASK, 1e-30)
    torch.testing.assert_close(tiny, torch.tensor(math.log(2)))


def test_outcome_loss_gradient_is_the_formula_on_assistant_tokens_and_zero_elsewhere():
    ratio = RATIO.double().requires_grad_()
    outcome, beta = torch.tensor([0.25, 1.0, 0.0], dtype=torch.float64), 0.5
    prm.outcome_loss(ratio, outcome, MASK, beta).backward()
    error = torch.sigmoid(torch.tensor([0.75, 0.125, 0.0], dtype=torch.float64)) - outcome
    expected = torch.where(MASK, error[:, None] * beta / 3, 0)
    torch.testing.assert_close(ratio.grad, expected)
    assert torch.equal(ratio.grad != 0, MASK)


def test_outcome_loss_of_micro_batches_adds_up():
    generator = torch.Generator().manual_seed(0)
    ratio = torch.randn(8, 5, dtype=torch.float64, generator=generator)
    mask = torch.rand(8, 5, generator=generator) < 0.6
    outcome = torch.rand(8, dtype=torch.float64, generator=generator)
    whole = prm.outcome_loss(ratio, outcome, mask, 0.3)
    parts = [
        prm.outcome_loss(ratio[i : i + 1], outcome[i : i + 1], mask[i : i + 1], 0.3, denominator=8)
        for i in range(8)
    ]
    torch.testing.assert_close(sum(parts), whole)


@given(data=st.data())
def test_batch_norm_against_loops(batches, data):
    batch = data.draw(batches)
    rewards = torch.where(batch.response_mask, batch.token_rewards, 0)
    to_go = [abs(math.fsum(row[t:])) for row in rewards.tolist() for t in range(len(row))]
    normed = prm.batch_norm(rewards)
    torch.testing.assert_close(normed, rewards / (max(to_go) + 1e-6))
    # Padding, row order and the factor beta change nothing.
    torch.testing.assert_close(prm.batch_norm(torch.nn.functional.pad(rewards, (0, 2)))[:, :-2], normed)
    torch.testing.assert_close(prm.batch_norm(rewards.flip(0)), normed.flip(0))
    torch.testing.assert_close(prm.batch_norm(7 * rewards), normed, rtol=1e-3, atol=1e-3)


def test_batch_norm_of_nothing_is_nothing():
    assert prm.batch_norm(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2
    assert prm.batch_norm(torch.zeros(2, 0)).shape == (2, 0)


def test_drop_last_token_against_a_written_example():
    dropped = prm.drop_last_token(RATIO, MASK)
    expected = RATIO.clone()
    expected[0, 3] = expected[1, 1] = 0
    assert torch.equal(dropped, expected)


def test_implicit_return_sums_assistant_tokens():
    assert prm.implicit_return(RATIO, MASK, 2.0).tolist() == [3.0, 0.5, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_preserved(dtype):
    ratio = RATIO.to(dtype)
    rewards = prm.token_rewards(ratio, ratio / 3, MASK, 0.05)
    loss = prm.outcome_loss(ratio, torch.ones(3), MASK, 0.05)
    for value in (rewards, prm.batch_norm(rewards), prm.drop_last_token(rewards, MASK), loss):
        assert value.dtype == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prm.log_ratio(RATIO, RATIO, MASK.long()), "response_mask must be bool"),
        (lambda: prm.log_ratio(RATIO, RATIO, MASK[:, :3]), "response_mask must be bool"),
        (lambda: prm.log_ratio(RATIO, RATIO[:, :3], MASK), "logp_ref of shape"),
        (lambda: prm.token_rewards(RATIO, RATIO, MASK, 0.0), "beta must be positive"),
        (lambda: prm.drop_last_token(RATIO, MASK.float()), "response_mask must be bool"),
        (lambda: prm.batch_norm(RATIO * math.nan), r"rows \[0, 1, 2\] are not finite"),
        (lambda: prm.implicit_return(RATIO, MASK, math.inf), "beta must be positive and finite"),
        (lambda: prm.implicit_return(RATIO[0], MASK[0], 0.05), "response_mask must be bool"),
        (lambda: prm.outcome_loss(RATIO, torch.ones(2), MASK, 0.05), "does not match 3 dialogues"),
        (lambda: prm.outcome_loss(RATIO, torch.tensor([0.0, 1.1, 1.0]), MASK, 0.05), r"lie in \[0, 1\]"),
        (lambda: prm.outcome_loss(RATIO, torch.tensor([0.0, math.nan, 1.0]), MASK, 0.05), r"lie in \[0, 1\]"),
        (lambda: prm.outcome_loss(RATIO, torch.ones(3), MASK, 0.05, denominator=0), "average over 0"),
        (lambda: prm.outcome_loss(RATIO[:0], torch.ones(0), MASK[:0], 0.05), "average over 0"),
    ],
)
def test_wrong_input_is_named(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
