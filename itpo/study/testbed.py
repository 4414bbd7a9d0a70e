"""Testbed checks: what a scripted task must show before a comparison of methods on it means anything.

A testbed on which nothing can be learned, or nothing is left to learn, or whose outcomes cannot be told from the conversation,
ranks methods by noise. Each check is a measured number that must lie within bounds.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from itpo.config import RunConfig, TaskSpec
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

# Lowest and highest value of each check, all our own choice [O]; a task's entry may have others.
BOUNDS = {
    "expert": (0.95, 1.0),  # mean outcome of the scripted expert
    "sampled": (0.2, 0.45),  # mean outcome of the base model
    "greedy": (0.2, 0.45),  # the same, decoding greedily
    "skill": (
        0.05,
        0.5,
    ),  # how often the base model does what the expert would do, for each of the task's skills
    "finish": (0.9, 1.0),  # outcome where only the expert's last turn is left to the base model
    "words": (0.8, 1.0),  # AUC of a classifier of outcomes by the words of a conversation
    "lift": (
        0.2,
        1.0,
    ),  # gain in outcome of a run at the best of its evaluations; medical reached 0.248 on one processor
}


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

        >>> print(TestbedCheck("expert: success", 0.97, 0.95))
        pass  expert: success                                          0.970  in [0.95, 1.00]
        """
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict}  {self.name:<55} {self.value:6.3f}  in [{self.low:.2f}, {self.high:.2f}]"


def measure(config: RunConfig, store: Store, dialogues: int = 2000) -> list[TestbedCheck]:
    """All checks of the configured task and base model; for the last one, the configured run is trained (or loaded).

    The run's gain is that of its best evaluation: the question is whether the task can be learned, not whether the last steps
    of one seed went well. The best of a few evaluations of 128 dialogues is some 0.05 above their mean by chance.
    ``dialogues`` is the sample size of each of the other figures. Raises ``ValueError`` for a task on real data, or where the
    task's entry has bounds for an unknown check.
    """
    if not isinstance(config.task, TaskSpec):
        raise ValueError(
            f"testbed checks are for scripted tasks; {config.task.name!r} is a task on real data"
        )
    bounds = BOUNDS | dict(config.task.entry.bounds)
    if unknown := bounds.keys() - BOUNDS.keys():
        raise ValueError(
            f"bounds of task {config.task.name!r} for {', '.join(unknown)}: known checks are {', '.join(BOUNDS)}"
        )
    # First, for its process also makes the base model that is measured here.
    (run,) = sweep(store.root, [config], train, workers=1, progress=False)
    learner = build_learner(config, store)
    # The names of the random streams are "gates", as checks were called once: other names would draw other dialogues.
    sampled, batch = learner.collect("gates", 2 * dialogues, 1, None)
    greedy, _ = learner.collect("gates", dialogues, 1, None, greedy=True)
    outcome, before = config.task.entry.outcome, batch.outcome.mean().item()
    best = float(run.metrics()["eval_success"].max())
    measured = [
        ("expert", f"expert: {outcome}", _expert_outcome(learner, dialogues)),
        ("sampled", f"base model: {outcome}, sampled", before),
        ("greedy", f"base model: {outcome}, greedy", _mean(d.outcome for d in greedy)),
        *_base_against_expert(learner, dialogues),
        ("words", "outcome from the words, logistic classifier: AUC", _classifier_auc(sampled)),
        ("lift", f"{learner.method.label}: gain in {outcome}", best - before),
    ]
    return [TestbedCheck(name, value, *bounds[check]) for check, name, value in measured]


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else float("nan")


def _expert_outcome(learner: Learner, count: int) -> float:
    rng = random.Random("gates/ideal")
    task: Any = learner.task
    return _mean(scripted_dialogue(task, task.expert, rng)[2] for _ in range(count))


class _Point(NamedTuple):
    """A turn of an expert's dialogue: the messages before it, what the expert does next, and what it has done before."""

    example: Any
    history: list[Message]
    act: str
    repaired: bool
    last: bool


def _expert_turns(task: Any, skills: Sequence[str], count: int) -> Iterator[_Point]:
    rng = random.Random("gates/skills")
    for _ in range(count):
        example, messages, _ = scripted_dialogue(task, task.expert, rng)
        acts = [task.act(m.content) for m in messages if m.role == "assistant"]
        opened = len(task.opening(example))
        for k, act in enumerate(acts):
            repaired = any(earlier in skills for earlier in acts[:k])
            yield _Point(example, messages[: opened + 2 * k], act, repaired, k == len(acts) - 1)


def _base_against_expert(learner: Learner, count: int) -> list[tuple[str, str, float]]:
    """How often the base model does what the expert would do next, and whether it finishes right when it knows all."""
    task: Any = learner.task
    skills = getattr(task, "skills", ())
    points = list(_expert_turns(task, skills, count))
    finished = rollout(
        learner.backbone,
        learner.chat,
        task,
        [point.example for point in points],
        [random.Random(f"gates/skills/{i}") for i in range(len(points))],
        seeded("gates/skills"),
        Sampling(learner.config.max_turn_tokens),
        [point.history for point in points],
    )
    chosen = [task.act(d.messages[len(p.history)].content) for d, p in zip(finished, points, strict=True)]
    measured = []
    for skill in skills:
        share = _mean(act == skill for act, point in zip(chosen, points, strict=True) if point.act == skill)
        measured.append(("skill", f"base model: share of '{skill}' where it is needed", share))
    last = [(p, d) for p, d, act in zip(points, finished, chosen, strict=True) if p.last and act == p.act]
    for name, repaired in (("nothing to repair", False), ("after a repair", True))[: 1 + bool(skills)]:
        value = _mean(d.outcome for p, d in last if p.repaired == repaired)
        measured.append(("finish", f"base model: finishes right, {name}", value))
    return measured


def _classifier_auc(dialogues: list[Dialogue]) -> float:
    """Held-out AUC of logistic regression on word counts (numbers masked), fitted on the first half."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = [re.sub(r"\d+", "#", " | ".join(m.content for m in d.messages)) for d in dialogues]
    won = [d.outcome > 0.5 for d in dialogues]
    half = len(texts) // 2
    if len(set(won[:half])) < 2:
        return float("nan")
    classifier = make_pipeline(CountVectorizer(token_pattern=r"\S+"), LogisticRegression(max_iter=2000))
    classifier.fit(texts[:half], won[:half])
    return ranking_auc(classifier.predict_proba(texts[half:])[:, 1], won[half:])


def report(config: RunConfig, store: Store, dialogues: int = 2000) -> bool:
    """Print every check (see :func:`measure`); true if all pass."""
    torch.set_num_threads(1)
    checks = measure(config, store, dialogues)
    print("\n".join(map(str, checks)))
    return all(check.passed for check in checks)
