"""Frozen configurations: one method of Table 1, one run, one profile. Every value says where it comes from.

Marks: [P] paper, [C] the authors' released code, [S] secondary sources, [O] our own choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from itpo.advantages import BASELINES
from itpo.attribution import get_row
from itpo.backbone import Adapter
from itpo.embedded import EmbeddedModel
from itpo.turns import REDUCTIONS

SCALES = ("paper", "released")


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
        for name in ("beta", "eta", "policy_lr"):
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
    baseline: str = "released"  # of RLOO [C]
    length_penalty: float = 5e-6  # lambda, per token after the prompt [S]
    policy_minibatches: int = 4  # per step [C]
    policy_clip_norm: float = 1.0  # gradient norm [O]
    clip: float = 0.2  # of the surrogate [C]
    kl_coef: float = 1e-3  # k3 [C]
    entropy_coef: float = 1e-3  # [C]
    prm_lr: float = 1e-3  # [O]; 1e-6 [C]
    prm_minibatches: int = 8  # "many small" [C]; the number is ours [O]
    prm_clip_norm: float = 10.0  # [C]
    prm_warmup: int = 10  # batches of reference rollouts before the first step [O]
    token_budget: int = 2048  # padded tokens of one forward pass [O]; changes no result beyond rounding
    eval_every: int = 10  # steps [O]
    eval_dialogues: int = 256  # fresh problems, the same for all runs [O]
    probe_dialogues: int = 64  # fixed reference rollouts whose rewards are kept over training [O]
    probe_every: int = 5  # steps [O]
    checkpoint_every: int = 10  # steps; 50 [C]

    def __post_init__(self) -> None:
        _check("baseline", self.baseline in BASELINES, self.baseline, f"one of {', '.join(BASELINES)}")
        sizes = ["steps", "max_turn_tokens", "prompts", "rollouts", "policy_minibatches", "prm_minibatches"]
        sizes += [
            "token_budget",
            "eval_every",
            "eval_dialogues",
            "probe_dialogues",
            "probe_every",
            "checkpoint_every",
        ]
        for name in sizes:
            _check(name, getattr(self, name) >= 1, getattr(self, name), "at least 1")


@dataclass(frozen=True)
class Profile:
    """A scale at which the notebooks run."""

    name: str
    summary: str
    run: RunConfig
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]

    def config(self, row: str, seed: int) -> RunConfig:
        """The run of one row and seed; raises ``ValueError`` for a row that the profile does not have.

        >>> get_profile("smoke").config("itpo", 0).method.row
        'itpo'
        """
        get_row(row)
        for method in self.methods:
            if method.row == row:
                return replace(self.run, method=method, seed=seed)
        raise ValueError(
            f"profile {self.name!r} has no row {row!r}; it has: {', '.join(m.row for m in self.methods)}"
        )

    def grid(self) -> list[RunConfig]:
        """Every row with every seed, rows first."""
        return [self.config(method.row, seed) for method in self.methods for seed in self.seeds]


# The best of four settings each, by `python -m benchmarks.tune` [O]. PRIME and ITPO get the outcome as a second source, as the
# released medical run of ITPO does [C]: a prototype collapsed without it.
METHODS = (
    Method("trajectory_share", policy_lr=5e-4),
    Method("uniform", policy_lr=5e-4),
    Method("prime", outcome_coef=5.0, policy_lr=1e-3, beta=0.05),
    Method("itpo", outcome_coef=5.0, policy_lr=1e-3, beta=0.05),
    Method("norm_itpo", policy_lr=1e-3, beta=0.05),
)

LAPTOP = Profile(
    name="laptop",
    summary="embedded model and task, 2 CPU cores",
    run=RunConfig(method=METHODS[0], seed=0, steps=60),
    methods=METHODS,
    seeds=(0, 1, 2, 3, 4),
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
        prm_warmup=1,
        eval_every=2,
        eval_dialogues=32,
        probe_dialogues=16,
        probe_every=1,
        checkpoint_every=2,
    ),
    seeds=(0, 1),
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
