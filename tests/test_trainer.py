"""Algorithm 1: its pieces against loops over lists, its order, and whole runs that are interrupted and repeated."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from peft import PeftModel

from itpo import attribution, trainer, turns
from itpo.config import Estimator, Method, RunConfig, allows
from itpo.dialogue import TokenBatch
from itpo.models.tiny import load
from itpo.runs.files import plain
from itpo.runs.store import Store, fingerprint
from itpo.runs.sweep import sweep
from itpo.specs import Adapter, TinyLM
from itpo.training import build, evaluation

GROUP = 2
MASK = torch.tensor(
    [
        [0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 0],
        [0, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0],
    ]
).bool()
LENGTHS = [11, 5, 7, 12]  # row 3 ends with a user's word, rows 0-2 are padded
PROMPTS = [2, 1, 3, 2]
OUTCOME = [1.0, 0.0, 0.25, 1.0]
BATCH = TokenBatch(
    input_ids=torch.zeros(MASK.shape, dtype=torch.int64),
    attention_mask=torch.arange(MASK.shape[1])[None] < torch.tensor(LENGTHS)[:, None],
    response_mask=MASK,
    turn_ids=turns.turn_ids(MASK),
    outcome=torch.tensor(OUTCOME),
    sampled_logp=torch.zeros(MASK.shape),
    group_size=GROUP,
)
# Also where no reward belongs, so that what ignores the mask is seen.
TOKEN_REWARDS = torch.randn(MASK.shape, generator=torch.Generator().manual_seed(0))
VALUES = torch.randn(MASK.shape, generator=torch.Generator().manual_seed(1))
JUDGE_SCORES = torch.rand((len(MASK), 5), generator=torch.Generator().manual_seed(2))

SMALL = RunConfig(
    method=Method("norm_itpo"),
    seed=0,
    steps=4,
    model=TinyLM(hidden_size=16, layers=1, heads=2, steps=25, dialogues_per_step=8),
    adapter=Adapter(2, 4),
    max_turn_tokens=14,
    prompts=2,
    rollouts=2,
    policy_minibatches=2,
    prm_minibatches=2,
    critic_minibatches=2,
    warmup=1,
    estimator=Estimator("ppo"),
    eval_every=2,
    eval_dialogues=4,
    monitor_dialogues=3,
    monitor_every=2,
    checkpoint_every=2,
)


def config_for(name="norm_itpo", **changes):
    """SMALL with another method; what is no setting of it, nor one of its options, is a field of the config."""
    own = {f.name for f in dataclasses.fields(Method)} | attribution.get_method(name).options.keys()
    method = Method(name).with_settings(**{k: v for k, v in changes.items() if k in own})
    return dataclasses.replace(SMALL, method=method, **{k: v for k, v in changes.items() if k not in own})


def turns_of(row):
    """Token positions of each assistant turn."""
    positions = []
    for t, response in enumerate(MASK[row].tolist()):
        if response and (t == 0 or not MASK[row, t - 1]):
            positions.append([])
        if response:
            positions[-1].append(t)
    return positions


def expected_sources(config, split=None):
    """[{row: {position: reward}}, ...] of each source; `split` holds the draws of the uniform decomposition."""
    method = config.method
    main, penalty_source, outcome_source = ([{} for _ in LENGTHS] for _ in range(3))
    mean_length = [len(turn) for row in range(len(LENGTHS)) for turn in turns_of(row)]
    mean_length = sum(mean_length) / len(mean_length)
    for row, outcome in enumerate(OUTCOME):
        turns_here = turns_of(row)
        tokens = sum(map(len, turns_here))
        cost = method.coef * config.length_penalty * (LENGTHS[row] - PROMPTS[row])
        for turn in turns_here:
            penalty_source[row][turn[-1]] = -cost * len(turn) / tokens
        rewards = [[TOKEN_REWARDS[row, t].item() for t in turn] for turn in turns_here]
        means = [math.fsum(turn) / len(turn) for turn in rewards]
        scores = {
            "sum": [math.fsum(turn) for turn in rewards],
            "mean": means,
            "length_normalized": [mean_length * mean for mean in means],
        }[method.options.get("reduction", "sum")]
        last = turns_here[-1][-1]
        outcome_source[row][last] = method.outcome_coef * outcome
        if method.name == "trajectory_share":
            main[row][last] = method.coef * outcome - cost
        elif method.name == "value_model":
            tokens_here = [t for turn in turns_here for t in turn]
            values = [VALUES[row, t].item() for t in tokens_here] + [method.coef * outcome]
            main[row] = {t: values[i + 1] - values[i] for i, t in enumerate(tokens_here)}
            for turn in turns_here:
                main[row][turn[-1]] += penalty_source[row][turn[-1]]
        elif method.name == "prime":
            main[row] = {t: method.coef * TOKEN_REWARDS[row, t].item() for turn in turns_here for t in turn}
        else:
            weights = [math.exp(score / method.options.get("temperature", 1.0)) for score in scores]
            for k, turn in enumerate(turns_here):
                if method.name == "itpo":
                    main[row][turn[-1]] = method.coef * scores[k]
                elif method.name == "norm_itpo":
                    share = weights[k] / sum(weights)
                    main[row][turn[-1]] = method.coef * share * outcome + penalty_source[row][turn[-1]]
                elif method.name == "judge":
                    given = JUDGE_SCORES[row, : len(turns_here)].tolist()
                    share = given[k] / sum(given)
                    main[row][turn[-1]] = method.coef * share * outcome + penalty_source[row][turn[-1]]
                else:
                    share = split[row, turn[-1]].item()
                    main[row][turn[-1]] = method.coef * share + penalty_source[row][turn[-1]]
    if method.name in ("trajectory_share", "uniform", "value_model", "judge", "norm_itpo"):
        return [main]
    return [main, penalty_source] + ([outcome_source] if method.outcome_coef else [])


def draw(seed=3):
    return torch.Generator().manual_seed(seed)


def sources_of(config):
    signals = {"token_rewards": TOKEN_REWARDS, "values": VALUES[None], "judge_scores": JUDGE_SCORES}
    return trainer.reward_sources(config, BATCH, signals, draw())


def expected_for(config):
    concentration = config.method.options.get("concentration", 1.0)
    split = attribution.uniform(BATCH.outcome, BATCH.turn_ids, draw(), concentration)
    return expected_sources(config, split)


CASES = {
    "trajectory_share": {},
    "uniform": {},
    "uniform concentrated": {"concentration": 9.0},
    "value_model": {},
    "judge": {},
    "prime": {},
    "prime with outcome": {"outcome_coef": 2.0},
    "itpo": {},
    "itpo with outcome": {"outcome_coef": 3.0},
    "itpo by mean": {"reduction": "mean"},
    "norm_itpo": {},
    "norm_itpo as released": {"reduction": "length_normalized"},
    "norm_itpo warmer": {"temperature": 1.7, "coef": 1.0},
}


@pytest.fixture(params=CASES)
def case(request):
    return config_for(request.param.split()[0], length_penalty=0.01, **{"coef": 4.0} | CASES[request.param])


def test_reward_sources_against_loops(case):
    actual, expected = sources_of(case), expected_for(case)
    assert len(actual) == len(expected)
    names = ["td_error" if case.method.name == "value_model" else "method", "length", "outcome"]
    assert [source.name for source in actual] == names[: len(actual)]
    for (_, rewards, mask), by_row in zip(actual, expected, strict=True):
        for row, at in enumerate(by_row):
            assert mask[row].nonzero().flatten().tolist() == sorted(at)
            dense = [at.get(t, 0.0) for t in range(MASK.shape[1])]
            assert rewards[row].tolist() == pytest.approx(dense, abs=1e-5)


def test_rewards_sum_to_the_return_to_maximise():
    """S = R - lambda N, times the coefficient, for the methods that split the outcome."""
    for name in ("trajectory_share", "uniform", "judge", "norm_itpo"):
        ((_, rewards, _),) = sources_of(config_for(name, length_penalty=0.02, coef=3.0))
        for i, outcome in enumerate(OUTCOME):
            expected = 3.0 * (outcome - 0.02 * (LENGTHS[i] - PROMPTS[i]))
            assert rewards[i].sum().item() == pytest.approx(expected, abs=1e-5)


def test_a_method_without_its_signal_is_refused():
    for name, signal in (("itpo", "token_rewards"), ("judge", "judge_scores"), ("value_model", "values")):
        with pytest.raises(ValueError, match=f"needs {signal}"):
            trainer.reward_sources(config_for(name), BATCH, {}, draw())


def test_describe():
    described = evaluation.describe(BATCH)
    assert described == {
        "success": pytest.approx(2.25 / 4),
        "turns": pytest.approx((3 + 2 + 1 + 5) / 4),
        "tokens": pytest.approx((6 + 3 + 4 + 5) / 4),
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The run of SMALL, trained without interruption."""
    run = Store(tmp_path_factory.mktemp("store")).open(SMALL)
    trainer.train(SMALL, run)
    return run


def test_a_run_writes_what_it_should(finished):
    run = finished
    assert run.done and not (run.folder / "checkpoint").exists()
    metrics = run.metrics()
    assert metrics["step"][metrics["ratio_error"].notna()].tolist() == [0, 1, 2, 3]
    assert metrics["step"][metrics["eval_success"].notna()].tolist() == [0, 2, 4]
    assert metrics["step"].min() == -1  # the warm-up of PRM and critic
    assert metrics["ratio_error"].max() < 1e-4
    for column in ("success", "turns", "tokens", "kl", "entropy", "clip_fraction", "prm_loss", "value_loss"):
        assert metrics[column].notna().sum() >= 4
    assert [step for step, _ in run.monitor()] == [0, 2, 4]
    first, *later = [reading for _, reading in run.monitor()]
    batch = {
        "input_ids",
        "attention_mask",
        "turn_ids",
        "outcome",
        "reference",
    }  # from which a resume makes the set again
    assert set(first) == {"log_ratio", "values", *batch}
    assert first["values"].shape == (1, *first["turn_ids"].shape)
    assert len(first["outcome"]) == SMALL.monitor_dialogues
    assert not first["log_ratio"][first["turn_ids"] < 0].any()
    assert all(set(reading) == {"log_ratio", "values"} for reading in later)
    assert not torch.equal(first["log_ratio"], later[-1]["log_ratio"])
    assert set(run.summary()) == {"success", "turns", "tokens", "greedy_success"}
    assert {record["step"] for record in run.dialogues()} == {0, 2, 4}
    assert set(run.timing().columns) == {
        "step",
        "generation",
        "reference",
        "prm",
        "signals",
        "critic",
        "policy",
    }
    for folder in (run.folder / name for name in ("policy", "prm", "critic")):
        assert (folder / "adapter_model.safetensors").is_file()
        base = load(build.base_model(SMALL, Store(run.folder.parent)))[0]
        read = PeftModel.from_pretrained(base, folder)
        assert any(p.abs().max() > 0 for key, p in read.named_parameters() if "lora_B" in key)


def test_a_finished_run_is_loaded_not_trained_again(finished):
    root = finished.folder.parent
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*") if path.is_file()}
    (again,) = sweep(root, [SMALL], trainer.train, progress=False)
    assert again.done and again.summary() == finished.summary()
    assert {p: p.stat().st_mtime_ns for p in finished.folder.rglob("*") if p.is_file()} == before
    with pytest.raises(RuntimeError, match="finished run"):
        trainer.train(SMALL, again)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """The same run in another store, which makes its own base model."""
    run = Store(tmp_path_factory.mktemp("other")).open(SMALL)
    trainer.train(SMALL, run)
    return run


def test_equal_configs_give_equal_bytes(finished, repeated):
    assert finished.folder != repeated.folder
    assert fingerprint(finished) == fingerprint(repeated)
    assert finished.summary() == repeated.summary()


def test_another_seed_gives_another_run_on_the_same_monitor_set(finished):
    config = dataclasses.replace(SMALL, seed=1)
    run = Store(finished.folder.parent).open(config)
    trainer.train(config, run)
    assert fingerprint(run) != fingerprint(finished)
    (_, one), (_, other) = finished.monitor()[0], run.monitor()[0]
    assert torch.equal(one["input_ids"], other["input_ids"])  # all runs are compared on the same dialogues


METHODS = [Method(name, outcome_coef=5.0 * (name in ("prime", "itpo"))) for name in attribution.METHODS]
PAIRS = [("rloo", m) for m in METHODS if allows("rloo", m.name)]
PAIRS += [("ppo", m) for m in METHODS if m.name in ("trajectory_share", "value_model", "judge", "prime")]
PAIRS += [("grpo", m) for m in METHODS if m.name in ("uniform", "itpo")]


@pytest.mark.parametrize(("estimator", "method"), PAIRS, ids=lambda part: getattr(part, "name", part))
def test_every_method_trains(finished, estimator, method):
    changes = {"method": method, "estimator": Estimator(estimator), "steps": 1, "eval_dialogues": 2}
    config = dataclasses.replace(SMALL, **changes)
    run = Store(finished.folder.parent).open(config)
    trainer.train(config, run)
    needs_prm = attribution.get_method(method.name).needs_prm
    assert run.done and {folder.name for folder in run.folder.iterdir() if folder.is_dir()} == {
        "policy",
        *(["prm"] if needs_prm else []),
        *(["critic"] if estimator == "ppo" else []),
        *(["monitor"] if needs_prm or estimator == "ppo" else []),
    }
    columns = run.metrics().columns
    assert ("prm_loss" in columns) == needs_prm
    assert ("explained_variance" in columns) == (estimator == "ppo")
    assert ("judge_failed" in columns) == (method.name == "judge")
    base = load(build.base_model(SMALL, Store(run.folder.parent)))[0]
    moved = PeftModel.from_pretrained(base, run.folder / "policy")
    assert all(p.any() for key, p in moved.named_parameters() if "lora_B" in key)


def test_rewards_come_from_the_prm_as_it_is_after_its_update(finished, monkeypatch):
    """The adapter saved after the only step is the updated PRM: it must give the rewards that were used."""
    config = config_for(
        "prime", steps=1, prm_lr=1e-2, warmup=0, eval_dialogues=2, seed=5, estimator=Estimator("rloo")
    )
    run = Store(finished.folder.parent).open(config)
    seen = []
    reward_sources = trainer.reward_sources

    def watch(config, batch, signals, generator):
        seen.append((batch, reward_sources(config, batch, signals, generator)))
        return seen[-1][1]

    monkeypatch.setattr(trainer, "reward_sources", watch)
    trainer.train(config, run)
    ((batch, sources),) = seen
    base = build.base_model(config, Store(run.folder.parent))
    models = [PeftModel.from_pretrained(load(base)[0], run.folder / "prm"), load(base)[0]]
    prm, reference = (m(batch.input_ids).logits[:, :-1].detach().log_softmax(-1) for m in models)
    ratio = (prm - reference).gather(2, batch.input_ids[:, 1:, None]).squeeze(2)
    expected = config.method.coef * config.method.beta * ratio * batch.response_mask[:, 1:]
    assert expected.abs().max() > 1e-2  # before its update, the PRM equals the reference: all rewards were 0
    torch.testing.assert_close(sources[0].rewards[:, 1:], expected, atol=1e-5, rtol=1e-4)


KILLED = """
import json, os, signal, sys
import torch
from itpo.config import from_json
from itpo.runs.store import Run, Store
from itpo.trainer import train

torch.set_num_threads(1)
config = from_json(json.loads(sys.argv[1]))
log = Run.log

def die_at(last_step, torn):
    def log_and_die(run, step, metrics):
        if step == last_step and torn:  # in the middle of writing a line
            with open(run.folder / "metrics.jsonl", "ab") as file:
                file.write(b'{"step": ')
        else:
            log(run, step, metrics)
        if step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)
    return log_and_die

for argument in sys.argv[2:]:
    root, step, torn = argument.rsplit("=", 2)
    child = os.fork()
    if not child:
        Run.log = die_at(int(step), torn == "True")
        train(config, Store(root).open(config))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
"""
# In the warm-up, before the first checkpoint, and after it.
KILLS = [(-1, False), (1, True), (3, True)]


def test_a_killed_run_ends_with_the_same_bytes(finished, tmp_path):
    roots = [tmp_path / f"{step} {torn}" for step, torn in KILLS]
    for root in roots:
        shutil.copytree(finished.folder.parent / "models", root / "models")
    jobs = [f"{root}={step}={torn}" for root, (step, torn) in zip(roots, KILLS, strict=True)]
    command = [sys.executable, "-c", KILLED, json.dumps(plain(SMALL, "config")), *jobs]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    for root, (step, torn) in zip(roots, KILLS, strict=True):
        run = Store(root).open(SMALL)
        assert not run.done and run.checkpoint_step() == (2 if step == 3 else 0)
        lines = (run.folder / "metrics.jsonl").read_bytes().splitlines()
        assert (lines[-1] == b'{"step": ') == torn and json.loads(lines[0])["step"] == -1
        trainer.train(SMALL, run)
        assert fingerprint(run) == fingerprint(finished)
        assert run.summary() == finished.summary()


def test_the_base_model_is_made_once(finished):
    store = Store(finished.folder.parent)
    folder = build.base_model(SMALL, store)
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert build.base_model(dataclasses.replace(SMALL, seed=7, prompts=5), store) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before
