"""Pretrained language models as the base of runs: as they are, or after a short imitation of a task's scripted policy.

A model of 135 M parameters knows how to write, and not how to tutor: left as it is, it answers at once and is nearly always
wrong, and reinforcement learning has nothing to reinforce. Imitating the noisy expert, as the tiny model does, gives it the
same start [O].
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from itpo.chat import ChatFormat
from itpo.models.fine_tuning import Encoded, fine_tune, threads
from itpo.models.loading import load_base
from itpo.models.packaged import smollm2
from itpo.models.tiny import scripted_dialogue
from itpo.specs import Imitation, PretrainedModel
from itpo.tasks.base import ScriptedTask

THREADS = 2  # of imitation, on every machine: sums depend on how work is divided [O]
# Models that a package brings, by the name under which a run asks for them.
PACKAGED: dict[str, Callable[[Path], Path]] = {"smollm2": smollm2}


def imitate(task: ScriptedTask, params: Any, spec: PretrainedModel, folder: Path) -> Path:
    """Fine-tune a pretrained model on conversations of a task's scripted policy, and save it as a Hugging Face folder.

    In float32, see :func:`itpo.models.fine_tuning.fine_tune`; without ``spec.imitation`` the model is saved as it is. On a CPU
    the arguments decide the result. Returns ``folder``. Raises as :func:`itpo.models.loading.load_base`, and ``ImportError``
    where the package that brings the model is missing.

    >>> from itpo.tasks.registry import get_task
    >>> task = get_task("math_prose")
    >>> imitate(task, task.noisy_expert, PretrainedModel("not a model"), Path("tuned"))
    Traceback (most recent call last):
        ...
    FileNotFoundError: not a model is neither a folder nor a model that can be reached ...
    """
    with TemporaryDirectory() as place:
        source = PACKAGED[spec.name](Path(place)) if spec.name in PACKAGED else spec.name
        model, tokenizer = load_base(source, device="cpu")
    if spec.imitation is not None:
        with threads(THREADS):
            _fit(model, ChatFormat(tokenizer), task, params, spec.imitation, folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _fit(
    model: Any, chat: ChatFormat, task: ScriptedTask, params: Any, spec: Imitation, folder: Path
) -> None:
    rng = random.Random(f"imitation/{spec.seed}")
    count, per_pass = spec.dialogues_per_step, spec.dialogues_per_pass

    def draw(rng: random.Random) -> Sequence[Encoded]:
        """Encode the conversations of one step."""
        return [chat.encode(scripted_dialogue(task, params, rng)[1], written=True) for _ in range(count)]

    rate, pad_id = spec.learning_rate, chat.pad_id
    fine_tune(model, draw, rng, spec.steps, rate, pad_id, dialogues_per_pass=per_pass, folder=folder)
