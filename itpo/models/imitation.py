"""Pretrained language models as the base of runs: as they are, or after a short imitation of a task's scripted tutor.

A model of 135 M parameters knows how to write, and not how to tutor: left as it is, it answers at once and is nearly always
wrong, and reinforcement learning has nothing to reinforce. Imitating the same noisy_expert that the embedded model imitates gives it
the same start [O].
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from itpo.dialogue import ChatFormat
from itpo.models.loading import load_base
from itpo.models.packaged import smollm2
from itpo.models.tiny import scripted_dialogue
from itpo.specs import Imitation, PretrainedModel
from itpo.tasks.base import ScriptedTask

THREADS = 2  # of imitation, on every machine: sums depend on how work is divided [O]
# Models that a package brings, by the name under which a run asks for them.
PACKAGED: dict[str, Callable[[Path], Path]] = {"smollm2": smollm2}


def imitate(task: ScriptedTask, params: Any, spec: PretrainedModel, folder: Path) -> Path:
    """Fine-tune a pretrained model on conversations of the scripted tutor, and save it as a Hugging Face folder.

    Supervised on assistant tokens only, in float32, with linear learning-rate decay; without ``spec.imitation`` the model is
    saved as it is. On a CPU the arguments decide the result. Returns ``folder``. Errors: as :func:`itpo.models.loading.load_base`, and
    ``ImportError`` where the package that brings the model is missing.

    >>> from itpo.models.tiny import pretrain_by_imitation
    >>> from itpo.specs import TinyLM
    >>> from itpo.tasks.registry import get_task
    >>> task, tiny = get_task("math"), TinyLM(hidden_size=16, layers=1, heads=2, steps=1)
    >>> with TemporaryDirectory() as place:
    ...     base = pretrain_by_imitation(task, task.noisy_expert, tiny, Path(place) / "base")
    ...     spec = PretrainedModel(str(base), imitation=Imitation(steps=1, dialogues_per_step=2))
    ...     (imitate(task, task.noisy_expert, spec, Path(place) / "tuned") / "model.safetensors").is_file()
    True
    """
    with TemporaryDirectory() as place:
        source = PACKAGED[spec.name](Path(place)) if spec.name in PACKAGED else spec.name
        model, tokenizer = load_base(source, device="cpu")
    if spec.imitation is not None:
        with _threads(THREADS):
            _fit(model, ChatFormat(tokenizer), task, params, spec.imitation)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(model: Any, chat: ChatFormat, task: ScriptedTask, params: Any, spec: Imitation) -> None:
    rng = random.Random(f"imitation/{spec.seed}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=spec.steps)
    for _ in range(spec.steps):
        said = [scripted_dialogue(task, params, rng)[1] for _ in range(spec.dialogues_per_step)]
        encoded = [chat.encode(messages) for messages in said]
        tokens = sum(sum(mask) for _, mask in encoded)
        optimizer.zero_grad()
        for start in range(0, len(encoded), spec.dialogues_per_pass):
            part = encoded[start : start + spec.dialogues_per_pass]
            (_loss(model, chat.pad_id, part) / tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _loss(model: Any, pad_id: int, encoded: list[tuple[list[int], list[bool]]]) -> torch.Tensor:
    """Summed cross-entropy of the assistant's tokens; the vocabulary's head is applied to their positions only."""
    width = max(len(ids) for ids, _ in encoded)
    ids = torch.tensor([row + [pad_id] * (width - len(row)) for row, _ in encoded])
    mask = torch.tensor([kept + [False] * (width - len(kept)) for _, kept in encoded])
    states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    logits = model.get_output_embeddings()(states[mask[:, 1:]])
    return cross_entropy(logits, ids[mask], reduction="sum")
