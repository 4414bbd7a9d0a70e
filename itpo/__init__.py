"""Implicit Turn-wise Policy Optimization (ITPO): a compact, tested replication.

The modules read like the paper: ``turns``, ``prm``, ``attribution``, ``advantages`` and ``losses`` hold
its equations as pure tensor functions; ``trainer`` holds Algorithm 1.
"""

import warnings

__version__ = "0.1.0"

# In a kernel without ipywidgets, tqdm warns so, with an absolute path, as transformers is imported; we need no widgets.
warnings.filterwarnings("ignore", message="IProgress not found")
