"""Every check of a GPU runs on a CPU too, at toy size, and tells a fault from none."""

import pytest
import torch

from benchmarks import gpu_check
from itpo.models.backbone import Backbone
from itpo.models.cache import CachedDecoder

BENCH = gpu_check.bench_for(torch.device("cpu"), tiny=True)
QUICK = ["load", "gradients", "decoding", "peaks", "parity", "step", "vllm"]  # the others start processes


@pytest.mark.parametrize("name", QUICK)
def test_a_sound_machine_passes(name):
    lines = gpu_check.run(BENCH, [name])
    assert lines and all(line.holds is not False for line in lines)


def test_an_optimizer_is_resumed_in_another_process():
    (line,) = gpu_check.run(BENCH, ["paged"])
    assert line.holds


def failing(name):
    return [line.what for line in gpu_check.run(BENCH, [name]) if line.holds is False]


def test_a_sampler_of_another_model_is_seen(monkeypatch):
    plain = CachedDecoder.append
    monkeypatch.setattr(CachedDecoder, "append", lambda *given: plain(*given) / 3)  # another temperature
    assert failing("parity") == ["sampler against a plain pass, mean"]


def test_a_frozen_adapter_is_seen(monkeypatch):
    make = Backbone.__init__

    def frozen(self, *args, **kwargs):
        make(self, *args, **kwargs)
        for name in self.names:
            self.parameters(name)[
                next(key for key in self.parameters(name) if "lora_B" in key)
            ].requires_grad_(False)

    monkeypatch.setattr(Backbone, "__init__", frozen)
    assert failing("gradients") == ["B matrices with a gradient"]


def test_a_check_that_breaks_is_a_line_and_the_next_one_runs(monkeypatch):
    def broken(bench):
        raise RuntimeError("no such card")
        yield

    monkeypatch.setitem(gpu_check.CHECKS, "load", broken)
    lines = gpu_check.run(BENCH, ["load", "gradients"])
    assert lines[0].what == "RuntimeError: no such card" and lines[0].holds is False and lines[1].holds
