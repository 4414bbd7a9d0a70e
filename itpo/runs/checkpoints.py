"""What a checkpoint holds beside its tensors: hashes of all that a run had logged by then, and how they are checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import Tensor

from itpo.runs.files import RunFolderError, changed, sha256

LOGS = ("metrics.jsonl", "dialogues.jsonl", "timing.jsonl")
BRING_BACK = "bring it back, or move the folder away to train the run from its start"


def log_hashes(folder: Path) -> dict[str, Any]:
    """Size and hash of each log as it is now, and the hashes of the readings of the monitor set and of the noted inputs.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = (Path(place) / "metrics.jsonl").write_text("{}")
    ...     log_hashes(Path(place))["logs"]["metrics.jsonl"]["size"]
    2
    """
    logs = {log: (folder / log).read_bytes() for log in LOGS if (folder / log).exists()}
    sizes = {log: {"size": len(content), "sha256": sha256(content)} for log, content in logs.items()}
    return {"logs": sizes, "files": _file_hashes(folder)}


def _file_hashes(folder: Path) -> dict[str, str]:
    paths = [*folder.glob("monitor/step_*.safetensors"), *folder.glob("inputs.json")]
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in sorted(paths)}


def checked_tensors(folder: Path, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, after a look at the logs and readings of that time.

    Raises :class:`itpo.runs.files.RunFolderError`, which names the file, for one that was changed or is gone.

    >>> checked_tensors(Path("nowhere"), {"logs": {"metrics.jsonl": {"size": 2, "sha256": ""}}})
    Traceback (most recent call last):
        ...
    itpo.runs.files.RunFolderError: nowhere/metrics.jsonl: is shorter than at the last checkpoint; nothing was changed ...
    """
    for log, expected in state["logs"].items():
        path = folder / log
        content = path.read_bytes()[: expected["size"]] if path.exists() else b""
        if len(content) < expected["size"]:
            raise RunFolderError(path, "is shorter than at the last checkpoint", BRING_BACK)
        if sha256(content) != expected["sha256"]:
            raise RunFolderError(path, "was changed since the last checkpoint", BRING_BACK)
    actual, files = _file_hashes(folder), state["files"]
    if name := changed({name: actual.get(name, "") for name in files}, files):
        wrong = "was changed" if name in actual else "is missing"
        raise RunFolderError(folder / name, f"{wrong} since the last checkpoint", BRING_BACK)
    ((name, digest),) = state["tensors"].items()
    path = folder / "checkpoint" / name
    content = path.read_bytes() if path.exists() else b""
    if sha256(content) != digest:
        raise RunFolderError(path, "is missing or damaged", BRING_BACK)
    return load(content)
