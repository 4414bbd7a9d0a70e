"""Dialogues and the token batch that every estimator reads.

A dialogue exists twice: as text, which users and scores read, and as the exact token ids that the policy
sampled, which are kept and never re-tokenised (decoding and encoding again may change them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from itpo.chat_template import Message
from itpo.turns import turn_ids as number_turns


@dataclass(frozen=True)
class Dialogue:
    """A finished conversation: text, the token ids it was made of, and its outcome.

    ``response_mask[t]`` is true where the policy chose token ``t``; ``sampled_logp[t]`` is the log-probability
    it had when it was chosen (nats; 0 at the other tokens). ``outcome`` is the task's score in [0, 1]. ``failure``
    says why the user or the judge of the outcome failed, where one did, or that the context was full: the outcome then means
    nothing. The policy's first turn begins after ``prompt_length`` tokens; ``None``: with the first token that it chose.
    """

    example: Any
    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    response_mask: tuple[bool, ...]
    sampled_logp: tuple[float, ...]
    outcome: float
    failure: str | None = None
    prompt_length: int | None = None

    @property
    def assistant_turns(self) -> int:
        """How many assistant turns the dialogue has."""
        return sum(message.role == "assistant" for message in self.messages)


@dataclass(frozen=True)
class TokenBatch:
    """B dialogues as right-padded tensors of T tokens; rows of one group (same prompt) are contiguous.

    ``sampled_logp`` is the log-probability (nats) that a response token had when it was sampled, 0 at other tokens.
    """

    input_ids: Int64[Tensor, "B T"]
    attention_mask: Bool[Tensor, "B T"]
    response_mask: Bool[Tensor, "B T"]
    turn_ids: Int64[Tensor, "B T"]
    outcome: Float[Tensor, " B"]
    sampled_logp: Float[Tensor, "B T"]
    group_size: int
    prompt_lengths: Int64[Tensor, " B"] | None = None

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def lengths(self) -> Int64[Tensor, " B"]:
        """Number of real tokens of each row."""
        return self.attention_mask.sum(1)

    @property
    def kept(self) -> Bool[Tensor, " B"]:
        """Which rows have a response: those that were not left out."""
        return self.response_mask.any(1)

    @property
    def response_lengths(self) -> Float[Tensor, " B"]:
        """Tokens after the prompt (assistant and user): the N of the length penalty ``S = R - lambda N`` [S]."""
        first = self.response_mask.int().argmax(1) if self.prompt_lengths is None else self.prompt_lengths
        first = torch.where(self.response_mask.any(1), first, self.lengths)
        return (self.lengths - first).to(self.outcome.dtype)

    def without(self, rows: Sequence[int]) -> TokenBatch:
        """The same batch with the responses of these rows masked out: they earn nothing, teach nothing and leave their group.

        >>> d = Dialogue(None, (), (5, 6), (False, True), (0.0, -0.1), 1.0)
        >>> collate([d, d], group_size=2, pad_id=0).without([1]).response_mask.tolist()
        [[False, True], [False, False]]
        """
        if not rows:
            return self
        mask = self.response_mask.clone()
        mask[list(rows)] = False
        return replace(self, response_mask=mask, turn_ids=number_turns(mask))


def collate(dialogues: Sequence[Dialogue], group_size: int, pad_id: int) -> TokenBatch:
    """Stack dialogues into one right-padded batch, in which those with a ``failure`` have no responses.

    Padding is marked by the attention mask alone, never by the token id. Raises ``ValueError`` for an empty list or
    a number of dialogues that ``group_size`` does not divide.

    >>> d = Dialogue(None, (), (5, 6, 7), (False, True, True), (0.0, -0.1, -0.2), 1.0)
    >>> collate([d, d], group_size=2, pad_id=0).turn_ids.tolist()
    [[-1, 0, 0], [-1, 0, 0]]
    """
    if not dialogues or len(dialogues) % group_size:
        raise ValueError(
            f"cannot form groups of {group_size} from {len(dialogues)} dialogues: "
            "pass a positive multiple of group_size"
        )
    width = max(len(d.ids) for d in dialogues)

    def pad(rows: list[Sequence[Any]], fill: Any, dtype: torch.dtype) -> Tensor:
        return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=dtype)

    response_mask = pad([d.response_mask for d in dialogues], False, torch.bool)
    return TokenBatch(
        input_ids=pad([d.ids for d in dialogues], pad_id, torch.int64),
        attention_mask=pad([[True] * len(d.ids) for d in dialogues], False, torch.bool),
        response_mask=response_mask,
        turn_ids=number_turns(response_mask),
        outcome=torch.tensor([d.outcome for d in dialogues], dtype=torch.float32),
        sampled_logp=pad([d.sampled_logp for d in dialogues], 0.0, torch.float32),
        group_size=group_size,
        prompt_lengths=torch.tensor([_prompt_length(d) for d in dialogues]),
    ).without([row for row, d in enumerate(dialogues) if d.failure is not None])


def _prompt_length(dialogue: Dialogue) -> int:
    if dialogue.prompt_length is not None:
        return dialogue.prompt_length
    return next((t for t, chosen in enumerate(dialogue.response_mask) if chosen), len(dialogue.ids))
