"""Conversations of finished runs: weights against the run's monitor set, the same problems before and after, tables."""

import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from figure_examples import BARE, LONG, PAIR, TEXTS

from itpo import turns
from itpo.config import TaskSpec
from itpo.dialogue import Message
from itpo.runs.store import Run, Store
from itpo.specs import Adapter, TinyLM
from itpo.study import reward_dynamics, transcripts
from itpo.study.profiles import get_profile
from itpo.study.statistics import share_interval, t_interval
from itpo.study.transcripts import Conversation
from itpo.tasks.bleu import word_bleu
from itpo.tasks.documents import Wish, word_score
from itpo.tasks.medical import MedicalRecommendation, Patient, is_accurate
from itpo.tasks.registry import TASKS, get_task
from itpo.trainer import train
from itpo.training.build import trained

pytestmark = pytest.mark.usefixtures("unchecked")
SPEC = TinyLM(hidden_size=32, layers=2, heads=4, steps=80, dialogues_per_step=16)


def tiny_run(store: Store, task: str, row: str) -> Run:
    """Two steps on a tiny model: enough to move policy and PRM."""
    config = get_profile("smoke").on(task).config(row, seed=0)
    sizes = {"steps": 2, "prompts": 2, "rollouts": 2, "monitor_dialogues": 6, "eval_dialogues": 2}
    method = replace(config.method, policy_lr=0.05)  # so large that the policy speaks differently
    run = store.open(
        replace(config, method=method, model=SPEC, adapter=Adapter(), **sizes, monitor_every=1, prm_lr=0.05)
    )
    train(run.config, run)
    return store.open(run.config)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def run(store):
    return tiny_run(store, "math", "norm_itpo")


@pytest.fixture(scope="module")
def learner(run):
    return trained(run)


def words(messages):
    return [word for m in messages for word in m.content.split() if word != "<|unk|>"]


def test_weights_are_those_of_the_runs_own_monitor_set(run, learner):
    monitor = reward_dynamics.read_monitor(run)
    conversations = transcripts.hold(learner, None, len(monitor.outcome), "probe")
    mask = torch.from_numpy(monitor.turn_mask)
    temperature = run.config.method.options["temperature"]
    wanted = turns.normalize(torch.from_numpy(monitor.turn_rewards[-1]), mask, temperature)
    spread = 0.0
    for p, held in enumerate(conversations):
        # A tiny model says special tokens, which read as further messages in the monitor set and not at all in text.
        assert words(held.messages) == words(monitor.messages(p)) and held.outcome == monitor.outcome[p]
        np.testing.assert_allclose(held.weights, wanted[p][mask[p]], atol=1e-5)
        assert sum(held.weights) == pytest.approx(1.0, abs=1e-6)
        spread = max(spread, max(held.weights) - min(held.weights))
    assert spread > 0.01  # a PRM that says nothing would pass the rest


def test_settings_of_the_method_are_used(run, learner):
    monitor = reward_dynamics.read_monitor(run)
    method = run.config.method.with_settings(reduction="mean", temperature=0.05)
    learner.config = replace(run.config, method=method)
    try:
        held = transcripts.hold(learner, None, len(monitor.outcome), "probe")[0]
    finally:
        learner.config = run.config
    rewards = monitor.token_rewards[-1][0]
    means = [rewards[monitor.turn_ids[0] == k].mean() / 0.05 for k in range(held.turns)]
    np.testing.assert_allclose(held.weights, np.exp(means) / np.exp(means).sum(), atol=1e-5)


def test_before_and_after_share_problems_and_first_messages(learner):
    before, after = (transcripts.hold(learner, adapter, 8, "fresh") for adapter in (None, "policy"))
    assert [held.hidden for held in before] == [held.hidden for held in after]
    assert [held.messages[0] for held in before] == [held.messages[0] for held in after]
    assert len({held.hidden for held in before}) > 1
    assert [held.messages for held in before] != [held.messages for held in after]
    assert before == transcripts.hold(learner, None, 8, "fresh")


def test_methods_without_a_prm_have_no_weights(store):
    learner = trained(tiny_run(store, "math", "trajectory_share"))
    assert transcripts.hold(learner, "policy", 2, "fresh")[0].weights == ()


def test_an_unfinished_run_is_refused(store):
    config = get_profile("smoke").config("norm_itpo", seed=9)
    with pytest.raises(ValueError, match="not finished: train it first"):
        trained(store.open(config))


def test_scripts_talk_about_the_same_problem(learner):
    task = get_task("math")
    expert, noisy = (transcripts.scripted(learner, params, 3) for params in (task.expert, task.noisy_expert))
    assert expert.hidden == noisy.hidden and expert.messages[0] == noisy.messages[0]
    assert expert.outcome == 1.0 and sum(expert.weights) == pytest.approx(1.0, abs=1e-6)
    assert expert.kinds == tuple(task.turn_kinds(expert.messages))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_be_read(name):
    reading, task = transcripts.reading_of(TaskSpec(name)), get_task(name)
    problem = task.sample(random.Random(0))
    assert reading.hidden(problem) and (reading.measure is None) == (reading.beside == "")
    if reading.measure:
        assert reading.measure(problem, [Message("assistant", "hello")]) == 0.0


def test_the_second_measures_score_the_last_words():
    wish = Wish("music", "children", "warm")
    texts = [wish.draft, replace(wish, tone="funny").draft, "let me think ."]
    messages = [Message("assistant", text) for text in texts]
    assert word_score(wish, messages[:1]) == pytest.approx(1.0)
    funny = replace(wish, tone="funny").target
    assert word_score(wish, messages) == word_bleu(funny, wish.target) < 1.0
    patient = Patient("rash", "back", "days", "pollen")
    for remedy, points in (("warmth", 10), ("tea", 6)):
        last = [Message("assistant", f"you have subacute dorsal dermatitis . take {remedy} .")]
        assert MedicalRecommendation.points(patient, last) == points
        assert is_accurate(patient, last) == float(points >= 8)


def test_the_frame_has_a_line_for_each_message():
    assert PAIR["text"].tolist() == [text for _, text in TEXTS] + [m.content for m in BARE.messages]
    assert PAIR["weight"].dropna().tolist() == [0.875, 0.125]
    assert PAIR["turn"].dropna().tolist() == [1, 2, 1] and set(PAIR["outcome"]) == {0.25, 1.0}
    assert PAIR["kind"].tolist() == ["", "", "ask subject", "", "missed repair", "", "ask subject"]
    assert set(PAIR["result"]) == {LONG.result, "success 1.00"} and set(PAIR["hidden"]) == {LONG.hidden, ""}
    assert LONG.result == "character BLEU 0.25, word BLEU 0.12"


@pytest.mark.parametrize("wrong", [{"kinds": ("ask",)}, {"weights": (1.0,)}])
def test_kinds_and_weights_must_fit_the_turns(wrong):
    fields = {"messages": LONG.messages, "kinds": LONG.kinds, "scores": LONG.scores, **wrong}
    with pytest.raises(ValueError, match="2 assistant turns"):
        Conversation(**fields)


def finished(outcome, kind="chat", turns=1, beside=None):
    """A conversation with these scores."""
    messages = (Message("user", "hello"), Message("assistant", "hi")) * turns
    scores = {"R": outcome} | ({} if beside is None else {"beside": beside})
    return Conversation(messages, (kind,) * turns, scores)


def test_the_choice_looks_for_a_missed_repair_then_a_failure():
    won, lost, missed = finished(1.0, "missed repair"), finished(0.5), finished(0.0, "missed repair")
    assert transcripts.choose([won, lost, missed])[0] == 2
    chosen, rule = transcripts.choose([won, lost])
    assert chosen == 1 and "unrepaired" not in rule
    assert transcripts.choose([won, won]) == (0, "the first")


def test_comparison_is_paired_by_problem():
    first = [finished(r, beside=r / 2) for r in (0.0, 0.5, 1.0)]
    then = [finished(r, beside=r / 4, turns=2) for r in (0.5, 0.75, 1.0)]
    frame = transcripts.comparison("documents", {"warm start": first, "trained": then})
    assert frame["outcome"].tolist() == [0.5, 0.75] and frame["turns"].tolist() == [1.0, 2.0]
    assert pd.isna(frame["gain"][0]) and frame["gain"][1] == 0.25
    wanted = t_interval([0.5, 0.25, 0.0])
    assert (frame["gain_low"][1], frame["gain_high"][1]) == (wanted.low, wanted.high)
    assert frame["beside"].tolist() == [0.25, 0.1875]
    text = transcripts.comparison_text(frame)
    assert text["gain of R"].tolist()[0] == "–" and text["gain of R"][1].startswith("+0.25 [")
    assert text["outcome R"][0].startswith("character BLEU 0.50 [")


def test_shares_stay_within_their_bounds():
    held = [finished(float(number > 0), beside=float(number > 0)) for number in range(8)]
    (line,) = transcripts.comparison("medical", {"trained": held}).to_dict("records")
    wanted = share_interval(7 / 8, 8)
    for name in ("outcome", "beside"):
        assert tuple(line[f"{name}{end}"] for end in ("", "_low", "_high")) == (
            7 / 8,
            wanted.low,
            wanted.high,
        )
        assert 0 < line[f"{name}_low"] < line[f"{name}_high"] < 1


def test_comparison_without_a_second_measure():
    frame = transcripts.comparison(
        "math", {"a": [finished(0.0), finished(1.0)], "b": [finished(1.0), finished(1.0)]}
    )
    assert transcripts.comparison_text(frame)["beside it"].tolist() == ["–", "–"]
    with pytest.raises(ValueError):
        transcripts.comparison("math", {"a": [finished(0.0)], "b": [finished(0.0), finished(1.0)]})
