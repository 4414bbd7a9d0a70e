"""Reference answers of worked solutions, and whether an answer equals one (by math-verify).

math-verify limits its time by ``SIGALRM``, which works in the main thread alone, replaces the caller's own alarm
and cannot interrupt one long integer operation. Comparisons therefore run in a process of their own
(:mod:`itpo.data.verifier`), which starts at the first call (about a second), serves all threads in turn and is
replaced when a comparison had to be ended. Here the answer is picked out of its text and written in one way.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

from itpo.data.notation import NUMBER, tidy
from itpo.data.prose import COMMAND, WORD, announced, is_prose, marked_up, undenied
from itpo.data.units import without_units

_CPU_SECONDS = 3.0
_END_SECONDS = 5.0
_WALL_SECONDS = (
    60.0  # what a busy machine needs to start the process and use up its processor time, many times over
)

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_NUMBERS = re.compile(r"\d+(?:[,.]\d+)*")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}")
# Words and the single letter of a choice, in which case does not count
_WORDS = re.compile(r"[^\W\d_]|no|No|NO|[^\W\d_]{3,}(?:[ ,'-]+[^\W\d_]+)*")
_SPACES = re.compile(r"\s+|\\[ ,;!]|~")
_BLANK = re.compile(r"[\s?._…,;\\]*")
# "Answer: 5", "\text{Answer: } 5", "The answer is 5", "Area = 5", but not "x = 5" or "AB = 5", which math-verify reads
_LABEL_TEXT = re.compile(r"\s*\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_LABEL = re.compile(r"\s*([^\W\d_][a-z][\w '-]{0,60}?)\s*(?:[:=]|\bis\b)\s*")
# "2 hours 30 minutes": several numbers with a unit each
_COMPOUND = re.compile(
    rf"(?:{NUMBER}\s*(?:\\(?:text|mathrm|mbox)\s*\{{(?!\s*(?:and|or)\b)[^{{}}]+\}}|(?!and\b|or\b)[a-z]{{1,20}}\b)[\s,]*(?:and\s+)?){{2,6}}"
)
_HALF_OF_DAY = re.compile(r"\d\s*(?:\\(?:text|mathrm|mbox)\s*\{\s*)?([AaPp])\.?\s?[Mm]\b")
_TAGGED = re.compile(r"<answer>(.{1,1000}?)</answer>\s*$", re.DOTALL)
_BASE = re.compile(r"(?<![\w.])(\d[0-9A-Za-z]*)(?:\.([0-9A-Za-z]+))?_(?:\{\s*\(?(\d+)\)?\s*\}|(\d+))")


def _last_box(text: str) -> str | None:
    """What the last ``\\boxed{...}`` with matching braces holds; ``\\boxed 5`` holds its one token.

    A box with nothing in it, as in "now fill in \\boxed{}", counts only where all are empty.
    """
    stop, last = len(text), None
    for match in reversed(list(_BOX.finditer(text))):
        # A box that holds the unclosed brace of a later one is not closed either.
        content, stop = _content(text, match.end(), stop), match.start()
        if content is not None and _BLANK.fullmatch(_SPACES.sub(" ", _TEXT.sub(r"\1", content))):
            last = ""
        elif content is not None:
            return content
    return last


def _content(text: str, start: int, until: int) -> str | None:
    """What the braces at ``start`` hold, or the token there; ``None`` for braces that do not close before ``until``."""
    if text[start : start + 1] != "{":
        token = re.match(r"\\[A-Za-z]+|\w+", text[start:])
        return token and token.group()
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
    return after.strip() if not boxed and mark else boxed


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

    What counts of ``answer`` is its last ``\boxed{...}`` that holds something, else what follows ``####`` on its last
    line or stands in ``<answer>...</answer>`` at its end, else all of it where it is a bare formula, else what
    math-verify finds in prose: the number or formula that "answer" announces, or the last number. Values after "not"
    do not count; of several, as in "x = 1 or x = 2", all do. ``reference`` is a bare answer, as
    :func:`reference_answer` returns it. Answers in words ("east", "(C)") must agree as text, case and ``\text{}`` aside,
    so in prose they are found only in a box. Values are compared, exactly: 1/2 = 0.5 = 0.4999..., 1,450,000 = 1450000 =
    1.45e6, and 50% equals both 0.5 and 50. Units are ignored, but "2 hours 30 minutes" must agree as text; a tuple is
    no set, and R - r is not r - R. A decimal of six places or more also equals what rounds to it (0.333333 = 1/3).

    What cannot be compared within 3 seconds of processor time and 2 GiB counts as no match. May be called from any
    thread. Raises ``ValueError`` for an empty reference, ``ImportError`` if math-verify is not installed,
    ``RuntimeError`` where comparing fails or twice takes over a minute by the clock, as on a machine that hangs.

    >>> answers_match(r"That makes $\boxed{\frac{7}{2}}$ litres.", "3.5")
    True
    >>> answers_match("She has 41 left.", "42")
    False
    """
    if not reference.strip():
        raise ValueError("the reference answer is empty: nothing can be compared with it")
    final = _final(answer)
    if final is None and (tagged := _TAGGED.search(answer)):
        final = tagged[1]
    marked = final is not None
    gold, candidate = tidy(reference), announced(undenied(tidy(answer))) if final is None else tidy(final)
    labels, (bare, own) = zip(
        _labelled(gold),
        _labelled(candidate) if marked or not is_prose(candidate) else ("", candidate),
        strict=True,
    )
    if "" in labels or labels[0] == labels[1]:
        gold, candidate = bare, own
    if _same_text(candidate, gold):
        return True
    if _is_word(gold) or not candidate:
        return False  # math-verify reads a word as a product of letters, in which east = seat
    if (verdict := _by_text(gold, candidate)) is not None:
        return verdict
    gold, candidate = without_units(gold), without_units(undenied(candidate))
    if _same_text(candidate, gold):
        return True
    if _BASE.search(gold) and _BASE.search(candidate):  # math-verify ignores the base
        gold, candidate = _BASE.sub(_decimal, gold), _BASE.sub(_decimal, candidate)
    return _VERIFIER.compare(_prepare(gold, marked=True), _prepare(candidate, marked))


def _labelled(answer: str) -> tuple[str, str]:
    r"""The label in words of an answer, such as ``\text{Area} =``, and what is left; "" where there is none or it is "answer".

    Words with words behind them are no label: "Alice is taller".
    """
    plain = _LABEL_TEXT.sub(r"\1 ", answer, count=1) if _LABEL_TEXT.match(answer) else answer
    label = _LABEL.match(plain)
    if label is None:
        return "", answer
    rest, announced = plain[label.end() :], "answer" in label[1].casefold()
    if not rest or not (announced or re.search(r"\d|\\[a-z]", rest)):
        return "", answer
    return "" if announced else label[1].casefold(), rest


def _decimal(match: re.Match[str]) -> str:
    """A number with a base from 2 to 36, such as ``1010_2`` or ``3.2_5``, in decimal digits or as a fraction of them."""
    base, places = int(match[3] or match[4]), match[2] or ""
    try:
        digits = str(int(match[1] + places, base)) if base > 1 else match[0]
        return rf"\frac{{{digits}}}{{{base ** len(places)}}}" if places else digits
    except ValueError:  # a digit too high for the base
        return match[0]


def _prepare(text: str, marked: bool) -> str:
    """A text as math-verify should see it: a bare answer in a box, which it reads whole, and prose as it is.

    A marked answer is prose only if it has words and one number, as in "42 dollars".
    """
    if not is_prose(text) or (marked and len(_NUMBERS.findall(text)) != 1):
        return f"\\boxed{{{text.strip().rstrip(' .').strip('$')}}}"
    return marked_up(text)


def _by_text(gold: str, candidate: str) -> bool | None:
    """The verdict on answers of which math-verify reads the first number only, as "2 hours 30 minutes"; else ``None``."""
    halves = [match[1].casefold() for text in (gold, candidate) if (match := _HALF_OF_DAY.search(text))]
    if halves in (["a", "p"], ["p", "a"]):
        return False
    if not any(_COMPOUND.fullmatch(text.strip(" .$")) for text in (gold, candidate)):
        return None
    plain = [re.sub(r"\band\b|[\s,.]", "", _as_text(text)) for text in (gold, candidate)]
    return plain[0] == plain[1]


def _as_text(answer: str) -> str:
    """An answer as plain text without ``\\text{}``, dollar signs, spaces, brackets and full stop around it."""
    plain = _SPACES.sub(" ", _TEXT.sub(r"\1", answer)).strip(" $*.")
    plain = re.sub(r",\s+", ",", re.sub(r"(?<=\b\w) (?=\w\b)(?!\d)|(?<=\d) (?=[^\W\d_])", "", plain))
    return plain[1:-1] if re.fullmatch(r"\(\w+\)", plain) else plain


def _same_text(one: str, other: str) -> bool:
    """Whether two answers agree as text; case counts in formulas, where R - r is not r - R."""
    plain = _as_text(one), _as_text(other)
    texts = any(_TEXT.fullmatch(answer.strip(" .$")) for answer in (one, other))
    if texts or all(_WORDS.fullmatch(text) for text in plain):
        plain = plain[0].casefold(), plain[1].casefold()
    return plain[0] == plain[1]


def _is_word(answer: str) -> bool:
    """Whether an answer consists of words, not of a formula such as xyz."""
    plain = _as_text(answer)
    return re.fullmatch(r"[^\W\d_]{3,}(?:[ '-]+[^\W\d_]+)*", plain) is not None and not re.fullmatch(
        "[a-c]{3}|[x-z]{3}", plain
    )


def is_bare(text: str, words: int = 0) -> bool:
    """Whether a text is an answer alone: one line (or a matrix) that has a number or formula, or at most so many words.

    >>> is_bare("$1,200"), is_bare("so 7"), is_bare("so 7", words=2)
    (True, False, True)
    """
    plain = without_units(tidy(text))
    if "\n" in text.strip() and r"\begin" not in text:
        return False
    return (
        len(WORD.findall(COMMAND.sub(" ", plain))) <= words if words else bool(plain) and not is_prose(plain)
    )


class _Verifier:
    """The process that compares answers: at most one for each Python process, asked by one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def compare(self, gold: str, answer: str) -> bool:
        """Whether two texts hold equal answers; false for a comparison that used up its processor time or crashed."""
        request = json.dumps({"gold": gold, "answer": answer}) + "\n"
        with self._lock:
            for _ in range(
                2
            ):  # to be killed, by the clock or from outside, is no fault of the answer: ask once more
                reply, status = self._ask(request)
                if status != -signal.SIGKILL:
                    break
        if status == -signal.SIGKILL:
            raise RuntimeError(
                f"two processes that compare answers were killed, or did not answer within {_WALL_SECONDS:g} seconds: "
                "the machine has too little memory or is far too busy; free it and start again"
            )
        if status > 0:
            raise RuntimeError(
                f"the process that compares answers failed (exit status {status}); its error is above"
            )
        return bool(reply) and bool(json.loads(reply))

    def _ask(self, request: str) -> tuple[str, int]:
        """The reply of the process, or, where it gave none in time, nothing and its exit status."""
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = _start()
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        clock = threading.Timer(_WALL_SECONDS, process.kill)
        clock.daemon = True
        clock.start()
        try:
            process.stdin.write(request)
            process.stdin.flush()
            reply = process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        except BaseException:  # such as Ctrl-C: a reply that comes later must not answer the next request
            process.kill()
            self._end()
            raise
        finally:
            clock.cancel()
        return reply, 0 if reply else self._end()

    def close(self) -> None:
        """End the process; the next comparison starts another."""
        with self._lock:
            self._end()

    def _end(self) -> int:
        """Close the pipes, upon which the process ends by itself, and return its exit status; end one that hangs."""
        process, self._process = self._process, None
        if process is None:
            return 0
        try:
            process.communicate(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return process.returncode

    def leave(self) -> None:
        """In a forked child: leave the process, and a lock that may be held, to the parent."""
        self._lock, self._process = threading.Lock(), None


def _start() -> subprocess.Popen[str]:
    if importlib.util.find_spec("math_verify") is None:
        raise ImportError("answers are compared by math-verify, which is missing: pip install 'itpo[data]'")
    # By path, not by -m: importing the package would load torch; -P keeps its folder off the module search path.
    command = [sys.executable, "-P", str(Path(__file__).with_name("verifier.py")), str(_CPU_SECONDS)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )


_VERIFIER = _Verifier()
atexit.register(_VERIFIER.close)
if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_VERIFIER.leave)
