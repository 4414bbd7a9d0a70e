"""Which extra of this package brings a library that is missing: said where one of our modules imports it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Libraries that `pip install itpo` does not bring, and the smallest extra of pyproject.toml that does.
EXTRAS = {
    "PIL": "report",
    "accelerate": "train",
    "bitsandbytes": "gpu",
    "datasets": "data",
    "gguf": "train",
    "json_repair": "serve",
    "jupytext": "notebooks",
    "math_verify": "data",
    "matplotlib": "report",
    "openai": "serve",
    "pandas": "report",
    "papermill": "notebooks",
    "peft": "train",
    "pyarrow": "data",
    "ray": "ray",
    "reasoning_gym": "problems",
    "sacrebleu": "data",
    "scipy": "report",
    "seaborn": "report",
    "sklearn": "report",
    "trl": "trl",
    "verl": "verl",
    "vllm": "vllm",
}


class MissingExtraError(ModuleNotFoundError):
    """A module of this library needs a package that is not installed; the text names the extra that brings it."""


class _Extras(MetaPathFinder):
    """Stands last among Python's finders: what it is asked for, none of them has found."""

    def find_spec(
        self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Nothing; raises :class:`MissingExtraError` for a library of an extra that this package's own code imports."""
        extra = EXTRAS.get(fullname)
        if extra and (importer := _importer()).partition(".")[0] == "itpo":
            message = f"{importer} needs {fullname}, which is missing: pip install 'itpo[{extra}]'"
            raise MissingExtraError(message, name=fullname)
        return None


def _importer() -> str:
    """The module whose import statement is being carried out; "" for a mere look whether something is there."""
    frame = sys._getframe(1)
    while frame.f_back and (name := frame.f_globals.get("__name__", "")) != "importlib.util":
        if name != __name__ and not name.startswith("importlib"):
            return str(name)
        frame = frame.f_back
    return ""


def install() -> None:
    """Let a missing library be refused with the extra that brings it; once, when ``itpo`` is imported.

    >>> install()
    >>> [type(finder).__name__ for finder in sys.meta_path].count("_Extras")
    1
    """
    if not any(isinstance(finder, _Extras) for finder in sys.meta_path):
        sys.meta_path.append(_Extras())
