"""The embedded tiny model by itself: a small Llama in plain torch, with its LoRA adapters.

It computes what :class:`itpo.models.backbone.Backbone` computes from the same folder, up to rounding, with fewer operations and
without transformers or peft. Three things are done otherwise than in a textbook, and change no result:

* An adapter is added to the weights once a call, as W + s B A: these matrices are smaller than the activations.
* The weight of a norm is multiplied into the matrix that reads what was normalised.
* Queries and keys hold the two numbers that a rotary embedding turns together side by side, so that to turn them is one
  multiplication of complex numbers. Their inner products do not depend on the order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Complex, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, rms_norm, scaled_dot_product_attention, silu
from torch.nn.utils import skip_init

from itpo.models.adapters import AdaptedModel
from itpo.models.lean_weights import LeanBase
from itpo.runs.files import write_file
from itpo.specs import Adapter

_PLACES = 64  # of a fresh cache

# The matrices that are adapted, in the order in which peft draws their adapters; those of one tuple have the same input.
_STACKS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


class LayerWeights(NamedTuple):
    """One layer with an adapter added to its matrices, and the weights of its two norms multiplied into what reads them.

    Rows of ``qkv`` are all heads' queries, then all keys, then all values; those of queries and keys stand in pairs.
    """

    qkv: Float[Tensor, "3*H H"]
    out: Float[Tensor, "H H"]
    gate_up: Float[Tensor, "2*F H"]
    down: Float[Tensor, "H F"]


def _normalised(x: Float[Tensor, "*B H"], eps: float) -> Float[Tensor, "*B H"]:
    """Divided by the root of the mean square."""
    return rms_norm(x, x.shape[-1:], eps=eps)


def _turned(x: Float[Tensor, "*B D"], rotary: Complex[Tensor, "..."]) -> Float[Tensor, "*B D"]:
    """Queries or keys, in pairs, with position: each pair is a complex number and is multiplied by one."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotary).flatten(-2)


def _mlp(x: Float[Tensor, "*B H"], weights: LayerWeights, eps: float) -> Float[Tensor, "*B H"]:
    """What the second half of a layer adds to a state."""
    gate, up = linear(_normalised(x, eps), weights.gate_up).chunk(2, dim=-1)
    return linear(silu(gate) * up, weights.down)


class LeanModel(AdaptedModel):
    """An embedded model with named adapters, of which at most one is active at a time.

    ``heads`` gives an adapter a linear value head with that many outputs a token; it starts at 0. ``head_chunk`` positions have
    logits at a time, see :mod:`itpo.models.token_stats`. Adapters begin as peft begins them: A at random by ``seed``, B at 0.

    >>> import tempfile
    >>> from itpo.models.lean_weights import read_base
    >>> from itpo.models.tiny import pretrain_by_imitation
    >>> from itpo.specs import TinyLM
    >>> from itpo.tasks.registry import get_task
    >>> task, spec = get_task("math"), TinyLM(hidden_size=16, layers=1, heads=2, steps=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     base = read_base(pretrain_by_imitation(task, task.noisy_expert, spec, Path(folder)))
    >>> model = LeanModel(base, ["policy"], Adapter(rank=2))
    >>> with model.use("policy"):
    ...     logp, entropy = model.token_stats(torch.tensor([[1, 2, 3]]), torch.tensor([[False, True, True]]))
    ...     (layer,) = model.merged()
    >>> logp.shape, layer.qkv.shape, base.rotary(torch.arange(5)).shape
    (torch.Size([1, 3]), torch.Size([48, 16]), torch.Size([5, 4]))
    """

    def __init__(
        self,
        base: LeanBase,
        names: Sequence[str],
        adapter: Adapter,
        seed: int = 0,
        heads: Mapping[str, int] | None = None,
        head_chunk: int = 2048,
    ) -> None:
        self.base, self.adapter, self.names = base, adapter, tuple(names)
        self.head_chunk, self.device, self.full_precision = head_chunk, base.embedding.device, True
        self.scale = adapter.alpha / adapter.rank
        generator = torch.Generator().manual_seed(seed)
        self._adapters = {name: self._fresh(name, generator) for name in self.names}
        self._heads = {
            n: _zero_head(base.embedding.shape[1], outputs) for n, outputs in (heads or {}).items()
        }
        self._head = skip_init(nn.Linear, *base.embedding.shape[::-1], bias=False)
        self._head.weight = nn.Parameter(base.embedding, requires_grad=False)
        self._activate(None)

    def _fresh(self, name: str, generator: torch.Generator) -> dict[str, nn.Parameter]:
        """A new adapter's parameters, drawn in the order in which peft draws them, so that equal seeds are equal starts."""
        parameters = {}
        for number, layer in enumerate(self.base.layers):
            for names, stack in zip(_STACKS, layer, strict=False):
                for target, matrix in zip(names, stack, strict=True):
                    outputs, inputs = matrix.shape
                    a, b = torch.empty(self.adapter.rank, inputs), torch.zeros(outputs, self.adapter.rank)
                    # peft draws A, B and A again, uniformly, and keeps the last.
                    for drawn in (a, torch.empty_like(b), a):
                        drawn.uniform_(-1.0 / sqrt(inputs), 1.0 / sqrt(inputs), generator=generator)
                    key = f"model.layers.{number}.{target}.lora_"
                    parameters[f"{key}A.{name}.weight"] = nn.Parameter(a.to(matrix.dtype))
                    parameters[f"{key}B.{name}.weight"] = nn.Parameter(b.to(matrix.dtype))
        return parameters

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The adapter's own parameters by their full name, those of its value head included."""
        self._check(name)
        head = self._heads[name].named_parameters() if name in self._heads else ()
        return self._adapters[name] | {f"value_head.{key}": p for key, p in head}

    def frozen(self) -> list[Tensor]:
        """The weights of the base."""
        return [self.base.embedding, self.base.final_norm, *(m for layer in self.base.layers for m in layer)]

    def _activate(self, name: str | None) -> None:
        self.active = name

    def head(self) -> Any:
        """The embeddings, which make logits of states too."""
        return self._head

    def merged(self) -> list[LayerWeights]:
        """Every layer with the active adapter added; gradients reach the adapter."""
        return [self._merged(number) for number in range(len(self.base.layers))]

    def _merged(self, number: int) -> LayerWeights:
        layer, pairs = self.base.layers[number], self.base.pairs
        matrices = list(layer[: len(_STACKS)])
        norms = (layer.input_norm, None, layer.post_norm, None)
        if self.active is not None:
            for place, names in enumerate(_STACKS):
                a, b = (self._stacked(number, names, side) for side in "AB")
                if names is _STACKS[0]:
                    b = torch.cat([b[:2, pairs], b[2:]])
                matrices[place] = torch.baddbmm(matrices[place], b, a, alpha=self.scale)
        matrices = [m if n is None else m * n for m, n in zip(matrices, norms, strict=True)]
        return LayerWeights(*(matrix.flatten(0, 1) for matrix in matrices))

    def _stacked(self, number: int, names: Sequence[str], side: str) -> Tensor:
        own, end = self._adapters[str(self.active)], f".lora_{side}.{self.active}.weight"
        return torch.stack([own[f"model.layers.{number}.{name}{end}"] for name in names])

    def states(
        self, input_ids: Int64[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "N H"]:
        """Last hidden states at the N positions that predict a response token, row by row.

        Rows are right-padded, so causal attention alone keeps padding out. After the last attention, the other positions are
        left out. Raises ``ValueError`` if a row's first token is a response token: nothing predicts it.
        """
        if bool(response_mask[:, 0].any()):
            raise ValueError(
                "a response token at position 0 has no context: begin each row with a prompt token"
            )
        base, size = self.base, self.base.embedding.shape[1]
        # The last token predicts nothing.
        input_ids, predicts = input_ids[:, :-1], response_mask[:, 1:].flatten().nonzero().squeeze(1)
        rows, width = input_ids.shape
        rotary = base.rotary(torch.arange(width, device=self.device))
        x, layers = embedding(input_ids, base.embedding), self.merged()
        for weights in layers:
            qkv = linear(_normalised(x, base.eps), weights.qkv).view(
                rows, width, 3, base.heads, base.head_dim
            )
            queries_keys, v = qkv.transpose(1, 3).split([2, 1], dim=2)
            q, k = _turned(queries_keys, rotary).unbind(2)
            heard = (
                scaled_dot_product_attention(q, k, v.squeeze(2), is_causal=True).transpose(1, 2).flatten(2)
            )
            if weights is layers[-1]:
                heard, x = (t.reshape(-1, size)[predicts] for t in (heard, x))
            x = x + linear(heard, weights.out)
            x = x + _mlp(x, weights, base.eps)
        return rms_norm(x, (size,), base.final_norm, base.eps)

    def decoder(self, rows: int) -> LeanDecoder:
        """An empty cache for decoding that many rows under the active adapter, as it is now."""
        return LeanDecoder(self.base, self.merged(), rows)

    def _write_config(self, name: str, folder: Path) -> None:
        targets = sorted(target.partition(".")[2] for targets in _STACKS for target in targets)
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base.folder.name,
            "inference_mode": True,
            "target_modules": targets,
            "r": self.adapter.rank,
            "lora_alpha": self.adapter.alpha,
        }
        text = json.dumps(config, indent=2) + "\n"
        write_file(folder / "adapter_config.json", text.encode())


class LeanDecoder:
    """A cache of fixed places, doubled where it is full: token n of a row stands at place n, whatever the others say."""

    def __init__(self, base: LeanBase, layers: Sequence[LayerWeights], rows: int) -> None:
        self.base, self.layers, self.device = base, layers, base.embedding.device
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=self.device)
        shape = (len(layers), 2, rows, base.heads, _PLACES, base.head_dim)
        self.values = base.embedding.new_zeros(shape)  # keys and values of every layer

    def append(self, ids: Int64[Tensor, "B W"], mask: Bool[Tensor, "B W"]) -> Float[Tensor, "B V"]:
        """Feed a left-padded block and return the logits after its last column."""
        base, (rows, width) = self.base, ids.shape
        places = self.lengths[:, None] + mask.cumsum(1) - 1
        self.lengths = places[:, -1] + 1
        places = places.clamp_min(0)
        longest = int(self.lengths.max())
        while longest >= self.values.shape[4]:  # the last place is for padding, which nobody reads
            self.values = torch.cat([self.values, torch.zeros_like(self.values)], dim=4)
        *_, heads, room, size = self.values.shape
        row_heads = torch.arange(rows * heads, device=self.device).view(rows, 1, heads)
        written = (row_heads * room + torch.where(mask, places, room - 1)[:, :, None]).flatten()
        hidden = torch.arange(longest, device=self.device) > places[:, :, None]
        bias = self.values.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
        bias = bias.repeat_interleave(heads, dim=0)
        rotary = base.rotary(places)[:, :, None, None]
        x = embedding(ids, base.embedding)
        for weights, cache in zip(self.layers, self.values, strict=True):
            qkv = linear(_normalised(x, base.eps), weights.qkv).view(rows, width, 3, heads, size)
            q, new = _turned(qkv[:, :, :2], rotary).unbind(2)
            for kept, block in zip(cache, (new, qkv[:, :, 2]), strict=True):
                kept.view(-1, size).index_copy_(0, written, block.reshape(-1, size))
            keys, values = cache.flatten(1, 2)[:, :, :longest]
            # Of one query each: products of small matrices are faster than the attention of torch.
            scores = torch.baddbmm(
                bias, q.transpose(1, 2).flatten(0, 1), keys.transpose(1, 2), alpha=size**-0.5
            )
            heard = torch.bmm(scores.softmax(-1), values).unflatten(0, (rows, heads))
            heard = heard.transpose(1, 2).flatten(2)
            if weights is self.layers[-1]:
                heard, x = heard[:, -1], x[:, -1]
            x = x + linear(heard, weights.out)
            x = x + _mlp(x, weights, base.eps)
        states = rms_norm(x, x.shape[-1:], base.final_norm, base.eps)
        return linear(states, base.embedding).float()

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these."""
        index = torch.tensor(rows, device=self.device)
        self.lengths, self.values = self.lengths[index], self.values[:, :, index]


def _zero_head(size: int, outputs: int) -> nn.Linear:
    """A linear layer of zeros, made without a random number."""
    head = skip_init(nn.Linear, size, outputs)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head
