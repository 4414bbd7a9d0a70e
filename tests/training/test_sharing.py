"""Shared dialogues of the reference: a run ends with the same bytes as one that holds them itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from itpo.config import Estimator, Method, RunConfig, TaskSpec
from itpo.models.loading import model_hashes
from itpo.rollout.engine import TurnEngine
from itpo.runs.store import Run, Store, fingerprint
from itpo.specs import Adapter, TinyLM
from itpo.trainer import train
from itpo.training import sharing
from itpo.training.build import base_model, build_learner, inputs
from itpo.training.learner import Learner

CONFIG = RunConfig(
    method=Method("norm_itpo"),
    seed=0,
    steps=1,
    task=TaskSpec("corridor", {"turns": 3, "pivots": 1}),
    model=TinyLM(16, 1, 2, steps=30, dialogues_per_step=8, learning_rate=5e-3),
    adapter=Adapter(2, 4),
    max_turn_tokens=6,
    prompts=2,
    rollouts=2,
    warmup=2,
    eval_dialogues=6,
    monitor_dialogues=3,
    policy_minibatches=1,
    prm_minibatches=1,
    critic_minibatches=1,
)
SHARED = ["0/warmup/0", "0/warmup/1", "probe", "evaluation"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, unchecked: None) -> list[str]:
    """The streams of dialogues that are held from now on, step 0's evaluation apart from the later ones."""
    streams, real = [], Learner.collect

    def collect(learner: Learner, stream: str, *arguments: Any, **options: Any) -> Any:
        speaker = arguments[2]
        streams.append(stream if speaker is None else f"{stream} by {speaker}")
        return real(learner, stream, *arguments, **options)

    monkeypatch.setattr(Learner, "collect", collect)
    return streams


def trained(root: Path, config: RunConfig) -> Run:
    run = Store(root).open(config)
    train(config, run)
    return run


@pytest.mark.parametrize("estimator", ["rloo", "ppo"])
def test_a_run_ends_with_the_bytes_of_one_that_shares_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str], estimator: str
) -> None:
    config = replace(CONFIG, estimator=Estimator(estimator))
    first = trained(tmp_path / "shared", replace(config, method=Method("itpo")))
    assert set(SHARED) < set(asked)
    asked.clear()
    second = trained(tmp_path / "shared", config)
    assert not set(SHARED) & set(asked) and "evaluation by policy" in asked
    with monkeypatch.context() as patch:
        for module in (sharing, __import__("itpo.training.evaluation", fromlist=["can_share"])):
            patch.setattr(module, "can_share", lambda learner, run: False)
        asked.clear()
        for run in (first, second):
            assert fingerprint(trained(tmp_path / "alone", run.config)) == fingerprint(run)
        assert asked.count("evaluation by policy") == 4  # both runs, at step 0 too


def test_what_neither_prm_nor_critic_looks_at_is_not_held(tmp_path: Path, asked: list[str]) -> None:
    trained(tmp_path, replace(CONFIG, method=Method("trajectory_share")))
    assert asked == [
        "evaluation",
        "0/0 by policy",
        "evaluation by policy",
        "final by policy",
        "final by policy",
    ]


def test_dialogues_read_back_are_those_that_were_held(tmp_path: Path, asked: list[str]) -> None:
    store = Store(tmp_path)
    run, learner = store.open(CONFIG), build_learner(CONFIG, store)
    assert not sharing.can_share(learner, run)  # from which base is not said yet
    run.declare(inputs(CONFIG, store))
    assert sharing.can_share(learner, run)
    one, again = (sharing.hold(learner, run, "probe", 2, 2, evaluate=True) for _ in range(2))
    assert asked == ["probe"]
    assert one.dialogues == again.dialogues and torch.equal(one.reference, again.reference)
    for name, value in vars(one.batch).items():
        other = getattr(again.batch, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


def test_what_another_engine_draws_is_not_shared(tmp_path: Path, unchecked: None) -> None:
    store = Store(tmp_path)
    run, learner = store.open(CONFIG), build_learner(CONFIG, store)
    run.declare(inputs(CONFIG, store))
    learner.engine = TurnEngine(learner.backbone)  # any that is not the backbone's own
    assert not sharing.can_share(learner, run)


@pytest.mark.parametrize(
    "change",
    [
        {"max_turn_tokens": 5},
        {"read_budget": 64},
        {"token_budget": 64},
        {"head_chunk": 64},
        {"max_rows": 3},
        {"thought_credit": False},
        {"max_failed": 0.0},
        {"task": TaskSpec("corridor", {"turns": 3, "pivots": 2})},
        {"model": replace(CONFIG.model, seed=1)},
    ],
)
def test_whatever_decides_a_dialogue_parts_them(
    tmp_path: Path, asked: list[str], change: dict[str, Any]
) -> None:
    store = Store(tmp_path)
    for config in (
        CONFIG,
        replace(CONFIG, **change),
        replace(CONFIG, seed=7, steps=3, method=Method("itpo")),
    ):
        run = store.open(config)
        run.declare({"base model": model_hashes(base_model(config, store))})
        sharing.hold(build_learner(config, store), run, "probe", 2, 1)
    assert asked == ["probe", "probe"]


@pytest.mark.parametrize(
    "change",
    [
        {"method": Method("itpo", beta=0.1)},
        {"seed": 1},
        {"prm_lr": 2e-3},
        {"prm_minibatches": 2},
        {"prm_clip_norm": 1.0},
        {"warmup": 3},
        {"adapter": Adapter(4, 4)},
        {"token_budget": 64},
        {"rollouts": 1},
    ],
)
def test_whatever_decides_what_a_prm_is_taught_parts_them(
    tmp_path: Path, unchecked: None, change: dict[str, Any]
) -> None:
    store, taught = Store(tmp_path), []
    for config in (CONFIG, replace(CONFIG, **change), replace(CONFIG, steps=3, method=Method("itpo"))):
        run, learner = store.open(config), build_learner(config, store)
        run.declare(inputs(config, store))

        def teach(seed: int = config.seed, learner: Learner = learner) -> list[dict[str, float]]:
            taught.append(seed)
            learner.skipped["prm"] = len(taught)
            return [{"prm_loss": len(taught), "prm_auc": float("nan")}]

        metrics = sharing.teach_once(learner, run, teach)
        assert metrics[0]["prm_loss"] == learner.skipped["prm"]
    assert len(taught) == 2 and learner.skipped["prm"] == 1


def test_a_critic_and_a_judge_have_the_prm_taught_each_time(tmp_path: Path, unchecked: None) -> None:
    store, taught = Store(tmp_path), []
    for config in (replace(CONFIG, estimator=Estimator("ppo")), replace(CONFIG, method=Method("judge"))):
        run, learner = store.open(config), build_learner(config, store)
        run.declare(inputs(config, store))
        for _ in range(2):
            sharing.teach_once(learner, run, lambda: taught.append(0) or [])
    assert len(taught) == 4
