"""A 4-bit base as an ordinary folder, for engines that load weights of their own."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM


def dequantise(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Write a model that was loaded in 4 bits with the very weights that its layers multiply by, each in 16 or 32 bits.

    An engine that loads the original instead would sample from another distribution than the one that is trained. Returns
    ``folder``. Raises ``ValueError`` for a model without 4-bit layers: it is loaded from its own folder.

    >>> import torch
    >>> dequantise(torch.nn.Linear(2, 2), None, Path("nowhere"))
    Traceback (most recent call last):
        ...
    ValueError: Linear has no 4-bit layer: load it from its own folder
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    quantised = {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear4bit)}
    if not quantised:
        raise ValueError(f"{type(model).__name__} has no 4-bit layer: load it from its own folder")
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name, layer in quantised.items():
        weight: Any = layer.weight
        tensors[f"{name}.weight"] = dequantize_4bit(weight.data, weight.quant_state)
    config = deepcopy(model.config)
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    for name, parameter in plain.named_parameters():
        parameter.data.copy_(tensors[name])
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
