"""Algorithm 1: roll out, score, update the PRM, attribute the outcome to turns, estimate advantages, update the policy.

Departures from the paper [O]: LoRA adapters on a frozen base instead of full fine-tuning; the PRM is warmed up on
rollouts of the reference before the first step; minibatches are drawn at random over dialogues, not over prompts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from itpo import advantages, attribution, prm, turns
from itpo.dialogue import Dialogue, TokenBatch
from itpo.embedded import load, warm_start
from itpo.learner import Learner, seeded
from itpo.profiles import RunConfig
from itpo.runs import Run, Store
from itpo.tasks import get_task

MAX_RATIO_ERROR = 1e-2  # rounding stays below 1e-4 in float32
Source = tuple[Tensor, Tensor]  # rewards (B, T) and the positions (B, T) at which they are placed


def train(config: RunConfig, run: Run) -> None:
    """Train one policy by Algorithm 1, from the run's last checkpoint if it has one, and finish the run.

    The base model is taken from the store that holds the run, and made there if it is missing. Equal configurations give
    equal files on a CPU, interrupted or not.
    """
    learner = build_learner(config, Store(run.folder.parent))
    start = learner.resume(run)
    if start == 0:
        warm_up_prm(learner, run)
    for step in range(start, config.steps):
        observe(learner, run, step)
        clock = Stopwatch()
        _, metrics = training_step(learner, f"{config.seed}/{step}", clock)
        run.log(step, metrics)
        run.log_time(step, clock.laps)
        if (step + 1) % config.checkpoint_every == 0:
            run.checkpoint(step + 1, learner.state())
    observe(learner, run, config.steps)
    learner.save(run)
    run.finish(final_evaluation(learner))


def training_step(learner: Learner, stream: str, clock: Stopwatch) -> tuple[TokenBatch, dict[str, float]]:
    """One pass of Algorithm 1; ``stream`` decides all of its randomness. Returns the batch and its metrics."""
    config = learner.config
    _, batch = learner.collect(stream, config.prompts, config.rollouts, "policy")  # roll out and score
    clock.lap("generation")
    reference = learner.log_probs(batch, None)
    clock.lap("reference")
    metrics, token_rewards = describe(batch), None
    if learner.row.needs_prm:
        metrics |= learner.update_prm(batch, reference, stream)  # (3), before the rewards are computed
        token_rewards = learner.token_rewards(batch, reference)  # (1)-(2), under the updated PRM
    clock.lap("prm")
    sources = reward_sources(config, batch, token_rewards, seeded(stream, "attribution"))  # (4)-(6)
    credit = estimate_advantages(config, batch, sources)
    metrics |= learner.update_policy(batch, credit, reference, stream)
    clock.lap("policy")
    if learner.backbone.full_precision and metrics["ratio_error"] > MAX_RATIO_ERROR:
        raise FloatingPointError(
            f"importance ratios of the first minibatch differ from 1 by {metrics['ratio_error']:.2g}: the policy that "
            "sampled is not the one that learned; compare the log-probabilities of sampler and backbone"
        )
    return batch, metrics


def reward_sources(
    config: RunConfig,
    batch: TokenBatch,
    token_rewards: Float[Tensor, "B T"] | None,
    generator: torch.Generator,
) -> list[Source]:
    """The reward sources of the run's method; each is baselined separately.

    The return to maximise is ``S = R - lambda N`` [S]. The penalty goes where the outcome goes: to the end of the trajectory,
    or over the turns by their share of tokens [C]; beside an implicit reward it is a source of its own [C], and so is
    the outcome where the method asks for it. Rewards and positions are (B, T); ``token_rewards`` (2) is needed where the
    row needs a PRM. Raises ``ValueError`` where it is missing.

    >>> from itpo.dialogue import collate
    >>> from itpo.profiles import get_profile
    >>> won = Dialogue(None, (), (5, 6, 7), (False, True, True), (0.0, -0.1, -0.2), 1.0)
    >>> batch = collate([won, won], group_size=2, pad_id=0)
    >>> config = get_profile("laptop").config("trajectory_share", seed=0)
    >>> [(rewards, positions)] = reward_sources(config, batch, None, seeded(0))
    >>> rewards[0].round(decimals=3).tolist(), positions[0].tolist()
    ([0.0, 0.0, 5.0], [False, False, True])
    """
    method, ids = config.method, batch.turn_ids
    row = attribution.get_row(method.row)
    signals = {"outcome": batch.outcome, "turn_ids": ids, "response_mask": batch.response_mask}
    options = {"temperature": method.eta, "reduction": method.reduction, "generator": generator}
    implicit = {} if token_rewards is None else {"token_rewards": token_rewards}
    rewards = method.coef * attribution.attribute(row.name, **signals, **options, **implicit)
    mask = attribution.reward_mask(row.granularity, ids)
    length_cost = method.coef * config.length_penalty * batch.response_lengths
    by_turn = turns.place_at_turn_ends(length_cost[:, None] * turns.token_share(ids).to(length_cost), ids)
    if row.granularity == "trajectory":
        return [(rewards - attribution.trajectory_share(length_cost, ids), mask)]
    if row.carries_outcome:
        return [(rewards - by_turn, mask)]
    sources = [(rewards, mask), (-by_turn, attribution.reward_mask("turn", ids))]
    if method.outcome_coef:
        outcome = method.outcome_coef * attribution.trajectory_share(batch.outcome, ids)
        sources.append((outcome, attribution.reward_mask("trajectory", ids)))
    return sources


def estimate_advantages(
    config: RunConfig, batch: TokenBatch, sources: Sequence[Source]
) -> Float[Tensor, "B T"]:
    """RLOO: baseline each source, sum them, take undiscounted returns, whiten over the batch's assistant tokens.

    Sources are pairs of (B, T); the advantages are (B, T), 0 off the assistant tokens.

    >>> from itpo.dialogue import collate
    >>> from itpo.profiles import get_profile
    >>> won = Dialogue(None, (), (5, 6), (False, True), (0.0, -0.1), 1.0)
    >>> lost = Dialogue(None, (), (5, 6), (False, True), (0.0, -0.1), 0.0)
    >>> batch = collate([won, lost], group_size=2, pad_id=0)
    >>> config = get_profile("laptop").config("trajectory_share", seed=0)
    >>> sources = reward_sources(config, batch, None, seeded(0))
    >>> estimate_advantages(config, batch, sources)
    tensor([[ 0.0000,  0.7071],
            [ 0.0000, -0.7071]])
    """
    baselined = [advantages.rloo(rewards, at, batch.group_size, config.baseline) for rewards, at in sources]
    total = torch.stack(baselined).sum(0)
    return advantages.whiten(advantages.returns(total, batch.response_mask), batch.response_mask)


def base_model(config: RunConfig, store: Store) -> Path:
    """Folder of the run's base model: made by :func:`itpo.embedded.warm_start` the first time, then found again."""
    task = get_task(config.task)
    determinants = {"task": config.task, "model": asdict(config.model), "habits": asdict(task.novice)}
    return store.artifact(
        "warm_start", determinants, lambda folder: warm_start(task, task.novice, config.model, folder)
    )


def build_learner(config: RunConfig, store: Store) -> Learner:
    """Load base model, tokenizer and task of a run, with fresh adapters."""
    model, tokenizer = load(base_model(config, store))
    return Learner(config, model, tokenizer, get_task(config.task))


def warm_up_prm(learner: Learner, run: Run) -> None:
    """Let the PRM learn from rollouts of the reference first; logged under negative steps.

    Its first rewards would otherwise be noise that the policy follows [O].
    """
    config = learner.config
    if not learner.row.needs_prm:
        return
    for batch_number in range(config.prm_warmup):
        stream = f"{config.seed}/warmup/{batch_number}"
        _, batch = learner.collect(stream, config.prompts, config.rollouts, None)
        metrics = learner.update_prm(batch, learner.log_probs(batch, None), stream)
        run.log(batch_number - config.prm_warmup, metrics)


def observe(learner: Learner, run: Run, step: int) -> None:
    """Measure without learning: success on fresh problems, and the rewards of the fixed probe dialogues."""
    config = learner.config
    if step % config.eval_every == 0 or step == config.steps:
        dialogues, batch = learner.collect("evaluation", config.eval_dialogues, 1, "policy")
        run.log(step, {f"eval_{key}": value for key, value in describe(batch).items()})
        run.save_dialogues(step, [record(dialogue) for dialogue in dialogues[:4]])
    if learner.row.needs_prm and (step % config.probe_every == 0 or step == config.steps):
        _, probe = learner.collect("probe", config.probe_dialogues, 1, None)
        log_ratio = prm.log_ratio(
            learner.log_probs(probe, "prm"), learner.log_probs(probe, None), probe.response_mask
        )
        static = {"input_ids": probe.input_ids, "turn_ids": probe.turn_ids, "outcome": probe.outcome}
        run.save_probe(step, {"log_ratio": log_ratio, **(static if step == 0 else {})})


def describe(batch: TokenBatch) -> dict[str, float]:
    """Mean outcome, assistant turns and assistant tokens of a batch of dialogues.

    >>> from itpo.dialogue import collate
    >>> describe(collate([Dialogue(None, (), (5, 6), (False, True), (0.0, -0.1), 1.0)], group_size=1, pad_id=0))
    {'success': 1.0, 'turns': 1.0, 'tokens': 1.0}
    """
    return {
        "success": batch.outcome.mean().item(),
        "turns": (batch.turn_ids.amax(1) + 1).float().mean().item(),
        "tokens": batch.response_mask.sum(1).float().mean().item(),
    }


def record(dialogue: Dialogue) -> dict[str, object]:
    """A dialogue as JSON: messages and outcome."""
    return {"messages": [m.as_dict() for m in dialogue.messages], "outcome": dialogue.outcome}


def final_evaluation(learner: Learner) -> dict[str, float]:
    """Success of the trained policy on twice the fresh problems, sampled and greedy."""
    count = 2 * learner.config.eval_dialogues
    sampled = describe(learner.collect("final", count, 1, "policy")[1])
    greedy = describe(learner.collect("final", count, 1, "policy", greedy=True)[1])
    return {**sampled, "greedy_success": greedy["success"]}


class Stopwatch:
    """Seconds of consecutive parts of a step.

    >>> clock = Stopwatch()
    >>> clock.lap("generation")
    >>> list(clock.laps)
    ['generation']
    """

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """End the present part and call it ``name``."""
        now = time.perf_counter()
        self.laps[name], self._since = now - self._since, now
