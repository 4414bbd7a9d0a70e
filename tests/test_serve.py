"""Every real task against a running `transformers serve` with SmolLM2, which the tests start and stop themselves."""

import dataclasses
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch

from itpo.backbone import Adapter
from itpo.data import Example
from itpo.dialogue import Message
from itpo.embedded import load
from itpo.endpoint import Endpoint, EndpointModel
from itpo.endpoint_judge import EndpointJudge
from itpo.learner import Learner
from itpo.models import smollm2
from itpo.profiles import Method, RunConfig
from itpo.tasks.real import RealDocuments, RealMath, RealMedical
from itpo.trainer import Stopwatch, training_step
from itpo.users import EndpointUser

# The server ends when the pipe to its standard input closes, hence with the tests, however they end.
SERVE = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from transformers.cli.transformers import main
sys.argv[0] = "transformers"
main()
"""
PATIENCE = 120.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    try:
        return smollm2(tmp_path_factory.mktemp("smollm2"))
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def url(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(
            [*command, "--device", "cpu"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", folder / "server.log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _wait(process, health, log):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(health, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the server did not start:\n{log.read_text()}")


def endpoint(url, folder, **changes):
    settings = {"max_tokens": 24, "concurrency": 4, "attempts": 2, "pause": 0.0} | changes
    return Endpoint(url, str(folder), **settings)


def test_temperature_is_honoured(url, folder):
    question = [[Message("user", "Tell me about your day.")]]

    def said(temperature, seed):
        place = endpoint(url, folder, temperature=temperature, max_tokens=12)
        return EndpointModel(place).ask(question, [seed], str)[0]

    assert said(0.0, 1) == said(0.0, 2)
    assert said(1.0, 1) == said(1.0, 1) != said(1.0, 2)


EXAMPLES = {
    "math": Example(
        "m",
        "math",
        (Message("user", "how many pens are there ?"),),
        "Sam has 3 pens and gets 4.",
        {"answer": "7"},
    ),
    "documents": Example(
        "d",
        "documents",
        (Message("user", "i want a story ."),),
        "A story of a boy.",
        {"document": "There was a boy."},
    ),
    "medical": Example(
        "p",
        "medical",
        (Message("user", "my head hurts ."),),
        "The head hurts since two days.",
        {"diagnosis": "migraine", "recommendation": "rest"},
    ),
}
STEP = RunConfig(
    method=Method("norm_itpo"),
    seed=0,
    steps=1,
    adapter=Adapter(2, 4),
    max_turn_tokens=8,
    prompts=2,
    rollouts=2,
    policy_minibatches=2,
    prm_minibatches=2,
    max_failed=0.75,
)


def make(name, url, folder):
    user = EndpointUser(endpoint(url, folder))
    # A small judge often forgets the form: the released code's answer to that keeps the step from depending on it.
    judge = EndpointJudge(endpoint(url, folder, temperature=0.0, max_tokens=48))
    example = [EXAMPLES[name]]
    if name == "math":
        return RealMath(example, user)
    task = RealDocuments if name == "documents" else RealMedical
    return task(example, user, judge, lost="zero")


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_training_step_of_every_real_task(name, url, folder, tiny_folder):
    task = make(name, url, folder)
    task.max_turns = 2
    learner = Learner(dataclasses.replace(STEP), *load(tiny_folder), task)
    _, metrics = training_step(learner, "step", Stopwatch())
    assert metrics["lost"] < 4 and 1 <= metrics["turns"] <= 2
    moved = [p for key, p in learner.backbone.parameters("policy").items() if "lora_B" in key]
    assert any(bool(p.any()) for p in moved) and all(bool(torch.isfinite(p).all()) for p in moved)


def test_a_judge_of_turns_and_of_outcomes_answers(url, folder):
    """What a model of 135 M parameters says means nothing; it must be a score or an error."""
    judge = EndpointJudge(endpoint(url, folder, temperature=0.0, max_tokens=64))
    example = EXAMPLES["medical"]
    talk = [*example.prompt, Message("assistant", "It is a migraine: rest.")]
    for found in (
        judge.accuracy([EXAMPLES["math"]], [talk]),
        judge.diagnosis([example], [talk]),
        judge.all_scores([example], [talk], [random.Random(0)]),
    ):
        assert len(found) == 1 and isinstance(found[0], float | tuple | list | Exception)
