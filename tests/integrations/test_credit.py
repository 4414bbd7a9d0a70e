"""What engines call, against the trainer's own path and on batches that no engine of ours would make."""

import pytest
import torch

from itpo import attribution, turns
from itpo.attribution import known_methods
from itpo.config import allows
from itpo.estimators import ESTIMATORS, estimate, method_sources
from itpo.integrations.credit import check_pair, credit, group_ids

B, T = 8, 12
GENERATOR = torch.Generator().manual_seed(0)
MASK = torch.rand(B, T, generator=GENERATOR) < 0.6
MASK[:, 0] = False
MASK[3] = False  # dropped
KEYS = ["b", "a", "b", "a", "c", "a", "b", "b"]  # "c" is alone
TURN_IDS = turns.turn_ids(MASK)
SIGNALS = {
    "token_rewards": torch.where(MASK, torch.randn(B, T, generator=GENERATOR), 0),
    "judge_scores": torch.rand(turns.turn_mask(TURN_IDS).shape, generator=GENERATOR),
    "values": torch.randn(1, B, T, generator=GENERATOR),
    "input_ids": torch.randint(0, 3, (B, T), generator=GENERATOR),
}
OUTCOME = torch.rand(B, generator=GENERATOR)
PAIRS = [
    (name, column)
    for name, method in known_methods().items()
    for column in ESTIMATORS
    if allows(column, name) and "generator" not in method.function.__annotations__
]


@pytest.mark.parametrize(("name", "column"), PAIRS)
def test_it_is_the_methods_sources_through_the_estimator(name, column):
    ids, entry = group_ids(KEYS), known_methods()[name]
    signals = SIGNALS | {"outcome": OUTCOME, "turn_ids": TURN_IDS, "response_mask": MASK, "group_size": ids}
    values = SIGNALS["values"].expand(2 if column == "ppo" and not entry.carries_outcome else 1, B, T)
    sources = method_sources(name, signals | {"values": values}, 2.0, 0.5, 0.01 * MASK.sum(1))
    groups = 1 if entry.compares else ids
    wanted = estimate(column, sources, response_mask=MASK, group_size=groups, values=values)
    weights = {"coef": 2.0, "outcome_coef": 0.5, "length_cost": 0.01 * MASK.sum(1)}
    found = credit(name, column, MASK, OUTCOME, ids, **weights, **SIGNALS | {"values": values})
    assert torch.equal(found.advantages, wanted.advantages) and found.advantages.any()
    assert (found.value_targets is None) == (wanted.value_targets is None)
    assert not found.advantages[~MASK].any()


@pytest.mark.parametrize(("name", "column"), PAIRS)
def test_rows_may_come_in_any_order(name, column):
    ids, order = group_ids(KEYS), torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    usual = credit(name, column, MASK, OUTCOME, ids, **SIGNALS)
    shuffled = {key: (s[:, order] if key == "values" else s[order]) for key, s in SIGNALS.items()}
    found = credit(name, column, MASK[order], OUTCOME[order], ids[order], **shuffled)
    torch.testing.assert_close(found.advantages, usual.advantages[order])


def test_uniform_draws_from_the_generator_given():
    drawn = [
        credit("uniform", "rloo", MASK, OUTCOME, 2, generator=torch.Generator().manual_seed(seed)).advantages
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_options_reach_method_and_estimator():
    given = {"outcome": OUTCOME, "group_ids": 2, "token_rewards": SIGNALS["token_rewards"]}
    usual = credit("norm_itpo", "rloo", MASK, **given).advantages
    for options in (
        {"method_options": {"temperature": 4.0}},
        {"estimator_options": {"baseline": "to_go"}},
        {"length_cost": OUTCOME},
    ):
        assert not torch.allclose(credit("norm_itpo", "rloo", MASK, **given, **options).advantages, usual)


def test_prompts_are_numbered_whatever_their_keys():
    assert group_ids([("x", 1), ("x", 2), ("x", 1)]).tolist() == [0, 1, 0]
    assert group_ids([]).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: credit("norm_itpo", "rloo", MASK, OUTCOME, 2), "needs token_rewards"),
        (lambda: credit("judge", "grpo", MASK, OUTCOME, 2), "needs judge_scores"),
        (lambda: credit("none", "rloo", MASK, OUTCOME, 2), "unknown method 'none'"),
        (lambda: credit("itpo", "none", MASK, OUTCOME, 2), "unknown estimator 'none'"),
        (lambda: credit("trajectory_share", "ppo", MASK, OUTCOME, 2), "needs values"),
        (lambda: check_pair("value_model", "grpo"), "reads the values of a critic"),
        (lambda: check_pair("gigpo", "grpo"), "compares a prompt's rollouts itself"),
        (
            lambda: credit("trajectory_share", "rloo", MASK, OUTCOME, group_ids(KEYS[:3])),
            "3 group ids for 8 rows",
        ),
        (lambda: credit("trajectory_share", "rloo", MASK.long(), OUTCOME, 2), "must be a bool tensor"),
        (
            lambda: credit("norm_itpo", "rloo", MASK, OUTCOME, 2, method_options={"eta": 1.0}),
            "no option 'eta'",
        ),
    ],
)
def test_bad_input_is_named_in_a_line(unchecked, call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_pairs_are_those_that_a_run_may_have():
    for name in attribution.known_methods():
        for column in ESTIMATORS:
            if allows(column, name):
                check_pair(name, column)
            else:
                with pytest.raises(ValueError):
                    check_pair(name, column)
