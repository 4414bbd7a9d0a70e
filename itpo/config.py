"""What a run is: a frozen configuration that decides every number the run can produce. Every value says where it comes from.

Marks: [P] paper, [C] the authors' released code, [S] secondary sources, [O] our own choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from itpo import attribution, estimators, losses, prm, specs
from itpo.estimators import allows
from itpo.fields import Options, check, check_fields, check_named, setting
from itpo.runs.files import UNNAMED
from itpo.specs import (
    Adapter,
    Custom,
    Endpoint,
    FrozenBase,
    PretrainedModel,
    RealData,
    RuleJudge,
    ScriptedUser,
    TinyLM,
)
from itpo.tasks import registry
from itpo.tasks.base import ScriptedTask
from itpo.thoughts import THOUGHT_TAGS

JUDGE_FAILURES = ("drop", "uniform")
ENGINES = ("own", "vllm")  # of rollouts


@dataclass(frozen=True)
class Method:
    """A row of Table 1 with the settings that belong to it.

    ``options`` are the keyword arguments of the method's function (:mod:`itpo.attribution`) beside its signals, such as
    ``{"temperature": 0.4}`` of Norm-ITPO; those left out take the function's defaults. ``name`` may be a reader's own,
    ``module:name``, with the ``version`` that it states.

    >>> Method("norm_itpo").options
    {'temperature': 0.4, 'reduction': 'sum'}
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=Options)
    coef: float = setting(5.0, above=0)  # weight of the method's own rewards; 5 in the released math runs [C]
    # Weight of the outcome as a second source; 5 with ITPO on the medical task [C].
    outcome_coef: float = setting(0.0, low=0)
    beta: float = setting(
        0.2, above=0
    )  # eq. (2)-(3) [O]; 0.05 ITPO, 0.01 Norm-ITPO in the released math runs [C]
    policy_lr: float = setting(
        1e-3, above=0
    )  # LoRA at 170 k parameters [O]; full fine-tuning of 3 B used 1e-6 [C]
    # Token rewards of (2) as they are, or "released": the last one dropped, then batch-rescaled [C].
    scale: str = setting("paper", among=prm.SCALES)
    version: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_named(self.name, self.version, tuple(attribution.known_methods()), "method")
        entry = attribution.get_method(self.name)
        object.__setattr__(self, "options", Options(entry.check_options(self.options)))
        if self.outcome_coef and entry.carries_outcome:
            raise ValueError(
                f"outcome_coef is {self.outcome_coef}; it must be 0: the rewards of {self.name!r} are shares of the outcome"
            )

    def with_settings(self, **settings: Any) -> Method:
        """The method with other settings, fields and options alike.

        >>> Method("norm_itpo").with_settings(beta=0.05, temperature=0.1).options["temperature"]
        0.1
        """
        own = {key: value for key, value in settings.items() if key in self.options}
        others = {key: value for key, value in settings.items() if key not in own}
        return replace(self, options=Options({**self.options, **own}), **others)

    @property
    def entry(self) -> attribution.MethodEntry:
        """What the registry knows of the method: its function, label and needs."""
        return attribution.get_method(self.name)


@dataclass(frozen=True)
class Estimator:
    """A column of Table 1; ``options`` are the keyword arguments of its function in :mod:`itpo.estimators`.

    >>> Estimator("rloo").options, Estimator("ppo").options
    ({'baseline': 'released'}, {'gamma': 1.0, 'lam': 1.0})
    """

    name: str = "rloo"  # the only one of the released code [C]
    options: Mapping[str, Any] = field(default_factory=Options)

    def __post_init__(self) -> None:
        check_fields(self)
        check(
            "estimator",
            self.name in estimators.ESTIMATORS,
            self.name,
            f"one of {', '.join(estimators.ESTIMATORS)}",
        )
        object.__setattr__(self, "options", Options(self.entry.check_options(self.options)))

    @property
    def entry(self) -> estimators.EstimatorEntry:
        """What the registry knows of the estimator."""
        return estimators.get_estimator(self.name)

    @property
    def baseline(self) -> str:
        """The baseline of RLOO; "own" for an estimator without that choice."""
        return str(self.options.get("baseline", "own"))


@dataclass(frozen=True)
class TaskSpec:
    """A scripted task: what the user wants, how it answers, how a conversation is scored, with the task's ``options``.

    ``name`` is one of :data:`itpo.tasks.registry.NAMES`, or a reader's own, ``module:name``, with the ``version`` it states.

    >>> TaskSpec("corridor", {"turns": 6, "pivots": 2}).build().max_turns
    6
    """

    name: str = "math"
    options: Mapping[str, Any] = field(default_factory=Options)
    version: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_named(self.name, self.version, registry.NAMES, "task")
        defaults, what = registry.default_options(self.name), f"task {self.name!r}"
        given = {key: value for key, value in self.options.items() if key in defaults}
        merged = attribution.merge_options(what, defaults, given)
        object.__setattr__(self, "options", Options({**self.options, **merged}))
        check_fields(self)  # the defaults of a reader's own task too
        try:
            task = self.build()
        except TypeError as error:
            raise ValueError(f"options of {what}: {error}") from error
        check(
            "task",
            isinstance(task, ScriptedTask),
            self.name,
            "a task with the members of tasks.base.ScriptedTask",
        )

    def build(self) -> Any:
        """The task itself."""
        return registry.get_task(self.name, self.options)

    @property
    def entry(self) -> registry.TaskEntry:
        """How people read the task."""
        return registry.get_entry(self.name)


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run, and nothing else: equal configurations give equal numbers on one platform."""

    method: Method
    seed: int = setting(low=0)
    steps: int = setting(low=1)
    task: TaskSpec | RealData = field(default_factory=TaskSpec)
    user: ScriptedUser | FrozenBase | Endpoint | Custom = field(default_factory=ScriptedUser)
    judge: RuleJudge | FrozenBase | Endpoint | Custom = field(default_factory=RuleJudge)
    model: TinyLM | PretrainedModel = field(default_factory=TinyLM)
    adapter: Adapter = field(default_factory=Adapter)
    estimator: Estimator = field(default_factory=Estimator)
    max_turn_tokens: int = setting(24, low=1)  # of one assistant turn [O]
    # What opens and closes a thought of policy, user or judge; nobody else is shown thoughts [O].
    thought_tags: Mapping[str, Any] = field(default_factory=lambda: Options(THOUGHT_TAGS))
    # Whether the policy's thoughts before its speech are trained; if not, they are context, as the user's words are [O].
    thought_credit: bool = True
    prompts: int = setting(16, low=1)  # per step [C]
    rollouts: int = setting(8, low=1)  # per prompt [C]
    length_penalty: float = setting(5e-6, low=0)  # lambda, per token after the prompt [S]
    policy_minibatches: int = setting(4, low=1)  # per step [C]
    policy_clip_norm: float = setting(1.0, above=0)  # gradient norm [O]
    clip: float = setting(0.2, above=0)  # of the surrogate [C]
    # In 16 bits, and where another engine samples, tokens were drawn by slightly other probabilities than training's. Each is
    # weighted by the ratio of the two, or each dialogue by the product of its ratios, cut off at a cap; TRL and verl do so.
    correction: str = setting("token", among=losses.CORRECTIONS)  # [O]
    correction_cap: float = setting(2.0, low=1)  # verl's default
    max_mismatch: float = setting(0.2, above=0)  # mean difference, in nats, before the run stops [O]
    kl_coef: float = setting(1e-3, low=0)  # k3 [C]
    entropy_coef: float = setting(1e-3, low=0)  # [C]
    prm_lr: float = setting(1e-3, above=0)  # [O]; 1e-6 [C]
    prm_minibatches: int = setting(8, low=1)  # "many small" [C]; the number is ours [O]
    prm_clip_norm: float = setting(10.0, above=0)  # [C]
    critic_lr: float = setting(2e-3, above=0)  # PPO [O]
    critic_minibatches: int = setting(16, low=1)  # more learn faster, fewer hardly learn within a run [O]
    critic_clip_norm: float = setting(10.0, above=0)  # as the PRM's [O]
    value_clip: float = setting(0.2, above=0)  # largest step of a value, in units of the outcome [O]
    warmup: int = setting(
        10, low=0
    )  # batches of reference rollouts to teach PRM and critic before the first step [O]
    judge_retries: int = setting(2, low=0)  # further attempts where a judge fails or answers nonsense [O]
    # Then: leave the dialogue out, or share its outcome equally [O].
    judge_failure: str = setting("drop", among=JUDGE_FAILURES)
    max_failed: float = setting(0.5, low=0, high=1)  # share of a batch that may fail before the run stops [O]
    # Optimizer steps with a loss or gradient that is not finite before the run stops [O].
    max_skipped: int = setting(10, low=0)
    # What must fit into memory [O]; `python -m itpo plan` says what does. Changes no result beyond rounding.
    token_budget: int = setting(2048, low=1)  # padded tokens of one forward pass
    head_chunk: int = setting(2048, low=1)  # positions that have logits at a time
    max_rows: int = setting(512, low=1)  # dialogues held at a time
    read_budget: int = setting(16384, low=1)  # padded tokens of one forward pass of a rollout
    checkpointing: bool = False  # keep only the inputs of decoder layers for the backward pass
    # What writes the turns of a pretrained model: our own decoding, or vLLM, which draws by other numbers [O].
    engine: str = setting("own", among=ENGINES)
    engine_memory: float = setting(0.45, above=0, high=1)  # share of the GPU's memory that vLLM may take [O]
    eval_every: int = setting(10, low=1)  # steps [O]
    eval_dialogues: int = setting(256, low=1)  # fresh problems, the same for all runs [O]
    monitor_dialogues: int = setting(
        64, low=1
    )  # fixed reference rollouts whose rewards are kept over training [O]
    monitor_every: int = setting(5, low=1)  # steps [O]
    checkpoint_every: int = setting(10, low=1)  # steps; 50 [C]

    def __post_init__(self) -> None:
        check_fields(self)
        tags = [*self.thought_tags, *self.thought_tags.values()]
        spelled = all(isinstance(tag, str) and tag.strip() for tag in tags)
        check(
            "thought_tags", spelled, self.thought_tags, "a mapping of opening tags to closing tags, all texts"
        )
        if isinstance(self.task, RealData):
            self._check_real(self.task)
        else:
            self._check_scripted(self.task)
        if isinstance(self.judge, Endpoint):
            wanted = "an Endpoint of temperature 0: a judge is not to be random"
            check("judge", self.judge.temperature == 0, self.judge, wanted)
        if not allows(self.estimator.name, self.method.name):
            raise ValueError(
                f"method {self.method.name!r} compares a prompt's rollouts itself, and takes no baseline or scale of "
                f"{self.estimator.name!r}: use rloo"
                if self.method.entry.compares
                else f"method {self.method.name!r} needs the values of a critic, which {self.estimator.name!r} lacks: use ppo"
            )
        engine_fits = self.engine == "own" or isinstance(self.model, PretrainedModel)
        check("engine", engine_fits, self.engine, "'own' for a tiny model, which vLLM does not know")
        self._check_coefficients()

    def _check_real(self, data: RealData) -> None:
        """What goes with real examples."""
        wanted = "a PretrainedModel without imitation: real data has no scripted policy, and words that no tiny model knows"
        fits = isinstance(self.model, PretrainedModel) and self.model.imitation is None
        check("model", fits, self.model, wanted)
        wanted = "FrozenBase, Endpoint or Custom: real data has no {}"
        check("user", not isinstance(self.user, ScriptedUser), self.user, wanted.format("scripted user"))
        ruled = data.name == "math" and not data.judged and not self.method.entry.needs_judge
        check("judge", ruled or not isinstance(self.judge, RuleJudge), self.judge, wanted.format("rules"))

    def _check_scripted(self, task: TaskSpec) -> None:
        """What goes with a scripted task."""
        scripted = isinstance(self.user, ScriptedUser)
        check("user", scripted, self.user, "ScriptedUser: the task has its own")
        wanted = "RuleJudge or Custom: a scripted task is judged by its own rules"
        check("judge", isinstance(self.judge, RuleJudge | Custom), self.judge, wanted)
        tiny = isinstance(self.model, TinyLM)
        readable = (*registry.TASKS, "corridor") if tiny else tuple(registry.PROSE)
        wanted = f"one of {', '.join(readable)}, whose words a {'tiny' if tiny else 'pretrained'} model knows"
        check("task", ":" in task.name or task.name in readable, task.name, wanted)

    def _check_coefficients(self) -> None:
        """Refuse weights of rewards that an estimator cancels."""
        method = self.method
        if self.estimator.entry.scale_free and method.outcome_coef not in (0, method.coef):
            raise ValueError(
                f"outcome_coef is {method.outcome_coef} and coef is {method.coef}: {self.estimator.name} scales each source of "
                "reward to unit variance, so that their weights cancel; make the two equal, or outcome_coef 0"
            )


_SPECS = {spec.__qualname__: spec for spec in (RunConfig, Method, Estimator, TaskSpec, Adapter, *specs.ALL)}


def from_json(value: Any) -> Any:
    """The specification that :func:`itpo.runs.files.plain` wrote, such as the config of a run's ``config.json``.

    Raises ``ValueError`` for one that this version of the library does not have, or that is out of range.

    >>> from itpo.runs.files import plain
    >>> method = Method("itpo", beta=0.05)
    >>> from_json(plain(method, "method")) == method
    True
    """
    if isinstance(value, Mapping) and "class" in value:
        if value["class"] not in _SPECS:
            raise ValueError(
                f"unknown specification {value['class']!r}: it was written by another version of the library"
            )
        settings = {**value, **value.get(UNNAMED, {})}
        given = {key: from_json(item) for key, item in settings.items() if key not in ("class", UNNAMED)}
        try:
            return _SPECS[value["class"]](**given)
        except TypeError as error:
            raise ValueError(
                f"{value['class']}: {error}: it was written by another version of the library"
            ) from error
    return value
