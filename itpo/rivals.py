"""Other methods' turn credit, one function each, to be compared with the methods of Table 1 on equal terms.

Four are other papers'; two are ours [O]: an equal split, which is a control, and signed Norm-ITPO, which is a remedy.

Four of them (MT-GRPO, GiGPO, iStar, signed Norm-ITPO) define advantages and not rewards: they compare a prompt's rollouts
themselves. Their functions return rewards whose sums from a token on are those advantages. No further baseline may be
subtracted, so they are trained by RLOO with its baseline left out; what it adds is the whitening of the batch, which the papers
do not have. What is common to all runs of this library stays common: losses, penalties, users, and the PRM of eq. (3).

Nothing here is a row of Table 1. Each docstring says what the paper defines and what deviates from it. In signatures B counts
dialogues, T tokens and K turns; `group_size` is that of :mod:`itpo.advantages`.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from itpo import advantages, turns
from itpo.attribution import MethodEntry, check_judge_scores, norm_itpo, trajectory_share

ANCHORS = ("history", "reply")
RATINGS = ("turns", "states")


def _check_number(value: float, name: str, low: float = 0.0, high: float = math.inf) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} must be finite and from {low:g} to {high:g}, got {value}; try 1")


def _outcome_advantage(outcome: Tensor, turn_ids: Tensor, group_size: int | Tensor) -> Float[Tensor, "B 1"]:
    """(R - mean) / std over the prompt's rollouts; 0 for a dialogue without turns, which is not compared."""
    placed, end = trajectory_share(outcome, turn_ids), turns.trajectory_end(turn_ids)
    return advantages.grpo(placed, end, group_size).sum(-1, keepdim=True)


def _as_rewards(advantage: Float[Tensor, "B K"], turn_ids: Int64[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Rewards at turn ends whose sum from turn k on is the advantage of turn k."""
    advantage = torch.where(turns.turn_mask(turn_ids), advantage, 0)
    following = torch.nn.functional.pad(advantage, (0, 1))[:, 1:]
    return turns.place_at_turn_ends(advantage - following, turn_ids)


def mt_grpo(
    judge_scores: Float[Tensor, "B K"],
    outcome: Float[Tensor, " B"],
    turn_ids: Int64[Tensor, "B T"],
    group_size: int | Int64[Tensor, " B"],
    turn_weight: float = 1.0,
) -> Float[Tensor, "B T"]:
    """Give every turn the advantage A_O + lambda A_T of MT-GRPO, and the last one A_O.

    A_O normalises the outcomes of the prompt's rollouts, A_T, apart from it, the rewards of a turn. `turn_weight` is lambda.
    Rewards have the units of an advantage.

    Source: Zeng et al., 2025 (arXiv 2505.11821), for one tool call: A_O + lambda A_T before the call's result, A_O after it.
    Deviations: a dialogue has a result, the user's reply, after every turn but the last, and the k-th turns of the rollouts are
    compared with one another; a turn's reward is a judge's score where the paper checks the call by rules.

    Raises ValueError for a weight that is negative or not finite, as `check_judge_scores`, and as :func:`itpo.advantages.grpo`.

    >>> ids, scores = torch.tensor([[0, -1, 1], [0, -1, 1]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    >>> rewards = mt_grpo(scores, torch.tensor([0.0, 1.0]), ids, group_size=2, turn_weight=0.5)
    >>> advantages.returns(rewards, ids >= 0)
    tensor([[-0.3536,  0.0000, -0.7071],
            [ 0.3536,  0.0000,  0.7071]])
    """
    _check_number(turn_weight, "turn_weight")
    has_turn = turns.turn_mask(turn_ids)
    check_judge_scores(judge_scores, has_turn)
    answered = torch.nn.functional.pad(has_turn, (0, 1))[:, 1:]
    columns = zip(judge_scores.split(1, 1), has_turn.split(1, 1), strict=True)
    by_turn = torch.cat([advantages.grpo(scores, here, group_size) for scores, here in columns], 1)
    own = torch.where(answered, turn_weight * by_turn, 0).to(outcome.dtype)
    return _as_rewards(_outcome_advantage(outcome, turn_ids, group_size) + own, turn_ids)


def _states(input_ids: Tensor, turn_ids: Tensor, group: Tensor, anchor: str) -> Int64[Tensor, "B K"]:
    """A number for the state before each turn: equal where prompt and anchor are equal, token for token."""
    known: dict[tuple[object, ...], int] = {}
    has_turn = turns.turn_mask(turn_ids)
    states = torch.zeros(has_turn.shape, dtype=torch.int64)
    rows = zip(input_ids.tolist(), turn_ids.tolist(), group.tolist(), strict=True)
    for row, (tokens, of_turn, prompt) in enumerate(rows):
        heard, turn = 0, -1  # where the present reply begins
        for position, number in enumerate(of_turn):
            if number > turn:
                key = (prompt, *tokens[heard if anchor == "reply" else 0 : position])
                states[row, number] = known.setdefault(key, len(known))
                turn = number
            heard = position + 1 if number >= 0 else heard
    return states.to(turn_ids.device)


def gigpo(
    outcome: Float[Tensor, " B"],
    input_ids: Int64[Tensor, "B T"],
    turn_ids: Int64[Tensor, "B T"],
    group_size: int | Int64[Tensor, " B"],
    step_weight: float = 1.0,
    gamma: float = 0.95,
    anchor: str = "reply",
) -> Float[Tensor, "B T"]:
    """Give every turn the advantage A_E + omega A_S of GiGPO, where A_S compares turns that answered the same state.

    A_E normalises the outcomes of the prompt's rollouts. A_S normalises the discounted return of a turn, gamma to the power of
    the turns after it, times R, over all turns of these rollouts that were taken in an identical state; a state that occurs
    once gives 0. `step_weight` is omega. Rewards have the units of an advantage.

    `anchor` says what a state is: "reply", the user's last message, as the paper's is an environment's last observation; or
    "history", the whole conversation so far. Of the later turns that 8 noisy experts take on the same example of a scripted
    task, 2 in 3 share their reply with another one (on the corridor nearly all), 1 in 10 their history.

    Source: Feng et al., 2025 (arXiv 2505.10978), with its omega 1 and gamma 0.95, normalised by the standard deviation (their
    other choice is 1). Deviation: variances are Bessel-corrected.

    Raises ValueError for an unknown anchor, a weight that is negative or not finite, a gamma outside [0, 1], input ids of
    another shape than the turn ids, and as :func:`itpo.advantages.grpo`.

    >>> ids, said = torch.tensor([[0, -1, 1], [0, -1, 1]]), torch.tensor([[5, 9, 5], [6, 8, 5]])
    >>> rewards = gigpo(torch.tensor([0.0, 1.0]), said, ids, group_size=2)
    >>> advantages.returns(rewards, ids >= 0)
    tensor([[-1.4142,  0.0000, -0.7071],
            [ 1.4142,  0.0000,  0.7071]])
    """
    _check_number(step_weight, "step_weight")
    _check_number(gamma, "gamma", high=1.0)
    if anchor not in ANCHORS:
        raise ValueError(f"unknown anchor {anchor!r}; choose one of {', '.join(ANCHORS)}")
    if input_ids.shape != turn_ids.shape:
        raise ValueError(
            f"input_ids of shape {tuple(input_ids.shape)} do not match turn_ids of shape {tuple(turn_ids.shape)}; "
            "pass the tokens of the same batch"
        )
    episode = _outcome_advantage(outcome, turn_ids, group_size)
    has_turn = turns.turn_mask(turn_ids)
    group = torch.arange(len(outcome)) // group_size if isinstance(group_size, int) else group_size
    states = _states(input_ids, turn_ids, group, anchor)
    later = has_turn.sum(-1, keepdim=True) - 1 - torch.arange(has_turn.shape[1], device=turn_ids.device)
    to_go = outcome[:, None] * gamma ** later.clamp(min=0).to(outcome)
    step = advantages.grpo(to_go.reshape(-1, 1), has_turn.reshape(-1, 1), states.flatten()).view_as(to_go)
    return _as_rewards(episode + step_weight * step, turn_ids)


def istar(
    token_rewards: Float[Tensor, "B T"],
    outcome: Float[Tensor, " B"],
    turn_ids: Int64[Tensor, "B T"],
    group_size: int | Int64[Tensor, " B"],
    step_weight: float = 1.0,
) -> Float[Tensor, "B T"]:
    """Give every turn the advantage A_E + alpha A_S of iStar, where A_S normalises the turn's implicit reward.

    A turn's implicit reward is beta times its log-ratio, the R_k of eq. (4); A_S takes mean and standard deviation over all
    turns of the prompt's rollouts, and is not summed over later turns. A_E normalises the outcomes. `step_weight` is alpha.
    Rewards have the units of an advantage.

    Source: Liu et al., 2025 (arXiv 2509.19199), with its alpha 1. Deviations: the PRM learns by eq. (3), not from preferences
    between pairs of trajectories, and its reference is the frozen base, not the policy before the step, so that what is
    compared with ITPO is the use of the rewards alone; variances are Bessel-corrected.

    Raises ValueError for a weight that is negative or not finite, shapes that do not match, and as
    :func:`itpo.advantages.grpo`.

    >>> ids, log_ratios = torch.tensor([[0, -1, 1], [0, -1, 1]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    >>> rewards = istar(log_ratios, torch.tensor([0.5, 0.5]), ids, group_size=2)
    >>> advantages.returns(rewards, ids >= 0)
    tensor([[ 1.2247,  0.0000,  0.0000],
            [ 0.0000,  0.0000, -1.2247]])
    """
    _check_number(step_weight, "step_weight")
    scores = turns.aggregate(token_rewards, turn_ids)
    step = advantages.grpo(scores, turns.turn_mask(turn_ids), group_size)
    return _as_rewards(_outcome_advantage(outcome, turn_ids, group_size) + step_weight * step, turn_ids)


def progress(
    judge_scores: Float[Tensor, "B K"],
    turn_ids: Int64[Tensor, "B T"],
    rated: str = "turns",
    highest: float = 1.0,
) -> Float[Tensor, "B T"]:
    """Reward each turn with the progress that a judge sees in it, p_k - p_(k-1) with p_0 = 0, at its last token.

    With `rated="states"` the judge's scores are p_k, how far the dialogue has come after each turn; a judge of one's own may
    rate so. With `rated="turns"` they say how much each turn helped, which is what this library's judges are asked: they are
    the differences themselves, and p_k their sum. Scores are divided by `highest`, the best that the judge gives: 1 for the
    rules of a task, 10 for a language model. The outcome comes beside it as a second source, by `outcome_coef`.

    Source: Setlur et al., 2024 (arXiv 2410.08146): a step is rewarded with the change of the chance of success, beside the
    outcome. Deviation: that chance is a verifier's there, trained on continuations by another policy; here a judge says it.

    Raises ValueError for an unknown `rated`, a `highest` below 1 or not finite, and as `check_judge_scores`.

    >>> ids, scores = torch.tensor([[0, 0, -1, 1]]), torch.tensor([[0.75, 0.5]])
    >>> progress(scores, ids).tolist(), progress(scores, ids, "states").tolist()
    ([[0.0, 0.75, 0.0, 0.5]], [[0.0, 0.75, 0.0, -0.25]])
    """
    _check_number(highest, "highest", low=1.0)
    if rated not in RATINGS:
        raise ValueError(f"unknown rated {rated!r}; choose one of {', '.join(RATINGS)}")
    has_turn = turns.turn_mask(turn_ids)
    check_judge_scores(judge_scores, has_turn)
    scores = torch.where(has_turn, judge_scores, 0) / highest
    before = torch.nn.functional.pad(scores, (1, 0))[:, :-1] if rated == "states" else 0
    return turns.place_at_turn_ends(scores - before, turn_ids)


def equal_share(outcome: Float[Tensor, " B"], turn_ids: Int64[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Split the outcome over turns in equal parts, R / K at the end of each of K turns.

    This is Norm-ITPO at an infinite temperature: what is left of it when its PRM says nothing. A control of our own [O]. Raises
    ValueError unless there is one outcome for each dialogue.

    >>> equal_share(torch.tensor([0.5]), torch.tensor([[0, 0, -1, 1]])).tolist()
    [[0.0, 0.25, 0.0, 0.25]]
    """
    silent = torch.zeros(turn_ids.shape, dtype=outcome.dtype, device=turn_ids.device)
    return norm_itpo(silent, outcome, turn_ids, temperature=1.0)


def signed_norm_itpo(
    token_rewards: Float[Tensor, "B T"],
    outcome: Float[Tensor, " B"],
    turn_ids: Int64[Tensor, "B T"],
    group_size: int | Int64[Tensor, " B"],
    temperature: float = 0.4,
) -> Float[Tensor, "B T"]:
    """Split each dialogue's leave-one-out advantage over its turns: praise to turns of high implicit reward, blame to low ones.

    Turn k of K gets the advantage K w_k A, whose mean over the turns is A. The weights are softmax(R_k / eta) over turns where
    A > 0 and softmax(-R_k / eta) where A < 0, with R_k of eq. (4). `temperature` is eta. A is the outcome less the mean outcome
    of the prompt's other rollouts, in units of the outcome; for a rollout that is alone, A is its outcome.

    Source: our own [O]. Eq. (6) splits R, which is 0 for a failed dialogue, so that no turn of it is to blame; and what is
    split is summed over later turns again. Here failures are split too, and what a turn gets is its advantage.

    Raises ValueError for a temperature that is not positive and finite, shapes that do not match, and as
    :func:`itpo.advantages.rloo`.

    >>> ids, said = torch.tensor([[0, -1, 1], [0, -1, 1]]), torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    >>> rewards = signed_norm_itpo(said, torch.tensor([1.0, 0.0]), ids, group_size=2, temperature=0.5)
    >>> advantages.returns(rewards, ids >= 0)
    tensor([[ 1.7616,  0.0000,  0.2384],
            [-0.2384,  0.0000, -1.7616]])
    """
    has_turn = turns.turn_mask(turn_ids)
    placed, end = trajectory_share(outcome, turn_ids), turns.trajectory_end(turn_ids)
    advantage = advantages.rloo(placed, end, group_size, "trajectory").sum(-1, keepdim=True)
    scores = turns.aggregate(token_rewards, turn_ids) * advantage.sign()
    weights = turns.normalize(scores, has_turn, temperature)
    return _as_rewards(has_turn.sum(-1, keepdim=True) * weights * advantage, turn_ids)


RIVALS: dict[str, MethodEntry] = {
    entry.name: entry
    for entry in (
        MethodEntry("mt_grpo", "MT-GRPO", mt_grpo, "turn", "#8c564b", "-"),
        MethodEntry("gigpo", "GiGPO", gigpo, "turn", "#7f7f00", "--"),
        MethodEntry("istar", "iStar", istar, "turn", "#6a3d9a", "-."),
        MethodEntry("progress", "Judged progress", progress, "turn", "#b15928", ":"),
        MethodEntry("equal_share", "Equal split", equal_share, "turn", "#666666", "--"),
        MethodEntry("signed_norm_itpo", "Signed Norm-ITPO", signed_norm_itpo, "turn", "#D55E00", "-"),
    )
}
