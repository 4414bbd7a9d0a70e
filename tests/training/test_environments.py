"""Runs on real data whose users and judges are the policy's own base."""

import json
import random

import pytest
import torch

from itpo.chat import ChatFormat
from itpo.config import Method, RunConfig
from itpo.data import DataError, Example
from itpo.dialogue import Message
from itpo.models.tiny import load
from itpo.rollout.endpoint import EndpointError
from itpo.rollout.llm_judge import ModelJudge
from itpo.rollout.prompts import fill
from itpo.rollout.real_tasks import RealDocuments, RealMath, RealMedical
from itpo.rollout.users import ModelUser
from itpo.runs.store import Store
from itpo.specs import Adapter, FrozenBase, PretrainedModel, RealData
from itpo.study import reward_dynamics, transcripts
from itpo.trainer import train
from itpo.training.build import build_learner, trained


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def problems(tmp_path_factory):
    rows = [
        {
            "conv_id": n,
            "prompt": [{"role": "user", "content": "sam has some pens and gets more . how many now ?"}],
            "single_turn_prompt": f"sam has {n} pens and gets 2 more . how many now ?",
            "single_turn_completion": f"the answer is $\\boxed{{{n + 2}}}$",
        }
        for n in range(2, 12)
    ]
    for row in rows:  # equal openings would be repetitions
        row["prompt"][0]["content"] += " ." * row["conv_id"]
    return write(tmp_path_factory.mktemp("data") / "problems.jsonl", rows)


@pytest.fixture(scope="session")
def base(tiny_folder, tmp_path_factory):
    """The tiny model, which has also learned to answer the prompts of users by a short sentence, and to end it."""
    model, tokenizer = load(tiny_folder)
    chat, optimizer, rng = (
        ChatFormat(tokenizer),
        torch.optim.AdamW(model.parameters(), 3e-3),
        random.Random(0),
    )
    for _ in range(60):
        goal, words = f"sam has {rng.randrange(12)} pens and gets 2 more .", " . ?" * rng.randrange(6)
        history = f"User: sam has some pens and gets more{words}\nAssistant: how many pens{words}"
        name = rng.choice(("user_math", "user_math", "open_math"))
        prompt = fill(name, goal=goal, **({"conversation": history} if name == "user_math" else {}))
        reply = Message("assistant", rng.choice(("there are 3 .", "i have some pens .")))
        ids, mask = (torch.tensor([x]) for x in chat.encode([Message("user", prompt), reply]))
        model(input_ids=ids, labels=ids.masked_fill(~mask, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config(base, source, **changes):
    values = {
        "method": Method("norm_itpo", policy_lr=1e-3, beta=0.05),
        "seed": 0,
        "steps": 1,
        "task": RealData("collabllm-math", source),
        "user": FrozenBase(12),
        "judge": FrozenBase(12),
        "model": PretrainedModel(str(base)),
        "adapter": Adapter(4, 8),
        "max_turn_tokens": 6,
        "prompts": 2,
        "rollouts": 2,
        "policy_minibatches": 2,
        "prm_minibatches": 2,
        "warmup": 1,
        "eval_dialogues": 2,
        "monitor_dialogues": 2,
    }
    return RunConfig(**values | changes)


def test_a_run_on_real_data_with_users_of_its_own_base(base, problems, tmp_path, unchecked):
    wanted = config(base, problems)
    run = Store(tmp_path).open(wanted)
    train(wanted, run)
    assert run.done and run.metrics()["lost"].dropna().tolist() == [0.0]
    again = Store(tmp_path / "again").open(wanted)
    train(wanted, again)
    assert run.summary() == again.summary()
    (transcript,) = transcripts.hold(trained(run), "policy", 1, "test")
    assert "pens" in transcript.hidden and set(transcript.kinds) == {""}
    assert transcript.result.startswith("outcome 0.")
    assert set(reward_dynamics.read_monitor(run).kinds(0)) == {""}


def test_examples_of_evaluation_are_held_out(tiny_folder, problems, tmp_path, unchecked):
    learner = build_learner(config(tiny_folder, problems), Store(tmp_path))
    training, held_out = ({e.id for e in task.examples} for task in (learner.task, learner.evaluation))
    assert len(training) == 9 and len(held_out) == 1 and not training & held_out
    assert not learner.task.user.model.sampling.greedy and learner.evaluation.user.model.sampling.greedy
    assert isinstance(learner.task, RealMath) and learner.task.judge is None
    assert isinstance(learner.judge, ModelJudge)


def test_policy_users_and_judges_read_within_the_budget(base, problems, tmp_path, unchecked, monkeypatch):
    learner = build_learner(config(base, problems, read_budget=48), Store(tmp_path))
    decoder, sizes = type(learner.backbone.decoder(1)), []
    append = decoder.append
    monkeypatch.setattr(decoder, "append", lambda *self: sizes.append(self[1].numel()) or append(*self))
    dialogues, _ = learner.collect("a", 2, 2, "policy")
    assert max(sizes) == 48
    sizes.clear()
    learner.judge.all_scores(
        [d.example for d in dialogues], [d.messages for d in dialogues], [random.Random(0)] * 4
    )
    assert max(sizes) == 48
    sizes.clear()
    learner.task.user.model.ask([[Message("user", "how many pens ? " * 30)]] * 4, [0] * 4, str)
    assert max(sizes) == 48


def test_plain_problems_are_opened_by_their_users(base, tmp_path, unchecked):
    """What the tiny model says is no opening anybody would write; it must be its own words, and not the problem."""
    rows = [{"question": f"sam has {n} pens ?", "answer": f"#### {n}"} for n in range(4)]
    data = RealData("gsm8k", write(tmp_path / "plain.jsonl", rows))
    learner = build_learner(config(base, None, task=data), Store(tmp_path))
    for example in (*learner.task.examples, *learner.evaluation.examples):
        assert example.prompt[-1].role == "user" and example.prompt[-1].content not in ("", example.goal)


class Shy:
    """A language model that says nothing the first ``silent`` times that it is asked about an example."""

    lanes = 1

    def __init__(self, silent):
        self.silent, self.asked = silent, []

    def ask(self, prompts, seeds, read):
        self.asked.append((len(prompts), tuple(seeds)))
        answers = [EndpointError("no words")] * len(prompts)
        return (
            answers if len(self.asked) <= self.silent else [answers[0], *[read("hello")] * (len(prompts) - 1)]
        )


def test_who_says_nothing_is_asked_again_by_another_seed():
    rows = [Example(str(n), "math", (Message("user", "2 + 2"),), "2 + 2", {"answer": "4"}) for n in range(3)]
    shy = Shy(silent=1)
    with pytest.raises(EndpointError, match="no words"):
        ModelUser(shy).open(rows, seed=0)
    assert [count for count, _ in shy.asked] == [3, 3, 1]
    assert len({seed for _, seeds in shy.asked for seed in seeds}) == 7


def test_the_count_limits_the_examples(tiny_folder, problems, tmp_path, unchecked):
    data = RealData("collabllm-math", problems, count=4)
    learner = build_learner(config(tiny_folder, None, task=data), Store(tmp_path))
    assert len(learner.task.examples) == 3 and len(learner.evaluation.examples) == 1


LAYOUTS = {
    "mtmeddialog": (
        RealMedical,
        [
            {
                "id": n,
                "prompt": [{"role": "user", "content": f"my head hurts since {n} days ."}],
                "reward_model": {
                    "ground_truth": {"diagnosis": "migraine", "recommendation": "rest"},
                    "patient_information": [
                        {"doctor_question": "since when ?", "patient_response": f"{n} days"}
                    ],
                },
            }
            for n in range(3)
        ],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tasks_without_a_rule_are_judged_by_the_base(layout, tiny_folder, tmp_path, unchecked):
    kind, rows = LAYOUTS[layout]
    data = RealData(layout, write(tmp_path / "rows.jsonl", rows))
    learner = build_learner(config(tiny_folder, None, task=data), Store(tmp_path))
    assert isinstance(learner.task, kind) and learner.task.judge is learner.judge
    assert not isinstance(learner.task, RealDocuments)


def test_data_that_cannot_be_read_says_what_to_do(tiny_folder, tmp_path):
    with pytest.raises(DataError, match="download its files and pass their path"):
        build_learner(config(tiny_folder, None, task=RealData("mtmeddialog")), Store(tmp_path))


def test_unknown_formats_are_named_with_the_known():
    with pytest.raises(ValueError, match="format is 'xml'; it must be one of .*gsm8k"):
        RealData("xml")
