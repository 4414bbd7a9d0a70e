"""Rankings of dialogues and of their turns and tokens: arrays in, arrays out.

S observed steps, P dialogues of the monitor set, M items of a dialogue (turns or tokens). Equation and claim numbers are those
of the ITPO paper. A number that the data do not determine is ``nan``, never an exception; the docstrings say when.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy import stats

from itpo import turns


def kendall_ceiling(success: float | ArrayLike, dialogues: int) -> Float[np.ndarray, "..."]:
    """The largest tau-b that scores without ties can reach against yes/no outcomes, sqrt(2 p (1 - p) n / (n - 1)).

    Between untied scores and outcomes of which a share p is 1, ``tau_b = (2 AUC - 1) * ceiling``: tau-b falls when success
    moves away from one half, however well the scores rank. Source: the definition of tau-b with n0 n1 untied pairs.

    ``nan`` where p is 0 or 1 or ``nan``. Errors: ValueError for fewer than two dialogues.

    >>> kendall_ceiling([0.5, 0.9, 1.0], dialogues=10).round(3).tolist()
    [0.745, 0.447, nan]
    """
    if dialogues < 2:
        raise ValueError(f"tau ranks pairs of dialogues, got {dialogues} dialogue(s); pass at least 2")
    share = np.asarray(success, dtype=float)
    ceiling = np.sqrt(np.clip(2 * share * (1 - share), 0, None) * dialogues / (dialogues - 1))
    return np.where((share > 0) & (share < 1), ceiling, np.nan)


def tau_ceiling(outcomes: ArrayLike) -> float:
    """The largest tau-b that scores without ties can reach against these outcomes, graded ones too: sqrt(untied pairs / pairs).

    For outcomes of 0 and 1 it is :func:`kendall_ceiling`. ``nan`` where all are equal. Errors: ValueError for fewer than two.

    >>> round(tau_ceiling([0.0, 0.2, 0.2, 1.0]), 3), tau_ceiling([1.0, 1.0])
    (0.913, nan)
    """
    values = np.asarray(outcomes, dtype=float)
    if len(values) < 2:
        raise ValueError(f"tau ranks pairs of dialogues, got {len(values)} dialogue(s); pass at least 2")
    counts = np.unique(values, return_counts=True)[1]
    tied = float((counts * (counts - 1)).sum()) / (len(values) * (len(values) - 1))
    return math.sqrt(1 - tied) if tied < 1 else float("nan")


def step_above_for_good(steps: ArrayLike, values: ArrayLike, level: float) -> float:
    """First step from which a curve never falls below ``level`` again; ``nan`` if it ends below (or at ``nan``).

    >>> step_above_for_good([0, 5, 10, 15], [0.9, 0.5, 0.8, 0.9], level=0.8)
    10.0
    """
    at, above = np.asarray(steps, dtype=float), np.asarray(values, dtype=float) >= level
    if not len(at) or not above[-1]:
        return float("nan")
    below = np.flatnonzero(~above)
    return float(at[below[-1] + 1]) if len(below) else float(at[0])


def spearman_rows(
    first: Float[np.ndarray, "*rows M"],
    second: Float[np.ndarray, "*rows M"],
    mask: Bool[np.ndarray, "*rows M"],
) -> Float[np.ndarray, "*rows"]:
    """Spearman's rank correlation of two score lists, for every row at once and over the items that ``mask`` marks.

    Ties share their mean rank (scipy takes lists of one length). ``nan`` for a row with fewer than two items,
    or in which one list is constant: it has no order to compare. Scores off the mask are never read.

    >>> a, b = np.array([[1.0, 2.0, 9.0], [1.0, 1.0, 1.0]]), np.array([[5.0, 4.0, 0.0], [1.0, 2.0, 3.0]])
    >>> spearman_rows(a, b, np.array([[True, True, False], [True, True, True]])).tolist()
    [-1.0, nan]
    """
    ranks = [_centred_ranks(np.where(mask, scores, np.nan), mask) for scores in (first, second)]
    norms = np.sqrt((ranks[0] ** 2).sum(-1) * (ranks[1] ** 2).sum(-1))
    return np.divide((ranks[0] * ranks[1]).sum(-1), norms, out=np.full(norms.shape, np.nan), where=norms > 0)


def _centred_ranks(scores: Float[np.ndarray, "*rows M"], mask: Bool[np.ndarray, "*rows M"]) -> np.ndarray:
    ranks = np.where(mask, stats.rankdata(scores, axis=-1, nan_policy="omit"), 0.0)
    # Ranks are multiples of one half, so their sums are exact and a constant row is exactly zero.
    return np.where(mask, ranks - ranks.sum(-1, keepdims=True) / mask.sum(-1, keepdims=True).clip(1), 0.0)


def spearman_to_final(
    values: Float[np.ndarray, "S P M"], mask: Bool[np.ndarray, "P M"]
) -> Float[np.ndarray, "S P"]:
    """Rank correlation of each dialogue's items at each step with those at the last step (the paper's Figure 3, C5).

    The last row is 1 by construction, or ``nan`` where :func:`spearman_rows` is.

    >>> values = np.array([[[1.0, 3.0, 2.0]], [[1.0, 2.0, 3.0]]])
    >>> spearman_to_final(values, np.ones((1, 3), dtype=bool)).tolist()
    [[0.5], [1.0]]
    """
    return spearman_rows(
        values, np.broadcast_to(values[-1], values.shape), np.broadcast_to(mask, values.shape)
    )


def mean_defined(values: Float[np.ndarray, "S P"]) -> Float[np.ndarray, " S"]:
    """Mean over dialogues of each step's defined numbers; ``nan`` at a step that has none.

    >>> mean_defined(np.array([[1.0, np.nan], [np.nan, np.nan]])).tolist()
    [1.0, nan]
    """
    defined = np.isfinite(values)
    count = defined.sum(1)
    total = np.where(defined, values, 0.0).sum(1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def sample_items(
    mask: Bool[np.ndarray, "P M"], counts: Int[np.ndarray, " P"], rng: np.random.Generator
) -> Bool[np.ndarray, "P M"]:
    """Draw ``counts[p]`` of the items that ``mask`` marks in row p, without replacement, all subsets equally likely.

    A row with fewer items keeps all of them. Used to compare tokens with turns at an equal number of items [O].

    >>> sample_items(np.array([[True, True, False]]), np.array([2]), np.random.default_rng(0)).tolist()
    [[True, True, False]]
    """
    keys = np.where(mask, rng.random(mask.shape), 2.0)
    return mask & (keys.argsort(1).argsort(1) < counts[:, None])


def shuffle_items(mask: Bool[np.ndarray, "P M"], rng: np.random.Generator) -> Int[np.ndarray, "P M"]:
    """A random permutation of the marked positions of every row, as indices; the other positions stay.

    ``np.take_along_axis(values, shuffle_items(mask, rng), 1)`` moves a dialogue's values among its assistant tokens, so
    that its turns become random groups of tokens of the same sizes [O].

    >>> shuffle_items(np.array([[True, False, True]]), np.random.default_rng(1)).tolist()
    [[2, 1, 0]]
    """
    # Both orders list the marked positions first: the plain one by position, the random one by a random key.
    plain = np.argsort(np.where(mask, 0.0, 1.0), axis=1, kind="stable")
    drawn = np.argsort(np.where(mask, rng.random(mask.shape), 2.0), axis=1, kind="stable")
    result = np.empty(mask.shape, dtype=np.int64)
    np.put_along_axis(result, plain, drawn, 1)
    return result


def sum_turns(
    values: Float[np.ndarray, "S P T"], turn_ids: Int[np.ndarray, "P T"]
) -> Float[np.ndarray, "S P K"]:
    """Equation (4) at each of S steps: :func:`itpo.turns.aggregate` for arrays.

    >>> sum_turns(np.array([[[1.0, 2.0, 9.0, 4.0]]]), np.array([[0, 0, -1, 1]])).tolist()
    [[[3.0, 4.0]]]
    """
    ids = torch.from_numpy(turn_ids)
    return np.stack([turns.aggregate(torch.from_numpy(step), ids).numpy() for step in values])


def rank_stability(
    token_rewards: Float[np.ndarray, "S P T"],
    turn_ids: Int[np.ndarray, "P T"],
    rng: np.random.Generator,
    draws: int = 20,
) -> dict[str, Float[np.ndarray, " S"]]:
    """How far the order within a dialogue is that of the last step, for turns (4), tokens (2) and two controls [O].

    Keys: "turns"; "tokens"; "few tokens", as many random tokens as the dialogue has turns, since short rankings and long
    ones are not alike; "token groups", token rewards shuffled in their dialogue before they are summed over turns of
    the same sizes, which tells what summing alone does. The controls are means over ``draws``. Each number is a mean
    over the dialogues in which it is defined.

    >>> rewards = np.array([[[1.0, 5.0, 0.0, 2.0]], [[1.0, 2.0, 0.0, 4.0]]])
    >>> curves = rank_stability(rewards, np.array([[0, 0, -1, 1]]), np.random.default_rng(0))
    >>> curves["turns"].round(1).tolist(), curves["tokens"].round(1).tolist()
    ([-1.0, 1.0], [0.5, 1.0])
    """
    token_mask = turn_ids >= 0
    turn_mask = turns.turn_mask(torch.from_numpy(turn_ids)).numpy()
    few, groups = [], []
    for _ in range(draws):
        some = sample_items(token_mask, turn_mask.sum(1), rng)
        few.append(mean_defined(spearman_to_final(token_rewards, some)))
        shuffled = np.take_along_axis(token_rewards, shuffle_items(token_mask, rng)[None], 2)
        groups.append(mean_defined(spearman_to_final(sum_turns(shuffled, turn_ids), turn_mask)))
    return {
        "turns": mean_defined(spearman_to_final(sum_turns(token_rewards, turn_ids), turn_mask)),
        "tokens": mean_defined(spearman_to_final(token_rewards, token_mask)),
        "few tokens": np.mean(few, axis=0),
        "token groups": np.mean(groups, axis=0),
    }


def relative_to_largest(values: Float[np.ndarray, "S M"]) -> Float[np.ndarray, "S M"]:
    """Divide every row by its largest absolute value, so that it lies in [-1, 1] and keeps its signs; zeros stay zeros.

    >>> relative_to_largest(np.array([[1.0, -2.0], [0.0, 0.0]])).tolist()
    [[0.5, -1.0], [0.0, 0.0]]
    """
    largest = np.abs(values).max(-1, keepdims=True)
    return np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
