"""Reward attribution: one function for each method of the paper's Table 1, and the registry that names them.

A method turns signals about a batch of dialogues into rewards of tokens, zero wherever it places none. To add one, write a
function whose parameters are named after the signals it needs, and add its entry to `METHODS`.

In signatures B counts dialogues, T tokens and K turns. Equation numbers are those of the ITPO paper.
"""

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from itpo import turns


def _check_outcome(outcome: Tensor, tokens: Tensor, name: str = "turn_ids") -> None:
    if outcome.shape != tokens.shape[:1]:
        raise ValueError(
            f"outcome of shape {tuple(outcome.shape)} does not match {name} of shape "
            f"{tuple(tokens.shape)}; pass one outcome for each dialogue"
        )


def _check_tokens(values: Tensor, response_mask: Tensor, name: str) -> None:
    if response_mask.dtype != torch.bool or response_mask.shape != values.shape:
        raise ValueError(
            f"response_mask must be bool and of the shape of {name} {tuple(values.shape)}, got "
            f"{response_mask.dtype} of shape {tuple(response_mask.shape)}; convert it with mask.bool()"
        )


def trajectory_share(outcome: Float[Tensor, " B"], turn_ids: Int64[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Place the whole outcome R at the last assistant token, so that every token's return is R.

    Source: Table 1, "trajectory-share". Raises ValueError unless there is one outcome for each dialogue.

    >>> trajectory_share(torch.tensor([0.75]), torch.tensor([[0, 0, -1, 1]])).tolist()
    [[0.0, 0.0, 0.0, 0.75]]
    """
    _check_outcome(outcome, turn_ids)
    return torch.where(turns.trajectory_end(turn_ids), outcome[:, None], 0)


def uniform(
    outcome: Float[Tensor, " B"],
    turn_ids: Int64[Tensor, "B T"],
    generator: torch.Generator,
    concentration: float = 1.0,
) -> Float[Tensor, "B T"]:
    """Split the outcome over turns by a draw from a symmetric Dirichlet, w ~ Dir(alpha, ..., alpha).

    Source: Table 1, "uniform decomposition". `concentration` is alpha; at 1 every split is equally likely. The draw happens on
    the generator's device.

    Deviation from the paper: the concentration is our choice, the paper's value being unknown to us. The draws follow the
    number of dialogues and turns of the batch, so that another batch layout gives another split from the same seed.

    Raises ValueError unless there is one outcome for each dialogue, or for a concentration that is not positive and finite.

    >>> generator = torch.Generator().manual_seed(0)
    >>> split = uniform(torch.tensor([0.8]), torch.tensor([[0, 0, -1, 1]]), generator)
    >>> round(split.sum().item(), 6), split[0, 0].item()
    (0.8, 0.0)
    """
    _check_outcome(outcome, turn_ids)
    if not (math.isfinite(concentration) and concentration > 0):
        raise ValueError(f"concentration must be positive and finite, got {concentration}; try 1")
    has_turn = turns.turn_mask(turn_ids)
    # A Dirichlet draw is a normalised vector of Gamma(alpha) draws, hence the softmax of their logarithms. As
    # Gamma(alpha) ~ Gamma(alpha + 1) * U^(1/alpha), the logarithm is had without underflow at a small alpha.
    shape = torch.full(has_turn.shape, concentration + 1, dtype=torch.float64, device=generator.device)
    exponential = torch.empty_like(shape).exponential_(generator=generator)
    # torch.distributions draws from the global generator only; this is the function beneath its Gamma.
    log_gamma = torch._standard_gamma(shape, generator=generator).log() - exponential / concentration
    weights = turns.normalize(log_gamma.to(outcome.device), has_turn, temperature=1.0)
    return turns.place_at_turn_ends(weights.to(outcome.dtype) * outcome[:, None], turn_ids)


def value_model(
    values: Float[Tensor, "B T"], outcome: Float[Tensor, " B"], response_mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Give every assistant token the change of a learned value, V_{t+1} - V_t, and R - V_t at the last one.

    This is the undiscounted TD error when the outcome comes at the end; the rewards from token t on sum to R - V_t. V_t is the
    value before token t is chosen, and t counts assistant tokens only: the value after a turn's last token is that before the
    next turn's first one. `outcome` is the total return of the dialogue in the units of the values.

    Source: Table 1, "Value model". The paper uses it with PPO only, whose critic gives V.

    Raises ValueError unless there is one outcome for each dialogue, or if the mask is not bool or not of the values' shape.

    >>> mask = torch.tensor([[True, False, True]])
    >>> value_model(torch.tensor([[0.25, 9.0, 0.5]]), torch.tensor([1.0]), mask).tolist()
    [[0.25, 0.0, 0.5]]
    """
    _check_tokens(values, response_mask, "values")
    _check_outcome(outcome, response_mask, "response_mask")
    tokens = response_mask.shape[1]
    # The position of the assistant token that follows, T behind the last one, where the outcome stands.
    own = torch.where(response_mask, torch.arange(tokens, device=values.device), tokens)
    following = torch.nn.functional.pad(own, (0, 1), value=tokens).flip(-1).cummin(-1).values.flip(-1)[:, 1:]
    next_values = torch.cat([values, outcome[:, None]], dim=1).gather(1, following)
    return torch.where(response_mask, next_values - values, 0)


def check_judge_scores(judge_scores: Tensor, has_turn: Bool[Tensor, "B K"]) -> None:
    """Raise ValueError unless there is one score for each turn, those of existing turns being finite and at least 0.

    >>> check_judge_scores(torch.tensor([[3.0, -1.0]]), torch.tensor([[True, False]]))
    """
    if judge_scores.shape != has_turn.shape:
        raise ValueError(
            f"judge_scores of shape {tuple(judge_scores.shape)} do not match turn_ids, which hold "
            f"{has_turn.shape[0]} dialogues of at most {has_turn.shape[1]} turns; pass one score for each turn"
        )
    wrong = has_turn & ~(torch.isfinite(judge_scores) & (judge_scores >= 0))
    if bool(wrong.any()):
        raise ValueError(
            f"judge_scores of rows {wrong.any(-1).nonzero().flatten().tolist()} are negative or not finite; "
            "give a turn that could not be judged the score 0"
        )


def judge(
    judge_scores: Float[Tensor, "B K"], outcome: Float[Tensor, " B"], turn_ids: Int64[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Split the outcome over turns in proportion to a judge's scores, c_k / sum_j c_j * R at turn ends.

    Source: Table 1, "LLM-as-a-judge". Scores are at least 0 and in any unit; those of turns that a dialogue does not have are
    left out. Deviation from the paper: a dialogue whose scores are all 0 is shared equally, which is our choice.

    Raises ValueError unless there is one outcome for each dialogue and one score for each turn, or for scores of existing
    turns that are negative or not finite.

    >>> ids = torch.tensor([[0, 0, -1, 1]])
    >>> judge(torch.tensor([[1.0, 3.0]]), torch.tensor([0.5]), ids).tolist()
    [[0.0, 0.125, 0.0, 0.375]]
    """
    _check_outcome(outcome, turn_ids)
    has_turn = turns.turn_mask(turn_ids)
    check_judge_scores(judge_scores, has_turn)
    scores = torch.where(has_turn, judge_scores, 0)
    scores = torch.where(scores.any(-1, keepdim=True), scores, has_turn.to(scores.dtype))
    total = scores.sum(-1, keepdim=True)
    weights = torch.where(has_turn, scores / total, 0)
    return turns.place_at_turn_ends(weights * outcome[:, None], turn_ids)


def prime(token_rewards: Float[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Keep the implicit reward r_t of eq. (2) at every assistant token.

    Source: Table 1, "PRIME". Raises ValueError if the mask is not bool or not of the tokens' shape.

    >>> prime(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[True, True, False]])).tolist()
    [[1.0, 2.0, 0.0]]
    """
    _check_tokens(token_rewards, response_mask, "token_rewards")
    return torch.where(response_mask, token_rewards, 0)


def itpo(
    token_rewards: Float[Tensor, "B T"], turn_ids: Int64[Tensor, "B T"], reduction: str = "sum"
) -> Float[Tensor, "B T"]:
    """Place each turn's implicit reward R_k = sum_{t in T_k} r_t at the turn's last token.

    Equation (4); Table 1, "ITPO". Deviation from the paper: reductions other than "sum", see `itpo.turns.aggregate`, which
    also says what it raises.

    >>> itpo(torch.tensor([[1.0, 2.0, 9.0, 4.0]]), torch.tensor([[0, 0, -1, 1]])).tolist()
    [[0.0, 3.0, 0.0, 4.0]]
    """
    return turns.place_at_turn_ends(turns.aggregate(token_rewards, turn_ids, reduction), turn_ids)


def norm_itpo(
    token_rewards: Float[Tensor, "B T"],
    outcome: Float[Tensor, " B"],
    turn_ids: Int64[Tensor, "B T"],
    temperature: float = 0.4,
    reduction: str = "sum",
) -> Float[Tensor, "B T"]:
    """Split the outcome over turns by the posterior of eq. (5), placing w_k * R at each turn's last token.

    Equation (6); Table 1, "Norm-ITPO". Rewards of a dialogue sum to its outcome, or to 0 where it has no turns. Deviation from
    the paper: reductions other than "sum"; the released code uses "length_normalized".

    Raises ValueError for an unknown reduction, a temperature that is not positive and finite, or shapes that do not match.

    >>> rewards, ids = torch.tensor([[0.1, 0.1, 9.0, 0.2]]), torch.tensor([[0, 0, -1, 1]])
    >>> norm_itpo(rewards, torch.tensor([0.5]), ids, temperature=0.4).tolist()
    [[0.0, 0.25, 0.0, 0.25]]
    """
    _check_outcome(outcome, turn_ids)
    turn_scores = turns.aggregate(token_rewards, turn_ids, reduction)
    weights = turns.normalize(turn_scores, turns.turn_mask(turn_ids), temperature)
    return turns.place_at_turn_ends(weights * outcome[:, None], turn_ids)


# Where each granularity places its rewards, as a function of the turn ids.
_REWARD_POSITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "trajectory": turns.trajectory_end,
    "turn": turns.turn_ends,
    "token": lambda turn_ids: turn_ids >= 0,
}


def reward_mask(granularity: str, turn_ids: Int64[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Mark where a method of the given granularity places rewards: last assistant tokens, turn ends, or all assistant tokens.

    Source: the released code, whose baselines average over the positions at which a source places rewards. Raises ValueError
    for an unknown granularity.

    >>> reward_mask("turn", torch.tensor([[0, 0, -1, 1]])).tolist()
    [[False, True, False, True]]
    """
    if granularity not in _REWARD_POSITIONS:
        raise ValueError(f"unknown granularity {granularity!r}; choose one of {', '.join(_REWARD_POSITIONS)}")
    return _REWARD_POSITIONS[granularity](turn_ids)


class Claim(NamedTuple):
    """What a reader asks of a method: does it beat ``rival`` ("gain"), or gain nothing reliable on it ("no gain")?"""

    name: str
    rival: str
    expected: str = "gain"


# What a method's function may read of a batch; its other parameters are the method's options.
SIGNALS = (
    "outcome",
    "turn_ids",
    "response_mask",
    "token_rewards",
    "values",
    "judge_scores",
    "generator",
    "input_ids",
    "group_size",
)


@dataclass(frozen=True)
class MethodEntry:
    """A method of Table 1: how signals about a batch become rewards, and how tables and figures show it.

    ``name`` is the key in `METHODS`, ``function`` the attribution, whose parameters are named after the signals it reads
    (`SIGNALS`) and, with defaults, after its options; ``granularity`` is one of "trajectory", "turn" and "token" (ValueError
    otherwise). ``label``, ``color`` and ``dash`` are those of every table and figure. An entry from outside the library states
    a ``version``, to be raised with every change of what the method does; the ledger rules on its ``claims``.

    >>> METHODS["norm_itpo"].granularity, METHODS["norm_itpo"].needs_prm, METHODS["uniform"].needs_prm
    ('turn', True, False)
    """

    name: str
    label: str
    function: Callable[..., Tensor]
    granularity: str
    color: str = "#8c564b"
    dash: str = "-"
    claims: tuple[Claim, ...] = ()
    version: int = 0

    def __post_init__(self) -> None:
        if self.granularity not in _REWARD_POSITIONS:
            raise ValueError(
                f"method {self.name!r} has unknown granularity {self.granularity!r}; "
                f"choose one of {', '.join(_REWARD_POSITIONS)}"
            )

    @property
    def _parameters(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.function).parameters)

    @property
    def needs_prm(self) -> bool:
        """Whether the method reads token rewards, so that a process reward model has to be trained for it."""
        return "token_rewards" in self._parameters

    @property
    def needs_values(self) -> bool:
        """Whether the method reads a learned value, so that it takes an estimator with a critic, that is PPO."""
        return "values" in self._parameters

    @property
    def needs_judge(self) -> bool:
        """Whether the method reads scores of turns, so that a judge has to be asked for them."""
        return "judge_scores" in self._parameters

    @property
    def carries_outcome(self) -> bool:
        """Whether the method's rewards are shares of the outcome itself."""
        return "outcome" in self._parameters

    @property
    def compares(self) -> bool:
        """Whether the method compares a prompt's rollouts itself, so that its rewards take no further baseline."""
        return "group_size" in self._parameters

    def baseline_group(self, group_size: int | Tensor) -> int | Tensor:
        """The groups within which a baseline may be taken: those of ``group_size``, or each rollout alone.

        Alone where the method has compared the prompt's rollouts already: these take no further baseline.

        >>> get_method("itpo").baseline_group(8), get_method("istar").baseline_group(8)
        (8, 1)
        """
        return 1 if self.compares else group_size

    @property
    def options(self) -> dict[str, Any]:
        """The method's own settings and their defaults.

        >>> get_method("uniform").options
        {'concentration': 1.0}
        """
        return {key: p.default for key, p in self._parameters.items() if key not in SIGNALS}

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options with these in the place of their defaults, tried on a small batch.

        Raises ValueError for an option that the method does not have, of another type than its default, or that its
        function refuses.

        >>> get_method("norm_itpo").check_options({"temperature": -1.0})
        Traceback (most recent call last):
            ...
        ValueError: options of method 'norm_itpo': temperature must be positive and finite, got -1.0; try 0.4
        """
        merged = merge_options(f"method {self.name!r}", self.options, options)
        ids, zeros = torch.tensor([[-1, 0, -1, 1]]), torch.zeros(1, 4)
        generator = torch.Generator().manual_seed(0)
        values = (torch.ones(1), ids, ids >= 0, zeros, zeros, torch.ones(1, 2), generator, ids, 1)
        signals: dict[str, Any] = dict(zip(SIGNALS, values, strict=True))
        try:
            self.function(**{key: signals[key] for key in self._parameters if key in signals}, **merged)
        except ValueError as error:
            raise ValueError(f"options of method {self.name!r}: {error}") from None
        return merged


def merge_options(what: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults with the given ones in their place; a whole number may stand for a real one.

    Raises ValueError for an unknown option, and for one that is not finite or of another type than its default.

    >>> merge_options("estimator 'ppo'", {"gamma": 1.0}, {"gama": 0.9})
    Traceback (most recent call last):
        ...
    ValueError: estimator 'ppo' has no option 'gama'; it has: gamma
    """
    for key, value in given.items():
        if key not in defaults:
            raise ValueError(f"{what} has no option {key!r}; it has: {', '.join(defaults) or 'none'}")
        wanted = type(defaults[key])
        right = type(value) is wanted or (wanted is float and type(value) is int)
        if not right or (wanted is float and not math.isfinite(value)):
            raise ValueError(f"option {key} of {what} is {value!r}; it must be a finite {wanted.__name__}")
    return {
        key: float(given.get(key, d)) if type(d) is float else given.get(key, d)
        for key, d in defaults.items()
    }


# Okabe and Ito's colour-blind-safe palette.
_ENTRIES = (
    MethodEntry("trajectory_share", "Trajectory-share", trajectory_share, "trajectory", "#000000"),
    MethodEntry("uniform", "Uniform decomposition", uniform, "turn", "#999999", ":"),
    MethodEntry("value_model", "Value model", value_model, "token", "#CC79A7", "--"),
    MethodEntry("judge", "LLM-as-a-judge", judge, "turn", "#009E73", "-."),
    MethodEntry("prime", "PRIME", prime, "token", "#E69F00", "-."),
    MethodEntry("itpo", "ITPO", itpo, "turn", "#56B4E9", "--"),
    MethodEntry("norm_itpo", "Norm-ITPO", norm_itpo, "turn", "#0072B2"),
)
METHODS: dict[str, MethodEntry] = {entry.name: entry for entry in _ENTRIES}


def known_methods() -> dict[str, MethodEntry]:
    """The methods of Table 1, and after them the rivals of :mod:`itpo.rivals`, which are no rows of it.

    >>> [name for name in known_methods() if name not in METHODS]
    ['mt_grpo', 'gigpo', 'istar', 'progress', 'equal_share', 'signed_norm_itpo']
    """
    from itpo.rivals import RIVALS  # whose functions are made of these

    return METHODS | RIVALS


def get_method(name: str) -> MethodEntry:
    """Look a method up by name, of Table 1 or of :mod:`itpo.rivals`; a reader's own, ``module:name``, is imported.

    Raises ValueError for an unknown name, listing the known ones.

    >>> get_method("itpo").label
    'ITPO'
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        entry = getattr(importlib.import_module(module), attribute)
        if not isinstance(entry, MethodEntry):
            raise ValueError(f"{name} is a {type(entry).__name__}: name a MethodEntry")
        return entry
    known = known_methods()
    if name not in known:
        raise ValueError(
            f"unknown method {name!r}; choose one of {', '.join(known)}, or module:name of your own"
        )
    return known[name]


def attribute(name: str, **signals: Any) -> Float[Tensor, "B T"]:
    """Compute the rewards of the method called `name` from whatever signals and options it declares.

    A method's function is called with those of `signals` that are among its parameters. Others are left aside,
    so that a training loop can offer every signal it has to any method. Raises ValueError for an unknown name, or for a
    signal that the method needs and that was not passed.

    >>> rewards, ids = torch.ones(1, 3), torch.tensor([[0, 0, -1]])
    >>> attribute("itpo", token_rewards=rewards, turn_ids=ids, outcome=torch.ones(1)).tolist()
    [[0.0, 2.0, 0.0]]
    """
    parameters = inspect.signature(get_method(name).function).parameters
    missing = [key for key, p in parameters.items() if p.default is p.empty and key not in signals]
    if missing:
        raise ValueError(
            f"method {name!r} needs {', '.join(missing)}, got only {', '.join(signals) or 'nothing'}; "
            "pass what is missing by keyword"
        )
    return get_method(name).function(**{key: signals[key] for key in parameters if key in signals})
