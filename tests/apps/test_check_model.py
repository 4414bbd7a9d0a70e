"""Whether a reader's own model is told to be fit, and if not, why: in one line, and never by a traceback."""

import json

import pytest
import torch
from architectures import build
from transformers import BertConfig, T5Config

from itpo.apps import check_model
from itpo.apps.command_line import main
from itpo.models.cache import CachedDecoder
from itpo.models.tiny import build_tokenizer

WORDS = [f"w{number}" for number in range(60)] + ["Hi.", "Hello", "there.", "Go", "on."]
QUESTION = check_model.Question("here", rank=4, prompt=20, response=40)


def report(name):
    return list(check_model.of_model(build(name), build_tokenizer(WORDS), QUESTION))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "gemma"
    build("gemma 3, window").save_pretrained(folder)
    build_tokenizer(WORDS).save_pretrained(folder)
    return folder


def test_a_gemma_is_told_fit_with_all_that_was_found(gemma, capsys):
    assert main(["check-model", str(gemma), "--prompt", "20", "--response", "40", "--rank", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = (
        "model: Gemma3ForCausalLM, 0.0 million",
        "template:",
        "turn end: '<|end|>' (1)",
        "context: 128 tokens",
    )
    starts += (
        "LoRA: 14 layers",
        "decoding: keys and values",
        "parity under the reference: largest",
        "parity under a random",
    )
    starts += "time here:", "memory, full, dialogues of 20 + 40 tokens:"
    for start in starts:
        assert sum(line.startswith(start) for line in lines) == 1, start
    assert "  model.layers.*.self_attn.q_proj: 2" in lines and lines[-1] == "can be trained here"
    assert any(line.startswith("  24 GiB: fits, with 128 dialogues") for line in lines)


def test_frozen_experts_are_named():
    (line,) = [line for line in report("gpt-oss, window and experts") if "frozen" in line]
    assert "model.layers.*.mlp.experts.down_proj" in line


def test_models_that_read_anew_are_told_so():
    assert any(
        "each turn begins by reading its dialogue anew" in line for line in report("lfm 2, convolutions")
    )


def test_a_model_that_is_not_exact_is_refused_by_the_place_and_size(capsys, gemma, monkeypatch):
    append = CachedDecoder.append
    monkeypatch.setattr(CachedDecoder, "append", lambda self, ids, mask: append(self, ids, mask) / 2)
    assert main(["check-model", str(gemma)]) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("cannot be trained here: Gemma3ForCausalLM would be trained on other numbers")
    assert "log-probabilities of the sampler differ" in line


@pytest.mark.parametrize("name", ["minimax", "recurrent gemma"])
def test_architectures_are_refused_by_name(name):
    with pytest.raises(check_model.UnfitError, match="^(MiniMax|RecurrentGemma)ForCausalLM .*architecture$"):
        report(name)


def test_what_is_no_fit_model_is_one_line(tmp_path, gemma, capsys):
    def refused(config, code):
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        assert main(["check-model", str(tmp_path)]) == code
        output = capsys.readouterr()
        assert "Traceback" not in output.err
        return output.err.splitlines()[-1]

    assert "is of the kind 't5', which is no causal LM" in refused(T5Config().to_dict(), 1)
    assert "is of the kind 'vit', which is no causal LM" in refused({"model_type": "vit"}, 1)
    assert "'nonsense', which transformers" in refused({"model_type": "nonsense"}, 1)
    assert "is of the kind None" in refused({}, 1)
    assert refused("no json", 1).startswith("cannot be trained here: ")
    assert "cannot be trained here: " in refused(BertConfig().to_dict(), 1)  # no tokenizer
    assert main(["check-model", "models/none here"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "neither a folder nor a model that can be reached" in line


def test_a_tokenizer_without_template_is_refused(gemma, tmp_path, capsys):
    (tmp_path / "config.json").write_text((gemma / "config.json").read_text())
    tokenizer = build_tokenizer(WORDS)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    assert main(["check-model", str(tmp_path)]) == 1
    assert "has no chat template: use an instruction-tuned model" in capsys.readouterr().err


def test_measured_times_are_told_in_words():
    assert [check_model._duration(s) for s in (1.5, 300.0, 9000.0, 200_000.0)] == [
        "1.5 seconds",
        "5.0 minutes",
        "2.5 hours",
        "2.3 days",
    ]
    assert torch.is_grad_enabled()
