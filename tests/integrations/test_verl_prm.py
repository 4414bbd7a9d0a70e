"""The PRM in the place of verl's critic: equation (3) as a loss of verl's engines, and in verl's FSDP engine on a CPU."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
import verl_rank
import verl_tiny
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM
from verl.workers.config import FSDPOptimizerConfig

from itpo.integrations.verl.trainer import DIALOGUES, ITPOTrainer, prm_loss


@pytest.fixture
def dialogues() -> SimpleNamespace:
    return verl_rank.dialogues()


def plain_loss(logps: dict[int, torch.Tensor], dialogues: SimpleNamespace) -> torch.Tensor:
    """Equation (3) written out: the mean over real dialogues of a cross-entropy, one dialogue after the other."""
    losses = []
    for row, logp in logps.items():
        mask, outcome = dialogues.mask[row].bool(), dialogues.outcome[row]
        q = (logp - dialogues.ref[row]).double()[mask].sum()  # as 1 - p loses digits
        p = torch.sigmoid(verl_rank.BETA * q)
        losses.append(-(outcome * p.log() + (1 - outcome) * (1 - p).log()))
    return torch.stack(losses).mean().float()


@pytest.mark.parametrize(
    "micro_batches", [[range(8)], [[0, 6, 1, 2], [3, 4], [5, 7]], [[0], [1, 2, 3, 4, 5], [6, 7]]]
)
def test_the_loss_on_nested_tensors_is_equation_3(dialogues, micro_batches):
    lengths = [len(p) + len(r) for p, r in zip(dialogues.prompts, dialogues.responses, strict=True)]
    whole = [
        torch.randn(length, generator=torch.Generator().manual_seed(length), requires_grad=True)
        for length in lengths
    ]
    total = torch.zeros(())
    for rows in micro_batches:
        rows = list(rows)
        data = verl_rank.part(dialogues, rows, global_batch_size=8, dp_size=1, **{DIALOGUES: 6})
        loss, _ = prm_loss(
            {"log_probs": verl_tiny.jagged([whole[i] for i in rows])}, data, beta=verl_rank.BETA
        )
        loss.backward()
        total = total + loss.detach()
    found = [row.grad for row in whole]
    for row in whole:
        row.grad = None
    # A model's log-probability of a token stands where the token before it is read.
    responses = {i: whole[i][len(dialogues.prompts[i]) - 1 : -1] for i in range(6)}
    expected = plain_loss(responses, dialogues)
    expected.backward()
    torch.testing.assert_close(total, expected.detach(), atol=1e-6, rtol=1e-6)
    for gradient, row in zip(found[:6], whole, strict=False):
        torch.testing.assert_close(gradient, row.grad, atol=1e-7, rtol=1e-5)
    assert not any(row is not None and row.any() for row in found[6:])
    print(
        f"\nPRM loss in {len(micro_batches)} micro-batches: equation (3) to {abs(total - expected.detach()):.0e}"
    )


def test_outcomes_off_0_to_1_are_refused(dialogues):
    dialogues.outcome[2] = torch.tensor(1.5)
    logps = [
        torch.zeros(len(p) + len(r)) for p, r in zip(dialogues.prompts, dialogues.responses, strict=True)
    ]
    data = verl_rank.part(dialogues, list(range(8)), dp_size=1, **{DIALOGUES: 6})
    with pytest.raises(ValueError, match=r"outcome must lie in \[0, 1\].*rescale the task's score"):
        prm_loss({"log_probs": verl_tiny.jagged(logps)}, data, beta=verl_rank.BETA)


def log_probs(module: torch.nn.Module, dialogues: SimpleNamespace, row: int) -> torch.Tensor:
    """Of a response's tokens, read one dialogue at a time without any padding."""
    ids = torch.cat([dialogues.prompts[row], dialogues.responses[row]])
    logits = module(ids[None]).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(-1, ids[1:, None])[:, 0][len(dialogues.prompts[row]) - 1 :]


@pytest.mark.parametrize("ranks", [1, 2])
def test_verls_engine_learns_equation_3_and_scores_with_what_it_learned(tmp_path, dialogues, ranks):
    """Two mini-batches in micro-batches of one row, one with padding, by one process and by two, against plain torch."""
    model, results = verl_tiny.save(tmp_path / "model"), tmp_path / "results.pt"
    given = (ranks, str(tmp_path / "store"), model, str(results))
    torch.multiprocessing.spawn(verl_rank.learn, given, nprocs=ranks)
    learned = torch.load(results, weights_only=True)

    plain = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager", dtype=torch.float32)
    config = FSDPOptimizerConfig(lr=verl_rank.LR, total_training_steps=10)
    optimizer = torch.optim.AdamW(
        plain.parameters(), config.lr, config.betas, weight_decay=config.weight_decay
    )
    losses = []
    for minibatch in verl_rank.MINIBATCHES:
        loss = plain_loss({row: log_probs(plain, dialogues, row) for row in minibatch if row < 6}, dialogues)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), config.clip_grad)
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(learned["loss"], torch.tensor(losses), atol=1e-5, rtol=1e-5)
    for row, logp in enumerate(learned["log_probs"]):
        # A step of AdamW blows the rounding of a gradient near 0 up to its own size.
        torch.testing.assert_close(logp, log_probs(plain, dialogues, row).detach(), atol=2e-4, rtol=1e-4)
    print(
        f"\nPRM in verl's FSDP engine, {ranks} processes: losses {[round(x, 4) for x in losses]} as in plain torch"
    )


def config(**changes: object) -> OmegaConf:
    settings = {
        "algorithm.adv_estimator": "itpo_rloo",
        "algorithm.itpo.method": "norm_itpo",
        "critic.model.path": "a",
        "critic.enable": True,
        "actor_rollout_ref.actor.use_kl_loss": True,
        "actor_rollout_ref.model.path": "a",
        "trainer.v1.trainer_mode": "itpo",
    }
    made = OmegaConf.create()
    for key, value in (settings | {key.replace("__", "."): value for key, value in changes.items()}).items():
        OmegaConf.update(made, key, value)
    return made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"algorithm__adv_estimator": "grpo"},
            "trainer_mode=itpo needs algorithm.adv_estimator=itpo_rloo or itpo_grpo, not grpo",
        ),
        ({"algorithm__itpo__method": "trajectory_share"}, "method 'trajectory_share' has no PRM to train"),
        (
            {"algorithm__itpo__method": "turn_rewards"},
            "method 'turn_rewards' has no PRM to train: set algorithm.itpo.method=norm_itpo",
        ),
        ({"critic__enable": None}, "set critic.enable=True and actor_rollout_ref.actor.use_kl_loss=True"),
        (
            {"actor_rollout_ref__actor__use_kl_loss": False},
            "the PRM takes the critic's place and is compared with",
        ),
        ({"critic__model__path": "b"}, "the PRM starts equal to the reference, so set both alike"),
        ({"algorithm__itpo__beta": -1.0}, "beta must be positive and finite"),
        ({"algorithm__itpo__scale": "none"}, "unknown scale 'none'; choose one of paper, released"),
        (
            {"algorithm__adv_estimator": "itpo_grpo", "algorithm__itpo__method": "istar"},
            "takes no baseline or scale",
        ),
        ({"algorithm__use_kl_in_reward": True}, "use actor_rollout_ref.actor.use_kl_loss=True"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_before_anything_starts(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        ITPOTrainer(config(**changes))
    print(f"\nrefused: {refused.value}")


def test_several_outputs_of_one_dialogue_are_refused():
    trainer = object.__new__(ITPOTrainer)
    batch = SimpleNamespace(keys=["a_0_0", "a_1_0", "a_1_1"])
    with pytest.raises(ValueError, match="gave several outputs for one dialogue"):
        trainer._compute_advantage(batch, {})
