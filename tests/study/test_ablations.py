"""Sweeps of one setting: nothing else moves, the grid's own value is the grid's own run, and gains are paired by seed."""

from dataclasses import replace

import pandas as pd
import pytest

from itpo.runs.store import Run
from itpo.study import ablations, tables
from itpo.study.profiles import get_profile, get_real_profile

LAPTOP = get_profile("laptop")


@pytest.mark.parametrize(
    ("name", "values"), [("temperature", ablations.TEMPERATURES), ("beta", ablations.BETAS)]
)
def test_a_sweep_moves_one_setting_of_norm_itpo_through_the_grids_own(name, values):
    def setting(method):
        return method.options[name] if name in method.options else getattr(method, name)

    configs, grid = ablations.setting_sweep(LAPTOP, name, values), LAPTOP.configs(["norm_itpo"])
    assert set(grid) <= set(configs)
    assert [setting(c.method) for c in configs] == [v for v in values for _ in grid]
    own = setting(grid[0].method)
    for config in configs:
        assert replace(config, method=config.method.with_settings(**{name: own})) in grid


def test_widths_have_both_rows_and_the_grids_own_runs():
    configs, grid = ablations.width_sweep(LAPTOP), {*LAPTOP.configs(["trajectory_share", "norm_itpo"])}
    assert grid <= set(configs) and len(set(configs)) == 3 * len(grid)
    assert {replace(config, model=LAPTOP.run.model) for config in configs} == grid


def test_a_pretrained_models_width_is_not_ours_to_choose():
    with pytest.raises(ValueError, match="'smol' trains smollm2: only tiny models have widths"):
        ablations.width_sweep(get_real_profile("smol"))


def test_parameters_are_those_of_the_model_beside_its_vocabulary(tiny_folder):
    from itpo.models.tiny import load

    model, _ = load(tiny_folder)
    config = model.config
    weights = sum(p.numel() for name, p in model.named_parameters() if "proj" in name)
    size = ablations.TinyLM(hidden_size=config.hidden_size, layers=config.num_hidden_layers)
    assert ablations.parameters(size) == pytest.approx(weights / 1000)


def test_bands_and_gains_of_written_runs(written_runs: list[Run]):
    runs = [run for run in written_runs if run.config.method.name == "norm_itpo"]
    usual = tables.results([run for run in written_runs if run.config.method.name == tables.BASELINE])
    first, second = (
        ablations.setting_results(runs, lambda config: 0.4),
        ablations.setting_results(runs, lambda config: 1.6),
    )
    both = pd.concat([first, second])
    assert both["setting"].tolist() == [0.4] * 3 + [1.6] * 3
    band = ablations.setting_bands(both)
    assert len(band) == 4 and (band["n"] == 3).all()
    gains = ablations.setting_gains(both, usual)
    expected = tables.results(runs)["success"].mean() - usual["success"].mean()
    assert gains["gain"].tolist() == pytest.approx([expected] * 2)
    within = ablations.setting_gains(pd.concat([both, *(usual.assign(setting=s) for s in (0.4, 1.6))]))
    pd.testing.assert_frame_equal(within, gains)
    text = tables.as_text(gains, ablations.gain_columns("eta"))
    assert text["eta"].tolist() == ["0.4", "1.6"]
    assert text["gain on trajectory-share (points)"][0].startswith(f"{100 * expected:+.1f} ")
