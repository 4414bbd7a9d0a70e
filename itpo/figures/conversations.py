"""Conversations as people read them: as HTML for a notebook, and as a picture of the same (F22).

Both show the user on the left and the assistant on the right, each assistant turn shaded by its weight (5) with the number
beside it. Neither computes anything.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jinja2
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import TextPath

from itpo.dialogue import Message
from itpo.figures.style import ACCENT, BODY, COLUMN, INK, METHOD_COLORS, SMALL, TEXT, shown_once

# One hue from light to dark: it reads the same for the colour-blind and on grey paper.
SHADES = LinearSegmentedColormap.from_list("weight", ["#f1f7fb", METHOD_COLORS["norm_itpo"]])
WEIGHT = "weight of the turn, $w_k$"
NO_WEIGHT, USER = "#f6f6f6", "#e6e6e6"
DARK, LIGHT, MUTED = "#000000", "#ffffff", "#6b6b6b"  # one of the first two has 4.5 to 1 on any ground
# The picture is laid out in points.
LEAD, PAD, GAP, WRAP = 10.0, 4.0, 5.0, 42  # line height, inside and between bubbles, characters of a line


class Line(NamedTuple):
    """One message as it is shown; ``turn`` counts the assistant's from 1, ``weight`` is ``None`` where there is none."""

    role: str
    text: str
    turn: int | None = None
    kind: str = ""
    weight: float | None = None


@dataclass(frozen=True)
class Conversation:
    """A finished conversation of K assistant turns, and what is said of it.

    ``kinds`` says what each assistant turn does; ``weights`` are the w_k of eq. (5), or empty where no PRM was asked.
    ``scores`` are named; the first is the outcome R in [0, 1]. ``hidden`` is what the user knew and the assistant did not.
    Raises ``ValueError`` for another number of kinds or weights than of assistant turns.

    >>> said = Message("user", "help me ."), Message("assistant", "how many pears ?")
    >>> talk = Conversation(said, kinds=("ask",), scores={"success": 1.0}, weights=(1.0,))
    >>> talk.outcome, talk.result, talk.lines[1].weight
    (1.0, 'success 1.00', 1.0)
    """

    messages: tuple[Message, ...]
    kinds: tuple[str, ...]
    scores: Mapping[str, float]
    weights: tuple[float, ...] = ()
    hidden: str = ""

    def __post_init__(self) -> None:
        if len(self.kinds) != self.turns or len(self.weights) not in (0, self.turns):
            raise ValueError(
                f"there are {self.turns} assistant turns, but {len(self.kinds)} kinds and {len(self.weights)} weights: "
                "pass one for each turn"
            )

    @property
    def turns(self) -> int:
        """How many assistant turns there are."""
        return sum(message.role == "assistant" for message in self.messages)

    @property
    def outcome(self) -> float:
        """R, the first of the scores."""
        return next(iter(self.scores.values()))

    @property
    def result(self) -> str:
        """All scores in words."""
        return ", ".join(f"{name} {value:.2f}" for name, value in self.scores.items())

    @property
    def lines(self) -> list[Line]:
        """The messages with what is shown beside each."""
        found, turn = [], 0
        for message in self.messages:
            if message.role != "assistant":
                found.append(Line(message.role, message.content))
                continue
            weight = self.weights[turn] if self.weights else None
            kind = self.kinds[turn].replace("_", " ")
            turn += 1
            found.append(Line(message.role, message.content, turn, kind, weight))
        return found


def table(talks: Mapping[str, Conversation]) -> pd.DataFrame:
    """What the renderings show, a line for each message; the outcome is repeated on every line."""
    lines = [
        {"conversation": title, **line._asdict(), "outcome": talk.outcome}
        for title, talk in talks.items()
        for line in talk.lines
    ]
    return pd.DataFrame(lines).astype({"turn": "Int64", "weight": float})


def shade(weight: float | None) -> tuple[str, str]:
    """Background and text colour of an assistant's bubble, apart enough to be read at any weight.

    >>> shade(0.0), shade(1.0), shade(None)
    (('#f1f7fb', '#000000'), ('#0072b2', '#ffffff'), ('#f6f6f6', '#000000'))
    """
    back = NO_WEIGHT if weight is None else to_hex(SHADES(float(weight)))
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
{% for title, talk in talks.items() %}
<div style="flex:1 1 20em; max-width:32em">
<p><b>{{ title }}</b></p>
{% if talk.hidden %}
<p style="opacity:.8"><i>hidden: {{ talk.hidden }}</i></p>
{% endif %}
{% for line in talk.lines %}
{% if line.turn is none %}
<div style="margin:.4em 0; text-align:left">
{{ bubble(line, user, dark) }}
</div>
{% else %}
<div style="margin:.4em 0; text-align:right">
<small style="opacity:.8">{{ line.turn }} · {{ line.kind }}\
{% if line.weight is not none %} · <b>w = {{ "%.2f"|format(line.weight) }}</b>{% endif %}</small><br>
{{ bubble(line, *shade(line.weight)) }}
</div>
{% endif %}
{% endfor %}
<p style="border-top:1px solid currentColor; padding-top:.3em">{{ talk.result }}</p>
</div>
{% endfor %}
</div>
"""
)


def html(talks: Mapping[str, Conversation]) -> str:
    """Conversations by title as HTML, side by side where there is room; everything that was said is escaped.

    >>> said = Message("user", "is 1 < 2 ?"), Message("assistant", "yes .")
    >>> page = html({"one": Conversation(said, ("answer",), {"success": 1.0}, (1.0,))})
    >>> "is 1 &lt; 2 ?" in page, "w = 1.00" in page
    (True, True)
    """
    return _PAGE.render(talks=talks, shade=shade, user=USER, dark=DARK)


def picture(talks: Mapping[str, Conversation]) -> Figure:
    """Conversations by title as a picture, a column of a paper for each; weights as in :func:`html`."""
    panels = len(talks)
    width = 72 * (COLUMN if panels == 1 else TEXT)
    column = (width - 4 * GAP * (panels - 1)) / panels
    bar = 32.0 if any(talk.weights for talk in talks.values()) else 0.0
    tallest = max(_height(talk) for talk in talks.values())
    height = tallest + bar
    figure = plt.figure(figsize=(width / 72, height / 72))
    for number, (title, talk) in enumerate(talks.items()):
        left = number * (column + 4 * GAP) / width
        ax = figure.add_axes((left, bar / height, column / width, tallest / height))
        ax.set(xlim=(0, column), ylim=(tallest, 0))
        ax.set_axis_off()
        _draw(ax, title, talk, column)
    if bar:
        share = 0.62 * 72 * COLUMN / width
        place = figure.add_axes((0.5 - share / 2, 20 / height, share, 5 / height))
        scale = figure.colorbar(ScalarMappable(Normalize(0, 1), SHADES), cax=place, orientation="horizontal")
        scale.set_label(WEIGHT, fontsize=SMALL, labelpad=1)
        place.tick_params(labelsize=SMALL, length=2, pad=1)
    return shown_once(figure)


def _wrapped(text: str, characters: int = WRAP) -> list[str]:
    return textwrap.wrap(text, characters) or [""]


def _hidden(talk: Conversation) -> list[str]:
    return _wrapped(f"hidden: {talk.hidden}", WRAP + 18) if talk.hidden else []


def _height(talk: Conversation) -> float:
    """Points from the title to the scores."""
    bubbles = sum(
        LEAD * len(_wrapped(line.text)) + 2 * PAD + GAP + LEAD * (line.turn is not None)
        for line in talk.lines
    )
    return 1.4 * LEAD + LEAD * len(_hidden(talk)) + GAP + bubbles + 2 * LEAD


def _draw(ax: Axes, title: str, talk: Conversation, width: float) -> None:
    ax.text(0, 0.5 * LEAD, title, fontsize=BODY + 0.5, fontweight="bold", color=INK, va="center")
    y = 1.4 * LEAD
    for text in _hidden(talk):
        ax.text(0, y + 0.5 * LEAD, text, fontsize=SMALL, color=MUTED, style="italic", va="center")
        y += LEAD
    y += GAP
    for line in talk.lines:
        if line.turn is not None:
            _label(ax, line, width, y + 0.5 * LEAD)
            y += LEAD
        y = _bubble(ax, line, width, y) + GAP
    ax.plot([0, width], [y + 0.3 * LEAD] * 2, color=MUTED, lw=0.6)
    ax.text(0, y + LEAD, talk.result, fontsize=BODY, color=INK, va="center")


def _label(ax: Axes, line: Line, width: float, y: float) -> None:
    weight = "" if line.weight is None else f" · w = {line.weight:.2f}"
    color = ACCENT if line.kind == "missed repair" else MUTED
    text = f"{line.turn} · {line.kind}{weight}"
    ax.text(width - PAD, y, text, fontsize=SMALL, color=color, ha="right", va="center")


def _bubble(ax: Axes, line: Line, width: float, top: float) -> float:
    """Draw what was said, the user's at the left, the assistant's at the right; returns the lower edge."""
    back, ink = (USER, DARK) if line.turn is None else shade(line.weight)
    texts = _wrapped(line.text)
    # A dollar sign would begin a formula.
    longest = max(TextPath((0, 0), text.replace("$", "S"), size=BODY).get_extents().width for text in texts)
    left = 0.0 if line.turn is None else width - longest - 4 * PAD
    high = LEAD * len(texts)
    ax.add_patch(
        FancyBboxPatch(
            (left + PAD, top + PAD),
            longest + 2 * PAD,
            high,
            boxstyle=f"round,pad={PAD},rounding_size={1.5 * PAD}",
            facecolor=back,
            edgecolor="#c8d5dd" if line.turn else "none",
            linewidth=0.5,
            clip_on=False,
        )
    )
    for number, text in enumerate(texts):
        y = top + PAD + LEAD * (number + 0.5)
        ax.text(left + 2 * PAD, y, text, fontsize=BODY, color=ink, va="center", parse_math=False)
    return top + high + 2 * PAD
