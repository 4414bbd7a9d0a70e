"""One frozen base model, in full precision or in 4 bits, that carries every trainable part as a LoRA adapter.

The reference is the base without adapters; the policy, the process reward model (PRM) and the critic, which has a linear head
for its values too, are adapters on it, so one set of weights serves all. Switching writes two attributes a layer and never
touches ``requires_grad``: peft's own ``set_adapter`` and ``disable_adapter`` do, which is how a frozen adapter comes back
trainable or a backward pass loses its gradients.

Tokens come in and numbers go out on the caller's device, a CPU as a rule; the model may be on another.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear as linear_function
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from itpo.models.adapters import AdaptedModel
from itpo.models.cache import decoder_for
from itpo.models.decoding import Decoder
from itpo.models.head import Head, find_base
from itpo.specs import Adapter

_NARROW = 8  # a narrow layer's shorter side, in ranks of its adapter
_FUSED = {"mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"}


class Backbone(AdaptedModel):
    """A frozen causal LM with named adapters, of which at most one is active at a time.

    Outside :meth:`use` no adapter is active and the model is the reference. ``heads`` gives an adapter a linear value head
    with that many outputs a token; it starts at 0. ``head_chunk`` positions have logits at a time, see
    :mod:`itpo.models.token_stats`. With ``checkpointing``, decoder layers keep only their inputs and are computed again for the
    backward pass.

    Raises ``ValueError``, which names the architecture, when the model cannot be decoded step by step, has no linear layer to
    adapt, or none that can be checkpointed. Whether it is computed rightly is for :mod:`itpo.models.probe` to say.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> backbone = Backbone(LlamaForCausalLM(LlamaConfig(vocab_size=10, **size)), ["policy", "prm"], Adapter(rank=2))
    >>> with backbone.use("policy"):
    ...     logp, entropy = backbone.token_stats(torch.tensor([[1, 2, 3]]), torch.tensor([[False, True, True]]))
    >>> logp.shape, backbone.active
    (torch.Size([1, 3]), None)
    """

    def __init__(
        self,
        model: Any,
        names: Sequence[str],
        adapter: Adapter,
        seed: int = 0,
        heads: Mapping[str, int] | None = None,
        head_chunk: int = 2048,
        checkpointing: bool = False,
    ) -> None:
        self._decoder = decoder_for(model)
        _check_linear(model)
        self._checkpointed = _prepare_checkpoints(model) if checkpointing else []
        model.requires_grad_(False)
        config = LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,
            target_modules="all-linear",
            exclude_modules=_excluded(model),
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(), warnings.catch_warnings():
            # peft asks transformers for a property by its old name
            warnings.simplefilter("ignore", FutureWarning)
            torch.manual_seed(seed)
            try:
                self.peft_model = get_peft_model(model, config, adapter_name=names[0])
            except ValueError as error:
                raise ValueError(
                    f"LoRA cannot adapt the linear layers of {type(model).__name__}: use a model of another architecture"
                ) from error
            for name in names[1:]:
                self.peft_model.add_adapter(name, config)
        self.model = self.peft_model.get_base_model().eval()
        self.names, self.head_chunk = tuple(names), head_chunk
        self.device = next(self.model.parameters()).device
        self.full_precision = self.model.dtype in (torch.float32, torch.float64)
        self._base, self._head = find_base(self.model)[1], Head(self.model)
        self._layers = [m for m in self.model.modules() if isinstance(m, LoraLayer)]
        for layer in filter(_is_narrow, self._layers):
            layer.forward = partial(_folded_forward, layer)
        self._heads = {
            name: nn.Linear(self.model.config.get_text_config().hidden_size, outputs, device=self.device)
            for name, outputs in (heads or {}).items()
        }
        for value_head in self._heads.values():
            nn.init.zeros_(value_head.weight)
            nn.init.zeros_(value_head.bias)
        for name in names:
            for parameter in self.parameters(name).values():
                parameter.requires_grad_(True)
        self._activate(None)

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The adapter's own parameters by their full name, those of its value head included."""
        self._check(name)
        own = {key: p for key, p in self.model.named_parameters() if f".{name}." in key}
        if name in self._heads:
            own |= {f"value_head.{key}": p for key, p in self._heads[name].named_parameters()}
        return own

    def frozen(self) -> list[Tensor]:
        """The weights of the base, which all adapters share."""
        return [parameter for parameter in self.model.parameters() if not parameter.requires_grad]

    def _activate(self, name: str | None) -> None:
        for layer in self._layers:
            layer._disable_adapters = name is None
            if name is not None:
                layer._active_adapter = [name]
        self.active = name

    def states(
        self, input_ids: Int64[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "N H"]:
        """Last hidden states at the N positions that predict a response token, row by row; on the model's device.

        Rows are right-padded, so causal attention alone keeps padding out and no attention mask is needed. Raises
        ``ValueError`` if a row's first token is a response token: nothing predicts it.
        """
        if bool(response_mask[:, 0].any()):
            raise ValueError(
                "a response token at position 0 has no context: begin each row with a prompt token"
            )
        # Layers that are in training mode themselves are checkpointed, and would lose their cache in a rollout.
        for layer in self._checkpointed:
            layer.training = torch.is_grad_enabled()
        try:
            hidden = self._base(input_ids=input_ids, use_cache=False).last_hidden_state
        finally:
            for layer in self._checkpointed:
                layer.training = False
        return hidden[:, :-1][response_mask[:, 1:]]

    def head(self) -> Head:
        """What the model's own forward pass makes of last hidden states."""
        return self._head

    def decoder(self, rows: int) -> Decoder:
        """An empty cache for decoding that many rows under the active adapter."""
        return self._decoder(self.model, self._head, rows)

    def _write_config(self, name: str, folder: Path) -> None:
        """peft's own ``save_pretrained`` would put a named adapter into a folder of that name inside ``folder``."""
        config = copy(self.peft_model.peft_config[name])
        config.inference_mode = True
        config.base_model_name_or_path = _base_name(config.base_model_name_or_path or "")
        # peft keeps them as a set, whose order differs from process to process.
        config.target_modules = sorted(config.target_modules)
        config.save_pretrained(folder)


def _base_name(path: str) -> str:
    """What a base is called elsewhere: by its name on the hub where it came from there, else by its folder's name.

    Never by a path: equal runs write equal files wherever their store is.

    >>> _base_name("cache/models--Qwen--Qwen2.5-3B-Instruct/snapshots/0a1b"), _base_name("runs/models/base-0a1b")
    ('Qwen/Qwen2.5-3B-Instruct', 'base-0a1b')
    """
    cached = [part for part in Path(path).parts if part.startswith("models--")]
    return cached[-1].removeprefix("models--").replace("--", "/") if cached else Path(path).name


def _check_linear(model: Any) -> None:
    """Refuse a model in which LoRA would find nothing to adapt."""
    vocabulary = getattr(model, "get_output_embeddings", lambda: None)()
    if not any(isinstance(m, nn.Linear | Conv1D) and m is not vocabulary for m in model.modules()):
        raise ValueError(
            f"{type(model).__name__} has no linear layer that LoRA can adapt: use a model of another architecture"
        )


def _excluded(model: Any) -> list[str] | None:
    """Linear layers that LoRA must leave out, by the last part of their name.

    Fused kernels of Mamba read the weight of their last layer past any adapter; some routers are linear layers of their own
    kind, which return more than a product.
    """
    own = (n for n, m in model.named_modules() if isinstance(m, nn.Linear) and _returns_more(m))
    names = {name.rpartition(".")[2] for name in own}
    if getattr(model.config, "model_type", None) in _FUSED:
        names.add("out_proj")
    return sorted(names) or None


@torch.no_grad()
def _returns_more(linear: Any) -> bool:
    """Whether a linear layer that an architecture defines itself gives anything but a tensor."""
    if not type(linear).__module__.startswith("transformers.models."):
        return False
    return not isinstance(linear(linear.weight.new_zeros(1, linear.in_features)), Tensor)


def _is_narrow(layer: Any) -> bool:
    """Whether a layer's full-precision weights are so small that adding the adapter to them is the cheaper way to apply it.

    Its product B A costs as much as the adapter's part of a few dozen tokens, and then every token passes one matrix instead of
    three. The gradient of the whole matrix, in exchange, is affordable up to a side of a few ranks only.
    """
    linear = layer.get_base_layer()
    narrow = type(linear) is nn.Linear and linear.weight.dtype in (torch.float32, torch.float64)
    return narrow and min(linear.in_features, linear.out_features) <= _NARROW * max(layer.r.values())


def _folded_forward(layer: Any, x: Tensor) -> Tensor:
    """LoRA by (W + s B A) x instead of W x + s B (A x): the same up to rounding, for the active adapter or none."""
    linear = layer.get_base_layer()
    if layer._disable_adapters:
        return linear(x)
    (name,) = layer._active_adapter
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    return linear_function(x, torch.addmm(linear.weight, up, down, alpha=layer.scaling[name]), linear.bias)


def _prepare_checkpoints(model: Any) -> list[Any]:
    """The layers that can be checkpointed, told how: without re-entrance, which would give another adapter the gradients."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layer that can be checkpointed: set checkpointing=False"
        )
    for layer in layers:
        layer.gradient_checkpointing = True
        # Nothing is random in them: dropout is off.
        layer._gradient_checkpointing_func = partial(
            checkpoint, use_reentrant=False, preserve_rng_state=False
        )
    return layers
