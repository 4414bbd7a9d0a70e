"""One setting changed at a time, under RLOO: the temperature eta (F18), beta (F19), the size of the base model (F20).

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
from itpo.study.tables import BASELINE, Column, gains_on_baseline, percent, points, results

TEMPERATURES = (0.1, 0.4, 1.6, 6.4)  # 0.4 [C]
BETAS = (0.0125, 0.05, 0.2, 0.8)  # 0.01 to 0.05 in the released math runs [C]
WIDTHS = (32, 64, 96)  # of the base model's hidden states; 64 is the grid's


def setting_sweep(profile: Profile, name: str, values: Sequence[float]) -> list[RunConfig]:
    """Norm-ITPO with each value of one of its settings, values first.

    A low ``temperature`` of (5) rewards one turn, a high one all turns alike; ``beta`` is that of (2)-(3).

    >>> from itpo.study.profiles import get_profile
    >>> configs = setting_sweep(get_profile("laptop"), "temperature", TEMPERATURES)
    >>> sorted({config.method.options["temperature"] for config in configs})
    [0.1, 0.4, 1.6, 6.4]
    """
    runs = profile.configs(("norm_itpo",))
    changes: list[dict[str, Any]] = [{name: value} for value in values]
    return [replace(run, method=run.method.with_settings(**change)) for change in changes for run in runs]


def width_sweep(profile: Profile, widths: Sequence[int] = WIDTHS) -> list[RunConfig]:
    """Trajectory-share and Norm-ITPO on base models of each width, the settings of the methods unchanged.

    Raises ``ValueError`` for a profile of pretrained models, whose sizes are not ours to choose.

    >>> from itpo.study.profiles import get_profile
    >>> sorted({config.model.hidden_size for config in width_sweep(get_profile("laptop"))})
    [32, 64, 96]
    """
    model = profile.run.model
    if not isinstance(model, TinyLM):
        raise ValueError(f"profile {profile.name!r} trains {model.name}: only tiny models have widths")
    models = [replace(model, hidden_size=width) for width in widths]
    return [run for model in models for run in profile.configs((BASELINE, "norm_itpo"), model=model)]


def parameters(model: TinyLM) -> float:
    """About how many thousand weights a tiny model has beside its vocabulary: 13 h^2 a layer of width h.

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

    >>> frame = pd.DataFrame({"row": "itpo", "setting": 0.4, "success": [0.5, 0.7], "speed": [0.4, 0.4]})
    >>> setting_bands(frame)[["measure", "mean"]].round(2).to_dict("records")
    [{'measure': 'success', 'mean': 0.6}, {'measure': 'speed', 'mean': 0.4}]
    """
    return spread(frame, list(MEASURES), ["row", "setting"])


def setting_gains(frame: pd.DataFrame, usual: pd.DataFrame | None = None) -> pd.DataFrame:
    """What Norm-ITPO gains on trajectory-share: :func:`itpo.study.tables.gains_on_baseline` with one line a setting.

    ``frame`` is :func:`setting_results`. Columns: setting, ``success`` of Norm-ITPO, ``gain``, ``mean_gain`` (over training),
    each with its interval.
    """
    every = gains_on_baseline(frame, ["setting"], usual)
    after, during = (every[every["measure"] == measure].reset_index(drop=True) for measure in MEASURES)
    success = after.filter(like="value").rename(columns=lambda name: name.replace("value", "success"))
    return pd.concat(
        [
            after["setting"],
            success,
            after.filter(like="gain"),
            during.filter(like="gain").add_prefix("mean_"),
        ],
        axis=1,
    )


def gain_columns(name: str) -> list[Column]:
    """:func:`setting_gains` as people read it, in percent and points; ``name`` is that of the setting."""
    return [
        Column(name, lambda line: f"{line['setting']:g}"),
        percent("Norm-ITPO, after training (%)", "success"),
        points("gain on trajectory-share (points)", "gain"),
        points("gain over training (points)", "mean_gain"),
    ]
