"""Loading of base models: 4-bit bases against their own weights written out, and what is refused before weights are read."""

import json
import shutil

import pytest
import torch

from itpo.dialogue import Dialogue, collate
from itpo.models import loading
from itpo.models.backbone import Backbone
from itpo.models.loading import load_base
from itpo.models.tiny import load
from itpo.specs import Adapter


@pytest.fixture(scope="module")
def bitsandbytes():
    return pytest.importorskip("bitsandbytes", reason='needs the extra "gpu"')


@pytest.fixture
def nf4_folder(bitsandbytes, tiny_folder):
    return tiny_folder


def random_batch(vocabulary=40, rows=5):
    generator = torch.Generator().manual_seed(0)
    dialogues = []
    for length in range(9, 9 + 4 * rows, 4):
        ids = torch.randint(vocabulary, (length,), generator=generator).tolist()
        mask = (torch.rand(length - 1, generator=generator) < 0.6).tolist()
        dialogues.append(Dialogue(None, (), tuple(ids), (False, *mask), (0.0,) * length, 1.0))
    return collate(dialogues, 1, pad_id=0)


def backbone_on(model, **options):
    backbone = Backbone(model, ["policy", "prm"], Adapter(4, 8), **options)
    generator = torch.Generator().manual_seed(1)
    for name in backbone.names:
        for parameter in backbone.parameters(name).values():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return backbone


def gradients(backbone, batch, name):
    for parameter in backbone.parameters(name).values():
        parameter.grad = None
    with backbone.use(name):
        logp, entropy = backbone.token_stats(batch.input_ids, batch.response_mask)
        (logp + 0.3 * entropy).sum().backward()
    return {key: parameter.grad for key, parameter in backbone.parameters(name).items()}


def written_out(bitsandbytes, folder):
    """The same base in full precision with the weights that its 4 bits stand for."""
    quantised, (model, _) = load_base(folder, "nf4", "cpu")[0], load(folder)
    for name, module in quantised.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            model.get_submodule(name).weight.data.copy_(weight)
    return model


@pytest.mark.parametrize("options", [{}, {"checkpointing": True, "head_chunk": 7}])
def test_gradients_through_4_bits_are_right_after_a_rollout(bitsandbytes, nf4_folder, options):
    batch = random_batch()
    backbone = backbone_on(load_base(nf4_folder, "nf4", "cpu")[0], **options)
    expected = backbone_on(written_out(bitsandbytes, nf4_folder))
    for name in ("policy", "prm"):
        # The pass without gradient after which an untamed layer loses it.
        measured = backbone.log_probs(batch, name, 60)
        torch.testing.assert_close(measured, expected.log_probs(batch, name, 60), atol=2e-5, rtol=0)
        wanted, measured_gradients = gradients(expected, batch, name), gradients(backbone, batch, name)
        for key, gradient in wanted.items():
            scale = gradient.abs().max().item()
            torch.testing.assert_close(measured_gradients[key], gradient, atol=1e-4 * scale, rtol=1e-3)


def test_4_bits_leave_embeddings_norms_and_head_as_they_are(bitsandbytes, nf4_folder):
    plain, quantised = load(nf4_folder)[0], load_base(nf4_folder, "nf4", "cpu")[0]
    kept = {key: p for key, p in quantised.named_parameters() if p.dtype != torch.uint8}
    assert {key.rpartition(".")[0].rpartition(".")[2] for key in kept} == {
        "embed_tokens",
        "input_layernorm",
        "post_attention_layernorm",
        "norm",
    }
    assert all(torch.equal(p, plain.get_parameter(key)) for key, p in kept.items())
    layers = [m for m in quantised.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 7 * 2 and not any(layer.support_avx512bf16_for_cpu for layer in layers)
    assert all(layer.weight.quant_state.nested for layer in layers)


def test_old_log_probs_in_4_bits_are_those_of_training_bit_for_bit(nf4_folder):
    batch, rows = random_batch(), torch.tensor([4, 1, 2])
    backbone = backbone_on(load_base(nf4_folder, "nf4", "cpu")[0])
    old = backbone.log_probs_as_trained(batch, "policy", 1000, [rows])
    width = int(batch.lengths[rows].max())
    order = rows[torch.argsort(batch.lengths[rows], descending=True)]
    with backbone.use("policy"):
        logp, _ = backbone.token_stats(batch.input_ids[order, :width], batch.response_mask[order, :width])
    assert torch.equal(old[order, :width], logp.detach())
    assert not old[[0, 3]].any() and not old.requires_grad


def test_full_precision_is_what_the_folder_holds(tiny_folder):
    model, tokenizer = load_base(tiny_folder, device="cpu")
    expected, _ = load(tiny_folder)
    assert not model.training and model.dtype == torch.float32 and tokenizer.chat_template
    assert all(torch.equal(p, expected.get_parameter(key)) for key, p in model.named_parameters())


def test_what_cannot_be_loaded_is_said_in_a_line(tiny_folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="unknown precision 'int8'; known: full, nf4"):
        load_base(tiny_folder, "int8")
    with pytest.raises(FileNotFoundError, match="expected config.json"):
        load_base(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fetch = "hf download me/my-model --local-dir models/my-model"
    with pytest.raises(FileNotFoundError, match=fetch) as missing:
        load_base("me/my-model")
    assert "\n" not in str(missing.value)
    with pytest.raises(FileNotFoundError, match="neither a folder nor a model"):
        load_base("models/none here")
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'itpo\[gpu\]'"):
        load_base(tiny_folder, "nf4")


def test_a_tokenizer_without_template_is_refused_before_weights_are_read(tiny_folder, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folder / name, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="has no chat template: use an instruction-tuned model"):
        load_base(tmp_path)
