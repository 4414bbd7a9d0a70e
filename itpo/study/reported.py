"""What secondary sources report of the paper's Table 1 and diagnostics [S]; none of it was checked against the paper.

Other tasks, models and scales than ours: the order of the rows and the signs of gains can be compared, never the values.
"""

from __future__ import annotations

# How the outcome of each task is called where it is reported, here and in the paper.
MEASURES = {"math": "success", "documents": "BLEU", "medical": "score"}
TITLES = {"math": "math tutoring", "documents": "document writing", "medical": "medical recommendation"}

# Table 1 in percent: task, estimator, row.
REPORTED: dict[str, dict[str, dict[str, float]]] = {
    "math": {
        "rloo": {
            "trajectory_share": 29.06,
            "uniform": 30.00,
            "judge": 28.87,
            "prime": 29.75,
            "itpo": 29.06,
            "norm_itpo": 32.50,
        },
        "grpo": {"trajectory_share": 26.37, "norm_itpo": 31.12},
        "ppo": {"trajectory_share": 26.81, "norm_itpo": 27.15},
    },
    "documents": {
        "rloo": {
            "trajectory_share": 37.35,
            "uniform": 37.81,
            "judge": 42.34,
            "prime": 40.95,
            "itpo": 44.59,
            "norm_itpo": 44.83,
        },
        "grpo": {"trajectory_share": 39.33, "norm_itpo": 42.78},
        "ppo": {"trajectory_share": 42.52, "norm_itpo": 45.16},
    },
    "medical": {
        "rloo": {
            "trajectory_share": 61.22,
            "uniform": 63.15,
            "judge": 66.77,
            "prime": 61.42,
            "itpo": 68.43,
            "norm_itpo": 66.14,
        },
        "grpo": {"trajectory_share": 66.41, "norm_itpo": 71.74},
        "ppo": {"trajectory_share": 58.41, "norm_itpo": 62.44},
    },
}
# What to say beside a value: quoted by one source alone, or differently by two (the smaller one is above).
CAUTIONS = dict.fromkeys(
    [("math", "itpo"), ("documents", "itpo"), ("medical", "judge"), ("medical", "itpo")], " (one source)"
) | {("medical", "norm_itpo"): " or 69.24 (sources differ)"}

REPORTED_TAU = (0.5, 0.75)  # Kendall's tau between implicit return and outcome


def caution(task: str, estimator: str, row: str) -> str:
    """What to say beside a reported value; empty where nothing is.

    >>> caution("math", "rloo", "itpo"), caution("math", "grpo", "norm_itpo")
    (' (one source)', '')
    """
    return CAUTIONS.get((task, row), "") if estimator == "rloo" else ""


def smallest_gain(task: str) -> float:
    """The smallest gain that we count as one, as a share: what is reported for Norm-ITPO over trajectory-share under RLOO.

    >>> round(smallest_gain("math"), 4)
    0.0344
    """
    rows = REPORTED[task]["rloo"]
    return (rows["norm_itpo"] - rows["trajectory_share"]) / 100
