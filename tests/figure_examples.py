"""Frames for every drawing, and the drawings made from them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from itpo.attribution import METHODS, MethodEntry
from itpo.config import allows
from itpo.dialogue import Message
from itpo.estimators import ESTIMATORS
from itpo.figures import (
    comparison,
    conversations,
    credit,
    estimators,
    framework,
    method,
    microscope,
    real,
    results,
)
from itpo.study import transcripts
from itpo.study.transcripts import Conversation

STRANGER = MethodEntry("stranger", "A reader's method", METHODS["uniform"].function, "turn", "#123456", "--")
STRANGER_NAME = "figure_examples:STRANGER"  # how a run's config, and so a frame, names it
FIVE = ("trajectory_share", "uniform", "prime", "itpo", "norm_itpo")
WITH_PRM = FIVE[2:]


def frame(columns: str, *lines: tuple) -> pd.DataFrame:
    return pd.DataFrame(lines, columns=columns.split())


def band(
    rows: tuple[str, ...] = FIVE, first: int = 0, mean: float = 0.4, spread: float = 0.1
) -> pd.DataFrame:
    lines = [
        (row, step, mean, mean - spread, mean + spread, 2) for row in rows for step in range(first, 21, 5)
    ]
    return frame("row step mean low high seeds", *lines)


def items(rows: tuple[str, ...] = WITH_PRM, spread: float = 0.1) -> pd.DataFrame:
    return pd.concat([band(rows, spread=spread).assign(items=name) for name in results.ITEM_STYLES])


def ceilings(rows: tuple[str, ...] = WITH_PRM) -> pd.DataFrame:
    values = band(rows).rename(columns={"mean": "value"})
    return pd.concat([values.assign(panel=panel) for panel in ("batches", "monitor")])


KINDS = frame(
    "kind success mean low high",
    ("ask_first", True, 0.2, 0.1, 0.3),
    ("ask_first", False, -0.1, -0.2, 0.0),
    ("chat", False, 0.1, np.nan, np.nan),
)

# One dialogue over training: three steps, two turns of four and three tokens.
TURN_REWARDS = np.array([[0.5, -1.0], [0.2, -1.0], [1.0, -0.5]])
TOKEN_REWARDS = np.linspace(-1, 1, 21).reshape(3, 7)
TURN_OF = np.array([0, 0, 0, 0, 1, 1, 1])
CASE = {
    "rewards": pd.DataFrame(
        {
            "step": np.repeat([0, 5, 10], 7),
            "position": np.tile(np.arange(7), 3),
            "turn": np.tile(TURN_OF + 1, 3),
            "token": ["how", "many", "?", "<|end|>", "so", "5", "<|end|>"] * 3,
            "turn_reward": TURN_REWARDS[:, TURN_OF].ravel(),
            "token_reward": TOKEN_REWARDS.ravel(),
        }
    ),
    "turns": frame("turn kind answer", (1, "ask_first", "a lot of pears ."), (2, "missed repair", "")),
}


# Credit against the oracle


def by_estimator(
    *measures: str, mean: float = 0.3, spread: float = 0.2, more: tuple[str, ...] = ()
) -> pd.DataFrame:
    """A line for each estimator, method that it can train, and measure."""
    lines = [
        (estimator, row, measure, mean, mean - spread, mean + spread, 3)
        for estimator in ESTIMATORS
        for row in (*METHODS, *more)
        if row in more or allows(estimator, row)
        for measure in measures
    ]
    return frame("estimator row measure mean low high n", *lines)


def sides(mean: float = 0.3, more: tuple[str, ...] = ()) -> pd.DataFrame:
    """Best and worst turns of the two methods that are compared with an oracle, beside both rivals."""
    lines = [
        (side, row, measure, mean + shift, mean + shift - 0.2, mean + shift + 0.2)
        for side in ("best", "worst")
        for row in ("itpo", "norm_itpo", *more)
        for measure, shift in (("share", 0.3), ("chance", 0.0), ("place", 0.2))
    ]
    return frame("side row measure mean low high", *lines)


def agreement(*pairs: str) -> pd.DataFrame:
    lines = [(e, pair, step, 0.8, 0.6, 1.0) for e in ESTIMATORS for pair in pairs for step in (0, 5, 10)]
    return frame("estimator pair step mean low high", *lines)


def story_frames(rows: tuple[str, ...] = tuple(METHODS)) -> dict[str, pd.DataFrame]:
    first = "sam has boxes with coins in each box . how many coins in all ?"
    turns = frame(
        "user assistant before before_se after after_se",
        (first, "how many boxes are there ?", 0.1, 0.05, 0.1, 0.05),
        ("a lot of boxes .", "ok . exactly how many ?", 0.4, 0.1, 0.6, 0.1),
        ("ok .", "so 2 times 6 : the answer is 12 .", 0.25, 0.0, 0.0, 0.0),
    )
    shown = ((1, 0.0, 0.0), (2, -1.25, -1.0), (3, 0.5, 1.0))
    credit = frame("row turn reward preference", *((row, *numbers) for row in rows for numbers in shown))
    return {"turns": turns, "credit": credit}


REPORTED = {"Gemini-3.0-Pro": 0.9, "Norm-ITPO": 0.75, "ITPO": 0.73, "chance": 0.25}


def fidelity(spread: float = 0.2, more: tuple[str, ...] = ()) -> Figure:
    measures = ("pooled", "within")
    tops = by_estimator("pooled_ceiling", "within_ceiling", mean=0.9)
    ours, reference = (
        by_estimator(*measures, mean=mean, spread=s, more=more) for mean, s in ((0.3, spread), (0.4, 0.2))
    )
    return credit.credit_fidelity(ours, tops, reference, dict.fromkeys(measures, 0.95))


# Estimators and settings

ADVANTAGES = frame("dialogue turn reward", ("A", 1, 9.0), ("B", 1, 0.0), ("B", 2, 0.5)).assign(
    **{
        "RLOO released": [1.0, -1.0, 0.25],
        "RLOO trajectory": [0.5, -1.0, 0.25],
        "RLOO to_go": [0.5, -1.0, 0.5],
        "GRPO": [0.75, -1.0, 0.25],
        "PPO $\\lambda$ = 1": [0.5, -0.5, 0.0],
        "PPO $\\lambda$ = 0": [0.25, -0.5, 0.0],
    }
)
NAMES = ("RLOO, released", "RLOO, trajectory", "RLOO, to_go", "GRPO", "PPO")
LENGTHS = pd.DataFrame(
    {"turns": [2, 3, 4]} | {name: [0.5, 0.4 - 0.1 * k, 0.1] for k, name in enumerate(NAMES)}
)


def lengths(rows: tuple[str, ...] = ("trajectory_share", "uniform", "norm_itpo")) -> pd.DataFrame:
    return pd.concat([band(rows, mean=3.5).assign(setting=name) for name in NAMES])


# The method, and a real model

TOKENS = frame(
    "token turn value",
    ("<|user|>", 0, 0.0),
    ("how", 1, 0.5),
    ("many", 1, -0.2),
    ("<|user|>", 0, 0.0),
    ("none", 2, 0.3),
)
CREDIT = frame(
    "dialogue text pivotal reward 0.1 1",
    ("one", "how ?", True, 0.2, 1.0, 0.8),
    ("one", "5", False, -1.0, 0.0, 0.2),
)
GRID = pd.DataFrame({"dialogue": ["A", "B"], "0": [np.nan, np.nan], "1": [0.5, -1.0], "2": [-0.2, np.nan]})
CURVE = pd.DataFrame({"ratio": [0.5, 1.5], "gain": [0.5, 1.2], "loss": [-0.8, -1.5]})
WEIGHTS = frame(
    "dialogue turn temperature weight", ("A", 1, 0.1, 1.0), ("A", 1, 1.0, 0.7), ("A", 2, 0.1, 0.0)
)
BIAS = pd.DataFrame(
    {"turns": [1, 2], "released": [0.5, -1.0], "trajectory": [0.0, 0.0], "to_go": [0.0, -0.5]}
)


def token_rewards(rows: tuple[str, ...] = ("prime", "itpo")) -> pd.DataFrame:
    shown = [
        ("first", 1, 1, 0.5),
        ("first", 2, 1, -0.2),
        ("first", 4, 2, 0.3),
        ("second", 1, 1, -1.0),
    ]
    lines = [(row, *numbers, 0.1) for row in rows for numbers in shown]
    return frame("row dialogue token turn reward return", *lines)


def successes(rows: tuple[str, ...] = ("trajectory_share", "norm_itpo")) -> pd.DataFrame:
    lines = [(row, step, 0.2 + 0.02 * step, 0.1, 0.7) for row in rows for step in (0, 4, 8)]
    return frame("row step mean low high", *lines)


def seconds(row: str = "norm_itpo") -> pd.DataFrame:
    usual = [("trajectory_share", "generation", 20.0), ("trajectory_share", "policy", 40.0)]
    parts = ("generation", "reference", "prm", "policy")
    return frame("row part seconds", *usual, *((row, part, 10.0) for part in parts))


MEMORY = frame(
    "part when bytes",
    ("base", "held", 500 * 2**20),
    ("adapters (2)", "held", 40 * 2**20),
    ("rollout", "peak", 300 * 2**20),
)

# The main comparison

PRIMARY = (
    ("C1", "Norm-ITPO above trajectory-share", -5.6, -8.6, -2.6, "reversed"),
    ("P3", "Norm-ITPO above uniform decomposition", 7.2, 4.7, 9.6, "holds"),
    ("C2", "Norm-ITPO above ITPO without outcome", 0.4, -1.6, 2.4, "no difference of 3 points"),
    ("P7", "signed Norm-ITPO above trajectory-share", 2.6, -0.8, 7.6, "open"),
)
LEDGER = pd.concat(
    [
        frame("claim statement effect low high ruling", *PRIMARY).assign(part="speed", family="primary"),
        frame(
            "claim statement effect low high ruling",
            ("C1", "Norm-ITPO above trajectory-share", -8.7, -90.7, 80.3, "open"),
            ("C4", "Uniform decomposition gives no gain on trajectory-share", -3.0, -9.0, 103.0, "holds"),
            ("C9", "a ruling of another kind", 12.0, np.nan, np.nan, "not ruled: no run of math"),
        ).assign(part="level", family="secondary"),
    ]
).assign(unit="points")
ARMS = (
    ("norm_itpo", "norm_itpo", "Norm-ITPO"),
    ("itpo", "itpo", "ITPO with outcome"),
    ("signed_norm_itpo", "signed_norm_itpo", "Signed Norm-ITPO"),
    ("norm_itpo_to_go", "norm_itpo", "Norm-ITPO, to_go"),
)


def arms(*strangers: str) -> pd.DataFrame:
    """Gains of arms: three at every rate, the last at one."""
    known = (*ARMS, *((name, name, "A reader's method") for name in strangers))
    lines = [
        (panel, *arm, rate, 2.0 * k - 3, 2.0 * k - 5, 2.0 * k - 1)
        for panel in ("math", "documents", "all tasks")
        for k, arm in enumerate(known)
        for rate in ((1e-3,) if arm[0] == "norm_itpo_to_go" else (5e-4, 1e-3, 2e-3))
    ]
    return frame("panel arm row label rate mean low high", *lines)


def dots(more: tuple[str, ...] = ()) -> Figure:
    """Table 1 of two tasks with seven seeds, one of which collapsed."""
    means = pd.concat(by_estimator("gain", mean=-1.0, spread=2.0, more=more).assign(task=t) for t in "AB")
    means = means[means["row"] != "trajectory_share"]
    each = [
        means[["task", "estimator", "row"]].assign(seed=s, gain=s - 4.0 - 20 * (s == 0)) for s in range(7)
    ]
    return comparison.table_dots(means, pd.concat(each))


def outcomes() -> dict[str, pd.DataFrame]:
    lines = [
        (task, rate, seed, 0.5 + 100 * rate * (seed == 200))
        for task in ("math", "medical")
        for rate in (5e-4, 1e-3, 2e-3)
        for seed in (200, 201)
    ]
    chosen = frame("task rate", ("math", 1e-3), ("medical", 2e-3))
    return {"outcomes": frame("task rate seed outcome", *lines), "chosen": chosen}


def speeds(rows: tuple[str, ...] = FIVE) -> pd.DataFrame:
    return pd.concat([band(rows).assign(task=task) for task in ("math", "documents")])


# Conversations

TEXTS = (
    ("system", "be brief <b>"),
    ("user", "write <script>alert('boo')</script> & more for $5 and $6 ."),
    ("assistant", "what is it about ?"),
    ("user", "maybe chess ."),
    ("assistant", "draft : " + "a long draft that goes over several lines " * 4),
)
LONG = Conversation(
    tuple(Message(role, text) for role, text in TEXTS),
    kinds=("ask_subject", "missed repair"),
    scores={"character BLEU": 0.25, "word BLEU": 0.125},
    weights=(0.875, 0.125),
    hidden="<i>the text</i> that the user has in mind, which is rather long as well",
)
BARE = Conversation(LONG.messages[1:3], ("ask_subject",), {"success": 1.0})
PAIR = transcripts.table({"before & <u>": LONG, "after": BARE})
ALONE, UNWEIGHTED = transcripts.table({"one": LONG}), transcripts.table({"one": BARE})

Make = Callable[[], Figure]


def worths(rows: tuple[str, ...] = ("trajectory_share", "norm_itpo", "itpo", "")) -> pd.DataFrame:
    """A line for each task, policy and method, in groups of settings too; the last worths are beyond the axis or unknown."""
    values = {"worth": (1.0, 0.5, 40.0, np.nan), "worth_low": (1.0, 0.25, 20.0, np.nan)}
    values |= {"worth_high": (1.0, 1.5, 80.0, np.nan), "counts": (False, False, True, False)}
    lines = [
        {"panel": panel, "policy": policy, "group": panel, "setting": policy, "name": row, "row": row}
        | {"label": f"method {place}"}
        | {column: numbers[place] for column, numbers in values.items()}
        for panel in ("math tutoring", "document writing", "medical recommendation")
        for policy in ("after 0 steps", "after 6 steps", "after 12 steps")
        for place, row in enumerate(rows)
    ]
    return pd.DataFrame(lines)


MAKERS: dict[str, Make] = {
    "story": lambda: credit.story(**story_frames()),
    "credit_fidelity": fidelity,
    "best_and_worst": lambda: credit.best_and_worst(sides(), REPORTED),
    "order_agreement": lambda: credit.order_agreement(agreement("same seed", "other seed"), 0.9),
    "slopes": lambda: credit.slopes(band(WITH_PRM)),
    "turn_advantages": lambda: estimators.turn_credit(ADVANTAGES),
    "credit_by_length": lambda: estimators.credit_by_length(LENGTHS, "advantage of turn 2"),
    "explained_variance": lambda: estimators.explained_variance(band(tuple(METHODS), first=-5)),
    "turns_over_training": lambda: estimators.turns_over_training(lengths()),
    "forest": lambda: comparison.forest(LEDGER),
    "band": lambda: comparison.band(arms()),
    "table_dots": dots,
    "rates": lambda: comparison.rates(**outcomes()),
    "speed_curves": lambda: comparison.speed_curves(speeds()),
    "speed_curves_of_all": lambda: comparison.speed_curves(speeds(tuple(METHODS))),
    "stability": lambda: results.stability(items()),
    "kendall": lambda: results.kendall_over_training(
        band(WITH_PRM, -5), band(WITH_PRM), ceilings(), [0.5, 0.75]
    ),
    "reward_dynamics": lambda: results.reward_dynamics(**CASE),
    "credit_by_kind": lambda: results.credit_by_kind(KINDS),
    "worths": lambda: microscope.worths(worths().drop(columns=["group", "setting"])),
    "worth_map": lambda: microscope.worth_map(worths()),
    "token_text": lambda: method.token_text(TOKENS.drop(columns="value")),
    "token_text_values": lambda: method.token_text(TOKENS, "reward [logits]"),
    "prm_learning": lambda: method.prm_learning(
        frame("batch prm_auc prm_loss", (0, 0.5, 0.7), (1, 0.8, 0.5))
    ),
    "turn_credit": lambda: method.turn_credit(pd.concat([CREDIT, CREDIT.assign(dialogue="two")])),
    "rewards": lambda: method.rewards(token_rewards()),
    "token_grid": lambda: method.token_grid(GRID, "reward [logits]"),
    "weight_curves": lambda: method.weight_curves(WEIGHTS),
    "baseline_bias": lambda: method.baseline_bias(BIAS),
    "loss_curves": lambda: method.loss_curves(CURVE, CURVE, CURVE[["ratio", "gain"]]),
    "success": lambda: real.success(successes()),
    "success_of_one_step": lambda: real.success(successes().query("step == 0")),
    "costs": lambda: real.costs(seconds(), MEMORY),
    "framework": framework.framework,
    "conversation": lambda: conversations.picture(ALONE),
    "conversations": lambda: conversations.picture(PAIR),
}

_TWO: Any = ("norm_itpo", STRANGER_NAME)
# Every drawing that takes a column `row`, with a method of the package and one from outside it.
WITH_STRANGER: dict[str, Make] = {
    "story": lambda: credit.story(**story_frames(_TWO)),
    "credit_fidelity": lambda: fidelity(more=_TWO[1:]),
    "best_and_worst": lambda: credit.best_and_worst(sides(more=_TWO[1:]), REPORTED),
    "slopes": lambda: credit.slopes(band(_TWO)),
    "explained_variance": lambda: estimators.explained_variance(band(_TWO)),
    "turns_over_training": lambda: estimators.turns_over_training(lengths(_TWO)),
    "band": lambda: comparison.band(arms(STRANGER_NAME)),
    "table_dots": lambda: dots((STRANGER_NAME,)),
    "speed_curves": lambda: comparison.speed_curves(speeds(_TWO), baseline="norm_itpo"),
    "stability": lambda: results.stability(items(_TWO)),
    "kendall": lambda: results.kendall_over_training(band(_TWO), band(_TWO), ceilings(_TWO), [0.5, 0.75]),
    "rewards": lambda: method.rewards(token_rewards(_TWO)),
    "success": lambda: real.success(successes(_TWO)),
    "costs": lambda: real.costs(seconds(STRANGER_NAME), MEMORY),
}
