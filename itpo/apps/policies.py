"""The commands on a policy: talk to it, and write it for others."""

# No `from __future__ import annotations`: typer would have to evaluate every option's type from text.

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from itpo.apps.options import finds_runs
from itpo.apps.terminal import expected_errors, one_line, stoppable
from itpo.apps.training import watch_models

if TYPE_CHECKING:
    from itpo.apps.finding import Facts
    from itpo.config import TaskSpec
    from itpo.runs.store import Run


@finds_runs("status", task="Of the run; without a run the scripted task  [default: math]")
@stoppable()
def chat(
    root: Path,
    facts: "Facts",
    role: Annotated[Literal["user", "assistant"], typer.Option("--as", help="Whom you play")] = "user",
    run: Annotated[
        str | None,
        typer.Option(help="Folder of a finished run, or the first letters of its name: talk to its policy"),
    ] = None,
    example: Annotated[int, typer.Option(help="Number of the problem, and of all random draws")] = 0,
    data: Annotated[
        str | None, typer.Option(help="File, folder or hub dataset: talk about a real example")
    ] = None,
    format: Annotated[str | None, typer.Option(help="How the rows of --data are laid out")] = None,
    url: Annotated[
        str | None, typer.Option(help="Server whose model plays the user of --data and judges the outcome")
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="Of that server's model")] = None,
    free: Annotated[bool, typer.Option("--free", help="Talk about anything, without an example")] = False,
    model: Annotated[
        Path | None, typer.Option(help="Folder of the base model, if not the task's or the run's own")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of one turn of a model")] = 200,
) -> int:
    """Talk to a policy, or take its place.

    The run is named by its folder, or by what is known of it: --method and what tells it from others. Without a run you talk to
    the model that training starts from.
    """
    assistant = role == "assistant"
    _refuse_conflicts(assistant, facts, run, data, format, url, model_name, free, model)

    from itpo.apps.chat import converse, find_policy, find_scene
    from itpo.apps.configs import check_name, named_config
    from itpo.apps.turn_credit import show_turn_credit
    from itpo.data import FORMATS
    from itpo.specs import Endpoint
    from itpo.study.profiles import PROFILES

    # In this order, so that nothing is loaded for options that are refused.
    with one_line(*expected_errors()):
        if format is not None:
            check_name("format", format, FORMATS)
        if facts.profile is not None:
            check_name("profile", facts.profile, PROFILES)
        finished, task = _run_and_task(run, root, facts)
        scene = None
        if not free:
            endpoint = Endpoint(url, model_name, max_tokens=max_tokens) if url and model_name else None
            scene = find_scene(task, data, format, endpoint, example)
        if scene and assistant:
            other = scene.parties["user"]
        else:
            start = finished.config if finished else named_config(facts.profile or "laptop", task.name)
            with watch_models(root, _say_making):
                other = find_policy(start, finished, model, max_tokens, example, root)
        messages = converse(other, scene, role)
        if finished and scene and scene.example is not None and model is None:
            show_turn_credit(finished, task, scene.example, messages)
    return 0


def _run_and_task(text: str | None, root: Path, facts: "Facts") -> "tuple[Run | None, TaskSpec]":
    """The run that is meant, if any, and the scripted task: the run's own, with its options, unless another one is named."""
    from itpo.apps.configs import finished_run, named_task
    from itpo.apps.finding import run_at, the_run
    from itpo.config import TaskSpec

    run = finished_run(run_at(text, root)) if text else None
    if facts.method is not None:
        run = the_run(root, facts)  # also for an assistant, whose turns it credits at the end
    own = run.config.task if run else None
    if isinstance(own, TaskSpec) and facts.task in (None, own.name):
        return run, own
    return run, named_task(facts.task or (own.name if own else "math"))


def _refuse_conflicts(
    assistant: bool,
    facts: "Facts",
    run: str | None,
    data: str | None,
    format: str | None,
    url: str | None,
    model_name: str | None,
    free: bool,
    model: Path | None,
) -> None:
    """Raise ``typer.TyperException`` that says which options of :func:`chat` do not go together."""
    known, real = facts.method is not None, data is not None
    of_a_run = facts.estimator is not None or facts.seed is not None or facts.settings
    base = model or run or known
    wrong = {
        "--data needs --format": real and not format,
        "--format needs --data": format and not real,
        "--data and --free exclude each other": real and free,
        "--url and --model-name need each other": bool(url) != bool(model_name),
        "--url needs --data: users of the library's own tasks are scripted": url and not real,
        "--as assistant needs an example: leave --free out": assistant and free,
        "--as assistant takes the model's place: leave --model out": assistant and model,
        "--as assistant with --data needs --url and --model-name": assistant and real and not url,
        "--run and --method exclude each other": run and known,
        "--estimator, --seed and --set are of a run: name its --method too": not known and of_a_run,
        "--data needs --model or --run: a tiny model knows the words of its own task only": real
        and not assistant
        and not base,
    }
    for remedy, applies in wrong.items():
        if applies:
            raise typer.TyperException(remedy)


def _say_making(text: str) -> None:
    ends = "\r" if sys.stderr.isatty() else "\n"
    print(f"a base model is made first, once: {text}", end=ends, file=sys.stderr, flush=True)


@finds_runs("status")
def export(
    root: Path,
    facts: "Facts",
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] FOLDER",
            help="Folder of a finished run, or the first letters of its name, unless facts say which; new folder for adapter "
            "and card",
        ),
    ],
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
    """Write a run's policy as a PEFT folder with a model card."""
    from itpo.apps import export as exporting
    from itpo.apps.finding import run_at, the_run

    if len(folders) + bool(facts.given()) != 2:
        raise typer.TyperException(
            "name the run, by its folder or by facts such as --task and --method, and a new FOLDER"
        )
    *named, folder = folders
    with one_line(*expected_errors()):
        run = run_at(named[0], root) if named else the_run(root, facts).folder
        made = exporting.export(run, Path(folder), base, data, license, push_to_hub)
        print(f"{made}: {', '.join(sorted(path.name for path in made.iterdir()))}")
        if push_to_hub:
            print(f"on the hub: {exporting.push(made, push_to_hub)}")
    return 0
