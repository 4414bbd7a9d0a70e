"""Four turns with a cache that is kept, against the floor and against reading again: ``python -m benchmarks.generation``.

SmolLM2's shape with random weights and no adapter active, a batch of 16 dialogues of four turns, one thread. The floor reads
the same tokens in as few passes (the opening, each user's words, each sampled token but the last) without padding, masks or
sampling. Reading again is ``generate()`` on the whole conversation in each turn. Prints seconds and multiples of the floor.

Sampling, most of it the draw from 49152 words, costs as much at any depth: with fewer layers ours is further from the floor.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from transformers import DynamicCache, GenerationConfig

from benchmarks.shapes import VOCABULARY, seconds, smollm2_shape
from itpo.chat import ChatFormat
from itpo.dialogue import Message
from itpo.models.backbone import Backbone
from itpo.models.tiny import build_tokenizer
from itpo.rollout.sampler import Sampling, rollout
from itpo.specs import Adapter

ROWS, TURNS, PROMPT, REPLY, SPOKEN = 16, 4, 64, 24, 32


@dataclass(frozen=True)
class Talk:
    """Users who always say as much and never leave before the last turn."""

    name: str = "talk"
    max_turns: int = TURNS

    def sample(self, rng: random.Random) -> int:
        """Any example."""
        return 0

    def opening(self, example: Any) -> list[Message]:
        """A long question."""
        return [Message("user", " ".join(["w1"] * PROMPT))]

    def reply(self, example: Any, messages: Any, rng: random.Random) -> str:
        """Some words."""
        return " ".join(["w2"] * REPLY)

    def score(self, example: Any, messages: Any) -> float:
        """Nobody asks."""
        return 0.0


@torch.no_grad()
def floor(model: Any, opening: int, block: int, turns: int = TURNS) -> None:
    """Read as many tokens in as few passes, and sample nothing."""
    cache = DynamicCache()
    for turn in range(turns):
        for width in [opening if turn == 0 else block, *[1] * (SPOKEN - 1)]:
            ids = torch.ones((ROWS, width), dtype=torch.int64)
            model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)


@torch.no_grad()
def read_again(model: Any, opening: int, block: int) -> None:
    """``generate()`` on everything said so far, in each turn."""
    plain = {"do_sample": True, "top_k": 0, "max_new_tokens": SPOKEN, "min_new_tokens": SPOKEN}
    ids = torch.ones((ROWS, opening), dtype=torch.int64)
    settings = GenerationConfig(pad_token_id=2, eos_token_id=2, **plain)
    for _ in range(TURNS):
        ids = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        ids = torch.cat([ids, torch.ones((ROWS, block - 1), dtype=torch.int64)], dim=1)


def main() -> None:
    """Measure the three ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=30, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="(default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = Backbone(smollm2_shape(options.layers), ["policy"], Adapter())
    # A word for each id of the vocabulary, after the five special tokens.
    chat = ChatFormat(build_tokenizer([f"w{i}" for i in range(VOCABULARY - 5)]))
    task, users = Talk(), [random.Random(i) for i in range(ROWS)]
    opening = len(chat.encode(task.opening(0))[0])
    block = 1 + len(chat.user_block(task.reply(0, [], users[0]), closed=False))

    def ours() -> None:
        generator = torch.Generator().manual_seed(0)
        found = rollout(backbone, chat, task, [0] * ROWS, users, generator, Sampling(SPOKEN))
        assert sum(sum(dialogue.response_mask) for dialogue in found) > 0.99 * ROWS * TURNS * SPOKEN

    calls = {
        "floor": lambda: floor(backbone.model, opening, block),
        "ours": ours,
        "reading again": lambda: read_again(backbone.model, opening, block),
    }
    floor(backbone.model, opening, block, turns=1)  # the first passes of a process are slow
    table = pd.DataFrame({"seconds": seconds(calls, options.repeats)})
    table["x floor"] = table["seconds"] / table.loc["floor", "seconds"]
    table["x reading again"] = table["seconds"] / table.loc["reading again", "seconds"]
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
