"""What a run needs of a GPU's memory, part by part, and the largest settings that fit: ``python -m itpo plan``.

Counted are tensors, from the shape of the model alone, for decoders built like Llama or Qwen (gated feed-forward layers,
attention that keeps no matrix of scores). Norms and biases, under 0.1 %, are left out, and so is what libraries take for
themselves: for that a gibibyte is kept free. Training and rollout come in turn; each has a peak of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

from itpo.config import RunConfig
from itpo.fields import check as check_value
from itpo.fields import check_fields, setting
from itpo.models.shapes import FLOAT, GIB, NF4, PUBLISHED, Shape
from itpo.models.shapes import find_shape as find_shape
from itpo.specs import PRECISIONS, Endpoint, FrozenBase, PretrainedModel, RealData
from itpo.tasks.base import MAX_TURNS

RESERVE = 1.0  # GiB for the driver's context and for gaps between tensors [O]
CHUNKS = (512, 256, 128, 64)  # positions that have logits at a time
READS = (16384, 8192, 4096, 2048, 1024)  # padded tokens that are read at a time
MOMENT = 1 + FLOAT / 256  # bytes: 8 bits, and a scale for 256
INSTRUCTIONS = 256  # tokens that tell a user or judge what to do, and what the template adds [O]
SPARE = 128  # columns that a cache has before it needs them


class DoesNotFit(ValueError):
    """A model or setting needs more memory than there is; the message names the largest setting that fits."""


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
    turns: int = setting(5, low=1)  # of the assistant [S]
    # Tokens of a reply of a user, and of a judge, that the base plays; 0 where it does not. They read whole transcripts.
    user_reply: int = setting(0, low=0)
    judge_reply: int = setting(0, low=0)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def longest(self) -> int:
        """Tokens of a dialogue of full length."""
        return self.prompt + self.response

    @property
    def question(self) -> int:
        """Tokens that a user or judge is asked: instructions, the goal, as long as a prompt, and the transcript."""
        return INSTRUCTIONS + self.prompt + self.longest


@dataclass(frozen=True)
class Settings:
    """The settings of :class:`itpo.config.RunConfig` that decide memory; layers are checkpointed."""

    token_budget: int = setting(low=1)
    head_chunk: int = setting(low=1)
    max_rows: int = setting(low=1)
    read_budget: int = setting(low=1)

    def __post_init__(self) -> None:
        check_fields(self)


def of_run(config: RunConfig) -> tuple[Work, Settings]:
    """What a run with a pretrained model asks of a GPU; openings are taken to be as long as the released limit.

    Scripted users, and their openings, never have more than 64 tokens. Errors: ``TypeError`` for a run with a tiny model.

    >>> from itpo.study.profiles import get_profile
    >>> work, settings = of_run(get_profile("consumer").run)
    >>> work.longest, work.user_reply, settings.max_rows
    (4608, 256, 32)
    """
    if not isinstance(config.model, PretrainedModel):
        raise TypeError("a tiny model is too small to plan for")
    real, task = isinstance(config.task, RealData), config.task
    turns = MAX_TURNS[task.name] if isinstance(task, RealData) else task.build().max_turns
    user, judge = config.user, config.judge
    by_rule = not isinstance(task, RealData) or (task.name == "math" and not task.judged)
    judged = config.method.entry.needs_judge or not by_rule
    reply = user.max_tokens if isinstance(user, FrozenBase | Endpoint) else 256 if real else 64
    work = Work(
        prompt=Work().prompt if real else 64,
        response=turns * config.max_turn_tokens + (turns - 1) * reply,
        dialogues=config.prompts * config.rollouts,
        adapters=1 + config.method.entry.needs_prm + config.estimator.entry.has_critic,
        rank=config.adapter.rank,
        precision=config.model.precision,
        turns=turns,
        user_reply=user.max_tokens if isinstance(user, FrozenBase) else 0,
        judge_reply=judge.max_tokens if judged and isinstance(judge, FrozenBase) else 0,
    )
    return work, Settings(config.token_budget, config.head_chunk, config.max_rows, config.read_budget)


@dataclass(frozen=True)
class Budget:
    """Bytes by part. ``held`` is there all the time; ``training`` and ``rollout`` add to it in turn.

    Logits and the layer that is computed again are not held at the same time: the larger counts. In a rollout the policy, the
    users and the judges follow one another; dialogues wait while their users answer, and are over when judges are asked.
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
        """Bytes while dialogues are held: what the policy, its users or its judges take at most."""
        parts = self.rollout
        policy = parts["cache of all dialogues"] + parts["a pass of the policy"]
        users = (
            parts["cache of all dialogues"] + parts.get("cache of users", 0) + parts.get("a pass of users", 0)
        )
        judges = parts.get("cache of judges", 0) + parts.get("a pass of judges", 0)
        return sum(self.held.values()) + max(policy, users, judges)


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

    >>> parts = budget(find_shape("Qwen/Qwen2.5-3B-Instruct"), Work(), Settings(5120, 512, 32, 8192))
    >>> round(parts.held["base"] / GIB, 2), round(parts.training["logits of a chunk"] / GIB, 2)
    (1.91, 0.72)
    """
    width = work.value_bytes
    # A row longer than the budget gets a micro-batch of its own.
    tokens = max(settings.token_budget, work.longest)
    linear = shape.weights + shape.beside
    adapter = adapter_parameters(shape, work.rank)
    rollout = _reading(shape, work, settings, "all dialogues", "the policy", work.longest)
    for readers, reply in (("users", work.user_reply), ("judges", work.judge_reply)):
        if reply:
            rollout |= _reading(shape, work, settings, readers, readers, work.question + reply)
    return Budget(
        held={
            "base": round(linear * (NF4 if work.precision == "nf4" else width)) + shape.embeddings * width,
            "adapters": work.adapters * adapter * FLOAT,
            "optimizer state": round(work.adapters * adapter * 2 * work.moment_bytes),
        },
        training={
            "gradients of an adapter": adapter * FLOAT,
            "inputs of all layers": shape.layers * tokens * shape.hidden * width,
            "one layer computed again": tokens * layer_bytes(shape, width),
            "logits of a chunk": settings.head_chunk * shape.vocabulary * (width + 2 * FLOAT),
        },
        rollout=rollout,
    )


def _reading(
    shape: Shape, work: Work, settings: Settings, whose: str, who: str, length: int
) -> dict[str, int]:
    """The cache of a batch of rows of that length, and what a pass takes beside it: the most of its parts."""
    width, rows = work.value_bytes, settings.max_rows
    cache = cache_bytes(shape, work)
    tokens = min(max(settings.read_budget, 2 * rows), rows * length)
    # With padding in a batch, keys and values of several heads are repeated for every query head, one layer at a time; a full
    # buffer is copied.
    repeated = 2 * width * (shape.attention if shape.heads > shape.kv_heads > 1 else 0)
    # Queries as they are and turned, results; the mask as it is and as numbers.
    own = tokens * (4 * width * shape.attention + length * (1 + width))
    # Gate, its activation, up and their product; an adapter, which only the policy has, works in float32 beside them.
    values = width + 4 * FLOAT if who == "the policy" else 4 * width
    return {
        f"cache of {whose}": rows * (length + SPARE) * cache,
        f"a pass of {who}": 2 * tokens * shape.hidden * width
        + max(
            rows * length * (repeated + cache // shape.layers) + own,
            tokens * shape.intermediate * values,
            rows * shape.vocabulary * (width + 2 * FLOAT),
        ),
    }


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
    Settings(token_budget=15360, head_chunk=512, max_rows=32, read_budget=8192)
    """
    check_value("gpu", math.isfinite(gpu_gib) and gpu_gib > 0, gpu_gib, "a finite number of GiB above 0")
    room = _room(gpu_gib)
    smallest = Settings(work.longest, CHUNKS[-1], 1, READS[-1])
    if _peak(shape, work, smallest) > room:
        raise DoesNotFit(_refusal(shape, work, smallest, gpu_gib))
    # Micro-batches of several dialogues of full length; the step's dialogues at once, in two waves, in three, ...
    sizes = [(n * work.longest, chunk) for n in range(4, 0, -1) for chunk in CHUNKS]
    trains = (replace(smallest, token_budget=size, head_chunk=chunk) for size, chunk in sizes)
    best = next(s for s in trains if budget(shape, work, s).training_peak <= room)
    return next(s for s in _waves(work, best) if budget(shape, work, s).rollout_peak <= room)


def _waves(work: Work, settings: Settings) -> Iterator[Settings]:
    """Ever fewer dialogues at a time, of each number ever smaller passes."""
    for n in range(1, work.dialogues + 1):
        yield from (replace(settings, max_rows=-(-work.dialogues // n), read_budget=read) for read in READS)


def check(
    shape: Shape, work: Work, settings: Settings, gpu_gib: float, engine_gib: float | None = None
) -> None:
    """Raise :class:`DoesNotFit`, which names the largest settings that do, if these do not fit; to be called before loading.

    With ``engine_gib``, another engine writes the turns and takes that much for it, whatever ``max_rows`` and ``read_budget``.

    >>> check(find_shape("Qwen/Qwen2.5-3B-Instruct"), Work(), Settings(5120, 512, 64, 8192), gpu_gib=12.0)
    Traceback (most recent call last):
    itpo.models.memory.DoesNotFit: ... the largest that fit: token_budget 15360, head_chunk 512, max_rows 32, read_budget 8192
    """
    if engine_gib is not None:
        held = sum(budget(shape, work, settings).held.values()) / GIB
        if (left := gpu_gib - RESERVE - held) < engine_gib:
            raise DoesNotFit(
                f"engine_memory asks for {engine_gib:.1f} GiB, and {held:.1f} GiB of base, adapters and optimizer leave "
                f"{max(left, 0):.1f} of a GPU of {gpu_gib:g} GiB: lower engine_memory, or take a smaller model"
            )
        settings = replace(settings, max_rows=1, read_budget=READS[-1])
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

    >>> text = report("tiny", find_shape("Qwen/Qwen2.5-3B-Instruct"), Work(), Settings(5120, 512, 32, 8192), gpu_gib=12.0)
    >>> print(text.splitlines()[3].strip())
    base (nf4)                                                     1.91
    """
    parts, waves = budget(shape, work, settings), -(-work.dialogues // settings.max_rows)
    rows, read = settings.max_rows, f"{settings.read_budget} tokens at most"
    notes = {
        "base": work.precision,
        "adapters": f"{work.adapters} of rank {work.rank}",
        "inputs of all layers": f"{max(settings.token_budget, work.longest)} tokens, checkpointed",
        "logits of a chunk": f"{settings.head_chunk} positions",
        "cache of all dialogues": f"{rows} x {work.longest} tokens",
        "cache of users": f"{rows} x {work.question + work.user_reply} tokens",
        "cache of judges": f"{rows} x {work.question + work.judge_reply} tokens",
        **{f"a pass of {who}": read for who in ("the policy", "users", "judges")},
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
        f"rollout peak {parts.rollout_peak / GIB:.2f} GiB (the policy; dialogues and their users; or judges)",
        f"{RESERVE:g} GiB is kept free",
        "",
        f"settings: {_in_words(settings)}, checkpointing True",
        f"{work.dialogues} dialogues a step are held in {waves} wave(s)",
    ]
    return "\n".join(lines)


def free_gib() -> float | None:
    """GiB that the first GPU has left to give now, beside what others take of it; ``None`` without a GPU.

    >>> free_gib() is None or free_gib() > 0
    True
    """
    import torch

    return torch.cuda.mem_get_info()[0] / GIB if torch.cuda.is_available() else None


def gib_of_share(share: float) -> float:
    """GiB that an engine takes which may have this share of the first GPU.

    >>> import torch
    >>> not torch.cuda.is_available() or gib_of_share(0.5) > 0
    True
    """
    import torch

    return share * torch.cuda.mem_get_info()[1] / GIB
