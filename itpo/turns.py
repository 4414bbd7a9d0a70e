"""Turns of a dialogue as tensors: the turn of each token, sums over turns, and weights of turns.

A turn is one assistant message; user and padding tokens carry the turn id -1. In signatures B counts dialogues, T tokens and K
turns, where K is the largest number of turns in the batch and at least 1. Equation numbers are those of the ITPO paper.
"""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

REDUCTIONS = ("sum", "mean", "length_normalized")
NO_TURN = -1


def _check_turn_ids(turn_ids: Tensor) -> None:
    if turn_ids.ndim != 2 or turn_ids.dtype != torch.int64:
        raise ValueError(
            f"turn_ids must be an int64 tensor of shape (B, T), got {turn_ids.dtype} of shape "
            f"{tuple(turn_ids.shape)}; build it with itpo.turns.turn_ids(response_mask)"
        )


def _check_matches_tokens(values: Tensor, turn_ids: Tensor) -> None:
    _check_turn_ids(turn_ids)
    if values.shape != turn_ids.shape:
        raise ValueError(
            f"values of shape {tuple(values.shape)} do not match turn_ids of shape {tuple(turn_ids.shape)}; "
            "pass one value for each token of the same batch"
        )


def turn_ids(response_mask: Bool[Tensor, "B T"]) -> Int64[Tensor, "B T"]:
    """Number the turns of each dialogue from 0: the index sets T_k of eq. (4).

    A turn is an unbroken run of assistant tokens. Two assistant messages need at least one other token between them, which
    every chat template puts there. Raises ValueError unless the mask is a bool tensor of two dimensions.

    >>> turn_ids(torch.tensor([[True, True, False, True, False]])).tolist()
    [[0, 0, -1, 1, -1]]
    """
    if response_mask.ndim != 2 or response_mask.dtype != torch.bool:
        raise ValueError(
            f"response_mask must be a bool tensor of shape (B, T), got {response_mask.dtype} of shape "
            f"{tuple(response_mask.shape)}; convert it with mask.bool()"
        )
    starts = response_mask.clone()
    starts[:, 1:] &= ~response_mask[:, :-1]
    return torch.where(response_mask, starts.long().cumsum(-1) - 1, NO_TURN)


def turn_lengths(turn_ids: Int64[Tensor, "B T"]) -> Int64[Tensor, "B K"]:
    """Count the tokens of each turn, |T_k|, with 0 where a dialogue has no such turn.

    Raises ValueError unless `turn_ids` is an int64 tensor of two dimensions.

    >>> turn_lengths(torch.tensor([[0, 0, -1, 1], [0, -1, -1, -1]])).tolist()
    [[2, 1], [1, 0]]
    """
    _check_turn_ids(turn_ids)
    # K is at least 1 so that a batch without any assistant token still gives tensors that can be reduced.
    turns = max(1, int(turn_ids.max()) + 1) if turn_ids.numel() else 1
    counts = torch.zeros(turn_ids.shape[0], turns, dtype=torch.int64, device=turn_ids.device)
    return counts.scatter_add(1, turn_ids.clamp(min=0), (turn_ids >= 0).long())


def turn_mask(turn_ids: Int64[Tensor, "B T"]) -> Bool[Tensor, "B K"]:
    """Mark the turns that each dialogue has. Raises as `turn_lengths`.

    >>> turn_mask(torch.tensor([[0, 0, -1, 1], [0, -1, -1, -1]])).tolist()
    [[True, True], [True, False]]
    """
    return turn_lengths(turn_ids) > 0


def token_share(turn_ids: Int64[Tensor, "B T"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "B K"]:
    """Compute each turn's share of its dialogue's assistant tokens, |T_k| / sum_j |T_j|; all 0 in a dialogue without turns.

    Source: the released code shares the length penalty of a dialogue over its turns in this proportion; the paper states the
    penalty of the whole dialogue only. Raises as `turn_lengths`.

    >>> token_share(torch.tensor([[0, 0, 0, -1, 1], [-1, -1, -1, -1, -1]])).tolist()
    [[0.75, 0.25], [0.0, 0.0]]
    """
    lengths = turn_lengths(turn_ids).to(dtype)
    return lengths / lengths.sum(-1, keepdim=True).clamp(min=1)


def aggregate(
    values: Float[Tensor, "B T"], turn_ids: Int64[Tensor, "B T"], reduction: str = "sum"
) -> Float[Tensor, "B K"]:
    """Reduce token values to one score for each turn, R_k = sum_{t in T_k} r_t, in the units of `values`; 0 where there is no
    turn.

    Equation (4) for `reduction="sum"`. `"mean"` divides by the turn's length. `"length_normalized"` multiplies that mean by
    the mean turn length of the batch, so that long turns are not favoured and the scale stays that of a sum.

    Deviation from the paper: `"length_normalized"` is what the released code feeds to eq. (5). It makes a dialogue's scores
    depend on the batch it is in, which the other two do not.

    Raises ValueError for an unknown reduction, or if `values` and `turn_ids` differ in shape.

    >>> rewards, ids = torch.tensor([[1.0, 2.0, 9.0, 4.0]]), torch.tensor([[0, 0, -1, 1]])
    >>> aggregate(rewards, ids).tolist(), aggregate(rewards, ids, "mean").tolist()
    ([[3.0, 4.0]], [[1.5, 4.0]])
    >>> aggregate(rewards, ids, "length_normalized").tolist()
    [[2.25, 6.0]]
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}; choose one of {', '.join(REDUCTIONS)}")
    _check_matches_tokens(values, turn_ids)
    lengths = turn_lengths(turn_ids)
    sums = torch.zeros(lengths.shape, dtype=values.dtype, device=values.device)
    # `where`, not a product: a NaN or an infinity on a user token must not reach any turn.
    sums = sums.scatter_add(1, turn_ids.clamp(min=0), torch.where(turn_ids >= 0, values, 0))
    if reduction == "sum":
        return sums
    means = sums / lengths.clamp(min=1)
    if reduction == "mean":
        return means
    mean_turn_length = lengths.sum().to(values.dtype) / (lengths > 0).sum().clamp(min=1)
    return means * mean_turn_length


def turn_ends(turn_ids: Int64[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Mark the last token of each turn, where a turn's reward is placed. Raises as `turn_lengths`.

    >>> turn_ends(torch.tensor([[0, 0, -1, 1, -1]])).tolist()
    [[False, True, False, True, False]]
    """
    _check_turn_ids(turn_ids)
    ends = turn_ids >= 0
    ends[:, :-1] &= turn_ids[:, 1:] != turn_ids[:, :-1]
    return ends


def trajectory_end(turn_ids: Int64[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Mark the last assistant token of each dialogue, where the outcome is placed. Raises as `turn_lengths`.

    >>> trajectory_end(torch.tensor([[0, 0, -1, 1, -1]])).tolist()
    [[False, False, False, True, False]]
    """
    _check_turn_ids(turn_ids)
    assistant = turn_ids >= 0
    assistant_tokens_left = assistant.long().flip(-1).cumsum(-1).flip(-1)
    return assistant & (assistant_tokens_left == 1)


def place_at_turn_ends(values: Float[Tensor, "B K"], turn_ids: Int64[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Place each turn's value at the last token of that turn, and zero everywhere else.

    Source: the placement that follows eq. (4) and eq. (6) in the paper. Raises ValueError if `values` has another number of
    dialogues or turns than `turn_ids`, or if the tokens of a turn are not contiguous, which would place its value twice.

    >>> place_at_turn_ends(torch.tensor([[3.0, 4.0]]), torch.tensor([[0, 0, -1, 1, -1]])).tolist()
    [[0.0, 3.0, 0.0, 4.0, 0.0]]
    """
    has_turn = turn_mask(turn_ids)
    if values.shape != has_turn.shape:
        raise ValueError(
            f"values of shape {tuple(values.shape)} do not match turn_ids, which hold {has_turn.shape[0]} "
            f"dialogues of at most {has_turn.shape[1]} turns; compute both from the same batch"
        )
    ends = turn_ends(turn_ids)
    split = (ends.sum(-1) != has_turn.sum(-1)).nonzero().flatten()
    if split.numel():
        raise ValueError(
            f"turn_ids of rows {split.tolist()} name a turn whose tokens are not contiguous; "
            "build them with itpo.turns.turn_ids(response_mask)"
        )
    return torch.where(ends, values.gather(1, turn_ids.clamp(min=0)), 0)


def normalize(
    turn_scores: Float[Tensor, "B K"], turn_mask: Bool[Tensor, "B K"], temperature: float
) -> Float[Tensor, "B K"]:
    """Turn scores into the probability that each turn is the pivotal one, w_k = softmax_k(R_k / eta).

    Equation (5), with `temperature` for eta. The weights of a dialogue sum to 1, or to 0 where it has no turns.

    Raises ValueError for a temperature that is not positive and finite, for shapes that do not match, for a mask that is not
    bool, or for scores of existing turns that are not finite.

    >>> has_turn = torch.tensor([[True, True, False]])
    >>> normalize(torch.tensor([[0.0, 0.4, 7.0]]), has_turn, temperature=0.4).round(decimals=3).tolist()
    [[0.26899999380111694, 0.7310000061988831, 0.0]]
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite, got {temperature}; try 0.4")
    if turn_mask.dtype != torch.bool or turn_mask.shape != turn_scores.shape:
        raise ValueError(
            f"turn_mask must be bool and of the shape of turn_scores {tuple(turn_scores.shape)}, got "
            f"{turn_mask.dtype} of shape {tuple(turn_mask.shape)}; "
            "build it with itpo.turns.turn_mask(turn_ids)"
        )
    if not bool(torch.isfinite(turn_scores[turn_mask]).all()):
        rows = (~torch.isfinite(turn_scores) & turn_mask).any(-1).nonzero().flatten()
        raise ValueError(
            f"turn_scores of rows {rows.tolist()} are not finite; check the log-probabilities behind them"
        )
    # A finite filler, not -inf, keeps rows without any turn free of NaN, inside the backward pass too.
    filled = turn_scores.masked_fill(~turn_mask, torch.finfo(turn_scores.dtype).min)
    # The largest score is taken out before the division, so that a small temperature cannot overflow to NaN.
    logits = (filled - filled.amax(-1, keepdim=True).detach()) / temperature
    return torch.where(turn_mask, logits.softmax(-1), 0)
