"""The ledger on made-up results of the whole experiment: effects, refusals, and rulings by the rule of the protocol."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from own_method import ENTRY

from itpo.attribution import Claim
from itpo.runs.store import Run
from itpo.study import credit_tables, ledger, ledger_rewards, reward_dynamics
from itpo.study.experiment import get_experiment
from itpo.study.profiles import Profile, get_profile
from itpo.study.protocol import PRIMARY, REWARDS, pairs
from itpo.study.statistics import HOLDS, OPEN, REVERSED, SAME, cluster_effect, holm
from itpo.study.tables import as_text
from itpo.tasks.registry import TASKS

LAPTOP = get_profile("laptop")


def ruled(runs: pd.DataFrame) -> pd.DataFrame:
    return ledger.ledger(ledger.effects(runs, LAPTOP), LAPTOP).set_index(["claim", "part"])


@pytest.fixture(scope="module")
def lines(experiment_runs: pd.DataFrame) -> pd.DataFrame:
    return ruled(experiment_runs)


def test_primary_claims_are_ruled_as_they_were_planted(lines: pd.DataFrame) -> None:
    primary = lines[lines["family"] == "primary"]
    assert primary["ruling"].tolist() == [SAME, SAME, HOLDS, HOLDS, REVERSED, HOLDS, HOLDS, HOLDS]
    assert primary["effect"].round(-1).tolist() == pytest.approx([0, 0, 10, 10, -10, 0, 10, 10])
    assert primary["p_adjusted"].tolist() == pytest.approx(holm(primary["p"]).tolist())
    assert primary.index.tolist() == [(claim, "speed") for claim in PRIMARY]
    assert lines.loc[lines["family"] != "primary", "p_adjusted"].isna().all()
    assert not (lines["ruling"] == "not ruled").any() and (lines["reason"] == "").all()
    assert lines.loc[("P1", "speed"), ["clusters", "runs"]].tolist() == [18, 108]
    assert lines.loc[("P7", "speed"), ["clusters", "runs"]].tolist() == [30, 60]
    assert lines.loc[("C4", "uniform"), "ruling"] == HOLDS  # it loses
    text = as_text(lines.reset_index(), ledger.LEDGER_COLUMNS)
    assert text["claim"][0] == "P1, speed" and text["ruling"][0] == f"**{SAME}**"


def test_every_line_of_the_protocol_is_there(lines: pd.DataFrame) -> None:
    assert [(line.claim, line.part) for line in pairs(get_experiment("laptop"))] == lines.index.tolist()
    for claim in PRIMARY:
        assert {"speed", "level", "collapse", "length"} <= set(lines.loc[claim].index)
    assert lines.loc["P1"].index.str.startswith("at ").sum() == 3
    assert {"under RLOO", "under GRPO", "under PPO"} <= set(lines.loc["P1"].index)


def test_estimators_of_a_cluster_are_averaged_before_anything_else(
    experiment_runs: pd.DataFrame, lines: pd.DataFrame
) -> None:
    table = experiment_runs[(experiment_runs["seed"] < 106) & (experiment_runs["rate"] == 2e-3)]
    usual = table[(table["baseline"] != "to_go") & (table["arm"] != "itpo_released")]
    wide = usual.pivot_table(index=["task", "seed"], columns=["row", "estimator"], values="speed")
    gain = (wide["norm_itpo"] - wide["trajectory_share"]).mean(axis=1)
    expected = cluster_effect([100 * part.to_numpy() for _, part in gain.groupby("task")])
    line = lines.loc[("P1", "speed")]
    interval = expected.interval()
    assert line[["effect", "low", "high", "p"]].tolist() == pytest.approx(
        [interval.mean, interval.low, interval.high, expected.p]
    )
    second = wide["norm_itpo"] - wide["itpo"]
    most = second["ppo"] - second[["rloo", "grpo"]].mean(axis=1)
    assert lines.loc[("C2", "most under PPO"), "effect"] == pytest.approx(
        100 * most.groupby("task").mean().mean()
    )


def test_fewer_collapses_count_as_better_and_longer_dialogues_as_longer(
    experiment_runs: pd.DataFrame,
) -> None:
    signed = experiment_runs["arm"] == "signed_norm_itpo"
    runs = experiment_runs.assign(collapsed=np.where(signed, 0.0, 1.0), turns=np.where(signed, 5.0, 4.0))
    line = ruled(runs)
    assert line.loc[("P7", "collapse"), "effect"] == pytest.approx(100.0)
    assert line.loc[("P7", "length"), "effect"] == pytest.approx(1.0)
    assert line.loc[("P7", "length"), "unit"] == "turns"
    assert line.loc[("P7", "collapse"), "ruling"] == OPEN  # seeds that agree to the last digit show no spread


def test_the_best_rate_is_chosen_on_one_half_and_judged_on_the_other(experiment_runs: pd.DataFrame) -> None:
    """A method whose best rate was luck of the first seeds is judged at that rate on the others."""
    signed = experiment_runs["arm"] == "signed_norm_itpo"
    lucky = signed & (experiment_runs["rate"] == 5e-4) & (experiment_runs["seed"] < 103)
    unlucky = signed & (experiment_runs["rate"] == 5e-4) & (experiment_runs["seed"] >= 103)
    runs = experiment_runs.assign(speed=experiment_runs["speed"] + 0.5 * lucky - 0.5 * unlucky)
    line = ruled(runs).loc[("best of the sweep", "signed_norm_itpo")]
    assert line["effect"] < -30 and line["ruling"] == REVERSED and line["clusters"] == 9


@pytest.mark.parametrize(
    ("drop", "claim", "reason"),
    [
        (
            {"task": "medical", "row": "norm_itpo", "estimator": "ppo", "seed": 103},
            ("P1", "speed"),
            "missing run: medical, norm_itpo, rate 0.002, ppo, seed 103: train it to its end",
        ),
        (
            {"arm": "equal_share", "rate": 1e-3, "task": "math"},
            ("P2", "at 0.001"),
            "missing run: math, equal_share, rate 0.001, rloo, seed 100: train it to its end",
        ),
        (
            {"arm": "equal_share", "rate": 5e-4, "seed": 105},
            ("P2", "at 0.0005"),
            "missing run: math, equal_share, rate 0.0005, rloo, seed 105: train it to its end",
        ),
        (
            {"arm": "uniform", "seed": 109},
            ("P3", "level"),
            "missing run: math, uniform, rate 0.002, rloo, seed 109: train it",
        ),
    ],
)
def test_a_missing_run_is_named_and_its_claim_is_not_ruled(
    experiment_runs: pd.DataFrame, drop: dict, claim: tuple[str, str], reason: str
) -> None:
    gone = np.logical_and.reduce([experiment_runs[name] == value for name, value in drop.items()])
    line = ruled(experiment_runs[~gone])
    assert line.loc[claim, "ruling"] == "not ruled" and line.loc[claim, "reason"].startswith(reason)
    assert np.isnan(line.loc[claim, "effect"]) and line.loc[claim, "clusters"] == 0
    assert (
        reason.split(":")[0] in as_text(line.reset_index(), ledger.LEDGER_COLUMNS)["effect [95 %]"].str.cat()
    )
    others = line[(line["family"] == "primary") & (line["ruling"] != "not ruled")]
    assert len(others) >= 7  # the rest is ruled on, by Holm over all eight


def test_seeds_of_tuning_twins_and_unfinished_numbers_are_refused(experiment_runs: pd.DataFrame) -> None:
    mine = (experiment_runs["arm"] == "signed_norm_itpo") & (experiment_runs["task"] == "documents")
    one = experiment_runs[mine & (experiment_runs["rate"] == 2e-3)].iloc[[4]]
    used = ruled(pd.concat([experiment_runs, one.assign(seed=3)]))
    expected = "not a fresh seed: documents, signed_norm_itpo, rate 0.002, rloo, seed 3: those below 100"
    assert used.loc[("P7", "speed"), "reason"].startswith(expected)
    assert used.loc[("P2", "speed"), "reason"] == ""
    chose = ruled(pd.concat([experiment_runs, one.assign(seed=204)]))
    assert "signed_norm_itpo, rate 0.002, rloo, seed 204: " in chose.loc[("P7", "speed"), "reason"]
    twin = ruled(pd.concat([experiment_runs, one.assign(baseline="own")]))
    assert twin.loc[("P8", "speed"), "reason"].startswith("several runs: documents, signed_norm_itpo")
    unfinished = experiment_runs.assign(speed=experiment_runs["speed"].where(~mine))
    assert (
        ruled(unfinished)
        .loc[("P7", "speed"), "reason"]
        .startswith("missing run: documents, signed_norm_itpo")
    )
    assert ruled(unfinished).loc[("P7", "level"), "reason"] == ""  # whose numbers are there
    # The same run twice, of the band and of Table 1, is one run; with another number it is a second one.
    pd.testing.assert_frame_equal(ruled(pd.concat([experiment_runs, one])), ruled(experiment_runs))
    for pair in ([experiment_runs, one.assign(speed=0.0)], [one.assign(speed=0.0), experiment_runs]):
        assert ruled(pd.concat(pair)).loc[("P8", "speed"), "reason"].startswith("several runs: documents")


# A reader's own method


def with_own(runs: pd.DataFrame, lift: float = 0.05) -> pd.DataFrame:
    """The runs with those of a reader's method: a lift on trajectory-share with the same luck, in every run of Table 1."""
    like = (runs["row"] == "trajectory_share") & (runs["rate"] == 2e-3) & (runs["seed"] < 106)
    own = runs[like].assign(row="own_method:ENTRY", arm="", speed=lambda part: part["speed"] + lift)
    return pd.concat([runs, own], ignore_index=True)


def test_a_readers_claim_is_ruled_by_table_1_at_its_rate_and_seeds(experiment_runs: pd.DataFrame) -> None:
    found = ledger.effects(with_own(experiment_runs), LAPTOP)
    own = found[found["claim"] == "X1"]
    cells = own.groupby(["task", "estimator"])["seed"].apply(list)
    assert len(cells) == 9 and all(seeds == list(range(100, 106)) for seeds in cells)
    assert own["effect"].to_numpy() == pytest.approx(5.0) and (own["reason"] == "").all()
    line = ledger.ledger(found, LAPTOP).set_index("claim").loc["X1"]
    assert line["clusters"] == 18 and line["runs"] == 108
    ours = found[~found["claim"].isin(["X1", "X2"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(ours, ledger.effects(experiment_runs, LAPTOP))


def test_a_readers_rival_is_one_arm(experiment_runs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norm-ITPO is trained with two baselines; Table 1 has the released one."""
    monkeypatch.setattr(ledger, "get_method", lambda name: replace(ENTRY, claims=(Claim("X3", "norm_itpo"),)))
    runs = with_own(experiment_runs)
    own = ledger.effects(runs, LAPTOP).query("claim == 'X3' and task == 'math' and estimator == 'rloo'")
    sides = [
        runs[(runs["task"] == "math") & (runs["rate"] == 2e-3) & (runs["estimator"] == "rloo") & mask]
        for mask in (runs["row"] == ENTRY.name, runs["arm"] == "norm_itpo")
    ]
    mine, rival = (side.set_index("seed")["speed"].loc[100:105] for side in sides)
    assert own["effect"].tolist() == pytest.approx((100 * (mine - rival)).tolist())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda runs, own: runs[~(own & (runs["seed"] == 104) & (runs["estimator"] == "ppo"))],
            "missing run: math, own_method:ENTRY, rate 0.002, ppo, seed 104: train it to its end",
        ),
        (
            lambda runs, own: runs.assign(seed=runs["seed"].where(~own, runs["seed"] - 100)),
            "not a fresh seed: math, own_method:ENTRY, rate 0.002, rloo, seed 0: those below 100",
        ),
        (
            lambda runs, own: runs[(runs["row"] != "trajectory_share") | (runs["task"] != "medical")],
            "missing run: medical, trajectory_share, rate 0.002, rloo, seed 100: train it",
        ),
        (
            lambda runs, own: runs.assign(rate=runs["rate"].where(~own, 1e-3)),
            "missing run: math, own_method:ENTRY, rate 0.002, rloo, seed 100: train it",
        ),
    ],
)
def test_a_readers_claim_without_its_runs_is_not_ruled(
    experiment_runs: pd.DataFrame, change, reason: str
) -> None:
    runs = with_own(experiment_runs)
    line = ruled(change(runs, runs["row"] == "own_method:ENTRY"))
    line = line.loc[("X1", "own_method:ENTRY trajectory_share")]
    assert line["ruling"] == "not ruled" and line["reason"].startswith(reason)


def test_a_rival_with_a_critic_is_compared_under_ppo_alone(
    experiment_runs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ledger, "get_method", lambda name: replace(ENTRY, claims=(Claim("X3", "value_model"),))
    )
    runs = with_own(experiment_runs)
    found = ledger.effects(runs, LAPTOP)
    assert set(found.loc[found["claim"] == "X3", "estimator"]) == {"ppo"}
    (line,) = (
        ledger.effects(runs[(runs["row"] != ENTRY.name) | (runs["estimator"] != "ppo")], LAPTOP)
        .query("claim == 'X3'")
        .to_dict("records")
    )
    assert line["reason"].endswith("under an estimator that can train value_model: train it under ppo")


def test_bounds_of_correlations_count_the_seeds_that_have_one() -> None:
    """Six seeds of a task, one of them undefined, are five; a task without any has none."""
    line = {"claim": "C7", "part": "order", "estimator": "rloo", "runs": 2, "reason": ""}
    values = np.linspace(0.5, 0.7, 6)
    whole = pd.DataFrame([line | {"task": t, "seed": s, "effect": values[s]} for t in "ab" for s in range(6)])
    assert ledger.ledger(whole, LAPTOP, "ab")[["low", "high"]].notna().all(axis=None)
    one, all_of_b = whole["seed"].eq(3) & whole["task"].eq("b"), whole["task"].eq("b")
    for undefined, clusters in ((one, 11), (all_of_b, 6)):
        table = ledger.ledger(whole.assign(effect=whole["effect"].mask(undefined)), LAPTOP, "ab")
        assert table[["low", "high"]].isna().all(axis=None)
        assert (table["ruling"][0], table["clusters"][0]) == (OPEN, clusters)


def test_only_finished_runs_are_read(written_runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    frame = ledger.read([*written_runs, *written_runs[:2]])
    assert len(frame) == len(written_runs)
    monkeypatch.setattr(Run, "done", property(lambda run: run.config.seed != 1))
    assert set(ledger.read(written_runs)["seed"]) == {0, 2}


def test_cells_are_ruled_by_their_own_intervals(experiment_runs: pd.DataFrame) -> None:
    cells = ledger.cell_table(ledger.effects(experiment_runs, LAPTOP), LAPTOP)
    first = cells[(cells["claim"] == "P1") & (cells["part"] == "speed")]
    assert len(first) == 9 and (first["seeds"] == 6).all()
    signed = cells[(cells["claim"] == "P7") & (cells["part"] == "speed")]
    assert signed["seeds"].tolist() == [10, 10, 10] and HOLDS in signed["ruling"].tolist()


# Rewards


def test_reward_effects_are_those_of_the_rows_with_a_prm(
    judged_runs: list[Run], written_runs: list[Run], three_seeds: Profile
) -> None:
    found = ledger_rewards.reward_effects("math", judged_runs, three_seeds)
    values = {key: part.set_index("seed")["effect"] for key, part in found.groupby(["claim", "part"])}
    assert set(values) == {key for key in REWARDS if key[0] != "C9"} and all(
        len(x) == 3 for x in values.values()
    )
    taus = reward_dynamics.last_taus(reward_dynamics.monitor_curves(judged_runs))
    for seed in range(3):
        own = taus[taus["seed"] == seed]
        assert values["C6", "tau-b"][seed] == pytest.approx(own["value"].mean())
        assert values["C6", "share"][seed] == pytest.approx((own["value"] / own["ceiling"]).mean())
    slopes = credit_tables.slope_curves(judged_runs)
    for seed in range(3):
        growth = [
            x["value"].iloc[-1] - x["value"].iloc[0] for _, x in slopes[slopes["seed"] == seed].groupby("row")
        ]
        assert values["C8", "drift"][seed] == pytest.approx(np.mean(growth))
    with_others = ledger_rewards.reward_effects("math", written_runs, three_seeds)
    pd.testing.assert_frame_equal(with_others, found)
    table = ledger.ledger(found, three_seeds, tasks=["math"]).set_index(["claim", "part"])
    # Three seeds of a correlation have a mean by Fisher's z and no bounds; the monitor sets agree perfectly here.
    expected = np.tanh(np.arctanh(values["C6", "tau-b"]).mean())
    assert table.loc[("C6", "tau-b"), "effect"] == pytest.approx(expected)
    assert table.loc[("C7", "order"), "effect"] == pytest.approx(1.0, abs=1e-5)
    assert table.loc[("C6", "share"), ["low", "high"]].isna().all()
    assert set(table["family"]) == {"rewards"} and table["p_adjusted"].isna().all()


def test_rewards_of_a_missing_run_are_not_ruled(judged_runs: list[Run], three_seeds: Profile) -> None:
    found = ledger_rewards.reward_effects("math", judged_runs[:-1], three_seeds)
    table = ledger.ledger(found, three_seeds)
    assert set(table["ruling"]) == {"not ruled"} and len(table) == 6
    assert set(table["reason"]) == {"missing run: math, norm_itpo, rloo, seed 2: train it to its end"}


def test_claims_about_rewards_need_every_task_and_fresh_single_runs() -> None:
    """As claims about methods do: nothing is ruled on the rest, or on what does not belong to Table 1."""
    counts = {f"{side}_{name}": 4.0 for side in ("best", "worst") for name in ("hits", "chance", "place")}
    counts |= {"best_decisions": 8, "worst_decisions": 8, "estimator": "rloo"}
    frame = pd.DataFrame(
        [counts | {"row": row, "seed": seed} for row in ("itpo", "norm_itpo") for seed in LAPTOP.seeds]
    )

    def reasons(changed: pd.DataFrame, tasks: Sequence[str] = TASKS) -> set[str]:
        """What the ledger says of the claims about Norm-ITPO."""
        found = [ledger_rewards.agreement_effects(task, changed, LAPTOP) for task in tasks]
        table = ledger.ledger(pd.concat(found), LAPTOP)
        return set(table.loc[table["part"].str.startswith("norm_itpo"), "reason"])

    one = frame.iloc[[-1]]
    assert reasons(frame) == reasons(pd.concat([frame, one.assign(estimator="ppo")])) == {""}
    assert reasons(pd.concat([frame, one.assign(seed=150)])) == {""}  # which is none of Table 1's
    assert reasons(frame, ["math", "documents"]) == {"missing task: medical: pass its effects too"}
    (twin,) = reasons(pd.concat([frame, one]))
    assert twin == "several runs: oracle of math, norm_itpo, rloo, seed 105: pass one"
    for seed in (3, 203):
        (used,) = reasons(pd.concat([frame, one.assign(seed=seed)]))
        assert used.startswith(f"not a fresh seed: oracle of math, norm_itpo, rloo, seed {seed}: ")


def test_no_number_is_beyond_what_is_possible(experiment_runs: pd.DataFrame) -> None:
    """The difference of two shares lies within 100 points, and seeds that agree to the last digit have no interval."""
    signed = experiment_runs["arm"] == "signed_norm_itpo"
    always = np.where(signed, experiment_runs["seed"] == 100, 1.0)
    cells = ledger.cell_table(ledger.effects(experiment_runs.assign(collapsed=always), LAPTOP), LAPTOP)
    mine = cells[(cells["claim"] == "P7") & (cells["part"] == "collapse")]
    assert mine["effect"].tolist() == [90.0] * 3 and mine["high"].tolist() == [100.0] * 3
    assert (mine["low"] > 0).all() and (mine["ruling"] == HOLDS).all()
    none = ledger.cell_table(ledger.effects(experiment_runs.assign(collapsed=0.0), LAPTOP), LAPTOP)
    none = none[none["part"] == "collapse"]
    assert (none["effect"] == 0).all() and none[["low", "high"]].isna().all(axis=None)
    assert set(none["ruling"]) == {OPEN}


def test_agreement_effects_take_the_two_sides_apart(three_seeds: Profile) -> None:
    counts = {"best_hits": 6.0, "best_decisions": 10, "best_chance": 3.0, "best_place": 8}
    counts |= {"worst_hits": 4.0, "worst_decisions": 5, "worst_chance": 1.0, "worst_place": 4}
    lines = [
        {"estimator": "rloo", "row": row, "seed": seed, **counts}
        for row in ("itpo", "norm_itpo")
        for seed in range(3)
    ]
    frame = pd.DataFrame(lines)
    table = ledger.ledger(ledger_rewards.agreement_effects("math", frame, three_seeds), three_seeds, ["math"])
    assert table["effect"].tolist() == pytest.approx([30.0, -20.0, 60.0, 0.0] * 2)
    assert table["part"].tolist()[:2] == ["itpo, best, chance", "itpo, best, place"]
    missing = ledger.ledger(
        ledger_rewards.agreement_effects("math", frame.iloc[:-1], three_seeds), three_seeds, ["math"]
    )
    assert missing["ruling"].tolist()[4:] == ["not ruled"] * 4 and "seed 2" in missing["reason"].iloc[-1]
