"""What comes of faults: ``python -m benchmarks.faults [--inputs 2000] [--kills 200] [--seed 0] [--minutes 30] [--quick]``.

Tiny runs of every method under every estimator are killed, run out of disk, lose and change files, and start at once; settings
and rows are malformed. For each input the table counts one outcome:

    recovered   the numbers are those without the fault
    refused     an error of the library's own, which names the file, setting or row
    silent      other numbers, and no error
    unclear     any other error

The goal is that nothing is silent and nothing unclear. The same seed gives the same inputs, but for the moments of kills.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.malformed import malformed_rows, malformed_settings
from itpo.attribution import METHODS
from itpo.config import Estimator, Method, RunConfig, TaskSpec, allows
from itpo.estimators import ESTIMATORS
from itpo.runs.files import RunFolderError, finite, hash_json
from itpo.runs.store import PlatformError, Run, RunBusyError, RunFinishedError, Store, fingerprint
from itpo.specs import Adapter, TinyLM
from itpo.trainer import train
from itpo.training.build import base_model, trained

OUTCOMES = ("recovered", "refused", "silent", "unclear")
SHARES = {"damage": 0.55, "disk": 0.05, "settings": 0.25, "rows": 0.13, "starts": 0.02}  # of the inputs
_SIZES: dict[str, Any] = {
    "seed": 0,
    "steps": 3,
    "task": TaskSpec("corridor", {"turns": 2, "pivots": 1, "position": "spread"}),
    "model": TinyLM(16, 1, 2, steps=5, dialogues_per_step=4),
    "adapter": Adapter(2, 4),
    "max_turn_tokens": 4,
    "prompts": 2,
    "rollouts": 2,
    "policy_minibatches": 1,
    "prm_minibatches": 2,
    "critic_minibatches": 2,
    "warmup": 1,
    "eval_every": 2,
    "eval_dialogues": 2,
    "monitor_dialogues": 2,
    "monitor_every": 1,
    "checkpoint_every": 1,
}


class Campaign:
    """Counts of outcomes by section, the inputs behind those that are silent or unclear, and when to stop."""

    def __init__(self, place: Path, seed: int, minutes: float) -> None:
        self.place, self.rng, self.end = place, random.Random(seed), time.monotonic() + 60 * minutes
        self.counts: dict[str, Counter[str]] = {}
        self.bad: list[str] = []

    def count(self, section: str, what: str, outcome: str, text: str = "") -> None:
        """Note the outcome of one input."""
        self.counts.setdefault(section, Counter())[outcome] += 1
        if outcome in ("silent", "unclear"):
            self.bad.append(f"{outcome}: {section}: {what}: {text[-600:]}")

    def inputs(self, number: float) -> Iterator[int]:
        """Numbers of inputs, until there is no time left."""
        for index in range(round(number)):
            if time.monotonic() > self.end:
                return
            yield index

    def folder(self) -> Path:
        """A new folder."""
        return Path(tempfile.mkdtemp(dir=self.place))

    def table(self) -> str:
        """The counts, a line a section."""
        lines = [f"{'':28}{'tried':>10}" + "".join(f"{name:>12}" for name in OUTCOMES)]
        total = sum(self.counts.values(), Counter[str]())
        for section, counts in [*self.counts.items(), ("all", total)]:
            numbers = "".join(f"{counts[name]:>12}" for name in OUTCOMES)
            lines.append(f"{section:28}{counts.total():>10}{numbers}")
        return "\n".join(lines)


def configs() -> list[RunConfig]:
    """A tiny run of each method under each estimator."""
    pairs = [(m, e) for e in ESTIMATORS for m in METHODS if allows(e, m)]
    return [RunConfig(Method(m), estimator=Estimator(e), **_SIZES) for m, e in pairs]


def numbers(run: Run) -> str:
    """A hash of all that one reads of a finished run."""
    return hash_json([fingerprint(run), finite(run.summary()), run.platforms()[0]["from_step"]])


def finish(root: Path, config: RunConfig) -> str:
    """Load the run, or train it to its end; returns its numbers."""
    store = Store(root)
    run = store.open(config)
    if not run.done:
        with suppress(RunFinishedError):  # another process was faster
            train(config, run)
    return numbers(store.open(config))


class Child:
    """A forked process that does some work and sends back what came of it."""

    def __init__(self, work: Callable[[], str]) -> None:
        read, write = os.pipe()
        # A signal waits until the child can answer it: it must never go on with what the parent does.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        self.read, self.process = read, os.fork()
        if self.process == 0:
            try:
                os.close(read)
                answer = _answer(work)
                os.write(write, json.dumps(answer).encode())
            finally:
                os._exit(0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(write)

    def result(self) -> tuple[str, str]:
        """("done", numbers), ("refused" or "unclear", message), or ("killed", "")."""
        with os.fdopen(self.read, "rb") as pipe:
            content = pipe.read()
        os.waitpid(self.process, 0)
        kind, text = json.loads(content) if content.endswith(b"]") else ("killed", "")
        return kind, text


def _answer(work: Callable[[], str]) -> tuple[str, str]:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
        return "done", work()
    except BaseException as error:  # an interrupt, too, ends here
        return _kind(error), f"{type(error).__name__}: {error}"[:9000]


def _kind(error: BaseException) -> str:
    """Whether an error says by name what was wrong and what to do."""
    if isinstance(error, OSError):
        return "refused" if "free some space" in str(error) else "unclear"
    own = (RunFolderError, PlatformError, RunBusyError)
    return "refused" if isinstance(error, own) else "unclear"


def judge(result: tuple[str, str], expected: str) -> tuple[str, str]:
    """The outcome of a piece of work that should give ``expected``."""
    kind, text = result
    if kind == "done":
        return ("recovered" if text == expected else "silent"), text
    return ("refused" if kind == "refused" else "unclear"), text or kind


def prepare(campaign: Campaign, chosen: Sequence[RunConfig]) -> tuple[Path, dict[RunConfig, str]]:
    """A store in which only the base model is made, and the numbers of each run."""
    whole, bare = campaign.folder(), campaign.folder()
    expected = {config: finish(whole, config) for config in chosen}
    shutil.copytree(whole / "models", bare / "models")
    return bare, expected


def copy_of(campaign: Campaign, store: Path) -> Path:
    """A copy of a store, in which faults are made."""
    return Path(shutil.copytree(store, campaign.folder(), dirs_exist_ok=True))


def kills(campaign: Campaign, bare: Path, expected: dict[RunConfig, str], number: int) -> None:
    """End training at random moments, once or twice; then it goes on to its end."""
    config, known = next(iter(expected.items()))
    start = time.monotonic()
    Child(lambda: finish(copy_of(campaign, bare), config)).result()
    whole = time.monotonic() - start
    signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    for index in campaign.inputs(number):
        config, known = list(expected.items())[index % len(expected)]
        number, root = signals[index % 3], copy_of(campaign, bare)
        if campaign.rng.random() < 0.1:
            shutil.rmtree(root / "models")
        for _ in range(campaign.rng.choice((1, 1, 2))):
            child = Child(lambda root=root, config=config: finish(root, config))
            time.sleep(campaign.rng.random() * whole)
            with suppress(ProcessLookupError):
                os.kill(child.process, number)
            child.result()
        result = Child(lambda root=root, config=config: finish(root, config)).result()
        what = f"{signal.Signals(number).name} of {config.method.name}, {config.estimator.name}"
        campaign.count(f"kills by {signal.Signals(number).name}", what, *judge(result, known))
        shutil.rmtree(root)


def disk(campaign: Campaign, bare: Path, expected: dict[RunConfig, str], number: float) -> None:
    """Let no file grow beyond some size, then free the disk: the error is explained, and the run goes on."""
    for index in campaign.inputs(number):
        config, known = list(expected.items())[index % len(expected)]
        size, root = int(10 ** campaign.rng.uniform(0, 5)), copy_of(campaign, bare)
        if index % 4 == 0:
            shutil.rmtree(root / "models")

        def limited(root: Path = root, config: RunConfig = config, size: int = size) -> str:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            return finish(root, config)

        first = judge(Child(limited).result(), known)
        after = judge(Child(lambda root=root, config=config: finish(root, config)).result(), known)
        outcome = first if first[0] in ("silent", "unclear") else after
        campaign.count("full disk", f"{size} bytes, {config.method.name}", *outcome)
        shutil.rmtree(root)


def _break(path: Path, rng: random.Random) -> str:
    """Damage a file in one of several ways; says which."""
    content, way = path.read_bytes(), rng.choice(("flip", "flip", "cut", "delete", "zero", "append", "digit"))
    at = rng.randrange(len(content)) if content else 0
    if way == "delete" or not content:
        path.unlink()
        return f"delete {path.name}"
    changed = bytearray(content)
    if way == "flip":
        changed[at] ^= 1 << rng.randrange(8)
    elif way == "cut":
        del changed[at:]
    elif way == "zero":
        changed[len(changed) // 2 :] = bytes(len(changed) - len(changed) // 2)
    elif way == "append":
        changed += content[:40]
    else:
        digits = [i for i, byte in enumerate(content) if 48 <= byte <= 57] or [at]
        changed[rng.choice(digits)] = 48 + rng.randrange(10)
    path.write_bytes(changed)
    return f"{way} {path.name} at {at}"


def damage(campaign: Campaign, bare: Path, expected: dict[RunConfig, str], number: float) -> None:
    """Flip, cut, delete and edit every kind of file of finished and unfinished runs and of base models."""
    stores = {config: (copy_of(campaign, bare), copy_of(campaign, bare)) for config in expected}
    for config, (finished, unfinished) in stores.items():
        finish(finished, config)
        _interrupt(unfinished, config)
    for index in campaign.inputs(number):
        config, known = list(expected.items())[index % len(expected)]
        kind = ("finished", "unfinished", "base")[campaign.rng.randrange(3)]
        root = copy_of(campaign, stores[config][{"finished": 0, "unfinished": 1, "base": index % 2}[kind]])
        folder = base_model(config, Store(root)) if kind == "base" else Store(root).folder(config)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        what = _break(campaign.rng.choice(files), campaign.rng)
        result = Child(lambda root=root, config=config: _use(root, config)).result()
        campaign.count(f"damaged: {kind}", what, *judge(result, known))
        shutil.rmtree(root)


def _interrupt(root: Path, config: RunConfig) -> None:
    """Train in a child until after the first checkpoint, where it ends."""

    def work() -> str:
        real = Run.log

        def log(run: Run, step: int, metrics: Any) -> None:
            real(run, step, metrics)
            if step == 1 and "ratio_error" in metrics:
                os._exit(0)

        Run.log = log  # type: ignore[method-assign]
        return finish(root, config)

    Child(work).result()


def _use(root: Path, config: RunConfig) -> str:
    """Read a finished run, and load its policy."""
    run = Store(root).open(config)
    if run.done:
        trained(run)
        len(run.metrics()), len(run.timing()), len(run.dialogues()), len(run.monitor())
    return finish(root, config)


def starts(campaign: Campaign, bare: Path, expected: dict[RunConfig, str], number: float) -> None:
    """Several processes start one run at the same time: one trains, and the others load it or are told who does."""
    for index in campaign.inputs(number):
        config, known = list(expected.items())[index % len(expected)]
        root = copy_of(campaign, bare)
        if index % 2:
            shutil.rmtree(root / "models")
        children = [Child(lambda root=root, config=config: finish(root, config)) for _ in range(3)]
        for child in children:
            campaign.count("starts at once", config.method.name, *judge(child.result(), known))
        shutil.rmtree(root)


def malformed(campaign: Campaign, section: str, cases: Iterator[Sequence[str]], number: float) -> None:
    """Count the outcomes of some malformed settings or rows."""
    for _ in campaign.inputs(number):
        campaign.count(section, *next(cases))


def server(campaign: Campaign) -> None:
    """Each way of ``tests/misbehaving.py`` in which a server may answer, once: it is asked again, or refuses for good.

    Training through such a server is a test, ``tests/rollout/test_faults.py``.
    """
    from itpo.dialogue import Message
    from itpo.rollout.endpoint import EndpointError, EndpointModel
    from itpo.rollout.parsing import read_response
    from itpo.specs import Endpoint
    from tests import misbehaving

    place = misbehaving.Server()
    threading.Thread(target=place.serve_forever, daemon=True).start()
    model = EndpointModel(Endpoint(place.url, "m", attempts=2, pause=0.0, timeout=2.0))
    (good,) = model.ask([[Message("user", "hello")]], [0], read_response)
    for way, answer in (misbehaving.PASSING | misbehaving.FINAL).items():
        place.script[:] = [answer]
        (reply,) = model.ask([[Message("user", "hello")]], [0], read_response)
        outcome = (
            "refused" if isinstance(reply, EndpointError) else "recovered" if reply == good else "silent"
        )
        campaign.count("server", way, outcome, str(reply))
    place.shutdown()


def run(inputs: int, kill_count: int, seed: int, minutes: float, chosen: Sequence[RunConfig]) -> Campaign:
    """All sections, each in a share of the time; the campaign's counts."""
    with tempfile.TemporaryDirectory() as place:
        campaign = Campaign(Path(place), seed, minutes)
        malformed(
            campaign, "settings", malformed_settings(configs()[0], campaign.rng), SHARES["settings"] * inputs
        )
        malformed(campaign, "rows", malformed_rows(campaign.place, campaign.rng), SHARES["rows"] * inputs)
        server(campaign)
        bare, expected = prepare(campaign, chosen)
        starts(campaign, bare, expected, max(1, SHARES["starts"] * inputs / 3))
        disk(campaign, bare, expected, SHARES["disk"] * inputs)
        damage(campaign, bare, expected, SHARES["damage"] * inputs)
        kills(campaign, bare, expected, kill_count)
    return campaign


def main() -> int:
    """Run the campaign and print its table; 1 if anything was silent or unclear."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=2000, help="beside kills (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="at most (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="two runs and few inputs, in seconds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sizes = (60, 3) if given.quick else (given.inputs, given.kills)
    chosen = [c for c in configs() if not given.quick or c.method.name == "norm_itpo"][
        : 1 if given.quick else None
    ]
    campaign = run(*sizes, given.seed, given.minutes, chosen)
    print(campaign.table(), *campaign.bad, sep="\n")
    return int(bool(campaign.bad))


if __name__ == "__main__":
    sys.exit(main())
