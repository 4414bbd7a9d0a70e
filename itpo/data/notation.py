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
# A dollar sign before an amount, as "$18 in total" has it, and an escaped one are money and must not open a formula.
_MONEY = re.compile(
    r"(?:\b(?:US|AU|CA|NZ|HK))?(?:\\\$|\$(?=\d+(?:[,.]\d+)*[.,;:!?)*]*(?:\s+[A-Za-z]{2,}|\s*$)))",
    re.MULTILINE,
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
        "∅": r"\emptyset ",
        "\u2044": "/",
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
    if "frac" not in match[0] and top >= bottom:  # "3 4/2" is no mixed number
        return match[0]
    return rf"\frac{{{whole * bottom + top}}}{{{bottom}}}"


_DEGREE = r"(?:\^\s*\\circ|\^\s*\{\s*\\circ\s*\}|\\degree\b|°)"


def _radians(match: re.Match[str]) -> str:
    return re.sub(rf"(\d+(?:\.\d+)?|[a-z]|\\[a-z]+)\s*{_DEGREE}", r"(\\frac{\1\\pi}{180})", match[0])


_SPACE = r"(?:\\[,!;: ]|\{,\}|[ ~'])"
_DECIMAL = r"(?<![\d.])(?P<whole>\d{1,20})\.(?P<lead>\d{0,20}"
_RULES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"\\thinspace\b\s*", r"\\,"),
    # \text{...} around all of an answer that is no word: \text{18 cm}.
    (r"^\s*\\text\s*\{([^{}]*\d[^{}]*)\}\s*$", r"\1"),
    # \[...\] around all of an answer.
    (r"^\s*\\[\[(]((?:(?!\\[\])])[^$]){1,1000})\\[\])]\.?\s*$", r"\1"),
    # A dash that stands for a minus: "It is –3".
    (r"(?:(?<=^)|(?<=[\s(=$]))[–—](?=\d)", "-"),
    # The angle of a function is in degrees: \sin 30^\circ, \cos(x + 60°).
    (
        r"(?<![A-Za-z])\\?(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])(?:\\[A-Za-z]+|[^\\=,;$\na-z]|[a-z](?![a-z])){1,80}",
        _radians,
    ),
    # Otherwise units are ignored: degrees (30°, 30^\circ, -4 °C) and signs of currency (€7, 7\,€, \pounds 5, 50¢).
    (
        rf"(?<!\s)\s*{_DEGREE}" r"(?:\s*(?:\\(?:text|mathrm)\{\s*[CF]\s*\}|[CF]\b))?",
        "",
    ),
    (r"\\text\s*\{\s*([¢-¥\u20a0-\u20cf])\s*\}", r"\1"),
    (r"(?:(?<=\d)(?:\\,|\s)*)?(?:[¢-¥\u20a0-\u20cf]|\\(?:pounds|euro|yen)\b)\s*", ""),
    # Thousands: 1 000 000, 1\,000, 1{,}000, 1'000.
    (rf"(?<![\d.])\d{{1,3}}(?:{_SPACE}\d{{3}})+(?!\d)", lambda match: re.sub(r"\D", "", match[0])),
    # Repeating decimals: 0.\overline{3}, 0.\bar3, 0.(3), a line over each digit, and 0.333... with two or more of a kind.
    (_DECIMAL + r")\\(?:overline|bar|dot)\s*\{?(?P<block>\d{1,20})\}?", _repeating),
    (_DECIMAL + r")\((?P<block>\d{1,20})\)", _repeating),
    (_DECIMAL + r"?)(?P<block>(?:\d[\u0304\u0305\u0307]){1,20})", _repeating),
    (_DECIMAL + r"?)(?P<block>\d{1,12}?)(?P=block)+\s*(?:\.{3}|\\[lc]?dots\b)", _repeating),
    (r"~|(?<!\\)\\ ", " "),
    (r"(?<=[\d}])\s*(?:\\[,;]\s*)?(?:\\(?:text|mathrm|mbox)\s*\{\s*per\s?cent\s*\}|\bper\s?cent\b)", "%"),
    # Mixed numbers with a space, 3 1/2, and those of percent, of which math-verify drops the whole: 33\frac{1}{3}\%.
    (r"(?<![\w.,/^)}])(\d{1,9})(?:\s|\\[,;]){1,3}(\d{1,4})/(\d{1,4})(?![\w/^]|[.,]\d)", _mixed),
    (r"(?<![\d.])(\d{1,9})\s*\\[dt]?frac\{(\d{1,9})\}\{(\d{1,9})\}(?=\s*\\?%)", _mixed),
    # Powers: 2**10, 10^-3, 1.5e3, 1.5 x 10^3.
    (r"(?:(?<=[\d)])|(?<=\b[a-z]))\*\*(?=-?\d|\()(?!\d+\*\*)", "^"),
    (r"\^\s*(-(?:\d+|[a-z]\b))", r"^{\1}"),
    (r"(?<![\w.])(\d+(?:\.\d+)?|\.\d+)[eE]\+?(-?\d+)(?![\w^])", r"\1\\times 10^{\2}"),
    (r"(?<=\d)\s*[x*]\s*(?=10\s*\^)", r"\\times "),
    # Other names: math-verify takes \Gamma for \gamma.
    (r"\\Gamma(?![A-Za-z]|\s*\()", r"\\boldsymbol{\\Gamma}"),
    (r"\\varnothing\b", r"\\emptyset "),
    (r"\\([lr])brace\b", lambda match: r"\{" if match[1] == "l" else r"\}"),
    (r"^\s*(?:≈|\\approx\b)\s*", ""),
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
    text = re.sub(r"(?<=\d)\s*(?=[¼-¾⅐-⅞])", "", text)
    text = re.sub("[¼-¾⅐-⅞]", _quarter, re.sub(f"[{_RAISED}]+", _raised, text))  # NFKC would make x² x2
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS))
    for pattern, change in _COMPILED:
        text = pattern.sub(change, text)
    return _MONEY.sub("", text).strip()
