"""Specifications: every bad value of every field is refused with its name and what is allowed, and all survive JSON."""

import dataclasses
import json
import math
import pickle
import sys
import types
import typing

import numpy as np
import pytest

from itpo.attribution import METHODS, MethodEntry, get_method, trajectory_share
from itpo.config import Estimator, Method, RunConfig, TaskSpec, from_json
from itpo.fields import Options
from itpo.runs.files import plain
from itpo.specs import (
    Adapter,
    Custom,
    Endpoint,
    FrozenBase,
    Imitation,
    PretrainedModel,
    RealData,
    RuleJudge,
    ScriptedUser,
    TinyLM,
)
from itpo.tasks.registry import NAMES, TaskEntry, get_task

pytestmark = pytest.mark.usefixtures("unchecked")  # beartype would refuse bad types before the library does


class Talker:
    """A user or judge of a reader's own."""

    version = 3

    def __init__(self, words=("hello",), shout=False):
        self.words, self.shout = words, shout


class Unstated:
    """One that states no version."""


@pytest.fixture(autouse=True)
def own_module(monkeypatch):
    """What a reader has in a module called ``own``."""
    own = types.ModuleType("own")
    own.Talker, own.Unstated, own.number = Talker, Unstated, 7
    own.method = MethodEntry("own:method", "Own", trajectory_share, "trajectory", version=2)
    own.unstated_method = MethodEntry("own:unstated_method", "Own", trajectory_share, "trajectory")
    own.task = TaskEntry("own:task", lambda clear=0.5: get_task("math", {"clear": clear}), "own", version=4)
    own.no_task = TaskEntry("own:no_task", lambda: Talker(), "own", version=1)
    monkeypatch.setitem(sys.modules, "own", own)


SERVER = Endpoint("http://127.0.0.1:8000/v1", "qwen", temperature=0.0)
REAL = {"task": RealData("gsm8k"), "user": FrozenBase(), "model": PretrainedModel("some/model")}
EXAMPLES = {
    "Method": Method("norm_itpo"),
    "Estimator": Estimator("ppo"),
    "TaskSpec": TaskSpec("corridor", {"turns": 6, "pivots": 2}),
    "RealData": RealData("gsm8k"),
    "RuleJudge": RuleJudge(),
    "FrozenBase": FrozenBase(),
    "Endpoint": SERVER,
    "TinyLM": TinyLM(),
    "Imitation": Imitation(),
    "PretrainedModel": PretrainedModel("some/model", imitation=Imitation()),
    "Adapter": Adapter(),
    "RunConfig": RunConfig(Method("norm_itpo"), seed=0, steps=1),
    "real RunConfig": RunConfig(Method("norm_itpo"), seed=0, steps=1, judge=SERVER, **REAL),
}


def custom():
    return Custom("own:Talker", 3, {"words": ["a", "b"], "shout": True})


FIELDS = [(name, field.name) for name, spec in EXAMPLES.items() for field in dataclasses.fields(spec)]
FIELDS += [("Custom", name) for name in ("name", "version", "options")]
BAD = [None, True, "", "seven", -1, 0, math.nan, math.inf, -math.inf, [1], (1,), {"a": 1}, 10**400]
BAD += [1.5, object(), np.float64(0.5), np.int64(1), b"bytes", {1: 2}, {"a": (1,)}, {"a": math.nan}, TinyLM]
NUMBERS = {int: "a whole number", float: "a finite number"}


def allowed(spec, name, value):
    """Whether a value suits a field, said anew from the field's type and bounds."""
    field = next(f for f in dataclasses.fields(spec) if f.name == name)
    hint = typing.get_type_hints(type(spec))[name]
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None:
        return type(None) in kinds
    if isinstance(value, bool):
        return bool in kinds
    if type(value) in (int, float):
        if not (type(value) in kinds or float in kinds) or not -(2**53) < value < 2**53:
            return int in kinds and type(value) is int and value > 0  # whole numbers have no largest
        bounds = field.metadata.get("bounds", {})
        low, above = bounds.get("at least {:g}"), bounds.get("above {:g}")
        high, below = bounds.get("at most {:g}"), bounds.get("below {:g}")
        within = (low is None or low <= value) and (high is None or value <= high)
        return within and (above is None or above < value) and (below is None or value < below)
    if type(value) is str:
        return str in kinds and value in (field.metadata.get("among") or ([value] if value else []))
    return False


# Fields whose values something else than type and range decides, with those of the bad values that suit them.
NAMED = {
    "name": ["seven"],
    "cache": ["seven", None],
    "version": [0],
    "options": [{"a": 1}],
    "format": [],
    "url": [],
}


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_bad_values_are_refused_with_the_fields_name_its_value_and_what_is_allowed(kind, field):
    spec = custom() if kind == "Custom" else EXAMPLES[kind]
    refused = 0
    for value in BAD:
        if value in NAMED[field] if field in NAMED else allowed(spec, field, value):
            continue
        with pytest.raises(ValueError) as caught:
            dataclasses.replace(spec, **{field: value})
        message = str(caught.value)
        assert field in message and "; it must be " in message, (value, message)
        assert repr(value) in message, (value, message)
        refused += 1
    assert refused >= 10


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_each_number_has_a_bound(kind, field):
    """What trained to the end without a word: norms, coefficients and counts below zero."""
    spec = custom() if kind == "Custom" else EXAMPLES[kind]
    if type(getattr(spec, field)) in (int, float):
        with pytest.raises(
            ValueError, match=f"^{field} is -1(.0)?; it must be (.*(above|at least) |0 for|1, the version)"
        ):
            dataclasses.replace(spec, **{field: -1})


def test_bounds_themselves():
    config = EXAMPLES["RunConfig"]
    for field in ("kl_coef", "entropy_coef", "length_penalty", "warmup", "max_failed", "max_skipped", "seed"):
        assert getattr(dataclasses.replace(config, **{field: 0}), field) == 0
    for field in ("prm_lr", "critic_lr", "policy_clip_norm", "prm_clip_norm", "clip", "value_clip", "steps"):
        with pytest.raises(ValueError, match=f"^{field} is 0.*; it must be"):
            dataclasses.replace(config, **{field: 0})
    with pytest.raises(
        ValueError, match="max_failed is 1.5; it must be a finite number at least 0 and at most 1"
    ):
        dataclasses.replace(config, max_failed=1.5)
    with pytest.raises(ValueError, match="judge_failure is 'keep'; it must be one of drop, uniform"):
        dataclasses.replace(config, judge_failure="keep")


def test_whole_numbers_stand_for_real_ones_and_are_written_alike():
    whole, real = Method("itpo", coef=5, beta=1), Method("itpo", coef=5.0, beta=1.0)
    assert whole == real and json.dumps(plain(whole, "")) == json.dumps(plain(real, ""))
    whole, real = (Method("norm_itpo", {"temperature": t}) for t in (1, 1.0))
    assert whole == real and json.dumps(plain(whole, "")) == json.dumps(plain(real, ""))
    whole, real = (TaskSpec("math", {"clear": t}) for t in (1, 1.0))
    assert whole == real and json.dumps(plain(whole, "")) == json.dumps(plain(real, ""))


def test_options_are_a_copy_that_nobody_changes():
    words = ["a"]
    spec = Custom("own:Talker", 3, {"words": words})
    words.append("b")
    assert spec.options == {"words": ["a"]} and hash(spec) == hash(Custom("own:Talker", 3, {"words": ["a"]}))
    for change in (lambda o: o.update(words=[]), lambda o: o.pop("words"), lambda o: o.clear()):
        with pytest.raises(TypeError, match="cannot be changed"):
            change(spec.options)
    with pytest.raises(TypeError, match="cannot be changed"):
        spec.options["words"] = []
    assert pickle.loads(pickle.dumps(spec)) == spec  # as a sweep sends it to a child process
    assert Options(a=1) != Options(a=1.0) != Options(a=True)  # which name different folders


@pytest.mark.parametrize(
    "value",
    [
        {"words": ("a",)},
        {"words": math.nan},
        {"words": np.float64(1)},
        {"words": {1: "a"}},
        {"words": {"class": "a"}},
    ],
    ids=str,
)
def test_options_that_json_cannot_hold_are_refused(value):
    with pytest.raises(ValueError, match="^options is .*; it must be a mapping of names"):
        Custom("own:Talker", 3, value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Custom("own:Unstated", 1), "own:Unstated states no version: give it a whole number"),
        (lambda: Custom("own:number", 1), "own:number states no version"),
        (lambda: Custom("own:Talker", 2), "version of own:Talker is 2; it must be the 3 that it states"),
        (lambda: Custom("own:Talker", 0), "version is 0; it must be a whole number at least 1"),
        (lambda: Custom("own:Nobody", 1), "own:Nobody cannot be imported"),
        (lambda: Custom("nowhere:Talker", 1), "nowhere:Talker cannot be imported.*write module:name"),
        (lambda: Custom(":Talker", 1), ":Talker cannot be imported"),
        (lambda: Custom("Talker", 1), "name is 'Talker'; it must be module:name of your own"),
        (
            lambda: Custom("__main__:Talker", 1),
            "__main__:Talker is part of a script or notebook.*move it to a module",
        ),
        (lambda: Custom("own:Talker", 3, {"volume": 1}), "options of own:Talker: .*'volume'"),
        (lambda: Method("own:unstated_method", version=1), "own:unstated_method states no version"),
        (
            lambda: Method("own:method", version=1),
            "version of own:method is 1; it must be the 2 that it states",
        ),
        (lambda: Method("own:method"), "version of own:method is 0; it must be the 2"),
        (lambda: Method("own:Talker", version=3), "own:Talker is a type: name a MethodEntry"),
        (lambda: Method("itpo", version=1), "version is 1; it must be 0 for 'itpo'"),
        (
            lambda: Method("gae"),
            "method is 'gae'; it must be one of trajectory_share, .*or module:name of your own",
        ),
        (
            lambda: Method("uniform", {"temperature": 1.0}),
            "method 'uniform' has no option 'temperature'; it has: concent",
        ),
        (lambda: Method("uniform", {"concentration": 0.0}), "options of method 'uniform': concentration"),
        (lambda: Method("itpo", {"reduction": "max"}), "options of method 'itpo': .*reduction"),
        (lambda: Estimator("a2c"), "estimator is 'a2c'; it must be one of rloo, grpo, ppo"),
        (
            lambda: Estimator("rloo", {"gamma": 1.0}),
            "estimator 'rloo' has no option 'gamma'; it has: baseline",
        ),
        (
            lambda: Estimator("ppo", {"gamma": "1"}),
            "option gamma of estimator 'ppo' is '1'; it must be a finite float",
        ),
        (lambda: Estimator("ppo", {"lam": 2.0}), "options of estimator 'ppo': lam"),
        (lambda: TaskSpec("own:task"), "version of own:task is 0; it must be the 4 that it states"),
        (
            lambda: TaskSpec("own:no_task", version=1),
            "task is 'own:no_task'; it must be a task with the members",
        ),
        (lambda: TaskSpec("own:task", {"vague": 1.0}, 4), "options of task 'own:task'"),
        (lambda: TaskSpec("maths"), "task is 'maths'; it must be one of math, documents"),
        (
            lambda: TaskSpec("math", {"clear": "yes"}),
            "option clear of task 'math' is 'yes'; it must be a finite float",
        ),
        (lambda: TaskSpec("own_task:Sized", version=3), "missing a required argument: 'size'; it has: size"),
        (lambda: TaskSpec("corridor", {"turns": "six"}), "option turns of task 'corridor' is 'six'"),
        (lambda: RealData("xml"), "format is 'xml'; it must be one of .*gsm8k"),
        (
            lambda: TinyLM(hidden_size=20, heads=4),
            "hidden_size is 20; it must be a multiple of twice the 4 heads",
        ),
        (lambda: FrozenBase(prompts=0), "prompts is 0; it must be 1, the version of the prompts"),
        (lambda: PretrainedModel("some/model", "int8"), "precision is 'int8'; it must be one of full, nf4"),
        *[
            (lambda url=url: Endpoint(url, "qwen"), "url is .*; it must be an address such as")
            for url in (
                "localhost:8000",
                "ftp://host",
                "http://",
                "http://[::1",
                "http://host:99999",
                "http://me:key@host",
            )
        ],
        (
            lambda: Endpoint("http://host", "qwen", cache="../replies"),
            "cache is '../replies'; it must be a name of letters",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_and_says_why(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def config(**changes):
    return RunConfig(**{"method": Method("itpo"), "seed": 0, "steps": 1} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"estimator": Estimator("grpo"), "method": Method("itpo", outcome_coef=1.0)},
            "outcome_coef is 1.0 and coef is 5.0",
        ),
        (
            {"method": Method("value_model")},
            "method 'value_model' needs the values of a critic, which 'rloo' lacks",
        ),
        ({"task": REAL["task"]}, "model is TinyLM.*; it must be a PretrainedModel without imitation"),
        (
            REAL | {"model": PretrainedModel("m", imitation=Imitation())},
            "model is .*; it must be .*without imitation",
        ),
        (
            REAL | {"user": ScriptedUser()},
            "user is ScriptedUser.*; it must be FrozenBase, Endpoint or Custom",
        ),
        (
            REAL | {"method": Method("judge")},
            "judge is RuleJudge.*; it must be FrozenBase, .*: real data has no rules",
        ),
        (REAL | {"task": RealData("gsm8k", judged=True)}, "judge is RuleJudge.*; it must be FrozenBase"),
        (REAL | {"task": RealData("mtmeddialog")}, "judge is RuleJudge.*; it must be FrozenBase"),
        (
            REAL | {"judge": dataclasses.replace(SERVER, temperature=1.0)},
            "judge is .*; it must be an Endpoint of temp",
        ),
        ({"user": FrozenBase()}, "user is FrozenBase.*; it must be ScriptedUser"),
        ({"judge": SERVER}, "judge is Endpoint.*; it must be RuleJudge or Custom"),
        ({"model": PretrainedModel("m")}, "task is 'math'; it must be one of math_prose"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_grpo_takes_weights_that_it_does_not_cancel():
    for outcome_coef in (0.0, 5.0):
        config(estimator=Estimator("grpo"), method=Method("itpo", outcome_coef=outcome_coef))
    with pytest.raises(
        ValueError, match="outcome_coef is 5.0; it must be 0: the rewards of 'norm_itpo' are shares"
    ):
        Method("norm_itpo", outcome_coef=5.0)


def test_a_subclass_of_a_specification_could_not_be_read_back_and_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Wide(Adapter):
        factor: int = 2

    with pytest.raises(ValueError, match="adapter is .*Wide.*; it must be Adapter"):
        config(adapter=Wide())


def test_readers_own_parts_are_taken():
    made = config(
        method=Method("own:method", version=2), task=TaskSpec("own:task", {"clear": 0.9}, 4), judge=custom()
    )
    assert made.method.entry is get_method("own:method") and made.task.build().clear == 0.9
    assert from_json(json.loads(json.dumps(plain(made, "config")))) == made


SPECS = [*EXAMPLES.values(), *(Method(name) for name in METHODS), ScriptedUser(), config(user=ScriptedUser())]
SPECS += [TaskSpec(name) for name in NAMES if name != "corridor"]
SPECS += [
    config(judge=SERVER, **REAL),
    dataclasses.replace(SERVER, url="https://other/v1", timeout=1.0, cache=None),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_specifications_are_read_back_equal(spec):
    read = from_json(json.loads(json.dumps(plain(spec, "spec"), allow_nan=False)))
    assert read == spec and hash(read) == hash(spec)
    assert json.dumps(plain(read, "spec")) == json.dumps(plain(spec, "spec"))


def test_what_another_version_of_the_library_wrote_is_refused():
    written = plain(Adapter(), "adapter")
    for change in ({"class": "Adaptor"}, {"dropout": 0.1}):
        with pytest.raises(ValueError, match="it was written by another version of the library"):
            from_json(written | change)
    with pytest.raises(ValueError, match="rank is 0; it must be a whole number at least 1"):
        from_json(written | {"rank": 0})
