"""Where a checkout keeps its runs and figures, from whichever folder a notebook or command is started."""

from __future__ import annotations

from pathlib import Path


def project_root() -> Path:
    """The checkout that this package is installed from (``pip install -e``), else the current folder.

    >>> project_root().is_dir()
    True
    """
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def runs_root() -> Path:
    """The run store of this checkout: ``runs/``.

    >>> runs_root().name
    'runs'
    """
    return project_root() / "runs"
