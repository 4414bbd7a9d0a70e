"""Two steps of verl's own training loop on a CPU: its Ray workers, queue, rewards, FSDP engines, optimizers and checkpoints.

Three things stand in for what needs a GPU: the platform (`verl_cpu`), the inference server (`Speaker`), and the hooks that
would send weights to that server. `main` leaves results.json in its folder.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import verl
from verl.trainer.ppo.v1 import register_trainer
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

from itpo.integrations.verl.trainer import ITPOTrainer

STEPS, PROMPTS, ROLLOUTS, TURNS = 2, 2, 4, 3


class Speaker:
    """In the place of an inference server: words at random, as many as it likes."""

    async def generate(self, request_id: str, *, prompt_ids: list[int], **_: Any) -> TokenOutput:
        rng = random.Random(f"{request_id}/{len(prompt_ids)}")
        said = [rng.randrange(3, 60) for _ in range(rng.randint(1, 5))]
        return TokenOutput(
            token_ids=[*said, 2],
            log_probs=[-4.0] * (len(said) + 1),
            extra_fields={"min_global_steps": 1, "max_global_steps": 1},
        )


class User:
    """Says the same until it has had enough."""

    def reply(self, messages: list[dict[str, str]], row: dict[str, Any], seed: str) -> str | None:
        assert messages[-1]["role"] == "assistant" and row["extra_info"]["index"] < 8
        return None if random.Random(seed).random() < 0.3 else "w7 w8"


def score(data_source: str, solution_str: str, **_: Any) -> float:
    """The reward of a dialogue, by verl's own reward workers."""
    return len(solution_str) % 11 / 10


@register_trainer("itpo_cpu")
class Loop(ITPOTrainer):
    """The trainer under test, without an inference server; notes what happened and what it was fed."""

    _enable_hybrid_replicas = False  # verl's own way to have no inference server in the training workers
    noted: list[tuple[str, Any]] = []

    def get_llm_client(self) -> Speaker:
        return Speaker()

    def on_init_end(self) -> None:
        """There is no server to send weights to; nor in the next two."""

    def on_step_end(self) -> None: ...

    def on_sample_end(self) -> None: ...

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        import transfer_queue as tq

        batch = super()._compute_advantage(batch, metrics)
        names = ["uid", "log_probs", "ref_log_prob", "rm_scores", "response_mask", "advantages"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        rows = {name: [row.tolist() for row in data[name].unbind()] for name in names[1:]}
        self.noted.append(("advantages", {**rows, "uid": list(data["uid"])}))
        return batch

    def _compute_metrics(self, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        self.noted.append(
            (
                "metrics",
                {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)},
            )
        )


def noting(worker_group: Any, name: str, event: str, noted: list) -> None:
    """Have a worker group note each call of one of its methods."""
    method = getattr(worker_group, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        noted.append((event, None))
        return method(*args, **kwargs)

    setattr(worker_group, name, call)


def settings(folder: Path, model: str, lora: bool) -> list[str]:
    """verl's config as its command line takes it."""
    agent = "actor_rollout_ref.rollout.agent"
    found = f"""
        algorithm.adv_estimator=itpo_rloo +algorithm.itpo.method=norm_itpo +algorithm.itpo.baseline=to_go
        +algorithm.itpo.beta=0.5 trainer.v1.trainer_mode=itpo_cpu trainer.device=cpu trainer.n_gpus_per_node=1
        trainer.logger=[console] trainer.val_before_train=False trainer.total_training_steps={STEPS}
        trainer.default_local_dir={folder}/checkpoints trainer.save_freq={STEPS}
        data.train_files={folder}/rows.parquet data.val_files={folder}/rows.parquet data.train_batch_size={PROMPTS}
        data.dataloader_num_workers=0 data.max_prompt_length=16 data.max_response_length=24
        reward.num_workers=1 reward.custom_reward_function.path={__file__} reward.custom_reward_function.name=score
        transfer_queue.backend.SimpleStorage.num_data_storage_units=1
        actor_rollout_ref.rollout.name=none actor_rollout_ref.rollout.n={ROLLOUTS} {agent}.num_workers=1
        actor_rollout_ref.rollout.nnodes=1 actor_rollout_ref.rollout.n_gpus_per_node=1
        {agent}.agent_loop_config_path={folder}/agents.yaml {agent}.default_agent_loop=itpo_user
        actor_rollout_ref.rollout.multi_turn.max_assistant_turns={TURNS}
        actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=2
        actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=2 actor_rollout_ref.ref.strategy=fsdp2
        actor_rollout_ref.ref.fsdp_config.use_torch_compile=False
        actor_rollout_ref.actor.use_kl_loss=True actor_rollout_ref.actor.strategy=fsdp2
        actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS} actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2
        actor_rollout_ref.actor.fsdp_config.use_torch_compile=False
        critic.enable=True critic.strategy=fsdp2 critic.fsdp.use_torch_compile=False critic.optim.lr=0.01
        critic.ppo_mini_batch_size={PROMPTS} critic.ppo_micro_batch_size_per_gpu=2
    """.split()
    for place in ("actor_rollout_ref.model", "critic.model"):
        found += [f"{place}.path={model}", f"{place}.use_remove_padding=False"]
        found += [f"{place}.enable_gradient_checkpointing=False", f"{place}.lora_rank={4 if lora else 0}"]
        found += [f"+{place}.override_config.attn_implementation=eager"]
    return found


def main(folder: Path, lora: bool) -> None:
    import pandas as pd
    import ray
    import verl_tiny
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf, open_dict
    from verl.trainer.main_ppo import TaskRunnerV1

    RolloutReplicaRegistry.register("none", lambda: RolloutReplica)
    row = {"data_source": "words", "reward_model": {"ground_truth": "", "style": "rule"}}
    rows = [
        {**row, "prompt": [{"role": "user", "content": f"w{i + 3} w9"}], "extra_info": {"index": i}}
        for i in range(8)
    ]
    pd.DataFrame(rows).to_parquet(folder / "rows.parquet")
    agent = {"_target_": "itpo.integrations.verl.users.UserAgentLoop", "user": {"_target_": "verl_loop.User"}}
    OmegaConf.save(OmegaConf.create([{"name": "itpo_user", **agent}]), folder / "agents.yaml")
    model = verl_tiny.save(folder / "tiny")
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer/config"), version_base=None):
        config = compose("ppo_trainer", settings(folder, model, lora))
    with open_dict(config):  # in one precision, as equality is to be seen
        config.actor_rollout_ref.actor.fsdp_config.mixed_precision = {
            "param_dtype": "fp32",
            "reduce_dtype": "fp32",
        }
        config.critic.fsdp.mixed_precision = {"param_dtype": "fp32", "reduce_dtype": "fp32"}
        config.actor_rollout_ref.ref.fsdp_config.mixed_precision = {
            "param_dtype": "fp32",
            "reduce_dtype": "fp32",
        }
        config.actor_rollout_ref.ref.fsdp_config.model_dtype = "fp32"

    ray.init("local", num_cpus=16, num_gpus=1, include_dashboard=False, object_store_memory=200_000_000)
    setup = Loop._setup

    def set_up(self: Loop) -> None:
        setup(self)
        self.noted.append((f"{type(self.replay_buffer).__name__}, {self.trainer_mode}", None))
        for group, name, event in (
            (
                self.ref_policy_wg,
                "compute_log_prob" if lora else "compute_ref_log_prob",
                "reference or policy scored",
            ),
            (self.critic_wg, "train_mini_batch", "PRM learned"),
            (self.critic_wg, "infer_batch", "PRM scored"),
            (self.actor_rollout_wg, "update_actor", "policy learned"),
        ):
            noting(group, name, event, self.noted)

    Loop._setup = set_up  # type: ignore[method-assign]
    TaskRunnerV1.__ray_metadata__.modified_class().run(config)
    (folder / "results.json").write_text(json.dumps(Loop.noted), encoding="utf-8")
    ray.shutdown()
