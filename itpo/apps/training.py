"""Training one policy, by the command ``itpo train`` or in Python:

from itpo.apps.training import train_policy

run = train_policy("math", "norm_itpo", seed=0)  # a minute; asked for again, it is loaded
print(run.summary())
run.metrics().plot("step", "success")
"""

# No `from __future__ import annotations`: typer would have to evaluate every option's type from text.

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from itpo.apps import options, sweeps
from itpo.apps.terminal import GOES_ON, Context, columns, expected_errors, one_line, stoppable

if TYPE_CHECKING:
    from itpo.config import RunConfig
    from itpo.runs.processes import Outcome
    from itpo.runs.store import Run

_SECONDS = 10.0  # between two lines where there is no terminal
_POLL = 2.0


class TrainingError(RuntimeError):
    """A run failed; ``failures`` has it with its traceback and ``remedies`` what to do, as those of a sweep."""

    def __init__(self, run: "Run", outcome: "Outcome") -> None:
        self.failures = ((run, outcome.text),)
        self.remedies = {run.folder: outcome.remedy} if outcome.remedy else {}
        super().__init__(f"{run.folder}:\n{outcome.text.rstrip()}")


def train_policy(
    task: str = "math",
    method: str = "norm_itpo",
    estimator: str = "rloo",
    seed: int = 0,
    profile: str = "laptop",
    store: Path | str | None = None,
    **settings: Any,
) -> "Run":
    """Train the policy of one run in this process, or load it where it is finished; returns the run.

    ``settings`` are others than the profile's, by the names of ``itpo train --set`` (a dot is written as two underscores):
    ``steps=4``, ``adapter__rank=8``. ``store`` is the folder of the runs, ``runs/`` of the checkout where none is named. While
    it trains, this process computes with one thread, as any run does, and its global random generators are seeded.
    An interrupted run goes on from its last checkpoint the next time. Raises ``ValueError`` for a name or value that there is
    not, with the nearest names, and :class:`TrainingError` where training fails.
    """
    from itpo.runs.paths import runs_root

    changes = {name.replace("__", "."): value for name, value in settings.items()}
    config = chosen_config(profile, task, method, estimator, seed, changes)
    return train_here(config, Path(store or runs_root()), sweeps.with_tracker(None))[0]


def chosen_config(
    profile: str, task: str, method: str, estimator: str, seed: int, changes: Mapping[str, Any]
) -> "RunConfig":
    """The config of a profile by names, with other settings; options of a reader's own task among them."""
    from itpo.apps.configs import named_config, refuse_named, with_settings

    refuse_named(changes)
    own = {name[5:]: value for name, value in changes.items() if name.startswith("task.")}
    return with_settings(named_config(profile, task, method, estimator, seed, own), changes)


def train_here(
    config: "RunConfig",
    root: Path,
    training: "Callable[[Any, Run], None]",
    mix_platforms: bool = False,
    verbose: bool = False,
) -> "tuple[Run, bool]":
    """The finished run of a config, trained by this process unless it was finished, and whether it was trained now."""
    import torch

    from itpo.runs.processes import train_one
    from itpo.runs.store import Store

    store = Store(root, mix_platforms)
    run = store.open(config)
    if run.done:
        return run, False
    threads = torch.get_num_threads()
    with Progress(config, root, verbose) as progress:

        def watched(config: Any, run: "Run") -> None:
            """Training that shows its progress."""
            run.listeners.append(progress.hear)
            training(config, run)

        try:
            while (outcome := train_one(watched, config, run.folder, store, hurried=True)).kind == "busy":
                progress.note("another process trains it: waiting")
                time.sleep(_POLL)
        finally:
            torch.set_num_threads(threads)
    if outcome.kind == "failed":
        raise TrainingError(run, outcome)
    return store.open(config), outcome.kind == "trained"


@contextmanager
def watch_models(root: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Say now and then how far a base model is that some process makes in a store meanwhile."""
    from itpo.runs.artifacts import being_made

    over = threading.Event()

    def watch() -> None:
        """Look until it is over."""
        while not over.wait(_POLL):
            for text in being_made(root / "models"):
                say(text)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


class Progress:
    """How far a run is: a bar on a terminal, else a line now and then; ``verbose``: a line of all metrics for each step."""

    def __init__(self, config: "RunConfig", root: Path, verbose: bool = False) -> None:
        from tqdm import tqdm

        self.config, self.verbose = config, verbose
        self.terminal, self.said_at, self.said = sys.stderr.isatty(), time.monotonic(), ""
        self.bar = tqdm(
            total=config.steps,
            desc="training",
            unit="step",
            ncols=min(columns() - 1, 100),
            leave=False,
            disable=not self.terminal,
        )
        self.models = watch_models(root, lambda text: self.note(f"its base model is made: {text}"))

    def __enter__(self) -> "Progress":
        self.models.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.models.__exit__(kind, error, trace)
        self.bar.close()

    def hear(self, line: Mapping[str, Any]) -> None:
        """Take a line of the run's metrics."""
        step = int(line["step"])
        if self.verbose:
            self._print(
                "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items())
            )
        if step < 0:
            self.note("warm-up of PRM and critic")
        elif "success" in line:
            self.bar.update(step + 1 - self.bar.n)
            self.note(f"success {line['success']:.2f}", step + 1)

    def note(self, text: str, done: int = 0) -> None:
        """Show a few words beside the bar, or as a line if none was shown for a while."""
        if self.terminal:
            self.bar.set_postfix_str(text)
        elif not self.verbose and text != self.said and time.monotonic() - self.said_at >= _SECONDS:
            self.said, self.said_at = text, time.monotonic()
            self._print(f"step {done} of {self.config.steps}: {text}" if done else text)

    def _print(self, text: str) -> None:
        self.bar.write(text, file=sys.stderr)


@stoppable(GOES_ON)
def train(
    context: Context,
    task: Annotated[str, options.named("task", "Task, or module:name of your own")] = "math",
    method: Annotated[str, options.named("method", "Method, or module:name of your own")] = "norm_itpo",
    estimator: Annotated[str, options.named("estimator", "rloo, grpo or ppo")] = "rloo",
    seed: Annotated[int, typer.Option(help="Of all random draws")] = 0,
    profile: options.ProfileOption = "laptop",
    steps: Annotated[
        int | None, typer.Option(help="Short for --set steps=  [default: the profile's]")
    ] = None,
    set_: options.SettingsOption = None,
    store: options.StoreOption = None,
    mix_platforms: Annotated[
        bool, typer.Option("--mix-platforms", help="Go on with a run that began on another numeric platform")
    ] = False,
    tracker: sweeps.TrackerOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the folder; make nothing")] = False,
) -> int:
    """Train one policy, or load its run, and show its curve.

    The last line printed is the run's folder. Stopped by Ctrl-C, or killed, it goes on from its last checkpoint by the same
    command.
    """
    from itpo.apps.configs import parse_changes
    from itpo.runs.paths import runs_root
    from itpo.runs.store import Store

    root = store or runs_root()
    with one_line(ValueError):
        changes = parse_changes(set_ or []) | ({} if steps is None else {"steps": steps})
        config = chosen_config(profile, task, method, estimator, seed, changes)
        training = sweeps.with_tracker(tracker)
    if dry_run:
        print(Store(root).folder(config))
        return 0
    sizes = f"{config.steps} steps of {config.prompts} x {config.rollouts} dialogues"
    print(f"{task}, {method}, {estimator}, seed {seed}, profile {profile}: {sizes}", file=sys.stderr)
    start = time.monotonic()
    try:
        with one_line(*expected_errors()):
            run, trained = train_here(config, root, training, mix_platforms, bool(context.obj))
    except TrainingError as error:
        return sweeps.print_failures(error)
    _conclude(
        run, f"trained in {time.monotonic() - start:.0f} s" if trained else "loaded, as it was trained before"
    )
    return 0


def _conclude(run: "Run", how: str) -> None:
    """The curve, what can be done next, and the folder as the last line."""
    from itpo.apps.curves import draw
    from itpo.apps.listing import report
    from itpo.runs.paths import runs_root

    print(how)
    try:
        draw(run)
    except (ImportError, OSError) as error:
        print(f"no picture: {error}", file=sys.stderr)
    report(run)
    known = run.folder.name if run.folder.parent == runs_root().resolve() else run.folder
    print(f"next: itpo chat --run {known}")
    print(f"      itpo export {known} FOLDER")
    print(run.folder)
