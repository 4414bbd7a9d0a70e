"""itpo's advantages through verl's own `compute_advantage`, against itpo alone and against verl's own estimators."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.ray_trainer import compute_advantage

from itpo import advantages, attribution, turns
from itpo.integrations.verl import estimators

ROOT = Path(__file__).parents[2]
SIZES = (4, 1, 3, 4, 2)  # of the groups; one rollout is alone
TOKENS = 24
PRM_METHODS = ("prime", "itpo", "norm_itpo", "istar")
OWN_METHODS = ("turn_rewards", "trajectory_share", *PRM_METHODS)


@pytest.fixture
def batch() -> SimpleNamespace:
    """Shuffled rows of groups of several sizes; dialogues of 1 to 4 turns, most of which end with a user's tokens."""
    rng, torch_rng = np.random.default_rng(0), torch.Generator().manual_seed(0)
    groups = torch.tensor([group for group, size in enumerate(SIZES) for _ in range(size)])
    mask, last = torch.zeros(len(groups), TOKENS, dtype=torch.bool), []
    for row in mask:
        end = 0
        for _ in range(rng.integers(1, 5)):
            length = rng.integers(1, 4)
            row[end : end + length] = True
            end += length + rng.integers(1, 3)
        last.append(min(end, TOKENS) - 1)
    order = torch.randperm(len(groups), generator=torch_rng)
    shuffled = mask[order]
    return SimpleNamespace(
        mask=shuffled,
        group=groups[order],
        last=torch.tensor(last)[order],
        outcome=torch.rand(len(groups), generator=torch_rng),
        token_rewards=torch.where(shuffled, torch.randn(shuffled.shape, generator=torch_rng), 0),
    )


def at_the_end(batch: SimpleNamespace) -> torch.Tensor:
    """Outcomes where verl places them: at the last token of the response, whoever's it is."""
    rewards = torch.zeros(batch.mask.shape)
    rewards[torch.arange(len(rewards)), batch.last] = batch.outcome
    return rewards


def from_verl(batch: SimpleNamespace, estimator: str, rewards: torch.Tensor, **itpo: object) -> torch.Tensor:
    """What verl computes from the batch as it keeps it, token rewards given as the trainer gives them."""
    data = DataProto(
        batch=TensorDict(
            {"token_level_rewards": rewards, "response_mask": batch.mask.long()}, batch_size=len(rewards)
        ),
        non_tensor_batch={
            "uid": np.array([f"prompt {group}" for group in batch.group.tolist()], dtype=object)
        },
    )
    config = OmegaConf.create(
        {"itpo": itpo, "use_kl_in_reward": False, "rollout_correction": {"rollout_rs": None}}
    )
    with estimators.token_rewards(batch.token_rewards):
        return compute_advantage(data, adv_estimator=estimator, config=config).batch["advantages"]


def alone(
    batch: SimpleNamespace, sources: list[tuple[torch.Tensor, torch.Tensor]], estimator: str, baseline: str
) -> torch.Tensor:
    """The same from itpo's functions, one group after the other, as if each were a batch of equal groups."""
    total = torch.zeros(batch.mask.shape)
    for group in batch.group.unique():
        rows = (batch.group == group).nonzero().flatten()
        for rewards, positions in sources:
            given = (rewards[rows], positions[rows], len(rows))
            total[rows] += (
                advantages.rloo(*given, baseline) if estimator == "rloo" else advantages.grpo(*given)
            )
    returns = advantages.returns(total, batch.mask)
    return advantages.whiten(returns, batch.mask) if estimator == "rloo" else returns


def sources_of(
    batch: SimpleNamespace, method: str, outcome_coef: float
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    ids = turns.turn_ids(batch.mask)
    end = turns.trajectory_end(ids)
    outcome = torch.where(end, batch.outcome[:, None], 0)
    if method == "turn_rewards":  # which are all at the end
        own = (outcome, turns.turn_ends(ids))
    else:
        given = {
            "outcome": batch.outcome,
            "turn_ids": ids,
            "response_mask": batch.mask,
            "token_rewards": batch.token_rewards,
        }
        entry = attribution.get_method(method)
        own = (attribution.attribute(method, **given), attribution.reward_mask(entry.granularity, ids))
    return [own, (outcome_coef * outcome, end)] if outcome_coef else [own]


@pytest.mark.parametrize("baseline", advantages.BASELINES)
@pytest.mark.parametrize("method", OWN_METHODS[:-1])
def test_rloo_equals_itpo_alone(batch, method, baseline):
    named = {} if method == "turn_rewards" else {"method": method}
    found = from_verl(batch, "itpo_rloo", at_the_end(batch), baseline=baseline, **named)
    expected = alone(batch, sources_of(batch, method, 0.0), "rloo", baseline)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    print(f"\nitpo_rloo, {method}, {baseline}: equal to {(found - expected).abs().max():.0e}")


@pytest.mark.parametrize("method", OWN_METHODS[:-1])
def test_grpo_equals_itpo_alone(batch, method):
    named = {} if method == "turn_rewards" else {"method": method}
    found = from_verl(batch, "itpo_grpo", at_the_end(batch), **named)
    expected = alone(batch, sources_of(batch, method, 0.0), "grpo", "")
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    print(f"\nitpo_grpo, {method}: equal to {(found - expected).abs().max():.0e}")


def test_the_outcome_beside_an_implicit_reward_and_options_of_the_method(batch):
    found = from_verl(batch, "itpo_rloo", at_the_end(batch), method="itpo", outcome_coef=5, baseline="to_go")
    expected = alone(batch, sources_of(batch, "itpo", 5.0), "rloo", "to_go")
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    sharp = from_verl(batch, "itpo_rloo", at_the_end(batch), method="norm_itpo", temperature=0.01)
    assert not torch.allclose(sharp, from_verl(batch, "itpo_rloo", at_the_end(batch), method="norm_itpo"))


def test_a_method_that_compares_rollouts_itself(batch):
    """iStar's rewards add up to advantages, so that nothing but the whitening is left to do."""
    found = from_verl(batch, "itpo_rloo", at_the_end(batch), method="istar")
    ids = turns.turn_ids(batch.mask)
    given = {
        "outcome": batch.outcome,
        "turn_ids": ids,
        "token_rewards": batch.token_rewards,
        "group_size": batch.group,
    }
    paid = advantages.returns(attribution.attribute("istar", response_mask=batch.mask, **given), batch.mask)
    torch.testing.assert_close(found, advantages.whiten(paid, batch.mask), atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match="compares a prompt's rollouts itself"):
        from_verl(batch, "itpo_grpo", at_the_end(batch), method="istar")


def test_uniform_draws_follow_from_seed_and_batch(batch):
    first, again, other = (
        from_verl(batch, "itpo_rloo", at_the_end(batch), method="uniform", seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_with_one_turn_each_they_are_verls_own(batch, estimator):
    """An independent implementation: verl's RLOO and GRPO, of outcomes alone; verl adds 1e-6 to a standard deviation."""
    batch.mask = torch.arange(TOKENS) < batch.mask.sum(-1, keepdim=True)
    batch.last = batch.mask.sum(-1) - 1
    kept = batch.group != 1  # of a group of one verl makes no advantage of 0, as it knows no mean
    for name in ("mask", "group", "last", "outcome", "token_rewards"):
        setattr(batch, name, getattr(batch, name)[kept])
    own = from_verl(batch, f"itpo_{estimator}", at_the_end(batch))
    theirs = from_verl(batch, estimator, at_the_end(batch))
    if estimator == "rloo":
        theirs = advantages.whiten(theirs, batch.mask)
    torch.testing.assert_close(own, theirs * batch.mask, atol=2e-5, rtol=2e-5)
    print(
        f"\nitpo_{estimator} of single turns: verl's own {estimator} to {(own - theirs * batch.mask).abs().max():.0e}"
    )


def test_rewards_stay_with_the_turns_at_which_they_were_placed(batch):
    """A reward of every turn, at its end, and one on the user's token behind it; shuffled, they make no difference."""
    ids = turns.turn_ids(batch.mask)
    ends = turns.turn_ends(ids)
    placed = torch.where(ends, torch.rand(ids.shape), 0)
    behind = torch.nn.functional.pad(placed, (1, 0))[:, :-1]
    behind = torch.where(batch.mask | ~torch.nn.functional.pad(ends, (1, 0))[:, :-1], 0, behind)
    expected = alone(batch, [(placed + torch.where(ends, behind.roll(-1, 1), 0), ends)], "rloo", "to_go")
    found = from_verl(batch, "itpo_rloo", placed + behind, baseline="to_go")
    assert behind.any()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_rows_that_verl_pads_a_batch_with_change_nothing(batch):
    expected = from_verl(batch, "itpo_rloo", at_the_end(batch), baseline="to_go")
    rows = len(batch.mask)
    for name in ("mask", "last", "outcome", "token_rewards"):
        values = getattr(batch, name)
        setattr(batch, name, torch.cat([values, torch.zeros(3, *values.shape[1:], dtype=values.dtype)]))
    batch.group = torch.cat([batch.group, torch.full((3,), 99)])
    found = from_verl(batch, "itpo_rloo", at_the_end(batch), baseline="to_go")
    assert torch.equal(found[:rows], expected) and not found[rows:].any()


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (
            {"itpo": {"method": "norm_itpo"}},
            "method 'norm_itpo' needs a PRM: set trainer.v1.trainer_mode=itpo",
        ),
        ({"itpo": {"method": "judge"}}, "method 'judge' needs a judge, for which verl has no place"),
        ({"itpo": {"method": "value_model"}}, "reads the values of a critic, which estimator 'rloo' lacks"),
        ({"itpo": {"method": "gigpo"}}, "method 'gigpo' needs input_ids"),
        ({"itpo": {"method": "none"}}, "unknown method 'none'"),
        (
            {"itpo": {"baseline": "none"}},
            "unknown baseline 'none'; choose one of released, trajectory, to_go",
        ),
        ({"itpo": {"eta": 0.4}}, "algorithm.itpo has no option 'eta'; it has: method"),
        ({"itpo": {"coef": "five"}}, "option coef of algorithm.itpo is 'five'; it must be a finite float"),
        (
            {"use_kl_in_reward": True, "itpo": {"method": "trajectory_share"}},
            "use actor_rollout_ref.actor.use_kl_loss=True",
        ),
        ({"rollout_correction": {"rollout_rs": "token_k1"}}, "cut turns in pieces; use a seq_ variant"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(algorithm, message):
    mask = torch.ones(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        estimators.advantages("rloo", torch.rand(2, 3), mask, ["a", "a"], OmegaConf.create(algorithm))
    assert "\n" not in str(refused.value)
    print(f"\nrefused: {refused.value}")


@pytest.mark.parametrize(
    ("estimator", "algorithm", "message"),
    [
        ("rloo", {"gamma": 0.99}, "algorithm.gamma=0.99 has no effect here"),
        ("grpo", {"gamma": 0.0}, "set algorithm.gamma=1.0"),
        (
            "grpo",
            {"norm_adv_by_std_in_grpo": False},
            "no effect on itpo_grpo, which divides by the deviation of a group; set it to True, or",
        ),
    ],
)
def test_settings_of_verl_without_effect_are_refused_in_one_line(estimator, algorithm, message):
    for config in (algorithm, OmegaConf.create(algorithm), AlgoConfig(**algorithm)):
        with pytest.raises(ValueError, match=re.escape(message)) as refused:
            estimators.settings(config, estimator)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_defaults_of_verl_are_taken(estimator):
    assert estimators.settings(AlgoConfig(), estimator)["method"] == "turn_rewards"
    estimators.settings({"gamma": 1, "norm_adv_by_std_in_grpo": estimator == "grpo"}, estimator)


@pytest.mark.parametrize("uids", [None, ["a"], ["a", "a", "b"]])
def test_a_uid_is_needed_for_every_row(uids):
    with pytest.raises(ValueError, match=r"uids for 2 rows: every row needs its prompt's"):
        estimators.advantages("rloo", torch.rand(2, 3), torch.ones(2, 3), uids, {})


def test_rewards_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        estimators.advantages("rloo", torch.full((2, 3), torch.nan), torch.ones(2, 3), ["a", "a"], {})


def in_a_new_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "VERL_USE_EXTERNAL_MODULES": "itpo.integrations.verl", **environment}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env=variables,
        cwd=ROOT,
        timeout=300,
    )


def test_verl_loads_them_by_an_environment_variable():
    code = "import verl; from verl.trainer.ppo.v1 import get_trainer_cls as t; from verl.trainer.ppo import core_algos as c; "
    code += "print(t('itpo').__name__, *(n for n in c.ADV_ESTIMATOR_REGISTRY if n.startswith('itpo')))"
    done = in_a_new_process(code)
    assert done.stdout.split() == ["ITPOTrainer", "itpo_rloo", "itpo_grpo"], done.stderr


def test_an_untested_version_of_verl_is_refused_with_the_tested_one(monkeypatch):
    with pytest.raises(
        RuntimeError, match=r"^verl 0\.9\.2 was not tested with itpo, 0\.9\.1 was: install it, or set "
    ):
        estimators.check_version("0.9.2")
    monkeypatch.setenv("ITPO_UNTESTED_ENGINES", "1")
    estimators.check_version("0.9.2")
