"""The gradient microscope: where each method's credit would move one policy, measured without training by it.

At a fixed policy and PRM, each of many batches of dialogues gives every method its advantages, computed as in training, and so
a gradient of the policy. The *reference* is the gradient of trajectory-share without whitening: leave-one-out policy gradient,
whose mean is the true gradient of the return. :mod:`itpo.study.microscope_tables` compares each method's gradients with it.
Our own choice [O]; `docs/protocol.md` says what is measured, and what counts.

By hand, with a base model too small to have learned anything:

>>> import tempfile
>>> from itpo.specs import TinyLM
>>> tiny = {"model": TinyLM(16, 1, 2, steps=1), "prompts": 2, "rollouts": 2, "warmup": 1, "max_turn_tokens": 4}
>>> run = RunConfig(Method("norm_itpo"), seed=0, steps=1, **tiny)
>>> config = MicroscopeConfig(run, 0, measured_methods(run, [BASELINE, "signed_norm_itpo"]), batches=4)
>>> folder = tempfile.TemporaryDirectory()
>>> learner = build_learner(run, Store(folder.name), to_train=False)
>>> seen = sample(learner, "0/example")
>>> weights = all_advantages(learner, config, seen, "0/example")
>>> torch.equal(weights[0], reference_advantages(config.policy, seen.batch) / 4)
True
>>> own = method_advantages(learner, config.methods[1], seen, "0/example")
>>> torch.equal(weights[2], own / int(seen.batch.response_mask.sum()))
True
>>> len(gradients(learner, seen.batch, weights)) == len(config.names)
True
>>> folder.cleanup()

A gradient is kept as a sketch of ``SKETCH`` numbers, each the sum of some of its entries with random signs. Inner products of
sketches have the right mean, and a standard deviation of 1 / sqrt(``SKETCH``), below 1 %, of the product of the two lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from itpo import advantages, prm, turns
from itpo.config import Method, RunConfig, TaskSpec
from itpo.dialogue import Dialogue, TokenBatch
from itpo.fields import check
from itpo.models.adapters import micro_batches
from itpo.rollout.seeding import seeded
from itpo.runs.store import Run, Store
from itpo.study.experiment import BASELINE
from itpo.study.measured import ORACLE, REFERENCE, Measured, label, measured_methods
from itpo.study.microscope_tables import Products, microscope_table
from itpo.study.profiles import Profile
from itpo.study.tabular import TabularOracle, is_tabular
from itpo.tasks.base import ScriptedTask
from itpo.tasks.judging import ScriptedJudge
from itpo.tasks.registry import TASKS
from itpo.trainer import method_credit, reward_sources, stop_if_diverged, training_step, warm_up
from itpo.training.build import build_learner, inputs
from itpo.training.evaluation import describe
from itpo.training.learner import Learner
from itpo.training.profiling import Timer
from itpo.training.ranking import ranking_auc

SKETCH = 2**14


@dataclass(frozen=True)
class MicroscopeConfig:
    """Everything that determines a measurement.

    The policy learns by trajectory-share for ``policy_steps`` steps, with rates, sizes and seed of ``run``, and the PRM of
    ``run`` learns beside it. Then ``batches`` fresh batches are measured. On the math task, ``oracle_batches`` others give the
    table of :mod:`itpo.study.tabular`, whose credit is measured too.

    Raises ``ValueError`` for a run without a PRM or on real data, methods of another beta than the run's or that need a
    critic, equal or reserved names, no trajectory-share among the methods, or fewer than 4 batches.
    """

    run: RunConfig
    policy_steps: int
    methods: tuple[Measured, ...]
    batches: int = 48
    oracle_batches: int = 0

    def __post_init__(self) -> None:
        check("run.task", isinstance(self.run.task, TaskSpec), self.run.task.name, "a scripted task")
        own = self.run.method
        check("run.method", own.entry.needs_prm, own.name, "one with a PRM, which learns beside the policy")
        check("policy_steps", self.policy_steps >= 0, self.policy_steps, "0 or more")
        check("batches", self.batches >= 4, self.batches, "at least 4, as each is left out in turn")
        tabular = self.oracle_batches == 0 or _has_table(self.run)
        check("oracle_batches", tabular and self.oracle_batches >= 0, self.oracle_batches, "0 but on math")
        names = [measured.name for measured in self.methods]
        wanted = f"different names, {BASELINE} among them, none of {REFERENCE} and {ORACLE}"
        right = len({*names, REFERENCE, ORACLE}) == len(names) + 2 and BASELINE in names
        check("methods", right, names, wanted)
        for measured in self.methods:
            name, method = measured.name, measured.method
            fits = not method.entry.needs_prm or method.beta == own.beta
            check(f"beta of {name}", fits, method.beta, f"{own.beta}, with which the PRM learns")
            check(
                f"estimator of {name}",
                not measured.estimator.entry.has_critic,
                measured.estimator.name,
                "without a critic",
            )

    @property
    def steps(self) -> int:
        """Steps of the policy and batches, for the progress bar of :func:`itpo.runs.sweep.sweep`."""
        return self.policy_steps + self.batches

    @property
    def names(self) -> tuple[str, ...]:
        """All that is measured, the reference first."""
        own = (measured.name for measured in self.methods)
        return (REFERENCE, *own, *[ORACLE] * bool(self.oracle_batches))

    @property
    def policy(self) -> RunConfig:
        """The run of trajectory-share by which the policy learns."""
        own = self.run.method
        return replace(self.run, method=Method(BASELINE, policy_lr=own.policy_lr, beta=own.beta))


def _has_table(run: RunConfig) -> bool:
    return isinstance(run.task, TaskSpec) and is_tabular(run.task.build())


SEED = 300  # of the policies of the microscope, see docs/protocol.md


def measurements(
    profile: Profile, policies: Sequence[int], batches: int, oracle_batches: int = 0, seed: int = SEED
) -> list[MicroscopeConfig]:
    """All methods on every task of a profile, with policies after so many steps: tasks first.

    >>> from itpo.study.profiles import get_profile
    >>> configs = measurements(get_profile("laptop"), (0, 6), batches=48, oracle_batches=24)
    >>> [(config.run.task.name, config.policy_steps, config.oracle_batches) for config in configs][:3]
    [('math', 0, 24), ('math', 6, 24), ('documents', 0, 0)]
    """
    configs = []
    for task in TASKS:
        run = profile.on(task).config("norm_itpo", seed)
        methods = measured_methods(run)
        table = oracle_batches * _has_table(run)
        configs += [MicroscopeConfig(run, steps, methods, batches, table) for steps in policies]
    return configs


class Sample(NamedTuple):
    """Dialogues of the policy, as a batch too, and log-probabilities (nats) of their responses under reference and PRM."""

    dialogues: list[Dialogue]
    batch: TokenBatch
    reference: Float[Tensor, "B T"]
    prm: Float[Tensor, "B T"]


def sample(learner: Learner, stream: str) -> Sample:
    """A batch of the policy as it is now, of the config's size; ``stream`` decides all of its randomness."""
    config = learner.config
    dialogues, batch = learner.collect(stream, config.prompts, config.rollouts, "policy")
    return Sample(dialogues, batch, learner.log_probs(batch, None), learner.log_probs(batch, "prm"))


def method_advantages(
    learner: Learner, measured: Measured, seen: Sample, stream: str
) -> Float[Tensor, "B T"]:
    """The advantages that :func:`itpo.trainer.training_step` would compute of this batch by this method and this PRM."""
    batch, method, signals = seen.batch, measured.method, {}
    if method.entry.needs_prm:
        rewards = prm.token_rewards(seen.prm, seen.reference, batch.response_mask, method.beta)
        signals["token_rewards"] = prm.rescale(rewards, batch.response_mask, method.scale)
    if method.entry.needs_judge:
        asking = copy(learner)
        if measured.judge is not None:
            assert isinstance(learner.task, ScriptedTask)  # as the config saw to
            asking.judge = ScriptedJudge(learner.task, measured.judge.error_rate)
        batch, signals["judge_scores"], _ = asking.judge_turns(seen.dialogues, batch, stream)
    config = replace(learner.config, method=method, estimator=measured.estimator)
    return method_credit(config, batch, signals, seeded(stream, "attribution")).advantages


def reference_advantages(policy: RunConfig, batch: TokenBatch) -> Float[Tensor, "B T"]:
    """The return of each dialogue less the mean of its prompt's others, at every token: trajectory-share without whitening."""
    (source,) = reward_sources(policy, batch, {}, seeded(0))
    rewards = advantages.rloo(source.rewards, source.positions, batch.group_size, "trajectory")
    return advantages.returns(rewards, batch.response_mask)


def all_advantages(
    learner: Learner, config: MicroscopeConfig, seen: Sample, stream: str, oracle: TabularOracle | None = None
) -> Float[Tensor, "M B T"]:
    """The weights of all tokens' log-probabilities in the batch's surrogate, a layer for each of ``config.names``.

    Methods' are advantages divided by the tokens of the batch, as in training; the reference's are divided by its dialogues,
    whose number is fixed, so that its mean has no bias.
    """
    batch, ids = seen.batch, seen.batch.turn_ids
    layers = [method_advantages(learner, measured, seen, stream) for measured in config.methods]
    if oracle is not None:
        worth = oracle.advantages(seen.dialogues)
        layers.append(torch.where(ids >= 0, worth.gather(1, ids.clamp(min=0)), 0))
    own = torch.stack(layers) / int(batch.response_mask.sum())
    return torch.cat([reference_advantages(config.policy, batch)[None] / len(batch), own])


def gradients(learner: Learner, batch: TokenBatch, weights: Float[Tensor, "M B T"]) -> Float[Tensor, "M D"]:
    """The gradient of each layer's weighted sum of log-probabilities with respect to the policy's adapter.

    Log-probabilities are computed once for all layers. To ascend it is to descend the surrogate where its ratios are 1.
    """
    own = list(learner.backbone.parameters("policy").values())
    total = torch.zeros(len(weights), sum(parameter.numel() for parameter in own))
    with learner.backbone.use("policy"):
        for rows, width in micro_batches(batch.lengths, learner.config.token_budget):
            mask = batch.response_mask[rows, :width]
            logp, _ = learner.backbone.token_stats(batch.input_ids[rows, :width], mask)
            for number, layer in enumerate(weights[:, rows, :width]):
                parts = torch.autograd.grad(logp, own, layer, retain_graph=number + 1 < len(weights))
                total[number] += torch.cat([part.flatten().float().cpu() for part in parts])
    return total


def sketch(vectors: Float[Tensor, "M D"], size: int = SKETCH) -> Float[Tensor, "M S"]:
    """Sums of some entries with random signs, the same ones in every call; vectors that are no longer stay as they are.

    Source: Charikar, Chen and Farach-Colton, 2002 (count sketch).

    >>> sketch(torch.tensor([[3.0, 4.0]]), size=2).tolist()
    [[3.0, 4.0]]
    """
    length = vectors.shape[1]
    if length <= size:
        return vectors
    generator = seeded("sketch", length, size)
    place = torch.randint(size, (length,), generator=generator)
    sign = 2.0 * torch.randint(2, (length,), generator=generator) - 1
    return vectors.new_zeros(len(vectors), size).index_add_(1, place, vectors * sign)


def measure(config: MicroscopeConfig, run: Run) -> None:
    """Train the policy, measure the batches, from the last checkpoint on, and finish ``run``.

    For ``itpo.runs.sweep.sweep(root, configs, measure)``; :func:`read` reads the result. What a batch is like is logged under
    the step after those of the policy: success, turns and tokens, AUC of the PRM, and the normalised entropy of the weights (5)
    at an eta of 0.4. Raises as :func:`itpo.trainer.train`.
    """
    store = Store(run.folder.parent, run.mix_platforms)
    run.declare(inputs(config.run, store))
    learner = build_learner(config.run, store, to_train=False)
    start = learner.resume(run)
    lengths, sketches = _kept(run, start - config.policy_steps)
    if start == 0:
        warm_up(learner, run)
    learner.config = config.policy
    for step in range(start, config.policy_steps):
        _, metrics = training_step(learner, f"{config.run.seed}/{step}", Timer())
        run.log(step, metrics)
        stop_if_diverged(learner, run, step + 1)
        if (step + 1) % config.run.checkpoint_every == 0:
            run.checkpoint(step + 1, learner.state())
    oracle = _table(learner, config)
    for number in range(len(lengths), config.batches):
        stream, step, timer = f"{config.run.seed}/microscope/{number}", config.policy_steps + number, Timer()
        with timer("generation"):
            seen = sample(learner, stream)
        with timer("gradients"):
            found = gradients(learner, seen.batch, all_advantages(learner, config, seen, stream, oracle))
        lengths.append(found.double().norm(dim=1))
        sketches.append(sketch(found))
        run.log(step, describe(seen.batch) | _quality(config, seen))
        run.log_time(step, timer.seconds)
        if (number + 1) % config.run.checkpoint_every == 0 and number + 1 < config.batches:
            kept = {"lengths": torch.stack(lengths), "sketches": torch.stack(sketches)}
            run.checkpoint(step + 1, learner.state() | kept)
    run.save_monitor(0, _products(torch.stack(lengths), torch.stack(sketches)))
    run.finish({"batches": config.batches, "states": oracle.states if oracle else 0})


def _kept(run: Run, batches: int) -> tuple[list[Tensor], list[Tensor]]:
    """Lengths and sketches of the batches that the run's last checkpoint holds."""
    checkpoint = run.restore() if batches > 0 else None
    if checkpoint is None:
        return [], []
    return list(checkpoint[1]["lengths"]), list(checkpoint[1]["sketches"])


def _table(learner: Learner, config: MicroscopeConfig) -> TabularOracle | None:
    """The table of dialogues that are not measured; the policy decides them, so that a resumed run has the same."""
    if not config.oracle_batches:
        return None
    held: list[Dialogue] = []
    for number in range(config.oracle_batches):
        stream = f"{config.run.seed}/table/{number}"
        held += learner.collect(stream, config.run.prompts, config.run.rollouts, "policy")[0]
    return TabularOracle(learner.task, held)


def _quality(config: MicroscopeConfig, seen: Sample) -> dict[str, float]:
    """How well the PRM tells dialogues apart, and how even the weights are that it gives their turns."""
    batch, mask = seen.batch, seen.batch.response_mask
    rewards = prm.token_rewards(seen.prm, seen.reference, mask, config.run.method.beta)
    has_turn = turns.turn_mask(batch.turn_ids)
    several = has_turn.sum(1) > 1
    weights = turns.normalize(turns.aggregate(rewards, batch.turn_ids), has_turn, temperature=0.4)[several]
    entropy = torch.special.entr(weights).sum(1) / has_turn[several].sum(1).log()
    auc = ranking_auc(rewards.sum(1)[batch.kept], batch.outcome[batch.kept])
    return {"prm_auc": auc, "entropy": entropy.mean().item()}


def _products(lengths: Float[Tensor, "N M"], sketches: Float[Tensor, "N M S"]) -> dict[str, Tensor]:
    """Inner products of each layer's gradients of all batches, with one another and with the first layer's."""
    layers = sketches.double().transpose(0, 1)
    own, cross = layers @ layers.mT, layers @ layers[0].mT
    for products, gradient in zip(own, lengths.T, strict=True):
        products.diagonal().copy_(gradient.square())
    return {"own": own, "cross": cross}


def read(run: Run) -> Products:
    """The inner products that :func:`measure` kept; raises ``ValueError`` if the run is not finished."""
    if not run.done:
        raise ValueError(f"{run.folder} holds no finished measurement: measure it first")
    ((_, tensors),) = run.monitor()
    return Products(run.config.names, tensors["own"].numpy(), tensors["cross"].numpy())


def batch_means(run: Run) -> dict[str, float]:
    """What the measured batches of a run are like on average: each measure that :func:`measure` logs of them."""
    return run.metrics().query("step >= @run.config.policy_steps").mean().to_dict()


def worth_table(runs: Sequence[Run]) -> pd.DataFrame:
    """:func:`itpo.study.microscope_tables.microscope_table` of finished measurements: a line for each and method.

    Its first columns are task, policy_steps, name, ``label``, and ``row``, the method that lends its colour (empty for the
    oracle). Raises ``ValueError`` if one is not finished.
    """
    tables = []
    for run in runs:
        table, config = microscope_table(read(run)), run.config
        rows = {measured.name: measured.method.name for measured in config.methods}
        table.insert(1, "label", table["name"].map(label))
        table.insert(2, "row", table["name"].map(rows).fillna(""))
        table.insert(0, "task", config.run.task.name)
        table.insert(1, "policy_steps", config.policy_steps)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def map_table(runs: Mapping[tuple[str, str], Run]) -> pd.DataFrame:
    """:func:`worth_table` of measurements named by a group of settings and the one of it, without trajectory-share's lines.

    Its first columns are group and setting.
    """
    tables = []
    for (group, setting), run in runs.items():
        table = worth_table([run])
        table.insert(0, "group", group)
        table.insert(1, "setting", setting)
        tables.append(table[table["name"] != BASELINE])
    return pd.concat(tables, ignore_index=True)
