"""The three estimators against loops over lists, source by source and dialogue by dialogue."""

import math

import pytest
import torch

from itpo import estimators, turns
from itpo.estimators import ESTIMATORS, Source, estimate, merge_length, method_sources

GROUP = 3
MASK = torch.tensor(
    [
        [0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 0],
        [0, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0],
        [0, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 1, 1],
    ]
).bool()
IDS = turns.turn_ids(MASK)
DIALOGUES = range(len(MASK))


BATCH = {"response_mask": MASK, "group_size": GROUP}


def noise(seed, mask):
    values = torch.randn(MASK.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(mask, values, 0)


TURN_ENDS, LAST = turns.turn_ends(IDS), turns.trajectory_end(IDS)
ONE = [Source("method", noise(0, TURN_ENDS), TURN_ENDS)]
THREE = [
    Source("method", noise(1, MASK), MASK),
    Source("length", 0.01 * noise(2, TURN_ENDS), TURN_ENDS),
    Source("outcome", noise(3, LAST), LAST),
]
SOURCES = pytest.mark.parametrize("sources", [ONE, THREE], ids=["one", "three"])


def placed(source):
    """{position: reward} of every dialogue."""
    return [{t: source.rewards[i, t].item() for t in range(12) if source.positions[i, t]} for i in DIALOGUES]


def joined(sources):
    """The same with the length penalty inside the first source."""
    maps = {source.name: placed(source) for source in sources}
    if "length" in maps:
        for row, penalty in zip(maps["method"], maps.pop("length"), strict=True):
            for t, value in penalty.items():
                row[t] = row.get(t, 0.0) + value
    return list(maps.values())


def group_of(i):
    return range(i // GROUP * GROUP, i // GROUP * GROUP + GROUP)


def reward_to_go(totals):
    return {
        (i, t): math.fsum(v for s, v in totals[i].items() if s >= t)
        for i in DIALOGUES
        for t in range(12)
        if MASK[i, t]
    }


def whitened(gains):
    mean = math.fsum(gains.values()) / len(gains)
    deviation = math.sqrt(math.fsum((g - mean) ** 2 for g in gains.values()) / (len(gains) - 1))
    return {at: (gain - mean) / deviation for at, gain in gains.items()}


def check(actual, expected, tolerance=2e-5):
    for i in DIALOGUES:
        dense = [expected.get((i, t), 0.0) for t in range(12)]
        assert actual[i].tolist() == pytest.approx(dense, abs=tolerance)


def add_up(maps):
    return [
        {t: math.fsum(rows[i].get(t, 0.0) for rows in maps) for t in range(12) if MASK[i, t]}
        for i in DIALOGUES
    ]


@SOURCES
def test_rloo_against_loops(sources):
    baselined = []
    for rows in map(placed, sources):
        means = [sum(row.values()) / len(row) for row in rows]
        baselined.append(
            [
                {
                    t: r * GROUP / (GROUP - 1) - sum(means[j] for j in group_of(i)) / (GROUP - 1)
                    for t, r in rows[i].items()
                }
                for i in DIALOGUES
            ]
        )
    credit = estimate("rloo", sources, **BATCH, values=torch.ones(2, *MASK.shape))
    assert credit.value_targets is None
    check(credit.advantages, whitened(reward_to_go(add_up(baselined))))


@SOURCES
def test_grpo_against_loops(sources):
    normalised = []
    for rows in joined(sources):
        done = [{} for _ in DIALOGUES]
        for i in DIALOGUES:
            pool = [r for j in group_of(i) for r in rows[j].values()]
            mean = sum(pool) / len(pool)
            deviation = math.sqrt(sum((r - mean) ** 2 for r in pool) / (len(pool) - 1))
            done[i] = {t: (r - mean) / deviation for t, r in rows[i].items()}
        normalised.append(done)
    check(estimate("grpo", sources, **BATCH).advantages, reward_to_go(add_up(normalised)))


@SOURCES
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.7), (1.0, 0.0)])
def test_ppo_against_loops(sources, gamma, lam):
    maps = joined(sources)
    values = torch.stack([noise(10 + s, MASK) for s in range(len(maps))])
    total, targets = {}, torch.zeros_like(values)
    for s, rows in enumerate(maps):
        for i in DIALOGUES:
            at = [t for t in range(12) if MASK[i, t]]
            predicted = [values[s, i, t].item() for t in at] + [0.0]
            deltas = [rows[i].get(t, 0.0) + gamma * predicted[k + 1] - predicted[k] for k, t in enumerate(at)]
            for k, t in enumerate(at):
                gain = math.fsum((gamma * lam) ** n * delta for n, delta in enumerate(deltas[k:]))
                total[i, t] = total.get((i, t), 0.0) + gain
                targets[s, i, t] = gain + predicted[k]
    credit = estimate("ppo", sources, **BATCH, values=values, gamma=gamma, lam=lam)
    check(credit.advantages, whitened(total))
    torch.testing.assert_close(credit.value_targets, targets, atol=1e-5, rtol=1e-5)


def test_td_errors_are_advantages_and_teach_the_critic_the_return():
    outcome = torch.arange(6.0)
    values = noise(7, MASK)
    errors = torch.zeros(MASK.shape)
    for i in DIALOGUES:
        at = MASK[i].nonzero().flatten().tolist()
        predicted = [values[i, t].item() for t in at] + [outcome[i].item()]
        for k, t in enumerate(at):
            errors[i, t] = predicted[k + 1] - predicted[k]
    credit = estimators.ppo([Source("td_error", errors, MASK)], MASK, values[None])
    check(
        credit.advantages,
        whitened({(i, t): errors[i, t].item() for i in DIALOGUES for t in range(12) if MASK[i, t]}),
    )
    expected = torch.where(MASK, outcome[:, None], 0)
    torch.testing.assert_close(credit.value_targets[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_dropped_dialogue_leaves_its_group(name):
    """The others get what they would get had it never been there."""

    def credit_of(mask, dialogues, group_size):
        positions = TURN_ENDS[dialogues] & mask
        sources = [Source("method", torch.where(positions, ONE[0].rewards[dialogues], 0), positions)]
        values = noise(5, MASK)[None, dialogues] * mask
        return estimate(name, sources, response_mask=mask, group_size=group_size, values=values).advantages

    without_second = MASK[:GROUP].clone()
    without_second[1] = False
    dropped = credit_of(without_second, [0, 1, 2], GROUP)
    alone = credit_of(MASK[[0, 2]], [0, 2], group_size=2)
    assert not dropped[1].any() and alone.any()
    torch.testing.assert_close(dropped[[0, 2]], alone)


@pytest.mark.parametrize(
    "options", [{"baseline": "released"}, {"baseline": "trajectory"}, {"baseline": "to_go"}, None]
)
@SOURCES
def test_rows_of_any_order_by_group_ids(sources, options):
    name = "rloo" if options else "grpo"
    usual = estimate(name, sources, **BATCH, **(options or {})).advantages
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    shuffled = [Source(s.name, s.rewards[order], s.positions[order]) for s in sources]
    ids = torch.tensor([8, 8, 8, -1, -1, -1])[order]
    credit = estimate(name, shuffled, response_mask=MASK[order], group_size=ids, **(options or {}))
    torch.testing.assert_close(credit.advantages, usual[order])


def test_method_sources_against_the_parts_they_are_made_of():
    outcome, cost = torch.arange(6) / 5, torch.arange(6) / 100
    signals = {"outcome": outcome, "turn_ids": IDS, "token_rewards": noise(4, MASK)}
    for name, kinds in [
        ("trajectory_share", ["method"]),
        ("norm_itpo", ["method"]),
        ("prime", ["method", "length", "outcome"]),
    ]:
        sources = method_sources(name, signals | {"response_mask": MASK}, 2.0, 3.0, cost)
        assert [source.name for source in sources] == kinds
        total = sum(source.rewards for source in sources).sum(1)
        own = signals["token_rewards"].sum(1) if name == "prime" else outcome
        beside = 3 * outcome if name == "prime" else 0
        torch.testing.assert_close(total, 2 * own + beside - cost)
        assert all((source.rewards[~source.positions] == 0).all() for source in sources)


def test_the_length_penalty_is_a_source_of_its_own_for_rloo_only():
    assert [source.name for source in merge_length(THREE)] == ["method", "outcome"]
    torch.testing.assert_close(merge_length(THREE)[0].rewards, THREE[0].rewards + THREE[1].rewards)
    louder = [THREE[0], Source("length", 100 * THREE[1].rewards, TURN_ENDS), THREE[2]]
    for name in ("rloo", "grpo"):
        assert not torch.allclose(
            estimate(name, THREE, **BATCH).advantages, estimate(name, louder, **BATCH).advantages
        )


def test_grpo_ignores_the_coefficients_of_its_sources():
    scaled = [Source("method", 7 * ONE[0].rewards + 3, TURN_ENDS)]
    torch.testing.assert_close(
        estimate("grpo", scaled, **BATCH).advantages, estimate("grpo", ONE, **BATCH).advantages
    )


def test_bad_input():
    with pytest.raises(ValueError, match="unknown estimator 'reinforce'; choose one of rloo, grpo, ppo"):
        estimate("reinforce", ONE, **BATCH)
    with pytest.raises(ValueError, match="'ppo' needs values"):
        estimate("ppo", ONE, **BATCH, values=None)
    with pytest.raises(ValueError, match="'grpo' needs group_size; pass it by keyword"):
        estimate("grpo", ONE, response_mask=MASK)
    with pytest.raises(ValueError, match="2 sources of reward and 1 value functions"):
        estimate("ppo", THREE, **BATCH, values=torch.zeros(1, *MASK.shape))
