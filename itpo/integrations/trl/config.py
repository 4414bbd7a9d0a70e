"""The settings of ``ITPOTrainer``: TRL's own, and those of method, estimator and process reward model."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from itpo.config import Estimator, Method, RunConfig

TESTED = ("1.14.2", "1.16.0")  # 1.15.0 needs triton, which a CPU has not


def check_version(version: str) -> None:
    """Raise ``RuntimeError`` for a version of TRL that was not tested, unless ITPO_UNTESTED_ENGINES=1 is set.

    ``ITPOTrainer`` overrides methods that TRL does not promise to keep.

    >>> check_version("1.16.0")
    >>> check_version("0.9.6")
    Traceback (most recent call last):
        ...
    RuntimeError: trl 0.9.6 was not tested with itpo, 1.14.2 and 1.16.0 were: install one, or set ITPO_UNTESTED_ENGINES=1
    """
    if version not in TESTED and os.environ.get("ITPO_UNTESTED_ENGINES") != "1":
        raise RuntimeError(
            f"trl {version} was not tested with itpo, {' and '.join(TESTED)} were: install one, or set ITPO_UNTESTED_ENGINES=1"
        )


@dataclass
class ITPOConfig(GRPOConfig):
    """Settings of TRL's ``GRPOConfig``, and below them ours; ``scale_rewards`` is without effect.

    ``method`` and ``estimator`` are names of :mod:`itpo.attribution`, :mod:`itpo.rivals` and :mod:`itpo.estimators`; ``eta``
    and ``baseline`` are short for their options "temperature" and "baseline". Raises ``ValueError`` for names, options and
    combinations that do not exist or that TRL has no means for.

    >>> config = ITPOConfig("folder", method="norm_itpo", eta=0.1, baseline="to_go", use_cpu=True, bf16=False)
    >>> config.as_method().options, config.as_estimator().options
    ({'temperature': 0.1, 'reduction': 'sum'}, {'baseline': 'to_go'})
    """

    method: str = field(default="norm_itpo", metadata={"help": "How turns share the outcome."})
    method_options: dict[str, Any] | None = field(default=None, metadata={"help": "Options of the method."})
    eta: float | None = field(default=None, metadata={"help": "Temperature of Norm-ITPO, eq. (5)."})
    estimator: str = field(default="rloo", metadata={"help": "rloo or grpo."})
    baseline: str | None = field(default=None, metadata={"help": "released, trajectory or to_go, of RLOO."})
    coef: float = field(default=5.0, metadata={"help": "Weight of the method's rewards."})
    outcome_coef: float = field(
        default=0.0, metadata={"help": "Weight of the outcome beside implicit rewards."}
    )
    length_penalty: float = field(
        default=0.0, metadata={"help": "Taken off the outcome per token after the prompt."}
    )
    prm_beta: float = field(default=0.05, metadata={"help": "beta of eqs. (2) and (3)."})
    prm_scale: str = field(default="paper", metadata={"help": "Scale of token rewards: paper or released."})
    prm_lr: float = field(default=1e-4, metadata={"help": "Learning rate of the PRM, constant."})
    prm_minibatches: int = field(default=8, metadata={"help": "Optimizer steps of the PRM per batch."})
    prm_clip_norm: float = field(default=10.0, metadata={"help": "Gradient norm of the PRM."})

    def __post_init__(self) -> None:
        super().__post_init__()
        method, estimator = self.as_method(), self.as_estimator()
        if method.entry.needs_values or estimator.entry.has_critic:
            raise ValueError(
                f"method {self.method!r} with estimator {self.estimator!r} needs a critic, which TRL's GRPOTrainer does not "
                "train: use itpo's own trainer, or another pair"
            )
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise ValueError(
                f"multi_objective_aggregation is {self.multi_objective_aggregation!r}; it must be 'sum_then_normalize': the "
                "outcome of a dialogue is the weighted sum of its reward functions"
            )
        if method.entry.needs_prm and self.fp16:
            raise ValueError(
                "fp16 would lose the PRM's small gradients: train in bf16 or float32, or without a PRM"
            )
        weights: dict[str, Any] = {"length_penalty": self.length_penalty, "prm_clip_norm": self.prm_clip_norm}
        of_prm: dict[str, Any] = {"prm_lr": self.prm_lr, "prm_minibatches": self.prm_minibatches}
        RunConfig(method, seed=0, steps=1, estimator=estimator, **weights, **of_prm)  # its checks are ours

    def as_method(self) -> Method:
        """The method with its options."""
        options = dict(self.method_options or {})
        if self.eta is not None:
            if "temperature" not in Method(self.method).options:
                raise ValueError(f"method {self.method!r} has no temperature: leave eta={self.eta} out")
            options["temperature"] = self.eta
        weights: dict[str, Any] = {"coef": self.coef, "outcome_coef": self.outcome_coef}
        return Method(self.method, options, beta=self.prm_beta, scale=self.prm_scale, **weights)

    def as_estimator(self) -> Estimator:
        """The estimator with its options."""
        return Estimator(self.estimator, {} if self.baseline is None else {"baseline": self.baseline})
