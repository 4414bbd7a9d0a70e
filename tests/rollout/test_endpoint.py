"""Users and judges against a real HTTP server that misbehaves, and what becomes of the dialogues that are lost."""

import dataclasses
import gc
import json
import os
import random
import socket
import threading
import time
from functools import partial

import pytest
from misbehaving import FINAL, PASSING, REPLY, Server, completion, page, raw, say

from itpo.chat import ChatFormat
from itpo.config import Method, RunConfig
from itpo.data import Example
from itpo.dialogue import Message
from itpo.models.backbone import Backbone
from itpo.models.tiny import load
from itpo.rollout.endpoint import EndpointError, EndpointModel
from itpo.rollout.llm_judge import ModelJudge
from itpo.rollout.parsing import read_document, read_number, read_response
from itpo.rollout.real_tasks import RealDocuments, RealMath, RealMedical
from itpo.rollout.sampler import Sampling, rollout
from itpo.rollout.seeding import seeded
from itpo.rollout.users import FrozenBaseModel, ModelUser
from itpo.runs.files import RunFolderError
from itpo.runs.store import Store, fingerprint
from itpo.specs import Adapter, Endpoint, PretrainedModel, RealData
from itpo.tasks.judging import judge_dialogues
from itpo.trainer import train
from itpo.training.environments import Environments
from itpo.training.learner import DialoguesLost, Learner

MATH = Example(
    "m", "math", (Message("user", "sam has some pens ."),), "sam has 3 pens and gets 4", {"answer": "7"}
)
MEDICAL = Example(
    "p",
    "medical",
    (Message("user", "it hurts ."),),
    "since 2 days",
    {"diagnosis": "a", "recommendation": "b"},
)
DOCUMENT = Example("d", "documents", (Message("user", "write ."),), "a story", {"document": "a story of sam"})


def slow(seconds, text=REPLY):
    def answer(question):
        time.sleep(seconds)
        return say(text)

    return answer


HTML = page(200)
GOOD = '{"response": "yes", "score": 7}\nFinal document: yes'
BROKEN = 500, {}, {"error": {"message": "out of order"}}


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def model(server, cache=None, **changes):
    settings = {"attempts": 2, "pause": 0.01, "timeout": 10.0, "temperature": 0.0} | changes
    return EndpointModel(Endpoint(server.url, "m", **settings), cache)


def ask(model, count=1, read=read_response):
    return model.ask([[Message("user", f"question {i}")] for i in range(count)], list(range(count)), read)


@pytest.fixture
def secret(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret/key")
    return "sk-very-secret"


@pytest.fixture(autouse=True)
def no_collection_without_stack(request):
    """Where a reply is nested too deeply to be read, a garbage collection would find no stack left for finalizers."""
    deep = "nested" in request.node.name
    if deep:
        gc.collect()
        gc.disable()
    yield
    if deep:
        gc.enable()


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_costs_an_attempt(server, tmp_path, name):
    server.script = [PASSING[name]]
    (reply,) = ask(model(server, tmp_path, timeout=0.5 if name in ("drops", "silence") else 10.0))
    assert reply == "there are 3 ."
    assert [q["seed"] for q in server.questions] == [0, 1]
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 1  # of the reply that could be read


@pytest.mark.parametrize("name", {**PASSING, **FINAL})
def test_one_odd_reply_is_one_error_whatever_is_read_and_shows_no_key(server, tmp_path, secret, name):
    odd = (PASSING | FINAL)[name]
    server.default = lambda q: odd if q["messages"][0]["content"] == "question 1" else say(GOOD)
    asked = model(server, tmp_path, attempts=1, timeout=0.5 if name in ("drops", "silence") else 10.0)
    for read in (read_response, read_document, partial(read_number, key="score", low=0.0, high=10.0)):
        good, error, other = ask(asked, 3, read)
        assert good == other == read(GOOD) and isinstance(error, EndpointError)
        assert secret not in str(error) and len(str(error)) < 600
    assert set(server.keys) == {"Bearer sk-very-secret/key"}


def test_an_answer_may_begin_with_a_byte_order_mark_and_hold_no_error(server):
    answer = completion(REPLY) | {"error": None}
    server.script = [raw(b"\xef\xbb\xbf" + json.dumps(answer).encode())]
    assert ask(model(server, attempts=1)) == ["there are 3 ."]


def test_a_server_may_say_when_to_ask_again(server):
    server.script = [(429, {"Retry-After": "0.2"}, b"{}")]
    started = time.monotonic()
    assert ask(model(server)) == ["there are 3 ."] and time.monotonic() - started >= 0.2


def test_prompts_and_key_are_not_sent_on_to_another_host(server, secret):
    other = Server()
    threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()
    server.default = 308, {"Location": other.url.replace("127.0.0.1", "localhost")}, b""
    (error,) = ask(model(server))
    other.shutdown()
    other.server_close()
    assert not other.questions and len(server.questions) == 1
    assert "status 308, a redirection to 'http://localhost:" in str(error) and "do not follow" in str(error)


def test_a_key_is_struck_out_of_replies_too(server, tmp_path, secret):
    server.default = say('{"response": "my key is ECHO"}')
    assert ask(model(server, tmp_path)) == ["my key is Bearer [key]"]
    assert not any(secret.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_key_that_no_header_can_hold_is_an_error_without_the_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "schlüssel")
    (error,) = ask(model(server))
    assert isinstance(error, EndpointError) and "schlüssel" not in str(error)


def test_replies_kept_by_an_older_version_are_asked_for_again(server, tmp_path):
    """They may have been cut off."""
    ask(model(server, tmp_path))
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    path.write_text(path.read_text().replace('"version": 2', '"version": 1').replace("are 3", "are"))
    assert ask(model(server, tmp_path)) == ["there are 3 ."] and len(server.questions) == 2
    assert ask(model(server, tmp_path)) == ["there are 3 ."] and len(server.questions) == 2


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (BROKEN, "in 2 attempts: status 500.*out of order"),
        ((200, {}, BROKEN[2]), "in 2 attempts: the server reports an error: .*out of order"),
        ((200, {}, {"error": "out of order", "choices": []}), "in 2 attempts: the server reports .*order"),
        (HTML, "in 2 attempts: the answer is not JSON: .*Bad gateway"),
        (slow(0.5), "in 2 attempts: no answer within 0.2 seconds"),
        (say('{"response": true}'), "in 2 attempts: the response is True, not text"),
    ],
)
def test_a_fault_that_stays_is_an_error_in_its_place(server, fault, says):
    server.default = lambda q: (
        (fault(q) if callable(fault) else fault)
        if q["messages"][0]["content"] == "question 1"
        else say(REPLY)
    )
    one, lost, other = ask(model(server, timeout=0.2 if callable(fault) else 10.0), 3)
    assert (one, other) == ("there are 3 .", "there are 3 .")
    with pytest.raises(EndpointError, match=says):
        raise lost
    assert len(server.questions) == 4


def test_a_refusal_is_not_repeated(server):
    server.default = 404, {}, {"error": {"message": "no such model"}}
    (lost,) = ask(model(server, attempts=5))
    assert "refuses the question: status 404" in str(lost) and "no such model" in str(lost)
    assert len(server.questions) == 1


def test_no_server():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        place = Endpoint(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "m", attempts=2, pause=0.01)
        (lost,) = ask(EndpointModel(place))
    assert "in 2 attempts: no connection" in str(lost) and "is the server running?" in str(lost)


def test_concurrency_is_bounded_and_used(server):
    server.default = slow(0.1)
    assert ask(model(server, concurrency=4), 16) == ["there are 3 ."] * 16
    assert server.most == 4


def test_a_model_that_is_gone_leaves_no_thread_and_no_file_open(server):
    def held():
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    ask(model(server), 3)
    gc.collect()
    deadline, before = time.monotonic() + 20, None
    while time.monotonic() < deadline and before != (before := held()):
        time.sleep(0.3)  # the first one may load what stays
    for _ in range(3):
        ask(model(server), 3)
    gc.collect()
    while time.monotonic() < deadline and held() != before:
        time.sleep(0.05)
    assert held() == before


def test_replies_are_kept(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a secret")
    server.script = [say("{}")]
    kept = ask(model(server, tmp_path, temperature=1.0), 2)
    assert len(server.questions) == 3 and set(server.keys) == {"Bearer a secret"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2 and not any(
        b"secret" in p.read_bytes() or server.url.encode() in p.read_bytes() for p in files
    )
    server.default = BROKEN
    again = ask(model(server, tmp_path, temperature=1.0, attempts=2), 2)
    # The unreadable reply was not kept: its question is asked again, and the next seed's reply was kept.
    assert again == kept and len(server.questions) == 4
    assert isinstance(ask(model(server, tmp_path, temperature=0.5))[0], EndpointError)
    files[0].write_text("{}")
    with pytest.raises(RunFolderError, match="is not a reply that this library kept.*delete the file"):
        ask(model(server, tmp_path, temperature=1.0), 2)


def test_settings_are_checked():
    for changes in (
        {"url": "127.0.0.1:80"},
        {"attempts": 0},
        {"timeout": 0.0},
        {"temperature": float("nan")},
    ):
        with pytest.raises(ValueError, match=next(iter(changes))):
            Endpoint(**{"url": "http://x/v1", "model": "m"} | changes)
    for url in (
        "http://me:hush@x/v1",
        "http://hush@x/v1",
        "http://x/v1?key=hush",
        "http://me:h/hush@x:99999/v1",
    ):
        with pytest.raises(ValueError, match="url is .* without user name, password or query") as error:
            Endpoint(url, "m")
        assert "hush" not in str(error.value)
    with pytest.raises(ValueError, match="url is 'http://x:99999/v1'"):
        Endpoint("http://x:99999/v1", "m")
    with pytest.raises(ValueError, match="2 prompts but 1 seeds"):
        EndpointModel(Endpoint("http://x/v1", "m")).ask([[], []], [0], str)
    with pytest.raises(ValueError, match="judge is Endpoint.*must be an Endpoint of temperature 0"):
        real_config("http://x/v1", judge=Endpoint("http://x/v1", "m"))


def test_users_and_judges_reply_as_the_tasks_need(server):
    user = ModelUser(model(server))
    judge = ModelJudge(model(server))
    conversation = [
        *MATH.prompt,
        Message("assistant", "the answer is 7"),
        Message("user", "ok"),
        Message("assistant", "bye"),
    ]
    assert RealMath([MATH], user).scores([MATH, MATH], [conversation[:2], conversation]) == [1.0, 0.0]
    server.default = say('{"thought": "", "score": 1}')
    assert RealMath([MATH], user, judge).score(MATH, conversation) == 1.0
    server.default = say('{"diagnosis": 9, "recommendation": "6"}')
    assert RealMedical([MEDICAL], user, judge).score(MEDICAL, conversation) == 0.75
    assert RealMedical([MEDICAL], user, judge, accurate_from=8.0).score(MEDICAL, conversation) == 0.0
    server.default = say("Here it is. Final document: a story of sam")
    assert RealDocuments([DOCUMENT], user, judge).score(DOCUMENT, conversation) == pytest.approx(1.0)
    assert RealDocuments([DOCUMENT], user, judge, keep_marker=True).score(DOCUMENT, conversation) < 0.7
    assert RealDocuments([DOCUMENT], user, judge, unit="words").score(
        DOCUMENT, conversation
    ) == pytest.approx(1.0)
    server.default = say('{"scores": [3, 1]}')
    assert judge.scores(MATH, conversation, random.Random(0)) == [3.0, 1.0]
    server.default = say('{"response": "bye [[TERMINATE CHAT]]"}')
    assert RealMath([MATH], user).reply(MATH, conversation, random.Random(0)) is None
    assert MATH.goal in server.questions[-1]["messages"][0]["content"]
    server.default = say("no idea")
    assert isinstance(RealMedical([MEDICAL], user, judge).scores([MEDICAL], [conversation])[0], EndpointError)
    assert RealMedical([MEDICAL], user, judge, lost="zero").score(MEDICAL, conversation) == 0.0
    with pytest.raises(ValueError, match="'m' is of task 'math': pass examples of task 'medical'"):
        RealMedical([MATH], user, judge)


SMALL = RunConfig(
    method=Method("norm_itpo"),
    seed=0,
    steps=2,
    adapter=Adapter(2, 4),
    max_turn_tokens=6,
    prompts=2,
    rollouts=4,
    policy_minibatches=2,
    prm_minibatches=2,
    warmup=1,
    eval_every=2,
    eval_dialogues=4,
    monitor_dialogues=2,
    checkpoint_every=1,
)


def real_config(url, model="m", source="examples.jsonl", **changes):
    """The same with users behind a server, as a config states them."""
    user = Endpoint(url, "m", attempts=1, pause=0.01)
    task = RealData("collabllm-math", str(source), count=4)
    return dataclasses.replace(SMALL, task=task, user=user, model=PretrainedModel(str(model)), **changes)


def learner(tiny_folder, server, store, **settings):
    task = RealMath([MATH], ModelUser(model(server, **settings)))
    environments = Environments(task, task, ModelJudge(model(server, temperature=0.0)))
    return Learner(SMALL, *load(tiny_folder), store, environments)


def fails_for(share):
    """Users who fail for a share of the seeds."""
    return lambda q: BROKEN if q["seed"] % 100 < 100 * share else say(REPLY)


def test_lost_dialogues_are_left_out_and_counted(tiny_folder, server, tmp_path):
    server.default = fails_for(0.15)
    learning = learner(tiny_folder, server, tmp_path, attempts=1)
    dialogues, batch = learning.collect("a", 4, 4, "policy")
    lost = [i for i, dialogue in enumerate(dialogues) if dialogue.failure]
    assert 0 < len(lost) < 8 and not batch.response_mask[lost].any()
    assert batch.kept.sum() == 16 - len(lost)
    assert all("EndpointError: no reply from" in dialogues[i].failure for i in lost)
    before = len(server.questions)
    server.default = lambda q: say(f'{{"scores": {[1] * q["messages"][0]["content"].count("Assistant (")}}}')
    judged = judge_dialogues(learning.judge, dialogues, [random.Random(i) for i in range(16)], retries=0)
    assert judged.failed == [] and len(server.questions) == before + 16 - len(
        lost
    )  # the lost ones are not shown


def test_lanes_do_not_change_the_dialogues(tiny_folder, server, tmp_path):
    """However fast the users are: the order of the policy's draws is fixed."""
    rng = random.Random(0)
    dialogues = []
    for pause in (0.0, 0.03):
        server.default = lambda q, pause=pause: slow(rng.random() * pause)(q)
        learning = learner(tiny_folder, server, tmp_path)
        dialogues.append(learning.collect("a", 4, 2, None)[0])
    assert dialogues[0] == dialogues[1] and learning.task.lanes == 2


def test_a_run_stops_when_the_server_is_down_and_goes_on_when_it_is_back(tiny_folder, server, tmp_path):
    source = tmp_path / "examples.jsonl"
    rows = [
        {
            "prompt": [{"role": "user", "content": f"sam has {number} pens ."}],
            "single_turn_prompt": f"sam has {number} pens and gets 1",
            "single_turn_completion": f"he has #### {number + 1}",
        }
        for number in range(4)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # A loss that is tolerated would change the run.
    config = real_config(server.url, tiny_folder, source, max_failed=0.0)
    whole = Store(tmp_path / "whole").open(config)
    train(config, whole)
    questions, answered = len(server.questions), 0

    def breaks_down(question):
        nonlocal answered
        answered += 1
        return say(REPLY) if answered < 0.6 * questions else BROKEN

    server.default = breaks_down
    run = Store(tmp_path / "run").open(config)
    with pytest.raises(
        DialoguesLost, match="(?s)user or judge failed for .*status 500.*goes on from its last checkpoint"
    ):
        train(config, run)
    assert not run.done and any((tmp_path / "run" / "replies").iterdir())
    server.default = say(REPLY)
    train(config, run)
    assert run.done and fingerprint(run) == fingerprint(whole)
    assert run.metrics()["lost"].dropna().tolist() == [0.0, 0.0]


def test_the_base_plays_the_user(tiny_folder):
    base, tokenizer = load(tiny_folder)
    backbone, chat = Backbone(base, ["policy"], SMALL.adapter), ChatFormat(tokenizer)
    task = RealMath([MATH], ModelUser(FrozenBaseModel(backbone, chat, Sampling(6))))
    rngs = [random.Random(i) for i in range(3)]
    with backbone.use("policy"):
        held = rollout(backbone, chat, task, [MATH] * 3, rngs, seeded("a"), Sampling(6))
        assert backbone.active == "policy"
    assert any(dialogue.assistant_turns > 1 for dialogue in held) and task.lanes == 1


def test_what_the_base_says_as_a_user_does_not_depend_on_who_else_is_asked(tiny_folder):
    base, tokenizer = load(tiny_folder)
    user = FrozenBaseModel(Backbone(base, ["policy"], SMALL.adapter), ChatFormat(tokenizer), Sampling(6))
    questions = [[Message("user", f"how many {word} ?")] for word in ("pens", "coins", "apples")]
    together = [str(answer) for answer in user.ask(questions, [7, 8, 9], str)]
    assert (
        all("cut off" in answer for answer in together) and len(set(together)) == 3
    )  # the last of three tries
    assert [str(answer) for answer in user.ask(questions[1:2], [8], str)] == together[1:2]
