"""Credit fidelity against brute force: scipy for each dialogue, cases counted by hand, noise of known size, and real runs."""

import dataclasses
import math

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from itpo import attribution, prm, trainer, turns
from itpo.config import Estimator, Method, RunConfig
from itpo.rollout.seeding import seeded
from itpo.runs.store import Store
from itpo.specs import Adapter, RuleJudge, TinyLM
from itpo.study import credit_fidelity, credit_tables, oracle, reward_dynamics
from itpo.study.oracle import OracleConfig, TurnValues
from itpo.study.tables import as_text


def truth_of(advantage, mask=None, error=0.0, halves=None):
    """An oracle that says these advantages."""
    values = torch.tensor(advantage, dtype=torch.float32)
    zero = torch.zeros_like(values)
    mask = torch.ones_like(values, dtype=torch.bool) if mask is None else torch.tensor(mask)
    return TurnValues(zero, values, zero, zero + error, halves or (values, values), mask)


def random_case(seed, dialogues=40, most=5):
    """Credit, truth and mask with many ties, and dialogues of one turn."""
    rng = np.random.default_rng(seed)
    mask = np.arange(most) < rng.integers(1, most + 1, size=dialogues)[:, None]
    credit, truth = (rng.integers(0, 4, size=mask.shape) / 4 * mask for _ in range(2))
    return credit, truth, mask


@pytest.mark.parametrize("seed", range(4))
def test_both_statistics_are_scipys(seed):
    credit, truth, mask = random_case(seed)
    assert credit_fidelity.pooled(credit, truth, mask) == pytest.approx(
        stats.spearmanr(credit[mask], truth[mask]).statistic
    )
    found = []
    for c, t, m in zip(credit, truth, mask, strict=True):
        if m.sum() > 1 and len(set(t[m])) > 1:
            found.append(stats.spearmanr(c[m], t[m]).statistic if len(set(c[m])) > 1 else 0.0)
    assert 0 < len(found) < len(mask) and 0.0 in found
    assert credit_fidelity.within(credit, truth, mask) == pytest.approx(np.mean(found))


def test_what_cannot_be_ordered_is_nan():
    one = np.ones((3, 1), dtype=bool)
    assert math.isnan(credit_fidelity.within(np.eye(3)[:, :1], np.eye(3)[:, :1], one))
    assert math.isnan(credit_fidelity.pooled(np.ones((3, 1)), np.eye(3)[:, :1], one))


def test_rounding_breaks_no_tie():
    third = torch.tensor([[0.0, 1 / 3, 2 / 3]])
    values = TurnValues(third, third + 1 / 3, third, third, (third, third), third >= 0)
    assert len(set(values.advantage[0].tolist())) > 1  # float32 does
    assert len(set(credit_fidelity.true_advantage(values)[0])) == 1


def noisy(noise, dialogues=4000, most=4, seed=0):
    """A true credit, and an oracle whose halves each err by ``noise`` independently."""
    generator = torch.Generator().manual_seed(seed)
    exact = torch.randn(dialogues, most, generator=generator)
    halves = tuple(exact + noise * torch.randn(exact.shape, generator=generator) for _ in range(2))
    whole = sum(halves) / 2
    mask = torch.arange(most) < torch.randint(2, most + 1, (dialogues, 1), generator=generator)
    halves = tuple(half * mask for half in halves)
    return (exact * mask).double().numpy(), truth_of((whole * mask).tolist(), mask.tolist(), halves=halves)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.5])
def test_ceiling_is_what_the_exact_truth_reaches(noise):
    exact, truth = noisy(noise)
    mask, worth = truth.turn_mask.numpy(), credit_fidelity.true_advantage(truth)
    # Linear correlation of the whole with the exact truth, 1 / sqrt(1 + noise^2 / 2), is nearly Spearman's.
    assert credit_fidelity.ceiling(truth, "pooled") == pytest.approx((1 + noise**2 / 2) ** -0.5, abs=0.05)
    for kind, statistic in credit_fidelity.STATISTICS.items():
        assert credit_fidelity.ceiling(truth, kind) == pytest.approx(statistic(exact, worth, mask), abs=0.03)


def test_reliability_of_two_measurements():
    _, truth = noisy(1.0)
    _, again = noisy(1.0, seed=0)
    fresh = [half + torch.randn(half.shape) * truth.turn_mask for half in noisy(0.0)[1].halves]
    other = (sum(fresh) / 2).double().numpy()
    measured = credit_fidelity.pooled(credit_fidelity.true_advantage(again), other, truth.turn_mask.numpy())
    assert credit_fidelity.reliability(truth, "pooled") == pytest.approx(measured, abs=0.03)


def test_reliability_without_a_signal():
    half = torch.tensor([[0.0, 0.5, 1.0]])
    for kind in credit_fidelity.STATISTICS:
        opposite = truth_of([[0.0, 0.1, 0.0]], halves=(half, -half))
        assert credit_fidelity.reliability(opposite, kind) == credit_fidelity.ceiling(opposite, kind) == 0.0
        silent = truth_of([[0.0, 0.0, 0.0]], halves=(half * 0, half * 0))
        assert math.isnan(credit_fidelity.reliability(silent, kind))
    # One half orders the turns, the other does not: nothing was found twice.
    assert credit_fidelity.reliability(truth_of([[0.0, 0.5, 0.5]], halves=(half * 0, half)), "within") == 0.0
    assert credit_fidelity.reliability(truth_of([[0.0, 0.5, 0.5]], halves=(half, half * 0)), "within") == 0.0
    with pytest.raises(ValueError, match="kind is 'best'; it must be one of pooled, within"):
        credit_fidelity.reliability(silent, "best")


def test_agreement_counted_by_hand():
    advantage = [[0.5, 0.1, 0.0], [0.5, 0.4, 0.0], [0.0, 0.6, -0.6], [0.9, 0.0, 0.0], [0.2, 0.2, 0.2]]
    mask = [[True] * 3, [True] * 3, [True] * 3, [True, False, False], [True] * 3]
    truth = truth_of(advantage, mask, error=0.1)
    liked = np.array([[3.0, 1.0, 2.0], [9.0, 0.0, 0.0], [0.5, 0.5, 0.1], [1.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    # Two standard errors of a difference are 0.28: dialogues 0 and 2 are clear about the best turn, 1 and 2 about the worst.
    best = credit_fidelity.agreement(liked, truth)
    assert (best.hits, best.decisions, best.chance) == (1.5, 2, pytest.approx(2 / 3))
    worst = credit_fidelity.agreement(liked, truth, "worst")
    assert (worst.hits, worst.decisions, worst.chance) == (1.5, 2, pytest.approx(2 / 3))
    # The best turns are turn 1 of three and turn 2 of three, the worst both the last.
    assert best.places == {0: 1, 1: 1, -2: 1, -3: 1} and worst.places[-1] == worst.places[2] == 2
    assert credit_fidelity.agreement(liked, truth, certainty=0.5).decisions == 3
    assert credit_fidelity.agreement(liked, truth, certainty=99.0).decisions == 0
    with pytest.raises(ValueError, match="side is 'first'"):
        credit_fidelity.agreement(liked, truth, "first")


def test_every_rival_has_to_be_led_clearly():
    """The third best turn may be the one that could still be the best, if it was measured badly."""
    truth = truth_of([[0.9, 0.5, 0.4]])
    errors = torch.tensor([[0.0, 0.0, 0.5]])
    assert credit_fidelity.agreement(np.eye(3)[:1], truth).decisions == 1
    assert (
        credit_fidelity.agreement(np.eye(3)[:1], dataclasses.replace(truth, after_se=errors)).decisions == 0
    )


# Real runs

SMALL = RunConfig(
    method=Method("trajectory_share", coef=3.0),
    seed=0,
    steps=1,
    max_turn_tokens=14,
    model=TinyLM(hidden_size=32, layers=2, heads=2, steps=150, dialogues_per_step=8, learning_rate=1e-2),
    adapter=Adapter(2, 4),
    prompts=2,
    rollouts=2,
    policy_minibatches=2,
    prm_minibatches=2,
    critic_minibatches=2,
    warmup=1,
    estimator=Estimator("ppo"),
    eval_every=2,
    eval_dialogues=2,
    monitor_dialogues=24,
    monitor_every=1,
    judge=RuleJudge(error_rate=0.3),
)
RUNS = [("ppo", row, 0) for row in attribution.METHODS]
RUNS += [
    ("rloo", "trajectory_share", 0),
    *(("rloo", row, seed) for row in ("itpo", "norm_itpo") for seed in (0, 1)),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run and its oracle for each of RUNS, and the reference's oracle under "reference"."""
    store, found = Store(tmp_path_factory.mktemp("runs")), {}
    jaxtyping.config.update(
        "jaxtyping_disable", True
    )  # as the fixture `unchecked` does for a test: much faster

    def finish(config, work):
        run = store.open(config)
        work(config, run)
        return run

    for estimator, row, seed in RUNS:
        method = Method(row, coef=3.0, beta=0.5, outcome_coef=2.0 * (row in ("prime", "itpo")))
        config = dataclasses.replace(SMALL, method=method, estimator=Estimator(estimator), seed=seed)
        run = finish(config, trainer.train)
        found[estimator, row, seed] = run, finish(OracleConfig(config, continuations=2), oracle.measure)
    found["reference"] = finish(OracleConfig(config, "reference", 8), oracle.measure)
    jaxtyping.config.update("jaxtyping_disable", False)
    return found


def expected_turns(run, measured):
    """What the row pays each turn of each dialogue, and what it prefers, in plain loops."""
    _, signals = oracle.read(measured)
    method, last = run.config.method, run.monitor()[-1][1] if run.monitor() else {}
    split = attribution.uniform(torch.ones(24), signals["turn_ids"], seeded("fidelity", run.config.seed))
    for p, ids in enumerate(signals["turn_ids"].tolist()):
        reward, count = signals["outcome"][p].item(), max(ids) + 1
        at = [[t for t, k in enumerate(ids) if k == turn] for turn in range(count)]
        if method.name in ("prime", "itpo", "norm_itpo"):
            sums = [sum(method.beta * last["log_ratio"][p, t].item() for t in tokens) for tokens in at]
            weights = [math.exp(s / method.options.get("temperature", 0.4)) for s in sums]
            norm = [w / sum(weights) for w in weights]
            yield (reward, norm) if method.name == "norm_itpo" else (None, sums)
        elif method.name == "value_model":
            says = [last["values"][0, p, tokens[0]].item() / 3.0 for tokens in at] + [reward]
            yield None, [says[k + 1] - says[k] for k in range(count)]
        elif method.name == "judge":
            given = signals["judge_scores"][p, :count].tolist()
            yield reward, [x / sum(given) if sum(given) else 1 / count for x in given]
        elif method.name == "uniform":
            yield reward, [split[p, tokens[-1]].item() for tokens in at]
        else:
            yield reward, [1.0] * count


@pytest.mark.parametrize("key", RUNS, ids=str)
def test_turns_are_scored_as_the_row_pays_them(trained, key):
    run, measured = trained[key]
    scored = credit_fidelity.score_turns(run, measured)
    mask = scored.truth.turn_mask.numpy()
    assert (scored.credit[~mask] == 0).all() and (scored.preference[~mask] == 0).all()
    failed = 0
    for p, (reward, likes) in enumerate(expected_turns(run, measured)):
        pays = likes if reward is None else [reward * like for like in likes]
        np.testing.assert_allclose(scored.credit[p, mask[p]], pays, atol=1e-5)
        np.testing.assert_allclose(scored.preference[p, mask[p]], likes, atol=1e-5)
        failed += reward == 0.0
    row = attribution.get_method(run.config.method.name)
    assert failed or not row.carries_outcome or row.needs_values  # a case that the shares alone can order


def test_values_telescope_to_the_outcome_whatever_the_weight(trained):
    run, measured = trained["ppo", "value_model", 0]
    scored = credit_fidelity.score_turns(run, measured)
    start = run.monitor()[-1][1]["values"][0][:, :]
    ids = oracle.read(measured)[1]["turn_ids"]
    first = start[torch.arange(24), (ids == 0).long().argmax(1)].numpy() / 3.0
    np.testing.assert_allclose(scored.credit.sum(1), scored.outcome - first, atol=1e-5)
    again = credit_fidelity.score_turns(run, measured, Method("value_model", coef=7.0))
    np.testing.assert_array_equal(again.credit, scored.credit)


def test_another_method_reads_the_same_prm(trained):
    run, measured = trained["rloo", "norm_itpo", 0]
    method = run.config.method.with_settings(reduction="mean", scale="released", temperature=0.1)
    scored = credit_fidelity.score_turns(run, measured, method)
    _, signals = oracle.read(measured)
    ids = signals["turn_ids"]
    rewards = prm.batch_norm(prm.drop_last_token(0.5 * run.monitor()[-1][1]["log_ratio"], ids >= 0))
    weights = turns.normalize(turns.aggregate(rewards, ids, "mean"), turns.turn_mask(ids), 0.1)
    np.testing.assert_allclose(scored.preference, weights.numpy(), atol=1e-6)
    itpo = credit_fidelity.score_turns(run, measured, Method("itpo", beta=0.5))
    assert (
        credit_fidelity.within(
            itpo.credit,
            credit_fidelity.score_turns(run, measured).preference,
            weights.numpy() > 0,
        )
        == 1.0
    )


def test_options_change_what_they_can(trained):
    pairs = [trained["rloo", "norm_itpo", seed] for seed in (0, 1)]
    options = [
        {"temperature": t, "reduction": kind} for kind in ("mean", "length_normalized") for t in (0.2, 0.8)
    ]
    table = credit_tables.option_table(*zip(*pairs, strict=True), options)
    assert len(table) == 8 and table.columns.tolist() == [
        "temperature",
        "reduction",
        "seed",
        "pooled",
        "preference",
    ]
    assert table.groupby("seed")["preference"].nunique().tolist() == [1, 1]  # softmax keeps the order
    assert table["pooled"].between(-1, 1).all()


def test_pairs_that_do_not_belong_together(trained):
    run, measured = trained["ppo", "itpo", 0]
    with pytest.raises(ValueError, match="measured the policy of another run than .* use OracleConfig"):
        credit_fidelity.score_turns(run, trained["ppo", "prime", 0][1])
    smaller = dataclasses.replace(run.config, monitor_dialogues=3)
    other = type(run)(run.folder, smaller)
    with pytest.raises(ValueError, match="other dialogues than those of .* differs in monitor_dialogues"):
        credit_fidelity.score_turns(other, measured)
    # Another judge would give other scores, and others would have held other dialogues.
    for change in ({"judge": RuleJudge(0.0)}, {"thought_credit": False}, {"max_rows": 1}):
        (name,), other = change, type(run)(run.folder, dataclasses.replace(run.config, **change))
        with pytest.raises(ValueError, match=f"other dialogues than those of .* differs in {name}$"):
            credit_fidelity.score_turns(other, trained["reference"])
    without_prm, its_oracle = trained["rloo", "trajectory_share", 0]
    with pytest.raises(ValueError, match="needs token_rewards"):
        credit_fidelity.score_turns(without_prm, its_oracle, Method("itpo"))


def test_a_line_for_each_run(trained):
    pairs = [trained[key] for key in RUNS]
    runs, oracles = zip(*pairs, strict=True)
    for measured in (oracles, [trained["reference"]] * len(runs)):
        frame = credit_tables.fidelity_table(runs, measured)
        assert [tuple(x) for x in frame[["estimator", "row", "seed"]].values] == RUNS
        shared = frame[frame["row"] == "trajectory_share"]
        assert (shared["within"] == 0).all() and (shared["preference"] == 0).all()
        for side in credit_tables.SIDES:  # it can only guess
            assert shared[f"{side}_hits"].to_numpy() == pytest.approx(shared[f"{side}_chance"].to_numpy())
            assert (frame[f"{side}_place"] <= frame[f"{side}_decisions"]).all()
        assert (credit_tables.agreement_shares(frame)["decisions"] > 0).all()
        assert frame["success"].tolist() == [run.summary()["success"] for run in runs]
    assert frame["pooled_ceiling"].nunique() == 1  # one oracle
    text = as_text(credit_tables.fidelity_summary(frame), credit_tables.FIDELITY_COLUMNS)
    assert text["estimator"].tolist() == ["PPO"] * 7 + ["RLOO"] * 3
    counts = credit_tables.agreement_text(frame)
    assert counts["both"].tolist()[-4:] == ["58 of 64", "48 of 64", "47 of 64", "16 of 64"]


def test_the_two_sides_are_ruled_on_apart_and_against_two_rivals():
    """Seeds without a decision are left out; a method that only knows the place is no better than the place."""
    columns = ["seed", "best_hits", "best_decisions", "best_chance", "best_place"]
    lines = [(0, 8.0, 10, 3.0, 8), (1, 9.0, 10, 3.0, 9), (2, 7.0, 10, 3.0, 7), (3, 0.0, 0, 0.0, 0)]
    frame = pd.DataFrame(lines, columns=columns).assign(
        estimator="rloo", row="itpo", best_place_name="turn 2"
    )
    worst = {f"worst_{name}": 0 for name in ("hits", "decisions", "chance", "place")}
    verdicts = credit_tables.agreement_verdicts(frame.assign(**worst, worst_place_name="turn 1"))
    assert [verdict.effect.n for verdict in verdicts] == [3, 3]
    assert [verdict.ruling for verdict in verdicts] == ["holds", "open"]
    assert verdicts[0].effect.mean == pytest.approx(0.5) and verdicts[1].effect.mean == 0.0
    assert verdicts[1].statement.endswith("than always naming turn 2 hits")


def test_order_curves_are_scipys(trained):
    runs = [trained[key][0] for key in RUNS]
    curves = credit_tables.order_curves(runs, min_turns=2)
    assert set(zip(curves["estimator"], curves["pair"], curves["seed"], strict=True)) == {
        ("ppo", "same seed", 0),
        ("rloo", "same seed", 0),
        ("rloo", "same seed", 1),
        ("rloo", "other seed", 0),
    }
    for pair, rival in (("same seed", ("rloo", "itpo", 0)), ("other seed", ("rloo", "norm_itpo", 1))):
        first, second = (
            reward_dynamics.read_monitor(trained[key][0]) for key in (("rloo", "norm_itpo", 0), rival)
        )
        found = [
            stats.spearmanr(first.turn_rewards[-1, p, :k], second.turn_rewards[-1, p, :k]).statistic
            for p, k in enumerate(first.turn_mask.sum(1))
            if k >= 2
        ]
        chosen = curves[(curves["estimator"] == "rloo") & (curves["pair"] == pair) & (curves["seed"] == 0)]
        assert chosen["step"].tolist() == [0, 1]
        assert chosen["value"].iloc[-1] == pytest.approx(np.mean(found))


def test_slopes_are_scipys(trained):
    runs = [trained[key][0] for key in RUNS]
    curves = credit_tables.slope_curves(runs)
    assert set(curves["row"]) == {"prime", "itpo", "norm_itpo"}
    said = reward_dynamics.read_monitor(trained["rloo", "itpo", 1][0])
    expected = [stats.linregress(said.outcome, step.sum(-1)).slope for step in said.token_rewards]
    chosen = curves[(curves["row"] == "itpo") & (curves["seed"] == 1)]
    np.testing.assert_allclose(chosen["value"], expected, rtol=1e-6, atol=1e-12)


def test_oracle_table_measures_itself(trained):
    truth, _ = oracle.read(trained["reference"])
    (line,) = credit_tables.oracle_table({"reference": truth}).to_dict("records")
    known = truth.turn_mask.numpy()
    assert line["turns"] == known.sum()
    assert line["s.d. of advantages"] == pytest.approx(truth.advantage.numpy()[known].std(ddof=1))
    assert line["their standard error"] == pytest.approx(
        (truth.advantage_se.numpy()[known] ** 2).mean() ** 0.5
    )
    assert line["ceiling, within"] == credit_fidelity.ceiling(truth, "within")
