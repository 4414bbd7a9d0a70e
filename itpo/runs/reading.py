"""What a run has written, for those who read it: metrics, dialogues, the monitor set, times, platforms, and the summary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from itpo.runs.files import RunFolderError, digests, hash_json, read_json_lines, read_sealed

if TYPE_CHECKING:
    import pandas as pd


class Readings:
    """The files of one run's folder; the base of :class:`itpo.runs.store.Run`, which writes them."""

    def __init__(self, folder: Path, config: Any) -> None:
        self.folder = folder
        self.config = config

    @property
    def done(self) -> bool:
        """Whether the run is finished."""
        return (self.folder / "done.json").exists()

    def platforms(self) -> list[dict[str, Any]]:
        """The numeric platforms that trained the run, each from the step ``from_step`` on; several where they were mixed."""
        path = self.folder / "platform.json"
        return list(read_sealed(path, "itpo-run-platform")["platforms"]) if path.exists() else []

    def steps_done(self) -> int:
        """The last step in ``metrics.jsonl``, 0 before the first."""
        lines = self.metric_lines()
        return int(lines[-1]["step"]) if lines else 0

    def metric_lines(self) -> list[dict[str, Any]]:
        """All logged metrics, a dictionary for each :meth:`log`, without pandas; what was not finite is ``None``."""
        return read_json_lines(self.folder / "metrics.jsonl")

    def metrics(self) -> pd.DataFrame:
        """All logged metrics, a row for each :meth:`log`."""
        return _frame(self.metric_lines())

    def timing(self) -> pd.DataFrame:
        """Seconds by part, a row for each :meth:`log_time`."""
        return _frame(read_json_lines(self.folder / "timing.jsonl"))

    def monitor(self) -> list[tuple[int, dict[str, Tensor]]]:
        """What was read of the monitor set, as (step, tensors), by step. Raises :class:`RunFolderError` if one is damaged."""
        result = []
        for path in (self.folder / "monitor" / name for name in self._monitor_names()):
            try:
                result.append((int(path.stem[5:]), load(path.read_bytes())))
            except (SafetensorError, ValueError) as error:
                raise RunFolderError(path, f"is not a reading of the monitor set ({error})") from error
        return sorted(result, key=lambda reading: reading[0])

    def dialogues(self) -> list[dict[str, Any]]:
        """Every saved dialogue record, with its step."""
        return read_json_lines(self.folder / "dialogues.jsonl")

    def summary(self) -> dict[str, Any]:
        """What :meth:`finish` was given. Raises :class:`RunFolderError` if the run is not finished."""
        document = read_sealed(self.folder / "done.json", "itpo-run-done", "train the run to its end")
        return dict(document["summary"])

    def _monitor_names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "monitor").glob("step_*.safetensors"))


def fingerprint(run: Readings) -> str:
    """SHA-256 over metrics, dialogues, readings and adapters: equal for two runs exactly if these files are.

    >>> import tempfile
    >>> root = tempfile.TemporaryDirectory()
    >>> fingerprint(Readings(Path(root.name), config=None))[:12]
    '44136fa355b3'
    """
    return hash_json(digests(run.folder))


def _frame(lines: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd  # here: training itself reads no frame

    return pd.DataFrame([{k: float("nan") if v is None else v for k, v in line.items()} for line in lines])
