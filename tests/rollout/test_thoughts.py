"""Thought and speech of the policy: who hears what, and which tokens are trained."""

import random

import pytest
import torch
from test_dialogue import CHATML, chatml_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from itpo.chat import ChatFormat
from itpo.config import Method, RunConfig
from itpo.dialogue import Message, collate
from itpo.models.backbone import Backbone
from itpo.models.tiny import build_tokenizer
from itpo.rollout.endpoint import EndpointError
from itpo.rollout.parsing import read_response
from itpo.rollout.sampler import Sampling, rollout, speak
from itpo.rollout.users import FrozenBaseModel
from itpo.specs import Adapter
from itpo.thoughts import THOUGHT_TAGS, split_thoughts
from itpo.turns import turn_ids

TURN = "<think> 12 plus 18 </think> 30 ."


class Listener:
    """A user who asks twice, and notes what it hears."""

    name, max_turns = "listener", 2

    def __init__(self):
        self.heard = []

    def sample(self, rng):
        return None

    def opening(self, example):
        return [Message("user", "how many ?")]

    def reply(self, example, messages, rng):
        self.heard.append(messages[-1].content)
        return "how many ?"

    def score(self, example, messages):
        self.heard.append(messages[-1].content)
        return 1.0


@pytest.fixture(scope="module")
def thinker():
    """A tiny model that thinks before it speaks, and a chat format with tags that are words."""
    chat = ChatFormat(build_tokenizer([*TURN.split(), "how", "many", "?"]))
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(chat.tokenizer), **size))
    conversation = [Message("user", "how many ?"), Message("assistant", TURN)] * 2
    ids, mask = (torch.tensor([x]) for x in chat.encode(conversation))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        model(input_ids=ids, labels=ids.masked_fill(~mask, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return Backbone(model.eval(), ["policy"], Adapter(2, 4)), chat


def hold(thinker, **sampling):
    user = Listener()
    with thinker[0].use(None):
        generator, settings = torch.Generator(), Sampling(greedy=True, **sampling)
        (dialogue,) = rollout(*thinker, user, [None], [random.Random(0)], generator, settings)
    return dialogue, user.heard


def test_nobody_hears_the_policys_thoughts(thinker):
    dialogue, heard = hold(thinker)
    assert heard == ["30 .", "30 ."]
    assert [m.content for m in dialogue.messages if m.role == "assistant"] == heard
    assert thinker[1].text(dialogue.ids).count("12 plus 18") == 2  # which remembers them itself
    with thinker[0].use(None):
        assert speak(*thinker, [dialogue.messages[:1]], torch.Generator(), Sampling(greedy=True)) == ["30 ."]


def test_thoughts_earn_credit_or_are_context(thinker):
    chat = thinker[1]
    trained, _ = hold(thinker)
    context, _ = hold(thinker, thought_credit=False)
    assert trained.ids == context.ids and trained.messages == context.messages
    tokens = chat.tokenizer.convert_ids_to_tokens(trained.ids)
    chosen = [[t for t, m in zip(tokens, d.response_mask, strict=True) if m] for d in (trained, context)]
    assert chosen == [[*TURN.split(), "<|end|>"] * 2, ["30", ".", "<|end|>"] * 2]
    logps = zip(context.sampled_logp, trained.sampled_logp, context.response_mask, strict=True)
    assert all(logp == (before if mask else 0.0) for logp, before, mask in logps)
    one, other = (collate([d], 1, chat.pad_id) for d in (trained, context))
    assert one.response_lengths.tolist() == other.response_lengths.tolist()  # the penalty is on all of it
    assert turn_ids(other.response_mask).max() == 1


@pytest.mark.parametrize("limit", [1, 3, 5])
def test_a_turn_cut_off_within_its_thought_says_nothing(thinker, limit):
    dialogue, heard = hold(thinker, max_turn_tokens=limit, thought_credit=False)
    assert heard[0] == "" and dialogue.messages[1].content == ""
    turns = turn_ids(torch.tensor([dialogue.response_mask]))
    assert turns.max() + 1 == dialogue.assistant_turns == 2  # each turn keeps its last token


def test_a_reply_of_the_base_that_is_cut_off_is_an_error(thinker):
    asked = [[Message("user", "how many ?")]]
    for limit in (2, 5, 6):
        (answer,) = FrozenBaseModel(*thinker, Sampling(limit)).ask(asked, [0], read_response)
        assert isinstance(answer, EndpointError) and "cut off" in str(answer)
    assert FrozenBaseModel(*thinker, Sampling(24, greedy=True)).ask(asked, [0], read_response) == ["30 ."]


@pytest.mark.parametrize(("opening", "closing"), THOUGHT_TAGS.items())
def test_common_tags(opening, closing):
    for text in (
        f"{opening}\n12{closing}30",
        f"12{closing} 30",
        f"30{opening} 12",
        f"{opening.upper()}12{closing}30",
    ):
        assert split_thoughts(text).text == "30"
    assert split_thoughts(f"a{opening}b{closing}c{opening}d").text == "ac"
    assert split_thoughts(f"{opening}b") == ("", len(opening) + 1, False)
    assert split_thoughts(f"{opening}b", {"<x>": "</x>"}).text == f"{opening}b"


def test_tags_of_several_tokens_and_tags_that_are_special_tokens():
    for special in (False, True):
        tokenizer = chatml_tokenizer()
        if special:
            tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
        chat = ChatFormat(tokenizer)
        ids = tokenizer("<think>there are 7 ?</think>\n\nthere are 7 .<|im_end|>")["input_ids"]
        assert chat.speech(ids).text == "there are 7 ."
        first = chat.speech_begins(ids)
        assert tokenizer.decode(ids[first:]) == "\n\nthere are 7 .<|im_end|>"
        assert chat.speech_begins(ids[:first]) == first - 1 and chat.speech(ids[: first - 1]).text == ""
        plain = tokenizer("there are 7 .<|im_end|>")["input_ids"]
        assert chat.speech(plain).text == "there are 7 ." and chat.speech_begins(plain) == 0


def test_a_template_may_open_the_thought_itself():
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = CHATML.replace(
        "assistant\\n' }}{% endif %}", "assistant\\n<think>\\n' }}{% endif %}"
    )
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "<|im_start|>assistant\n'", "<|im_start|>assistant\n<think>\n'"
    )
    chat = ChatFormat(tokenizer)
    cut, whole = (tokenizer(text)["input_ids"] for text in ("there are 7", "there are</think>7 .<|im_end|>"))
    assert chat.speech(cut).text == "" and not chat.speech(cut).whole
    assert chat.speech(whole).text == "7 ." and tokenizer.decode(
        whole[chat.speech_begins(whole) :]
    ).startswith("7")


def test_tags_of_the_config_are_texts():
    config = RunConfig(
        Method("norm_itpo"), seed=0, steps=1, thought_tags={"<x>": "</x>"}, thought_credit=False
    )
    assert dict(config.thought_tags) == {"<x>": "</x>"}
    for tags in ({"<x>": ""}, {"": "</x>"}, {"<x>": 1}):
        with pytest.raises(ValueError, match="thought_tags"):
            RunConfig(Method("norm_itpo"), seed=0, steps=1, thought_tags=tags)
