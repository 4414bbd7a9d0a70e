"""One base with several adapters against separate plain models that have the same weights."""

import dataclasses
import json
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from itpo.dialogue import Dialogue, collate
from itpo.models.adapters import micro_batches
from itpo.models.backbone import Backbone
from itpo.models.tiny import load
from itpo.specs import Adapter

VOCABULARY = 60


def random_batch(rows=6, seed=0):
    """Dialogues of random tokens with several turns, of different lengths; some end in the middle of a user's words."""
    generator = torch.Generator().manual_seed(seed)
    dialogues = []
    for i in range(rows):
        length = 7 + 5 * i
        ids = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
        mask = [False, *(torch.rand(length - 1, generator=generator) < 0.6).tolist()]
        dialogues.append(Dialogue(None, (), tuple(ids), tuple(mask), (0.0,) * length, i / rows))
    return collate(dialogues, 1, pad_id=0)


def loss_on(stats, response_mask):
    """Some scalar that depends on every response token in its own way."""
    weights = torch.linspace(-1, 1, response_mask.numel()).view(response_mask.shape)
    logp, entropy = stats
    return (weights * logp + 0.3 * weights.flip(1) * entropy).sum()


def gradients(backbone, name):
    return {key: None if p.grad is None else p.grad.clone() for key, p in backbone.parameters(name).items()}


def values(backbone):
    return {key: p.detach().clone() for key, p in backbone.model.named_parameters()}


def everything(backbone):
    """What `use` must leave as it was."""
    model = backbone.model
    switches = [(m._disable_adapters, m.active_adapters) for m in model.modules() if hasattr(m, "lora_A")]
    return backbone.active, switches, {k: p.requires_grad for k, p in model.named_parameters()}


def full_stats(model, batch):
    """Log-probability and entropy of each response token, from all logits of one row at a time."""
    logps = torch.zeros(batch.input_ids.shape, dtype=torch.float64)
    entropies = logps.clone()
    for i in range(len(batch)):
        ids = batch.input_ids[i, batch.attention_mask[i]]
        logits = model(ids[None]).logits[0].double()
        for t in range(len(ids)):
            if batch.response_mask[i, t]:
                p = torch.softmax(logits[t - 1], dim=0)
                logps[i, t] = torch.log(p[ids[t]])
                entropies[i, t] = -sum(float(x) * float(x.log()) for x in p if x > 0)
    return logps, entropies


@pytest.mark.parametrize("name", ["policy", "prm", None])
def test_token_stats_are_those_of_full_logits(make_backbone, plain_model, name):
    backbone, batch = make_backbone(), random_batch()
    with torch.no_grad(), backbone.use(name):
        logp, entropy = backbone.token_stats(batch.input_ids, batch.response_mask)
    expected_logp, expected_entropy = full_stats(plain_model(backbone, name), batch)
    torch.testing.assert_close(logp.double(), expected_logp, atol=2e-5, rtol=0)
    torch.testing.assert_close(entropy.double(), expected_entropy, atol=2e-5, rtol=0)
    assert not logp[~batch.response_mask].any() and not entropy[~batch.response_mask].any()
    assert (logp[batch.response_mask] < 0).all()


def test_the_adapters_differ(make_backbone):
    """Otherwise the tests above could not tell them apart."""
    backbone, batch = make_backbone(), random_batch()
    policy, prm, reference = (backbone.log_probs(batch, name, 500) for name in ("policy", "prm", None))
    for one, other in ((policy, prm), (policy, reference), (prm, reference)):
        assert (one - other)[batch.response_mask].abs().mean() > 0.1


def test_outside_use_the_model_is_the_plain_base(make_backbone, plain_model):
    backbone, batch = make_backbone(), random_batch()
    base = plain_model()
    with torch.no_grad():
        assert torch.equal(backbone.model(batch.input_ids).logits, base(batch.input_ids).logits)
        with backbone.use("policy"), backbone.use(None):
            assert torch.equal(backbone.model(batch.input_ids).logits, base(batch.input_ids).logits)
        with backbone.use("policy"):
            assert not torch.allclose(backbone.model(batch.input_ids).logits, base(batch.input_ids).logits)


def test_fresh_adapters_change_nothing(make_backbone):
    backbone, batch = make_backbone(fresh=True), random_batch()
    reference = backbone.log_probs(batch, None, 500)
    for name in backbone.names:
        torch.testing.assert_close(backbone.log_probs(batch, name, 500), reference, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{}, {"checkpointing": True, "head_chunk": 9}])
def test_gradients_are_those_of_two_separate_models(make_backbone, tiny_folder, options):
    backbone, batch = make_backbone(**options), random_batch()
    for name in ("policy", "prm", "policy"):
        # A rollout-like pass without gradient and under other adapters comes before each update, as in training.
        backbone.log_probs(batch, None, 300)
        backbone.log_probs(batch, "policy", 300)
        for parameter in backbone.model.parameters():
            parameter.grad = None
        with backbone.use(name):
            loss_on(
                backbone.token_stats(batch.input_ids, batch.response_mask), batch.response_mask
            ).backward()

        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        alone = get_peft_model(load(tiny_folder)[0], config)
        twins = {
            key.replace(".default.", f".{name}."): p
            for key, p in alone.get_base_model().named_parameters()
            if "lora_" in key
        }
        assert twins.keys() == backbone.parameters(name).keys()
        for key, parameter in backbone.parameters(name).items():
            twins[key].data.copy_(parameter.data)
        logits = alone(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long()).logits[:, :-1]
        logp = logits.log_softmax(-1)
        chosen = logp.gather(2, batch.input_ids[:, 1:, None]).squeeze(2)
        entropy = -(logp.exp() * logp).sum(-1)
        first = torch.zeros(len(batch), 1)
        stats = [torch.cat([first, x], 1).masked_fill(~batch.response_mask, 0.0) for x in (chosen, entropy)]
        loss_on(stats, batch.response_mask).backward()

        for key, parameter in backbone.parameters(name).items():
            assert parameter.grad.abs().max() > 0
            scale = twins[key].grad.abs().max().item()
            torch.testing.assert_close(parameter.grad, twins[key].grad, atol=1e-4 * scale, rtol=1e-4)
        others = {k: p for k, p in backbone.model.named_parameters() if k not in backbone.parameters(name)}
        assert all(p.grad is None for p in others.values())


def test_the_first_step_moves_lora_b_and_nothing_else(make_backbone):
    backbone, batch = make_backbone(fresh=True), random_batch()
    optimizers = {n: torch.optim.AdamW(backbone.parameters(n).values(), lr=1e-2) for n in backbone.names}
    for name in ("prm", "policy"):
        before = values(backbone)
        optimizers[name].zero_grad(set_to_none=True)
        with backbone.use(name):
            loss_on(
                backbone.token_stats(batch.input_ids, batch.response_mask), batch.response_mask
            ).backward()
        optimizers[name].step()
        after = values(backbone)
        moved = {key for key in before if not torch.equal(before[key], after[key])}
        assert {key for key in moved if "lora_B" in key} == {
            k for k in backbone.parameters(name) if "lora_B" in k
        }
        assert moved <= backbone.parameters(name).keys()


def test_use_restores_everything(make_backbone):
    backbone, batch = make_backbone(), random_batch()
    trainable = {key for key, p in backbone.model.named_parameters() if p.requires_grad}
    assert trainable == backbone.parameters("policy").keys() | backbone.parameters("prm").keys()
    assert backbone.active is None
    outside = everything(backbone)
    with backbone.use("policy"):
        inside = everything(backbone)
        assert backbone.active == "policy" and inside[2] == outside[2]
        with backbone.use("prm"):
            assert backbone.active == "prm"
            with backbone.use(None):
                assert backbone.active is None
            assert backbone.active == "prm"
        assert everything(backbone) == inside
        backbone.log_probs(batch, None, 100)
        assert everything(backbone) == inside
        with pytest.raises(RuntimeError, match="on purpose"), backbone.use("prm"):
            raise RuntimeError("on purpose")
        assert everything(backbone) == inside
    with pytest.raises(KeyboardInterrupt), backbone.use("policy"), backbone.use("prm"):
        raise KeyboardInterrupt
    after = everything(backbone)
    assert after[0] is None and after[2] == outside[2]
    assert [disabled for disabled, _ in after[1]] == [disabled for disabled, _ in outside[1]]


def test_unknown_adapters_are_named_with_the_known(make_backbone):
    backbone = make_backbone()
    known = "unknown adapter 'critic'; this backbone has: policy, prm"
    with pytest.raises(ValueError, match=known), backbone.use("critic"):
        raise AssertionError("the block must not run")
    with pytest.raises(ValueError, match=known):
        backbone.parameters("critic")
    assert backbone.active is None


def test_adapter_names_that_contain_each_other(tiny_folder):
    backbone = Backbone(load(tiny_folder)[0], ["prm", "prm2"], Adapter(2, 4))
    assert backbone.parameters("prm").keys().isdisjoint(backbone.parameters("prm2"))
    assert len(backbone.parameters("prm")) == len(backbone.parameters("prm2")) > 0


def test_the_seed_decides_the_adapters(tiny_folder):
    def adapters(seed):
        backbone = Backbone(load(tiny_folder)[0], ["policy", "prm"], Adapter(4, 8), seed=seed)
        return [p for name in backbone.names for p in backbone.parameters(name).values()]

    state = torch.get_rng_state()
    one, same, other = adapters(1), adapters(1), adapters(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_response_needs_context(make_backbone):
    ids, mask = torch.ones(2, 3, dtype=torch.int64), torch.tensor([[False, True, True], [True, False, True]])
    with pytest.raises(ValueError, match="position 0 has no context"):
        make_backbone().token_stats(ids, mask)


@pytest.mark.parametrize("budget", [1, 40, 70, 10**6])
def test_log_probs_do_not_depend_on_micro_batches(make_backbone, plain_model, budget):
    backbone, batch = make_backbone(), random_batch()
    actual = backbone.log_probs(batch, "policy", budget)
    expected, _ = full_stats(plain_model(backbone, "policy"), batch)
    torch.testing.assert_close(actual.double(), expected, atol=2e-5, rtol=0)
    assert not actual.requires_grad


def test_log_probs_follow_the_order_of_rows_and_ignore_padding(make_backbone):
    backbone, batch = make_backbone(), random_batch()
    before = backbone.log_probs(batch, "prm", 60)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = dataclasses.replace(
        batch,
        input_ids=batch.input_ids[order].masked_fill(~batch.attention_mask[order], 17),
        attention_mask=batch.attention_mask[order],
        response_mask=batch.response_mask[order],
        turn_ids=batch.turn_ids[order],
        outcome=batch.outcome[order],
    )
    torch.testing.assert_close(backbone.log_probs(shuffled, "prm", 60), before[order], atol=2e-5, rtol=0)


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=30), budget=st.integers(1, 200))
def test_micro_batches_cover_every_row_once(lengths, budget):
    pieces = list(micro_batches(torch.tensor(lengths), budget))
    assert sorted(int(row) for rows, _ in pieces for row in rows) == list(range(len(lengths)))
    for rows, width in pieces:
        assert width == max(1, *(lengths[row] for row in rows))
        assert len(rows) == 1 or len(rows) * width <= budget
    widths = [width for _, width in pieces]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("name", ["policy", "prm"])
def test_a_saved_adapter_is_read_by_plain_peft(make_backbone, tiny_folder, tmp_path, name):
    backbone, batch = make_backbone(), random_batch()
    backbone.save_adapter(name, tmp_path / "adapter")
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    # In double precision, in which rounding cannot hide that peft adds the adapter to activations and narrow layers to weights.
    read = PeftModel.from_pretrained(load(tiny_folder)[0], tmp_path / "adapter").double()
    backbone.peft_model.double()
    with torch.no_grad():
        expected = read(batch.input_ids).logits
        with backbone.use(name):
            actual = backbone.model(batch.input_ids).logits
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=0)


def test_the_config_of_a_saved_adapter_is_the_same_from_every_process(make_backbone, tmp_path):
    make_backbone().save_adapter("policy", tmp_path)
    targets = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    # A set of names, whose order the hash seed of the process decides.
    assert len(targets) == 14 and targets == sorted(targets)


def test_saving_leaves_the_backbone_as_it_was(make_backbone, tmp_path):
    backbone = make_backbone()
    before, weights = everything(backbone), values(backbone)
    backbone.save_adapter("prm", tmp_path)
    assert everything(backbone) == before
    assert all(torch.equal(weights[key], value) for key, value in values(backbone).items())
    assert not backbone.peft_model.peft_config["prm"].inference_mode


def test_other_architectures_and_untied_heads():
    """A grouped-query model with its own head, in which the head must stay without adapter."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=False,
        )
    )
    backbone, batch = Backbone(model, ["policy"], Adapter(2, 2)), random_batch(3)
    assert not any("lm_head" in key or "embed" in key for key in backbone.parameters("policy"))
    with torch.no_grad():
        expected = full_stats(backbone.model, batch)
    assert backbone.log_probs(batch, None, 100).double() == pytest.approx(expected[0], abs=2e-5)


def test_models_that_cannot_be_adapted_are_refused_by_name():
    config = T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match="T5ForConditionalGeneration has an encoder: use a causal LM"):
        Backbone(T5ForConditionalGeneration(config), ["policy"], Adapter())
    model = RwkvForCausalLM(RwkvConfig(vocab_size=50, hidden_size=8, num_hidden_layers=2))
    with pytest.raises(ValueError, match="RwkvForCausalLM cannot be decoded step by step here"):
        Backbone(model, ["policy"], Adapter())
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **size))
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(ValueError, match="LlamaForCausalLM has no linear layer that LoRA can adapt"):
        Backbone(model, ["policy"], Adapter())
    model.model.layers = torch.nn.ModuleList([torch.nn.Linear(8, 8)])
    with pytest.raises(ValueError, match="LlamaForCausalLM has no layer that can be checkpointed"):
        Backbone(model, ["policy"], Adapter(), checkpointing=True)


def test_checkpointing_keeps_the_cache_of_rollouts_and_less_for_the_backward_pass(make_backbone):
    """Layers in training mode drop their cache, so they may be in it only while a graph is made."""
    batch, kept = random_batch(), []
    for checkpointing in (False, True):
        backbone = make_backbone(checkpointing=checkpointing)
        sizes: list[int] = []

        def keep(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with backbone.use("policy"):
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                backbone.token_stats(batch.input_ids, batch.response_mask)
            with torch.no_grad():
                backbone.token_stats(batch.input_ids, batch.response_mask)
            output = backbone.model(batch.input_ids, use_cache=True)
        assert output.past_key_values.get_seq_length() == batch.input_ids.shape[1]
        assert not any(module.training for module in backbone.model.modules())
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_a_forward_pass_that_fails_leaves_no_layer_in_training_mode(make_backbone):
    backbone = make_backbone(checkpointing=True)
    with backbone.use("policy"), pytest.raises(IndexError):
        backbone.token_stats(torch.tensor([[1, 10**6]]), torch.tensor([[False, True]]))
    assert not any(module.training for module in backbone.model.modules())


def test_a_switch_between_adapters_costs_a_fraction_of_pefts_own():
    """Least processor times on as many layers as models of 3 B parameters have; a seventh was measured."""
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=30, num_attention_heads=1
    )
    backbone = Backbone(LlamaForCausalLM(config), ["policy", "prm"], Adapter(1, 1))
    assert len(everything(backbone)[1]) == 210

    def ours(name):
        with backbone.use(name):  # there and back: two switches
            pass

    def least(switch):
        laps = []
        for lap in range(50):
            start = time.process_time()
            switch(backbone.names[lap % 2])
            laps.append(time.process_time() - start)
        return min(laps)

    assert least(ours) < least(backbone.peft_model.set_adapter) / 2


@pytest.fixture
def critic(tiny_folder):
    """A backbone whose critic has two values a token, all weights moved away from their start."""
    backbone = Backbone(load(tiny_folder)[0], ["policy", "critic"], Adapter(4, 8), heads={"critic": 2})
    generator = torch.Generator().manual_seed(0)
    for parameter in backbone.parameters("critic").values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return backbone


def test_values_are_a_linear_map_of_the_state_before_each_response_token(critic, plain_model):
    batch = random_batch()
    model = plain_model(critic, "critic")
    weight, bias = (critic.parameters("critic")[f"value_head.{part}"].detach() for part in ("weight", "bias"))
    expected = torch.zeros(2, *batch.input_ids.shape)
    for i in range(len(batch)):
        ids = batch.input_ids[i, batch.attention_mask[i]]
        states = model.base_model(ids[None]).last_hidden_state[0]
        for t in range(1, len(ids)):
            if batch.response_mask[i, t]:
                expected[:, i, t] = weight @ states[t - 1] + bias
    largest = expected.abs().max().item()  # float32 rounds relative to the largest term of the sum
    for budget in (10_000, 1):
        actual = critic.values(batch, "critic", budget)
        torch.testing.assert_close(actual, expected, atol=2e-5 * max(1.0, largest), rtol=0)


def test_values_start_at_zero_and_their_head_learns_with_its_adapter(tiny_folder):
    backbone = Backbone(load(tiny_folder)[0], ["policy", "critic"], Adapter(4, 8), heads={"critic": 1})
    batch = random_batch()
    assert not backbone.values(batch, "critic", 10_000).any()
    with backbone.use("critic"):
        (backbone.token_values(batch.input_ids, batch.response_mask) - 1).square().sum().backward()
    moved = {key for key, p in backbone.parameters("critic").items() if p.grad is not None and p.grad.any()}
    assert moved == {
        "value_head.weight",
        "value_head.bias",
    }  # through a head of zeros nothing reaches the adapter yet
    assert all(p.grad is None for p in backbone.parameters("policy").values())


def test_an_adapter_without_a_head_has_no_values(critic):
    batch = random_batch()
    for name in ("policy", None):
        with critic.use(name), pytest.raises(ValueError, match="has no value head"):
            critic.token_values(batch.input_ids, batch.response_mask)
    with pytest.raises(ValueError, match="has no value head"):
        critic.values(batch, "policy", 10_000)


def test_a_saved_adapter_is_taken_up_again(critic, tiny_folder, tmp_path):
    batch = random_batch()
    other = Backbone(load(tiny_folder)[0], ["policy", "critic"], Adapter(4, 8), seed=5, heads={"critic": 2})
    critic.save_adapter("critic", tmp_path / "critic")
    before = everything(other)
    other.load_adapter("critic", tmp_path / "critic")
    assert everything(other) == before
    assert torch.equal(other.values(batch, "critic", 10_000), critic.values(batch, "critic", 10_000))
    assert torch.equal(other.log_probs(batch, "policy", 10_000), other.log_probs(batch, None, 10_000))


def test_an_adapter_that_does_not_fit_is_refused(critic, make_backbone, tiny_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no adapter in .*expected adapter_model.safetensors"):
        critic.load_adapter("policy", tmp_path)
    Backbone(load(tiny_folder)[0], ["policy"], Adapter(2, 4)).save_adapter("policy", tmp_path)
    smaller = r"not one of this base and rank: base_model\.model\..* is \(2, \d+\) there and \(4, \d+\) here"
    with pytest.raises(ValueError, match=smaller):
        critic.load_adapter("policy", tmp_path)
    with pytest.raises(ValueError, match="unknown adapter 'prm'"):
        critic.load_adapter("prm", tmp_path)
