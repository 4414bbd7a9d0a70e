"""One process of verl's FSDP engine on a CPU that trains a PRM on its part of a batch, alone or beside others: `learn`."""

from __future__ import annotations

import os
from functools import partial
from types import SimpleNamespace

import torch
import verl_cpu  # noqa: F401  (the platform has to be there before verl's workers are)
import verl_tiny
from tensordict import TensorDict
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig, TrainingWorkerConfig

from itpo.integrations.verl.trainer import PRMWorker, prm_loss

BETA, LR = 0.5, 1e-2
LENGTHS = (5, 9, 3, 7, 4, 8)  # of the real dialogues' responses
# Of four rows each; the second has the two rows of padding. A rank takes its share of each, in order.
MINIBATCHES = [[0, 1, 2, 3], [4, 6, 5, 7]]


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


def part(dialogues: SimpleNamespace, which: list[int], **values: object) -> TensorDict:
    """Some rows as verl's workers get them."""
    chosen = {name: [rows[i] for i in which] for name, rows in vars(dialogues).items()}
    return verl_tiny.rows(**chosen, **values)


def worker_of(model: str) -> PRMWorker:
    """The worker under test, in single precision."""
    model_config = HFModelConfig(
        path=model,
        use_remove_padding=False,
        enable_gradient_checkpointing=False,
        override_config={"attn_implementation": "eager"},
    )
    engine = FSDPEngineConfig(
        strategy="fsdp2",
        use_torch_compile=False,
        mixed_precision={"param_dtype": "fp32", "reduce_dtype": "fp32"},
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=1,
        infer_micro_batch_size_per_gpu=2,
    )
    worker = PRMWorker(
        TrainingWorkerConfig(
            model_type="value_model",  # as verl's trainer says of a critic
            model_config=model_config,
            engine_config=engine,
            optimizer_config=FSDPOptimizerConfig(lr=LR, total_training_steps=10),
            checkpoint_config=CheckpointConfig(),
        )
    )
    worker.reset()
    worker.set_loss_fn(partial(prm_loss, beta=BETA))
    return worker


def learn(rank: int, ranks: int, store: str, model: str, results: str) -> None:
    """Learn from the mini-batches, score the real dialogues, and leave losses and log-probabilities in a file."""
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 0,
    }
    os.environ |= {name: str(value) for name, value in place.items()}
    group = torch.distributed.FileStore(store, ranks)
    torch.distributed.init_process_group("gloo", store=group, rank=rank, world_size=ranks)
    worker, batch = worker_of(model), dialogues()
    share = len(MINIBATCHES[0]) // ranks
    own = [row for minibatch in MINIBATCHES for row in minibatch[rank * share : (rank + 1) * share]]
    data = part(batch, own, mini_batch_size=4, global_batch_size=4, epochs=1, seed=0)
    tensordict_utils.assign_non_tensor(data, dataloader_kwargs={"shuffle": False})
    metrics = worker.train_mini_batch(data)["metrics"]
    scored = worker.infer_batch(part(batch, list(range(6)), compute_loss=False, calculate_entropy=False))
    starts = [len(prompt) for prompt in batch.prompts]
    rows = [logp[start - 1 : -1] for logp, start in zip(scored["log_probs"].unbind(), starts, strict=False)]
    if rank == 0:
        torch.save({"loss": torch.tensor(metrics["loss"]), "log_probs": rows}, results)
    torch.distributed.destroy_process_group()
