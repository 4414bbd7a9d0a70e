"""The runs of the decisive experiment, as `docs/protocol.md` fixes them: arms, rates and seeds.

An *arm* is a method as it is trained: one of Table 1 or ours, with its settings and its baseline. The *band* trains arms at
several learning rates of the policy, the same for all, under RLOO. Table 1 (:meth:`itpo.study.profiles.Profile.grid`) trains
every method under every estimator at one rate a task, the one that is best for trajectory-share on seeds of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd

from itpo.config import Estimator, Method, RunConfig
from itpo.fields import Options, check
from itpo.study.profiles import BETAS, Profile
from itpo.tasks.registry import TASKS

BASELINE = "trajectory_share"
# Seeds below 100 were used while settings were chosen.
FIRST_SEED = 100


@dataclass(frozen=True)
class Arm:
    """A method as it is trained in the experiment; its rate and beta are those of the rate's sweep and the task."""

    name: str
    label: str
    method: Method
    estimator: Estimator = Estimator("rloo")


def _arm(
    name: str, label: str = "", method: str = "", baseline: str = "released", **settings: float | str
) -> Arm:
    own = Method(method or name, **settings)  # type: ignore[arg-type]
    estimator = Estimator("rloo", Options(baseline=baseline))
    return Arm(name, label or own.entry.label, own, estimator)


# Those trained at every rate, then those trained at the rate of Table 1 alone.
SWEPT = ("trajectory_share", "equal_share", "norm_itpo", "itpo", "signed_norm_itpo")
ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        _arm("trajectory_share"),
        _arm("equal_share"),
        _arm("norm_itpo"),
        _arm("itpo", "ITPO with outcome", outcome_coef=5.0),
        _arm("signed_norm_itpo"),
        _arm("uniform"),
        _arm("norm_itpo_to_go", "Norm-ITPO, to_go", "norm_itpo", "to_go"),
        _arm("itpo_released", "ITPO without outcome", "itpo", scale="released"),
        _arm("prime", "PRIME with outcome", outcome_coef=5.0),
    )
}


class Cell(NamedTuple):
    """One arm on one task at one rate."""

    task: str
    arm: str
    rate: float


@dataclass(frozen=True)
class Experiment:
    """Rates of the band and seeds of its parts: ``band_seeds`` at the rate of Table 1, ``sweep_seeds``, the first of them, at
    the others. No seed of ``choice_seeds`` is among them.
    """

    rates: tuple[float, ...]
    band_seeds: tuple[int, ...]
    sweep_seeds: tuple[int, ...]
    choice_seeds: tuple[int, ...]

    def seeds(self, profile: Profile, task: str, rate: float) -> tuple[int, ...]:
        """The band's seeds of a task at a rate.

        >>> from itpo.study.profiles import get_profile
        >>> [len(get_experiment("laptop").seeds(get_profile("laptop"), "math", rate)) for rate in (1e-3, 2e-3)]
        [6, 10]
        """
        return self.band_seeds if rate == table_rate(profile, task) else self.sweep_seeds

    def band(self, profile: Profile) -> dict[Cell, list[RunConfig]]:
        """The runs of the band, cell by cell: swept arms at every rate, the others at the task's rate of Table 1.

        >>> from itpo.study.profiles import get_profile
        >>> cells = get_experiment("laptop").band(get_profile("laptop"))
        >>> len(cells), sum(map(len, cells.values()))
        (57, 450)
        """
        cells = [
            Cell(task, arm, rate)
            for task in TASKS
            for arm in ARMS
            for rate in (self.rates if arm in SWEPT else (table_rate(profile, task),))
        ]
        return {cell: configs(profile, cell, self.seeds(profile, cell.task, cell.rate)) for cell in cells}

    def choice(self, profile: Profile) -> dict[Cell, list[RunConfig]]:
        """Trajectory-share on every task at every rate, with seeds that nothing else has: they choose the rate of Table 1."""
        cells = [Cell(task, BASELINE, rate) for task in TASKS for rate in self.rates]
        return {cell: configs(profile, cell, self.choice_seeds) for cell in cells}


def table_rate(profile: Profile, task: str) -> float:
    """The one learning rate of Table 1 on a task; on one that the profile does not list, that of its own.

    >>> from itpo.study.profiles import get_profile
    >>> table_rate(get_profile("laptop"), "math") in EXPERIMENTS["laptop"].rates
    True
    """
    return profile.settings.get(task, profile.methods)[0].policy_lr


def configs(profile: Profile, cell: Cell, seeds: Iterable[int]) -> list[RunConfig]:
    """The runs of one cell, one for each seed; raises ``ValueError`` for an unknown arm."""
    check("arm", cell.arm in ARMS, cell.arm, f"one of {', '.join(ARMS)}")
    arm = ARMS[cell.arm]
    method = replace(arm.method, policy_lr=cell.rate, beta=BETAS[cell.task])
    run = replace(profile.on(cell.task).run, method=method, estimator=arm.estimator)
    return [replace(run, seed=seed) for seed in seeds]


def arm_of(config: RunConfig) -> str:
    """The arm that a run belongs to, whatever its rate and seed; empty where its method or estimator is set otherwise.

    >>> from itpo.study.profiles import get_profile
    >>> arm_of(get_profile("laptop").config("itpo", 100)), arm_of(get_profile("laptop").config("itpo", 100, "ppo"))
    ('itpo', '')
    """
    rate, beta = config.method.policy_lr, BETAS.get(config.task.name)
    if config.method.beta != beta:
        return ""
    for arm in ARMS.values():
        own = replace(arm.method, policy_lr=rate, beta=beta)
        if (own, arm.estimator) == (config.method, config.estimator):
            return arm.name
    return ""


def best_rates(choice: pd.DataFrame) -> dict[str, float]:
    """The rate of each task at which the mean of ``outcome`` over seeds is largest; of equal ones the smallest.

    ``choice`` has the columns task, rate and outcome, a line for each run.

    >>> best_rates(pd.DataFrame({"task": "math", "rate": [5e-4, 1e-3, 2e-3], "outcome": [0.5, 0.7, 0.7]}))
    {'math': 0.001}
    """
    means = choice.groupby(["task", "rate"], sort=True)["outcome"].mean()
    return {str(task): float(values.droplevel("task").idxmax()) for task, values in means.groupby("task")}


def _seeds(first: int, count: int) -> tuple[int, ...]:
    return tuple(range(first, first + count))


EXPERIMENTS = {
    "laptop": Experiment((5e-4, 1e-3, 2e-3), _seeds(FIRST_SEED, 10), _seeds(FIRST_SEED, 6), _seeds(200, 6)),
    "smoke": Experiment((2e-3,), (0, 1), (0, 1), (2,)),
}


def get_experiment(name: str) -> Experiment:
    """The experiment of the profile called ``name``; raises ``ValueError`` listing those that have one otherwise.

    >>> get_experiment("laptop").choice_seeds
    (200, 201, 202, 203, 204, 205)
    """
    known: Sequence[str] = list(EXPERIMENTS)
    check("profile", name in known, name, f"one of {', '.join(known)}, which have an experiment")
    return EXPERIMENTS[name]
