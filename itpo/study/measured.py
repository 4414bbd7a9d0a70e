"""The methods that the gradient microscope measures: those of the experiment, judges, and those of other papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from itpo.config import Estimator, Method, RunConfig
from itpo.fields import check
from itpo.specs import RuleJudge
from itpo.study.experiment import ARMS

REFERENCE, ORACLE = "reference", "oracle"  # beside the methods, the names of what is measured


@dataclass(frozen=True)
class Measured:
    """A method whose gradient is measured: ``name`` is that of its line, ``judge`` replaces the run's judge of turns."""

    name: str
    method: Method
    estimator: Estimator = Estimator("rloo")
    judge: RuleJudge | None = None


_SURE = RuleJudge(error_rate=0.0)
_TO_GO = ARMS["norm_itpo_to_go"].estimator
# Beside the arms of the experiment: the judge of Table 1, one that never errs, and other papers' methods.
_OTHERS = (
    Measured("judge", Method("judge")),
    Measured("sure_judge", Method("judge"), judge=_SURE),
    Measured("sure_judge_to_go", Method("judge"), _TO_GO, _SURE),
    Measured("mt_grpo", Method("mt_grpo")),
    Measured("gigpo", Method("gigpo")),
    Measured("istar", Method("istar")),
    Measured("progress", Method("progress", outcome_coef=5.0)),
)
KNOWN = {m.name: m for m in (*(Measured(a.name, a.method, a.estimator) for a in ARMS.values()), *_OTHERS)}


def measured_methods(run: RunConfig, names: Sequence[str] = tuple(KNOWN)) -> tuple[Measured, ...]:
    """The methods of these names with the rate and beta of ``run``; raises ``ValueError`` for an unknown one.

    >>> from itpo.study.profiles import get_profile
    >>> run = get_profile("laptop").config("norm_itpo", 300)
    >>> [(m.name, m.method.beta) for m in measured_methods(run, ["prime", "sure_judge"])]
    [('prime', 0.05), ('sure_judge', 0.05)]
    """
    for name in names:
        check("method", name in KNOWN, name, f"one of {', '.join(KNOWN)}")
    rates: dict[str, Any] = {"policy_lr": run.method.policy_lr, "beta": run.method.beta}
    return tuple(replace(KNOWN[name], method=replace(KNOWN[name].method, **rates)) for name in names)


def label(name: str) -> str:
    """What tables and figures call a method that is measured: as the experiment does, or by the label of its entry.

    >>> label("itpo_released"), label("sure_judge_to_go"), label("istar")
    ('ITPO without outcome', 'Judge that never errs, to_go', 'iStar')
    """
    return _LABELS.get(name) or (KNOWN[name].method.entry.label if name in KNOWN else name)


_LABELS = {arm.name: arm.label for arm in ARMS.values()} | {
    "sure_judge": "Judge that never errs",
    "sure_judge_to_go": "Judge that never errs, to_go",
    ORACLE: "Tabular oracle",
}
