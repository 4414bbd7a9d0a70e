"""One update of the policy on the same rollouts, ours against TRL's trainers: ``python -m benchmarks.update``.

128 completions (16 prompts x 8) of random words, a tiny model that has hardly learned, LoRA on all linear layers, AdamW, one
thread. All begin with the same adapter, and get 32 completions into one pass; an update is the whole batch in one optimizer
step or in four, without reference or with a KL penalty to the model without adapters. What each does with the rollouts:

* bare loop: written by hand below, with peft and nothing else. Logits of all positions of a padded batch; old log-probabilities
  are those of sampling; advantages as in GRPO.
* ours: advantages as in GRPO and ``Learner.update_policy``; old log-probabilities as there. The same loss, and metrics.
* GRPOTrainer: scoring, ``training_step`` and the optimizer's steps within its own ``train()``, as a callback sees them begin
  and end. Loss "dapo", a mean over tokens as ours. Computes old log-probabilities only where an update has several steps.
* RLOOTrainer: as before; its loss is of whole completions, its KL part of the reward, and it always computes old ones.

Where the reference is read, every way computes it within the update. Generation is in none: what is sampled is handed to the
trainers in its place. Their decoding of completions for a reward function, which answers at once, is in theirs.

Prints processor seconds (least of some updates in turn) and peak memory beyond what there was before the update, ours also as a
multiple of each line's. TRL's head takes a buffer of 32768 words a position whatever the vocabulary, 398 MB here; as it touches
little of it, that is not counted. With one optimizer step, ``differs by`` is how far the first update is from the bare loop's,
relative to its length: small where all do the same work (GRPOTrainer adds 1e-4 to each standard deviation, we do not).
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import trl
from datasets import Dataset
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback

from itpo import advantages, attribution
from itpo.config import RunConfig
from itpo.dialogue import Dialogue, TokenBatch, collate
from itpo.models.tiny import load, pretrain_by_imitation
from itpo.specs import TinyLM
from itpo.study.profiles import get_profile
from itpo.tasks.registry import get_task
from itpo.training.learner import Learner
from itpo.training.profiling import peak_bytes

PROMPTS, ROLLOUTS, PASS = 16, 8, 32
PROMPT = (8, 32)  # tokens of a prompt
SPECIAL = 5  # ids of the tokenizer that are not words
KL = 0.05
CPU = torch.device("cpu")
BUFFER = 1e8  # bytes; larger is only the buffer of TRL's head


@dataclass(frozen=True)
class Rollouts:
    """Prompts and completions as ids, the latter with a reward each, in the order of the prompts."""

    prompts: list[list[int]]
    completions: list[list[int]]
    rewards: list[float]

    def batch(self, pad_id: int) -> TokenBatch:
        """The same as ours; log-probabilities of sampling are still 0."""
        dialogues = []
        for i, (completion, reward) in enumerate(zip(self.completions, self.rewards, strict=True)):
            prompt = self.prompts[i // ROLLOUTS]
            mask = [False] * len(prompt) + [True] * len(completion)
            zeros = (0.0,) * len(mask)
            dialogues.append(Dialogue(None, (), (*prompt, *completion), tuple(mask), zeros, reward))
        return collate(dialogues, ROLLOUTS, pad_id)


def make_rollouts(tokenizer: Any, shortest: int, longest: int) -> Rollouts:
    """Random words of random lengths; every completion ends with the token for it."""
    rng = random.Random(0)

    def words(low: int, high: int) -> list[int]:
        return [rng.randrange(SPECIAL, len(tokenizer)) for _ in range(rng.randint(low, high))]

    count = PROMPTS * ROLLOUTS
    completions = [[*words(shortest - 1, longest - 1), tokenizer.eos_token_id] for _ in range(count)]
    return Rollouts(
        [words(*PROMPT) for _ in range(PROMPTS)], completions, [rng.random() for _ in range(count)]
    )


class Way(ABC):
    """One way to update: ``update`` returns its processor seconds, ``weights`` the adapter by names that all ways share."""

    def __init__(self, peft_model: Any, adapter: str) -> None:
        self.peft_model, self.adapter = peft_model, adapter

    def update(self) -> float:
        """Update once."""
        start = time.process_time()
        self.work()
        return time.process_time() - start

    @abstractmethod
    def work(self) -> None:
        """What an update is."""

    def weights(self) -> dict[str, Tensor]:
        """A copy of the adapter."""
        found = get_peft_model_state_dict(
            self.peft_model, adapter_name=self.adapter, save_embedding_layers=False
        )
        return {name: tensor.detach().clone() for name, tensor in found.items()}

    def begin_with(self, weights: dict[str, Tensor]) -> None:
        """Take up the adapter of another way."""
        set_peft_model_state_dict(self.peft_model, weights, adapter_name=self.adapter)


class Ours(Way):
    """The library's learner."""

    def __init__(self, config: RunConfig, folder: Path, rollouts: Rollouts) -> None:
        model, tokenizer = load(folder)
        self.learner = Learner(config, model, tokenizer, folder)
        super().__init__(self.learner.backbone.peft_model, "policy")
        generator = torch.Generator().manual_seed(0)
        for parameter in self.learner.backbone.parameters(
            "policy"
        ).values():  # LoRA-B begins at 0: not the usual case
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
        batch = rollouts.batch(tokenizer.pad_token_id)
        self.batch = replace(batch, sampled_logp=self.learner.log_probs(batch, "policy"))

    def work(self) -> None:
        """Advantages and the policy's update, after the reference's log-probabilities where they are read."""
        batch, read = self.batch, bool(self.learner.config.kl_coef)
        reference = self.learner.log_probs(batch, None) if read else batch.sampled_logp
        rewards = attribution.trajectory_share(batch.outcome, batch.turn_ids)
        places = attribution.reward_mask("trajectory", batch.turn_ids)
        gains = advantages.returns(advantages.grpo(rewards, places, ROLLOUTS), batch.response_mask)
        self.learner.update_policy(batch, gains, reference, "benchmark")
        self.learner.optimizers["policy"].zero_grad()  # as the others do, rather than before the next


class Bare(Way):
    """What one would write by hand."""

    def __init__(self, config: RunConfig, folder: Path, batch: TokenBatch) -> None:
        super().__init__(get_peft_model(load(folder)[0], lora(config)), "default")
        self.config, self.batch = config, batch
        trained = [p for p in self.peft_model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=config.method.policy_lr, weight_decay=0.0)

    def log_probs(self, rows: Tensor) -> Tensor:
        """Of every token but the first."""
        ids, attended = self.batch.input_ids[rows], self.batch.attention_mask[rows].long()
        logits = self.peft_model(input_ids=ids, attention_mask=attended, use_cache=False).logits[:, :-1]
        return logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]

    def work(self) -> None:
        """Group-normalised advantages, clipped surrogate, k3."""
        batch, config = self.batch, self.config
        groups = batch.outcome.view(-1, ROLLOUTS)
        gains = ((groups - groups.mean(1, keepdim=True)) / groups.std(1, keepdim=True)).flatten()
        for minibatch in torch.randperm(len(batch)).chunk(config.policy_minibatches):
            tokens = batch.response_mask[minibatch].sum()
            for rows in minibatch.split(PASS):
                mask, gain = batch.response_mask[rows, 1:], gains[rows, None]
                logp = self.log_probs(rows)
                ratio = (logp - batch.sampled_logp[rows, 1:]).exp()
                loss = -torch.min(ratio * gain, ratio.clamp(1 - config.clip, 1 + config.clip) * gain)
                if config.kl_coef:
                    with torch.no_grad(), self.peft_model.disable_adapter():
                        reference = self.log_probs(rows)
                    loss = loss + config.kl_coef * ((reference - logp).exp() - (reference - logp) - 1)
                (loss[mask].sum() / tokens).backward()
            torch.nn.utils.clip_grad_norm_(self.peft_model.parameters(), config.policy_clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()


def options(config: RunConfig) -> dict[str, Any]:
    """Our configuration as both trainers call it."""
    passes = PROMPTS * ROLLOUTS // PASS
    sizes = {
        "per_device_train_batch_size": PASS,
        "steps_per_generation": passes,
        "gradient_accumulation_steps": passes // config.policy_minibatches,
        "max_steps": config.policy_minibatches,
        "num_generations": ROLLOUTS,
        "shuffle_dataset": False,
    }
    learning = {
        "beta": config.kl_coef,
        "learning_rate": config.method.policy_lr,
        "lr_scheduler_type": "constant",
        "max_grad_norm": config.policy_clip_norm,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
    }
    quiet = {"logging_strategy": "no", "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    return sizes | learning | quiet


def lora(config: RunConfig) -> Any:
    """peft's description of our adapters."""
    rank, alpha = config.adapter.rank, config.adapter.alpha
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")


class Watch(TrainerCallback):
    """Notes the processor seconds of each step of a trainer."""

    def __init__(self) -> None:
        self.laps: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Before the first pass."""
        self.laps.append(-time.process_time())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After the optimizer's step."""
        self.laps[-1] += time.process_time()


class Trl(Way):
    """A trainer of TRL that is handed the completions that it would sample."""

    def __init__(self, kind: str, config: RunConfig, folder: Path, rollouts: Rollouts) -> None:
        special = {"loss_type": "dapo", "use_bias_correction_kl": False} if kind == "GRPO" else {}
        tokenizer = load(folder)[1]
        prompts = Dataset.from_dict({"prompt": [tokenizer.decode(ids) for ids in rollouts.prompts]})
        self.trainer = getattr(trl, f"{kind}Trainer")(
            model=str(folder),
            reward_funcs=lambda completions, **_: rollouts.rewards,
            args=getattr(trl, f"{kind}Config")(output_dir=str(folder / kind), **options(config), **special),
            train_dataset=prompts,
            peft_config=lora(config),
        )
        super().__init__(self.trainer.model, "default")
        self.watch = Watch()
        self.trainer.add_callback(self.watch)
        self.trainer.remove_callback(PrinterCallback)

        def hand_over(prompt_ids: list[list[int]], *_: Any) -> Any:
            """In place of sampling; GRPO asks for log-probabilities too, and takes none."""
            assert prompt_ids == [ids for ids in rollouts.prompts for _ in range(ROLLOUTS)]
            completions = [list(ids) for ids in rollouts.completions]
            return (completions, None) if kind == "GRPO" else completions

        self.trainer._generate_single_turn = hand_over

    def work(self) -> None:
        """All steps on one batch of completions."""
        self.watch.laps.clear()
        self.trainer.train()

    def update(self) -> float:
        """Without what ``train`` does before and after."""
        self.work()
        return sum(self.watch.laps)


def distance(before: dict[str, Tensor], one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of two updates that began alike, relative to the length of the ``other``."""
    apart = sum((one[name] - other[name]).square().sum().item() for name in before)
    length = sum((other[name] - before[name]).square().sum().item() for name in before)
    return (apart / length) ** 0.5


def measure(config: RunConfig, folder: Path, rollouts: Rollouts, repeats: int) -> pd.DataFrame:
    """The table of one setting."""
    ours = Ours(config, folder, rollouts)
    ways: dict[str, Way] = {"bare loop": Bare(config, folder, ours.batch), "ours": ours}
    ways |= {f"{kind}Trainer": Trl(kind, config, folder, rollouts) for kind in ("GRPO", "RLOO")}
    start = ours.weights()
    for way in ways.values():
        way.begin_with(start)
    laps = [{name: way.update() for name, way in ways.items()}]
    ends = {name: way.weights() for name, way in ways.items()}
    laps += [{name: way.update() for name, way in ways.items()} for _ in range(repeats)]
    table = pd.DataFrame({"seconds": pd.DataFrame(laps).min()})
    table["peak MB"] = [peak_bytes(way.work, CPU, below=BUFFER) / 1e6 for way in ways.values()]
    for column in ("seconds", "peak MB"):
        table[f"ours, x {column}"] = table.loc["ours", column] / table[column]
    if config.policy_minibatches == 1:  # several are drawn at random
        table["differs by"] = [distance(start, end, ends["bare loop"]) for end in ends.values()]
    return table


def main() -> None:
    """Measure every setting and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shortest", type=int, default=16, help="completion, tokens (default: %(default)s)")
    parser.add_argument("--longest", type=int, default=64, help="completion, tokens (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of each update (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # TRL and Transformers name the same options in two ways.
    warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
    constants.HF_HUB_OFFLINE = True  # every trainer of TRL would report that it was built
    base = get_profile("laptop").config("trajectory_share", seed=0)
    task = get_task("math")
    with tempfile.TemporaryDirectory() as parent:
        folder = pretrain_by_imitation(task, task.noisy_expert, TinyLM(steps=1), Path(parent) / "model")
        rollouts = make_rollouts(load(folder)[1], options.shortest, options.longest)
        # As many rows in a pass of ours as in the others'.
        budget = PASS * (PROMPT[1] + options.longest)
        for steps in (1, 4):
            for kl in (0.0, KL):
                sizes = {"policy_minibatches": steps, "token_budget": budget}
                config = replace(base, kl_coef=kl, entropy_coef=0.0, **sizes)
                print(f"\n{steps} optimizer step{'s' * (steps > 1)}, {'with' if kl else 'no'} reference")
                print(measure(config, folder, rollouts, options.repeats).round(3).to_string())


if __name__ == "__main__":
    main()
