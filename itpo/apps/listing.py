"""The commands on the runs of a store: list, show and remove them, by what people know of them."""

# No `from __future__ import annotations`: typer would have to evaluate every option's type from text.

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from itpo.apps.options import finds_runs
from itpo.apps.terminal import (
    Command,
    Context,
    Group,
    can_print,
    columns,
    examples,
    is_limited,
    one_line,
    paint,
    table,
    visible,
)

if TYPE_CHECKING:
    from itpo.apps.finding import Facts, Listed
    from itpo.runs.store import Run

app = typer.Typer(
    cls=Group,
    invoke_without_command=True,
    epilog=examples(
        "itpo runs",
        "itpo runs list --task math --status finished",
        "itpo runs list --method norm_itpo --set policy_lr=0.002",
        "itpo runs show --task math --method norm_itpo --seed 0",
        "itpo runs show runs/0123456789abcdef",
        "itpo runs remove --profile smoke --yes",
    ),
)
RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]", help="Folder of a run, or the first letters of its name", show_default=False
    ),
]


@app.callback()
@finds_runs()
def runs(context: Context, root: Path, facts: "Facts") -> int:
    """List, show or remove the runs of a store."""
    command = context.invoked_subcommand
    if command is None:
        return _list(root, facts)
    given = [name.rstrip("_") for name, value in context.params.items() if value not in (None, [], ())]
    if given:
        options = " ".join(f"--{name} ..." for name in given)
        raise typer.TyperException(
            f"options before {command!r} say nothing to it: write itpo runs {command} {options}"
        )
    return 0


@app.command(
    "list", cls=Command, epilog=examples("itpo runs list --task math --method norm_itpo --status finished")
)
@finds_runs()
def list_(root: Path, facts: "Facts") -> int:
    """List runs, all of them or those of which the facts hold."""
    return _list(root, facts)


def _list(root: Path, facts: "Facts") -> int:
    from itpo.apps.finding import list_runs, matching
    from itpo.runs.files import RunFolderError

    found = list_runs(root)
    others, rows = list(found.others), []
    with one_line(ValueError):
        chosen = matching(found.runs, facts)
    for listed in chosen:
        try:
            rows.append(_row(listed))
        except (RunFolderError, PermissionError) as error:
            others.append(f"{listed.run.folder}: {error}")
    for line in others:
        print(visible(line), file=sys.stderr)
    if found.measurements:
        print(f"measurements, which have no policy, not listed: {len(found.measurements)}", file=sys.stderr)
    if not chosen:
        of = f" of {facts}" if facts.given() else ""
        print(f"no runs{of} in {root}: make one with `itpo train`")
        return 0
    head = ["task", "method", "estimator", "seed", "profile", "steps", "outcome", "settings", "folder"]
    if rows:
        print(table([head, *rows], columns() if is_limited() else None))
    return 0


def _row(listed: "Listed") -> list[str]:
    run, config = listed.run, listed.run.config
    outcome = f"{run.summary()['success']:.3f}" if run.done else "-"
    done = config.steps if run.done else max(run.steps_done(), 0)
    steps = f"{done} of {config.steps}" + ", running" * (listed.status == "running")
    names = [config.task.name, config.method.name, config.estimator.name, str(config.seed), listed.profile]
    others = " ".join(f"{name}={_text(value)}" for name, value in listed.settings.items())
    return [*names, steps, outcome, others or "-", str(run.folder)]


def _text(value: Any) -> str:
    return visible(f"{value:g}" if isinstance(value, float) else str(value))


@app.command(
    cls=Command,
    epilog=examples(
        "itpo runs show --task math --method norm_itpo --seed 0", "itpo runs show runs/0123456789abcdef"
    ),
)
@finds_runs()
def show(root: Path, facts: "Facts", run: RunArgument = None) -> int:
    """Show runs: facts, curve, and what they ended with."""
    from itpo.runs.files import RunFolderError

    status = 0
    for number, listed in enumerate(_chosen(run, root, facts)):
        print(
            "\n" * bool(number)
            + "\n".join(f"{name}: {_text(value)}" for name, value in listed.facts().items())
        )
        try:
            report(listed.run)
        except (RunFolderError, PermissionError) as error:
            print(visible(f"{listed.run.folder}: {error}"), file=sys.stderr)
            status = 2
        print(f"folder: {listed.run.folder}")
    return status


def report(run: "Run") -> None:
    """The curve of a run, its outcomes before and after training, and its picture."""
    from itpo.apps.curves import PICTURE, chart, outcome_name, outcomes
    from itpo.training.evaluation import FINAL

    config: Any = run.config
    name, width = outcome_name(config), columns() if is_limited() else 100
    lines = []
    if curve := outcomes(run):
        print(
            textwrap.fill(f"mean {name} of each step's {config.prompts * config.rollouts} dialogues:", width)
        )
        text = chart([mean for _, mean in curve], min(width, 80), blocks=can_print("▁█│└─"))
        print(paint(text, config.method.entry.color))
    if watched := outcomes(run, "eval_success"):
        after = f", {watched[-1][1]:.3f} after step {watched[-1][0]}" if len(watched) > 1 else ""
        lines.append(
            f"{name} on {config.eval_dialogues} fresh problems: {watched[0][1]:.3f} before training{after}"
        )
    if run.done:
        ended, count = run.summary(), FINAL * config.eval_dialogues
        greedy = f"{ended['greedy_success']:.3f} decoded greedily"
        lines.append(f"at the end, on {count} others: {ended['success']:.3f} sampled, {greedy}")
    for line in lines:
        print(textwrap.fill(line, width, subsequent_indent="  "))
    if (run.folder / PICTURE).exists():
        print(f"picture: {run.folder / PICTURE}")


@app.command(
    cls=Command,
    epilog=examples("itpo runs remove runs/0123456789abcdef", "itpo runs remove --profile smoke --yes"),
)
@finds_runs()
def remove(
    root: Path,
    facts: "Facts",
    run: RunArgument = None,
    yes: Annotated[bool, typer.Option("--yes", help="Without asking")] = False,
) -> int:
    """Remove runs with all that is in their folders.

    A run that some process trains stays, and is named.
    """
    from itpo.runs.store import RunBusyError, RunFolderError

    with one_line(ValueError, RunFolderError):
        chosen = (
            [_at(run, root)]
            if run and not facts.given()
            else [listed.run for listed in _chosen(run, root, facts)]
        )
    for one in chosen:
        print(one.folder)
    if not yes:
        _ask(f"Remove {len(chosen)} {'run' if len(chosen) == 1 else 'runs'}? [y/N] ")
    stays = 0
    for one in chosen:
        try:
            one.remove()
        except (RunBusyError, RunFolderError, OSError) as error:
            print(visible(" ".join(str(error).split())), file=sys.stderr)
            stays += 1
    print(f"{len(chosen) - stays} removed" + f", {stays} not" * bool(stays))
    return 2 if stays else 0


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise typer.TyperException("nobody can be asked here: add --yes")
    if input(question).strip().lower() not in ("y", "yes"):
        raise typer.Exit(1)


def _at(text: str, root: Path) -> "Run":
    """A run by its folder, whatever is wrong with it, so that a damaged one can be removed."""
    from itpo.apps.finding import run_at
    from itpo.runs.store import Run

    folder = run_at(text, root)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{text} is not the folder of a run: name one that `itpo runs` lists")
    return Run(folder.absolute(), None)


def _chosen(text: str | None, root: Path, facts: "Facts") -> "list[Listed]":
    """The runs that are meant; raises one line where there are none."""
    from itpo.apps.configs import refuse_measurement
    from itpo.apps.finding import list_runs, matching, run_at

    if text is None and not facts.given():
        raise typer.TyperException(
            "say which: a folder, or facts such as --task math --method norm_itpo --seed 0"
        )
    with one_line(ValueError):
        folder = run_at(text, root).resolve() if text else None
        found = list_runs(folder.parent if folder else root)
        if folder in found.measurements:
            refuse_measurement(folder)
        chosen = matching(found.runs, facts)
    if folder:
        chosen = [listed for listed in chosen if listed.run.folder == folder]
    if not chosen:
        of = f" of {facts}" if facts.given() else ""
        what = f"{text} is not the folder of a run{of}" if text else f"no run{of} in {root}"
        raise typer.TyperException(f"{what}: see `itpo runs`")
    return chosen
