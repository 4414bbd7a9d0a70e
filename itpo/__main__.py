"""Command line of the library: measure whether a task is a fit testbed, list what can be trained."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from itpo.attribution import ROWS, Row
from itpo.estimators import ESTIMATORS
from itpo.gates import report
from itpo.paths import runs_root
from itpo.profiles import PROFILES, allows, get_profile
from itpo.runs import Store
from itpo.tasks import TASKS


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status (1: a gate failed)."""
    parser = argparse.ArgumentParser(prog="python -m itpo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    gates = commands.add_parser("gates", help="measure whether a task is fit to compare methods on")
    gates.add_argument("task", choices=sorted(TASKS))
    gates.add_argument("--profile", choices=sorted(PROFILES), default="laptop")
    commands.add_parser("estimators", help="list the estimators and the rows of Table 1 that each can train")
    options = parser.parse_args(arguments)
    if options.command == "estimators":
        print(list_estimators())
        return 0
    config = replace(get_profile(options.profile).config("trajectory_share", seed=0), task=options.task)
    return 0 if report(config, Store(runs_root())) else 1


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
