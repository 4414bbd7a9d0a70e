"""verl's synchronous trainer with the implicit PRM in the place of the critic: ``trainer.v1.trainer_mode=itpo``.

RLOO and GRPO leave verl's critic empty. Here a causal language model takes its place, so that sharding, offloading, optimizer,
LoRA and checkpoints of the PRM are verl's own and are set under ``critic``. Three things differ from verl's trainer: the loss,
which is equation (3); the order of a step, which is Algorithm 1's (update the PRM, then have it score the same batch, then
advantages); and that there are no values to log.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import ray
import torch
import transfer_queue as tq
from torch import Tensor
from verl.trainer.ppo.utils import Role, need_reference_policy
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils import tensordict_utils
from verl.utils.device import get_device_id
from verl.workers.engine_workers import TrainingWorker
from verl.workers.utils.padding import no_padding_2_padding, response_from_nested

from itpo import prm
from itpo.attribution import get_method
from itpo.integrations.verl.estimators import TURN_REWARDS, advantages, settings, token_rewards

DIALOGUES = "itpo_dialogues"  # a mini-batch's number of dialogues over all ranks


def _count_dialogues(data: Any, group: Any) -> int:
    """The dialogues of a mini-batch on all ranks of ``group``; what verl pads with has no assistant tokens and is none."""
    mask = data["response_mask"]
    rows = mask.unbind() if mask.is_nested else list(mask)
    count = torch.tensor(sum(int(row.any()) for row in rows), device=get_device_id())
    torch.distributed.all_reduce(count, group=group)
    return int(count)


def prm_loss(
    model_output: Any, data: Any, dp_group: Any = None, beta: float = 0.05
) -> tuple[Tensor, dict[str, Any]]:
    """Equation (3) as a loss of verl's engines: the micro-batch's part of the mean over a mini-batch's dialogues.

    verl adds up the micro-batches of a rank and averages over ranks. The outcome is the sum of a row's ``rm_scores``. Raises
    ``ValueError`` where one is not in [0, 1].

    >>> from tensordict import TensorDict
    >>> def nested(*rows):
    ...     return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)
    >>> texts = {"prompts": nested([5]), "responses": nested([6, 7]), "response_mask": nested([1, 1])}
    >>> scores = {"ref_log_prob": nested([-1.0, -2.0]), "rm_scores": nested([0.0, 1.0])}
    >>> data = TensorDict(texts | scores, batch_size=1)
    >>> data = tensordict_utils.assign_non_tensor(data, dp_size=1, **{DIALOGUES: 1})
    >>> loss, _ = prm_loss({"log_probs": nested([-1.0, -2.0, -9.0])}, data)  # of what follows each token
    >>> round(loss.item(), 4)  # log 2, as PRM and reference are equal
    0.6931
    """
    logp = no_padding_2_padding(model_output["log_probs"], data)
    fields = data.select("ref_log_prob", "response_mask", "rm_scores").to_padded_tensor()
    mask = fields["response_mask"].bool()
    ratio = prm.log_ratio(logp.float(), fields["ref_log_prob"].to(logp.device).float(), mask)
    kept, outcome = mask.any(-1), fields["rm_scores"].sum(-1)
    total = prm.outcome_loss(ratio[kept], outcome[kept], mask[kept], beta, denominator=1)
    return total * data["dp_size"] / data[DIALOGUES], {}


class PRMWorker(TrainingWorker):
    """verl's worker of a model in training, with a causal language model where the critic's would have a value head."""

    def __init__(self, config: Any) -> None:
        super().__init__(replace(config, model_type="language_model"))

    def train_batch(self, data: Any) -> Any:
        """One optimizer step on this rank's part of a mini-batch, which verl goes on to cut into micro-batches."""
        count = _count_dialogues(data, self.engine.get_data_parallel_group())
        tensordict_utils.assign_non_tensor(data, **{DIALOGUES: max(count, 1)})
        return super().train_batch(data)


@register_trainer("itpo")
class ITPOTrainer(PPOTrainerSync):
    """verl's synchronous trainer, in which the implicit PRM is trained online."""

    def __init__(self, config: Any) -> None:
        self.itpo = _checked(config)
        super().__init__(config)

    def _build_replay_buffer(self) -> Any:
        self.trainer_mode = (
            "sync"  # "itpo" names this class; what verl does by mode is what it does for "sync"
        )
        return super()._build_replay_buffer()

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        self.role_worker_mapping[Role.Critic] = ray.remote(PRMWorker)

    def _setup(self) -> None:
        super()._setup()
        self.critic_wg.set_loss_fn(partial(prm_loss, beta=self.itpo["beta"]))

    def _compute_values(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """Update the PRM, then have it score the batch; verl calls this between the reference's scores and advantages."""
        learned: dict[str, Any] = {}
        batch.fields = None  # all; the list was made before the reference's log-probabilities came
        super()._update_critic(batch, learned)
        metrics.update({key.replace("critic", "prm"): value for key, value in learned.items()})
        # A new dict: the old one may hold "no_lora_adapter" of the reference, which would switch the PRM's adapter off.
        batch.extra_info = {
            "compute_loss": False,
            "calculate_entropy": False,
            "temperature": self.config.actor_rollout_ref.rollout.temperature,
        }
        ray.get(self.critic_wg.infer_batch(batch).futures)
        return batch

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        if len({key.rsplit("_", 1)[0] for key in batch.keys}) < len(batch.keys):
            raise ValueError(
                "an agent loop gave several outputs for one dialogue, whose turns would be taken for dialogues of their own: "
                "have it give one"
            )
        names = ["log_probs", "ref_log_prob", "response_mask"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        data["log_probs"] = response_from_nested(data["log_probs"], data["response_mask"])
        fields = data.to_padded_tensor()
        mask = fields["response_mask"].bool()
        rewards = prm.token_rewards(
            fields["log_probs"].float(), fields["ref_log_prob"].float(), mask, self.itpo["beta"]
        )
        metrics.update(_ranking(rewards, mask))
        with token_rewards(prm.rescale(rewards, mask, self.itpo["scale"])):
            return super()._compute_advantage(batch, metrics)

    def _update_critic(self, batch: Any, metrics: dict[str, Any]) -> Any:
        return batch  # done before the advantages

    def _compute_metrics(self, *args: Any, **kwargs: Any) -> None:
        self.use_critic = False  # a PRM has no values, of which verl would log the explained variance
        try:
            super()._compute_metrics(*args, **kwargs)
        finally:
            self.use_critic = True


def _ranking(rewards: Tensor, mask: Tensor) -> dict[str, float]:
    """What to watch of the PRM's rewards: the mean implicit return, whose drift Norm-ITPO takes out."""
    kept = mask.any(-1)
    return {"prm/implicit_return/mean": rewards.sum(-1)[kept].mean().item()} if bool(kept.any()) else {}


def _checked(config: Any) -> dict[str, Any]:
    """The settings under ``algorithm.itpo``, if they and verl's own fit a PRM that is trained."""
    name = str(config.algorithm.adv_estimator)
    if not name.startswith("itpo_"):
        raise ValueError(
            f"trainer_mode=itpo needs algorithm.adv_estimator=itpo_rloo or itpo_grpo, not {name}"
        )
    found = settings(config.algorithm, name.removeprefix("itpo_"))
    method = found["method"]
    if method == TURN_REWARDS or not get_method(method).needs_prm:
        raise ValueError(
            f"method {method!r} has no PRM to train: set algorithm.itpo.method=norm_itpo, itpo or prime, or leave "
            "trainer.v1.trainer_mode at sync"
        )
    mask, zeros = torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 2)  # on which every setting is tried
    rewards = prm.rescale(prm.token_rewards(zeros, zeros, mask, found["beta"]), mask, found["scale"])
    with token_rewards(rewards):
        advantages(name.removeprefix("itpo_"), zeros, mask, ["", ""], config.algorithm)
    if not (config.critic.enable and need_reference_policy(config)):
        raise ValueError(
            "the PRM takes the critic's place and is compared with the reference: set critic.enable=True and "
            "actor_rollout_ref.actor.use_kl_loss=True (kl_loss_coef may be 0)"
        )
    policy, own = config.actor_rollout_ref.model.path, config.critic.model.path
    if policy != own:
        raise ValueError(
            f"critic.model.path is {own} and actor_rollout_ref.model.path {policy}: the PRM starts equal to the reference, "
            "so set both alike"
        )
    return found
