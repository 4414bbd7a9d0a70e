"""Rollouts per second of the oracle against the plain sampler: ``python -m benchmarks.oracle [--repeats 3]``.

One thread, laptop profile, the dialogues of its monitor set. As many dialogues are held from their openings, in calls of the
training size and in one call, as the oracle continues from histories, all in turn within one process. Continuations from the
middle sample fewer tokens but read a longer history first, so both rates are given: rollouts and sampled tokens per second.
Seconds are those of the processor, so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import random
import time

import pandas as pd
import torch

from itpo.dialogue import Dialogue
from itpo.rollout.sampler import Sampling, rollout
from itpo.rollout.seeding import seeded
from itpo.runs.paths import runs_root
from itpo.runs.store import Store
from itpo.study.oracle import make_plan
from itpo.study.profiles import get_profile
from itpo.training.build import build_learner
from itpo.training.learner import Learner

ORACLE = "oracle, one call"


def hold_oracle(learner: Learner, monitor_set: list[Dialogue], continuations: int) -> list[Dialogue]:
    """The oracle's rollouts: every continuation of every turn in one call."""
    plan = make_plan(learner.task, monitor_set, continuations, "benchmark")
    generator, sampling = seeded("benchmark"), Sampling(learner.config.max_turn_tokens)
    parts = plan.examples, plan.users, generator, sampling, plan.histories
    return rollout(learner.backbone, learner.chat, learner.task, *parts)


def hold_plain(learner: Learner, count: int, rows: int) -> list[Dialogue]:
    """``count`` dialogues from their openings, ``rows`` in each call."""
    users = [random.Random(f"benchmark/{i}") for i in range(count)]
    examples = [learner.task.sample(user) for user in users]
    generator, sampling = seeded("benchmark"), Sampling(learner.config.max_turn_tokens)
    finished = []
    for start in range(0, count, rows):
        parts = examples[start : start + rows], users[start : start + rows], generator, sampling
        finished += rollout(learner.backbone, learner.chat, learner.task, *parts)
    return finished


def measure(learner: Learner, continuations: int, repeats: int) -> pd.DataFrame:
    """Median processor seconds and rates of the oracle and of the plain sampler at both batch sizes."""
    monitor_set, _ = learner.collect("probe", learner.config.monitor_dialogues, 1, None)
    count = len(make_plan(learner.task, monitor_set, continuations, "benchmark").places)
    rows = learner.config.prompts * learner.config.rollouts
    kinds = {
        f"plain, calls of {rows}": lambda: hold_plain(learner, count, rows),
        "plain, one call": lambda: hold_plain(learner, count, count),
        ORACLE: lambda: hold_oracle(learner, monitor_set, continuations),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    tokens = {}
    with learner.backbone.use("policy"):
        hold_plain(learner, rows, rows)  # the first call of a process is slow
        for _ in range(repeats):
            for name, hold in kinds.items():
                start = time.process_time()
                finished = hold()
                seconds[name].append(time.process_time() - start)
                tokens[name] = sum(sum(dialogue.response_mask) for dialogue in finished)
    table = pd.DataFrame(
        {"rollouts": count, "tokens": pd.Series(tokens), "seconds": pd.DataFrame(seconds).median()}
    )
    table["tokens / rollout"] = table["tokens"] / count
    table["rollouts / s"] = count / table["seconds"]
    table["tokens / s"] = table["tokens"] / table["seconds"]
    return table


def main() -> None:
    """Measure, and print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--continuations", type=int, default=8, help="of each history (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = get_profile("laptop").config("trajectory_share", seed=0)
    learner = build_learner(config, Store(runs_root()))
    table = measure(learner, options.continuations, options.repeats)
    print(table.round(1).to_string())
    print("\nthe oracle's rates as multiples of the plain sampler's")
    rates = table[["rollouts / s", "tokens / s"]]
    print((rates.loc[ORACLE] / rates.drop(ORACLE)).round(2).to_string())


if __name__ == "__main__":
    main()
