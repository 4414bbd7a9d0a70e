"""Who takes part beside the policy: the tasks of training and evaluation, their users, and a judge of turns.

All of them are made from the run's config alone. On real data, a language model plays users and judges: the policy's own frozen
base, so that one GPU holds all of it [O], or a larger model behind a server, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from itpo.chat import ChatFormat
from itpo.config import RunConfig, TaskSpec
from itpo.data import Example, split
from itpo.fields import load_named
from itpo.models.adapters import AdaptedModel
from itpo.rollout.endpoint import EndpointModel, LanguageModel
from itpo.rollout.engine import Engine
from itpo.rollout.llm_judge import ModelJudge
from itpo.rollout.real_tasks import RealTask, make_real_task
from itpo.rollout.sampler import Sampling
from itpo.rollout.users import FrozenBaseModel, ModelUser
from itpo.specs import Custom, Endpoint, FrozenBase, RealData, RuleJudge, ScriptedUser
from itpo.tasks.base import Task
from itpo.tasks.judging import Judge, ScriptedJudge


class Environments(NamedTuple):
    """The task of training, that of evaluation, and a judge of turns, if any."""

    task: Task
    evaluation: Task
    judge: Judge | None = None


def build_environments(
    config: RunConfig, backbone: AdaptedModel, chat: ChatFormat, store: Path, engine: Engine | None = None
) -> Environments:
    """Make tasks, users and judges as the config says; replies of servers are kept in a folder of the ``store``.

    The ``engine`` writes what users and judges say that the base plays.

    Real examples are divided into training and a tenth for evaluation [C]; there users are greedy [S]. Users of plain
    problems, which hide nothing, first write an opening that does. Raises :class:`itpo.data.DataError` for data that cannot
    be read, and ``ValueError`` for fewer than two examples or a class of the reader's own that cannot be made.
    """
    if isinstance(config.task, TaskSpec):
        task = config.task.build()
        if isinstance(config.judge, RuleJudge):
            return Environments(task, task, ScriptedJudge(task, config.judge.error_rate))
        assert isinstance(config.judge, Custom)  # as the config saw to
        return Environments(task, task, _own(config.judge, ["scores"]))
    data, models = config.task, _Models(backbone, chat, config, store, engine)
    outcomes = [] if data.name == "math" and not data.judged else [_OUTCOMES[data.name]]
    judge = models.judge(config.judge, outcomes + ["scores"] * config.method.entry.needs_judge)
    training, held_out = split(data.examples())
    return Environments(
        _real_task(data, training, models.user(config.user, greedy=False), judge),
        _real_task(data, held_out, models.user(config.user, greedy=True), judge),
        judge,
    )


_OUTCOMES = {
    "math": "accuracy",
    "documents": "documents",
    "medical": "diagnosis",
}  # what a task asks its judge


def _real_task(data: RealData, examples: Sequence[Example], user: Any, judge: Any) -> RealTask:
    """The examples' task; those whose prompt is the whole goal are opened by the user first."""
    plain = [example for example in examples if example.prompt[-1].content == example.goal]
    _require(user, ["replies"] + ["open"] * bool(plain))
    opened = {example.id: example for example in user.open(plain, seed=0)} if plain else {}
    return make_real_task(data, [opened.get(example.id, example) for example in examples], user, judge)


class _Models:
    """Language models that play users and judges."""

    def __init__(
        self,
        backbone: AdaptedModel,
        chat: ChatFormat,
        config: RunConfig,
        store: Path,
        engine: Engine | None,
    ) -> None:
        self.backbone, self.chat, self.config = backbone, chat, config
        self.store, self.engine = store, engine

    def user(self, spec: ScriptedUser | FrozenBase | Endpoint | Custom, greedy: bool) -> Any:
        """Users of training, or, ``greedy``, of evaluation."""
        if isinstance(spec, Custom):
            return _own(spec, [])
        assert isinstance(spec, FrozenBase | Endpoint)
        return ModelUser(self._model(spec, greedy), self.chat.thought_tags)

    def judge(self, spec: RuleJudge | FrozenBase | Endpoint | Custom, methods: Sequence[str]) -> Any:
        """A judge with these methods; ``None`` where outcomes are compared by rule and no turn is judged."""
        if isinstance(spec, RuleJudge):
            return None
        if isinstance(spec, Custom):
            return _own(spec, methods)
        return ModelJudge(self._model(spec, greedy=True), self.chat.thought_tags)

    def _model(self, spec: FrozenBase | Endpoint, greedy: bool) -> LanguageModel:
        if isinstance(spec, FrozenBase):
            rows, read = self.config.max_rows, self.config.read_budget
            sampling = Sampling(spec.max_tokens, greedy, rows, read_budget=read)
            return FrozenBaseModel(self.backbone, self.chat, sampling, self.engine)
        place = replace(spec, temperature=0.0) if greedy else spec
        return EndpointModel(place, None if spec.cache is None else self.store / spec.cache)


def _own(spec: Custom, methods: Sequence[str]) -> Any:
    """A user or judge of the reader's own, with at least these methods."""
    return _require(load_named(spec.name, spec.version)(**spec.options), methods)


def _require(part: Any, methods: Sequence[str]) -> Any:
    """The part itself; raises ``ValueError`` where it lacks one of the methods."""
    missing = [method for method in methods if not callable(getattr(part, method, None))]
    if missing:
        name = f"{type(part).__module__}:{type(part).__qualname__}"
        raise ValueError(f"{name} has no method {', '.join(missing)}: see itpo.specs.Custom")
    return part
