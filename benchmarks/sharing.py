"""One 4-bit base for all parts against a model for each, and what a switch costs: ``python -m benchmarks.sharing``.

SmolLM2's shape with random weights in NF4 (bfloat16 around it), LoRA of rank 16 on all linear layers. Three models are a policy
and a PRM, each with its adapter, and a reference. Prints bytes of all tensors, milliseconds of a switch by our context
manager and by peft, and the gradient that a step of the policy leaves in the PRM.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import pandas as pd
import torch
from transformers import AutoModelForCausalLM

from benchmarks.shapes import VOCABULARY, smollm2_shape
from itpo.models.backbone import Backbone
from itpo.models.loading import nf4_config, tame
from itpo.specs import Adapter
from itpo.training.profiling import model_bytes


def milliseconds(call: Callable[[], object], repeats: int = 30) -> float:
    """Median processor time of some calls, which a busy machine hardly changes."""
    laps = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        laps.append(1e3 * (time.process_time() - start))
    return sorted(laps)[repeats // 2]


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        smollm2_shape().save_pretrained(folder)
        options = {"quantization_config": nf4_config(torch.bfloat16), "dtype": torch.bfloat16}
        models = [tame(AutoModelForCausalLM.from_pretrained(folder, **options).eval()) for _ in range(3)]
    apart = sum(model_bytes(model) for model in models[1:])
    shared = Backbone(models[0], ["policy", "prm"], Adapter())
    together = model_bytes(shared.model)
    apart += together  # the base of the third model, with both adapters
    print(
        f"one shared base {together / 2**20:.0f} MiB, three models {apart / 2**20:.0f} MiB: {together / apart:.2f}x"
    )

    def switch() -> None:
        with shared.use("policy"):
            pass

    def reference() -> None:
        with shared.peft_model.disable_adapter():
            pass

    laps = {
        "ours, there and back": milliseconds(switch),
        "peft's set_adapter": milliseconds(lambda: shared.peft_model.set_adapter("prm")),
        "peft's disable_adapter, there and back": milliseconds(reference),
    }
    print(pd.Series(laps, name="ms").round(3).to_string())
    for parameter in shared.parameters("policy").values():
        parameter.requires_grad_(True)  # peft's own switch took it away
    ids = torch.randint(VOCABULARY, (1, 32))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False
    with shared.use("policy"):
        shared.token_stats(ids, mask)[0].sum().backward()
    gradients = {
        n: [p.grad for p in shared.parameters(n).values() if p.grad is not None] for n in shared.names
    }
    largest = {n: max((g.abs().max().item() for g in found), default=0.0) for n, found in gradients.items()}
    print(f"largest gradient after a step of the policy: {largest}")


if __name__ == "__main__":
    main()
