"""The pictures of the method: made from data, legible, and the same bytes for the same data."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from itpo.figures import method as draw
from itpo.figures.style import TEXT

pytestmark = pytest.mark.usefixtures("figure_style")

IDS = np.array([[-1, 0, 0, -1, 1], [-1, 0, -1, -1, -1]])
VALUES = np.array([[0.0, 0.5, -0.2, 0.0, 0.3], [0.0, -1.0, 0.0, 0.0, 0.0]])
WORDS = ["<|user|>", "how", "many", "<|user|>", "none"]
CREDIT = draw.TurnCredit(
    "failed", ["how many ?", "so 5"], 0, [0.2, -1.0], (0.1, 1.0), [[1.0, 0.0], [0.8, 0.2]]
)
CURVE = pd.DataFrame({"ratio": [0.5, 1.5], "gain": [0.5, 1.2], "loss": [-0.8, -1.5]})
MAKERS: dict[str, Callable[[], Figure]] = {
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
        pd.DataFrame(
            {"turns": [1, 2], "released": [0.5, -1.0], "trajectory": [0.0, 0.0], "to_go": [0.0, -0.5]}
        )
    ),
    "loss_curves": lambda: draw.loss_curves(CURVE, CURVE, CURVE[["ratio", "gain"]]),
}


@pytest.mark.parametrize("name", MAKERS)
def test_figure_is_legible_and_a_notebook_shows_it_once(
    name: str, text_boxes: Callable[[Figure], dict[Text, Bbox]]
) -> None:
    figure = MAKERS[name]()
    assert isinstance(figure, Figure) and figure.get_figwidth() <= TEXT
    assert plt.get_fignums() == []
    assert all(text.get_fontsize() >= 5.5 for text in text_boxes(figure))


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "token_text"])  # it has no axes
def test_axes_are_labelled(name: str) -> None:
    figure = MAKERS[name]()
    shared = {text.get_text() for text in (figure._supxlabel, figure._supylabel) if text}
    labels = shared.union(*({ax.get_xlabel(), ax.get_ylabel()} for ax in figure.axes)) - {""}
    assert len(labels) >= (1 if name == "token_text_values" else 2)


@pytest.mark.parametrize("name", MAKERS)
def test_same_data_give_the_same_bytes(name: str, png: Callable[[Figure], bytes]) -> None:
    assert png(MAKERS[name]()) == png(MAKERS[name]())


@pytest.mark.parametrize("name", MAKERS)
def test_no_text_overlaps_another_or_leaves_the_page(
    name: str, check_apart: Callable[[Figure], None]
) -> None:
    check_apart(MAKERS[name]())


def test_a_long_message_goes_on_in_the_next_line() -> None:
    words = ["word"] * 40
    short, long = (draw.token_text(words[:n], [0] * n).get_figheight() for n in (5, 40))
    assert long > short


def test_bars_are_the_rewards_passed_in() -> None:
    ax = MAKERS["pay"]().axes[0]
    heights = [bar.get_height() for bar in ax.containers[0]]
    assert heights == [0.5, -0.2, 0.3]
