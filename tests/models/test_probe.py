"""Sampler and trainer against a plain forward pass of each row alone, for many architectures; and faults that must be seen."""

from dataclasses import replace

import pytest
import torch
from architectures import ARCHITECTURES, build

from itpo.models import cache, probe
from itpo.models.backbone import Backbone
from itpo.models.cache import CachedDecoder, RereadingDecoder
from itpo.models.head import Head
from itpo.specs import Adapter

REFUSED = {
    "minimax": "MiniMaxForCausalLM would be trained",
    "recurrent gemma": "RecurrentGemmaForCausalLM cannot",
}
REREAD = {
    "qwen 3.5, linear attention",
    "lfm 2, convolutions",
    "granite hybrid",
    "falcon h1",
    "mamba",
}


def make(name, dtype=torch.float32):
    return Backbone(build(name, dtype), ["policy"], Adapter(4, 8))


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - REFUSED))
def test_sampler_and_trainer_are_the_plain_forward_pass(name):
    backbone = make(name)
    assert isinstance(backbone.decoder(1), RereadingDecoder if name in REREAD else CachedDecoder)
    before = {key: p.clone() for key, p in backbone.parameters("policy").items()}
    found = probe.check_parity(backbone)
    assert [parity.adapter for parity in found] == [None, "policy"]
    for parity in found:
        assert len(parity.sampler) == len(parity.trainer) == 24
        assert max(parity.largest().values()) < 1e-4
    assert all(torch.equal(before[key], p) for key, p in backbone.parameters("policy").items())
    assert backbone.active is None and all(p.grad is None for p in backbone.model.parameters())


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_architectures_that_are_not_exact_are_refused_in_one_line(name):
    with pytest.raises(probe.InexactModelError, match=REFUSED[name]) as refusal:
        probe.check_parity(make(name))
    assert "\n" not in str(refusal.value) and "architecture" in str(refusal.value)


@pytest.mark.parametrize(
    "name", ["llama", "mistral, window", "granite, scaled logits", "lfm 2, convolutions"]
)
def test_in_16_bits_right_models_stay_far_within_the_bound(name):
    for parity in probe.check_parity(make(name, torch.bfloat16)):
        assert not parity.full_precision and max(parity.largest().values()) < 0.5 * parity.bound <= 0.1


def bare_head(patch):
    """The bare output embedding instead of the model's own way to logits."""
    patch.setattr(Head, "forward", lambda self, states: self.shell.get_output_embeddings()(states))


def gaps(patch):
    """Padding stays where it is, and counts."""
    patch.setattr(cache, "_padding_last", lambda ids, mask: (ids, mask, mask.sum(1)))
    patch.setattr(CachedDecoder, "_align", lambda self: None)


def hot(patch):
    """A sampler at another temperature."""
    append = CachedDecoder.append
    patch.setattr(CachedDecoder, "append", lambda self, ids, mask: append(self, ids, mask) / 2)


def no_adapter(patch):
    """A trainer that forgets the adapter."""
    states = Backbone.states

    def without(self, ids, mask):
        with self.use(None):
            return states(self, ids, mask)

    patch.setattr(Backbone, "states", without)


FAULTS = [
    (bare_head, "granite, scaled logits", "reference.*sampler"),
    (bare_head, "cohere, scaled logits", "reference.*sampler"),
    (bare_head, "gemma 2, window and soft cap", "reference.*sampler"),
    (gaps, "mistral, window", "reference.*sampler"),
    (hot, "llama", "reference.*sampler"),
    (no_adapter, "llama", "adapter with random weights.*trainer"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("fault", "name", "words"), FAULTS)
def test_faults_are_seen_and_placed(fault, name, words, dtype, monkeypatch):
    fault(monkeypatch)
    with pytest.raises(probe.InexactModelError, match=f"ForCausalLM would be trained .*{words}"):
        probe.check_parity(make(name, dtype))


def test_an_adapter_that_reaches_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(probe, "_strength", lambda backbone, name: 1e9)
    with pytest.raises(probe.InexactModelError, match="moves no log-probability by more than"):
        probe.check_parity(make("llama"))


def test_what_fails_is_refused_in_one_line(monkeypatch):
    backbone = make("gpt 2, learned positions")
    backbone.model.config.max_position_embeddings = 32
    with pytest.raises(probe.InexactModelError, match="a context of 32 positions: too short") as refusal:
        probe.check_parity(backbone)
    assert "\n" not in str(refusal.value)


def test_a_difference_that_is_no_number_is_a_fault():
    parity = probe.measure(make("llama"), None)
    assert parity.fault() is None
    assert "sampler" in replace(parity, sampler=parity.sampler * torch.nan).fault()
