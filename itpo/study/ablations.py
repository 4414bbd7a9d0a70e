"""One setting changed at a time, by the gradient microscope: eta (F18), beta (F19), size of the base (F20), updates of the PRM.

The values are our own choice [O], but for the released eta; the profile's own is among them, and is measured once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from itpo.config import RunConfig
from itpo.specs import TinyLM
from itpo.study.measured import KNOWN, Measured, label, measured_methods
from itpo.study.microscope import SEED, MicroscopeConfig
from itpo.study.profiles import Profile
from itpo.study.regimes import Setting

TEMPERATURES = (0.1, 0.4, 1.6, 6.4)  # 0.4 [C]
BETAS = (0.0125, 0.05, 0.2, 0.8)  # 0.01 to 0.05 in the released math runs [C]
WIDTHS = (32, 64, 96)  # of the base model's hidden states; 64 is the grid's
UPDATES = (8, 32)  # of the PRM by one batch; 32 [C], 8 the grid's
METHODS = ("trajectory_share", "norm_itpo", "norm_itpo_to_go", "signed_norm_itpo", "itpo", "prime")
_WITH_ETA = ("norm_itpo", "norm_itpo_to_go", "signed_norm_itpo")
_ETA = ", eta "


def ablations(
    profile: Profile, policy_steps: int, batches: int, values: slice = slice(None), seed: int = SEED
) -> dict[Setting, MicroscopeConfig]:
    """A measurement for each value of a setting, all else as the profile has it; the first ones have every eta.

    ``values`` are those of each setting, all if left out. Raises ``ValueError`` for a profile of pretrained models, whose
    sizes are not ours to choose.

    >>> from itpo.study.profiles import get_profile
    >>> cells = ablations(get_profile("laptop"), policy_steps=4, batches=24)
    >>> [setting for group, setting in cells if group == "beta"], len(set(cells.values()))
    (['0.0125', '0.05', '0.2', '0.8'], 7)
    """
    run = profile.config("norm_itpo", seed)
    if not isinstance(run.model, TinyLM):
        raise ValueError(f"profile {profile.name!r} trains {run.model.name}: only tiny models have widths")

    changed: dict[str, dict[float, RunConfig]] = {
        "eta": dict.fromkeys(TEMPERATURES, run),  # a setting of the methods that are measured, not of the run
        "beta": {value: replace(run, method=replace(run.method, beta=value)) for value in BETAS},
        "width of the base": {v: replace(run, model=replace(run.model, hidden_size=v)) for v in WIDTHS},
        "PRM updates a batch": {value: replace(run, prm_minibatches=value) for value in UPDATES},
    }
    cells = {}
    for name, runs in changed.items():
        for value, config in list(runs.items())[values]:
            methods = measured_methods(config, METHODS)
            etas = _other_etas(methods, list(TEMPERATURES)[values]) if config == run else ()
            cells[name, f"{value:g}"] = MicroscopeConfig(config, policy_steps, (*methods, *etas), batches)
    return cells


def _other_etas(methods: Sequence[Measured], etas: Sequence[float]) -> list[Measured]:
    """The methods that have an eta with the values that are not their own."""
    return [
        Measured(f"{m.name}{_ETA}{eta:g}", m.method.with_settings(temperature=eta), m.estimator)
        for m in methods
        if m.name in _WITH_ETA
        for eta in etas
        if eta != KNOWN[m.name].method.options["temperature"]
    ]


def sort_etas(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`itpo.study.microscope.map_table` of :func:`ablations` with each eta's lines where they belong.

    Other settings have the method's own eta, and a line for eta has only the methods that have one.

    >>> lines = [("eta", "0.1", name) for name in ("norm_itpo", "norm_itpo, eta 0.1", "prime")] + [("beta", "0.2", "prime")]
    >>> sort_etas(pd.DataFrame(lines, columns=["group", "setting", "name"]).assign(label="")).values.tolist()
    [['eta', '0.1', 'norm_itpo', 'Norm-ITPO'], ['beta', '0.2', 'prime', 'PRIME with outcome']]
    """
    parts = table["name"].str.split(_ETA, expand=True, regex=False).reindex(columns=[0, 1])
    own = parts[0].map(lambda name: f"{KNOWN[name].method.options.get('temperature', 0):g}")
    of_eta = table["group"] == "eta"
    has_eta = parts[0].isin(_WITH_ETA)
    kept = (of_eta & has_eta & (parts[1].fillna(own) == table["setting"])) | (~of_eta & parts[1].isna())
    return table.assign(name=parts[0], label=parts[0].map(label))[kept].reset_index(drop=True)


def parameters(model: TinyLM) -> float:
    """About how many thousand weights a tiny model has beside its vocabulary: 13 h^2 a layer of width h.

    Four matrices of h x h in the attention and three of h x 3h in the feed-forward part.

    >>> parameters(TinyLM(hidden_size=64, layers=3))
    159.744
    """
    return model.layers * 13 * model.hidden_size**2 / 1000
