"""Runs in, tables out: what the result notebooks show and what their figures draw.

The statistics are those of :mod:`itpo.analysis`; what the PRM says of the probe dialogues is in :mod:`itpo.probes`. Success
is a share in [0, 1] in every data frame, and in percent where it is written out as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from itpo.analysis import Interval, Verdict, area_under_curve, bootstrap_interval, judge, t_interval
from itpo.attribution import ROWS
from itpo.estimators import ESTIMATORS, get_estimator
from itpo.figures.style import output_folder
from itpo.metrics import kendall
from itpo.paths import project_root
from itpo.profiles import Method, Profile
from itpo.runs import Run

BASELINE = "trajectory_share"
# Accuracy in percent on the paper's math task, as secondary sources quote it [S]; none was checked.
REPORTED = {
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
}
ONE_SOURCE = frozenset({("rloo", "itpo")})
REPORTED_TAU = (0.5, 0.75)  # Kendall's tau between implicit return and outcome [S]
# The smallest gain that we count as one: what is reported for Norm-ITPO over trajectory-share on math [S].
SMALLEST_GAIN = (REPORTED["rloo"]["norm_itpo"] - REPORTED["rloo"]["trajectory_share"]) / 100


def markdown(frame: pd.DataFrame) -> str:
    """A data frame of texts and numbers as a Markdown table; a missing value is written as a dash.

    >>> print(markdown(pd.DataFrame({"row": ["ITPO"], "tau": [0.25], "step": [None]})))
    | row | tau | step |
    |---|---|---|
    | ITPO | 0.25 | – |
    """

    def cell(value: Any) -> str:
        return "–" if pd.isna(value) else f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = [
        list(map(str, frame.columns)),
        *([cell(v) for v in row] for row in frame.itertuples(index=False)),
    ]
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(frame.columns), *rows[1:]])


def scale_note(profile: Profile) -> str:
    """What a reader must know of the profile before any of its numbers."""
    size = (
        f"Profile `{profile.name}`: {profile.summary}; {len(profile.seeds)} seeds, {profile.run.steps} steps."
    )
    return f"{size} **These numbers mean nothing.**" if profile.name == "smoke" else size


def _mark(profile: Profile) -> str:
    return "(smoke, not meaningful) " if profile.name == "smoke" else ""


def write_table(text: pd.DataFrame, numbers: pd.DataFrame, name: str, profile: Profile, note: str) -> str:
    """Write ``<name>.md`` (title, table, note) and ``<name>.csv`` beside the profile's figures; returns the Markdown."""
    folder, table = output_folder(profile.name), markdown(text)
    (folder / f"{name}.md").write_text(
        f"# {name}\n\n{scale_note(profile)}\n\n{table}\n\n{note}\n", encoding="utf-8"
    )
    numbers.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    return f"{table}\n\n{note}"


# Results of runs


def results(runs: Sequence[Run]) -> pd.DataFrame:
    """One line a finished run: final success (sampled, greedy), mean success over training, turns, and the PRM's ranking.

    ``mean_success`` is the area under the evaluation curve divided by its length. ``auc``, ``tau`` are means over training
    batches, each dialogue scored before the PRM learns from it; ``nan`` for rows without a PRM.
    """
    return pd.DataFrame([_result(run) for run in runs])


def _result(run: Run) -> dict[str, Any]:
    metrics, summary = run.metrics(), run.summary()
    held_out = metrics.dropna(subset="eval_success")
    fresh = metrics[metrics["step"] >= 0].reindex(columns=["prm_auc", "prm_kendall"]).mean()
    return {
        "row": run.config.method.row,
        "estimator": run.config.estimator,
        "baseline": run.config.baseline,
        "seed": run.config.seed,
        "success": summary["success"],
        "greedy_success": summary["greedy_success"],
        "mean_success": area_under_curve(held_out["step"], held_out["eval_success"]),
        "turns": summary["turns"],
        "auc": float(fresh["prm_auc"]),
        "tau": float(fresh["prm_kendall"]),
    }


def effects(frame: pd.DataFrame, better: str, worse: str, column: str) -> Float[np.ndarray, " n"]:
    """Difference of two rows in each seed that both have, ``better`` minus ``worse``; paired, as seeds share problems.

    Errors: ValueError if the rows have different seeds, or a seed has several runs (of two estimators, say).
    """
    pair = [_by_seed(frame[frame["row"] == row], column) for row in (better, worse)]
    if not pair[0].index.equals(pair[1].index):
        raise ValueError(
            f"{better} has seeds {list(pair[0].index)}, {worse} has {list(pair[1].index)}: train both"
        )
    return (pair[0] - pair[1]).to_numpy(dtype=float)


def _by_seed(frame: pd.DataFrame, column: str) -> pd.Series:
    values = frame.set_index("seed")[column].sort_index()
    if not values.index.is_unique:
        raise ValueError(
            f"several runs with seeds {sorted(set(values.index))}: pass those of one estimator and baseline"
        )
    return values


def main_table(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Table 1 in numbers, a line for each estimator and row: mean and t-interval of every result, and paired differences to the
    baseline under the same estimator.

    ``gain`` carries a t-interval, ``gain_boot`` the bootstrap's (drawn with ``rng``); ``reported`` and ``reported_gain`` are
    [S] values, ``nan`` where none is known.
    """
    lines = []
    for estimator, row in frame[["estimator", "row"]].drop_duplicates().itertuples(index=False):
        line: dict[str, Any] = {"estimator": estimator, "row": row, "label": ROWS[row].label}
        part = frame[frame["estimator"] == estimator]
        for column in ("success", "greedy_success", "mean_success", "turns", "auc", "tau"):
            line |= interval_columns(column, t_interval(part.loc[part["row"] == row, column]))
        if row != BASELINE:
            for column, name in (("success", "gain"), ("mean_success", "mean_gain")):
                differences = effects(part, row, BASELINE, column)
                line |= interval_columns(name, t_interval(differences))
                line |= interval_columns(f"{name}_boot", bootstrap_interval(differences, rng))
        reported = REPORTED[estimator].get(row, float("nan"))
        gain = reported - REPORTED[estimator][BASELINE] if row != BASELINE else float("nan")
        lines.append(line | {"reported": reported / 100, "reported_gain": gain / 100})
    return pd.DataFrame(lines)


def interval_columns(name: str, interval: Interval) -> dict[str, float]:
    """The columns in which a table holds an interval: ``name``, and the same with ``_low``, ``_high`` and ``_n``."""
    return {
        name: interval.mean,
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
        f"{name}_n": interval.n,
    }


def interval_of(line: pd.Series, name: str) -> Interval:
    """The interval that a line of :func:`main_table` holds under ``name`` (``n`` is 0 where it holds none)."""
    mean, low, high, n = (line.get(f"{name}{end}", float("nan")) for end in ("", "_low", "_high", "_n"))
    return Interval(mean, low, high, 0 if pd.isna(n) else int(n))


def _texts(
    table: pd.DataFrame, column: str, scale: float = 100.0, digits: int = 1, sign: str = ""
) -> list[str]:
    found = [interval_of(line, column) for _, line in table.iterrows()]
    return [interval.text(scale, digits, sign) if interval.n else "–" for interval in found]


def _reported_texts(table: pd.DataFrame) -> dict[str, list[str]]:
    """The two columns of [S] values, a dash where none is known."""
    keys = zip(table["estimator"], table["row"], strict=True)
    notes = [" (one source)" * (key in ONE_SOURCE) for key in keys]
    values = [
        "–" if np.isnan(v) else f"{100 * v:.2f}{note}"
        for v, note in zip(table["reported"], notes, strict=True)
    ]
    gains = ["–" if np.isnan(v) else f"{100 * v:+.2f}" for v in table["reported_gain"]]
    return {"paper [S] (%)": values, "gain [S]": gains}


def main_text(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`main_table` of one estimator as people read it, in percent and points."""
    return pd.DataFrame(
        {
            "row": table["label"],
            "success, sampled (%)": _texts(table, "success"),
            "greedy (%)": _texts(table, "greedy_success"),
            "mean over training (%)": _texts(table, "mean_success"),
            "turns": _texts(table, "turns", 1.0, 2),
            "gain on trajectory-share (points), t": _texts(table, "gain", sign="+"),
            "the same, bootstrap": _texts(table, "gain_boot", sign="+"),
            **_reported_texts(table),
        }
    )


def estimators_text(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`main_table` of several estimators as people read it, without its greedy and bootstrap columns."""
    text = main_text(table).drop(columns=["greedy (%)", "the same, bootstrap"])
    text.insert(0, "estimator", [get_estimator(name).label for name in table["estimator"]])
    return text


def variant_table(groups: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rows under several settings, a line for each group and row: success, turns, and what changes against the first group.

    Each group is a frame of :func:`results` with one run for each row and seed. ``success_change`` and ``turns_change`` are
    differences to the same row of the first group, ``gain`` those to its baseline row, paired by the seeds that both have.
    """
    usual = next(iter(groups.values()))

    def compare(part: pd.DataFrame, row: str, column: str) -> Interval:
        return t_interval(_by_seed(part, column) - _by_seed(usual[usual["row"] == row], column))

    lines = []
    for (name, frame), row in ((group, row) for group in groups.items() for row in group[1]["row"].unique()):
        part = frame[frame["row"] == row]
        line: dict[str, Any] = {"variant": name, "row": row, "label": ROWS[row].label}
        for column in ("success", "mean_success", "turns"):
            line |= interval_columns(column, t_interval(part[column]))
        if frame is not usual:
            for column in ("success", "turns"):
                line |= interval_columns(f"{column}_change", compare(part, row, column))
        if row != BASELINE:
            line |= interval_columns("gain", compare(part, BASELINE, "success"))
        lines.append(line)
    return pd.DataFrame(lines)


def variant_text(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`variant_table` as people read it, in percent, points and turns."""
    return pd.DataFrame(
        {
            "variant": table["variant"],
            "row": table["label"],
            "success, sampled (%)": _texts(table, "success"),
            "mean over training (%)": _texts(table, "mean_success"),
            "turns": _texts(table, "turns", 1.0, 2),
            "change of success (points)": _texts(table, "success_change", sign="+"),
            "change of turns": _texts(table, "turns_change", 1.0, 2, "+"),
            "gain on trajectory-share (points)": _texts(table, "gain", sign="+"),
        }
    )


def math_verdicts(frame: pd.DataFrame, column: str = "success") -> list[Verdict]:
    """Claims C1, C3 and C4 for the math task under one estimator, judged by ``column`` of :func:`results`."""

    def gain(claim: str, better: str, worse: str) -> Verdict:
        statement = f"{ROWS[better].label} beats {ROWS[worse].label}"
        return judge(claim, statement, effects(frame, better, worse, column))

    def nothing(claim: str, row: str) -> Verdict:
        statement = f"{ROWS[row].label} gives no reliable gain on {ROWS[BASELINE].label}"
        return judge(claim, statement, effects(frame, row, BASELINE, column), "no gain", SMALLEST_GAIN)

    return [
        gain("C1", "norm_itpo", BASELINE),
        gain("C3", "itpo", "prime"),
        gain("C3, normalised", "norm_itpo", "prime"),
        nothing("C4, uniform", "uniform"),
        nothing("C4, judge", "judge"),
    ]


def estimator_verdicts(frame: pd.DataFrame, column: str = "success") -> list[Verdict]:
    """Claims C1 and C2 for the math task under each estimator of the frame, and whether C2's gain is larger under PPO.

    C2 is read as a gain of Norm-ITPO on ITPO; "most under PPO" as its difference to the other estimators, paired by the seeds
    that both have. ``column`` is one of :func:`results`.
    """
    parts = dict(list(frame.groupby("estimator", sort=False)))
    pairs = {"C1": BASELINE, "C2": "itpo"}
    found = [
        judge(
            f"{claim}, {get_estimator(name).label}",
            f"{ROWS['norm_itpo'].label} beats {ROWS[worse].label}",
            effects(part, "norm_itpo", worse, column),
        )
        for claim, worse in pairs.items()
        for name, part in parts.items()
    ]
    gains = {name: _gain_by_seed(part, column) for name, part in parts.items()}
    for name in (other for other in parts if other != "ppo" and "ppo" in parts):
        statement = f"{ROWS['norm_itpo'].label} gains more on {ROWS['itpo'].label}"
        claim = f"C2, PPO against {ESTIMATORS[name].label}"
        found.append(judge(claim, statement, gains["ppo"] - gains[name]))
    return found


def _gain_by_seed(part: pd.DataFrame, column: str) -> pd.Series:
    ours, other = (_by_seed(part[part["row"] == row], column) for row in ("norm_itpo", "itpo"))
    return ours - other


def verdict_text(
    verdicts: Sequence[Verdict], profile: Profile, scale: float = 100.0, unit: str = "points"
) -> str:
    """One line a verdict, each marked as meaningless at the smoke profile."""
    mark = _mark(profile)
    digits = 1 if scale == 100.0 else 3
    return "\n".join(f"- {mark}{verdict.sentence(scale, digits, unit)}" for verdict in verdicts)


def turns_text(groups: Mapping[str, pd.DataFrame], profile: Profile, row: str = "norm_itpo") -> str:
    """Whether a row's dialogues are longer after training than the baseline's, one line for each frame of :func:`results`.

    Differences of mean turns, paired by seed, with the t-interval; no claim of the paper.
    """
    mark = _mark(profile)
    lines = []
    for name, frame in groups.items():
        interval = t_interval(effects(frame, row, BASELINE, "turns"))
        spread = interval.high > interval.low  # nan, or a point by accident, shows no spread
        word = "longer" if interval.low > 0 else "shorter" if interval.high < 0 else ""
        ruling = f"{word} dialogues" if spread and word else "no difference can be told"
        lines.append(f"- {mark}{name}: {interval.text(1.0, 2, '+')} turns: **{ruling}**.")
    return "\n".join(lines)


def order_text(table: pd.DataFrame, profile: Profile) -> str:
    """How our order of the rows of one estimator and the signs of their gains compare with the reported ones [S]."""
    claimed = np.sign(table["reported_gain"].round(6))
    others = table[claimed.abs() > 0]
    agree = others.loc[np.sign(others["gain"]) == claimed[others.index], "label"].tolist()
    tau = kendall(table["success"], table["reported"])
    order = ", ".join(table.sort_values("success", ascending=False, kind="stable")["label"])
    mark = _mark(profile)
    return (
        f"{mark}Our order by mean success: {order}. Its Kendall tau-b with the reported order [S] over {len(table)} rows is "
        f"{tau:+.2f}. The sign of the gain is as reported for {len(agree)} of the {len(others)} rows with a reported one"
        f"{': ' + ', '.join(agree) if agree else ''}; signs of means, without regard to their intervals."
    )


def settings_text(methods: Sequence[Method]) -> pd.DataFrame:
    """The settings of each row of the profile."""
    return pd.DataFrame([{"row": ROWS[m.row].label, **dict(list(asdict(m).items())[1:])} for m in methods])


def tuning_text() -> str:
    """How the rows were tuned: the committed record if there is one, else that there is none."""
    path = project_root() / "figures" / "tuning.csv"
    if not path.is_file():
        return "There is no tuning record (`figures/tuning.csv`): the settings above are not the result of a search."
    return f"How they were tuned (`figures/tuning.csv`):\n\n{markdown(pd.read_csv(path))}"


# Curves over training


def curves(runs: Sequence[Run], column: str, smooth: int = 1) -> pd.DataFrame:
    """A logged metric over training, a line for each run and step: row, seed, step, value.

    ``smooth`` is the width in steps of a centred moving average within each run (1: as logged). Runs without the
    metric are left out.
    """
    parts = []
    for run in runs:
        metrics = run.metrics()
        if column not in metrics:
            continue
        known = metrics.dropna(subset=column)
        value = known[column].rolling(smooth, center=True, min_periods=1).mean()
        who = {"row": run.config.method.row, "seed": run.config.seed}
        parts.append(pd.DataFrame({**who, "step": known["step"], "value": value}))
    columns = ["row", "seed", "step", "value"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def bands(frame: pd.DataFrame, by: Sequence[str] = ("row",), along: str = "step") -> pd.DataFrame:
    """Mean over seeds and t-interval for each group of ``by`` and ``along``: those columns, mean, low, high, seeds.

    Groups come in the order of the frame, each sorted along ``along``.
    """
    lines = []
    for key, part in frame.groupby(list(by), sort=False):
        for place, group in part.groupby(along):
            interval = t_interval(group["value"])
            numbers = {"mean": interval.mean, "low": interval.low, "high": interval.high, "seeds": interval.n}
            lines.append(dict(zip(by, key, strict=True)) | {along: place} | numbers)
    return pd.DataFrame(lines, columns=[*by, along, "mean", "low", "high", "seeds"])
