"""The numeric platform of a process: what may change the last bits of a result beside the config and the library's code."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import torch


class PlatformError(RuntimeError):
    """What was begun or made on another numeric platform would be gone on with: the result would be like none of either."""


_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "bitsandbytes")


def numeric_platform() -> dict[str, Any]:
    """Libraries, device, processor, its instructions that PyTorch uses (``ATEN_CPU_CAPABILITY``), and threads of this process.

    >>> numeric_platform()["threads"] == torch.get_num_threads()
    True
    """
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "device": gpu or "cpu",
        "processor": processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def making_platform() -> dict[str, Any]:
    """The platform without its number of threads, which whoever makes a model sets alike everywhere.

    >>> "threads" in making_platform()
    False
    """
    return {name: value for name, value in numeric_platform().items() if name != "threads"}


def _version(library: str) -> str | None:
    """The installed version without its local tag (``+cpu``), ``None`` where the library is missing."""
    try:
        return metadata.version(library).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's model as Linux names it, elsewhere its architecture.

    >>> len(processor()) > 0
    True
    """
    import platform

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def differences(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """What differs between two platforms, a line for each.

    >>> differences({"threads": 1}, {"threads": 2})
    ['threads: 2 there, 1 here']
    """
    flat_here, flat_there = _flat(here), _flat(there)
    names = [*flat_here, *(name for name in flat_there if name not in flat_here)]
    pairs = {name: (flat_there.get(name), flat_here.get(name)) for name in names}
    return [f"{name}: {old} there, {new} here" for name, (old, new) in pairs.items() if old != new]


def _flat(platform: dict[str, Any]) -> dict[str, Any]:
    return platform | platform.get("libraries", {}) | {"libraries": None}
