"""What the benchmarks of real models share: SmolLM2's shape with random weights, and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()  # of reading weights: noise among the numbers

VOCABULARY = 49152


def smollm2_shape(layers: int = 30) -> LlamaForCausalLM:
    """SmolLM2-135M with random weights: memory and time do not depend on what it says."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def seconds(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The least time of each call: processor time of one thread, which waits for nothing, and so of an idle machine.

    Where there is a GPU, seconds until it has done all that the call asked of it. The calls take turns, so that a busy moment
    meets all alike.
    """
    gpu = torch.cuda.is_available()
    clock = time.perf_counter if gpu else time.process_time
    laps: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            if gpu:
                torch.cuda.synchronize()
            laps[name].append(clock() - start)
    return {name: min(found) for name, found in laps.items()}
