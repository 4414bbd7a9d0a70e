"""The PRM in the place of verl's critic: equation (3) as a loss of verl's engines, and in verl's FSDP engine on a CPU."""

from __future__ import annotations

import re
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import verl_cpu  # noqa: F401  (the platform has to be there before verl's workers are)
import verl_tiny
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig, TrainingWorkerConfig

from itpo.integrations.verl.trainer import DIALOGUES, ITPOTrainer, PRMWorker, prm_loss

BETA, LR = 0.5, 1e-2
LENGTHS = (5, 9, 3, 7, 4, 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return verl_tiny.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def dialogues() -> SimpleNamespace:
    """Six dialogues, and two rows of the kind that verl pads a batch with."""
    rng = torch.Generator().manual_seed(0)

    def words(length: int) -> torch.Tensor:
        return torch.randint(3, 60, (length,), generator=rng)

    mask = [torch.rand(length, generator=rng) < 0.7 for length in LENGTHS]
    for row in mask:
        row[0] = True
    return SimpleNamespace(
        prompts=[words(3 + i % 3) for i in range(6)] + [words(4), words(4)],
        responses=[words(length) for length in LENGTHS] + [words(1), words(1)],
        mask=[row.long() for row in mask] + [torch.zeros(1, dtype=torch.long)] * 2,
        outcome=[*torch.rand(6, generator=rng), torch.tensor(0.0), torch.tensor(0.0)],
        ref=[-3 * torch.rand(length, generator=rng) for length in LENGTHS] + [torch.zeros(1)] * 2,
    )


def part(dialogues: SimpleNamespace, which: list[int], **values: object):
    return verl_tiny.rows(
        **{name: [rows[i] for i in which] for name, rows in vars(dialogues).items()}, **values
    )


def plain_loss(logps: dict[int, torch.Tensor], dialogues: SimpleNamespace) -> torch.Tensor:
    """Equation (3) written out: the mean over real dialogues of a cross-entropy, one dialogue after the other."""
    losses = []
    for row, logp in logps.items():
        mask, outcome = dialogues.mask[row].bool(), dialogues.outcome[row]
        q = (logp - dialogues.ref[row]).double()[mask].sum()  # as 1 - p loses digits
        p = torch.sigmoid(BETA * q)
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
        data = part(dialogues, rows, global_batch_size=8, dp_size=1, **{DIALOGUES: 6})
        loss, _ = prm_loss({"log_probs": verl_tiny.jagged([whole[i] for i in rows])}, data, beta=BETA)
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
    data = part(dialogues, list(range(8)), dp_size=1, **{DIALOGUES: 6})
    with pytest.raises(ValueError, match=r"outcome must lie in \[0, 1\].*rescale the task's score"):
        prm_loss({"log_probs": verl_tiny.jagged(logps)}, data, beta=BETA)


def log_probs(module: torch.nn.Module, dialogues: SimpleNamespace, row: int) -> torch.Tensor:
    """Of a response's tokens, read one dialogue at a time without any padding."""
    ids = torch.cat([dialogues.prompts[row], dialogues.responses[row]])
    logits = module(ids[None]).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(-1, ids[1:, None])[:, 0][len(dialogues.prompts[row]) - 1 :]


@pytest.fixture
def group(tmp_path):
    """The process group that verl's workers expect."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def worker_of(model: str, monkeypatch, **settings: object) -> PRMWorker:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name, value in (("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "0")):
        monkeypatch.setenv(name, value)
    attention = {"attn_implementation": "eager"}
    model_config = HFModelConfig(
        path=model,
        use_remove_padding=False,
        enable_gradient_checkpointing=False,
        override_config=attention,
        **settings,
    )
    precision = {"param_dtype": "fp32", "reduce_dtype": "fp32"}
    engine = FSDPEngineConfig(
        strategy="fsdp2",
        use_torch_compile=False,
        mixed_precision=precision,
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=2,
        infer_micro_batch_size_per_gpu=2,
    )
    optimizer = FSDPOptimizerConfig(lr=LR, total_training_steps=10)
    worker = PRMWorker(
        TrainingWorkerConfig(
            model_type="value_model",
            model_config=model_config,
            engine_config=engine,
            optimizer_config=optimizer,
            checkpoint_config=CheckpointConfig(),
        )
    )
    worker.reset()
    worker.set_loss_fn(partial(prm_loss, beta=BETA))
    return worker


def test_verls_engine_learns_equation_3_and_scores_with_what_it_learned(model, dialogues, group, monkeypatch):
    """Two mini-batches of two micro-batches each, one of them with padding, against a loop in plain torch."""
    worker = worker_of(model, monkeypatch)
    minibatches = [[0, 1, 2, 3], [4, 5, 6, 7]]
    data = part(dialogues, list(range(8)), mini_batch_size=4, global_batch_size=4, epochs=1, seed=0)
    tensordict_utils.assign_non_tensor(data, dataloader_kwargs={"shuffle": False})
    metrics = worker.train_mini_batch(data)["metrics"]

    plain = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager", dtype=torch.float32)
    given = worker.optimizer_config
    optimizer = torch.optim.AdamW(plain.parameters(), LR, given.betas, weight_decay=given.weight_decay)
    losses = []
    for minibatch in minibatches:
        loss = plain_loss({row: log_probs(plain, dialogues, row) for row in minibatch if row < 6}, dialogues)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), given.clip_grad)
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(torch.tensor(metrics["loss"]), torch.tensor(losses), atol=1e-5, rtol=1e-5)

    scored = worker.infer_batch(part(dialogues, list(range(6)), compute_loss=False, calculate_entropy=False))
    for row, logp in enumerate(scored["log_probs"].unbind()):
        response = logp[len(dialogues.prompts[row]) - 1 : -1]
        torch.testing.assert_close(response, log_probs(plain, dialogues, row).detach(), atol=2e-4, rtol=1e-4)
    print(f"\nPRM in verl's FSDP engine: losses {[round(x, 4) for x in losses]} as in plain torch")


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
