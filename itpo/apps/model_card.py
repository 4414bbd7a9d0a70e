"""What the model card of an exported policy says, all of it read from the run's own files."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from itpo.apps.configs import settings
from itpo.config import Estimator, Method, RunConfig, TaskSpec
from itpo.data import FORMATS
from itpo.runs.files import read_json
from itpo.runs.store import Run
from itpo.specs import Custom, Endpoint, RealData, RuleJudge, TinyLM
from itpo.study.profiles import PROFILES
from itpo.tasks.registry import get_entry
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
    shipped: bool = False  # with the library


def write_card(
    run: Run, base: Base, data: str | None = None, license: str | None = None, name: str | None = None
) -> ModelCard:
    """The model card of a run's policy on this base.

    >>> import tempfile
    >>> from itpo.study.profiles import get_profile
    >>> from itpo.runs.store import Store
    >>> with tempfile.TemporaryDirectory() as place:
    ...     run = Store(Path(place)).open(get_profile("smoke").config("itpo", seed=0))
    ...     run.log(0, {"eval_success": 0.25})
    ...     run.finish({"success": 0.5, "greedy_success": 0.5})
    ...     card = write_card(run, Base("me/base", "`me/base`"))
    >>> card.data.base_model, "| after training | greedy | 0.5000" in card.text
    ('me/base', True)
    """
    config: RunConfig = run.config
    method, estimator = config.method.entry, config.estimator.entry
    libraries = {name: v for name, v in run.platforms()[-1]["platform"]["libraries"].items() if v}
    return ModelCard.from_template(
        ModelCardData(
            library_name="peft",
            base_model=base.name,
            license=license,
            pipeline_tag="text-generation",
            tags=["lora", "reinforcement-learning", "dialogue", "itpo", method.name, estimator.name],
        ),
        template_path=str(_TEMPLATE),
        method=method.label,
        method_text=_first_line(method.function),
        estimator_name=estimator.label,
        estimator_text=_first_line(estimator.function),
        title=get_entry(config.task.name).title,
        base=base,
        greeting=_greeting(config),
        name=name,
        data=data or data_text(config),
        outcome=_outcome_text(config),
        config=config,
        settings=_settings(config),
        warmup=config.warmup if method.needs_prm or estimator.has_critic else 0,
        results=_results(run),
        limits=_limits(config),
        warning="**A few steps that show that everything runs; its numbers mean nothing.** "
        * (scale_of(config) == "smoke"),
        versions={"itpo": metadata.version("itpo"), **libraries},
        numerics=read_json(run.folder / "config.json")["numerics"],
        run=run.folder.name,
    )


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


def _greeting(config: RunConfig) -> str:
    """What a user says first."""
    if isinstance(config.task, RealData):
        return "Hello!"
    task = config.task.build()
    return str(task.opening(task.sample(random.Random(0)))[0].content)


def data_text(config: RunConfig) -> str:
    """What a run was trained on, in a sentence or two."""
    spec, name = config.task, config.task.name
    if isinstance(spec, TaskSpec):
        about = _first_line(sys.modules[type(spec.build()).__module__])
        text = f"The task `{name}`: {about[:1].lower()}{about[1:]}"
        return f"{text} Problems and users are drawn by a script, afresh in each step."
    hub = f" (`{FORMATS[spec.format].hub}`)" if spec.source is None else ""
    text = f"The task `{name}` on at most {spec.count} examples of the format `{spec.format}`{hub}"
    return f"{text}; users were played by {_player(config.user)}, and judged by {_player(config.judge)}."


def _player(spec: object) -> str:
    if isinstance(spec, Endpoint | Custom):
        return f"`{spec.model if isinstance(spec, Endpoint) else spec.name}`"
    return "a rule" if isinstance(spec, RuleJudge) else "the base"


def _outcome_text(config: RunConfig) -> str:
    if isinstance(config.task, RealData):
        return "It is the score of the data above."
    return _first_line(type(config.task.build()).score)


def _settings(config: RunConfig) -> list[tuple[str, Any, Any]]:
    """(name, value, default) of the settings that matter most, and of all others that differ from their defaults."""
    bare = RunConfig(
        Method(config.method.name, version=config.method.version),
        config.seed,
        config.steps,
        task=config.task,
        user=config.user,
        judge=RuleJudge() if isinstance(config.judge, RuleJudge) else config.judge,
        model=config.model,
        estimator=Estimator(config.estimator.name),
    )
    main = ["policy_lr", "coef", "rank", "alpha", "baseline", "max_turn_tokens"]
    main += ["beta"] * config.method.entry.needs_prm
    elsewhere = {"prompts", "rollouts"}  # in the section on training
    values, defaults = settings(config), settings(bare)
    lines = [(name.rpartition(".")[2], value, defaults.get(name, "–")) for name, value in values.items()]
    return [line for line in lines if line[0] not in elsewhere and (line[0] in main or line[1] != line[2])]


def _results(run: Run) -> list[tuple[str, str, str, str]]:
    """(policy, decoding, mean outcome, dialogues) before and after training."""
    summary = run.summary()
    watched = [line for line in run.metric_lines() if line.get("eval_success") is not None]
    (first, before), (last, after) = (
        (line["step"], line["eval_success"]) for line in (watched[0], watched[-1])
    )
    few, many = run.config.eval_dialogues, FINAL * run.config.eval_dialogues
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


def scale_of(config: RunConfig) -> str | None:
    """The profile whose scale a run has.

    >>> scale_of(PROFILES["laptop"].on("medical").config("itpo", seed=2))
    'laptop'
    """
    own = {"method", "seed", "task", "estimator"}
    names = [field.name for field in fields(RunConfig) if field.name not in own]
    for profile in PROFILES.values():
        if all(getattr(config, name) == getattr(profile.run, name) for name in names):
            return profile.name
    return None


def _limits(config: RunConfig) -> list[str]:
    scale = scale_of(config)
    size = f"the profile `{scale}` ({PROFILES[scale].summary})" if scale else "no profile of the library"
    limits = [
        f"The scale is that of {size}. The paper trained Qwen2.5 models by full fine-tuning against simulated users: "
        "nothing here is its result, and no number here can be compared with its numbers.",
        "One run with one seed. To compare rows of Table 1 takes several seeds, as in the library's notebooks.",
        "The policy optimised one outcome against one kind of user. What it does beyond that was not measured.",
    ]
    if isinstance(config.model, TinyLM) and isinstance(config.task, TaskSpec):
        words = len(config.task.build().words)
        limits.append(
            f"The base knows {words} words of one scripted task and nothing else: a specimen, no assistant."
        )
    if config.task.name.startswith("medical"):
        limits.append(
            "Illnesses and remedies are made up, or were judged by a model: never use it for medical advice."
        )
    return limits
