"""One GPU put to the test in under ten minutes: ``python -m benchmarks.gpu_check [--device cpu --tiny] [--only load peaks]``.

Without weights at hand: a model of Qwen2.5-3B's shape with random ones in 4 bits, as memory and time do not depend on what it
says. ``--tiny`` takes a toy instead, on any device, which tells that the checks work and nothing about a card. Prints a line
for every figure, with what was wanted and whether it holds; exit 1 where one does not.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from itpo.config import Method, RunConfig, TaskSpec
from itpo.dialogue import Dialogue, collate
from itpo.models import probe
from itpo.models.backbone import Backbone
from itpo.models.memory import Settings, Work, budget
from itpo.models.optimizers import adamw, get_state, set_state
from itpo.models.shapes import GIB, PUBLISHED, Shape
from itpo.models.timing import fastest, random_model
from itpo.models.tiny import build_tokenizer
from itpo.runs.reading import Readings, fingerprint
from itpo.specs import Adapter
from itpo.tasks.registry import get_task
from itpo.trainer import training_step
from itpo.training.learner import Learner
from itpo.training.profiling import Timer, model_bytes, peak_bytes

TOY = Shape(128, 384, 4, 4, 2, 32, 1024, True)
STEPS, DIALOGUES = 560, 128  # of the paper's run, for the time that it would take [C]


class Line(NamedTuple):
    """One figure: of which check, what, how large, what was wanted, and whether it is so (``None``: only measured)."""

    check: str
    what: str
    found: str
    wanted: str = ""
    holds: bool | None = None


@dataclass(frozen=True)
class Bench:
    """What is measured on: a device, a shape, sizes in rows and tokens."""

    device: torch.device
    shape: Shape
    precision: str
    rows: int
    contexts: tuple[int, ...]
    tokens: int  # of one training pass
    chunk: int  # positions that have logits at a time
    tolerance: float  # of a measured size against the planned one

    def backbone(self, names: tuple[str, ...] = ("policy", "prm")) -> Backbone:
        """The model with fresh adapters, their layers checkpointed."""
        model = random_model(self.shape, self.shape.layers, self.precision, self.device)
        return Backbone(model, names, Adapter(32, 64), checkpointing=True, head_chunk=self.chunk)

    def ids(self, rows: int, length: int) -> Tensor:
        """Random tokens, always the same."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.shape.vocabulary, (rows, length), generator=generator)

    def work(self, longest: int) -> Work:
        """Dialogues of that length, and the width of numbers on the device."""
        width, moment = (2, 1.016) if self.device.type == "cuda" else (4, 4.0)
        sizes = {"prompt": longest // 2, "response": longest - longest // 2, "precision": self.precision}
        return Work(dialogues=self.rows, value_bytes=width, moment_bytes=moment, **sizes)


def within(found: float, planned: float, tolerance: float) -> bool:
    """Whether a size is the planned one, up to a share of it."""
    return abs(found / planned - 1) <= tolerance


def shaken(backbone: Backbone) -> Backbone:
    """The same with adapters that do something, each its own."""
    generator = torch.Generator().manual_seed(1)
    for name in backbone.names:
        for key, parameter in backbone.parameters(name).items():
            if "lora_B" in key:
                parameter.data.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return backbone


def batch_of(bench: Bench, rows: int, length: int) -> Any:
    """Dialogues of random words, every second token the policy's."""
    ids = bench.ids(rows, length).tolist()
    mask = tuple(bool(n % 2) for n in range(length))
    return collate([Dialogue(None, (), tuple(i), mask, (0.0,) * length, 1.0) for i in ids], 1, 0)


def load(bench: Bench) -> Iterator[Line]:
    """The base takes what the plan says."""
    start = time.perf_counter()
    model = random_model(bench.shape, bench.shape.layers, bench.precision, bench.device)
    seconds = time.perf_counter() - start
    found = model_bytes(model)
    planned = budget(bench.shape, bench.work(64), Settings(64, 64, 1, 64)).held["base"]
    holds = within(found, planned, 0.05 if bench.shape is not TOY else 0.2)
    yield Line(
        "load", f"base, {bench.precision}", f"{found / GIB:.3f} GiB", f"{planned / GIB:.3f} GiB", holds
    )
    yield Line("load", "seconds, making and quantising it included", f"{seconds:.1f} s")


def gradients(bench: Bench) -> Iterator[Line]:
    """Only the active adapter gets gradients, all of its B move, and what is recomputed is equal to the bit."""
    backbone, batch = bench.backbone(), batch_of(bench, 2, 64)
    with backbone.use("policy"):
        logp, entropy = backbone.token_stats(batch.input_ids, batch.response_mask)
        (logp + entropy).sum().backward()
    own, other = (backbone.parameters(name) for name in ("policy", "prm"))
    moved = [key for key, p in own.items() if "lora_B" in key and p.grad is not None and bool(p.grad.any())]
    wanted = [key for key in own if "lora_B" in key]
    yield Line(
        "gradients",
        "B matrices with a gradient",
        f"{len(moved)}",
        f"{len(wanted)}",
        len(moved) == len(wanted),
    )
    leaked = sum(p.grad is not None for p in other.values())
    yield Line("gradients", "parameters of the other adapter with one", f"{leaked}", "0", leaked == 0)
    parts = [torch.arange(2)]
    again = backbone.log_probs_as_trained(batch, "policy", bench.tokens, parts)
    same = torch.equal(again, logp.detach().float().cpu())
    yield Line("gradients", "log-probabilities, computed again", "equal" if same else "differ", "equal", same)


def decoding(bench: Bench) -> Iterator[Line]:
    """Milliseconds and kernels to decode one token of all rows."""
    backbone, one = bench.backbone(), torch.ones((bench.rows, 1), dtype=torch.bool, device=bench.device)
    for context in bench.contexts:
        with torch.no_grad(), backbone.use("policy"):
            decoder, ids = backbone.decoder(bench.rows), bench.ids(bench.rows, context).to(bench.device)
            for part in ids.split(max(16384 // bench.rows, 2), 1):
                decoder.append(part, one.expand(-1, part.shape[1]))
            step = partial(decoder.append, ids[:, :1], one)
            milliseconds = 1e3 * fastest(step, bench.device, 5)
            activity = ProfilerActivity.CUDA if bench.device.type == "cuda" else ProfilerActivity.CPU
            with profile(activities=[activity]) as measured:
                step()
        kernels = sum(event.count for event in measured.key_averages())
        where = f"{bench.rows} rows, {context} tokens of context"
        yield Line("decoding", where, f"{milliseconds:.1f} ms a token, {kernels} kernels")


def peaks(bench: Bench) -> Iterator[Line]:
    """What rollout, readers and training take at most, against the plan."""
    backbone, longest = bench.backbone(), bench.contexts[-1]
    settings = Settings(bench.tokens, backbone.head_chunk, bench.rows, 8192)
    work = replace(bench.work(longest), user_reply=8)
    plan = budget(bench.shape, work, settings)
    one = torch.ones((bench.rows, 1), dtype=torch.bool, device=bench.device)

    def hold(length: int, adapter: str | None) -> None:
        """Read so many tokens of all rows, a few columns at a time, and one more."""
        ids = bench.ids(bench.rows, length).to(bench.device)
        with torch.no_grad(), backbone.use(adapter):
            decoder = backbone.decoder(bench.rows)
            for part in ids.split(max(settings.read_budget // bench.rows, 2), 1):
                decoder.append(part, one.expand(-1, part.shape[1]))
            decoder.append(ids[:, :1], one)

    def learn() -> None:
        """One training pass."""
        batch = batch_of(bench, max(bench.tokens // longest, 1), longest)
        with backbone.use("policy"):
            logp, entropy = backbone.token_stats(batch.input_ids, batch.response_mask)
            (logp + entropy).sum().backward()

    parts, held = plan.rollout, sum(plan.held.values())
    read = parts["cache of users"] + parts["a pass of users"]
    spoken = parts["cache of all dialogues"] + parts["a pass of the policy"]
    measured = {
        "rollout": (partial(hold, longest, "policy"), spoken),
        "users that the base plays": (partial(hold, work.question, None), read),
        "a training pass": (learn, plan.training_peak - held),
    }
    for what, (call, planned) in measured.items():
        found = peak_bytes(call, bench.device)
        holds = within(found, planned, bench.tolerance)
        yield Line("peaks", what, f"{found / GIB:.3f} GiB", f"{planned / GIB:.3f} GiB", holds)


def parity(bench: Bench) -> Iterator[Line]:
    """Sampler and trainer agree under an adapter, and not with another one."""
    backbone = shaken(bench.backbone())
    same = probe.measure(backbone, "policy")
    found = float(same.sampler.abs().mean())
    yield Line("parity", "sampler against a plain pass, mean", f"{found:.4f} nats", "< 0.03", found < 0.03)
    trained = float(same.trainer.abs().mean())
    yield Line(
        "parity", "trainer against a plain pass, mean", f"{trained:.4f} nats", "< 0.03", trained < 0.03
    )
    wrong = same.moved
    yield Line("parity", "the reference in its place, largest", f"{wrong:.4f} nats", "> 0.1", wrong > 0.1)


def paged(bench: Bench) -> Iterator[Line]:
    """An optimizer's state that is saved, and taken up in another process, steps to the same weights."""
    with tempfile.TemporaryDirectory() as place:
        path, generator = Path(place), torch.Generator().manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(512, 256, generator=generator).to(bench.device))
        optimizer = adamw([weight], 1e-2)
        for _ in range(2):
            _step(weight, optimizer)
        state = {name: value.cpu() for name, value in get_state(optimizer, weight).items()}
        save_file({"weight": weight.detach().cpu().contiguous(), **state}, path / "state.safetensors")
        _step(weight, optimizer)
        code = f"from benchmarks.gpu_check import resume; resume({str(path)!r}, {str(bench.device)!r})"
        subprocess.run([sys.executable, "-c", code], check=True)
        resumed = load_file(path / "resumed.safetensors")["weight"]
    same = torch.equal(resumed, weight.detach().cpu())
    yield Line(
        "paged", f"{type(optimizer).__name__} in a new process", "equal" if same else "differs", "equal", same
    )


def _step(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    weight.grad = weight.detach().sin()
    optimizer.step()


def resume(place: str, device: str) -> None:
    """The other process of :func:`paged`."""
    state = load_file(Path(place) / "state.safetensors")
    weight = torch.nn.Parameter(state.pop("weight").to(device))
    optimizer = adamw([weight], 1e-2)
    set_state(optimizer, weight, state)
    _step(weight, optimizer)
    save_file({"weight": weight.detach().cpu().contiguous()}, Path(place) / "resumed.safetensors")


def step(bench: Bench) -> Iterator[Line]:
    """One step of 16 dialogues by its parts, and what a run of the paper's size would take."""
    task = get_task("corridor")
    tokenizer = build_tokenizer(task.words)
    vocabulary = max(len(tokenizer), bench.shape.vocabulary)
    model = random_model(
        replace(bench.shape, vocabulary=vocabulary), bench.shape.layers, bench.precision, bench.device
    )
    # The config's own model, a tiny one, is not loaded: scripted tasks have words that a pretrained one need not know.
    config = RunConfig(
        Method("norm_itpo"),
        seed=0,
        steps=1,
        task=TaskSpec("corridor"),
        adapter=Adapter(32, 64),
        prompts=4,
        rollouts=4,
        token_budget=bench.tokens,
        head_chunk=bench.chunk,
        checkpointing=True,
        max_mismatch=10.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        learner, timer = Learner(config, model, tokenizer, Path(folder)), Timer()
        batch, _ = training_step(learner, "gpu_check", timer)
    tokens = int(batch.attention_mask.sum())
    for part, seconds in timer.seconds.items():
        yield Line("step", f"{part}, 16 dialogues, {tokens} tokens", f"{seconds:.2f} s")
    hours = STEPS * sum(timer.seconds.values()) * DIALOGUES / 16 / 3600
    yield Line(
        "step", f"{STEPS} steps of {DIALOGUES} such dialogues, were time proportional", f"{hours:.1f} h"
    )


def vllm(bench: Bench) -> Iterator[Line]:
    """Tokens a second, agreement with the trainer, and sleep, where vLLM is installed."""
    if find_spec("vllm") is None:
        yield Line("vllm", "not installed: see docs/engines.md", "not measured")
        return
    from itpo.rollout.engine import Decoding, at_once
    from itpo.rollout.vllm_engine import VLLMEngine

    with tempfile.TemporaryDirectory() as place:
        model = random_model(bench.shape, bench.shape.layers, "full", bench.device)
        model.save_pretrained(place)
        build_tokenizer(["word"]).save_pretrained(place)
        backbone = shaken(Backbone(model, ("policy", "prm"), Adapter(32, 64)))
        engine = VLLMEngine(backbone, Path(place), 32, bench.rows)
        prompts, turns = bench.ids(bench.rows, 64).tolist(), {}

        def hear(rows: Any, said: Any) -> Any:
            """One turn is all."""
            turns.update(zip(rows, said, strict=True))
            return at_once([None] * len(rows))

        start = time.perf_counter()
        with backbone.use("policy"):
            uniforms = torch.rand(bench.rows, 1, 64).double()
            engine.converse(prompts, uniforms, Decoding((0,), 0, 64, False, bench.rows), hear)
        spent = time.perf_counter() - start
    rate = sum(len(turn.ids) for turn in turns.values()) / spent
    yield Line("vllm", f"{bench.rows} rows, adapter written and read", f"{rate:.0f} tokens/s")
    said = [(prompts[row], turn) for row, turn in turns.items()]
    dialogues = [
        Dialogue(
            None,
            (),
            (*p, *t.ids),
            (False,) * len(p) + (True,) * len(t.ids),
            (0.0,) * len(p) + tuple(t.logps),
            1.0,
        )
        for p, t in said
    ]
    batch = collate(dialogues, 1, 0)
    own, other = (backbone.log_probs(batch, name, bench.tokens) for name in ("policy", "prm"))
    found, wrong = (float((x - batch.sampled_logp).abs()[batch.response_mask].mean()) for x in (own, other))
    yield Line("vllm", "against the trainer, mean", f"{found:.4f} nats", "< 0.03", found < 0.03)
    yield Line(
        "vllm", "against another adapter, mean", f"{wrong:.4f} nats", "> the former", wrong > 2 * found
    )


def killed(bench: Bench) -> Iterator[Line]:
    """A real run, killed after its first checkpoint, ends as one that was left alone."""
    small = ["task=corridor", "model.steps=20", "warmup=1", "eval_dialogues=4", "monitor_dialogues=4"]
    toy = ["--task", "corridor", "--profile", "smoke"]
    real = ["--task", "math_prose", "--profile", "smol"]
    sizes = ["steps=3", "prompts=2", "rollouts=2", "checkpoint_every=1", "eval_dialogues=4", "warmup=1"]
    chosen, extra = (toy, small[1:2]) if bench.shape is TOY else (real, [])
    settings = [word for pair in [*sizes, *extra] for word in ("--set", pair)]
    command = [sys.executable, "-m", "itpo", "train", "--method", "norm_itpo", *chosen, *settings]
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / name for name in ("whole", "killed")]
        whole, stopped = ([*command, "--store", str(folder)] for folder in folders)
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(whole, check=True, **quiet)
        process = subprocess.Popen(stopped, **quiet)
        while process.poll() is None and not list(folders[1].glob("*/checkpoint/state.json")):
            time.sleep(0.05)
        process.kill()
        process.wait()
        subprocess.run(stopped, check=True, **quiet)
        ends = [
            [fingerprint(Readings(f.parent, None)) for f in folder.glob("*/done.json")] for folder in folders
        ]
    same = bool(ends[0]) and ends[0] == ends[1]
    yield Line("killed", "a run killed and started again", "equal" if same else "differs", "equal", same)


CHECKS = {
    check.__name__: check for check in (load, gradients, decoding, peaks, parity, paged, step, vllm, killed)
}


def bench_for(device: torch.device, tiny: bool) -> Bench:
    """What the options ask for."""
    if tiny:
        precision = "nf4" if find_spec("bitsandbytes") and device.type == "cuda" else "full"
        return Bench(device, TOY, precision, 3, (20, 60), 128, 32, 0.4)
    return Bench(device, PUBLISHED["Qwen/Qwen2.5-3B-Instruct"], "nf4", 43, (500, 3500), 3584, 512, 0.15)


def run(bench: Bench, names: list[str]) -> list[Line]:
    """Every check in turn; one that fails is a line that does not hold, and the others go on."""
    lines = []
    for name in names:
        try:
            found = list(CHECKS[name](bench))
        except Exception as error:  # an unknown machine: what it says belongs into the table
            what = f"{type(error).__name__}: {error}".splitlines()[0][:120]
            found = [Line(name, what, "failed", "to run", False)]
        for line in found:
            mark = {True: "pass", False: "FAIL", None: ""}[line.holds]
            print(f"{line.check:10} {line.what:62} {line.found:>34} {line.wanted:>14} {mark}", flush=True)
        lines += found
    return lines


def main() -> None:
    """Run the checks that were asked for; exit 1 where one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a toy instead of 3 billion weights")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="CHECK")
    parser.add_argument("--json", type=Path, help="write the lines to this file too")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU: --device cpu --tiny shows that the checks work")
    if options.device == "cpu" and not options.tiny:
        parser.error("3 billion weights are for a GPU: add --tiny")
    device = torch.device(options.device)
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "a CPU"
    print(f"{name}, torch {torch.__version__}{', a toy' if options.tiny else ''}")
    lines = run(bench_for(device, options.tiny), options.only)
    if options.json:
        options.json.write_text(json.dumps([line._asdict() for line in lines], indent=1) + "\n")
    sys.exit(any(line.holds is False for line in lines))


if __name__ == "__main__":
    main()
