"""What `make reproduce` says first and on the way: which notebooks run in which order, what each asks, and how long it takes.

Times are those of the last run here (`build/<profile>/times.json`), else those that the repository has (`notebooks/times.json`,
written by `--keep-times`): from an empty run store, with one process that trains; with two a notebook takes about half of it. A
notebook whose runs are kept takes seconds.
"""

import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

# A first curve and finding within minutes; then what trains a real language model and takes longest; the rest by number.
FIRST = ("01_training", "13_microscope", "08_real_model", "14_microscope_real")
KEPT = "times.json"


def in_order(sources: Sequence[Path]) -> list[Path]:
    """The notebooks in the order in which they are started."""
    place = {name: number for number, name in enumerate(FIRST)}
    return sorted(sources, key=lambda source: (place.get(source.stem, len(FIRST)), source.stem))


def title(source: Path) -> str:
    """The heading of a notebook; its name where it has none."""
    lines = source.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("# # ") for line in lines if line.startswith("# # ")), source.stem)


def read_times(path: Path) -> dict[str, float]:
    """Seconds by the name of a notebook; none where the file is missing or damaged."""
    try:
        return {str(name): float(seconds) for name, seconds in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def read_kept(root: Path, profile: str) -> dict[str, float]:
    """Seconds by notebook that the repository has of a profile."""
    try:
        kept = json.loads((root / "notebooks" / KEPT).read_text())[profile]
        return {str(name): float(seconds) for name, seconds in kept.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def expected(root: Path, profile: str) -> dict[str, float]:
    """Seconds that each notebook is expected to take with one process that trains."""
    return read_kept(root, profile) | read_times(root / "build" / profile / KEPT)


def write_times(root: Path, profile: str, times: Mapping[str, float], keep: bool) -> None:
    """Note how long notebooks took: for this checkout, and to ``keep`` for all."""
    if not times:
        return
    path = root / "build" / profile / KEPT
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded = {name: round(seconds) for name, seconds in times.items()}
    path.write_text(json.dumps(dict(sorted((read_times(path) | rounded).items())), indent=2) + "\n")
    if keep:
        path = root / "notebooks" / KEPT
        try:
            document = json.loads(path.read_text())
        except (OSError, ValueError):
            document = {}
        document[profile] = dict(sorted((read_kept(root, profile) | rounded).items()))
        path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def duration(seconds: float) -> str:
    """A time in words."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(round(seconds), 1)} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def plan(sources: Sequence[Path], profile: str, times: Mapping[str, float], jobs: int) -> str:
    """What will be run, in its order, with the question and the expected time of each."""
    width = shutil.get_terminal_size().columns - 1
    longest = max(len(source.stem) for source in sources)
    lines = []
    for source in sources:
        took = duration(times[source.stem]) if source.stem in times else "?"
        start = f"  {source.stem:<{longest}}  {took:>10}  "
        lines.append(start + textwrap.shorten(title(source), max(width - len(start), 20), placeholder=" ..."))
    left = time_left([source.stem for source in sources], {}, times, jobs)
    about = f", {left} as measured last" if left else ""
    many = f"{len(sources)} notebooks" if len(sources) > 1 else "1 notebook"
    head = f"{many} at profile {profile}, {jobs} at a time{about}; runs that are kept are loaded:"
    so_far = f"What a running one has so far: build/{profile}/NAME.partial.ipynb."
    return "\n".join([textwrap.fill(head, width), *lines, so_far, "Ctrl-C stops; the same command goes on."])


def time_left(
    pending: Sequence[str], running: Mapping[str, float], times: Mapping[str, float], jobs: int
) -> str:
    """How long the notebooks that wait, and those that have run for so many seconds, will take; empty if that is not known."""
    if not pending and not running or not {*pending, *running} <= set(times):
        return ""
    rest = [max(times[name] - spent, 0.0) for name, spent in running.items()]
    waiting = [times[name] for name in pending]
    return f"about {duration(max([sum(rest + waiting) / jobs, *rest, *waiting]))}"
