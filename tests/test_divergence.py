"""What a run does when losses are not finite: it leaves steps out, counts them, and stops with its state saved."""

import dataclasses

import pytest
import torch

from itpo import losses, trainer
from itpo.config import Method, RunConfig
from itpo.runs.store import Store
from itpo.specs import Adapter, TinyLM

CONFIG = RunConfig(
    method=Method("trajectory_share"),
    seed=0,
    steps=4,
    model=TinyLM(hidden_size=16, layers=1, heads=2, steps=5, dialogues_per_step=8),
    adapter=Adapter(2, 4),
    max_turn_tokens=6,
    prompts=2,
    rollouts=2,
    policy_minibatches=2,
    eval_dialogues=2,
    monitor_dialogues=2,
    max_skipped=3,
)


@pytest.fixture
def broken_kl(monkeypatch, unchecked):
    """A KL term that is not a number; everything else is as it is."""
    monkeypatch.setattr(losses, "kl_k3", lambda *args, **kwargs: torch.tensor(float("nan")))


def test_a_run_stops_after_too_many_steps_without_a_finite_loss(broken_kl, tmp_path):
    run = Store(tmp_path).open(CONFIG)
    with pytest.raises(
        FloatingPointError, match="4 optimizer steps .*'policy': 4.*, after 2 steps of training"
    ):
        trainer.train(CONFIG, run)
    metrics = run.metrics()
    assert metrics["skipped_policy"].dropna().tolist() == [2.0, 2.0] and run.checkpoint_step() == 2
    assert len(metrics["success"].dropna()) == 2 and not run.done
    moved = [t for key, t in run.restore()[1].items() if "lora_B" in key]
    assert moved and not any(tensor.any() for tensor in moved)  # no step was taken
    run.release()
    again = Store(tmp_path).open(CONFIG)
    with pytest.raises(FloatingPointError, match="after 2 steps of training"):
        trainer.train(CONFIG, again)
    assert len(again.metrics()["success"].dropna()) == 2  # nothing was trained any further
    again.release()


def test_a_run_that_leaves_out_fewer_goes_on(broken_kl, tmp_path):
    config = dataclasses.replace(CONFIG, max_skipped=8)
    run = Store(tmp_path).open(config)
    trainer.train(config, run)
    assert run.done and run.metrics()["skipped_policy"].sum() == 8


def test_a_healthy_run_says_nothing_of_it(tmp_path, unchecked):
    config = dataclasses.replace(CONFIG, steps=1)
    run = Store(tmp_path).open(config)
    trainer.train(config, run)
    assert "skipped_policy" not in run.metrics()
