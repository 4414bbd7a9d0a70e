"""Do sampler, trainer and a plain forward pass give a token the same probability? Asked of every model when it is loaded.

Where they differ, a policy is trained on other numbers than it samples by, and in 16 bits nothing else would tell. A few short
dialogues are held, with turns of different lengths, of which some end early. Their log-probabilities are those of the
sampler, which decodes a batch step by step; of the trainer, which reads the padded batch at once; and of a plain forward pass,
which reads each row alone. All three are compared under the reference and under an adapter with random weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from itpo.models.backbone import Backbone
from itpo.models.decoding import draw

# Tokens of every dialogue: its prompt, its turns, and the words between them. Rows have 1 to 3 turns.
_PROMPTS = (3, 19, 8, 12)
_TURNS = ((4, 1, 3, 2), (2, 4, 0, 1), (0, 3, 0, 4))
_WORDS = ((5, 2, 0, 9), (0, 7, 0, 3))
_LONGEST_WINDOW = 128  # up to here the longest prompt is made longer than the sliding window

# In nats. Float32 rounds below 1e-4 here; the ratio of the first update may be off by ten times the bound.
FULL_BOUND = 1e-3
# A 16-bit number has 8 significant bits, so that logits near 16 come in steps of 1/8. How much that makes of a log-probability
# depends on the model, 0.0005 nats in the mean or 0.05, and is measured: a plain pass is repeated with more tokens behind the
# row, which changes nothing but the order of sums. Sampler and trainer may differ by a few times as much, and by a little.
NOISE_FACTOR, NOISE_FLOOR, MEAN_BOUND = 4.0, 0.01, 0.3


class InexactModelError(ValueError):
    """A model whose sampler, trainer and plain forward pass do not agree."""


@dataclass(frozen=True)
class Parity:
    """By how much log-probabilities (nats) differ from those of a plain forward pass, token by token, and what is allowed."""

    adapter: str | None
    sampler: Float[Tensor, " N"]
    trainer: Float[Tensor, " N"]
    moved: float  # the largest change of a log-probability by the adapter; 0 for the reference
    noise: float  # the mean difference of two plain forward passes that differ in the order of sums alone
    full_precision: bool

    def largest(self) -> dict[str, float]:
        """The difference that counts, of each: the largest one in full precision, the mean of its size in 16 bits."""
        both = {"sampler": self.sampler, "trainer": self.trainer}
        return {n: float(d.abs().max() if self.full_precision else d.abs().mean()) for n, d in both.items()}

    @property
    def bound(self) -> float:
        """How large it may be."""
        return FULL_BOUND if self.full_precision else min(NOISE_FLOOR + NOISE_FACTOR * self.noise, MEAN_BOUND)

    def fault(self) -> str | None:
        """What is wrong, in words; ``None`` where all agree."""
        under = "the reference" if self.adapter is None else "an adapter with random weights"
        kind = "up to" if self.full_precision else "in the mean"
        for place, size in self.largest().items():
            if not size <= self.bound:
                return (
                    f"under {under}, log-probabilities of the {place} differ from those of a plain forward pass by {kind} "
                    f"{size:.2g} nats, where rounding makes less than {self.bound:.2g}"
                )
        if self.adapter is not None and not self.moved > FULL_BOUND:
            return (
                f"an adapter with random weights moves no log-probability by more than {self.moved:.1g} nats"
            )
        return None


def check_parity(backbone: Backbone, seed: int = 0) -> list[Parity]:
    """Compare the three under the reference and under the backbone's first adapter, whose weights are put back.

    Raises :class:`InexactModelError`, which names the model, the place and the size of the difference, or what failed.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from itpo.specs import Adapter
    >>> size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> backbone = Backbone(LlamaForCausalLM(LlamaConfig(vocab_size=30, **size)), ["policy"], Adapter(rank=2))
    >>> [max(parity.largest().values()) < 1e-4 for parity in check_parity(backbone)]
    [True, True]
    >>> measure(backbone, None).fault() is None
    True
    """
    name = type(backbone.model).__name__
    try:
        found = [measure(backbone, None, seed)]
        with _shaken(backbone, backbone.names[0], seed):
            found.append(measure(backbone, backbone.names[0], seed))
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0][:200].rstrip(".")
        raise InexactModelError(
            f"{name} cannot be sampled from and trained here: a short dialogue with it ended in {what}; use a model of another "
            "architecture"
        ) from error
    for parity in found:
        if (fault := parity.fault()) is not None:
            raise InexactModelError(
                f"{name} would be trained on other numbers than it samples by: {fault}; use a model of another architecture"
            )
    return found


def measure(backbone: Backbone, adapter: str | None, seed: int = 0) -> Parity:
    """Hold the dialogues under one adapter, and compare; ``moved`` is against the reference.

    Raises ``ValueError`` for a model with fewer positions than the dialogues have tokens, and what the model raises.
    """
    generator = torch.Generator().manual_seed(seed)
    with backbone.use(adapter):
        rows, masks, sampled = _hold(backbone, generator)
        plain = [_plain(backbone, row) for row in rows]
        again = [_plain(backbone, row + row[:8])[: len(row)] for row in rows]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([row + [False] * (width - len(row)) for row in masks])
        with torch.enable_grad():
            trained = backbone.token_stats(ids, mask)[0].detach()
    moved = 0.0
    if adapter is not None:
        with backbone.use(None):
            reference = [_plain(backbone, row) for row in rows]
        moved = max(float((a - b).abs().max()) for a, b in zip(plain, reference, strict=True))
    chosen = [torch.tensor(m) for m in masks]
    expected, other = (torch.cat([p[m] for p, m in zip(x, chosen, strict=True)]) for x in (plain, again))
    given = torch.tensor([logp for row in sampled for logp in row])
    noise = float((other - expected).abs().mean())
    return Parity(adapter, given - expected, trained[mask] - expected, moved, noise, backbone.full_precision)


def _hold(
    backbone: Backbone, generator: torch.Generator
) -> tuple[list[list[int]], list[list[bool]], list[list[float]]]:
    """Ids, response mask and sampled log-probabilities of every dialogue, as the rollout engine decodes them."""
    words = _words(backbone.model)
    prompts = list(_PROMPTS)
    if (window := _window(backbone.model)) is not None and window <= _LONGEST_WINDOW:
        prompts[1] = max(prompts[1], window + 3)
    _check_room(backbone.model, max(prompts) + 30)

    def say(count: int) -> list[int]:
        return words[torch.randint(len(words), (count,), generator=generator)].tolist()

    rows = [say(count) for count in prompts]
    masks = [[False] * count for count in prompts]
    logps: list[list[float]] = [[] for _ in prompts]
    decoder, going, unseen = backbone.decoder(len(rows)), list(range(len(rows))), [list(row) for row in rows]
    for number, lengths in enumerate(_TURNS):
        stay = [place for place, row in enumerate(going) if lengths[row]]
        if len(stay) < len(going):
            decoder.keep(stay)
            going = [going[place] for place in stay]
        blocks = [unseen[row] for row in going]
        for step in range(max(lengths)):
            width = max(map(len, blocks))
            ids = torch.tensor([[0] * (width - len(b)) + b for b in blocks], device=backbone.device)
            mask = torch.tensor(
                [[False] * (width - len(b)) + [True] * len(b) for b in blocks], device=backbone.device
            )
            logp = torch.log_softmax(decoder.append(ids, mask), dim=-1).cpu()
            noise = torch.rand(len(going), generator=generator, dtype=torch.float32).double()
            tokens = draw(logp.exp(), noise).tolist()
            blocks = [[] for _ in going]
            for place, (row, token) in enumerate(zip(going, tokens, strict=True)):
                if step >= lengths[row]:
                    continue
                rows[row].append(token)
                masks[row].append(True)
                logps[row].append(float(logp[place, token]))
                unseen[row] = [token]
                if step + 1 < lengths[row]:
                    blocks[place] = [token]
            if not any(blocks):
                break
        for row in going:
            added = say(_WORDS[number][row]) if number < len(_WORDS) else []
            unseen[row] += added
            rows[row] += added
            masks[row] += [False] * len(added)
    return rows, masks, logps


@torch.no_grad()
def _plain(backbone: Backbone, row: list[int]) -> Float[Tensor, " T"]:
    """Log-probabilities of a row's tokens by the model's own forward pass; 0 for the first."""
    ids = torch.tensor([row], device=backbone.device)
    logp = torch.log_softmax(backbone.model(input_ids=ids, use_cache=False).logits[0].float(), dim=-1).cpu()
    chosen = logp[:-1].gather(1, ids[0, 1:, None].cpu()).squeeze(1)
    return torch.cat([torch.zeros(1), chosen])


def _words(model: Any) -> Tensor:
    """Tokens that mean nothing to the model's code, such as those in whose place an image is read."""
    config = model.config.to_dict()
    named = [v for k, v in config.items() if k.endswith(("_token_id", "_token_ids", "_token_index"))]
    special = {x for v in named for x in (v if isinstance(v, list) else [v]) if isinstance(x, int)}
    size = model.get_input_embeddings().weight.shape[0]
    ordinary = [token for token in range(min(size, 20_000)) if token not in special]
    return torch.tensor(ordinary or list(range(size)))


def _window(model: Any) -> int | None:
    config = model.config.get_text_config(decoder=True)
    return getattr(config, "sliding_window", None)


def _check_room(model: Any, tokens: int) -> None:
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if isinstance(limit, int) and limit < tokens:
        raise ValueError(f"a context of {limit} positions: too short for any dialogue")


@contextmanager
def _shaken(backbone: Backbone, name: str, seed: int) -> Iterator[None]:
    """Random weights in an adapter, of an effect that is small beside the base's; afterwards its own are put back."""
    generator = torch.Generator().manual_seed(seed + 1)
    scale = 0.3 / _strength(backbone, name)
    raised = {
        key: p for key, p in backbone.parameters(name).items() if ".lora_B." in key or key.endswith("lora_B")
    }
    before = {key: p.detach().clone() for key, p in raised.items()}
    try:
        for parameter in raised.values():
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.data.copy_(noise.to(parameter.dtype))
        yield
    finally:
        for key, parameter in raised.items():
            parameter.data.copy_(before[key])


def _strength(backbone: Backbone, name: str) -> float:
    config = backbone.peft_model.peft_config[name]
    return float(config.lora_alpha / config.r * config.r**0.5)
