"""The ledger of `docs/protocol.md`: what the runs say of each claim, by one rule (:func:`itpo.study.statistics.ruling`).

Runs in, as lines of :func:`itpo.study.tables.results`; out of them come *effects*, a number for each task, estimator and seed,
and from these a line for each claim. A claim is not ruled on if a run that it needs is missing, is not finished, or has a seed
that was used while settings were chosen: its line says which. Effects of the rewards are in :mod:`itpo.study.ledger_rewards`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from itpo.attribution import Claim, get_method
from itpo.config import allows
from itpo.runs.store import Run
from itpo.study.claims import statement
from itpo.study.experiment import ARMS, FIRST_SEED, get_experiment, table_rate
from itpo.study.profiles import Profile
from itpo.study.protocol import MEASURES, MOST, REWARDS, Line, Pair, pairs
from itpo.study.statistics import MIN_SEEDS, OPEN, Effect, cluster_effect, fisher_z, holm, ruling
from itpo.study.tables import Column, p_text, results
from itpo.tasks.registry import TASKS

EFFECTS = ["claim", "part", "task", "estimator", "seed", "effect", "runs", "reason"]
NOT_RULED = "not ruled"
KEYS = ["task", "row", "arm", "estimator", "baseline", "rate", "seed"]  # what names a run of the experiment


Key = tuple[str, str, str, str]  # task, arm or method, estimator, rate
Cells = Mapping[Key, Sequence[Mapping[str, Any]]]


class NotRuledError(ValueError):
    """A claim whose runs are not all there; says in one line which is missing or does not belong."""


def read(runs: Sequence[Run]) -> pd.DataFrame:
    """:func:`itpo.study.tables.results` of those runs that are finished, each once; the ledger misses the others by name."""
    return results(list({run.folder: run for run in runs if run.done}.values()))


def effects(frame: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """The effects of every comparison of methods, from :func:`read`: claim, part, task, estimator, seed, effect, runs, reason.

    ``effect`` is in the claim's unit, and ``runs`` counts those that it is made of. A claim that cannot be ruled on has one
    line, whose ``reason`` says why.
    """
    once = frame.drop_duplicates([*KEYS, *MEASURES])  # a run of both; what differs in a measure is two runs
    experiment, cells = get_experiment(profile.name), _cells(once)
    rates = {task: table_rate(profile, task) for task in TASKS}
    parts = []
    for line, pair in pairs(experiment).items():
        try:
            found = _differences(cells, rates, profile, pair)
        except NotRuledError as error:
            parts.append(refusal(line, str(error)))
        else:
            found = _most_under_ppo(found) if line == MOST else found
            parts.append(found.assign(claim=line.claim, part=line.part, reason=""))
    return pd.concat([*parts, *_further(cells, profile)], ignore_index=True)[EFFECTS]


def refusal(line: Line, reason: str) -> pd.DataFrame:
    """The line among the effects that keeps a claim from being ruled on.

    >>> refusal(MOST, "missing run: math, itpo, rate 0.002, ppo, seed 103")["effect"].isna().tolist()
    [True]
    """
    empty = {"task": "", "estimator": "", "seed": -1, "effect": np.nan, "runs": 0}
    return pd.DataFrame([{"claim": line.claim, "part": line.part, **empty, "reason": reason}])


def _cells(frame: pd.DataFrame) -> Cells:
    """The runs by task, arm (or method, where no arm is of that task, method and estimator), estimator and rate; by seed."""
    armed, cells = {arm.method.name for arm in ARMS.values()}, defaultdict[Key, list[dict[str, Any]]](list)
    for run in frame.to_dict("records"):
        of_arm = run["task"] in TASKS and run["estimator"] == "rloo" and run["row"] in armed
        name = run["arm"] if of_arm else run["row"]
        cells[run["task"], name, run["estimator"], f"{run['rate']:g}"].append(
            {str(k): v for k, v in run.items()}
        )
    return cells


def _differences(cells: Cells, table_rates: dict[str, float], profile: Profile, pair: Pair) -> pd.DataFrame:
    """The effect of a pair in each task, estimator and seed. Raises ``NotRuledError`` if a run is missing."""
    experiment = get_experiment(profile.name)
    half = len(experiment.sweep_seeds) // 2
    lines = []
    for task, estimator in product(TASKS, pair.estimators):
        rate = pair.rate or table_rates[task]
        if pair.runs == "sweep":
            seeds, judged = experiment.sweep_seeds[:half], experiment.sweep_seeds[half:]
        elif pair.runs == "table":
            seeds = judged = profile.seeds
        else:
            seeds = judged = experiment.seeds(profile, task, rate)
        sides = []
        for name in (pair.better, pair.worse):
            rates = experiment.rates if pair.runs == "sweep" else (rate,)
            keys = [(task, name, estimator, f"{rate:g}") for rate in rates]
            if pair.runs == "sweep":
                keys.sort(key=lambda key: -sum(_values(cells, key, seeds, "speed", profile)))
            sides.append(_values(cells, keys[0], judged, pair.measure, profile))
        for seed, better, worse in zip(judged, *sides, strict=True):
            lines.append((task, estimator, seed, MEASURES[pair.measure][1] * (better - worse), 2))
    return pd.DataFrame(lines, columns=["task", "estimator", "seed", "effect", "runs"])


def check_seeds(what: str, there: Sequence[int], profile: Profile) -> None:
    """Raise ``NotRuledError`` for a seed that chose settings, or one of which there are several runs of ``what``.

    The smoke profile may use any seed: it has no others.

    >>> from itpo.study.profiles import get_profile
    >>> check_seeds("math, itpo", [100, 203], get_profile("laptop"))
    Traceback (most recent call last):
        ...
    itpo.study.ledger.NotRuledError: not a fresh seed: math, itpo, seed 203: those below 100, and 200 to 205, chose the settings
    """
    experiment = get_experiment(profile.name)
    choice = experiment.choice_seeds
    used = sorted(seed for seed in there if seed < FIRST_SEED or seed in choice)
    if used and min(experiment.band_seeds) >= FIRST_SEED:
        raise NotRuledError(
            f"not a fresh seed: {what}, seed {used[0]}: those below {FIRST_SEED}, and {min(choice)} to {max(choice)}, "
            "chose the settings"
        )
    if twins := [seed for seed in there if there.count(seed) > 1]:
        raise NotRuledError(f"several runs: {what}, seed {twins[0]}: pass one")


def _values(cells: Cells, key: Key, seeds: Sequence[int], measure: str, profile: Profile) -> list[float]:
    """A measure of one cell in these seeds. Raises ``NotRuledError`` naming a run that is missing or does not belong."""
    task, name, estimator, rate = key
    what, runs = f"{task}, {name}, rate {rate}, {estimator}", cells.get(key, [])
    check_seeds(what, [run["seed"] for run in runs], profile)
    check_seeds(what, seeds, profile)
    numbers = {run["seed"]: run[measure] for run in runs}
    for seed in seeds:
        if not math.isfinite(numbers.get(seed, math.nan)):
            raise NotRuledError(f"missing run: {what}, seed {seed}: train it to its end")
    return [numbers[seed] for seed in seeds]


def _most_under_ppo(found: pd.DataFrame) -> pd.DataFrame:
    """Of a difference under every estimator: that under PPO less the mean of the others."""
    wide = found.pivot(index=["task", "seed"], columns="estimator", values="effect")
    more = (wide["ppo"] - wide.drop(columns="ppo").mean(axis=1)).rename("effect").reset_index()
    return more.assign(estimator="ppo", runs=2 * len(wide.columns))


def _further(cells: Cells, profile: Profile) -> Iterator[pd.DataFrame]:
    """Effects of the claims of methods from outside the package, in every task and under every estimator that has them."""
    for row in dict.fromkeys(name for _, name, _, _ in cells if ":" in name):
        for claim in get_method(row).claims:
            line = _own_line(row, claim)
            try:
                found = _own_differences(cells, profile, row, claim.rival)
            except NotRuledError as error:
                yield refusal(line, str(error))
            else:
                yield found.assign(claim=line.claim, part=line.part, reason="")


def _own_differences(cells: Cells, profile: Profile, row: str, rival: str) -> pd.DataFrame:
    """How far a method from outside is above its rival, where it was trained, by the runs of Table 1.

    Raises ``NotRuledError`` if one of these is missing.
    """
    places = dict.fromkeys((task, estimator) for task, name, estimator, _ in cells if name == row)
    lines = []
    for task, estimator in (place for place in places if allows(place[1], rival)):
        keys = [(task, name, estimator, f"{table_rate(profile, task):g}") for name in (row, rival)]
        sides = [_values(cells, key, profile.seeds, "speed", profile) for key in keys]
        for seed, better, worse in zip(profile.seeds, *sides, strict=True):
            lines.append((task, estimator, seed, 100 * (better - worse), 2))
    if not lines:
        raise NotRuledError(
            f"missing run: {row} under an estimator that can train {rival}: train it under ppo"
        )
    return pd.DataFrame(lines, columns=["task", "estimator", "seed", "effect", "runs"])


def _own_line(row: str, claim: Claim) -> Line:
    """The line of a claim of a method from outside the package."""
    return Line(claim.name, f"{row} {claim.rival}", statement(row, claim), expected=claim.expected)


def _line_of(claim: str, part: str, known: dict[tuple[str, str], Line]) -> Line:
    if (claim, part) in known:
        return known[claim, part]
    row, _, rival = part.partition(" ")
    return _own_line(
        row, next(own for own in get_method(row).claims if (own.name, own.rival) == (claim, rival))
    )


def _effects_by_line(frame: pd.DataFrame, profile: Profile) -> Iterator[tuple[Line, pd.DataFrame]]:
    """Every line that the frame has effects of, with them, in the order of the frame."""
    lines = (*pairs(get_experiment(profile.name)), *REWARDS.values())
    known = {(line.claim, line.part): line for line in lines}
    for (claim, part), own in frame.groupby(["claim", "part"], sort=False):
        yield _line_of(str(claim), str(part), known), own


def _reason(line: Line, own: pd.DataFrame, tasks: Collection[str]) -> str:
    """Why a claim is not ruled on; empty where it is. Claims about methods know their tasks, those about rewards do not."""
    missing = [task for task in tasks if task not in set(own["task"])] if line.family == "rewards" else []
    said = next((text for text in own["reason"] if text), "")
    return said or (f"missing task: {missing[0]}: pass its effects too" if missing else "")


def _effect(line: Line, own: pd.DataFrame) -> Effect:
    """The effect over clusters, estimators of a cluster averaged first; of correlations in Fisher's z."""
    clusters = own.groupby(["task", "seed"], sort=False)["effect"].mean()
    values = [group.to_numpy(dtype=float) for _, group in clusters.groupby("task", sort=False)]
    return cluster_effect([fisher_z(group) for group in values] if line.kind == "correlation" else values)


def _fewest(own: pd.DataFrame) -> int:
    """Seeds with an effect of the task that has the fewest."""
    known = own.dropna(subset="effect").groupby("task")["seed"].nunique()
    return int(known.reindex(own["task"].unique(), fill_value=0).min())


def _numbers(line: Line, effect: Effect, fewest: int) -> dict[str, float]:
    """Effect and bounds in the line's unit, within what is possible.

    No bounds where no spread was measured, and of a correlation where a task has too few seeds.
    """
    interval = effect.interval()
    bounds = np.array([interval.mean, interval.low, interval.high])
    if line.kind == "correlation":
        bounds = np.tanh(bounds)
    elif line.unit == "points":
        bounds = bounds.clip(-100, 100)  # between never and always
    if effect.se == 0 or (line.kind == "correlation" and fewest < MIN_SEEDS):
        bounds[1:] = np.nan
    return dict(zip(("effect", "low", "high"), bounds.tolist(), strict=True))


def ledger(frame: pd.DataFrame, profile: Profile, tasks: Collection[str] = tuple(TASKS)) -> pd.DataFrame:
    """A line for every claim that ``frame``, from :func:`effects` and others of its columns, has effects of.

    Columns: claim, part, statement, unit, effect, low, high (95 %), p, p_adjusted (by Holm, over the primary claims), clusters,
    runs, family, ruling, reason. A claim that cannot be ruled on is "not ruled", and ``reason`` says which run is missing, or
    which of ``tasks`` has no effect of a claim about rewards.
    """
    ruled = []
    for line, own in _effects_by_line(frame, profile):
        reason = _reason(line, own, tasks)
        ruled.append((line, own, reason, cluster_effect([]) if reason else _effect(line, own)))
    primary = {line: effect.p for line, _, _, effect in ruled if line.family == "primary"}
    adjusted = dict(zip(primary, holm(list(primary.values())).tolist(), strict=True)) if primary else {}
    lines = []
    for line, own, reason, effect in ruled:
        about = {"claim": line.claim, "part": line.part, "statement": line.statement, "unit": line.unit}
        numbers = _numbers(line, effect, _fewest(own))
        tests = {
            "p": effect.p,
            "p_adjusted": adjusted.get(line, np.nan),
            "clusters": effect.n,
            "runs": int(own["runs"].sum()),
        }
        word = NOT_RULED if reason else _word(line, effect, numbers, adjusted.get(line))
        lines.append(about | numbers | tests | {"family": line.family, "ruling": word, "reason": reason})
    return pd.DataFrame(lines)


def _word(line: Line, effect: Effect, numbers: Mapping[str, float], p_adjusted: float | None = None) -> str:
    """The ruling; open where the seeds are too few for an interval."""
    return OPEN if math.isnan(numbers["low"]) else ruling(effect, line.expected, line.margin, p_adjusted)


def cell_table(frame: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """Every claim in every task and estimator by its own interval, and the ruling that it alone would get."""
    lines = []
    for line, own in _effects_by_line(frame[frame["reason"] == ""], profile):
        for (task, estimator), cell in own.groupby(["task", "estimator"], sort=False):
            effect = _effect(line, cell)
            numbers = _numbers(line, effect, effect.n)
            lines.append(
                {
                    "claim": line.claim,
                    "part": line.part,
                    "task": task,
                    "estimator": estimator,
                    "unit": line.unit,
                }
                | numbers
                | {"seeds": effect.n, "ruling": _word(line, effect, numbers)}
            )
    return pd.DataFrame(lines)


def _number(value: float, line: pd.Series) -> str:
    return f"{value:+.{1 if line['unit'] == 'points' else 2}f}"


def _part_text(part: str) -> str:
    """The part of a claim; of a method from outside the package, its label."""
    return get_method(part.partition(" ")[0]).label if ":" in part else part


def _interval_text(line: pd.Series) -> str:
    if line["ruling"] == NOT_RULED:
        return line["reason"]
    bounds = (
        "" if np.isnan(line["low"]) else f" [{_number(line['low'], line)}, {_number(line['high'], line)}]"
    )
    return f"{_number(line['effect'], line)}{bounds} {line['unit']}"


def _p_text(line: pd.Series) -> str:
    return p_text(line["p"] if np.isnan(line["p_adjusted"]) else line["p_adjusted"])


LEDGER_COLUMNS = (
    Column("claim", lambda line: f"{line['claim']}, {_part_text(line['part'])}"),
    Column("what is claimed", "statement"),
    Column("effect [95 %]", _interval_text),
    Column("p (primary: adjusted)", _p_text),
    Column("clusters", "clusters"),
    Column("ruling", lambda line: f"**{line['ruling']}**" if line["family"] == "primary" else line["ruling"]),
)
