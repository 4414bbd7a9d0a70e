"""Gates: what an embedded task must show before a comparison of methods on it means anything.

A testbed on which nothing can be learned, or nothing is left to learn, or whose outcomes cannot be told from the
conversation, ranks methods by noise. Each gate is a measured number with bounds, all our own choice [O].
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from itpo.config import RunConfig
from itpo.dialogue import Dialogue, Message
from itpo.models.tiny import scripted_dialogue
from itpo.rollout.sampler import Sampling, rollout
from itpo.rollout.seeding import seeded
from itpo.runs.store import Store
from itpo.runs.sweep import sweep
from itpo.trainer import train
from itpo.training.build import build_learner
from itpo.training.learner import Learner
from itpo.training.ranking import ranking_auc


@dataclass(frozen=True)
class TestbedCheck:
    """One measured number and the range it must lie in."""

    name: str
    value: float
    low: float
    high: float = 1.0

    @property
    def passed(self) -> bool:
        """Whether the number lies in the range; ``nan`` does not."""
        return self.low <= self.value <= self.high

    def __str__(self) -> str:
        """A line for people: verdict, name, value, range.

        >>> print(TestbedCheck("ideal tutor", 0.97, 0.95))
        pass  ideal tutor                                              0.970  in [0.95, 1.00]
        """
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict}  {self.name:<55} {self.value:6.3f}  in [{self.low:.2f}, {self.high:.2f}]"


def measure(config: RunConfig, store: Store, dialogues: int = 2000) -> list[TestbedCheck]:
    """All testbed_checks of the configured task and warm start; for the last one, the configured run is trained (or loaded).

    ``dialogues`` is the sample size of each of the other figures.
    """
    # First, for its process also makes the base model that is measured here.
    (run,) = sweep(store.root, [config], train, workers=1, progress=False)
    learner = build_learner(config, store)
    sampled, batch = learner.collect("testbed_checks", 2 * dialogues, 1, None)
    greedy, _ = learner.collect("testbed_checks", dialogues, 1, None, greedy=True)
    before = batch.outcome.mean().item()
    return [
        TestbedCheck("ideal tutor: success", _ideal_success(learner, dialogues), 0.95),
        TestbedCheck("warm start: success, sampled", before, 0.2, 0.45),
        TestbedCheck("warm start: success, greedy", _mean(d.outcome for d in greedy), 0.2, 0.45),
        *_skill_gates(learner, dialogues),
        TestbedCheck("outcome from the words, logistic classifier: AUC", _classifier_auc(sampled), 0.8),
        TestbedCheck(
            f"{learner.method.label} RLOO: lift of success", run.summary()["success"] - before, 0.25
        ),
    ]


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else float("nan")


def _ideal_success(learner: Learner, count: int) -> float:
    rng = random.Random("testbed_checks/ideal")
    task: Any = learner.task
    return _mean(scripted_dialogue(task, task.expert, rng)[2] for _ in range(count))


def _skill_gates(learner: Learner, count: int) -> list[TestbedCheck]:
    """How often the warm start does what the ideal tutor would do next, and whether it answers right when it knows all."""
    task: Any = learner.task
    rng = random.Random("testbed_checks/skills")
    points: list[tuple[str, bool, Any, list[Message], bool]] = []
    for _ in range(count):
        example, messages, _ = scripted_dialogue(task, task.expert, rng)
        acts = [task.act(m.content) for m in messages if m.role == "assistant"]
        opened = len(task.opening(example))
        for k, act in enumerate(acts):
            repaired = any(past in task.skills for past in acts[:k])
            points.append((act, repaired, example, messages[: opened + 2 * k], k == len(acts) - 1))
    finished = rollout(
        learner.backbone,
        learner.chat,
        task,
        [example for _, _, example, _, _ in points],
        [random.Random(f"testbed_checks/skills/{i}") for i in range(len(points))],
        seeded("testbed_checks/skills"),
        Sampling(learner.config.max_turn_tokens),
        [history for _, _, _, history, _ in points],
    )
    chosen = [task.act(d.messages[len(p[3])].content) for d, p in zip(finished, points, strict=True)]
    testbed_checks = []
    for skill in task.skills:
        share = _mean(c == skill for c, p in zip(chosen, points, strict=True) if p[0] == skill)
        testbed_checks.append(
            TestbedCheck(f"warm start: share of '{skill}' where it is needed", share, 0.05, 0.5)
        )
    for name, wanted in (("nothing to repair", False), ("after a repair", True)):
        right = _mean(
            d.outcome
            for d, c, p in zip(finished, chosen, points, strict=True)
            if c == p[0] and p[4] and p[1] == wanted  # the ideal tutor's last turn
        )
        testbed_checks.append(TestbedCheck(f"warm start: answers right, {name}", right, 0.9))
    return testbed_checks


def _classifier_auc(dialogues: list[Dialogue]) -> float:
    """Held-out AUC of logistic regression on word counts (numbers masked), fitted on the first half."""
    texts = [re.sub(r"\d+", "#", " | ".join(m.content for m in d.messages)) for d in dialogues]
    won = [d.outcome > 0.5 for d in dialogues]
    half = len(texts) // 2
    classifier = make_pipeline(CountVectorizer(token_pattern=r"\S+"), LogisticRegression(max_iter=2000))
    classifier.fit(texts[:half], won[:half])
    return ranking_auc(classifier.predict_proba(texts[half:])[:, 1], won[half:])


def report(config: RunConfig, store: Store) -> bool:
    """Print every gate; true if all pass."""
    torch.set_num_threads(1)
    testbed_checks = measure(config, store)
    print("\n".join(map(str, testbed_checks)))
    return all(gate.passed for gate in testbed_checks)
