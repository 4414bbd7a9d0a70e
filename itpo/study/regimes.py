"""The map of regimes: in which dialogues is turn-wise credit worth more than trajectory-share's?

One task, :mod:`itpo.tasks.corridor`, whose dialogues have a fixed length, so that nothing but the number and place of the
turns that matter differs: more turns, more pivots (sparser success), other places of the pivots, fewer rollouts a prompt. Each
cell is a measurement of the gradient microscope after a few steps of training. Its judge never errs: it splits an outcome
equally over the pivots.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from itpo.config import Method, RunConfig, TaskSpec
from itpo.fields import Options, check
from itpo.specs import RuleJudge, TinyLM
from itpo.study.measured import measured_methods
from itpo.study.microscope import SEED, MicroscopeConfig
from itpo.tasks.corridor import POSITIONS

METHODS = (
    *("trajectory_share", "equal_share", "norm_itpo", "norm_itpo_to_go", "signed_norm_itpo", "itpo", "prime"),
    *("sure_judge", "sure_judge_to_go", "mt_grpo", "gigpo", "istar"),
)
Setting = tuple[str, str]  # a group of settings, and the one of it


@dataclass(frozen=True)
class RegimeGrid:
    """The cells of a map: ``run`` is the one in the middle, whose neighbours differ from it in one group of settings.

    Every number of ``turns`` is there with every number of ``pivots``, at first; ``positions`` and ``rollouts`` (a prompt, as
    many dialogues in all) are slices through the middle.
    """

    name: str
    run: RunConfig
    turns: tuple[int, ...]
    pivots: tuple[int, ...]
    positions: tuple[str, ...]
    rollouts: tuple[int, ...]
    policy_steps: int
    batches: int

    def cells(self) -> dict[Setting, MicroscopeConfig]:
        """Every cell by its group and setting; the middle of the map is in each group.

        >>> cells = get_regime_grid("laptop").cells()
        >>> len(cells), len(set(cells.values())), list(cells)[3]
        (16, 14, ('length and pivots', '9 turns, 2 pivots'))
        """
        cells = {
            ("length and pivots", f"{turns} turns, {pivots} pivots"): self._on(turns=turns, pivots=pivots)
            for turns in self.turns
            for pivots in self.pivots
        }
        assert isinstance(self.run.task, TaskSpec)
        middle = self.run.task.options
        cells |= {("place", place): self._on(**{**middle, "position": place}) for place in self.positions}
        dialogues = self.run.prompts * self.run.rollouts
        for count in self.rollouts:
            run = replace(self.run, rollouts=count, prompts=dialogues // count)
            cells["rollouts a prompt", str(count)] = self._measured(run)
        return cells

    def _on(self, **options: int | str) -> MicroscopeConfig:
        return self._measured(replace(self.run, task=TaskSpec("corridor", Options(options))))

    def _measured(self, run: RunConfig) -> MicroscopeConfig:
        return MicroscopeConfig(run, self.policy_steps, measured_methods(run, METHODS), self.batches)


BASE = TinyLM(48, layers=2, heads=4, steps=1500, dialogues_per_step=8, learning_rate=4e-3)
LAPTOP = RegimeGrid(
    name="laptop",
    run=RunConfig(
        method=Method("norm_itpo", policy_lr=2e-3, beta=0.2),
        seed=SEED,
        steps=4,
        task=TaskSpec("corridor", Options(turns=9, pivots=3)),
        model=BASE,
        max_turn_tokens=6,
        prompts=32,
        rollouts=4,
        warmup=5,
        judge=RuleJudge(error_rate=0.0),
    ),
    turns=(6, 9, 12),
    pivots=(2, 3, 4),
    positions=POSITIONS,
    rollouts=(2, 4, 8, 16),
    policy_steps=4,
    batches=24,
)
SMOKE = replace(
    LAPTOP,
    name="smoke",
    run=replace(
        LAPTOP.run,
        task=TaskSpec("corridor", Options(turns=3, pivots=2)),
        model=replace(BASE, steps=50),
        prompts=4,
        warmup=1,
    ),
    turns=(2, 3),
    pivots=(1, 2),
    positions=("early", "late"),
    rollouts=(2, 4),
    policy_steps=1,
    batches=4,
)
REGIME_GRIDS = {grid.name: grid for grid in (SMOKE, LAPTOP)}


def get_regime_grid(name: str) -> RegimeGrid:
    """The map of the profile called ``name``; raises ``ValueError`` listing those that have one otherwise.

    >>> get_regime_grid("laptop").run.task.options["turns"]
    9
    """
    wanted = f"one of {', '.join(REGIME_GRIDS)}, which have a map of regimes"
    check("profile", name in REGIME_GRIDS, name, wanted)
    return REGIME_GRIDS[name]
