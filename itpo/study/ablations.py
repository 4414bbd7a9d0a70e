"""One setting changed at a time, under RLOO: eta (F18), beta (F19), the size of the base model (F20).

The values are our own choice [O], but for the released eta; the profile's own is among them. A run with that value is one of
the grid, so that the store trains it once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from itpo.config import RunConfig
from itpo.figures.settings import MEASURES
from itpo.runs.store import Run
from itpo.specs import TinyLM
from itpo.study.credit_tables import spread
from itpo.study.profiles import Profile
from itpo.study.statistics import t_interval
from itpo.study.tables import BASELINE, effects, interval_columns, interval_texts, results

ETAS = (0.1, 0.4, 1.6, 6.4)  # 0.4 [C]
BETAS = (0.0125, 0.05, 0.2, 0.8)  # 0.01 to 0.05 in the released math runs [C]
WIDTHS = (32, 64, 96)  # of the base model's hidden states; 64 is the grid's


def eta_sweep(profile: Profile, values: Sequence[float] = ETAS) -> list[RunConfig]:
    """Norm-ITPO with each temperature of (5): a low one pays one turn, a high one all turns alike.

    >>> from itpo.study.profiles import get_profile
    >>> sorted({config.method.options["temperature"] for config in eta_sweep(get_profile("laptop"))})
    [0.1, 0.4, 1.6, 6.4]
    """
    return _with_method(profile, "temperature", values)


def beta_sweep(profile: Profile, values: Sequence[float] = BETAS) -> list[RunConfig]:
    """Norm-ITPO with each beta of (2)-(3).

    >>> from itpo.study.profiles import get_profile
    >>> len(beta_sweep(get_profile("laptop")))
    12
    """
    return _with_method(profile, "beta", values)


def _with_method(profile: Profile, name: str, values: Sequence[float]) -> list[RunConfig]:
    """Norm-ITPO with each value of one setting, with ``estimator_seeds``, values first."""
    own = profile.config("norm_itpo", 0).method
    changes: list[dict[str, Any]] = [{name: value} for value in values]
    return [
        replace(profile.config("norm_itpo", seed), method=own.with_settings(**change))
        for change in changes
        for seed in profile.estimator_seeds
    ]


def width_sweep(profile: Profile, widths: Sequence[int] = WIDTHS) -> list[RunConfig]:
    """Trajectory-share and Norm-ITPO on base models of each width, the settings of the rows unchanged.

    Raises ``ValueError`` for a profile of pretrained models, whose sizes are not ours to choose.

    >>> from itpo.study.profiles import get_profile
    >>> sorted({config.model.hidden_size for config in width_sweep(get_profile("laptop"))})
    [32, 64, 96]
    """
    if not isinstance(profile.run.model, TinyLM):
        raise ValueError(
            f"profile {profile.name!r} trains {profile.run.model.name}: only embedded models have widths"
        )
    models = [replace(profile.run.model, hidden_size=width) for width in widths]
    return [
        replace(profile.config(row, seed), model=model)
        for model in models
        for row in (BASELINE, "norm_itpo")
        for seed in profile.estimator_seeds
    ]


def parameters(model: TinyLM) -> float:
    """About how many thousand weights an embedded model has beside its vocabulary: 13 h^2 a layer of width h.

    Four matrices of h x h in the attention and three of h x 3h in the feed-forward part.

    >>> parameters(TinyLM(hidden_size=64, layers=3))
    159.744
    """
    return model.layers * 13 * model.hidden_size**2 / 1000


def setting_results(runs: Sequence[Run], of: Callable[[RunConfig], Any]) -> pd.DataFrame:
    """:func:`itpo.study.tables.results` with a first column ``setting``: what ``of`` says of each run's config."""
    frame = results(runs)
    frame.insert(0, "setting", [of(run.config) for run in runs])
    return frame


def setting_bands(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and t-interval over seeds of success after and over training: row, setting, measure, mean, low, high, n.

    >>> frame = pd.DataFrame({"row": "itpo", "setting": 0.4, "success": [0.5, 0.7], "mean_success": [0.4, 0.4]})
    >>> setting_bands(frame)[["measure", "mean"]].round(2).to_dict("records")
    [{'measure': 'success', 'mean': 0.6}, {'measure': 'mean_success', 'mean': 0.4}]
    """
    return spread(frame, list(MEASURES), ["row", "setting"])


def setting_gains(frame: pd.DataFrame, usual: pd.DataFrame | None = None) -> pd.DataFrame:
    """What Norm-ITPO gains on trajectory-share at each setting, paired by seed, with t-intervals; a line for each.

    ``frame`` is :func:`setting_results`. ``usual`` has the runs of trajectory-share where the setting does not concern them;
    without, ``frame`` has them at each setting. Columns: setting, ``success`` of Norm-ITPO, ``gain``, ``mean_gain`` (over
    training), each with its interval.
    """
    lines = []
    for setting, part in frame.groupby("setting", sort=False):
        pair = part if usual is None else pd.concat([part, usual])
        line = {"setting": setting}
        line |= interval_columns("success", t_interval(part.loc[part["row"] == "norm_itpo", "success"]))
        for name, column in (("gain", "success"), ("mean_gain", "mean_success")):
            line |= interval_columns(name, t_interval(effects(pair, "norm_itpo", BASELINE, column)))
        lines.append(line)
    return pd.DataFrame(lines)


def gains_text(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """:func:`setting_gains` as people read it, in percent and points; ``name`` is that of the setting."""
    return pd.DataFrame(
        {
            name: [f"{setting:g}" for setting in table["setting"]],
            "Norm-ITPO, after training (%)": interval_texts(table, "success"),
            "gain on trajectory-share (points)": interval_texts(table, "gain", sign="+"),
            "gain over training (points)": interval_texts(table, "mean_gain", sign="+"),
        }
    )
