"""Sweeps on Ray against sweeps on this machine, with a worker and a node lost on the way: `make test-ray` runs it.

It needs Ray, which has an environment of its own; the two nodes of its cluster are on this machine.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import psutil
import ray
from ray.cluster_utils import Cluster

from itpo.config import Method, RunConfig, TaskSpec
from itpo.integrations.ray import Ray
from itpo.runs.store import Run, Store, fingerprint
from itpo.runs.sweep import SweepError, sweep
from itpo.specs import Adapter, TinyLM
from itpo.trainer import train

SMALL = RunConfig(
    method=Method("norm_itpo"),
    seed=0,
    steps=16,
    task=TaskSpec("corridor", {"turns": 2, "pivots": 1, "position": "spread"}),
    model=TinyLM(16, 1, 2, steps=3, dialogues_per_step=4),
    adapter=Adapter(2, 4),
    max_turn_tokens=4,
    prompts=4,
    rollouts=4,
    warmup=1,
    eval_dialogues=4,
    monitor_dialogues=4,
    checkpoint_every=2,
)
CONFIGS = [
    replace(SMALL, method=Method(m), seed=s) for m in ("norm_itpo", "trajectory_share") for s in (0, 1)
]
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


def holder(run: Run) -> dict[str, Any] | None:
    """Who trains a run now, as its lease says."""
    leases = (run.folder.parent / ".locks" / f"{run.folder.name}.lease").glob("*[0-9]")
    try:
        return json.loads(max(leases, key=lambda path: int(path.name)).read_bytes())
    except (ValueError, OSError):
        return None


class Accidents(threading.Thread):
    """Kill one worker as soon as its run has a checkpoint, then remove the second node when a run there has one."""

    def __init__(self, cluster: Cluster, second: Any, runs: list[Run]) -> None:
        super().__init__(daemon=True)
        self.cluster, self.second, self.runs = cluster, second, runs
        self.raylet = second.all_processes["raylet"][0].process.pid
        self.killed: tuple[str, int] | None = None
        self.removed: tuple[str, int] | None = None

    def run(self) -> None:
        while not self.removed:
            time.sleep(0.02)
            for run in self.runs:
                who, step = holder(run), run.checkpoint_step()
                if not who or not 4 <= step < run.config.steps:
                    continue
                if not self.killed:
                    os.kill(who["pid"], signal.SIGKILL)
                    self.killed = run.folder.name, step
                elif run.folder.name != self.killed[0] and self.is_there(who["pid"]):
                    self.cluster.remove_node(self.second, allow_graceful=False)
                    self.removed = run.folder.name, step
                    return

    def is_there(self, pid: int) -> bool:
        try:
            return psutil.Process(pid).ppid() == self.raylet
        except psutil.Error:
            return False


def main(root: Path, shown: TextIO) -> None:
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - start:5.0f} s  {text}", file=shown, flush=True)

    local = [fingerprint(run) for run in sweep(root / "local", CONFIGS, train, progress=False)]
    say(f"trained {len(local)} runs by processes of this machine")
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    second = cluster.add_node(**NODE)
    ray.init(cluster.address, logging_level="ERROR", log_to_driver=False)
    executor = Ray(address=cluster.address)
    say(f"a Ray {ray.__version__} cluster of two nodes with one core each")

    calm = sweep(root / "calm", CONFIGS, train, progress=False, executor=executor)
    assert [fingerprint(run) for run in calm] == local
    assert len(list((root / "calm" / "models").glob("base-*"))) == 1
    say(f"the same on Ray: {len(calm)} of {len(local)} fingerprints equal, one base model made")
    before = {run.folder: (run.folder / "done.json").stat().st_mtime_ns for run in calm}
    again = sweep(root / "calm", CONFIGS, train, progress=False, executor=executor)
    assert before == {run.folder: (run.folder / "done.json").stat().st_mtime_ns for run in again}
    say("and again: all loaded, nothing trained")

    store = Store(root / "lost")
    accidents = Accidents(cluster, second, [store.open(config) for config in CONFIGS])
    accidents.start()
    lost = sweep(root / "lost", CONFIGS, train, progress=False, executor=executor)
    assert accidents.killed and accidents.removed, "no accident happened: the runs were too fast"
    say(f"SIGKILL of the worker that trained {accidents.killed[0]}, at its checkpoint {accidents.killed[1]}")
    say(f"removal of the node that trained {accidents.removed[0]}, at its checkpoint {accidents.removed[1]}")
    assert [fingerprint(run) for run in lost] == local
    say(f"tried again and resumed by Ray: {len(lost)} of {len(local)} fingerprints equal")

    check_platforms(root / "platforms", cluster.address, say)
    ray.shutdown()
    cluster.shutdown()
    say("done")


def check_platforms(root: Path, address: str, say: Any) -> None:
    """A run that began here goes on where the processor's instructions are others: refused, or labelled."""
    config = replace(SMALL, seed=2)
    begun = Store(root).open(config)
    stop_at = begun.checkpoint

    class Stop(Exception):
        pass

    def checkpoint(step: int, tensors: Any) -> None:
        stop_at(step, tensors)
        raise Stop

    begun.checkpoint = checkpoint  # type: ignore[method-assign]
    try:
        train(config, begun)
    except Stop:
        begun.release()
    other = Ray(address, options={"runtime_env": {"env_vars": {"ATEN_CPU_CAPABILITY": "default"}}})
    try:
        sweep(root, [config], train, progress=False, executor=other)
    except SweepError as error:
        message = str(error).splitlines()[-1]
        assert "on another numeric platform (cpu_capability" in message, message
        say(
            f"a worker of another numeric platform was refused: {message.partition('; ')[0][len(str(root)) :]}"
        )
    else:
        raise AssertionError("a worker of another numeric platform was not refused")
    (mixed,) = sweep(root, [config], train, progress=False, mix_platforms=True, executor=other)
    assert [entry["from_step"] for entry in mixed.platforms()] == [0, 2]
    say("asked to mix platforms, it went on, and its record names both")


if __name__ == "__main__":
    shown = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray tells of lost nodes goes where errors go
    with tempfile.TemporaryDirectory() as place:
        main(Path(place), shown)
