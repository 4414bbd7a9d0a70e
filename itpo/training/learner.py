"""What one run learns with: the backbone with its adapters, an optimizer for each, and their updates."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from itpo import advantages, losses, prm, turns
from itpo.chat import ChatFormat
from itpo.config import RunConfig
from itpo.dialogue import Dialogue, TokenBatch, collate
from itpo.models.adapters import AdaptedModel, micro_batches
from itpo.models.loading import adapted
from itpo.models.optimizers import adamw, get_state, set_state
from itpo.rollout.engine import Engine
from itpo.rollout.sampler import Sampling, rollout
from itpo.rollout.seeding import seeded
from itpo.runs.store import Run
from itpo.tasks.base import ConcurrentTask
from itpo.tasks.judging import JudgeError, judge_dialogues
from itpo.training.environments import Environments, build_environments
from itpo.training.ranking import kendall, ranking_auc

MIN_EFFECTIVE = 0.5  # effective sample size, as a share of the tokens, below which a run stops


class DialoguesLost(RuntimeError):
    """Users or judges of outcomes failed, or the context was full, in a larger share of a batch than the config allows."""


class Learner:
    """Policy and reference on one backbone, with the PRM, critic or judge that method and estimator need, and the optimizers.

    One AdamW per adapter, so that a step of one never moves the other. Tasks, users and judges are those of the config; replies
    of servers are kept in the folder ``store``. ``environments`` replaces them, for experiments whose results no run keeps.
    ``make_engine`` gives what writes the turns, where that is not the backbone's own decoding.
    Raises ``ValueError`` if the method needs a judge and there is none, or the model's context is too short for the task.
    """

    def __init__(
        self,
        config: RunConfig,
        model: Any,
        tokenizer: Any,
        store: Path,
        environments: Environments | None = None,
        make_engine: Callable[[AdaptedModel], Engine] | None = None,
    ) -> None:
        self.config, self.chat = config, ChatFormat(tokenizer, config.thought_tags, model)
        for departure in self.chat.departures:
            warnings.warn(f"{self.chat.template.name}: {departure}", stacklevel=2)
        self.method, self.estimator = config.method.entry, config.estimator.entry
        rates = {"policy": config.method.policy_lr}
        rates |= {"prm": config.prm_lr} if self.method.needs_prm else {}
        rates |= {"critic": config.critic_lr} if self.estimator.has_critic else {}
        # A value for each source of reward: the method's own, and the outcome where it comes beside it.
        heads = {"critic": 1 + bool(config.method.outcome_coef)} if self.estimator.has_critic else {}
        sizes = (config.head_chunk, config.checkpointing)
        self.backbone = adapted(model, list(rates), config.adapter, config.seed, heads, *sizes)
        self.optimizers = {n: adamw(self.backbone.parameters(n).values(), rate) for n, rate in rates.items()}
        self.skipped = dict.fromkeys(rates, 0)  # optimizer steps left out, by adapter
        self.engine = make_engine(self.backbone) if make_engine else None
        self.task, self.evaluation, self.judge = environments or build_environments(
            config, self.backbone, self.chat, store, self.engine
        )
        if self.judge is None and self.method.needs_judge:
            raise ValueError(
                f"method {self.method.name!r} needs a judge of turns, and the config names none: set judge"
            )
        self._check_context()

    def _check_context(self) -> None:
        """Refuse a model whose context cannot hold a dialogue of all turns, most of them empty."""
        examples = [self.task.sample(random.Random(f"context/{number}")) for number in range(8)]
        opening = max(len(self.chat.opening(self.task.opening(example))) for example in examples)
        turn = len(self.chat.user_block("")) + 1
        self.chat.check_room(opening + (self.task.max_turns - 1) * turn, self.config.max_turn_tokens)

    def collect(
        self,
        stream: str,
        prompts: int,
        rollouts: int,
        adapter: str | None,
        greedy: bool = False,
        evaluate: bool = False,
    ) -> tuple[list[Dialogue], TokenBatch]:
        """Hold ``rollouts`` dialogues with each of ``prompts`` users; problems, users and sampling follow ``stream``.

        Dialogues whose user or judge failed, or that outgrew the context, have no responses in the batch. Raises
        :class:`DialoguesLost` when they are a larger share than the config allows, or all.
        """
        task = self.evaluation if evaluate else self.task
        problems = [task.sample(random.Random(f"{stream}/problem/{i}")) for i in range(prompts)]
        examples = [problem for problem in problems for _ in range(rollouts)]
        users = [random.Random(f"{stream}/user/{i}") for i in range(len(examples))]
        config = self.config
        sampling = Sampling(
            config.max_turn_tokens, greedy, config.max_rows, config.thought_credit, config.read_budget
        )
        with self.backbone.use(adapter):
            generator = seeded(stream, "sampling")
            parts = (self.backbone, self.chat, task, examples, users, generator, sampling)
            dialogues = rollout(*parts, engine=self.engine)
        lost = [dialogue.failure for dialogue in dialogues if dialogue.failure is not None]
        if lost and (len(lost) > self.config.max_failed * len(dialogues) or len(lost) == len(dialogues)):
            raise DialoguesLost(
                f"user or judge failed for {len(lost)} of {len(dialogues)} dialogues, or they outgrew the context, at last "
                f"because: {lost[-1]}\nMend that and start again (the run goes on from its last checkpoint) or raise max_failed"
            )
        return dialogues, collate(dialogues, rollouts, self.chat.pad_id)

    def log_probs(self, batch: TokenBatch, adapter: str | None) -> Float[Tensor, "B T"]:
        """Log-probabilities of the batch's responses under one adapter (``None``: the reference), without gradient."""
        return self.backbone.log_probs(batch, adapter, self.config.token_budget)

    def values(self, batch: TokenBatch) -> Float[Tensor, "S B T"]:
        """The critic's values of the states in which the response tokens are chosen, a layer for each source of reward.

        Its heads predict what is still to come of a source's unweighted rewards; their values are weighted as the rewards are.
        """
        return self.config.method.coef * self.backbone.values(batch, "critic", self.config.token_budget)

    def token_rewards(self, batch: TokenBatch, reference: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Equations (1)-(2) under the present PRM; the "released" scale drops the last token's and rescales the batch."""
        method, mask = self.config.method, batch.response_mask
        rewards = prm.token_rewards(self.log_probs(batch, "prm"), reference, mask, method.beta)
        return prm.rescale(rewards, mask, method.scale)

    def update_prm(self, batch: TokenBatch, reference: Float[Tensor, "B T"], stream: str) -> dict[str, float]:
        """Equation (3) in small minibatches.

        Every dialogue is predicted before it is learned from, so loss, AUC and Kendall's tau returned here are those of
        dialogues that the PRM has not seen. A method without a PRM has nothing to update, and no metrics.
        """
        if not self.method.needs_prm:
            return {}
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
        returns, outcome = returns[batch.kept], batch.outcome[batch.kept]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(returns, outcome)
        return {
            "prm_loss": loss.item(),
            "prm_auc": ranking_auc(returns, outcome),
            "prm_kendall": kendall(returns, outcome),
        }

    def signals(
        self, dialogues: list[Dialogue], batch: TokenBatch, reference: Float[Tensor, "B T"], stream: str
    ) -> tuple[TokenBatch, dict[str, Tensor], dict[str, float]]:
        """What the method and the estimator read beside outcomes: token rewards (1)-(2), a judge's scores, the critic's values.

        Returns the batch without the dialogues that could not be judged, the signals by name, and counts of failures.
        """
        signals: dict[str, Tensor] = {}
        counts: dict[str, float] = {}
        if self.method.needs_prm:
            signals["token_rewards"] = self.token_rewards(batch, reference)
        if self.method.needs_judge:
            batch, signals["judge_scores"], counts = self.judge_turns(dialogues, batch, stream)
        if self.estimator.has_critic:
            signals["values"] = self.values(batch)
        return batch, signals, counts

    def judge_turns(
        self, dialogues: list[Dialogue], batch: TokenBatch, stream: str
    ) -> tuple[TokenBatch, Float[Tensor, "B K"], dict[str, float]]:
        """The judge's scores of every turn; where it fails, the dialogue is dropped from the batch or shared equally.

        Raises :class:`itpo.tasks.judging.JudgeError` when it fails for a larger share of the batch than the config allows, or
        no dialogue is left.
        """
        config = self.config
        assert self.judge is not None  # as the constructor saw to
        rngs = [random.Random(f"{stream}/judge/{i}") for i in range(len(dialogues))]
        judgement = judge_dialogues(self.judge, dialogues, rngs, config.judge_retries)
        failed = len(judgement.failed)
        if config.judge_failure == "drop":
            batch = batch.without(judgement.failed)
        if failed > config.max_failed * len(dialogues) or (failed and not batch.kept.any()):
            raise JudgeError(
                f"the judge failed for {failed} of {len(dialogues)} dialogues, each tried {1 + config.judge_retries} times "
                f"(at last: {judgement.reasons[-1]}): look after it and start again (the run goes on from its last "
                "checkpoint), or raise max_failed"
            )
        scores = torch.zeros(turns.turn_mask(batch.turn_ids).shape)
        for row, given in enumerate(judgement.scores):
            kept = given[: scores.shape[1]]  # all of them, but for a dropped dialogue longer than all others
            scores[row, : len(kept)] = torch.tensor(kept)
        return batch, scores, {"judge_failed": float(failed), "judge_retries": float(judgement.retries)}

    def update_critic(
        self,
        batch: TokenBatch,
        targets: Float[Tensor, "S B T"] | None,
        values: Float[Tensor, "S B T"] | None,
        stream: str,
    ) -> dict[str, float]:
        """Clipped value loss of every source, in a few minibatches; ``values`` are those before the update.

        The explained variance returned here is that of ``values``: of dialogues that the critic has not seen. The loss is that
        of values and targets without their weight. An estimator without a critic has nothing to update, and no metrics.
        """
        if targets is None or values is None:
            return {}
        mask, weight = batch.response_mask, self.config.method.coef
        quality = advantages.explained_variance(values.sum(0), targets.sum(0), mask).item()
        before, wanted, measured = values / weight, targets / weight, 0.0

        def loss_of(rows: Tensor, width: int, minibatch: Tensor) -> Tensor:
            """The micro-batch's part of the minibatch's loss."""
            nonlocal measured
            tokens, part = int(mask[minibatch].sum()), mask[rows, :width]
            new = self.backbone.token_values(batch.input_ids[rows, :width], part)
            pairs = zip(new, before[:, rows, :width], wanted[:, rows, :width], strict=True)
            clip = self.config.value_clip
            loss = torch.stack(
                [losses.value_loss(v, old, g, part, clip, tokens) for v, old, g in pairs]
            ).sum()
            measured += loss.item() / len(parts)
            return loss

        parts = self._minibatches(batch, self.config.critic_minibatches, stream, "critic")
        for minibatch in parts:
            self._step("critic", batch, minibatch, loss_of, self.config.critic_clip_norm)
        return {"value_loss": measured, "explained_variance": quality}

    def update_policy(
        self, batch: TokenBatch, advantage: Float[Tensor, "B T"], reference: Float[Tensor, "B T"], stream: str
    ) -> dict[str, float]:
        """Clipped surrogate plus k3 KL to the reference minus entropy bonus, in a few minibatches.

        ``ratio_error`` is the largest deviation of an importance ratio from 1 in the first minibatch, where the policy has
        not moved yet: anything but rounding is a fault of the numerics. In 16 bits, where the old log-probabilities are
        computed again, the metrics also say by how much they differ from those that sampled, see
        :func:`itpo.losses.sampling_mismatch`. Raises ``FloatingPointError``, before the policy moves, where that is too much.
        """
        config = self.config
        parts = self._minibatches(batch, config.policy_minibatches, stream, "policy")
        old, weights, mismatch = self._before(batch, parts)
        tallies: list[dict[str, float]] = []

        def loss_of(rows: Tensor, width: int, minibatch: Tensor) -> Tensor:
            """The micro-batch's part of the minibatch's loss; what it measures on the way goes to ``tallies``."""
            tokens = int(batch.response_mask[minibatch].sum())
            mask, before, gain = (x[rows, :width] for x in (batch.response_mask, old, advantage))
            weight = None if weights is None else weights[rows, :width]
            logp, entropies = self.backbone.token_stats(batch.input_ids[rows, :width], mask)
            surrogate = losses.clipped_surrogate(logp, before, gain, mask, config.clip, tokens, weight)
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
        return sums | {"ratio_error": max(t["ratio_error"] for t in tallies)} | mismatch

    def _before(
        self, batch: TokenBatch, parts: list[Tensor]
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"] | None, dict[str, float]]:
        """Log-probabilities before the update, weights that correct for other ones having sampled, and the difference.

        They are known from sampling, unless its numerics differ from training's (bf16: 1 % of ratios leave 0.8-1.2; another
        engine).
        """
        config, mask = self.config, batch.response_mask
        if self.backbone.full_precision and self.engine is None:
            return batch.sampled_logp, None, {}
        old = self.backbone.log_probs_as_trained(batch, "policy", config.token_budget, parts)
        mismatch = losses.sampling_mismatch(old, batch.sampled_logp, mask)
        if not (mismatch["mismatch"] <= config.max_mismatch and mismatch["ess"] >= MIN_EFFECTIVE):
            raise FloatingPointError(
                "the policy that sampled is not the one that learns: their log-probabilities differ by "
                f"{mismatch['mismatch']:.2g} nats in the mean, where max_mismatch allows {config.max_mismatch:g}, and the "
                f"effective sample size is {mismatch['ess']:.2f} of the tokens, where {MIN_EFFECTIVE:g} is the least; "
                "`itpo check-model` tells whether the model is the cause"
            )
        weights = losses.truncated_weights(
            old, batch.sampled_logp, mask, config.correction, config.correction_cap
        )
        return old, None if config.correction == "none" else weights, mismatch

    def losses_since(self, skipped: dict[str, int], failures: int) -> dict[str, float]:
        """What a step lost, as metrics: optimizer steps beyond those ``skipped`` before, and dialogues that failed.

        Where users and judges are not asked concurrently, they cannot fail, and only what outgrew the context is counted.
        """
        lost = {"lost": float(failures)} if failures or isinstance(self.task, ConcurrentTask) else {}
        counts = {name: count - skipped[name] for name, count in self.skipped.items()}
        return lost | {f"skipped_{name}": float(count) for name, count in counts.items() if count}

    @staticmethod
    def _minibatches(batch: TokenBatch, count: int, *stream: str) -> list[Int64[Tensor, " m"]]:
        """Random rows; those without a response (dropped dialogues) are in none."""
        rows = torch.randperm(len(batch), generator=seeded(*stream))
        return list(rows[batch.kept[rows]].chunk(count))

    def _step(
        self,
        name: str,
        batch: TokenBatch,
        minibatch: Tensor,
        loss_of: Callable[..., Tensor],
        clip_norm: float,
    ) -> None:
        """One optimizer step of one adapter, its gradient accumulated over length-sorted micro-batches.

        Where a loss or the gradient is not finite, the step is left out and counted.
        """
        optimizer, finite = self.optimizers[name], True
        optimizer.zero_grad(set_to_none=True)
        with self.backbone.use(name):
            for part, width in micro_batches(batch.lengths[minibatch], self.config.token_budget):
                loss = loss_of(minibatch[part], width, minibatch)
                loss.backward()
                finite = finite and bool(torch.isfinite(loss))
        norm = torch.nn.utils.clip_grad_norm_(self.backbone.parameters(name).values(), clip_norm)
        if finite and bool(torch.isfinite(norm)):
            optimizer.step()
        else:
            optimizer.zero_grad(set_to_none=True)
            self.skipped[name] += 1

    def state(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Everything that a resumed run needs: adapters, optimizer moments and counts (generators follow the step number).

        Of the adapters of these ``names`` alone, if given.
        """
        kept = list(self.optimizers) if names is None else list(names)
        tensors = {f"skipped|{name}": torch.tensor(self.skipped[name]) for name in kept}
        for name in kept:
            for key, parameter in self.backbone.parameters(name).items():
                tensors[f"{name}|{key}"] = parameter.detach()
                for moment, value in get_state(self.optimizers[name], parameter).items():
                    tensors[f"{name}|{key}|{moment}"] = value
        return tensors

    def take_state(self, tensors: Mapping[str, Tensor], names: Iterable[str] | None = None) -> None:
        """The inverse of :meth:`state`."""
        for name in self.optimizers if names is None else names:
            for key, parameter in self.backbone.parameters(name).items():
                parameter.data.copy_(tensors[f"{name}|{key}"])
                prefix = f"{name}|{key}|"
                moments = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
                set_state(self.optimizers[name], parameter, moments)
            self.skipped[name] = int(tensors[f"skipped|{name}"])

    def resume(self, run: Run) -> int:
        """Take up the run's last checkpoint; returns the number of steps done (0: a fresh start)."""
        checkpoint = run.restore()
        if checkpoint is None:
            return 0
        step, tensors = checkpoint
        self.take_state(tensors)
        return step

    def save(self, run: Run) -> None:
        """Write the adapters into the run's folder as standard PEFT folders."""
        for name in self.backbone.names:
            self.backbone.save_adapter(name, run.folder / name)
