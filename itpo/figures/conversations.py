"""Conversations as people read them: as HTML for a notebook, and as a picture of the same (F22).

Both show the user on the left and the assistant on the right, each assistant turn shaded by its weight (5) with the number
beside it. They read the same frame, a line for each message (see :func:`itpo.study.transcripts.table`): conversation (a title),
role, text; for the assistant's messages turn (from 1), kind (what the turn does) and weight (``nan`` without a PRM); and, the
same on every line of a conversation, result (its scores in words) and hidden (what only the user knew, or an empty text).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import jinja2
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import TextPath

from itpo.figures._parts import blank
from itpo.figures.style import ACCENT, BODY, COLUMN, INK, NORM, SMALL, TEXT

# One hue from light to dark: it reads the same for the colour-blind and on grey paper.
SHADES = LinearSegmentedColormap.from_list("weight", ["#f1f7fb", NORM])
WEIGHT = "weight of the turn, $w_k$"
NO_WEIGHT, USER = "#f6f6f6", "#e6e6e6"
DARK, LIGHT, MUTED = "#000000", "#ffffff", "#6b6b6b"  # one of the first two has 4.5 to 1 on any ground
# The picture is laid out in points.
LEAD, PAD, GAP, WRAP = 10.0, 4.0, 5.0, 42  # line height, inside and between bubbles, characters of a line


def shade(weight: float) -> tuple[str, str]:
    """Background and text colour of an assistant's bubble, apart enough to be read at any weight; ``nan``: no weight.

    >>> shade(0.0), shade(1.0), shade(float("nan"))
    (('#f1f7fb', '#000000'), ('#0072b2', '#ffffff'), ('#f6f6f6', '#000000'))
    """
    back = NO_WEIGHT if pd.isna(weight) else to_hex(SHADES(float(weight)))
    return back, max(DARK, LIGHT, key=lambda ink: contrast(back, ink))


def contrast(one: str, other: str) -> float:
    """Contrast of two colours as WCAG 2 defines it, from 1 to 21; small text needs 4.5.

    >>> round(contrast("#000000", "#ffffff"), 1)
    21.0
    """
    dark, light = sorted(map(_luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


# Styles stand in the elements, because viewers of notebooks drop <style>. Bubbles bring their own colours, all other text takes
# the page's: readable on light and on dark ground.
_PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """\
{% macro bubble(line, back, ink) %}
<span title="{{ line.role }}" style="display:inline-block; max-width:85%; padding:.35em .8em; border-radius:.9em; \
text-align:left; background:{{ back }}; color:{{ ink }}">{{ line.text }}</span>{% endmacro %}
<div style="display:flex; flex-wrap:wrap; gap:1em 2.5em; font-size:14px; line-height:1.35">
{% for title, hidden, result, lines in conversations %}
<div style="flex:1 1 20em; max-width:32em">
<p><b>{{ title }}</b></p>
{% if hidden %}
<p style="opacity:.8"><i>hidden: {{ hidden }}</i></p>
{% endif %}
{% for line in lines %}
{% if line.role != "assistant" %}
<div style="margin:.4em 0; text-align:left">
{{ bubble(line, user, dark) }}
</div>
{% else %}
<div style="margin:.4em 0; text-align:right">
<small style="opacity:.8">{{ line.turn }} · {{ line.kind }}\
{% if line.weight == line.weight %} · <b>w = {{ "%.2f"|format(line.weight) }}</b>{% endif %}</small><br>
{{ bubble(line, *shade(line.weight)) }}
</div>
{% endif %}
{% endfor %}
<p style="border-top:1px solid currentColor; padding-top:.3em">{{ result }}</p>
</div>
{% endfor %}
</div>
"""
)


def html(messages: pd.DataFrame) -> str:
    """Conversations as HTML, side by side where there is room; every text is escaped.

    >>> line = {"conversation": "one", "role": "assistant", "text": "1 < 2 .", "turn": 1, "kind": "answer", "weight": 1.0}
    >>> page = html(pd.DataFrame([line | {"result": "success 1.00", "hidden": ""}]))
    >>> "1 &lt; 2 ." in page, "w = 1.00" in page
    (True, True)
    """
    conversations = list(_conversations(messages))
    return _PAGE.render(conversations=conversations, shade=shade, user=USER, dark=DARK)


def _conversations(messages: pd.DataFrame) -> Iterator[tuple[str, str, str, list[Any]]]:
    """Title, hidden text, result and messages of each conversation."""
    for title, part in messages.groupby("conversation", sort=False):
        yield str(title), part["hidden"].iloc[0], part["result"].iloc[0], list(part.itertuples())


def picture(messages: pd.DataFrame) -> Figure:
    """Conversations as a picture, a column of a paper for each; weights as in :func:`html`."""
    conversations = list(_conversations(messages))
    gaps = 4 * GAP * (len(conversations) - 1)
    width = 72 * (COLUMN if len(conversations) == 1 else TEXT)
    column = (width - gaps) / len(conversations)
    bar = 32.0 if messages["weight"].notna().any() else 0.0
    tallest = max(_height(hidden, lines) for _, hidden, _, lines in conversations)
    height = tallest + bar
    figure = blank(width / 72, height / 72)
    for number, (title, hidden, result, lines) in enumerate(conversations):
        left = number * (column + 4 * GAP) / width
        ax = figure.add_axes((left, bar / height, column / width, tallest / height))
        ax.set(xlim=(0, column), ylim=(tallest, 0))
        ax.set_axis_off()
        ax.text(0, 0.5 * LEAD, title, fontsize=BODY + 0.5, fontweight="bold", color=INK, va="center")
        _draw(ax, hidden, result, lines, column)
    if bar:
        share = 0.62 * 72 * COLUMN / width
        place = figure.add_axes((0.5 - share / 2, 20 / height, share, 5 / height))
        scale = figure.colorbar(ScalarMappable(Normalize(0, 1), SHADES), cax=place, orientation="horizontal")
        scale.set_label(WEIGHT, fontsize=SMALL, labelpad=1)
        place.tick_params(labelsize=SMALL, length=2, pad=1)
    return figure


def _wrapped(text: str, characters: int = WRAP) -> list[str]:
    return textwrap.wrap(text, characters) or [""]


def _hidden(hidden: str) -> list[str]:
    return _wrapped(f"hidden: {hidden}", WRAP + 18) if hidden else []


def _height(hidden: str, lines: list[Any]) -> float:
    """Points from the title to the scores."""
    bubbles = sum(
        LEAD * len(_wrapped(line.text)) + 2 * PAD + GAP + LEAD * (line.role == "assistant") for line in lines
    )
    return 1.4 * LEAD + LEAD * len(_hidden(hidden)) + GAP + bubbles + 2 * LEAD


def _draw(ax: Axes, hidden: str, result: str, lines: list[Any], width: float) -> None:
    y = 1.4 * LEAD
    for text in _hidden(hidden):
        ax.text(0, y + 0.5 * LEAD, text, fontsize=SMALL, color=MUTED, style="italic", va="center")
        y += LEAD
    y += GAP
    for line in lines:
        if line.role == "assistant":
            weight = "" if pd.isna(line.weight) else f" · w = {line.weight:.2f}"
            color = ACCENT if line.kind == "missed repair" else MUTED
            style: dict[str, Any] = {"fontsize": SMALL, "color": color, "ha": "right", "va": "center"}
            ax.text(width - PAD, y + 0.5 * LEAD, f"{line.turn} · {line.kind}{weight}", **style)
            y += LEAD
        y = _bubble(ax, line, width, y) + GAP
    ax.plot([0, width], [y + 0.3 * LEAD] * 2, color=MUTED, lw=0.6)
    ax.text(0, y + LEAD, result, fontsize=BODY, color=INK, va="center")


def _bubble(ax: Axes, line: Any, width: float, top: float) -> float:
    """Draw a message, the user's at the left, the assistant's at the right; returns the lower edge."""
    assistant = line.role == "assistant"
    back, ink = shade(line.weight) if assistant else (USER, DARK)
    texts = _wrapped(line.text)
    # A dollar sign would begin a formula.
    longest = max(TextPath((0, 0), text.replace("$", "S"), size=BODY).get_extents().width for text in texts)
    left = width - longest - 4 * PAD if assistant else 0.0
    high = LEAD * len(texts)
    look: dict[str, Any] = {
        "facecolor": back,
        "edgecolor": "#c8d5dd" if assistant else "none",
        "linewidth": 0.5,
    }
    shape = f"round,pad={PAD},rounding_size={1.5 * PAD}"
    corner = (left + PAD, top + PAD)
    ax.add_patch(FancyBboxPatch(corner, longest + 2 * PAD, high, boxstyle=shape, clip_on=False, **look))
    for number, text in enumerate(texts):
        y = top + PAD + LEAD * (number + 0.5)
        ax.text(left + 2 * PAD, y, text, fontsize=BODY, color=ink, va="center", parse_math=False)
    return top + high + 2 * PAD
