"""What a config says, what its kind of model says where it is silent, and what is refused by name."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from itpo.models.memory import Settings, Work, budget
from itpo.models.shapes import GIB, CannotPlan, Shape, find_shape

# As published: a text model within, of which most numbers are left to the defaults of its kind.
GEMMA_3_4B = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 896,
        "patch_size": 14,
    },
}
QWEN3_30B_A3B = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
}


def test_the_language_model_within_a_config_is_read():
    shape = Shape.of(GEMMA_3_4B)
    assert (shape.hidden, shape.layers, shape.heads, shape.kv_heads) == (2560, 34, 8, 4)
    assert (shape.head_size, shape.vocabulary, shape.tied) == (256, 262208, True)
    with torch.device("meta"):  # the real class, without numbers in it
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**GEMMA_3_4B))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert shape.weights + shape.embeddings + shape.beside == pytest.approx(count, rel=0.01)
    # 3.6 billion in 4 bits, and the embeddings of 262208 words in 16.
    assert budget(shape, Work(), Settings(5120, 512, 8, 1024)).held["base"] / GIB == pytest.approx(
        2.99, abs=0.02
    )


def test_a_mixture_of_experts_is_refused_by_name(tmp_path):
    """Read as one dense layer it was planned to take 2.5 GiB."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_30B_A3B))
    with pytest.raises(
        CannotPlan, match=rf"{tmp_path} is a mixture of 128 experts a layer.*54\.0 GiB \(13\.9 in 4"
    ):
        find_shape(str(tmp_path))
    with torch.device("meta"):
        (tmp_path / "config.json").write_text(json.dumps(QWEN3_30B_A3B | {"num_hidden_layers": 1}))
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    # NF4 is for linear layers: these experts are none.
    experts = [p.numel() for name, p in model.named_parameters() if "experts" in name]
    assert sum(experts) == 3 * 128 * 768 * 2048
    assert not [m for n, m in model.named_modules() if "experts" in n and isinstance(m, torch.nn.Linear)]


@pytest.mark.parametrize("kind", ["mamba2", "falcon_h1", "qwen3_5"])
def test_layers_without_keys_and_values_are_refused_by_name(kind):
    with pytest.raises(CannotPlan, match="MINE has layers of .*, whose states cannot be planned"):
        Shape.of({"model_type": kind}, "MINE")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "the config has no hidden_size, intermediate_size"),
        ({"hidden_size": True}, "the config has no hidden_size"),
        ({"model_type": "gpt2"}, "only decoders like Llama or Qwen can be planned"),
        ({"model_type": "mistral", "hidden_size": "wide"}, "the config is none of 'mistral': .*hidden_size"),
    ],
)
def test_other_configs_are_refused_in_a_line(config, message):
    with pytest.raises(ValueError, match=message) as refused:
        Shape.of(config)
    assert "\n" not in str(refused.value)
