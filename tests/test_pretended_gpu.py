"""Whole runs on a pretended GPU: nothing mixes devices, they resume to the bit, and a token costs few waits."""

import json
from dataclasses import replace

import pytest
import torch
from pretended_gpu import GPU, MixedDevices, is_there, pretended_gpu, put, put_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from itpo import advantages, attribution, turns
from itpo.attribution import METHODS
from itpo.config import Estimator, Method, RunConfig, allows
from itpo.estimators import ESTIMATORS
from itpo.models.cache import CachedDecoder
from itpo.models.loading import nf4_config, tame
from itpo.rollout import users
from itpo.runs.store import Store
from itpo.specs import Adapter, FrozenBase, PretrainedModel, RealData
from itpo.trainer import training_step
from itpo.training.learner import Learner
from itpo.training.profiling import Timer

pytest.importorskip("bitsandbytes", reason='needs the extra "gpu"')

# Every method under one estimator that can train it, and every estimator with one method.
PAIRS = [(method, next(e for e in ("rloo", "ppo") if allows(e, method))) for method in METHODS]
PAIRS += [("norm_itpo", estimator) for estimator in ESTIMATORS if estimator != "rloo"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A few problems in the format of real data, in words of the tiny model."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    lines = [
        {
            "conv_id": n,
            "prompt": [{"role": "user", "content": "sam has some pens . how many ?" + " ." * n}],
            "single_turn_prompt": f"sam has {n} pens . how many ?",
            "single_turn_completion": f"the answer is $\\boxed{{{n}}}$",
        }
        for n in range(2, 12)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def make(tiny_folder, rows, tmp_path, monkeypatch):
    """What makes a learner whose base says that it is on the GPU, in 4 bits or 16; users are played by the base.

    The base is read before, outside the pretended GPU.
    """
    monkeypatch.setattr(users, "read_response", lambda text, tags: text.strip() or "ok")

    def build(method, estimator="rloo", precision="nf4", **changes):
        settings = {"coef": 1.0} if METHODS[method].granularity == "token" else {}
        config = RunConfig(
            Method(method, policy_lr=1e-3, **settings),
            seed=0,
            steps=1,
            estimator=Estimator(estimator),
            task=RealData("collabllm-math", str(rows)),
            user=FrozenBase(24),
            judge=FrozenBase(24),
            model=PretrainedModel(str(tiny_folder), precision),
            adapter=Adapter(4, 8),
            max_turn_tokens=4,
            prompts=2,
            rollouts=2,
            policy_minibatches=2,
            prm_minibatches=2,
            critic_minibatches=1,
            token_budget=200,
            head_chunk=16,
            max_rows=3,
            max_failed=1.0,
            max_mismatch=10.0,
            judge_failure="uniform",
            checkpointing=True,
        )
        options = {"quantization_config": nf4_config(torch.bfloat16)} if precision == "nf4" else {}
        model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16, **options)
        tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
        config = replace(config, **changes)
        return lambda: Learner(config, put_model(tame(model.eval())), tokenizer, tmp_path)

    return build


@pytest.mark.parametrize(
    ("method", "estimator"),
    [
        pytest.param(*pair, marks=() if pair == ("norm_itpo", "rloo") else pytest.mark.engine)
        for pair in PAIRS
    ],
)
def test_a_step_mixes_no_devices(make, method, estimator):
    build = make(method, estimator)
    with pretended_gpu():
        learner = build()
        assert learner.backbone.device == GPU
        batch, metrics = training_step(learner, "0", Timer())
        assert not is_there(batch.input_ids) and metrics["ratio_error"] == 0.0
        assert all(
            is_there(p) for name in learner.backbone.names for p in learner.backbone.parameters(name).values()
        )


def test_a_step_in_16_bits_too(make):
    build = make("itpo", precision="full")
    with pretended_gpu():
        _, metrics = training_step(build(), "0", Timer())
    assert 0 < metrics["mismatch"] < 0.1


@pytest.mark.engine
def test_it_resumes_to_the_bit(make, tmp_path):
    builds = [make("norm_itpo") for _ in range(3)]
    with pretended_gpu():
        whole, first, second = (build() for build in builds)
        for step in "01":
            training_step(whole, step, Timer())
        training_step(first, "0", Timer())
        run = Store(tmp_path / "runs").open(first.config)
        run.restore()
        run.checkpoint(1, first.state())
        assert second.resume(run) == 1
        training_step(second, "1", Timer())
        ends = [{key: tensor.cpu() for key, tensor in x.state().items()} for x in (whole, second)]
    assert ends[0].keys() == ends[1].keys()
    apart = [key for key, tensor in ends[0].items() if not torch.equal(tensor, ends[1][key])]
    assert not apart


def test_a_token_costs_few_waits(make, monkeypatch):
    """The CPU asks once a token whether any dialogue goes on; all else waits once a turn."""
    passes, append = [], CachedDecoder.append

    def counted(*given):
        """One forward pass."""
        passes.append(None)
        return append(*given)

    monkeypatch.setattr(CachedDecoder, "append", counted)
    build = make("trajectory_share")
    with pretended_gpu() as waits:
        learner = build()
        waits.clear()
        passes.clear()
        learner.collect("0", 2, 2, "policy")
    assert len(passes) < sum(waits.values()) < 3 * len(passes), (waits, len(passes))


def test_what_mixes_is_refused():
    with pretended_gpu():
        here, there = torch.ones(2), torch.ones(2, device="cuda")
        assert there.device == GPU and there.view(2, 1).device == GPU and there.cpu().device.type == "cpu"
        with pytest.raises(MixedDevices, match="aten::add"):
            here + there
        with pytest.raises(TypeError, match="no numpy array"):
            there.numpy()
        weight = torch.ones(2, requires_grad=True)
        (weight.to("cuda") * there).sum().backward()
        assert weight.grad.device.type == "cpu" and weight.grad.tolist() == [1.0, 1.0]
        assert (there * 2 + torch.ones(()))[0].item() == 3.0
        assert put(torch.zeros(1), GPU).to("cpu").device.type == "cpu"


@pytest.mark.parametrize("name", attribution.known_methods())
@pytest.mark.parametrize("group_size", [2, torch.tensor([5, 3, 5, 3])])
def test_every_method_stays_on_the_device_of_its_signals(name, group_size):
    """A pretended GPU refuses what mixes devices; whoever trains by another engine has all signals there."""
    ids = turns.turn_ids(torch.tensor([[True, True, False, True], [True, False, False, False]] * 2))
    noise = torch.Generator().manual_seed(0)
    signals = {
        "outcome": torch.tensor([0.5, 1.0, 0.0, 0.25]),
        "turn_ids": ids,
        "response_mask": ids >= 0,
        "token_rewards": torch.randn(ids.shape, generator=noise),
        "values": torch.rand(ids.shape, generator=noise),
        "judge_scores": torch.rand(4, 2, generator=noise),
        "input_ids": torch.randint(3, ids.shape, generator=noise),
        "group_size": group_size,
    }

    def credit(given):
        rewards = attribution.attribute(name, generator=torch.Generator().manual_seed(1), **given)
        mask, size = given["response_mask"], given["group_size"]
        found = [rewards, advantages.whiten(rewards, mask), *advantages.gae(rewards, given["values"], mask)]
        found += [advantages.rloo(rewards, mask, size, baseline) for baseline in advantages.BASELINES]
        return [*found, advantages.grpo(rewards, mask, size), advantages.returns(rewards, mask)]

    with pretended_gpu():
        there = {
            key: value.to("cuda") if isinstance(value, torch.Tensor) else value
            for key, value in signals.items()
        }
        found = credit(there)
        assert all(tensor.device == GPU for tensor in found)
        found = [tensor.cpu() for tensor in found]
    for tensor, wanted in zip(found, credit(signals), strict=True):
        assert torch.equal(tensor, wanted)
