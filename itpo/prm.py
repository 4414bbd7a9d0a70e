"""The implicit process reward model (PRM): log-ratio of two models, token rewards, and the training loss.

In signatures B counts dialogues and T tokens. Log-probabilities are in nats. Equation numbers are those of the ITPO paper.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

# Source: the released code adds this to the divisor of its batch rescaling.
BATCH_NORM_EPS = 1e-6
SCALES = ("paper", "released")


def _check_mask(response_mask: Tensor, tokens: Tensor) -> None:
    if response_mask.dtype != torch.bool or response_mask.ndim != 2 or response_mask.shape != tokens.shape:
        raise ValueError(
            f"response_mask must be bool and of the tokens' shape {tuple(tokens.shape)} = (B, T), got "
            f"{response_mask.dtype} of shape {tuple(response_mask.shape)}; convert it with mask.bool()"
        )


def _check_beta(beta: float) -> None:
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be positive and finite, got {beta}; try 0.05")


def log_ratio(
    logp_prm: Float[Tensor, "B T"], logp_ref: Float[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Compare the process reward model with the reference on each token, q_t = log pi_phi - log pi_ref; 0 off the mask.

    Equation (1). Raises ValueError if the mask is not bool, or if shapes differ.

    >>> logp_prm, logp_ref = torch.tensor([[-1.0, -9.0]]), torch.tensor([[-1.5, -1.0]])
    >>> log_ratio(logp_prm, logp_ref, torch.tensor([[True, False]])).tolist()
    [[0.5, 0.0]]
    """
    _check_mask(response_mask, logp_prm)
    if logp_ref.shape != logp_prm.shape:
        raise ValueError(
            f"logp_ref of shape {tuple(logp_ref.shape)} does not match logp_prm of shape "
            f"{tuple(logp_prm.shape)}; score the same tokens with both models"
        )
    return torch.where(response_mask, logp_prm - logp_ref, 0)


def token_rewards(
    logp_prm: Float[Tensor, "B T"],
    logp_ref: Float[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
    beta: float,
) -> Float[Tensor, "B T"]:
    """Scale the log-ratio to the implicit reward of each token, r_t = beta * q_t, in units of outcome; 0 off the mask.

    Equation (2), the token rewards of PRIME. The released code's two further steps are `drop_last_token` and `batch_norm`.

    Raises ValueError if the mask is not bool, if shapes differ, or if beta is not positive and finite.

    >>> logp_prm, logp_ref = torch.tensor([[-1.0, -9.0]]), torch.tensor([[-1.5, -1.0]])
    >>> token_rewards(logp_prm, logp_ref, torch.tensor([[True, False]]), beta=0.5).tolist()
    [[0.25, 0.0]]
    """
    _check_beta(beta)
    return beta * log_ratio(logp_prm, logp_ref, response_mask)


def drop_last_token(
    token_rewards: Float[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Set the reward of each dialogue's last assistant token to zero.

    Deviation from the paper: the released code leaves that token without a score; the equations do not. Leave this function
    out to follow eq. (2), apply it before `batch_norm` to follow the released code.

    Raises ValueError if the mask is not bool or not of the tokens' shape.

    >>> rewards, mask = torch.tensor([[1.0, 2.0, 3.0, 0.0]]), torch.tensor([[True, True, True, False]])
    >>> drop_last_token(rewards, mask).tolist()
    [[1.0, 2.0, 0.0, 0.0]]
    """
    _check_mask(response_mask, token_rewards)
    assistant_tokens_left = response_mask.long().flip(-1).cumsum(-1).flip(-1)
    return torch.where(response_mask & (assistant_tokens_left == 1), 0, token_rewards)


def batch_norm(token_rewards: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Rescale the batch so that no reward-to-go exceeds 1, r_t / (max |reverse cumulative sum of r| + 1e-6).

    Deviation from the paper: the released code does so before attribution; the equations use eq. (2) as it is. The factor beta
    of eq. (2) cancels up to the 1e-6. Rewards off the assistant tokens must be 0.

    Raises ValueError if a reward is not finite, since one such token would spoil the whole batch.

    >>> batch_norm(torch.tensor([[1.0, -3.0], [0.5, 0.5]])).round(decimals=3).tolist()
    [[0.3330000042915344, -1.0], [0.16699999570846558, 0.16699999570846558]]
    """
    if not bool(torch.isfinite(token_rewards).all()):
        rows = (~torch.isfinite(token_rewards)).any(-1).nonzero().flatten()
        raise ValueError(
            f"token_rewards of rows {rows.tolist()} are not finite; set padding to zero before rescaling"
        )
    if token_rewards.numel() == 0:
        return token_rewards
    reward_to_go = token_rewards.flip(-1).cumsum(-1).flip(-1)
    return token_rewards / (reward_to_go.abs().max() + BATCH_NORM_EPS)


def rescale(
    token_rewards: Float[Tensor, "B T"], response_mask: Bool[Tensor, "B T"], scale: str = "paper"
) -> Float[Tensor, "B T"]:
    """Give the token rewards the scale on which they are attributed: that of eq. (2), or that of the released code.

    Equation (2) for `scale="paper"`, which changes nothing. Deviation from the paper: `scale="released"` is `drop_last_token`,
    then `batch_norm`. Raises ValueError for an unknown scale, or as these two.

    >>> rewards, mask = torch.tensor([[1.0, -2.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool)
    >>> rescale(rewards, mask).tolist(), rescale(rewards, mask, "released").round(decimals=3).tolist()
    ([[1.0, -2.0, 3.0]], [[0.5, -1.0, 0.0]])
    """
    if scale not in SCALES:
        raise ValueError(f"unknown scale {scale!r}; choose one of {', '.join(SCALES)}")
    return token_rewards if scale == "paper" else batch_norm(drop_last_token(token_rewards, response_mask))


def implicit_return(
    log_ratio: Float[Tensor, "B T"], response_mask: Bool[Tensor, "B T"], beta: float
) -> Float[Tensor, " B"]:
    """Sum the implicit rewards of a dialogue, beta * sum_t q_t.

    The logit inside eq. (3); its ranking of dialogues is compared with that of the outcome.

    Raises ValueError if the mask is not bool or not of the tokens' shape, or if beta is not positive and finite.

    >>> ratios, mask = torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]])
    >>> implicit_return(ratios, mask, beta=0.5).tolist()
    [2.0]
    """
    _check_beta(beta)
    _check_mask(response_mask, log_ratio)
    return beta * torch.where(response_mask, log_ratio, 0).sum(-1)


def outcome_loss(
    log_ratio: Float[Tensor, "B T"],
    outcome: Float[Tensor, " B"],
    response_mask: Bool[Tensor, "B T"],
    beta: float,
    denominator: int | None = None,
) -> Float[Tensor, ""]:
    """Train the process reward model to predict the outcome, BCE(sigmoid(beta * sum_t q_t), R), in nats.

    Equation (3), averaged over dialogues, for outcomes from 0 to 1. It works on logits, so that no beta makes the logarithm
    overflow. `denominator` is the number of dialogues to average over where this is one of several micro-batches whose losses
    are added; left out, it is B. A dialogue without assistant tokens counts as a logit of 0 and has no gradient.

    Raises ValueError if the mask is not bool or not of the tokens' shape, if outcomes are of another number or leave [0, 1],
    or if beta or the denominator is not positive.

    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> loss = outcome_loss(torch.zeros(2, 2), torch.tensor([1.0, 0.25]), mask, beta=0.05)
    >>> round(loss.item(), 4)
    0.6931
    """
    logits = implicit_return(log_ratio, response_mask, beta)
    if outcome.shape != logits.shape:
        raise ValueError(
            f"outcome of shape {tuple(outcome.shape)} does not match {logits.shape[0]} dialogues; "
            "pass one outcome each"
        )
    if not bool(((outcome >= 0) & (outcome <= 1)).all()):
        raise ValueError(
            f"outcome must lie in [0, 1], got {outcome.tolist()}; "
            "leave penalties out of it and rescale the task's score"
        )
    count = logits.shape[0] if denominator is None else denominator
    if count < 1:
        raise ValueError(
            f"the loss cannot average over {count} dialogues; pass a batch and a denominator of at least 1"
        )
    return F.binary_cross_entropy_with_logits(logits, outcome.to(logits.dtype), reduction="sum") / count
