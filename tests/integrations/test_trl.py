"""``ITPOTrainer`` against this library's own path from conversations to advantages, and against plain PyTorch.

The conversations are made up (`trl_parts`), the trainer, its model and its adapters are real ones.
"""

import copy
import itertools
import json
import math
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import trl_parts
from datasets import Dataset
from huggingface_hub import constants
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import Trainer

from itpo import prm, turns
from itpo.attribution import known_methods
from itpo.chat import ChatFormat
from itpo.config import Estimator, RunConfig
from itpo.dialogue import Dialogue, Message, collate
from itpo.estimators import estimate
from itpo.integrations.trl import Conversations, ITPOConfig, ITPOTrainer, outcome_reward
from itpo.integrations.trl.config import TESTED, check_version
from itpo.integrations.trl.conversations import TRLEngine
from itpo.models.tiny import load
from itpo.rollout.engine import Decoding, at_once
from itpo.rollout.seeding import seeded
from itpo.runs.artifacts import SHIPPED
from itpo.tasks.judging import JudgeError, ScriptedJudge
from itpo.tasks.registry import get_task
from itpo.trainer import reward_sources

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
QUICK = ("norm_itpo", "judge", "gigpo")  # the others are left to make test-trl
METHODS = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.engine)
    for name, method in known_methods().items()
    if not method.needs_values
]
COLUMNS = [("rloo", "released"), ("rloo", "trajectory"), ("rloo", "to_go"), ("grpo", None)]


@pytest.fixture(scope="module", autouse=True)
def offline():
    """No test may use a network; the hook for rollouts warns that it is an experimental one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        yield


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return trl_parts.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def build(model_folder, tmp_path):
    return lambda **options: trl_parts.build(model_folder, tmp_path / "run", **options)


def batch_of(trainer):
    """Let the trainer take one batch of three prompts; what went in by the rollout hook, and what came out."""
    trainer.recorded = {}
    if trainer.prm is not None:
        own = type(trainer.prm).log_probs

        def record(score, rows, adapter="prm"):
            trainer.recorded[adapter] = own(trainer.prm, score, rows, adapter)
            return trainer.recorded[adapter]

        trainer.prm.log_probs = record
    rows = [{"prompt": f"prompt {i}"} for i in range(3) for _ in range(trl_parts.N)]
    out = trainer._generate_and_score_completions(rows)
    return trainer.rollout_func.seen[-1], out


def plain_log_probs(trainer, adapter, seen):
    """Of each conversation alone, without padding, by a forward pass of the model that TRL wrapped."""
    with torch.no_grad(), trainer.prm.use(adapter):
        return [log_probs_of(trainer, row, seen) for row in range(len(seen["outcome"]))]


def log_probs_of(trainer, row, seen):
    prompt, completion = seen["prompt_ids"][row], seen["completion_ids"][row]
    model = trainer.accelerator.unwrap_model(trainer.model)
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(completion)), completion]


def log_probs(trainer, adapter, seen):
    """What the trainer had of these last, which a plain forward pass gives but for rounding."""
    found = trainer.recorded[adapter]
    for row, plain in enumerate(plain_log_probs(trainer, adapter, seen)):
        torch.testing.assert_close(found[row, : len(plain)], plain, rtol=1e-5, atol=1e-5)
    return [values[: len(ids)] for values, ids in zip(found, seen["completion_ids"], strict=True)]


def dialogues_of(seen):
    """The same conversations as this library keeps them."""
    columns = ("prompt_ids", "completion_ids", "env_mask", "outcome")
    for prompt, completion, mask, outcome in zip(*(seen[key] for key in columns), strict=True):
        own = (False,) * len(prompt) + tuple(map(bool, mask))
        yield Dialogue(
            None,
            (),
            (*prompt, *completion),
            own,
            (0.0,) * len(own),
            outcome or 0.0,
            failure="no outcome" if outcome is None else None,
            prompt_length=len(prompt),
        )


def expected(trainer, seen, stream):
    """Advantages of the made-up conversations by `itpo.trainer` and `itpo.estimators`, on our own layout of a batch."""
    args = trainer.args
    batch = collate(list(dialogues_of(seen)), trl_parts.N, pad_id=0)
    config = RunConfig(
        trainer.method, seed=0, steps=1, estimator=trainer.estimator, length_penalty=args.length_penalty
    )
    signals = {}
    if trainer.prm is not None:
        token_rewards = torch.zeros(batch.response_mask.shape)
        own, reference = (log_probs(trainer, adapter, seen) for adapter in ("prm", None))
        for row, prompt in enumerate(seen["prompt_ids"]):
            after = slice(len(prompt), len(prompt) + len(own[row]))
            token_rewards[row, after] = args.prm_beta * (own[row] - reference[row])
        token_rewards = torch.where(batch.response_mask, token_rewards, 0)
        signals["token_rewards"] = prm.rescale(token_rewards, batch.response_mask, args.prm_scale)
    if trainer.method.entry.needs_judge:
        has_turn = turns.turn_mask(batch.turn_ids)
        signals["judge_scores"] = torch.zeros(has_turn.shape)
        for row, scores in enumerate(seen["judge_scores"]):
            signals["judge_scores"][row, : len(scores)] = torch.tensor(scores)[: has_turn.shape[1]]
    sources = reward_sources(config, batch, signals, seeded(stream, "attribution"))
    return estimate(
        trainer.estimator.name,
        sources,
        response_mask=batch.response_mask,
        group_size=1 if trainer.method.entry.compares else batch.group_size,
        **trainer.estimator.options,
    ).advantages


def compare(trainer, stream):
    """Hold the advantages of one batch against those expected; how many of them are not 0."""
    seen, out = batch_of(trainer)
    wanted, compared = expected(trainer, seen, stream), 0
    for row, prompt in enumerate(seen["prompt_ids"]):
        length = len(seen["completion_ids"][row])
        ours = wanted[row, len(prompt) : len(prompt) + length]
        torch.testing.assert_close(out["advantages"][row, :length], ours, rtol=0, atol=1e-6)
        assert not out["advantages"][row, length:].any()
        mean = ours.sum() / max(1, sum(seen["env_mask"][row]) * (seen["outcome"][row] is not None))
        assert trainer._logs["advantages"][row - len(wanted)] == pytest.approx(mean.item(), abs=1e-5)
        compared += int(ours.count_nonzero())
    assert not out["advantages"][5].any(), "a conversation without an outcome teaches nothing"
    return compared


@pytest.mark.parametrize("method", METHODS)
def test_advantages_are_those_of_the_library(build, method, say):
    entry = known_methods()[method]
    options = {} if entry.carries_outcome else {"outcome_coef": 5.0}
    trainer = build(method=method, length_penalty=0.01, beta=0.0, **options)
    trainer.model.train()
    if entry.needs_prm:
        batch_of(trainer)  # after which the PRM is no longer the reference
    trainer.model.eval()  # from here on it stays as it is
    compared, columns = 0, [column for column in COLUMNS if column[0] == "rloo" or not entry.compares]
    for count, (estimator, baseline) in enumerate(columns):
        trainer.estimator = Estimator(estimator, {"baseline": baseline} if baseline else {})
        compared += compare(trainer, f"{trainer.args.seed}/eval/0/{count}")
    assert compared > 100
    say(f"{method}: {compared} advantages equal itpo.estimators' to 1e-6, by {len(columns)} baselines")


def test_the_released_scale(build):
    trainer = build(method="norm_itpo", prm_scale="released", beta=0.0)
    trainer.model.train()
    batch_of(trainer)
    trainer.model.eval()
    assert compare(trainer, "") > 50


def test_the_prm_learns_equation_3(build):
    """One minibatch of plain PyTorch from the same start: the loss logged, and the weights after it."""
    trainer = build(method="itpo", prm_minibatches=1, prm_beta=0.5)
    trainer.model.train()
    batch_of(trainer)  # its B matrices are no longer zero
    before = {name: p.detach().clone() for name, p in trainer.prm.parameters.items()}
    state = {key: value.clone() for key, value in trainer.prm.state().items()}
    seen, _ = batch_of(trainer)
    log_probs(trainer, "prm", seen)  # its rewards are those after the update
    after = {name: p.detach().clone() for name, p in trainer.prm.parameters.items()}
    for name, parameter in trainer.prm.parameters.items():
        parameter.data.copy_(before[name])
    reference, losses = plain_log_probs(trainer, None, seen), []
    with trainer.prm.use("prm"):
        for row, outcome in enumerate(seen["outcome"]):
            if outcome is not None:
                own = torch.tensor(seen["env_mask"][row], dtype=torch.bool)
                score = 0.5 * (log_probs_of(trainer, row, seen) - reference[row])[own].sum()
                losses.append(F.binary_cross_entropy_with_logits(score, torch.tensor(outcome)))
        loss = torch.stack(losses).mean()
        gradients = torch.autograd.grad(loss, list(trainer.prm.parameters.values()))
    assert trainer._metrics["train"]["prm/loss"][-1] == pytest.approx(loss.item(), rel=1e-5)
    copies = {name: torch.nn.Parameter(value) for name, value in before.items()}
    plain = torch.optim.AdamW(copies.values(), lr=trainer.args.prm_lr, weight_decay=0.0)
    for (name, copied), gradient in zip(copies.items(), gradients, strict=True):
        copied.grad = gradient
        plain.state[copied] = {key: state[f"{name}|{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
    torch.nn.utils.clip_grad_norm_(copies.values(), trainer.args.prm_clip_norm)
    plain.step()
    for name, copied in copies.items():
        torch.testing.assert_close(after[name], copied.detach(), rtol=1e-4, atol=1e-6)


def test_policy_and_prm_learn_apart_from_each_other_and_from_the_base(build):
    trainer = build(method="norm_itpo")
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, start[name])}
    assert {name.split(".")[-2] for name in moved} == {"default", "prm"}
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained and all(".default." in name for name in trained)
    policy = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not policy & {id(p) for p in trainer.prm.parameters.values()}
    assert trainer.model.active_adapter == "default"
    history = [entry for entry in trainer.state.log_history if "prm/loss" in entry]
    assert len(history) == 2 and history[0]["prm/loss"] == pytest.approx(math.log(2), rel=0.1)


def test_a_resumed_run_ends_with_the_same_weights(build, tmp_path):
    settings = {"method": "norm_itpo", "max_steps": 4, "save_strategy": "steps", "save_steps": 2.0}
    whole = build(**settings)
    whole.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    assert (checkpoint / "prm" / "adapter_model.safetensors").is_file()
    resumed = build(**settings)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    wanted, found = trl_parts.adapters(whole), trl_parts.adapters(resumed)
    assert wanted.keys() == found.keys()
    for name, weight in wanted.items():
        assert torch.equal(weight, found[name]), name
    for name, value in whole.prm.state().items():
        assert torch.equal(value, resumed.prm.state()[name]), name
    (checkpoint / "prm_optimizer.safetensors").unlink()
    with pytest.raises(
        ValueError, match="has no prm_optimizer.safetensors: it was not written by ITPOTrainer"
    ):
        build(**settings).train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.engine
def test_a_run_without_a_prm_saves_and_resumes_as_trl_does(build, tmp_path):
    settings = {"method": "uniform", "max_steps": 3, "save_strategy": "steps", "save_steps": 1.0}
    whole = build(**settings)
    whole.train()
    assert not list((tmp_path / "run").rglob("*prm*"))
    resumed = build(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    for name, weight in trl_parts.adapters(whole).items():
        assert torch.equal(weight, trl_parts.adapters(resumed)[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "value_model"}, "'value_model' with estimator 'rloo' needs a critic"),
        ({"estimator": "ppo"}, "with estimator 'ppo' needs a critic, which TRL's GRPOTrainer does not"),
        ({"method": "no_such"}, "method is 'no_such'; it must be one of trajectory_share"),
        ({"method": "itpo", "eta": 0.4}, "'itpo' has no temperature: leave eta=0.4 out"),
        ({"eta": -1.0}, "temperature must be positive"),
        ({"baseline": "mean"}, "unknown baseline 'mean'"),
        ({"estimator": "grpo", "baseline": "to_go"}, "has no option 'baseline'"),
        ({"method": "gigpo", "estimator": "grpo"}, "'gigpo' compares a prompt's rollouts itself"),
        ({"method": "norm_itpo", "outcome_coef": 1.0}, "outcome_coef is 1.0; it must be 0"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "must be 'sum_then_normalize'"),
        ({"prm_minibatches": 0}, "prm_minibatches is 0; it must be a whole number at least 1"),
        ({"method": "itpo", "estimator": "grpo", "outcome_coef": 1.0}, "their weights cancel"),
        ({"fp16": True}, "fp16 would lose the PRM's small gradients"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_a_line(options, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        ITPOConfig(str(tmp_path), use_cpu=True, bf16=False, **options)
    assert "\n" not in str(error.value)


def test_a_method_without_its_prm_is_refused(model_folder, tmp_path):
    args = ITPOConfig(str(tmp_path), method="prime", use_cpu=True, bf16=False, num_generations=2)
    data = Dataset.from_dict({"prompt": ["x"]})
    for config, message in [
        (None, "needs the base model and a LoraConfig as peft_config, got None"),
        (LoraConfig(init_lora_weights="pissa"), "init_lora_weights='pissa'.* change the base"),
    ]:
        with pytest.raises(ValueError, match=message):
            ITPOTrainer(str(model_folder), lambda **_: [], args, data, peft_config=config)
    with pytest.raises(ValueError, match="args is a NoneType: pass an ITPOConfig"):
        ITPOTrainer(str(model_folder), lambda **_: [], None, data)


def test_outcomes_that_a_prm_cannot_learn_are_refused(build):
    trainer = build(method="norm_itpo")
    trainer.reward_funcs = [lambda outcome, **_: [3 * (o or 0.0) for o in outcome]]
    trainer.model.train()
    with pytest.raises(ValueError, match=r"runs from 0 to 3; method 'norm_itpo' learns outcomes in \[0, 1\]"):
        batch_of(trainer)


@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed"])
def test_engines_that_shard_the_adapters_are_refused_with_a_prm(build, monkeypatch, name):
    set_up = Trainer.create_accelerator_and_postprocess

    def sharding(self):
        set_up(self)
        setattr(self, f"is_{name.lower()}_enabled", True)

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", sharding)
    with pytest.raises(ValueError, match=f"'norm_itpo' trains a PRM beside the policy, which {name} shards"):
        build(method="norm_itpo")
    build(method="judge")


def talking(folder, users, model, tokenizer, **options):
    """A trainer whose policy talks with these users, two prompts of four rollouts a step."""
    sizes = {"num_generations": 4, "per_device_train_batch_size": 8, "use_cpu": True, "bf16": False}
    args = ITPOConfig(str(folder), **sizes, **options)
    return ITPOTrainer(
        model, outcome_reward, args, users.problems(2), processing_class=tokenizer, rollout_func=users
    )


def test_conversations_with_the_users_of_a_task(tmp_path):
    """Sampled by the trainer itself: what TRL trains on is what was said, and each part of it belongs to who said it."""
    task, (model, tokenizer) = get_task("math"), load(SHIPPED / "smoke-math")
    chat = ChatFormat(tokenizer)
    users = Conversations(task, tokenizer, max_turn_tokens=6, judge=ScriptedJudge(task, 0.0))
    trainer = talking(tmp_path, users, model, tokenizer, method="judge")
    trainer.model.train()
    limit = trainer.generation_config.max_new_tokens
    prompts = [prompt for prompt in users.problems(2)["prompt"] for _ in range(4)]
    read, write = [], trainer._generate_single_turn

    def record(histories, *arguments, **options):
        read.extend(map(tuple, histories))
        return write(histories, *arguments, **options)

    trainer._generate_single_turn = record
    out = users(prompts, trainer)
    began = []
    for prompt, ids, own in zip(out["prompt_ids"], out["completion_ids"], out["env_mask"], strict=True):
        starts = [at for at, here in enumerate(own) if here and (at == 0 or not own[at - 1])]
        began += [tuple(prompt + ids[:at]) for at in starts]
    assert sorted(read) == sorted(began), "before each turn the policy reads all that was said"
    assert trainer.generation_config.max_new_tokens == limit
    assert out["prompt_ids"][0] == out["prompt_ids"][3] != out["prompt_ids"][4]
    several = 0
    for row, prompt in enumerate(prompts):
        example = task.sample(random.Random(f"0/problem/{prompt}"))
        assert out["prompt_ids"][row] == chat.opening(task.opening(example))
        runs = [
            (own, [token for token, _ in run])
            for own, run in itertools.groupby(
                zip(out["completion_ids"][row], out["env_mask"][row], strict=True), key=lambda pair: pair[1]
            )
        ]
        assert [own for own, _ in runs] == [1, 0] * (len(runs) // 2) + [1] * (len(runs) % 2)
        assert all(len(ids) <= 6 for own, ids in runs if own)
        said = [ids for own, ids in runs if own]
        assert len(out["judge_scores"][row]) == len(said) <= task.max_turns
        messages, rng = task.opening(example), random.Random(f"user/0/{prompt}/0/{row}")
        for ids, heard in itertools.zip_longest(said, [ids for own, ids in runs if not own]):
            messages.append(Message("assistant", chat.text(ids)))
            if heard is not None:
                messages.append(Message("user", task.reply(example, messages, rng)))
                assert heard == chat.user_block(messages[-1].content, closed=ids[-1] == chat.eos_id)
        assert out["outcome"][row] == task.score(example, messages)
        several += len(said) > 1
    assert several and out["logprobs"] is None
    assert len({tuple(ids) for ids in out["completion_ids"]}) > 1, "rollouts of a prompt differ"
    inputs = [{"prompt": prompt} for prompt in prompts]
    batch = trainer._generate_and_score_completions(inputs)
    assert batch["advantages"].shape == batch["completion_ids"].shape

    class Mute:
        def scores(self, example, messages, rng):
            raise JudgeError("no comment")

    users.judge = Mute()
    assert users(prompts, trainer)["outcome"] == [None] * 8, "what could not be judged is left out"


@pytest.fixture
def by_pad(tmp_path):
    """A trainer whose tokenizer and model know no end of a turn, which the chat template alone does, and its users."""
    task, (model, tokenizer) = get_task("math"), load(SHIPPED / "laptop-math")
    end, tokenizer.eos_token = tokenizer.eos_token_id, tokenizer.pad_token
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    users = Conversations(task, tokenizer, max_turn_tokens=24)
    options = {"method": "trajectory_share", "mask_truncated_completions": True}
    return talking(tmp_path, users, model, tokenizer, **options), users, end


def test_turns_end_where_the_chat_template_ends_them(by_pad):
    """Whatever tokenizer and model call their end: what follows the template's would be trained as the assistant's words."""
    trainer, users, end = by_pad
    assert end not in trainer.eos_token_ids and end in users.chat.end_ids
    prompts, before = users.problems(2)["prompt"], trainer.generation_config.to_dict()
    out = users([prompt for prompt in prompts for _ in range(4)], trainer)
    ended = 0
    for ids, own in zip(out["completion_ids"], out["env_mask"], strict=True):
        for here, run in itertools.groupby(zip(ids, own, strict=True), key=lambda pair: pair[1]):
            turn = [token for token, _ in run]
            assert not here or end not in turn[:-1]
            ended += here and turn[-1] == end
    assert ended > 8
    assert trainer.generation_config.to_dict() == before
    trainer.model.train()
    batch = trainer._generate_and_score_completions([{"prompt": p} for p in prompts for _ in range(4)])
    (cut_off,) = trainer._metrics["train"]["completions/clipped_ratio"]
    assert cut_off < 1 and batch["completion_mask"].any(), "those that the template ended are whole"


class Together:
    """What ``TRLEngine`` asks of a trainer, in one process of two; the other has so many open dialogues before each turn."""

    pad = 3

    def __init__(self, others, vllm=True, fsdp=False, zero3=False):
        self.others, self.use_vllm, self.seen = list(others), vllm, []
        self.accelerator, self._dist = self, SimpleNamespace(is_fsdp=fsdp, is_zero3=zero3)
        self.device, self.eos_token_ids = torch.device("cpu"), [1]
        limits = {"max_completion_length": 99, "generation_kwargs": {"seed": 0, "stop_token_ids": [4]}}
        self.vllm_generation = SimpleNamespace(**limits)
        self.generation_config = SimpleNamespace(max_new_tokens=99, eos_token_id=1)

    def gather(self, count):
        return torch.cat([count, torch.tensor([self.others.pop(0)])])

    def _generate_single_turn(self, histories, images, fields, num_generations):
        limited = self.vllm_generation if self.use_vllm else self.generation_config
        self.seen.append((len(histories), copy.deepcopy(vars(limited))))
        return [[history[0], 2] for history in histories], None


@pytest.mark.parametrize("kind", [{}, {"vllm": False, "fsdp": True}, {"vllm": False, "zero3": True}])
def test_where_all_must_generate_together_each_does_as_often_and_as_much(kind):
    """By vLLM, which is asked for all at once, or because each holds a part of the model."""
    trainer, heard = Together([1, 5, 2, 0], **kind), []  # here 3, 2, 1 and none

    def ask(rows, turns):
        heard.append([(row, turn.ids) for row, turn in zip(rows, turns, strict=True)])
        over = (1, 2, 0)[len(heard) - 1]
        return at_once([None if row == over else [8] for row in rows])

    decoding = Decoding((2, 1), Together.pad, 7, False, 99)
    TRLEngine(trainer).converse([[10], [11], [12]], torch.zeros(3, 0, 0).double(), decoding, ask)
    assert [count for count, _ in trainer.seen] == [3, 5, 2]
    assert heard == [[(0, [10, 2]), (1, [11, 2]), (2, [12, 2])], [(0, [10, 2]), (2, [12, 2])], [(0, [10, 2])]]
    limits = trainer.seen[0][1]
    if trainer.use_vllm:
        own = {"seed": 0, "stop_token_ids": [4, 1, 2]}
        assert limits == {"max_completion_length": 7, "generation_kwargs": own}
        assert trainer.vllm_generation.generation_kwargs == {"seed": 0, "stop_token_ids": [4]}
    else:
        assert limits == {"max_new_tokens": 7, "eos_token_id": [1, 2]}
        assert vars(trainer.generation_config) == {"max_new_tokens": 99, "eos_token_id": 1}


def test_a_process_without_dialogues_generates_along():
    trainer = Together([2, 1, 0])
    TRLEngine(trainer).converse([], torch.zeros(0, 0, 0).double(), Decoding((1,), 3, 7, False, 99), at_once)
    assert [count for count, _ in trainer.seen] == [2, 1]


def test_scores_of_turns_that_are_missing_are_named(build):
    trainer = build(method="judge")
    trainer.model.train()
    made_up = trainer.rollout_func

    def without(prompts, trainer):
        out = made_up(prompts, trainer)
        del out["judge_scores"]
        return out

    trainer.rollout_func = without
    with pytest.raises(ValueError, match="got none for the . turns of row 0: return judge_scores from"):
        batch_of(trainer)


def test_other_versions_of_trl_are_named(monkeypatch):
    monkeypatch.delenv("ITPO_UNTESTED_ENGINES", raising=False)
    with pytest.raises(RuntimeError, match=f"trl 2.0.0 was not tested with itpo, .*{TESTED[-1]} were"):
        check_version("2.0.0")
    monkeypatch.setenv("ITPO_UNTESTED_ENGINES", "1")
    check_version("2.0.0")


@pytest.mark.engine
def test_the_prm_is_saved_as_a_standard_adapter(build, tmp_path):
    trainer = build(method="norm_itpo")
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    saved = load_file(tmp_path / "saved" / "prm" / "adapter_model.safetensors")
    own = trl_parts.adapters(trainer)
    for name, weight in saved.items():
        place = name.replace(".weight", ".prm.weight")
        assert torch.equal(weight, own[place]), name
    assert json.loads((tmp_path / "saved" / "prm" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert Path(tmp_path / "saved" / "adapter_model.safetensors").is_file()
