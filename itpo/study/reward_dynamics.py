"""The rewards of the process reward model (PRM) on the monitor set over training, and how it ranks dialogues.

Runs in, tables out, as in :mod:`itpo.study.tables`: for the notebooks on reward dynamics and reward stability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64

from itpo import turns
from itpo.attribution import get_method
from itpo.chat import ChatFormat
from itpo.dialogue import Message
from itpo.models.loading import locate
from itpo.models.tiny import build_tokenizer
from itpo.runs.store import Run, Store
from itpo.specs import RealData, TinyLM
from itpo.study.claims import verdict_text
from itpo.study.profiles import Profile
from itpo.study.ranks import (
    kendall_ceiling,
    rank_stability,
    relative_to_largest,
    step_above_for_good,
    sum_turns,
    tau_ceiling,
)
from itpo.study.reported import REPORTED_TAU
from itpo.study.statistics import Verdict, fisher_interval, judge
from itpo.study.tables import curves, interval_columns
from itpo.tasks.base import ScriptedTask
from itpo.training.build import base_model
from itpo.training.ranking import kendall

RIVALS = {
    "tokens": "all tokens",
    "few tokens": "as many tokens as turns",
    "token groups": "shuffled tokens, summed",
}


@dataclass(frozen=True)
class MonitorReadings:
    """The monitor set of one run: S observed steps, P dialogues of T tokens (``log_ratio`` is q_t of eq. (1), nats).

    The method's ``beta`` turns log-ratios into rewards (2); ``chat`` says what the tokens ``ids`` mean.
    """

    run: Run
    steps: Int64[np.ndarray, " S"]
    log_ratio: Float[np.ndarray, "S P T"]
    turn_ids: Int64[np.ndarray, "P T"]
    outcome: Float[np.ndarray, " P"]
    ids: Int64[np.ndarray, "P T"]
    chat: ChatFormat

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
        """What each turn of a dialogue does, in the task's own terms (its ``turn_kinds``); nothing on real data."""
        task = self.run.config.task
        if isinstance(task, RealData):
            return [""] * int(self.turn_mask[dialogue].sum())
        return task.build().turn_kinds(self.messages(dialogue))

    def messages(self, dialogue: int) -> list[Message]:
        """The conversation, read back from its tokens."""
        return read_back(self.chat, self.ids[dialogue].tolist(), self.turn_ids[dialogue].tolist())


def read_back(chat: ChatFormat, ids: Sequence[int], turn_ids: Sequence[int]) -> list[Message]:
    """The messages of a conversation that one user message opened, from its tokens and their turns (-1: not the assistant's).

    What the chat template puts around a user's words is found by comparison with a message of one strange sign.

    >>> from itpo.models.tiny import build_tokenizer
    >>> chat = ChatFormat(build_tokenizer(["how", "many", "pens", "?", "two"]))
    >>> ids, mask = chat.encode([Message("user", "how many ?"), Message("assistant", "two pens")])
    >>> [message.content for message in read_back(chat, ids, [0 if mine else -1 for mine in mask])]
    ['how many ?', 'two pens']
    """
    messages: list[Message] = []
    tokens = groupby(zip(ids, turn_ids, strict=True), key=lambda token: token[1])
    blocks = [(turn, [token for token, _ in block]) for turn, block in tokens]
    for (turn, block), before in zip(blocks, [(-1, []), *blocks], strict=False):
        if turn >= 0:
            messages.append(Message("assistant", chat.speech(block).text))
        elif (turn, block) != blocks[-1]:  # the last are padding
            closed = before[1][-1:] == [chat.eos_id]
            frame = chat.user_block("§", closed) if messages else chat.opening([Message("user", "§")])
            start = _shared(frame, block)
            end = len(block) - _shared(frame[::-1], block[::-1])
            messages.append(Message("user", chat.text(block[start:end])))
    return messages


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two lists begin with alike."""
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def read_monitor(run: Run) -> MonitorReadings:
    """Load what a run kept of its monitor set. Errors: ValueError for a run without log-ratios (its method has no PRM)."""
    saved = run.monitor()
    if not saved or "log_ratio" not in saved[0][1]:  # PPO keeps the critic's values, whatever the method
        raise ValueError(
            f"the run of {run.config.method.name!r} kept no log-ratios: only methods with a PRM do"
        )
    static = {name: tensor.numpy() for name, tensor in saved[0][1].items()}
    return MonitorReadings(
        run,
        np.array([step for step, _ in saved]),
        np.stack([tensors["log_ratio"].numpy().astype(np.float64) for _, tensors in saved]),
        static["turn_ids"],
        static["outcome"].astype(np.float64),
        static["input_ids"],
        ChatFormat(tokenizer_of(run), run.config.thought_tags),
    )


def tokenizer_of(run: Run) -> Any:
    """The tokenizer of a run's base model: of a tiny one from the task's words, of others from their folder.

    >>> from pathlib import Path
    >>> from itpo.study.profiles import get_profile
    >>> tokenizer_of(Run(Path("runs"), get_profile("smoke").config("itpo", seed=0))).tokenize("are you sure ?")
    ['are', 'you', 'sure', '?']
    """
    if isinstance(run.config.model, TinyLM):
        return build_tokenizer(_task(run).words)
    from transformers import AutoTokenizer

    store = Store(run.folder.parent, mix_platforms=True)
    return AutoTokenizer.from_pretrained(locate(base_model(run.config, store)))


def _task(run: Run) -> ScriptedTask:
    """The scripted task of a run. Errors: TypeError for a run on real data."""
    if isinstance(run.config.task, RealData):
        raise TypeError(f"the run of {run.config.method.name!r} is on real data, and so has no scripted task")
    return run.config.task.build()


def choose_case(monitor: MonitorReadings, turns_wanted: int = 4) -> tuple[int, str]:
    """The dialogue to look at, and the rule that chose it: the first that meets the first rule that any meets."""
    counts = monitor.turn_mask.sum(1)
    long, failed = counts >= turns_wanted, monitor.outcome <= 0.5
    missed = np.array(["missed repair" in monitor.kinds(p) for p in range(len(long))])
    first = f"the first failed dialogue of at least {turns_wanted} turns"
    rules = [
        (long & failed & missed, f"{first} with a vague or doubtful answer left unrepaired"),
        (long & failed, first),
        (long, f"the first dialogue of at least {turns_wanted} turns"),
        (counts == counts.max(), "the first dialogue with the most turns"),
    ]
    meets, rule = next(rule for rule in rules if rule[0].any())
    return int(np.flatnonzero(meets)[0]), rule


def case_frames(monitor: MonitorReadings, dialogue: int) -> dict[str, pd.DataFrame]:
    """One dialogue as F2 draws it: the arguments ``rewards`` and ``turns`` of :func:`itpo.figures.results.reward_dynamics`.

    At each step both kinds of rewards are relative to their own largest.
    """
    messages, mask = monitor.messages(dialogue), monitor.token_mask[dialogue]
    turn, ids = monitor.turn_ids[dialogue][mask], monitor.ids[dialogue][mask].tolist()
    kinds = monitor.kinds(dialogue)
    answers = [message.content for message in messages[2:] if message.role == "user"]
    turn_rewards = relative_to_largest(monitor.turn_rewards[:, dialogue, : len(kinds)])
    steps, words = len(monitor.steps), [monitor.chat.tokenizer.decode([token]).strip() for token in ids]
    rewards = {
        "step": np.repeat(monitor.steps, len(ids)),
        "position": np.tile(np.arange(len(ids)), steps),
        "turn": np.tile(turn + 1, steps),
        "token": words * steps,
        "turn_reward": turn_rewards[:, turn].ravel(),
        "token_reward": relative_to_largest(monitor.token_rewards[:, dialogue, mask]).ravel(),
    }
    answers += [""] * (len(kinds) - len(answers))
    by_turn = {"turn": range(1, len(kinds) + 1), "kind": kinds, "answer": answers}
    return {"rewards": pd.DataFrame(rewards), "turns": pd.DataFrame(by_turn)}


def _labels(run: Run) -> dict[str, Any]:
    return {"row": run.config.method.name, "seed": run.config.seed}


def credit_by_kind(runs: Sequence[Run]) -> pd.DataFrame:
    """Turn rewards at the last step by kind of turn, a line for row, seed, kind and outcome: their mean and number.

    ``value`` is R_k minus the mean over the dialogue's turns, in logits: above 0 where the turn is credited more than its
    neighbours.
    """
    lines = []
    for monitor in map(read_monitor, runs):
        rewards, mask = monitor.turn_rewards[-1], monitor.turn_mask
        centred = rewards - (rewards * mask).sum(1, keepdims=True) / mask.sum(1, keepdims=True).clip(1)
        for p, success in enumerate((monitor.outcome > 0.5).tolist()):
            for kind, value in zip(monitor.kinds(p), centred[p], strict=False):
                lines.append({**_labels(monitor.run), "kind": kind, "success": success, "value": value})
    by = ["row", "seed", "kind", "success"]
    means = pd.DataFrame(lines).groupby(by, sort=False)["value"].agg(value="mean", turns="size").reset_index()
    order = _task(runs[0]).kinds.index
    return means.sort_values("kind", key=lambda kinds: kinds.map(order), kind="stable", ignore_index=True)


def spearman_curves(runs: Sequence[Run], rng: np.random.Generator, min_turns: int = 3) -> pd.DataFrame:
    """:func:`itpo.study.ranks.rank_stability` of every run's monitor set: row, seed, items, step, value.

    Only dialogues of at least ``min_turns`` turns count: two turns have an order, but hardly a ranking.
    """
    curves = []
    for monitor in map(read_monitor, runs):
        keep = monitor.turn_mask.sum(1) >= min_turns
        stability = rank_stability(monitor.token_rewards[:, keep], monitor.turn_ids[keep], rng)
        for items, values in stability.items():
            columns = {"items": items, "step": monitor.steps, "value": values}
            curves.append(pd.DataFrame({**_labels(monitor.run), **columns}))
    return pd.concat(curves, ignore_index=True)


def monitor_curves(runs: Sequence[Run]) -> pd.DataFrame:
    """Kendall's tau-b between implicit return and outcome on the monitor set: row, seed, step, value, ceiling.

    The ceiling is the largest tau-b that the outcomes, graded ones too, allow (:func:`itpo.study.ranks.tau_ceiling`).
    """
    lines = []
    for monitor in map(read_monitor, runs):
        ceiling = tau_ceiling(monitor.outcome)
        values = [kendall(returns, monitor.outcome) for returns in monitor.token_rewards.sum(-1)]
        columns = {"ceiling": ceiling, "step": monitor.steps, "value": values}
        lines.append(pd.DataFrame({**_labels(monitor.run), **columns}))
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
        mean = fisher_interval([run["value"].mean() for run in by_seed])
        line = {
            "row": get_method(row).label,
            "items": RIVALS.get(items, items),
            **interval_columns("mean_correlation", mean),
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
            f"{get_method(row).label}: turns keep their order better than {RIVALS[rival]}",
            part["turns"] - part[rival],
            margin=None,
        )
        for row, part in means.groupby("row", sort=False)
    ]


def last_taus(frame: pd.DataFrame) -> pd.DataFrame:
    """The last step of :func:`monitor_curves`, a line for each row and seed, with ``share``: tau-b by its ceiling.

    >>> frame = pd.DataFrame({"row": "itpo", "seed": 0, "step": [0, 12], "value": [0.1, 0.3], "ceiling": 0.6})
    >>> last_taus(frame)["share"].tolist()
    [0.5]
    """
    last = frame[frame["step"] == frame["step"].max()]
    return last.assign(share=last["value"] / last["ceiling"]).reset_index(drop=True)


def tau_verdicts(frame: pd.DataFrame) -> list[Verdict]:
    """Claim C6 for each row with a PRM: tau-b on the monitor set after training as a share of its ceiling.

    ``frame`` is :func:`monitor_curves`.
    """
    return [
        judge(
            "C6",
            f"{get_method(row).label}: the implicit return ranks dialogues by outcome; tau-b {part['value'].mean():.2f} of at "
            f"most {part['ceiling'].mean():.2f}, reported {REPORTED_TAU[0]} [S]; effect: the share",
            part["share"],
            margin=None,
            kind="correlation",
        )
        for row, part in last_taus(frame).groupby("row", sort=False)
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
            lines.append({"row": get_method(run.config.method.name).label, "when": name, **means})
    return pd.DataFrame(lines).groupby(["row", "when"], sort=False).mean().reset_index()


def auc_findings(changes: pd.DataFrame) -> list[str]:
    """A sentence for each method on what :func:`tau_changes` found: did the PRM go on telling fresh dialogues apart?

    >>> parts = [{"row": "ITPO", "when": f"{which} third", "AUC": auc} for which, auc in (("first", 0.76), ("last", 0.51))]
    >>> auc_findings(pd.DataFrame(parts))
    ['**ITPO**: AUC on fresh batches goes from 0.76 to 0.51, no better than chance.']
    """
    sentences = []
    for row, lines in changes.groupby("row", sort=False):
        auc = lines.set_index("when")["AUC"]
        first, last = auc["first third"], auc["last third"]
        chance = ", no better than chance" if round(last, 1) <= 0.5 else ""
        sentences.append(f"**{row}**: AUC on fresh batches goes from {first:.2f} to {last:.2f}{chance}.")
    return sentences


def tau_ceilings(runs: Sequence[Run], monitored: pd.DataFrame, smooth: int = 1) -> pd.DataFrame:
    """The tau-b of a perfect ranking at the success rates seen: panel ("batches", "monitor"), row, step, value.

    Means over seeds; ``monitored`` is :func:`monitor_curves`, ``smooth`` as in :func:`itpo.study.tables.curves`.
    """
    size = {run.config.prompts * run.config.rollouts for run in runs}
    success = curves(runs, "success", smooth)
    success["value"] = kendall_ceiling(success["value"], size.pop())
    fixed = monitored.assign(value=monitored["ceiling"])
    both = pd.concat([success.assign(panel="batches"), fixed.assign(panel="monitor")])
    return both.groupby(["panel", "row", "step"], sort=False)["value"].mean().reset_index()


def credit_text(frame: pd.DataFrame, profile: Profile) -> str:
    """Whether :func:`credit_by_kind` has repairs above missed repairs and asking above shortcuts, paired by seed.

    A seed whose monitor set lacks one of the two sides is left out.
    """
    if isinstance(profile.run.task, RealData):
        raise TypeError(f"profile {profile.name!r} is on real data, whose turns have no kinds")
    task = profile.run.task.build()
    asks = [kind for kind in task.kinds if kind.startswith("ask")]
    pairs = (
        ("repairs are credited above missed repairs", list(task.skills), ["missed repair"]),
        (f"asking is credited above {' and '.join(task.shortcuts)}", asks, list(task.shortcuts)),
    )
    verdicts = []
    for statement, better, worse in pairs:
        sides = []
        for kinds in (better, worse):
            part = frame[frame["kind"].isin(kinds)]
            weighted = (part["value"] * part["turns"]).groupby(part["seed"]).sum()
            sides.append(weighted / part.groupby("seed")["turns"].sum())
        verdicts.append(judge("Task's rules", statement, sides[0] - sides[1], margin=None))
    return verdict_text(verdicts, profile, scale=1.0, unit="logits")
