"""``ITPOTrainer``: TRL's ``GRPOTrainer`` whose advantages are those of a method and an estimator of this library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import trl
from accelerate.utils import gather
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from itpo import prm, turns
from itpo.integrations.credit import credit
from itpo.integrations.trl.config import ITPOConfig, check_version
from itpo.integrations.trl.prm import AdapterPRM, check_adapter
from itpo.rollout.seeding import seeded

PRM_STATE = "prm_optimizer.safetensors"


class ITPOTrainer(trl.GRPOTrainer):
    """Trains the policy by the advantages of ``args.method`` and ``args.estimator``, (B, T), in the place of TRL's.

    The outcome of a dialogue is the weighted sum of its reward functions; one that all of them return ``None`` for is dropped
    and leaves its group. Turns are the runs of 1 in the mask that a ``rollout_func`` (``env_mask``) or TRL's tools give. For
    methods with a process reward model, outcomes lie in [0, 1], ``peft_config`` is a ``LoraConfig``, and the PRM is a second
    adapter on the same base: saved in ``prm/`` beside the policy's, its optimizer in ``prm_optimizer.safetensors`` of a
    checkpoint. Methods that read scores of turns take them from ``judge_scores`` of the rollout.

    Groups may span processes: baselines and whitening are those of the whole batch. With a PRM, FSDP and DeepSpeed are refused.

    Raises ``ValueError`` for arguments that do not fit the method, ``RuntimeError`` for a version of TRL that was not tested.
    """

    _tag_names = ["trl", "itpo"]
    _name = "ITPO"
    _paper = {
        "title": "Implicit Turn-Wise Policy Optimization for Proactive User-LLM Interaction",
        "id": "2603.23550",
    }
    args: ITPOConfig

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: ITPOConfig | None = None,
        train_dataset: Any = None,
        *,
        peft_config: Any = None,
        **others: Any,
    ) -> None:
        check_version(trl.__version__)
        if not isinstance(args, ITPOConfig):
            raise ValueError(f"args is a {type(args).__name__}: pass an ITPOConfig, which names the method")
        self.method, self.estimator = args.as_method(), args.as_estimator()
        needs_prm = self.method.entry.needs_prm
        if needs_prm:
            check_adapter(peft_config)
        super().__init__(model, reward_funcs, args, train_dataset, peft_config=peft_config, **others)
        sharded = {"FSDP": self.is_fsdp_enabled, "DeepSpeed": self.is_deepspeed_enabled}
        for name in (name for name, used in sharded.items() if used and needs_prm):
            raise ValueError(
                f"method {args.method!r} trains a PRM beside the policy, which {name} shards: use plain data parallelism, or a "
                "method without a PRM"
            )
        self._outcome: Tensor | None = None  # of all processes' rows; nan where there is none
        self._draws: dict[str, tuple[int, int]] = {}
        self.prm: AdapterPRM | None = None
        if needs_prm:
            model = self.accelerator.unwrap_model(self.model)
            self.prm = AdapterPRM(model, self.accelerator, args.prm_lr, args.prm_clip_norm, args.seed)

    def _calculate_rewards(self, *args: Any, **keywords: Any) -> Tensor:
        rewards = super()._calculate_rewards(*args, **keywords)  # of all processes
        outcome = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
        self._outcome = outcome.masked_fill(rewards.isnan().all(dim=1), torch.nan)
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        out = super()._generate_and_score_completions(inputs)
        assert self._outcome is not None
        outcome = self._outcome.float()
        first = self.accelerator.process_index * len(inputs)
        local = slice(first, first + len(inputs))
        mask = out["completion_mask"].bool()
        if "tool_mask" in out:
            mask = mask & out["tool_mask"].bool()
        mask = mask & ~outcome[local].isnan()[:, None]
        everyone = self._gather(mask)
        outcome = self._checked(outcome.nan_to_num(nan=0.0), everyone.any(1))
        stream, signals = self._stream(), self._signals(inputs, out, mask, everyone)
        if self.prm is not None:
            signals["token_rewards"] = self._token_rewards(out, mask, everyone, outcome, stream)
        lengths = gather(out["completion_mask"].sum(1)).float()
        advantages = credit(
            self.method.name,
            self.estimator.name,
            everyone,
            outcome,
            torch.arange(len(outcome), device=outcome.device) // self._group_size,
            method_options=self.method.options,
            estimator_options=self.estimator.options,
            coef=self.method.coef,
            outcome_coef=self.method.outcome_coef,
            length_cost=self.method.coef * self.args.length_penalty * lengths,
            generator=seeded(stream, "attribution"),
            **signals,
        ).advantages
        self._log_advantages(advantages, everyone)
        out["advantages"] = advantages[local, : mask.shape[1]]
        return out

    @property
    def _group_size(self) -> int:
        return self.num_generations if self.model.training else self.num_generations_eval

    def _gather(self, values: Tensor) -> Tensor:
        """The rows of all processes, padded with zeros to one width."""
        if self.accelerator.num_processes == 1:
            return values
        number = values.long() if values.dtype is torch.bool else values
        return gather(self.accelerator.pad_across_processes(number, dim=1)).to(values.dtype)

    def _stream(self) -> str:
        """A name for the random numbers of this batch, the same on all processes and after a resume."""
        mode, step = "train" if self.model.training else "eval", self.state.global_step
        last, count = self._draws.get(mode, (step, -1))
        self._draws[mode] = (step, count + 1 if last == step else 0)
        return f"{self.args.seed}/{mode}/{step}/{self._draws[mode][1]}"

    def _checked(self, outcome: Float[Tensor, " B"], kept: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The outcomes, if a PRM can learn them."""
        low, high = (outcome[kept].min(), outcome[kept].max()) if bool(kept.any()) else (0.0, 0.0)
        if self.prm is not None and not (low >= 0 and high <= 1):
            raise ValueError(
                f"the weighted sum of the reward functions runs from {low:g} to {high:g}; method {self.method.name!r} learns "
                "outcomes in [0, 1]: rescale the rewards, and take penalties by length_penalty"
            )
        return outcome

    def _signals(
        self, inputs: list[dict[str, Any]], out: Mapping[str, Any], mask: Tensor, everyone: Tensor
    ) -> dict[str, Tensor]:
        """What methods read beside outcomes and token rewards, of all processes."""
        signals = {"input_ids": self._gather(out["completion_ids"])}
        if not self.method.entry.needs_judge:
            return signals
        counts = turns.turn_mask(turns.turn_ids(mask)).sum(1).tolist()
        scores = torch.zeros(len(inputs), turns.turn_mask(turns.turn_ids(everyone)).shape[1])
        for row, (given, count) in enumerate(zip(inputs, counts, strict=True)):
            own = given.get("judge_scores")
            if own is None or (count and len(own) != count):
                found = "none" if own is None else len(own)
                raise ValueError(
                    f"method {self.method.name!r} reads a judge's score of each turn, got {found} for the {count} turns of row "
                    f"{row}: return judge_scores from rollout_func"
                )
            scores[row, :count] = torch.tensor(own[:count])
        signals["judge_scores"] = self._gather(scores.to(mask.device))
        return signals

    def _token_rewards(
        self, out: Mapping[str, Any], mask: Tensor, everyone: Tensor, outcome: Tensor, stream: str
    ) -> Float[Tensor, "B T"]:
        """Equation (3), while training, before (1) and (2) for the rows of all processes."""
        assert self.prm is not None
        if "pixel_values" in out:
            raise ValueError(
                "a process reward model reads text alone: train on images by a method without a PRM"
            )
        ids = torch.cat([out["prompt_ids"], out["completion_ids"]], 1)
        attended = torch.cat([out["prompt_mask"], out["completion_mask"]], 1)
        width, size = mask.shape[1], self.args.per_device_train_batch_size

        def score(rows: Tensor) -> Tensor:
            """Log-probabilities of the completions, as TRL computes those of policy and reference."""
            rows = rows.to(ids.device)
            found = self._get_per_token_logps_and_entropies(
                self.model, ids[rows], attended[rows], width, batch_size=size
            )
            return found[0]

        reference = out.get("ref_per_token_logps")  # there already if there is a KL penalty
        if reference is None:
            reference = self.prm.log_probs(score, len(mask), None)
        if self.model.training:
            kept = everyone.any(1)
            metrics = self.prm.update(score, reference, mask, outcome, kept, self.args, stream)
            for name, value in metrics.items():
                self._metrics["train"][name].append(value)
        rewards = prm.token_rewards(self.prm.log_probs(score, len(mask)), reference, mask, self.method.beta)
        return prm.rescale(self._gather(rewards), everyone, self.method.scale)

    def _log_advantages(self, advantages: Tensor, mask: Tensor) -> None:
        """In TRL's table of completions, the mean of a dialogue's advantages in the place of TRL's own."""
        logged = self._logs["advantages"]
        for _ in range(min(len(advantages), len(logged))):
            logged.pop()
        logged.extend((advantages.sum(1) / mask.sum(1).clamp(min=1)).tolist())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.prm is not None and self.args.should_save:
            folder = Path(
                self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            )
            save_file(self.prm.state(), folder / PRM_STATE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.prm is None or checkpoint is None:
            return
        file = Path(checkpoint, PRM_STATE)
        if not file.is_file():
            raise ValueError(f"{checkpoint} has no {PRM_STATE}: it was not written by ITPOTrainer with a PRM")
        self.prm.load_state(load_file(file))
