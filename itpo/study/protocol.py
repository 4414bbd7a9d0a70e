"""The claims that `docs/protocol.md` lists, as lines of the ledger, and the runs that each compares."""

from __future__ import annotations

from dataclasses import dataclass

from itpo.attribution import get_method
from itpo.study.experiment import ARMS, BASELINE, SWEPT, Experiment
from itpo.study.statistics import MARGIN

ALL = ("rloo", "grpo", "ppo")
# What a difference of two methods is in: unit, factor, and the sign that makes more of it better. More turns are only longer.
MEASURES = {
    "speed": ("points", 100.0),
    "greedy_success": ("points", 100.0),
    "collapsed": ("points", -100.0),
    "turns": ("turns", 1.0),
}
PARTS = {"greedy_success": "level", "collapsed": "collapse", "turns": "length"}


@dataclass(frozen=True)
class Line:
    """One line of the ledger: what is claimed, in which unit its effects are, and what would count.

    ``family`` is "primary", "secondary" or "rewards", ``expected`` "gain" or "no gain"; ``kind`` is "correlation" where means
    and intervals are taken by Fisher's z.
    """

    claim: str
    part: str
    statement: str
    unit: str = "points"
    family: str = "secondary"
    expected: str = "gain"
    kind: str = "real"

    @property
    def margin(self) -> float | None:
        """The difference that matters, in points; none where effects are in another unit."""
        return 100 * MARGIN if self.unit == "points" else None


@dataclass(frozen=True)
class Pair:
    """Two methods to compare: arms of the experiment, or methods of Table 1, by name.

    ``runs`` is "band" (RLOO, the band's seeds, at ``rate``, left out that of Table 1), "table" (the runs of Table 1 under
    ``estimators``) or "sweep" (each method at the rate that is best for it on the first half of the seeds that all rates have,
    judged on the other half).
    """

    better: str
    worse: str
    runs: str = "band"
    measure: str = "speed"
    rate: float | None = None
    estimators: tuple[str, ...] = ("rloo",)


def _label(name: str) -> str:
    return ARMS[name].label if name in ARMS else get_method(name).label


PRIMARY = {
    "P1": Pair("norm_itpo", BASELINE, "table", estimators=ALL),
    "P2": Pair("norm_itpo", "equal_share"),
    "P3": Pair("norm_itpo", "uniform"),
    "P4": Pair("norm_itpo", "itpo_released"),
    "P5": Pair("norm_itpo", "itpo"),
    "P6": Pair("itpo", "prime"),
    "P7": Pair("signed_norm_itpo", BASELINE),
    "P8": Pair("signed_norm_itpo", "norm_itpo"),
}
_CLAIMS = {"P1": "C1: ", "P4": "C2: ", "P5": "C2: ", "P6": "C3: "}
_VERBS = {
    "speed": "above",
    "greedy_success": "ends above",
    "collapsed": "collapses less often than",
    "turns": "has longer dialogues than",
}


MOST = Line(
    "C2",
    "most under PPO",
    "Norm-ITPO's difference to ITPO with outcome is higher under PPO than under RLOO and GRPO",
)


def pairs(experiment: Experiment) -> dict[Line, Pair]:
    """Every comparison of methods that the protocol lists, primary ones first.

    >>> from itpo.study.experiment import get_experiment
    >>> [line.claim for line in pairs(get_experiment("laptop")) if line.family == "primary"]
    ['P1', 'P2', 'P3', 'P4', 'P5', 'P6', 'P7', 'P8']
    """
    lines: dict[Line, Pair] = {}

    def add(claim: str, part: str, pair: Pair, family: str = "secondary", expected: str = "gain") -> None:
        """A line for a pair, its statement made of the labels of the two."""
        verb = _VERBS[pair.measure] if expected == "gain" else "gives no gain on"
        text = f"{_CLAIMS.get(claim, '')}{_label(pair.better)} {verb} {_label(pair.worse)}"
        lines[Line(claim, part, text, MEASURES[pair.measure][0], family, expected)] = pair

    for claim, pair in PRIMARY.items():
        add(claim, "speed", pair, "primary")
    for claim, pair in PRIMARY.items():
        for measure, part in PARTS.items():
            add(claim, part, Pair(pair.better, pair.worse, pair.runs, measure, estimators=pair.estimators))
    for claim, pair in PRIMARY.items():
        for rate in experiment.rates if {pair.better, pair.worse} <= set(SWEPT) else ():
            add(claim, f"at {rate:g}", Pair(pair.better, pair.worse, rate=rate))
    for claim in ("P1", "P3", "P5", "P6"):
        for name in ALL if claim == "P1" else ALL[1:]:  # the band has RLOO with more seeds
            pair = Pair(PRIMARY[claim].better, PRIMARY[claim].worse, "table", estimators=(name,))
            add(claim, f"under {name.upper()}", pair)
    lines[MOST] = Pair("norm_itpo", "itpo", "table", estimators=ALL)
    add("C3", "without outcome", Pair("itpo_released", "prime"))
    add("C3", "Norm-ITPO", Pair("norm_itpo", "prime"))
    for name in ("uniform", "judge"):
        add("C4", name, Pair(name, BASELINE, "table", estimators=ALL), expected="no gain")
    add("further", "outcome", Pair("itpo", BASELINE))
    add("further", "baseline", Pair("norm_itpo_to_go", "norm_itpo"))
    for name in SWEPT[1:]:
        add("best of the sweep", name, Pair(name, BASELINE, "sweep"))
    return lines


_REWARDS: tuple[Line, ...] = (
    Line(
        "C5", "all tokens", "turn rewards keep their order better than token rewards", "Spearman", "rewards"
    ),
    Line("C5", "control", "and better than shuffled tokens, summed to turns", "Spearman", "rewards"),
    Line(
        "C6",
        "share",
        "implicit return ranks by outcome: tau-b by its ceiling",
        "share",
        "rewards",
        kind="correlation",
    ),
    Line("C6", "tau-b", "tau-b itself; reported 0.5 [S]", "tau-b", "rewards", kind="correlation"),
    Line(
        "C7",
        "order",
        "ITPO and Norm-ITPO order turns alike; reported 0.9 [S]",
        "Spearman",
        "rewards",
        kind="correlation",
    ),
    Line("C8", "drift", "un-normalised, the slope of reward on outcome grows", "logits", "rewards"),
    *(
        Line(
            "C9",
            f"{row}, {side}, {rival}",
            f"{_label(row)}: its {side} turn is the oracle's more often than {what}",
            family="rewards",
        )
        for row in ("itpo", "norm_itpo")
        for side in ("best", "worst")
        for rival, what in (("chance", "by chance"), ("place", "by always naming one place"))
    ),
)
REWARDS = {(line.claim, line.part): line for line in _REWARDS}
