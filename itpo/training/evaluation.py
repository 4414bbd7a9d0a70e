"""What a run measures without learning: evaluations on fresh problems, and the monitor set.

The monitor set is a few fixed dialogues of the reference; what PRM and critic say of them is kept over training.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from itpo import prm
from itpo.dialogue import Dialogue, TokenBatch, collate
from itpo.runs.store import Run
from itpo.training.learner import DialoguesLost, Learner
from itpo.training.sharing import can_share, hold

FINAL = 2  # times the problems of an evaluation are those of the last one, on which results are compared [O]
ATTEMPTS = 4  # at a whole monitor set, the further ones for the dialogues that were lost alone [O]


class MonitorSet(NamedTuple):
    """Fixed dialogues of the reference, and its log-probabilities of their responses (nats)."""

    batch: TokenBatch
    reference: Float[Tensor, "P T"]

    def tensors(self) -> dict[str, Tensor]:
        """What the run keeps of it at step 0; :meth:`from_tensors` reads it."""
        names = ("input_ids", "attention_mask", "turn_ids", "outcome")
        return {name: getattr(self.batch, name) for name in names} | {"reference": self.reference}

    @classmethod
    def from_tensors(cls, kept: Mapping[str, Tensor]) -> MonitorSet:
        """The set that was kept, without what nobody reads of it: the probabilities it was sampled with, and its prompts."""
        mask = kept["turn_ids"] >= 0
        unsampled = torch.zeros_like(kept["reference"])
        ids, outcome = kept["input_ids"], kept["outcome"]
        batch = TokenBatch(
            ids, kept["attention_mask"], mask, kept["turn_ids"], outcome, unsampled, group_size=1
        )
        return cls(batch, kept["reference"])


def is_watched(learner: Learner) -> bool:
    """Whether a PRM or a critic learns, which is warmed up, and whose opinion of the monitor set is kept over training."""
    return learner.method.needs_prm or learner.estimator.has_critic


def collect_monitor_set(learner: Learner, run: Run | None = None) -> MonitorSet:
    """The dialogues whose rewards and values are kept over training; the same for all runs of a task and base model.

    A resumed run has the set that it kept at step 0, whatever would be sampled now. Dialogues that are lost are held again
    with other problems and seeds, at most ``ATTEMPTS`` times in all, and then left out. Raises
    :class:`itpo.training.learner.DialoguesLost` as :meth:`itpo.training.learner.Learner.collect`.
    """
    kept = dict(run.monitor()).get(0) if run is not None else None
    if kept is not None:
        return MonitorSet.from_tensors(kept)
    count = learner.config.monitor_dialogues
    dialogues, batch, reference = hold(learner, run, "probe", count, 1, evaluate=True)
    for attempt in range(1, ATTEMPTS):
        lost = [row for row, dialogue in enumerate(dialogues) if dialogue.failure is not None]
        if not lost:
            break
        with suppress(DialoguesLost):
            again, _ = learner.collect(f"probe/{attempt}", len(lost), 1, None, evaluate=True)
            for row, dialogue in zip(lost, again, strict=True):
                dialogues[row] = dialogue
        held = [dialogue for dialogue in dialogues if dialogue.failure is None]
        batch = collate(held, 1, learner.chat.pad_id)
        reference = learner.log_probs(batch, None)
    return MonitorSet(batch, reference)


def observe(learner: Learner, run: Run, step: int, monitor_set: MonitorSet | None) -> None:
    """Measure without learning: success on fresh problems, and what PRM and critic say of the monitor set."""
    config = learner.config
    if step % config.eval_every == 0 or step == config.steps:
        count = config.eval_dialogues
        if step == 0 and can_share(learner, run):  # the policy still is the reference
            dialogues, batch, _ = hold(learner, run, "evaluation", count, 1, evaluate=True)
        else:
            dialogues, batch = learner.collect("evaluation", count, 1, "policy", evaluate=True)
        run.log(step, {f"eval_{key}": value for key, value in describe(batch).items()})
        run.save_dialogues(step, [record(dialogue) for dialogue in dialogues[:4]])
    if monitor_set is not None and (step % config.monitor_every == 0 or step == config.steps):
        batch = monitor_set.batch
        readings: dict[str, Tensor] = {}
        if learner.method.needs_prm:
            readings["log_ratio"] = prm.log_ratio(
                learner.log_probs(batch, "prm"), monitor_set.reference, batch.response_mask
            )
        if learner.estimator.has_critic:
            readings["values"] = learner.values(batch)
        run.save_monitor(step, readings | (monitor_set.tensors() if step == 0 else {}))


def describe(batch: TokenBatch) -> dict[str, float]:
    """Mean outcome, assistant turns and assistant tokens of a batch of dialogues, those left out aside.

    >>> from itpo.dialogue import collate
    >>> describe(collate([Dialogue(None, (), (5, 6), (False, True), (0.0, -0.1), 1.0)], group_size=1, pad_id=0))
    {'success': 1.0, 'turns': 1.0, 'tokens': 1.0}
    """
    kept = batch.kept
    return {
        "success": batch.outcome[kept].mean().item(),
        "turns": (batch.turn_ids[kept].amax(1) + 1).float().mean().item(),
        "tokens": batch.response_mask[kept].sum(1).float().mean().item(),
    }


def record(dialogue: Dialogue) -> dict[str, object]:
    """A dialogue as JSON: messages and outcome."""
    return {"messages": [m.as_dict() for m in dialogue.messages], "outcome": dialogue.outcome}


def final_evaluation(learner: Learner) -> dict[str, float]:
    """Success of the trained policy on ``FINAL`` times as many fresh problems, sampled and greedy."""
    count = FINAL * learner.config.eval_dialogues
    sampled = describe(learner.collect("final", count, 1, "policy", evaluate=True)[1])
    greedy = describe(learner.collect("final", count, 1, "policy", greedy=True, evaluate=True)[1])
    return {**sampled, "greedy_success": greedy["success"]}
