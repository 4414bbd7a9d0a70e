"""What every engine needs of ITPO: from a batch as engines keep it to advantages, by the names of a method and an estimator.

Nothing is computed here: methods are those of :data:`itpo.attribution.METHODS`, estimators those of
:data:`itpo.estimators.ESTIMATORS`. The modules that this one imports need torch alone, whatever else an engine pins.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from itpo import turns
from itpo.attribution import get_method
from itpo.estimators import Credit, allows, estimate, get_estimator, method_sources


def group_ids(keys: Sequence[Hashable]) -> Int64[Tensor, " B"]:
    """Number the prompts of a batch, given a key of each row's prompt, such as its text or an engine's own id.

    >>> group_ids(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys], dtype=torch.int64)


def check_pair(method: str, estimator: str) -> None:
    """Raise ``ValueError`` for an unknown name, and for a method that the estimator cannot train.

    >>> check_pair("value_model", "rloo")
    Traceback (most recent call last):
        ...
    ValueError: method 'value_model' reads the values of a critic, which estimator 'rloo' lacks: use 'ppo'
    """
    if allows(estimator, method):
        return
    if get_method(method).compares:
        raise ValueError(
            f"method {method!r} compares a prompt's rollouts itself, and takes no baseline or scale of estimator "
            f"{estimator!r}: use 'rloo'"
        )
    raise ValueError(
        f"method {method!r} reads the values of a critic, which estimator {estimator!r} lacks: use 'ppo'"
    )


def credit(
    method: str,
    estimator: str,
    response_mask: Bool[Tensor, "B T"],
    outcome: Float[Tensor, " B"],
    group_ids: int | Int64[Tensor, " B"],
    *,
    method_options: Mapping[str, Any] | None = None,
    estimator_options: Mapping[str, Any] | None = None,
    coef: float = 1.0,
    outcome_coef: float = 0.0,
    length_cost: Float[Tensor, " B"] | None = None,
    **signals: Any,
) -> Credit:
    """The advantages of a batch, (B, T), and the targets of the critic's values if the estimator has a critic.

    A row is a dialogue after its prompt or with it; ``response_mask`` marks the assistant's tokens, each unbroken run of which
    is a turn, and a row without any was dropped and leaves its group. ``outcome`` is the score of the whole dialogue,
    ``group_ids`` the prompt's id for every row (or the number of consecutive rows of each prompt). ``signals`` are the further
    ones of :data:`itpo.attribution.SIGNALS`, as far as method and estimator read them: ``token_rewards`` (B, T) of a process
    reward model (:func:`itpo.prm.token_rewards`), ``judge_scores`` (B, K), ``values`` (S, B, T) of a critic, ``input_ids``, a
    ``generator``.
    ``coef``, ``outcome_coef`` and ``length_cost`` are those of :func:`itpo.estimators.method_sources`. Baselines and whitening
    are taken over what is passed: gather the batch of all processes first.

    Raises ``ValueError`` for unknown names and options, signals that are missing, and shapes that do not match.

    >>> mask = torch.tensor([[True, False, True], [True, True, False], [True, False, True]])
    >>> rewards, outcome, ids = 0.4 * mask.float(), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([7, 3, 7])
    >>> found = credit("norm_itpo", "rloo", mask, outcome, ids, method_options={"temperature": 0.4}, token_rewards=rewards)
    >>> for row in found.advantages.tolist():
    ...     print([round(advantage, 2) for advantage in row])
    [1.41, 0.0, 0.71]
    [0.0, 0.0, 0.0]
    [-1.41, 0.0, -0.71]
    """
    check_pair(method, estimator)
    entry, column = get_method(method), get_estimator(estimator)
    ids = turns.turn_ids(response_mask)
    known = {"outcome": outcome, "turn_ids": ids, "response_mask": response_mask, "group_size": group_ids}
    known |= {name: signal for name, signal in signals.items() if signal is not None}
    options = entry.check_options(method_options or {})
    sources = method_sources(method, known | options, coef, outcome_coef, length_cost)
    return estimate(
        estimator,
        sources,
        response_mask=response_mask,
        group_size=entry.baseline_group(group_ids),
        values=signals.get("values"),
        **column.check_options(estimator_options or {}),
    )
