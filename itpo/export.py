"""A run's policy for others: a standard PEFT folder with a model card, on disk and on the Hugging Face hub.

Everything in the card is read from the run's own files. The adapter's weights are copied as they are; what is changed is the
name of the base, which is never a path of the machine that trained it.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from itpo.attribution import get_row
from itpo.backbone import Adapter
from itpo.estimators import get_estimator
from itpo.profiles import PROFILES, Method, RunConfig
from itpo.reported import TITLES
from itpo.runs import Run
from itpo.storage import IN_WORK, check_run, plain, sha256
from itpo.tasks import get_task
from itpo.trainer import FINAL

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
BASES = {
    "EmbeddedModel": "itpo.embedded"
}  # specifications of bases that the library makes, by their class and its module
_MADE = re.compile(r"[A-Za-z0-9_]+-[0-9a-f]{16}")  # what the run store calls a model that it made
_TEMPLATE = Path(__file__).with_name("model_card.md")


class ExportError(ValueError):
    """What was asked for cannot be exported; says what to do."""


@dataclass(frozen=True)
class Base:
    """What an adapter belongs to: its name, what it is in words, and the code that makes it, where the library does."""

    name: str
    text: str
    precision: str = "full"
    recipe: str = ""
    sha256: str = ""
    published: bool = True


def export(
    run: Path,
    folder: Path,
    base: str | None = None,
    data: str | None = None,
    precision: str = "full",
    license: str | None = None,
    name: str | None = None,
) -> Path:
    """Write the policy of a finished run into a new folder, as PEFT reads it, with a model card; returns the folder.

    A run does not know what it was handed by its caller: the ``base`` (a name on the hub) and its ``precision``, where the
    run store did not make it, and a text on the ``data``, where they are not the embedded task. ``license`` is the hub's word
    for one, ``name`` where the folder will be on the hub; nothing is sent there.

    The folder is there completely or not at all. Raises :class:`ExportError` for a run that is not finished or has no policy, a
    folder that is not empty or inside the run, a missing base or data, and :class:`itpo.runs.RunFolderError` for a damaged run.

    >>> export(Path("nowhere"), Path("adapter"))
    Traceback (most recent call last):
    itpo.export.ExportError: nowhere is not the folder of a run: name one, such as runs/0123456789abcdef
    """
    if name is not None:
        check_name(name, "--push-to-hub")
    document, source = _read(run), run.resolve()
    _check_target(folder, source)
    folder = folder.resolve()
    adapter = json.loads((source / "policy" / CONFIG).read_text(encoding="utf-8"))
    found = find_base(source, document["config"], adapter["base_model_name_or_path"], base, precision)
    if not found.recipe and data is None:
        raise ExportError(f"{run} does not say what it was trained on: describe it with --data")
    card = write_card(Run(source, document["config"]), document, found, data, license, name)
    adapter["base_model_name_or_path"] = found.name
    adapter["target_modules"] = sorted(adapter["target_modules"])
    config = json.dumps(adapter, indent=2, sort_keys=True) + "\n"
    try:
        _write(folder, source / "policy" / WEIGHTS, config, card)
    except OSError as error:
        raise ExportError(
            f"{folder} cannot be written ({error}): name another place, or make room"
        ) from error
    return folder


def _write(folder: Path, weights: Path, config: str, card: ModelCard) -> None:
    """All three files, or none."""
    partial = folder.with_name(f"{IN_WORK}-{folder.name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir()
    try:
        shutil.copyfile(weights, partial / WEIGHTS)
        (partial / CONFIG).write_text(config, encoding="utf-8")
        card.save(partial / CARD)
        os.replace(partial, folder)  # refused by the system if something has come into it meanwhile
    except BaseException:
        shutil.rmtree(partial)
        raise


def _read(run: Path) -> dict[str, Any]:
    """The config document of a finished run with a policy."""
    try:
        document = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        document = None
    if not isinstance(document, dict) or document.get("format") != "itpo-run":
        raise ExportError(
            f"{run} is not the folder of a run: name one, such as runs/0123456789abcdef"
        ) from None
    document = check_run(run.resolve())
    if not (run / "done.json").is_file():
        raise ExportError(f"the run {run} is not finished: train it to its end")
    if not all((run / "policy" / name).is_file() for name in (CONFIG, WEIGHTS)):
        raise ExportError(f"the run {run} has no policy: name one that trained a policy, not a measurement")
    return document


def _check_target(folder: Path, run: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ExportError(f"{folder} is a file or a link: name a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise ExportError(f"{folder} is not empty: name a new folder, or move it away")
    if run in (folder.resolve(), *folder.resolve().parents):
        raise ExportError(f"{folder} is inside the run, which would change it: name a folder elsewhere")
    partial = folder.resolve().with_name(f"{IN_WORK}-{folder.resolve().name}")
    if partial.exists():
        raise ExportError(f"{folder} is being written, or was left half written: then delete {partial}")


def find_base(
    run: Path, config: Mapping[str, Any], known_as: str, named: str | None = None, precision: str = "full"
) -> Base:
    """What a run was trained on: made by the run store, or called ``named`` or ``known_as`` on the hub.

    Raises :class:`ExportError` where others could not find it.

    >>> find_base(Path("run"), {"task": "math", "model": {}}, "Qwen/Qwen2.5-3B-Instruct", precision="nf4").text
    '`Qwen/Qwen2.5-3B-Instruct`'
    """
    if named is not None:
        check_name(named, "--base")
        if Path(named).exists():
            raise ExportError(
                f"--base {named} is a folder here, which others do not have: name it as on the hub"
            )
    spec = config["model"]
    if _MADE.fullmatch(known_as) and spec.get("class") in BASES:
        weights = run.parent / "models" / known_as / "model.safetensors"
        digest = sha256(weights.read_bytes()) if weights.is_file() else ""
        size = f"{spec['layers']} layers of width {spec['hidden_size']}"
        text = f"the embedded language model of the task `{config['task']}`"
        text += f", a Llama of {size} that imitated the task's scripted tutor"
        return Base(named or known_as, text, "full", _recipe(config), digest, named is not None)
    name = named or known_as
    if named is None and "/" not in known_as:
        raise ExportError(
            f"{run} was trained on a base that it knows as {known_as!r}: name it on the hub with --base"
        )
    return Base(name, f"`{name}`", precision)


def _recipe(config: Mapping[str, Any]) -> str:
    """Code that makes the base of a run."""
    spec = dict(config["model"])
    kind = spec.pop("class")
    arguments = ", ".join(f"{name}={value!r}" for name, value in spec.items())
    return f"""\
from dataclasses import replace

from {BASES[kind]} import {kind}
from itpo.profiles import get_profile
from itpo.runs import Store
from itpo.trainer import base_model

model = {kind}({arguments})
base = base_model(replace(get_profile("laptop").run, task={config["task"]!r}, model=model), Store("runs"))"""


def check_name(name: str, option: str) -> None:
    """Refuse what cannot be the name of a model on the hub.

    >>> check_name("/home/me/model", "--base")
    Traceback (most recent call last):
    itpo.export.ExportError: --base /home/me/model: Repo id must be in the form 'repo_name' or 'namespace/repo_name': ...
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ExportError(f"{option} {name}: {error}") from error


def write_card(
    run: Run,
    document: Mapping[str, Any],
    base: Base,
    data: str | None = None,
    license: str | None = None,
    name: str | None = None,
) -> ModelCard:
    """The model card of a run's policy on this base; ``document`` is the run's ``config.json``."""
    config = document["config"]
    row, estimator, task = (
        get_row(config["method"]["row"]),
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
    main += ["beta"] * get_row(config["method"]["row"]).needs_prm
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
    if base.recipe:
        words = len(get_task(config["task"]).words)
        limits.append(
            f"The base knows {words} words of one scripted task and nothing else: a specimen, no assistant."
        )
    if config["task"].startswith("medical"):
        limits.append(
            "Illnesses and remedies are made up, or were judged by a model: never use it for medical advice."
        )
    return limits


def push(folder: Path, name: str) -> str:
    """Put an exported folder into a new repository of the hub; returns its address.

    A repository that is there already is left alone. Raises :class:`ExportError` with the hub's own reason and the command
    that tries again; the folder stays as it is.

    >>> push(Path("adapter"), "a name")
    Traceback (most recent call last):
    itpo.export.ExportError: --push-to-hub a name: Repo id must use alphanumeric chars, ...
    """
    check_name(name, "--push-to-hub")
    try:
        api = HfApi()
        address = api.create_repo(name, exist_ok=False)
        api.upload_folder(
            repo_id=address.repo_id, folder_path=folder, commit_message="Add the adapter and its card"
        )
    except Exception as error:  # the hub's client raises errors of several libraries
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = f"log in by `hf auth login`, and send it by `hf upload {name} {folder}`"
        raise ExportError(f"{folder} is complete, but not on the hub ({reason}): {remedy}") from error
    return str(address)
