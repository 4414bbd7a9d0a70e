"""What a language model replied, read leniently: JSON in any wrapping, broken JSON repaired, and nothing ever evaluated.

Lenient about form only: a reply that was cut off, or that says two things, is no reply.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from itpo.tasks.bleu import MARKER
from itpo.thoughts import THOUGHT_TAGS, says_something, split_thoughts

TERMINATE = "[[TERMINATE CHAT]]"  # what a simulated user says to end the conversation [S]
_TERMINATE = r"terminate[\s_-]*chat"  # as models spell it: between brackets anywhere, or alone
_ENDS = re.compile(rf"\[[\s*]*{_TERMINATE}[\s*]*\]|^[\W_]*{_TERMINATE}[\W_]*$", re.IGNORECASE)
_ROLE = re.compile(r"[\s*_]*(?:user|student|patient|human)[\s*_]*:[\s*_]*", re.IGNORECASE)
# A brace that begins an object, or a key that was asked for: what a text that is no JSON does not have.
_JSON_LIKE = re.compile(
    r"""\{\s*["'“]|\{\s*\\"\w+\\"\s*:|["'{,]\s*(?:thought|response)["']?\s*:|^\s*\{\s*\}\s*$""", re.IGNORECASE
)
_OBJECT = re.compile(r"""\{\s*["'“]?\w+["'”]?\s*:""")
# json-repair takes seconds from some thousands on.
_MOST_BRACES = 500
_SEVERAL = ...  # what a key has that is given twice with two values
# Lines that part thought from response in a reply that is no JSON.
_LABEL = re.compile(r"^[ \t*_#>]*(thought|response)s?[ \t*_]*(?::[*_]*|$)", re.IGNORECASE | re.MULTILINE)

# In broken JSON: a key, and a value without quotes, which ends before the next key, a brace or a comment.
_KEY = r"""(?:(?P<quoted>["'“])%s["'”]|[{,]\s*%s)\s*:\s*"""
_BARE = r"""(?P<value>(?![\s"'“‘`{},])(?>\[[^\[\]]*\]|\{[^{}]*\}|\s+|[^{}])+?)
(?= \s*+(?: (?(quoted),?\s*["'“]\w+["'”]|,\s*["'“]?\w+["'”]?)\s*: | ,?\s*\} ) | ,?\s+(?://|/\*))"""
_ITEM = re.compile(
    r"""//[^\n]*|/\*.*?(?:\*/|\Z)|"(?:[^"\\]|\\.)*(?:"|\Z)|'[^']*(?:'|\Z)|(?P<value>[^\s,"'](?:(?!//|/\*)[^,"])*)""",
    re.DOTALL,
)
_LIST, _QUOTE = re.compile(r"\[[^\[\]]*\]"), re.compile(r'(?<!\\)"')
_LITERAL = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?|true|false|null|none|nan", re.IGNORECASE | re.ASCII)

# LaTeX commands whose first letter makes a valid escape of JSON: \n, \r, \t. (\b and \f make signs that nobody writes.)
_COMMANDS = re.compile(
    r"n(?:abla|atural|cong|e|earrow|eq|ewline|eg|exists|geq|gtr|leq|less|mid|onumber|ot|otin|parallel|sim|u|warrow|olimits)"
    r"|nsub(?:set|seteq)|nsupseteq|r(?:angle|brace|brack|ceil|ef|floor|ho|hd|m|oot|times|vert|Vert)|right(?:arrow|leftharpoons)?"
    r"|t(?:ag|anh?|au|binom|ext(?:bf|it|rm|sf|tt|normal|style)?|frac|herefore|heta|hinspace|ilde|imes|iny|o|op)"
    r"|triangle(?:left|q|right)?"
)
# Also what a new line may begin with, as in "\ne = 5": commands between dollar signs or after \( and \[ only.
_LINE_STARTS = {"ne", "neg", "nexists", "nless", "nmid", "nparallel", "nsim", "nsubset", "nu"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|[a-zA-Z]+|.|$)", re.DOTALL)
_DISPLAYS = ((r"\(", r"\)"), (r"\[", r"\]"))
_CODE_POINT = re.compile(r"u[0-9a-fA-F]{4}")
_LATEX_BRACE = re.compile(r"\\[{}]")

_LONGEST_SCORE = 500  # characters
_SCORE = re.compile(
    r"""[\s*_"'+]*(-?\d+(?:\.\d+)?|-?\.\d+) \s*
    (?:(?:/|out\sof|of)\s*(?P<most>\d+(?:\.\d+)?)|(?P<percent>%))? \s*
    (?:points?)? [\s*_"'.]* (?:\(.*\)|[-–—:,;]\D*)?""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL | re.ASCII,
)

_MARKER = MARKER.removesuffix(":").replace(" ", r"[ \t]+")
_MARKER_LINE = re.compile(rf"^[ \t*_#>`]*{_MARKER}[ \t*_`]*(?::[*_`]*|$)", re.IGNORECASE | re.MULTILINE)
_MARKER_INSIDE = re.compile(rf"{_MARKER}[*_`]*\s*:[*_`]*", re.IGNORECASE)
_FENCE = re.compile(r"\s*```[\w-]*\n(.*?)\n?```\s*", re.DOTALL)


class ReplyError(ValueError):
    """A reply that cannot be read as what was asked for."""


def aloud(text: str, tags: Mapping[str, str] = THOUGHT_TAGS) -> str:
    """A model's reply without its thoughts. Raises ``ReplyError`` where a thought never ends, or nothing else was said.

    >>> aloud('<think>maybe {"score": 0}</think>{"score": 7}')
    '{"score": 7}'
    """
    speech = split_thoughts(text, tags)
    if not speech.whole:
        raise ReplyError(f"the reply ends within a thought: {_shown(text)}")
    if not speech.text.strip():
        raise ReplyError("the reply says nothing")
    return speech.text


def read_response(text: str, tags: Mapping[str, str] = THOUGHT_TAGS) -> str | None:
    r"""What a simulated user says: the "response" of its JSON reply, ``None`` where it ends the conversation.

    A reply that is no JSON is taken as the response itself: small models often forget the form [O]; of lines that are
    labelled "Thought:" and "Response:" only the latter are. The terminating mark ends also behind the JSON. Raises
    ``ReplyError`` for JSON without a response, and for an empty one.

    >>> read_response('{"thought": "I have what I need", "response": "Thanks! [[TERMINATE CHAT]]"}') is None
    True
    >>> read_response(r'{"response": "$\frac{1}{2}$"}'), read_response("A is {1, 2}.")
    ('$\\frac{1}{2}$', 'A is {1, 2}.')
    """
    text = aloud(text, tags)
    values = _values(text, "response")
    behind = text[text.rfind("}") + 1 :] if values else ""
    if not values and not _JSON_LIKE.search(text):
        _check_whole(text)
        values = _labelled(text)
    response = _one(values, "response", text)
    if _ENDS.search(behind):
        return None
    if type(response) in (int, float):
        response = str(response)
    if not isinstance(response, str):
        raise ReplyError(f"the response is {response!r}, not text")
    if _ENDS.search(response):
        return None
    label = _ROLE.match(response)
    return _text(response[label.end() :] if label else response)


def read_number(
    text: str, key: str, low: float, high: float, tags: Mapping[str, str] = THOUGHT_TAGS
) -> float:
    """The finite number in [low, high] that a judge's JSON reply has under ``key``, also as a text such as "7/10".

    Raises ``ReplyError`` for anything else.

    >>> read_number('{"thought": "almost", "score": "7"}', "score", 0.0, 10.0)
    7.0
    """
    text = aloud(text, tags)
    return _number(_one(_values(text, key), key, text), key, low, high)


def read_numbers(
    text: str, key: str, low: float, high: float, tags: Mapping[str, str] = THOUGHT_TAGS
) -> list[float]:
    """The list of finite numbers in [low, high] that a judge's JSON reply has under ``key``.

    Raises ``ReplyError`` for anything else.

    >>> read_numbers('{"thought": "", "scores": [3, 0.5]}', "scores", 0.0, 10.0)
    [3.0, 0.5]
    """
    text = aloud(text, tags)
    values = _one(_values(text, key), key, text)
    if not isinstance(values, list):
        raise ReplyError(f"{key!r} is {_shown(repr(values))}, not a list of numbers")
    return [_number(value, key, low, high) for value in values]


def read_document(text: str, tags: Mapping[str, str] = THOUGHT_TAGS) -> str:
    r"""The document that a judge copied, behind its marker, without code fence. Raises ``ReplyError`` without marker.

    >>> read_document("Here it is.\n**Final document:**\nOnce upon a time.")
    'Final document:\nOnce upon a time.'
    """
    text = aloud(text, tags)
    mark = _MARKER_LINE.search(text) or _MARKER_INSIDE.search(text)
    if mark is None:
        raise ReplyError(f"the reply has no line {MARKER!r}: {_shown(text)}")
    document = text[mark.end() :]
    if fenced := _FENCE.fullmatch(document):
        document = f"\n{fenced[1]}"
    elif document.count("```") % 2:  # of a fence around marker and document
        document = re.sub(r"\n?```\s*$", "", document)
    _encodable(document)
    return MARKER + document


def _labelled(text: str) -> list[str]:
    """What a reply without JSON says: all of it, or what stands behind its label where thought and response have labels."""
    before, *parts = _LABEL.split(text)
    labelled = [(label.casefold(), part.strip()) for label, part in zip(parts[::2], parts[1::2], strict=True)]
    if all(label == "response" for label, _ in labelled) and (before.strip() or not labelled):
        return [text]
    return [part for label, part in labelled if label == "response"]


def _one(values: Sequence[Any], key: str, text: str) -> Any:
    """The only value, or one that all agree on."""
    if not values:
        raise ReplyError(f"the reply has no JSON object with {key!r}: {_shown(text)}")
    if any(value is _SEVERAL or value != values[0] for value in values):
        raise ReplyError(f"the reply says several things under {key!r}, which disagree: {_shown(text)}")
    return values[0]


def _values(text: str, key: str) -> list[Any]:
    """What the JSON objects of a reply, or else the objects directly in them, have under a key, in whatever case."""
    values: list[Any] = []
    for found in _objects(_decoded(mend_escapes(text)), key):
        inner = [value for name, value in found.items() if isinstance(value, dict) and name != "thought"]
        values += [place[key] for place in ([found] if key in found else inner) if key in place]
    return values


def _decoded(text: str) -> str:
    """The JSON that a text spells in quotes, where it was encoded twice; any other text as it is."""
    try:
        return mend_escapes(json.loads(text, strict=False)) if text.lstrip().startswith('"') else text
    except ValueError:
        return text


def _merged(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, its keys in lower case."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        name = name.strip().casefold()
        found[name] = value if found.get(name, value) == value else _SEVERAL
    return found


def _objects(text: str, key: str) -> list[dict[str, Any]]:
    """The JSON objects of a text; where one is broken, as json-repair reads the whole.

    Code fences, text around them, missing quotes and commas are tolerated. Raises ``ReplyError`` where an object is cut off.
    """
    decoder = json.JSONDecoder(strict=False, object_pairs_hook=_merged)
    found, at = [], text.find("{")
    try:
        while at >= 0:
            try:
                value, end = decoder.raw_decode(text, at)
                found.append(value)
            except ValueError:
                if _OBJECT.match(text, at):
                    return _repaired(text, key)
                end = at + 1  # a set, or a brace of LaTeX
            at = text.find("{", end)
    except RecursionError:  # hundreds of brackets in a row
        return []
    return found


def _repaired(text: str, key: str) -> list[dict[str, Any]]:
    """The objects that json-repair reads, none of which may leave out what the text has under the key."""
    import json_repair

    _check_whole(text)
    if text.count("{") > _MOST_BRACES:
        return []
    try:
        written = json.dumps(json_repair.loads(_quoted(text, key)))
        parsed = json.loads(written, object_pairs_hook=_merged)
    except Exception:  # of a lenient reader of whatever models write
        return []
    given = re.findall(_KEY % (key, key), text, re.IGNORECASE)
    if len(given) > written.casefold().count(f'"{key}":'):  # of a key that repeats json-repair keeps the last
        raise ReplyError(f"the reply is broken JSON that has {key!r} more than once: {_shown(text)}")
    return [value for value in (parsed if isinstance(parsed, list) else [parsed]) if isinstance(value, dict)]


def _quoted(text: str, key: str) -> str:
    """Broken JSON with quotes around what lacks them under a key, of which json-repair would read the beginning alone.

    >>> print(_quoted('{"response": 12 pens}', "response"), _quoted('{"scores": [8, 3 5]}', "scores"))
    {"response": "12 pens"} {"scores": [8, "3 5"]}
    """

    def quote(match: re.Match[str]) -> str:
        """The match with its value in quotes, or each item of the value where that is a list."""
        value = match["value"]
        if value is None:  # an item in quotes, or a comment
            return "" if match[0].startswith("/") else match[0]
        if _LITERAL.fullmatch(value.strip()):
            return match[0]
        if _LIST.fullmatch(value):
            quoted = f"[{_ITEM.sub(quote, value[1:-1])}]"
        else:
            quoted = '"' + _QUOTE.sub(r'\\"', value.strip()) + '"'
        return match[0][: match.start("value") - match.start()] + quoted

    return re.sub(_KEY % (key, key) + _BARE, quote, text, flags=re.IGNORECASE | re.VERBOSE)


def _check_whole(text: str) -> None:
    """Refuse what opens more braces than it closes, but for braces that LaTeX shows."""
    plain = _LATEX_BRACE.sub("", text)
    if plain.count("{") > plain.count("}"):
        raise ReplyError(f"the reply is cut off, it opens more braces than it closes: {_shown(text)}")


def mend_escapes(text: str) -> str:
    r"""JSON in which backslashes that are meant as LaTeX are escaped: ``\frac``, ``\neq``, ``\times``, ``\(``, ``\underline``.

    An escape that JSON knows stays, unless its letters make a command of LaTeX; a new line before a word is none.

    >>> print(mend_escapes(r'{"response": "$\frac{1}{2} \neq \\beta$\nThen?"}'))
    {"response": "$\\frac{1}{2} \\neq \\beta$\nThen?"}
    """

    def mend(escape: re.Match[str]) -> str:
        """The escape as it is, or its backslash doubled."""
        name = escape[1]
        return escape[0] if _is_json_escape(name, text, escape.start()) else "\\" + escape[0]

    return _ESCAPE.sub(mend, text)


def _is_json_escape(name: str, text: str, start: int) -> bool:
    """Whether the signs after a backslash are an escape of JSON, not a command of LaTeX."""
    if name in _LINE_STARTS:
        before = text[text.rfind('"', 0, start) + 1 : start]
        inside = before.count("$") % 2 or any(before.rfind(o) > before.rfind(c) for o, c in _DISPLAYS)
        unequal = name == "ne" and before.endswith(" ") and not text[start + 3 :].lstrip().startswith("=")
        return not (inside or unequal)
    if _COMMANDS.fullmatch(name) or not name:
        return False
    return name[0] in "\"\\/nrt'" or _CODE_POINT.fullmatch(name) is not None


def _number(value: Any, key: str, low: float, high: float) -> float:
    """The value as a number; a share of another maximum than ``high`` is none."""
    number = math.nan
    try:
        if isinstance(value, str) and len(value) <= _LONGEST_SCORE and (score := _SCORE.fullmatch(value)):
            number = float(score[1])
            if score["percent"]:
                number *= high / 100
            elif score["most"] and float(score["most"]) != high:
                number = math.nan
        elif type(value) in (int, float):
            number = float(value)
    except OverflowError:
        pass
    if not low <= number <= high:  # no comparison holds for NaN
        raise ReplyError(f"{key!r} is {_shown(repr(value))}, not a number from {low:g} to {high:g}")
    return number


def _text(text: str) -> str:
    """The text, which must not be empty."""
    if not says_something(text):
        raise ReplyError(f"the response is {text!r}, not text")
    _encodable(text)
    return text.strip()


def _encodable(text: str) -> None:
    """Refuse half of a surrogate pair, which no file and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ReplyError(f"the reply has signs that are no text: {_shown(ascii(text))}") from None


def _shown(text: str) -> str:
    """The beginning of a text, as messages show it."""
    return repr(text[:160])
