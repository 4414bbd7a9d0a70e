"""The framework figure: legible, the same bytes every time, and true to the equations."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from itpo import turns
from itpo.figures import framework as draw
from itpo.figures.style import TEXT

pytestmark = pytest.mark.usefixtures("figure_style")


def test_figure_is_legible_and_a_notebook_shows_it_once(
    text_boxes: Callable[[Figure], dict[Text, Bbox]],
) -> None:
    figure = draw.framework()
    assert isinstance(figure, Figure) and figure.get_figwidth() <= TEXT
    assert plt.get_fignums() == []
    assert all(text.get_fontsize() >= 5.5 for text in text_boxes(figure))


def test_it_gives_the_same_bytes_every_time(png: Callable[[Figure], bytes]) -> None:
    assert png(draw.framework()) == png(draw.framework())


def test_no_text_overlaps_another_or_leaves_the_page(check_apart: Callable[[Figure], None]) -> None:
    check_apart(draw.framework())


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
