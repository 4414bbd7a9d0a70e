"""Rollouts by vLLM on a CPU, against our own: agreement, adapters that are swapped, and two steps of Norm-ITPO.

Run by ``make test-vllm`` in an environment of its own. SmolLM2-135M in float32.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_LOGGING_LEVEL="ERROR",
)

STARTED = time.time()


def say(what: str, found: str, holds: bool) -> None:
    """A line of the table; the first that does not hold ends the run."""
    print(f"{time.time() - STARTED:5.0f} s  {what:62} {found:>28}  {'pass' if holds else 'FAIL'}", flush=True)
    if not holds:
        raise SystemExit(1)


def main() -> None:
    """Compare."""
    import torch

    from itpo.chat import ChatFormat
    from itpo.config import Method
    from itpo.dialogue import collate
    from itpo.models.backbone import Backbone
    from itpo.models.loading import load_base
    from itpo.models.packaged import smollm2
    from itpo.rollout.sampler import Sampling, rollout
    from itpo.rollout.users import FrozenBaseModel
    from itpo.rollout.vllm_engine import VLLMEngine
    from itpo.specs import Adapter, PretrainedModel
    from itpo.study.profiles import get_real_profile
    from itpo.tasks.registry import get_task
    from itpo.trainer import training_step
    from itpo.training.learner import Learner
    from itpo.training.profiling import Timer

    torch.set_num_threads(2)
    place = tempfile.TemporaryDirectory()
    folder = smollm2(Path(place.name) / "smollm2")
    model, tokenizer = load_base(folder, device="cpu")
    backbone, chat = Backbone(model, ["policy", "prm"], Adapter(8, 16)), ChatFormat(tokenizer, model=model)
    generator = torch.Generator().manual_seed(0)
    for name in backbone.names:
        for key, parameter in backbone.parameters(name).items():
            if "lora_B" in key:
                parameter.data.normal_(0, 0.02, generator=generator)
    engine = VLLMEngine(backbone, folder, rank=8, max_rows=16)
    task = get_task("math_prose")
    examples = [task.sample(random.Random(n)) for n in range(4)]

    def hold(adapter: str | None, seed: int = 0, greedy: bool = False, engine: Any = engine) -> Any:
        """Dialogues of the task under an adapter."""
        users = [random.Random(n) for n in range(4)]
        with backbone.use(adapter):
            parts = (task, examples, users, torch.Generator().manual_seed(seed), Sampling(12, greedy))
            return rollout(backbone, chat, *parts, engine=engine)

    for adapter, wrong in (("policy", "prm"), ("prm", "policy"), (None, "policy")):
        batch = collate(hold(adapter), 1, chat.pad_id)
        own, other = (
            (backbone.log_probs(batch, name, 1024) - batch.sampled_logp).abs()[batch.response_mask]
            for name in (adapter, wrong)
        )
        under = adapter or "the reference"
        say(f"{under}: log-probabilities, mean difference", f"{own.mean():.1e} nats", own.mean() < 1e-3)
        say(f"{under}: the same against {wrong}", f"{other.mean():.1e} nats", other.mean() > 0.03)
    ours, theirs = hold("policy", greedy=True, engine=None), hold("policy", greedy=True)
    same = sum(a.ids == b.ids for a, b in zip(ours, theirs, strict=True))
    say("greedy dialogues equal to our own decoding's", f"{same} of 4", same >= 3)
    say("the same seed, the same dialogues", "", hold("policy", 1) == hold("policy", 1))
    before = hold("policy", greedy=True)
    for key, parameter in backbone.parameters("policy").items():
        parameter.data.copy_(backbone.parameters("prm")[key.replace(".policy.", ".prm.")])
    swapped = [d.ids for d in hold("policy", greedy=True)]
    as_prm = [d.ids for d in hold("prm", greedy=True)]
    say("weights that moved are taken up", "", swapped == as_prm != [d.ids for d in before])
    user = FrozenBaseModel(backbone, chat, Sampling(12), engine)
    plain = FrozenBaseModel(backbone, chat, Sampling(12, greedy=True))
    assert len(user.ask([d.messages[:1] for d in before], [0, 1, 2, 3], str)) == 4
    served = FrozenBaseModel(backbone, chat, Sampling(12, greedy=True), engine)
    asked = [d.messages[:1] for d in before]
    replies = [[str(reply) for reply in each.ask(asked, [0] * 4, str)] for each in (plain, served)]
    same = sum(a == b for a, b in zip(*replies, strict=True))
    say("a greedy user that the base plays says the same", f"{same} of 4", same >= 3)

    def reuse(backbone: Any) -> VLLMEngine:
        """The engine goes on with another learner's adapters on the same base."""
        engine.backbone = backbone
        return engine

    config = replace(
        get_real_profile("smol").run,
        method=Method("norm_itpo", policy_lr=5e-4),
        model=PretrainedModel("smollm2"),
        adapter=Adapter(8, 16),
        prompts=2,
        rollouts=2,
        max_turn_tokens=12,
        steps=2,
        warmup=1,
        policy_minibatches=1,
        prm_minibatches=2,
    )
    for kind in ("own", "vllm"):
        model, tokenizer = load_base(folder, device="cpu")
        make_engine = reuse if kind == "vllm" else None
        learner = Learner(config, model, tokenizer, Path(place.name), make_engine=make_engine)
        for step in range(2):
            _, metrics = training_step(learner, f"0/{step}", Timer())
            numbers = [metrics[name] for name in ("prm_loss", "kl", "entropy", "ratio_error")]
            finite = all(torch.isfinite(torch.tensor(numbers)))
            say(f"{kind}: step {step} of Norm-ITPO, largest ratio error", f"{numbers[-1]:.1e}", finite)
            if kind == "vllm":
                gap = metrics["mismatch"]
                say("  sampled against recomputed, mean", f"{gap:.1e} nats", gap < 1e-3)
                say("  effective sample size", f"{metrics['ess']:.4f}", metrics["ess"] > 0.99)
    place.cleanup()


if __name__ == "__main__":
    main()
