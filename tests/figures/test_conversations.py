"""Conversations as HTML and as pictures: they say the same, escape every text, and can be read."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from figure_examples import ALONE, BARE, LONG, PAIR, TEXTS, UNWEIGHTED

from itpo.figures import conversations as draw


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


def test_no_text_becomes_markup(page):
    assert {tag for tag, _ in page.tags} == {"div", "p", "b", "i", "span", "small", "br"}
    assert not page.open
    for text in (*(text for _, text in TEXTS), LONG.hidden, *PAIR["conversation"]):
        assert text.strip() in page.text
    assert sum(tag == "i" for tag, _ in page.tags) == 1  # that of the template, around the hidden text


def test_html_shows_every_message_weight_kind_and_score(page):
    bubbles = [attributes["title"] for tag, attributes in page.tags if tag == "span"]
    assert bubbles == [role for role, _ in TEXTS] + ["user", "assistant"]
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
    for message in LONG.messages:
        assert message.content.strip() in together
    assert re.findall(r"w = ([\d.]+)", together) == re.findall(r"w = ([\d.]+)", page.text)
    assert LONG.result in written and BARE.result in written
    assert figure.axes[-1].get_xlabel() == "weight of the turn, $w_k$"
    faces = [tuple(np.round(255 * np.array(patch.get_facecolor()[:3]))) for patch in figure.axes[0].patches]
    wanted = [tuple(int(draw.shade(w)[0][i : i + 2], 16) for i in (1, 3, 5)) for w in LONG.weights]
    assert [faces[2], faces[4]] == wanted


def test_assistant_stands_right_of_the_user(figure_style):
    ax = draw.picture(ALONE).axes[0]
    edges = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches]
    width = ax.get_xlim()[1]
    for (left, right), (role, _) in zip(edges, TEXTS, strict=True):
        assert (right > width - 10) if role == "assistant" else (left < 10)
        assert 0 <= left < right <= width


def test_no_bar_without_weights(figure_style):
    assert len(draw.picture(UNWEIGHTED).axes) == 1
    assert "w = " not in draw.html(UNWEIGHTED)


def test_text_stays_in_its_bubble(figure_style):
    figure = draw.picture(ALONE)
    figure.draw_without_rendering()
    ax = figure.axes[0]
    boxes = [patch.get_window_extent() for patch in ax.patches]
    inside = [t for t in ax.texts if t.get_fontsize() == draw.BODY and t.get_text() != LONG.result]
    assert " ".join(t.get_text() for t in inside) == " ".join(text.strip() for _, text in TEXTS)
    for box in (text.get_window_extent() for text in inside):
        assert any(b.x0 <= box.x0 and box.x1 <= b.x1 and b.y0 <= box.y0 and box.y1 <= b.y1 for b in boxes)
