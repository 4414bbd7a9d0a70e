"""Configurations: what they list, that they cannot be changed, and that a run store can name them."""

import dataclasses
import itertools

import pytest

from itpo import attribution
from itpo.config import Method, RunConfig
from itpo.estimators import ESTIMATORS
from itpo.runs.store import Store
from itpo.specs import Imitation
from itpo.study.profiles import PROFILES, get_profile
from itpo.tasks.registry import PROSE, TASKS

EVERY_CONFIG = [config for profile in PROFILES.values() for config in profile.grid()]


def leaves(value, path=""):
    """Every field of nested dataclasses as (path, value)."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name), f"{path}.{field.name}")
    else:
        yield path, value


def test_unknown_profiles_and_rows_are_named_with_the_known():
    with pytest.raises(ValueError, match=f"unknown profile 'huge'; known profiles: {', '.join(PROFILES)}"):
        get_profile("huge")
    for profile in PROFILES.values():
        with pytest.raises(
            ValueError, match="unknown attribution 'nonsense'; choose one of trajectory_share"
        ):
            profile.config("nonsense", 0)


def test_a_row_that_the_profile_leaves_out_is_named_with_those_it_has():
    short = dataclasses.replace(get_profile("smoke"), methods=(Method("itpo"), Method("prime")))
    with pytest.raises(ValueError, match="profile 'smoke' has no row 'uniform'; it has: itpo, prime"):
        short.config("uniform", 0)


def test_the_grid_is_rows_by_seeds_rows_first():
    for profile in PROFILES.values():
        for estimator in ESTIMATORS:
            grid = profile.grid(estimator)
            rows = [m.name for m in profile.methods if estimator == "ppo" or m.name != "value_model"]
            seeds = profile.seeds if estimator == "rloo" else profile.estimator_seeds
            assert [(config.method.name, config.seed) for config in grid] == list(
                itertools.product(rows, seeds)
            )
            for config in grid:
                changes = {"method": config.method, "seed": config.seed, "estimator": estimator}
                assert config == dataclasses.replace(profile.run, **changes)
                assert config.method in profile.methods


def test_a_row_without_the_critic_it_needs_is_refused():
    with pytest.raises(ValueError, match="row 'value_model' needs the values of a critic.*use ppo"):
        get_profile("laptop").config("value_model", 0, "grpo")


def test_profiles_are_found_by_their_own_name():
    for name, profile in PROFILES.items():
        assert get_profile(name) is profile and profile.name == name and profile.summary


def test_rows_and_tasks_exist():
    for config in EVERY_CONFIG:
        assert config.method.name in attribution.METHODS and config.task in TASKS | PROSE
        assert len({m.name for m in get_profile("laptop").methods}) == len(get_profile("laptop").methods)


def test_configs_are_frozen_to_the_last_field():
    for config in EVERY_CONFIG:
        for part in (config, config.method, config.model, config.adapter):
            for field in dataclasses.fields(part):
                with pytest.raises(dataclasses.FrozenInstanceError):
                    setattr(part, field.name, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_profile("smoke").name = "other"


def test_every_field_is_plain_and_hashable():
    for config in EVERY_CONFIG:
        assert isinstance(hash(config), int)
        for path, value in leaves(config):
            assert value is None or isinstance(value, str | int | float | bool), path


def test_every_field_of_every_config_decides_the_folder_of_a_run(tmp_path):
    store = Store(tmp_path)
    assert len({store.open(config).folder for config in EVERY_CONFIG}) == len(set(EVERY_CONFIG))
    others = {"row": "prime", "reduction": "mean", "scale": "released", "baseline": "trajectory"}
    others |= {"estimator": "ppo", "judge_failure": "uniform", "gamma": 0.5, "lam": 0.5, "judge_error": 0.5}
    others |= {"max_failed": 0.25, "format": "gsm8k", "source": "a folder", "imitation": Imitation()}

    def changed(name, value):
        if name == "precision":
            return "full" if value == "nf4" else "nf4"
        return value + "x" if isinstance(value, str) else not value if isinstance(value, bool) else value + 1

    def variants(part):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name == "task" or (field.name == "data" and value is None):
                continue  # they go with the model, and a task's name decides the code that counts
            news = (
                variants(value)
                if dataclasses.is_dataclass(value)
                else [others.get(field.name) or changed(field.name, value)]
            )
            for new in news:
                yield dataclasses.replace(part, **{field.name: new})

    for profile in ("smoke", "smol", "consumer"):
        base = dataclasses.replace(get_profile(profile).run, method=Method("itpo"))
        folders = [store.open(config).folder for config in (base, *variants(base))]
        assert len(folders) > 30 and len(set(folders)) == len(folders)


def test_batches_can_be_split_as_the_profiles_say():
    for config in EVERY_CONFIG:
        assert config.rollouts >= 2  # leave-one-out needs another rollout
        assert config.prompts * config.rollouts >= max(config.policy_minibatches, config.prm_minibatches)
        assert config.steps % config.checkpoint_every == 0


def test_defaults_are_the_released_ones_where_they_are_marked_so():
    config = RunConfig(method=Method("norm_itpo"), seed=0, steps=1)
    assert (config.prompts, config.rollouts, config.policy_minibatches) == (16, 8, 4)
    assert (config.clip, config.kl_coef, config.entropy_coef, config.prm_clip_norm) == (0.2, 1e-3, 1e-3, 10.0)
    assert (config.method.coef, config.method.eta, config.length_penalty) == (5.0, 0.4, 5e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"row": "itpo", "reduction": "median"}, "reduction is 'median'; it must be one of sum"),
        ({"row": "itpo", "scale": "big"}, "scale is 'big'; it must be one of paper, released"),
        ({"row": "itpo", "eta": 0.0}, "eta is 0.0; it must be above 0"),
        ({"row": "norm_itpo", "outcome_coef": 5.0}, "outcome_coef must be 0"),
        ({"row": "chess"}, "unknown attribution 'chess'"),
    ],
)
def test_a_method_that_cannot_run_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Method(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"baseline": "none"},
        {"eval_every": 0},
        {"policy_minibatches": 0},
        {"estimator": "reinforce"},
        {"judge_failure": "zero"},
        {"lam": 1.5},
        {"max_failed": -0.1},
    ],
)
def test_a_run_that_cannot_run_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(get_profile("smoke").run, **wrong)
