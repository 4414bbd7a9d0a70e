"""One setting changed at a time, under RLOO: eta (F18), beta (F19), the size of the base model (F20).

All values are our own choice [O]; the one in the middle is the profile's. A run with the profile's own value is that of its
grid, so that the store trains it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from itpo.credit import spread
from itpo.embedded import EmbeddedModel
from itpo.profiles import Profile, RunConfig
from itpo.runs import Run
from itpo.tables import BASELINE, results

ETAS = (0.1, 0.4, 1.6, 6.4)  # 0.4 [C]
BETAS = (0.0125, 0.05, 0.2, 0.8)  # 0.01 to 0.05 in the released math runs [C]
WIDTHS = (32, 64, 96)  # of the base model's hidden states; 64 is the grid's


def eta_sweep(profile: Profile) -> list[RunConfig]:
    """Norm-ITPO with each temperature of (5): a low one pays one turn, a high one all turns alike.

    >>> from itpo.profiles import get_profile
    >>> sorted({config.method.eta for config in eta_sweep(get_profile("laptop"))})
    [0.1, 0.4, 1.6, 6.4]
    """
    return _with_method(profile, "eta", ETAS)


def beta_sweep(profile: Profile) -> list[RunConfig]:
    """Norm-ITPO with each beta of (2)-(3).

    >>> from itpo.profiles import get_profile
    >>> len(beta_sweep(get_profile("laptop")))
    12
    """
    return _with_method(profile, "beta", BETAS)


def _with_method(profile: Profile, name: str, values: Iterable[float]) -> list[RunConfig]:
    """Norm-ITPO with each value of one setting, with ``estimator_seeds``, values first."""
    base = [profile.config("norm_itpo", seed) for seed in profile.estimator_seeds]
    return [
        replace(config, method=replace(config.method, **{name: value})) for value in values for config in base
    ]


def width_sweep(profile: Profile) -> list[RunConfig]:
    """Trajectory-share and Norm-ITPO on base models of each width, the settings of the rows unchanged.

    Raises ``ValueError`` for a profile of pretrained models, whose sizes are not ours to choose.

    >>> from itpo.profiles import get_profile
    >>> sorted({config.model.hidden_size for config in width_sweep(get_profile("laptop"))})
    [32, 64, 96]
    """
    if not isinstance(profile.run.model, EmbeddedModel):
        raise ValueError(
            f"profile {profile.name!r} trains {profile.run.model.name}: only embedded models have widths"
        )
    models = [replace(profile.run.model, hidden_size=width) for width in WIDTHS]
    return [
        replace(profile.config(row, seed), model=model)
        for model in models
        for row in (BASELINE, "norm_itpo")
        for seed in profile.estimator_seeds
    ]


def parameters(config: RunConfig) -> float:
    """About how many thousand weights an embedded model has beside its vocabulary: 13 h^2 a layer of width h.

    Four matrices of h x h in the attention and three of h x 3h in the feed-forward part.

    >>> from itpo.profiles import get_profile
    >>> round(parameters(get_profile("laptop").run), 1)
    159.7
    """
    return config.model.layers * 13 * config.model.hidden_size**2 / 1000


def setting_results(runs: Sequence[Run], of: Callable[[RunConfig], Any]) -> pd.DataFrame:
    """:func:`itpo.tables.results` with a first column ``setting``: what ``of`` says of each run's config."""
    frame = results(runs)
    frame.insert(0, "setting", [of(run.config) for run in runs])
    return frame


def setting_bands(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and t-interval over seeds of success after and over training: row, setting, measure, mean, low, high, n.

    >>> frame = pd.DataFrame({"row": "itpo", "setting": 0.4, "success": [0.5, 0.7], "mean_success": [0.4, 0.4]})
    >>> setting_bands(frame)[["measure", "mean"]].round(2).to_dict("records")
    [{'measure': 'success', 'mean': 0.6}, {'measure': 'mean_success', 'mean': 0.4}]
    """
    return spread(frame, ["success", "mean_success"], ["row", "setting"])
