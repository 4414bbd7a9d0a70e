"""The oracle: what every assistant turn of a dialogue is truly worth, measured by many continuations.

With a scripted user and exact scoring, the value of a conversation that has come so far is the mean outcome of its
continuations under a policy. What a turn k is worth is the value of the history up to and including its message, less the
value of the history that it answered. No method of Table 1 sees these numbers; each method's credit is compared with them
(F23). All of it is our own choice [O].
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from itpo.chat import ChatFormat
from itpo.config import RunConfig
from itpo.dialogue import Dialogue, Message
from itpo.fields import check
from itpo.models.adapters import AdaptedModel
from itpo.rollout.sampler import Sampling, rollout
from itpo.rollout.seeding import seeded
from itpo.runs.store import Run, Store
from itpo.tasks.base import Task
from itpo.tasks.judging import judge_dialogues
from itpo.training.build import build_learner, inputs, trained
from itpo.training.evaluation import record
from itpo.training.profiling import Timer

POLICIES = {"trained": "policy", "reference": None}  # the adapter that is active while dialogues go on


@dataclass(frozen=True)
class TurnValues:
    """Values of P dialogues before and after each of their at most K assistant turns, in units of the outcome.

    ``before`` and ``after`` are means over the continuations, ``before_se`` and ``after_se`` the standard errors of those
    means (0 where every continuation scores the same, as where the conversation is over). ``halves`` are the advantages as
    the first and as the second half of the continuations alone give them: how well the two agree says how reliable the
    oracle is. Everything is 0 where ``turn_mask`` is false.
    """

    before: Float[Tensor, "P K"]
    after: Float[Tensor, "P K"]
    before_se: Float[Tensor, "P K"]
    after_se: Float[Tensor, "P K"]
    halves: tuple[Float[Tensor, "P K"], Float[Tensor, "P K"]]
    turn_mask: Bool[Tensor, "P K"]

    @property
    def advantage(self) -> Float[Tensor, "P K"]:
        """What each turn is worth: value after it less value before it."""
        return self.after - self.before

    @property
    def advantage_se(self) -> Float[Tensor, "P K"]:
        """Standard errors of the advantages; the two values come from independent continuations."""
        return (self.before_se.square() + self.after_se.square()).sqrt()

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, as :meth:`itpo.runs.store.Run.save_monitor` takes it."""
        names = ("before", "after", "before_se", "after_se", "turn_mask")
        halves = {f"half_{i}": half for i, half in enumerate(self.halves)}
        return {name: getattr(self, name) for name in names} | halves

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> TurnValues:
        """The inverse of :meth:`tensors`; further names are ignored."""
        names = ("before", "after", "before_se", "after_se", "turn_mask")
        return cls(**{name: tensors[name] for name in names}, halves=(tensors["half_0"], tensors["half_1"]))


def turn_values(
    backbone: AdaptedModel,
    chat: ChatFormat,
    task: Task,
    dialogues: Sequence[Dialogue],
    continuations: int,
    stream: str,
    sampling: Sampling,
) -> TurnValues:
    """Measure the value before and after every assistant turn of P dialogues, under the backbone's active adapter.

    Each of the two histories of a turn is continued ``continuations`` times. After an assistant message the user's reply
    is still random, so each continuation draws its own; where the user leaves, or ``task.max_turns`` is reached, the value is
    ``task.score``. ``stream`` decides all randomness, with the other arguments. All conversations go on in one call of
    :func:`itpo.rollout.sampler.rollout`; what it says of histories holds here.

    Raises ``ValueError`` if there is no dialogue, or ``continuations`` is not an even number of at least 2, and
    ``RuntimeError`` if the user or judge of a continuation fails.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from itpo.models.backbone import Backbone
    >>> from itpo.specs import Adapter
    >>> from itpo.models.tiny import load, pretrain_by_imitation
    >>> from itpo.specs import TinyLM
    >>> from itpo.tasks.registry import get_task
    >>> task, spec = get_task("math"), TinyLM(hidden_size=16, layers=1, heads=2, steps=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model, tokenizer = load(pretrain_by_imitation(task, task.noisy_expert, spec, Path(folder)))
    >>> backbone, chat, problem = Backbone(model, ["policy"], Adapter()), ChatFormat(tokenizer), task.sample(random.Random(0))
    >>> messages = (*task.opening(problem), Message("assistant", f"the answer is {problem.answer} ."))
    >>> solved = Dialogue(problem, messages, ids=(), response_mask=(), sampled_logp=(), outcome=1.0)
    >>> values = turn_values(backbone, chat, task, [solved], 2, "example", Sampling(max_turn_tokens=4))
    >>> values.before.tolist(), values.after.tolist(), values.advantage.tolist()
    ([[0.0]], [[1.0]], [[1.0]])
    """
    plan = make_plan(task, dialogues, continuations, stream)
    generator = seeded(stream, "sampling")
    finished = rollout(backbone, chat, task, plan.examples, plan.users, generator, sampling, plan.histories)
    for place, dialogue in zip(plan.places, finished, strict=True):
        if dialogue.failure is not None:
            raise RuntimeError(f"a continuation has no outcome ({dialogue.failure}): measure again")
        plan.outcomes[place] = dialogue.outcome
    return _summarize(plan.outcomes, plan.turn_mask)


@dataclass(frozen=True)
class Plan:
    """The conversations that have to go on for the values of P dialogues of at most K turns, N a history.

    ``places`` says where the outcome of each belongs in ``outcomes``, which holds those of conversations that are over.
    """

    turn_mask: Bool[Tensor, "P K"]
    outcomes: Float[Tensor, "2 P K N"]  # before and after each turn; 0 where there is no turn
    places: list[tuple[int, int, int, int]]
    examples: list[Any]
    users: list[random.Random]
    histories: list[list[Message]]


def make_plan(task: Task, dialogues: Sequence[Dialogue], continuations: int, stream: str) -> Plan:
    """What :func:`turn_values` will roll out; raises ``ValueError`` as it does.

    >>> from itpo.tasks.registry import get_task
    >>> task, user = get_task("math"), random.Random(0)
    >>> problem = task.sample(user)
    >>> messages = (*task.opening(problem), Message("assistant", "we can do this ."))
    >>> dialogue = Dialogue(problem, messages, ids=(), response_mask=(), sampled_logp=(), outcome=0.0)
    >>> [len(history) for history in make_plan(task, [dialogue], 2, "example").histories]
    [1, 1, 3, 3]
    """
    _check_continuations(continuations)
    if not dialogues:
        raise ValueError("there is no dialogue whose turns could be measured: pass at least one")
    turns = torch.tensor([dialogue.assistant_turns for dialogue in dialogues])
    turn_mask = torch.arange(int(turns.max())) < turns[:, None]
    outcomes = torch.zeros(2, *turn_mask.shape, continuations, dtype=torch.float64)
    plan = Plan(turn_mask, outcomes, [], [], [], [])
    for p, dialogue in enumerate(dialogues):
        ends = [i for i, message in enumerate(dialogue.messages) if message.role == "assistant"]
        for k, side, i in itertools.product(range(len(ends)), (0, 1), range(continuations)):
            user = random.Random(f"{stream}/{p}/{k}/{side}/{i}")
            history = list(dialogue.messages[: ends[k] + side])
            if side == 1 and not _answer(task, dialogue.example, history, user):
                outcomes[side, p, k, i] = task.score(dialogue.example, history)
                continue
            plan.places.append((side, p, k, i))
            plan.examples.append(dialogue.example)
            plan.users.append(user)
            plan.histories.append(history)
    return plan


def _check_continuations(count: int) -> None:
    check("continuations", count >= 2 and count % 2 == 0, count, "even, as it is halved, and at least 2")


def _answer(task: Task, example: Any, history: list[Message], user: random.Random) -> bool:
    """Append the user's reply to the last assistant message; false when the conversation is over there."""
    over = sum(message.role == "assistant" for message in history) >= task.max_turns
    reply = None if over else task.reply(example, history, user)
    if reply is not None:
        history.append(Message("user", reply))
    return reply is not None


def _summarize(outcomes: Float[Tensor, "2 P K N"], turn_mask: Bool[Tensor, "P K"]) -> TurnValues:
    """Means and their standard errors over the N continuations, and the advantages of either half of them."""
    count = outcomes.shape[-1]
    before, after = outcomes.mean(-1).float()
    before_se, after_se = (outcomes.var(-1) / count).sqrt().float()
    first, second = ((half[1] - half[0]).mean(-1).float() for half in outcomes.chunk(2, dim=-1))
    return TurnValues(before, after, before_se, after_se, (first, second), turn_mask)


@dataclass(frozen=True)
class OracleConfig:
    """Everything that determines a measurement: the monitor set of ``run``, valued under a policy.

    ``policy`` is "trained" for the policy that ``run`` ended with, "reference" for the base model, whose values are the same
    for every run of a task and base model. Each history is continued ``continuations`` times (32 give a value of an outcome
    that is 0 or 1 a standard error of at most 0.09). Raises ``ValueError`` for another policy, or for continuations that
    are not even and at least 2.
    """

    run: RunConfig
    policy: str = "trained"
    continuations: int = 32

    def __post_init__(self) -> None:
        check("policy", self.policy in POLICIES, self.policy, f"one of {', '.join(POLICIES)}")
        _check_continuations(self.continuations)

    @property
    def steps(self) -> int:
        """A measurement is one step to the progress bar of :func:`itpo.runs.sweep.sweep`."""
        return 1


def measure(config: OracleConfig, run: Run) -> None:
    """Measure the turn values of the configured run's monitor set, and finish ``run``.

    For ``itpo.runs.sweep.sweep(root, configs, measure)``. The dialogues are those of
    :func:`itpo.training.evaluation.collect_monitor_set`, in the same order. Beside the values, ``outcome`` (P,), ``turn_ids``
    (P, T) and ``judge_scores`` (P, K), those of the run's judge, are kept. Raises ``ValueError`` if the trained policy is asked
    for and the configured run is not finished.
    """
    store = Store(run.folder.parent, run.mix_platforms)
    run.declare(inputs(config.run, store))
    run.restore()
    adapter = POLICIES[config.policy]
    learner = build_learner(config.run, store) if adapter is None else trained(store.open(config.run))
    dialogues, batch = learner.collect("probe", config.run.monitor_dialogues, 1, None)
    timer, sampling = Timer(), Sampling(config.run.max_turn_tokens)
    with timer("oracle"), learner.backbone.use(adapter):
        values = turn_values(
            learner.backbone, learner.chat, learner.task, dialogues, config.continuations, "oracle", sampling
        )
    assert learner.judge is not None  # every scripted task has one
    judges = [random.Random(f"oracle/judge/{p}") for p in range(len(dialogues))]
    scores = torch.zeros(values.turn_mask.shape)
    judged = judge_dialogues(learner.judge, dialogues, judges, retries=0).scores
    scores[values.turn_mask] = torch.tensor([score for of_turns in judged for score in of_turns])
    static = {"outcome": batch.outcome, "turn_ids": batch.turn_ids, "judge_scores": scores}
    run.save_monitor(0, values.tensors() | static)
    run.save_dialogues(0, [record(dialogue) for dialogue in dialogues])
    run.log_time(0, timer.seconds)
    rollouts = 2 * int(values.turn_mask.sum()) * config.continuations  # those over at once included
    run.finish({"continuations": config.continuations, "rollouts": rollouts})


def read(run: Run) -> tuple[TurnValues, dict[str, Tensor]]:
    """The values that :func:`measure` stored, and ``outcome``, ``turn_ids`` and ``judge_scores`` of the same dialogues.

    Raises ``ValueError`` if the run is not finished.
    """
    if not run.done:
        raise ValueError(f"{run.folder} holds no finished measurement: measure it first")
    ((_, tensors),) = run.monitor()
    static = {name: tensors[name] for name in ("outcome", "turn_ids", "judge_scores")}
    return TurnValues.from_tensors(tensors), static
