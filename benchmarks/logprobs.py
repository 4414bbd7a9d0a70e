"""Log-probabilities forward and backward, at the cost of the body alone: ``python -m benchmarks.logprobs [--rows 1]``.

SmolLM2's shape with random weights, 512 tokens a row of which 40 % are the assistant's, layers checkpointed, one thread, or
the GPU where there is one.
Compared are the transformer body without any head, the head on the assistant's positions in one piece, ours in chunks, and
logits of all positions. Prints seconds and peak memory, both also against the body, and how far ours is from the full logits.
"""

from __future__ import annotations

import argparse

import pandas as pd
import torch
from torch import Tensor

from benchmarks.shapes import VOCABULARY, seconds, smollm2_shape
from itpo.models import token_stats
from itpo.models.backbone import Backbone
from itpo.specs import Adapter
from itpo.training.profiling import peak_bytes


def full_logits(backbone: Backbone, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies from the logits of all positions, those of others dropped."""
    everywhere = torch.ones_like(mask)
    everywhere[:, 0] = False
    states = backbone.states(ids, everywhere)
    logp = backbone.model.get_output_embeddings()(states).float().log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    chosen = logp.gather(1, ids[everywhere][:, None]).squeeze(1)
    kept = mask[everywhere]
    return chosen[kept], entropy[kept]


def main() -> None:
    """Measure the four ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1, help="of 512 tokens (default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=128, help="positions (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="(default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = Backbone(smollm2_shape().to(device), ["policy"], Adapter(), checkpointing=True)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (options.rows, 512), generator=generator)
    mask = torch.rand(ids.shape, generator=generator) < 0.4
    mask[:, 0] = False
    ids, mask = ids.to(device), mask.to(device)
    vocabulary = backbone.model.get_output_embeddings()

    def stats(chunk: int) -> tuple[Tensor, Tensor]:
        return token_stats.token_stats(vocabulary, backbone.states(ids, mask), ids[mask], chunk)

    ways = {
        "body alone": lambda: (backbone.states(ids, mask),),
        "head on selected positions": lambda: stats(ids.numel()),
        f"ours, chunks of {options.chunk}": lambda: stats(options.chunk),
        "full logits": lambda: full_logits(backbone, ids, mask),
    }

    def step(way: str) -> None:
        sum(result.sum() for result in ways[way]()).backward()
        for parameter in backbone.parameters("policy").values():
            parameter.grad = None

    with backbone.use("policy"):
        calls = {way: (lambda way=way: step(way)) for way in ways}
        step("body alone")
        table = pd.DataFrame({"seconds": seconds(calls, options.repeats)})
        table["peak MB"] = [peak_bytes(call, device) / 1e6 for call in calls.values()]
        with torch.no_grad():
            pairs = zip(stats(options.chunk), full_logits(backbone, ids, mask), strict=True)
            error = max((ours - theirs).abs().max().item() for ours, theirs in pairs)
    body = table.loc["body alone"]
    table["x body"] = table["seconds"] / body["seconds"]
    table["MB over body"] = table["peak MB"] - body["peak MB"]
    print(table.round(2).to_string())
    print(f"\nlargest difference between ours and full logits: {error:.1e}")


if __name__ == "__main__":
    main()
