"""What every run of a task, base model and seed has alike: made once, and kept in the store.

Warm-up batches, the monitor set and the evaluation before training depend on neither method nor estimator: the reference
speaks, or a policy that still equals it. What the warm-up batches teach a PRM depends on its own settings alone. Only what is
the same bit for bit is shared: whatever decides it, the numeric platform included, decides the folder's name.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from itpo.config import TaskSpec
from itpo.dialogue import Dialogue, Message, TokenBatch, collate
from itpo.runs.files import json_lines, read_json_lines
from itpo.runs.platform import numeric_platform
from itpo.runs.store import Run, Store
from itpo.training.learner import Learner

# Settings of a run that decide what the reference says, and when too much is lost.
SPEAKING = ("max_turn_tokens", "max_rows", "read_budget", "thought_credit", "thought_tags", "max_failed")
# And the rounding of its log-probabilities.
_DECIDING = (*SPEAKING, "token_budget", "head_chunk")
# Beside these, what decides how the PRM is taught by the warm-up batches.
_TEACHING = [
    "seed",
    "prompts",
    "rollouts",
    "warmup",
    "prm_lr",
    "prm_minibatches",
    "prm_clip_norm",
    "adapter",
    "model",
]


class Held(NamedTuple):
    """Dialogues of the reference, as a batch too, and its log-probabilities of the responses (nats)."""

    dialogues: list[Dialogue]
    batch: TokenBatch
    reference: Float[Tensor, "B T"]


def can_share(learner: Learner, run: Run | None) -> bool:
    """Whether other runs have the same dialogues of the reference.

    Those of a scripted task have, if they are held by the library's own engine, on a CPU, from a noted base.
    """
    own = isinstance(learner.config.task, TaskSpec) and learner.engine is None
    return own and learner.backbone.device.type == "cpu" and run is not None and run.inputs is not None


def hold(
    learner: Learner, run: Run | None, stream: str, prompts: int, rollouts: int, evaluate: bool = False
) -> Held:
    """Dialogues of the reference by :meth:`itpo.training.learner.Learner.collect`, or those that the run's store has.

    Raises as that method, and as :meth:`itpo.runs.store.Store.artifact`.
    """
    if not can_share(learner, run):
        return _hold(learner, stream, prompts, rollouts, evaluate)
    assert run is not None and run.inputs is not None
    held: list[Held] = []

    def keep(folder: Path) -> None:
        """Hold them, and write them down."""
        held.append(_hold(learner, stream, prompts, rollouts, evaluate))
        lines = map(_plain, held[0].dialogues)
        (folder / "dialogues.jsonl").write_bytes(json_lines(lines))
        save_file({"reference": held[0].reference.contiguous()}, folder / "reference.safetensors")

    asked = {"stream": stream, "prompts": prompts, "rollouts": rollouts, "evaluate": evaluate}
    folder = Store(run.folder.parent).artifact("dialogues", _deciding(learner, run) | asked, keep)
    if held:
        return held[0]
    task = learner.evaluation if evaluate else learner.task
    examples = [task.sample(random.Random(f"{stream}/problem/{number}")) for number in range(prompts)]
    lines = read_json_lines(folder / "dialogues.jsonl")
    dialogues = [_dialogue(line, examples[number // rollouts]) for number, line in enumerate(lines)]
    batch = collate(dialogues, rollouts, learner.chat.pad_id)
    return Held(dialogues, batch, load_file(folder / "reference.safetensors")["reference"])


Metrics = list[dict[str, float]]


def teach_once(learner: Learner, run: Run, teach: Callable[[], Metrics]) -> Metrics:
    """The metrics of the warm-up, after which the PRM is as ``teach`` leaves it, or left it for another run of the store.

    A critic learns the returns of its own method, and a judge may leave dialogues out, so that a learner with either is taught
    each time. Raises as :meth:`itpo.runs.store.Store.artifact`, and whatever ``teach`` raises.
    """
    alone = set(learner.optimizers) == {"policy", "prm"} and not learner.method.needs_judge
    if not (alone and can_share(learner, run)):
        return teach()
    config = learner.config
    deciding = _deciding(learner, run) | {name: getattr(config, name) for name in _TEACHING}
    taught: list[Metrics] = []

    def keep(folder: Path) -> None:
        """Teach the PRM, and write down what it has become."""
        taught.append(teach())
        (folder / "metrics.jsonl").write_bytes(json_lines(taught[0]))
        save_file(
            {key: tensor.contiguous() for key, tensor in learner.state(["prm"]).items()},
            folder / "prm.safetensors",
        )

    folder = Store(run.folder.parent).artifact("warmup", deciding | {"beta": config.method.beta}, keep)
    if not taught:
        learner.take_state(load_file(folder / "prm.safetensors"), ["prm"])
        lines = read_json_lines(folder / "metrics.jsonl")  # where JSON has null for what is no number
        taught.append([{k: math.nan if v is None else v for k, v in line.items()} for line in lines])
    return taught[0]


def _deciding(learner: Learner, run: Run) -> dict[str, Any]:
    """What decides the dialogues of the reference and its log-probabilities, but for the stream."""
    assert run.inputs is not None
    config = learner.config
    settings: dict[str, Any] = {name: getattr(config, name) for name in _DECIDING}
    return settings | {"task": config.task, "base": run.inputs["base model"], "platform": numeric_platform()}


def _hold(learner: Learner, stream: str, prompts: int, rollouts: int, evaluate: bool) -> Held:
    dialogues, batch = learner.collect(stream, prompts, rollouts, None, evaluate=evaluate)
    return Held(dialogues, batch, learner.log_probs(batch, None))


def _plain(dialogue: Dialogue) -> dict[str, Any]:
    """A dialogue as JSON, but for its example, which its stream decides."""
    record = {name: value for name, value in vars(dialogue).items() if name != "example"}
    return record | {"messages": [message.as_dict() for message in dialogue.messages]}


def _dialogue(record: dict[str, Any], example: Any) -> Dialogue:
    messages = tuple(Message(**message) for message in record.pop("messages"))
    parts: dict[str, Any] = {
        name: tuple(record.pop(name)) for name in ("ids", "response_mask", "sampled_logp")
    }
    return Dialogue(example, messages, **parts, **record)
