"""The methods of Table 1 against loops over lists, what they conserve, and the registry."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itpo import advantages, attribution, turns

MASK = torch.tensor(
    [
        [True, True, False, True, True, True],
        [False, True, False, False, False, False],
        [False] * 6,
    ]
)
IDS = turns.turn_ids(MASK)
REWARDS = torch.arange(18.0, dtype=torch.float64).view(3, 6) / 10
OUTCOME = torch.tensor([0.5, 1.0, 0.75], dtype=torch.float64)


def turn_positions(row):
    """Token positions of each turn of a row, by walking over it."""
    by_turn, previous = [], False
    for position, inside in enumerate(row):
        if inside and not previous:
            by_turn.append([])
        if inside:
            by_turn[-1].append(position)
        previous = inside
    return by_turn


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def every_method(rewards, outcome, mask, generator):
    """Rewards of each method of Table 1, by name."""
    signals = {
        "token_rewards": rewards,
        "outcome": outcome,
        "response_mask": mask,
        "turn_ids": turns.turn_ids(mask),
        "generator": generator,
        "temperature": 0.4,
        # Below every reward and outcome, and changing at every token.
        "values": -rewards.abs().cumsum(-1) - 1,
        "judge_scores": turns.aggregate(rewards.abs(), turns.turn_ids(mask)),
    }
    return {name: attribution.attribute(name, **signals) for name in attribution.METHODS}


@given(data=st.data(), temperature=st.floats(0.1, 5))
def test_methods_against_loops(batches, data, temperature):
    batch = data.draw(batches)
    mask, rewards, outcome = batch.response_mask, batch.token_rewards, batch.outcome
    share, prime, itpo, norm = (torch.zeros_like(rewards) for _ in range(4))
    for i, row in enumerate(mask.tolist()):
        by_turn = turn_positions(row)
        sums = [math.fsum(rewards[i, t].item() for t in positions) for positions in by_turn]
        exps = [math.exp(s / temperature) for s in sums]
        for positions, total, e in zip(by_turn, sums, exps, strict=True):
            itpo[i, positions[-1]] = total
            norm[i, positions[-1]] = e / sum(exps) * outcome[i]
            for t in positions:
                prime[i, t] = rewards[i, t]
        if by_turn:
            share[i, by_turn[-1][-1]] = outcome[i]
    ids = turns.turn_ids(mask)
    assert torch.equal(attribution.trajectory_share(outcome, ids), share)
    assert torch.equal(attribution.prime(rewards, mask), prime)
    torch.testing.assert_close(attribution.itpo(rewards, ids), itpo)
    torch.testing.assert_close(attribution.norm_itpo(rewards, outcome, ids, temperature), norm)


@given(data=st.data())
def test_value_model_against_loops_and_gae(batches, data):
    batch = data.draw(batches)
    mask, values, outcome = batch.response_mask, batch.token_rewards, batch.outcome
    expected = torch.zeros_like(values)
    for i, row in enumerate(mask.tolist()):
        positions = [t for t, inside in enumerate(row) if inside]
        ahead = [*(values[i, t] for t in positions[1:]), outcome[i]][: len(positions)]
        for t, following in zip(positions, ahead, strict=True):
            expected[i, t] = following - values[i, t]
    rewards = attribution.value_model(values, outcome, mask)
    torch.testing.assert_close(rewards, expected)
    # From a token on they sum to what the outcome brings above that token's value.
    surplus = torch.where(mask, outcome[:, None] - values, 0)
    torch.testing.assert_close(advantages.returns(rewards, mask), surplus)
    placed = attribution.trajectory_share(outcome, turns.turn_ids(mask))
    torch.testing.assert_close(advantages.gae(placed, values, mask, gamma=1.0, lam=0.0)[0], rewards)


@given(data=st.data())
def test_judge_against_loops(batches, data):
    batch = data.draw(batches)
    mask, outcome = batch.response_mask, batch.outcome
    scores = turns.aggregate(batch.token_rewards.abs(), turns.turn_ids(mask))
    scores[::2] = scores[::2].round()  # zeros, now and then in a whole row
    expected = torch.zeros_like(batch.token_rewards)
    for i, row in enumerate(mask.tolist()):
        by_turn = turn_positions(row)
        total = math.fsum(scores[i, k].item() for k in range(len(by_turn)))
        for k, positions in enumerate(by_turn):
            share = scores[i, k] / total if total else 1 / len(by_turn)
            expected[i, positions[-1]] = share * outcome[i]
    torch.testing.assert_close(attribution.judge(scores, outcome, turns.turn_ids(mask)), expected)


def test_a_judge_who_gives_zeros_shares_equally():
    rewards = attribution.judge(torch.zeros(3, 2, dtype=torch.float64), OUTCOME, IDS)
    assert rewards[:2, [1, 5]].tolist() == [[0.25, 0.25], [1.0, 0.0]]
    assert not rewards[2].any()


def test_scores_of_turns_that_are_not_there_do_not_count():
    scores = torch.tensor([[1.0, 4.0], [2.0, math.nan], [-1.0, math.inf]], dtype=torch.float64)
    rewards = attribution.judge(scores, OUTCOME, IDS)
    torch.testing.assert_close(rewards.sum(-1), torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64))


def test_values_off_the_mask_never_count():
    dirty = torch.where(MASK, REWARDS, math.nan)
    clean = attribution.value_model(REWARDS, OUTCOME, MASK)
    assert torch.equal(attribution.value_model(dirty, OUTCOME, MASK), clean)


@given(data=st.data())
def test_what_each_method_conserves(batches, data):
    batch = data.draw(batches)
    rewards_of = every_method(batch.token_rewards, batch.outcome, batch.response_mask, seeded())
    outcome = torch.where(batch.response_mask.any(-1), batch.outcome, 0)
    for name in ("trajectory_share", "uniform", "judge", "norm_itpo"):
        torch.testing.assert_close(rewards_of[name].sum(-1), outcome)
    torch.testing.assert_close(rewards_of["itpo"].sum(-1), rewards_of["prime"].sum(-1))


@given(data=st.data())
def test_rewards_stand_only_where_the_reward_mask_says(batches, data):
    batch = data.draw(batches)
    ids = turns.turn_ids(batch.response_mask)
    # Shifted above zero, so that a reward that is placed is seen.
    rewards_of = every_method(batch.token_rewards.abs() + 1, batch.outcome + 1, batch.response_mask, seeded())
    for name, rewards in rewards_of.items():
        mask = attribution.reward_mask(attribution.get_method(name).granularity, ids)
        assert torch.equal(rewards != 0, mask), name


@given(data=st.data())
def test_methods_ignore_padding_and_the_order_of_dialogues(batches, data):
    batch = data.draw(batches)
    mask, rewards = batch.response_mask, batch.token_rewards
    rewards_of = every_method(rewards, batch.outcome, mask, seeded())
    wide_mask = torch.cat([mask, torch.zeros(len(mask), 2, dtype=torch.bool)], 1)
    wide = every_method(
        torch.nn.functional.pad(rewards, (0, 2), value=9.0), batch.outcome, wide_mask, seeded()
    )
    order = torch.tensor(data.draw(st.permutations(range(len(mask)))))
    moved = every_method(rewards[order], batch.outcome[order], mask[order], seeded())
    for name in attribution.METHODS:
        torch.testing.assert_close(wide[name], torch.nn.functional.pad(rewards_of[name], (0, 2)))
        if name != "uniform":  # its draws belong to row positions
            torch.testing.assert_close(moved[name], rewards_of[name][order])


def test_norm_itpo_ignores_a_reward_added_to_every_turn():
    shifted = REWARDS + torch.where(turns.turn_ends(IDS), 3.0, 0.0)
    torch.testing.assert_close(
        attribution.norm_itpo(shifted, OUTCOME, IDS, 0.4), attribution.norm_itpo(REWARDS, OUTCOME, IDS, 0.4)
    )


def test_length_normalized_reaches_both_turn_methods():
    scores = turns.aggregate(REWARDS, IDS, "length_normalized")
    placed = turns.place_at_turn_ends(scores, IDS)
    assert torch.equal(attribution.itpo(REWARDS, IDS, "length_normalized"), placed)
    weights = turns.normalize(scores, turns.turn_mask(IDS), 0.4)
    expected = turns.place_at_turn_ends(weights * OUTCOME[:, None], IDS)
    assert torch.equal(attribution.norm_itpo(REWARDS, OUTCOME, IDS, 0.4, "length_normalized"), expected)
    assert not torch.allclose(expected, attribution.norm_itpo(REWARDS, OUTCOME, IDS, 0.4))


@pytest.mark.parametrize("concentration", [0.1, 1.0, 3.0])
def test_uniform_draws_from_a_symmetric_dirichlet(concentration):
    rows, turn_count = 20_000, 3
    ids = torch.tensor([[0, -1, 1, -1, 2]]).expand(rows, 5)
    split = attribution.uniform(torch.ones(rows, dtype=torch.float64), ids, seeded(), concentration)
    weights = split[:, ::2]
    # A Dirichlet weight has variance (K - 1) / (K^2 (K alpha + 1)).
    variance = (turn_count - 1) / (turn_count**2 * (turn_count * concentration + 1))
    torch.testing.assert_close(
        weights.mean(0), torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.01, rtol=0
    )
    torch.testing.assert_close(
        weights.var(0), torch.full((3,), variance, dtype=torch.float64), atol=0, rtol=0.05
    )


def test_uniform_with_one_concentration_is_flat_over_two_turns():
    ids = torch.tensor([[0, -1, 1]]).expand(20_000, 3)
    first = attribution.uniform(torch.ones(20_000), ids, seeded())[:, 0]
    quantiles = torch.quantile(first, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]))
    torch.testing.assert_close(quantiles, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]), atol=0.015, rtol=0)


def test_uniform_with_a_tiny_concentration_picks_one_turn():
    ids = torch.tensor([[0, -1, 1, -1, 2]]).expand(500, 5)
    split = attribution.uniform(torch.ones(500), ids, seeded(), concentration=1e-6)
    torch.testing.assert_close(split.max(-1).values, torch.ones(500), atol=0.01, rtol=0)
    assert {0, 2, 4} == set(split.argmax(-1).tolist())


def test_uniform_depends_on_the_generator_only():
    before = torch.random.get_rng_state()
    first = attribution.uniform(OUTCOME, IDS, seeded(1))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(attribution.uniform(OUTCOME, IDS, seeded(1)), first)
    assert not torch.equal(attribution.uniform(OUTCOME, IDS, seeded(2)), first)
    generator = seeded(1)
    attribution.uniform(OUTCOME, IDS, generator)
    assert not torch.equal(attribution.uniform(OUTCOME, IDS, generator), first)


def test_gradients_reach_assistant_tokens_only():
    rewards = REWARDS.clone().requires_grad_()
    attribution.norm_itpo(rewards, OUTCOME, IDS, 0.4)[:, 1].sum().backward()
    # The one-turn dialogue keeps weight 1 whatever its rewards; the empty one has none.
    assert torch.equal(rewards.grad != 0, MASK & torch.tensor([[True], [False], [False]]))
    rewards.grad = None
    attribution.itpo(rewards, IDS).sum().backward()
    assert torch.equal(rewards.grad, MASK.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_preserved(dtype):
    rewards_of = every_method(REWARDS.to(dtype), OUTCOME.to(dtype), MASK, seeded())
    assert {rewards.dtype for rewards in rewards_of.values()} == {dtype}


@pytest.mark.parametrize("shape", [(2, 3), (2, 0)])
def test_a_batch_without_assistant_tokens_gives_zeros(shape):
    rewards_of = every_method(
        torch.ones(shape), torch.ones(2), torch.zeros(shape, dtype=torch.bool), seeded()
    )
    for rewards in rewards_of.values():
        assert torch.equal(rewards, torch.zeros(shape))


def test_reward_mask_of_a_written_example():
    ids = torch.tensor([[0, 0, -1, 1, 1, -1]])
    where = {
        name: attribution.reward_mask(name, ids)[0].long().tolist()
        for name in ("trajectory", "turn", "token")
    }
    assert where == {
        "trajectory": [0, 0, 0, 0, 1, 0],
        "turn": [0, 1, 0, 0, 1, 0],
        "token": [1, 1, 0, 1, 1, 0],
    }


def test_methods_of_the_registry():
    needs_prm = {name: entry.needs_prm for name, entry in attribution.METHODS.items()}
    assert needs_prm == {
        "trajectory_share": False,
        "uniform": False,
        "value_model": False,
        "judge": False,
        "prime": True,
        "itpo": True,
        "norm_itpo": True,
    }
    assert list(attribution.METHODS) == list(needs_prm)  # the order of tables and figures
    assert [name for name, entry in attribution.METHODS.items() if entry.needs_values] == ["value_model"]
    assert [name for name, entry in attribution.METHODS.items() if entry.needs_judge] == ["judge"]
    assert all(attribution.get_method(name).name == name for name in attribution.METHODS)
    without_outcome = {name for name, entry in attribution.METHODS.items() if not entry.carries_outcome}
    assert without_outcome == {"prime", "itpo"}


def test_a_new_method_is_a_function_and_its_entry(monkeypatch):
    def doubled(outcome, turn_ids, factor=2.0):
        return attribution.trajectory_share(outcome * factor, turn_ids)

    monkeypatch.setitem(
        attribution.METHODS, "doubled", attribution.MethodEntry("doubled", "Doubled", doubled, "trajectory")
    )
    rewards = attribution.attribute("doubled", outcome=OUTCOME, turn_ids=IDS, token_rewards=REWARDS)
    assert rewards.sum().item() == 3.0
    tripled = attribution.attribute("doubled", outcome=OUTCOME, turn_ids=IDS, factor=3.0)
    assert tripled.sum().item() == 4.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attribution.trajectory_share(OUTCOME[:2], IDS), "one outcome for each dialogue"),
        (lambda: attribution.norm_itpo(REWARDS, OUTCOME[:, None], IDS, 0.4), "one outcome for each dialogue"),
        (lambda: attribution.norm_itpo(REWARDS, OUTCOME, IDS, 0.0), "temperature must be positive"),
        (lambda: attribution.norm_itpo(REWARDS, OUTCOME, IDS, 0.4, "max"), "sum, mean, length_normalized"),
        (lambda: attribution.itpo(REWARDS[:, :4], IDS), "do not match turn_ids"),
        (lambda: attribution.uniform(OUTCOME, IDS, seeded(), 0.0), "concentration must be positive"),
        (lambda: attribution.uniform(OUTCOME[:1], IDS, seeded()), "one outcome for each dialogue"),
        (lambda: attribution.prime(REWARDS, MASK.long()), "response_mask must be bool"),
        (lambda: attribution.prime(REWARDS, MASK[:, :4]), "response_mask must be bool"),
        (lambda: attribution.value_model(REWARDS, OUTCOME, MASK.long()), "response_mask must be bool"),
        (lambda: attribution.value_model(REWARDS[:, :4], OUTCOME, MASK), "of the shape of values"),
        (lambda: attribution.value_model(REWARDS, OUTCOME[:2], MASK), "does not match response_mask"),
        (lambda: attribution.judge(REWARDS, OUTCOME, IDS), "3 dialogues of at most 2 turns"),
        (lambda: attribution.judge(REWARDS[:, :2], OUTCOME[:2], IDS), "one outcome for each dialogue"),
        (lambda: attribution.judge(REWARDS[:, :2] - 1, OUTCOME, IDS), r"rows \[0, 1\] are negative"),
        (
            lambda: attribution.judge(REWARDS[:, :2] * math.nan, OUTCOME, IDS),
            r"rows \[0, 1\] are negative or",
        ),
        (lambda: attribution.reward_mask("sentence", IDS), "trajectory, turn, token"),
        (
            lambda: attribution.MethodEntry("x", "X", attribution.itpo, "sentence"),
            "method 'x' has unknown granularity",
        ),
        (lambda: attribution.get_method("judges"), "uniform, value_model, judge, prime, itpo, norm_itpo"),
        (
            lambda: attribution.attribute("norm_itpo", turn_ids=IDS),
            "needs token_rewards, outcome, got only turn_ids",
        ),
        (lambda: attribution.attribute("itpo"), "got only nothing"),
    ],
)
def test_wrong_input_is_named(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
