"""The memory formula against published numbers, real tensors and measured peaks, and what it refuses."""

import itertools
import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from itpo.__main__ import main
from itpo.chat import ChatFormat, Message
from itpo.models.backbone import Backbone
from itpo.models.loading import load_base
from itpo.models.memory import (
    DoesNotFit,
    Settings,
    Work,
    adapter_parameters,
    budget,
    cache_bytes,
    check,
    choose,
    free_gib,
    layer_bytes,
    of_run,
    report,
)
from itpo.models.shapes import GIB, PUBLISHED, Shape, find_shape
from itpo.models.tiny import build_tokenizer
from itpo.rollout.engine import Decoding, write_turns
from itpo.rollout.sampler import Sampling, take_turns
from itpo.runs.store import Store
from itpo.specs import Adapter, PretrainedModel
from itpo.study.profiles import get_profile
from itpo.tasks.registry import get_task
from itpo.training.build import build_learner
from itpo.training.profiling import peak_bytes

QWEN_3B = find_shape("Qwen/Qwen2.5-3B-Instruct")
CPU = torch.device("cpu")


def test_qwen_3b_takes_what_was_worked_out_on_paper():
    work = Work(prompt=0, response=4096)
    parts = budget(QWEN_3B, work, Settings(5120, 512, 32, 2048))
    gib = {
        name: size / GIB
        for part in (parts.held, parts.training, parts.rollout)
        for name, size in part.items()
    }
    assert gib["base"] == pytest.approx(1.91, abs=0.005)
    assert gib["adapters"] == pytest.approx(0.45, abs=0.005)
    assert gib["optimizer state"] == pytest.approx(0.23, abs=0.005)
    assert gib["gradients of an adapter"] == pytest.approx(0.22, abs=0.005)
    assert gib["logits of a chunk"] == pytest.approx(0.72, abs=0.006)
    spare = 32 * 128 * 36_864 / GIB  # columns that a cache has before it needs them
    assert gib["cache of all dialogues"] == 4.5 + spare and cache_bytes(QWEN_3B, work) == 36_864
    assert 1.8 < gib["inputs of all layers"] + gib["one layer computed again"] < 2.8
    assert parts.training_peak < 7 * GIB and parts.rollout_peak < 8.5 * GIB


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen2.5-0.5B", 0.49),
        ("Qwen2.5-1.5B", 1.54),
        ("Qwen2.5-3B", 3.09),
        ("Qwen2.5-7B", 7.61),
        ("Qwen3-4B", 4.02),
    ],
)
def test_published_shapes_have_the_published_number_of_parameters(name, billions):
    found = [shape for known, shape in PUBLISHED.items() if name in known]
    assert found
    for shape in found:
        embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
        weights = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linear)
        assert (weights + embeddings) / 1e9 == pytest.approx(billions, abs=0.006)


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen3-4B"])
def test_the_settings_fit_and_larger_ones_do_not(name):
    shape, work, before = find_shape(name), Work(), Settings(1, 1, 1, 1)
    for gpu in (12.0, 16.0, 24.0):
        settings = choose(shape, work, gpu)
        check(shape, work, settings, gpu)
        assert settings.token_budget >= before.token_budget and settings.max_rows >= before.max_rows
        parts = budget(shape, work, settings)
        assert max(parts.training_peak, parts.rollout_peak) <= (gpu - 1) * GIB
        waves = -(-work.dialogues // settings.max_rows)
        if waves > 1:
            fewer = replace(settings, max_rows=-(-work.dialogues // (waves - 1)))
            with pytest.raises(
                DoesNotFit, match=f"the largest that fit: .*max_rows {settings.max_rows}, read"
            ):
                check(shape, work, replace(fewer, read_budget=1024), gpu)
        before = settings


def test_what_does_not_fit_is_refused_with_what_does():
    with pytest.raises(DoesNotFit, match=r"longest response that fits has (\d+) tokens") as short:
        choose(QWEN_3B, Work(), 5.0)
    longest = int(str(short.value).split("--response ")[1].rstrip(")"))
    choose(QWEN_3B, Work(response=longest), 5.0)
    with pytest.raises(DoesNotFit):
        choose(QWEN_3B, Work(response=longest + 256), 5.0)
    with pytest.raises(DoesNotFit, match="these models fit: Qwen/Qwen2.5-0.5B-Instruct, .*SmolLM2"):
        choose(find_shape("Qwen/Qwen2.5-7B-Instruct"), Work(), 4.0)


def test_another_engine_counts_instead_of_our_own_rollout():
    """What it takes must be left beside base and adapters; how many dialogues are held at a time is its own affair."""
    many = Settings(5120, 512, max_rows=128, read_budget=16384)
    with pytest.raises(DoesNotFit, match="max_rows 128"):
        check(QWEN_3B, Work(), many, 24.0)
    check(QWEN_3B, Work(), many, 24.0, engine_gib=12.0)
    held = sum(budget(QWEN_3B, Work(), many).held.values()) / 2**30
    check(QWEN_3B, Work(), many, 24.0, engine_gib=23.0 - held - 0.01)
    with pytest.raises(
        DoesNotFit, match=rf"asks for 24.0 GiB, and {held:.1f} GiB .* leave {23 - held:.1f} of"
    ):
        check(QWEN_3B, Work(), many, 24.0, engine_gib=24.0)
    with pytest.raises(DoesNotFit, match="token_budget 131072"):
        check(QWEN_3B, Work(), replace(many, token_budget=131072), 24.0, engine_gib=12.0)


def test_the_command_prints_a_plan_or_one_line(capsys, tmp_path):
    config = {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "vocab_size": 151936}
    config |= {"num_attention_heads": 16, "num_key_value_heads": 2, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert find_shape(str(tmp_path)) == find_shape(str(tmp_path / "config.json")) == QWEN_3B
    printed = []
    for model in ("Qwen/Qwen2.5-3B-Instruct", str(tmp_path)):
        assert main(["plan", "--model", model, "--gpu", "24"]) == 0
        printed.append(capsys.readouterr().out.partition(":")[2])
    assert printed[0] == printed[1] and "settings: token_budget" in printed[0]
    (tmp_path / "config.json").write_text("{}")
    for model, wrong in (
        (str(tmp_path), "the config has no hidden_size"),
        ("me/mine", "neither a folder or file"),
    ):
        assert main(["plan", "--model", model, "--gpu", "24"]) == 2
        assert wrong in capsys.readouterr().err
    assert main(["plan", "--model", "Qwen/Qwen3-4B", "--gpu", "12", "--max-rows", "128"]) == 2
    assert "the largest that fit: token_budget" in capsys.readouterr().err
    if free_gib() is None:
        assert main(["plan", "--model", "Qwen/Qwen3-4B"]) == 2
        assert "this machine has no GPU: say how much memory" in capsys.readouterr().err


# Measured


def small(width=torch.float32, layers=3):
    """A grouped-query model in which each part of the formula can be seen."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=3000,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(width)


@pytest.mark.parametrize("width", [torch.float32, torch.bfloat16])
def test_the_training_peak_is_the_measured_one(width):
    model = small(width)
    shape, rank, tokens, chunk = Shape.of(model.config.to_dict()), 4, 2048, 128
    backbone = Backbone(model, ["policy"], Adapter(rank, rank), head_chunk=chunk, checkpointing=True)
    assert sum(p.numel() for p in backbone.parameters("policy").values()) == adapter_parameters(shape, rank)
    ids = torch.randint(3000, (4, tokens // 4))
    mask = torch.rand(ids.shape) < 0.4
    mask[:, 0] = False

    def step():
        with backbone.use("policy"):
            logp, entropy = backbone.token_stats(ids, mask)
            (logp + entropy).sum().backward()

    work = Work(prompt=1, response=1, precision="full", rank=rank, value_bytes=width.itemsize)
    planned = budget(shape, work, Settings(tokens, chunk, 1, 1))
    expected = planned.training_peak - sum(planned.held.values())
    assert 0.8 < peak_bytes(step, CPU) / expected < 1.2


def test_more_layers_cost_their_inputs_only():
    ids = torch.randint(3000, (2, 512))
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    mask[:, -9:] = True

    def backward(backbone):
        with backbone.use("policy"):
            backbone.token_stats(ids, mask)[0].sum().backward()

    backbones = [Backbone(small(layers=n), ["policy"], Adapter(2, 2), checkpointing=True) for n in (2, 6)]
    few, many = (peak_bytes(partial(backward, backbone), CPU) for backbone in backbones)
    shape = Shape.of(small(layers=4).config.to_dict())
    assert many - few == pytest.approx(4 * 1024 * 96 * 4 + 4 * adapter_parameters(shape, 2), rel=0.15)
    assert 4 * layer_bytes(shape, 4) * 1024 > 5 * (many - few)  # what they would cost otherwise


def wide(width=torch.float32, vocabulary=300, kv_heads=2):
    """Of few layers, so that a pass takes more than the cache; a Llama of Qwen2.5's proportions."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 688,
        "num_hidden_layers": 2,
        "tie_word_embeddings": True,
    }
    heads = {"num_attention_heads": 8, "num_key_value_heads": kv_heads}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes, **heads)).to(width)
    return Backbone(model, ["policy"], Adapter(4, 8)), Shape.of(model.config.to_dict())


@pytest.mark.parametrize("width", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "length", "read", "kv_heads"),
    [(4, 800, 16384, 2), (4, 800, 512, 2), (8, 500, 256, 2), (4, 800, 512, 1)],
)
def test_the_rollout_peak_is_the_measured_one(width, rows, length, read, kv_heads):
    """Of the policy, and of users, who read whole transcripts without an adapter while the policy's cache waits."""
    backbone, shape = wide(width, kv_heads=kv_heads)
    work = Work(1, length - 1, rows, 1, 4, "full", width.itemsize, 4.0, user_reply=4)
    planned = budget(shape, work, Settings(1024, 64, rows, read)).rollout
    blocks, uniforms = [[1] * (length - 4 - 5 * row) for row in range(rows)], torch.rand(rows, 4).double()
    policy = planned["cache of all dialogues"] + planned["a pass of the policy"]
    asked = work.question - length  # beside the transcript
    users = planned["cache of users"] + planned["a pass of users"]
    for name, blocks_, expected in (
        ("policy", blocks, policy),
        (None, [b + [1] * asked for b in blocks], users),
    ):

        def speak(name=name, blocks_=blocks_):
            with backbone.use(name), torch.no_grad():
                write_turns(
                    backbone.decoder(rows), blocks_, uniforms, Decoding((-1,), 0, 4, False, rows, 1, read)
                )

        # oneDNN's kernels for AMX take scratch space, 2.1 and 1.3 MB in two cases. Without AMX there is none
        # (ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16).
        tiles = width == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
        assert 0.8 * expected < peak_bytes(speak, CPU) < 1.2 * expected + 1.5e6 * tiles, name


def test_users_who_read_transcripts_stay_within_the_plan():
    """What was read at once took 3.4 times what was planned for the whole rollout."""
    tokenizer = build_tokenizer(get_task("math").words)
    backbone, shape = wide(vocabulary=len(tokenizer))
    work = Work(64, 960, 4, 1, 4, "full", 4, 4.0, user_reply=4)
    whole = budget(shape, work, Settings(1024, 64, 4, 512))
    says = whole.rollout_peak - sum(whole.held.values())
    questions = [[Message("user", " ".join(["pens"] * 1000))]] * 4
    chat, generators = ChatFormat(tokenizer), [torch.Generator().manual_seed(n) for n in range(4)]

    def read(budget):
        take_turns(backbone, chat, questions, generators, Sampling(4, max_rows=4, read_budget=budget))

    got, at_once = (peak_bytes(partial(read, budget), CPU) for budget in (512, 10**6))
    waiting = 4 * 1024 * cache_bytes(shape, work)  # the policy's own cache
    assert 0.6 < (got + waiting) / says < 1.0
    assert at_once > 2 * got


@pytest.mark.parametrize("precision", ["full", "nf4"])
def test_the_base_takes_what_its_tensors_take(precision, tiny_folder):
    if precision == "nf4":
        pytest.importorskip("bitsandbytes", reason='needs the extra "gpu"')
    model, _ = load_base(tiny_folder, precision, "cpu")
    shape = Shape.of(model.config.to_dict())
    size = 0
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        norms = "norm" in name
        size += 0 if norms else parameter.numel() * parameter.element_size()
        if state is not None:
            size += state.absmax.numel() + 4 * state.state2.absmax.numel()
    work = Work(precision=precision, value_bytes=4)
    assert size == pytest.approx(budget(shape, work, Settings(1, 1, 1, 1)).held["base"], rel=0.02)


def test_the_consumer_profiles_fit_the_gpu_they_name_and_their_settings_are_the_plans():
    for name in ("consumer", "consumer_full"):
        for task, estimator in itertools.product(("math", "documents", "medical"), ("rloo", "ppo")):
            for config in get_profile(name).on(task).grid(estimator):
                work, settings = of_run(config)
                check(QWEN_3B, work, settings, gpu_gib=24.0)
                with pytest.raises(DoesNotFit, match="the largest that fit: token_budget"):
                    check(QWEN_3B, work, settings, gpu_gib=12.0)
        run = get_profile(name).run
        math = Work(response=3584, user_reply=256, dialogues=run.prompts * run.rollouts)
        medical = replace(math, response=4352, judge_reply=2048)
        assert run.token_budget == choose(QWEN_3B, math, 24.0).token_budget
        longest = choose(QWEN_3B, medical, 24.0)
        assert (run.head_chunk, run.max_rows, run.read_budget) == (
            longest.head_chunk,
            longest.max_rows,
            longest.read_budget,
        )
    # One more wave would be needed otherwise: with 64 rows it does not fit.
    with pytest.raises(DoesNotFit):
        check(QWEN_3B, medical, replace(longest, max_rows=64, read_budget=1024), 24.0)


def test_a_first_look_takes_half_a_day_and_no_crash_costs_more_than_half_an_hour():
    """By the estimate that the profile states: 12 minutes for 128 dialogues of Norm-ITPO, all else being less."""

    def minutes(config):
        return 12 * config.prompts * config.rollouts / 128

    first, full = get_profile("consumer").grid(), get_profile("consumer_full").grid()
    whole = sum((c.steps + c.warmup + 3 * (1 + c.steps // c.eval_every)) * minutes(c) for c in first)
    assert {c.method.name for c in first} == {"trajectory_share", "norm_itpo"} and whole < 13.5 * 60
    assert all(c.checkpoint_every * minutes(c) <= 30 for c in first + full)


def test_who_reads_is_counted_where_the_base_reads():
    consumer = get_profile("consumer")
    by_rule, judged = (of_run(consumer.on(task).run)[0] for task in ("math", "medical"))
    assert (by_rule.user_reply, by_rule.judge_reply) == (256, 0)  # math is judged by rule
    assert (judged.user_reply, judged.judge_reply, judged.turns) == (256, 2048, 6)
    method = replace(consumer.run, method=replace(consumer.run.method, name="judge", options={}))
    assert of_run(method)[0].judge_reply == 2048
    parts = [
        budget(QWEN_3B, work, Settings(18432, 512, 32, 16384))
        for work in (by_rule, replace(by_rule, user_reply=0), replace(by_rule, judge_reply=2048))
    ]
    users, alone, both = (part.rollout_peak for part in parts)
    read = parts[0].rollout
    assert users - alone == read["cache of users"] + read["a pass of users"] - read["a pass of the policy"]
    assert read["cache of users"] > 32 * (by_rule.question + 256) * cache_bytes(QWEN_3B, by_rule)
    assert both >= users and "cache of judges" in parts[2].rollout
    # Judges are asked when the dialogues are over: their caches are not held together.
    judges = sum(size for name, size in parts[2].rollout.items() if "judges" in name)
    assert both == max(users, judges + sum(parts[2].held.values()))
    table = report("Qwen", QWEN_3B, replace(by_rule, judge_reply=2048), Settings(18432, 512, 32, 16384), 24.0)
    assert "cache of judges (32 x 7936 tokens)" in table


def test_an_embedded_model_needs_no_plan():
    with pytest.raises(TypeError, match="too small to plan for"):
        of_run(get_profile("laptop").run)


def test_a_run_that_does_not_fit_is_refused_before_weights_are_read(tmp_path, monkeypatch):
    """The folder has no weights at all: whoever tried to read them would complain of that."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    config = dict(zip(names, (2048, 11008, 36, 16, 151936), strict=True))
    (tmp_path / "config.json").write_text(json.dumps(config))
    wanted = replace(get_profile("consumer").run, model=PretrainedModel(str(tmp_path), "nf4"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    # Of a card of 24 GiB, half is somebody else's.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (12 * GIB, 24 * GIB))
    assert free_gib() == 12.0
    with pytest.raises(DoesNotFit, match="a GPU of 12 GiB has 11.0 to give; the largest that fit"):
        build_learner(wanted, Store(tmp_path / "runs"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_experts": 8}))
    with (
        pytest.warns(UserWarning, match="not known: .* is a mixture of 8 experts"),
        pytest.raises((OSError, ValueError)),
    ):
        build_learner(wanted, Store(tmp_path / "runs"))
