"""What a run takes, measured on a tiny model, against sizes that can be worked out by hand."""

import pytest
import torch

from itpo.config import Method, RunConfig
from itpo.models.loading import load_base, load_model
from itpo.runs.store import Store
from itpo.specs import Adapter, TinyLM
from itpo.training import profiling
from itpo.training.learner import Learner

SMALL = RunConfig(
    method=Method("norm_itpo"),
    seed=0,
    steps=2,
    adapter=Adapter(4, 8),
    prompts=2,
    rollouts=2,
    policy_minibatches=2,
    prm_minibatches=2,
)


@pytest.mark.parametrize("lean", [False, True])
def test_memory_by_part(tiny_folder, unchecked, lean):
    loaded = load_model(TinyLM(), tiny_folder) if lean else load_base(tiny_folder, device="cpu")
    learner = Learner(SMALL, *loaded, tiny_folder.parent)
    frame = profiling.memory(learner)
    sizes = dict(zip(frame["part"], frame["bytes"], strict=True))
    plain, _ = load_base(tiny_folder, device="cpu")
    assert sizes["base"] == 4 * sum(p.numel() for p in plain.parameters())
    own = sum(p.numel() for name in ("policy", "prm") for p in learner.backbone.parameters(name).values())
    assert sizes["adapters (2)"] == 4 * own
    # Two moments a parameter, and a step count a tensor.
    assert sizes["optimizer state"] == pytest.approx(8 * own, rel=0.05)
    assert set(frame.loc[frame["when"] == "peak", "part"]) == {
        "rollout",
        "update of the PRM",
        "update of the policy",
    }
    assert (frame["bytes"] > 0).all()


def test_bytes_of_four_bits(tiny_folder):
    pytest.importorskip("bitsandbytes")
    full, _ = load_base(tiny_folder, device="cpu")
    small, _ = load_base(tiny_folder, "nf4", "cpu")
    linear = sum(p.numel() for n, p in full.named_parameters() if "proj" in n)
    saved = profiling.model_bytes(full) - profiling.model_bytes(small)
    assert saved == pytest.approx(3.48 * linear, rel=0.02)


def test_peaks_are_of_what_is_held_at_once():
    def call():
        first = torch.zeros(1000)
        second = first + 1
        del first
        return second * 2

    assert 8000 <= profiling.peak_bytes(call, torch.device("cpu")) < 8100  # and the two numbers


def test_seconds_are_means_over_steps(tmp_path):
    run = Store(tmp_path).open(SMALL)
    for step, scale in enumerate((1.0, 3.0)):
        run.log_time(step, {"generation": scale, "reference": 1.0, "prm": 2.0, "critic": 0.0, "policy": 4.0})
    frame = profiling.seconds([run])
    assert frame["part"].tolist() == ["generation", "reference", "prm", "policy"]
    assert frame["seconds"].tolist() == [2.0, 1.0, 2.0, 4.0] and set(frame["row"]) == {"norm_itpo"}


def test_a_timer_adds_up_the_seconds_of_each_part(monkeypatch):
    clock = iter([0.0, 1.0, 5.0, 7.0, 10.0, 10.5])
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(clock))
    timer = profiling.Timer()
    for part in ("prm", "policy", "prm"):
        with timer(part):
            pass
    assert timer.seconds == {"prm": 1.5, "policy": 2.0}
