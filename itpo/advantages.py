"""Advantage estimators: rewards of a group of rollouts in, returns and whitened advantages out.

In signatures B counts dialogues and T tokens. The rollouts of one prompt are a group. `group_size` says which rows of a batch
belong together: a number n, where groups are n consecutive rows each, or the group's id for every row, where rows come in any
order and groups may differ in size. RLOO and GRPO: add the sources of reward after each was baselined or normalised, then take
the returns. PPO: add the sources, then take `gae`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
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


class _Groups(NamedTuple):
    """A table of `groups` by `width` places: each row of the batch has one, and places of smaller groups stay empty.

    A sum over the places of a group has a fixed order, which a scattered sum on a GPU does not have.
    """

    place: Tensor
    groups: int
    width: int

    def table(self, values: Tensor) -> Tensor:
        """The rows' values, (groups, width, ...), with 0 or False in empty places."""
        empty = values.new_zeros(self.groups * self.width, *values.shape[1:])
        return empty.index_copy(0, self.place, values).unflatten(0, (self.groups, self.width))

    def rows(self, table: Tensor) -> Tensor:
        """The inverse of `table`."""
        return table.flatten(0, 1)[self.place]

    def sum(self, per_row: Tensor) -> Tensor:
        """For each row the sum of (B,) values over its group."""
        return self.table(per_row).sum(-1).repeat_interleave(self.width)[self.place]


def _groups(rewards: Tensor, reward_mask: Tensor, group_size: int | Tensor) -> _Groups:
    _check_mask(reward_mask, rewards, "reward_mask")
    rows = rewards.shape[0]
    everyone = torch.arange(rows, device=rewards.device)
    if not isinstance(group_size, Tensor):
        if group_size < 1 or rows % group_size:
            raise ValueError(
                f"group_size {group_size} does not divide the {rows} rows; pass the rollouts of each prompt in "
                "consecutive rows, the same number for every prompt, or a tensor of one group id for each row"
            )
        return _Groups(everyone, rows // group_size, group_size)
    if group_size.dtype != torch.int64 or group_size.ndim != 1:
        raise ValueError(
            f"group ids must be int64 of shape (B,), got {group_size.dtype} of shape {tuple(group_size.shape)}; "
            "pass the id of its prompt for every row"
        )
    if len(group_size) != rows:
        raise ValueError(
            f"{len(group_size)} group ids for {rows} rows; pass the id of its prompt for every row"
        )
    _, group, sizes = group_size.to(rewards.device).unique(return_inverse=True, return_counts=True)
    width = int(sizes.max()) if rows else 1
    order = group.argsort(stable=True)
    before = sizes.cumsum(0) - sizes  # rows of the groups before
    place = torch.empty_like(order)
    place[order] = group[order] * width + everyone - before[group[order]]
    return _Groups(place, len(sizes), width)


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
    group_size: int | Int64[Tensor, " B"],
    baseline: str = "released",
) -> Float[Tensor, "B T"]:
    """Subtract a leave-one-out baseline, taken over the prompt's other rollouts, from a source of reward; 0 off its positions.

    `reward_mask` marks where this source places rewards. A rollout without any reward position was dropped: it is left out,
    and n counts the others. A rollout that is alone in its group has nobody to be compared with: its baseline is 0.

    `baseline="released"` is the released code: with m_i the mean reward of rollout i over its reward positions, each reward r
    of it becomes r * n/(n-1) - sum_j m_j / (n-1).

    `baseline="trajectory"` is RLOO on whole trajectories: the mean total reward of the other n-1 rollouts is subtracted once,
    at the last reward position, so that it reaches the return of every earlier token exactly once.

    `baseline="to_go"` compares what is still to come [O]: from the return at a rollout's k-th reward position it subtracts the
    mean of the same over those other rollouts that have a k-th position, and nothing where none has.

    Deviation from the paper: "released" subtracts its baseline at every reward position, so that dialogues of equal outcome
    and unequal turn counts get unequal returns. The other two have no such bias, as what they subtract from a return does not
    depend on the rollout's own choices.

    Raises ValueError for an unknown baseline, a group size that does not divide B, group ids of another number than B, or a
    mask that is not bool or not of the rewards' shape.

    >>> one_turn_and_two = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    >>> mask = torch.tensor([[True, False], [True, True]])
    >>> rloo(one_turn_and_two, mask, group_size=2).sum(-1).tolist()
    [0.5, -1.0]
    >>> rloo(one_turn_and_two, mask, group_size=2, baseline="trajectory").tolist()
    [[0.0, 0.0], [0.5, -0.5]]
    >>> rloo(one_turn_and_two, mask, group_size=2, baseline="to_go").tolist()
    [[0.0, 0.0], [-0.5, 0.5]]
    >>> ids = torch.tensor([7, 3, 7])  # of which the second row is alone
    >>> rloo(torch.tensor([[1.0], [0.5], [0.25]]), torch.ones(3, 1) > 0, ids).flatten().tolist()
    [0.75, 0.5, -0.75]
    """
    if baseline not in BASELINES:
        raise ValueError(f"unknown baseline {baseline!r}; choose one of {', '.join(BASELINES)}")
    groups = _groups(rewards, reward_mask, group_size)
    if baseline == "to_go":
        return _subtract_mean_to_go(rewards, reward_mask, groups)
    rewards = torch.where(reward_mask, rewards, 0)
    total = rewards.sum(-1)
    n = groups.sum(reward_mask.any(-1).long())[:, None]
    others = (n - 1).clamp(min=1)
    if baseline == "trajectory":
        mean_of_others = (groups.sum(total) - total)[:, None] / others
        positions_left = reward_mask.long().flip(-1).cumsum(-1).flip(-1)
        last_position = reward_mask & (positions_left == 1)
        return torch.where(last_position, rewards - mean_of_others, rewards)
    row_mean = total / reward_mask.sum(-1).clamp(min=1)
    baselined = (rewards * n - groups.sum(row_mean)[:, None]) / others
    return torch.where(reward_mask & (n > 1), baselined, rewards)


def _subtract_mean_to_go(rewards: Tensor, reward_mask: Tensor, groups: _Groups) -> Tensor:
    """Subtract from each reward-to-go the mean reward-to-go of the other rollouts at the same position."""
    rewards = torch.where(reward_mask, rewards, 0)
    order = reward_mask.long().cumsum(-1) - 1
    # Column k of what follows is about a row's k-th reward position; whether it has one.
    has = torch.arange(rewards.shape[1], device=rewards.device) < reward_mask.sum(-1, keepdim=True)
    packed = torch.zeros_like(rewards).masked_scatter(has, rewards[reward_mask])
    to_go = packed.flip(-1).cumsum(-1).flip(-1)

    def of_others(per_row: Tensor) -> Tensor:
        table = groups.table(per_row)
        return groups.rows(table.sum(1, keepdim=True) - table)

    mean = torch.where(has, of_others(to_go) / of_others(has.long()).clamp(min=1), 0)
    baseline = mean - torch.nn.functional.pad(mean, (0, 1))[:, 1:]
    return torch.where(reward_mask, rewards - baseline.gather(-1, order.clamp(min=0)), 0)


def grpo(
    rewards: Float[Tensor, "B T"], reward_mask: Bool[Tensor, "B T"], group_size: int | Int64[Tensor, " B"]
) -> Float[Tensor, "B T"]:
    """Normalise a source of reward over the prompt's rollouts, (r - mean) / sqrt(var + 1e-8); 0 off its positions.

    Mean and variance are taken over all reward positions of the group together; the variance is Bessel-corrected. The
    advantage of a token is the sum of the normalised rewards from its position on, see `returns`; with one reward a rollout
    this is GRPO with outcome supervision. A group with one reward position, or with rewards that differ by no more than
    rounding, gives zeros; the turns of a rollout that is alone in its group are compared with one another.

    Source: GRPO with process supervision (DeepSeekMath, Shao et al., 2024), with 1e-8 added to the variance; the paper's own
    GRPO is known to us by name only. As in the released RLOO a mean is subtracted at every reward position, so that dialogues
    of equal outcome and unequal turn counts get unequal returns.

    Raises ValueError for a group size that does not divide B, group ids of another number than B, a mask that is not bool or
    not of the rewards' shape, or masked rewards that are not finite.

    >>> one_turn_and_two = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    >>> mask = torch.tensor([[True, False], [True, True]])
    >>> grpo(one_turn_and_two, mask, group_size=2).sum(-1).round(decimals=2).tolist()
    [1.149999976158142, -1.149999976158142]
    """
    groups = _groups(rewards, reward_mask, group_size)
    kept = torch.where(reward_mask, rewards, 0)
    _check_finite(kept, "rewards")
    table = groups.table(kept)
    normalised = _standardise(table.flatten(1), groups.table(reward_mask).flatten(1))
    return groups.rows(normalised.view_as(table))


def returns(rewards: Float[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Sum the rewards from each assistant token to the dialogue's end, G_t = sum_{s >= t} r_s, undiscounted; 0 off the mask.

    Source: the released code. Rewards off the mask are left out. Raises ValueError if the mask is not bool or not of the
    rewards' shape.

    >>> returns(torch.tensor([[1.0, 9.0, 2.0]]), torch.tensor([[True, False, True]])).tolist()
    [[3.0, 0.0, 2.0]]
    """
    _check_mask(response_mask, rewards, "response_mask")
    reward_to_go = torch.where(response_mask, rewards, 0).flip(-1).cumsum(-1).flip(-1)
    return torch.where(response_mask, reward_to_go, 0)


def whiten(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Shift and scale the masked values of the batch to mean 0 and variance 1, (v - mean) / sqrt(var + 1e-8); 0 off the mask.

    Source: the released code; the variance is Bessel-corrected. A single value, and values that differ by no more than
    rounding, give zeros.

    Raises ValueError if the mask is not bool or not of the values' shape, or if masked values are not finite.

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
    """Estimate advantages with a learned value, A_t = sum_l (gamma lam)^l delta_{t+l}, and the returns A_t + V_t that train it.

    Here delta_t = r_t + gamma V_{t+1} - V_t, where V_t is the value before token t is chosen and t counts assistant tokens
    only: the state after a turn's last token is the one before the next turn's first token, and the value after the last token
    of all is 0. What stands off the mask is left out; advantages and returns are 0 there.

    Source: generalised advantage estimation (Schulman et al., 2016); the released code has no PPO.

    Raises ValueError for a gamma or lam outside [0, 1], if shapes differ, if the mask is not bool, or if masked rewards or
    values are not finite.

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

    It is 1 for a perfect critic, 0 for one that tells nothing, below 0 for one that misleads, and nan if the returns differ by
    no more than rounding. Raises ValueError if shapes differ, if the mask is not bool, or if masked values or returns are not
    finite.

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
