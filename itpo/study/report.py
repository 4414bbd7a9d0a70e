"""What the ledger says, in sentences: the first lines of the report. All are computed, none is about one set of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from itpo.study.experiment import ARMS, BASELINE
from itpo.study.ledger import NOT_RULED
from itpo.study.profiles import Profile
from itpo.study.statistics import HOLDS, OPEN, REVERSED, SAME
from itpo.study.tables import mark

TITLES = {
    HOLDS: "What holds",
    REVERSED: "What is reversed",
    SAME: "No difference of 3 points",
    OPEN: "Open",
    NOT_RULED: "Not ruled, as a run is missing",
}


def answers(
    ledger: pd.DataFrame, cells: pd.DataFrame, profile: Profile, gradients: Sequence[str] = ()
) -> str:
    """The report in ten lines: what holds, what does not, why, and what a practitioner should do.

    ``ledger`` and ``cells`` are those of :func:`itpo.study.ledger.ledger` and :func:`itpo.study.ledger.cell_table`,
    ``gradients`` are sentences on the gradient microscope. A part of which the ledger has no line is left out.
    """
    parts = [*_primary(ledger), *_after(ledger), *_elsewhere(ledger), *_why(ledger)]
    parts += [f"**At a fixed policy:** {' '.join(gradients)}"] * bool(gradients)
    return "\n".join(f"- {mark(profile)}{part}" for part in [*parts, advice(ledger, cells)])


def number(line: pd.Series) -> str:
    """The effect of a line with its interval and unit.

    >>> line = pd.Series({"effect": 7.24, "low": 4.7, "high": 9.6, "unit": "points"})
    >>> number(line)
    '+7.2 [+4.7, +9.6] points'
    """
    digits = 1 if line["unit"] == "points" else 2
    bounds = "" if pd.isna(line["low"]) else f" [{line['low']:+.{digits}f}, {line['high']:+.{digits}f}]"
    return f"{line['effect']:+.{digits}f}{bounds} {line['unit']}"


def _named(line: pd.Series) -> str:
    if line["ruling"] == NOT_RULED:
        return f"{line['claim']} ({line['reason']})"
    return f"{line['claim']}, {line['statement']} ({number(line)})"


def _ruled(line: pd.Series) -> str:
    return f"{number(line)}, {line['ruling']}" if line["ruling"] != NOT_RULED else NOT_RULED


def _find(ledger: pd.DataFrame, claim: str, part: str) -> pd.Series | None:
    found = ledger[(ledger["claim"] == claim) & (ledger["part"] == part)]
    return None if found.empty else found.iloc[0]


def _primary(ledger: pd.DataFrame) -> list[str]:
    primary, parts = ledger[ledger["family"] == "primary"], []
    for ruling, title in TITLES.items():
        own = [_named(line) for _, line in primary[primary["ruling"] == ruling].iterrows()]
        if own or ruling == HOLDS:
            counted = f" ({len(own)} of {len(primary)} primary claims, by the mean outcome of training)"
            parts.append(f"**{title}**{counted if ruling == HOLDS else ''}: {'; '.join(own) or 'none'}.")
    return parts


def _after(ledger: pd.DataFrame) -> list[str]:
    said = []
    for claim, name in (("P1", "Norm-ITPO"), ("P7", "Signed Norm-ITPO")):
        level, collapse = (_find(ledger, claim, part) for part in ("level", "collapse"))
        if level is not None and collapse is not None:
            said.append(f"{name}: level {_ruled(level)}; fewer collapses {_ruled(collapse)}")
    return [f"**After training**, against trajectory-share. {'. '.join(said)}."] * bool(said)


def _elsewhere(ledger: pd.DataFrame) -> list[str]:
    lines = ledger[(ledger["claim"] == "P1") & ledger["part"].str.match("at |under ")]
    said = [f"{line['part']} {_ruled(line)}" for _, line in lines.iterrows()]
    return [
        f"**Norm-ITPO against trajectory-share, rate by rate and estimator by estimator:** {'; '.join(said)}."
    ] * bool(said)


def _why(ledger: pd.DataFrame) -> list[str]:
    questions = (
        ("P2", "speed", "what the PRM's weights add to an equal split in Norm-ITPO"),
        ("further", "baseline", "what Norm-ITPO gains by a baseline that counts only what is still to come"),
        ("further", "outcome", "what ITPO with outcome gains on trajectory-share"),
        ("C6", "share", "how far the PRM ranks dialogues as their outcomes do, of the most that is possible"),
        (
            "C9",
            "norm_itpo, best, place",
            "Norm-ITPO's best turn is the oracle's more often than one fixed place is",
        ),
        ("C9", "norm_itpo, worst, place", "its worst turn likewise"),
    )
    found = [(text, _find(ledger, claim, part)) for claim, part, text in questions]
    said = [f"{text}: {_ruled(line)}" for text, line in found if line is not None]
    return [f"**Why.** {'; '.join(said)}."] * bool(said)


# Comparisons with trajectory-share at the rate that suits trajectory-share best: what each says of.
_AT_THE_RATE = {
    ("P1", "speed"): "norm_itpo",
    ("P7", "speed"): "signed_norm_itpo",
    ("further", "outcome"): "itpo",
}


def advice(ledger: pd.DataFrame, cells: pd.DataFrame) -> str:
    """What a practitioner should do: by the comparisons with trajectory-share at the learning rate that suits it best.

    Tasks on which a method's own interval shows no gain are named, from ``cells``. What each method gains at the rate that
    suits itself is said beside it, from fewer seeds.

    >>> columns = ["claim", "part", "task", "unit", "effect", "low", "high", "ruling", "reason"]
    >>> lines = [("further", "outcome", "", "points", 4.0, 1.0, 7.0, "holds", "")]
    >>> lines += [("further", "outcome", "math", "points", 1.0, -2.0, 4.0, "open", "")]
    >>> frame = pd.DataFrame(lines, columns=columns)
    >>> "but not on math (+1.0 [-2.0, +4.0] points, open)" in advice(frame[:1], frame[1:])
    True
    """
    title = "**What to do** on tasks like these, at this scale"
    found = {name: _find(ledger, *key) for key, name in _AT_THE_RATE.items()}
    ruled = {name: line for name, line in found.items() if line is not None and line["ruling"] != NOT_RULED}
    if not ruled:
        return f"{title}: not known, as runs are missing."
    names = sorted(ruled, key=lambda name: -ruled[name]["effect"])
    better = [name for name in names if ruled[name]["ruling"] == HOLDS]
    if better:
        said = [
            f"{ARMS[name].label} is {number(ruled[name])} above trajectory-share, {_but(ruled[name], cells)}"
            for name in better
        ]
        where = "under RLOO, by the mean outcome of training, at the rate that suits trajectory-share best."
        text = f"{'and '.join(said)}{where}"
    else:
        text = (
            f"stay with {ARMS[BASELINE].label.lower()} and tune its learning rate. No method is established above it; "
            f"the nearest, {ARMS[names[0]].label}, is at {number(ruled[names[0]])}."
        )
    return f"{title}: {text}{_own_rates(ledger)}"


def _but(line: pd.Series, cells: pd.DataFrame) -> str:
    """The tasks on which a claim does not hold by its own interval, in words; nothing where it holds on all."""
    own = cells[(cells["claim"] == line["claim"]) & (cells["part"] == line["part"])]
    said = [f"{cell['task']} ({_ruled(cell)})" for _, cell in own[own["ruling"] != HOLDS].iterrows()]
    return f"but not on {' or '.join(said)}, " if said else ""


def _own_rates(ledger: pd.DataFrame) -> str:
    """What methods gain when each has the rate that suits it, best first; nothing where no line is ruled on."""
    lines = ledger[(ledger["claim"] == "best of the sweep") & (ledger["ruling"] != NOT_RULED)]
    ranked = lines.sort_values("effect", ascending=False, kind="stable")
    said = "; ".join(f"{ARMS[line['part']].label} {_ruled(line)}" for _, line in ranked.iterrows())
    return f" Each at its own best rate, on seeds that chose none: {said}." if said else ""
