"""Command line of the library: measure a testbed, talk to a policy, plan the memory of a GPU, list what can be trained."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path

from itpo.attribution import ROWS, Row
from itpo.base import PRECISIONS
from itpo.chat import Talker, base_of, converse, embedded_scene, real_scene
from itpo.data import FORMATS, load_examples
from itpo.estimators import ESTIMATORS
from itpo.gates import report
from itpo.paths import runs_root
from itpo.plan import Settings, Work, check, choose, find_shape
from itpo.plan import report as plan_report
from itpo.profiles import PROFILES, allows, get_profile
from itpo.runs import Store
from itpo.tasks import TASKS, get_task
from itpo.tasks.real import MAX_TURNS
from itpo.trainer import base_model


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status (1: a gate failed)."""
    parser = argparse.ArgumentParser(prog="python -m itpo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    gates = commands.add_parser("gates", help="measure whether a task is fit to compare methods on")
    gates.add_argument("task", choices=sorted(TASKS))
    gates.add_argument("--profile", choices=sorted(PROFILES), default="laptop")
    add_chat(commands.add_parser("chat", help="talk to a policy, or play the user of an example"))
    commands.add_parser("estimators", help="list the estimators and the rows of Table 1 that each can train")
    add_plan(
        commands.add_parser("plan", help="what a run needs of a GPU's memory, and the settings that fit")
    )
    options = parser.parse_args(arguments)
    if options.command == "plan":
        return plan(options)
    if options.command == "chat":
        return chat(options)
    if options.command == "estimators":
        print(list_estimators())
        return 0
    config = replace(get_profile(options.profile).config("trajectory_share", seed=0), task=options.task)
    return 0 if report(config, Store(runs_root())) else 1


def add_chat(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m itpo chat``."""
    parser.add_argument("--task", choices=sorted({*TASKS, *MAX_TURNS}), default="math")
    parser.add_argument(
        "--data", help="play the user of a real example from this file, folder or hub dataset"
    )
    parser.add_argument("--format", choices=sorted(FORMATS), help="how the rows of --data are laid out")
    parser.add_argument("--free", action="store_true", help="talk about anything, without an example")
    parser.add_argument("--run", type=Path, help="folder of a finished run: talk to its policy")
    parser.add_argument("--model", type=Path, help="folder of the base model, if not the task's embedded one")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="laptop", help="of the embedded model")
    parser.add_argument("--max-tokens", type=int, default=200, help="of one assistant turn")
    parser.add_argument("--seed", type=int, default=0, help="of the example and of the policy's sampling")


def chat(options: argparse.Namespace) -> int:
    """Hold one conversation in the terminal; returns the exit status (2: the options lack something)."""
    embedded = options.task in TASKS
    if options.data and not options.format:
        print("--data needs --format", file=sys.stderr)
        return 2
    if not embedded and not (options.model or options.run):
        print(f"task {options.task!r} has no embedded model: pass --model or --run", file=sys.stderr)
        return 2
    if not embedded and not (options.data or options.free):
        print(f"task {options.task!r} has no embedded examples: pass --data, or --free", file=sys.stderr)
        return 2
    scene = None
    if options.data:
        scene = real_scene(load_examples(options.data, options.format).examples, options.seed)
    elif not options.free:
        scene = embedded_scene(get_task(options.task), options.seed)
    if options.model or options.run:
        base = options.model or base_of(options.run)
    else:
        config = replace(get_profile(options.profile).config("trajectory_share", seed=0), task=options.task)
        base = base_model(config, Store(runs_root()))
    converse(Talker(base, options.run, options.max_tokens, options.seed).answer, scene)
    return 0


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


def list_estimators() -> str:
    """Estimators and rows by the names that configurations take, each with the first line of its documentation.

    >>> print(list_estimators().splitlines()[1])
      rloo              RLOO: leave-one-out baselines, undiscounted returns, whitened over the batch's assistant tokens.
    """
    lines = ["estimators"]
    lines += [f"  {name:<17} {_first_line(e.function)}" for name, e in ESTIMATORS.items()]
    lines += ["", "rows of Table 1"]
    for name, row in ROWS.items():
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
