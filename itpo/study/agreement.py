"""Does training agree with the gradient microscope? The gains of the band's runs beside the worth of the same methods' credit.

A better gradient at one policy need not be a better run: steps are clipped, the optimizer rescales them, and the policy that a
method makes is another one than trajectory-share's. Where the two disagree, training decides.
"""

from __future__ import annotations

import pandas as pd
from scipy import stats

from itpo.config import RunConfig
from itpo.runs.store import Run, Store
from itpo.study.experiment import get_experiment, table_rate
from itpo.study.gains import paired
from itpo.study.profiles import Profile
from itpo.study.tables import BASELINE, Column, results


def trained_gains(profile: Profile, store: Store) -> pd.DataFrame:
    """What the finished runs of the band gain at the rate of Table 1: task, name (of the arm), gain. It trains nothing, and
    makes no folder.

    A gain is the mean over seeds of the outcome of training, in points, less that of trajectory-share with the same task and
    seed. Methods without all their seeds, and tasks without those of trajectory-share, are left out.

    >>> import tempfile
    >>> from itpo.study.profiles import get_profile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     len(trained_gains(get_profile("laptop"), Store(root)))
    0
    """
    done = {
        cell: configs
        for cell, configs in get_experiment(profile.name).band(profile).items()
        if cell.rate == table_rate(profile, cell.task) and all(_is_done(store, config) for config in configs)
    }
    compared = {cell.task for cell in done if cell.arm == BASELINE}
    if not compared:
        return pd.DataFrame(columns=["task", "name", "gain"])
    runs = [store.open(c) for cell, configs in done.items() if cell.task in compared for c in configs]
    means = paired(results(runs), ["task"]).groupby(["task", "arm"], sort=False)["gain"].mean()
    return means.rename_axis(["task", "name"]).reset_index()


def _is_done(store: Store, config: RunConfig) -> bool:
    """Whether the run of a config is finished, without a folder being made for it."""
    return Run(store.folder(config), config).done


def training_ranks(table: pd.DataFrame, gains: pd.DataFrame) -> pd.DataFrame:
    """Methods ranked by the microscope and by training, task by task: task, name, label, difference, gain, and the two ranks.

    ``table`` is :func:`itpo.study.microscope.worth_table`; ``difference`` is the mean over those of its policies at which it is
    known. ``gains`` is :func:`trained_gains`. Ranks begin with the best; trajectory-share, which has neither a difference nor a
    gain, is ranked at 0. Methods that only one of the two has are left out.

    >>> frame = pd.DataFrame({"task": "math", "name": [BASELINE, "istar"], "label": "", "difference": [None, 0.1]})
    >>> training_ranks(frame, pd.DataFrame([{"task": "math", "name": "istar", "gain": -2.0}]))["rank_training"].tolist()
    [1, 2]
    """
    means = table.assign(difference=table["difference"].mask(table["name"] == BASELINE, 0.0))
    means = means.dropna(subset="difference")
    means = means.groupby(["task", "name", "label"], sort=False)["difference"].mean().reset_index()
    usual = pd.DataFrame({"task": gains["task"].unique(), "name": BASELINE, "gain": 0.0})
    both = means.merge(pd.concat([gains[["task", "name", "gain"]], usual]), on=["task", "name"])
    for column, rank in (("difference", "rank_microscope"), ("gain", "rank_training")):
        both[rank] = both.groupby("task")[column].rank(ascending=False, method="first").astype(int)
    return both


def agreement(ranks: pd.DataFrame) -> list[str]:
    """How far training ranks the methods of a task as the microscope does, and where the two differ most: a sentence a task.

    ``ranks`` is :func:`training_ranks`; the correlation is Spearman's, between differences and gains. Nothing is said of a task
    with fewer than three methods.

    >>> ranks = pd.DataFrame({"task": "math", "name": list("abc"), "label": list("ABC"), "difference": [0.3, 0.1, 0.0]})
    >>> ranks = ranks.assign(gain=[1.0, -2.0, 0.0], rank_microscope=[1, 2, 3], rank_training=[1, 3, 2])
    >>> print(*agreement(ranks))
    **math**: rank correlation 0.50 over 3 methods; furthest apart: B, rank 2 by the microscope and 3 by training.
    """
    sentences = []
    for task, lines in ranks.groupby("task", sort=False):
        if len(lines) < 3:
            continue
        rho = float(stats.spearmanr(lines["difference"], lines["gain"]).statistic)
        apart = lines.loc[(lines["rank_microscope"] - lines["rank_training"]).abs().idxmax()]
        sentences.append(
            f"**{task}**: rank correlation {rho:.2f} over {len(lines)} methods; furthest apart: {apart['label']}, "
            f"rank {apart['rank_microscope']} by the microscope and {apart['rank_training']} by training."
        )
    return sentences


RANK_COLUMNS = (
    Column("task", "task"),
    Column("method", "label"),
    Column("difference of cosines, mean over policies", "difference", 1.0, 2, "+"),
    Column("gain in training (points)", "gain", 1.0, 1, "+"),
    Column("rank, microscope", "rank_microscope"),
    Column("rank, training", "rank_training"),
)
