"""Frozen configurations: one method of Table 1, one run, one profile. Every value says where it comes from.

Marks: [P] paper, [C] the authors' released code, [S] secondary sources, [O] our own choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from itpo.advantages import BASELINES
from itpo.attribution import get_row
from itpo.backbone import Adapter
from itpo.embedded import EmbeddedModel
from itpo.estimators import ESTIMATORS, get_estimator
from itpo.judges import FAILURES
from itpo.prm import SCALES
from itpo.tasks import TASKS
from itpo.turns import REDUCTIONS


def _check(name: str, right: bool, value: object, wanted: str) -> None:
    if not right:
        raise ValueError(f"{name} is {value!r}; it must be {wanted}")


@dataclass(frozen=True)
class Method:
    """A row of Table 1 with the settings that belong to it."""

    row: str
    coef: float = 5.0  # weight of the row's own rewards; 5 in the released math runs [C]
    outcome_coef: float = 0.0  # weight of the outcome as a second source; 5 with ITPO on the medical task [C]
    beta: float = 0.2  # eq. (2)-(3) [O]; 0.05 ITPO, 0.01 Norm-ITPO in the released math runs [C]
    eta: float = 0.4  # eq. (5) [C], there on rescaled rewards with the reduction "length_normalized"
    policy_lr: float = 1e-3  # LoRA at 170 k parameters [O]; full fine-tuning of 3 B parameters used 1e-6 [C]
    reduction: str = "sum"  # eq. (4); the released softmax takes "length_normalized" [C]
    scale: str = "paper"  # token rewards of (2) as they are, or "released": the last one dropped, then batch-rescaled [C]

    def __post_init__(self) -> None:
        row = get_row(self.row)
        _check("reduction", self.reduction in REDUCTIONS, self.reduction, f"one of {', '.join(REDUCTIONS)}")
        _check("scale", self.scale in SCALES, self.scale, f"one of {', '.join(SCALES)}")
        for name in ("coef", "beta", "eta", "policy_lr"):
            _check(name, getattr(self, name) > 0, getattr(self, name), "above 0")
        if self.outcome_coef and row.carries_outcome:
            raise ValueError(
                f"row {row.name!r} pays the outcome itself: outcome_coef must be 0, not {self.outcome_coef}"
            )


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run, and nothing else: equal configurations give equal numbers on a CPU."""

    method: Method
    seed: int
    steps: int
    task: str = "math"
    model: EmbeddedModel = field(default_factory=EmbeddedModel)
    adapter: Adapter = field(default_factory=Adapter)
    max_turn_tokens: int = 24  # of one assistant turn [O]
    prompts: int = 16  # per step [C]
    rollouts: int = 8  # per prompt [C]
    estimator: str = "rloo"  # the only one of the released code [C]
    baseline: str = "released"  # of RLOO [C]
    gamma: float = 1.0  # of GAE (PPO), over assistant tokens [S]
    lam: float = 1.0  # of GAE [S]
    length_penalty: float = 5e-6  # lambda, per token after the prompt [S]
    policy_minibatches: int = 4  # per step [C]
    policy_clip_norm: float = 1.0  # gradient norm [O]
    clip: float = 0.2  # of the surrogate [C]
    kl_coef: float = 1e-3  # k3 [C]
    entropy_coef: float = 1e-3  # [C]
    prm_lr: float = 1e-3  # [O]; 1e-6 [C]
    prm_minibatches: int = 8  # "many small" [C]; the number is ours [O]
    prm_clip_norm: float = 10.0  # [C]
    critic_lr: float = 2e-3  # PPO [O]
    critic_minibatches: int = 16  # more learn faster, fewer hardly learn within a run [O]
    critic_clip_norm: float = 10.0  # as the PRM's [O]
    value_clip: float = 0.2  # largest step of a value, in units of the outcome [O]
    warmup: int = 10  # batches of reference rollouts to teach PRM and critic before the first step [O]
    judge_error: float = 0.2  # share of the scripted judge's scores that are wrong [O]
    judge_retries: int = 2  # further attempts where a judge fails or answers nonsense [O]
    judge_failure: str = "drop"  # then: leave the dialogue out, or share its outcome equally ("uniform") [O]
    max_failed: float = 0.5  # share of a batch that may fail before the run stops [O]
    max_skipped: int = (
        10  # optimizer steps with a loss or gradient that is not finite before the run stops [O]
    )
    # What must fit into memory [O]; `python -m itpo plan` says what does. Changes no result beyond rounding, but for max_rows,
    # which changes the order of the sampler's draws.
    token_budget: int = 2048  # padded tokens of one forward pass
    head_chunk: int = 2048  # positions that have logits at a time
    max_rows: int = 512  # dialogues held at a time
    checkpointing: bool = False  # keep only the inputs of decoder layers for the backward pass
    eval_every: int = 10  # steps [O]
    eval_dialogues: int = 256  # fresh problems, the same for all runs [O]
    probe_dialogues: int = 64  # fixed reference rollouts whose rewards are kept over training [O]
    probe_every: int = 5  # steps [O]
    checkpoint_every: int = 10  # steps; 50 [C]

    def __post_init__(self) -> None:
        for name, known in (("estimator", ESTIMATORS), ("baseline", BASELINES), ("judge_failure", FAILURES)):
            _check(name, getattr(self, name) in known, getattr(self, name), f"one of {', '.join(known)}")
        _check("task", self.task in TASKS, self.task, f"one of {', '.join(TASKS)}")
        sizes = ["steps", "max_turn_tokens", "prompts", "rollouts"]
        sizes += ["token_budget", "head_chunk", "max_rows"]
        sizes += ["policy_minibatches", "prm_minibatches", "critic_minibatches"]
        sizes += ["eval_every", "eval_dialogues", "probe_dialogues", "probe_every", "checkpoint_every"]
        for name in sizes:
            _check(name, getattr(self, name) >= 1, getattr(self, name), "at least 1")
        _check("max_skipped", self.max_skipped >= 0, self.max_skipped, "at least 0")
        for name in ("gamma", "lam", "judge_error", "max_failed"):
            _check(name, 0 <= getattr(self, name) <= 1, getattr(self, name), "between 0 and 1")
        if not allows(self.estimator, self.method.row):
            raise ValueError(
                f"row {self.method.row!r} needs the values of a critic, which {self.estimator!r} does not have: use ppo"
            )

    @property
    def code(self) -> tuple[str, ...]:
        """The modules that decide this run's numbers beside those of every run."""
        return (f"tasks/{self.task}",)


def allows(estimator: str, row: str) -> bool:
    """Whether an estimator can train a row: one that pays TD errors needs a critic.

    >>> allows("ppo", "value_model"), allows("rloo", "value_model"), allows("rloo", "itpo")
    (True, False, True)
    """
    return get_estimator(estimator).has_critic or not get_row(row).needs_values


@dataclass(frozen=True)
class Profile:
    """A scale at which the notebooks run.

    ``seeds`` are those of RLOO, ``estimator_seeds`` those of the other estimators.
    """

    name: str
    summary: str
    run: RunConfig
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    estimator_seeds: tuple[int, ...]

    def on(self, task: str) -> Profile:
        """The same profile on another task; raises ``ValueError`` for an unknown one.

        The rows have the settings that were chosen on that task, and other tasks than math ``estimator_seeds`` only [O].

        >>> laptop = get_profile("laptop")
        >>> laptop.on("medical").run.task, len(laptop.seeds), len(laptop.on("medical").seeds)
        ('medical', 5, 3)
        """
        _check("task", task in TASKS, task, f"one of {', '.join(TASKS)}")
        seeds = self.seeds if task == self.run.task else self.estimator_seeds
        return replace(self, run=replace(self.run, task=task), methods=METHODS[task], seeds=seeds)

    def config(self, row: str, seed: int, estimator: str = "rloo") -> RunConfig:
        """The run of one row, seed and estimator; raises ``ValueError`` for a row that the profile does not have.

        >>> get_profile("smoke").config("itpo", 0).method.row
        'itpo'
        """
        get_row(row)
        for method in self.methods:
            if method.row == row:
                return replace(self.run, method=method, seed=seed, estimator=estimator)
        raise ValueError(
            f"profile {self.name!r} has no row {row!r}; it has: {', '.join(m.row for m in self.methods)}"
        )

    def grid(self, estimator: str = "rloo") -> list[RunConfig]:
        """Every row that the estimator can train with every seed, rows first.

        >>> len(get_profile("smoke").grid()), len(get_profile("smoke").grid("ppo"))
        (12, 14)
        """
        seeds = self.seeds if estimator == "rloo" else self.estimator_seeds
        rows = [method.row for method in self.methods if allows(estimator, method.row)]
        return [self.config(row, seed, estimator) for row in rows for seed in seeds]

    def unbiased(self) -> list[RunConfig]:
        """RLOO with the baseline of whole trajectories, with ``estimator_seeds``, rows first.

        For the paper's own split of the outcome over turns, and for one that knows nothing of them.

        >>> {config.baseline for config in get_profile("smoke").unbiased()}
        {'trajectory'}
        """
        configs = [
            self.config(row, seed) for row in ("uniform", "norm_itpo") for seed in self.estimator_seeds
        ]
        return [replace(config, baseline="trajectory") for config in configs]

    def released(self) -> list[RunConfig]:
        """ITPO and Norm-ITPO under RLOO with the settings of the released code, with ``estimator_seeds``, rows first.

        >>> sorted({config.method.reduction for config in get_profile("smoke").released()})
        ['length_normalized', 'sum']
        """
        runs = [
            replace(self.run, method=m) for m in RELEASED[self.run.task] if m.row in ("itpo", "norm_itpo")
        ]
        return [replace(run, seed=seed) for run in runs for seed in self.estimator_seeds]


# The best of four settings each, by `python -m benchmarks.tune` [O]. PRIME and ITPO get the outcome as a second source, as the
# released medical run of ITPO does [C]: a prototype collapsed without it.
METHODS = {
    "math": (
        Method("trajectory_share", policy_lr=5e-4),
        Method("uniform", policy_lr=5e-4),
        Method("value_model", policy_lr=2.5e-4),
        Method("judge", policy_lr=1e-3),
        Method("prime", outcome_coef=5.0, policy_lr=1e-3, beta=0.05),
        Method("itpo", outcome_coef=5.0, policy_lr=1e-3, beta=0.05),
        Method("norm_itpo", policy_lr=1e-3, beta=0.05),
    ),
    "documents": (
        Method("trajectory_share", policy_lr=1e-3),
        Method("uniform", policy_lr=5e-4),
        Method("value_model", policy_lr=2.5e-4),  # as on math: PPO has not been tuned here
        Method("judge", policy_lr=5e-4),
        Method("prime", outcome_coef=5.0, policy_lr=1e-3, beta=0.05),
        Method("itpo", outcome_coef=5.0, policy_lr=1e-3, beta=0.2),
        Method("norm_itpo", policy_lr=5e-4, beta=0.2),
    ),
    "medical": (
        Method("trajectory_share", policy_lr=2e-3),
        Method("uniform", policy_lr=1e-3),
        Method("value_model", policy_lr=2.5e-4),  # as on math: PPO has not been tuned here
        Method("judge", policy_lr=2e-3),
        Method("prime", outcome_coef=5.0, policy_lr=1e-3, beta=0.05),
        Method("itpo", outcome_coef=5.0, policy_lr=1e-3, beta=0.05),
        Method("norm_itpo", policy_lr=1e-3, beta=0.05),
    ),
}


def _released(itpo: tuple[float, float, float], norm_itpo: tuple[float, float]) -> tuple[Method, ...]:
    """Rows of the released runs: (beta, coef, outcome_coef) of ITPO, (beta, coef) of Norm-ITPO."""
    (beta, coef, outcome_coef), (norm_beta, norm_coef) = itpo, norm_itpo
    return (
        Method("trajectory_share"),
        Method("uniform"),
        Method("itpo", beta=beta, coef=coef, outcome_coef=outcome_coef, scale="released"),
        Method("norm_itpo", beta=norm_beta, coef=norm_coef, scale="released", reduction="length_normalized"),
    )


# The settings of the released runs [C] (paper.md, section 7), but for the learning rates, which belong to another scale [O].
RELEASED = {
    "math": _released((0.05, 5.0, 0.0), (0.01, 5.0)),
    "documents": _released((0.005, 15.0, 0.0), (0.005, 15.0)),
    "medical": _released((0.0035, 5.0, 5.0), (0.005, 10.0)),
}

LAPTOP = Profile(
    name="laptop",
    summary="embedded model and task, 2 CPU cores",
    run=RunConfig(method=METHODS["math"][0], seed=0, steps=60),
    methods=METHODS["math"],
    seeds=(0, 1, 2, 3, 4),
    estimator_seeds=(0, 1, 2),
)

SMOKE = replace(
    LAPTOP,
    name="smoke",
    summary="a few steps of everything, to see that it works; its numbers mean nothing",
    run=replace(
        LAPTOP.run,
        steps=4,
        model=EmbeddedModel(layers=2, steps=1200, dialogues_per_step=8, learning_rate=5e-3),
        prompts=4,
        warmup=1,
        eval_every=2,
        eval_dialogues=32,
        probe_dialogues=16,
        probe_every=1,
        checkpoint_every=2,
    ),
    seeds=(0, 1),
    estimator_seeds=(0, 1),
)

PROFILES = {profile.name: profile for profile in (SMOKE, LAPTOP)}


def get_profile(name: str) -> Profile:
    """The profile called ``name``; raises ``ValueError`` listing the known ones otherwise.

    >>> get_profile("laptop").run.rollouts
    8
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; known profiles: {', '.join(PROFILES)}")
    return PROFILES[name]
