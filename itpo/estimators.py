"""The three estimators: sources of reward in, advantages of the batch's tokens out.

A dialogue is rewarded by one or several sources (the method's own rewards, the length penalty, the outcome beside an implicit
reward). Every estimator baselines each source separately and adds up what is left; they differ in the baseline. To add one,
write one function whose parameters are named after what it needs, and add its entry to ``ESTIMATORS``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from itpo import advantages, turns
from itpo.attribution import attribute, get_method, merge_options, reward_mask, trajectory_share


class Source(NamedTuple):
    """Rewards of one kind and the positions at which they are placed.

    ``name`` is "method" (the method's own rewards), "td_error" (the same where they are TD errors of the critic), "length"
    (the length penalty as a source of its own) or "outcome" (the outcome beside an implicit reward).
    """

    name: str
    rewards: Float[Tensor, "B T"]
    positions: Bool[Tensor, "B T"]


def method_sources(
    name: str,
    signals: Mapping[str, Any],
    coef: float = 1.0,
    outcome_coef: float = 0.0,
    length_cost: Float[Tensor, " B"] | None = None,
) -> list[Source]:
    """The reward sources of the method ``name``: its own rewards times ``coef``, the length penalty, the outcome.

    ``signals`` are those that the method reads, ``outcome`` and ``turn_ids`` among them in any case, and its options;
    ``values`` are the critic's, a layer for each source, in the units of the weighted rewards. The penalty of a dialogue,
    ``length_cost`` in the same units, goes where the outcome goes: to the end of the trajectory, or over the turns by their
    share of tokens [C]; beside an implicit reward it is a source of its own [C], and so is the outcome, times
    ``outcome_coef``, where that is not 0. A method that compares rollouts itself (:mod:`itpo.rivals`) is given the outcome less
    the penalty. Raises ``ValueError`` where the method needs a signal that is missing.

    >>> signals = {"outcome": torch.tensor([1.0]), "turn_ids": torch.tensor([[0, 0, -1, 1]]), "token_rewards": torch.ones(1, 4)}
    >>> for source in method_sources("itpo", signals, outcome_coef=5.0, length_cost=torch.tensor([0.75])):
    ...     print(source.name, source.rewards.tolist(), source.positions.tolist())
    method [[0.0, 2.0, 0.0, 1.0]] [[False, True, False, True]]
    length [[-0.0, -0.5, -0.0, -0.25]] [[False, True, False, True]]
    outcome [[0.0, 0.0, 0.0, 5.0]] [[False, False, False, True]]
    """
    entry, ids, outcome = get_method(name), signals["turn_ids"], signals["outcome"]
    cost = torch.zeros_like(outcome) if length_cost is None else length_cost
    if entry.needs_values and "values" in signals:  # the method compares them with the outcome itself
        signals = {**signals, "values": signals["values"].sum(0) / coef}
    if entry.compares:  # it cannot take a penalty off its rewards afterwards
        signals = {**signals, "outcome": outcome - cost / coef}
        cost = torch.zeros_like(cost)
    rewards = coef * attribute(name, **signals)
    positions = reward_mask(entry.granularity, ids)
    by_turn = turns.place_at_turn_ends(cost[:, None] * turns.token_share(ids).to(cost), ids)
    if entry.granularity == "trajectory":
        return [Source("method", rewards - trajectory_share(cost, ids), positions)]
    if entry.carries_outcome:
        return [Source("td_error" if entry.needs_values else "method", rewards - by_turn, positions)]
    sources = [Source("method", rewards, positions), Source("length", -by_turn, reward_mask("turn", ids))]
    if outcome_coef:
        at_end = reward_mask("trajectory", ids)
        sources.append(Source("outcome", outcome_coef * trajectory_share(outcome, ids), at_end))
    return sources


class Credit(NamedTuple):
    """Advantages of the batch's tokens, and the targets of the critic's values for each source (``None`` without a critic)."""

    advantages: Float[Tensor, "B T"]
    value_targets: Float[Tensor, "S B T"] | None = None


def merge_length(sources: Sequence[Source]) -> list[Source]:
    """The same sources with the length penalty inside the method's own rewards.

    GRPO would blow up a small penalty of its own to unit variance, the size of the outcome, and a critic has no use for
    values of it.

    >>> one = torch.ones(1, 2)
    >>> merged = merge_length([Source("method", one, one > 0), Source("length", -0.25 * one, one > 0)])
    >>> [(source.name, source.rewards.tolist()) for source in merged]
    [('method', [[0.75, 0.75]])]
    """
    own, *others = sources
    for penalty in (source for source in others if source.name == "length"):
        own = Source(own.name, own.rewards + penalty.rewards, own.positions | penalty.positions)
    return [own, *(source for source in others if source.name != "length")]


def rloo(
    sources: Sequence[Source],
    response_mask: Bool[Tensor, "B T"],
    group_size: int | Int64[Tensor, " B"],
    baseline: str = "released",
) -> Credit:
    """RLOO: leave-one-out baselines, undiscounted returns, whitened over the batch's assistant tokens.

    Source: the released code; see :func:`itpo.advantages.rloo` for ``baseline``.

    >>> mask = torch.tensor([[False, True], [False, True]])
    >>> rloo([Source("method", torch.tensor([[0.0, 1.0], [0.0, 0.0]]), mask)], mask, group_size=2).advantages
    tensor([[ 0.0000,  0.7071],
            [ 0.0000, -0.7071]])
    """
    baselined = [advantages.rloo(s.rewards, s.positions, group_size, baseline) for s in sources]
    returns = advantages.returns(torch.stack(baselined).sum(0), response_mask)
    return Credit(advantages.whiten(returns, response_mask))


def grpo(
    sources: Sequence[Source], response_mask: Bool[Tensor, "B T"], group_size: int | Int64[Tensor, " B"]
) -> Credit:
    """GRPO: each source normalised within the group, then summed from every token on.

    Source: paper.md section 5 [O], after the process supervision of DeepSeekMath. As every source is scaled to unit variance,
    their coefficients cancel. The length penalty joins the method's own rewards (:func:`merge_length`).

    >>> mask = torch.tensor([[False, True], [False, True]])
    >>> rewards = torch.tensor([[0.0, 5.0], [0.0, 1.0]])
    >>> grpo([Source("method", rewards, mask)], mask, group_size=2).advantages
    tensor([[ 0.0000,  0.7071],
            [ 0.0000, -0.7071]])
    """
    normalised = [advantages.grpo(s.rewards, s.positions, group_size) for s in merge_length(sources)]
    return Credit(advantages.returns(torch.stack(normalised).sum(0), response_mask))


def ppo(
    sources: Sequence[Source],
    response_mask: Bool[Tensor, "B T"],
    values: Float[Tensor, "S B T"],
    gamma: float = 1.0,
    lam: float = 1.0,
) -> Credit:
    """PPO: a critic's value of each source as its baseline, GAE over assistant tokens, summed and whitened.

    Source: paper.md section 5; Schulman et al., 2016; whitening as in the released RLOO [O]. The TD errors of the method "Value
    model" are advantages as they are: from a token on they add up to R - V, which would be trajectory-share's credit again.
    The length penalty joins the method's own rewards (:func:`merge_length`).

    Raises ``ValueError`` unless there is one value function for each source.

    >>> mask = torch.tensor([[False, True], [False, True]])
    >>> rewards, values = torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([[[0.0, 0.5], [0.0, 0.5]]])
    >>> credit = ppo([Source("method", rewards, mask)], mask, values)
    >>> credit.advantages[:, 1].tolist(), credit.value_targets[0, :, 1].tolist()
    ([0.7071067690849304, -0.7071067690849304], [1.0, 0.0])
    """
    sources, mask = merge_length(sources), response_mask
    if len(values) != len(sources):
        raise ValueError(
            f"{len(sources)} sources of reward and {len(values)} value functions: give each its own"
        )
    if sources[0].name == "td_error":
        rewards = sources[0].rewards
        return Credit(advantages.whiten(rewards, mask), (advantages.returns(rewards, mask) + values[0])[None])
    estimates = [
        advantages.gae(source.rewards, value, mask, gamma, lam)
        for source, value in zip(sources, values, strict=True)
    ]
    total = torch.stack([advantage for advantage, _ in estimates]).sum(0)
    return Credit(advantages.whiten(total, mask), torch.stack([target for _, target in estimates]))


# What an estimator's function may read; its other parameters are the estimator's options.
_GIVEN = ("sources", "response_mask", "group_size", "values")


@dataclass(frozen=True)
class EstimatorEntry:
    """One column of Table 1: ``name`` is its key in ``ESTIMATORS``, ``label`` what tables print.

    ``scale_free`` says that it scales every source of reward to unit variance, so that their weights cancel.

    >>> [entry.label for entry in ESTIMATORS.values() if entry.has_critic]
    ['PPO']
    """

    name: str
    label: str
    function: Callable[..., Credit]
    scale_free: bool = False

    @property
    def has_critic(self) -> bool:
        """Whether the estimator reads values, so that a critic has to be trained for it."""
        return "values" in inspect.signature(self.function).parameters

    @property
    def options(self) -> dict[str, Any]:
        """The estimator's own settings and their defaults.

        >>> ESTIMATORS["rloo"].options
        {'baseline': 'released'}
        """
        parameters = inspect.signature(self.function).parameters
        return {key: p.default for key, p in parameters.items() if key not in _GIVEN}

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options with these in the place of their defaults, tried on a small batch.

        Raises ``ValueError`` for an option that the estimator does not have or refuses.

        >>> ESTIMATORS["rloo"].check_options({"baseline": "none"})
        Traceback (most recent call last):
            ...
        ValueError: options of estimator 'rloo': unknown baseline 'none'; choose one of released, trajectory, to_go
        """
        merged = merge_options(f"estimator {self.name!r}", self.options, options)
        mask = torch.ones(2, 2, dtype=torch.bool)
        given = {"response_mask": mask, "group_size": 2, "values": torch.zeros(1, 2, 2)}
        try:
            estimate(self.name, [Source("method", torch.eye(2), mask)], **given, **merged)
        except ValueError as error:
            raise ValueError(f"options of estimator {self.name!r}: {error}") from None
        return merged


ESTIMATORS: dict[str, EstimatorEntry] = {
    entry.name: entry
    for entry in (
        EstimatorEntry("rloo", "RLOO", rloo),
        EstimatorEntry("grpo", "GRPO", grpo, scale_free=True),
        EstimatorEntry("ppo", "PPO", ppo),
    )
}


def get_estimator(name: str) -> EstimatorEntry:
    """The estimator called ``name``; raises ``ValueError`` listing the known ones otherwise.

    >>> get_estimator("grpo").label
    'GRPO'
    """
    if name not in ESTIMATORS:
        raise ValueError(f"unknown estimator {name!r}; choose one of {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]


def estimate(name: str, sources: Sequence[Source], **signals: Any) -> Credit:
    """Call the estimator ``name`` with those of ``signals`` and options that it declares; others are left aside.

    Raises ``ValueError`` for an unknown name, or for what the estimator needs and that is missing or ``None``.

    >>> mask = torch.tensor([[False, True], [False, True]])
    >>> sources = [Source("method", torch.eye(2), mask)]
    >>> estimate("rloo", sources, response_mask=mask, group_size=2, values=None).value_targets is None
    True
    """
    function = get_estimator(name).function
    parameters = inspect.signature(function).parameters
    given = {key: value for key, value in signals.items() if key in parameters and value is not None}
    missing = [key for key, p in list(parameters.items())[1:] if p.default is p.empty and key not in given]
    if missing:
        raise ValueError(f"estimator {name!r} needs {', '.join(missing)}; pass it by keyword")
    return function(sources, **given)


def allows(estimator: str, method: str) -> bool:
    """Whether an estimator can train a method.

    One whose rewards are TD errors needs a critic. One that compares rollouts itself takes no critic, and nothing that scales
    rewards again.

    >>> allows("ppo", "value_model"), allows("rloo", "value_model"), allows("rloo", "itpo")
    (True, False, True)
    >>> allows("rloo", "gigpo"), allows("grpo", "gigpo")
    (True, False)
    """
    column, row = get_estimator(estimator), get_method(method)
    if row.compares:
        return not (column.has_critic or column.scale_free)
    return column.has_critic or not row.needs_values
