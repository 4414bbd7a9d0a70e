"""Units behind an answer, which are ignored; letters behind a number that are variables stay.

math-verify drops any letter or word that is a unit somewhere, so that k + 2m = k + 2. Its rule is off; these are the only ones.
A single letter is a unit only after a bare number and a space: "5 m", but not "2m" or "k + 2 m".
"""

from __future__ import annotations

import re

_BOXED_TEXT = r"\\(?:text|textbf|textrm|mathrm|mbox)\s*"
_GAP = r"(?:\\[,;:! ]|\\quad\b|[\s~])"
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
_LETTER = r"(?:[mgshdtlLJNWVACKFΩ]|\\Omega)"
# These are written without a space too; the others of UNIT could be products of letters then, such as 3ms and 2mg.
_GLUED = r"(?:[ckm]m|kg|kmh?|ft|in|lbs?|oz|min|hrs?|sec|mph|mL|k[JNVW]|[kMG]?Hz|k?Pa|[ap]\.?m\.?|(?<=1)st|(?<=2)nd|(?<=3)rd|th)"
UNIT = rf"(?:{_GLUED}|[dnμ]m|m[gslJVAW]|[μ]g|[cdk]?[lL]|mi|yd|cc|gal|(?:sq|cu)\.?\s?\w{{1,2}}|mol|cal)"
# "3 cm." at the end of the answer, of a sentence that holds it, or of a formula between dollar signs
_END = r"(?=[\s.]*(?:\$|\\[)\]]|$))"
_VALUE = r"(?:[-+]?(?:\d[\d.,]*(?:\s*\\times\s*10\s*\^\s*(?:\{-?\d+\}|\d+))?|\d*\s*\\[dt]?frac\{\d+\}\{\d+\}|\d+/\d+))"
_BARE = rf"(?:^|[$=]|\\\()\s*{_VALUE}"
_BEHIND = r"(?:(?<=[\d})])|(?<=\d[a-z]))"


def _ratio(unit: str) -> str:
    """A unit with its power, and what it is divided or multiplied by: ``m/s^2``."""
    any_unit = rf"(?:{UNIT}|{_LETTER}){_POWER}"
    return rf"{unit}{_POWER}(?:(?:/|\\cdot\s*){any_unit}){{0,2}}"


_RULES = [
    (re.compile(pattern), kept)
    for pattern, kept in (
        # \text{...} behind a value, however often; \mathrm{i} and \mathrm{e} are numbers.
        (
            rf"(?<=[^\s${{(\[=,])(?:(?:{_GAP}|/|\\cdot){{0,4}}{_BOXED_TEXT}\{{(?!\s*[ie]\s*\}})(?:[^{{}}]|\{{[^{{}}]*\}})*\}}{_POWER}){{1,4}}{_END}",
            "",
        ),
        (rf"({_BARE}){_GAP}{{1,4}}{_ratio(_LETTER)}{_END}", r"\1"),
        (rf"{_BEHIND}{_GAP}{{1,4}}{_ratio(UNIT)}{_END}", ""),
        (rf"({_BARE}){_ratio(_GLUED)}{_END}", r"\1"),
        # After \pi a space has to stand before any letter, so that only units of length are clear: not \pi hr.
        (rf"(?<=\\pi){_GAP}{{1,4}}(?:[ckm]m|in|ft){_POWER}{_END}", ""),
        # Words: "\frac{1}{2} hours", "12 square feet".
        (rf"{_BEHIND}(?:{_GAP}{{1,4}}(?!(?:and|or|not)\b)[a-z]{{3,20}}\b{_POWER}){{1,4}}{_END}", ""),
    )
]


def without_units(answer: str) -> str:
    r"""An answer without the units behind its value.

    >>> [without_units(answer) for answer in (r"12~\text{cm}", "5 m/s^2", "k+2m", "2 hours")]
    ['12', '5', 'k+2m', '2']
    """
    for pattern, kept in _RULES:
        answer = pattern.sub(kept, answer)
    return answer
