"""A tiny training with everything a run has, for the tests of the store and of sweeps; child processes import it."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from itpo.runs.store import Run, RunFolderError, Store, fingerprint
from itpo.runs.sweep import sweep


@dataclass(frozen=True)
class Optimizer:
    lr: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass(frozen=True)
class Toy:
    seed: int = 0
    steps: int = 10
    checkpoint_every: int = 3
    accident: str | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)


def _generator(config: Toy, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * config.seed + step)


def _flat(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    moments = optimizer.state_dict()["state"]
    state = {f"optimizer.{i}.{name}": t for i, entry in moments.items() for name, t in entry.items()}
    return state | {f"model.{name}": t for name, t in model.state_dict().items()}


def _load(tensors: dict[str, torch.Tensor], model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.load_state_dict({k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")})
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def train(config: Toy, run: Run) -> None:
    """Fit a line with AdamW; every step draws its data from a generator seeded by the step."""
    model = torch.nn.Linear(3, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=_generator(config, 0)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimizer.lr, betas=config.optimizer.betas)
    restored = run.restore()
    best = restored[1].pop("best").item() if restored else 1e9
    if restored:
        _load(restored[1], model, optimizer)
    for step in range(restored[0] + 1 if restored else 1, config.steps + 1):
        x = torch.randn(8, 3, generator=_generator(config, step))
        loss = (model(x).squeeze(1) - x.sum(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        best = min(best, loss.item())
        _record(config, run, step, loss, model.weight)
        if step % config.checkpoint_every == 0:
            run.checkpoint(step, _flat(model, optimizer) | {"best": torch.tensor(best, dtype=torch.float64)})
    _end(run, model.weight, best)


def walk(config: Toy, run: Run) -> None:
    """A random walk: a training that starts faster, for tests with many processes."""
    restored = run.restore()
    state = restored[1]["state"] if restored else torch.zeros(3)
    for step in range(restored[0] + 1 if restored else 1, config.steps + 1):
        state = state + torch.randn(3, generator=_generator(config, step))
        _record(config, run, step, state.sum(), state)
        if config.accident == "raise" and step == 5:
            raise ArithmeticError("the toy went wrong")
        if config.accident == "refuse" and step == 5:
            raise RunFolderError(run.folder, "is odd,\nas the toy says")
        if config.accident == "die" and step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        if config.accident == "leave" and step == 5:
            return
        if step % config.checkpoint_every == 0:
            run.checkpoint(step, {"state": state})
    _end(run, state, state.sum().item())


def _record(config: Toy, run: Run, step: int, loss: torch.Tensor, weight: torch.Tensor) -> None:
    run.log(step, {"loss": loss, "ratio": float("inf") if step == 2 else 1.0, "count": step})
    pause = float(os.environ.get("TOY_PAUSE", "0"))
    run.log_time(
        step,
        {"pid": os.getpid(), "parent": os.getppid(), "threads": torch.get_num_threads(), "pause": pause},
    )
    if step % 2 == 0:
        run.save_monitor(step, {"weight": weight})
    if step % 4 == 0:
        run.save_dialogues(step, [{"messages": [["user", "¿qué?"]], "outcome": loss.item()}] * 2)
    time.sleep(pause)


def _end(run: Run, weight: torch.Tensor, best: float) -> None:
    (run.folder / "policy").mkdir()
    save_file({"weight": weight.detach()}, run.folder / "policy" / "adapter_model.safetensors")
    run.finish({"best": best})


def _fork(work: Any) -> int:
    """Run ``work`` in a forked process and return its exit status as ``subprocess`` counts it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _train_until_sync(root: Path, config: Toy, count: int) -> None:
    """Train, and be killed by SIGKILL right before file number ``count`` would be synced or moved."""
    real_fsync, real_replace, calls = os.fsync, os.replace, 0

    def dying(real: Any) -> Any:
        def call(*args: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == count:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args)

        return call

    os.fsync, os.replace = dying(real_fsync), dying(real_replace)
    train_one(root, config)


def kill_at_every_sync(root: Path) -> None:
    """Print, for each moment at which a run can be killed, the fingerprint it has after starting once more."""
    config = Toy(steps=4, checkpoint_every=2)
    train_one(root, config)
    print("uninterrupted", fingerprint(Store(root).open(config)))
    for count in range(1, 1000):
        folder = root / str(count)
        status = _fork(lambda folder=folder, count=count: _train_until_sync(folder, config, count))
        if status == 0:
            return
        assert status == -signal.SIGKILL, status
        train_one(folder, config)
        print(count, fingerprint(Store(folder).open(config)))


def train_with_small_files(root: Path) -> None:
    """Train where no file may grow beyond 700 bytes, then without that limit."""

    def limited() -> None:
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, unlimited[1]))
        try:
            train_one(root)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)

    assert _fork(limited) == 1
    train_one(root)


def train_one(root: Path, config: Toy | None = None) -> None:
    run = Store(root).open(config or Toy())
    if not run.done:
        train(run.config, run)


def sweep_one(root: Path) -> None:
    sweep(root, [Toy(steps=40)], walk)


if __name__ == "__main__":
    torch.set_num_threads(1)
    globals()[sys.argv[1]](Path(sys.argv[2]))
