"""Statistics against brute force and scipy, and the tables that are made of them against runs written by hand."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from itpo import analysis, tables
from itpo.embedded import build_tokenizer
from itpo.profiles import Profile, get_profile
from itpo.runs import Run, Store
from itpo.tasks import get_task

SEEDS = st.integers(0, 2**16)
SMOKE = get_profile("smoke")


def concordance(a: np.ndarray, b: np.ndarray) -> tuple[int, int, int]:
    """Concordant minus discordant pairs, and the pairs untied in each list, by counting."""
    pairs = list(itertools.combinations(range(len(a)), 2))
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in pairs]
    return int(sum(x * y for x, y in signs)), sum(x != 0 for x, _ in signs), sum(y != 0 for _, y in signs)


def ragged(seed: int, rows: int = 6, items: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two score lists with ties, and a mask whose rows have 0 to ``items`` items."""
    rng = np.random.default_rng(seed)
    mask = np.arange(items) < rng.integers(0, items + 1, rows)[:, None]
    return rng.integers(0, 4, (rows, items)) * 1.0, rng.integers(0, 4, (rows, items)) * 1.0, mask


# Rankings of dialogues


@given(SEEDS)
def test_kendall_counts_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, outcomes = rng.integers(0, 5, 9) * 1.0, rng.integers(0, 2, 9) * 1.0
    surplus, untied, untied_outcomes = concordance(scores, outcomes)
    if untied and untied_outcomes:
        expected = surplus / math.sqrt(untied * untied_outcomes)
        assert analysis.kendall(scores, outcomes) == pytest.approx(expected)
    else:
        assert math.isnan(analysis.kendall(scores, outcomes))


@given(SEEDS)
def test_auc_counts_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, won = rng.integers(0, 4, 9), rng.random(9) > 0.5
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[won] for b in scores[~won]]
    assert analysis.ranking_auc(scores, won) == pytest.approx(
        np.mean(pairs) if pairs else np.nan, nan_ok=True
    )


@given(SEEDS, st.integers(2, 12))
def test_kendall_is_auc_times_its_ceiling(seed: int, dialogues: int) -> None:
    rng = np.random.default_rng(seed)
    scores, outcomes = rng.permutation(dialogues), (rng.random(dialogues) > 0.5) * 1.0
    ceiling = float(analysis.kendall_ceiling(outcomes.mean(), dialogues))
    expected = (2 * analysis.ranking_auc(scores, outcomes) - 1) * ceiling
    assert analysis.kendall(scores, outcomes) == pytest.approx(expected, nan_ok=True)


def test_ceiling_needs_two_dialogues() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        analysis.kendall_ceiling(0.5, 1)


# Intervals over seeds


@pytest.mark.parametrize("values", [[0.1, 0.4], [0.3, 0.1, 0.25], [1.0, 2.0, 4.0, 8.0, 16.0]])
def test_t_interval_is_scipys(values: list[float]) -> None:
    found, expected = analysis.t_interval(values), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), *expected))


def test_t_interval_covers_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(0.5, 0.1, (2000, 3))
    covered = [i.low < 0.5 < i.high for i in map(analysis.t_interval, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_bootstrap_interval_is_that_of_all_resamples() -> None:
    values = [0.1, 0.2, 0.6]
    means = np.sort([np.mean(sample) for sample in itertools.product(values, repeat=3)])
    found = analysis.bootstrap_interval(values, np.random.default_rng(0))
    assert found.low in means[:3] or found.low == pytest.approx(np.percentile(means, 2.5), abs=0.02)
    assert (found.low, found.high) == pytest.approx((0.1, 0.6), abs=0.02)


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_bootstrap_covers_no_more_than_stated(seeds: int) -> None:
    draws = np.random.default_rng(1).normal(size=(20000, seeds))
    inside = (draws.min(1) < 0) & (draws.max(1) > 0)
    assert inside.mean() == pytest.approx(analysis.bootstrap_coverage(seeds), abs=0.01)


@pytest.mark.parametrize(
    "interval", [analysis.t_interval, lambda v: analysis.bootstrap_interval(v, np.random.default_rng(0))]
)
@pytest.mark.parametrize(("values", "mean", "n"), [([], np.nan, 0), ([0.5], 0.5, 1), ([np.nan, 0.5], 0.5, 1)])
def test_too_few_seeds_give_no_interval(
    interval: Callable[..., analysis.Interval], values: list[float], mean: float, n: int
) -> None:
    found = interval(values)
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert math.isnan(found.low) and math.isnan(found.high) and found.n == n
    assert f"no interval from {n} seed" in str(found)


def test_intervals_ignore_order_and_bootstrap_follows_its_generator() -> None:
    values = [0.3, 0.1, 0.7, 0.5]
    assert analysis.t_interval(values).low == pytest.approx(analysis.t_interval(values[::-1]).low)
    first, second = (analysis.bootstrap_interval(values, np.random.default_rng(7)) for _ in range(2))
    assert first == second


# Curves


@given(SEEDS, st.integers(2, 8))
def test_area_is_the_mean_of_the_interpolated_curve(seed: int, points: int) -> None:
    rng = np.random.default_rng(seed)
    steps, values = np.cumsum(rng.integers(1, 9, points)), rng.random(points)
    dense = np.interp(np.linspace(steps[0], steps[-1], 20001), steps, values)
    assert analysis.area_under_curve(steps, values) == pytest.approx(dense.mean(), abs=1e-3)


def test_area_of_a_point_is_undefined_and_steps_must_rise() -> None:
    assert math.isnan(analysis.area_under_curve([3], [0.5]))
    with pytest.raises(ValueError, match="must rise"):
        analysis.area_under_curve([0, 0], [0.5, 0.5])


@given(st.lists(st.sampled_from([0.2, 0.8, 0.9, math.nan]), max_size=6))
def test_step_above_for_good_is_the_first_that_lasts(values: list[float]) -> None:
    lasting = [s for s in range(len(values)) if all(v >= 0.8 for v in values[s:])]
    expected = float(lasting[0]) if lasting else math.nan
    assert analysis.step_above_for_good(range(len(values)), values, 0.8) == pytest.approx(
        expected, nan_ok=True
    )


# Rankings inside dialogues


@given(SEEDS)
def test_spearman_rows_is_scipys_on_every_row(seed: int) -> None:
    first, second, mask = ragged(seed)
    for a, b, keep, found in zip(
        first, second, mask, analysis.spearman_rows(first, second, mask), strict=True
    ):
        a, b = a[keep], b[keep]
        defined = len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0
        assert found == pytest.approx(stats.spearmanr(a, b).statistic if defined else np.nan, nan_ok=True)


@given(SEEDS)
def test_spearman_sees_order_only_and_nothing_off_the_mask(seed: int) -> None:
    first, second, mask = ragged(seed)
    expected = analysis.spearman_rows(first, second, mask)
    stretched = np.where(mask, np.exp(first), np.inf)
    wider = [np.pad(x, ((0, 0), (0, 2)), constant_values=9.0) for x in (stretched, second)]
    found = analysis.spearman_rows(wider[0], wider[1], np.pad(mask, ((0, 0), (0, 2))))
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(analysis.spearman_rows(-first, second, mask), -expected)


def test_spearman_to_final_ends_at_one_or_nan() -> None:
    values = np.random.default_rng(0).random((4, 3, 5))
    values[:, 2] = 1.0
    found = analysis.spearman_to_final(values, np.ones((3, 5), dtype=bool))
    assert found.shape == (4, 3)
    np.testing.assert_array_equal(found[-1], [1.0, 1.0, np.nan])
    np.testing.assert_allclose(analysis.mean_defined(found)[0], found[0, :2].mean())


@given(SEEDS)
def test_samples_and_shuffles_keep_to_the_mask(seed: int) -> None:
    values, _, mask = ragged(seed)
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, len(mask))
    drawn = analysis.sample_items(mask, counts, rng)
    assert not (drawn & ~mask).any()
    np.testing.assert_array_equal(drawn.sum(1), np.minimum(counts, mask.sum(1)))
    shuffled = np.take_along_axis(values, analysis.shuffle_items(mask, rng), 1)
    np.testing.assert_array_equal(shuffled[~mask], values[~mask])
    for before, after, keep in zip(values, shuffled, mask, strict=True):
        assert sorted(before[keep]) == sorted(after[keep])


def test_samples_and_shuffles_are_uniform() -> None:
    mask, rng = np.tile([True, False, True, True], (6000, 1)), np.random.default_rng(0)
    chosen = analysis.sample_items(mask, np.full(len(mask), 2), rng).mean(0)
    np.testing.assert_allclose(chosen, [2 / 3, 0, 2 / 3, 2 / 3], atol=0.02)
    orders = {tuple(row) for row in analysis.shuffle_items(mask, rng).tolist()}
    assert len(orders) == 6 and all(row[1] == 1 for row in orders)


def test_rank_stability_is_a_loop_over_dialogues() -> None:
    rng = np.random.default_rng(0)
    rewards, ids = rng.random((3, 4, 12)), np.tile([0, 0, 0, -1, 1, 1, 1, -1, 2, 2, 2, 2], (4, 1))
    found = analysis.rank_stability(rewards, ids, rng)
    for step in range(3):
        tokens, turns = [], []
        for p in range(4):
            now, end = rewards[step, p], rewards[-1, p]
            sums = [[row[ids[p] == k].sum() for k in range(3)] for row in (now, end)]
            turns.append(stats.spearmanr(*sums).statistic)
            tokens.append(stats.spearmanr(now[ids[p] >= 0], end[ids[p] >= 0]).statistic)
        assert found["turns"][step] == pytest.approx(np.mean(turns))
        assert found["tokens"][step] == pytest.approx(np.mean(tokens))
    assert all(values[-1] == pytest.approx(1.0) for values in found.values())


def test_controls_of_rank_stability_do_what_they_are_for() -> None:
    """Where a stable part belongs to whole turns, summing shuffled tokens must lose it; single tokens hardly see it."""
    rng, ids = np.random.default_rng(0), np.tile(np.repeat([0, 1, 2, 3], 8), (200, 1))
    by_turn = rng.normal(size=(200, 4)).repeat(8, axis=1)
    noise = rng.normal(size=(2, 200, 32))
    found = analysis.rank_stability(0.5 * by_turn + noise, ids, rng, draws=5)
    assert found["turns"][0] > found["token groups"][0] + 0.1
    assert found["turns"][0] > found["few tokens"][0] + 0.1
    assert found["few tokens"][0] == pytest.approx(found["tokens"][0], abs=0.05)


def test_relative_rewards_keep_signs() -> None:
    values = np.random.default_rng(0).normal(size=(5, 4))
    found = analysis.relative_to_largest(values)
    np.testing.assert_allclose(np.abs(found).max(1), 1.0)
    np.testing.assert_array_equal(np.sign(found), np.sign(values))


# Verdicts


@pytest.mark.parametrize(
    ("effects", "expected", "ruling"),
    [
        ([0.10, 0.11, 0.12], "gain", "replicated"),
        ([-0.10, -0.11, -0.12], "gain", "not replicated"),
        ([-0.1, 0.2, 0.1], "gain", analysis.INCONCLUSIVE),
        ([0.001, -0.001, 0.0], "no gain", "replicated"),
        ([-0.10, -0.11, -0.12], "no gain", "replicated"),
        ([0.010, 0.011, 0.012], "no gain", "not replicated"),
        ([-0.1, 0.2, 0.1], "no gain", analysis.INCONCLUSIVE),
        ([0.5], "gain", analysis.INCONCLUSIVE),
        ([], "gain", analysis.INCONCLUSIVE),
        ([0.1, 0.1], "gain", analysis.INCONCLUSIVE),
        ([0.1, 0.1], "no gain", analysis.INCONCLUSIVE),
    ],
)
def test_rulings_follow_their_rule(effects: list[float], expected: str, ruling: str) -> None:
    verdict = analysis.judge("C", "it helps", effects, expected, margin=0.03)
    assert verdict.ruling == ruling
    assert ruling in verdict.sentence() and "replicated" in verdict.rule


def test_a_claim_of_absence_needs_a_margin() -> None:
    for expected, margin in (("no gain", 0.0), ("loss", 0.1)):
        with pytest.raises(ValueError, match="margin"):
            analysis.judge("C", "it helps", [0.1, 0.2], expected, margin)


# Tables


CONVERSATION = "<|user|> sam has some pears and gets more . how many now ? <|end|> <|assistant|> how many pears at first ? "
CONVERSATION += "<|end|> <|user|> a lot of pears . <|end|> <|assistant|> how many more pears came ? <|end|> <|user|> maybe 3 . "
CONVERSATION += "<|end|> <|assistant|> are you sure ? <|end|> <|user|> sorry , it is 4 . <|end|> <|assistant|> so 2 plus 4 : "
CONVERSATION += "the answer is 6 . <|end|> <|pad|>"


def probe(rng: np.random.Generator, outcome: torch.Tensor) -> dict[str, torch.Tensor]:
    tokens = build_tokenizer(get_task("math").words)(CONVERSATION)["input_ids"]
    words, ids, turn, inside = CONVERSATION.split(), [], -1, False
    for word in words:
        ids.append(turn if inside else -1)
        inside = inside and word != "<|end|>"
        if word == "<|assistant|>":
            turn, inside = turn + 1, True
    turn_ids = torch.tensor(ids).repeat(len(outcome), 1)
    log_ratio = torch.from_numpy(rng.normal(size=turn_ids.shape)).float() * (turn_ids >= 0)
    return {
        "log_ratio": log_ratio,
        "turn_ids": turn_ids,
        "input_ids": torch.tensor([tokens] * len(outcome)),
        "outcome": outcome,
    }


@pytest.fixture(scope="module")
def profile() -> Profile:
    return replace(SMOKE, seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def runs(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Finished runs of every row and three seeds, with made-up numbers: the more to the right the row, the better."""
    store, outcome, found = Store(tmp_path_factory.mktemp("runs")), torch.tensor([1.0, 0.0, 0.0, 1.0]), []
    for config in profile.grid():
        rng = np.random.default_rng(config.seed)
        level = 0.3 + 0.1 * [m.row for m in profile.methods].index(config.method.row) + 0.01 * config.seed
        judged = config.method.row in ("prime", "itpo", "norm_itpo")
        ranking = {"prm_auc": 0.75, "prm_kendall": 0.25 + 0.01 * config.seed} if judged else {}
        run = store.open(config)
        if judged:
            run.log(-1, ranking)
        for step in range(4):
            if step % 2 == 0:
                run.log(step, {"eval_success": level * step / 2})
            run.log(step, {"success": 0.5, **ranking})
        run.log(4, {"eval_success": level * 2})
        for step in range(5 * judged):
            run.save_probe(step, probe(rng, outcome))
        run.finish({"success": level + 0.001 * config.seed, "greedy_success": level, "turns": 4.0})
        found.append(run)
    return found


@pytest.fixture(scope="module")
def judged(runs: list[Run]) -> list[Run]:
    return [run for run in runs if run.probes()]


def test_results_and_main_table(runs: list[Run], profile: Profile) -> None:
    frame = tables.results(runs)
    assert len(frame) == 15
    line = frame[(frame["row"] == "uniform") & (frame["seed"] == 1)].iloc[0]
    assert line["mean_success"] == pytest.approx(0.41) and np.isnan(line["tau"])
    table = tables.main_table(frame, np.random.default_rng(0))
    assert table["gain"].tolist()[1:] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert np.isnan(table["gain"][0]) and np.isnan(table["tau"][0])
    text = tables.main_text(table)
    assert text["gain [S]"].tolist() == ["–", "+0.94", "+0.69", "+0.00", "+3.44"]
    assert text["paper [S] (%)"][3] == "29.06 (one source)"
    assert "for 3 of the 3 rows" in tables.order_text(table, profile)


def test_differences_are_paired_by_seed_in_any_order(runs: list[Run]) -> None:
    frame = tables.results(runs)
    expected = tables.effects(frame, "norm_itpo", "uniform", "success")
    np.testing.assert_allclose(expected, [0.3, 0.3, 0.3])
    mixed = frame.sample(frac=1.0, random_state=0)
    np.testing.assert_allclose(tables.effects(mixed, "norm_itpo", "uniform", "success"), expected)
    with pytest.raises(ValueError, match="train both"):
        tables.effects(frame.iloc[1:], "norm_itpo", "trajectory_share", "success")


def test_verdicts_are_marked_at_the_smoke_profile(runs: list[Run], profile: Profile) -> None:
    verdicts = tables.math_verdicts(tables.results(runs))
    assert [verdict.claim for verdict in verdicts] == ["C1", "C3", "C3, normalised", "C4"]
    lines = tables.verdict_text(verdicts, profile).splitlines()
    assert all("not meaningful" in line for line in lines)
    assert "not meaningful" not in tables.verdict_text(verdicts, get_profile("laptop"))


def test_one_seed_fills_every_table_without_an_interval(runs: list[Run], profile: Profile) -> None:
    frame = tables.results([run for run in runs if run.config.seed == 0])
    text = tables.main_text(tables.main_table(frame, np.random.default_rng(0)))
    assert "no interval from 1 seed" in text.iloc[1, 1]
    assert all(verdict.ruling == analysis.INCONCLUSIVE for verdict in tables.math_verdicts(frame))


def test_curves_and_bands(runs: list[Run]) -> None:
    curves = tables.curves(runs, "prm_kendall", smooth=3)
    assert set(curves["row"]) == {"prime", "itpo", "norm_itpo"}
    band = tables.bands(curves.sample(frac=1.0, random_state=0))
    for _, part in band.groupby("row"):
        assert part["step"].tolist() == [-1, 0, 1, 2, 3]
        assert part["mean"].tolist() == pytest.approx([0.26] * 5)
    assert tables.curves(runs, "nothing").empty


def test_probes_are_read_back_as_conversations(judged: list[Run], runs: list[Run]) -> None:
    probes = tables.read_probes(judged[0])
    assert probes.messages(0)[2] == ("user", "a lot of pears .")
    assert probes.kinds(0) == ["ask_first", "missed repair", "check", "answer"]
    assert probes.turn_rewards.shape == (5, 4, 4)
    np.testing.assert_allclose(probes.turn_rewards.sum(-1), probes.token_rewards.sum(-1), rtol=1e-6)
    with pytest.raises(ValueError, match="kept no probes"):
        tables.read_probes(runs[0])


def test_the_case_is_chosen_by_the_first_rule_that_applies(judged: list[Run]) -> None:
    probes = tables.read_probes(judged[0])
    case, rule = tables.choose_case(probes)
    assert case == 1 and "unrepaired" in rule
    case, rule = tables.choose_case(replace(probes, outcome=np.ones(4)))
    assert case == 0 and "failed" not in rule
    assert "most turns" in tables.choose_case(probes, turns_wanted=9)[1]
    picture = tables.case_of(probes, 1)
    assert picture.answers == ["a lot of pears .", "maybe 3 .", "sorry , it is 4 .", ""]
    assert len(tables.case_table(picture)) == picture.token_rewards.size
    assert np.abs(picture.turn_rewards).max() == 1.0


def test_credit_by_kind_sums_to_nothing_in_a_dialogue(judged: list[Run], profile: Profile) -> None:
    credit = tables.credit_by_kind(judged)
    total = (credit["value"] * credit["turns"]).groupby([credit["row"], credit["seed"]]).sum()
    np.testing.assert_allclose(total, 0.0, atol=1e-6)
    assert "confirmed" in (text := tables.credit_text(credit, profile)) or "inconclusive" in text
    assert "replicated" not in text


def test_stability_tables(judged: list[Run]) -> None:
    frame = tables.spearman_curves(judged, np.random.default_rng(0))
    assert frame.loc[frame["step"] == 4, "value"].to_numpy() == pytest.approx(1.0)
    table = tables.convergence_table(frame, level=-1.0)
    assert (table["first_step"] == 0).all() and (table["reached"] == 3).all() and len(table) == 12
    assert tables.convergence_table(frame, level=2.0)["first_step"].isna().all()
    for rival in tables.RIVALS:
        assert len(tables.stability_verdicts(frame, rival)) == 3


def test_tau_tables(judged: list[Run]) -> None:
    found = tables.probe_curves(judged)
    probes = tables.read_probes(judged[0])
    expected = stats.kendalltau(probes.log_ratio[2].sum(-1), probes.outcome).statistic
    assert found["value"][2] == pytest.approx(expected)
    ceilings = tables.tau_ceilings(judged, found)
    assert set(ceilings["panel"]) == {"batches", "probes"}
    changes = tables.tau_changes(judged)
    assert changes["tau"].tolist() == pytest.approx([0.26] * 6)
    np.testing.assert_allclose(changes["ceiling"], analysis.kendall_ceiling(0.5, 32))
    assert [v.ruling for v in tables.tau_verdicts(tables.results(judged))] == ["replicated"] * 3


def test_tables_are_written_with_their_label(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "output_folder", lambda profile: tmp_path)
    tables.write_table(pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [0.5]}), "T0", SMOKE, "A note.")
    assert "These numbers mean nothing" in (tmp_path / "T0.md").read_text()
    assert (tmp_path / "T0.csv").read_text() == "b\n0.5\n"


def test_settings_and_tuning(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tables.settings_text(profile.methods)["row"].tolist()[-1] == "Norm-ITPO"
    monkeypatch.setattr(tables, "project_root", lambda: tmp_path)
    assert "no tuning record" in tables.tuning_text()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "tuning.csv").write_text("row,beta\nitpo,0.2\n")
    assert "| itpo | 0.2 |" in tables.tuning_text()
