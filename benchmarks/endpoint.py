"""Dialogues per second with users behind a server, against the policy alone and the server alone.

    python -m benchmarks.endpoint http://127.0.0.1:8000/v1 MODEL

"policy" has users who answer at once; "server" is asked what the users of the third line were asked. Perfect overlap would
reach the slower of the two.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch

from itpo.chat import ChatFormat
from itpo.data import generate_gsm
from itpo.dialogue import Dialogue
from itpo.models.backbone import Backbone
from itpo.models.tiny import load
from itpo.rollout.endpoint import EndpointModel
from itpo.rollout.real_tasks import RealMath
from itpo.rollout.sampler import Sampling, rollout
from itpo.rollout.seeding import seeded
from itpo.rollout.users import ModelUser
from itpo.runs.paths import runs_root
from itpo.runs.store import Store
from itpo.specs import Endpoint
from itpo.study.profiles import get_profile
from itpo.training.build import base_model


class Instant(RealMath):
    """The same task with users who say one sentence at once."""

    lanes = 1  # type: ignore[assignment]

    def replies(self, examples: Any, conversations: Any, rngs: Any) -> list[str]:
        """The same sentence for all."""
        return ["there are 3 of them and 4 more ."] * len(examples)


def main() -> None:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--base", type=Path, help="folder of the policy's model; left out, the tiny one")
    parser.add_argument("--dialogues", type=int, default=16)
    parser.add_argument("--turn-tokens", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = get_profile("laptop").config("trajectory_share", seed=0)
    model, tokenizer = load(options.base or base_model(config, Store(runs_root())))
    backbone, chat = Backbone(model, ["policy"], config.adapter), ChatFormat(tokenizer)
    user = ModelUser(EndpointModel(Endpoint(options.url, options.model, max_tokens=24, attempts=2)))
    examples = generate_gsm(options.dialogues, seed=0)

    def hold(task: RealMath) -> tuple[float, list[Dialogue]]:
        users = [random.Random(i) for i in range(len(examples))]
        started = time.perf_counter()
        dialogues = rollout(backbone, chat, task, examples, users, seeded("a"), Sampling(options.turn_tokens))
        return time.perf_counter() - started, dialogues

    alone, _ = hold(Instant(examples, user))
    together, dialogues = hold(RealMath(examples, user))
    started = time.perf_counter()
    for turn in range(1, RealMath.max_turns):
        asked = [d for d in dialogues if d.assistant_turns > turn]
        messages = [d.messages[: 2 * turn] for d in asked]
        if asked:
            user.replies([d.example for d in asked], messages, [random.Random(turn)] * len(asked))
    server = time.perf_counter() - started
    for name, seconds in (("policy", alone), ("server", server), ("both", together)):
        print(f"{name:<7} {len(examples) / seconds:7.3f} dialogues per second")
    print(f"both reach {max(alone, server) / together:.2f} of the slower of the two")
    print(f"one after the other they would reach {max(alone, server) / (alone + server):.2f}")


if __name__ == "__main__":
    main()
