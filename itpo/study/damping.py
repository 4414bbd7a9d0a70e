"""Why a split outcome is a damped one: the expected gradient of Norm-ITPO's rewards, turn by turn.

Reward w_k R at the end of turn k and returns summed from a turn on: the return of turn k is R (1 - sum over j < k of w_j). With
weights that do not depend on what is said, the expected gradient of turn k is therefore that of trajectory-share times one
minus the weight before it: later turns learn more slowly, and the direction of the whole gradient is another one. And where R
is 0 every return is 0: no turn is to blame, however low the PRM rates it. A baseline changes neither, as it adds nothing to
the expectation. Our own reading of eq. (6) [O].
"""

from __future__ import annotations

from itertools import product

import numpy as np
from jaxtyping import Float


def damping(weights: Float[np.ndarray, "*B K"]) -> Float[np.ndarray, "*B K"]:
    """What is left of the outcome in the return of each turn: one minus the weights before it.

    >>> damping(np.array([0.5, 0.25, 0.25])).tolist()
    [1.0, 0.5, 0.25]
    """
    return 1 - np.cumsum(weights, axis=-1) + weights


def expected_gradients(
    outcomes: Float[np.ndarray, "..."], chances: Float[np.ndarray, " K"], weights: Float[np.ndarray, "*P K"]
) -> Float[np.ndarray, " K"]:
    """The expected policy gradient of each of K turns that choose between two acts, by enumeration of all dialogues.

    ``outcomes[a_1, ..., a_K]`` is R after these acts, ``chances`` the probability of act 1 at each turn, the sigmoid of the
    turn's one parameter. ``weights`` split R over the turns, the same in every dialogue, or one line for each, in the order of
    ``outcomes``; all weight on the last turn is trajectory-share, whose gradient is that of the expected outcome.

    >>> both, even = np.array([[0.0, 0.0], [0.0, 1.0]]), np.array([0.5, 0.5])  # R = 1 if both acts are 1
    >>> expected_gradients(both, even, np.array([0.0, 1.0])).tolist()
    [0.125, 0.125]
    >>> expected_gradients(both, even, np.array([0.5, 0.5])).tolist()
    [0.125, 0.0625]
    """
    acts = np.array(list(product((0, 1), repeat=len(chances))))
    probability = np.where(acts == 1, chances, 1 - chances).prod(axis=1)
    returns = outcomes.reshape(-1)[:, None] * damping(weights)
    return np.asarray((probability[:, None] * (acts - chances) * returns).sum(axis=0))
