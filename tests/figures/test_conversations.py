"""Conversations as HTML and as pictures: they say the same, escape what was said, and can be read."""

import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest

from itpo.dialogue import Message
from itpo.figures import conversations as draw
from itpo.figures.conversations import Conversation
from itpo.figures.style import COLUMN, SMALL, TEXT

SAID = (
    ("system", "be brief <b>"),
    ("user", "write <script>alert('boo')</script> & more for $5 and $6 ."),
    ("assistant", "what is it about ?"),
    ("user", "maybe chess ."),
    ("assistant", "draft : " + "a long draft that goes over several lines " * 4),
)
TALK = Conversation(
    tuple(Message(role, text) for role, text in SAID),
    kinds=("ask_subject", "missed repair"),
    scores={"character BLEU": 0.25, "word BLEU": 0.125},
    weights=(0.875, 0.125),
    hidden="<i>the text</i> that the user has in mind, which is rather long as well",
)
BARE = Conversation(TALK.messages[1:3], ("ask_subject",), {"success": 1.0})
PAIR = {"before & <u>": TALK, "after": BARE}


class Reader(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open += [tag] if tag != "br" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def page() -> Reader:
    return Reader(draw.html(PAIR))


def test_what_was_said_never_becomes_markup(page):
    assert {tag for tag, _ in page.tags} == {"div", "p", "b", "i", "span", "small", "br"}
    assert not page.open
    for text in (*(text for _, text in SAID), TALK.hidden, *PAIR):
        assert text.strip() in page.text
    assert sum(tag == "i" for tag, _ in page.tags) == 1  # that of the template, around the hidden text


def test_html_shows_every_message_weight_kind_and_score(page):
    bubbles = [attributes["title"] for tag, attributes in page.tags if tag == "span"]
    assert bubbles == [role for role, _ in SAID] + ["user", "assistant"]
    assert re.findall(r"w = ([\d.]+)", page.text) == ["0.88", "0.12"]
    assert "1 · ask subject · w" in page.text and "2 · missed repair" in page.text
    assert "character BLEU 0.25, word BLEU 0.12" in page.text and "success 1.00" in page.text


def test_bubbles_bring_both_colours_and_can_be_read(page):
    styles = [attributes["style"] for tag, attributes in page.tags if tag == "span"]
    colours = [re.search(r"background:(#\w{6}); color:(#\w{6})", style).groups() for style in styles]
    assert colours[2] == draw.shade(0.875) and colours[4] == draw.shade(0.125)
    assert min(draw.contrast(*pair) for pair in colours) >= 4.5
    outside = [a.get("style", "") for tag, a in page.tags if tag != "span"]
    assert not any(re.search(r"(?<!-)color:|background", style) for style in outside)  # they are the page's


def test_shades_darken_with_the_weight_and_stay_legible():
    shades = [draw.shade(weight) for weight in np.linspace(0, 1, 201)]
    assert min(draw.contrast(*pair) for pair in shades) >= 4.5
    against_white = [draw.contrast(back, "#ffffff") for back, _ in shades]
    assert (np.diff(against_white) >= 0).all() and against_white[-1] > 4 * against_white[0]


def test_picture_says_what_the_page_says(page, figure_style):
    figure = draw.picture(PAIR)
    written = [text.get_text() for ax in figure.axes[:2] for text in ax.texts]
    together = " ".join(written)
    for message in TALK.messages:
        assert message.content.strip() in together
    assert re.findall(r"w = ([\d.]+)", together) == re.findall(r"w = ([\d.]+)", page.text)
    assert TALK.result in written and BARE.result in written
    assert figure.axes[-1].get_xlabel() == "weight of the turn, $w_k$"
    faces = [tuple(np.round(255 * np.array(patch.get_facecolor()[:3]))) for patch in figure.axes[0].patches]
    wanted = [tuple(int(draw.shade(w)[0][i : i + 2], 16) for i in (1, 3, 5)) for w in TALK.weights]
    assert [faces[2], faces[4]] == wanted


def test_assistant_stands_right_of_the_user(figure_style):
    ax = draw.picture({"one": TALK}).axes[0]
    edges = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches]
    width = ax.get_xlim()[1]
    for (left, right), (role, _) in zip(edges, SAID, strict=True):
        assert (right > width - 10) if role == "assistant" else (left < 10)
        assert 0 <= left < right <= width


def test_no_bar_without_weights(figure_style):
    assert len(draw.picture({"one": BARE}).axes) == 1
    assert "w = " not in draw.html({"one": BARE})


def test_same_bytes_small_files_and_no_open_figure(png):
    assert png(draw.picture(PAIR)) == png(draw.picture(PAIR))
    assert not plt.get_fignums()


@pytest.mark.parametrize("talks", [{"one": TALK}, PAIR])
def test_text_is_legible_and_apart(talks, check_apart, text_boxes):
    figure = draw.picture(talks)
    assert figure.get_figwidth() == pytest.approx(COLUMN if len(talks) == 1 else TEXT)
    check_apart(figure)
    assert min(text.get_fontsize() for text in text_boxes(figure)) >= SMALL


def test_text_stays_in_its_bubble(figure_style):
    figure = draw.picture({"one": TALK})
    figure.draw_without_rendering()
    ax = figure.axes[0]
    boxes = [patch.get_window_extent() for patch in ax.patches]
    inside = [t for t in ax.texts if t.get_fontsize() == draw.BODY and t.get_text() != TALK.result]
    assert " ".join(t.get_text() for t in inside) == " ".join(text.strip() for _, text in SAID)
    for box in (text.get_window_extent() for text in inside):
        assert any(b.x0 <= box.x0 and box.x1 <= b.x1 and b.y0 <= box.y0 and box.y1 <= b.y1 for b in boxes)


def test_table_has_what_is_shown():
    frame = draw.table(PAIR)
    assert frame["text"].tolist() == [text for _, text in SAID] + [m.content for m in BARE.messages]
    assert frame["weight"].dropna().tolist() == [0.875, 0.125]
    assert frame["turn"].dropna().tolist() == [1, 2, 1] and set(frame["outcome"]) == {0.25, 1.0}


@pytest.mark.parametrize("wrong", [{"kinds": ("ask",)}, {"weights": (1.0,)}])
def test_kinds_and_weights_must_fit_the_turns(wrong):
    fields = {"messages": TALK.messages, "kinds": TALK.kinds, "scores": TALK.scores, **wrong}
    with pytest.raises(ValueError, match="2 assistant turns"):
        Conversation(**fields)
