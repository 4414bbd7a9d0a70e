"""The curve of one run: as a few lines of text in the terminal, and as a picture beside its metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itpo.runs.store import Run

PICTURE = "curve.png"
_BLOCKS = " ▁▂▃▄▅▆▇█"


def outcomes(run: Run, metric: str = "success") -> list[tuple[int, float]]:
    """(step, mean outcome) of the dialogues that a run trained on, or of its evaluations, ``eval_success``; from step 0 on.

    >>> import tempfile
    >>> from itpo.runs.files import json_lines
    >>> with tempfile.TemporaryDirectory() as place:
    ...     size = (Path(place) / "metrics.jsonl").write_bytes(json_lines([{"step": 0, "success": 0.5}, {"step": 0}]))
    ...     outcomes(Run(Path(place), config=None))
    [(0, 0.5)]
    """
    lines = [line for line in run.metric_lines() if line["step"] >= 0]
    return [(line["step"], line[metric]) for line in lines if line.get(metric) is not None]


def chart(values: Sequence[float], width: int, height: int = 6, blocks: bool = True) -> str:
    """Shares from 0 to 1 over steps 0, 1, ... as columns of text; neighbours are averaged where steps outnumber letters.

    >>> print(chart([0.25, 0.5, 1.0], width=14, height=2, blocks=False))
    100% |    ##
      0% |######
         +------
          step 0 to 2
    """
    room = max(width - 8, 4)
    count = min(len(values), room)
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [math.fsum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    each = max(1, min(room // count, 6))
    line, corner = ("│", "└") if blocks else ("|", "+")
    rows = []
    for row in reversed(range(height)):
        filled = [min(max(mean * height - row, 0.0), 1.0) for mean in means]
        signs = [_BLOCKS[round(8 * part)] if blocks else " #"[int(part + 0.5)] for part in filled]
        label = {height - 1: "100%", 0: "0%"}.get(row, "")
        rows.append(
            f"{label:>4} {line}" + "".join((sign * (each - (each > 2))).ljust(each) for sign in signs)
        )
    rows.append(f"     {corner}" + ("─" if blocks else "-") * (each * count))
    return "\n".join([*(row.rstrip() for row in rows), f"      step 0 to {len(values) - 1}"])


def draw(run: Run) -> Path:
    """Draw the curve of a run into its folder; returns the picture. Raises ``ImportError`` without matplotlib."""
    from matplotlib.figure import Figure

    config: Any = run.config
    figure = Figure(figsize=(5.0, 3.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    entry = config.method.entry
    steps, means = zip(*outcomes(run), strict=True)
    label = f"the {config.prompts * config.rollouts} dialogues of a step"
    axes.plot(steps, means, color=entry.color, label=label)
    if watched := outcomes(run, "eval_success"):
        label = f"{config.eval_dialogues} fresh problems, always the same"
        axes.plot(*zip(*watched, strict=True), "o", color=entry.color, markerfacecolor="white", label=label)
    axes.set(xlabel="training step", ylabel=f"mean {outcome_name(config)}", ylim=(0, 1))
    axes.set_title(
        f"{entry.label} on {config.task.name}, {config.estimator.entry.label}, seed {config.seed}",
        fontsize=10,
    )
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    path = run.folder / PICTURE
    figure.savefig(path)
    return path


def outcome_name(config: Any) -> str:
    """What the outcome of a run's task is called.

    >>> from itpo.study.profiles import get_profile
    >>> outcome_name(get_profile("laptop").run)
    'success'
    """
    return str(getattr(getattr(config.task, "entry", None), "outcome", "outcome"))
