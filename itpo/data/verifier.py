"""The process in which math-verify compares answers; started by :mod:`itpo.data.answers`, never imported there.

Reads one JSON object ``{"gold": ..., "answer": ...}`` a line from standard input and writes ``true`` or ``false``
for each to standard output, until the input ends. The only argument is the limit of one comparison in seconds of
processor time (so that a busy machine does not change a verdict). At the limit the kernel ends this process, also
inside one long integer operation, where no Python signal handler would run; the caller sees the output end.
"""

from __future__ import annotations

import json
import logging
import re
import resource
import signal
import sys
from decimal import Decimal
from functools import partial
from typing import Any

from latex2sympy2_extended.latex2sympy2 import (  # type: ignore[import-untyped]
    ConversionConfig,
    NormalizationConfig,
    latex2sympy,
)
from math_verify import ExprExtractionConfig, LatexExtractionConfig, grader, parse, parser, verify
from sympy import (  # type: ignore[import-untyped]
    And,
    Eq,
    FiniteSet,
    Float,
    MatrixBase,
    MatrixExpr,
    Or,
    Rational,
    Symbol,
    Tuple,
    UnevaluatedExpr,
)

_MEMORY_BYTES = 2 << 30  # an answer such as 9^{9^{9}} asks for more than a machine has
_DIGITS = 300  # numbers that agree in so many digits are equal
_PLACES = 6  # a decimal with so many places and significant digits equals what rounds to it
_POINTS = [Rational(*pair) for pair in ((7, 3), (2, 5), (31, 7), (-5, 3), (-2, 7), (13, 2), (-41, 6))]
_numeric, _symbolic = grader.sympy_numeric_eq, grader.sympy_symbolic_eq
_letters = grader.sympy_compare_symbols
_elements = grader.sympy_deep_compare_set_and_tuple
# Units are taken off before (itpo.data.units): here k + 2m would lose its m.
_LATEX = LatexExtractionConfig(
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all"
    )
)


def same(a: Any, b: Any, *settings: int) -> bool:
    """Whether two expressions are equal, in place of math-verify's comparison by 6 or 15 decimal places.

    There all tiny numbers are zero, so that 1/2^98 = 1/2^99. Numbers are compared exactly; a percentage also equals the
    number before its sign; expressions in the same symbols are equal where they agree wherever both are real.
    """
    if isinstance(a, MatrixBase | MatrixExpr) or isinstance(b, MatrixBase | MatrixExpr):
        return _numeric(a, b, *settings)  # element by element, with this function
    percents = _percent(a), _percent(b)
    if None not in percents:
        return same(*percents)
    if percents != (None, None):
        bare, other = (percents[0], b) if percents[1] is None else (percents[1], a)
        return same(bare, other) or same(bare, 100 * other)
    try:
        exact = [grader.safe_sympy_doit(_exact(expression)) for expression in (a, b)]
        if exact[0].free_symbols != exact[1].free_symbols:
            return False
        if exact[0].free_symbols:
            return _agree(*exact)
        return _is_zero(exact[0] - exact[1]) or _rounds_to(a, exact[1]) or _rounds_to(b, exact[0])
    except (ArithmeticError, AttributeError, TypeError, ValueError):  # not numbers
        return False


def _percent(expression: Any) -> Any:
    """The number before a percent sign, below zero too; None where there is no such sign."""
    hundredth = UnevaluatedExpr(Rational(1, 100))
    if not getattr(expression, "is_Mul", False) or hundredth not in expression.args:
        return grader.get_pct_val(expression)
    return expression.func(*(factor for factor in expression.args if factor != hundredth))


def elements(gold: Any, answer: Any, *settings: int) -> bool:
    """Whether two sets or tuples have equal elements; a tuple equals a list in its order, as x = 1, y = 2, but no set.

    math-verify sorts a reference that is a set and then compares it with a tuple in its order.
    """
    if isinstance(gold, FiniteSet) and isinstance(answer, Tuple):
        listed = getattr(gold, "_unsorted_args", gold.args)
        if not all(isinstance(element, Eq) for element in listed):
            return False
        gold = Tuple(*listed)
    elif isinstance(gold, Tuple) and isinstance(answer, FiniteSet) and not hasattr(answer, "_unsorted_args"):
        return False  # in braces
    return bool(_elements(gold, answer, *settings))


def letters(gold: Any, answer: Any) -> bool:
    r"""Whether a symbol equals another expression; math-verify ignores case in names, so that \Delta = \delta."""
    if isinstance(gold, Symbol) and isinstance(answer, Symbol):
        return bool(gold.name == answer.name)
    return bool(_letters(gold, answer))


def region(expression: Any, text: str) -> Any:
    """The set that inequalities joined by "or" or "and" describe, and one in braces without order; else what it is."""
    if isinstance(expression, FiniteSet) and r"\{" in text:
        expression = FiniteSet(*expression.args)  # of sympy: math-verify's own keeps the order
    word = re.search(r"\b(?:or|and)\b", text)
    relations = expression.args if isinstance(expression, FiniteSet) else ()
    if word is None or not relations or any(grader.is_equation(relation) for relation in relations):
        return expression
    if not all(grader.is_relation(relation) for relation in relations):
        return expression
    try:
        return (Or if word[0] == "or" else And)(*relations).as_set()
    except (NotImplementedError, TypeError, ValueError):  # in several variables
        return expression


def symbolic(a: Any, b: Any) -> bool:
    """math-verify's symbolic equality, where symbols are left: about numbers :func:`same` has the last word."""
    numbers = not getattr(a, "free_symbols", True) and not getattr(b, "free_symbols", True)
    return not numbers and _symbolic(a, b)


def _exact(expression: Any) -> Any:
    """An expression with its decimals as fractions."""
    return expression.xreplace({number: Rational(str(number)) for number in expression.atoms(Float)})


def _is_zero(difference: Any) -> bool:
    if difference.is_zero is not None:
        return bool(difference.is_zero)
    parts = difference.evalf(15, maxn=_DIGITS).as_real_imag()
    # sympy marks a value whose digits all cancelled by the precision 1
    return all(part == 0 or (part.is_Float and part._prec == 1) for part in parts)


def _agree(a: Any, b: Any) -> bool:
    """Whether two expressions in the same symbols are equal at all points at which both are real, three at least."""
    symbols, real = sorted(a.free_symbols, key=str), 0
    for start in range(len(_POINTS)):
        point = {symbol: _POINTS[(start + 2 * i) % len(_POINTS)] for i, symbol in enumerate(symbols)}
        values = a.subs(point), b.subs(point)
        if all(value.is_extended_real for value in values):
            real += 1
            if not _is_zero(values[0] - values[1]):
                return False
    return real >= 3


def _rounds_to(decimal: Any, exact: Any) -> bool:
    """Whether a number rounds to a decimal as it is written; one of few digits equals itself only."""
    decimal = grader.safe_sympy_doit(decimal)
    if not isinstance(decimal, Float) or not exact.is_extended_real:
        return False
    digits = format(Decimal(str(decimal)), "f").rstrip("0")
    places = len(digits.partition(".")[2])
    if places < _PLACES or len(digits.replace(".", "").lstrip("-0")) < _PLACES:
        return False
    return bool(abs(_exact(decimal) - exact) <= Rational(1, 2 * 10**places))


def main(cpu_seconds: float) -> None:
    """Answer requests until standard input ends; each may take ``cpu_seconds`` of processor time."""
    # Ctrl-C reaches the whole process group; this process ends when its caller closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    if sys.platform == "linux":  # macOS refuses this limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    logging.disable(logging.WARNING)  # math-verify warns that its own time limit is off
    grader.sympy_numeric_eq, grader.sympy_symbolic_eq = same, symbolic
    grader.sympy_deep_compare_set_and_tuple, grader.sympy_compare_symbols = elements, letters
    parser.latex2sympy = partial(latex2sympy, conversion_config=ConversionConfig(lowercase_symbols=False))

    targets = [_LATEX, ExprExtractionConfig()]
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        gold, answer = (
            [
                region(expression, request[name])
                for expression in parse(
                    request[name], targets, fallback_mode="no_fallback", parsing_timeout=0
                )
            ]
            for name in ("gold", "answer")
        )
        verdict = verify(gold, answer, timeout_seconds=0, allow_set_relation_comp=True)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(bool(verdict)), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
