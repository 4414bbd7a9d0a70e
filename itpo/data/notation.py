"""One way of writing for answers: people and models write the same value in many ways that math-verify does not read.

Each rule of ``_RULES`` says which writing it brings to LaTeX that math-verify reads whole. None of them computes, except that
a repeating decimal becomes the fraction it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

NUMBER = r"[-+]?\d+(?:[.,]\d+)*"
# A dollar sign before an amount, as "$18 in total" has it, is money and must not open a formula.
_MONEY = re.compile(
    r"(?:\b(?:US|AU|CA|NZ|HK))?\\?\$(?=\d+(?:[,.]\d+)*[.,;:!?)*]*(?:\s+[A-Za-z]{2,}|\s*$))", re.MULTILINE
)
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2010\u2011\ufe63\uff0d", "-"),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
        "º": "°",
        "π": r"\pi ",
        "∞": r"\infty ",
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": r"\div ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "∪": r"\cup ",
        "√": r"sqrt",
    }
)
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"


def _raised(match: re.Match[str]) -> str:
    return "^{" + unicodedata.normalize("NFKC", match[0]).replace("\u2212", "-") + "}"


def _quarter(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _repeating(match: re.Match[str]) -> str:
    """The fraction of a decimal whose last digits repeat: 0.1666... = (16 - 1) / 90."""
    whole, lead, block = match["whole"], match["lead"], re.sub(r"\D", "", match["block"])
    nines = int("9" * len(block) + "0" * len(lead))
    value = Fraction(int(whole + lead + block) - int(whole + lead), nines)
    return (
        str(value.numerator)
        if value.denominator == 1
        else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    )


def _mixed(match: re.Match[str]) -> str:
    whole, top, bottom = (int(group) for group in match.groups())
    return rf"\frac{{{whole * bottom + top}}}{{{bottom}}}"


_SPACE = r"(?:\\[,!;: ]|\{,\}|[ ~'])"
_DECIMAL = r"(?<![\d.])(?P<whole>\d{1,20})\.(?P<lead>\d{0,20}"
_RULES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    # A dash that stands for a minus: "It is –3".
    (r"(?:(?<=^)|(?<=[\s(=$]))[–—](?=\d)", "-"),
    # Units are ignored: degrees (30°, 30^\circ, -4 °C), signs of currency (€7, 7\,€, \pounds 5, 50¢), 5 m^2, 5 m/s.
    (
        r"(?<!\s)\s*(?:\^\s*\\circ|\^\s*\{\s*\\circ\s*\}|\\degree\b|°)(?:\s*(?:\\(?:text|mathrm)\{\s*[CF]\s*\}|[CF]\b))?",
        "",
    ),
    (r"\\text\s*\{\s*([¢-¥\u20a0-\u20cf])\s*\}", r"\1"),
    (r"(?:(?<=\d)(?:\\,|\s)*)?(?:[¢-¥\u20a0-\u20cf]|\\(?:pounds|euro|yen)\b)\s*", ""),
    (
        r"(?<=[\d}])\s+(?:(?:[mckd]m|ft|in|yd|mi)(?:\s*\^\s*\{?[23]\}?)?(?:/(?:s|h|min))?|m/(?:s|h|min))(?=[\s.$]*$)",
        "",
    ),
    # Thousands: 1 000 000, 1\,000, 1{,}000, 1'000.
    (rf"(?<![\d.])\d{{1,3}}(?:{_SPACE}\d{{3}})+(?!\d)", lambda match: re.sub(r"\D", "", match[0])),
    # Repeating decimals: 0.\overline{3}, 0.\bar3, 0.(3), a line over each digit, and 0.333... with two or more of a kind.
    (_DECIMAL + r")\\(?:overline|bar|dot)\s*\{?(?P<block>\d{1,20})\}?", _repeating),
    (_DECIMAL + r")\((?P<block>\d{1,20})\)", _repeating),
    (_DECIMAL + r"?)(?P<block>(?:\d[\u0304\u0305\u0307]){1,20})", _repeating),
    (_DECIMAL + r"?)(?P<block>\d{1,12}?)(?P=block)+\s*(?:\.{3}|\\[lc]?dots\b)", _repeating),
    # Mixed numbers of percent, of which math-verify drops the whole: 33\frac{1}{3}\%.
    (r"(?<![\d.])(\d{1,9})\s*\\[dt]?frac\{(\d{1,9})\}\{(\d{1,9})\}(?=\s*\\?%)", _mixed),
    # Powers of ten: 1.5e3, 1.5 x 10^3.
    (r"(?<![\w.])(\d+(?:\.\d+)?|\.\d+)[eE]\+?(-?\d+)(?![\w^])", r"\1\\times 10^{\2}"),
    (r"(?<=\d)\s*[x*]\s*(?=10\s*\^)", r"\\times "),
    # Names without a backslash: pi/2, 2sqrt(3), √3, ln(2).
    (r"(?<![A-Za-z\\])[Pp]i(?![A-Za-z])", r"\\pi "),
    (r"(?<![A-Za-z])\\?sqrt\s*\(((?:[^()]|\([^()]*\)){1,200})\)", r"\\sqrt{\1}"),
    (r"(?<![A-Za-z\\])sqrt\s*(\d+(?:\.\d+)?|[a-z]\b)", r"\\sqrt{\1}"),
    (r"(?<![A-Za-z\\])(sin|cos|tan|cot|ln|log)(?=\s*\(|\s*\d)", r"\\\1 "),
)
_COMPILED = [(re.compile(pattern), change) for pattern, change in _RULES]


def tidy(text: str) -> str:
    r"""A text with its numbers and formulas written in one way.

    >>> tidy("€1 234.50, −30° and 0.333...")
    '1234.50, -30 and \\frac{1}{3}'
    >>> tidy("2√3, x², pi/2 or 1½")
    '2\\sqrt{3}, x^{2}, \\pi /2 or 1\\frac{1}{2}'
    """
    text = re.sub(r"(?<=\d) m[²³]", "", text)
    text = re.sub("[¼-¾⅐-⅞]", _quarter, re.sub(f"[{_RAISED}]+", _raised, text))  # NFKC would make x² x2
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS))
    for pattern, change in _COMPILED:
        text = pattern.sub(change, text)
    return _MONEY.sub("", text).strip()
