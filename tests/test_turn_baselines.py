"""What docs/turn_baselines.md says: its example as printed, and its proof by an exact expectation."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from pathlib import Path

import pytest
import torch

from itpo import advantages

PAGE = (Path(__file__).parents[1] / "docs/turn_baselines.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_page_says():
    [code], [printed] = (re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) for kind in ("python", "text"))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, {})
    assert out.getvalue() == printed
    assert "released [0.625, -0.25, -2.0]" in printed


P, GOES_ON, N = 0.3, (0.5, 0.25), 3  # probability of a second turn; rewards of the turns; rollouts


def expected_gradient(estimator) -> float:
    """Of log(P / (1 - P)), the expectation over all that N rollouts can do; a rollout stops after one turn or after two."""
    total = 0.0
    for goes_on in itertools.product([False, True], repeat=N):
        has = torch.tensor([[True, second] for second in goes_on])
        first = estimator(torch.where(has, torch.tensor(GOES_ON, dtype=torch.float64), 0), has).sum(-1)
        score = torch.tensor([1 - P if second else -P for second in goes_on], dtype=torch.float64)
        chance = torch.tensor([P if second else 1 - P for second in goes_on]).prod()
        total += float(chance * (score * first).mean())
    return total


@pytest.mark.parametrize("baseline", ["trajectory", "to_go"])
def test_the_gradient_is_that_of_the_expected_return(baseline):
    true = P * (1 - P) * GOES_ON[1]  # of 0.5 + 0.25 P
    found = expected_gradient(lambda rewards, has: advantages.rloo(rewards, has, N, baseline))
    assert found == pytest.approx(true, abs=1e-7)


@pytest.mark.parametrize("kind", ["released", "grpo"])
def test_a_baseline_that_counts_turns_turns_it_round(kind):
    """The second turn is worth 0.25, and yet the policy is told to leave it out."""

    def estimator(rewards, has):
        return advantages.grpo(rewards, has, N) if kind == "grpo" else advantages.rloo(rewards, has, N, kind)

    assert expected_gradient(estimator) < -0.01
