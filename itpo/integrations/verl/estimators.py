"""Advantage estimators of verl that give credit by turn: ``algorithm.adv_estimator=itpo_rloo`` or ``itpo_grpo``.

There is one for each estimator of :mod:`itpo.estimators` without a critic. ``+algorithm.itpo.method=`` names a method of
:mod:`itpo.attribution`. Left out, it is "turn_rewards": rewards stay with the turns at which an environment, a tool or a judge
placed them in verl's ``rm_scores``. Turns are the unbroken runs of 1 in verl's ``response_mask``, groups are verl's ``uid``:
rows may come in any order, and groups may differ in size.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
import verl
from jaxtyping import Bool, Float
from torch import Tensor
from verl.trainer.ppo.core_algos import register_adv_est

from itpo import turns
from itpo.attribution import get_method, merge_options
from itpo.estimators import ESTIMATORS, get_estimator
from itpo.integrations.credit import credit, group_ids

TESTED = ("0.9.1",)
TURN_REWARDS = "turn_rewards"
# Settings under algorithm.itpo beside those of the method and of the estimator; ``beta`` and ``scale`` are the PRM's.
GENERAL = {
    "method": TURN_REWARDS,
    "coef": 1.0,
    "outcome_coef": 0.0,
    "beta": 0.05,
    "scale": "paper",
    "seed": 0,
}
# The token rewards of the batch whose advantages are being computed, where a PRM is trained.
_token_rewards: ContextVar[Tensor | None] = ContextVar("token_rewards", default=None)


def check_version(version: str) -> None:
    """Raise ``RuntimeError`` for a version of verl that was not tested, unless ITPO_UNTESTED_ENGINES=1 is set.

    >>> check_version("0.9.1")
    >>> check_version("0.7.0")
    Traceback (most recent call last):
        ...
    RuntimeError: verl 0.7.0 was not tested with itpo, 0.9.1 was: install it, or set ITPO_UNTESTED_ENGINES=1 to go on anyway
    """
    if version not in TESTED and os.environ.get("ITPO_UNTESTED_ENGINES") != "1":
        raise RuntimeError(
            f"verl {version} was not tested with itpo, {', '.join(TESTED)} was: install it, or set "
            "ITPO_UNTESTED_ENGINES=1 to go on anyway"
        )


def settings(algorithm: Mapping[str, Any], estimator: str = "rloo") -> dict[str, Any]:
    """What verl's config says under ``algorithm.itpo``, with defaults: method, its options, the estimator's, `GENERAL`.

    Raises ``ValueError`` for unknown names and values, and for settings of verl that the method cannot be combined with.

    >>> settings({"itpo": {"method": "norm_itpo", "temperature": 0.1, "baseline": "to_go"}})
    {'method': 'norm_itpo', 'coef': 1.0, 'outcome_coef': 0.0, 'beta': 0.05, 'scale': 'paper', 'seed': 0, 'temperature': 0.1,
    'reduction': 'sum', 'baseline': 'to_go'}
    >>> settings({"itpo": {"methods": "norm_itpo"}})
    Traceback (most recent call last):
        ...
    ValueError: algorithm.itpo has no option 'methods'; it has: method, coef, outcome_coef, beta, scale, seed, baseline
    """
    given = dict(algorithm.get("itpo") or {})
    method = given.get("method", TURN_REWARDS)
    options = {} if method == TURN_REWARDS else get_method(method).options
    merged = merge_options(
        "algorithm.itpo", {**GENERAL, **options, **get_estimator(estimator).options}, given
    )
    if algorithm.get("use_kl_in_reward") and method != TURN_REWARDS:
        raise ValueError(
            f"algorithm.use_kl_in_reward=True adds a penalty to the outcome that method {method!r} shares out; "
            "use actor_rollout_ref.actor.use_kl_loss=True"
        )
    if (gamma := algorithm.get("gamma")) not in (None, 1):
        raise ValueError(
            f"algorithm.gamma={gamma} has no effect here, where returns are not discounted; set algorithm.gamma=1.0"
        )
    if estimator == "grpo" and not algorithm.get("norm_adv_by_std_in_grpo", True):
        raise ValueError(
            "algorithm.norm_adv_by_std_in_grpo=False has no effect on itpo_grpo, which divides by the deviation of a group; "
            "set it to True, or algorithm.adv_estimator=itpo_rloo"
        )
    rejection = (algorithm.get("rollout_correction") or {}).get("rollout_rs") or ""
    if "token" in rejection:
        raise ValueError(
            f"algorithm.rollout_correction.rollout_rs={rejection} takes single tokens out of response_mask, which would "
            "cut turns in pieces; use a seq_ variant"
        )
    return merged


def by_turn(
    token_level_rewards: Float[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Gather each turn's rewards at its last token, those on the tokens of user or tool behind it among them.

    verl places the reward of a trajectory at its last token, which need not be the assistant's. A reward before the first turn
    goes to that turn; a row without turns has none.

    >>> mask = torch.tensor([[True, True, False, True, False]])
    >>> by_turn(torch.tensor([[0.25, 0.25, 0.5, 0.0, 1.0]]), mask).tolist()
    [[0.0, 1.0, 0.0, 1.0, 0.0]]
    """
    ids = turns.turn_ids(response_mask)
    if not ids.numel():
        return token_level_rewards
    rewards = turns.aggregate(token_level_rewards, ids.cummax(-1).values.clamp(min=0))
    return turns.place_at_turn_ends(rewards, ids)


@contextmanager
def token_rewards(rewards: Float[Tensor, "B T"]) -> Iterator[None]:
    """Give the rewards of a PRM to the estimators while they are called, since verl's own call has no place for them.

    >>> with token_rewards(torch.zeros(2, 3)):
    ...     _token_rewards.get().shape
    torch.Size([2, 3])
    >>> _token_rewards.get()
    """
    token = _token_rewards.set(rewards)
    try:
        yield
    finally:
        _token_rewards.reset(token)


def advantages(
    estimator: str,
    token_level_rewards: Float[Tensor, "B T"],
    response_mask: Any,
    index: Any = None,
    config: Mapping[str, Any] | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """The advantages of a batch as verl asks for them, twice: without a critic, verl's "returns" are only logged.

    Advantages equal :func:`itpo.integrations.credit.credit`'s; the outcome of a row is the sum of its rewards. Raises
    ``ValueError`` as that does, for a method that needs a PRM or a judge where there is none, and for ids of another number
    than the rows.

    >>> mask = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 0]])
    >>> rewards = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.5]])
    >>> advantages("rloo", rewards, mask, ["a", "a"], {"itpo": {"baseline": "trajectory"}})[0].round(decimals=2).tolist()
    [[0.73..., 0.73..., 0.0, 0.73...], [-1.10..., 0.0, -1.10..., 0.0]]
    >>> advantages("rloo", rewards, mask, ["a", "a"], {"itpo": {"method": "itpo"}})
    Traceback (most recent call last):
        ...
    ValueError: method 'itpo' needs a PRM: set trainer.v1.trainer_mode=itpo and critic.enable=True, or leave ...
    """
    rows = len(response_mask)
    if index is None or len(index) != rows:
        raise ValueError(
            f"{0 if index is None else len(index)} uids for {rows} rows: every row needs its prompt's"
        )
    options = settings(config or {}, estimator)
    method, mask = options["method"], response_mask.bool()
    placed = by_turn(token_level_rewards, mask)
    signals: dict[str, Any] = {
        "token_rewards": _token_rewards.get(),
        "generator": _generator(options["seed"], placed),
    }
    if method == TURN_REWARDS:  # equation (4), whose token rewards are here the environment's
        method, signals["token_rewards"] = "itpo", placed
    entry = get_method(method)
    _check_parts(method, signals["token_rewards"] is not None)
    found = credit(
        method,
        estimator,
        mask,
        placed.sum(-1),
        group_ids(list(index)),
        method_options={key: options[key] for key in entry.options if key in options},
        estimator_options={key: options[key] for key in get_estimator(estimator).options},
        coef=options["coef"],
        outcome_coef=options["outcome_coef"],
        **signals,
    ).advantages
    return found, found


def _check_parts(method: str, has_prm: bool) -> None:
    """Raise ``ValueError`` for a method that reads what is not there."""
    entry = get_method(method)
    if entry.needs_prm and not has_prm:
        raise ValueError(
            f"method {method!r} needs a PRM: set trainer.v1.trainer_mode=itpo and critic.enable=True, "
            "or leave algorithm.itpo.method out"
        )
    if entry.needs_judge:
        raise ValueError(
            f"method {method!r} needs a judge, for which verl has no place: have a reward function place its scores at "
            "turn ends, and leave algorithm.itpo.method out"
        )


def _generator(seed: int, rewards: Tensor) -> torch.Generator:
    """Random draws that follow from the batch, as verl tells an estimator neither the step nor a seed."""
    content = zlib.crc32(rewards.detach().cpu().contiguous().numpy().tobytes())
    return torch.Generator(rewards.device).manual_seed(seed ^ content)


check_version(verl.__version__)
for _name, _column in ESTIMATORS.items():
    if not _column.has_critic:
        register_adv_est(f"itpo_{_name}")(partial(advantages, _name))
