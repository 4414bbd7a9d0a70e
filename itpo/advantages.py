"""Advantage estimators: rewards of a group of rollouts in, returns and whitened advantages out.

Shapes: B dialogues, T tokens. The n rollouts of one prompt are a group and lie in consecutive rows, so B =
groups * n. Every function is a plain tensor function; add the sources of reward after each was baselined,
then take the returns.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BASELINES = ("released", "trajectory")
# Added to the variance of returns. A batch whose rewards are all alike leaves rounding errors of about 1e-7
# after its baseline; this keeps them from being blown up to unit size.
WHITEN_EPS = 1e-8


def _check_mask(mask: Tensor, values: Tensor, name: str) -> None:
    if mask.dtype != torch.bool or mask.ndim != 2 or mask.shape != values.shape:
        raise ValueError(
            f"{name} must be bool and of the values' shape {tuple(values.shape)} = (B, T), got {mask.dtype} "
            f"of shape {tuple(mask.shape)}; convert it with mask.bool()"
        )


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

    Shapes: `rewards` (B, T), `reward_mask` (B, T) bool, where this source places rewards -> (B, T), 0 off
    the mask. Groups are consecutive rows. A rollout without reward positions counts as one that earned
    nothing. A group of one has nobody to compare with: its baseline is 0 and its rewards are kept.
    Errors: ValueError for an unknown baseline, a group size that does not divide B, or a mask that is not
    bool or not of the rewards' shape.
    Deviations from the paper: "released" subtracts its baseline at every reward position, so dialogues of
    equal outcome and unequal turn counts get unequal returns; "trajectory" has no such bias.

    >>> one_turn_and_two = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    >>> mask = torch.tensor([[True, False], [True, True]])
    >>> rloo(one_turn_and_two, mask, group_size=2).sum(-1).tolist()
    [0.5, -1.0]
    >>> rloo(one_turn_and_two, mask, group_size=2, baseline="trajectory").sum(-1).tolist()
    [0.0, 0.0]
    """
    if baseline not in BASELINES:
        raise ValueError(f"unknown baseline {baseline!r}; choose one of {', '.join(BASELINES)}")
    _check_mask(reward_mask, rewards, "reward_mask")
    if group_size < 1 or rewards.shape[0] % group_size:
        raise ValueError(
            f"group_size {group_size} does not divide the {rewards.shape[0]} rows; "
            "pass the rollouts of each prompt in consecutive rows, the same number for every prompt"
        )
    rewards = torch.where(reward_mask, rewards, 0)
    if group_size == 1:
        return rewards
    others = group_size - 1
    total = rewards.sum(-1)
    if baseline == "trajectory":
        group_total = total.view(-1, group_size).sum(-1).repeat_interleave(group_size)
        mean_of_others = (group_total - total) / others
        positions_left = reward_mask.long().flip(-1).cumsum(-1).flip(-1)
        last_position = reward_mask & (positions_left == 1)
        return torch.where(last_position, rewards - mean_of_others[:, None], rewards)
    row_mean = total / reward_mask.sum(-1).clamp(min=1)
    group_mean_sum = row_mean.view(-1, group_size).sum(-1).repeat_interleave(group_size)
    baselined = (rewards * group_size - group_mean_sum[:, None]) / others
    return torch.where(reward_mask, baselined, 0)


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
    if not bool(torch.isfinite(kept).all()):
        rows = (~torch.isfinite(kept)).any(-1).nonzero().flatten()
        raise ValueError(
            f"values of rows {rows.tolist()} are not finite under the mask; check the rewards behind them"
        )
    if kept.numel() == 0:
        return kept
    count = mask.sum()
    mean = kept.sum() / count.clamp(min=1)
    centred = torch.where(mask, values - mean, 0)
    variance = centred.square().sum() / (count - 1).clamp(min=1)
    # Equal values far from zero differ from their own mean by rounding, which is not a signal.
    rounding = 8 * torch.finfo(values.dtype).eps * kept.abs().max()
    return torch.where(variance.sqrt() > rounding, centred * torch.rsqrt(variance + WHITEN_EPS), 0)
