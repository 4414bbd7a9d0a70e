"""Implicit Turn-wise Policy Optimization (ITPO): a compact, tested replication.

The modules read like the paper: ``turns``, ``prm``, ``attribution``, ``advantages`` and ``losses`` hold
its equations as pure tensor functions; ``trainer`` holds Algorithm 1.
"""

import logging
import os
import warnings

from itpo import extras

__version__ = "0.1.0"

# Part of every run's name: raise it with each change after which an equal config gives other numbers. tests/test_numerics.py
# holds the numbers to the committed ones, and fails where they change and this does not.
NUMERICS = 2

extras.install()

# In a kernel without ipywidgets, tqdm warns so, with an absolute path, as transformers is imported; we need no widgets.
warnings.filterwarnings("ignore", message="IProgress not found")

# Where its package `kernels` is missing, bitsandbytes says so, at each start of anything here (peft imports it). That kernel
# works on 4-bit weights as repacked for a CPU, which we never let it do (itpo.models.loading.tame). Only this message of the
# logger goes.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")
)

# PyTorch's profiler, which counts bytes for itpo.training.profiling, announces each start and stop, unless told not to before
# its first use.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
