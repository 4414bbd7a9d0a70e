"""Profiles: what they list, how a reader's own method or task joins them, and that a run store can name their configs."""

import dataclasses
import itertools

import pytest

from itpo.attribution import METHODS
from itpo.config import Estimator, Method, RunConfig, TaskSpec
from itpo.estimators import ESTIMATORS
from itpo.fields import Options
from itpo.runs.store import Store
from itpo.specs import TinyLM
from itpo.study.profiles import PROFILES, get_profile, get_real_profile
from itpo.tasks.registry import PROSE, TASKS

EVERY_CONFIG = [config for profile in PROFILES.values() for config in profile.grid()]


def leaves(value, path=""):
    """Every field of nested dataclasses as (path, value)."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name), f"{path}.{field.name}")
    else:
        yield path, value


def test_unknown_profiles_and_methods_are_named_with_the_known():
    with pytest.raises(ValueError, match=f"profile is 'huge'; it must be one of {', '.join(PROFILES)}"):
        get_profile("huge")
    with pytest.raises(
        ValueError, match="profile is 'laptop'.*smoke, smol, consumer, consumer_full, which have a pretrained"
    ):
        get_real_profile("laptop")
    short = dataclasses.replace(get_profile("smoke"), methods=(Method("itpo"), Method("prime")))
    wanted = "method of profile 'smoke' is 'uniform'; it must be one of itpo, prime, or added by with_method"
    with pytest.raises(ValueError, match=wanted):
        short.config("uniform", 0)
    with pytest.raises(ValueError, match="task is 'chess'; it must be one of math, documents, medical"):
        get_profile("smoke").on("chess")


def test_a_method_can_be_added_or_set_anew():
    smoke = get_profile("smoke")
    short = dataclasses.replace(smoke, methods=smoke.methods[:2])
    longer = short.with_method(Method("itpo", beta=0.5))
    assert longer.methods == (*short.methods, Method("itpo", beta=0.5))
    assert longer.config("itpo", 0).method.beta == 0.5 and len(longer.grid()) == 3 * len(smoke.seeds)
    changed = smoke.with_method(Method("itpo", beta=0.5))
    assert {m.name for m in changed.methods} == {m.name for m in smoke.methods}
    assert changed.config("itpo", 0).method.beta == 0.5


@pytest.mark.parametrize("task", TASKS)
def test_a_method_that_was_added_or_set_anew_stays_so_on_every_task(task):
    laptop = get_profile("laptop")
    on = laptop.with_method(Method("gigpo")).with_method(Method("itpo", beta=0.5)).on(task)
    assert on.config("gigpo", 100).method == Method("gigpo")
    assert on.config("itpo", 100).method == Method("itpo", beta=0.5)
    untouched = {m for m in laptop.on(task).methods if m.name != "itpo"}
    assert set(on.methods) == {*untouched, Method("gigpo"), Method("itpo", beta=0.5)}
    assert {config.method.name for config in on.grid()} >= {"gigpo", "itpo"}
    assert "gigpo" not in {m.name for m in laptop.on(task).methods}


def test_the_grid_is_methods_by_seeds_methods_first():
    for profile, estimator in itertools.product(PROFILES.values(), ESTIMATORS):
        grid = profile.grid(estimator)
        rows = [m.name for m in profile.methods if estimator == "ppo" or m.name != "value_model"]
        assert [(c.method.name, c.seed) for c in grid] == list(itertools.product(rows, profile.seeds))
        for config in grid:
            changes = {"method": config.method, "seed": config.seed, "estimator": Estimator(estimator)}
            assert config == dataclasses.replace(profile.run, **changes)
            assert config.method in profile.methods


def test_a_task_that_is_not_listed_has_the_methods_of_the_profiles_own():
    smoke = get_profile("smoke")
    corridor = smoke.on(TaskSpec("corridor", {"turns": 2, "pivots": 1}))
    assert corridor.methods == smoke.methods and corridor.run.task.options["turns"] == 2


def test_a_method_without_the_critic_it_needs_is_refused():
    with pytest.raises(ValueError, match="method 'value_model' needs the values of a critic.*use ppo"):
        get_profile("laptop").config("value_model", 0, "grpo")


def test_profiles_are_found_by_their_own_name_and_name_what_exists():
    for name, profile in PROFILES.items():
        assert get_profile(name) is profile and profile.name == name and profile.summary
        assert len({m.name for m in profile.methods}) == len(profile.methods)
    for config in EVERY_CONFIG:
        assert config.method.name in METHODS and config.task.name in (*TASKS, *PROSE)


def test_configs_are_frozen_to_the_last_field_plain_and_hashable():
    for config in EVERY_CONFIG:
        for spec in (config, config.method, config.task, config.model, config.adapter, config.estimator):
            for field in dataclasses.fields(spec):
                with pytest.raises(dataclasses.FrozenInstanceError):
                    setattr(spec, field.name, None)
        assert isinstance(hash(config), int)
        for path, value in leaves(config):
            assert value is None or isinstance(value, str | int | float | bool | Options), path
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_profile("smoke").name = "other"


# What a field is changed to where one more, or one letter more, is no allowed value.
OTHERS = {
    "method.options": {"reduction": "mean"},
    "method.scale": "released",
    "task.options": {"clear": 0.75},
    "task.format": "gsm8k",
    "task.source": "a folder",
    "task.lost": "zero",
    "task.unit": "words",
    "judge.error_rate": 0.5,
    "model.precision": "full",
    "model.hidden_size": 80,
    "model.heads": 2,
    "estimator.options": {"baseline": "trajectory"},
    "thought_tags": {"<aside>": "</aside>"},
    "judge_failure": "uniform",
    "correction": "sequence",
    "engine": "vllm",
    "engine_memory": 0.5,
    "max_failed": 0.25,
}
FIXED = (
    "name",
    "version",
    "prompts",
)  # inside: other names are in the grids, versions are those of what is shipped


def variants(spec, path=""):
    """The specification with one field changed, of its own or of a specification inside it; for every field in turn."""
    for field in dataclasses.fields(spec):
        value, name = getattr(spec, field.name), f"{path}{field.name}"
        if (path and field.name in FIXED) or (value is None and name not in OTHERS):
            continue
        if name == "engine" and isinstance(spec.model, TinyLM):  # which has one engine
            continue
        if name in OTHERS and OTHERS[name] != value:
            news = [OTHERS[name]]
        elif dataclasses.is_dataclass(value):
            news = variants(value, f"{field.name}.")
        else:
            news = [not value if isinstance(value, bool) else "nf4" if isinstance(value, str) else value + 1]
        yield from (dataclasses.replace(spec, **{field.name: new}) for new in news)


def test_every_field_of_every_config_decides_the_folder_of_a_run(tmp_path):
    store = Store(tmp_path)
    assert len({store.folder(config) for config in EVERY_CONFIG}) == len(set(EVERY_CONFIG))
    for profile in ("smoke", "smol", "consumer_full"):
        base = dataclasses.replace(get_profile(profile).run, method=Method("itpo"))
        folders = [store.folder(config) for config in (base, *variants(base))]
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
    assert (config.method.coef, config.method.options["temperature"], config.length_penalty) == (
        5.0,
        0.4,
        5e-6,
    )
