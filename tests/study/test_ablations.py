"""Sweeps of one setting: nothing else moves, and the profile's own value is one measurement for all of them."""

import dataclasses

import pandas as pd
import pytest

from itpo.study import ablations
from itpo.study.measured import label
from itpo.study.microscope import SEED
from itpo.study.profiles import get_profile, get_real_profile

LAPTOP = get_profile("laptop")
OWN = LAPTOP.config("norm_itpo", SEED)
FIELDS = {
    "eta": set(),
    "beta": {"method"},
    "width of the base": {"model"},
    "PRM updates a batch": {"prm_minibatches"},
}


def test_each_setting_moves_alone_through_the_profiles_own_value() -> None:
    cells = ablations.ablations(LAPTOP, policy_steps=4, batches=24)
    for group, moved in FIELDS.items():
        own = {setting: cell for (name, setting), cell in cells.items() if name == group}
        changed = {
            field.name
            for cell in own.values()
            for field in dataclasses.fields(OWN)
            if getattr(cell.run, field.name) != getattr(OWN, field.name)
        }
        assert changed == moved and OWN in [cell.run for cell in own.values()], group
        for setting, cell in own.items():
            values = {
                "eta": float(setting),
                "beta": cell.run.method.beta,
                "width of the base": cell.run.model.hidden_size,
                "PRM updates a batch": cell.run.prm_minibatches,
            }
            assert float(setting) == values[group]
            assert {m.method.beta for m in cell.methods} == {cell.run.method.beta}
    assert len({cell for cell in cells.values() if cell.run == OWN}) == 1
    with pytest.raises(ValueError, match="'smol' trains smollm2: only tiny models have widths"):
        ablations.ablations(get_real_profile("smol"), 4, 24)


def test_every_eta_is_measured_in_the_profiles_own_cell_and_sorted_to_its_line() -> None:
    cells = ablations.ablations(LAPTOP, policy_steps=4, batches=24)
    methods = cells["eta", "0.4"].methods
    etas = {(m.method.name, m.estimator.baseline, m.method.options.get("temperature")) for m in methods}
    for name, baseline in (
        ("norm_itpo", "released"),
        ("norm_itpo", "to_go"),
        ("signed_norm_itpo", "released"),
    ):
        assert {eta for n, b, eta in etas if (n, b) == (name, baseline)} == set(ablations.TEMPERATURES)
    lines = [
        {
            "group": group,
            "setting": setting,
            "name": m.name,
            "label": label(m.name),
            "eta": m.method.options.get("temperature"),
        }
        for (group, setting), cell in cells.items()
        for m in cell.methods
        if m.name != "trajectory_share"
    ]
    table = ablations.sort_etas(pd.DataFrame(lines))
    of_eta = table[table["group"] == "eta"]
    assert (of_eta["eta"] == of_eta["setting"].astype(float)).all() and len(of_eta) == 4 * 3
    others = table[table["group"] != "eta"]
    assert len(others) == (4 + 3 + 2) * 5 and set(others["eta"].dropna()) == {0.4}
    assert set(table["name"]) == set(ablations.METHODS[1:])
    assert (table["label"] == table["name"].map(label)).all()


def test_parameters_are_those_of_the_model_beside_its_vocabulary(tiny_folder) -> None:
    from itpo.models.tiny import load

    model, _ = load(tiny_folder)
    config = model.config
    weights = sum(p.numel() for name, p in model.named_parameters() if "proj" in name)
    size = ablations.TinyLM(hidden_size=config.hidden_size, layers=config.num_hidden_layers)
    assert ablations.parameters(size) == pytest.approx(weights / 1000)
