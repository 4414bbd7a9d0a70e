"""Runs in, tables out: what the result notebooks show and what their figures draw.

A table holds numbers; :func:`as_text` and a list of :class:`Column` make of it the text that people read. Success is a share in
[0, 1] in every table, and in percent where it is written out. Statistics are those of :mod:`itpo.study.statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike

from itpo.attribution import get_method
from itpo.config import Method
from itpo.estimators import get_estimator
from itpo.figures.publishing.formats import markdown as markdown  # for notebooks
from itpo.figures.publishing.registry import publish_table
from itpo.runs.store import Run
from itpo.study.experiment import BASELINE, arm_of
from itpo.study.profiles import Profile
from itpo.study.reported import caution, reported
from itpo.study.statistics import INTERVALS, Interval, share_interval, t_interval
from itpo.tasks.registry import get_entry

COLLAPSE = 0.2  # outcome that a run loses after its best three steps
DASH = "–"  # where there is no number


def scale_note(profile: Profile) -> str:
    """What a reader must know of the profile before any of its numbers; seeds and steps are those of each table."""
    size = f"Profile `{profile.name}`: {profile.summary}."
    return f"{size} **These numbers mean nothing.**" if profile.name == "smoke" else size


def mark(profile: Profile) -> str:
    """What stands before every sentence on numbers of the smoke profile; empty for the others."""
    return "(smoke, not meaningful) " if profile.name == "smoke" else ""


def write_table(text: pd.DataFrame, numbers: pd.DataFrame, name: str, profile: Profile, note: str) -> str:
    """Publish a table beside the profile's figures, see ``publish_table`` of the registry of figures; returns its Markdown."""
    return publish_table(text, numbers, name, profile.name, scale_note(profile), note)


# Intervals in tables, and tables as text


def interval_columns(name: str, interval: Interval) -> dict[str, float]:
    """The columns in which a table holds an interval: ``name``, and the same with ``_low``, ``_high`` and ``_n``."""
    values = (interval.mean, interval.low, interval.high, interval.n)
    return dict(zip((name, f"{name}_low", f"{name}_high", f"{name}_n"), values, strict=True))


def interval_of(line: pd.Series, name: str) -> Interval:
    """The interval that a line of a table holds under ``name`` (``n`` is 0 where it holds none).

    >>> print(interval_of(pd.Series(interval_columns("gain", Interval(0.02, -0.01, 0.05, 3))), "gain"))
    0.020 [-0.010, 0.050]
    """
    mean, low, high, n = (line[f"{name}{end}"] for end in ("", "_low", "_high", "_n"))
    return Interval(mean, low, high, 0 if pd.isna(n) else int(n))


def p_text(p: float) -> str:
    """A p-value as people read it.

    >>> p_text(0.02), p_text(1e-9)
    ('0.020', 'below 0.001')
    """
    return DASH if math.isnan(p) else f"{p:.3f}" if p >= 0.001 else "below 0.001"


@dataclass(frozen=True)
class Column:
    """A column of a table as people read it.

    ``source`` names a column of the table, or is a function of a line. A named column is an interval where the table has its
    bounds (:func:`interval_columns`). Numbers are multiplied by ``scale`` and written with so many ``digits`` after the point,
    ``sign="+"`` with the sign of positive ones; without ``digits`` values stay as they are.
    """

    title: str
    source: str | Callable[[pd.Series], Any]
    scale: float = 1.0
    digits: int | None = None
    sign: str = ""

    def cells(self, table: pd.DataFrame) -> list[Any]:
        """What stands below the title, a dash where the table has no number. Raises ``KeyError`` for an unknown column."""
        if not isinstance(self.source, str):
            return [self.source(line) for _, line in table.iterrows()]
        if self.digits is None:
            return table[self.source].tolist()
        if f"{self.source}_n" not in table:
            texts = [f"{self.scale * value:{self.sign}.{self.digits}f}" for value in table[self.source]]
            return [text if "nan" not in text else DASH for text in texts]
        intervals = [interval_of(line, self.source) for _, line in table.iterrows()]
        return [i.text(self.scale, self.digits, self.sign) if i.n else DASH for i in intervals]


def as_text(table: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """A table as people read it, a line for each of its lines.

    >>> table = pd.DataFrame([{"row": "itpo"} | interval_columns("gain", Interval(0.02, -0.01, 0.05, 3))])
    >>> as_text(table, [METHOD, points("gain (points)", "gain")]).to_dict("records")
    [{'row': 'ITPO', 'gain (points)': '+2.0 [-1.0, +5.0]'}]
    """
    return pd.DataFrame({column.title: column.cells(table) for column in columns})


def percent(title: str, source: str) -> Column:
    """A column of shares in percent.

    >>> percent("success (%)", "success").title
    'success (%)'
    """
    return Column(title, source, 100.0, 1)


def points(title: str, source: str) -> Column:
    """A column of differences of shares in points, with their signs."""
    return Column(title, source, 100.0, 1, "+")


METHOD = Column("row", lambda line: get_method(line["row"]).label)
ESTIMATOR = Column("estimator", lambda line: get_estimator(line["estimator"]).label)


# Results of runs


def results(runs: Sequence[Run]) -> pd.DataFrame:
    """One line a finished run: what it is, the measures of `docs/protocol.md`, and the PRM's ranking.

    ``arm`` is its name in :data:`itpo.study.experiment.ARMS`, empty for another setting; ``rate`` the policy's learning rate.
    ``speed``, the primary measure, is the mean outcome of all training steps; ``greedy_success`` the level after training
    and ``success`` the same sampled; ``collapsed`` 1 or 0, see :func:`has_collapsed`; ``turns`` those of a dialogue after
    training. ``auc``, ``tau`` are means over training batches, each dialogue scored before the PRM learns from it; ``nan``
    for rows without a PRM.
    """
    return pd.DataFrame([_result(run) for run in runs])


def _result(run: Run) -> dict[str, Any]:
    metrics, summary = run.metrics(), run.summary()
    steps = metrics[metrics["step"] >= 0].reindex(columns=["success", "prm_auc", "prm_kendall"])
    outcomes = steps["success"].dropna()
    return {
        "task": run.config.task.name,
        "row": run.config.method.name,
        "arm": arm_of(run.config),
        "estimator": run.config.estimator.name,
        "baseline": run.config.estimator.baseline,
        "rate": run.config.method.policy_lr,
        "seed": run.config.seed,
        "speed": float(outcomes.mean()),
        "greedy_success": summary["greedy_success"],
        "success": summary["success"],
        "collapsed": float(has_collapsed(outcomes)),
        "turns": summary["turns"],
        "auc": float(steps["prm_auc"].mean()),
        "tau": float(steps["prm_kendall"].mean()),
    }


def has_collapsed(outcomes: ArrayLike) -> bool:
    """Whether training went wrong, from the mean outcome of each step in [0, 1]: the rule of `docs/protocol.md`.

    The last three steps are no higher than the first one, or ``COLLAPSE`` below the best three in a row.

    >>> has_collapsed([0.4, 0.5, 0.6, 0.7]), has_collapsed([0.4, 0.9, 0.9, 0.9, 0.9, 0.6, 0.6, 0.6])
    (False, True)
    """
    values = np.asarray(outcomes, dtype=float)
    threes = np.convolve(values, np.ones(3) / 3, "valid") if len(values) >= 3 else values.mean(keepdims=True)
    # Means of equal outcomes may differ in their last digits.
    return bool(threes[-1] <= values[0] or threes[-1] <= threes.max() - COLLAPSE + 1e-9)


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


# How the mean over seeds of a column of `results` is bounded, see `itpo.study.statistics.INTERVALS`.
KINDS = {
    "speed": "share",
    "greedy_success": "share",
    "success": "share",
    "turns": "real",
    "auc": "share",
    "tau": "correlation",
}


def main_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Table 1 in numbers: a line for each task, estimator and method, with means and intervals of every result over seeds.

    Gains are differences to the baseline of the same task and estimator, paired by seed, with t-intervals: ``gain`` by the
    primary measure, the mean outcome of training, ``level_gain`` by the greedy outcome after it. ``collapsed`` counts runs.
    ``reported`` and ``reported_gain`` are [S] values, ``nan`` where none is known.
    """
    lines = []
    for task, estimator, row in frame[["task", "estimator", "row"]].drop_duplicates().itertuples(index=False):
        cell = frame[(frame["task"] == task) & (frame["estimator"] == estimator)]
        own = cell[cell["row"] == row]
        line: dict[str, Any] = {"task": task, "estimator": estimator, "row": row}
        line |= {"label": get_method(row).label, "collapsed": own["collapsed"].sum(), "seeds": len(own)}
        for column, kind in KINDS.items():
            line |= interval_columns(column, INTERVALS[kind](own[column]))
        for column, name in (("speed", "gain"), ("greedy_success", "level_gain")):
            differences = effects(cell, row, BASELINE, column) if row != BASELINE else np.empty(0)
            line |= interval_columns(name, t_interval(differences))
        value, least = (reported(task, estimator, name) for name in (row, BASELINE))
        lines.append(
            line | {"reported": value, "reported_gain": value - least if row != BASELINE else np.nan}
        )
    return pd.DataFrame(lines)


def _reported_text(line: pd.Series) -> str:
    if np.isnan(line["reported"]):
        return DASH
    return f"{100 * line['reported']:.2f}{caution(line['task'], line['estimator'], line['row'])}"


REPORTED_COLUMNS = (
    Column("paper [S] (%)", _reported_text),
    Column("gain [S]", "reported_gain", 100.0, 2, "+"),
)


def main_columns(table: pd.DataFrame) -> list[Column]:
    """:func:`main_table` of one task and estimator as people read it, in percent and points."""
    outcomes = " or ".join(get_entry(task).outcome for task in table["task"].unique())
    return [
        METHOD,
        percent(f"{outcomes} over training (%)", "speed"),
        points("gain on trajectory-share (points)", "gain"),
        percent("after training, greedy (%)", "greedy_success"),
        points("gain after training (points)", "level_gain"),
        Column("collapsed", lambda line: f"{line['collapsed']:.0f} of {line['seeds']}"),
        Column("turns", "turns", 1.0, 2),
        *REPORTED_COLUMNS,
    ]


def estimator_columns(table: pd.DataFrame) -> list[Column]:
    """:func:`main_table` of several estimators as people read it."""
    return [ESTIMATOR, *main_columns(table)]


def settings_text(methods: Sequence[Method]) -> pd.DataFrame:
    """The settings of each method of a profile."""
    names = [field.name for field in fields(Method) if field.name not in ("name", "options", "version")]
    return pd.DataFrame(
        {
            "row": method.entry.label,
            **{name: getattr(method, name) for name in names},
            "options": ", ".join(f"{name} {value}" for name, value in method.options.items()) or DASH,
        }
        for method in methods
    )


# Curves over training


def curves(runs: Sequence[Run], column: str, smooth: int = 1) -> pd.DataFrame:
    """A logged metric over training, a line for each run and step: row, seed, step, value.

    ``smooth`` is the width in steps of a centred moving average within each run (1: as logged). Runs without the
    metric are left out.
    """
    columns = ["row", "seed", "step", "value"]
    frames = [pd.DataFrame(columns=columns)]
    for run in runs:
        metrics = run.metrics()
        if column in metrics:
            logged = metrics.dropna(subset=column)
            value = logged[column].rolling(smooth, center=True, min_periods=1).mean()
            frame = pd.DataFrame({"step": logged["step"], "value": value})
            frames.append(frame.assign(row=run.config.method.name, seed=run.config.seed)[columns])
    return pd.concat(frames[1:] or frames, ignore_index=True)


def bands(
    frame: pd.DataFrame, by: Sequence[str] = ("row",), along: str = "step", kind: str = "real"
) -> pd.DataFrame:
    """Mean over seeds and interval for each group of ``by`` and ``along``: those columns, mean, low, high, seeds.

    ``kind`` says what ``value`` is, a key of :data:`itpo.study.statistics.INTERVALS`. Groups come in the order of the frame,
    each sorted along ``along``.
    """
    lines = []
    for key, curves in frame.groupby(list(by), sort=False):
        for place, group in curves.groupby(along):
            interval = INTERVALS[kind](group["value"])
            lines.append([*key, place, interval.mean, interval.low, interval.high, interval.n])
    return pd.DataFrame(lines, columns=[*by, along, "mean", "low", "high", "seeds"])


def evaluations(runs: Sequence[Run]) -> pd.DataFrame:
    """Outcome on fresh problems by step, with Wilson's interval over problems: row, seed, step, mean, low, high, problems.

    For single runs, of which nothing can be said over seeds.
    """
    frame = curves(runs, "eval_success").rename(columns={"value": "mean"})
    counts = {(r.config.method.name, r.config.seed): r.config.eval_dialogues for r in runs}
    intervals = [share_interval(x.mean, counts[x.row, x.seed]) for x in frame.itertuples()]
    bounds = pd.DataFrame([(i.low, i.high, i.n) for i in intervals], columns=["low", "high", "problems"])
    return frame.join(bounds)
