"""How the trainer joins its parts: what is drawn from which stream, who learns from what, and where each setting ends up.

Real runs of a tiny model are watched, not imitated: every call that a test looks at did its work.
"""

import copy
import dataclasses
import functools
import inspect
from collections import Counter
from typing import Any, NamedTuple

import jaxtyping
import pytest
import torch

from itpo import estimators, losses, prm, trainer
from itpo.config import Estimator, Method, RunConfig, TaskSpec
from itpo.models.tiny import load
from itpo.rollout.seeding import seeded
from itpo.runs.store import Run, Store
from itpo.specs import Adapter, RuleJudge, TinyLM
from itpo.tasks.judging import JudgeError
from itpo.training import build, evaluation, learner
from itpo.training.environments import Environments
from itpo.training.learner import DialoguesLost, Learner
from itpo.training.profiling import Timer

# No two settings of a kind are equal, and none has its default.
CONFIG = RunConfig(
    method=Method("norm_itpo", {"temperature": 0.9}, policy_lr=3e-3, beta=0.3),
    seed=0,
    steps=5,
    judge=RuleJudge(0.35),
    model=TinyLM(hidden_size=32, layers=1, heads=2, steps=80, dialogues_per_step=12),
    adapter=Adapter(2, 4),
    estimator=Estimator("ppo", {"gamma": 0.9, "lam": 0.7}),
    max_turn_tokens=11,
    thought_tags={"<hush>": "</hush>"},
    thought_credit=False,
    prompts=3,
    rollouts=4,
    length_penalty=1e-3,
    policy_minibatches=2,
    policy_clip_norm=1.5,
    clip=0.17,
    kl_coef=0.02,
    entropy_coef=0.03,
    prm_lr=2e-3,
    prm_minibatches=3,
    prm_clip_norm=2.5,
    critic_lr=4e-3,
    critic_minibatches=4,
    critic_clip_norm=3.5,
    value_clip=0.27,
    warmup=2,
    token_budget=300,
    head_chunk=70,
    max_rows=7,
    eval_every=3,
    eval_dialogues=5,
    monitor_dialogues=6,
    monitor_every=4,
    checkpoint_every=2,
)
NEEDS_NOTHING = {"method": Method("uniform", {"concentration": 3.0}), "estimator": Estimator("rloo")}


class Call(NamedTuple):
    """A call that was made, with what it was given as it was then, and what it returned."""

    name: str
    given: dict[str, Any]
    result: Any


class Calls(list[Call]):
    """What was called, in order."""

    def of(self, name: str) -> list[Call]:
        return [call for call in self if call.name == name]

    def watch(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)
        static = isinstance(inspect.getattr_static(owner, name), staticmethod)

        def call(*args: Any, **options: Any) -> Any:
            given = inspect.signature(real).bind(*args, **options)
            given.apply_defaults()
            before = {k: copy.deepcopy(v) if k == "rngs" else v for k, v in given.arguments.items()}
            self.append(made := Call(name, before, None))
            result = real(*args, **options)
            self[next(i for i, other in enumerate(self) if other is made)] = made._replace(result=result)
            return result

        patch.setattr(owner, name, staticmethod(call) if static else call)


PARTS = {
    Learner: (
        "collect",
        "log_probs",
        "update_prm",
        "signals",
        "update_critic",
        "update_policy",
        "_minibatches",
        "_step",
    ),
    learner: ("rollout", "micro_batches", "judge_dialogues"),
    trainer: ("reward_sources", "estimate", "training_step", "observe", "hold"),
    evaluation: ("hold",),
    losses: ("clipped_surrogate", "kl_k3", "value_loss", "clip_fraction"),
    prm: ("outcome_loss", "token_rewards", "implicit_return", "rescale"),
    torch.nn.utils: ("clip_grad_norm_",),
    Run: ("log", "checkpoint"),
}


def watched(patch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    for owner, names in PARTS.items():
        for name in names:
            calls.watch(patch, owner, name)
    return calls


@pytest.fixture(scope="module", autouse=True)
def fast():
    """Without the checks of shapes, which take longer than the training; other tests train with them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def store(fast, tmp_path_factory):
    """A run store that has the base model."""
    store = Store(tmp_path_factory.mktemp("wiring"))
    build.base_model(CONFIG, store)
    return store


@pytest.fixture(scope="module")
def runs(store):
    """Trains once, when asked for: a run in which everything learns, or one without PRM and critic; gives (run, calls)."""

    @functools.cache
    def train(name, seed):
        config = dataclasses.replace(CONFIG, seed=seed, **(NEEDS_NOTHING if name == "nothing" else {}))
        run = store.open(config)
        with pytest.MonkeyPatch.context() as patch:
            calls = watched(patch)
            trainer.train(config, run)
        return run, calls

    return train


@pytest.fixture
def four(runs):
    """Two seeds of each."""
    return {(name, seed): runs(name, seed) for name in ("all", "nothing") for seed in (0, 1)}


def training_batches(calls):
    """(stream, batch) of every batch that was learned from."""
    return [(c.given["stream"], c.result[1]) for c in calls.of("collect") if not c.given["evaluate"]]


def evaluated(calls):
    """(call, adapter, dialogues) of all that was measured; what the reference says may have been held by another run."""
    held = [(c, None, c.result.dialogues) for c in calls.of("hold")]
    spoken = [(c, c.given["adapter"], c.result[0]) for c in calls.of("collect") if c.given["adapter"]]
    return [each for each in held + spoken if each[0].given["evaluate"]]


# Randomness


def test_every_batch_of_every_seed_is_another(runs):
    """Neither do seeds share a warm-up, nor steps their dialogues."""
    for name, expected in (("all", 2 + 5), ("nothing", 5)):
        streams, batches = zip(
            *(b for seed in (0, 1) for b in training_batches(runs(name, seed)[1])), strict=True
        )
        assert len(streams) == 2 * expected == len(set(streams))
        assert len({tuple(batch.input_ids.flatten().tolist()) for batch in batches}) == 2 * expected


def test_every_step_of_every_seed_draws_its_own_split(runs):
    """The row "uniform decomposition" would otherwise give each position in the batch the same weights for ever."""
    generators = [
        call.given["generator"].initial_seed()
        for seed in (0, 1)
        for call in runs("nothing", seed)[1].of("reward_sources")
    ]
    assert len(generators) == 2 * 5 == len(set(generators))


def test_every_update_draws_its_own_minibatches(runs):
    drawn = [call.given["stream"] for seed in (0, 1) for call in runs("all", seed)[1].of("_minibatches")]
    assert len(drawn) == 2 * (2 * 2 + 5 * 3) == len(set(drawn))


def test_every_dialogue_of_every_batch_has_a_user_of_its_own(runs):
    """Also those of one prompt: their users say different things."""
    held = [
        c.given
        for seed in (0, 1)
        for c in runs("all", seed)[1].of("rollout")
        if len(c.given["examples"]) == 12
    ]
    assert len(held) == 2 * 7
    assert len({rng.getstate() for given in held for rng in given["rngs"]}) == 2 * 7 * 12
    assert len({given["generator"].initial_seed() for given in held}) == 2 * 7  # of the policy's own draws
    assert len({tuple(given["examples"]) for given in held}) == 2 * 7
    for given in held:
        groups = [given["examples"][i : i + 4] for i in range(0, 12, 4)]
        assert all(group == group[:1] * 4 for group in groups)


def test_every_dialogue_has_a_judge_of_its_own(store):
    """With one stream for all, a judge would err at the same turns in every step."""
    some = build.build_learner(
        dataclasses.replace(CONFIG, method=Method("judge"), estimator=Estimator("rloo")), store
    )
    with pytest.MonkeyPatch.context() as patch:
        calls = watched(patch)
        for stream in ("0/0", "0/1"):
            trainer.training_step(some, stream, Timer())
    judged = [call.given for call in calls.of("judge_dialogues")]
    assert len({rng.getstate() for given in judged for rng in given["rngs"]}) == 2 * 12
    assert [given["retries"] for given in judged] == [2, 2]


def test_measurements_are_on_the_same_problems_for_all_runs_and_steps(runs, four):
    seen = Counter()
    for (name, _), (run, calls) in four.items():
        for call, _, dialogues in evaluated(calls):
            seen[call.given["stream"], tuple(dialogue.example for dialogue in dialogues)] += 1
        if name == "nothing":  # neither PRM nor critic looks at a monitor set
            assert not run.monitor()
            continue
        (monitored,) = [c.result.batch for c in calls.of("hold") if c.given["stream"] == "probe"]
        assert torch.equal(monitored.input_ids, runs("all", 0)[0].monitor()[0][1]["input_ids"])
    assert {stream: count for (stream, _), count in seen.items()} == {
        "probe": 2,
        "evaluation": 4 * 3,
        "final": 4 * 2,
    }


# Who speaks, who learns, and in which order


def test_what_is_measured_of_whom(runs):
    run, calls = runs("all", 0)
    measured = Counter(
        (c.given["stream"], adapter, c.given["prompts"], c.given["rollouts"], c.given.get("greedy", False))
        for c, adapter, _ in evaluated(calls)
    )
    assert measured == {
        ("probe", None, 6, 1, False): 1,
        ("evaluation", None, 5, 1, False): 1,  # before training the policy is the reference
        ("evaluation", "policy", 5, 1, False): 2,
        ("final", "policy", 10, 1, False): 1,
        ("final", "policy", 10, 1, True): 1,
    }
    assert [call.given["sampling"].greedy for call in calls.of("rollout")].count(True) == 1
    greedy = next(c for c in calls.of("collect") if c.given["greedy"]).result[1]
    sampled = next(c for c in calls.of("collect") if c.given["stream"] == "final").result[1]
    expected = evaluation.describe(sampled) | {"greedy_success": evaluation.describe(greedy)["success"]}
    assert run.summary() == expected


def test_the_reference_speaks_in_the_warm_up_and_the_policy_in_training(runs):
    collected = [call.given for call in runs("all", 1)[1].of("collect") if not call.given["evaluate"]]
    assert [(given["stream"], given["adapter"]) for given in collected] == [
        ("1/warmup/0", None),
        ("1/warmup/1", None),
        *((f"1/{step}", "policy") for step in range(5)),
    ]
    assert {(given["prompts"], given["rollouts"], given["greedy"]) for given in collected} == {(3, 4, False)}


LEARNING = (
    "collect",
    "update_prm",
    "signals",
    "reward_sources",
    "estimate",
    "update_critic",
    "update_policy",
    "log",
)


def test_algorithm_1_in_its_order(runs):
    """In the warm-up PRM and critic learn, and the policy does not; then the PRM learns before its rewards are computed."""
    calls = runs("all", 0)[1]
    steps = [call.given["stream"] for call in calls.of("training_step")]
    assert steps == ["0/warmup/0", "0/warmup/1", "0/0", "0/1", "0/2", "0/3", "0/4"]
    measured = [
        call
        for call in calls
        if call.given.get("evaluate") or "eval_success" in call.given.get("metrics", {})
    ]
    order = [call.name for call in calls if call.name in LEARNING and call not in measured]
    taught = [name for name in LEARNING if name not in ("update_policy", "log")]
    assert order == taught * 2 + ["log"] * 2 + list(LEARNING) * 5
    names = [call.name for call in runs("nothing", 0)[1]]
    assert names.count("training_step") == names.count("update_policy") == 5  # no warm-up of nothing


def test_each_part_is_given_what_the_last_one_made(runs):
    calls = runs("all", 0)[1]
    for step in range(5):
        at = {name: calls.of(name)[step + 2 * (name != "update_policy")] for name in LEARNING[1:-1]}
        stream, batch = training_batches(calls)[step + 2]
        credit = at["estimate"].result
        for name in ("update_prm", "signals", "update_critic", "update_policy"):
            assert at[name].given["stream"] == stream and at[name].given["batch"] is batch, name
        values = at["signals"].result[1]["values"]
        assert (
            at["update_critic"].given["values"] is values
            and at["estimate"].given["signals"]["values"] is values
        )
        assert at["update_critic"].given["targets"] is credit.value_targets
        assert at["update_policy"].given["advantage"] is credit.advantages
        assert at["estimate"].given["sources"] is at["reward_sources"].result
        assert at["reward_sources"].given["signals"] is at["signals"].result[1]


def test_the_reference_is_the_base_without_adapters(runs, store):
    """Also after the policy has moved; the KL, the PRM and the monitor set's readings are all against it."""
    run, calls = runs("all", 0)
    base = load(build.base_model(CONFIG, store))[0]

    def check(reference, batch):
        logits = base(batch.input_ids).logits[:, :-1].detach().log_softmax(-1)
        expected = logits.gather(2, batch.input_ids[:, 1:, None]).squeeze(2) * batch.response_mask[:, 1:]
        torch.testing.assert_close(reference[:, 1:], expected, atol=1e-5, rtol=1e-5)

    for name in ("update_prm", "signals", "update_policy"):
        for call in calls.of(name):
            check(call.given["reference"], call.given["batch"])
    check(
        calls.of("observe")[-1].given["monitor_set"].reference,
        calls.of("observe")[-1].given["monitor_set"].batch,
    )
    moved = calls.of("update_policy")[-1].given
    assert (moved["batch"].sampled_logp - moved["reference"]).abs().max() > 0.01


def test_the_kl_pulls_the_policy_to_the_reference(store):
    """With nothing but the KL to learn from, a policy that has left the reference comes back.

    It learns from one batch of its own: between batches of 12 dialogues the KL varies by as much as it falls.
    """
    changes = NEEDS_NOTHING | {"method": Method("uniform", policy_lr=3e-3), "policy_minibatches": 1}
    config = dataclasses.replace(CONFIG, kl_coef=10.0, entropy_coef=0.0, **changes)
    some = build.build_learner(config, store)
    for key, parameter in some.backbone.parameters("policy").items():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.5, generator=seeded(key))
    _, batch = some.collect("0", 3, 4, "policy")
    reference = some.log_probs(batch, None)
    nothing = torch.zeros_like(reference)
    distances = [some.update_policy(batch, nothing, reference, f"{step}")["kl"] for step in range(14)]
    assert distances[0] > 0.1 and distances[-1] < 0.7 * distances[0]


# Where each setting ends up


def test_each_adapter_has_its_own_minibatches_clipping_and_learning_rate(runs, store):
    calls = runs("all", 0)[1]
    assert {c.given["stream"][1]: c.given["count"] for c in calls.of("_minibatches")} == {
        "prm": 3,
        "critic": 4,
        "policy": 2,
    }
    assert {c.given["name"]: c.given["clip_norm"] for c in calls.of("_step")} == {
        "prm": 2.5,
        "critic": 3.5,
        "policy": 1.5,
    }
    some = build.build_learner(CONFIG, store)
    clipped = Counter(c.given["max_norm"] for c in calls.of("clip_grad_norm_"))
    assert clipped == {2.5: 3 * 7, 3.5: 4 * 7, 1.5: 2 * 5}
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in some.optimizers.items()}
    assert rates == {"policy": 3e-3, "prm": 2e-3, "critic": 4e-3}
    for name, optimizer in some.optimizers.items():
        own = {id(p) for p in some.backbone.parameters(name).values()}
        assert {id(p) for group in optimizer.param_groups for p in group["params"]} == own


def test_losses_are_given_the_configs_settings(runs):
    calls = runs("all", 0)[1]
    assert {c.given["clip"] for c in calls.of("clipped_surrogate")} == {0.17}
    assert {c.given["clip"] for c in calls.of("clip_fraction")} == {0.17}
    assert {c.given["clip"] for c in calls.of("value_loss")} == {0.27}
    for name in ("outcome_loss", "token_rewards", "implicit_return"):
        assert {c.given["beta"] for c in calls.of(name)} == {0.3}, name
    assert {(c.given["name"], c.given["signals"]["group_size"]) for c in calls.of("estimate")} == {("ppo", 4)}


def test_sampling_and_forward_passes_have_the_configs_sizes(runs, store):
    for _, calls in (runs("all", 0), runs("nothing", 0)):
        samplings = [c.given["sampling"] for c in calls.of("rollout")]
        assert {(s.max_turn_tokens, s.max_rows, s.thought_credit) for s in samplings} == {(11, 7, False)}
        assert {c.given["token_budget"] for c in calls.of("micro_batches")} == {300}
    some = build.build_learner(CONFIG, store)
    assert some.chat.thought_tags == {"<hush>": "</hush>"}
    assert some.backbone.head_chunk == 70 and some.judge.error_rate == 0.35
    own = some.backbone.parameters("policy")
    assert {len(matrix) for key, matrix in own.items() if ".lora_A." in key} == {2}
    other = build.build_learner(dataclasses.replace(CONFIG, seed=1), store)
    adapters = [each.backbone.parameters("policy") for each in (some, other)]
    for key, one in adapters[0].items():
        assert torch.equal(one, adapters[1][key]) == (
            "lora_A" not in key
        )  # each seed has its own first adapters


def test_the_estimators_options_are_used(runs):
    calls = runs("all", 0)[1]
    last = calls.of("estimate")[-1]
    mask, values = last.given["signals"]["response_mask"], last.given["signals"]["values"]
    sources = last.given["sources"]
    expected = estimators.ppo(sources, mask, values, gamma=0.9, lam=0.7).advantages
    assert torch.equal(last.result.advantages, expected)
    assert not torch.equal(expected, estimators.ppo(sources, mask, values).advantages)


def test_a_run_is_measured_and_saved_as_often_as_its_config_says(runs):
    run, calls = runs("all", 0)
    assert [c.given["step"] for c in calls.of("checkpoint")] == [2, 4]
    metrics = run.metrics()
    assert metrics["step"][metrics["eval_success"].notna()].tolist() == [0, 3, 5]
    assert [step for step, _ in run.monitor()] == [0, 4, 5]
    assert metrics["step"][metrics["prm_loss"].notna()].tolist() == [-2, -1, 0, 1, 2, 3, 4]


# Dialogues that could not be held or judged


def test_dropped_dialogues_are_in_no_minibatch(runs):
    _, batch = training_batches(runs("all", 0)[1])[0]
    for dropped in ([], [0], [3, 5, 11]):
        parts = Learner._minibatches(batch.without(dropped), 3, "any", "policy")
        assert sorted(torch.cat(parts).tolist()) == [row for row in range(12) if row not in dropped]


class Absent:
    """A judge who cannot judge the dialogues that begin like these."""

    def __init__(self, openings):
        self.openings = openings

    def scores(self, example, messages, rng):
        if messages[0].content in self.openings:
            raise JudgeError("no answer")
        return [1.0] * sum(message.role == "assistant" for message in messages)


@pytest.mark.parametrize("estimator", ["rloo", "ppo"])
def test_nothing_is_learned_from_dialogues_that_could_not_be_judged(store, estimator):
    config = dataclasses.replace(
        CONFIG, method=Method("judge"), estimator=Estimator(estimator), judge_retries=0
    )
    some = build.build_learner(config, store)
    dialogues, whole = some.collect("0/0", 3, 4, "policy")
    some.judge = Absent({dialogues[0].messages[0].content})
    lost = [i for i, d in enumerate(dialogues) if d.messages[0].content in some.judge.openings]
    with pytest.MonkeyPatch.context() as patch:
        calls = watched(patch)
        batch, metrics = trainer.training_step(some, "0/0", Timer())
    assert 0 < len(lost) < 12 and metrics["judge_failed"] == len(lost)
    learned = [
        c.given["batch"]
        for name in ("reward_sources", "update_critic", "update_policy")
        for c in calls.of(name)
    ]
    masks = [b.response_mask for b in learned] + [
        c.given["signals"]["response_mask"] for c in calls.of("estimate")
    ]
    assert len(masks) == 4
    for mask in masks:
        assert [i for i, row in enumerate(mask) if not row.any()] == lost
    learners = {c.given["stream"][1] for c in calls.of("_minibatches")}
    assert learners == ({"policy", "critic"} if estimator == "ppo" else {"policy"})
    for call in calls.of("_minibatches"):
        assert not set(torch.cat(call.result).tolist()) & set(lost)
    # What is logged is of all dialogues that were held.
    assert torch.equal(batch.input_ids, whole.input_ids)
    assert metrics["success"] == pytest.approx(sum(d.outcome for d in dialogues) / 12)


class Flaky:
    """A scripted task whose users, asked together, do not answer in so many of the dialogues."""

    lanes = 1

    def __init__(self, task, failing):
        self.task, self.failing = task, failing
        self.name, self.max_turns = task.name, task.max_turns

    def __getattr__(self, name):
        return getattr(self.task, name)

    def replies(self, examples, conversations, rngs):
        return [self.task.reply(*parts) for parts in zip(examples, conversations, rngs, strict=True)]

    def scores(self, examples, conversations):
        pairs = enumerate(zip(examples, conversations, strict=True))
        return [
            TimeoutError("no answer") if i < self.failing else self.task.score(*pair) for i, pair in pairs
        ]


@pytest.mark.parametrize(
    ("failing", "most", "stops"), [(3, 0.25, False), (4, 0.25, True), (1, 0.0, True), (12, 1.0, True)]
)
def test_a_run_stops_when_more_dialogues_are_lost_than_the_config_allows(store, failing, most, stops):
    config = dataclasses.replace(CONFIG, max_failed=most, **NEEDS_NOTHING)
    task = config.task.build()
    parts = Environments(Flaky(task, failing), task)
    some = Learner(config, *load(build.base_model(config, store)), store.root, parts)
    if stops:
        with pytest.raises(
            DialoguesLost, match=f"failed for {failing} of 12 dialogues.*TimeoutError: no answer"
        ):
            trainer.training_step(some, "0/0", Timer())
        return
    batch, metrics = trainer.training_step(some, "0/0", Timer())
    assert metrics["lost"] == failing == (~batch.kept).sum()


def test_training_and_evaluation_have_the_tasks_meant_for_them(store):
    config = dataclasses.replace(CONFIG, **NEEDS_NOTHING)
    tasks = [TaskSpec("math", {"clear": clear}).build() for clear in (0.0, 1.0)]
    some = Learner(config, *load(build.base_model(config, store)), store.root, Environments(*tasks))
    with pytest.MonkeyPatch.context() as patch:
        calls = watched(patch)
        some.collect("a", 2, 1, None)
        some.collect("a", 2, 1, None, evaluate=True)
        asked = [call.given["task"] for call in calls.of("rollout")]
    assert [task.clear for task in asked] == [0.0, 1.0]


def test_another_model_or_task_starts_from_another_base(store):
    small = dataclasses.replace(CONFIG.model, steps=1)
    configs = [dataclasses.replace(CONFIG, model=small)]
    configs += [dataclasses.replace(CONFIG, model=dataclasses.replace(small, seed=1))]
    configs += [dataclasses.replace(CONFIG, model=small, task=TaskSpec("math", {"clear": 0.9}))]
    configs += [dataclasses.replace(CONFIG, model=small, task=TaskSpec("documents"))]
    assert len({build.base_model(config, store) for config in configs}) == 4
