"""Conversations of several processes that sample together: by TRL's vLLM server, or by a model whose shards they hold.

Run as a program, this is one process of several, ``python tests/trl_users.py KIND FOLDER``. It holds conversations alone, then
together with the others, and leaves in the folder how many dialogues were open before each turn. The server's answers are
those of this model; all else of TRL's server mode is its own.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration

from itpo.integrations.trl import Conversations, ITPOConfig, ITPOTrainer, outcome_reward
from itpo.models.tiny import load
from itpo.runs.artifacts import SHIPPED
from itpo.tasks.registry import get_task

SEEDS = 6  # batches
ROWS = 5  # conversations of a process in each


class Leaving:
    """The users of a task, half of whom leave after each turn, so that dialogues differ in length."""

    def __init__(self) -> None:
        self.task = get_task("math")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def reply(self, example: Any, messages: Any, rng: random.Random) -> str | None:
        return None if rng.random() < 0.5 else self.task.reply(example, messages, random.Random(0))


class Served:
    """Stands in for the client of the server, on the process that TRL lets ask it."""

    def __init__(self, trainer: ITPOTrainer) -> None:
        self.trainer = trainer

    def generate(self, prompts: list[list[int]], **options: Any) -> dict[str, Any]:
        trainer, config = self.trainer, self.trainer.generation_config
        config.max_new_tokens = options["max_tokens"]
        config.eos_token_id = options["generation_kwargs"]["stop_token_ids"]
        trainer.use_vllm = False
        ids, _ = GRPOTrainer._generate_single_turn(trainer, prompts, None, {}, num_generations=1)
        trainer.use_vllm = True
        return {
            "prompt_ids": prompts,
            "completion_ids": ids,
            "logprobs": [[[0.0] for _ in turn] for turn in ids],
        }


def by_server(trainer: ITPOTrainer) -> None:
    """Let turns be sampled by TRL's server mode."""
    generation = VLLMGeneration.__new__(VLLMGeneration)
    generation.accelerator, generation.vllm_client = trainer.accelerator, Served(trainer)
    generation.mode, generation.enable_sleep_mode = "server", False
    generation.structured_outputs_regex, generation.logprobs = None, 0
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_completion_length"):
        setattr(generation, name, getattr(trainer, name))
    generation.generation_kwargs = {}
    trainer.use_vllm, trainer.vllm_generation = True, generation
    trainer._last_loaded_step = trainer.state.global_step


def by_shards(trainer: ITPOTrainer) -> None:
    """Shard the model as FSDP2 does, which accelerate does on GPUs alone."""
    mesh = init_device_mesh("cpu", (trainer.accelerator.num_processes,))
    for layer in trainer.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(trainer.model, mesh=mesh)
    trainer._dist.fsdp_version = 2


def main(kind: str, folder: str) -> None:
    """Compare the conversations of this process with those that it holds alone."""
    model, tokenizer = load(SHIPPED / "laptop-math")
    users = Conversations(Leaving(), tokenizer, max_turn_tokens=12)
    settings = {"method": "trajectory_share", "use_cpu": True, "bf16": False, "report_to": "none"}
    args = ITPOConfig(folder, top_k=1, num_generations=ROWS, per_device_train_batch_size=ROWS, **settings)
    problems = users.problems(ROWS)
    trainer = ITPOTrainer(
        model, outcome_reward, args, problems, processing_class=tokenizer, rollout_func=users
    )
    sample, sizes = trainer._generate_single_turn, []

    def record(histories: list[list[int]], *arguments: Any, **options: Any) -> Any:
        sizes[-1].append(len(histories))
        return sample(histories, *arguments, **options)

    def hold(seed: int) -> dict[str, Any]:
        users.seed = seed
        sizes.append([])
        return users(problems["prompt"], trainer)

    trainer._generate_single_turn = record
    alone = [hold(seed) for seed in range(SEEDS)]
    by_server(trainer) if kind == "server" else by_shards(trainer)
    together = [hold(seed) for seed in range(SEEDS)]
    rank, compared = trainer.accelerator.process_index, ("completion_ids", "env_mask", "outcome")
    for one, other in zip(alone, together, strict=True):
        assert all(one[name] == other[name] for name in compared), f"process {rank} has turns of others"
    found = {"own": sizes[:SEEDS], "asked": sizes[SEEDS:]}
    Path(folder, f"rank_{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
