"""What the notebooks that explain the method (00 and 01) choose, count and tabulate; `itpo.figures.method` draws it.

The *pivotal turn* of a dialogue on a slot task (:mod:`itpo.tasks.slots`) is the one that answers its only call for repair: a
vague or doubtful answer of the user, which no later turn can mend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from itpo import turns
from itpo.advantages import returns
from itpo.chat import ChatFormat
from itpo.dialogue import Dialogue
from itpo.study.statistics import share_interval
from itpo.tasks.slots import REPAIRS, SlotTask


class Pivot(NamedTuple):
    """The pivotal turn of a dialogue: the places of both, from 0, whether the turn repaired the answer, and the outcome."""

    dialogue: int
    turn: int
    met: bool
    outcome: float


def pivots(task: SlotTask, dialogues: Sequence[Dialogue]) -> list[Pivot]:
    """The pivotal turns of all dialogues that have one before their last turn, take nothing for granted and end with an answer.

    Source: our own rule [O]; it reads no credit.

    >>> from itpo.dialogue import Message
    >>> from itpo.tasks.registry import get_task
    >>> texts = ("how many ?", "how many at first ?", "maybe 3 .", "are you sure ?", "oh , it is 4 .", "the answer is 9 .")
    >>> messages = tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))
    >>> pivots(get_task("math"), [Dialogue(None, messages, (), (), (), outcome=1.0)])
    [Pivot(dialogue=0, turn=1, met=True, outcome=1.0)]
    """
    found = []
    for number, dialogue in enumerate(dialogues):
        acts, heard = list(task.acts(dialogue.messages)), dialogue.messages[::2]
        called = [k for k in range(len(acts)) if task.reply_kind(heard[k].content) in REPAIRS]
        fair = acts[-1] == task.final and not set(acts) & set(task.shortcuts)
        if fair and len(called) == 1 and called[0] < len(acts) - 1:
            met = task.turn_kinds(dialogue.messages)[called[0]] != "missed repair"
            found.append(Pivot(number, called[0], met, dialogue.outcome))
    return found


def failed_and_won(found: Sequence[Pivot]) -> tuple[Pivot, Pivot]:
    """The first dialogue that failed after its call for repair was missed, and the first that succeeded after it was met.

    Raises ``ValueError`` where there is none: hold more dialogues.

    >>> failed_and_won([Pivot(0, 1, True, 0.0), Pivot(2, 1, True, 1.0), Pivot(3, 2, False, 0.0)])
    (Pivot(dialogue=3, turn=2, met=False, outcome=0.0), Pivot(dialogue=2, turn=1, met=True, outcome=1.0))
    """
    pair = [next((p for p in found if p.met == met and p.outcome == met), None) for met in (False, True)]
    failed, won = pair
    if failed is None or won is None:
        raise ValueError(
            f"of {len(found)} dialogues with a pivotal turn none {'failed' if failed is None else 'succeeded'} "
            "as asked: hold more dialogues"
        )
    return failed, won


def found_by(
    turn_rewards: Float[Tensor, "B K"], turn_ids: Int64[Tensor, "B T"], found: Sequence[Pivot]
) -> pd.DataFrame:
    """How often the pivotal turn has the lowest turn reward where it was missed, in failures, and the highest where it was met.

    The latter among dialogues that succeeded; others are not counted.

    Columns: rule, dialogues, found (a count) and chance (the mean of one over the number of turns).

    >>> import torch
    >>> ids = torch.tensor([[0, -1, 1, -1, 2]])
    >>> found_by(torch.tensor([[0.1, -0.5, 0.2]]), ids, [Pivot(0, 1, False, 0.0)]).loc[0, ["dialogues", "found"]].tolist()
    [1, 1]
    """
    lines = []
    for met, rule in ((False, "missed, failed: lowest"), (True, "met, succeeded: highest")):
        cases = [p for p in found if p.met == met and p.outcome == met]
        rows = [turn_rewards[p.dialogue][turns.turn_mask(turn_ids)[p.dialogue]] for p in cases]
        best = [int(row.argmax() if met else row.argmin()) for row in rows]
        hits = sum(k == p.turn for k, p in zip(best, cases, strict=True))
        chance = sum(1 / len(row) for row in rows) / max(1, len(rows))
        lines.append({"rule": rule, "dialogues": len(cases), "found": hits, "chance": chance})
    return pd.DataFrame(lines)


def finding(counts: pd.DataFrame) -> str:
    """The counts of :func:`found_by` in sentences, with Wilson's 95 % interval, and whether that is above chance.

    >>> print(finding(pd.DataFrame([{"rule": "met: highest", "dialogues": 20, "found": 18, "chance": 0.25}])))
    - met: highest in 18 of 20 dialogues, 0.90 [0.70, 0.97]; chance 0.25: more often than chance.
    """
    sentences = []
    for line in counts.itertuples():
        if not line.dialogues:
            sentences.append(f"- {line.rule}: there is no such dialogue.")
            continue
        share = share_interval(line.found / line.dialogues, line.dialogues)
        verdict = "more often than" if share.low > line.chance else "less often than"
        verdict = "not distinguishable from" if share.low <= line.chance <= share.high else verdict
        sentences.append(
            f"- {line.rule} in {line.found} of {line.dialogues} dialogues, {share.text(digits=2)}; "
            f"chance {line.chance:.2f}: {verdict} chance."
        )
    return "\n".join(sentences)


def token_table(
    chat: ChatFormat, dialogue: Dialogue, turn_ids: Int64[Tensor, " T"], values: Float[Tensor, " T"]
) -> pd.DataFrame:
    """The tokens of one dialogue as :func:`itpo.figures.method.token_text` draws them; padding is left out."""
    words = [chat.tokenizer.decode([token]) for token in dialogue.ids]
    turn, value = turn_ids[: len(words)] + 1, values[: len(words)]
    return pd.DataFrame({"token": words, "turn": turn.tolist(), "value": value.tolist()})


def turn_table(
    dialogues: Sequence[Dialogue],
    titles: Mapping[Pivot, str],
    turn_rewards: Float[Tensor, "B K"],
    weights: Mapping[float, Float[Tensor, "B K"]],
) -> pd.DataFrame:
    """Turn rewards (4) and weights (5) by temperature of titled dialogues, for :func:`itpo.figures.method.turn_credit`."""
    lines = []
    for pivot, title in titles.items():
        number = pivot.dialogue
        texts = [m.content for m in dialogues[number].messages if m.role == "assistant"]
        for k, text in enumerate(texts):
            line = {"dialogue": title, "text": text, "pivotal": k == pivot.turn}
            line |= {"reward": turn_rewards[number, k].item()}
            lines.append(line | {f"{eta:g}": w[number, k].item() for eta, w in weights.items()})
    return pd.DataFrame(lines)


def reward_table(
    rewards: Mapping[str, Float[Tensor, "B T"]], turn_ids: Int64[Tensor, "B T"], titles: Mapping[int, str]
) -> pd.DataFrame:
    """Rewards by method, and the returns they become, of the titled rows, as :func:`itpo.figures.method.rewards` draws them.

    >>> import torch
    >>> ids = torch.tensor([[-1, 0, 0]])
    >>> reward_table({"itpo": torch.tensor([[0.0, 0.0, 0.5]])}, ids, {0: "one"})["return"].tolist()
    [0.5, 0.5]
    """
    lines = []
    for name, values in rewards.items():
        to_go = returns(values, turn_ids >= 0)
        for b, title in titles.items():
            for t in (turn_ids[b] >= 0).nonzero().ravel().tolist():
                turn, own = turn_ids[b, t].item() + 1, (values[b, t].item(), to_go[b, t].item())
                lines.append((name, title, t, turn, *own))
    return pd.DataFrame(lines, columns=["row", "dialogue", "token", "turn", "reward", "return"])


def weight_table(
    turn_rewards: Float[Tensor, "B K"],
    has_turn: Bool[Tensor, "B K"],
    temperatures: Sequence[float],
    titles: Sequence[str],
) -> pd.DataFrame:
    """Weights (5) of every turn at every temperature, as :func:`itpo.figures.method.weight_curves` draws them.

    >>> import torch
    >>> mask = torch.tensor([[True, True, False]])
    >>> weight_table(torch.zeros(1, 3), mask, [0.4], ["one"]).values.tolist()
    [['one', 1, 0.4, 0.5], ['one', 2, 0.4, 0.5]]
    """
    lines = []
    for eta in temperatures:
        weights = turns.normalize(turn_rewards, has_turn, eta)
        lines += [(titles[b], k + 1, eta, weights[b, k].item()) for b, k in has_turn.nonzero().tolist()]
    return pd.DataFrame(lines, columns=["dialogue", "turn", "temperature", "weight"])
