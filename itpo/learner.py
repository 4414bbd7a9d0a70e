"""What one run learns with: the backbone with its adapters, an optimizer for each, and their two updates."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from itpo import attribution, losses, prm
from itpo.backbone import Backbone, micro_batches
from itpo.dialogue import ChatFormat, Dialogue, TokenBatch, collate
from itpo.metrics import kendall, ranking_auc
from itpo.profiles import RunConfig
from itpo.runs import Run
from itpo.sampler import Sampling, rollout
from itpo.tasks import Task


def seeded(*parts: Any) -> torch.Generator:
    """A torch generator decided by the parts alone, so that no generator state has to be saved to resume a run.

    >>> bool(torch.equal(torch.rand(2, generator=seeded(0, "a")), torch.rand(2, generator=seeded(0, "a"))))
    True
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class Learner:
    """Policy, PRM (if the row needs one) and reference on one backbone, the task, and the optimizers.

    One AdamW per adapter, so that a step of one never moves the other.
    """

    def __init__(self, config: RunConfig, model: Any, tokenizer: Any, task: Task) -> None:
        self.config, self.task, self.chat = config, task, ChatFormat(tokenizer)
        self.row = attribution.get_row(config.method.row)
        rates = {"policy": config.method.policy_lr} | ({"prm": config.prm_lr} if self.row.needs_prm else {})
        self.backbone = Backbone(model, list(rates), config.adapter, seed=config.seed)
        self.optimizers = {
            name: torch.optim.AdamW(self.backbone.parameters(name).values(), lr=rate, weight_decay=0.0)
            for name, rate in rates.items()
        }

    def collect(
        self, stream: str, prompts: int, rollouts: int, adapter: str | None, greedy: bool = False
    ) -> tuple[list[Dialogue], TokenBatch]:
        """Hold ``rollouts`` dialogues with each of ``prompts`` users; problems, users and sampling follow ``stream``."""
        problems = [self.task.sample(random.Random(f"{stream}/problem/{i}")) for i in range(prompts)]
        examples = [problem for problem in problems for _ in range(rollouts)]
        users = [random.Random(f"{stream}/user/{i}") for i in range(len(examples))]
        sampling = Sampling(self.config.max_turn_tokens, greedy)
        with self.backbone.use(adapter):
            dialogues = rollout(
                self.backbone, self.chat, self.task, examples, users, seeded(stream, "sampling"), sampling
            )
        return dialogues, collate(dialogues, rollouts, self.chat.pad_id)

    def log_probs(self, batch: TokenBatch, adapter: str | None) -> Float[Tensor, "B T"]:
        """Log-probabilities of the batch's responses under one adapter (``None``: the reference), without gradient."""
        return self.backbone.log_probs(batch, adapter, self.config.token_budget)

    def token_rewards(self, batch: TokenBatch, reference: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Equations (1)-(2) under the present PRM; the "released" scale drops the last token's and rescales the batch."""
        method, mask = self.config.method, batch.response_mask
        rewards = prm.token_rewards(self.log_probs(batch, "prm"), reference, mask, method.beta)
        return rewards if method.scale == "paper" else prm.batch_norm(prm.drop_last_token(rewards, mask))

    def update_prm(self, batch: TokenBatch, reference: Float[Tensor, "B T"], stream: str) -> dict[str, float]:
        """Equation (3) in small minibatches.

        Every dialogue is predicted before it is learned from, so loss, AUC and Kendall's tau returned here are those of
        dialogues that the PRM has not seen.
        """
        beta = self.config.method.beta
        returns = torch.zeros(len(batch))

        def loss_of(rows: Tensor, width: int, minibatch: Tensor) -> Tensor:
            """The micro-batch's part of the minibatch's loss (3)."""
            mask, outcome = batch.response_mask[rows, :width], batch.outcome[rows]
            logp, _ = self.backbone.token_stats(batch.input_ids[rows, :width], mask)
            log_ratio = prm.log_ratio(logp, reference[rows, :width], mask)
            returns[rows] = prm.implicit_return(log_ratio.detach(), mask, beta)
            return prm.outcome_loss(log_ratio, outcome, mask, beta, denominator=len(minibatch))

        for minibatch in self._minibatches(batch, self.config.prm_minibatches, stream, "prm"):
            self._step("prm", batch, minibatch, loss_of, self.config.prm_clip_norm)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(returns, batch.outcome)
        return {
            "prm_loss": loss.item(),
            "prm_auc": ranking_auc(returns, batch.outcome),
            "prm_kendall": kendall(returns, batch.outcome),
        }

    def update_policy(
        self, batch: TokenBatch, advantage: Float[Tensor, "B T"], reference: Float[Tensor, "B T"], stream: str
    ) -> dict[str, float]:
        """Clipped surrogate plus k3 KL to the reference minus entropy bonus, in a few minibatches.

        ``ratio_error`` is the largest deviation of an importance ratio from 1 in the first minibatch, where the policy has
        not moved yet: anything but rounding is a fault of the numerics.
        """
        config = self.config
        # Known from sampling, unless its numerics differ from training's (bf16: 1 % of ratios leave 0.8-1.2).
        old = batch.sampled_logp if self.backbone.full_precision else self.log_probs(batch, "policy")
        parts = self._minibatches(batch, config.policy_minibatches, stream, "policy")
        tallies: list[dict[str, float]] = []

        def loss_of(rows: Tensor, width: int, minibatch: Tensor) -> Tensor:
            """The micro-batch's part of the minibatch's loss; what it measures on the way goes to ``tallies``."""
            tokens = int(batch.response_mask[minibatch].sum())
            mask, before, gain = (x[rows, :width] for x in (batch.response_mask, old, advantage))
            logp, entropies = self.backbone.token_stats(batch.input_ids[rows, :width], mask)
            surrogate = losses.clipped_surrogate(logp, before, gain, mask, config.clip, denominator=tokens)
            kl = losses.kl_k3(logp, reference[rows, :width], mask, denominator=tokens)
            entropy = losses.masked_mean(entropies, mask, denominator=tokens)
            clipped = losses.clip_fraction(logp.detach(), before, gain, mask, config.clip)
            error = (losses.importance_ratio(logp.detach(), before, mask) - 1).abs().max()
            tally = {"kl": kl, "entropy": entropy, "clip_fraction": clipped * int(mask.sum()) / tokens}
            tallies.append({key: value.item() / len(parts) for key, value in tally.items()})
            tallies[-1]["ratio_error"] = error.item() if minibatch is parts[0] else 0.0
            return surrogate + config.kl_coef * kl - config.entropy_coef * entropy

        for minibatch in parts:
            self._step("policy", batch, minibatch, loss_of, config.policy_clip_norm)
        sums = {key: sum(t[key] for t in tallies) for key in ("kl", "entropy", "clip_fraction")}
        return sums | {"ratio_error": max(t["ratio_error"] for t in tallies)}

    @staticmethod
    def _minibatches(batch: TokenBatch, count: int, *stream: str) -> list[Int64[Tensor, " m"]]:
        return list(torch.randperm(len(batch), generator=seeded(*stream)).chunk(count))

    def _step(
        self,
        name: str,
        batch: TokenBatch,
        minibatch: Tensor,
        loss_of: Callable[..., Tensor],
        clip_norm: float,
    ) -> None:
        """One optimizer step of one adapter, its gradient accumulated over length-sorted micro-batches."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        with self.backbone.use(name):
            for part, width in micro_batches(batch.lengths[minibatch], self.config.token_budget):
                loss_of(minibatch[part], width, minibatch).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.backbone.parameters(name).values(), clip_norm)
        if not bool(torch.isfinite(norm)):
            raise FloatingPointError(
                f"the gradient of the {name} adapter is not finite: lower its learning rate, or look at the last metrics"
            )
        optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs: adapters and optimizer moments (generators follow the step number)."""
        tensors = {}
        for name, optimizer in self.optimizers.items():
            for key, parameter in self.backbone.parameters(name).items():
                tensors[f"{name}|{key}"] = parameter.detach()
                for moment, value in optimizer.state[parameter].items():
                    tensors[f"{name}|{key}|{moment}"] = value
        return tensors

    def resume(self, run: Run) -> int:
        """Take up the run's last checkpoint; returns the number of steps done (0: a fresh start)."""
        checkpoint = run.restore()
        if checkpoint is None:
            return 0
        step, tensors, _ = checkpoint
        for name, optimizer in self.optimizers.items():
            for key, parameter in self.backbone.parameters(name).items():
                parameter.data.copy_(tensors[f"{name}|{key}"])
                optimizer.state[parameter] = {
                    moment: tensors[f"{name}|{key}|{moment}"] for moment in ("step", "exp_avg", "exp_avg_sq")
                }
        return step

    def save(self, run: Run) -> None:
        """Write the adapters into the run's folder as standard PEFT folders."""
        for name in self.backbone.names:
            self.backbone.save_adapter(name, run.folder / name)
