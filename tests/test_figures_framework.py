"""The pictures of the method: made from data, legible, and the same bytes for the same data."""

import io
import itertools
from collections.abc import Callable, Iterator

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from itpo import turns
from itpo.figures import framework as draw
from itpo.figures.style import TEXT, use_style

IDS = np.array([[-1, 0, 0, -1, 1], [-1, 0, -1, -1, -1]])
VALUES = np.array([[0.0, 0.5, -0.2, 0.0, 0.3], [0.0, -1.0, 0.0, 0.0, 0.0]])
WORDS = ["<|user|>", "how", "many", "<|user|>", "none"]
CREDIT = draw.TurnCredit(
    "failed", ["how many ?", "so 5"], 0, [0.2, -1.0], (0.1, 1.0), [[1.0, 0.0], [0.8, 0.2]]
)
CURVE = pd.DataFrame({"ratio": [0.5, 1.5], "gain": [0.5, 1.2], "loss": [-0.8, -1.5]})
MAKERS: dict[str, Callable[[], Figure]] = {
    "framework": draw.framework,
    "token_text": lambda: draw.token_text(WORDS, IDS[0].tolist()),
    "token_text_values": lambda: draw.token_text(WORDS, IDS[0].tolist(), VALUES[0], "reward [logits]"),
    "prm_learning": lambda: draw.prm_learning(
        pd.DataFrame({"batch": [0, 1], "prm_auc": [0.5, 0.8], "prm_loss": [0.69, 0.5]})
    ),
    "turn_credit": lambda: draw.turn_credit([CREDIT, CREDIT]),
    "pay": lambda: draw.pay(
        {"prime": VALUES, "itpo": VALUES},
        {"prime": VALUES, "itpo": VALUES},
        IDS,
        ["first", "second"],
        {"prime": "PRIME", "itpo": "ITPO"},
    ),
    "token_grid": lambda: draw.token_grid(VALUES, IDS, "reward [logits]", ["A", "B"]),
    "weight_curves": lambda: draw.weight_curves([0.1, 1.0], [[[1.0, 0.0]], [[0.7, 0.3]]], ["A"]),
    "baseline_bias": lambda: draw.baseline_bias(
        pd.DataFrame({"turns": [1, 2], "released": [0.5, -1.0], "trajectory": [0.0, 0.0]})
    ),
    "loss_curves": lambda: draw.loss_curves(CURVE, CURVE, CURVE[["ratio", "gain"]]),
}
WITHOUT_AXES = ("framework", "token_text")  # drawn objects in inches, not data over axes


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    matplotlib.use("Agg")
    with matplotlib.rc_context():
        use_style()
        yield


def text_boxes(figure: Figure) -> dict[Text, Bbox]:
    """The box, in pixels, of every visible text of a figure but tick labels (some of which are never drawn)."""
    figure.draw_without_rendering()
    ticks = {
        text
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for text in (tick.label1, tick.label2)
    }
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return {text: text.get_window_extent() for text in texts if text not in ticks}


@pytest.mark.parametrize("name", MAKERS)
def test_figure_is_legible_and_a_notebook_shows_it_once(name: str) -> None:
    figure = MAKERS[name]()
    assert isinstance(figure, Figure) and figure.get_figwidth() <= TEXT
    assert plt.get_fignums() == []
    assert all(text.get_fontsize() >= 5.5 for text in text_boxes(figure))


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in WITHOUT_AXES])
def test_axes_are_labelled(name: str) -> None:
    figure = MAKERS[name]()
    shared = {text.get_text() for text in (figure._supxlabel, figure._supylabel) if text}
    labels = shared.union(*({ax.get_xlabel(), ax.get_ylabel()} for ax in figure.axes)) - {""}
    assert len(labels) >= (1 if name == "token_text_values" else 2)


@pytest.mark.parametrize("name", MAKERS)
def test_same_data_give_the_same_bytes(name: str) -> None:
    def png() -> bytes:
        file = io.BytesIO()
        MAKERS[name]().savefig(file, format="png", dpi=60, metadata={"Software": None})
        return file.getvalue()

    assert png() == png()


@pytest.mark.parametrize("name", MAKERS)
def test_no_text_overlaps_another_or_leaves_the_page(name: str) -> None:
    figure = MAKERS[name]()
    boxes = text_boxes(figure)
    for (a, first), (b, second) in itertools.combinations(boxes.items(), 2):
        assert not first.overlaps(second), (a.get_text(), b.get_text())
    page = figure.bbox
    for text, box in boxes.items():
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert inside, text.get_text()


def test_framework_shows_the_numbers_that_the_equations_give() -> None:
    example = draw.EXAMPLE
    tokens = torch.tensor([[r for turn in example.token_rewards for r in (0.0, *turn)]])
    mask = torch.tensor([[m for turn in example.token_rewards for m in (False, *[True] * len(turn))]])
    ids = turns.turn_ids(mask)
    scores = turns.aggregate(tokens, ids)
    weights = turns.normalize(scores, turns.turn_mask(ids), example.temperature)
    close = {"rtol": 0, "atol": 0.005}
    torch.testing.assert_close(scores, torch.tensor([example.turn_rewards]), **close)
    torch.testing.assert_close(weights, torch.tensor([example.weights]), **close)
    torch.testing.assert_close(weights * example.outcome, torch.tensor([example.pay]), **close)
    assert len(example.table()) == len(example.weights)


def test_a_long_message_goes_on_in_the_next_line() -> None:
    words = ["word"] * 40
    short, long = (draw.token_text(words[:n], [0] * n).get_figheight() for n in (5, 40))
    assert long > short


def test_bars_are_the_rewards_passed_in() -> None:
    ax = MAKERS["pay"]().axes[0]
    heights = [bar.get_height() for bar in ax.containers[0]]
    assert heights == [0.5, -0.2, 0.3]
