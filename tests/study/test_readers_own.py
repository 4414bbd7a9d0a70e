"""A method and a task from outside the package go through training, a table, a figure and a report, as those inside do."""

from dataclasses import replace

import pytest
import torch
from own_method import ENTRY as LAST_TURN

from itpo.config import Method, TaskSpec
from itpo.figures import comparison as draw
from itpo.runs.sweep import sweep
from itpo.specs import Adapter, TinyLM
from itpo.study import claims, ledger, tables
from itpo.study.profiles import get_profile
from itpo.trainer import train

NAME, TASK = "own_method:ENTRY", "own_task:ENTRY"


def test_the_method_splits_the_outcome():
    ids = torch.tensor([[0, 0, -1, 1, -1], [0, -1, -1, -1, -1]])
    rewards = LAST_TURN.function(torch.tensor([1.0, 0.5]), ids, share=0.5)
    assert rewards.tolist() == [[0.0, 0.25, 0.0, 0.75, 0.0], [0.5, 0.0, 0.0, 0.0, 0.0]]


@pytest.fixture
def profile():
    """Trajectory-share and the reader's method on the reader's task, as small as can be."""
    smoke = get_profile("smoke")
    size = {"prompts": 4, "rollouts": 2, "policy_minibatches": 2, "eval_dialogues": 4, "monitor_dialogues": 4}
    model = TinyLM(16, layers=1, heads=2, steps=20, dialogues_per_step=4)
    run = replace(smoke.run, steps=2, eval_every=1, model=model, adapter=Adapter(2, 4), **size)
    own = Method(NAME, {"share": 0.75}, version=1)
    small = replace(smoke, run=run, methods=(Method("trajectory_share"),))
    return small.with_method(own).on(TaskSpec(TASK, {"sides": 2}, version=3))


def test_from_training_to_the_report(profile, tmp_path, unchecked, png):
    configs = profile.grid()
    assert [(c.method.name, c.seed) for c in configs[2:]] == [(NAME, 0), (NAME, 1)]
    runs = sweep(tmp_path, configs, train, workers=2, progress=False)
    assert all(run.done for run in runs)

    frame = tables.results(runs)
    assert set(frame["task"]) == {TASK} and frame["success"].between(0, 1).all()
    table = tables.main_table(frame)
    text = tables.as_text(table, tables.main_columns(table))
    assert text["row"].tolist() == ["Trajectory-share", "Last turn"]
    assert "right guesses over training (%)" in text and set(text["paper [S] (%)"]) == {tables.DASH}
    assert "share 0.75" in tables.settings_text(profile.methods)["options"].tolist()

    curves = tables.curves(runs, "eval_success")
    assert set(curves["row"]) == {"trajectory_share", NAME} and set(curves["step"]) == {0, 1, 2}
    figure = draw.speed_curves(tables.bands(curves).assign(task="right guesses"))
    assert "Last turn" in {ax.get_title().replace("\n", " ") for ax in figure.axes} and png(figure)

    assert claims.order_text(table, profile).endswith("No outcomes are reported of this task and estimator.")
    ruled = ledger.ledger(ledger.effects(frame, profile), profile)
    *packages, first, second = (line for _, line in ruled.iterrows())
    assert {line["ruling"] for line in packages} == {"not ruled"}  # which are about the package's own tasks
    text = tables.as_text(ruled.tail(2), ledger.LEDGER_COLUMNS).iloc[0]
    assert (text["claim"], text["what is claimed"]) == ("X1, Last turn", "Last turn beats Trajectory-share")
    gains = tables.effects(frame, NAME, "trajectory_share", "speed")
    assert first["effect"] == pytest.approx(100 * gains.mean())
    assert second["reason"] == f"missing run: {TASK}, prime, rate 0.001, rloo, seed 0: train it to its end"
