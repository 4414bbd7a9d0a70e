"""Command line: ``python -m itpo gates math`` measures whether a task is a fit testbed."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from itpo.gates import report
from itpo.paths import runs_root
from itpo.profiles import PROFILES, get_profile
from itpo.runs import Store
from itpo.tasks import TASKS


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status (1: a gate failed)."""
    parser = argparse.ArgumentParser(prog="python -m itpo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    gates = commands.add_parser("gates", help="measure whether a task is fit to compare methods on")
    gates.add_argument("task", choices=sorted(TASKS))
    gates.add_argument("--profile", choices=sorted(PROFILES), default="laptop")
    options = parser.parse_args(arguments)
    config = replace(get_profile(options.profile).config("trajectory_share", seed=0), task=options.task)
    return 0 if report(config, Store(runs_root())) else 1


if __name__ == "__main__":
    sys.exit(main())
