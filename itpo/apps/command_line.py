"""Train and list runs, check a task, talk to a policy, export it, read data, plan memory, draw figures.

Each command imports what it needs itself, so that help costs no more than Python and typer.
"""

# No `from __future__ import annotations`: typer would have to evaluate every option's type from text.

import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from itpo.apps import planning, sweeps
from itpo.apps.planning import Precision
from itpo.apps.terminal import one_line, visible

if TYPE_CHECKING:
    from itpo.data import Loaded
    from itpo.runs.store import Run

app = typer.Typer(
    name="itpo",
    help=(__doc__ or "").partition("\n")[0],
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status (1: a check or a run failed, 2: what was asked for cannot be done)."""
    try:
        given = sys.argv[1:] if arguments is None else arguments
        return app(sweeps.name_tracker(given), standalone_mode=False) or 0
    except typer.TyperException as error:
        print(visible(error.format_message()), file=sys.stderr)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return 130


def _print_version(wanted: bool) -> bool:
    if wanted:
        from itpo import __version__

        print(__version__)
        raise typer.Exit
    return False


@app.callback()
def shared(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """What all commands share."""


StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Run store  [default: runs/ of the checkout]")
]
ProfileOption = Annotated[str, typer.Option(help="Scale: smoke, laptop, smol, consumer or consumer_full")]


@app.command()
def train(
    task: Annotated[str, typer.Option(help="Task, or module:name of your own")] = "math",
    method: Annotated[str, typer.Option(help="Method, or module:name of your own")] = "norm_itpo",
    estimator: Annotated[str, typer.Option(help="rloo, grpo or ppo")] = "rloo",
    seed: Annotated[int, typer.Option(help="Of all random draws")] = 0,
    profile: ProfileOption = "laptop",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another setting; may be repeated")
    ] = None,
    store: StoreOption = None,
    mix_platforms: Annotated[
        bool, typer.Option("--mix-platforms", help="Go on with a run that began on another numeric platform")
    ] = False,
    tracker: sweeps.TrackerOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the folder; make nothing")] = False,
) -> int:
    """Train one run, or load it; the last line printed is its folder."""
    from itpo.apps.configs import named_config, parse_changes, with_settings
    from itpo.runs.paths import runs_root
    from itpo.runs.store import RunBusyError, RunFolderError, Store

    root = store or runs_root()
    with one_line(ValueError):
        changes = parse_changes(set_ or [])
        options = {name[5:]: value for name, value in changes.items() if name.startswith("task.")}
        config = with_settings(named_config(profile, task, method, estimator, seed, options), changes)
        training = sweeps.with_tracker(tracker)
    folder = Store(root).folder(config)
    if not dry_run:
        from itpo.runs.sweep import SweepError, sweep

        try:
            with one_line(RunBusyError, RunFolderError, OSError):
                sweep(root, [config], training, workers=1, mix_platforms=mix_platforms)
        except SweepError as error:
            return sweeps.print_failures(error.failures)
    print(folder)
    return 0


app.command()(sweeps.sweep)


@app.command()
def runs(store: StoreOption = None) -> int:
    """List the runs of a store."""
    from itpo.config import from_json
    from itpo.runs.files import RunFolderError, read_json
    from itpo.runs.paths import runs_root
    from itpo.runs.store import Run

    root = store or runs_root()
    lines = [["task", "method", "estimator", "seed", "steps", "success", "folder"]]
    for path in sorted(root.glob("*/config.json")):
        try:
            lines.append(_row(Run(path.parent, from_json(read_json(path).get("config")))))
        except (RunFolderError, ValueError) as error:
            print(visible(f"{path.parent}: {error}"), file=sys.stderr)
    if len(lines) == 1:
        print(f"no runs in {root}: make one with `itpo train`")
        return 0
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _row(run: "Run") -> list[str]:
    from itpo.config import RunConfig

    config = run.config
    if not isinstance(config, RunConfig):
        raise ValueError("its config is none of this library's trainer")
    success = f"{run.summary()['success']:.3f}" if run.done else "-"
    steps = f"{run.steps_done()} of {config.steps}"
    names = [config.task.name, config.method.name, config.estimator.name]
    return [*names, str(config.seed), steps, success, str(run.folder)]


@app.command()
def check(
    task: Annotated[str, typer.Argument(help="math, documents or medical")],
    profile: ProfileOption = "laptop",
    dialogues: Annotated[int, typer.Option(min=2, help="Behind each figure but the run's")] = 2000,
) -> int:
    """Measure whether a task is fit to compare methods on."""
    from itpo.apps.configs import named_config
    from itpo.runs.paths import runs_root
    from itpo.runs.store import Store
    from itpo.study.testbed import report

    with one_line(ValueError):
        config = named_config(profile, task)
    return 0 if report(config, Store(runs_root()), dialogues) else 1


@app.command()
def chat(
    role: Annotated[Literal["user", "assistant"], typer.Option("--as", help="Whom you play")] = "user",
    task: Annotated[str, typer.Option(help="A scripted task")] = "math",
    data: Annotated[
        str | None, typer.Option(help="File, folder or hub dataset: talk about a real example")
    ] = None,
    format: Annotated[str | None, typer.Option(help="How the rows of --data are laid out")] = None,
    url: Annotated[
        str | None, typer.Option(help="Server whose model plays the user of --data and judges the outcome")
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="Of that server's model")] = None,
    free: Annotated[bool, typer.Option("--free", help="Talk about anything, without an example")] = False,
    run: Annotated[Path | None, typer.Option(help="Folder of a finished run: talk to its policy")] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of the base model, if not the task's or the run's own")
    ] = None,
    profile: Annotated[str, typer.Option(help="Of the task's own model")] = "laptop",
    max_tokens: Annotated[int, typer.Option(help="Of one turn of a model")] = 200,
    seed: Annotated[int, typer.Option(help="Of the example, its user and the policy")] = 0,
) -> int:
    """Talk to a policy, or take its place."""
    assistant, real = role == "assistant", data is not None
    wrong = {
        "--data needs --format": real and not format,
        "--data and --free exclude each other": real and free,
        "--url and --model-name need each other": bool(url) != bool(model_name),
        "--url needs --data: users of the library's own tasks are scripted": url and not real,
        "--as assistant needs an example: leave --free out": assistant and free,
        "--as assistant with --data needs --url and --model-name": assistant and real and not url,
        "--data needs --model or --run: a tiny model knows the words of its own task only": real
        and not assistant
        and not (model or run),
    }
    for remedy, applies in wrong.items():
        if applies:
            raise typer.TyperException(remedy)

    from itpo.apps.chat import converse, find_policy, find_scene
    from itpo.apps.configs import finished_run, named_config
    from itpo.runs.store import RunFolderError
    from itpo.specs import Endpoint

    # In this order, so that nothing is loaded for options that are refused.
    with one_line(ValueError, OSError, RunFolderError):
        scene = None
        if not free:
            endpoint = Endpoint(url, model_name, max_tokens=max_tokens) if url and model_name else None
            scene = find_scene(task, data, format, endpoint, seed)
        if scene and assistant:
            other = scene.parties["user"]
        else:
            finished = finished_run(run) if run else None
            other = find_policy(named_config(profile, task), finished, model, max_tokens, seed)
        converse(other, scene, role)
    return 0


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run")],
    folder: Annotated[Path, typer.Argument(help="New folder for adapter and model card")],
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="NAME", help="Then send it to a new repository of the hub")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Name on the hub of a base that the run knows as a folder")
    ] = None,
    data: Annotated[str | None, typer.Option(help="What the card says of the data, in your words")] = None,
    license: Annotated[
        str | None, typer.Option(help="Of the adapter, as the hub calls it: apache-2.0")
    ] = None,
) -> int:
    """Write a run's policy as a PEFT folder with a model card, for others."""
    from itpo.apps import export as exporting
    from itpo.runs.store import RunFolderError

    with one_line(ValueError, RunFolderError, OSError):
        made = exporting.export(run, folder, base, data, license, push_to_hub)
        print(f"{made}: {', '.join(sorted(path.name for path in made.iterdir()))}")
        if push_to_hub:
            print(f"on the hub: {exporting.push(made, push_to_hub)}")
    return 0


@app.command()
def data(
    format: Annotated[str, typer.Option(help="How the rows are laid out, such as gsm8k")],
    source: Annotated[
        str | None, typer.Argument(help="File, folder or hub dataset  [default: the format's, on the hub]")
    ] = None,
    part: Annotated[str, typer.Option(help="Of a source with several")] = "train",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="List bad rows instead of stopping at one")
    ] = False,
) -> int:
    """Read real data: counts, the first example, bad rows."""
    from itpo.apps.configs import check_name
    from itpo.data import FORMATS, load_examples

    with one_line(ValueError, OSError):
        check_name("format", format, FORMATS)
        print(summary(load_examples(source, format, part=part, skip_bad=skip_bad)))
    return 0


def summary(loaded: "Loaded") -> str:
    """What a source gave: counts, the first example, and the rows that were skipped.

    >>> from itpo.data import Loaded, generate_gsm
    >>> print(summary(Loaded(tuple(generate_gsm(2, seed=0)), skipped=(), repeated=1)))
    2 examples of math, 1 repeated, 0 skipped
    first example: gsm:0:0
      user> ...
      goal: ...
      answer: ...
    """
    first = loaded.examples[0]
    counts = f"{loaded.repeated} repeated, {len(loaded.skipped)} skipped"
    facts = [f"{message.role}> {message.content}" for message in first.prompt]
    facts += [f"goal: {first.goal}", *(f"{name}: {text}" for name, text in first.reference.items())]
    lines = [f"{len(loaded.examples)} examples of {first.task}, {counts}", f"first example: {first.id}"]
    lines += [f"  {textwrap.shorten(fact, 300)}" for fact in facts]
    return "\n".join([*lines, *(f"skipped: {error}" for error in loaded.skipped)])


app.command()(planning.plan)


@app.command("check-model")
def check_model(
    model: Annotated[str, typer.Argument(help="Folder, name on the hub, or smollm2")],
    precision: Annotated[Precision, typer.Option(help="Of the base")] = "full",
    rank: Annotated[int, typer.Option(min=1, help="Of the adapters")] = 16,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens, for memory and time")] = 1024,
    response: Annotated[int, typer.Option(min=1, help="Tokens of all turns, for memory and time")] = 4096,
) -> int:
    """Whether a model can be trained here: template, turn end, numbers, adapters, memory, time."""
    from itpo.apps import check_model as checking

    with one_line(OSError, ImportError):
        question = checking.Question(checking.find(model), precision, rank, prompt, response)
        try:
            for line in checking.check_model(question):
                print(visible(line), flush=True)
        except checking.UnfitError as error:
            print(visible(f"cannot be trained here: {error}"), file=sys.stderr)
            return 1
    print("can be trained here")
    return 0


@app.command()
def methods() -> int:
    """List methods and estimators: what each needs, and which trains which."""
    from itpo.attribution import METHODS
    from itpo.config import allows
    from itpo.estimators import ESTIMATORS
    from itpo.rivals import RIVALS

    print("estimators")
    for name, estimator in ESTIMATORS.items():
        print(f"  {name:<17} {_first_line(estimator.function)}")
    for title, entries in (("the rows of Table 1", METHODS), ("of other papers, to compare with", RIVALS)):
        print(f"\nmethods, {title}")
        for name, method in entries.items():
            parts = {
                "a PRM": method.needs_prm,
                "a judge": method.needs_judge,
                "a critic": method.needs_values,
            }
            needs = (
                " and ".join(part for part, needed in parts.items() if needed) or "nothing but the outcome"
            )
            trains = ", ".join(other for other in ESTIMATORS if allows(other, name))
            alone = ", its baseline left out" if method.compares else ""
            print(f"  {name:<17} {_first_line(method.function)}")
            print(f"{'':<20}per {method.granularity}; needs {needs}; trained by {trains}{alone}")
    return 0


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().splitlines()[0]


@app.command()
def figures(
    folder: Annotated[Path | None, typer.Argument(help="[default: figures/ of the checkout]")] = None,
) -> int:
    """Draw the published figures again, from the data beside them."""
    from itpo.figures.publishing import gallery
    from itpo.figures.publishing.registry import PublishedError, redraw
    from itpo.runs.paths import project_root

    start, count, place = time.monotonic(), 0, folder or project_root() / "figures"
    with one_line(PublishedError, OSError):
        for record in redraw(place):
            count += 1
            print(f"{record.name}: {', '.join(end.removeprefix('.') for end in record.drawn)}", flush=True)
        page = gallery.build(place)
    print(f"{count} figures and tables in {time.monotonic() - start:.0f} s; all on one page: {page}")
    return 0
