"""A method from outside the package, with an entry of its own: most of the outcome goes to the last turn."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from itpo import turns
from itpo.attribution import Claim, MethodEntry


def last_turn(
    outcome: Float[Tensor, " B"], turn_ids: Int64[Tensor, "B T"], share: float = 0.5
) -> Float[Tensor, "B T"]:
    """``share`` of the outcome for the last turn, the rest equally for all turns of the dialogue."""
    mask = turns.turn_mask(turn_ids)
    count = mask.sum(-1, keepdim=True)
    last = torch.arange(mask.shape[1]) == count - 1
    weights = mask * ((1 - share) / count.clamp(min=1) + share * last)
    return turns.place_at_turn_ends(weights * outcome[:, None], turn_ids)


ENTRY = MethodEntry(
    "own_method:ENTRY",
    "Last turn",
    last_turn,
    "turn",
    color="#8c2d04",
    claims=(Claim("X1", "trajectory_share"), Claim("X2", "prime")),
    version=1,
)
