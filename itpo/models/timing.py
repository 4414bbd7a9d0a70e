"""How long a run takes on the machine at hand, from a measurement of seconds: ``python -m itpo plan --measure``.

Measured are two models of few layers with random weights: what they differ by is the time of a layer, and the rest that of the
head. So no weights are needed, and a card need not have room for the model. What a step then takes is counted for dialogues of
full length, which is the most that it can take; users' and judges' own servers are not in it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from itpo.models.backbone import Backbone
from itpo.models.loading import nf4_config, tame
from itpo.models.memory import Settings, Work
from itpo.models.shapes import Shape
from itpo.specs import Adapter

_LAYERS = (1, 3)  # of the two models
_TOY = Shape(128, 384, 4, 4, 2, 32, 1024, True)


class Times(NamedTuple):
    """Seconds: to decode one token of all rows, and for each token that is read, scored (no gradient) and learned from."""

    decode: float
    read: float
    score: float
    learn: float


@dataclass(frozen=True)
class Pace:
    """What was measured, of which shape, with how many rows of how many tokens, where; and whether that was a toy."""

    times: Times
    shape: Shape
    rows: int
    length: int
    place: str
    toy: bool

    def step(self, work: Work, settings: Settings) -> dict[str, float]:
        """Seconds of the parts of one step in which every dialogue takes all of its tokens.

        >>> pace = Pace(Times(0.03, 1e-5, 1e-4, 4e-4), _TOY, 32, 2048, "a card", toy=False)
        >>> parts = pace.step(Work(), Settings(5120, 512, 32, 8192))
        >>> {name: round(seconds) for name, seconds in parts.items()}
        {'decoding': 492, 'reading': 7, 'scoring': 197, 'learning': 524}
        """
        waves = -(-work.dialogues // settings.max_rows)
        decoded, read = work.response, work.longest
        if work.user_reply:  # who reads, for each reply, what was said until then: half of it on average
            read += (work.turns - 1) * (work.question - work.response // 2)
        if work.judge_reply:
            decoded, read = decoded + work.judge_reply, read + work.question
        tokens = work.dialogues * work.longest
        # The reference, what PRM and critic say, and, beside 16 or 4 bits, the policy again as it is trained.
        scored = work.adapters + (work.precision == "nf4" or work.value_bytes < 4)
        return {
            "decoding": waves * decoded * self.times.decode,
            "reading": work.dialogues * read * self.times.read,
            "scoring": tokens * scored * self.times.score,
            "learning": tokens * work.adapters * self.times.learn,
        }

    def report(self, work: Work, settings: Settings, steps: int) -> str:
        """Seconds a step, by parts, and days a run of so many steps, in words.

        >>> pace = Pace(Times(0.03, 1e-5, 1e-4, 4e-4), _TOY, 32, 2048, "a card", toy=False)
        >>> print(pace.report(Work(), Settings(5120, 512, 32, 8192), steps=100).splitlines()[-1])
        a run of 100 steps: 1.4 days at full length, 0.7 where dialogues take half of it
        """
        parts, times = self.step(work, settings), self.times
        minutes = sum(parts.values()) / 60
        days = steps * minutes / 1440
        of_a_toy = (
            "of a toy of the same kind: that the measurement works, and nothing about a GPU; " * self.toy
        )
        weights = self.shape.weights / self.shape.layers / 1e6
        inner = ", ".join(f"{name} {spent / 60:.1f}" for name, spent in parts.items())
        micro = [1e6 * each for each in (times.read, times.score, times.learn)]
        lines = [
            f"time, measured on {self.place} ({of_a_toy}{self.shape.layers} layers of {weights:.1f} million weights, "
            f"{self.rows} rows of {self.length} tokens)",
            f"  decoding {1e3 * times.decode:.2f} ms a token of all rows; a token read {micro[0]:.2f}, scored {micro[1]:.2f}, "
            f"learned from {micro[2]:.2f} microseconds",
            f"a step of {work.dialogues} dialogues of full length: {minutes:.1f} minutes ({inner})",
            f"a run of {steps} steps: {days:.1f} days at full length, {days / 2:.1f} where dialogues take half of it",
        ]
        return "\n".join(lines)


def measure(shape: Shape, work: Work, settings: Settings) -> Pace:
    """Measure a few passes on the GPU, with layers of this shape, or on a CPU those of a toy; takes seconds.

    >>> pace = measure(_TOY, Work(prompt=16, response=16), Settings(64, 64, 2, 64))
    >>> pace.toy or pace.place != "this CPU"
    True
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    shape = shape if on_gpu else replace(_TOY, layers=shape.layers)
    rows, length = settings.max_rows, max(work.longest // 2, 2)
    rows, length = (rows, length) if on_gpu else (min(rows, 4), min(length, 128))
    few, many = (_measure(shape, n, work, rows, length, device) for n in _LAYERS)
    per_layer = [max(b - a, 0.0) / (_LAYERS[1] - _LAYERS[0]) for a, b in zip(few, many, strict=True)]
    times = Times(*(a + (shape.layers - _LAYERS[0]) * each for a, each in zip(few, per_layer, strict=True)))
    place = torch.cuda.get_device_name() if on_gpu else "this CPU"
    return Pace(times, shape, rows, length, place, not on_gpu)


def _measure(shape: Shape, layers: int, work: Work, rows: int, length: int, device: torch.device) -> Times:
    """The times of a model of few layers, the users' reading without adapter."""
    model = random_model(shape, layers, work.precision if device.type == "cuda" else "full", device)
    backbone = Backbone(model, ["policy"], Adapter(work.rank, work.rank), checkpointing=True)
    ids = torch.randint(shape.vocabulary, (rows, length), device=device)
    one = torch.ones((rows, 1), dtype=torch.bool, device=device)
    few = max(min(rows, 4096 // length), 1)
    mask = torch.ones((few, length), dtype=torch.bool)
    mask[:, 0] = False

    def read() -> Any:
        """The block in a few passes, as a rollout would."""
        decoder = backbone.decoder(rows)
        for part in ids.split(max(4096 // rows, 2), 1):
            decoder.append(part, one.expand(-1, part.shape[1]))
        return decoder

    def learn() -> None:
        """Forward and backward, of a micro-batch."""
        logp, entropy = backbone.token_stats(ids[:few], mask.to(device))
        (logp + entropy).sum().backward()

    with torch.no_grad():
        reading = fastest(read, device)
        decoder = read()
        with backbone.use("policy"):
            decoding = fastest(lambda: decoder.append(ids[:, :1], one), device)
            scoring = fastest(lambda: backbone.token_stats(ids[:few], mask.to(device)), device)
    with backbone.use("policy"):
        learning = fastest(learn, device)
    return Times(decoding, reading / ids.numel(), scoring / mask.numel(), learning / mask.numel())


def random_model(shape: Shape, layers: int, precision: str, device: torch.device) -> Any:
    """A model of that shape with random weights, in 4 bits by way of a folder, as bitsandbytes reads it.

    >>> random_model(_TOY, 1, "full", torch.device("cpu")).config.hidden_size
    128
    """
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=2**16,
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(dtype)
    if precision == "full":
        return model.to(device).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return tame(
            AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, device_map={"": str(device)}, quantization_config=nf4_config(dtype)
            ).eval()
        )


def fastest(call: Callable[[], Any], device: torch.device, repeats: int = 3) -> float:
    """Seconds of the shortest of a few calls, after one that warms up.

    >>> 0 <= fastest(lambda: None, torch.device("cpu")) < 1
    True
    """
    laps = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        laps.append(time.perf_counter() - start)
    return min(laps[1:])
