"""Dialogues inside verl's rollout: the tokens that the chat template makes of the whole dialogue, and a served user."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import verl_cpu  # noqa: F401  (the platform has to be there before verl's workers are)
import verl_loop
import verl_tiny
from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl.experimental.agent_loop.agent_loop import DictConfigWrap

from itpo.integrations.verl.users import ServedUser, UserAgentLoop, served_user
from itpo.specs import Endpoint

PROMPT = [{"role": "user", "content": "w5 w6"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(verl_tiny.save(tmp_path_factory.mktemp("tiny")))


class Scripted:
    """A user with a list of replies, and what it was shown."""

    def __init__(self, *replies: str | None) -> None:
        self.replies, self.shown = list(replies), []

    def reply(self, messages, row, seed):
        self.shown.append((list(messages), row["uid"], seed))
        return self.replies.pop(0)


def hold(tokenizer, user, turns: int | None = 3, length: int = 200):
    """One dialogue through verl's own building of tokens."""
    rollout = {"multi_turn": {"max_assistant_turns": turns}, "response_length": length, "prompt_length": 50}
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}, "data": {}})

    async def run():
        loop = UserAgentLoop(
            trainer_config=DictConfigWrap(config),
            server_manager=verl_loop.Speaker(),
            tokenizer=tokenizer,
            processor=None,
            dataset_cls=None,
            data_config=DictConfigWrap(config.data),
            hf_model_type="llama",
            user=user,
        )
        return await loop.run({}, raw_prompt=PROMPT, uid="a", session_id=0, priority=0)

    return asyncio.run(run())


def test_tokens_are_those_of_the_whole_dialogue_and_only_the_assistants_are_marked(tokenizer):
    user = Scripted("w7 w8", "w9")
    held = hold(tokenizer, user)
    messages = user.shown[-1][0]
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    ids = held.prompt_ids + held.response_ids
    last = held.response_ids[len(held.response_ids) - held.response_mask[::-1].index(0) :]
    whole = [*messages, {"role": "user", "content": "w9"}]
    whole.append({"role": "assistant", "content": tokenizer.decode(last, skip_special_tokens=True)})
    assert ids == tokenizer.apply_chat_template(whole, tokenize=True, return_dict=False)
    assert held.prompt_ids == tokenizer.apply_chat_template(
        PROMPT, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    turns = "".join(map(str, held.response_mask)).split("0")
    assert len([turn for turn in turns if turn]) == 3 and held.num_turns == 6
    assert held.response_mask[0] == held.response_mask[-1] == 1
    # The user's tokens have no log-probability of the policy.
    assert [bool(logp) for logp in held.response_logprobs] == [bool(mark) for mark in held.response_mask]
    assert [seed for _, _, seed in user.shown] == ["a/0/1", "a/0/2"]


def test_the_user_ends_a_dialogue(tokenizer):
    held = hold(tokenizer, Scripted("w7", None))
    assert held.num_turns == 4 and held.response_mask[-1] == 1


def test_a_reply_that_does_not_fit_is_left_out(tokenizer):
    held = hold(tokenizer, Scripted("w7 " * 50), length=20)
    assert held.num_turns == 2 and all(held.response_mask) and len(held.response_ids) <= 20


def test_a_number_of_turns_is_needed(tokenizer):
    with pytest.raises(ValueError, match="max_assistant_turns: try 5"):
        hold(tokenizer, Scripted(), turns=None)


@pytest.fixture
def server():
    """An OpenAI-compatible server with one answer, and the questions it was asked."""
    state = SimpleNamespace(asked=[], answer='{"thought": "not yet", "response": "It has three sides."}')

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            state.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            message = {"role": "assistant", "content": state.answer}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            body = json.dumps(
                {"id": "1", "object": "chat.completion", "created": 0, "model": "any", "choices": [choice]}
            )
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            """Quiet."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{listening.server_port}/v1"
    yield state
    listening.shutdown()


def test_a_served_user_knows_its_rows_goal_and_hears_no_thoughts(server):
    user = served_user("math", server.url, "any")
    assert user is served_user("math", server.url, "any")
    messages = [*PROMPT, {"role": "assistant", "content": "<think>a triangle</think>How many sides?"}]
    row = {"extra_info": {"interaction_kwargs": {"single_turn_prompt": "Find the area of a 3-4-5 triangle."}}}
    assert user.reply(messages, row, "a/0/1") == "It has three sides."
    [asked] = server.asked
    assert "3-4-5" in str(asked) and "How many sides?" in str(asked) and "a triangle" not in str(asked)
    server.answer = '{"response": "[[TERMINATE CHAT]]"}'
    assert user.reply(messages, row, "a/0/2") is None


def test_a_row_without_a_goal_and_a_server_that_is_away_are_errors(server):
    with pytest.raises(ValueError, match=r"a row has no extra_info\.interaction_kwargs\.single_turn_prompt"):
        served_user("math", server.url, "any").reply(PROMPT, {"extra_info": None}, "a")
    away = ServedUser("math", Endpoint("http://127.0.0.1:9/v1", "any", attempts=1, timeout=5.0))
    row = {"extra_info": {"interaction_kwargs": {"single_turn_prompt": "Find it."}}}
    with pytest.raises(ConnectionError, match="no reply from"):
        away.reply(PROMPT, row, "a")
