"""What the tests of ``ITPOTrainer`` share: a tiny random model, made-up conversations, and a trainer of both.

Run as a program, this is one process of several that train together, ``python tests/trl_parts.py FOLDER METHOD STEPS``, from
a checkpoint if a fourth argument names one.
"""

import os
import random
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from itpo.integrations.trl import ITPOConfig, ITPOTrainer, outcome_reward
from itpo.models.tiny import build_tokenizer, load

WORDS = [f"word{i}" for i in range(20)]
N = 4  # rollouts a prompt


def write_model(folder: Path) -> Path:
    """A model of one layer whose tokens differ in probability, with its tokenizer."""
    tokenizer = build_tokenizer(WORDS)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(
            LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes, **ends)
        ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class MadeUp:
    """A rollout hook whose conversations are drawn by prompt, step and row alone; every sixth has no outcome.

    Nothing is sampled from the policy, so that any number of processes sees the same.
    """

    def __init__(self, ids: int) -> None:
        self.ids, self.seen = ids, []

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, list[Any]]:
        first, step = trainer.accelerator.process_index * len(prompts), trainer.state.global_step
        mode = "train" if trainer.model.training else "eval"
        out = {key: [] for key in ("prompt_ids", "completion_ids", "env_mask", "outcome", "judge_scores")}
        for row, prompt in enumerate(prompts, start=first):
            rng = random.Random(f"{prompt}/{mode}/{step}/{row}")
            lengths = [rng.randint(1, 4) for _ in range(2 * rng.randint(1, 4) - 1)]  # turns and replies
            mask = [int(i % 2 == 0) for i, length in enumerate(lengths) for _ in range(length)]
            asked = random.Random(prompt)
            out["prompt_ids"].append([asked.randrange(5, self.ids) for _ in range(asked.randint(2, 6))])
            out["completion_ids"].append([rng.randrange(5, self.ids) for _ in mask])
            out["env_mask"].append(mask)
            out["outcome"].append(None if row % 6 == 5 else rng.choice([0.0, 1.0, rng.random()]))
            out["judge_scores"].append([rng.random() for _ in lengths[::2]])
        self.seen.append(out)
        return {**out, "logprobs": None}


def build(model_folder: Path, folder: Path, **options: Any) -> ITPOTrainer:
    """A trainer of the tiny model on made-up conversations."""
    model, tokenizer = load(model_folder)
    settings = {
        "per_device_train_batch_size": 12 // int(os.environ.get("WORLD_SIZE", "1")),
        "per_device_eval_batch_size": 12,
        "num_generations": N,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "prm_lr": 1e-2,
        "prm_minibatches": 3,
        "beta": 0.01,
        # The one of TRL's losses that divides by the tokens of all processes.
        "loss_type": "dapo",
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1.0,
    }
    args = ITPOConfig(str(folder), **{**settings, **options})
    return ITPOTrainer(
        model,
        outcome_reward,
        args,
        Dataset.from_dict({"prompt": [f"prompt {i}" for i in range(30)]}),
        processing_class=tokenizer,
        rollout_func=MadeUp(len(tokenizer)),
        peft_config=LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]),
    )


def adapters(trainer: ITPOTrainer) -> dict[str, torch.Tensor]:
    """The weights of policy and PRM."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: p.detach().clone() for name, p in model.named_parameters() if "lora" in name}


def main(folder: str, method: str, steps: str, checkpoint: str | None = None) -> None:
    """Train with a checkpoint at step 2, and leave the weights of this process in the folder."""
    saving = {"save_strategy": "steps", "save_steps": 2.0}
    options = {"method": method, "max_steps": int(steps), "baseline": "to_go", **saving}
    trainer = build(Path(folder, "model"), Path(folder, "run"), **options)
    trainer.train(resume_from_checkpoint=checkpoint)
    save_file(adapters(trainer), Path(folder, f"rank_{trainer.accelerator.process_index}.safetensors"))


if __name__ == "__main__":
    main(*sys.argv[1:])
