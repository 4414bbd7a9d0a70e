"""Base models of any size, in full precision or in 4 bits (NF4), from a local folder or the Hugging Face hub.

NF4 rounds the weights of all linear layers but the head to 16 values a block [S, QLoRA]: another distribution than that of the
original weights. The reference is the base as it is loaded, never the original.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from itpo.chat import ChatFormat
from itpo.runs.files import file_hash
from itpo.specs import PRECISIONS

_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")  # weights, tokenizer and chat template


def load_base(
    name: Path | str, precision: str = "full", device: torch.device | str | None = None
) -> tuple[Any, Any]:
    """Read (model, tokenizer) of a causal LM with a chat template, in evaluation mode.

    ``name`` is a folder, or a model on the hub, which is taken from the local cache where it is. ``precision`` is "full"
    (float32 on a CPU, bfloat16 on a GPU) or "nf4" (4 bits with quantised scales, computing in those). Without ``device``, the
    GPU where there is one. :class:`itpo.models.backbone.Backbone` then freezes it.

    Raises ``FileNotFoundError`` with the command that fetches a missing model, ``ImportError`` without bitsandbytes, and
    ``ValueError`` for an unknown precision or a chat template that is missing or cannot be used, before any weights are read.

    >>> load_base("models/none here", precision="full")
    Traceback (most recent call last):
        ...
    FileNotFoundError: models/none here is neither a folder nor a model that can be reached ...
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if precision == "nf4" and find_spec("bitsandbytes") is None:
        raise ImportError("NF4 needs bitsandbytes: pip install 'itpo[gpu]', or load in full precision")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    source = locate(name)
    tokenizer = AutoTokenizer.from_pretrained(source)
    ChatFormat(tokenizer)  # refuses what cannot hold a conversation
    quantised = {"quantization_config": nf4_config(dtype)} if precision == "nf4" else {}
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, device_map={"": str(device)}, **quantised
    )
    return tame(model.eval()), tokenizer


def nf4_config(compute_dtype: torch.dtype) -> Any:
    """NF4 with quantised scales (4.13 bits a weight), multiplied in ``compute_dtype``.

    >>> nf4_config(torch.bfloat16).bnb_4bit_quant_type
    'nf4'
    """
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def tame(model: Any) -> Any:
    """Keep 4-bit layers from repacking their weights on a CPU; returns the model.

    bitsandbytes repacks on the first pass without gradient on CPUs with AVX512-BF16, after which backward passes lose the
    gradient through the base, with no more than a warning. Layers of a model in full precision are left alone. (peft's
    ``prepare_model_for_kbit_training`` is not for us: it widens embeddings and norms, which changes the logits.)

    >>> tame(torch.nn.Linear(2, 2)).weight.dtype
    torch.float32
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def locate(name: Path | str) -> str:
    """The folder of a model: the one that is named, or one of the hub's cache, filled from the hub where it can be reached.

    Raises ``FileNotFoundError`` with the command that fetches a missing model.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "config.json").write_text("{}")
    ...     locate(folder) == folder
    True
    """
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise FileNotFoundError(f"no model in {name}: expected config.json, weights and tokenizer files")
        return str(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(str(name), allow_patterns=list(_FILES))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        folder = f"models/{Path(name).name}"
        raise FileNotFoundError(
            f"{name} is neither a folder nor a model that can be reached ({type(error).__name__}); where there is a network, "
            f"fetch it by `hf download {name} --local-dir {folder}` and name that folder"
        ) from error


def model_hashes(name: Path | str) -> dict[str, str]:
    """Hash of every file of a model that may decide a number, by the file's name. Raises as :func:`locate`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "config.json").write_text("{}")
    ...     {file: digest[:8] for file, digest in model_hashes(folder).items()}
    {'config.json': '44136fa3'}
    """
    folder = Path(locate(name))
    paths = [path for pattern in (*_FILES, "*.bin") for path in folder.glob(pattern)]
    return {path.name: file_hash(path) for path in sorted(paths) if path.name != "artifact.json"}
