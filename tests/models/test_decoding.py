"""The draw of a token, held against counting."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from itpo.models.decoding import draw


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9).filter(any), st.integers(1, 40))
def test_each_token_is_drawn_by_its_share_of_the_numbers(weights, steps):
    """Of as many equally spaced numbers as make every share whole, a token is drawn by exactly its share."""
    total = sum(weights) * steps
    probabilities = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    uniform = (torch.arange(total, dtype=torch.float64) + 0.5) / total
    drawn = draw(probabilities.float().expand(total, -1), uniform)
    assert torch.bincount(drawn, minlength=len(weights)).tolist() == [w * steps for w in weights]


def test_the_largest_number_and_the_smallest_draw_no_impossible_token():
    probabilities = torch.tensor([[0.0, 0.3, 0.3, 0.1, 0.0]] * 2) * 0.7  # sums to less than 1
    assert draw(probabilities, torch.tensor([0.0, 1 - 2.0**-24], dtype=torch.float64)).tolist() == [1, 3]
