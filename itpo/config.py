"""Frozen configurations: one method of Table 1, one run. Every value says where it comes from.

Marks: [P] paper, [C] the authors' released code, [S] secondary sources, [O] our own choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from itpo.advantages import BASELINES
from itpo.attribution import get_row
from itpo.backbone import Adapter
from itpo.data import FORMATS
from itpo.embedded import EmbeddedModel
from itpo.estimators import ESTIMATORS, get_estimator
from itpo.judges import FAILURES
from itpo.pretrained import PretrainedModel
from itpo.prm import SCALES
from itpo.tasks import PROSE, REGIMES, TASKS, get_task
from itpo.turns import REDUCTIONS


def check(name: str, right: bool, value: object, wanted: str) -> None:
    """Raise a ``ValueError`` that names a setting, its value and what it must be, unless it is right.

    >>> check("beta", -1.0 > 0, -1.0, "above 0")
    Traceback (most recent call last):
        ...
    ValueError: beta is -1.0; it must be above 0
    """
    if not right:
        raise ValueError(f"{name} is {value!r}; it must be {wanted}")


@dataclass(frozen=True)
class Method:
    """A row of Table 1 with the settings that belong to it."""

    row: str
    coef: float = 5.0  # weight of the row's own rewards; 5 in the released math runs [C]
    outcome_coef: float = 0.0  # weight of the outcome as a second source; 5 with ITPO on the medical task [C]
    beta: float = 0.2  # eq. (2)-(3) [O]; 0.05 ITPO, 0.01 Norm-ITPO in the released math runs [C]
    eta: float = 0.4  # eq. (5) [C], there on rescaled rewards with the reduction "length_normalized"
    policy_lr: float = 1e-3  # LoRA at 170 k parameters [O]; full fine-tuning of 3 B parameters used 1e-6 [C]
    reduction: str = "sum"  # eq. (4); the released softmax takes "length_normalized" [C]
    scale: str = "paper"  # token rewards of (2) as they are, or "released": the last one dropped, then batch-rescaled [C]

    def __post_init__(self) -> None:
        row = get_row(self.row)
        check("reduction", self.reduction in REDUCTIONS, self.reduction, f"one of {', '.join(REDUCTIONS)}")
        check("scale", self.scale in SCALES, self.scale, f"one of {', '.join(SCALES)}")
        for name in ("coef", "beta", "eta", "policy_lr"):
            check(name, getattr(self, name) > 0, getattr(self, name), "above 0")
        if self.outcome_coef and row.carries_outcome:
            raise ValueError(
                f"row {row.name!r} pays the outcome itself: outcome_coef must be 0, not {self.outcome_coef}"
            )


@dataclass(frozen=True)
class RealData:
    """Real examples, and how long users and judges may speak, both played by the policy's own base (see :mod:`itpo.cast`).

    ``source`` is what :func:`itpo.data.load_examples` takes. Raises ``ValueError`` for an unknown format or numbers below 1.
    """

    format: str
    source: str | None = None
    count: int = 500  # examples, the first ones of the source [S]
    user_tokens: int = 256  # of a user's reply, its thought included [O]
    judge_tokens: int = 2048  # a judge of documents copies one [O]

    def __post_init__(self) -> None:
        check("format", self.format in FORMATS, self.format, f"one of {', '.join(sorted(FORMATS))}")
        for name in ("count", "user_tokens", "judge_tokens"):
            check(name, getattr(self, name) >= 1, getattr(self, name), "at least 1")


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run, and nothing else: equal configurations give equal numbers on a CPU."""

    method: Method
    seed: int
    steps: int
    task: str = "math"
    data: RealData | None = None  # examples of the real task; without, the embedded one
    model: EmbeddedModel | PretrainedModel = field(default_factory=EmbeddedModel)
    adapter: Adapter = field(default_factory=Adapter)
    max_turn_tokens: int = 24  # of one assistant turn [O]
    prompts: int = 16  # per step [C]
    rollouts: int = 8  # per prompt [C]
    estimator: str = "rloo"  # the only one of the released code [C]
    baseline: str = "released"  # of RLOO [C]
    gamma: float = 1.0  # of GAE (PPO), over assistant tokens [S]
    lam: float = 1.0  # of GAE [S]
    length_penalty: float = 5e-6  # lambda, per token after the prompt [S]
    policy_minibatches: int = 4  # per step [C]
    policy_clip_norm: float = 1.0  # gradient norm [O]
    clip: float = 0.2  # of the surrogate [C]
    kl_coef: float = 1e-3  # k3 [C]
    entropy_coef: float = 1e-3  # [C]
    prm_lr: float = 1e-3  # [O]; 1e-6 [C]
    prm_minibatches: int = 8  # "many small" [C]; the number is ours [O]
    prm_clip_norm: float = 10.0  # [C]
    critic_lr: float = 2e-3  # PPO [O]
    critic_minibatches: int = 16  # more learn faster, fewer hardly learn within a run [O]
    critic_clip_norm: float = 10.0  # as the PRM's [O]
    value_clip: float = 0.2  # largest step of a value, in units of the outcome [O]
    warmup: int = 10  # batches of reference rollouts to teach PRM and critic before the first step [O]
    judge_error: float = 0.2  # share of the scripted judge's scores that are wrong [O]
    judge_retries: int = 2  # further attempts where a judge fails or answers nonsense [O]
    judge_failure: str = "drop"  # then: leave the dialogue out, or share its outcome equally ("uniform") [O]
    max_failed: float = 0.5  # share of a batch that may fail before the run stops [O]
    max_skipped: int = (
        10  # optimizer steps with a loss or gradient that is not finite before the run stops [O]
    )
    # What must fit into memory [O]; `python -m itpo plan` says what does. Changes no result beyond rounding, but for max_rows,
    # which changes the order of the sampler's draws.
    token_budget: int = 2048  # padded tokens of one forward pass
    head_chunk: int = 2048  # positions that have logits at a time
    max_rows: int = 512  # dialogues held at a time
    checkpointing: bool = False  # keep only the inputs of decoder layers for the backward pass
    eval_every: int = 10  # steps [O]
    eval_dialogues: int = 256  # fresh problems, the same for all runs [O]
    probe_dialogues: int = 64  # fixed reference rollouts whose rewards are kept over training [O]
    probe_every: int = 5  # steps [O]
    checkpoint_every: int = 10  # steps; 50 [C]

    def __post_init__(self) -> None:
        for name, known in (("estimator", ESTIMATORS), ("baseline", BASELINES), ("judge_failure", FAILURES)):
            check(name, getattr(self, name) in known, getattr(self, name), f"one of {', '.join(known)}")
        embedded = isinstance(self.model, EmbeddedModel)
        check(
            "data",
            self.data is None or not embedded,
            self.data,
            "None: an embedded model knows its task's words only",
        )
        if embedded and self.task.partition("_")[0] in REGIMES:
            get_task(self.task)  # says what is wrong with the settings in its name
        else:
            tasks = TASKS if embedded or self.data is not None else PROSE
            check("task", self.task in tasks, self.task, f"one of {', '.join(tasks)}")
        sizes = ["steps", "max_turn_tokens", "prompts", "rollouts"]
        sizes += ["token_budget", "head_chunk", "max_rows"]
        sizes += ["policy_minibatches", "prm_minibatches", "critic_minibatches"]
        sizes += ["eval_every", "eval_dialogues", "probe_dialogues", "probe_every", "checkpoint_every"]
        for name in sizes:
            check(name, getattr(self, name) >= 1, getattr(self, name), "at least 1")
        check("max_skipped", self.max_skipped >= 0, self.max_skipped, "at least 0")
        for name in ("gamma", "lam", "judge_error", "max_failed"):
            check(name, 0 <= getattr(self, name) <= 1, getattr(self, name), "between 0 and 1")
        if not allows(self.estimator, self.method.row):
            raise ValueError(
                f"row {self.method.row!r} needs the values of a critic, which {self.estimator!r} does not have: use ppo"
            )

    @property
    def code(self) -> tuple[str, ...]:
        """The modules that decide this run's numbers beside those of every run."""
        if self.data is not None:
            return ("base", "cast", "data", "endpoint_judge", "prompts", "replies", "tasks/real", "users")
        name, _, rest = self.task.partition("_")
        return (
            f"tasks/{name}",
            *(("base", "models", "pretrained", "tasks/prose") if rest == "prose" else ()),
        )


def allows(estimator: str, row: str) -> bool:
    """Whether an estimator can train a row: one that pays TD errors needs a critic.

    >>> allows("ppo", "value_model"), allows("rloo", "value_model"), allows("rloo", "itpo")
    (True, False, True)
    """
    return get_estimator(estimator).has_critic or not get_row(row).needs_values
