"""Runs in, tables out: what the result notebooks show and what their figures draw.

The statistics are those of :mod:`itpo.study.statistics`; what the PRM says of the probe dialogues is in :mod:`itpo.study.reward_dynamics`. Success
is a share in [0, 1] in every data frame, and in percent where it is written out as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from itpo.attribution import get_method
from itpo.config import Method
from itpo.estimators import get_estimator
from itpo.figures.publishing.formats import markdown
from itpo.figures.publishing.registry import publish_table
from itpo.runs.paths import project_root
from itpo.runs.store import Run
from itpo.study.profiles import Profile
from itpo.study.reported import MEASURES, REPORTED, TITLES, caution
from itpo.study.statistics import Interval, area_under_curve, bootstrap_interval, share_interval, t_interval

BASELINE = "trajectory_share"


def scale_note(profile: Profile) -> str:
    """What a reader must know of the profile before any of its numbers."""
    seeds = f"{len(profile.seeds)} seed{'s' * (len(profile.seeds) > 1)}"
    size = f"Profile `{profile.name}`: {profile.summary}; {seeds}, {profile.run.steps} steps."
    return f"{size} **These numbers mean nothing.**" if profile.name == "smoke" else size


def mark(profile: Profile) -> str:
    """What stands before every sentence on numbers of the smoke profile; empty for the others."""
    return "(smoke, not meaningful) " if profile.name == "smoke" else ""


def write_table(text: pd.DataFrame, numbers: pd.DataFrame, name: str, profile: Profile, note: str) -> str:
    """Publish a table beside the profile's figures, see :func:`itpo.figures.publishing.registry.publish_table`; returns its Markdown."""
    return publish_table(text, numbers, name, profile.name, scale_note(profile), note)


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
        "task": run.config.task.name,
        "row": run.config.method.name,
        "estimator": run.config.estimator.name,
        "baseline": run.config.estimator.baseline,
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
    pair = [by_seed(frame[frame["row"] == row], column) for row in (better, worse)]
    if not pair[0].index.equals(pair[1].index):
        raise ValueError(
            f"{better} has seeds {list(pair[0].index)}, {worse} has {list(pair[1].index)}: train both"
        )
    return (pair[0] - pair[1]).to_numpy(dtype=float)


def by_seed(frame: pd.DataFrame, column: str) -> pd.Series:
    """A column of the runs of one row by their seeds, sorted. Errors: ValueError if a seed has several runs.

    >>> by_seed(pd.DataFrame({"seed": [1, 0], "success": [0.9, 0.8]}), "success").tolist()
    [0.8, 0.9]
    """
    values = frame.set_index("seed")[column].sort_index()
    if not values.index.is_unique:
        raise ValueError(
            f"several runs with seeds {sorted(set(values.index))}: pass those of one task, estimator and baseline"
        )
    return values


def main_table(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Table 1 in numbers, a line for each task, estimator and row: mean and t-interval of every result, and paired differences
    to the baseline of the same task and estimator.

    ``gain`` carries a t-interval, ``gain_boot`` the bootstrap's (drawn with ``rng``); ``reported`` and ``reported_gain`` are
    [S] values, ``nan`` where none is known.
    """
    lines = []
    for task, estimator, row in frame[["task", "estimator", "row"]].drop_duplicates().itertuples(index=False):
        line: dict[str, Any] = {"task": task, "estimator": estimator, "row": row, "label": get_method(row).label}
        part = frame[(frame["task"] == task) & (frame["estimator"] == estimator)]
        for column in ("success", "greedy_success", "mean_success", "turns", "auc", "tau"):
            line |= interval_columns(column, t_interval(part.loc[part["row"] == row, column]))
        if row != BASELINE:
            for column, name in (("success", "gain"), ("mean_success", "mean_gain")):
                differences = effects(part, row, BASELINE, column)
                line |= interval_columns(name, t_interval(differences))
                line |= interval_columns(f"{name}_boot", bootstrap_interval(differences, rng))
        known = REPORTED[task][estimator]
        reported = known.get(row, float("nan"))
        gain = reported - known[BASELINE] if row != BASELINE else float("nan")
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
    """The interval that a line of :func:`main_table` holds under ``name`` (``n`` is 0 where it holds none).

    >>> print(interval_of(pd.Series(interval_columns("gain", Interval(0.02, -0.01, 0.05, 3))), "gain"))
    0.020 [-0.010, 0.050]
    """
    mean, low, high, n = (line.get(f"{name}{end}", float("nan")) for end in ("", "_low", "_high", "_n"))
    return Interval(mean, low, high, 0 if pd.isna(n) else int(n))


def interval_texts(
    table: pd.DataFrame, column: str, scale: float = 100.0, digits: int = 1, sign: str = ""
) -> list[str]:
    """The intervals of a column as text, see :meth:`itpo.study.statistics.Interval.text`; a dash where a line holds none.

    >>> line = interval_columns("gain", Interval(0.02, -0.01, 0.05, 3))
    >>> interval_texts(pd.DataFrame([line]), "gain", sign="+")
    ['+2.0 [-1.0, +5.0]']
    """
    found = [interval_of(line, column) for _, line in table.iterrows()]
    return [interval.text(scale, digits, sign) if interval.n else "–" for interval in found]


def _reported_texts(table: pd.DataFrame) -> dict[str, list[str]]:
    """The two columns of [S] values, a dash where none is known."""
    notes = [caution(*key) for key in zip(table["task"], table["estimator"], table["row"], strict=True)]
    values = [
        "–" if np.isnan(v) else f"{100 * v:.2f}{note}"
        for v, note in zip(table["reported"], notes, strict=True)
    ]
    gains = ["–" if np.isnan(v) else f"{100 * v:+.2f}" for v in table["reported_gain"]]
    return {"paper [S] (%)": values, "gain [S]": gains}


def main_text(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`main_table` of one task and estimator as people read it, in percent and points."""
    measures = " or ".join(MEASURES[task] for task in table["task"].unique())
    return pd.DataFrame(
        {
            "row": table["label"],
            f"{measures}, sampled (%)": interval_texts(table, "success"),
            "greedy (%)": interval_texts(table, "greedy_success"),
            "mean over training (%)": interval_texts(table, "mean_success"),
            "turns": interval_texts(table, "turns", 1.0, 2),
            "gain on trajectory-share (points), t": interval_texts(table, "gain", sign="+"),
            "the same, bootstrap": interval_texts(table, "gain_boot", sign="+"),
            **_reported_texts(table),
        }
    )


def estimators_text(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`main_table` of several estimators as people read it, without its greedy and bootstrap columns."""
    text = main_text(table).drop(columns=["greedy (%)", "the same, bootstrap"])
    text.insert(0, "estimator", [get_estimator(name).label for name in table["estimator"]])
    return text


def tasks_text(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`main_table` of one estimator and several tasks with the tasks side by side, as the paper's Table 1 has them."""
    parts = []
    for task, part in table.groupby("task", sort=False):
        columns = {
            f"{TITLES[str(task)]}: {MEASURES[str(task)]} (%)": interval_texts(part, "success"),
            "gain (points)": interval_texts(part, "gain", sign="+"),
            **_reported_texts(part),
        }
        parts.append(pd.DataFrame({"row": part["label"], **columns}).set_index("row"))
    return pd.concat(parts, axis=1).reset_index()


def variant_table(groups: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rows under several settings, a line for each group and row: success, turns, and what changes against the first group.

    Each group is a frame of :func:`results` with one run for each row and seed. ``success_change`` and ``turns_change`` are
    differences to the same row of the first group, ``gain`` those to its baseline row, paired by the seeds that both have.
    """
    usual = next(iter(groups.values()))

    def compare(part: pd.DataFrame, row: str, column: str) -> Interval:
        return t_interval(by_seed(part, column) - by_seed(usual[usual["row"] == row], column))

    lines = []
    for (name, frame), row in ((group, row) for group in groups.items() for row in group[1]["row"].unique()):
        part = frame[frame["row"] == row]
        line: dict[str, Any] = {"variant": name, "row": row, "label": get_method(row).label}
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
            "success, sampled (%)": interval_texts(table, "success"),
            "mean over training (%)": interval_texts(table, "mean_success"),
            "turns": interval_texts(table, "turns", 1.0, 2),
            "change of success (points)": interval_texts(table, "success_change", sign="+"),
            "change of turns": interval_texts(table, "turns_change", 1.0, 2, "+"),
            "gain on trajectory-share (points)": interval_texts(table, "gain", sign="+"),
        }
    )


def settings_text(methods: Sequence[Method]) -> pd.DataFrame:
    """The settings of each row of the profile."""
    return pd.DataFrame([_settings(m) for m in methods])


def _settings(method: Method) -> dict[str, Any]:
    settings = {field.name: getattr(method, field.name) for field in fields(method)}
    skipped = ("name", "options", "version")
    return {"row": get_method(method.name).label} | method.options | {k: v for k, v in settings.items() if k not in skipped}


def tuning_text(task: str) -> str:
    """How the rows were tuned on a task: the committed record if there is one, else that there is none."""
    path = project_root() / "figures" / "tuning.csv"
    if not path.is_file():
        return "There is no tuning record (`figures/tuning.csv`): the settings above are not the result of a search."
    record = pd.read_csv(path)
    return f"How they were tuned (`figures/tuning.csv`):\n\n{markdown(record[record['task'] == task])}"


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
        who = {"row": run.config.method.name, "seed": run.config.seed}
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


def evaluations(runs: Sequence[Run]) -> pd.DataFrame:
    """Outcome on fresh problems by step, with Wilson's interval over problems: row, seed, step, mean, low, high, problems.

    For single runs, of which nothing can be said over seeds.
    """
    frame = curves(runs, "eval_success").rename(columns={"value": "mean"})
    counts = {(r.config.method.name, r.config.seed): r.config.eval_dialogues for r in runs}
    found = [share_interval(x.mean, counts[x.row, x.seed]) for x in frame.itertuples()]
    return frame.assign(
        low=[i.low for i in found], high=[i.high for i in found], problems=[i.n for i in found]
    )
