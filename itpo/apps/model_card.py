"""What the model card of an exported policy says, all of it read from the run's own files."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from itpo.attribution import get_method
from itpo.config import Method, RunConfig
from itpo.estimators import get_estimator
from itpo.runs.files import plain
from itpo.runs.store import Run
from itpo.specs import Adapter
from itpo.study.profiles import PROFILES
from itpo.study.reported import TITLES
from itpo.tasks.registry import get_task
from itpo.training.evaluation import FINAL

_TEMPLATE = Path(__file__).with_name("model_card.md")


@dataclass(frozen=True)
class Base:
    """What an adapter belongs to: its name, what it is in words, and the code that makes it, where the library does."""

    name: str
    text: str
    precision: str = "full"
    recipe: str = ""
    sha256: str = ""
    published: bool = True


def write_card(
    run: Run,
    document: Mapping[str, Any],
    base: Base,
    data: str | None = None,
    license: str | None = None,
    name: str | None = None,
) -> ModelCard:
    """The model card of a run's policy on this base; ``document`` is the run's ``config.json``.

    >>> import json, tempfile
    >>> from itpo.study.profiles import get_profile
    >>> from itpo.runs.store import Store
    >>> with tempfile.TemporaryDirectory() as place:
    ...     run = Store(Path(place)).open(get_profile("smoke").config("itpo", seed=0))
    ...     run.log(0, {"eval_success": 0.25})
    ...     run.finish({"success": 0.5, "greedy_success": 0.5})
    ...     document = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))
    ...     card = write_card(run, document, Base("me/base", "`me/base`"))
    >>> card.data.base_model, "| after training | greedy | 0.5000" in card.text
    ('me/base', True)
    """
    config = document["config"]
    row, estimator, task = (
        get_method(config["method"]["row"]),
        get_estimator(config["estimator"]),
        config["task"],
    )
    own_data, outcome = _task_texts(task)
    versions = {"itpo": metadata.version("itpo"), **document["libraries"]}
    return ModelCard.from_template(
        ModelCardData(
            library_name="peft",
            base_model=base.name,
            license=license,
            pipeline_tag="text-generation",
            tags=["lora", "reinforcement-learning", "dialogue", "itpo", row.name, estimator.name],
        ),
        template_path=str(_TEMPLATE),
        row=row.label,
        row_text=_first_line(row.function),
        estimator_name=estimator.name.upper(),
        estimator_text=_first_line(estimator.function),
        title=TITLES.get(task, task),
        base=base,
        greeting=_greeting(task) if base.recipe else "Hello!",
        name=name,
        data=data or own_data,
        outcome=outcome if base.recipe else "It is the score of the data above.",
        config=config,
        settings=_settings(config),
        warmup=config["warmup"] if row.needs_prm or estimator.has_critic else 0,
        results=_results(run, config),
        limits=_limits(config, base),
        warning="**A few steps that show that everything runs; its numbers mean nothing.** "
        * (_scale(config) == "smoke"),
        versions=versions,
        numerics=document["numerics"],
        run=run.folder.name,
    )


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


def _greeting(task: str) -> str:
    """What a user of an embedded task says first."""
    own = get_task(task)
    return own.opening(own.sample(random.Random(0)))[0].content


def _task_texts(name: str) -> tuple[str, str]:
    """What a task's examples are, and what its outcome is."""
    task = get_task(name)
    about = _first_line(sys.modules[type(task).__module__])
    texts = f"The task `{name}`: {about[:1].lower()}{about[1:]} Problems and users are drawn by a script, afresh in each step."
    return texts, _first_line(type(task).score)


def _settings(config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, value, default) of the settings that matter most, and of all others that differ from their defaults."""
    main = ["policy_lr", "coef", "rank", "alpha", "baseline", "max_turn_tokens"]
    main += ["beta"] * get_method(config["method"]["row"]).needs_prm
    elsewhere = (
        "class",
        "row",
        "method",
        "adapter",
        "model",
        "seed",
        "steps",
        "task",
        "estimator",
        "prompts",
        "rollouts",
    )
    found = []
    for settings, kind in ((config["method"], Method), (config["adapter"], Adapter), (config, RunConfig)):
        defaults = {f.name: f.default for f in fields(kind)}
        for name, value in settings.items():
            default = defaults.get(name, MISSING)
            if name not in elsewhere and (name in main or value != default):
                found.append((name, value, "–" if default is MISSING else default))
    return found


def _results(run: Run, config: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(policy, decoding, mean outcome, dialogues) before and after training."""
    metrics, summary = run.metrics(), run.summary()
    watched = metrics[metrics["eval_success"].notna()]
    (first, before), (last, after) = (
        (int(watched["step"].iloc[i]), watched["eval_success"].iloc[i]) for i in (0, -1)
    )
    few, many = config["eval_dialogues"], FINAL * config["eval_dialogues"]
    same, other = f"{few}, the same problems at each evaluation", f"{many} other problems"

    def share(mean: float | None, count: int) -> str:
        # No variable in [0, 1] with this mean varies more than one that is 0 or 1.
        return "–" if mean is None else f"{mean:.4f} ± {(mean * (1 - mean) / count) ** 0.5:.4f}"

    return [
        (f"before training (step {first})", "sampled", share(before, few), same),
        (f"after training (step {last})", "sampled", share(after, few), same),
        ("after training", "sampled", share(summary["success"], many), other),
        ("after training", "greedy", share(summary["greedy_success"], many), f"the same {other}"),
    ]


def _scale(config: Mapping[str, Any]) -> str | None:
    """The profile whose scale a run has."""
    own = {"class", "method", "seed", "task", "estimator", "baseline"}
    for name, profile in PROFILES.items():
        if all(
            config.get(key) == value for key, value in plain(profile.run, "run").items() if key not in own
        ):
            return name
    return None


def _limits(config: Mapping[str, Any], base: Base) -> list[str]:
    scale = _scale(config)
    size = f"the profile `{scale}` ({PROFILES[scale].summary})" if scale else "no profile of the library"
    limits = [
        f"The scale is that of {size}. The paper trained Qwen2.5 models by full fine-tuning against simulated users: "
        "nothing here is its result, and no number here can be compared with its numbers.",
        "One run with one seed. To compare rows of Table 1 takes several seeds, as in the library's notebooks.",
        "The policy optimised one outcome against one kind of user. What it does beyond that was not measured.",
    ]
    if config["model"]["class"] == "TinyLM":
        words = len(get_task(config["task"]).words)
        limits.append(
            f"The base knows {words} words of one scripted task and nothing else: a specimen, no assistant."
        )
    if config["task"].startswith("medical"):
        limits.append(
            "Illnesses and remedies are made up, or were judged by a model: never use it for medical advice."
        )
    return limits
