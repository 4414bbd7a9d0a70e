"""Decoding with any model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import DynamicCache


class CachedDecoder:
    """The growing cache of transformers, for any of its models.

    Positions follow the mask, so that ragged rows see what they would see alone.
    """

    def __init__(self, model: Any, rows: int) -> None:
        self.model, self.device = model, next(model.parameters()).device
        self.values = DynamicCache()
        self.mask = torch.zeros((rows, 0), dtype=torch.bool, device=self.device)

    def append(self, ids: Int64[Tensor, "B W"], mask: Bool[Tensor, "B W"]) -> Float[Tensor, "B V"]:
        """Feed a left-padded block and return the logits after its last column."""
        self.mask = torch.cat([self.mask, mask], dim=1)
        positions = (self.mask.long().cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        output = self.model(
            input_ids=ids,
            attention_mask=self.mask.long(),
            position_ids=positions,
            past_key_values=self.values,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these."""
        index = torch.tensor(rows, device=self.device)
        self.values.batch_select_indices(index)
        self.mask = self.mask[index]
