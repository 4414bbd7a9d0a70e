"""The tiny model: its tokenizer, its scripted dialogues, and what it learns by imitation."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from itpo.chat import ChatFormat
from itpo.models.tiny import build_tokenizer, load, pretrain_by_imitation, scripted_dialogue
from itpo.specs import TinyLM
from itpo.tasks.registry import get_task
from itpo.tasks.slots import PolicyParams

EXPERT, NOISY_EXPERT = get_task("math").expert, get_task("math").noisy_expert
MINIATURE = TinyLM(hidden_size=16, layers=1, heads=2, steps=4, dialogues_per_step=4)


def losses(model, chat, count=40):
    """Mean negative log-likelihood (nats) of fresh dialogues' assistant tokens and of their other tokens."""
    rng = random.Random("held out")
    sums = {True: [], False: []}
    for _ in range(count):
        ids, mask = chat.encode(scripted_dialogue(get_task("math"), NOISY_EXPERT, rng)[1])
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        for t in range(1, len(ids)):
            sums[mask[t]].append(-logp[t - 1, ids[t]].item())
    return tuple(sum(values) / len(values) for values in (sums[True], sums[False]))


def test_pretraining_imitates_the_scripted_policy_and_not_the_user(tiny_folder):
    model, tokenizer = load(tiny_folder)
    policy, user = losses(model, ChatFormat(tokenizer))
    uniform = torch.tensor(float(len(tokenizer))).log().item()
    assert policy < 0.5 * uniform
    # Nothing teaches the user's words: a loss that forgot its mask would.
    assert user > 0.9 * uniform


def test_the_folder_is_an_ordinary_one(tiny_folder):
    model, tokenizer = load(tiny_folder)
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder)
    same = AutoTokenizer.from_pretrained(tiny_folder)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert tokenizer.chat_template == same.chat_template == build_tokenizer([]).chat_template
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert {p.dtype for p in load(tiny_folder, torch.float64)[0].parameters()} == {torch.float64}


def test_arguments_decide_the_tiny_model_bit_for_bit(tmp_path):
    task, state = get_task("math"), torch.get_rng_state()

    def weights(name, spec=MINIATURE, params=NOISY_EXPERT):
        torch.manual_seed(random.Random(name).randrange(100))  # the global generator must not matter
        return (pretrain_by_imitation(task, params, spec, tmp_path / name) / "model.safetensors").read_bytes()

    one = weights("one")
    assert weights("same") == one
    assert weights("seed", TinyLM(**{**vars(MINIATURE), "seed": 1})) != one
    assert weights("params", params=EXPERT) != one
    torch.set_rng_state(state)
    pretrain_by_imitation(task, NOISY_EXPERT, MINIATURE, tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no model in {tmp_path}: expected config.json"):
        load(tmp_path)


def test_the_tokenizer_has_a_token_for_each_word():
    words = ["how", "many", "?", "7"]
    tokenizer = build_tokenizer(words)
    assert len(tokenizer) == 5 + len(words)
    assert tokenizer("how many 7 ? how", add_special_tokens=False)["input_ids"] == [5, 6, 8, 7, 5]
    assert tokenizer("unheard how")["input_ids"] == [tokenizer.unk_token_id, 5]
    specials = ["<|pad|>", "<|end|>", "<|unk|>", "<|user|>", "<|assistant|>"]
    assert tokenizer.convert_ids_to_tokens(range(5)) == specials


@pytest.mark.parametrize("params", [EXPERT, NOISY_EXPERT, PolicyParams(0.0, 0.0, 0.3, 0.5, 0.5)])
def test_scripted_dialogues_take_turns(params):
    task = get_task("math")
    for seed in range(60):
        example, messages, outcome = scripted_dialogue(task, params, random.Random(seed))
        roles = [m.role for m in messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and 1 <= len(roles) // 2 <= task.max_turns
        assert outcome == task.score(example, messages)
        ended = task.reply(example, messages, random.Random(0)) is None
        assert ended or len(roles) // 2 == task.max_turns
        assert scripted_dialogue(task, params, random.Random(seed)) == (example, messages, outcome)
