"""What notebooks 00 and 01 choose and count: against the scripted expert, and against counts made by hand."""

import random

import pandas as pd
import pytest
import torch

from itpo import turns
from itpo.chat import ChatFormat
from itpo.dialogue import Dialogue, Message
from itpo.models.tiny import build_tokenizer, scripted_dialogue
from itpo.study.walkthrough import (
    Pivot,
    failed_and_won,
    finding,
    found_by,
    pivots,
    reward_table,
    token_table,
    turn_table,
)
from itpo.tasks.registry import get_task
from itpo.tasks.slots import PolicyParams

TASK = get_task("math")
CHAT = ChatFormat(build_tokenizer(TASK.words))
CLUMSY = PolicyParams(clarify=0.5, verify=0.5, shortcut=0.1, chat=0.2, swap=0.3)


def held(count: int) -> list[Dialogue]:
    rng = random.Random("walkthrough")
    conversations = [scripted_dialogue(TASK, CLUMSY, rng) for _ in range(count)]
    return [Dialogue(e, tuple(messages), (), (), (), outcome) for e, messages, outcome in conversations]


def test_pivotal_turns_are_those_at_which_the_expert_would_repair():
    dialogues, expected = held(400), []
    for number, dialogue in enumerate(dialogues):
        histories = [dialogue.messages[: 2 * k + 1] for k in range(dialogue.assistant_turns)]
        expert = [TASK.scripted_policy(dialogue.example, h, random.Random(0), TASK.expert) for h in histories]
        calls = [k for k, text in enumerate(expert) if TASK.act(text) in TASK.skills]
        acts = [TASK.act(m.content) for m in dialogue.messages if m.role == "assistant"]
        if (
            len(calls) == 1
            and calls[0] < len(acts) - 1
            and acts[-1] == "answer"
            and "assume" not in str(acts)
        ):
            met = acts[calls[0]] == TASK.act(expert[calls[0]])
            expected.append(Pivot(number, calls[0], met, dialogue.outcome))
    assert pivots(TASK, dialogues) == expected
    assert {pivot.met for pivot in expected} == {True, False} and len(expected) > 50


def test_where_no_dialogue_is_as_asked_it_says_what_to_do():
    with pytest.raises(
        ValueError, match="of 1 dialogues with a pivotal turn none failed as asked: hold more"
    ):
        failed_and_won([Pivot(0, 1, True, 1.0)])
    with pytest.raises(ValueError, match="none succeeded as asked"):
        failed_and_won([Pivot(0, 1, False, 0.0), Pivot(1, 1, False, 1.0)])


def test_counts_leave_out_padding_and_lucky_or_unlucky_dialogues():
    ids = torch.tensor([[0, -1, 1, -1, -1], [0, -1, 1, -1, 2], [0, -1, 1, -1, 2], [0, -1, 1, -1, 2]])
    scores = torch.tensor([[-0.1, -0.5, 0.0], [-0.9, -0.5, 0.2], [0.1, 0.4, 0.0], [0.1, 0.4, 0.0]])
    cases = [Pivot(0, 1, False, 0.0), Pivot(1, 1, False, 0.0), Pivot(2, 1, True, 1.0), Pivot(3, 2, True, 0.0)]
    counts = found_by(scores, ids, cases)
    assert counts[["dialogues", "found"]].to_numpy().tolist() == [[2, 1], [1, 1]]
    assert counts["chance"].tolist() == pytest.approx([(1 / 2 + 1 / 3) / 2, 1 / 3])


@pytest.mark.parametrize(
    "found, says",
    [(19, "more often than chance"), (5, "not distinguishable from chance"), (0, "less often than chance")],
)
def test_the_finding_says_what_the_interval_says(found: int, says: str):
    counts = pd.DataFrame([{"rule": "met: highest", "dialogues": 20, "found": found, "chance": 0.25}])
    assert finding(counts).endswith(f"{says}.")
    assert "no such dialogue" in finding(counts.assign(dialogues=0, found=0))


def test_tables_hold_the_turns_and_tokens_of_the_dialogues_they_name():
    messages = [
        Message("user", "how many pears in all ?"),
        Message("assistant", "how many ?"),
        Message("user", "quite a few ."),
    ]
    messages += [Message("assistant", "exactly how many ?")]
    ids, mask = CHAT.encode(messages, written=True)
    dialogue = Dialogue(None, tuple(messages), tuple(ids), tuple(mask), (0.0,) * len(ids), 1.0)
    padded = torch.tensor([[*mask, False, False]])
    turn_ids, values = turns.turn_ids(padded), torch.arange(len(ids) + 2.0)[None]
    tokens = token_table(CHAT, dialogue, turn_ids[0], values[0])
    assert tokens["value"].tolist() == list(range(len(ids))) and set(tokens["turn"]) == {0, 1, 2}
    assert tokens.loc[tokens["turn"] == 1, "token"].tolist()[:3] == ["how", "many", "?"]

    rewards = torch.where(padded, 1.0, 0.0)
    table = reward_table({"itpo": rewards, "prime": 2 * rewards}, turn_ids, {0: "shown"})
    assert table.groupby("row")["reward"].sum().tolist() == [padded.sum(), 2 * padded.sum()]
    assert table.groupby("row")["return"].max().tolist() == [padded.sum(), 2 * padded.sum()]

    scores, pivot = torch.tensor([[0.5, -0.25]]), Pivot(0, 1, True, 1.0)
    credit = turn_table([dialogue], {pivot: "shown"}, scores, {0.4: scores.softmax(1)})
    assert credit["pivotal"].tolist() == [False, True] and credit["reward"].tolist() == [0.5, -0.25]
    assert credit["text"].tolist() == ["how many ?", "exactly how many ?"] and credit[
        "0.4"
    ].sum() == pytest.approx(1)
