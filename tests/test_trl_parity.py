"""Our estimators and losses against those of TRL's trainers, on the same numbers.

Nothing of TRL is replaced: its own trainers generate with a tiny random model, score with a reward function
that returns fixed numbers, and compute their advantages and losses, the latter with gradients. TRL's
dialogues have one turn and one reward, so its rewards are put at the last token of each completion here.
"""

import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from huggingface_hub import constants
from transformers import LlamaConfig, LlamaForCausalLM

from itpo import advantages, attribution, losses, turns
from itpo.models.tiny import build_tokenizer

# TRL and Transformers name the same option in two ways.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")

WORDS = ["one", "two", "three", "four", "five"]
N = 4  # rollouts a prompt
# Three prompts: ordinary rewards, one rollout that nobody could score, and rewards that are all alike.
REWARDS = (0.0, 1.0, 0.25, 0.75, 0.5, None, 1.0, 0.125, 0.5, 0.5, 0.5, 0.5)
# TRL adds 1e-4 to a standard deviation where we add 1e-8 to its square. At this scale of the rewards that is
# lost in rounding; at scale 1, where the smallest deviation here is 0.43, it is less than 3 in 10,000.
HUNDREDS = tuple(None if reward is None else 1000 * reward for reward in REWARDS)
COEFFICIENT = 0.05  # of the KL term


class Scored(NamedTuple):
    """What a trainer made of one batch, and the same as we write it down."""

    trainer: object
    inputs: dict
    rewards: torch.Tensor
    mask: torch.Tensor


@pytest.fixture(scope="module", autouse=True)
def offline():
    """No test may use a network, and every TRL trainer would report that it was built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    tokenizer = build_tokenizer(WORDS)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # Large enough that tokens differ in probability.
        initializer_range=0.5,
    )
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def score(model_folder, tmp_path_factory):
    """Builds a trainer and lets it generate and score one batch: three prompts of N rollouts."""

    # Imported here, as it takes seconds that collecting the tests need not wait for.
    import datasets
    import trl

    def run(kind: str, given: tuple[float | None, ...] = REWARDS, **options) -> Scored:
        config, trainer_class = {
            "grpo": (trl.GRPOConfig, trl.GRPOTrainer),
            "rloo": (trl.RLOOConfig, trl.RLOOTrainer),
        }[kind]
        args = config(
            output_dir=str(tmp_path_factory.mktemp(kind)),
            per_device_train_batch_size=len(given),
            num_generations=N,
            max_completion_length=8,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            seed=0,
            **options,
        )
        prompts = datasets.Dataset.from_dict({"prompt": ["one two", "three four five", "two"]})
        trainer = trainer_class(
            model=str(model_folder),
            reward_funcs=lambda completions, **_: list(given),
            args=args,
            train_dataset=prompts,
        )
        trainer.model.train()  # in evaluation TRL would take another number of rollouts
        rows = [row for row in prompts for _ in range(N)]
        inputs = trainer._generate_and_score_completions(rows)
        mask = inputs["completion_mask"].bool()
        lengths = mask.sum(-1)
        assert len(lengths.unique()) > 1, "completions of unequal lengths are what a mean may get wrong"
        # A rollout that could not be scored has no reward position for us: it is left out of its group.
        dropped = torch.tensor([reward is None for reward in given])
        ids = turns.turn_ids(mask & ~dropped[:, None])
        outcome = torch.tensor([reward or 0.0 for reward in given])
        return Scored(
            trainer,
            inputs,
            attribution.trajectory_share(outcome, ids),
            attribution.reward_mask("trajectory", ids),
        )

    return run


@pytest.mark.parametrize(("given", "rtol"), [(REWARDS, 3e-4), (HUNDREDS, 1e-6)])
def test_grpo_advantages(score, given, rtol):
    # "group": the Bessel-corrected standard deviation of a prompt's rollouts, as ours; "batch" is over all prompts.
    scored = score("grpo", given, scale_rewards="group")
    ours = advantages.grpo(scored.rewards, scored.mask, N).sum(-1)
    torch.testing.assert_close(ours, scored.inputs["advantages"], rtol=rtol, atol=1e-6)
    assert ours[:4].abs().min() > 0.1 and ours[5] == 0
    assert torch.equal(ours[8:], torch.zeros(N)), "rewards that are all alike"


@pytest.mark.parametrize("baseline", advantages.BASELINES)
def test_rloo_advantages(score, baseline):
    scored = score("rloo", beta=0.0)  # otherwise TRL takes a KL penalty off the rewards
    ours = advantages.rloo(scored.rewards, scored.mask, N, baseline).sum(-1)
    torch.testing.assert_close(ours, scored.inputs["advantages"], rtol=1e-6, atol=1e-6)
    assert ours[0] == pytest.approx(-2 / 3) and ours[5] == 0


def test_whitened_rloo_advantages(score):
    scored = score("rloo", HUNDREDS, beta=0.0, normalize_advantages=True)
    # TRL whitens over rollouts, we over tokens: one token a rollout makes them the same.
    baselined = advantages.rloo(scored.rewards, scored.mask, N).sum(-1, keepdim=True)
    ours = advantages.whiten(baselined, scored.mask.any(-1, keepdim=True))[:, 0]
    torch.testing.assert_close(ours, scored.inputs["advantages"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("baseline", advantages.BASELINES)
def test_a_rollout_alone_in_its_group_is_where_rloo_differs(score, baseline):
    scored = score("rloo", (0.75, None, None, None, *REWARDS[4:]), beta=0.0)
    theirs = scored.inputs["advantages"]
    ours = advantages.rloo(scored.rewards, scored.mask, N, baseline).sum(-1)
    # Without anybody to compare with TRL lets the rollout teach nothing; we keep its reward, as for groups of one.
    assert (theirs[0], ours[0]) == (0.0, 0.75)
    torch.testing.assert_close(ours[1:], theirs[1:], rtol=1e-6, atol=1e-6)


def plain_log_probs(model_folder: Path, inputs: dict) -> tuple[torch.Tensor, LlamaForCausalLM]:
    """Log-probabilities of the completions by a model that TRL has not touched."""
    model = LlamaForCausalLM.from_pretrained(model_folder)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attended = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    width = inputs["completion_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=attended).logits[:, -width - 1 : -1]
    return logits.log_softmax(-1).gather(-1, inputs["completion_ids"][..., None])[..., 0], model


@pytest.mark.parametrize("loss_type", ["bnpo", "dapo"])
def test_clipped_surrogate_and_kl_with_their_gradients(score, model_folder, loss_type):
    # "bnpo" is the mean over the tokens of the batch, masked_mean's default; "dapo" divides by the token count of
    # a larger batch, its `denominator`. "grpo" would average each completion first. TRL's bias correction, which
    # multiplies the k3 estimate by the importance ratio, is switched off.
    options = {"loss_type": loss_type, "beta": COEFFICIENT, "epsilon": 0.2, "use_bias_correction_kl": False}
    scored = score("grpo", **options)
    trainer, inputs = scored.trainer, dict(scored.inputs)
    logp, plain = plain_log_probs(model_folder, inputs)
    generator = torch.Generator().manual_seed(0)
    noise, advantage = torch.randn(2, *logp.shape, generator=generator)
    old_logp, ref_logp = logp.detach() + 0.3 * noise, logp.detach() - 0.5 * noise.roll(1, 0)
    # Tokens that a tool wrote are TRL's only tokens inside a completion that are not the model's, as a user's are ours.
    written = torch.rand(logp.shape, generator=generator) < 0.7
    mask = inputs["completion_mask"].bool() & written
    inputs |= {"old_per_token_logps": old_logp, "ref_per_token_logps": ref_logp, "advantages": advantage}
    inputs |= {"tool_mask": written.long()}
    denominator = None
    if loss_type == "dapo":
        denominator = 3 * int(mask.sum())
        inputs["num_items_in_batch"] = torch.tensor(float(denominator))
    trainer.model.eval()  # one batch by itself; while training TRL divides by accumulation steps too
    theirs = trainer.compute_loss(trainer.model, inputs)
    ours = losses.clipped_surrogate(logp, old_logp, advantage, mask, 0.2, denominator)
    ours = ours + COEFFICIENT * losses.kl_k3(logp, ref_logp, mask, denominator)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    logged = trainer._metrics["eval"]
    clipped = losses.clip_fraction(logp, old_logp, advantage, mask)
    assert clipped > 0.1
    assert clipped.item() == pytest.approx(logged["clip_ratio/region_mean"][-1], abs=1e-6)
    assert losses.kl_k3(logp, ref_logp, mask).item() == pytest.approx(logged["kl"][-1], rel=1e-5)
    theirs.backward()
    ours.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters()}
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)
    assert math.sqrt(sum(float(g.square().sum()) for g in gradients.values())) > 0.01
