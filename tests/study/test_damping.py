"""The damped gradient against autograd on expected outcomes, and the damped return against the estimators' own."""

import numpy as np
import pytest
import torch

from itpo import advantages, attribution, turns
from itpo.study.damping import damping, expected_gradients


@pytest.fixture
def game() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((2, 2, 2, 2)), rng.uniform(0.2, 0.8, 4)


def test_all_weight_on_the_last_turn_is_the_gradient_of_the_expected_outcome(game) -> None:
    outcomes, chances = game
    logits = torch.tensor(chances).logit().requires_grad_()
    p = logits.sigmoid()
    expected = torch.tensor(outcomes)
    for turn in reversed(range(4)):
        expected = expected @ torch.stack([1 - p[turn], p[turn]])
    expected.backward()
    found = expected_gradients(outcomes, chances, np.array([0.0, 0.0, 0.0, 1.0]))
    np.testing.assert_allclose(found, logits.grad, atol=1e-12)


def test_fixed_weights_damp_each_turn_by_the_weight_before_it(game) -> None:
    outcomes, chances = game
    weights = np.array([0.1, 0.4, 0.3, 0.2])
    true = expected_gradients(outcomes, chances, np.eye(4)[3])
    found = expected_gradients(outcomes, chances, weights)
    np.testing.assert_allclose(found, true * [1.0, 0.9, 0.5, 0.2], atol=1e-12)
    np.testing.assert_allclose(found, expected_gradients(outcomes, chances, np.tile(weights, (16, 1))))


def test_returns_of_norm_itpo_are_damped_and_failures_have_none() -> None:
    torch.manual_seed(0)
    ids = turns.turn_ids(torch.tensor([[0, 1, 1, 0, 1, 0, 1, 1]] * 2).bool())
    rewards, outcome = torch.randn(2, 8), torch.tensor([0.75, 0.0])
    weights = turns.normalize(turns.aggregate(rewards, ids), turns.turn_mask(ids), 0.4)
    returns = advantages.returns(attribution.norm_itpo(rewards, outcome, ids), ids >= 0)
    left = torch.from_numpy(damping(weights.numpy())).gather(1, ids.clamp(min=0)) * (ids >= 0)
    torch.testing.assert_close(returns, outcome[:, None] * left)
    assert returns[0].unique().numel() == 4 and not returns[1].any()
