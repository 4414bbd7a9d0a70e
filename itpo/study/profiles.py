"""Scales at which the notebooks run, and the settings of each method there. Every value says where it comes from.

Marks: [P] paper, [C] the authors' released code, [S] secondary sources, [O] our own choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from itpo.attribution import METHODS
from itpo.config import Estimator, Method, RunConfig, TaskSpec, allows
from itpo.fields import Options, check
from itpo.specs import Adapter, FrozenBase, Imitation, PretrainedModel, RealData, TinyLM


@dataclass(frozen=True)
class Profile:
    """A scale at which the notebooks run.

    ``settings`` has the methods that each task is trained with, and ``data`` the real examples of each task, where the profile
    has real ones.
    """

    name: str
    summary: str
    run: RunConfig
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, tuple[Method, ...]] = field(default_factory=lambda: SETTINGS)
    data: Mapping[str, RealData] = field(default_factory=dict)

    def on(self, task: str | TaskSpec | RealData) -> Profile:
        """The same profile on another task: one that it lists, by name, or a specification.

        Methods have the settings that were chosen on that task; those of this task on one that the profile does not list.
        Raises ``ValueError`` for a name that the profile does not list.

        >>> laptop = get_profile("laptop")
        >>> laptop.on("medical").run.task.name, len(laptop.on("medical").grid())
        ('medical', 36)
        >>> laptop.on(TaskSpec("corridor", Options(turns=6, pivots=2))).run.task.options["turns"]
        6
        """
        if isinstance(task, str):
            check("task", task in self.settings, task, f"one of {', '.join(self.settings)}, or a TaskSpec")
            task = self.data.get(task) or TaskSpec(task)
        methods = self.settings.get(task.name, self.methods)
        return replace(self, run=replace(self.run, task=task), methods=methods)

    def with_method(self, method: Method) -> Profile:
        """The same profile with one more method, or with other settings of a method that it lists, on every task.

        >>> [m.beta for m in get_profile("smol").with_method(Method("itpo", beta=0.05)).methods]
        [0.2, 0.05, 0.05]
        """

        def joined(methods: tuple[Method, ...]) -> tuple[Method, ...]:
            # A method that is replaced keeps its place: the first is the baseline.
            return tuple({own.name: own for own in (*methods, method)}.values())

        settings = {task: joined(methods) for task, methods in self.settings.items()}
        return replace(self, methods=joined(self.methods), settings=settings)

    def config(self, row: str, seed: int, estimator: str = "rloo") -> RunConfig:
        """The run of one method, seed and estimator; raises ``ValueError`` for a method that the profile does not list.

        >>> get_profile("smoke").config("itpo", 0).method.name
        'itpo'
        """
        methods = {method.name: method for method in self.methods}
        wanted = f"one of {', '.join(methods)}, or added by with_method"
        check(f"method of profile {self.name!r}", row in methods, row, wanted)
        return replace(self.run, method=methods[row], seed=seed, estimator=Estimator(estimator))

    def grid(self, estimator: str = "rloo") -> list[RunConfig]:
        """Every method that the estimator can train with every seed, methods first.

        >>> len(get_profile("smoke").grid()), len(get_profile("smoke").grid("ppo"))
        (12, 14)
        """
        rows = [method.name for method in self.methods if allows(estimator, method.name)]
        return [self.config(row, seed, estimator) for row in rows for seed in self.seeds]


# Of the PRM's rewards, the same for all methods of a task; chosen with seeds below 100 and 40 steps [O].
BETAS = {"math": 0.05, "documents": 0.2, "medical": 0.05}
# The learning rate of every policy on a task: the best of three for trajectory-share, see `docs/protocol.md` [O].
RATES = {"math": 2e-3, "documents": 2e-3, "medical": 2e-3}


# Belongs under every table and figure of these methods.
TABLE_1_NOTE = "PRIME and ITPO with the outcome as a second reward."


def _table_1(task: str) -> tuple[Method, ...]:
    """The methods of Table 1 at one rate and beta. PRIME and ITPO get the outcome as a second source, as the released medical
    run of ITPO does [C]; ITPO without it is an arm of :mod:`itpo.study.experiment`."""
    both: dict[str, Any] = {"policy_lr": RATES[task], "beta": BETAS[task]}
    second = ("prime", "itpo")
    return tuple(Method(name, outcome_coef=5.0 * (name in second), **both) for name in METHODS)


SETTINGS: dict[str, tuple[Method, ...]] = {task: _table_1(task) for task in RATES}


def _released(itpo: tuple[float, float, float], norm_itpo: tuple[float, float]) -> tuple[Method, ...]:
    """Methods of the released runs: (beta, coef, outcome_coef) of ITPO, (beta, coef) of Norm-ITPO."""
    own: dict[str, Any] = {"scale": "released"} | dict(
        zip(("beta", "coef", "outcome_coef"), itpo, strict=True)
    )
    normalised: dict[str, Any] = {"scale": "released"} | dict(zip(("beta", "coef"), norm_itpo, strict=True))
    by_length = Options(reduction="length_normalized")
    plain = (Method("trajectory_share"), Method("uniform"))
    return (*plain, Method("itpo", **own), Method("norm_itpo", by_length, **normalised))


# The settings of the released runs [C] (paper.md, section 7), but for the learning rates, which belong to another scale [O].
RELEASED = {
    "math": _released((0.05, 5.0, 0.0), (0.01, 5.0)),
    "documents": _released((0.005, 15.0, 0.0), (0.005, 15.0)),
    "medical": _released((0.0035, 5.0, 5.0), (0.005, 10.0)),
}

LAPTOP = Profile(
    name="laptop",
    summary="tiny model, scripted tasks, 2 CPU cores",
    # The outcomes of training itself, 128 a step, show how fast a method learns; fresh problems show where it ends.
    run=RunConfig(
        method=SETTINGS["math"][0],
        seed=100,
        steps=12,
        eval_every=12,
        eval_dialogues=128,
        monitor_every=3,
        checkpoint_every=6,
    ),
    methods=SETTINGS["math"],
    seeds=tuple(range(100, 106)),  # those below were used while settings were chosen
)

SMOKE = replace(
    LAPTOP,
    name="smoke",
    summary="a few steps of everything, to see that it works; its numbers mean nothing",
    run=replace(
        LAPTOP.run,
        steps=4,
        model=TinyLM(32, layers=2, steps=1200, dialogues_per_step=16, learning_rate=5e-3),
        prompts=4,
        warmup=1,
        eval_every=2,
        eval_dialogues=32,
        monitor_dialogues=16,
        monitor_every=1,
        checkpoint_every=2,
    ),
    seeds=(0, 1),
)

# A real language model that fits a laptop: the math task in ordinary writing. Sizes [O]; the learning rate [O] is the smaller
# of two tried, the other of which (1e-3) unlearned to answer within four steps.
SMOL_METHODS = (
    Method("trajectory_share", policy_lr=5e-4),
    Method("norm_itpo", policy_lr=5e-4, beta=0.05),
)
SMOL = Profile(
    name="smol",
    summary="SmolLM2-135M on math tutoring in plain English, a short run on 2 CPU cores",
    run=replace(
        LAPTOP.run,
        method=SMOL_METHODS[0],
        task=TaskSpec("math_prose"),
        model=PretrainedModel("smollm2", imitation=Imitation()),
        steps=12,
        prompts=8,
        rollouts=4,
        policy_minibatches=2,
        prm_lr=5e-4,
        prm_minibatches=4,
        warmup=2,
        token_budget=512,
        eval_every=4,
        eval_dialogues=64,
        monitor_dialogues=16,
        monitor_every=4,
        checkpoint_every=2,
    ),
    methods=SMOL_METHODS,
    seeds=(0,),
    settings={"math_prose": SMOL_METHODS},
)
SMOL_SMOKE = replace(
    SMOL,
    name="smoke",
    summary=SMOKE.summary,
    run=replace(
        SMOL.run,
        model=PretrainedModel("smollm2", imitation=Imitation(steps=2, dialogues_per_step=2)),
        steps=1,
        max_turn_tokens=8,
        prompts=2,
        rollouts=2,
        prm_minibatches=2,
        warmup=1,
        eval_every=1,
        eval_dialogues=4,
        monitor_dialogues=4,
        monitor_every=1,
        checkpoint_every=1,
    ),
)


def _consumer(task: str) -> tuple[Method, ...]:
    """The released settings with the learning rate of LoRA instead of full fine-tuning [O]."""
    return tuple(replace(method, policy_lr=2e-5) for method in RELEASED[task])


# The paper's tasks and sizes on one GPU of 24 GB. What departs from section 7 of the released settings is marked [O].
CONSUMER_DATA = {
    "math": RealData("collabllm-math"),
    "documents": RealData("collabllm-documents"),
    "medical": RealData("mtmeddialog", count=550),
}
CONSUMER_FULL = Profile(
    name="consumer_full",
    summary="Qwen2.5-3B-Instruct in 4 bits on the paper's tasks at the released length, one GPU of 24 GB; days a run",
    run=RunConfig(
        method=_consumer("math")[0],
        seed=0,
        steps=560,  # 20 epochs [C] of 450 examples, 16 a step
        task=CONSUMER_DATA["math"],
        user=FrozenBase(256),
        judge=FrozenBase(2048),  # a judge of documents copies one [O]
        model=PretrainedModel("Qwen/Qwen2.5-3B-Instruct", "nf4"),  # full precision [C]
        adapter=Adapter(32, 64),  # full fine-tuning [C]
        max_turn_tokens=512,  # with the users' 256: at most 3584 tokens of 4096 [C]
        prm_lr=2e-5,  # 1e-6 [C]
        critic_lr=2e-5,
        warmup=2,
        # These four: `python -m itpo plan --gpu 24 --response 4352 --user-reply 256 --judge-reply 2048`, which are the numbers
        # of medical, whose dialogues are the longest; a pass trains four dialogues of math.
        token_budget=18432,
        head_chunk=512,
        max_rows=32,
        read_budget=16384,
        checkpointing=True,
        eval_every=50,
        eval_dialogues=50,  # as many as are held out
        monitor_dialogues=32,
        monitor_every=25,
        checkpoint_every=2,  # less than half an hour, by the figures below
    ),
    methods=_consumer("math"),
    seeds=(0,),
    settings={task: _consumer(task) for task in RELEASED},
    data=CONSUMER_DATA,
)

# A first look. By counted kernels and public figures, not by a measurement, a step of Norm-ITPO with 128 dialogues takes a card
# of 24 GB about 12 minutes, with 64 about 6: both runs together under 12 hours. They can speak to C5 and C6, which are about
# rewards within a run. Of C1 they show one difference without an interval; the other claims need more methods or estimators.
_FIRST = ("trajectory_share", "norm_itpo")
CONSUMER = replace(
    CONSUMER_FULL,
    name="consumer",
    summary="Qwen2.5-3B-Instruct in 4 bits on the paper's tasks, one GPU of 24 GB: two short runs, 12 hours in all",
    run=replace(
        CONSUMER_FULL.run,
        steps=56,  # one epoch of 450 examples, 8 a step
        prompts=8,
        eval_every=28,
        monitor_every=14,
        checkpoint_every=4,
    ),
    methods=tuple(method for method in _consumer("math") if method.name in _FIRST),
    settings={
        task: tuple(method for method in _consumer(task) if method.name in _FIRST) for task in RELEASED
    },
)

PROFILES = {profile.name: profile for profile in (SMOKE, LAPTOP, SMOL, CONSUMER, CONSUMER_FULL)}
# A profile of pretrained models for each name that the notebook on them may be run with.
REAL_PROFILES = {profile.name: profile for profile in (SMOL_SMOKE, SMOL, CONSUMER, CONSUMER_FULL)}


def get_profile(name: str) -> Profile:
    """The profile called ``name``; raises ``ValueError`` listing the known ones otherwise.

    >>> get_profile("laptop").run.rollouts
    8
    """
    check("profile", name in PROFILES, name, f"one of {', '.join(PROFILES)}")
    return PROFILES[name]


def get_real_profile(name: str) -> Profile:
    """The profile called ``name`` as it is with a pretrained model; raises ``ValueError`` listing the known ones otherwise.

    >>> get_real_profile("smoke").run.model.name, get_real_profile("consumer").run.model.precision
    ('smollm2', 'nf4')
    """
    wanted = f"one of {', '.join(REAL_PROFILES)}, which have a pretrained model"
    check("profile", name in REAL_PROFILES, name, wanted)
    return REAL_PROFILES[name]
