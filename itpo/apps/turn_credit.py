"""What each turn of one conversation earns under every method, as a table in the terminal.

Baselines and advantages compare, and one conversation alone has nobody to be compared with. So the run's policy holds more of
them with the same user, and all are scored by the run's process reward model and judge.
"""

from __future__ import annotations

import random
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from itpo import turns
from itpo.apps.terminal import can_print, columns, paint, visible
from itpo.attribution import MethodEntry, known_methods
from itpo.config import TaskSpec
from itpo.dialogue import Dialogue, Message, TokenBatch, collate
from itpo.estimators import allows, estimate, method_sources
from itpo.rollout.sampler import Sampling, rollout
from itpo.rollout.seeding import seeded
from itpo.runs.files import RunFolderError
from itpo.runs.store import Run
from itpo.tasks.base import ScriptedTask
from itpo.tasks.judging import JudgeError
from itpo.training.build import trained
from itpo.training.learner import Learner

OTHERS = 7  # conversations to compare with: 8 in all, as in training
_STREAM = "turn credit"
_LEVELS = "▁▂▃▄▅▆▇█"
_CELL = 9  # letters of a turn's column


@dataclass(frozen=True)
class Line:
    """What one method gives to the turns of a conversation: rewards in units of the outcome, and advantages.

    ``rewards`` is ``None`` for a method that gives advantages alone.
    """

    method: MethodEntry
    rewards: list[float] | None
    advantages: list[float]


@dataclass(frozen=True)
class TurnCredit:
    """The lines of all methods, the outcomes compared, and the methods that lack something, with what they lack."""

    lines: list[Line]
    outcome: float
    others: list[float]
    baseline: str
    lacking: Mapping[str, list[str]]


def turn_credit(
    learner: Learner, task: ScriptedTask, example: Any, messages: Sequence[Message], others: int = OTHERS
) -> TurnCredit:
    """Credit of a finished conversation about an example of a scripted task, compared with ``others`` of the learner's policy.

    Rewards are in units of the outcome: the weight of a method's rewards is left out, and an implicit reward has the outcome
    beside it, with the same weight. The length penalty is left out. A random split is drawn from a fixed seed. Raises
    ``ValueError`` for a conversation without an assistant's turn.
    """
    if not any(message.role == "assistant" for message in messages):
        raise ValueError("nobody answered in this conversation: there is no turn to credit")
    held = [_spoken(learner, task, example, messages), *_more(learner, task, example, others)]
    batch = collate(held, len(held), learner.chat.pad_id)
    known = _signals(learner, task, held, batch)
    baseline = str(learner.config.estimator.options.get("baseline", "released"))
    lines: list[Line] = []
    lacking: dict[str, list[str]] = {}
    for name, method in known_methods().items():
        if method.needs_prm and "token_rewards" not in known:
            lacking.setdefault("a process reward model", []).append(method.label)
        elif method.needs_judge and "judge_scores" not in known:
            lacking.setdefault("a judge", []).append(method.label)
        elif not allows("rloo", name):
            lacking.setdefault("a critic", []).append(method.label)
        else:
            lines.append(_line(learner, method, batch, known, baseline))
    return TurnCredit(lines, held[0].outcome, [other.outcome for other in held[1:]], baseline, lacking)


def _spoken(learner: Learner, task: ScriptedTask, example: Any, messages: Sequence[Message]) -> Dialogue:
    """The conversation as if the policy had written the assistant's turns."""
    end = max(n for n, message in enumerate(messages) if message.role == "assistant") + 1
    ids, mask = learner.chat.encode(messages[:end], written=True)
    unsampled, outcome = (0.0,) * len(ids), task.score(example, list(messages))
    return Dialogue(example, tuple(messages[:end]), tuple(ids), tuple(mask), unsampled, outcome)


def _more(learner: Learner, task: ScriptedTask, example: Any, count: int) -> list[Dialogue]:
    config = learner.config
    sampling = Sampling(config.max_turn_tokens, max_rows=config.max_rows, read_budget=config.read_budget)
    users = [random.Random(f"{_STREAM}/user/{number}") for number in range(count)]
    with learner.backbone.use("policy"):
        parts = (learner.backbone, learner.chat, task, [example] * count, users)
        return rollout(*parts, seeded(_STREAM, "sampling"), sampling)


def _signals(learner: Learner, task: ScriptedTask, held: list[Dialogue], batch: TokenBatch) -> dict[str, Any]:
    """What the methods read."""
    names = ("outcome", "turn_ids", "response_mask", "input_ids", "group_size")
    known = {name: getattr(batch, name) for name in names}
    if learner.method.needs_prm:
        known["token_rewards"] = learner.token_rewards(batch, learner.log_probs(batch, None))
    if learner.judge is not None:
        _, known["judge_scores"], _ = learner.judge_turns(held, batch, _STREAM)
    return known


def _line(
    learner: Learner, method: MethodEntry, batch: TokenBatch, known: Mapping[str, Any], baseline: str
) -> Line:
    trained = learner.config.method.options
    options = {name: trained.get(name, default) for name, default in method.options.items()}
    signals = {**known, **options, "generator": seeded(_STREAM, "attribution")}
    sources = method_sources(method.name, signals, outcome_coef=0.0 if method.carries_outcome else 1.0)
    groups = method.baseline_group(batch.group_size)
    credit = estimate(
        "rloo", sources, response_mask=batch.response_mask, group_size=groups, baseline=baseline
    )
    count = int(batch.turn_ids[0].max()) + 1
    by_turn = [
        turns.aggregate(values, batch.turn_ids, reduction)[0, :count].tolist()
        for values, reduction in ((sources[0].rewards, "sum"), (credit.advantages, "mean"))
    ]
    return Line(method, None if method.compares else by_turn[0], by_turn[1])


def show_turn_credit(run: Run, task: TaskSpec, example: Any, messages: Sequence[Message]) -> None:
    """Print the table for a conversation about an example of a scripted task, or in one line why there is none.

    Nothing is said of a conversation in which nobody answered.
    """
    if not any(message.role == "assistant" for message in messages):
        return
    if run.config.task.name != task.name:
        print(f"no turn credit: the run was trained on the task {run.config.task.name}, not on {task.name}")
        return
    try:
        print()
        print(turn_credit_table(turn_credit(trained(run), task.build(), example, messages)))
    except (ValueError, OSError, RunFolderError, JudgeError) as error:
        print(f"no turn credit: {visible(' '.join(str(error).split()))}")


def turn_credit_table(credit: TurnCredit, width: int | None = None) -> str:
    """The table as people read it, in lines of at most ``width`` letters (of the terminal), if one turn fits.

    Rewards first, of the methods that give any, then advantages. A bar says how far a number is from 0, beside the largest of
    its table; it has the colour of the method in all figures, where the terminal has colours, and is left out where the
    terminal lacks its letters.

    >>> from itpo.attribution import get_method
    >>> lines = [Line(get_method("itpo"), [0.25, -0.5], [1.5, -1.0]), Line(get_method("gigpo"), None, [1.0, 0.0])]
    >>> print(turn_credit_table(TurnCredit(lines, 1.0, [0.0, 0.5], "to_go", {"a critic": ["Value model"]}), width=60))
    What each turn earned. The conversation has R = 1.00; 2 more
    that the policy held with the same user have 0.00, 0.50.
    <BLANKLINE>
    reward   turn 1   turn 2
    ITPO    +0.25    -0.50
    <BLANKLINE>
    advantage   turn 1   turn 2
    ITPO       +1.50    -1.00
    GiGPO      +1.00     0.00
    <BLANKLINE>
    A reward is in units of R. An advantage is what the policy
    would learn from: what comes from this turn on, less the
    baseline to_go, scaled over the 3 conversations. Methods
    without rewards here compare conversations by themselves.
    Beside the rewards of ITPO, R counts too, at the end.
    Not shown: Value model (needs a critic).
    """
    width = columns() if width is None else width
    held = ", ".join(f"{outcome:.2f}" for outcome in credit.others)
    told = f"{len(credit.others)} more that the policy held with the same user have {held}"
    heading = f"What each turn earned. The conversation has R = {credit.outcome:.2f}; {told}."
    rewards = {line.method: line.rewards for line in credit.lines if line.rewards is not None}
    advantages = {line.method: line.advantages for line in credit.lines}
    beside = [line.method.label for line in credit.lines if not line.method.carries_outcome]
    notes = [
        "A reward is in units of R. An advantage is what the policy would learn from: what comes from this turn on, less the "
        f"baseline {credit.baseline}, scaled over the {1 + len(credit.others)} conversations.",
        "Methods without rewards here compare conversations by themselves."
        * (len(rewards) < len(advantages)),
        f"Beside the rewards of {', '.join(beside)}, R counts too, at the end." * bool(beside),
    ]
    lacks = [f"{', '.join(labels)} (needs {what})" for what, labels in credit.lacking.items()]
    texts = [heading, " ".join(filter(None, notes)), f"Not shown: {'; '.join(lacks)}." if lacks else ""]
    heading, note, missing = (textwrap.fill(text, width) for text in texts)
    numbers = [*_rows("reward", rewards, width), "", *_rows("advantage", advantages, width)]
    return "\n".join([heading, "", *numbers, "", note, *[missing] * bool(missing)])


def _rows(name: str, table: Mapping[MethodEntry, Sequence[float]], width: int) -> list[str]:
    """A line for each method and a column for each turn; where they do not all fit, the turns in several tables."""
    first = max(len(name), *(len(method.label) for method in table))
    largest = max((abs(value) for row in table.values() for value in row), default=0.0)
    turns_said = len(next(iter(table.values())))
    at_once = max((width - first) // _CELL, 1)
    lines: list[str] = []
    for start in range(0, turns_said, at_once):
        shown = range(start, min(start + at_once, turns_said))
        lines += [""] * bool(lines)
        lines.append(name.ljust(first) + "".join(f"  turn {k + 1}".rjust(_CELL) for k in shown))
        for method, row in table.items():
            cells = "".join(_cell(row[k], largest, method.color) for k in shown)
            lines.append((method.label.ljust(first) + cells).rstrip())
    return lines


def _cell(value: float, largest: float, color: str) -> str:
    number = f"{value:+.2f}" if abs(value) >= 0.005 else "0.00"
    level = _LEVELS[round((len(_LEVELS) - 1) * min(abs(value) / largest, 1.0))] if largest else " "
    seen = level if number != "0.00" and can_print(_LEVELS) else " "
    # Black would not be seen on a black terminal.
    return number.rjust(_CELL - 2) + " " + (seen if color == "#000000" else paint(seen, color))
