"""What a run measures without learning: evaluations on fresh problems, and the monitor set.

The monitor set is a few fixed dialogues of the reference; what PRM and critic say of them is kept over training.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from itpo import prm
from itpo.dialogue import Dialogue, TokenBatch
from itpo.runs.store import Run
from itpo.training.learner import DialoguesLost, Learner

FINAL = 2  # times the problems of an evaluation are those of the last one, on which results are compared [O]


class MonitorSet(NamedTuple):
    """Fixed dialogues of the reference, and its log-probabilities of their responses (nats)."""

    batch: TokenBatch
    reference: Float[Tensor, "P T"]


def collect_monitor_set(learner: Learner) -> MonitorSet:
    """The dialogues whose rewards and values are kept over training; the same for all runs of a task and base model."""
    dialogues, batch = learner.collect("probe", learner.config.monitor_dialogues, 1, None, evaluate=True)
    lost = [dialogue.failure for dialogue in dialogues if dialogue.failure is not None]
    if lost:  # a resumed run, for which nothing fails, would have another monitor set
        raise DialoguesLost(
            f"{len(lost)} of {len(dialogues)} dialogues of the monitor set failed ({lost[-1]}): start again"
        )
    return MonitorSet(batch, learner.log_probs(batch, None))


def observe(learner: Learner, run: Run, step: int, monitor_set: MonitorSet) -> None:
    """Measure without learning: success on fresh problems, and what PRM and critic say of the monitor set."""
    config = learner.config
    if step % config.eval_every == 0 or step == config.steps:
        dialogues, batch = learner.collect("evaluation", config.eval_dialogues, 1, "policy", evaluate=True)
        run.log(step, {f"eval_{key}": value for key, value in describe(batch).items()})
        run.save_dialogues(step, [record(dialogue) for dialogue in dialogues[:4]])
    if step % config.monitor_every == 0 or step == config.steps:
        batch = monitor_set.batch
        readings: dict[str, Tensor] = {}
        if learner.method.needs_prm:
            readings["log_ratio"] = prm.log_ratio(
                learner.log_probs(batch, "prm"), monitor_set.reference, batch.response_mask
            )
        if learner.estimator.has_critic:
            readings["values"] = learner.values(batch)
        static = {"input_ids": batch.input_ids, "turn_ids": batch.turn_ids, "outcome": batch.outcome}
        if readings:
            run.save_monitor(step, readings | (static if step == 0 else {}))


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
