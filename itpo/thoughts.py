"""Thought and speech: what a model writes before it speaks, in the tags that common models use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

# What opens and what closes a thought, as common models write it.
THOUGHT_TAGS: dict[str, str] = {
    "<think>": "</think>",  # Qwen, DeepSeek, GLM and most others
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<scratchpad>": "</scratchpad>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",  # Magistral
    "◁think▷": "◁/think▷",  # Kimi
    "<unused94>thought": "<unused95>",  # MedGemma
    "<|channel>thought": "<channel|>",  # Gemma
    "<|channel|>analysis<|message|>": "<|channel|>final<|message|>",  # gpt-oss
    "<|begin_of_thought|>": "<|end_of_thought|>",  # Sky-T1, OpenThinker
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A
}


class Speech(NamedTuple):
    """What a text says aloud, from which character on (after the thoughts before it), and whether every thought ends."""

    text: str
    begins: int = 0
    whole: bool = True


def split_thoughts(text: str, tags: Mapping[str, str] = THOUGHT_TAGS) -> Speech:
    """Part speech from thought, wherever a model's text is read: of users, of judges, and of the policy.

    Case and spaces within the tags do not matter. Before a closing tag without an opening one, everything is thought (chat
    templates may open it); so is everything after an opening tag that is never closed. A text without tags stays as it is.

    >>> split_thoughts("<think>12 + 18, hm</think> It is 30.")
    Speech(text='It is 30.', begins=26, whole=True)
    >>> split_thoughts("hm</think>30").text, split_thoughts("30 <THINK>hm").text
    ('30', '30')
    """
    pattern, closing = _tag_pattern(tuple(tags.items()))
    thoughts: list[tuple[int, int]] = []
    start: int | None = None
    for tag in pattern.finditer(text):
        if _squeezed(tag[0]) not in closing:
            start = tag.start() if start is None else start
        elif start is None:
            thoughts = [(0, tag.end())]
        else:
            thoughts.append((start, tag.end()))
            start = None
    if start is not None:
        thoughts.append((start, len(text)))
    if not thoughts:
        return Speech(text)
    begins = 0
    for opened, closed in thoughts:
        begins = begins if text[begins:opened].strip() else closed
    edges = [(0, 0), *thoughts, (len(text), len(text))]
    said = "".join(text[end:begin] for (_, end), (begin, _) in pairwise(edges))
    return Speech(said.strip(), begins, start is None)


def says_something(text: str) -> bool:
    r"""Whether a text has a sign that can be seen.

    >>> says_something("\u200b\n"), says_something("?")
    (False, True)
    """
    return any(sign.isprintable() and not sign.isspace() for sign in text)


def _squeezed(tag: str) -> str:
    return "".join(tag.split()).casefold()


@lru_cache
def _tag_pattern(tags: tuple[tuple[str, str], ...]) -> tuple[re.Pattern[str], frozenset[str]]:
    """Any of the tags, the longer ones first, in any case and with spaces beside its signs; and those that close, squeezed."""
    names = sorted({name for pair in tags for name in pair}, key=len, reverse=True)
    spaced = [r"\s*".join(map(re.escape, re.findall(r"\w+|\W", _squeezed(name)))) for name in names]
    closing = frozenset(_squeezed(closes) for _, closes in tags)
    return re.compile("|".join(spaced) or "(?!)", re.IGNORECASE), closing
