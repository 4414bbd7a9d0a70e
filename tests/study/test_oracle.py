"""The oracle against values computed exactly, by enumerating everything that policy and user can say."""

import dataclasses
import json
import random
from dataclasses import dataclass

import pytest
import torch
from scipy import stats
from transformers import LlamaConfig, LlamaForCausalLM

from itpo import trainer
from itpo.chat import ChatFormat
from itpo.config import Method, RunConfig
from itpo.dialogue import Message
from itpo.models.backbone import Backbone
from itpo.models.tiny import build_tokenizer
from itpo.rollout.sampler import Sampling, rollout
from itpo.runs import artifacts
from itpo.runs.platform import PlatformError
from itpo.runs.store import Store, fingerprint
from itpo.runs.sweep import sweep
from itpo.specs import Adapter, RuleJudge, TinyLM
from itpo.study import oracle
from itpo.study.oracle import OracleConfig, TurnValues, turn_values
from itpo.tasks.judging import ScriptedJudge
from itpo.training import build, evaluation

ONE_TOKEN = Sampling(max_turn_tokens=1)
REPLIES = ("tea", "milk")


@dataclass(frozen=True)
class Echo:
    """A user who likes to hear its own last word again, answers "stop" with silence and sometimes just leaves."""

    name: str = "echo"
    max_turns: int = 3
    leaves: float = 0.2

    def sample(self, rng):
        return rng.choice(REPLIES)

    def opening(self, example):
        return [Message("user", example)]

    def replies(self, messages):
        """Every reply with its probability."""
        if messages[-1].content == "stop":
            return {None: 1.0}
        again = 0.7 if messages[-1].content == "tea" else 0.5
        stays = 1 - self.leaves
        return {None: self.leaves, "tea": stays * again, "milk": stays * (1 - again)}

    def reply(self, example, messages, rng):
        found = self.replies(messages)
        return rng.choices(list(found), list(found.values()))[0]

    def score(self, example, messages):
        pairs = zip(messages[::2], messages[1::2], strict=True)
        return sum(said.content == heard.content for heard, said in pairs) / self.max_turns


class Exact:
    """Values of the toy by enumeration: one forward pass for each conversation that can come up."""

    def __init__(self, backbone, chat, task):
        self.backbone, self.chat, self.task, self.known = backbone, chat, task, {}

    def before(self, example, messages, ids=None):
        """Value of a history that ends with the user; ids as a rollout has them (the text hides special tokens)."""
        ids = tuple(self.chat.encode(messages)[0] if ids is None else ids)
        if (example, messages, ids) not in self.known:
            with torch.no_grad():
                chances = self.backbone.model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
            value = sum(
                chance * self._said(example, messages, (*ids, token))
                for token, chance in enumerate(chances.tolist())
            )
            self.known[example, messages, ids] = value
        return self.known[example, messages, ids]

    def _said(self, example, messages, ids):
        messages = (*messages, Message("assistant", self.chat.text(ids[-1:])))
        return self.after(example, messages, ids)

    def after(self, example, messages, ids=None):
        """Value of a history that ends with the assistant."""
        over = sum(m.role == "assistant" for m in messages) == self.task.max_turns
        value = 0.0
        for reply, chance in ({None: 1.0} if over else self.task.replies(messages)).items():
            if reply is None:
                value += chance * self.task.score(example, messages)
                continue
            longer = (*messages, Message("user", reply))
            block = None if ids is None else (*ids, *self.chat.user_block(reply, ids[-1] == self.chat.eos_id))
            value += chance * self.before(example, longer, block)
        return value


@pytest.fixture(scope="module")
def chat():
    return ChatFormat(build_tokenizer([*REPLIES, "stop"]))


@pytest.fixture(scope="module")
def backbone(chat):
    """A random model of eight words and a policy on it, from seeds that make both say the toy's words often."""
    torch.manual_seed(8)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    ends = {"eos_token_id": chat.eos_id, "pad_token_id": chat.pad_id, "bos_token_id": None}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(chat.tokenizer), initializer_range=0.5, **size, **ends)
    )
    backbone = Backbone(model, ["policy"], Adapter(2, 4))
    generator = torch.Generator().manual_seed(6)
    for parameter in backbone.parameters("policy").values():
        parameter.data += torch.randn(parameter.shape, generator=generator)
    return backbone


@pytest.fixture
def talk(backbone, chat, unchecked):
    """Dialogues of the toy under the policy."""

    def hold(count, seed=0, task=Echo()):  # noqa: B008
        users = [random.Random(f"{seed}/{i}") for i in range(count)]
        examples = [task.sample(user) for user in users]
        generator = torch.Generator().manual_seed(seed)
        with backbone.use("policy"):
            return rollout(backbone, chat, task, examples, users, generator, ONE_TOKEN)

    return hold


@pytest.fixture
def value(backbone, chat, unchecked):
    """Measures dialogues of the toy under the policy."""

    def measure(dialogues, continuations, stream="test", task=Echo(), adapter="policy"):  # noqa: B008
        with backbone.use(adapter):
            return turn_values(backbone, chat, task, dialogues, continuations, stream, ONE_TOKEN)

    return measure


@pytest.fixture(scope="module")
def truths(backbone, chat):
    """The enumerated values of the toy under the policy and under the reference, kept for all tests."""
    return {adapter: Exact(backbone, chat, Echo()) for adapter in ("policy", None)}


@pytest.fixture
def exact(backbone, truths, unchecked):
    """Exact values before and after each turn, as (P, K) tensors that are 0 where there is no turn."""

    def values(dialogues, adapter="policy"):
        truth = truths[adapter]
        width = max(d.assistant_turns for d in dialogues)
        before, after = torch.zeros(2, len(dialogues), width)
        with backbone.use(adapter):
            for p, d in enumerate(dialogues):
                for k in range(d.assistant_turns):
                    before[p, k] = truth.before(d.example, d.messages[: 2 * k + 1])
                    after[p, k] = truth.after(d.example, d.messages[: 2 * k + 2])
        return before, after

    return values


def varied(dialogues):
    """A few dialogues of every length."""
    return [d for n in (1, 2, 3) for d in [d for d in dialogues if d.assistant_turns == n][:4]]


def test_values_are_the_enumerated_ones(talk, value, exact):
    dialogues = varied(talk(60))
    assert {d.assistant_turns for d in dialogues} == {1, 2, 3}
    found = value(dialogues, 256)
    z = []
    for measured, se, truth in zip(
        (found.before, found.after), (found.before_se, found.after_se), exact(dialogues), strict=True
    ):
        certain = se == 0
        assert torch.allclose(measured[certain], truth[certain], atol=1e-6)
        z.append((measured - truth)[~certain] / se[~certain])
    z = torch.cat(z)
    assert len(z) > 30 and z.abs().max() < 4
    assert stats.chi2.sf(z.square().sum().item(), df=len(z)) > 1e-3
    # The numbers differ enough for this to mean something.
    assert found.advantage[found.turn_mask].std() > 5 * found.advantage_se[found.turn_mask].mean()


def test_values_are_those_of_the_active_adapter(talk, value, exact):
    dialogues = varied(talk(60))
    before, _ = exact(dialogues, adapter=None)
    found = value(dialogues, 256, adapter=None)
    allowed = 4 * found.before_se + 0.01  # what never came up in 256 continuations may still be possible
    assert ((found.before - before).abs() <= allowed).all()
    assert ((exact(dialogues)[0] - before).abs() > allowed).any()


def test_standard_errors_and_halves(talk, value, exact):
    """Measured again and again, the values scatter around the truth as their standard errors say."""
    dialogues, times = varied(talk(60)), 30
    before, after = exact(dialogues)
    found = value(dialogues * times, 16)

    def apart(tensor):
        return tensor.unflatten(0, (times, -1))

    assert torch.allclose(sum(found.halves) / 2, found.advantage, atol=1e-6)
    uncertain = apart(found.advantage_se).gt(0).float().mean(0) > 0.9
    errors = (apart(found.advantage) - (after - before))[:, uncertain]
    claimed = apart(found.advantage_se)[:, uncertain]
    assert uncertain.sum() > 8
    assert errors.mean().abs() < 4 * (claimed.square().mean() / errors.numel()).sqrt()
    assert errors.square().mean() == pytest.approx(claimed.square().mean().item(), rel=0.15)
    # Nearly 95 %: outcomes of a few levels are far from normal in samples of 16.
    assert 0.89 < (errors.abs() <= 1.96 * claimed).float().mean() < 0.97
    first, second = ((apart(half) - (after - before))[:, uncertain] for half in found.halves)
    assert first.square().mean() == pytest.approx(2 * claimed.square().mean().item(), rel=0.2)
    correlation = (first * second).mean() / (first.square().mean() * second.square().mean()).sqrt()
    assert correlation.abs() < 4 / first.numel() ** 0.5  # different continuations, independent errors


def test_statistics_are_those_of_lists():
    """The formulas, on outcomes that a plan holds, written with plain Python."""
    outcomes = torch.rand(2, 2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True], [True, False, False]])
    outcomes *= mask[None, :, :, None]
    found = oracle._summarize(outcomes, mask)
    for p, k in mask.nonzero().tolist():
        lists = outcomes[:, p, k].tolist()
        mean, variance = zip(*((sum(x) / 6, stats.tvar(x)) for x in lists), strict=True)
        assert found.before[p, k].item() == pytest.approx(mean[0], rel=1e-6)
        assert found.after[p, k].item() == pytest.approx(mean[1], rel=1e-6)
        assert found.before_se[p, k].item() == pytest.approx((variance[0] / 6) ** 0.5, rel=1e-6)
        assert found.advantage_se[p, k].item() == pytest.approx((sum(variance) / 6) ** 0.5, rel=1e-6)
        assert found.halves[0][p, k].item() == pytest.approx(
            (sum(lists[1][:3]) - sum(lists[0][:3])) / 3, rel=1e-5
        )
        assert found.halves[1][p, k].item() == pytest.approx(
            (sum(lists[1][3:]) - sum(lists[0][3:])) / 3, rel=1e-5
        )
    for tensor in (found.advantage, found.advantage_se, *found.halves):
        assert (tensor[~mask] == 0).all()


def test_advantages_telescope(talk, value):
    """Under the policy that spoke, a turn is worth 0 on average, and so is a reply; together they lead to the outcome."""
    dialogues = talk(250, seed=3)
    found = value(dialogues, 8)
    mask = found.turn_mask
    outcome = torch.tensor([d.outcome for d in dialogues])
    turn_part = found.advantage.sum(1)
    reply_part = ((found.before[:, 1:] - found.after[:, :-1]) * mask[:, 1:]).sum(1)
    last = mask.sum(1) - 1
    reply_part += outcome - found.after[torch.arange(len(outcome)), last]  # the user may leave
    assert torch.allclose(found.before[:, 0] + turn_part + reply_part, outcome, atol=1e-5)
    for part in (turn_part, reply_part, outcome - found.before[:, 0]):
        assert part.mean().abs() < 4 * part.std() / len(part) ** 0.5


def test_ends_are_exact(talk, value):
    task, dialogues = Echo(), talk(60)
    found = value(dialogues, 2)
    ends = {"stop": 0, "limit": 0}
    for p, d in enumerate(dialogues):
        k = d.assistant_turns - 1
        why = "stop" if d.messages[-1].content == "stop" else "limit" if k + 1 == task.max_turns else None
        if why is not None:
            ends[why] += 1
            assert found.after[p, k].item() == pytest.approx(d.outcome) and found.after_se[p, k] == 0
        assert found.turn_mask[p].tolist() == [j <= k for j in range(found.turn_mask.shape[1])]
    assert min(ends.values()) > 3


def test_arguments_decide_everything(talk, value):
    dialogues = varied(talk(60))

    def same(a, b):
        return all(torch.equal(x, y) for x, y in zip(a.tensors().values(), b.tensors().values(), strict=True))

    torch.manual_seed(5)
    random.seed(5)
    states = torch.get_rng_state(), random.getstate()
    first = value(dialogues, 4)
    assert same(value(dialogues, 4), first) and not same(value(dialogues, 4, stream="other"), first)
    # The global generators are neither read nor moved.
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]


def test_all_continuations_go_on_at_once(talk, value, monkeypatch):
    calls = []

    def counted(*args):
        calls.append(len(args[3]))
        return rollout(*args)

    monkeypatch.setattr(oracle, "rollout", counted)
    dialogues = varied(talk(60))
    value(dialogues, 4)
    assert len(calls) == 1 and calls[0] > 4 * sum(d.assistant_turns for d in dialogues)


def test_tensors_come_back(talk, value):
    found = value(talk(5), 2)
    again = TurnValues.from_tensors({**found.tensors(), "other": torch.zeros(1)})
    assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in found.tensors().items())
    assert torch.equal(again.halves[1], found.halves[1]) and not torch.equal(*again.halves)


def test_wrong_arguments(talk, value):
    dialogues = talk(2)
    for continuations in (0, 1, 3, -2):
        with pytest.raises(ValueError, match=f"continuations is {continuations}"):
            value(dialogues, continuations)
        with pytest.raises(ValueError, match=f"continuations is {continuations}"):
            OracleConfig(SMALL, continuations=continuations)
    with pytest.raises(ValueError, match="there is no dialogue"):
        value([], 2)
    with pytest.raises(ValueError, match="policy is 'best'; it must be one of trained, reference"):
        OracleConfig(SMALL, policy="best")


# Measurements as runs of the store

SMALL = RunConfig(
    method=Method("trajectory_share", policy_lr=0.05),
    seed=0,
    steps=1,
    # Enough of a warm start that some conversations succeed and values are not all 0.
    model=TinyLM(hidden_size=32, layers=2, heads=2, steps=150, dialogues_per_step=8, learning_rate=1e-2),
    adapter=Adapter(2, 4),
    prompts=4,
    rollouts=2,
    eval_dialogues=2,
    monitor_dialogues=12,
    judge=RuleJudge(error_rate=0.3),
)


def measured(store, config):
    run = store.open(config)
    oracle.measure(config, run)
    return run


def test_measure_keeps_values_beside_the_runs_probes(tmp_path, unchecked):
    store = Store(tmp_path)
    trained = store.open(SMALL)
    trainer.train(SMALL, trained)
    runs = {policy: measured(store, OracleConfig(SMALL, policy, 4)) for policy in ("trained", "reference")}
    learner = build.build_learner(SMALL, store)
    dialogues, batch = learner.collect("probe", 12, 1, None)
    learner.backbone.load_adapter("policy", trained.folder / "policy")
    for policy, adapter in (("trained", "policy"), ("reference", None)):
        values, static = oracle.read(runs[policy])
        with learner.backbone.use(adapter):
            again = turn_values(
                learner.backbone, learner.chat, learner.task, dialogues, 4, "oracle", Sampling()
            )
        assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in values.tensors().items())
        assert values.advantage.abs().max() > 0
        assert torch.equal(static["outcome"], batch.outcome)
        assert torch.equal(static["turn_ids"], batch.turn_ids)
        for p, d in enumerate(dialogues):
            judge = ScriptedJudge(learner.task, 0.3)
            scores = judge.scores(d.example, d.messages, random.Random(f"oracle/judge/{p}"))
            width = values.turn_mask.shape[1]
            assert static["judge_scores"][p].tolist() == [*scores, *[0.0] * (width - len(scores))]
        turns = sum(d.assistant_turns for d in dialogues)
        assert runs[policy].summary() == {"continuations": 4, "rollouts": 2 * 4 * turns}
        assert runs[policy].dialogues() == [{"step": 0, **evaluation.record(d)} for d in dialogues]
        assert runs[policy].timing()["oracle"][0] > 0
    assert fingerprint(runs["trained"]) != fingerprint(runs["reference"])
    # Begun, stopped and measured again: the same bytes.
    other = Store(tmp_path / "other").open(OracleConfig(SMALL, "reference", 4))
    (tmp_path / "other" / "models").symlink_to(tmp_path / "models")
    other.save_dialogues(0, [{"half": "written"}])
    oracle.measure(other.config, other)
    assert fingerprint(other) == fingerprint(runs["reference"])
    assert sweep(tmp_path, [runs["trained"].config], oracle.measure, progress=False)[0].done


@pytest.fixture
def quick():
    """A run whose base model is made in no time."""
    return dataclasses.replace(SMALL, model=TinyLM(hidden_size=8, layers=1, heads=1, steps=1))


def test_a_measurement_keeps_what_it_was_made_from(tmp_path, unchecked, quick):
    config, store = OracleConfig(quick, "reference", 2), Store(tmp_path)
    run = measured(store, config)
    noted = json.loads((run.folder / "inputs.json").read_text())["inputs"]
    assert noted == build.inputs(quick, store)
    # One from before these were kept is finished, and is read as ever.
    before = Store(tmp_path / "before").open(config)
    (tmp_path / "before" / "models").symlink_to(tmp_path / "models")
    before.restore()
    before.save_monitor(0, run.monitor()[0][1])
    before.finish(run.summary())
    assert not (before.folder / "inputs.json").exists()
    (again,) = sweep(tmp_path / "before", [config], oracle.measure, progress=False)
    assert again.done and torch.equal(oracle.read(again)[0].before, oracle.read(run)[0].before)
    again.declare(build.inputs(quick, store))


def test_platforms_are_mixed_where_that_was_asked_for(tmp_path, unchecked, quick, monkeypatch):
    config = OracleConfig(quick, "reference", 2)
    build.base_model(quick, Store(tmp_path))
    here = artifacts.making_platform()
    monkeypatch.setattr(artifacts, "making_platform", lambda: here | {"processor": "another"})
    with pytest.raises(PlatformError, match="made on another numeric platform"):
        measured(Store(tmp_path), config)
    assert measured(Store(tmp_path, mix_platforms=True), config).done


def test_measure_needs_a_finished_run(tmp_path, unchecked, quick):
    store, config = Store(tmp_path), OracleConfig(quick)
    run = store.open(config)
    with pytest.raises(ValueError, match=f"{store.open(quick).folder} is not finished: train it first"):
        oracle.measure(config, run)
    run.release()
    with pytest.raises(ValueError, match=f"{run.folder} holds no finished measurement"):
        oracle.read(run)


def test_a_measurement_is_named_by_all_that_decides_it(tmp_path):
    config = OracleConfig(SMALL)
    assert config.steps == 1
    others = [OracleConfig(SMALL, "reference"), OracleConfig(SMALL, continuations=2)]
    others.append(OracleConfig(dataclasses.replace(SMALL, seed=1)))
    assert len({Store(tmp_path).open(c).folder for c in [config, *others]}) == 4
