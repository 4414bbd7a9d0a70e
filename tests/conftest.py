"""Set-up shared by all tests.

The shapes written in the signatures of itpo are checked while tests run: `--jaxtyping-packages` in
pyproject.toml installs the import hook before this file is loaded. Tests of our own error messages switch
the checks off with `unchecked`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jaxtyping
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from itpo.backbone import Adapter, Backbone
from itpo.embedded import EmbeddedModel, load, warm_start
from itpo.tasks import get_task

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
    """Strategy for batches, rows without any assistant token among them."""
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


# Big enough to end its turns and to hold a conversation, small enough to be trained in a few seconds.
TINY = EmbeddedModel(hidden_size=32, layers=2, heads=4, steps=80, dialogues_per_step=16)
RANK, ALPHA = 4, 8


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warm-started model of the math task, saved with its tokenizer."""
    task = get_task("math")
    with _unchecked():
        return warm_start(task, task.novice, TINY, tmp_path_factory.mktemp("tiny"))


def shake(backbone: Backbone, name: str, seed: int, scale: float = 0.3) -> None:
    """Move every weight of an adapter, LoRA-B included, so that it computes something of its own."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in backbone.parameters(name).values():
        parameter.data += scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


@pytest.fixture
def make_backbone(tiny_folder: Path) -> Callable[..., Backbone]:
    """Builds a backbone on the tiny model with a policy and a PRM, both shaken unless ``fresh``."""

    def make(fresh: bool = False, names: tuple[str, ...] = ("policy", "prm")) -> Backbone:
        backbone = Backbone(load(tiny_folder)[0], names, Adapter(RANK, ALPHA))
        for number, name in enumerate(() if fresh else names):
            shake(backbone, name, seed=number)
        return backbone

    return make


@pytest.fixture
def plain_model(tiny_folder: Path) -> Callable[..., Any]:
    """Builds what a backbone should compute, without peft: a fresh base with W + alpha / r B A written into its weights."""

    def make(backbone: Backbone | None = None, name: str | None = None) -> Any:
        model = load(tiny_folder)[0]
        if backbone is not None and name is not None:
            adapter = backbone.parameters(name)
            for key, a in adapter.items():
                if ".lora_A." not in key:
                    continue
                b = adapter[key.replace(".lora_A.", ".lora_B.")]
                target = model.get_parameter(key.partition(".lora_A.")[0] + ".weight")
                target.data += ALPHA / RANK * (b @ a).detach()
        return model.requires_grad_(False)

    return make
