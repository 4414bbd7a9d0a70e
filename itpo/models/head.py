"""From hidden states to logits by a model's own forward pass, without its layers.

Between the two stands more than a matrix: Granite divides logits, Cohere multiplies them, Gemma 2 caps them, others scale the
states. So a copy of the model that shares its weights is run, with the layers replaced by a part that hands given states on.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel


def find_base(model: Any) -> tuple[str, Any]:
    """The part of a causal LM that makes hidden states, and the name that the model has for it.

    Raises ``ValueError`` where there is no such part.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=1))
    >>> name, base = find_base(model)
    >>> name, base is model.transformer
    ('transformer', True)
    """
    parts = {name: part for name, part in model.named_children() if isinstance(part, PreTrainedModel)}
    name = (
        model.base_model_prefix if model.base_model_prefix in parts or len(parts) != 1 else next(iter(parts))
    )
    if name not in parts:
        raise ValueError(
            f"{type(model).__name__} has no part of its own that makes hidden states: use a causal LM of another architecture"
        )
    return name, parts[name]


class Head(nn.Module):
    """What a causal LM of transformers makes of last hidden states; it owns no parameters.

    >>> import torch
    >>> from transformers import GraniteConfig, GraniteForCausalLM
    >>> size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> model = GraniteForCausalLM(GraniteConfig(vocab_size=10, logits_scaling=8.0, **size))
    >>> states = torch.randn(3, 8)
    >>> torch.allclose(Head(model)(states), model.lm_head(states) / 8)
    True
    """

    shell: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        shell = copy(model)
        shell._modules = dict(model._modules)
        name, base = find_base(model)
        shell._modules[name] = _Given(base)
        object.__setattr__(self, "shell", shell)  # no part of this module: its weights are the model's

    def forward(self, states: Float[Tensor, "N H"]) -> Float[Tensor, "N V"]:
        """The logits of N states."""
        return self.shell(inputs_embeds=states[None], use_cache=False).logits[0]


class _Given(nn.Module):
    """In the place of a model's layers: hands its input on, and has their constants."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "base", base)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.base, name)
        return self if isinstance(value, nn.Module) else value  # some models call a part of their layers

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> _States:
        """States in, states out."""
        return _States(inputs_embeds)


class _States:
    """What layers return, with nothing but the states."""

    def __init__(self, states: Tensor) -> None:
        self.last_hidden_state = states

    def __getitem__(self, place: Any) -> Any:
        return (self.last_hidden_state,)[place]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None
