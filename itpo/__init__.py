"""Implicit Turn-wise Policy Optimization (ITPO): a compact, tested replication.

The modules read like the paper: ``turns``, ``prm``, ``attribution``, ``advantages`` and ``losses`` hold
its equations as pure tensor functions; ``trainer`` holds Algorithm 1.
"""

__version__ = "0.1.0"
