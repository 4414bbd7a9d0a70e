"""Measurements that are too long for tests: ``python -m benchmarks.step`` and ``python -m benchmarks.tune``."""

import os

import itpo  # noqa: F401  # quietens libraries, before any is imported

# PyTorch's profiler, which counts bytes here, announces each start and stop, unless told so before torch is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
