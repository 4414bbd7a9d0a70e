"""Gains on trajectory-share, paired by seed: frames for the pictures of the main comparison, and what they say in words.

Gains are in points, outcomes of training are shares. Frames of runs are those of :func:`itpo.study.tables.results`. A cluster
is a task and a seed; intervals are those of `docs/protocol.md`, and there is none below six seeds of a task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from itpo.runs.store import Run
from itpo.study.experiment import ARMS, SWEPT
from itpo.study.profiles import Profile
from itpo.study.statistics import MIN_SEEDS, Interval, cluster_effect
from itpo.study.tables import BASELINE, DASH, bands, curves, mark

ALL = "all tasks"


def paired(frame: pd.DataFrame, by: Sequence[str], column: str = "speed") -> pd.DataFrame:
    """What each run gains on trajectory-share with the same seed and the same values of ``by``: a line each, in points.

    Columns: ``by``, arm, row, seed, gain. Errors: ValueError if a run has no counterpart, or several.

    >>> runs = pd.DataFrame({"task": "math", "arm": ["trajectory_share", "itpo"], "row": ["trajectory_share", "itpo"]})
    >>> paired(runs.assign(seed=100, speed=[0.5, 0.75]), ["task"])[["row", "gain"]].values.tolist()
    [['itpo', 25.0]]
    """
    keys = [*by, "seed"]
    usual = frame[frame["row"] == BASELINE].set_index(keys)[column]
    if not usual.index.is_unique:
        raise ValueError(f"several runs of {BASELINE} with the same {', '.join(keys)}: pass one of each")
    others = frame[frame["row"] != BASELINE].reset_index(drop=True)
    joined = others.join(usual.rename("usual"), on=keys)
    alone = joined[joined["usual"].isna()]
    if len(alone):
        lacking = ", ".join(f"{key} {alone.iloc[0][key]}" for key in keys)
        raise ValueError(f"no run of {BASELINE} with {lacking}, which {alone.iloc[0]['row']} has: train it")
    return others[[*by, "arm", "row", "seed"]].assign(gain=100 * (joined[column] - joined["usual"]))


def _summary(gains: pd.DataFrame) -> dict[str, float]:
    """Mean over tasks of means over seeds, with the interval that clusters give."""
    seeds = [group["gain"] for _, group in gains.groupby("task")]
    effect = cluster_effect(seeds)
    known = min(map(len, seeds)) >= MIN_SEEDS
    shown = effect.interval() if known else Interval(effect.mean, float("nan"), float("nan"), effect.n)
    return {"mean": shown.mean, "low": shown.low, "high": shown.high, "clusters": shown.n}


def band(frame: pd.DataFrame) -> pd.DataFrame:
    """Gain of every arm at every learning rate, on each task and on all: what `itpo.figures.comparison.band` draws.

    Columns: panel (a task, or "all tasks"), arm, row, label, rate, mean, low, high, clusters. What was not trained on all
    tasks has no line for all.
    """
    gains = paired(frame[frame["arm"] != ""], ["task", "rate"])
    tasks, lines = list(dict.fromkeys(gains["task"])), []
    for panel in (*tasks, ALL):
        chosen = gains if panel == ALL else gains[gains["task"] == panel]
        cells = dict(list(chosen.groupby(["arm", "rate"])))
        for (arm, rate), cell in sorted(
            cells.items(), key=lambda item: (list(ARMS).index(item[0][0]), item[0][1])
        ):
            if panel != ALL or cell["task"].nunique() == len(tasks):
                own = {"arm": arm, "row": cell["row"].iloc[0], "label": ARMS[arm].label, "rate": rate}
                lines.append({"panel": panel} | own | _summary(cell))
    return pd.DataFrame(lines)


def table_dots(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Table 1 as gains for `itpo.figures.comparison.table_dots`: ``means`` over seeds, and each of the ``seeds``."""
    by = ["task", "estimator"]
    seeds = paired(frame, by)
    means = [
        dict(zip((*by, "row"), key, strict=True)) | _summary(cell)
        for key, cell in seeds.groupby([*by, "row"], sort=False)
    ]
    return {"means": pd.DataFrame(means), "seeds": seeds[[*by, "row", "seed", "gain"]]}


def speed_curves(groups: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """Mean outcome of the dialogues of each training step, over the seeds of each task's runs, with its interval.

    Columns: task, row, step, mean, low, high, seeds; warm-up steps are left out. A share: intervals lie within 0 and 1.
    """
    frames = [curves(runs, "success").assign(task=task) for task, runs in groups.items()]
    steps = pd.concat(frames, ignore_index=True)
    return bands(steps[steps["step"] >= 0], ["task", "row"], kind="share")


def band_columns(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`band` as people read it: a line for each arm and rate, a column for each panel.

    >>> line = {"panel": "math", "arm": "itpo", "label": "ITPO", "rate": 0.002, "mean": 4.2, "low": 1.0, "high": 7.4}
    >>> band_columns(pd.DataFrame([line])).to_dict("records")
    [{'arm': 'ITPO', 'rate': 0.002, 'math': '+4.2 [+1.0, +7.4]'}]
    """
    lines: dict[tuple[str, float], dict[str, str]] = {}
    for cell in table.itertuples():
        interval = f" [{cell.low:+.1f}, {cell.high:+.1f}]" if cell.low <= cell.high else ""
        lines.setdefault((str(cell.label), float(cell.rate)), {})[str(cell.panel)] = (
            f"{cell.mean:+.1f}{interval}"
        )
    text = [{"arm": arm, "rate": rate} | cells for (arm, rate), cells in lines.items()]
    return pd.DataFrame(text).fillna(DASH)


def band_text(table: pd.DataFrame, profile: Profile) -> str:
    """What the band says of each arm that was trained at every rate, over all tasks: a line each."""
    lines = []
    for arm in SWEPT:
        shown = table[(table["arm"] == arm) & (table["panel"] == ALL)]
        if shown.empty:
            continue
        sizes = ", ".join(f"{line.mean:+.1f} at {line.rate:g}" for line in shown.itertuples())
        above, below = int((shown["low"] > 0).sum()), int((shown["high"] < 0).sum())
        ruled = f"interval above 0 at {above}, below 0 at {below} of {len(shown)} rates"
        ruled = ruled if shown["low"].notna().all() else f"no interval below {MIN_SEEDS} seeds"
        lines.append(f"- {mark(profile)}**{ARMS[arm].label}**: {sizes} points; {ruled}.")
    return "\n".join(lines)


def choice_text(outcomes: pd.DataFrame, chosen: Mapping[str, float], profile: Profile) -> str:
    """Which rate each task got, and by how much it is ahead of the next one: a line each. ``outcomes``: task, rate, outcome."""
    lines = []
    for task, rate in chosen.items():
        means = outcomes[outcomes["task"] == task].groupby("rate")["outcome"].mean()
        lead = (
            f", {100 * (means[rate] - means.drop(rate).max()):.1f} points ahead of the next"
            if len(means) > 1
            else ""
        )
        lines.append(f"- {mark(profile)}{task}: {rate:g}, with {100 * means[rate]:.1f} %{lead}.")
    return "\n".join(lines)
