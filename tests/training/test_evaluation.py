"""The monitor set: dialogues that are lost are held again, and a resumed run has the set that it began with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import itpo.training.evaluation as evaluation
from itpo.config import Estimator, Method, RunConfig, TaskSpec
from itpo.models.lean import LeanDecoder
from itpo.runs.store import Run, Store, fingerprint
from itpo.specs import Adapter, TinyLM
from itpo.study.reward_dynamics import read_monitor
from itpo.trainer import train
from itpo.training.build import build_learner
from itpo.training.evaluation import ATTEMPTS, MonitorSet, collect_monitor_set
from itpo.training.learner import DialoguesLost, Learner

CONFIG = RunConfig(
    method=Method("norm_itpo"),
    seed=0,
    steps=2,
    task=TaskSpec("math"),
    model=TinyLM(16, 1, 2, steps=10, dialogues_per_step=4),
    adapter=Adapter(2, 4),
    max_turn_tokens=6,
    prompts=2,
    rollouts=2,
    warmup=1,
    eval_dialogues=2,
    monitor_dialogues=8,
    monitor_every=1,
    checkpoint_every=1,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the base model."""
    path = tmp_path_factory.mktemp("runs")
    build_learner(CONFIG, Store(path))
    return path


@pytest.fixture
def learner(root: Path) -> Learner:
    return build_learner(CONFIG, Store(root))


def losing(learner: Learner, lost: Callable[[str], list[int]]) -> list[tuple[str, int]]:
    """Let a learner lose the dialogues of some rows of a stream; returns the streams that it is asked for, and how many."""
    real, asked = learner.collect, []

    def collect(stream: str, prompts: int, *args: Any, **options: Any) -> Any:
        dialogues, batch = real(stream, prompts, *args, **options)
        asked.append((stream, prompts))
        rows = lost(stream)
        if len(rows) == prompts:
            raise DialoguesLost("all of them")
        dialogues = [replace(d, failure="nonsense") if row in rows else d for row, d in enumerate(dialogues)]
        return dialogues, batch.without(rows)

    learner.collect = collect  # type: ignore[method-assign]
    return asked


def same(one: MonitorSet, other: MonitorSet) -> bool:
    pairs = zip(one.tensors().values(), other.tensors().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_nothing_is_asked_again_where_nothing_is_lost(learner: Learner) -> None:
    asked = losing(learner, lambda stream: [])
    monitor_set = collect_monitor_set(learner)
    assert asked == [("probe", 8)] and len(monitor_set.batch) == 8 and monitor_set.batch.kept.all()


def test_lost_dialogues_are_held_again_and_the_others_stay(learner: Learner, root: Path) -> None:
    before = collect_monitor_set(learner)
    lose = {"probe": [1, 4], "probe/1": [0]}
    asked = losing(learner, lambda stream: lose.get(stream, []))
    after = collect_monitor_set(learner)
    assert asked == [("probe", 8), ("probe/1", 2), ("probe/2", 1)]
    assert len(after.batch) == 8 and after.batch.kept.all()
    rows = [0, 2, 3, 5, 6, 7]
    width = min(before.batch.input_ids.shape[1], after.batch.input_ids.shape[1])
    assert torch.equal(before.batch.input_ids[rows, :width], after.batch.input_ids[rows, :width])
    another = build_learner(CONFIG, Store(root))
    losing(another, lambda stream: lose.get(stream, []))
    assert same(collect_monitor_set(another), after)  # also at another start


def test_the_set_is_kept_without_those_that_are_lost_every_time(learner: Learner) -> None:
    asked = losing(learner, lambda stream: [2] if stream == "probe" else [0])
    monitor_set = collect_monitor_set(learner)
    assert len(asked) == ATTEMPTS and [count for _, count in asked] == [8, 1, 1, 1]
    assert len(monitor_set.batch) == 7 and monitor_set.batch.kept.all()
    losing(learner, lambda stream: list(range(8)))
    with pytest.raises(DialoguesLost):
        collect_monitor_set(learner)


@pytest.mark.parametrize("estimator", ["rloo", "ppo"])
def test_a_resume_reads_the_set_of_step_0_where_it_would_be_sampled_otherwise(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimator: str
) -> None:
    """Noise in the sampler stands for another card; the curves are of the dialogues that the run began with."""
    config = replace(CONFIG, estimator=Estimator(estimator))
    alone = Store(root).open(config)
    train(config, alone)
    run = Store(tmp_path).open(config)
    real = Run.log

    def stop(run: Run, step: int, metrics: Any) -> None:
        real(run, step, metrics)
        if step == 1 and "ratio_error" in metrics:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "log", stop)
        train(config, run)
    run.release()
    sampled, append, noise = (
        evaluation.collect_monitor_set,
        LeanDecoder.append,
        torch.Generator().manual_seed(1),
    )

    def elsewhere(learner: Learner, run: Run | None = None) -> MonitorSet:
        def noisy(cache: Any, ids: Any, mask: Any) -> Any:
            logits = append(cache, ids, mask)
            return logits + torch.randn(logits.shape, generator=noise)

        with monkeypatch.context() as patch:
            patch.setattr(LeanDecoder, "append", noisy)
            assert not same(sampled(learner), sampled(learner, run))
            return sampled(learner, run)

    monkeypatch.setattr("itpo.trainer.collect_monitor_set", elsewhere)
    train(config, run)
    assert fingerprint(run) == fingerprint(alone)
    monitor = read_monitor(run)
    assert monitor.log_ratio.shape[:2] == (3, 8)
