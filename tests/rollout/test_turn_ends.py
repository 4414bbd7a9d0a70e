"""Where a policy's turn ends, whichever marker its family uses, and what becomes of dialogues that outgrow its context."""

import random
from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from itpo.chat import ChatFormat, ContextError, Message
from itpo.config import Method, RunConfig
from itpo.dialogue import collate
from itpo.models.backbone import Backbone
from itpo.models.tiny import build_tokenizer
from itpo.rollout.endpoint import EndpointError
from itpo.rollout.sampler import Sampling, rollout, take_turns
from itpo.rollout.users import FrozenBaseModel
from itpo.specs import Adapter
from itpo.tasks.registry import get_task
from itpo.training.learner import DialoguesLost, Learner

SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
# As Gemma does: turns end with a marker that is not the tokenizer's eos_token.
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} <end_of_turn> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer_of(words):
    tokenizer = build_tokenizer(words.split())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end_of_turn>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


class Asker:
    """A user who asks again as long as there are turns, and notes what it hears."""

    name = "asker"

    def __init__(self, max_turns=2):
        self.max_turns, self.heard = max_turns, []

    def sample(self, rng):
        return None

    def opening(self, example):
        return [Message("user", "how many ?")]

    def reply(self, example, messages, rng):
        self.heard.append(messages[-1].content)
        return "how many ?"

    def score(self, example, messages):
        return 1.0


@pytest.fixture(scope="module")
def speaker():
    """Makes a tiny model that says "30 ." and ends that with one of its ends, and its chat format."""

    def train(end, context):
        tokenizer = tokenizer_of("30 . how many ?")
        torch.manual_seed(0)
        vocabulary = len(tokenizer)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **SIZE, max_position_embeddings=context))
        chat = ChatFormat(tokenizer, model=model)
        assert tokenizer.convert_ids_to_tokens(list(chat.end_ids)[:2]) == ["<end_of_turn>", "<|end|>"]
        ids, mask = chat.encode([Message("user", "how many ?"), Message("assistant", "30 .")] * 3)
        last = [n for n, mine in enumerate(mask) if mine and ids[n] == chat.eos_id]
        ids = torch.tensor([[end if n in last else token for n, token in enumerate(ids)]])
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(40):
            labels = ids.masked_fill(~torch.tensor([mask]), -100)
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return Backbone(model.eval(), ["policy"], Adapter(2, 4)), chat

    made = {}

    def make(end="<end_of_turn>", context=512):
        if (end, context) not in made:
            made[end, context] = train(tokenizer_of("30 . how many ?").convert_tokens_to_ids(end), context)
        return made[end, context]

    return make


def hold(speaker, user, dialogues=1, **sampling):
    rngs = [random.Random(number) for number in range(dialogues)]
    settings = Sampling(greedy=True, **sampling)
    with speaker[0].use(None):
        return rollout(*speaker, user, [None] * dialogues, rngs, torch.Generator(), settings)


@pytest.mark.parametrize("end", ["<end_of_turn>", "<|end|>"])
def test_a_turn_ends_at_any_of_the_models_ends(speaker, end):
    user, (backbone, chat) = Asker(), speaker(end)
    (dialogue,) = hold((backbone, chat), user)
    assert user.heard == ["30 ."] and [m.content for m in dialogue.messages[1::2]] == ["30 .", "30 ."]
    tokens = chat.tokenizer.convert_ids_to_tokens(list(dialogue.ids))
    # A turn that its family's marker does not end gets that after what ended it.
    closed = [end] if end == "<end_of_turn>" else [end, "<end_of_turn>"]
    asked = ["<|user|>", "how", "many", "?", "<end_of_turn>", "<|assistant|>"]
    assert tokens == [*asked, "30", ".", *closed, *asked, "30", ".", end]
    chosen = [t for t, mine in zip(tokens, dialogue.response_mask, strict=True) if mine]
    assert chosen == ["30", ".", end] * 2
    with backbone.use(None):
        (turn,) = take_turns(
            backbone, chat, [[Message("user", "how many ?")]], [torch.Generator()], Sampling(greedy=True)
        )
    assert turn == ("30 .", True)


def test_a_dialogue_that_outgrows_the_context_is_lost(speaker):
    """An opening has 6 tokens, a turn 3 and a block 6: the third turn of at most 5 would need 29 positions."""
    dialogues = hold(speaker(context=28), Asker(max_turns=9), 2, max_turn_tokens=5)
    for dialogue in dialogues:
        assert "ContextError: 24 tokens of conversation leave no room for a turn of 5" in dialogue.failure
        assert "context of 28" in dialogue.failure and "\n" not in dialogue.failure
        assert dialogue.assistant_turns == 2 and len(dialogue.ids) <= 28 and dialogue.outcome == 0.0
    assert not collate(dialogues, 2, pad_id=0).kept.any()
    (fits,) = hold(speaker(context=28), Asker(max_turns=2), max_turn_tokens=5)
    assert fits.failure is None and fits.outcome == 1.0
    # So is one whose opening is too long already, beside others that go on.
    backbone, chat = speaker(context=28)
    histories = [[Message("user", "how many ? " * count)] for count in (1, 20, 2)]
    with backbone.use(None):
        rngs = [random.Random(0)] * 3
        hear = partial(rollout, backbone, chat, Asker(1), [None] * 3, rngs, torch.Generator())
        held = hear(Sampling(5, greedy=True), histories=histories)
    assert [dialogue.failure is None for dialogue in held] == [True, False, True]
    assert [dialogue.assistant_turns for dialogue in held] == [1, 0, 1]
    assert collate(held, 1, pad_id=0).kept.tolist() == [True, False, True]


def test_users_and_answers_that_do_not_fit_are_errors(speaker):
    backbone, chat = speaker(context=28)
    short, long = ([Message("user", "how many ? " * count)] for count in (1, 20))
    base = FrozenBaseModel(backbone, chat, Sampling(5, greedy=True))
    good, bad = base.ask([short, long], [0, 1], str)
    assert good == "30 ." and isinstance(bad, EndpointError) and "context of 28" in str(bad)
    with backbone.use(None), pytest.raises(ContextError, match="leave no room for a turn of 5"):
        take_turns(backbone, chat, [short, long], [torch.Generator()] * 2, Sampling(5))


def learner(context, store, template=None):
    task = get_task("math")
    tokenizer = build_tokenizer(task.words)
    tokenizer.chat_template = template or tokenizer.chat_template
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), **SIZE, max_position_embeddings=context)
    return Learner(
        RunConfig(Method("trajectory_share"), seed=0, steps=1), LlamaForCausalLM(config), tokenizer, store
    )


def test_a_context_too_short_for_the_task_is_refused_and_one_that_was_outgrown_counted(tmp_path, unchecked):
    with pytest.raises(
        ContextError, match="no room for a turn of 24 in the model's context of 32: use a model"
    ):
        learner(32, tmp_path)
    with pytest.raises(DialoguesLost, match="outgrew the context, at last because: ContextError: .* of 64"):
        learner(64, tmp_path).collect("stream", 2, 2, None)
    enough = learner(512, tmp_path)
    assert enough.losses_since(enough.skipped, failures=2) == {"lost": 2.0}
    assert enough.losses_since(enough.skipped, failures=0) == {}
    assert not [d for d in enough.collect("stream", 2, 2, None)[0] if d.failure]


def test_a_run_says_where_its_models_template_treats_earlier_turns_otherwise(tmp_path, unchecked):
    template = build_tokenizer([]).chat_template.replace(
        "<|assistant|>{% endif", "<|assistant|> <think>{% endif"
    )
    with pytest.warns(
        UserWarning, match="this model: the template opens a turn by .*<think>.* earlier turns keep"
    ):
        assert len(learner(512, tmp_path, template).chat.departures) == 1
