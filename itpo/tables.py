"""Runs in, tables out: what the result notebooks show and what their figures draw.

The statistics are those of :mod:`itpo.analysis`. Success is a share in [0, 1] in every data frame, and in percent where it
is written out as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64

from itpo import turns
from itpo.analysis import (
    Interval,
    Verdict,
    area_under_curve,
    bootstrap_interval,
    judge,
    kendall,
    kendall_ceiling,
    rank_stability,
    relative_to_largest,
    step_above_for_good,
    sum_turns,
    t_interval,
)
from itpo.attribution import ROWS
from itpo.embedded import ASSISTANT, END, PAD, USER, build_tokenizer
from itpo.figures.results import Case
from itpo.figures.style import output_folder
from itpo.paths import project_root
from itpo.profiles import Method, Profile
from itpo.runs import Run
from itpo.tasks import get_task
from itpo.tasks.math import REPLIES

BASELINE = "trajectory_share"
# Accuracy in percent on the paper's math task under RLOO, as secondary sources quote it [S]; none was checked.
REPORTED = {"trajectory_share": 29.06, "uniform": 30.00, "prime": 29.75, "itpo": 29.06, "norm_itpo": 32.50}
ONE_SOURCE = frozenset({"itpo"})
REPORTED_TAU = (0.5, 0.75)  # Kendall's tau between implicit return and outcome [S]
RIVALS = {
    "tokens": "all tokens",
    "few tokens": "as many tokens as turns",
    "token groups": "shuffled tokens, summed",
}
KINDS = (
    "ask_first",
    "ask_second",
    "press",
    "check",
    "missed repair",
    "assume_first",
    "assume_second",
    "chat",
    "answer",
)
REPAIRS = {"vague": "press", "doubtful": "check"}  # the only turn that undoes such an answer
# The smallest gain that we count as one: what is reported for Norm-ITPO over trajectory-share on math [S].
SMALLEST_GAIN = (REPORTED["norm_itpo"] - REPORTED["trajectory_share"]) / 100


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

    ``mean_success`` is the area under the held-out curve divided by its length. ``auc``, ``tau`` are means over training
    batches, each dialogue scored before the PRM learns from it; ``nan`` for rows without a PRM.
    """
    return pd.DataFrame([_result(run) for run in runs])


def _result(run: Run) -> dict[str, Any]:
    metrics, summary = run.metrics(), run.summary()
    held_out = metrics.dropna(subset="eval_success")
    fresh = metrics[metrics["step"] >= 0].reindex(columns=["prm_auc", "prm_kendall"]).mean()
    return {
        "row": run.config.method.row,
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

    Errors: ValueError if the rows have different seeds.
    """
    pair = [frame[frame["row"] == row].set_index("seed")[column].sort_index() for row in (better, worse)]
    if not pair[0].index.equals(pair[1].index):
        raise ValueError(
            f"{better} has seeds {list(pair[0].index)}, {worse} has {list(pair[1].index)}: train both"
        )
    return (pair[0] - pair[1]).to_numpy(dtype=float)


def main_table(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Table 1 in numbers, a line a row: mean and t-interval of every result, and paired differences to the baseline.

    ``gain`` carries a t-interval, ``gain_boot`` the bootstrap's (drawn with ``rng``); ``reported`` is the [S] value.
    """
    lines = []
    for row in frame["row"].unique():
        line: dict[str, Any] = {"row": row, "label": ROWS[row].label}
        for column in ("success", "greedy_success", "mean_success", "turns", "auc", "tau"):
            line |= _columns(column, t_interval(frame.loc[frame["row"] == row, column]))
        if row != BASELINE:
            for column, name in (("success", "gain"), ("mean_success", "mean_gain")):
                differences = effects(frame, row, BASELINE, column)
                line |= _columns(name, t_interval(differences))
                line |= _columns(f"{name}_boot", bootstrap_interval(differences, rng))
        lines.append(line | {"reported": REPORTED[row] / 100})
    return pd.DataFrame(lines)


def _columns(name: str, interval: Interval) -> dict[str, float]:
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


def main_text(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`main_table` as people read it, in percent and points."""

    def text(column: str, scale: float = 100.0, digits: int = 1, sign: str = "") -> list[str]:
        found = [interval_of(line, column) for _, line in table.iterrows()]
        return [interval.text(scale, digits, sign) if interval.n else "–" for interval in found]

    reported = [
        f"{100 * v:.2f}{' (one source)' * (r in ONE_SOURCE)}"
        for r, v in zip(table["row"], table["reported"], strict=True)
    ]
    return pd.DataFrame(
        {
            "row": table["label"],
            "success, sampled (%)": text("success"),
            "greedy (%)": text("greedy_success"),
            "mean over training (%)": text("mean_success"),
            "turns": text("turns", 1.0, 2),
            "gain on trajectory-share (points), t": text("gain", sign="+"),
            "the same, bootstrap": text("gain_boot", sign="+"),
            "paper [S] (%)": reported,
            "gain [S]": [
                "–" if row == BASELINE else f"{REPORTED[row] - REPORTED[BASELINE]:+.2f}"
                for row in table["row"]
            ],
        }
    )


def math_verdicts(frame: pd.DataFrame, column: str = "success") -> list[Verdict]:
    """Claims C1, C3 and C4 for the math task under RLOO, judged by ``column`` of :func:`results`."""

    def gain(claim: str, better: str, worse: str) -> Verdict:
        statement = f"{ROWS[better].label} beats {ROWS[worse].label}"
        return judge(claim, statement, effects(frame, better, worse, column))

    nothing = f"{ROWS['uniform'].label} gives no reliable gain on {ROWS[BASELINE].label}"
    return [
        gain("C1", "norm_itpo", BASELINE),
        gain("C3", "itpo", "prime"),
        gain("C3, normalised", "norm_itpo", "prime"),
        judge("C4", nothing, effects(frame, "uniform", BASELINE, column), "no gain", SMALLEST_GAIN),
    ]


def verdict_text(
    verdicts: Sequence[Verdict], profile: Profile, scale: float = 100.0, unit: str = "points"
) -> str:
    """One line a verdict, each marked as meaningless at the smoke profile."""
    mark = "(smoke, not meaningful) " if profile.name == "smoke" else ""
    digits = 1 if scale == 100.0 else 3
    return "\n".join(f"- {mark}{verdict.sentence(scale, digits, unit)}" for verdict in verdicts)


def order_text(table: pd.DataFrame, profile: Profile) -> str:
    """How our order of the rows and the signs of their gains compare with the reported ones [S]."""
    claimed = {row: np.sign(value - REPORTED[BASELINE]) for row, value in REPORTED.items()}
    others = table[table["row"].map(claimed) != 0]
    agree = others.loc[np.sign(others["gain"]) == others["row"].map(claimed), "label"].tolist()
    tau = kendall(table["success"], table["reported"])
    order = ", ".join(table.sort_values("success", ascending=False, kind="stable")["label"])
    mark = "(smoke, not meaningful) " if profile.name == "smoke" else ""
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
    return pd.concat(parts, ignore_index=True) if parts else _no_curve()


def _no_curve() -> pd.DataFrame:
    return pd.DataFrame(columns=["row", "seed", "step", "value"])


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


# The fixed probe dialogues: what the PRM says about them over training


@dataclass(frozen=True)
class Probes:
    """The probe dialogues of one run: S observed steps, P dialogues of T tokens (``log_ratio`` is q_t of eq. (1), nats).

    ``words`` holds each dialogue's tokens as text; ``beta`` turns log-ratios into rewards (2).
    """

    run: Run
    steps: Int64[np.ndarray, " S"]
    log_ratio: Float[np.ndarray, "S P T"]
    turn_ids: Int64[np.ndarray, "P T"]
    outcome: Float[np.ndarray, " P"]
    words: tuple[tuple[str, ...], ...]

    @property
    def token_mask(self) -> Bool[np.ndarray, "P T"]:
        """The assistant tokens."""
        return self.turn_ids >= 0

    @property
    def turn_mask(self) -> Bool[np.ndarray, "P K"]:
        """The turns that each dialogue has."""
        return turns.turn_mask(torch.from_numpy(self.turn_ids)).numpy()

    @property
    def token_rewards(self) -> Float[np.ndarray, "S P T"]:
        """r_t of eq. (2), in logits."""
        return self.run.config.method.beta * self.log_ratio

    @property
    def turn_rewards(self) -> Float[np.ndarray, "S P K"]:
        """R_k of eq. (4), in logits, for every row alike."""
        return sum_turns(self.token_rewards, self.turn_ids)

    def kinds(self, dialogue: int) -> list[str]:
        """What each turn of a dialogue does: its act, or "missed repair" (see :func:`turn_kinds`)."""
        return turn_kinds(self.messages(dialogue))

    def messages(self, dialogue: int) -> list[tuple[str, str]]:
        """The conversation as (role, text), read back from its tokens."""
        found: list[tuple[str, list[str]]] = []
        for word in self.words[dialogue]:
            if word in (USER, ASSISTANT):
                found.append(("user" if word == USER else "assistant", []))
            elif word not in (END, PAD):
                found[-1][1].append(word)
        return [(role, " ".join(text)) for role, text in found]


def read_probes(run: Run) -> Probes:
    """Load a run's probes. Errors: ValueError for a run without any (its row has no PRM)."""
    saved = run.probes()
    if not saved:
        raise ValueError(f"the run of {run.config.method.row!r} kept no probes: only rows with a PRM do")
    static = {name: tensor.numpy() for name, tensor in saved[0][1].items()}
    tokenizer = build_tokenizer(get_task(run.config.task).words)
    return Probes(
        run,
        np.array([step for step, _ in saved]),
        np.stack([tensors["log_ratio"].numpy().astype(np.float64) for _, tensors in saved]),
        static["turn_ids"],
        static["outcome"].astype(np.float64),
        tuple(tuple(tokenizer.convert_ids_to_tokens(ids.tolist())) for ids in static["input_ids"]),
    )


def turn_kinds(messages: Sequence[tuple[str, str]]) -> list[str]:
    """The math task's act of each assistant turn; "missed repair" where it should have undone the answer before it.

    >>> turn_kinds([("user", "a lot of pens ."), ("assistant", "are you sure ?"), ("user", "yes ."), ("assistant", "ok .")])
    ['missed repair', 'chat']
    """
    act = get_task("math").act
    kinds, wanted = [], ""
    for role, text in messages:
        if role == "user":
            wanted = next((repair for kind, repair in REPAIRS.items() if _says(kind, text)), "")
        else:
            kinds.append("missed repair" if wanted and act(text) != wanted else act(text))
    return kinds


def _says(kind: str, text: str) -> bool:
    return text.startswith(tuple(reply.partition("{")[0].strip() for reply in REPLIES[kind]))


def choose_case(probes: Probes, turns_wanted: int = 4) -> tuple[int, str]:
    """The probe dialogue to look at, and the rule that chose it: the first that meets the first rule that any meets."""
    long = probes.turn_mask.sum(1) >= turns_wanted
    failed = probes.outcome <= 0.5
    missed = np.array(["missed repair" in probes.kinds(p) for p in range(len(long))])
    size = f"at least {turns_wanted} turns"
    rules = [
        (
            long & failed & missed,
            f"the first failed dialogue of {size} with a vague or doubtful answer left unrepaired",
        ),
        (long & failed, f"the first failed dialogue of {size}"),
        (long, f"the first dialogue of {size}"),
        (probes.turn_mask.sum(1) == probes.turn_mask.sum(1).max(), "the first dialogue with the most turns"),
    ]
    meets, rule = next(rule for rule in rules if rule[0].any())
    return int(np.flatnonzero(meets)[0]), rule


def case_of(probes: Probes, dialogue: int) -> Case:
    """One probe dialogue as F2 draws it; at each step both kinds of rewards are relative to their own largest."""
    messages, mask = probes.messages(dialogue), probes.token_mask[dialogue]
    said = [text for role, text in messages if role == "assistant"]
    later = [text for role, text in messages[2:] if role == "user"]
    return Case(
        probes.steps.tolist(),
        [word for word, ours in zip(probes.words[dialogue], mask, strict=True) if ours],
        probes.turn_ids[dialogue][mask].tolist(),
        probes.kinds(dialogue),
        [*later, *[""] * (len(said) - len(later))],
        relative_to_largest(probes.turn_rewards[:, dialogue, : len(said)]),
        relative_to_largest(probes.token_rewards[:, dialogue, mask]),
    )


def case_table(case: Case) -> pd.DataFrame:
    """The numbers of F2, a line for each step and assistant token."""
    steps, tokens = case.token_rewards.shape
    turn_of = np.asarray(case.turn_of)
    return pd.DataFrame(
        {
            "step": np.repeat(case.steps, tokens),
            "turn": np.tile(turn_of + 1, steps),
            "kind": np.tile(np.asarray(case.kinds)[turn_of], steps),
            "token": np.tile(case.words, steps),
            "relative_turn_reward": case.turn_rewards[:, turn_of].ravel(),
            "relative_token_reward": case.token_rewards.ravel(),
        }
    )


def credit_by_kind(runs: Sequence[Run]) -> pd.DataFrame:
    """Turn rewards at the last step by kind of turn, a line for row, seed, kind and outcome: their mean and number.

    ``value`` is R_k minus the mean over the dialogue's turns, in logits: above 0 where the turn is credited more than its
    neighbours.
    """
    lines = []
    for probes in map(read_probes, runs):
        rewards, mask = probes.turn_rewards[-1], probes.turn_mask
        centred = rewards - (rewards * mask).sum(1, keepdims=True) / mask.sum(1, keepdims=True).clip(1)
        who = {"row": probes.run.config.method.row, "seed": probes.run.config.seed}
        for p, won in enumerate(probes.outcome > 0.5):
            for k, kind in enumerate(probes.kinds(p)):
                lines.append({**who, "kind": kind, "success": bool(won), "value": centred[p, k]})
    by = ["row", "seed", "kind", "success"]
    found = pd.DataFrame(lines).groupby(by, sort=False)["value"].agg(value="mean", turns="size").reset_index()
    return found.sort_values(
        "kind", key=lambda kinds: kinds.map(KINDS.index), kind="stable", ignore_index=True
    )


def spearman_curves(runs: Sequence[Run], rng: np.random.Generator, min_turns: int = 3) -> pd.DataFrame:
    """:func:`itpo.analysis.rank_stability` of every run's probes: row, seed, items, step, value.

    Only dialogues of at least ``min_turns`` turns count: two turns have an order, but hardly a ranking.
    """
    lines = []
    for probes in map(read_probes, runs):
        keep = probes.turn_mask.sum(1) >= min_turns
        found = rank_stability(probes.token_rewards[:, keep], probes.turn_ids[keep], rng)
        who = {"row": probes.run.config.method.row, "seed": probes.run.config.seed}
        for items, values in found.items():
            lines.append(pd.DataFrame({**who, "items": items, "step": probes.steps, "value": values}))
    return pd.concat(lines, ignore_index=True)


def probe_curves(runs: Sequence[Run]) -> pd.DataFrame:
    """Kendall's tau-b between implicit return and outcome on the probe dialogues: row, seed, step, value, ceiling."""
    lines = []
    for probes in map(read_probes, runs):
        returns = probes.token_rewards.sum(-1)
        ceiling = float(kendall_ceiling(probes.outcome.mean(), len(probes.outcome)))
        who = {"row": probes.run.config.method.row, "seed": probes.run.config.seed, "ceiling": ceiling}
        values = [kendall(step, probes.outcome) for step in returns]
        lines.append(pd.DataFrame({**who, "step": probes.steps, "value": values}))
    return pd.concat(lines, ignore_index=True)


def convergence_table(frame: pd.DataFrame, level: float = 0.8) -> pd.DataFrame:
    """First step from which the curves of :func:`spearman_curves` stay above ``level``, and their mean before the end.

    A line for row and items. The last step, compared with itself, is left out. ``first_step`` is a mean over the
    ``reached`` of ``seeds`` runs that do reach the level.
    """
    lines = []
    for (row, items), group in frame[frame["step"] < frame["step"].max()].groupby(
        ["row", "items"], sort=False
    ):
        by_seed = [run for _, run in group.groupby("seed")]
        first = [step_above_for_good(run["step"], run["value"], level) for run in by_seed]
        reached = np.isfinite(first)
        mean = t_interval([run["value"].mean() for run in by_seed])
        line = {
            "row": ROWS[row].label,
            "items": RIVALS.get(items, items),
            **_columns("mean_correlation", mean),
        }
        line |= {"first_step": np.mean(first, where=reached) if reached.any() else float("nan")}
        lines.append(line | {"reached": int(reached.sum()), "seeds": len(first)})
    return pd.DataFrame(lines)


def stability_verdicts(frame: pd.DataFrame, rival: str) -> list[Verdict]:
    """Claim C5 for each row: mean correlation before the last step, turns minus ``rival`` (of RIVALS), paired by seed."""
    before = frame[frame["step"] < frame["step"].max()]
    means = before.groupby(["row", "items", "seed"], sort=False)["value"].mean().unstack("items")
    claim = "C5" if rival == "tokens" else "C5, control"
    return [
        judge(
            claim,
            f"{ROWS[row].label}: turns keep their order better than {RIVALS[rival]}",
            part["turns"] - part[rival],
        )
        for row, part in means.groupby("row", sort=False)
    ]


def tau_verdicts(frame: pd.DataFrame) -> list[Verdict]:
    """Claim C6 for each row with a PRM: mean tau over fresh training batches, against 0 (:func:`results`)."""
    known = frame.dropna(subset="tau")
    return [
        judge(
            "C6", f"{ROWS[row].label}: the implicit return ranks dialogues as the outcome does", part["tau"]
        )
        for row, part in known.groupby("row", sort=False)
    ]


def tau_changes(runs: Sequence[Run]) -> pd.DataFrame:
    """Success, tau-b, its ceiling and AUC on fresh batches in the first and last third of training, means over seeds."""
    lines = []
    for run in runs:
        metrics = (
            run.metrics()
            .reindex(columns=["step", "success", "prm_kendall", "prm_auc"])
            .dropna(subset="success")
        )
        ceiling = kendall_ceiling(metrics["success"], run.config.prompts * run.config.rollouts)
        metrics = metrics.rename(columns={"prm_kendall": "tau", "prm_auc": "AUC"}).assign(ceiling=ceiling)
        third = -(-run.config.steps // 3)
        for name, part in (("first third", metrics.head(third)), ("last third", metrics.tail(third))):
            means = part[["success", "tau", "ceiling", "AUC"]].mean()
            lines.append({"row": ROWS[run.config.method.row].label, "when": name, **means})
    return pd.DataFrame(lines).groupby(["row", "when"], sort=False).mean().reset_index()


def tau_ceilings(runs: Sequence[Run], probes: pd.DataFrame, smooth: int = 1) -> pd.DataFrame:
    """The tau-b of a perfect ranking at the success rates seen: panel ("batches", "probes"), row, step, value.

    Means over seeds; ``smooth`` as in :func:`curves`.
    """
    size = {run.config.prompts * run.config.rollouts for run in runs}
    success = curves(runs, "success", smooth)
    success["value"] = kendall_ceiling(success["value"], size.pop())
    fixed = probes.assign(value=probes["ceiling"])
    both = pd.concat([success.assign(panel="batches"), fixed.assign(panel="probes")])
    return both.groupby(["panel", "row", "step"], sort=False)["value"].mean().reset_index()


def credit_text(frame: pd.DataFrame, profile: Profile) -> str:
    """Whether :func:`credit_by_kind` has repairs above missed repairs and asking above assuming, paired by seed.

    A seed whose probes lack one of the two sides is left out.
    """
    pairs = (
        ("repairs are credited above missed repairs", ["press", "check"], ["missed repair"]),
        ("asking is credited above assuming", ["ask_first", "ask_second"], ["assume_first", "assume_second"]),
    )
    verdicts = []
    for statement, better, worse in pairs:
        sides = []
        for kinds in (better, worse):
            part = frame[frame["kind"].isin(kinds)]
            weighted = (part["value"] * part["turns"]).groupby(part["seed"]).sum()
            sides.append(weighted / part.groupby("seed")["turns"].sum())
        verdicts.append(judge("Task's rules", statement, sides[0] - sides[1]))
    lines = verdict_text(verdicts, profile, scale=1.0, unit="logits")
    return lines.replace("not replicated", "contradicted").replace("replicated", "confirmed")
