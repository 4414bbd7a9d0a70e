"""Tasks, users and judges of a reader's own are part of the config: named by it, trained by it alone, also in sweeps."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import own_parts
import pytest

from itpo.config import Method, RunConfig, TaskSpec
from itpo.rollout.llm_judge import ModelJudge
from itpo.runs.store import Store, fingerprint
from itpo.runs.sweep import sweep
from itpo.specs import Adapter, Custom, FrozenBase, PretrainedModel, RealData, TinyLM
from itpo.trainer import train
from itpo.training.build import build_learner

sys.path.insert(0, str(Path(__file__).parents[1]))  # from where child processes import own_parts

SMALL = RunConfig(
    method=Method("trajectory_share"),
    seed=0,
    steps=1,
    model=TinyLM(16, 1, 2, steps=5),
    adapter=Adapter(2, 4),
    max_turn_tokens=8,
    prompts=2,
    rollouts=2,
    eval_dialogues=8,
    monitor_dialogues=4,
)


def test_a_readers_own_task_and_the_built_in_one_are_two_experiments(tmp_path):
    """Once a subclass that always scores 1 trained in the folder of the built-in task, whose result a sweep then loaded."""
    configs = [
        replace(SMALL, task=TaskSpec("own_parts:EasyMath", version=1)),
        replace(SMALL, task=TaskSpec("math")),
    ]
    easy, math = sweep(tmp_path, configs, train, workers=1, progress=False)
    assert easy.folder != math.folder and easy.done and math.done
    assert easy.summary()["success"] == 1.0 > math.summary()["success"]
    assert [run.summary() for run in sweep(tmp_path, configs[::-1], train, progress=False)] == [
        math.summary(),
        easy.summary(),
    ]
    alone = Store(tmp_path / "alone").open(configs[0])
    train(configs[0], alone)
    assert fingerprint(alone) == fingerprint(easy)


@pytest.fixture(scope="session")
def problems(tmp_path_factory):
    """Plain word problems, which their users open."""
    path = tmp_path_factory.mktemp("own") / "problems.jsonl"
    rows = [{"question": f"sam has {n} pens{' .' * n}", "answer": f"#### {n}"} for n in range(2, 22)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def real(base, problems, **changes):
    values = {
        "method": Method("judge"),
        "task": RealData("gsm8k", problems, judged=True),
        "user": Custom("own_parts:Parrot", 1, {"words": "how many pens ?"}),
        "judge": Custom("own_parts:Lengths", 1),
        "model": PretrainedModel(str(base)),
    }
    return replace(SMALL, **values | changes)


def test_a_run_with_user_and_judge_of_ones_own(tiny_folder, problems, tmp_path, unchecked):
    config = real(tiny_folder, problems)
    run, again = (Store(tmp_path / name).open(config) for name in "ab")
    train(config, run)
    (swept,) = sweep(tmp_path / "b", [config], train, progress=False)
    assert fingerprint(run) == fingerprint(swept) and run.summary() == swept.summary()
    assert again.done and run.summary()["turns"] == 2.0  # the user's patience
    for dialogue in run.dialogues():
        opening, _, answer, _ = (message["content"] for message in dialogue["messages"])
        assert opening.startswith("how many pens ?") and answer == "how many pens ?"
    assert run.metrics()["judge_failed"].dropna().tolist() == [0.0]
    patient = replace(config, user=Custom("own_parts:Parrot", 1, {"words": "how many pens ?", "patience": 3}))
    assert Store(tmp_path).folder(patient).name != run.folder.name


def test_own_and_packaged_parts_go_together(tiny_folder, problems, tmp_path, unchecked):
    learner = build_learner(real(tiny_folder, problems, judge=FrozenBase(4)), Store(tmp_path))
    assert isinstance(learner.judge, ModelJudge) and isinstance(learner.task.user, own_parts.Parrot)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": Custom("own_parts:Lengths", 1)}, "own_parts:Lengths has no method replies, open"),
        (
            {"judge": Custom("own_parts:Parrot", 1, {"words": "a"})},
            "own_parts:Parrot has no method accuracy, scores",
        ),
    ],
)
def test_what_a_class_lacks_is_said_before_training(
    changes, message, tiny_folder, problems, tmp_path, unchecked
):
    with pytest.raises(ValueError, match=message):
        build_learner(real(tiny_folder, problems, **changes), Store(tmp_path))


def test_a_judge_of_ones_own_for_a_scripted_task(tmp_path, unchecked):
    config = replace(SMALL, method=Method("judge"), judge=Custom("own_parts:Lengths", 1))
    run = Store(tmp_path).open(config)
    train(config, run)
    assert run.done and run.metrics()["judge_failed"].dropna().tolist() == [0.0]
