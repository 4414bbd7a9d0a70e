"""Training through a server that misbehaves: what is lost is counted, and the numbers of all else are those without faults."""

import json
import random
import threading
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from misbehaving import FINAL, PASSING, REPLY, Server, say

from itpo.config import Method, RunConfig
from itpo.models.tiny import load
from itpo.runs.files import sha256
from itpo.runs.store import Store, fingerprint
from itpo.specs import Adapter, Endpoint, PretrainedModel, RealData
from itpo.tasks.judging import judge_dialogues
from itpo.trainer import train
from itpo.training.learner import Learner

SLOW = ("drops", "silence")


@pytest.fixture
def serve():
    """Starts servers that answer by a function of the question."""
    servers = []

    def start(answer):
        servers.append(server := Server())
        server.default = answer
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def config(tiny_folder, tmp_path):
    """Makes configs of runs whose users and judges are behind one server."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"sam has {number} pens ."}],
            "single_turn_prompt": f"sam has {number} pens and gets 1",
            "single_turn_completion": f"he has #### {number + 1}",
        }
        for number in range(6)
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(server, **place):
        place = Endpoint(
            server.url, "m", temperature=0.0, pause=0.0, **{"attempts": 1, "timeout": 30.0} | place
        )
        sizes = {name: 2 for name in ("prompts", "policy_minibatches", "eval_every", "monitor_dialogues")}
        return RunConfig(
            Method("judge"),
            seed=0,
            steps=2,
            task=RealData("collabllm-math", str(source), judged=True),
            user=place,
            judge=place,
            model=PretrainedModel(str(tiny_folder)),
            adapter=Adapter(2, 4),
            max_turn_tokens=6,
            rollouts=4,
            eval_dialogues=4,
            warmup=0,
            **sizes,
        )

    return make


def well(question):
    """What a good server says: users by no seed, and judges by what they are shown."""
    text = question["messages"][0]["content"]
    if "scores" in text:
        return say(json.dumps({"scores": [1 + len(text) % 3] * text.count("Assistant (")}))
    return say(json.dumps({"score": len(text) % 2})) if '"score": 1' in text else say(REPLY)


def digest(question):
    return int(sha256(f"{question['seed']} {question['messages'][0]['content']}")[:8], 16)


def test_faults_that_pass_change_no_number(config, serve, tmp_path):
    """Every question is first answered by the next of all faults."""
    runs, used, seen, faults = [], set(), set(), cycle(PASSING)

    def once_badly(question):
        text = question["messages"][0]["content"]
        if text in seen:
            return well(question)
        seen.add(text)
        used.add(name := next(faults))
        return PASSING[name]

    for number, answer in enumerate((well, once_badly)):
        wanted = config(serve(answer), attempts=6, timeout=2.0)
        runs.append(Store(tmp_path / str(number)).open(wanted))
        train(wanted, runs[-1])
    assert fingerprint(runs[0]) == fingerprint(runs[1])
    assert used == set(PASSING)


@pytest.mark.parametrize("greedy", [True, False])
def test_the_dialogues_that_are_not_lost_are_those_without_faults(
    config, serve, tmp_path, tiny_folder, greedy
):
    """Users of greedy dialogues, and judges of sampled ones: a user who is lost would leave the others other random draws."""
    faults = [fault for name, fault in (PASSING | FINAL).items() if name not in SLOW]
    refused = set()

    def badly(question):
        of_judge = '"score": 1' in question["messages"][0]["content"]
        if of_judge == greedy or digest(question) % 8:
            return well(question)
        refused.add(question["messages"][0]["content"])
        return faults[digest(question) % len(faults)]

    held = []
    for number, answer in enumerate((well, badly)):
        wanted = config(serve(answer), cache=None)
        learner = Learner(wanted, *load(tiny_folder), tmp_path / str(number))
        held.append(learner.collect("a", 12, 2, "policy", greedy=greedy))
    (clean, whole), (dialogues, batch) = held
    lost = [n for n, dialogue in enumerate(dialogues) if dialogue.failure]
    assert refused and 0 < len(lost) < 12 and all("EndpointError" in dialogues[n].failure for n in lost)
    assert [d for n, d in enumerate(dialogues) if n not in lost] == [
        d for n, d in enumerate(clean) if n not in lost
    ]
    if not greedy:  # a judge loses no token
        rest = whole.without(lost)
        for name in ("input_ids", "response_mask", "turn_ids", "sampled_logp"):
            assert torch.equal(getattr(batch, name), getattr(rest, name))
        assert torch.equal(batch.outcome[batch.kept], rest.outcome[rest.kept])


def test_turns_that_cannot_be_judged_are_left_out_of_the_update(config, serve, tmp_path, tiny_folder):
    faults = [fault for name, fault in (PASSING | FINAL).items() if name not in SLOW]
    wrong = [
        say('{"scores": [1, 9, 1'),
        say('{"scores": []}'),
        say('{"scores": [NaN, 1]}'),
        say('{"scores": [99]}'),
        *faults,
    ]
    bad = serve(lambda q: well(q) if digest(q) % 3 else wrong[digest(q) % len(wrong)])
    judged, dialogues = [], None
    for number, server in enumerate((serve(well), bad)):
        learner = Learner(config(server, cache=None), *load(tiny_folder), tmp_path / str(number))
        dialogues = dialogues or learner.collect("a", 12, 2, "policy")[0]
        judged.append(
            judge_dialogues(learner.judge, dialogues, [random.Random(n) for n in range(24)], retries=0)
        )
    clean, faulty = judged
    assert not clean.failed and 0 < len(faulty.failed) < 24
    for n in set(range(24)) - set(faulty.failed):
        assert faulty.scores[n] == clean.scores[n]


def test_a_run_counts_what_it_loses_and_ends(config, serve, tmp_path):
    """Users of training, which are not greedy, and judges of turns fail for some of the questions."""
    faults = [fault for name, fault in (PASSING | FINAL).items() if name not in SLOW]
    runs, refused = [], {True: 0, False: 0}

    def badly(question):
        of_turns = "scores" in question["messages"][0]["content"]
        if digest(question) % (4 if of_turns else 10) or not (of_turns or question["temperature"]):
            return well(question)
        refused[of_turns] += 1
        return faults[digest(question) % len(faults)]

    for number in range(2):
        wanted = config(serve(badly))
        wanted = replace(wanted, user=replace(wanted.user, temperature=1.0), judge_retries=0)
        runs.append(Store(tmp_path / str(number)).open(wanted))
        train(wanted, runs[-1])
        metrics = runs[-1].metrics()
        counted = {True: metrics["judge_failed"].sum(), False: metrics["lost"].sum()}
        assert counted == {kind: count / (number + 1) for kind, count in refused.items()} and all(
            refused.values()
        )
    assert fingerprint(runs[0]) == fingerprint(runs[1])
