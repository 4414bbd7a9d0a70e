"""Supervised fine-tuning on the assistant's tokens of conversations: the one loop behind tiny models and imitation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy, pad

Encoded = tuple[Sequence[int], Sequence[bool]]  # ids and response mask of a conversation


def fine_tune(
    model: Any,
    draw: Callable[[], Sequence[Encoded]],
    steps: int,
    learning_rate: float,
    pad_id: int,
    *,
    weight_decay: float = 0.0,
    dialogues_per_pass: int | None = None,
    head_everywhere: bool = False,
) -> None:
    """Train all weights on the conversations that ``draw`` returns at each step, the assistant's tokens alone.

    AdamW with linear learning-rate decay and gradients clipped at norm 1. ``dialogues_per_pass`` bounds what must fit into
    memory (``None``: no bound) and changes results by rounding only. So does ``head_everywhere``, which applies the
    vocabulary's head to all tokens instead of those that predict an assistant's token.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=10, **size))
    >>> conversation = [1, 2, 7], [False, False, True]
    >>> fine_tune(model, lambda: [conversation], steps=60, learning_rate=0.05, pad_id=0)
    >>> int(model(torch.tensor([[1, 2]])).logits[0, -1].argmax())
    7
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    for _ in range(steps):
        encoded = draw()
        tokens = sum(sum(mask) for _, mask in encoded)
        size = dialogues_per_pass or len(encoded)
        optimizer.zero_grad()
        for start in range(0, len(encoded), size):
            loss = _summed_loss(model, encoded[start : start + size], pad_id, head_everywhere)
            (loss / tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _summed_loss(
    model: Any, encoded: Sequence[Encoded], pad_id: int, head_everywhere: bool = False
) -> torch.Tensor:
    """Cross-entropy (nats), summed over the assistant's tokens."""
    width = max(len(ids) for ids, _ in encoded)
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row, _ in encoded])
    mask = torch.tensor([[*row, *[False] * (width - len(row))] for _, row in encoded])
    predicts = pad(mask[:, 1:], (0, 1))
    states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    logits = head(states)[predicts] if head_everywhere else head(states[predicts])
    return cross_entropy(logits, ids[mask], reduction="sum")
