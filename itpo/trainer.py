"""Algorithm 1: roll out, score, update the PRM, attribute the outcome to turns, estimate advantages, update the policy.

Departures from the paper [O]: LoRA adapters on a frozen base instead of full fine-tuning; PRM and critic are warmed up on
rollouts of the reference before the first step; minibatches are drawn at random over dialogues, not over prompts.

What :func:`train` does, by hand, with a base model too small to learn anything:

>>> import tempfile
>>> from dataclasses import replace
>>> from itpo.profiles import get_profile
>>> config = replace(get_profile("smoke").config("itpo", seed=0), model=EmbeddedModel(16, 1, 2, steps=1), probe_dialogues=2)
>>> folder = tempfile.TemporaryDirectory()
>>> store = Store(Path(folder.name))
>>> base_model(config, store).parent.name  # made now, and found by the next line
'models'
>>> learner, run = build_learner(config, store), store.open(config)
>>> warm_up(learner, run)
>>> probe = collect_probe(learner)
>>> observe(learner, run, 0, probe)
>>> batch, metrics = training_step(learner, "0/0", Stopwatch())
>>> round(metrics["ratio_error"], 3), len(batch.outcome) == config.prompts * config.rollouts
(0.0, True)
>>> stop_if_diverged(learner, run, 1)
>>> learner.save(run)
>>> run.finish(final_evaluation(learner))
>>> sorted(run.summary())
['greedy_success', 'success', 'tokens', 'turns']
>>> (dialogue,), _ = trained(run).collect("a look at it", 1, 1, "policy", evaluate=True)
>>> record(dialogue)["outcome"]
0.0
>>> folder.cleanup()
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from itpo import attribution, plan, prm, turns
from itpo.base import load_base, locate
from itpo.cast import cast
from itpo.config import RunConfig
from itpo.dialogue import Dialogue, TokenBatch
from itpo.embedded import EmbeddedModel, load, warm_start
from itpo.estimators import Credit, Source, estimate
from itpo.learner import DialoguesLost, Learner, seeded
from itpo.pretrained import PACKAGED, PretrainedModel, imitate
from itpo.runs import Run, Store
from itpo.tasks import ConcurrentTask, get_task

MAX_RATIO_ERROR = 1e-2  # rounding stays below 1e-4 in float32
FINAL = 2  # times the problems of an evaluation are those of the last one, on which results are compared [O]


def train(config: RunConfig, run: Run, learner: Learner | None = None) -> None:
    """Train one policy by Algorithm 1, from the run's last checkpoint if it has one, and finish the run.

    The base model is taken from the store that holds the run, and made there if it is missing. Equal configurations give
    equal files on a CPU, interrupted or not.

    A ``learner``, fresh and of the same config, brings a base model and a task of its own, such as one of
    :mod:`itpo.tasks.real`. With users behind a server, an interrupted run ends as an uninterrupted one only if their replies
    are cached and no dialogue was lost on the way (``max_failed=0`` sees to that). Raises
    :class:`itpo.learner.DialoguesLost` or :class:`itpo.judges.JudgeError` when users or judges fail too often, and
    ``FloatingPointError``, with the state saved as a checkpoint, when too many optimizer steps had to be left out.
    """
    learner = learner or build_learner(config, Store(run.folder.parent))
    start = learner.resume(run)
    if start == 0:
        warm_up(learner, run)
    stop_if_diverged(learner, run, start)
    probe = collect_probe(learner)
    for step in range(start, config.steps):
        observe(learner, run, step, probe)
        clock = Stopwatch()
        _, metrics = training_step(learner, f"{config.seed}/{step}", clock)
        run.log(step, metrics)
        run.log_time(step, clock.laps)
        if (step + 1) % config.checkpoint_every == 0:
            run.checkpoint(step + 1, learner.state())
        stop_if_diverged(learner, run, step + 1)
    observe(learner, run, config.steps, probe)
    learner.save(run)
    run.finish(final_evaluation(learner))


def training_step(learner: Learner, stream: str, clock: Stopwatch) -> tuple[TokenBatch, dict[str, float]]:
    """One pass of Algorithm 1; ``stream`` decides all of its randomness. Returns the batch and its metrics."""
    config, skipped = learner.config, dict(learner.skipped)
    dialogues, batch = learner.collect(
        stream, config.prompts, config.rollouts, "policy"
    )  # roll out and score
    clock.lap("generation")
    reference = learner.log_probs(batch, None)
    clock.lap("reference")
    kept, credit, metrics = assign_credit(learner, dialogues, batch, reference, stream, clock)  # (1)-(6)
    metrics |= describe(batch) | learner.update_policy(kept, credit.advantages, reference, stream)
    if isinstance(learner.task, ConcurrentTask):  # the others cannot fail
        metrics["lost"] = float(sum(dialogue.failure is not None for dialogue in dialogues))
    for name, count in learner.skipped.items():
        if count > skipped[name]:
            metrics[f"skipped_{name}"] = float(count - skipped[name])
    clock.lap("policy")
    if metrics["ratio_error"] > MAX_RATIO_ERROR:
        raise FloatingPointError(
            f"importance ratios of the first minibatch differ from 1 by {metrics['ratio_error']:.2g}: the policy that "
            "sampled is not the one that learned; compare the log-probabilities of sampler and backbone"
        )
    return batch, metrics


def assign_credit(
    learner: Learner,
    dialogues: list[Dialogue],
    batch: TokenBatch,
    reference: Float[Tensor, "B T"],
    stream: str,
    clock: Stopwatch,
) -> tuple[TokenBatch, Credit, dict[str, float]]:
    """From outcomes to advantages: the middle of Algorithm 1, in which PRM and critic learn.

    Returns the batch without the dialogues that could not be judged, the credit of its tokens, and metrics.
    """
    config = learner.config
    metrics: dict[str, float] = {}
    signals: dict[str, Tensor] = {}
    if learner.row.needs_prm:
        metrics |= learner.update_prm(batch, reference, stream)  # (3), before the rewards are computed
        signals["token_rewards"] = learner.token_rewards(batch, reference)  # (1)-(2), under the updated PRM
    clock.lap("prm")
    if learner.row.needs_judge:
        batch, signals["judge_scores"], counts = learner.judge_turns(dialogues, batch, stream)
        metrics |= counts
    values = learner.values(batch) if learner.estimator.has_critic else None
    if learner.row.needs_values and values is not None:
        signals["values"] = values.sum(0)
    sources = reward_sources(config, batch, signals, seeded(stream, "attribution"))  # (4)-(6)
    options = {"values": values, "baseline": config.baseline, "gamma": config.gamma, "lam": config.lam}
    credit = estimate(config.estimator, sources, batch, **options)
    if values is not None and credit.value_targets is not None:
        metrics |= learner.update_critic(batch, credit.value_targets, values, stream)
    clock.lap("critic")
    return batch, credit, metrics


def reward_sources(
    config: RunConfig, batch: TokenBatch, signals: Mapping[str, Tensor], generator: torch.Generator
) -> list[Source]:
    """The reward sources of the run's method; each is baselined separately.

    The return to maximise is ``S = R - lambda N`` [S]. The penalty goes where the outcome goes: to the end of the trajectory,
    or over the turns by their share of tokens [C]; beside an implicit reward it is a source of its own [C], and so is
    the outcome where the method asks for it. ``signals`` holds what the row reads beside outcomes: token rewards (2) of shape
    (B, T), a judge's scores (B, K), or a critic's values (B, T). Raises ``ValueError`` where one is missing.

    >>> from itpo.dialogue import collate
    >>> from itpo.profiles import get_profile
    >>> won = Dialogue(None, (), (5, 6, 7), (False, True, True), (0.0, -0.1, -0.2), 1.0)
    >>> batch = collate([won, won], group_size=2, pad_id=0)
    >>> config = get_profile("laptop").config("trajectory_share", seed=0)
    >>> [(name, rewards, positions)] = reward_sources(config, batch, {}, seeded(0))
    >>> name, rewards[0].round(decimals=3).tolist(), positions[0].tolist()
    ('row', [0.0, 0.0, 5.0], [False, False, True])
    """
    method, ids = config.method, batch.turn_ids
    row = attribution.get_row(method.row)
    known = {"outcome": batch.outcome, "turn_ids": ids, "response_mask": batch.response_mask, **signals}
    if "values" in known:  # of weighed rewards: the row compares them with the outcome itself
        known["values"] = known["values"] / method.coef
    options = {"temperature": method.eta, "reduction": method.reduction, "generator": generator}
    rewards = method.coef * attribution.attribute(row.name, **known, **options)
    mask = attribution.reward_mask(row.granularity, ids)
    length_cost = method.coef * config.length_penalty * batch.response_lengths
    by_turn = turns.place_at_turn_ends(length_cost[:, None] * turns.token_share(ids).to(length_cost), ids)
    if row.granularity == "trajectory":
        return [Source("row", rewards - attribution.trajectory_share(length_cost, ids), mask)]
    if row.carries_outcome:
        return [Source("td_error" if row.needs_values else "row", rewards - by_turn, mask)]
    sources = [Source("row", rewards, mask), Source("length", -by_turn, attribution.reward_mask("turn", ids))]
    if method.outcome_coef:
        outcome = method.outcome_coef * attribution.trajectory_share(batch.outcome, ids)
        sources.append(Source("outcome", outcome, attribution.reward_mask("trajectory", ids)))
    return sources


def base_model(config: RunConfig, store: Store) -> Path | str:
    """The run's base model: a folder in the store, made the first time and then found again, or a pretrained one's name.

    An embedded model is made by :func:`itpo.embedded.warm_start`, one that imitates by :func:`itpo.pretrained.imitate`.
    """
    spec, determinants = config.model, {"task": config.task, "model": asdict(config.model)}
    if isinstance(spec, PretrainedModel) and spec.imitation is None and spec.name not in PACKAGED:
        return spec.name
    task = get_task(config.task)
    determinants["habits"] = asdict(task.novice)

    def make(folder: Path) -> Path:
        """Fill the folder."""
        if isinstance(spec, EmbeddedModel):
            return warm_start(task, task.novice, spec, folder)
        return imitate(task, task.novice, spec, folder)

    return store.artifact("warm_start", determinants, make, config.code)


def build_learner(config: RunConfig, store: Store) -> Learner:
    """Load base model, tokenizer and task of a run, with fresh adapters.

    Raises :class:`itpo.plan.DoesNotFit`, before anything is loaded, where a GPU has too little memory for the settings.
    """
    base = base_model(config, store)
    if isinstance(config.model, EmbeddedModel):
        model, tokenizer = load(Path(base))
    else:
        if torch.cuda.is_available():
            gib = torch.cuda.get_device_properties(0).total_memory / plan.GIB
            plan.check(plan.find_shape(locate(base)), *plan.of_run(config), gib)
        model, tokenizer = load_base(base, config.model.precision)
    task = get_task(config.task) if config.data is None else partial(cast, config.data, config.max_rows)
    return Learner(config, model, tokenizer, task)


def trained(run: Run) -> Learner:
    """The learner of a finished run, with the adapters that it ended with.

    Raises ``ValueError`` if the run is not finished.
    """
    if not run.done:
        raise ValueError(f"the run {run.folder} is not finished: train it first")
    learner = build_learner(run.config, Store(run.folder.parent))
    for name in learner.backbone.names:
        learner.backbone.load_adapter(name, run.folder / name)
    return learner


def warm_up(learner: Learner, run: Run) -> None:
    """Let PRM and critic learn from rollouts of the reference first; logged under negative steps.

    Their first rewards and values would otherwise be noise that the policy follows [O].
    """
    config = learner.config
    if not (learner.row.needs_prm or learner.estimator.has_critic):
        return
    for batch_number in range(config.warmup):
        stream = f"{config.seed}/warmup/{batch_number}"
        dialogues, batch = learner.collect(stream, config.prompts, config.rollouts, None)
        reference = learner.log_probs(batch, None)
        _, _, metrics = assign_credit(learner, dialogues, batch, reference, stream, Stopwatch())
        run.log(batch_number - config.warmup, metrics)


def stop_if_diverged(learner: Learner, run: Run, steps_done: int) -> None:
    """Save the state and raise ``FloatingPointError`` if more optimizer steps were left out than the config allows."""
    count = sum(learner.skipped.values())
    if count > learner.config.max_skipped:
        run.checkpoint(steps_done, learner.state())
        raise FloatingPointError(
            f"{count} optimizer steps had a loss or gradient that was not finite ({learner.skipped}), after {steps_done} steps "
            f"of training: the state is in {run.folder / 'checkpoint'}; lower the learning rate of that adapter, or raise "
            "max_skipped, and look at the last metrics"
        )


class Probe(NamedTuple):
    """Fixed dialogues of the reference, and its log-probabilities of their responses (nats)."""

    batch: TokenBatch
    reference: Float[Tensor, "P T"]


def collect_probe(learner: Learner) -> Probe:
    """The dialogues whose rewards and values are kept over training; the same for all runs of a task and base model."""
    dialogues, batch = learner.collect("probe", learner.config.probe_dialogues, 1, None, evaluate=True)
    lost = [dialogue.failure for dialogue in dialogues if dialogue.failure is not None]
    if lost:  # a resumed run, for which nothing fails, would have another probe
        raise DialoguesLost(
            f"{len(lost)} of {len(dialogues)} probe dialogues failed ({lost[-1]}): start again"
        )
    return Probe(batch, learner.log_probs(batch, None))


def observe(learner: Learner, run: Run, step: int, probe: Probe) -> None:
    """Measure without learning: success on fresh problems, and what PRM and critic say of the probe."""
    config = learner.config
    if step % config.eval_every == 0 or step == config.steps:
        dialogues, batch = learner.collect("evaluation", config.eval_dialogues, 1, "policy", evaluate=True)
        run.log(step, {f"eval_{key}": value for key, value in describe(batch).items()})
        run.save_dialogues(step, [record(dialogue) for dialogue in dialogues[:4]])
    if step % config.probe_every == 0 or step == config.steps:
        batch, said = probe.batch, {}
        if learner.row.needs_prm:
            said["log_ratio"] = prm.log_ratio(
                learner.log_probs(batch, "prm"), probe.reference, batch.response_mask
            )
        if learner.estimator.has_critic:
            said["values"] = learner.values(batch)
        static = {"input_ids": batch.input_ids, "turn_ids": batch.turn_ids, "outcome": batch.outcome}
        if said:
            run.save_probe(step, said | (static if step == 0 else {}))


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
