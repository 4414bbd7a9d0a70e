"""The sampler against a plain forward pass of one dialogue at a time, and against itself in other batches."""

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from scipy import stats
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from itpo.chat import ChatFormat
from itpo.dialogue import Message
from itpo.models.backbone import Backbone
from itpo.rollout.sampler import Sampling, rollout
from itpo.specs import Adapter
from itpo.tasks.math import MathTutoring
from itpo.tasks.registry import get_task

END, USER, ASSISTANT = "<|end|>", "<|user|>", "<|assistant|>"


@dataclass(frozen=True)
class Chatter:
    """A user who talks at any length and leaves after a number of turns that the example tells (example = turns)."""

    name: str = "chatter"
    max_turns: int = 6
    outcome: float = 0.5

    def sample(self, rng):
        return rng.randint(1, 4)

    def opening(self, example):
        return [Message("user", " ".join(["good"] * example))]

    def reply(self, example, messages, rng):
        spoken = sum(m.role == "assistant" for m in messages)
        return (
            None if spoken >= example else " ".join(rng.choices(["yes", "pens", "maybe", "3"], k=spoken % 4))
        )

    def score(self, example, messages):
        return self.outcome


class Steady(MathTutoring):
    """The math user with its dice thrown by the conversation itself, so that the same history gets the same reply."""

    def reply(self, example, messages, rng):
        return super().reply(example, messages, random.Random(f"{example}/{len(messages)}"))


class AtOnce:
    """The math task, its users asked for all dialogues at once and in two lanes."""

    name, max_turns, lanes = "math", MathTutoring.max_turns, 2

    def __init__(self):
        task = MathTutoring()
        self.sample, self.opening, self.reply, self.score = task.sample, task.opening, task.reply, task.score

    def replies(self, examples, conversations, rngs):
        return [self.reply(*one) for one in zip(examples, conversations, rngs, strict=True)]

    def scores(self, examples, conversations):
        return [self.score(*one) for one in zip(examples, conversations, strict=True)]


@pytest.fixture(scope="module")
def chat(tiny_folder):
    return ChatFormat(AutoTokenizer.from_pretrained(tiny_folder))


@pytest.fixture
def converse(make_backbone, chat):
    """Holds dialogues, one per example, under one adapter of a shaken backbone."""
    backbone = make_backbone()

    def hold(task, examples, adapter="policy", seed=0, users=None, histories=None, **sampling):
        rngs = [random.Random(f"user {u}") for u in (range(len(examples)) if users is None else users)]
        generator = torch.Generator().manual_seed(seed)
        with backbone.use(adapter):
            return rollout(
                backbone, chat, task, examples, rngs, generator, Sampling(**sampling), histories=histories
            )

    hold.backbone = backbone
    return hold


def problems(task, count):
    return [task.sample(random.Random(f"example {i}")) for i in range(count)]


def blocks(values, mask):
    """Split values at the changes of a mask: [(is response, values), ...]."""
    pieces = []
    for value, is_response in zip(values, mask, strict=True):
        if not pieces or pieces[-1][0] != is_response:
            pieces.append((is_response, []))
        pieces[-1][1].append(value)
    return pieces


SCENES = {
    "math": (get_task("math"), {}),
    "cut turns": (get_task("math"), {"max_turn_tokens": 5}),
    "ragged": (Chatter(), {"max_turn_tokens": 4}),
}


@pytest.mark.parametrize("adapter", ["policy", "prm", None])
@pytest.mark.parametrize("scene", SCENES)
def test_log_probs_are_those_of_a_plain_forward_pass(converse, plain_model, scene, adapter):
    task, sampling = SCENES[scene]
    dialogues = converse(task, problems(task, 10), adapter, **sampling)
    model = plain_model(converse.backbone, adapter)
    assert len({len(d.ids) for d in dialogues}) > 3  # ragged
    for dialogue in dialogues:
        logits = model(torch.tensor([dialogue.ids])).logits[0].double()
        for t, is_response in enumerate(dialogue.response_mask):
            logp = logits[t - 1].log_softmax(-1)[dialogue.ids[t]].item() if is_response else 0.0
            assert dialogue.sampled_logp[t] == pytest.approx(logp, abs=1e-4)


def test_absolute_positions_follow_the_mask(chat):
    """Rotary positions hide a constant shift; a model with learned ones, of another architecture, does not."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(chat.tokenizer),
        n_positions=128,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.5,
        eos_token_id=chat.eos_id,
        bos_token_id=chat.eos_id,
    )
    model = GPT2LMHeadModel(config).eval()
    backbone = Backbone(model, ["policy"], Adapter(2, 4))
    rngs = [random.Random(i) for i in range(6)]
    generator = torch.Generator().manual_seed(0)
    dialogues = rollout(
        backbone, chat, Chatter(), [1, 4, 2, 3, 2, 4], rngs, generator, Sampling(max_turn_tokens=4)
    )
    for dialogue in dialogues:
        logp = model(torch.tensor([dialogue.ids])).logits[0].log_softmax(-1)
        for t, is_response in enumerate(dialogue.response_mask):
            if is_response:
                expected = logp[t - 1, dialogue.ids[t]].item()
                assert dialogue.sampled_logp[t] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("scene", SCENES)
def test_ids_are_the_blocks_of_the_conversation(converse, chat, scene):
    task, sampling = SCENES[scene]
    limit = sampling.get("max_turn_tokens", 24)
    cut = ended = 0
    for dialogue in converse(task, problems(task, 12), adapter=None, **sampling):
        end = chat.eos_id
        messages = iter(dialogue.messages)
        closed = True
        for number, (is_turn, ids) in enumerate(blocks(dialogue.ids, dialogue.response_mask)):
            message = next(messages)
            if is_turn:
                assert message.role == "assistant"
                closed = ids[-1] == end
                assert end not in ids[:-1] and len(ids) <= limit and (closed or len(ids) == limit)
                cut, ended = cut + (not closed), ended + closed
                words = chat.tokenizer.convert_ids_to_tokens(ids)
                assert message.content == " ".join(w for w in words if not w.startswith("<|"))
            else:
                assert message.role == "user"
                marks = ([] if closed else [END]) + [USER] if number else [USER]
                block = [*marks, *message.content.split(), END, ASSISTANT]
                assert chat.tokenizer.convert_ids_to_tokens(ids) == block
        assert next(messages, None) is None and dialogue.messages[-1].role == "assistant"
        assert dialogue.assistant_turns == sum(
            is_turn for is_turn, _ in blocks(dialogue.ids, dialogue.response_mask)
        )
    assert (cut if sampling else ended) > 5


@pytest.mark.parametrize("scene", SCENES)
def test_a_greedy_dialogue_is_the_same_alone_and_among_others(converse, scene):
    task, sampling = SCENES[scene]
    examples = problems(task, 8)
    together = converse(task, examples, greedy=True, **sampling)
    assert len({len(d.ids) for d in together}) > 2
    for i in range(len(examples)):
        (alone,) = converse(task, examples[i : i + 1], users=[i], greedy=True, **sampling)
        assert (alone.ids, alone.messages, alone.outcome) == (
            together[i].ids,
            together[i].messages,
            together[i].outcome,
        )
        assert alone.sampled_logp == pytest.approx(together[i].sampled_logp, abs=1e-4)
    order = [5, 0, 7, 2, 1, 6, 4, 3]
    shuffled = converse(task, [examples[i] for i in order], users=order, greedy=True, **sampling)
    assert [d.ids for d in shuffled] == [together[i].ids for i in order]


def test_greedy_takes_the_most_likely_token(converse, plain_model):
    model = plain_model(converse.backbone, "policy")
    for dialogue in converse(get_task("math"), problems(get_task("math"), 3), greedy=True):
        best = model(torch.tensor([dialogue.ids])).logits[0].argmax(-1).tolist()
        for t, is_response in enumerate(dialogue.response_mask):
            assert not is_response or dialogue.ids[t] == best[t - 1]


def test_sampling_follows_the_policy(converse, plain_model, unchecked):
    """Goodness of fit of 2000 first tokens to the plain model's distribution."""
    drawn = converse(Chatter(max_turns=1), [2] * 2000, max_turn_tokens=1)
    prompt = [t for t, m in zip(drawn[0].ids, drawn[0].response_mask, strict=True) if not m]
    expected = (
        plain_model(converse.backbone, "policy")(torch.tensor([prompt])).logits[0, -1].double().softmax(-1)
    )
    counts = torch.bincount(torch.tensor([d.ids[-1] for d in drawn]), minlength=len(expected)).double()
    theory = expected * len(drawn)
    common, rare = theory >= 10, theory < 10
    assert common.sum() > 5
    groups = [(counts[common], theory[common]), (counts[rare].sum()[None], theory[rare].sum()[None])]
    observed, hoped = (torch.cat(parts) for parts in zip(*groups, strict=True))
    statistic = ((observed - hoped).square() / hoped.clamp_min(1)).sum().item()
    assert stats.chi2.sf(statistic, df=len(observed) - 1) > 1e-3


def test_ended_dialogues_leave_the_batch(converse):
    sizes = []
    hook = converse.backbone.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    lasting = [1, 4, 2, 2, 3, 1]
    dialogues = converse(Chatter(), lasting, max_turn_tokens=3)
    hook.remove()
    assert [d.assistant_turns for d in dialogues] == lasting
    seen = [rows for rows, _ in sizes]
    assert seen == sorted(seen, reverse=True)
    # A turn begins with a block of several tokens; within it one token a forward pass.
    assert [rows for rows, width in sizes if width > 1] == [6, 4, 2, 1]


def test_max_turns_ends_a_dialogue(converse):
    assert [d.assistant_turns for d in converse(Chatter(max_turns=2), [4, 1, 3], max_turn_tokens=3)] == [
        2,
        1,
        2,
    ]


def test_a_history_is_continued_as_if_it_had_just_happened(converse):
    task = Steady()
    examples = problems(task, 12)
    whole = converse(task, examples, adapter=None, greedy=True)
    long = [i for i, d in enumerate(whole) if d.assistant_turns >= 3]
    assert len(long) >= 3
    histories = [whole[i].messages[: 3 + 2 * (k % 2)] for k, i in enumerate(long)]
    went_on = converse(task, [examples[i] for i in long], adapter=None, greedy=True, histories=histories)
    for i, history, dialogue in zip(long, histories, went_on, strict=True):
        assert dialogue.ids == whole[i].ids and dialogue.messages == whole[i].messages
        assert dialogue.outcome == whole[i].outcome
        # Turns of the history are context: unmarked and without log-probability.
        turns = [t for is_turn, t in blocks(range(len(dialogue.ids)), whole[i].response_mask) if is_turn]
        chosen = {t for turn in turns[len(history) // 2 :] for t in turn}
        assert {t for t, m in enumerate(dialogue.response_mask) if m} == chosen
        assert {t for t, logp in enumerate(dialogue.sampled_logp) if logp} <= chosen


@pytest.mark.parametrize("concurrent", [False, True])
def test_every_dialogue_has_a_user_generator_of_its_own(converse, concurrent):
    """Replayed with a fresh copy of its own generator, each user says the same; users of one problem differ."""
    task = AtOnce() if concurrent else MathTutoring()
    example = problems(task, 1)[0]
    dialogues = converse(task, [example] * 8, adapter=None, users=range(8))
    replies = []
    for i, dialogue in enumerate(dialogues):
        rng = random.Random(f"user {i}")
        for t, message in enumerate(dialogue.messages):
            if t and message.role == "user":
                assert message.content == MathTutoring().reply(example, dialogue.messages[:t], rng)
                replies.append(message.content)
    assert len(replies) > 8 and len(set(replies)) > 3
    # With greedy turns nothing but the users' dice can tell the dialogues of one problem apart.
    greedy = converse(task, [example] * 8, adapter=None, users=range(8), greedy=True)
    assert len({dialogue.messages for dialogue in greedy}) > 1
    alike = converse(task, [example] * 8, adapter=None, users=[3] * 8, greedy=True)
    assert {dialogue.messages for dialogue in alike} == {greedy[3].messages}


def test_seeds_decide_everything(converse):
    task = get_task("math")
    examples = problems(task, 6)
    first = converse(task, examples, seed=1)
    assert converse(task, examples, seed=1) == first
    assert converse(task, examples, seed=2) != first
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert converse(task, examples, seed=1) == first
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is neither read nor moved


def test_a_list_that_fits_is_one_batch_in_its_own_order(converse):
    task = Chatter()
    examples = [1, 4, 2, 3, 1, 2]
    seen = []
    hook = converse.backbone.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"].sum(1).tolist()), with_kwargs=True
    )
    whole = converse(task, examples, max_turn_tokens=4, max_rows=10**6)
    hook.remove()
    assert seen[0] == [3 + words for words in examples]  # the user's marker, the words, two more markers
    for max_rows in (6, 512):
        assert converse(task, examples, max_turn_tokens=4, max_rows=max_rows) == whole
    assert Sampling().max_rows >= 512  # the batches of training and evaluation


def test_a_long_list_is_held_in_batches_of_similar_length(converse):
    task, examples = Chatter(), [1, 4, 2, 3, 1, 2, 4]
    seen = []
    hook = converse.backbone.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    dialogues = converse(task, examples, max_turn_tokens=4, max_rows=3)
    hook.remove()
    firsts = [m.sum(1).tolist() for last, m in pairwise([None, *seen]) if last is None or len(m) != len(last)]
    assert firsts[0] == [3 + 4, 3 + 4, 3 + 3]  # the longest histories first
    assert [d.example for d in dialogues] == examples


@pytest.mark.parametrize("max_rows", [1, 3, 512])
def test_no_dialogue_depends_on_the_others(converse, max_rows):
    """Each has its own numbers to draw tokens by: who is in its batch, or leaves it, changes nothing but rounding."""
    task, examples = Chatter(), [1, 4, 2, 3, 1, 2, 4]
    together = converse(task, examples, max_turn_tokens=4)
    apart = converse(task, examples, max_turn_tokens=4, max_rows=max_rows)
    for one, other in zip(together, apart, strict=True):
        assert one.ids == other.ids
        assert one.sampled_logp == pytest.approx(other.sampled_logp, abs=1e-4)


def test_outcome_is_the_tasks_score(converse):
    task = Steady()
    examples = problems(task, 20)
    dialogues = converse(task, examples, adapter=None, greedy=False)
    assert [d.outcome for d in dialogues] == [
        task.score(e, d.messages) for e, d in zip(examples, dialogues, strict=True)
    ]
    assert [d.example for d in dialogues] == examples


def test_wrong_arguments(make_backbone, chat, converse):
    backbone, generator = make_backbone(), torch.Generator()
    task = Chatter()
    with pytest.raises(ValueError, match="2 examples, 1 user generators and 2 histories"):
        rollout(backbone, chat, task, [1, 1], [random.Random()], generator, Sampling())
    with pytest.raises(ValueError, match="1 examples, 1 user generators and 0 histories"):
        rollout(backbone, chat, task, [1], [random.Random()], generator, Sampling(), histories=[])
    for history in ([], [Message("user", "yes"), Message("assistant", "no")]):
        with pytest.raises(ValueError, match="must end with a user message"):
            converse(task, [1], histories=[history])
    with pytest.raises(
        ValueError, match="max_turn_tokens is 0: a turn must have room for at least one token"
    ):
        Sampling(max_turn_tokens=0)
    with pytest.raises(ValueError, match="max_rows is 0"):
        Sampling(max_rows=0)
    for outcome in (1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match="'chatter' scored"):
            converse(Chatter(outcome=outcome), [1])
