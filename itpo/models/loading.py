"""Base models of any size, in full precision or in 4 bits (NF4), from a local folder or the Hugging Face hub.

NF4 rounds the weights of all linear layers but the head to 16 values a block [S, QLoRA]: another distribution than that of the
original weights. The reference is the base as it is loaded, never the original.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from itpo.chat import ChatFormat
from itpo.models.adapters import AdaptedModel
from itpo.models.lean import LeanModel
from itpo.models.lean_weights import LeanBase, read_base
from itpo.models.words import Words
from itpo.runs.files import file_hash
from itpo.specs import PRECISIONS, Adapter, PretrainedModel, TinyLM

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
    _check_kind(source, name)
    tokenizer = AutoTokenizer.from_pretrained(source)
    ChatFormat(tokenizer)  # refuses what cannot hold a conversation
    quantised = {"quantization_config": nf4_config(dtype)} if precision == "nf4" else {}
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, device_map={"": str(device)}, **quantised
    )
    return tame(model.eval()), tokenizer


def load_model(spec: TinyLM | PretrainedModel, base: Path | str) -> tuple[Any, Any]:
    """Read (model, tokenizer) of a run's base model, which is the folder or name ``base``.

    A tiny model is read by our own code, on the CPU and without transformers (:class:`itpo.models.lean.LeanModel` computes with
    it), others by :func:`load_base`. Raises as these do.

    >>> import tempfile
    >>> from itpo.models.tiny import pretrain_by_imitation
    >>> from itpo.specs import Adapter
    >>> from itpo.tasks.registry import get_task
    >>> task, spec = get_task("math"), TinyLM(hidden_size=16, layers=1, heads=2, steps=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model, tokenizer = load_model(spec, pretrain_by_imitation(task, task.noisy_expert, spec, Path(folder)))
    >>> backbone = adapted(model, ["policy"], Adapter(rank=2))
    >>> with backbone.use("policy"):
    ...     logp, entropy = backbone.token_stats(torch.tensor([[1, 2, 3]]), torch.tensor([[False, True, True]]))
    >>> len(tokenizer("how many pens ?")["input_ids"]), logp.shape
    (4, torch.Size([1, 3]))
    """
    if isinstance(spec, TinyLM):
        return read_base(base), Words(base)
    return load_base(base, spec.precision)


def adapted(
    model: Any,
    names: Sequence[str],
    adapter: Adapter,
    seed: int = 0,
    heads: Mapping[str, int] | None = None,
    head_chunk: int = 2048,
    checkpointing: bool = False,
) -> AdaptedModel:
    """A loaded model with adapters, by what suits it: see :func:`load_model`, and :class:`itpo.models.backbone.Backbone`.

    A tiny model is never checkpointed, which would save nothing worth the time.
    """
    if isinstance(model, LeanBase):
        return LeanModel(model, names, adapter, seed, heads, head_chunk)
    from itpo.models.backbone import Backbone

    return Backbone(model, names, adapter, seed, heads, head_chunk, checkpointing)


def _check_kind(source: str, name: Path | str) -> None:
    """Refuse what is no causal LM of this transformers, before its weights are read. Code that a model brings is never run."""
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(source)
    except (ValueError, KeyError) as error:
        kind = json.loads((Path(source) / "config.json").read_text(encoding="utf-8")).get("model_type")
        raise ValueError(
            f"{name} is of the kind {kind!r}, which transformers {transformers.__version__} does not know, and code that a "
            "model brings is not run: use a model of another architecture"
        ) from error
    if (
        getattr(config, "is_encoder_decoder", False)
        or type(config) not in AutoModelForCausalLM._model_mapping
    ):
        raise ValueError(
            f"{name} is of the kind {config.model_type!r}, which is no causal LM: use one that is"
        )


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
