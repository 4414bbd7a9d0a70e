"""Make the base models that ship with the library, in itpo/models/bases/, or see that they are what this code makes.

    python tools/make_bases.py                  make those that are missing
    python tools/make_bases.py --check          make each again and compare, bit for bit (some minutes)
    python tools/make_bases.py --check smoke    only those whose name begins so

They are the warm starts of the profiles laptop and smoke on the three tasks, and of the ablations' other width
at smoke. Each is sealed by its artifact.json, with the platform it was made on: elsewhere
`--check` may find other bits, and says so.
"""

import shutil
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from itpo.config import TaskSpec
from itpo.models.tiny import pretrain_by_imitation
from itpo.runs.artifacts import SHIPPED, read_artifact, write_artifact
from itpo.runs.files import file_hash, plain
from itpo.runs.platform import differences, making_platform
from itpo.specs import TinyLM
from itpo.study.ablations import WIDTHS
from itpo.study.profiles import get_profile
from itpo.tasks.registry import get_task

EARLY = 3  # steps after which the weights are hashed too, so that a test can compare them within a second


class Base(NamedTuple):
    """What a base model imitates, its size and training, and what the store calls it."""

    task: str
    params: Any
    model: TinyLM
    kind: str
    determinants: dict[str, Any]

    def content(self) -> dict[str, Any]:
        """What its artifact.json says that it is."""
        return {"kind": self.kind, "determinants": plain(self.determinants, "determinants")}

    def make(self, folder: Path, stop: int | None = None) -> Path:
        """Train it, or its first steps."""
        return pretrain_by_imitation(get_task(self.task), self.params, self.model, folder, stop)

    def early_hash(self) -> str:
        """Of its weights after the first steps."""
        with TemporaryDirectory() as place:
            return file_hash(self.make(Path(place), EARLY) / "model.safetensors")


def bases() -> dict[str, Base]:
    """All that ship, by the name of their folder."""

    def warm_start(task: str, model: TinyLM) -> Base:
        return Base(
            task, get_task(task).noisy_expert, model, "base", {"task": TaskSpec(task), "model": model}
        )

    found: dict[str, Base] = {}
    for name in ("smoke", "laptop"):
        profile = get_profile(name)
        assert isinstance(profile.run.model, TinyLM)
        found |= {f"{name}-{task}": warm_start(task, profile.run.model) for task in profile.settings}
    smoke = get_profile("smoke").run.model
    assert isinstance(smoke, TinyLM)
    for width in WIDTHS[:2]:
        if width != smoke.hidden_size:
            found[f"smoke-math-width-{width}"] = warm_start("math", replace(smoke, hidden_size=width))
    return found


def make(name: str, base: Base, root: Path) -> None:
    """Make one that is missing."""
    folder = root / name
    if (folder / "artifact.json").exists() and read_artifact(folder)["content"] == base.content():
        return
    since = time.process_time()
    with TemporaryDirectory(dir=root) as place:
        made = base.make(Path(place) / "base")
        for path in made.iterdir():
            path.chmod(0o644)
        write_artifact(made, base.content(), early=base.early_hash())
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    print(f"{name}: made in {time.process_time() - since:.0f} s of processor time", flush=True)


def check(name: str, base: Base, root: Path) -> bool:
    """Whether one is what this code makes; prints what differs."""
    document = read_artifact(root / name)
    with TemporaryDirectory() as place:
        made = {path.name: file_hash(path) for path in base.make(Path(place)).iterdir()}
    wrong = sorted(file for file in document["files"] if made.get(file) != document["files"][file])
    elsewhere = differences(making_platform(), document["platform"])
    verdict = "the same" if not wrong else f"other {', '.join(wrong)}"
    note = f" (made on another platform: {'; '.join(elsewhere)})" if wrong and elsewhere else ""
    print(f"{name}: {verdict}{note}", flush=True)
    return not wrong


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 1 where a base is not what this code makes."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only those whose name begins so")
    parser.add_argument("--check", action="store_true", help="compare, and change nothing")
    options = parser.parse_args(arguments)
    SHIPPED.mkdir(exist_ok=True)
    chosen = {n: b for n, b in bases().items() if not options.names or n.startswith(tuple(options.names))}
    if options.check:
        return 0 if all([check(name, base, SHIPPED) for name, base in chosen.items()]) else 1
    for name, base in chosen.items():
        make(name, base, SHIPPED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
