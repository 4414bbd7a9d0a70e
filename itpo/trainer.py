"""Algorithm 1: roll out, score, update the PRM, attribute the outcome to turns, estimate advantages, update the policy.

Departures from the paper [O]: LoRA adapters on a frozen base instead of full fine-tuning; PRM and critic are warmed up on
rollouts of the reference before the first step; minibatches are drawn at random over dialogues, not over prompts.

What :func:`train` does, by hand, with a base model too small to learn anything:

>>> import tempfile
>>> from itpo.config import Method
>>> from itpo.runs.store import Store
>>> from itpo.specs import TinyLM
>>> from itpo.training.environments import build_environments
>>> from itpo.training.sharing import can_share, teach_once
>>> small = {"model": TinyLM(16, 1, 2, steps=1), "prompts": 2, "rollouts": 2, "eval_dialogues": 2, "monitor_dialogues": 2}
>>> config = RunConfig(Method("norm_itpo"), seed=0, steps=1, warmup=1, **small)
>>> folder = tempfile.TemporaryDirectory()
>>> run = Store(folder.name).open(config)
>>> run.declare(inputs(config, Store(folder.name)))
>>> learner = build_learner(config, Store(folder.name))
>>> build_environments(config, learner.backbone, learner.chat, run.folder.parent).task.name  # as the learner did
'math'
>>> is_watched(learner), can_share(learner, run)
(True, True)
>>> warm_up(learner, run)
>>> len(teach_once(learner, run, lambda: [{}]))  # the batch of the warm-up, which has been taught
1
>>> monitor_set = collect_monitor_set(learner, run)
>>> observe(learner, run, 0, monitor_set)
>>> batch, metrics = training_step(learner, "0/0", Timer())
>>> round(metrics["ratio_error"], 3), len(batch.outcome) == config.prompts * config.rollouts
(0.0, True)
>>> stop_if_diverged(learner, run, 1)
>>> learner.save(run)
>>> run.finish(final_evaluation(learner))
>>> sorted(run.summary())
['greedy_success', 'success', 'tokens', 'turns']
>>> folder.cleanup()

Notebook 01 runs the lines of :func:`training_step` one by one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from itpo.config import RunConfig
from itpo.dialogue import TokenBatch
from itpo.estimators import Credit, Source, estimate, method_sources
from itpo.rollout.seeding import seeded
from itpo.runs.store import Run, Store
from itpo.training.build import build_learner, inputs
from itpo.training.evaluation import collect_monitor_set, describe, final_evaluation, is_watched, observe
from itpo.training.learner import Learner
from itpo.training.profiling import Timer
from itpo.training.sharing import Held, hold, teach_once

MAX_RATIO_ERROR = 1e-2  # rounding stays below 1e-4 in float32


def train(config: RunConfig, run: Run) -> None:
    """Train one policy by Algorithm 1, from the run's last checkpoint if it has one, and finish the run.

    The base model is taken from the store that holds the run, and made there if it is missing. Equal configurations give
    equal files on a CPU, interrupted or not; with users behind a server, only if their replies are cached and no dialogue was
    lost on the way (``max_failed=0`` sees to that). Raises :class:`itpo.training.learner.DialoguesLost` or
    :class:`itpo.tasks.judging.JudgeError` when users or judges fail too often, and ``FloatingPointError``, with the state
    saved as a checkpoint, when too many optimizer steps had to be left out.
    """
    store = Store(run.folder.parent, run.mix_platforms)
    run.declare(inputs(config, store))
    learner = build_learner(config, store)
    start = learner.resume(run)
    if start == 0:
        warm_up(learner, run)
    stop_if_diverged(learner, run, start)
    monitor_set = collect_monitor_set(learner, run) if is_watched(learner) else None
    for step in range(start, config.steps):
        observe(learner, run, step, monitor_set)
        timer = Timer()
        _, metrics = training_step(learner, f"{config.seed}/{step}", timer)
        run.log(step, metrics)
        run.log_time(step, timer.seconds)
        if (step + 1) % config.checkpoint_every == 0:
            run.checkpoint(step + 1, learner.state())
        stop_if_diverged(learner, run, step + 1)
    observe(learner, run, config.steps, monitor_set)
    learner.save(run)
    run.finish(final_evaluation(learner))


def training_step(
    learner: Learner, stream: str, timer: Timer, held: Held | None = None
) -> tuple[TokenBatch, dict[str, float]]:
    """One pass of Algorithm 1; ``stream`` decides all of its randomness. Returns the batch as rolled out, and its metrics.

    Where dialogues of the reference are ``held`` already, to warm up, only PRM and critic learn, from these.
    """
    config, skipped = learner.config, dict(learner.skipped)
    if held is not None:
        dialogues, rolled_out, reference = held
    else:
        with timer("generation"):  # roll out, and score
            dialogues, rolled_out = learner.collect(stream, config.prompts, config.rollouts, "policy")
        with timer("reference"):
            reference = learner.log_probs(rolled_out, None)
    with timer("prm"):  # update the PRM, before its rewards are computed: equation (3)
        metrics = learner.update_prm(rolled_out, reference, stream)
    with timer("signals"):  # what the method reads beside outcomes, such as token rewards: equations (1)-(2)
        batch, signals, judge_counts = learner.signals(dialogues, rolled_out, reference, stream)
    credit = method_credit(config, batch, signals, seeded(stream, "attribution"))
    with timer("critic"):
        metrics |= learner.update_critic(batch, credit.value_targets, signals.get("values"), stream)
    metrics |= judge_counts
    if held is not None:
        return rolled_out, metrics
    with timer("policy"):
        metrics |= learner.update_policy(batch, credit.advantages, reference, stream)
    if metrics["ratio_error"] > MAX_RATIO_ERROR:
        raise FloatingPointError(
            f"importance ratios of the first minibatch differ from 1 by {metrics['ratio_error']:.2g}: the policy that "
            "sampled is not the one that learned; compare the log-probabilities of sampler and backbone"
        )
    failures = sum(dialogue.failure is not None for dialogue in dialogues)
    return rolled_out, metrics | describe(rolled_out) | learner.losses_since(skipped, failures)


def method_credit(
    config: RunConfig, batch: TokenBatch, signals: Mapping[str, Tensor], generator: torch.Generator
) -> Credit:
    """Attribute, by equations (4)-(6); then baselines and advantages, and the targets of a critic's values.

    ``signals`` and errors are those of :func:`reward_sources` and :func:`itpo.estimators.estimate`.

    >>> from itpo.config import Method
    >>> from itpo.dialogue import Dialogue, collate
    >>> held = [Dialogue(None, (), (5, 6), (False, True), (0.0, -0.1), outcome) for outcome in (1.0, 0.0)]
    >>> config, batch = RunConfig(Method("trajectory_share"), seed=0, steps=1), collate(held, group_size=2, pad_id=0)
    >>> method_credit(config, batch, {}, seeded(0)).advantages
    tensor([[ 0.0000,  0.7071],
            [ 0.0000, -0.7071]])
    """
    return estimate(
        config.estimator.name,
        reward_sources(config, batch, signals, generator),
        response_mask=batch.response_mask,
        group_size=config.method.entry.baseline_group(batch.group_size),
        values=signals.get("values"),
        **config.estimator.options,
    )


def reward_sources(
    config: RunConfig, batch: TokenBatch, signals: Mapping[str, Tensor], generator: torch.Generator
) -> list[Source]:
    """The reward sources of the run's method; each gets a baseline of its own.

    The return to maximise is ``S = R - lambda N`` [S]. The penalty goes where the outcome goes: to the end of the trajectory,
    or over the turns by their share of tokens [C]; beside an implicit reward it is a source of its own [C], and so is
    the outcome where the config asks for it. ``signals`` are those of :meth:`itpo.training.learner.Learner.signals`. Raises
    ``ValueError`` where the method needs one that is missing. A method that compares rollouts itself (:mod:`itpo.rivals`) is
    given ``S`` as its outcome.

    >>> from itpo.config import Method
    >>> from itpo.dialogue import Dialogue, collate
    >>> won = Dialogue(None, (), (5, 6, 7), (False, True, True), (0.0, -0.1, -0.2), 1.0)
    >>> batch = collate([won, won], group_size=2, pad_id=0)
    >>> config = RunConfig(Method("trajectory_share"), seed=0, steps=1)
    >>> [(name, rewards, positions)] = reward_sources(config, batch, {}, seeded(0))
    >>> name, rewards[0].round(decimals=3).tolist(), positions[0].tolist()
    ('method', [0.0, 0.0, 5.0], [False, False, True])
    """
    method = config.method
    known = {
        key: getattr(batch, key)
        for key in ("outcome", "turn_ids", "response_mask", "input_ids", "group_size")
    }
    return method_sources(
        method.name,
        {**known, **signals, **method.options, "generator": generator},
        method.coef,
        method.outcome_coef,
        method.coef * config.length_penalty * batch.response_lengths,
    )


def warm_up(learner: Learner, run: Run) -> None:
    """Let PRM and critic learn from rollouts of the reference first; logged under negative steps.

    Their first rewards and values would otherwise be noise that the policy follows [O].
    """
    if is_watched(learner):
        for number, metrics in enumerate(teach_once(learner, run, lambda: _teach(learner, run))):
            run.log(number - learner.config.warmup, metrics)


def _teach(learner: Learner, run: Run) -> list[dict[str, float]]:
    """Let PRM and critic learn from the warm-up batches; returns the metrics of each."""
    config, metrics = learner.config, []
    for stream in (f"{config.seed}/warmup/{number}" for number in range(config.warmup)):
        held = hold(learner, run, stream, config.prompts, config.rollouts)
        metrics.append(training_step(learner, stream, Timer(), held)[1])
    return metrics


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
