"""What notebook 08 adjusts of a profile, and its table of outcomes before and after."""

from dataclasses import replace
from pathlib import Path

import pytest

from itpo.models import memory
from itpo.runs.store import Store
from itpo.study.profiles import get_real_profile
from itpo.study.real_run import adjusted, before_and_after
from itpo.study.statistics import share_interval

CONSUMER, SMOL = get_real_profile("consumer"), get_real_profile("smol")


def test_what_is_empty_stays():
    assert adjusted(CONSUMER) == CONSUMER and adjusted(SMOL, "", "", "", 0, 0.0) == SMOL


def test_each_part_is_replaced_in_all_runs():
    scale = adjusted(CONSUMER, "documents", "models/own", "rows.parquet", 3)
    expected = CONSUMER.on("documents")
    run = expected.run
    model, task = replace(run.model, name="models/own"), replace(run.task, source="rows.parquet")
    assert scale == replace(expected, run=replace(run, model=model, task=task, steps=3))
    assert {config.steps for config in scale.grid()} == {3}


def test_as_much_as_fits_a_card_is_what_the_plan_says_of_the_largest_run():
    run = adjusted(CONSUMER, model="Qwen/Qwen3-4B", gpu=24.0).config("norm_itpo", seed=0)
    work, settings = memory.of_run(run)
    shape = memory.find_shape("Qwen/Qwen3-4B")
    assert work.adapters == 2 and settings == memory.choose(shape, work, 24.0)
    memory.check(shape, work, settings, 24.0)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="data is 'rows.csv', and math_prose makes its own"):
        adjusted(SMOL, data="rows.csv")
    with pytest.raises(ValueError, match="task is 'chess'; it must be one of"):
        adjusted(CONSUMER, task="chess")
    with pytest.raises(memory.DoesNotFit):
        adjusted(CONSUMER, gpu=4.0)


def test_outcomes_before_and_after_have_the_intervals_of_their_problems(tmp_path: Path):
    store, runs = Store(tmp_path), []
    for row, after in (("trajectory_share", 0.5), ("norm_itpo", 0.75)):
        run = store.open(SMOL.config(row, seed=0))
        run.restore()
        run.log(0, {"eval_success": 0.25})
        run.log(0, {"success": 0.25})
        run.log(12, {"eval_success": after})
        run.finish({"success": after, "greedy_success": 1.0, "turns": 4.0, "tokens": 30.0})
        runs.append(run)
    text, numbers = before_and_after(runs)
    problems = SMOL.run.eval_dialogues
    assert text.columns.tolist() == ["row", "before", "after, sampled", "after, greedy"]
    assert text["before"].tolist() == [share_interval(0.25, problems).text(digits=2)] * 2
    assert text["after, sampled"].tolist()[1] == share_interval(0.75, 2 * problems).text(digits=2)
    assert numbers["greedy_success_low"].tolist() == [share_interval(1.0, 2 * problems).low] * 2
