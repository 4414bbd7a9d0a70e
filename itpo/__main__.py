"""Command line of the library: measure a testbed, talk to a policy, read data, plan memory, export, draw figures."""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from itpo.attribution import METHODS, Row
from itpo.config import allows
from itpo.data import FORMATS, DataError, Loaded, load_examples
from itpo.estimators import ESTIMATORS
from itpo.models.memory import Settings, Work, check, choose, find_shape
from itpo.models.memory import report as plan_report
from itpo.runs.paths import project_root, runs_root
from itpo.runs.store import RunFolderError, Store
from itpo.specs import PRECISIONS
from itpo.study.profiles import PROFILES, get_profile
from itpo.study.testbed import report
from itpo.tasks.registry import TASKS, get_task
from itpo.training.build import base_model

if TYPE_CHECKING:  # only `chat` needs a client of servers, and imports it
    from itpo.apps.chat import Party, Scene


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status (1: a gate failed, 2: what was asked for cannot be done)."""
    parser = argparse.ArgumentParser(prog="python -m itpo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    testbed_checks = commands.add_parser(
        "testbed_checks", help="measure whether a task is fit to compare methods on"
    )
    testbed_checks.add_argument("task", choices=sorted(TASKS))
    testbed_checks.add_argument("--profile", choices=sorted(PROFILES), default="laptop")
    add_chat(commands.add_parser("chat", help="talk to a policy, or take its place"))
    add_data(commands.add_parser("data", help="read real data: counts, the first example, bad rows"))
    commands.add_parser("estimators", help="list the estimators and the rows of Table 1 that each can train")
    add_plan(
        commands.add_parser("plan", help="what a run needs of a GPU's memory, and the settings that fit")
    )
    add_export(
        commands.add_parser("export", help="a run's policy as a PEFT folder with a model card, for others")
    )
    figures = commands.add_parser(
        "figures", help="draw the published figures again, from the data beside them"
    )
    figures.add_argument("folder", nargs="?", type=Path, help="default: figures/ of the checkout")
    options = parser.parse_args(arguments)
    if options.command == "figures":
        return draw_figures(options.folder or project_root() / "figures")
    if options.command == "export":
        return export_policy(options)
    if options.command == "plan":
        return plan(options)
    if options.command in ("chat", "data"):
        try:
            return chat(options) if options.command == "chat" else data(options)
        except (DataError, ConnectionError, FileNotFoundError) as error:  # they say what to do about it
            print(error, file=sys.stderr)
            return 2
    if options.command == "estimators":
        print(list_estimators())
        return 0
    config = get_profile(options.profile).on(options.task).config("trajectory_share", seed=0)
    return 0 if report(config, Store(runs_root())) else 1


def add_chat(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m itpo chat``."""
    parser.add_argument(
        "--as", dest="role", choices=("user", "assistant"), default="user", help="whom you play"
    )
    parser.add_argument("--task", choices=sorted(TASKS), default="math", help="the embedded task")
    parser.add_argument("--data", help="a file, folder or hub dataset: talk about a real example instead")
    parser.add_argument("--format", choices=sorted(FORMATS), help="how the rows of --data are laid out")
    parser.add_argument(
        "--url", help="of a server whose model plays the user of --data and judges the outcome"
    )
    parser.add_argument("--model-name", help="of that server's model")
    parser.add_argument(
        "--free", action="store_true", help="talk to a policy about anything, without an example"
    )
    parser.add_argument("--run", type=Path, help="folder of a finished run: talk to its policy")
    parser.add_argument("--model", type=Path, help="folder of the base model, if not the task's embedded one")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="laptop", help="of the embedded model")
    parser.add_argument("--max-tokens", type=int, default=200, help="of one turn of a model")
    parser.add_argument("--seed", type=int, default=0, help="of the example, of its user and of the policy")


def chat(options: argparse.Namespace) -> int:
    """Hold one conversation in the terminal; returns the exit status (2: the options do not go together)."""
    from itpo.apps.chat import converse

    assistant, real = options.role == "assistant", options.data is not None
    policy = options.model or options.run
    lacks = {
        "--data needs --format": real and not options.format,
        "--data and --free exclude each other": real and options.free,
        "--url and --model-name need each other": bool(options.url) != bool(options.model_name),
        "--url needs --data: embedded users are scripted": options.url and not real,
        "--as assistant needs an example: leave --free out": assistant and options.free,
        "--as assistant with --data needs --url and --model-name": assistant and real and not options.url,
        "--data needs --model or --run: the embedded model knows the words of its task only": real
        and not assistant
        and not policy,
    }
    for remedy, wrong in lacks.items():
        if wrong:
            print(remedy, file=sys.stderr)
            return 2
    scene = None if options.free else find_scene(options)
    converse(scene.parties["user"] if scene and assistant else find_policy(options), scene, options.role)
    return 0


def find_scene(options: argparse.Namespace) -> Scene:
    """The example that the options of ``chat`` ask for."""
    from itpo.apps.chat import embedded_scene, real_scene
    from itpo.rollout.endpoint import Endpoint

    if not options.data:
        return embedded_scene(get_task(options.task), options.seed)
    examples = load_examples(options.data, options.format).examples
    endpoint = None
    if options.url:
        endpoint = Endpoint(options.url, options.model_name, max_tokens=options.max_tokens)
    return real_scene(examples, options.seed, endpoint)


def find_policy(options: argparse.Namespace) -> Party:
    """The policy that the options of ``chat`` ask for; the task's embedded model is made where it is missing."""
    from itpo.apps.chat import Talker, base_of

    if options.model or options.run:
        base = options.model or base_of(options.run)
    else:
        config = get_profile(options.profile).on(options.task).config("trajectory_share", seed=0)
        base = base_model(config, Store(runs_root()))
    return Talker(base, options.run, options.max_tokens, options.seed).answer


def add_data(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m itpo data``."""
    parser.add_argument(
        "source", nargs="?", help="a file, folder or hub dataset (default: the format's, on the hub)"
    )
    parser.add_argument("--format", choices=sorted(FORMATS), required=True, help="how its rows are laid out")
    parser.add_argument("--part", default="train", help="of a source with several (default: %(default)s)")
    parser.add_argument(
        "--skip-bad", action="store_true", help="count and list bad rows instead of stopping at one"
    )


def data(options: argparse.Namespace) -> int:
    """Read real data and print what came of it; returns the exit status."""
    loaded = load_examples(options.source, options.format, part=options.part, skip_bad=options.skip_bad)
    print(summary(loaded))
    return 0


def summary(loaded: Loaded) -> str:
    """What a source gave: counts, the first example, and the rows that were skipped.

    >>> from itpo.data import generate_gsm
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


def add_plan(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m itpo plan``."""
    default = Work()
    parser.add_argument(
        "--model",
        required=True,
        help="folder, config.json, or published model such as Qwen/Qwen2.5-3B-Instruct",
    )
    parser.add_argument("--gpu", type=float, required=True, metavar="GIB", help="memory of the GPU")
    parser.add_argument("--precision", choices=PRECISIONS, default=default.precision, help="of the base")
    parser.add_argument(
        "--rank", type=int, default=default.rank, help="of the adapters (default: %(default)s)"
    )
    parser.add_argument(
        "--adapters", type=int, default=default.adapters, help="policy and PRM: 2; with a critic: 3"
    )
    parser.add_argument("--prompt", type=int, default=default.prompt, help="tokens (default: %(default)s)")
    parser.add_argument(
        "--response", type=int, default=default.response, help="tokens of all turns (default: %(default)s)"
    )
    parser.add_argument(
        "--dialogues", type=int, default=default.dialogues, help="of a step (default: %(default)s)"
    )
    parser.add_argument(
        "--caches",
        type=int,
        default=default.caches,
        help="of a dialogue: 2 where the base plays the user too",
    )
    for name in (field.name for field in fields(Settings)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="instead of the largest that fits")


def plan(options: argparse.Namespace) -> int:
    """Print the memory budget of a run; returns the exit status (2: it does not fit, or the model is not known)."""
    given = vars(options)
    work = Work(**{field.name: given[field.name] for field in fields(Work) if field.name in given})
    try:
        shape = find_shape(options.model)
        wanted = {field.name: given[field.name] for field in fields(Settings) if given[field.name]}
        settings = replace(choose(shape, work, options.gpu), **wanted)
        check(shape, work, settings, options.gpu)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(plan_report(options.model, shape, work, settings, options.gpu))
    return 0


def add_export(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m itpo export``."""
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("folder", type=Path, help="new folder for adapter and model card")
    parser.add_argument("--push-to-hub", metavar="NAME", help="then send it to a new repository of the hub")
    parser.add_argument("--base", help="name on the hub of the base, where the run store did not make it")
    parser.add_argument("--precision", choices=PRECISIONS, default="full", help="of that base in the run")
    parser.add_argument("--data", help="a sentence on what it was trained on, if not on its embedded task")
    parser.add_argument("--license", help="of the adapter, as the hub calls it, such as apache-2.0")


def export_policy(options: argparse.Namespace) -> int:
    """Export the policy of a run; returns the exit status (2: it cannot be exported or sent, with the reason)."""
    from itpo.apps.export import ExportError, export, push

    name = options.push_to_hub
    try:
        folder = export(
            options.run,
            options.folder,
            base=options.base,
            data=options.data,
            precision=options.precision,
            license=options.license,
            name=name,
        )
        print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
        if name:
            print(f"on the hub: {push(folder, name)}")
    except (ExportError, RunFolderError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def draw_figures(folder: Path) -> int:
    """Draw a folder's figures and text tables again, and its gallery; returns the exit status (2: one cannot be drawn)."""
    from itpo.figures.publishing import gallery
    from itpo.figures.publishing.registry import PublishedError, redraw

    start, count = time.monotonic(), 0
    try:
        for record in redraw(folder):
            count += 1
            print(f"{record.name}: {', '.join(end.removeprefix('.') for end in record.drawn)}", flush=True)
        page = gallery.build(folder)
    except (PublishedError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{count} figures and tables in {time.monotonic() - start:.0f} s; all on one page: {page}")
    return 0


def list_estimators() -> str:
    """Estimators and rows by the names that configurations take, each with the first line of its documentation.

    >>> print(list_estimators().splitlines()[1])
      rloo              RLOO: leave-one-out baselines, undiscounted returns, whitened over the batch's assistant tokens.
    """
    lines = ["estimators"]
    lines += [f"  {name:<17} {_first_line(e.function)}" for name, e in ESTIMATORS.items()]
    lines += ["", "rows of Table 1"]
    for name, row in METHODS.items():
        lines.append(f"  {name:<17} {_first_line(row.function)}")
        trains = [e for e in ESTIMATORS if allows(e, name)]
        lines.append(f"{'':<20}per {row.granularity}; needs {_needs(row)}; trained by {', '.join(trains)}")
    return "\n".join(lines)


def _needs(row: Row) -> str:
    parts = {"a PRM": row.needs_prm, "a judge": row.needs_judge, "a critic": row.needs_values}
    return " and ".join(part for part, needed in parts.items() if needed) or "nothing but the outcome"


def _first_line(function: object) -> str:
    return (function.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
