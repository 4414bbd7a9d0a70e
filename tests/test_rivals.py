"""The rivals' turn credit against loops over lists, in any order of rows and any padding, and one training step of each."""

import math
from statistics import mean, stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itpo import advantages, attribution, rivals, trainer, turns
from itpo.config import Estimator, Method, RunConfig, TaskSpec, allows
from itpo.estimators import estimate
from itpo.integrations.credit import credit
from itpo.runs.store import Store
from itpo.specs import Adapter, TinyLM
from itpo.training.learner import Learner

COMPARING = ("mt_grpo", "gigpo", "istar")


@st.composite
def _cases(draw):
    """Signals of a batch in float64: 1 to 3 prompts of 1 to 4 rollouts, of few words, so that states occur again."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    rows, tokens = sum(sizes), draw(st.integers(1, 9))
    row = st.lists(st.booleans(), min_size=tokens, max_size=tokens)
    mask = torch.tensor(draw(st.lists(row, min_size=rows, max_size=rows)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    ids = turns.turn_ids(mask)
    scores = torch.rand(turns.turn_mask(ids).shape, dtype=torch.float64, generator=generator)
    return {
        "outcome": torch.rand(rows, dtype=torch.float64, generator=generator).round(decimals=1),
        "turn_ids": ids,
        "token_rewards": torch.randn(rows, tokens, dtype=torch.float64, generator=generator),
        "judge_scores": scores.round(decimals=1),
        "input_ids": torch.randint(2, (rows, tokens), generator=generator),
        "group_size": torch.tensor([5 * group for group, n in enumerate(sizes) for _ in range(n)]),
    }


CASES = _cases()


def normalised(values):
    """Of a dictionary from anything to numbers: each less the mean, over the standard deviation."""
    numbers = list(values.values())
    spread = stdev(numbers) if len(numbers) > 1 else 0.0
    if spread < 1e-12:
        return dict.fromkeys(values, 0.0)
    return {key: (value - mean(numbers)) / math.sqrt(spread**2 + 1e-8) for key, value in values.items()}


def positions(row):
    """The token positions of each turn of a row."""
    return [[t for t, k in enumerate(row) if k == turn] for turn in range(max(row) + 1)]


def expected_advantages(name, case, anchor="reply"):
    """Turn -> advantage of every (dialogue, turn), prompt by prompt, as the docstrings define it."""
    where = [positions(row) for row in case["turn_ids"].tolist()]
    prompts, said = case["group_size"].tolist(), case["input_ids"].tolist()
    outcome, found = case["outcome"].tolist(), {}
    for prompt in set(prompts):
        rows = [b for b, other in enumerate(prompts) if other == prompt and where[b]]
        keys = [(b, k) for b in rows for k in range(len(where[b]))]
        episode = normalised({b: outcome[b] for b in rows})
        step = {}
        if name == "mt_grpo":
            for turn in {k for _, k in keys}:
                step |= normalised({(b, k): case["judge_scores"][b, k].item() for b, k in keys if k == turn})
            step = {(b, k): value if k + 1 < len(where[b]) else 0.0 for (b, k), value in step.items()}
        elif name == "istar":
            step = normalised(
                {(b, k): sum(case["token_rewards"][b, t].item() for t in where[b][k]) for b, k in keys}
            )
        else:
            states = {}
            for b, k in keys:
                begins = where[b][k - 1][-1] + 1 if k and anchor == "reply" else 0
                states.setdefault(tuple(said[b][begins : where[b][k][0]]), []).append((b, k))
            for members in states.values():
                step |= normalised({(b, k): outcome[b] * 0.95 ** (len(where[b]) - 1 - k) for b, k in members})
        found |= {(b, k): episode[b] + step[b, k] for b, k in keys}
    return found


def placed(values, case):
    """Every token of a turn with the turn's value."""
    result = torch.zeros(case["turn_ids"].shape, dtype=torch.float64)
    for (b, k), value in values.items():
        result[b, case["turn_ids"][b] == k] = value
    return result


def rewards_of(name, case):
    return attribution.attribute(name, **case)


@pytest.mark.parametrize("name", COMPARING)
@given(case=CASES)
def test_what_is_left_to_collect_is_the_papers_advantage(name, case):
    rewards = rewards_of(name, case)
    assert not rewards[~turns.turn_ends(case["turn_ids"])].any()
    to_go = advantages.returns(rewards, case["turn_ids"] >= 0)
    torch.testing.assert_close(to_go, placed(expected_advantages(name, case), case))


@given(case=CASES, temperature=st.sampled_from([0.1, 0.4, 5.0]))
def test_signed_norm_itpo_splits_praise_and_blame(case, temperature):
    where, values = [positions(row) for row in case["turn_ids"].tolist()], {}
    prompts, outcome = case["group_size"].tolist(), case["outcome"].tolist()
    for b, inside in enumerate(where):
        rivals_of_b = [c for c, p in enumerate(prompts) if p == prompts[b] and c != b and where[c]]
        advantage = outcome[b] - (mean(outcome[c] for c in rivals_of_b) if rivals_of_b else 0.0)
        said = [sum(case["token_rewards"][b, t].item() for t in tokens) for tokens in inside]
        powers = [math.exp((score if advantage > 0 else -score) / temperature) for score in said]
        values |= {(b, k): len(said) * p / sum(powers) * advantage for k, p in enumerate(powers)}
    rewards = rewards_of("signed_norm_itpo", case | {"temperature": temperature})
    assert not rewards[~turns.turn_ends(case["turn_ids"])].any()
    torch.testing.assert_close(advantages.returns(rewards, case["turn_ids"] >= 0), placed(values, case))


@given(case=CASES)
def test_an_equal_split_is_norm_itpo_at_an_infinite_temperature(case):
    rewards = rewards_of("equal_share", case)
    torch.testing.assert_close(rewards, rewards_of("norm_itpo", case | {"temperature": 1e12}))
    for b, row in enumerate(case["turn_ids"].tolist()):
        inside = positions(row)
        expected = [case["outcome"][b].item() / len(inside) for _ in inside]
        assert rewards[b, [tokens[-1] for tokens in inside]].tolist() == pytest.approx(expected)


@given(case=CASES)
def test_a_state_can_be_all_that_was_said(case):
    to_go = advantages.returns(rewards_of("gigpo", case | {"anchor": "history"}), case["turn_ids"] >= 0)
    torch.testing.assert_close(to_go, placed(expected_advantages("gigpo", case, "history"), case))


@given(case=CASES, highest=st.sampled_from([1.0, 10.0]))
def test_progress_against_loops(case, highest):
    for rated in rivals.RATINGS:
        expected = torch.zeros(case["turn_ids"].shape, dtype=torch.float64)
        for b, row in enumerate(case["turn_ids"].tolist()):
            done = 0.0
            for k, inside in enumerate(positions(row)):
                score = case["judge_scores"][b, k].item() / highest
                expected[b, inside[-1]] = score - (done if rated == "states" else 0.0)
                done = score
        torch.testing.assert_close(
            rivals.progress(case["judge_scores"], case["turn_ids"], rated, highest), expected
        )


@given(data=st.data(), case=CASES)
def test_rivals_ignore_padding_and_the_order_of_rows(data, case):
    order = torch.tensor(data.draw(st.permutations(range(len(case["outcome"])))))
    moved = {key: value[order] for key, value in case.items()}
    fill = {"turn_ids": -1, "token_rewards": 9.0, "input_ids": 1}
    wide = case | {
        key: torch.nn.functional.pad(case[key], (0, 2), value=value) for key, value in fill.items()
    }
    for name in rivals.RIVALS:
        rewards = rewards_of(name, case)
        torch.testing.assert_close(rewards_of(name, moved), rewards[order])
        torch.testing.assert_close(rewards_of(name, wide), torch.nn.functional.pad(rewards, (0, 2)))


@given(case=CASES)
def test_groups_are_told_by_size_or_by_ids(case):
    rows = len(case["outcome"])
    alike = case | {"group_size": torch.arange(rows) // (2 if rows % 2 == 0 else 1) + 7}
    for name in COMPARING:
        by_size = rewards_of(name, case | {"group_size": 2 if rows % 2 == 0 else 1})
        torch.testing.assert_close(by_size, rewards_of(name, alike))


@given(case=CASES, scale=st.floats(0.5, 20), shift=st.floats(0, 5))
def test_normalised_apart_neither_part_feels_the_scale_of_the_other(case, scale, shift):
    """Up to the 1e-8 beside variances, which are kept well above it."""
    case["token_rewards"] = case["token_rewards"].round(decimals=1)
    louder = case | {
        "judge_scores": scale * case["judge_scores"] + shift,
        "token_rewards": scale * case["token_rewards"],
        "outcome": scale * case["outcome"],
    }
    for name in COMPARING:
        torch.testing.assert_close(rewards_of(name, louder), rewards_of(name, case), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "weight"), [("mt_grpo", "turn_weight"), ("gigpo", "step_weight"), ("istar", "step_weight")]
)
@given(case=CASES)
def test_without_its_second_part_every_rival_is_grpo_on_the_outcome(name, weight, case):
    mask = case["turn_ids"] >= 0
    share = attribution.trajectory_share(case["outcome"], case["turn_ids"])
    grpo = advantages.grpo(share, turns.trajectory_end(case["turn_ids"]), case["group_size"])
    got = advantages.returns(rewards_of(name, case | {weight: 0.0}), mask)
    torch.testing.assert_close(got, advantages.returns(grpo, mask))


IDS = torch.tensor([[0, -1, 1]])
ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rivals.mt_grpo(ONE[None], ONE, IDS, 1), "at most 2 turns"),
        (lambda: rivals.mt_grpo(torch.ones(1, 2), torch.ones(2), IDS, 1), "one outcome for each dialogue"),
        (lambda: rivals.mt_grpo(torch.ones(1, 2), ONE, IDS, 1, math.nan), "turn_weight must be finite"),
        (lambda: rivals.mt_grpo(torch.ones(1, 2), ONE, IDS, 2), "does not divide the 1 rows"),
        (lambda: rivals.gigpo(ONE, IDS, IDS, 1, gamma=1.5), "gamma must be finite and from 0 to 1, got 1.5"),
        (lambda: rivals.gigpo(ONE, IDS, IDS, 1, anchor="turn"), "choose one of history, reply"),
        (lambda: rivals.gigpo(ONE, IDS[:, :2], IDS, 1), "input_ids of shape"),
        (lambda: rivals.istar(torch.ones(1, 2), ONE, IDS, 1), "do not match turn_ids"),
        (lambda: rivals.istar(torch.ones(1, 3), ONE, IDS, 1, -1.0), "step_weight must be finite and from 0"),
        (lambda: rivals.signed_norm_itpo(torch.ones(1, 2), ONE, IDS, 1), "do not match turn_ids"),
        (lambda: rivals.signed_norm_itpo(torch.ones(1, 3), ONE, IDS, 1, 0.0), "temperature must be positive"),
        (lambda: rivals.equal_share(torch.ones(2), IDS), "one outcome for each dialogue"),
        (lambda: rivals.progress(-torch.ones(1, 2), IDS), "negative or not finite"),
        (lambda: rivals.progress(torch.ones(1, 2), IDS, "turn"), "choose one of turns, states"),
        (lambda: rivals.progress(torch.ones(1, 2), IDS, "turns", 0.0), "highest must be finite and from 1"),
        (lambda: Method("gigpo", {"anchor": "turn"}), "options of method 'gigpo': unknown anchor"),
        (lambda: Method("mt_grpo", outcome_coef=1.0), "it must be 0"),
        (
            lambda: RunConfig(Method("istar"), 0, 1, estimator=Estimator("grpo")),
            "compares a prompt's rollouts",
        ),
        (lambda: RunConfig(Method("istar"), 0, 1, estimator=Estimator("ppo")), "use rloo"),
    ],
)
def test_wrong_input_is_named(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_registry_knows_them_but_table_1_does_not():
    assert list(attribution.known_methods()) == [*attribution.METHODS, *rivals.RIVALS]
    assert not set(attribution.METHODS) & set(rivals.RIVALS)
    entries = rivals.RIVALS.values()
    assert tuple(entry.name for entry in entries if entry.compares) == (*COMPARING, "signed_norm_itpo")
    assert [entry.name for entry in entries if entry.needs_prm] == ["istar", "signed_norm_itpo"]
    assert [entry.name for entry in entries if entry.needs_judge] == ["mt_grpo", "progress"]
    assert not any(entry.compares for entry in attribution.METHODS.values())
    assert [e for e in ("rloo", "grpo", "ppo") if allows(e, "progress")] == ["rloo", "grpo", "ppo"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("rivals"))


@given(case=CASES, length=st.booleans())
def test_engines_get_the_whitened_advantage(case, length):
    mask, cost = case["turn_ids"] >= 0, 0.1 * torch.arange(len(case["outcome"]), dtype=torch.float64) * length
    signals = {key: case[key] for key in ("token_rewards", "judge_scores", "input_ids")}
    for name in COMPARING:
        got = credit(
            name, "rloo", mask, case["outcome"], case["group_size"], coef=5.0, length_cost=5 * cost, **signals
        )
        # Penalties are taken off the outcome, before rollouts are compared.
        expected = placed(expected_advantages(name, case | {"outcome": case["outcome"] - cost}), case)
        if (
            not expected.any() or expected[mask].std() > 1e-3
        ):  # whitening blows up what two parts that cancel leave
            torch.testing.assert_close(
                got.advantages, advantages.whiten(expected, mask), atol=1e-6, rtol=1e-6
            )


@pytest.mark.parametrize("name", rivals.RIVALS)
def test_two_steps_train(name, store, monkeypatch):
    """A base that knows the corridor a little, so that outcomes differ; the policy learns from GiGPO's advantages, whitened."""
    small = {"prompts": 2, "rollouts": 4, "warmup": 0, "eval_dialogues": 2, "monitor_dialogues": 2}
    method = Method(name, outcome_coef=5.0 * (name == "progress"))
    task = TaskSpec("corridor", {"turns": 3, "pivots": 1})
    model = TinyLM(32, 1, 2, steps=60, dialogues_per_step=8, learning_rate=4e-3)
    config = RunConfig(method, 0, 2, task, model=model, adapter=Adapter(2, 4), max_turn_tokens=6, **small)
    learned, update = [], Learner.update_policy

    def noted(learner, batch, advantage, *rest):
        learned.append((batch, advantage))
        return update(learner, batch, advantage, *rest)

    groups = []
    monkeypatch.setattr(Learner, "update_policy", noted)
    monkeypatch.setattr(
        trainer, "estimate", lambda *a, **given: groups.append(given["group_size"]) or estimate(*a, **given)
    )
    run = store.open(config)
    trainer.train(config, run)
    metrics = run.metrics()
    assert groups == [1 if method.entry.compares else 4] * 2  # a rollout that is alone gets no baseline
    assert run.done and len(learned) == 2 and ("prm_loss" in metrics.columns) == method.entry.needs_prm
    assert any(advantage.any() for _, advantage in learned)
    for batch, advantage in learned if name == "gigpo" else ():
        case = {key: getattr(batch, key) for key in ("turn_ids", "input_ids")}
        case |= {
            "outcome": batch.outcome.double() - config.length_penalty * batch.response_lengths,
            "group_size": torch.arange(8) // 4,
        }
        expected = advantages.whiten(placed(expected_advantages(name, case), case), batch.response_mask)
        torch.testing.assert_close(advantage.double(), expected, atol=1e-4, rtol=1e-4)
