"""Blocks that are read a few columns at a time say what they say when read at once."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from itpo.models.backbone import Backbone
from itpo.rollout.engine import Decoding, TurnEngine, at_once
from itpo.rollout.sampler import Sampling
from itpo.specs import Adapter

PROMPTS = [[1] * 41, [2, 3], list(range(4, 29)), [5] * 9]
BLOCKS = [[6] * 3, [7] * 20, [8], [9, 4, 5]]


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Backbone(LlamaForCausalLM(LlamaConfig(vocab_size=30, **size, **heads)), ["policy"], Adapter(2))


def written(backbone, budget):
    """Two turns of each dialogue, the users' blocks between them."""
    turns, widths = [[] for _ in PROMPTS], []
    decoder = type(backbone.decoder(1))
    append = decoder.append

    def noted(self, ids, mask):
        widths.append(ids.numel())
        return append(self, ids, mask)

    def ask(rows, said):
        for row, turn in zip(rows, said, strict=True):
            turns[row].append(turn)
        return at_once([BLOCKS[row] if len(turns[row]) == 1 else None for row in rows])

    uniforms = torch.rand(len(PROMPTS), 2, 5, generator=torch.Generator().manual_seed(1)).double()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(decoder, "append", noted)
        TurnEngine(backbone).converse(PROMPTS, uniforms, Decoding((0,), 0, 5, False, 4, 1, budget), ask)
    return turns, max(widths)


def test_no_pass_is_larger_than_the_budget_and_every_turn_is_the_same(backbone):
    whole, widest = written(backbone, 10_000)
    assert widest == 4 * 41
    for budget in (100, 30, 8, 1):  # two columns of all rows are the least
        parts, widest = written(backbone, budget)
        assert widest == max(budget // 4, 2) * 4
        for mine, theirs in zip(sum(parts, []), sum(whole, []), strict=True):
            assert mine.ids == theirs.ids
            torch.testing.assert_close(mine.logps, theirs.logps, atol=1e-5, rtol=0)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one token must be read at a time"):
        Sampling(read_budget=0)
