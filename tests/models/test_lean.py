"""The lean path computes what the Hugging Face path computes, from the same files, and takes no other architecture."""

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import shake
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from itpo.chat import ChatFormat
from itpo.chat_template import Message, Tokenizer
from itpo.models.backbone import Backbone
from itpo.models.lean import LeanModel
from itpo.models.lean_weights import read_base
from itpo.models.loading import adapted, load_model
from itpo.models.tiny import load, scripted_dialogue
from itpo.models.words import Words
from itpo.rollout.engine import TurnEngine
from itpo.rollout.sampler import Sampling, rollout
from itpo.specs import Adapter, TinyLM
from itpo.tasks.registry import get_task

NAMES, HEADS, ADAPTER = ("policy", "prm", "critic"), {"critic": 2}, Adapter(rank=4, alpha=12)
# float32 rounds at 1e-7 of each number, and logits are sums of some dozens.
ROUNDING = {torch.float32: {"atol": 2e-5, "rtol": 1e-4}, torch.float64: {"atol": 1e-11, "rtol": 1e-9}}
DTYPES = pytest.mark.parametrize("dtype", ROUNDING)
Pair = tuple[Backbone, LeanModel]


def norm_as_given(norm: LlamaRMSNorm, x: Tensor) -> Tensor:
    """The norm of transformers, which computes in float32 whatever it is given, in the precision of its input."""
    return norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)


@pytest.fixture
def make_pair(tiny_folder: Path) -> Callable[..., Pair]:
    """Builds both on the same weights, with adapters moved alike."""

    def make(dtype: torch.dtype = torch.float32, **options: Any) -> Pair:
        model = load(tiny_folder, dtype)[0]
        for norm in (m for m in model.modules() if isinstance(m, LlamaRMSNorm)):
            norm.forward = partial(norm_as_given, norm)
        theirs = Backbone(model, NAMES, ADAPTER, heads=HEADS, **options)
        ours = LeanModel(read_base(tiny_folder, dtype), NAMES, ADAPTER, heads=HEADS, **options)
        for number, name in enumerate(NAMES):
            for backbone in (theirs, ours):
                shake(backbone, name, seed=number)
        return theirs, ours

    return make


def ragged(rows: int = 5, width: int = 23, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random tokens, right-padded, of which some are responses; the second row has none."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (rows, width), generator=generator)
    lengths = torch.randint(width // 2, width + 1, (rows, 1), generator=generator)
    inside = torch.arange(width) < lengths
    mask = (torch.rand(ids.shape, generator=generator) < 0.5) & inside
    mask[:, 0] = False
    mask[1:2] = False
    return ids.masked_fill(~inside, 0), mask


def compare(theirs: Any, ours: Any, dtype: torch.dtype) -> None:
    for expected, actual in zip(theirs, ours, strict=True):
        torch.testing.assert_close(actual, expected, **ROUNDING[dtype])


@DTYPES
@pytest.mark.parametrize("options", [{}, {"head_chunk": 7}])
@pytest.mark.parametrize("name", [None, *NAMES])
def test_log_probabilities_and_entropies_are_those_of_the_backbone(make_pair, dtype, name, options):
    theirs, ours = make_pair(dtype, **options)
    ids, mask = ragged()
    with theirs.use(name), ours.use(name):
        stats = theirs.token_stats(ids, mask)
        compare(stats, ours.token_stats(ids, mask), dtype)
        with torch.no_grad():
            compare(stats, ours.token_stats(ids, mask), dtype)
    assert (stats[0] < 0).equal(mask)
    assert ours.active is None


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_backbone_and_reach_one_adapter_alone(make_pair, dtype, name):
    pair, (ids, mask) = make_pair(dtype), ragged()
    weights = torch.rand(mask.shape, generator=torch.Generator().manual_seed(1))
    for backbone in pair:
        with backbone.use(name):
            logp, entropy = backbone.token_stats(ids, mask)
            loss = (weights * logp - weights.square() * entropy).sum()
            if name in HEADS:
                loss = loss + (weights * backbone.token_values(ids, mask)).sum()
        loss.backward()
    theirs, ours = (backbone.parameters(name) for backbone in pair)
    assert list(theirs) == list(ours)
    for key, parameter in ours.items():
        scale = theirs[key].grad.abs().max().item()
        assert scale > 0
        # Adapters this large multiply rounding; that it is no more than rounding, float64 shows.
        tolerance = 5e-4 if dtype == torch.float32 else 1e-5 if "value_head" in key else 1e-12
        torch.testing.assert_close(parameter.grad, theirs[key].grad, atol=tolerance * scale, rtol=1e-4)
    others = [p for other in NAMES if other != name for p in pair[1].parameters(other).values()]
    assert all(p.grad is None for p in [*others, *pair[1].head().parameters()])


@DTYPES
def test_values_are_those_of_the_backbone(make_pair, dtype):
    theirs, ours = make_pair(dtype)
    ids, mask = ragged()
    with theirs.use("critic"), ours.use("critic"):
        values = theirs.token_values(ids, mask)
        # Value heads are in float32 on either path.
        torch.testing.assert_close(ours.token_values(ids, mask), values, atol=2e-5, rtol=1e-4)
    assert values.shape == (2, *mask.shape) and values.abs().max() > 0.01
    with ours.use("policy"), pytest.raises(ValueError, match="adapter 'policy' has no value head"):
        ours.token_values(ids, mask)


@pytest.mark.parametrize(("rows", "width"), [(1, 2), (1, 9), (2, 3), (0, 4)])
@pytest.mark.parametrize("silent", [False, True])
def test_small_and_empty_batches(make_pair, rows, width, silent):
    theirs, ours = make_pair()
    ids, mask = ragged(rows, width)
    mask = torch.zeros_like(mask) if silent else mask
    with ours.use("policy"), theirs.use("policy"):
        stats = ours.token_stats(ids, mask)
        if rows:  # transformers takes no batch without rows
            compare(theirs.token_stats(ids, mask), stats, torch.float32)
        assert all(part.shape == mask.shape for part in stats)
        stats[0].sum().backward()


def test_a_response_without_context_is_refused(make_pair):
    _, ours = make_pair()
    with pytest.raises(ValueError, match="a response token at position 0 has no context"):
        ours.token_stats(torch.tensor([[5, 6]]), torch.tensor([[True, True]]))
    with pytest.raises(ValueError, match="unknown adapter 'none'"), ours.use("none"):
        pass


@DTYPES
def test_the_decoder_says_what_the_backbone_says_however_rows_pause_and_leave(make_pair, dtype):
    theirs, ours = make_pair(dtype)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad(), theirs.use("prm"), ours.use("prm"):
        pair, rows = (theirs.decoder(4), ours.decoder(4)), 4
        for call in range(90):  # past the places of a fresh cache
            width = (7, 1, 1, 3)[call % 4] if call < 40 else 1
            ids = torch.randint(5, 60, (rows, width), generator=generator)
            lengths = torch.randint(0 if call else 1, width + 1, (rows, 1), generator=generator)
            mask = torch.arange(width) >= width - lengths
            theirs_say, ours_say = (decoder.append(ids, mask)[mask[:, -1]] for decoder in pair)
            torch.testing.assert_close(ours_say, theirs_say, atol=3e-5, rtol=1e-4)  # logits are in float32
            if call in (25, 60):
                for decoder in pair:
                    decoder.keep([0, 2] if rows == 3 else [0, 1, 3])
                rows -= 1


@pytest.mark.parametrize("greedy", [False, True])
def test_conversations_are_the_same_token_for_token(make_pair, tiny_folder, greedy):
    task, said = get_task("math"), []
    for backbone, tokenizer in zip(make_pair(), (load(tiny_folder)[1], Words(tiny_folder)), strict=True):
        examples = [task.sample(random.Random(i)) for i in range(8)]
        users, generator = [random.Random(i) for i in range(8)], torch.Generator().manual_seed(0)
        with backbone.use("prm"):
            said.append(
                rollout(
                    backbone,
                    ChatFormat(tokenizer),
                    task,
                    examples,
                    users,
                    generator,
                    Sampling(greedy=greedy, max_rows=5),
                    engine=TurnEngine(backbone),
                )
            )
    for theirs, ours in zip(*said, strict=True):
        assert (theirs.ids, theirs.messages, theirs.outcome) == (ours.ids, ours.messages, ours.outcome)
        torch.testing.assert_close(
            *map(torch.tensor, (ours.sampled_logp, theirs.sampled_logp)), atol=3e-5, rtol=0
        )


def test_merged_weights_are_the_adapted_ones_and_carry_gradients(make_pair):
    _, ours = make_pair()
    plain = ours.merged()
    with ours.use("policy"):
        moved = ours.merged()
        with torch.no_grad():
            assert not ours.merged()[0].qkv.requires_grad
    assert all(not m.requires_grad for layer in plain for m in layer)
    assert all(m.requires_grad for layer in moved for m in layer)
    assert all(
        not torch.equal(a, b) for pair in zip(plain, moved, strict=True) for a, b in zip(*pair, strict=True)
    )


# Adapters: how they begin, and their files


def test_adapters_begin_as_peft_begins_them_and_leave_the_global_generator_alone(tiny_folder):
    theirs = Backbone(load(tiny_folder)[0], NAMES, ADAPTER, seed=5, heads=HEADS)
    before = torch.get_rng_state()
    ours = LeanModel(read_base(tiny_folder), NAMES, ADAPTER, seed=5, heads=HEADS)
    assert torch.equal(torch.get_rng_state(), before)
    for name in NAMES:
        pairs = zip(theirs.parameters(name).items(), ours.parameters(name).items(), strict=True)
        for (key, expected), (own, actual) in pairs:
            assert key == own and torch.equal(actual, expected) and actual.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_either_reads_what_the_other_wrote_and_the_files_are_the_same(make_pair, tiny_folder, tmp_path, name):
    pair, fresh = make_pair(), []
    for number, backbone in enumerate(pair):
        backbone.save_adapter(name, tmp_path / str(number))
        fresh.append(
            adapted(load(tiny_folder)[0] if number else read_base(tiny_folder), NAMES, ADAPTER, 0, HEADS)
        )
        fresh[-1].load_adapter(name, tmp_path / str(number))
        for key, parameter in fresh[-1].parameters(name).items():
            assert torch.equal(parameter, pair[0].parameters(name)[key])
    files = [{p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "01"]
    assert files[0].keys() == files[1].keys()
    weights = [key for key in files[0] if key.endswith(".safetensors")]
    assert len(weights) == 1 + (name in HEADS)
    assert all(files[0][key] == files[1][key] for key in weights)


def test_plain_peft_reads_an_adapter_of_the_lean_model(make_pair, tiny_folder, tmp_path):
    _, ours = make_pair()
    ours.save_adapter("policy", tmp_path)
    model = PeftModel.from_pretrained(load(tiny_folder)[0], str(tmp_path)).eval()
    assert model.active_peft_config.base_model_name_or_path == tiny_folder.name
    ids = ragged()[0]
    logp = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    everything = torch.ones_like(ids, dtype=torch.bool)
    everything[:, 0] = False
    with ours.use("policy"):
        torch.testing.assert_close(ours.token_stats(ids, everything)[0][:, 1:], logp, atol=2e-5, rtol=0)


def test_adapters_that_do_not_fit_are_refused(make_pair, tiny_folder, tmp_path):
    _, ours = make_pair()
    ours.save_adapter("critic", tmp_path)
    with pytest.raises(FileNotFoundError, match="expected adapter_model.safetensors"):
        ours.load_adapter("critic", tmp_path / "nowhere")
    other = LeanModel(read_base(tiny_folder), NAMES, Adapter(rank=2), heads=HEADS)
    with pytest.raises(ValueError, match=r"not one of this base and rank: \S+ is \(\d+, \d+\) there and"):
        other.load_adapter("critic", tmp_path)
    (tmp_path / "value_head.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="expected value_head.safetensors"):
        ours.load_adapter("critic", tmp_path)


# What is no embedded model


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    """A copy whose files may be changed."""
    for path in tiny_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architectures", ["MistralForCausalLM"]),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("tie_word_embeddings", False),
        ("num_key_value_heads", 2),
        ("head_dim", 4),
        ("rope_parameters", {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0}),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
        ("rope_parameters", None),
        ("quantization_config", {"load_in_4bit": True}),
        ("rms_norm_eps", None),
        ("num_hidden_layers", None),
        ("num_attention_heads", "four"),
    ],
)
def test_another_architecture_never_takes_the_lean_path(folder, key, value):
    config = json.loads((folder / "config.json").read_text())
    assert config.get(key) != value
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ValueError, match=rf"not of the embedded architecture \({key} is .*load_base$"):
        read_base(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda w: w.update({"lm_head.weight": torch.ones(3)}), r"lm_head.weight is \(3,\), not part of it"),
        (
            lambda w: w.update({"model.layers.0.mlp.up_proj.weight": torch.ones(2, 2)}),
            r"up_proj.weight is \(2, 2\), not \(96, 32\)",
        ),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(folder, change, message):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"do not fit its config.json: .*{message}"):
        read_base(folder)


def test_a_folder_without_model_or_tokenizer_is_named(folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(FileNotFoundError, match="expected chat_template.jinja"):
        load_model(TinyLM(), folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="expected config.json"):
        load_model(TinyLM(), folder)


# Words


def test_words_are_the_ids_of_the_tokenizer(tiny_folder):
    theirs, ours, task = AutoTokenizer.from_pretrained(tiny_folder), Words(tiny_folder), get_task("math")
    assert isinstance(ours, Tokenizer)
    for name in ("eos_token_id", "pad_token_id", "all_special_tokens", "chat_template"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.get_added_vocab() == theirs.get_added_vocab() and len(ours) == len(theirs)
    texts = [
        *task.words,
        " ".join(task.words),
        "",
        " a \n\n b ",
        "<|end|><|user|>how <|unk|>",
        "nobody",
        "\x02",
    ]
    for text in texts:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours(text, add_special_tokens=False)["input_ids"] == ids
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    for prompt in (False, True):
        said = [{"role": role, "content": f"{role} ?"} for role in ("user", "assistant", "user")]
        options = {"tokenize": False, "add_generation_prompt": prompt}
        assert ours.apply_chat_template(said, **options) == theirs.apply_chat_template(said, **options)


def test_conversations_are_encoded_alike(tiny_folder):
    theirs, ours = (ChatFormat(t) for t in (AutoTokenizer.from_pretrained(tiny_folder), Words(tiny_folder)))
    assert (theirs.end_ids, theirs.pad_id, theirs.departures) == (ours.end_ids, ours.pad_id, ours.departures)
    task = get_task("math")
    for seed in range(30):
        messages = scripted_dialogue(task, task.noisy_expert, random.Random(seed))[1]
        assert ours.encode(messages) == theirs.encode(messages)
    assert ours.encode([Message("user", "say <|end|> now")]) == theirs.encode(
        [Message("user", "say <|end|> now")]
    )
