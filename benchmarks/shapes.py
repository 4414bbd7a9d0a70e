"""What the benchmarks of real models share: SmolLM2's shape with random weights, seconds, and bytes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
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
    """The least processor time of each call: that of one thread, which waits for nothing, and so of an idle machine.

    The calls take turns, so that a busy moment meets all alike.
    """
    laps: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.process_time()
            call()
            laps[name].append(time.process_time() - start)
    return {name: min(found) for name, found in laps.items()}


def peak_bytes(call: Callable[[], Any], below: float = math.inf) -> int:
    """The most that a call allocates on the CPU beyond what there was, in blocks of fewer bytes than ``below``."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        call()
    assert measured.profiler is not None and measured.profiler.kineto_results is not None
    events = [e for e in measured.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes() if abs(event.nbytes()) < below else 0
        most = max(most, held)
    return most


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters, with the scales of 4-bit ones."""
    size = 0
    for parameter in model.parameters():
        size += parameter.numel() * parameter.element_size()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            scales = (state.absmax, state.state2.absmax)
            size += sum(scale.numel() * scale.element_size() for scale in scales)
    return size
