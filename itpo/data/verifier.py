"""The process in which math-verify compares answers; started by :mod:`itpo.data.answers`, never imported there.

Reads one JSON object ``{"gold": ..., "answer": ...}`` a line from standard input and writes ``true`` or ``false``
for each to standard output, until the input ends. The only argument is the limit of one comparison in seconds of
processor time (so that a busy machine does not change a verdict). At the limit the kernel ends this process, also
inside one long integer operation, where no Python signal handler would run; the caller sees the output end.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys

_MEMORY_BYTES = 2 << 30  # an answer such as 9^{9^{9}} asks for more than a machine has


def main(cpu_seconds: float) -> None:
    """Answer requests until standard input ends; each may take ``cpu_seconds`` of processor time."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    # Ctrl-C reaches the whole process group; this process ends when its caller closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    if sys.platform == "linux":  # macOS refuses this limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    logging.disable(logging.WARNING)  # math-verify warns that its own time limit is off

    targets = [LatexExtractionConfig(), ExprExtractionConfig()]
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        gold, answer = (
            parse(request[name], targets, fallback_mode="no_fallback", parsing_timeout=0)
            for name in ("gold", "answer")
        )
        verdict = verify(gold, answer, timeout_seconds=0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(bool(verdict)), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
