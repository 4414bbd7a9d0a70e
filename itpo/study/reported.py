"""What secondary sources report of the paper's Table 1 and diagnostics [S]; none of it was checked against the paper.

Other tasks, models and scales than ours: the order of the methods and the signs of gains can be compared, never the values.
"""

from __future__ import annotations

import math

_ROWS = ("trajectory_share", "uniform", "judge", "prime", "itpo", "norm_itpo")


def _columns(
    rloo: tuple[float, ...], grpo: tuple[float, float], ppo: tuple[float, float]
) -> dict[str, dict[str, float]]:
    """One task's columns; those of GRPO and PPO are trajectory-share and Norm-ITPO."""
    ends = (_ROWS[0], _ROWS[-1])
    return {
        "rloo": dict(zip(_ROWS, rloo, strict=True)),
        "grpo": dict(zip(ends, grpo, strict=True)),
        "ppo": dict(zip(ends, ppo, strict=True)),
    }


# Table 1 in percent: task, estimator, method.
REPORTED: dict[str, dict[str, dict[str, float]]] = {
    "math": _columns((29.06, 30.00, 28.87, 29.75, 29.06, 32.50), (26.37, 31.12), (26.81, 27.15)),
    "documents": _columns((37.35, 37.81, 42.34, 40.95, 44.59, 44.83), (39.33, 42.78), (42.52, 45.16)),
    "medical": _columns((61.22, 63.15, 66.77, 61.42, 68.43, 66.14), (66.41, 71.74), (58.41, 62.44)),
}
# What to say beside a value: quoted by one source alone, or differently by two (the smaller one is above).
CAUTIONS = dict.fromkeys(
    [("math", "itpo"), ("documents", "itpo"), ("medical", "judge"), ("medical", "itpo")], " (one source)"
) | {("medical", "norm_itpo"): " or 69.24 (sources differ)"}

REPORTED_TAU = (0.5, 0.75)  # Kendall's tau between implicit return and outcome


def reported(task: str, estimator: str, row: str) -> float:
    """The reported outcome of a method, as a share; ``nan`` where none is known.

    >>> reported("math", "rloo", "norm_itpo"), reported("corridor", "rloo", "norm_itpo")
    (0.325, nan)
    """
    return REPORTED.get(task, {}).get(estimator, {}).get(row, math.nan) / 100


def caution(task: str, estimator: str, row: str) -> str:
    """What to say beside a reported value; empty where nothing is.

    >>> caution("math", "rloo", "itpo"), caution("math", "grpo", "norm_itpo")
    (' (one source)', '')
    """
    return CAUTIONS.get((task, row), "") if estimator == "rloo" else ""
