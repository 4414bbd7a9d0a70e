"""Reference answers of worked solutions, and whether an answer equals one (by math-verify).

math-verify limits its time by ``SIGALRM``, which works in the main thread alone, replaces the caller's own alarm
and cannot interrupt one long integer operation. Comparisons therefore run in a process of their own
(:mod:`itpo.data.verifier`), which starts at the first call (about a second), serves all threads in turn and is
replaced when a comparison had to be ended.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

_CPU_SECONDS = 3.0

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
# A dollar sign before an amount, as "$18 in total" has it, is money and must not open a formula.
_MONEY = re.compile(r"\\?\$(?=\d+(?:[,.]\d+)*[.,;:!?)*]*(?:\s+[A-Za-z]{2,}|\s*$))", re.MULTILINE)
_THOUSANDS = re.compile(r"(?<=\d)(?:\\[,!; ]|\{,\})(?=\d{3})")
_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mbox|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")
_PROSE = re.compile(r"[^\W\d_]{2,}")
_NUMBER = re.compile(r"\d+(?:[,.]\d+)*")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"\s+|\\[ ,;!]|~")


def _last_box(text: str) -> str | None:
    """What the last ``\\boxed{...}`` with matching braces holds; ``\\boxed 5`` holds its one token."""
    stop = len(text)
    for match in reversed(list(_BOX.finditer(text))):
        # A box that holds the unclosed brace of a later one is not closed either.
        start, until, stop = match.end(), stop, match.start()
        if text[start : start + 1] != "{":
            token = re.match(r"\\[A-Za-z]+|\w+", text[start:])
            if token:
                return token.group()
            continue
        depth = 0
        for end in range(start, until):
            escaped = text[end - 1] == "\\"
            depth += (text[end] == "{" and not escaped) - (text[end] == "}" and not escaped)
            if depth == 0:
                return text[start + 1 : end].strip()
    return None


def _final(text: str) -> str | None:
    """The marked final answer of a text: its last box, else what follows ``####`` on its last line.

    On another line ``####`` is a heading, as chat models write them.
    """
    boxed = _last_box(text)
    _, mark, after = text.strip().rpartition("\n")[2].rpartition("####")
    return after.strip() if boxed is None and mark else boxed


def reference_answer(solution: str) -> str:
    r"""The final answer of a worked solution: the last ``\boxed{...}`` (MATH), else after ``####`` on the last line (GSM8K).

    Returned as written, units and thousands separators included. Raises ``ValueError`` where neither mark is
    followed by an answer.

    >>> reference_answer(r"so the length is $\boxed{\sqrt{51}}$.")
    '\\sqrt{51}'
    >>> reference_answer("16 + 2 = <<16+2=18>>18 eggs\n#### 18")
    '18'
    """
    answer = _final(solution)
    if not answer:
        raise ValueError(
            r"the solution marks no final answer: end it with \boxed{...} or with a line '#### ...'"
        )
    return answer


def answers_match(answer: str, reference: str) -> bool:
    r"""Whether an answer, alone or at the end of a text, equals a reference answer.

    What counts of ``answer`` is its last ``\boxed{...}``, else what follows ``####`` on its last line, else all of it
    where it is a bare formula, else what math-verify finds in prose: a number announced by "answer", or the last
    number. ``reference`` is a bare answer, as :func:`reference_answer` returns it. Answers in words ("east",
    "(C)") must agree as text, case and ``\text{}`` aside, so in prose they are found only in a box. math-verify
    compares values: 1/2 = 0.5, 1,450,000 = 1450000, units are ignored, and 50% equals both 0.5 and 50.

    What cannot be compared within 3 seconds of processor time and 2 GiB counts as no match. May be called from any
    thread. Raises ``ValueError`` for an empty reference, ``ImportError`` if math-verify is not installed.

    >>> answers_match(r"That makes $\boxed{\frac{7}{2}}$ litres.", "3.5")
    True
    >>> answers_match("She has 41 left.", "42")
    False
    """
    if not reference.strip():
        raise ValueError("the reference answer is empty: nothing can be compared with it")
    final = _final(answer)
    candidate = answer if final is None else final
    if _as_text(candidate) == _as_text(reference):
        return True
    if _is_word(reference) or not candidate.strip():
        return False  # math-verify reads a word as a product of letters, in which east = seat
    return _VERIFIER.compare(_prepare(reference, marked=True), _prepare(candidate, marked=final is not None))


def _prepare(text: str, marked: bool) -> str:
    """A text as math-verify should see it: a bare answer in a box, which it reads whole, and prose as it is.

    A marked answer is prose only if it has words and one number, as in "42 dollars".
    """
    plain = _MONEY.sub("", text)
    if _is_prose(plain) and (not marked or len(_NUMBER.findall(plain)) == 1):
        return plain
    return f"\\boxed{{{_THOUSANDS.sub('', plain).strip().strip('$')}}}"


def _as_text(answer: str) -> str:
    """An answer as plain lower-case text without ``\\text{}``, dollar signs, spaces, brackets and full stop around it."""
    plain = _SPACES.sub(" ", _TEXT.sub(r"\1", answer)).strip(" $*.")
    inner = plain[1:-1] if plain.startswith("(") and plain.endswith(")") else plain
    return (inner if re.fullmatch(r"\w+", inner) else plain).casefold()


def _is_word(answer: str) -> bool:
    """Whether an answer consists of words, not of a formula."""
    return re.fullmatch(r"[^\W\d_]{3,}(?:[ '-]+[^\W\d_]+)*", _as_text(answer)) is not None


def _is_prose(text: str) -> bool:
    """Whether a text has words or formulas of its own around the answer."""
    without = _COMMAND.sub(" ", text)
    return _PROSE.search(without.replace("\\", " ")) is not None or "$" in _MONEY.sub("", text).strip().strip(
        "$"
    )


class _Verifier:
    """The process that compares answers: at most one for each Python process, asked by one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def compare(self, gold: str, answer: str) -> bool:
        """Whether two texts hold equal answers; false for a comparison that the kernel had to end."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._end()
                self._process = _start()
            process = self._process
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(json.dumps({"gold": gold, "answer": answer}) + "\n")
                process.stdin.flush()
                reply = process.stdout.readline()
            except BaseException:  # such as Ctrl-C: a reply that comes later must not answer the next request
                process.kill()
                self._end()
                raise
            if reply:
                return bool(json.loads(reply))
            status = self._end()
        if status > 0:
            raise RuntimeError(
                f"the process that compares answers failed (exit status {status}); its error is above"
            )
        return False

    def close(self) -> None:
        """End the process; the next comparison starts another."""
        with self._lock:
            self._end()

    def _end(self) -> int:
        """Close the pipes, upon which the process ends by itself, and return its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.communicate()
        return process.returncode

    def leave(self) -> None:
        """In a forked child: leave the process, and a lock that may be held, to the parent."""
        self._lock, self._process = threading.Lock(), None


def _start() -> subprocess.Popen[str]:
    if importlib.util.find_spec("math_verify") is None:
        raise ImportError("answers are compared by math-verify, which is missing: pip install math-verify")
    # By path, not by -m: importing the package would load torch; -P keeps its folder off the module search path.
    command = [sys.executable, "-P", str(Path(__file__).with_name("verifier.py")), str(_CPU_SECONDS)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )


_VERIFIER = _Verifier()
atexit.register(_VERIFIER.close)
os.register_at_fork(after_in_child=_VERIFIER.leave)
