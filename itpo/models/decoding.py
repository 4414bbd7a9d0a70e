"""Decoding token by token: the cache of a batch of rows, and the draw of a token.

A draw inverts the distribution function at a given uniform number, so that what a dialogue says is decided by its own numbers
and not by who else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor


@runtime_checkable
class Decoder(Protocol):
    """The keys and values of some rows, to which blocks of tokens are appended."""

    device: torch.device

    def append(self, ids: Int64[Tensor, "B W"], mask: Bool[Tensor, "B W"]) -> Float[Tensor, "B V"]:
        """Feed a left-padded block and return the logits after its last column; false in ``mask`` is padding."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these."""
        ...


def draw(probabilities: Float[Tensor, "B V"], uniform: Float64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """The token at which the distribution function of each row passes its ``uniform`` number, of at most 24 bits in [0, 1).

    A token of probability 0 is never drawn.

    >>> draw(torch.tensor([[0.2, 0.0, 0.8], [0.2, 0.0, 0.8]]), torch.tensor([0.1, 0.2], dtype=torch.float64)).tolist()
    [0, 2]
    """
    passed = probabilities.double().cumsum(1)
    # Scaled, since rounding keeps the sum from being 1; with 24 bits the product stays below the sum.
    return torch.searchsorted(passed, uniform[:, None] * passed[:, -1:], right=True).squeeze(1)
