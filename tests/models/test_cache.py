"""Decoders: blocks in parts, rows that leave, and what a step copies."""

import pytest
import torch
from architectures import SIZE, VOCABULARY, build
from transformers import Phi3Config, Phi3ForCausalLM

from itpo.chat import context_of
from itpo.models.cache import _SPARE, CachedDecoder, decoder_for
from itpo.models.head import Head

NAMES = ["llama", "mistral, window", "gpt-oss, window and experts", "lfm 2, convolutions", "mamba"]


def make(name, rows):
    model = build(name)
    return decoder_for(model)(model, Head(model), rows)


def blocks(lengths, seed=0):
    """Left-padded ids, their mask, and the rows as lists."""
    generator, width = torch.Generator().manual_seed(seed), max(lengths)
    rows = [torch.randint(VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return ids, torch.arange(width) >= width - torch.tensor(lengths)[:, None], rows


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("columns", [2, 7])
def test_a_block_may_be_read_in_parts(name, columns):
    """Some rows have nothing in the first parts."""
    whole, parts = make(name, 3), make(name, 3)
    for turn, lengths in enumerate(((21, 2, 9), (3, 16, 5))):
        ids, mask, _ = blocks(lengths, seed=turn)
        expected = whole.append(ids, mask)
        for part, real in zip(ids.split(columns, 1), mask.split(columns, 1), strict=True):
            found = parts.append(part, real)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_sees_what_it_would_see_alone(name):
    decoder, model = make(name, 4), build(name)
    ids, mask, histories = blocks((5, 20, 1, 11))
    found = decoder.append(ids, mask)
    generator = torch.Generator().manual_seed(9)

    def check(going):
        for logits, row in zip(found, going, strict=True):
            expected = model(input_ids=torch.tensor([histories[row]])).logits[0, -1]
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)

    check([0, 1, 2, 3])
    for step in range(4):  # the second row's turn ends after the first token
        real = torch.tensor([True, step == 0, True, True])[:, None]
        column = torch.randint(VOCABULARY, (4, 1), generator=generator)
        found = decoder.append(column, real)
        for row in range(4):
            histories[row] += column[row, real[row]].tolist()
        open_ = [row for row in range(4) if real[row]]
        found = found[open_]
        check(open_)
    decoder.keep([1, 3])
    ids, mask, added = blocks((2, 18), seed=3)
    found = decoder.append(ids, mask)
    for row, more in zip((1, 3), added, strict=True):
        histories[row] += more
    check([1, 3])


def test_a_step_writes_in_place_and_copies_no_cache():
    decoder = make("llama", 2)
    ids, mask, _ = blocks((4, 4))
    decoder.append(ids, mask)
    layer = decoder.cache.layers[0]
    before = layer.keys.data_ptr(), layer.values.data_ptr()
    for _ in range(_SPARE - 4):
        decoder.append(ids[:, :1], mask[:, :1])
    assert (layer.keys.data_ptr(), layer.values.data_ptr()) == before
    assert layer.keys.shape[2] <= 4 + 2 * _SPARE and layer.length == _SPARE


def test_rows_that_left_take_no_room():
    decoder = make("llama", 3)
    ids, mask, _ = blocks((60, 3, 4))
    decoder.append(ids, mask)
    decoder.keep([1, 2])
    ids, mask, _ = blocks((2, 2))
    decoder.append(ids, mask)
    assert isinstance(decoder, CachedDecoder) and decoder.mask.shape == (2, 4 + 2)
    assert decoder.cache.layers[0].keys.shape[0] == 2


def test_the_context_ends_where_positions_of_a_whole_batch_change():
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = Phi3Config(**SIZE, original_max_position_embeddings=24, rope_parameters=rope)
    model = Phi3ForCausalLM(config).eval()
    assert context_of(model) == 24
    ids = torch.arange(30)[None] % VOCABULARY
    short, full, long = (model(input_ids=ids[:, :n]).logits[0, :20] for n in (20, 24, 30))
    torch.testing.assert_close(short, full[:20], atol=1e-5, rtol=0)
    assert (short - long).abs().max() > 1e-3  # later tokens change earlier ones
