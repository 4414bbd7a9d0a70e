"""Turns against loops over lists, and against the invariances that hold for any dialogue."""

import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itpo import turns

SEED_MASK = torch.tensor(
    [
        [True, True, False, True, True, True, False, True],
        [False, False, True, True, False, False, False, False],
        [False] * 8,
    ]
)


def spans(row):
    """First and last position of each run of True, by walking over the row."""
    runs, start = [], None
    for position, inside in enumerate([*row, False]):
        if inside and start is None:
            start = position
        if not inside and start is not None:
            runs.append((start, position - 1))
            start = None
    return runs


def padded(rows, width):
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows], dtype=torch.float64)


def widths(mask):
    return max(1, *(len(spans(row)) for row in mask.tolist()), 0)


def test_shapes_are_checked_while_tests_run():
    with pytest.raises(jaxtyping.TypeCheckError):
        turns.aggregate(torch.zeros(2, 3), torch.zeros(2, 4, dtype=torch.int64))


def test_turn_ids_of_a_written_example():
    expected = [[0, 0, -1, 1, 1, 1, -1, 2], [-1, -1, 0, 0, -1, -1, -1, -1], [-1] * 8]
    assert turns.turn_ids(SEED_MASK).tolist() == expected


@given(data=st.data())
def test_token_functions_against_loops(batches, data):
    mask = data.draw(batches).response_mask
    ids, ends, last = [], [], []
    for row in mask.tolist():
        runs = spans(row)
        positions = range(len(row))
        ids.append([next((k for k, (a, b) in enumerate(runs) if a <= t <= b), -1) for t in positions])
        ends.append([any(t == b for _, b in runs) for t in positions])
        last.append([bool(runs) and t == runs[-1][1] for t in positions])
    turn_ids = turns.turn_ids(mask)
    assert turn_ids.tolist() == ids
    assert turns.turn_ends(turn_ids).tolist() == ends
    assert turns.trajectory_end(turn_ids).tolist() == last


@given(data=st.data())
def test_turn_functions_against_loops(batches, data):
    batch = data.draw(batches)
    mask, values = batch.response_mask, batch.token_rewards
    width = widths(mask)
    lengths = [[b - a + 1 for a, b in spans(row)] for row in mask.tolist()]
    sums = [
        [math.fsum(v[a : b + 1]) for a, b in spans(m)]
        for m, v in zip(mask.tolist(), values.tolist(), strict=True)
    ]
    flat = [n for row in lengths for n in row]
    mean_length = sum(flat) / len(flat) if flat else 0.0
    means = [[s / n for s, n in zip(*pair, strict=True)] for pair in zip(sums, lengths, strict=True)]

    turn_ids = turns.turn_ids(mask)
    torch.testing.assert_close(turns.turn_lengths(turn_ids).double(), padded(lengths, width))
    assert torch.equal(turns.turn_mask(turn_ids), padded(lengths, width) > 0)
    shares = [[n / sum(row) for n in row] for row in lengths]
    torch.testing.assert_close(turns.token_share(turn_ids, torch.float64), padded(shares, width))
    torch.testing.assert_close(turns.aggregate(values, turn_ids), padded(sums, width))
    torch.testing.assert_close(turns.aggregate(values, turn_ids, "mean"), padded(means, width))
    normalized = [[m * mean_length for m in row] for row in means]
    torch.testing.assert_close(
        turns.aggregate(values, turn_ids, "length_normalized"), padded(normalized, width)
    )


@given(data=st.data())
def test_placement_against_loops_and_back(batches, data):
    mask = data.draw(batches).response_mask
    turn_ids = turns.turn_ids(mask)
    values = torch.randn(turns.turn_mask(turn_ids).shape, dtype=torch.float64, generator=torch.Generator())
    expected = torch.zeros(mask.shape, dtype=torch.float64)
    for i, row in enumerate(mask.tolist()):
        for k, (_, end) in enumerate(spans(row)):
            expected[i, end] = values[i, k]
    placed = turns.place_at_turn_ends(values, turn_ids)
    assert torch.equal(placed, expected)
    kept = torch.where(turns.turn_mask(turn_ids), values, 0)
    assert torch.equal(turns.aggregate(placed, turn_ids), kept)


@given(data=st.data(), temperature=st.floats(0.05, 20))
def test_weights_against_loops(batches, data, temperature):
    batch = data.draw(batches)
    turn_ids = turns.turn_ids(batch.response_mask)
    scores, has_turn = turns.aggregate(batch.token_rewards, turn_ids), turns.turn_mask(turn_ids)
    rows = []
    for row, count in zip(scores.tolist(), has_turn.sum(-1).tolist(), strict=True):
        exps = [math.exp(score / temperature) for score in row[:count]]
        rows.append([e / sum(exps) for e in exps])
    weights = turns.normalize(scores, has_turn, temperature)
    torch.testing.assert_close(weights, padded(rows, scores.shape[1]))


@given(data=st.data(), shift=st.floats(-50, 50))
def test_weights_sum_to_one_and_ignore_a_shift(batches, data, shift):
    batch = data.draw(batches)
    turn_ids = turns.turn_ids(batch.response_mask)
    scores, has_turn = turns.aggregate(batch.token_rewards, turn_ids), turns.turn_mask(turn_ids)
    weights = turns.normalize(scores, has_turn, 0.4)
    torch.testing.assert_close(weights.sum(-1), has_turn.any(-1).double())
    assert (weights[~has_turn] == 0).all() and (weights >= 0).all()
    torch.testing.assert_close(turns.normalize(scores + shift, has_turn, 0.4), weights)


@given(data=st.data(), reduction=st.sampled_from(turns.REDUCTIONS))
def test_scores_ignore_padding_and_row_order(batches, data, reduction):
    batch = data.draw(batches)
    mask, values = batch.response_mask, batch.token_rewards
    scores = turns.aggregate(values, turns.turn_ids(mask), reduction)
    padding = torch.zeros(len(mask), 3, dtype=torch.bool)
    wide = turns.turn_ids(torch.cat([mask, padding], 1))
    torch.testing.assert_close(
        turns.aggregate(torch.nn.functional.pad(values, (0, 3)), wide, reduction), scores
    )
    order = torch.tensor(data.draw(st.permutations(range(len(mask)))))
    torch.testing.assert_close(
        turns.aggregate(values[order], turns.turn_ids(mask[order]), reduction), scores[order]
    )


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_dialogue_scores_the_same_alone_or_among_others(reduction):
    values = torch.arange(24.0).view(3, 8)
    together = turns.aggregate(values, turns.turn_ids(SEED_MASK), reduction)
    alone = turns.aggregate(values[1:2], turns.turn_ids(SEED_MASK[1:2]), reduction)
    assert alone.tolist() == together[1:2, :1].tolist()


def test_length_normalized_does_not_favour_long_turns():
    mask = torch.tensor([[True, True, True, True, False, True]])
    scores = turns.aggregate(torch.full((1, 6), 0.3), turns.turn_ids(mask), "length_normalized")
    torch.testing.assert_close(scores, torch.tensor([[0.75, 0.75]]))


def test_temperature_moves_weights_between_one_hot_and_uniform():
    scores, has_turn = torch.tensor([[1.0, 3.0, 2.0]]), torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(turns.normalize(scores, has_turn, 1e6), torch.full((1, 3), 1 / 3))
    assert turns.normalize(scores, has_turn, 1e-40).tolist() == [[0.0, 1.0, 0.0]]
    huge = turns.normalize(scores * 1e38, has_turn, 0.4)
    assert huge.tolist() == [[0.0, 1.0, 0.0]]


def test_values_of_user_tokens_never_reach_a_turn():
    turn_ids = turns.turn_ids(SEED_MASK)
    values = torch.where(SEED_MASK, 1.0, float("nan"))
    assert torch.equal(turns.aggregate(values, turn_ids), turns.turn_lengths(turn_ids).float())


def test_gradients_reach_assistant_tokens_only_and_stay_finite():
    values = torch.linspace(-1, 1, 24, dtype=torch.float64).view(3, 8).requires_grad_()
    turn_ids = turns.turn_ids(SEED_MASK)
    scores = turns.aggregate(values, turn_ids)
    weights = turns.normalize(scores, turns.turn_mask(turn_ids), 0.4)
    # Anomaly detection raises on a NaN anywhere inside the backward pass, even one that is masked later.
    with torch.autograd.set_detect_anomaly(True):
        weights[:, 0].sum().backward()
    # Row 0 has three turns; the only weight of row 1 is 1 whatever its score; row 2 has no turn at all.
    assert torch.equal(values.grad[0] != 0, SEED_MASK[0])
    assert (values.grad[1:] == 0).all()
    first = weights[0].detach()
    torch.testing.assert_close(values.grad[0, 0], first[0] * (1 - first[0]) / 0.4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_preserved(dtype):
    turn_ids = turns.turn_ids(SEED_MASK)
    values = torch.full(SEED_MASK.shape, 1 / 3, dtype=dtype)
    for reduction in turns.REDUCTIONS:
        scores = turns.aggregate(values, turn_ids, reduction)
        weights = turns.normalize(scores, turns.turn_mask(turn_ids), 0.4)
        placed = turns.place_at_turn_ends(weights, turn_ids)
        assert scores.dtype == weights.dtype == placed.dtype == dtype
    assert turns.token_share(turn_ids, dtype).dtype == dtype
    # No step in between may round to float32: mean value 1/3, mean turn length 4/3.
    expected = torch.tensor(4 / 9, dtype=dtype)
    three_turns = turns.turn_ids(torch.tensor([[True, False, True, True, False, True]]))
    scores = turns.aggregate(values[:1, :6], three_turns, "length_normalized")
    torch.testing.assert_close(scores[0, 0], expected, rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("shape", [(2, 3), (2, 0)])
def test_a_batch_without_assistant_tokens_gives_zeros(shape):
    turn_ids = turns.turn_ids(torch.zeros(shape, dtype=torch.bool))
    assert turns.turn_mask(turn_ids).tolist() == [[False], [False]]
    assert not turns.trajectory_end(turn_ids).any() and not turns.turn_ends(turn_ids).any()
    for reduction in turns.REDUCTIONS:
        scores = turns.aggregate(torch.ones(shape), turn_ids, reduction)
        assert scores.tolist() == [[0.0], [0.0]]
        assert turns.normalize(scores, turns.turn_mask(turn_ids), 0.4).tolist() == [[0.0], [0.0]]
    assert torch.equal(turns.place_at_turn_ends(torch.ones(2, 1), turn_ids), torch.zeros(shape))


IDS = turns.turn_ids(SEED_MASK)
SCORES = torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: turns.turn_ids(SEED_MASK.long()), "response_mask must be a bool"),
        (lambda: turns.turn_ids(SEED_MASK[0]), "response_mask must be a bool"),
        (lambda: turns.turn_lengths(IDS.int()), "turn_ids must be an int64"),
        (lambda: turns.turn_ends(IDS[0]), "turn_ids must be an int64"),
        (lambda: turns.trajectory_end(IDS.float()), "turn_ids must be an int64"),
        (lambda: turns.aggregate(torch.zeros(3, 7), IDS), r"\(3, 7\) do not match turn_ids"),
        (lambda: turns.aggregate(torch.zeros(3, 8), IDS, "median"), "sum, mean, length_normalized"),
        (lambda: turns.place_at_turn_ends(torch.zeros(3, 2), IDS), "at most 3 turns"),
        (lambda: turns.place_at_turn_ends(torch.zeros(2, 3), IDS), "hold 3 dialogues"),
        (lambda: turns.place_at_turn_ends(torch.zeros(1, 1), torch.tensor([[0, -1, 0]])), "not contiguous"),
        (lambda: turns.normalize(SCORES, turns.turn_mask(IDS), 0.0), "temperature must be positive"),
        (lambda: turns.normalize(SCORES, turns.turn_mask(IDS), -0.4), "temperature must be positive"),
        (lambda: turns.normalize(SCORES, turns.turn_mask(IDS), math.nan), "temperature must be positive"),
        (lambda: turns.normalize(SCORES, turns.turn_mask(IDS).long(), 0.4), "turn_mask must be bool"),
        (lambda: turns.normalize(SCORES[:, :2], turns.turn_mask(IDS), 0.4), "turn_mask must be bool"),
        (
            lambda: turns.normalize(SCORES + math.nan, turns.turn_mask(IDS), 0.4),
            r"rows \[0, 1\] are not finite",
        ),
    ],
)
def test_wrong_input_is_named(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
