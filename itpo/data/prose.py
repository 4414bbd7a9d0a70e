"""Answers within sentences: which texts are sentences, where the answer stands, and what is only mentioned or denied."""

from __future__ import annotations

import re

from itpo.data.notation import NUMBER
from itpo.data.units import UNIT

COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mbox|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")
WORD = re.compile(r"[^\W\d_]{2,}")
# Two or three letters between signs or digits are a product, as in 2ab, mc^2, xy = 1 and ab + bc; "so 7" is not.
_PRODUCT = re.compile(
    r"(?:(?<=[\d=+*/^({}<>-])|(?<=[=+*/<>-] )|(?<=\d )(?=[A-Za-z]{2}(?![A-Za-z]))|^)"
    r"(?!(?:is|it|so|be|to|of|by|we|he|no|the|are|get|was|has|had|for|not|all|yes)(?![A-Za-z]))"
    r"[A-Za-z]{2,3}(?=\s*(?:[=+*/^_(){}<>-]|$)|\d)"
)
_JOINED = re.compile(r"(?<![^\W_])(?:and|or)(?![^\W_])")
_ANNOUNCED = re.compile(r"\b(?i:answers?)\b(?:[^.!?:\n]{0,50}?(?:\b(?:is|are)\b|:))?[\s*_:]*")
_SENTENCE = re.compile(r"[^\n]{0,300}?(?=[.!?]+(?:[\s*_]|$)|\n|$)")
_QUOTED = re.compile(r"(?<![\w)\]])[(\[\"'`*_]{1,4}([-+]?\d+(?:\.\d+)?(?:/\d+)?)[)\]\"'`*_]{1,4}")
_ITEM = rf"{NUMBER}(?:/\d+)?"
# "It is not 42", "The answer isn't $\frac{1}{2}$"
_DENIED = re.compile(
    r"(?i:\b(?:not|cannot)|n['’]t)\s+(?:(?:be|equal(?:\s+to)?)\s+)?[*_]{0,3}"
    rf"(?:\$[^$\n]{{1,80}}\$|\\\([^\n]{{1,80}}?\\\)|\\?\$?{_ITEM}(?:\s+n?or\s+{_ITEM})?|\\[dt]?frac\{{\d+\}}\{{\d+\}})"
)
# "It is 41 or 42", "the roots are 3, 4 and 5", "between 1 and 2": several numbers, and not the last of them
_SEVERAL = re.compile(
    rf"(\b(?:is|are|be|between|either)\s+|[=:]\s*)({_ITEM}(?:,\s+{_ITEM}){{0,20}}),?\s+(?:and|or)\s+({_ITEM})"
)
_EITHER = re.compile(rf"((?:^|\s))({_ITEM}),?\s+or\s+({_ITEM})(?![\w/])")
_ROW = re.compile(rf"(\bare\s+)({_ITEM}(?:,\s+{_ITEM}){{0,20}}),\s+({_ITEM})(?=\.?\s*$)")
# "x = 1 or x = 2": the same variable again
_AGAIN = re.compile(
    rf"(?<![\w\\])([A-Za-z])\s*=\s*{_ITEM}(?:(?:,?\s+(?:and|or)\s+|,\s+)\1\s*=\s*{_ITEM}){{1,20}}"
)
# "It is 2ab": letters that are no unit belong to the number
_TERM = re.compile(rf"(?<![\w.,$\\])(\d+(?:\.\d+)?(?:[abnqruvwxyz]|(?!{UNIT}\b)[a-z]{{2}}))(?!\w)")
_FORMULA = re.compile(
    r"(?<![\w\\])(?:\\(?:pi|sqrt|frac|times|cdot|infty)\b|\d+(?:[.,]\d+)*|[-+*/^(){}]|\s+(?=[-+*/^(){}\\\d]))+"
)


def is_prose(text: str) -> bool:
    """Whether a text has words or formulas of its own around the answer.

    >>> is_prose("so 7"), is_prose("41 or 42"), is_prose("2ab")
    (True, False, False)
    """
    words = COMMAND.sub(lambda match: " " if "{" in match[0] else "*", text).replace("\\", " ")
    words = re.sub(r"\s+", " ", _JOINED.sub(",", words)).strip(" .$*")
    return WORD.search(_PRODUCT.sub(" ", words)) is not None or "$" in text.strip().strip("$")


def undenied(text: str) -> str:
    """A text without the values that it denies.

    >>> undenied("it is not 41 but 42")
    'it is   but 42'
    """
    return _DENIED.sub(" ", text)


def announced(text: str) -> str:
    """The sentence in which a text announces its answer last; all of it where none has a number or formula.

    >>> announced("I counted 7 pens. The answer is 42. Easy.")
    '42'
    """
    text = _QUOTED.sub(r" \1", text)
    for match in reversed(list(_ANNOUNCED.finditer(text))):
        sentence = _SENTENCE.match(text, match.end())
        if sentence and re.search(r"\d|\\[a-z]", sentence[0]):
            found = sentence[0].strip(" *_,;")
            return f"answer is {found}" if is_prose(found) else found
    return text


def marked_up(text: str) -> str:
    """Prose with its formulas and lists of numbers between dollar signs, where math-verify reads them whole.

    >>> print(marked_up("the roots are 3, 4 and 5"))
    the roots are $\\{3, 4, 5\\}$
    """
    if "$" in text or r"\(" in text or r"\[" in text:
        return text
    text = _FORMULA.sub(lambda match: f" ${match[0].strip()}$ " if "\\" in match[0] else match[0], text)
    text = _TERM.sub(r"$\1$", text)
    text = re.sub(r"(?:(?<=[^\W\d_]:)|(?<=[≈→]))(?=[-.]?\d)", " ", text)
    text = _AGAIN.sub(lambda match: f"${{{', '.join(re.findall(_ITEM, match[0]))}}}$", text)
    for pattern in (_SEVERAL, _ROW, _EITHER):
        text = pattern.sub(r"\1$\\{\2, \3\\}$", text)
    return text
