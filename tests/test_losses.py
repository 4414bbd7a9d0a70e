"""Losses against loops over lists, their gradients, and micro-batches against the whole batch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itpo import losses

MASK = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])


def three(batch):
    """Log-probabilities of policy and comparison, and advantages, made from one random batch."""
    logp = -batch.token_rewards.abs()
    return logp, logp + 0.3 * batch.token_rewards.roll(1, 0), batch.token_rewards.roll(1, -1)


def kept(mask, *tensors):
    """Tuples of the values at masked positions, as Python numbers."""
    lists = [t.flatten().tolist() for t in tensors]
    return [row for row, keep in zip(zip(*lists, strict=True), mask.flatten().tolist(), strict=True) if keep]


def mean(values):
    return sum(values) / len(values) if values else 0.0


@given(data=st.data(), clip=st.floats(0.05, 0.5))
def test_clipped_surrogate_against_loops(batches, data, clip):
    batch = data.draw(batches)
    logp, old_logp, advantage = three(batch)
    terms, clipped = [], []
    for new, old, a in kept(batch.response_mask, logp, old_logp, advantage):
        ratio = math.exp(new - old)
        bounded = min(max(ratio, 1 - clip), 1 + clip)
        terms.append(-min(ratio * a, bounded * a))
        clipped.append(bounded * a < ratio * a)
    mask = batch.response_mask
    loss = losses.clipped_surrogate(logp, old_logp, advantage, mask, clip)
    assert loss.item() == pytest.approx(mean(terms), rel=1e-9, abs=1e-12)
    fraction = losses.clip_fraction(logp, old_logp, advantage, mask, clip)
    assert fraction.item() == pytest.approx(mean(clipped))


@given(data=st.data())
def test_kl_and_masked_mean_against_loops(batches, data):
    batch = data.draw(batches)
    logp, ref_logp, values = three(batch)
    terms = [math.exp(r - p) - (r - p) - 1 for p, r in kept(batch.response_mask, logp, ref_logp)]
    kl = losses.kl_k3(logp, ref_logp, batch.response_mask)
    assert kl.item() == pytest.approx(mean(terms), rel=1e-9, abs=1e-12) and kl.item() >= 0
    averaged = losses.masked_mean(values, batch.response_mask)
    assert averaged.item() == pytest.approx(mean([v for (v,) in kept(batch.response_mask, values)]))


@given(data=st.data())
def test_losses_ignore_padding_and_row_order(batches, data):
    batch = data.draw(batches)
    mask, tensors = batch.response_mask, three(batch)
    order = torch.tensor(data.draw(st.permutations(range(len(mask)))))
    wide = [torch.nn.functional.pad(t, (0, 2), value=5.0) for t in tensors]
    wide_mask = torch.nn.functional.pad(mask, (0, 2))
    for loss, count in ((losses.clipped_surrogate, 3), (losses.kl_k3, 2)):
        value = loss(*tensors[:count], mask)
        torch.testing.assert_close(loss(*wide[:count], wide_mask), value)
        torch.testing.assert_close(loss(*(t[order] for t in tensors[:count]), mask[order]), value)


def test_first_step_gradient_is_the_policy_gradient():
    logp = torch.full((3, 3), -1.0, dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([[1.0, -2.0, 5.0], [0.5, 7.0, 7.0], [7.0, 7.0, 7.0]], dtype=torch.float64)
    losses.clipped_surrogate(logp, logp, advantage, MASK).backward()
    torch.testing.assert_close(logp.grad, torch.where(MASK, -advantage / 3, 0))


def test_clipping_removes_the_gradient_only_where_the_step_has_gone_far_enough():
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.1]], dtype=torch.float64)
    advantage = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]], dtype=torch.float64)
    logp, mask = ratio.log().requires_grad_(), ratio > 0
    losses.clipped_surrogate(logp, torch.zeros_like(ratio), advantage, mask).backward()
    still_moving = torch.tensor([[False, True, True, False, True]])
    torch.testing.assert_close(logp.grad, torch.where(still_moving, -advantage * ratio / 5, 0))
    assert losses.clip_fraction(logp, torch.zeros_like(ratio), advantage, mask).item() == pytest.approx(2 / 5)


def test_gradients_reach_the_policy_only():
    logp, other, advantage = (torch.full((3, 3), -1.0 - i / 9).requires_grad_() for i in range(3))
    total = losses.clipped_surrogate(logp, other, advantage, MASK) + losses.kl_k3(logp, other, MASK)
    total.backward()
    assert torch.equal(logp.grad != 0, MASK)
    assert other.grad is None and advantage.grad is None


def test_kl_gradient_is_one_minus_the_inverse_ratio():
    logp = torch.tensor([[-1.0, -3.0]], requires_grad=True)
    ref_logp = torch.tensor([[-2.0, -1.0]])
    losses.kl_k3(logp, ref_logp, torch.ones(1, 2, dtype=torch.bool)).backward()
    torch.testing.assert_close(logp.grad, (1 - (ref_logp - logp.detach()).exp()) / 2)


def value_three(batch):
    """Values, values at the time of the rollout, and returns, made from one random batch."""
    values = batch.token_rewards
    return values, values + 0.3 * values.roll(1, 0), values.roll(1, -1)


@given(data=st.data(), clip=st.floats(0.05, 0.5))
def test_value_loss_against_loops(batches, data, clip):
    batch = data.draw(batches)
    values, old_values, returns = value_three(batch)
    terms = []
    for v, old, target in kept(batch.response_mask, values, old_values, returns):
        bounded = min(max(v, old - clip), old + clip)
        terms.append(0.5 * max((v - target) ** 2, (bounded - target) ** 2))
    mask = batch.response_mask
    loss = losses.value_loss(values, old_values, returns, mask, clip)
    assert loss.item() == pytest.approx(mean(terms), rel=1e-9, abs=1e-12)
    wide = [torch.nn.functional.pad(t, (0, 2), value=math.nan) for t in (values, old_values, returns)]
    padded = losses.value_loss(*wide, torch.nn.functional.pad(mask, (0, 2)), clip)
    torch.testing.assert_close(padded, loss)


def test_value_clipping_removes_the_gradient_only_where_the_value_has_gone_far_enough():
    # Moved too far towards the return, by little, too far away from it, and not at all.
    values = torch.tensor([[0.9, 0.1, -0.9, 0.0]], dtype=torch.float64, requires_grad=True)
    returns, mask = torch.ones(1, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.bool)
    losses.value_loss(values, torch.zeros_like(returns), returns, mask, clip=0.2).backward()
    torch.testing.assert_close(values.grad, torch.tensor([[0.0, -0.9, -1.9, -1.0]]).double() / 4)


def test_value_loss_without_a_bound_is_half_the_squared_error():
    values = torch.tensor([[0.5, 3.0, -2.0]], requires_grad=True)
    old_values, returns = torch.zeros(1, 3, requires_grad=True), torch.ones(1, 3, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    loss = losses.value_loss(values, old_values, returns, mask, clip=math.inf)
    assert loss.item() == (0.25 + 4) / 4
    loss.backward()
    assert values.grad.tolist() == [[-0.25, 1.0, 0.0]]
    assert old_values.grad is None and returns.grad is None


def test_k3_is_unbiased():
    policy = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    reference = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.bool)
    estimates = [
        losses.kl_k3(p.log().view(1, 1), r.log().view(1, 1), one)
        for p, r in zip(policy, reference, strict=True)
    ]
    exact = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close((policy * torch.stack(estimates)).sum(), exact)


def test_k3_of_close_models_keeps_its_digits():
    logp = torch.full((1, 4), -1.0)
    kl = losses.kl_k3(logp, logp + 2**-12, torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(kl, torch.tensor(2**-25), rtol=1e-2, atol=0)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_micro_batches_add_up_to_the_whole_batch(size):
    generator = torch.Generator().manual_seed(0)
    logp, old, ref, advantage = torch.randn(4, 8, 5, dtype=torch.float64, generator=generator).unbind()
    mask = torch.rand(8, 5, generator=generator) < torch.linspace(0.0, 0.9, 8)[:, None]
    logp = logp.requires_grad_()
    tokens = int(mask.sum())

    def total(rows, denominator):
        surrogate = losses.clipped_surrogate(
            logp[rows], old[rows], advantage[rows], mask[rows], denominator=denominator
        )
        kl = losses.kl_k3(logp[rows], ref[rows], mask[rows], denominator)
        critic = losses.value_loss(logp[rows], old[rows], ref[rows], mask[rows], 0.2, denominator)
        return surrogate + kl + critic + losses.masked_mean(logp[rows].exp(), mask[rows], denominator)

    whole = total(slice(None), None)
    (expected,) = torch.autograd.grad(whole, logp)
    parts = [total(slice(start, start + size), tokens) for start in range(0, 8, size)]
    torch.testing.assert_close(sum(parts), whole)
    (accumulated,) = torch.autograd.grad(sum(parts), logp)
    torch.testing.assert_close(accumulated, expected)


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
def test_what_stands_on_padding_reaches_neither_loss_nor_gradient(junk):
    clean = torch.full((3, 3), -0.5)
    dirty = torch.where(MASK, clean, junk)
    logp = dirty.clone().requires_grad_()
    zero = torch.zeros_like(clean)
    loss = losses.clipped_surrogate(logp, zero, dirty, MASK) + losses.kl_k3(logp, zero, MASK)
    loss = loss + losses.value_loss(logp, dirty, -dirty, MASK, 0.2)
    loss.backward()
    expected = losses.clipped_surrogate(clean, zero, clean, MASK) + losses.kl_k3(clean, zero, MASK)
    expected = expected + losses.value_loss(clean, clean, -clean, MASK, 0.2)
    assert torch.equal(loss, expected)
    assert torch.isfinite(logp.grad).all() and (logp.grad[~MASK] == 0).all()
    assert torch.equal(losses.clip_fraction(dirty, zero, dirty, MASK), torch.tensor(1.0))
    assert (losses.importance_ratio(dirty, zero, MASK)[~MASK] == 1).all()


@pytest.mark.parametrize("log_ratio", [-60.0, -20.0, -7.0, -2.5, 2.5, 7.0, 15.0, 19.9, 20.0])
def test_log_ratios_up_to_the_bound_are_exact_in_losses_and_gradients(log_ratio):
    """A bound that is lower than stated would cut what a bad step costs, or a policy's way back to the reference."""
    advantage = torch.tensor([[1.0, -0.5, 2.0, -3.0]], dtype=torch.float64)
    mask, zero = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.float64)
    logp = torch.full((1, 4), log_ratio, dtype=torch.float64, requires_grad=True)
    ratio = math.exp(log_ratio)
    assert losses.importance_ratio(logp, zero, mask).tolist() == [[pytest.approx(ratio, rel=1e-12)] * 4]
    terms, slopes = [], []
    for a in advantage[0].tolist():
        bounded = min(max(ratio, 0.8), 1.2)
        terms.append(-min(ratio * a, bounded * a))
        slopes.append(-ratio * a / 4 if ratio * a < bounded * a else 0.0)
    surrogate = losses.clipped_surrogate(logp, zero, advantage, mask)
    assert surrogate.item() == pytest.approx(mean(terms), rel=1e-12)
    (gradient,) = torch.autograd.grad(surrogate, logp)
    assert gradient[0].tolist() == pytest.approx(slopes, rel=1e-12)
    # The reference is the one above: its log-ratio is the one that is exponentiated.
    kl = losses.kl_k3(zero, logp, mask), losses.kl_k3(-logp, zero, mask)
    expected = math.exp(log_ratio) - log_ratio - 1
    assert [term.item() for term in kl] == pytest.approx([expected] * 2, rel=1e-12)
    (gradient,) = torch.autograd.grad(kl[1], logp)
    assert gradient[0].tolist() == pytest.approx([(ratio - 1) / 4] * 4, rel=1e-12)


def test_log_ratios_above_the_bound_count_as_20():
    logp, zero = (
        torch.tensor([[20.5, 88.0, 1e4]], dtype=torch.float64),
        torch.zeros(1, 3, dtype=torch.float64),
    )
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert losses.importance_ratio(logp, zero, mask).tolist() == [
        [pytest.approx(math.exp(20), rel=1e-12)] * 3
    ]
    assert losses.kl_k3(-logp, zero, mask).item() == pytest.approx(math.exp(20) - 21, rel=1e-12)


def test_far_apart_models_give_finite_losses():
    far, near = torch.full((1, 2), -300.0), torch.zeros(1, 2)
    mask = torch.ones(1, 2, dtype=torch.bool)
    for advantage in (torch.ones(1, 2), -torch.ones(1, 2), torch.zeros(1, 2)):
        for new, old in ((far, near), (near, far)):
            assert torch.isfinite(losses.clipped_surrogate(new, old, advantage, mask))
    assert torch.isfinite(losses.kl_k3(far, near, mask))
    # A policy far above the reference is still pulled back at full strength.
    assert losses.kl_k3(near, far, mask).item() == pytest.approx(299.0)


@pytest.mark.parametrize("shape", [(2, 3), (2, 0)])
def test_a_batch_without_assistant_tokens_gives_zero(shape):
    values, nothing = torch.ones(shape), torch.zeros(shape, dtype=torch.bool)
    assert losses.clipped_surrogate(values, values, values, nothing).item() == 0
    assert losses.kl_k3(values, values, nothing).item() == losses.masked_mean(values, nothing).item() == 0
    assert losses.clip_fraction(values, values, values, nothing).item() == 0
    assert losses.value_loss(values, values, values, nothing, 0.2).item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_preserved(dtype):
    x = torch.full((3, 3), -0.5, dtype=dtype)
    results = (
        losses.clipped_surrogate(x, x, x, MASK),
        losses.clipped_surrogate(x, x, x, MASK, denominator=7),
        losses.clip_fraction(x, x, x, MASK),
        losses.kl_k3(x, x, MASK),
        losses.value_loss(x, x, x, MASK, 0.2),
        losses.masked_mean(x, MASK),
        losses.importance_ratio(x, x, MASK),
    )
    assert {result.dtype for result in results} == {dtype}


X = torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.masked_mean(X, MASK.long()), "mask must be bool"),
        (lambda: losses.masked_mean(X, MASK[:, :2]), "mask must be bool"),
        (lambda: losses.masked_mean(X, MASK, 0), "denominator must be at least 1"),
        (lambda: losses.importance_ratio(X, X[:2], MASK), "log-probabilities of shapes"),
        (lambda: losses.importance_ratio(X[0], X[0], MASK[0]), "mask must be bool"),
        (lambda: losses.clipped_surrogate(X, X, X[:, :1], MASK), "advantages of shape"),
        (lambda: losses.clipped_surrogate(X, X, X, MASK.float()), "mask must be bool"),
        (lambda: losses.clipped_surrogate(X, X, X, MASK, clip=0.0), "clip must be positive"),
        (lambda: losses.clipped_surrogate(X, X, X, MASK, denominator=-1), "denominator must be at least 1"),
        (lambda: losses.clip_fraction(X, X, X, MASK, clip=math.nan), "clip must be positive"),
        (lambda: losses.kl_k3(X, X[:, :2], MASK), "log-probabilities of shapes"),
        (lambda: losses.kl_k3(X, X, MASK.long()), "mask must be bool"),
        (lambda: losses.value_loss(X, X[:2], X, MASK, 0.2), "old_values of shape"),
        (lambda: losses.value_loss(X, X, X[:, :2], MASK, 0.2), "returns of shape"),
        (lambda: losses.value_loss(X, X, X, MASK.long(), 0.2), "mask must be bool"),
        (lambda: losses.value_loss(X, X, X, MASK, 0.0), "clip must be positive"),
        (lambda: losses.value_loss(X, X, X, MASK, math.nan), "clip must be positive"),
        (lambda: losses.value_loss(X, X, X, MASK, 0.2, 0), "denominator must be at least 1"),
    ],
)
def test_wrong_input_is_named(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(data=st.data(), cap=st.floats(1.0, 4.0))
def test_truncated_weights_against_loops(batches, data, cap):
    batch = data.draw(batches)
    logp, sampled, advantage = three(batch)
    mask = batch.response_mask
    for correction in losses.CORRECTIONS:
        weights = losses.truncated_weights(logp, sampled, mask, correction, cap)
        for row in range(len(mask)):
            ratios = [math.exp(p - m) for p, m in kept(mask[row], logp[row], sampled[row])]
            product = min(math.prod(ratios), cap)
            wanted = {
                "none": [1.0] * len(ratios),
                "token": [min(ratio, cap) for ratio in ratios],
                "sequence": [product] * len(ratios),
            }[correction]
            assert weights[row][mask[row]].tolist() == pytest.approx(wanted, rel=1e-6)
            assert (weights[row][~mask[row]] == 1).all()
    terms = [
        w * min(math.exp(n - s) * a, min(max(math.exp(n - s), 0.8), 1.2) * a)
        for n, s, a, w in kept(mask, logp, sampled, advantage, weights)
    ]
    loss = losses.clipped_surrogate(logp, sampled, advantage, mask, weights=weights)
    assert loss.item() == pytest.approx(-mean(terms), rel=1e-6, abs=1e-9)


@given(data=st.data())
def test_sampling_mismatch_against_loops(batches, data):
    batch = data.draw(batches)
    logp, sampled, _ = three(batch)
    pairs = kept(batch.response_mask, logp, sampled)
    found = losses.sampling_mismatch(logp, sampled, batch.response_mask)
    sizes, ratios = sorted(abs(p - m) for p, m in pairs), [math.exp(p - m) for p, m in pairs]
    assert found["mismatch"] == pytest.approx(mean(sizes), abs=1e-9)
    assert found["mismatch_max"] == pytest.approx(max(sizes, default=0.0), abs=1e-9)
    assert sum(size <= found["mismatch_median"] + 1e-9 for size in sizes) * 2 >= len(sizes)
    assert sum(size > found["mismatch_99"] + 1e-9 for size in sizes) * 100 <= len(sizes)
    if ratios:
        share = sum(ratios) ** 2 / sum(r * r for r in ratios) / len(ratios)
        assert found["ess"] == pytest.approx(share, rel=1e-6)


def test_the_correction_keeps_expectations_but_for_the_cap():
    """Tokens drawn by mu and weighted by pi / mu have the mean that tokens drawn by pi have."""
    generator = torch.Generator().manual_seed(0)
    mu, pi = (torch.log_softmax(torch.randn(2, 5, generator=generator), dim=1)[i] for i in (0, 1))
    tokens = torch.multinomial(mu.exp(), 200_000, replacement=True, generator=generator)[None]
    mask = torch.ones_like(tokens, dtype=torch.bool)
    weights = losses.truncated_weights(pi[tokens], mu[tokens], mask, cap=100.0)
    value = torch.arange(5.0)
    assert (weights * value[tokens]).mean().item() == pytest.approx(float(pi.exp() @ value), abs=0.03)


def test_what_cannot_be_corrected_is_refused():
    zeros = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="unknown correction 'both'; known: none, token, sequence"):
        losses.truncated_weights(zeros, zeros, MASK, "both")
    with pytest.raises(ValueError, match="cap must be at least 1, got 0.5"):
        losses.truncated_weights(zeros, zeros, MASK, cap=0.5)
    assert losses.sampling_mismatch(zeros, zeros, torch.zeros_like(MASK))["ess"] == 1.0
    assert losses.truncated_weights(zeros, zeros - 1e4, MASK, "sequence", cap=1e3).max() == 1e3
