"""Measurements that are too long for tests: ``python -m benchmarks.step`` and ``python -m benchmarks.tune``."""
