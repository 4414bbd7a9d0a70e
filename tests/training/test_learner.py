"""The two updates against losses written out for one dialogue at a time, and what they must leave alone."""

import dataclasses
import math

import pytest
import torch

from itpo import attribution
from itpo.config import Estimator, Method, RunConfig
from itpo.models.cache import CachedDecoder
from itpo.models.tiny import load
from itpo.rollout.seeding import seeded
from itpo.runs.store import Store
from itpo.specs import Adapter
from itpo.tasks.judging import JudgeError
from itpo.training.learner import Learner

SMALL = RunConfig(
    method=Method("itpo", policy_lr=1e-3),
    seed=0,
    steps=1,
    adapter=Adapter(4, 8),
    prompts=3,
    rollouts=4,
    policy_minibatches=2,
    prm_minibatches=3,
    prm_lr=1e-3,
)


@pytest.fixture
def make_learner(tiny_folder):
    def make(**changes):
        return Learner(dataclasses.replace(SMALL, **changes), *load(tiny_folder), tiny_folder.parent)

    return make


def collect(learner):
    """A batch of reference rollouts whose outcomes can be told from the dialogues: longer ones won."""
    _, batch = learner.collect("here", 3, 4, None)
    tokens = batch.response_mask.sum(1)
    return dataclasses.replace(batch, outcome=(tokens > tokens.float().median()).float())


def weights(learner):
    return {key: p.detach().clone() for key, p in learner.backbone.model.named_parameters()}


def moved(before, after):
    return {key for key in before if not torch.equal(before[key], after[key])}


def advantages_for(batch):
    return torch.randn(batch.input_ids.shape, generator=seeded("advantages"))


def implicit_returns(learner, batch, adapter="prm"):
    """beta * sum of the log-ratio of response tokens, with gradient, one dialogue at a time and from all logits."""
    returns = []
    for i in range(len(batch)):
        ids = batch.input_ids[i, batch.attention_mask[i]][None]
        logps = []
        for name in (adapter, None):
            with learner.backbone.use(name):
                logps.append(learner.backbone.model(ids).logits[0, :-1].log_softmax(-1))
        ratio = (logps[0] - logps[1].detach()).gather(1, ids[0, 1:, None])[:, 0]
        returns.append(
            learner.config.method.beta * ratio[batch.response_mask[i, 1 : ids.shape[1]].nonzero()[:, 0]].sum()
        )
    return torch.stack(returns)


def cross_entropy(returns, outcome):
    terms = [
        r * math.log(p) + (1 - r) * math.log(1 - p)
        for r, p in zip(outcome.tolist(), returns.sigmoid().tolist(), strict=True)
    ]
    return -sum(terms) / len(terms)


def test_the_prm_starts_at_the_reference_and_learns(make_learner):
    learner = make_learner(prm_minibatches=1)
    batch = collect(learner)
    reference = learner.log_probs(batch, None)
    assert 0 < batch.outcome.sum() < len(batch)
    losses = []
    for step in range(6):
        expected = cross_entropy(implicit_returns(learner, batch).detach(), batch.outcome)
        metrics = learner.update_prm(batch, reference, f"step {step}")
        assert metrics["prm_loss"] == pytest.approx(expected, abs=1e-5)  # what it predicted before it learned
        losses.append(metrics["prm_loss"])
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.9 * losses[0]
    assert metrics["prm_auc"] > 0.7 and metrics["prm_kendall"] > 0


def test_small_minibatches_learn_too_and_predict_before_they_learn(make_learner):
    learner = make_learner(prm_minibatches=12)
    batch = collect(learner)
    reference = learner.log_probs(batch, None)
    losses = [learner.update_prm(batch, reference, f"step {step}")["prm_loss"] for step in range(4)]
    after = cross_entropy(implicit_returns(learner, batch).detach(), batch.outcome)
    assert after < losses[-1] < losses[0]


def test_the_prms_gradient_is_that_of_equation_3(make_learner):
    learner = make_learner(prm_minibatches=1, prm_clip_norm=1e9, token_budget=150)
    batch = collect(learner)
    reference = learner.log_probs(batch, None)
    learner.update_prm(batch, reference, "a")  # away from the reference
    p = implicit_returns(learner, batch).sigmoid()
    loss = -(batch.outcome * p.log() + (1 - batch.outcome) * (1 - p).log()).mean()
    expected = torch.autograd.grad(loss, list(learner.backbone.parameters("prm").values()))
    learner.update_prm(batch, reference, "b")
    check_gradients(learner, "prm", expected)


def check_gradients(learner, name, expected):
    """The gradients of the last step, which stay on the parameters, to float32's rounding."""
    scale = max(gradient.abs().max().item() for gradient in expected)
    assert scale > 0
    for parameter, gradient in zip(learner.backbone.parameters(name).values(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=2e-5 * scale, rtol=1e-3)


def policy_loss(learner, batch, advantage, old, reference, rows):
    """Surrogate, KL and entropy averaged over the response tokens of `rows`, in loops."""
    config = learner.config
    terms = []
    for i in rows:
        ids = batch.input_ids[i, batch.attention_mask[i]]
        with learner.backbone.use("policy"):
            logp = learner.backbone.model(ids[None]).logits[0].log_softmax(-1)
        for t in range(len(ids)):
            if batch.response_mask[i, t]:
                now = logp[t - 1, ids[t]]
                ratio = (now - old[i, t]).exp()
                clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
                surrogate = torch.minimum(ratio * advantage[i, t], clipped * advantage[i, t])
                difference = reference[i, t] - now
                kl = difference.exp() - difference - 1
                entropy = -(logp[t - 1].exp() * logp[t - 1]).sum()
                terms.append(-surrogate + config.kl_coef * kl - config.entropy_coef * entropy)
    return torch.stack(terms).mean()


def test_the_policys_gradient_is_that_of_the_loss(make_learner):
    learner = make_learner(
        policy_minibatches=1, policy_clip_norm=1e9, token_budget=150, kl_coef=0.5, entropy_coef=0.2
    )
    batch = collect(learner)
    reference, advantage = learner.log_probs(batch, None), advantages_for(batch)
    learner.update_policy(batch, advantage, reference, "a")
    # The batch is now off-policy by one step, and its ratios differ from 1.
    loss = policy_loss(learner, batch, advantage, batch.sampled_logp, reference, range(len(batch)))
    expected = torch.autograd.grad(loss, list(learner.backbone.parameters("policy").values()))
    learner.update_policy(batch, advantage, reference, "b")
    check_gradients(learner, "policy", expected)


def test_old_log_probs_stay_those_before_the_first_minibatch(make_learner):
    """In the second minibatch the policy has moved, and the ratios are not 1 any more."""
    learner = make_learner(policy_minibatches=2, policy_clip_norm=1e9, method=Method("itpo", policy_lr=3e-2))
    batch = collect(learner)
    reference, advantage = learner.log_probs(batch, None), advantages_for(batch)
    old = learner.log_probs(batch, "policy")
    halves = torch.randperm(len(batch), generator=seeded("a", "policy")).chunk(2)
    twin = make_learner(policy_minibatches=1, policy_clip_norm=1e9, method=Method("itpo", policy_lr=3e-2))
    twin._step(
        "policy",
        batch,
        halves[0],
        lambda rows, width, minibatch: (
            policy_loss(twin, batch, advantage, old, reference, rows.tolist())
            * batch.response_mask[rows].sum()
            / batch.response_mask[minibatch].sum()
        ),
        1e9,
    )
    loss = policy_loss(twin, batch, advantage, old, reference, halves[1].tolist())
    expected = torch.autograd.grad(loss, list(twin.backbone.parameters("policy").values()))
    metrics = learner.update_policy(batch, advantage, reference, "a")
    check_gradients(learner, "policy", expected)
    assert metrics["clip_fraction"] > 0.01


def test_what_was_rewarded_becomes_more_likely(make_learner):
    learner = make_learner(policy_minibatches=1, kl_coef=0.0, entropy_coef=0.0)
    batch = collect(learner)
    advantage = torch.where(batch.outcome[:, None] == 1, 1.0, -1.0).expand(batch.input_ids.shape).contiguous()
    before = learner.log_probs(batch, "policy")
    learner.update_policy(batch, advantage, learner.log_probs(batch, None), "a")
    change = learner.log_probs(batch, "policy") - before
    assert change[batch.outcome == 1][batch.response_mask[batch.outcome == 1]].mean() > 0
    assert change[batch.outcome == 0][batch.response_mask[batch.outcome == 0]].mean() < 0


def test_ratios_are_1_before_the_policy_moves(make_learner):
    learner = make_learner(token_budget=200)
    for step in range(3):
        _, batch = learner.collect(f"step {step}", 3, 4, "policy")
        reference, advantage = learner.log_probs(batch, None), advantages_for(batch)
        metrics = learner.update_policy(batch, advantage, reference, f"step {step}")
        assert 0 <= metrics["ratio_error"] < 1e-4
        assert metrics["entropy"] > 0 and 0 <= metrics["clip_fraction"] <= 1
        assert (metrics["kl"] > 1e-6) or step == 0


def test_old_log_probs_are_those_that_sampled_where_sampling_is_exact(tiny_folder):
    learner = Learner(SMALL, *load(tiny_folder), tiny_folder.parent)
    _, batch = learner.collect("here", 3, 4, "policy")
    exact = learner.update_policy(batch, advantages_for(batch), learner.log_probs(batch, None), "a")
    assert exact["ratio_error"] < 1e-4 and "mismatch" not in exact
    off = dataclasses.replace(batch, sampled_logp=batch.sampled_logp - 1.0)
    metrics = learner.update_policy(off, advantages_for(off), learner.log_probs(off, None), "a")
    assert metrics["ratio_error"] > 1


def in_16_bits(folder, **changes):
    config = dataclasses.replace(SMALL, policy_minibatches=1, **changes)
    learner = Learner(config, *load(folder, torch.bfloat16), folder.parent)
    _, batch = learner.collect("here", 3, 4, "policy")
    return learner, batch, learner.log_probs(batch, None)


def test_in_16_bits_they_are_recomputed_and_the_difference_is_measured(tiny_folder):
    learner, batch, reference = in_16_bits(tiny_folder)
    metrics = learner.update_policy(batch, advantages_for(batch), reference, "a")
    assert metrics["ratio_error"] < 0.2
    assert 0 <= metrics["mismatch_median"] <= metrics["mismatch_99"] <= metrics["mismatch_max"] < 0.3
    assert metrics["mismatch"] < 0.02 and 0.99 < metrics["ess"] <= 1


@pytest.mark.parametrize("shift", [-0.5, 0.5, float("nan")])
def test_another_sampler_is_stopped_before_the_policy_moves(tiny_folder, shift):
    learner, batch, reference = in_16_bits(tiny_folder)
    before = {key: p.detach().clone() for key, p in learner.backbone.parameters("policy").items()}
    off = dataclasses.replace(batch, sampled_logp=batch.sampled_logp + shift)
    with pytest.raises(
        FloatingPointError, match="the policy that sampled is not the one that learns: .*max_mismatch"
    ):
        learner.update_policy(off, advantages_for(off), reference, "a")
    assert all(torch.equal(p, before[key]) for key, p in learner.backbone.parameters("policy").items())
    if shift < 0:
        learner.config = dataclasses.replace(learner.config, max_mismatch=1.0)
        metrics = learner.update_policy(off, advantages_for(off), reference, "a")
        assert metrics["mismatch"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("temperature", [1.5, 3.0])
def test_a_hot_sampler_is_stopped(tiny_folder, monkeypatch, temperature):
    append = CachedDecoder.append
    monkeypatch.setattr(
        CachedDecoder, "append", lambda self, ids, mask: append(self, ids, mask) / temperature
    )
    learner, batch, reference = in_16_bits(tiny_folder)
    with pytest.raises(FloatingPointError, match="the policy that sampled is not the one that learns"):
        learner.update_policy(batch, advantages_for(batch), reference, "a")


@pytest.mark.parametrize("correction", ["none", "token", "sequence"])
def test_the_correction_weighs_what_is_learned(tiny_folder, correction):
    """Every token half a nat likelier in training than in sampling: by token a factor of e^0.5, by sequence the cap."""
    learner, batch, reference = in_16_bits(
        tiny_folder,
        correction=correction,
        correction_cap=3.0,
        max_mismatch=1.0,
        kl_coef=0.0,
        entropy_coef=0.0,
    )
    exact = dataclasses.replace(
        batch,
        sampled_logp=learner.backbone.log_probs_as_trained(
            batch, "policy", learner.config.token_budget, learner._minibatches(batch, 1, "a", "policy")
        ),
    )
    off = dataclasses.replace(exact, sampled_logp=exact.sampled_logp - 0.5 * batch.response_mask)
    gradients = []
    learner.optimizers["policy"].step = lambda: gradients.append(
        torch.cat([p.grad.flatten() for p in learner.backbone.parameters("policy").values()])
    )
    learner.config = dataclasses.replace(learner.config, policy_clip_norm=1e9)
    for one in (exact, off):
        learner.update_policy(one, advantages_for(batch), reference, "a")
    factor = {"none": 1.0, "token": math.exp(0.5), "sequence": 3.0}[correction]
    assert gradients[0].abs().max() > 0
    share = float(gradients[1] @ gradients[0] / gradients[0].square().sum())
    assert share == pytest.approx(factor, rel=0.02)  # 16 bits round each step of the backward pass


def test_sampled_log_probs_are_the_recomputed_ones(make_learner):
    learner = make_learner()
    learner.update_policy(
        batch := collect(learner), advantages_for(batch), learner.log_probs(batch, None), "a"
    )
    dialogues, batch = learner.collect("next", 3, 4, "policy")
    recomputed = learner.log_probs(batch, "policy")
    for row, dialogue in zip(recomputed, dialogues, strict=True):
        assert row[: len(dialogue.ids)].tolist() == pytest.approx(dialogue.sampled_logp, abs=1e-4)


@pytest.mark.parametrize("name", ["prm", "policy"])
def test_accumulation_does_not_change_the_step(make_learner, name):
    """One row at a time, a few, or the whole minibatch in one piece: the same gradient, hence the same step."""
    results = []
    for budget in (1, 200, 10**6):
        learner = make_learner(token_budget=budget, policy_minibatches=1, prm_minibatches=1)
        batch = collect(learner)
        reference = learner.log_probs(batch, None)
        if name == "prm":
            metrics = learner.update_prm(batch, reference, "a")
        else:
            metrics = learner.update_policy(batch, advantages_for(batch), reference, "a")
        step = {k: p.detach().clone() for k, p in learner.backbone.parameters(name).items() if "lora_B" in k}
        results.append((step, metrics))
    (first, metrics), *others = results
    for step, other_metrics in others:
        for key, value in step.items():
            # Adam divides by the gradient's size, so that only a gradient near zero may show its rounding.
            assert (value - first[key]).abs().mean() < 1e-6
        assert other_metrics == pytest.approx(metrics, abs=1e-5, nan_ok=True)


def test_each_update_moves_its_own_adapter_only(make_learner):
    learner = make_learner()
    batch = collect(learner)
    reference = learner.log_probs(batch, None)
    for name, update in (
        ("prm", lambda: learner.update_prm(batch, reference, "a")),
        ("policy", lambda: learner.update_policy(batch, advantages_for(batch), reference, "a")),
        ("prm", lambda: learner.update_prm(batch, reference, "b")),
    ):
        before = weights(learner)
        update()
        assert moved(before, weights(learner)) == learner.backbone.parameters(name).keys()
        assert learner.backbone.active is None


def test_prm_and_critic_exist_only_where_method_and_estimator_need_them(make_learner):
    for entry in attribution.METHODS.values():
        for estimator in ("ppo", "grpo"):
            if estimator == "grpo" and entry.needs_values:
                continue
            learner = make_learner(method=Method(entry.name), estimator=Estimator(estimator))
            names = ["policy"] + ["prm"] * entry.needs_prm + ["critic"] * (estimator == "ppo")
            assert list(learner.backbone.names) == list(learner.optimizers) == names


PPO = {"estimator": Estimator("ppo"), "method": Method("itpo", policy_lr=1e-3, outcome_coef=5.0)}


def test_the_critics_gradient_is_that_of_the_clipped_value_loss(make_learner):
    learner = make_learner(
        **PPO, critic_minibatches=1, critic_clip_norm=1e9, token_budget=150, value_clip=0.3
    )
    batch = collect(learner)
    mask = batch.response_mask
    targets = 5 * torch.randn(2, *mask.shape, generator=seeded("targets"))
    learner.update_critic(batch, targets, learner.values(batch), "a")  # away from zero
    old = learner.values(batch) + 2.0 * torch.randn(2, *mask.shape, generator=seeded("old"))
    with learner.backbone.use("critic"):
        new = learner.backbone.token_values(batch.input_ids, mask)
    old, wanted = old / 5, targets / 5  # the weight of the rewards, which the heads know nothing of
    near = torch.maximum(torch.minimum(new, old + 0.3), old - 0.3)
    loss = sum(
        0.5 * max((new[s, i, t] - wanted[s, i, t]) ** 2, (near[s, i, t] - wanted[s, i, t]) ** 2)
        for s in range(2)
        for i, t in mask.nonzero().tolist()
    ) / int(mask.sum())
    expected = torch.autograd.grad(loss, list(learner.backbone.parameters("critic").values()))
    metrics = learner.update_critic(batch, targets, 5 * old, "b")
    assert metrics["value_loss"] == pytest.approx(loss.item(), rel=1e-4)
    check_gradients(learner, "critic", expected)


def test_the_critic_learns_and_says_how_well(make_learner):
    """It is told each dialogue's outcome, which shows in the dialogue's length."""
    learner = make_learner(**PPO)
    batch = collect(learner)
    targets = torch.where(batch.response_mask, 5 * batch.outcome[:, None], 0).repeat(2, 1, 1)
    # After 30 updates it still climbs, to 0.59 to 0.93 for six random streams; after 60 it is above 0.92 for each.
    metrics = [learner.update_critic(batch, targets, learner.values(batch), f"{i}") for i in range(60)]
    first, *_, last = metrics
    assert first["explained_variance"] == pytest.approx(0.0, abs=1e-6)  # its head starts at zero
    assert last["explained_variance"] > 0.9 and last["value_loss"] < 0.1 * first["value_loss"]
    values = learner.values(batch)
    mask = batch.response_mask
    error = (targets.sum(0) - values.sum(0))[mask]
    expected = 1 - error.var() / targets.sum(0)[mask].var()
    again = learner.update_critic(batch, targets, values, "last")["explained_variance"]
    assert again == pytest.approx(expected.item(), abs=1e-4)


def test_the_critics_update_leaves_policy_and_prm_alone(make_learner, tmp_path):
    learner = make_learner(**PPO)
    batch = collect(learner)
    reference = learner.log_probs(batch, None)
    learner.update_prm(batch, reference, "a")
    learner.update_policy(batch, advantages_for(batch), reference, "a")
    before = {k: v.clone() for k, v in learner.state().items()}
    learner.update_critic(batch, torch.ones(2, *batch.response_mask.shape), learner.values(batch), "a")
    learner.update_critic(batch, torch.ones(2, *batch.response_mask.shape), learner.values(batch), "b")
    after = learner.state()
    changed = {key for key in after if key not in before or not torch.equal(before[key], after[key])}
    assert {key.partition("|")[0] for key in changed} == {"critic"}
    run = Store(tmp_path).open(learner.config)
    run.restore()
    run.checkpoint(1, after)
    run.release()
    resumed = make_learner(**PPO)
    assert resumed.resume(Store(tmp_path).open(learner.config)) == 1
    assert torch.equal(resumed.values(batch), learner.values(batch)) and learner.values(batch).any()


class Unreliable:
    """A judge who fails for every dialogue of which it was told the opening."""

    def __init__(self, openings):
        self.openings, self.calls = openings, 0

    def scores(self, example, messages, rng):
        self.calls += 1
        if messages[0].content in self.openings:
            raise JudgeError("no answer")
        return [1.0 + k for k in range(sum(m.role == "assistant" for m in messages))]


def judged(tiny_folder, share, **changes):
    """A learner whose judge fails for about that share of a batch, the batch, and what becomes of it."""
    config = dataclasses.replace(SMALL, method=Method("judge"), judge_retries=1, prompts=8, **changes)
    learner = Learner(config, *load(tiny_folder), tiny_folder.parent)
    dialogues, batch = learner.collect("here", 8, 4, None)
    openings = [d.messages[0].content for d in dialogues[::4]]
    learner.judge = Unreliable(openings[: round(share * 8)])
    failed = [i for i, d in enumerate(dialogues) if d.messages[0].content in learner.judge.openings]
    return learner, dialogues, batch, failed


def test_dialogues_that_cannot_be_judged_are_dropped_and_counted(tiny_folder):
    learner, dialogues, batch, failed = judged(tiny_folder, 0.25)
    kept, scores, counts = learner.judge_turns(dialogues, batch, "a")
    assert failed and counts == {"judge_failed": len(failed), "judge_retries": len(failed)}
    assert [i for i, row in enumerate(kept.response_mask) if not row.any()] == failed
    for i, dialogue in enumerate(dialogues):
        if i not in failed:
            assert scores[i, : dialogue.assistant_turns].tolist() == [
                1.0 + k for k in range(dialogue.assistant_turns)
            ]
    before = learner.log_probs(batch, "policy")
    reference, advantage = learner.log_probs(batch, None), advantages_for(batch)
    metrics = learner.update_policy(kept, advantage, reference, "a")
    assert metrics["ratio_error"] < 1e-4 and not torch.equal(before, learner.log_probs(batch, "policy"))


def test_or_their_outcome_is_shared_equally(tiny_folder):
    learner, dialogues, batch, failed = judged(tiny_folder, 0.25, judge_failure="uniform")
    kept, scores, counts = learner.judge_turns(dialogues, batch, "a")
    assert kept is batch and counts["judge_failed"] == len(failed) > 0
    for i in failed:
        turns = dialogues[i].assistant_turns
        assert scores[i].tolist() == [1.0] * turns + [0.0] * (scores.shape[1] - turns)


@pytest.mark.parametrize("policy", ["drop", "uniform"])
def test_a_judge_that_fails_too_often_stops_the_run(tiny_folder, policy):
    learner, dialogues, batch, failed = judged(tiny_folder, 1.0, judge_failure=policy, max_failed=0.9)
    assert len(failed) == 32
    with pytest.raises(JudgeError, match="failed for 32 of 32 dialogues, each tried 2 times.*max_failed"):
        learner.judge_turns(dialogues, batch, "a")
    assert learner.judge.calls == 64


def test_a_judge_that_fails_everywhere_stops_a_run_that_drops_what_it_cannot_judge(tiny_folder):
    learner, dialogues, batch, failed = judged(tiny_folder, 1.0, judge_failure="drop", max_failed=1.0)
    with pytest.raises(JudgeError, match="failed for 32 of 32 dialogues, each tried 2 times"):
        learner.judge_turns(dialogues, batch, "a")
    # A dialogue that was lost before was never judged: the others are all that there are.
    lost = [dataclasses.replace(dialogues[0], failure="lost"), *dialogues[1:]]
    with pytest.raises(JudgeError, match="failed for 31 of 32 dialogues"):
        learner.judge_turns(lost, batch.without([0]), "a")
    learner, dialogues, batch, failed = judged(tiny_folder, 1.0, judge_failure="uniform", max_failed=1.0)
    kept, scores, _ = learner.judge_turns(dialogues, batch, "a")
    assert kept.kept.all() and scores.max() == 1.0  # shared equally, nothing is lost


def test_token_rewards_are_beta_times_the_log_ratio(make_learner):
    batch = collect(make_learner())
    for scale in ("paper", "released"):
        learner = make_learner(method=Method("itpo", beta=0.7, scale=scale))
        reference = learner.log_probs(batch, None)
        learner.update_prm(batch, reference, "a")
        expected = 0.7 * (learner.log_probs(batch, "prm") - reference)
        rewards = learner.token_rewards(batch, reference)
        if scale == "released":
            for row, mask in zip(expected, batch.response_mask, strict=True):
                row[int(mask.nonzero().max())] = 0.0
            sums = [abs(float(row[t:].sum())) for row in expected for t in range(len(row))]
            expected = expected / (max(sums) + 1e-6)
        torch.testing.assert_close(rewards, expected, atol=1e-5, rtol=1e-4)
        assert not rewards[~batch.response_mask].any() and rewards.any()


def test_collect_follows_its_stream(make_learner):
    learner = make_learner()
    dialogues, batch = learner.collect("a", 3, 4, "policy")
    assert learner.collect("a", 3, 4, "policy")[0] == dialogues != learner.collect("b", 3, 4, "policy")[0]
    assert make_learner().collect("a", 3, 4, "policy")[0] == dialogues
    assert batch.group_size == 4 and len(batch) == 12
    assert [d.example for d in dialogues[::4] for _ in range(4)] == [d.example for d in dialogues]
    # More prompts do not change which problems come first.
    more = learner.collect("a", 5, 4, "policy")[0]
    assert [d.example for d in more[:12]] == [d.example for d in dialogues]


def test_a_resumed_learner_goes_on_to_the_same_bits(make_learner, tmp_path):
    learner = make_learner()
    batch = collect(learner)
    reference = learner.log_probs(batch, None)

    def update(some, step):
        some.update_prm(batch, reference, f"step {step}")
        some.update_policy(batch, advantages_for(batch), reference, f"step {step}")

    assert make_learner().resume(Store(tmp_path).open(SMALL)) == 0
    update(learner, 0)
    run = Store(tmp_path).open(SMALL)
    run.checkpoint(1, learner.state())
    update(learner, 1)
    run.release()
    resumed = make_learner()
    assert resumed.resume(Store(tmp_path).open(SMALL)) == 1
    assert resumed.backbone.active is None
    assert moved(weights(learner), weights(resumed)) != set()
    update(resumed, 1)
    assert moved(weights(learner), weights(resumed)) == set()
    run.release()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_with_a_gradient_that_is_not_finite_is_left_out_and_counted(make_learner, value):
    learner = make_learner()
    batch = collect(learner)
    reference, advantage = learner.log_probs(batch, None), advantages_for(batch)
    advantage[0, int(batch.response_mask[0].int().argmax())] = value
    before = weights(learner)
    learner.update_policy(batch, advantage, reference, "a")
    assert learner.skipped == {"policy": 1, "prm": 0}  # of two, the one without that dialogue was taken
    assert all(bool(torch.isfinite(p).all()) for p in weights(learner).values())
    changed = moved(before, weights(learner))
    assert changed and changed <= learner.backbone.parameters("policy").keys()


def test_counts_of_steps_left_out_survive_a_restart(make_learner, tmp_path):
    learner = make_learner()
    learner.skipped["prm"] = 3
    run = Store(tmp_path).open(SMALL)
    run.checkpoint(1, learner.state())
    run.release()
    resumed = make_learner()
    resumed.resume(Store(tmp_path).open(SMALL))
    assert resumed.skipped == {"policy": 0, "prm": 3}
    for name in resumed.backbone.names:  # no step was taken, so nothing is remembered
        assert not any(resumed.optimizers[name].state.values())


def test_seeded_generators_differ_by_every_part():
    parts = [(0, "a"), (1, "a"), (0, "b"), ("0/a", "c"), (0,)]
    draws = [torch.rand(3, generator=seeded(*p)).tolist() for p in parts]
    assert len({tuple(d) for d in draws}) == len(parts)
    assert draws[0] == torch.rand(3, generator=seeded(0, "a")).tolist()
