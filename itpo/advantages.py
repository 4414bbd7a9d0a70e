"""Advantage estimators: rewards of a group of rollouts in, returns and whitened advantages out.

Shapes: B dialogues, T tokens. The n rollouts of one prompt are a group and lie in consecutive rows, so B =
groups * n. Every function is a plain tensor function. RLOO and GRPO: add the sources of reward after each
was baselined or normalised, then take the returns. PPO: add the sources, then take `gae`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BASELINES = ("released", "trajectory", "to_go")
# Added to a variance that is divided by. A batch whose rewards are all alike leaves rounding errors of about
# 1e-7 after its baseline; this keeps them from being blown up to unit size.
WHITEN_EPS = 1e-8


def _check_mask(mask: Tensor, values: Tensor, name: str) -> None:
    if mask.dtype != torch.bool or mask.ndim != 2 or mask.shape != values.shape:
        raise ValueError(
            f"{name} must be bool and of the values' shape {tuple(values.shape)} = (B, T), got {mask.dtype} "
            f"of shape {tuple(mask.shape)}; convert it with mask.bool()"
        )


def _check_finite(kept: Tensor, name: str) -> None:
    if not bool(torch.isfinite(kept).all()):
        rows = (~torch.isfinite(kept)).any(-1).nonzero().flatten()
        raise ValueError(
            f"{name} of rows {rows.tolist()} are not finite under the mask; check what they were made from"
        )


def _check_groups(rewards: Tensor, reward_mask: Tensor, group_size: int) -> None:
    _check_mask(reward_mask, rewards, "reward_mask")
    if group_size < 1 or rewards.shape[0] % group_size:
        raise ValueError(
            f"group_size {group_size} does not divide the {rewards.shape[0]} rows; "
            "pass the rollouts of each prompt in consecutive rows, the same number for every prompt"
        )


def _varies(deviation: Tensor, largest: Tensor) -> Tensor:
    """Whether a spread is more than what rounding does to equal values, the largest of which is given."""
    # Equal values far from zero differ from their own mean by rounding, which is not a signal.
    return deviation > 8 * torch.finfo(deviation.dtype).eps * largest


def _standardise(kept: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale the masked values of each row to mean 0 and variance 1; `kept` is 0 off the mask."""
    if kept.numel() == 0:
        return kept
    count = mask.sum(-1, keepdim=True)
    mean = kept.sum(-1, keepdim=True) / count.clamp(min=1)
    centred = torch.where(mask, kept - mean, 0)
    variance = centred.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    varies = _varies(variance.sqrt(), kept.abs().amax(-1, keepdim=True))
    return torch.where(varies, centred * torch.rsqrt(variance + WHITEN_EPS), 0)


def rloo(
    rewards: Float[Tensor, "B T"],
    reward_mask: Bool[Tensor, "B T"],
    group_size: int,
    baseline: str = "released",
) -> Float[Tensor, "B T"]:
    """Subtract a leave-one-out baseline, taken over the prompt's other rollouts, from a source of reward.

    Source: the released code for `baseline="released"`: with m_i the mean of row i's rewards over its
    reward positions, each reward becomes r * n/(n-1) - sum_j m_j / (n-1). `baseline="trajectory"` is RLOO
    on whole trajectories: the mean total reward of the other n-1 rollouts is subtracted once, at the row's
    last reward position, so that it reaches the return of every earlier token exactly once.
    `baseline="to_go"` compares what is still to come [O]: the return from a row's k-th reward position on is reduced by the
    mean of the same of those other rollouts that have a k-th position, and not at all where none has.

    Shapes: `rewards` (B, T), `reward_mask` (B, T) bool, where this source places rewards -> (B, T), 0 off
    the mask. Groups are consecutive rows. A row without reward positions, a dialogue that was dropped, is
    left out of its group: n counts the rows that have some. A row that is alone in its group has nobody to
    be compared with: its baseline is 0 and its rewards are kept.
    Errors: ValueError for an unknown baseline, a group size that does not divide B, or a mask that is not
    bool or not of the rewards' shape.
    Deviations from the paper: "released" subtracts its baseline at every reward position, so dialogues of
    equal outcome and unequal turn counts get unequal returns; "trajectory" and "to_go" have no such bias, as what they
    subtract from a return does not depend on the row's own choices.

    >>> one_turn_and_two = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    >>> mask = torch.tensor([[True, False], [True, True]])
    >>> rloo(one_turn_and_two, mask, group_size=2).sum(-1).tolist()
    [0.5, -1.0]
    >>> rloo(one_turn_and_two, mask, group_size=2, baseline="trajectory").tolist()
    [[0.0, 0.0], [0.5, -0.5]]
    >>> rloo(one_turn_and_two, mask, group_size=2, baseline="to_go").tolist()
    [[0.0, 0.0], [-0.5, 0.5]]
    """
    if baseline not in BASELINES:
        raise ValueError(f"unknown baseline {baseline!r}; choose one of {', '.join(BASELINES)}")
    _check_groups(rewards, reward_mask, group_size)
    if baseline == "to_go":
        return _less_to_go_of_others(rewards, reward_mask, group_size)

    def group_sum(per_row: Tensor) -> Tensor:
        return per_row.view(-1, group_size).sum(-1).repeat_interleave(group_size)

    rewards = torch.where(reward_mask, rewards, 0)
    total = rewards.sum(-1)
    n = group_sum(reward_mask.any(-1).long())[:, None]
    others = (n - 1).clamp(min=1)
    if baseline == "trajectory":
        mean_of_others = (group_sum(total) - total)[:, None] / others
        positions_left = reward_mask.long().flip(-1).cumsum(-1).flip(-1)
        last_position = reward_mask & (positions_left == 1)
        return torch.where(last_position, rewards - mean_of_others, rewards)
    row_mean = total / reward_mask.sum(-1).clamp(min=1)
    baselined = (rewards * n - group_sum(row_mean)[:, None]) / others
    return torch.where(reward_mask & (n > 1), baselined, rewards)


def _less_to_go_of_others(rewards: Tensor, reward_mask: Tensor, group_size: int) -> Tensor:
    """Rewards whose sum from each reward position on is that of `rewards` less the mean of the same over other rollouts."""
    rewards = torch.where(reward_mask, rewards, 0)
    order = reward_mask.long().cumsum(-1) - 1
    # Column k of what follows is about a row's k-th reward position; whether it has one.
    has = torch.arange(rewards.shape[1], device=rewards.device) < reward_mask.sum(-1, keepdim=True)
    packed = torch.zeros_like(rewards).masked_scatter(has, rewards[reward_mask])
    to_go = packed.flip(-1).cumsum(-1).flip(-1)

    def of_others(per_row: Tensor) -> Tensor:
        grouped = per_row.unflatten(0, (-1, group_size))
        return (grouped.sum(1, keepdim=True) - grouped).flatten(0, 1)

    mean = torch.where(has, of_others(to_go) / of_others(has.long()).clamp(min=1), 0)
    charge = mean - torch.nn.functional.pad(mean, (0, 1))[:, 1:]
    return torch.where(reward_mask, rewards - charge.gather(-1, order.clamp(min=0)), 0)


def grpo(
    rewards: Float[Tensor, "B T"], reward_mask: Bool[Tensor, "B T"], group_size: int
) -> Float[Tensor, "B T"]:
    """Normalise a source of reward over the prompt's rollouts, (r - mean) / sqrt(var + 1e-8).

    Mean and variance are taken over all reward positions of the group together, the variance being
    Bessel-corrected. The advantage of a token is the sum of the normalised rewards from its position on,
    see `returns`; with one reward a rollout this is GRPO with outcome supervision.

    Source: GRPO with process supervision (DeepSeekMath, Shao et al., 2024).

    Shapes: `rewards` (B, T), `reward_mask` (B, T) bool, where this source places rewards -> (B, T) without
    unit, 0 off the mask. Groups are consecutive rows. A row without reward positions does not count. A
    group with one reward position, or with rewards that differ by no more than rounding, gives zeros.
    Errors: ValueError for a group size that does not divide B, a mask that is not bool or not of the
    rewards' shape, or masked rewards that are not finite.
    Deviations from the paper: its GRPO is known to us by name only; this is DeepSeekMath's, with 1e-8 added
    to the variance. As in the released RLOO a mean is subtracted at every reward position, so dialogues of
    equal outcome and unequal turn counts get unequal returns.

    >>> one_turn_and_two = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    >>> mask = torch.tensor([[True, False], [True, True]])
    >>> grpo(one_turn_and_two, mask, group_size=2).sum(-1).round(decimals=2).tolist()
    [1.149999976158142, -1.149999976158142]
    """
    _check_groups(rewards, reward_mask, group_size)
    kept = torch.where(reward_mask, rewards, 0)
    _check_finite(kept, "rewards")
    groups = rewards.shape[0] // group_size
    return _standardise(kept.reshape(groups, -1), reward_mask.reshape(groups, -1)).view_as(rewards)


def returns(rewards: Float[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Sum the rewards from each assistant token to the dialogue's end, G_t = sum_{s >= t} r_s, undiscounted.

    Source: the released code.

    Shapes: `rewards` (B, T), `response_mask` (B, T) bool -> (B, T) in the units of `rewards`, 0 off the
    mask. Rewards off the mask are left out.
    Errors: ValueError for a mask that is not bool or not of the rewards' shape.
    Deviations from the paper: none.

    >>> returns(torch.tensor([[1.0, 9.0, 2.0]]), torch.tensor([[True, False, True]])).tolist()
    [[3.0, 0.0, 2.0]]
    """
    _check_mask(response_mask, rewards, "response_mask")
    reward_to_go = torch.where(response_mask, rewards, 0).flip(-1).cumsum(-1).flip(-1)
    return torch.where(response_mask, reward_to_go, 0)


def whiten(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Shift and scale the masked values of the batch to mean 0 and variance 1, (v - mean) / sqrt(var + 1e-8).

    Source: the released code; the variance is Bessel-corrected.

    Shapes: `values` (B, T), `mask` (B, T) bool -> (B, T) without unit, 0 off the mask. A single value, and
    values that differ by no more than rounding, give zeros.
    Errors: ValueError for a mask that is not bool or not of the values' shape, or for masked values that
    are not finite.
    Deviations from the paper: none.

    >>> whiten(torch.tensor([[0.0, 2.0, 4.0, 99.0]]), torch.tensor([[True, True, True, False]])).tolist()
    [[-1.0, 0.0, 1.0, 0.0]]
    """
    _check_mask(mask, values, "mask")
    kept = torch.where(mask, values, 0)
    _check_finite(kept, "values")
    return _standardise(kept.reshape(1, -1), mask.reshape(1, -1)).view_as(values)


def gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
    gamma: float = 1.0,
    lam: float = 1.0,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Estimate advantages with a learned value, A_t = sum_l (gamma lam)^l delta_{t+l}, and the returns.

    Here delta_t = r_t + gamma V_{t+1} - V_t, and t counts assistant tokens only: the state after a turn's
    last token is the one before the next turn's first token, and the value after the last token of all is
    0. The returns A_t + V_t are what the value is trained on.

    Source: generalised advantage estimation (Schulman et al., 2016).

    Shapes: `rewards`, `values` (B, T), V_t being the value before token t is chosen, `response_mask` (B, T)
    bool -> advantages and returns, both (B, T) in the units of `rewards`, 0 off the mask. Rewards and
    values off the mask are left out.
    Errors: ValueError for a gamma or lam outside [0, 1], shapes that do not match, a mask that is not bool,
    or masked rewards or values that are not finite.
    Deviations from the paper: none known; the released code has no PPO.

    >>> mask = torch.tensor([[True, False, True]])
    >>> advantages, returns = gae(torch.tensor([[0.0, 9.0, 1.0]]), torch.tensor([[0.5, 9.0, 0.25]]), mask)
    >>> advantages.tolist(), returns.tolist()
    ([[0.5, 0.0, 0.75]], [[1.0, 0.0, 1.0]])
    """
    for name, factor in (("gamma", gamma), ("lam", lam)):
        if not 0 <= factor <= 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {factor}; try 1")
    _check_mask(response_mask, rewards, "response_mask")
    if values.shape != rewards.shape:
        raise ValueError(
            f"values of shape {tuple(values.shape)} do not match rewards of shape {tuple(rewards.shape)}; "
            "pass one value for each token"
        )
    rewards, values = torch.where(response_mask, rewards, 0), torch.where(response_mask, values, 0)
    _check_finite(rewards, "rewards")
    _check_finite(values, "values")
    advantages = torch.zeros_like(rewards)
    # Advantage and value of the assistant token that follows, 0 behind the last one.
    advantage, next_value = torch.zeros_like(rewards[:, :1]), torch.zeros_like(values[:, :1])
    for t in reversed(range(rewards.shape[1])):
        here, value = response_mask[:, t : t + 1], values[:, t : t + 1]
        delta = rewards[:, t : t + 1] + gamma * next_value - value
        advantage = torch.where(here, delta + gamma * lam * advantage, advantage)
        next_value = torch.where(here, value, next_value)
        advantages[:, t : t + 1] = torch.where(here, advantage, 0)
    return advantages, advantages + values


def explained_variance(
    values: Float[Tensor, "B T"], returns: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """Measure how much of the returns a critic predicts, 1 - Var(G - V) / Var(G) over the masked tokens.

    Shapes: `values`, `returns` (B, T), `mask` (B, T) bool -> (), 1 for a perfect critic, 0 for one that
    tells nothing, below 0 for one that misleads, nan if the returns differ by no more than rounding.
    Errors: ValueError for shapes that do not match, a mask that is not bool, or masked values or returns
    that are not finite.

    >>> mask = torch.tensor([[True, True, True, False]])
    >>> returns = torch.tensor([[0.0, 1.0, 2.0, 9.0]])
    >>> explained_variance(returns + 5, returns, mask).item(), explained_variance(-returns, returns, mask).item()
    (1.0, -3.0)
    """
    _check_mask(mask, values, "mask")
    if returns.shape != values.shape:
        raise ValueError(
            f"returns of shape {tuple(returns.shape)} do not match values of shape {tuple(values.shape)}; "
            "pass one of each for each token"
        )
    _check_finite(torch.where(mask, values, 0), "values")
    _check_finite(torch.where(mask, returns, 0), "returns")
    target, left = returns[mask], (returns - values)[mask]
    if target.numel() == 0 or not bool(_varies(target.std(correction=0), target.abs().max())):
        return values.new_tensor(torch.nan)
    return 1 - left.var(correction=0) / target.var(correction=0)
