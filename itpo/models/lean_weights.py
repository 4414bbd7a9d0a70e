"""The frozen weights of an embedded tiny model, read from its folder without transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Complex, Float, Int64
from safetensors.torch import load_file
from torch import Tensor

# What the code of the embedded architecture takes for granted.
_FIXED = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
}
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


class Layer(NamedTuple):
    """The matrices of one layer, those with the same input in one tensor, and the weights of its two norms."""

    qkv: Float[Tensor, "3 H H"]
    out: Float[Tensor, "1 H H"]
    gate_up: Float[Tensor, "2 F H"]
    down: Float[Tensor, "1 H F"]
    input_norm: Float[Tensor, " H"]
    post_norm: Float[Tensor, " H"]


@dataclass(frozen=True)
class LeanBase:
    """An embedded model as :func:`read_base` finds it: a Llama with tied embeddings, without biases or grouped queries."""

    folder: Path
    heads: int
    context: int  # positions that it was made for
    eps: float  # of the norms
    theta: float  # of the rotary embedding
    embedding: Float[Tensor, "V H"]  # which makes logits of states, too
    final_norm: Float[Tensor, " H"]
    layers: tuple[Layer, ...]

    @property
    def head_dim(self) -> int:
        """Numbers of one head's query, key or value."""
        return self.embedding.shape[1] // self.heads

    @cached_property
    def pairs(self) -> Int64[Tensor, " H"]:
        """The order that puts the two numbers of a query or key that are turned together side by side."""
        within = torch.arange(self.head_dim).view(2, -1).T.reshape(-1)
        return (torch.arange(self.heads)[:, None] * self.head_dim + within).reshape(-1)

    def rotary(self, positions: Int64[Tensor, "*P"]) -> Complex[Tensor, "*P half"]:
        """What multiplies pair n of a query or key at position p: exp(i p / theta^(2n / head_dim))."""
        exponents = torch.arange(0, self.head_dim, 2, device=positions.device).float() / self.head_dim
        angles = positions[..., None].float() * (1.0 / self.theta**exponents)
        return torch.complex(angles.cos(), angles.sin()).to(self.embedding.dtype.to_complex())


def read_base(folder: Path | str, dtype: torch.dtype = torch.float32) -> LeanBase:
    """The weights of a model of the embedded architecture, such as :mod:`itpo.models.tiny` trains.

    Raises ``FileNotFoundError`` without a model in ``folder``, and ``ValueError`` for one of another architecture. See
    :class:`itpo.models.lean.LeanModel` for an example.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"no model in {folder}: expected config.json, model.safetensors and tokenizer.json"
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _check_config(config, folder)
    tensors = load_file(folder / "model.safetensors")
    _check_tensors(tensors, config, folder)
    weights = {key.removeprefix("model."): tensor.to(dtype) for key, tensor in tensors.items()}
    base = LeanBase(
        folder,
        config["num_attention_heads"],
        config["max_position_embeddings"],
        config["rms_norm_eps"],
        config["rope_parameters"]["rope_theta"],
        weights["embed_tokens.weight"],
        weights["norm.weight"],
        (),
    )
    layers = (_layer(weights, number, base.pairs) for number in range(config["num_hidden_layers"]))
    return replace(base, layers=tuple(layers))


def _layer(weights: Mapping[str, Tensor], number: int, pairs: Tensor) -> Layer:
    """The weights of one layer, queries and keys in pairs."""

    def stacked(*names: str) -> Tensor:
        return torch.stack([weights[f"layers.{number}.{name}.weight"] for name in names])

    queries_keys = stacked("self_attn.q_proj", "self_attn.k_proj")[:, pairs]
    return Layer(
        torch.cat([queries_keys, stacked("self_attn.v_proj")]),
        stacked("self_attn.o_proj"),
        stacked("mlp.gate_proj", "mlp.up_proj"),
        stacked("mlp.down_proj"),
        weights[f"layers.{number}.input_layernorm.weight"],
        weights[f"layers.{number}.post_attention_layernorm.weight"],
    )


def _check_config(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse what this code would compute wrongly."""
    numbers = (*_SIZES, "max_position_embeddings", "rms_norm_eps")
    found = {key: config.get(key) for key in numbers if not isinstance(config.get(key), int | float)}
    wanted = _FIXED | {"num_key_value_heads": config.get("num_attention_heads")}
    found |= {key: config.get(key) for key in wanted}
    if config.get("head_dim") not in (None, _head_dim(config)):
        found["head_dim"] = config["head_dim"]
    rotary = config.get("rope_parameters") or {}
    if rotary.get("rope_type") != "default" or rotary.keys() != {"rope_type", "rope_theta"}:
        found["rope_parameters"] = rotary
    if "quantization_config" in config:
        found["quantization_config"] = config["quantization_config"]
    wrong = [f"{key} is {value!r}" for key, value in found.items() if wanted.get(key, ...) != value]
    if wrong:
        raise ValueError(
            f"the model in {folder} is not of the embedded architecture ({wrong[0]}): load it by "
            "itpo.models.loading.load_base"
        )


def _head_dim(config: Mapping[str, Any]) -> int | None:
    try:
        return config["hidden_size"] // config["num_attention_heads"]
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def _check_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path) -> None:
    """Refuse weights that are missing, left over or of another shape than the config says."""
    hidden, inner, layers, _, words = (config[key] for key in _SIZES)
    wanted: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (words, hidden),
        "model.norm.weight": (hidden,),
    }
    square, wide = (hidden, hidden), (inner, hidden)
    shapes: dict[str, tuple[int, ...]] = {f"self_attn.{name}_proj": square for name in "qkvo"}
    shapes |= {"mlp.gate_proj": wide, "mlp.up_proj": wide, "mlp.down_proj": (hidden, inner)}
    shapes |= {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    for number in range(layers):
        wanted |= {f"model.layers.{number}.{name}.weight": shape for name, shape in shapes.items()}
    for key in sorted(wanted.keys() | tensors.keys()):
        found = tuple(tensors[key].shape) if key in tensors else "missing"
        if found != wanted.get(key, "no part of it"):
            raise ValueError(
                f"the weights in {folder} do not fit its config.json: {key} is {found}, not {wanted.get(key, 'part of it')}"
            )
