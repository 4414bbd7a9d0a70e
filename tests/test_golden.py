"""The shipped functions against recorded inputs and outputs of the released computation, to 1e-5."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from itpo import advantages, attribution, prm, turns

CASES = sorted((Path(__file__).parent / "golden").glob("case_*.json"))
# Every source of reward enters the recorded advantages with this coefficient.
COEFFICIENT = 5.0


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def per_turn(rows, like):
    """Recorded values of each turn, ragged, as a padded tensor."""
    return torch.tensor([row + [0.0] * (like.shape[1] - len(row)) for row in rows], dtype=like.dtype)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(params=CASES, ids=lambda path: path.stem)
def case(request, dtype):
    record = json.loads(request.param.read_text())
    mask = torch.tensor(record["response_mask"]).bool()
    log_ratio = torch.tensor(record["log_ratio"], dtype=dtype)
    outcome = torch.tensor(record["outcome"], dtype=dtype)
    penalty = torch.tensor(record["length_penalty"], dtype=dtype)
    turn_ids = turns.turn_ids(mask)
    token_rewards = prm.token_rewards(log_ratio, torch.zeros_like(log_ratio), mask, record["beta"])
    return SimpleNamespace(
        record=record,
        mask=mask,
        log_ratio=log_ratio,
        outcome=outcome,
        penalty=penalty,
        turn_ids=turn_ids,
        token_rewards=token_rewards,
        rescaled=prm.batch_norm(token_rewards),
        share=turns.token_share(turn_ids, dtype),
    )


def test_there_are_three_cases():
    assert len(CASES) == 3


def test_process_reward_model(case, dtype):
    close(case.token_rewards, torch.tensor(case.record["token_reward"], dtype=dtype))
    close(case.rescaled, torch.tensor(case.record["token_reward_batch_norm"], dtype=dtype))
    loss = prm.outcome_loss(case.log_ratio, case.outcome, case.mask, case.record["beta"])
    close(loss, torch.tensor(case.record["bce_loss"], dtype=dtype))


def test_turns(case):
    close(case.share, per_turn(case.record["turn_token_share"], case.share))
    sums = turns.aggregate(case.rescaled, case.turn_ids)
    close(sums, per_turn(case.record["itpo_turn_sum"], sums))


@pytest.mark.parametrize("reduction", ["sum", "length_normalized"])
def test_norm_itpo_weights(case, reduction):
    scores = turns.aggregate(case.rescaled, case.turn_ids, reduction)
    weights = turns.normalize(scores, turns.turn_mask(case.turn_ids), case.record["temperature"])
    close(weights, per_turn(case.record[f"norm_itpo_weight_{reduction}"], weights))


def baselined_sources(case, method):
    """Sum the sources of reward of `method`, each with its own baseline, as the released code does."""

    def source(rewards, granularity):
        mask = attribution.reward_mask(granularity, case.turn_ids)
        return advantages.rloo(COEFFICIENT * rewards, mask, case.record["n"], baseline="released")

    penalty = turns.place_at_turn_ends(case.share * case.penalty[:, None], case.turn_ids)
    if method == "trajectory_share":
        scored = case.outcome + case.penalty
        return source(attribution.trajectory_share(scored, case.turn_ids), "trajectory")
    if method == "norm_itpo":
        split = attribution.norm_itpo(
            case.rescaled, case.outcome, case.turn_ids, case.record["temperature"], "length_normalized"
        )
        return source(split + penalty, "turn")
    if method == "itpo":
        return source(attribution.itpo(case.rescaled, case.turn_ids), "turn") + source(penalty, "turn")
    return source(attribution.prime(case.rescaled, case.mask), "token") + source(penalty, "turn")


@pytest.mark.parametrize("method", ["trajectory_share", "norm_itpo", "itpo", "prime"])
def test_rloo_returns_and_advantages(case, dtype, method):
    returns = advantages.returns(baselined_sources(case, method), case.mask)
    close(returns, torch.tensor(case.record["rloo"][method]["return"], dtype=dtype))
    whitened = advantages.whiten(returns, case.mask)
    close(whitened, torch.tensor(case.record["rloo"][method]["advantage"], dtype=dtype))
