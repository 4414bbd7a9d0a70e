"""Measurements that are too long for tests: ``python -m benchmarks.step``."""

import itpo  # noqa: F401  # quietens libraries, before any is imported
