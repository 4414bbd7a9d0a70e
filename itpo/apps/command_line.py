"""Train and list runs, check a task, talk to a policy, export it, read data, plan memory, draw figures.

Each command imports what it needs itself, so that help costs no more than Python and typer.
"""

# No `from __future__ import annotations`: typer would have to evaluate every option's type from text.

import os
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from itpo.apps import listing, planning, policies, sweeps, training
from itpo.apps.options import ProfileOption
from itpo.apps.planning import Precision
from itpo.apps.terminal import (
    GOES_ON,
    Command,
    Context,
    Group,
    examples,
    expected_errors,
    import_from_here,
    one_line,
    stoppable,
    visible,
)
from itpo.extras import MissingExtraError

if TYPE_CHECKING:
    from itpo.data import Loaded

app = typer.Typer(
    name="itpo",
    cls=Group,
    help=(__doc__ or "").partition("\n")[0],
    epilog=examples(
        "itpo train --task math --method norm_itpo --seed 0",
        "itpo runs",
        "itpo chat --task math --method norm_itpo --seed 0",
        "itpo COMMAND --help",
    ),
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command, that of this process if none is given; returns the exit status.

    1: a check or a run failed; 2: what was asked for cannot be done; 130: stopped by Ctrl-C.
    """
    status = _run(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and status == 130:
        sys.stdout.flush()
        os._exit(130)  # Python itself would end by the signal if it came while a module was imported
    return status


def _run(arguments: list[str]) -> int:
    given, verbose = _verbose(arguments)
    try:
        status = app(sweeps.name_tracker(given), prog_name="itpo", standalone_mode=False) or 0
        sys.stdout.flush()
        return int(status)
    except typer.TyperException as error:
        if verbose:
            traceback.print_exc()
        text, context = error.format_message(), getattr(error, "ctx", None)
        print(
            visible(f"{text.rstrip('.')} (see `{context.command_path} --help`)" if context else text),
            file=sys.stderr,
        )
        return 2
    except MissingExtraError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # what is left to be written goes nowhere
        return 1
    except (typer.Abort, KeyboardInterrupt):
        return 130


def _verbose(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments with ``--verbose`` first, wherever it was said."""
    others = [argument for argument in arguments if argument != "--verbose"]
    wanted = len(others) < len(arguments)
    return ["--verbose"] * wanted + others, wanted


def _print_version(wanted: bool) -> bool:
    if wanted:
        from itpo import __version__

        print(__version__)
        raise typer.Exit
    return False


@app.callback(invoke_without_command=True)
def shared(
    context: Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", help="A line for each step; the traceback of an error. Also after a command."
        ),
    ] = False,
) -> None:
    """What all commands share."""
    context.obj = verbose
    with one_line(OSError):
        import_from_here()  # for any command may read a run of a reader's own method or task
    if context.invoked_subcommand is None:
        print(context.get_help())


app.command(
    cls=Command,
    epilog=examples(
        "itpo train",
        "itpo train --task medical --method itpo --estimator ppo --seed 3",
        "itpo train --profile smoke --steps 2 --set adapter.rank=4",
        "itpo train --method norm_itpo --set temperature=0.1 --dry-run",
    ),
)(training.train)
app.command(
    cls=Command, epilog=examples("itpo sweep grid.toml --dry-run", "itpo sweep grid.toml --workers 2")
)(sweeps.sweep)
app.add_typer(listing.app, name="runs")


@app.command(cls=Command, epilog=examples("itpo check math", "itpo check medical --dialogues 500"))
@stoppable(GOES_ON)
def check(
    task: Annotated[
        str, typer.Argument(help="Scripted task such as math or corridor, or module:name of your own")
    ],
    profile: ProfileOption = "laptop",
    dialogues: Annotated[int, typer.Option(min=2, help="Behind each figure but the run's")] = 2000,
) -> int:
    """Measure whether a task is fit to compare methods on."""
    from itpo.apps.configs import named_config
    from itpo.runs.paths import runs_root
    from itpo.runs.store import Store
    from itpo.runs.sweep import SweepError
    from itpo.study.testbed import report

    try:
        with one_line(*expected_errors()):
            return 0 if report(named_config(profile, task), Store(runs_root()), dialogues) else 1
    except SweepError as error:
        return sweeps.print_failures(error)


app.command(
    cls=Command,
    epilog=examples(
        "itpo chat --task medical",
        "itpo chat --task medical --as assistant",
        "itpo chat --task math --method norm_itpo --seed 0",
        "itpo chat --run runs/0123456789abcdef --example 7",
    ),
)(policies.chat)
app.command(
    cls=Command,
    epilog=examples(
        "itpo export runs/0123456789abcdef adapter",
        "itpo export adapter --task math --method norm_itpo --seed 0",
        "itpo export 0123456789abcdef adapter --push-to-hub me/name",
    ),
)(policies.export)


@app.command(
    cls=Command, epilog=examples("itpo data train.jsonl --format gsm8k", "itpo data --format collabllm-math")
)
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


app.command(
    cls=Command,
    epilog=examples(
        "itpo plan --model Qwen/Qwen2.5-3B-Instruct --gpu 24",
        "itpo plan --model FOLDER --gpu 80 --precision full",
    ),
)(planning.plan)


@app.command(
    "check-model",
    cls=Command,
    epilog=examples("itpo check-model smollm2", "itpo check-model FOLDER --rank 8"),
)
def check_model(
    model: Annotated[str, typer.Argument(help="Folder, name on the hub, or smollm2")],
    precision: Annotated[Precision, typer.Option(help="Of the base")] = "full",
    rank: Annotated[int, typer.Option(min=1, help="Of the adapters")] = 16,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens, for memory and time")] = 1024,
    response: Annotated[int, typer.Option(min=1, help="Tokens of all turns, for memory and time")] = 4096,
) -> int:
    """Tell whether a model can be trained here.

    What is looked at: chat template, end of a turn, numbers, adapters, memory and time.
    """
    from itpo.apps import check_model as checking

    with one_line(*expected_errors(), ImportError):
        question = checking.Question(checking.find(model), precision, rank, prompt, response)
        try:
            for line in checking.check_model(question):
                print(visible(line), flush=True)
        except checking.UnfitError as error:
            print(visible(f"cannot be trained here: {error}"), file=sys.stderr)
            return 1
    print("can be trained here")
    return 0


@app.command(cls=Command, epilog=examples("itpo methods"))
def methods() -> int:
    """List methods and estimators, and which trains which."""
    from itpo.attribution import METHODS
    from itpo.config import allows
    from itpo.estimators import ESTIMATORS
    from itpo.rivals import RIVALS

    print("estimators")
    for name, estimator in ESTIMATORS.items():
        print(f"  {name:<17} {_first_line(estimator.function)}")
    for title, entries in (
        ("the rows of Table 1", METHODS),
        ("of other papers and our own, to compare with", RIVALS),
    ):
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


@app.command(cls=Command, epilog=examples("itpo figures", "itpo figures build/smoke/figures"))
def figures(
    folder: Annotated[Path | None, typer.Argument(help="[default: figures/ of the checkout]")] = None,
) -> int:
    """Draw the published figures again from their data."""
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
