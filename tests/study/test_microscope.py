"""The microscope measures what training does: the same advantages, the same gradient; and a cut measurement ends alike."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from method_fixtures import _unchecked

from itpo import advantages
from itpo.config import Estimator, Method, RunConfig, TaskSpec
from itpo.runs.store import Run, Store, fingerprint
from itpo.runs.sweep import sweep
from itpo.specs import RuleJudge, TinyLM
from itpo.study import microscope
from itpo.study.measured import KNOWN, Measured, measured_methods
from itpo.study.microscope import MicroscopeConfig, measure, read
from itpo.study.microscope_tables import microscope_table
from itpo.trainer import training_step
from itpo.training.build import build_learner
from itpo.training.learner import Learner
from itpo.training.profiling import Timer

RUN = RunConfig(
    Method("norm_itpo", beta=0.05),
    seed=3,
    steps=2,
    model=TinyLM(16, layers=1, heads=2, steps=1),
    prompts=2,
    rollouts=3,
    max_turn_tokens=4,
    warmup=1,
    prm_minibatches=2,
    checkpoint_every=2,
    judge=RuleJudge(error_rate=0.3),
)
SOME = ("trajectory_share", "norm_itpo", "prime", "sure_judge", "signed_norm_itpo")
CONFIG = MicroscopeConfig(RUN, 1, measured_methods(RUN, SOME), batches=5, oracle_batches=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def made(config: RunConfig, store: Store) -> Learner:
    """A learner whose policy is not the reference, and whose dialogues now and then succeed."""
    learner = build_learner(config, store)
    generator = torch.Generator().manual_seed(0)
    for parameter in learner.backbone.parameters("policy").values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    score = learner.task.score
    learner.task.score = lambda example, messages: (
        score(example, messages) or float(len(messages[1].content) % 2)
    )
    return learner


@pytest.mark.parametrize("name", KNOWN)
def test_advantages_are_those_that_training_follows(
    name: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (measured,) = measured_methods(RUN, [name])
    config = replace(RUN, method=measured.method, estimator=measured.estimator)
    config = replace(config, judge=measured.judge or RUN.judge)
    learner = made(config, store)
    followed: list[torch.Tensor] = []

    def update_policy(batch, advantage, reference, stream):
        followed.append(advantage)
        return {"ratio_error": 0.0}

    monkeypatch.setattr(learner, "update_policy", update_policy)
    training_step(learner, "batch", Timer())
    if not learner.method.needs_prm:
        monkeypatch.setattr(learner, "log_probs", lambda batch, adapter: torch.zeros(batch.input_ids.shape))
    learner.config = replace(CONFIG.policy, judge=RUN.judge)
    learner.judge.error_rate = RUN.judge.error_rate
    found = microscope.method_advantages(learner, measured, microscope.sample(learner, "batch"), "batch")
    assert followed[0].any() and torch.equal(found, followed[0])


def test_the_gradient_is_the_one_that_an_update_of_the_policy_follows(store: Store) -> None:
    config = replace(RUN, policy_minibatches=1, kl_coef=0.0, entropy_coef=0.0, policy_clip_norm=1e9)
    learner = made(replace(config, token_budget=300), store)
    seen = microscope.sample(learner, "batch")
    weights = microscope.all_advantages(learner, CONFIG, seen, "batch")
    found = microscope.gradients(learner, seen.batch, weights)
    for name in ("norm_itpo", "prime", "signed_norm_itpo"):
        number = CONFIG.names.index(name)
        advantage = microscope.method_advantages(learner, CONFIG.methods[number - 1], seen, "batch")
        before = {key: value.detach().clone() for key, value in learner.backbone.parameters("policy").items()}
        learner.update_policy(seen.batch, advantage, seen.reference, "batch")
        own = learner.backbone.parameters("policy")
        followed = torch.cat([parameter.grad.flatten() for parameter in own.values()])
        torch.testing.assert_close(found[number], -followed, rtol=1e-4, atol=1e-7)
        assert followed.norm() > 1e-3
        for key, value in before.items():
            own[key].data.copy_(value)


def test_the_reference_is_the_return_less_the_mean_of_the_prompts_others(store: Store) -> None:
    learner = made(RUN, store)
    seen = microscope.sample(learner, "batch")
    batch, count = seen.batch, len(seen.batch)
    weights = microscope.all_advantages(learner, CONFIG, seen, "batch")
    method = CONFIG.policy.method
    score = method.coef * (batch.outcome - RUN.length_penalty * batch.response_lengths)
    for row in range(count):
        group = [other for other in range(count) if other // 3 == row // 3 and other != row]
        expected = (score[row] - score[group].mean()) / count
        torch.testing.assert_close(
            weights[0, row, batch.response_mask[row]], expected.expand(int(batch.response_mask[row].sum()))
        )
    assert not weights[:, ~batch.response_mask].any()
    whitened = advantages.whiten(weights[0], batch.response_mask) / int(batch.response_mask.sum())
    torch.testing.assert_close(
        weights[CONFIG.names.index("trajectory_share")], whitened, rtol=1e-4, atol=1e-6
    )


def test_inner_products_of_sketches_are_right_but_for_a_small_error() -> None:
    vectors = torch.randn(40, 50_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors[1:] += vectors[0]
    size = 4096
    kept = microscope.sketch(vectors, size)
    lengths = vectors.norm(dim=1)
    error = (kept @ kept.T - vectors @ vectors.T) / (lengths[:, None] * lengths)
    different = error[~torch.eye(40, dtype=torch.bool)]
    assert kept.shape == (40, size) and different.abs().max() < 5 / size**0.5
    assert torch.equal(kept, microscope.sketch(vectors, size))
    assert torch.equal(microscope.sketch(vectors, 50_000), vectors)


@pytest.fixture(scope="module")
def whole(store: Store) -> Run:
    run = store.open(CONFIG)
    with _unchecked():
        measure(CONFIG, run)
    return run


@pytest.mark.parametrize(("cut_in", "left"), [(1, 5), (4, 3)])
def test_a_measurement_that_was_cut_ends_alike(
    cut_in: int, left: int, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    gradients, calls = microscope.gradients, []

    def cut(*given):
        calls.append(given)
        if len(calls) == cut_in:
            raise KeyboardInterrupt
        return gradients(*given)

    monkeypatch.setattr(microscope, "gradients", cut)
    run = Store(tmp_path).open(CONFIG)
    with pytest.raises(KeyboardInterrupt):
        measure(CONFIG, run)
    run.release()
    calls.clear()
    cut_in = 0
    measure(CONFIG, run)
    assert len(calls) == left
    assert fingerprint(run) == fingerprint(whole)


def test_what_was_measured_is_read_and_has_a_line_for_each_method(whole: Run, store: Store) -> None:
    found = read(store.open(CONFIG))
    assert found.names == CONFIG.names and found.batches == 5
    np.testing.assert_allclose(found.own[0], found.cross[0], rtol=0.2, atol=1e-12)
    table = microscope_table(found)
    assert table["name"].tolist() == list(CONFIG.names[1:])
    metrics = whole.metrics()
    assert metrics["step"].tolist() == [-1, 0, 1, 2, 3, 4, 5] and whole.steps_done() == CONFIG.steps - 1
    assert metrics.loc[metrics["step"] >= 1, "entropy"].between(0, 1).all()
    entropies = [line["entropy"] for line in whole.metric_lines() if line["step"] >= 1]
    assert microscope.batch_means(whole)["entropy"] == pytest.approx(sum(entropies) / 5)
    (loaded,) = sweep(store.root, [CONFIG], measure, progress=False)
    assert loaded.done
    with pytest.raises(ValueError, match="holds no finished measurement: measure it first"):
        read(store.open(replace(CONFIG, batches=4)))


def test_the_policy_is_that_of_a_run_of_trajectory_share(store: Store, tmp_path: Path) -> None:
    """The PRM beside it changes nothing: same dialogues, same updates."""
    logged = store.open(CONFIG).metrics().query("step == 0")
    alone = build_learner(CONFIG.policy, store)
    _, metrics = training_step(alone, f"{RUN.seed}/0", Timer())
    for name, value in metrics.items():
        assert logged[name].item() == pytest.approx(value, rel=1e-5, abs=1e-8), name
    assert {"prm_loss", "kl"} <= set(logged.columns)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"run": replace(RUN, method=Method("uniform"))},
            "run.method is 'uniform'; it must be one with a PRM",
        ),
        ({"policy_steps": -1}, "policy_steps is -1"),
        ({"batches": 3}, "batches is 3; it must be at least 4"),
        ({"methods": measured_methods(RUN, ["itpo"])}, "trajectory_share among them"),
        ({"methods": measured_methods(RUN, ["trajectory_share"] * 2)}, "different names"),
        (
            {"run": replace(RUN, method=Method("norm_itpo", beta=0.2))},
            "beta of norm_itpo is 0.05; it must be 0.2",
        ),
        (
            {"run": replace(RUN, task=TaskSpec("medical"))},
            "oracle_batches is 1; it must be 0 but on math",
        ),
        (
            {"methods": (*CONFIG.methods, Measured("ppo", Method("itpo", beta=0.05), Estimator("ppo")))},
            "estimator of ppo is 'ppo'; it must be without a critic",
        ),
        (
            {"methods": (*CONFIG.methods, Measured("oracle", Method("uniform")))},
            "none of reference and oracle",
        ),
    ],
)
def test_a_measurement_that_cannot_be_made_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(
        ValueError, match="method is 'nobody'; it must be one of trajectory_share, equal_share"
    ):
        measured_methods(RUN, ["nobody"])
