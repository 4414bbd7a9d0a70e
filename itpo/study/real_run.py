"""What notebook 08 adjusts and tabulates: single runs of a real language model, of which nothing can be said over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import pandas as pd

from itpo.models import memory
from itpo.runs.store import Run
from itpo.specs import PretrainedModel, RealData
from itpo.study import tables
from itpo.study.profiles import Profile
from itpo.study.statistics import share_interval


def adjusted(
    scale: Profile, task: str = "", model: str = "", data: str = "", steps: int = 0, gpu: float = 0.0
) -> Profile:
    """A profile of pretrained models with what a reader replaces of it; what is empty or 0 stays.

    ``task`` is another that the profile lists, ``model`` another base, ``data`` a file or folder with the task's examples,
    ``steps`` those of training. With ``gpu``, the GiB of a card, a pass is as large as :func:`itpo.models.memory.choose` says.
    Raises ``ValueError`` for a task that the profile does not list, or data for a scripted one, and
    :class:`itpo.models.memory.DoesNotFit`.

    >>> from itpo.study.profiles import get_real_profile
    >>> small = adjusted(get_real_profile("consumer"), model="Qwen/Qwen2.5-0.5B-Instruct", steps=3, gpu=12.0).run
    >>> small.model.name, small.steps, small.max_rows
    ('Qwen/Qwen2.5-0.5B-Instruct', 3, 64)
    """
    scale = scale.on(task) if task else scale
    run = replace(scale.run, steps=steps or scale.run.steps)
    base = run.model
    assert isinstance(base, PretrainedModel)  # as in every profile of real models
    if model:
        base = replace(base, name=model)
        run = replace(run, model=base)
    if data:
        if not isinstance(run.task, RealData):
            raise ValueError(
                f"data is {data!r}, and {run.task.name} makes its own: choose a profile with real data"
            )
        run = replace(run, task=replace(run.task, source=data))
    if gpu:
        largest = max(scale.methods, key=lambda method: method.entry.needs_prm)
        work, _ = memory.of_run(replace(run, method=largest))
        run = replace(run, **asdict(memory.choose(memory.find_shape(base.name), work, gpu)))
    return replace(scale, run=run)


def before_and_after(runs: Sequence[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Outcome before training, and after it sampled and greedy, a line for each run: as people read it, and its numbers.

    95 % intervals over problems (Wilson): those of one evaluation before, twice as many after. Numbers are those of
    :func:`itpo.study.tables.results`, and ``before``.
    """
    measured, final = tables.evaluations(runs), tables.results(runs)
    final["before"] = final["row"].map(measured[measured["step"] == 0].set_index("row")["mean"])
    count = runs[0].config.eval_dialogues
    problems = {"before": count, "success": 2 * count, "greedy_success": 2 * count}
    lines = []
    for line in final.to_dict("records"):
        for name, number in problems.items():
            line |= tables.interval_columns(name, share_interval(line[name], number))
        lines.append(line)
    titles = {"before": "before", "success": "after, sampled", "greedy_success": "after, greedy"}
    columns = [tables.Column(title, name, digits=2) for name, title in titles.items()]
    numbers = pd.DataFrame(lines)
    return tables.as_text(numbers, [tables.METHOD, *columns]), numbers
