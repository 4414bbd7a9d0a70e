"""Three lines of the ledger computed again from `runs.csv`, with nothing but the csv module and numpy: no code of ours."""

import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

FIGURES = Path(__file__).parents[2] / "figures"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def student_quantile(df: float, share: float = 0.975) -> float:
    """Of Student's distribution, by adding up its density."""
    t = np.linspace(0.0, 60.0, 600001)
    log_scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    density = np.exp(log_scale - (df + 1) / 2 * np.log1p(t * t / df))
    below = 0.5 + np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(t))])
    return float(np.interp(share, below, t))


def line_of(gains: dict[tuple[str, str], list[float]]) -> list[float]:
    """Effect and 95 % interval in points of the gains of each task and seed, one for each estimator."""
    tasks = sorted({task for task, _ in gains})
    seeds = [np.array([np.mean(gain) for (name, _), gain in gains.items() if name == task]) for task in tasks]
    parts = [values.var(ddof=1) / len(values) for values in seeds]
    df = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, seeds, strict=True))
    mean, error = np.mean([values.mean() for values in seeds]), math.sqrt(sum(parts)) / len(tasks)
    half = student_quantile(df) * error
    return [100 * float(x) for x in (mean, mean - half, mean + half)]


def gains(
    runs: list[dict[str, str]], better: tuple[str, str], worse: tuple[str, str], measure: str, most: int
) -> dict[tuple[str, str], list[float]]:
    """Differences by task and seed of the runs at the rate of Table 1, which is that of its runs under GRPO.

    A side is a column and what it holds; ``most`` is the largest seed.
    """
    rates = {run["task"]: float(run["rate"]) for run in runs if run["estimator"] == "grpo"}
    found: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    for run in runs:
        if float(run["rate"]) != rates[run["task"]] or int(run["seed"]) > most:
            continue
        for sign, (column, name) in ((1, better), (-1, worse)):
            # Under RLOO a method of Table 1 is the arm of its name.
            key = "arm" if run["estimator"] == "rloo" else column
            if run[key] == name:
                found[run["task"], run["seed"], run["estimator"]][sign] = float(run[measure])
    clusters: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (task, seed, _), sides in found.items():
        if len(sides) == 2:
            clusters[task, seed].append(sides[1] - sides[-1])
    return clusters


def check(folder: Path) -> None:
    runs = rows_of(folder / "runs.csv")
    ledger = {(line["claim"], line["part"]): line for line in rows_of(folder / "ledger.csv")}
    norm, usual = ("row", "norm_itpo"), ("row", "trajectory_share")
    expected = {
        ("P1", "speed"): line_of(gains(runs, norm, usual, "speed", 105)),
        ("P2", "speed"): line_of(gains(runs, ("arm", "norm_itpo"), ("arm", "equal_share"), "speed", 109)),
        ("P7", "level"): line_of(
            gains(runs, ("arm", "signed_norm_itpo"), ("arm", "trajectory_share"), "greedy_success", 109)
        ),
    }
    for key, numbers in expected.items():
        shown = [float(ledger[key][name]) for name in ("effect", "low", "high")]
        assert shown == pytest.approx(numbers, abs=2e-3), key


def test_made_up_runs(tmp_path: Path, experiment_runs) -> None:
    from itpo.study import ledger
    from itpo.study.profiles import get_profile

    profile = get_profile("laptop")
    experiment_runs.to_csv(tmp_path / "runs.csv", index=False)
    table = ledger.ledger(ledger.effects(experiment_runs, profile), profile)
    table.to_csv(tmp_path / "ledger.csv", index=False)
    check(tmp_path)


def test_committed_runs() -> None:
    check(FIGURES)
