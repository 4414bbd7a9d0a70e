"""Tables of the monitor set from runs written by hand, whose monitor sets all hold one conversation."""

import random
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from itpo.chat import ChatFormat
from itpo.dialogue import Message
from itpo.models.tiny import build_tokenizer, scripted_dialogue
from itpo.runs.store import Run
from itpo.study import ranks, reward_dynamics
from itpo.study.profiles import Profile
from itpo.tasks.registry import PROSE, TASKS, get_task


def test_the_monitor_set_is_read_back_as_conversations(
    judged_runs: list[Run], written_runs: list[Run]
) -> None:
    monitor = reward_dynamics.read_monitor(judged_runs[0])
    assert monitor.messages(0)[2] == Message("user", "a lot of pears .")
    assert monitor.kinds(0) == ["ask_first", "missed repair", "verify", "answer"]
    assert monitor.turn_rewards.shape == (5, 4, 4)
    np.testing.assert_allclose(monitor.turn_rewards.sum(-1), monitor.token_rewards.sum(-1), rtol=1e-6)
    with pytest.raises(ValueError, match="kept no log-ratios"):
        reward_dynamics.read_monitor(written_runs[0])


@pytest.mark.parametrize("name", [*TASKS, *PROSE])
@pytest.mark.parametrize("cut", [False, True])
def test_conversations_are_read_back_from_their_tokens(name: str, cut: bool) -> None:
    """As they were encoded; a turn that its limit cut off has no end marker, and the user's block begins with one."""
    task = get_task(name)
    for seed in range(30):
        messages = scripted_dialogue(task, task.noisy_expert, random.Random(seed))[1]
        words = {word for message in messages for word in message.content.split()}
        chat = ChatFormat(build_tokenizer(sorted(words)))
        ids, turn_ids = chat.opening(messages[:1]), [-1] * len(chat.opening(messages[:1]))
        for number, message in enumerate(messages[1:]):
            mine = message.role == "assistant"
            block = chat.assistant_ids(message.content) if mine else chat.user_block(message.content, not cut)
            block = block[:-1] if mine and cut else block
            ids, turn_ids = ids + block, turn_ids + [number // 2 if mine else -1] * len(block)
        padding = [chat.pad_id] * (seed % 3)
        assert reward_dynamics.read_back(chat, ids + padding, turn_ids + [-1] * len(padding)) == messages


def test_the_case_is_chosen_by_the_first_rule_that_applies(judged_runs: list[Run]) -> None:
    monitor = reward_dynamics.read_monitor(judged_runs[0])
    case, rule = reward_dynamics.choose_case(monitor)
    assert case == 1 and "unrepaired" in rule
    case, rule = reward_dynamics.choose_case(replace(monitor, outcome=np.ones(4)))
    assert case == 0 and "failed" not in rule
    assert "most turns" in reward_dynamics.choose_case(monitor, turns_wanted=9)[1]


def test_the_frames_of_a_case_hold_its_tokens_and_relative_rewards(judged_runs: list[Run]) -> None:
    monitor = reward_dynamics.read_monitor(judged_runs[0])
    rewards, turns = reward_dynamics.case_frames(monitor, 1).values()
    assert turns["answer"].tolist() == ["a lot of pears .", "maybe 3 .", "sorry , it is 4 .", ""]
    assert turns["kind"].tolist() == monitor.kinds(1) and turns["turn"].tolist() == [1, 2, 3, 4]
    tokens = int(monitor.token_mask[1].sum())
    assert len(rewards) == len(monitor.steps) * tokens == len(rewards[["step", "position"]].drop_duplicates())
    last = rewards[rewards["step"] == monitor.steps[-1]]
    assert last["token"].tolist()[:3] == ["how", "many", "pears"]
    log_ratio = monitor.log_ratio[-1, 1][monitor.token_mask[1]]
    np.testing.assert_allclose(last["token_reward"], log_ratio / np.abs(log_ratio).max(), rtol=1e-6)
    sums = np.array([log_ratio[last["turn"] == turn].sum() for turn in (1, 2, 3, 4)])
    by_turn = last.groupby("turn")["turn_reward"].first()
    np.testing.assert_allclose(by_turn, sums / np.abs(sums).max(), rtol=1e-6)


def test_credit_by_kind_sums_to_nothing_in_a_dialogue(judged_runs: list[Run], three_seeds: Profile) -> None:
    credit = reward_dynamics.credit_by_kind(judged_runs)
    total = (credit["value"] * credit["turns"]).groupby([credit["row"], credit["seed"]]).sum()
    np.testing.assert_allclose(total, 0.0, atol=1e-6)
    text = reward_dynamics.credit_text(credit, three_seeds)
    assert len(text.splitlines()) == 2 and "logits, n = 3 seeds" in text


def test_stability_tables(judged_runs: list[Run]) -> None:
    frame = reward_dynamics.spearman_curves(judged_runs, np.random.default_rng(0))
    assert frame.loc[frame["step"] == 4, "value"].to_numpy() == pytest.approx(1.0)
    table = reward_dynamics.convergence_table(frame, level=-1.0)
    assert (table["first_step"] == 0).all() and (table["reached"] == 3).all() and len(table) == 12
    assert reward_dynamics.convergence_table(frame, level=2.0)["first_step"].isna().all()
    for rival in reward_dynamics.RIVALS:
        assert len(reward_dynamics.stability_verdicts(frame, rival)) == 3


def test_tau_tables(judged_runs: list[Run]) -> None:
    curves = reward_dynamics.monitor_curves(judged_runs)
    monitor = reward_dynamics.read_monitor(judged_runs[0])
    expected = stats.kendalltau(monitor.log_ratio[2].sum(-1), monitor.outcome).statistic
    assert curves["value"][2] == pytest.approx(expected)
    ceilings = reward_dynamics.tau_ceilings(judged_runs, curves)
    assert set(ceilings["panel"]) == {"batches", "monitor"}
    changes = reward_dynamics.tau_changes(judged_runs)
    assert changes["tau"].tolist() == pytest.approx([0.26] * 6)
    successes = [
        run.metrics()["success"].dropna().mean() for run in judged_runs
    ]  # three seeds of each method
    expected = ranks.kendall_ceiling(successes, 32).reshape(3, 3).mean(1).repeat(2)
    np.testing.assert_allclose(changes["ceiling"], expected)
    last = reward_dynamics.last_taus(curves)
    assert len(last) == 9 and set(last["step"]) == {4}
    assert last["ceiling"].tolist() == pytest.approx([(4 / 6) ** 0.5] * 9)  # two of four dialogues succeed
    verdicts = reward_dynamics.tau_verdicts(curves)
    assert len(verdicts) == 3 and {v.ruling for v in verdicts} == {"open"}  # three seeds give no interval
    expected = np.tanh(np.arctanh((last["share"][:3]).clip(1e-6 - 1, 1 - 1e-6)).mean())
    assert verdicts[0].effect.mean == pytest.approx(expected)
