"""Names of runs: every field of a config that decides a number is in them, and nothing else."""

import dataclasses
import json
from typing import Any

import pytest

from itpo import losses
from itpo.config import Estimator, Method, RunConfig, TaskSpec, from_json
from itpo.runs.files import plain
from itpo.runs.store import Store
from itpo.specs import (
    Adapter,
    Custom,
    Endpoint,
    FrozenBase,
    Imitation,
    PretrainedModel,
    RealData,
    RuleJudge,
    TinyLM,
)

SERVER = Endpoint("http://127.0.0.1:8000/v1", "qwen")
SCRIPTED = RunConfig(Method("itpo"), seed=0, steps=1)
REAL = RunConfig(
    Method("itpo"),
    seed=0,
    steps=1,
    task=RealData("gsm8k"),
    user=SERVER,
    judge=dataclasses.replace(SERVER, temperature=0.0),
    model=PretrainedModel("some/model"),
)
PROSE = dataclasses.replace(
    SCRIPTED, task=TaskSpec("math_prose"), model=PretrainedModel("m", imitation=Imitation())
)


class Own:
    """A user or judge of a reader's own."""

    version = 1

    def __init__(self, patience: int = 1) -> None: ...


# Another value for what adding one, or half, does not make another allowed one.
OTHER: dict[str, Any] = {
    "method": Method("prime"),
    "task": TaskSpec("documents"),
    "judge": RuleJudge(0.0),
    "model": TinyLM(layers=2),
    "adapter": Adapter(2),
    "estimator": Estimator("grpo"),
    "judge_failure": "uniform",
    "correction": "sequence",
    "scale": "released",
    "precision": "nf4",
    "format": "collabllm-math",
    "source": "other.jsonl",
    "lost": "zero",
    "unit": "words",
    "accurate_from": 8.0,
    "cache": None,
    "hidden_size": 128,
    "heads": 8,
    "imitation": Imitation(steps=1),
    "url": "https://elsewhere/v1",
    "key_variable": "OTHER_KEY",
    "thought_tags": {"<thought>": "</thought>"},
}


def another(spec: Any, field: dataclasses.Field[Any]) -> Any:
    """The specification with another value of a field."""
    value = getattr(spec, field.name)
    if isinstance(value, bool):
        changed: Any = not value
    elif field.name in OTHER and not (field.name == "model" and isinstance(value, str)):
        changed = OTHER[field.name]
    elif isinstance(value, int | float):
        changed = value + 1 if isinstance(value, int) else value / 2 or 0.5
    elif isinstance(value, str):
        changed = value + "x"
    else:
        raise AssertionError(f"say what else {field.name} may be")
    return dataclasses.replace(spec, **{field.name: changed})


FIXED = ("prompts", "version", "judge.temperature")  # which have one allowed value


def variants(config: RunConfig, *only: str) -> dict[str, tuple[RunConfig, RunConfig]]:
    """The config, and the same with one field of its own or of a specification in it changed, by name of the field."""
    pairs = {}
    for outer in dataclasses.fields(config):
        if only and outer.name not in only:
            continue
        value = getattr(config, outer.name)
        for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
            name = f"{outer.name}.{field.name}"
            by_hand = field.name == "options" or (field.name == "name" and outer.name != "model")
            if field.name not in FIXED and name not in FIXED and not by_hand:
                pairs[name] = (config, dataclasses.replace(config, **{outer.name: another(value, field)}))
        if not only and outer.name not in ("user", "engine"):  # scripted tasks and tiny models have their own
            pairs[outer.name] = (config, another(config, outer))
    return pairs


CHANGES = {
    **variants(SCRIPTED),
    **variants(REAL, "task", "user", "judge"),
    **{f"prose {name}": pair for name, pair in variants(PROSE, "model").items()},
    "engine": (PROSE, dataclasses.replace(PROSE, engine="vllm")),
}
UNNAMED = {
    f"{who}.{name}"
    for who in ("user", "judge")
    for name in ("url", "concurrency", "timeout", "pause", "key_variable")
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_that_decides_a_number_names_the_run(name: str, tmp_path: Any) -> None:
    config, changed = CHANGES[name]
    folder = Store(tmp_path).folder
    assert changed != config and (folder(changed) == folder(config)) == (name in UNNAMED)
    assert from_json(json.loads(json.dumps(plain(changed, "config")))) == changed


def test_the_fields_that_were_tried_are_all_that_there_are() -> None:
    assert {f.name for f in dataclasses.fields(RunConfig)} - {"user"} <= CHANGES.keys()
    parts = {
        "method": Method,
        "user": Endpoint,
        "judge": Endpoint,
        "task": RealData,
        "model": TinyLM,
        "adapter": Adapter,
    }
    wanted = {f"{part}.{field.name}" for part, spec in parts.items() for field in dataclasses.fields(spec)}
    fixed = {f"{part}.{name}" for part in parts for name in ("prompts", "version", "options", "name")}
    assert wanted - fixed - set(FIXED) <= CHANGES.keys() >= {"judge.error_rate", "prose model.imitation"}


def test_parts_and_their_options_name_the_run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"{__name__}:Own"
    configs = [
        SCRIPTED,
        REAL,
        *(dataclasses.replace(SCRIPTED, task=TaskSpec(name)) for name in ("documents", "medical")),
        *(dataclasses.replace(SCRIPTED, task=TaskSpec("math", {"clear": clear})) for clear in (0.1, 0.9)),
        *(dataclasses.replace(SCRIPTED, method=Method("norm_itpo", {"temperature": t})) for t in (0.4, 1.0)),
        *(
            dataclasses.replace(SCRIPTED, estimator=Estimator("rloo", {"baseline": b}))
            for b in ("trajectory", "to_go")
        ),
        *(dataclasses.replace(SCRIPTED, judge=Custom(own, 1, {"patience": n})) for n in (1, 2)),
        *(dataclasses.replace(REAL, user=user) for user in (FrozenBase(8), FrozenBase(9), Custom(own, 1))),
    ]
    assert len({Store(tmp_path).folder(config) for config in configs}) == len(configs)
    with monkeypatch.context() as patch:
        patch.setattr(Own, "version", 2)
        again = dataclasses.replace(SCRIPTED, judge=Custom(own, 2, {"patience": 1}))
    assert Store(tmp_path).folder(again) not in {Store(tmp_path).folder(config) for config in configs}


def test_neither_the_platform_nor_a_message_nor_another_method_renames_a_run(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from itpo import attribution
    from itpo.runs import store

    before = Store(tmp_path).folder(SCRIPTED)
    monkeypatch.setattr(store, "numeric_platform", lambda: {"threads": 99})
    monkeypatch.setattr(losses, "_check_mask", lambda mask, values: None)  # an error, worded otherwise
    entry = dataclasses.replace(attribution.METHODS["itpo"], name="itpo_too")
    monkeypatch.setitem(attribution.METHODS, "itpo_too", entry)
    assert Store(tmp_path).folder(SCRIPTED) == before
    assert Store(tmp_path).folder(dataclasses.replace(SCRIPTED, method=Method("itpo_too"))) != before


def test_the_configs_of_every_profile_are_read_back_from_their_folders(tmp_path: Any) -> None:
    from itpo.study.profiles import PROFILES

    folders = {}
    for profile in PROFILES.values():
        for task in profile.settings:
            for estimator in ("rloo", "grpo", "ppo"):
                for config in profile.on(task).grid(estimator):
                    folders[Store(tmp_path).folder(config)] = config
    assert len(folders) > 100
    for folder, config in folders.items():
        run = Store(tmp_path).open(config)
        written = json.loads((run.folder / "config.json").read_text())
        assert run.folder == folder and from_json(written["config"]) == config
