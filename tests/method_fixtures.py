"""Set-up of the tests of the method's pure functions, which run in other engines' environments too (`make test-verl`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jaxtyping
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

torch.set_num_threads(1)
# Derandomised, so that a failure on one machine is a failure on all.
settings.register_profile("itpo", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("itpo")


class Batch(NamedTuple):
    """A random batch in float64: B = groups * group_size dialogues of T tokens."""

    response_mask: Tensor
    token_rewards: Tensor
    outcome: Tensor
    group_size: int


@st.composite
def _batches(draw: st.DrawFn) -> Batch:
    group_size = draw(st.integers(1, 3))
    rows = group_size * draw(st.integers(1, 3))
    tokens = draw(st.integers(1, 10))
    row = st.lists(st.booleans(), min_size=tokens, max_size=tokens)
    mask = torch.tensor(draw(st.lists(row, min_size=rows, max_size=rows)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    # Values stand on every token, user tokens too: what ignores the mask is seen.
    rewards = torch.randn(rows, tokens, dtype=torch.float64, generator=generator)
    return Batch(mask, rewards, torch.rand(rows, dtype=torch.float64, generator=generator), group_size)


@pytest.fixture(scope="session")
def batches() -> st.SearchStrategy[Batch]:
    """Strategy for batches, dialogues without any assistant token among them."""
    return _batches()


@contextmanager
def _unchecked() -> Iterator[None]:
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Run without shape checks, as users do, so that the functions' own checks are reached (and much faster)."""
    with _unchecked():
        yield
