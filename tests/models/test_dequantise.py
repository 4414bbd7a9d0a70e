"""A 4-bit base written out is the same distribution, read as any folder is."""

import pytest
import torch

from itpo.models.dequantise import dequantise
from itpo.models.loading import load_base


@pytest.mark.parametrize("tied", [True, False])
def test_a_base_that_is_written_out_is_the_one_that_was_loaded(tiny_folder, tmp_path, tied):
    pytest.importorskip("bitsandbytes", reason='needs the extra "gpu"')
    quantised, tokenizer = load_base(tiny_folder, "nf4", "cpu")
    if not tied:
        head = torch.nn.Parameter(torch.randn_like(quantised.get_output_embeddings().weight), False)
        quantised.get_output_embeddings().weight, quantised.config.tie_word_embeddings = head, False
    folder = dequantise(quantised, tokenizer, tmp_path / "plain")
    plain, read = load_base(folder, device="cpu")
    original, _ = load_base(tiny_folder, device="cpu")
    ids = torch.randint(5, 40, (3, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, ours, others = (m(input_ids=ids).logits for m in (quantised, plain, original))
    assert torch.allclose(logits, ours, atol=1e-4)
    assert not torch.allclose(logits, others, atol=1e-2)
    assert read.get_vocab() == tokenizer.get_vocab() and not hasattr(plain.config, "quantization_config")
