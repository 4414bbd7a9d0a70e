"""Run the notebooks, or hold each .ipynb in step with the .py it comes from.

    python tools/run_notebooks.py                      run those of the laptop profile; rewrite the committed outputs
    python tools/run_notebooks.py --profile smoke 02   run one, reduced; the result goes to build/smoke/
    python tools/run_notebooks.py --check              fail if an .ipynb differs from its .py
    python tools/run_notebooks.py --sync               update each .ipynb, keeping outputs of unchanged cells

A notebook is `notebooks/NN_name.py` in jupytext's percent format, the source, and `notebooks/NN_name.ipynb`,
the same cells with the outputs of its own profile. One that depends on the profile has a cell tagged
`parameters` with `profile = "laptop"` in it, or `"smol"` where a real language model is trained; with another
profile only the notebooks are run that have it. As many run side by side as there are cores, two at most, and
each trains with its share of the cores; runs that several need are trained once. What will be run is said first,
the time that is left on the way. After a failure no further one is started; Ctrl-C stops all, and the same command
goes on. At the end the gallery is rebuilt: index.html beside the figures that they publish.
"""

import os
import re
import shutil
import signal
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import defaultdict, deque
from itertools import zip_longest
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode
from notebook_plan import expected, in_order, plan, time_left, write_times

from itpo.runs.files import explain_full_disk, write_file

DEFAULT = "laptop"
# The profiles that a notebook can be run at, by its own one, whose outputs are kept in the repository.
PROFILES = {"laptop": ("laptop", "smoke"), "smol": ("smol", "smoke", "consumer")}
ERASE = "\x1b[K"  # from here to the end of a terminal's line
QUIET = ["--log-level=CRITICAL"]  # of the kernel itself; what cells print and raise is not affected
METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def find_sources(folder: Path, names: list[str]) -> list[Path]:
    """The notebooks of `folder` in order; if there are `names` ("02", "02_main" or a path), only these."""
    sources = sorted(folder.glob("[0-9][0-9]_*.py"))
    wanted = {Path(name).stem for name in names}
    if unknown := wanted - {key for source in sources for key in (source.stem, source.stem[:2])}:
        raise SystemExit(f"no notebook {', '.join(unknown)}; there are: {', '.join(s.stem for s in sources)}")
    return [s for s in sources if not wanted or wanted & {s.stem, s.stem[:2]}]


def read_source(source: Path) -> NotebookNode:
    """The .py as a notebook without outputs, with metadata that are the same on every machine."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index:02d}"
    return notebook


def read_pair(pair: Path) -> NotebookNode | None:
    """An .ipynb; None if there is none, or it is damaged, such as half written."""
    try:
        notebook = nbformat.read(pair, as_version=4)
        nbformat.validate(notebook)
    except (
        FileNotFoundError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        nbformat.ValidationError,
    ):
        return None
    return notebook


def write_whole(notebook: NotebookNode, target: Path) -> None:
    """Write an .ipynb so that a crash at any moment leaves the old one or the new one."""
    text = nbformat.writes(notebook).rstrip("\n")
    # What UTF-8 cannot encode (half a character) is written as JSON's escape of it.
    write_file(target, f"{text}\n".encode(errors="backslashreplace"))


def cell_key(cell: NotebookNode) -> tuple[str, str, tuple[str, ...]]:
    """What must agree between the two halves of a pair: kind, text and tags of a cell."""
    return cell.cell_type, cell.source, tuple(cell.metadata.get("tags", ()))


def reproducible(value: Any, root: Path, tables: dict[str, str]) -> Any:
    """`value`, an output or a part of one, without what differs between equal runs, in all its text.

    That is: this machine's folders, addresses of objects, and the random ids of styled tables; `tables` has the ids so far
    and what replaces them.
    """
    if isinstance(value, dict):
        return {k: v if k.startswith("image/") else reproducible(v, root, tables) for k, v in value.items()}
    if isinstance(value, list):
        return [reproducible(item, root, tables) for item in value]
    if isinstance(value, str):
        value = re.sub(r"[^\s\"'(]*/ipykernel_\d+/\d+\.py", "<cell>", value)
        value = re.sub(r" at 0x[0-9a-f]{6,}>", ">", value)
        value = re.sub(
            r"\bT_[0-9a-f]{5}(?![0-9a-z])", lambda m: tables.setdefault(m[0], f"T_{len(tables):05d}"), value
        )
        for folder, name in ((root, "."), (Path(sys.prefix), "<environment>"), (Path.home(), "~")):
            value = value.replace(str(folder), name) if len(folder.parts) > 1 else value
    return value


def write_pair(source: Path, executed: NotebookNode, root: Path) -> None:
    """Write the .ipynb of `source`; a code cell gets the outputs of the same cell in `executed`, if any."""
    executed_cells = defaultdict(list)
    for cell in executed.cells:
        executed_cells[cell_key(cell)].append(cell)
    notebook = read_source(source)
    tables: dict[str, str] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and (same := executed_cells[cell_key(cell)]):
            match = same.pop(0)
            cell.execution_count = match.execution_count
            cell.outputs = [
                nbformat.from_dict(reproducible(output, root, tables)) for output in match.outputs
            ]
    write_whole(notebook, source.with_suffix(".ipynb"))


def difference(source: Path) -> str | None:
    """How the .ipynb differs from its .py, outputs and injected parameters aside; None if in step."""
    pair = source.with_suffix(".ipynb")
    if not pair.exists():
        return "has no .ipynb"
    if (notebook := read_pair(pair)) is None:
        return f"{pair.name} is damaged, and cannot be read"
    ours = [cell_key(cell) for cell in read_source(source).cells]
    theirs = [cell_key(cell) for cell in notebook.cells]
    theirs = [key for key in theirs if "injected-parameters" not in key[2]]
    first = next((i for i, (a, b) in enumerate(zip_longest(ours, theirs)) if a != b), None)
    return None if first is None else f"cell {first} differs from the .ipynb"


def own_profile(source: Path) -> str | None:
    """The profile that a notebook declares; None if it does not depend on one. Exits for one that there is not."""
    cells = read_source(source).cells
    texts = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    if not (default := re.search(r"^profile = [\"'](\w+)[\"']", "\n".join(texts), re.MULTILINE)):
        return None
    if default[1] not in PROFILES:
        raise SystemExit(
            f"{source.name}: its `profile` must default to {' or '.join(PROFILES)}, not {default[1]}"
        )
    return default[1]


def has_profile(source: Path, profile: str) -> bool:
    """Whether a notebook can be run at a profile; one that depends on none belongs to the laptop's."""
    return profile in PROFILES[own_profile(source) or DEFAULT]


class Failed(Exception):
    """A notebook failed; the message says which, at what and where the partial result is."""


def execute(source: Path, profile: str, root: Path) -> Path:
    """Execute one notebook in build/<profile>/, and, at its own profile, write its .ipynb; returns what was written."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    target = root / "build" / profile / f"{source.stem}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial.ipynb")  # papermill writes after each cell, in place
    write_whole(read_source(source), partial)
    own = own_profile(source)
    parameters = {} if own in (None, profile) else {"profile": profile}
    settings = {"progress_bar": False, "extra_arguments": QUIET, "cwd": source.parent}
    try:
        executed = papermill.execute_notebook(partial, partial, parameters, **settings)
        partial.replace(target)
    except (PapermillExecutionError, DeadKernelError) as error:
        partial.replace(target)
        message = f"{error}\n{source.name} failed; partial result: {target.relative_to(root)}"
        raise Failed(message) from None
    if profile != (own or DEFAULT):
        return target
    write_pair(source, executed, root)
    return source.with_suffix(".ipynb")


def work(connection: Connection, source: Path, profile: str, root: Path, environment: dict[str, str]) -> None:
    """What the process of one notebook does: execute it, and send what was written, or (what went wrong,)."""
    os.environ |= environment  # its kernel has it too
    try:
        with explain_full_disk(root):
            connection.send(execute(source, profile, root))
    except (Failed, OSError) as error:
        connection.send((str(error),))
    except KeyboardInterrupt:
        sys.exit(130)  # the kernel is shut down by now


class Running:
    """One notebook in a process of its own."""

    def __init__(self, source: Path, profile: str, root: Path, folder: Path, workers: int) -> None:
        self.name, self.start, self.progress = source.stem, time.monotonic(), folder / source.stem
        self.progress.touch()
        environment = {"ITPO_PROGRESS": str(self.progress), "ITPO_WORKERS": str(workers)}  # for sweeps
        # One thread, as in training: the threads of several notebooks would wait for each other's cores, and bytes would depend
        # on what runs beside.
        environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
        import papermill  # noqa: F401  # once, for all

        context = get_context("fork")
        self.connection, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=work, args=(theirs, source, profile, root, environment))
        self.process.start()
        theirs.close()

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.start

    def result(self) -> Any:
        """What it wrote; raises :class:`Failed`."""
        try:
            answer = self.connection.recv()
        except EOFError:
            self.process.join()
            answer = (f"{self.name}: its process ended with exit code {self.process.exitcode}",)
        self.process.join()
        if isinstance(answer, tuple):
            raise Failed(answer[0])
        return answer

    def end(self) -> None:
        """Interrupt it, so that its kernel ends too."""
        if self.process.is_alive():
            os.kill(self.process.pid or 0, signal.SIGINT)
            self.process.join(30.0)
            self.process.kill()


class Display:
    """A line for each notebook that has ended; on a terminal also how far the training of those that run is."""

    def __init__(self, alone: bool) -> None:
        self.terminal, self.alone = sys.stdout.isatty(), alone

    def begin(self, name: str) -> None:
        """Announce one, where no other's line can come between."""
        if self.alone:
            print(f"{name} ... ", end="", flush=True)

    def update(self, running: list[Running], left: str) -> None:
        """Renew the line of those that run, with the time that is ``left`` for all."""
        if self.terminal and running:
            states = [f"{one.name} ... {one.progress.read_text(encoding='utf-8')}" for one in running]
            line = " | ".join([*[f"{left} left"] * bool(left), *states])
            print(f"\r{line[: shutil.get_terminal_size().columns - 1]}{ERASE}", end="", flush=True)

    def end(self, name: str, text: str) -> None:
        """Leave a line for one that has ended."""
        start = f"\r{name} ... {ERASE}" if self.terminal else "" if self.alone else f"{name} ... "
        print(f"{start}{text}", flush=True)


def cores() -> int:
    """How many this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def run(sources: list[Path], profile: str, root: Path, jobs: int, keep_times: bool = False) -> None:
    """Execute notebooks, ``jobs`` side by side; raises :class:`Failed` once those have ended that ran beside a failed one."""
    pending, running, failures, took = deque(sources), list[Running](), list[str](), dict[str, float]()
    display, workers = Display(alone=jobs == 1), max(1, cores() // jobs)
    times = {name: seconds / workers for name, seconds in expected(root, profile).items()}
    if sources:
        print(plan(sources, profile, times, jobs), flush=True)
    with TemporaryDirectory() as folder:
        try:
            while running or (pending and not failures):
                while pending and not failures and len(running) < jobs:
                    running.append(Running(pending.popleft(), profile, root, Path(folder), workers))
                    display.begin(running[-1].name)
                ready = wait([one.connection for one in running], timeout=2.0)
                waiting = [source.stem for source in pending]
                left = time_left(waiting, {one.name: one.seconds for one in running}, times, jobs)
                display.update(running, left)
                for one in [one for one in running if one.connection in ready]:
                    running.remove(one)
                    try:
                        written = one.result().relative_to(root)
                        took[one.name] = one.seconds * workers
                        left = time_left(waiting, {one.name: one.seconds for one in running}, times, jobs)
                        display.end(
                            one.name, f"{one.seconds:.0f} s -> {written}{f' ({left} left)' * bool(left)}"
                        )
                    except Failed as error:
                        display.end(one.name, f"FAILED after {one.seconds:.0f} s")
                        failures.append(str(error))
        finally:
            for one in running:
                one.end()
            write_times(root, profile, took, keep_times)
    if failures:
        raise Failed("\n".join(failures))


def build_gallery(root: Path, profile: str) -> None:
    """Rebuild the page of the figures that notebooks of a profile publish, if there are any."""
    folder = root / "figures" if profile in PROFILES else root / "build" / profile / "figures"
    if not any(folder.glob("*.json")):
        return
    from itpo.figures.publishing import gallery
    from itpo.figures.publishing.registry import PublishedError

    try:
        print(f"gallery -> {gallery.build(folder).relative_to(root)}")
    except (PublishedError, OSError) as error:
        raise SystemExit(str(error)) from None


def main(arguments: list[str] | None = None) -> None:
    """Command line; exits with a message and a non-zero status at the first failure."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these notebooks, such as 02 or 02_main_results")
    parser.add_argument("--profile", default=DEFAULT, help="default: %(default)s")
    parser.add_argument("--sync", action="store_true", help="update each .ipynb from its .py; run nothing")
    parser.add_argument("--check", action="store_true", help="fail if a pair is out of step; run nothing")
    jobs = min(2, cores())
    parser.add_argument(
        "--jobs", type=int, default=jobs, help="how many run side by side; default: %(default)s"
    )
    parser.add_argument(
        "--keep-times", action="store_true", help="note the times for others, in notebooks/times.json"
    )
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="default: this project")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    sources = find_sources(root / "notebooks", options.names)
    running = not (options.sync or options.check)
    if running:
        others = [source for source in sources if not has_profile(source, options.profile)]
        if others and options.names:
            names = ", ".join(source.stem for source in others)
            raise SystemExit(f"{names}: cannot be run at the profile {options.profile}")
        sources = [source for source in sources if source not in others]
        if not sources:
            known = ", ".join(sorted({name for names in PROFILES.values() for name in names}))
            raise SystemExit(f"no notebook can be run at the profile {options.profile}, only at: {known}")
        if options.jobs < 1:
            raise SystemExit(f"--jobs {options.jobs}: at least 1 notebook must run at a time")
    os.environ.pop("MPLBACKEND", None)  # otherwise the kernel would not show figures inline
    try:
        with explain_full_disk(root):
            if running:
                side_by_side = min(options.jobs, len(sources))
                run(in_order(sources), options.profile, root, side_by_side, options.keep_times)
            for source in sources if options.sync else ():
                if difference(source):
                    write_pair(source, read_pair(source.with_suffix(".ipynb")) or read_source(source), root)
    except (Failed, OSError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on; what was trained is kept in runs/", file=sys.stderr)
        raise SystemExit(130) from None
    if running:
        build_gallery(root, options.profile)
    if options.check and (wrong := [f"{s.name}: {how}" for s in sources if (how := difference(s))]):
        raise SystemExit(
            "\n".join([*wrong, "The .py is the source; bring the .ipynb in step: make notebooks"])
        )
    if options.check:
        print(f"{len(sources)} of {len(sources)} notebooks in step with their .py")


if __name__ == "__main__":
    main()
