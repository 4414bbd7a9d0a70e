"""A run's policy for others: a standard PEFT folder with a model card, on disk and on the Hugging Face hub.

Everything in the card is read from the run's own files. The adapter's weights are copied as they are; what is changed is the
name of the base, which is never a path of the machine that trained it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from itpo.apps.model_card import Base, write_card
from itpo.data import FORMATS
from itpo.runs.files import IN_WORK, check_run, sha256
from itpo.runs.store import Run

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
# Specifications of bases that the library makes, by their class: what has to be imported to write one.
BASES = {
    "TinyLM": "itpo.models.tiny import TinyLM",
    "PretrainedModel": "itpo.models.imitation import Imitation, PretrainedModel",
}
_MADE = re.compile(r"[A-Za-z0-9_]+-[0-9a-f]{16}")  # what the run store calls a model that it made


class ExportError(ValueError):
    """What was asked for cannot be exported; says what to do."""


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
    folder that is not empty or inside the run, a missing base or data, and :class:`itpo.runs.store.RunFolderError` for a damaged run.

    >>> export(Path("nowhere"), Path("adapter"))
    Traceback (most recent call last):
    itpo.apps.export.ExportError: nowhere is not the folder of a run: name one, such as runs/0123456789abcdef
    """
    if name is not None:
        check_name(name, "--push-to-hub")
    document, source = _read(run), run.resolve()
    _check_target(folder, source)
    folder = folder.resolve()
    adapter = json.loads((source / "policy" / CONFIG).read_text(encoding="utf-8"))
    found = find_base(source, document["config"], adapter["base_model_name_or_path"], base, precision)
    data = data or _data_text(document["config"])
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
    precision = spec.get("precision", precision)
    if _MADE.fullmatch(known_as) and spec.get("class") in BASES:
        weights = run.parent / "models" / known_as / "model.safetensors"
        digest = sha256(weights.read_bytes()) if weights.is_file() else ""
        published = named is not None
        return Base(named or known_as, _base_text(config), precision, _recipe(config), digest, published)
    name = named or spec.get("name") or known_as
    if named is None and ("/" not in name or Path(name).exists()):
        raise ExportError(
            f"{run} was trained on a base that it knows as {known_as!r}: name it on the hub with --base"
        )
    return Base(name, f"`{name}`", precision)


def _data_text(config: Mapping[str, Any]) -> str | None:
    """The real examples that a run names, users and judges played by its base; ``None`` for an embedded task."""
    if (data := config["data"]) is None:
        return None
    source = FORMATS[data["format"]].hub
    text = f"The task `{config['task']}` on at most {data['count']} examples of the format `{data['format']}`"
    return f"{text}{f' (`{source}`)' if data['source'] is None else ''}; the base played users and judges."


def _base_text(config: Mapping[str, Any]) -> str:
    """What a base that the run store made is, in words."""
    spec, task = config["model"], config["task"]
    if spec["class"] == "TinyLM":
        text = (
            f"the embedded language model of the task `{task}`, a Llama of {spec['layers']} layers of width "
        )
        return f"{text}{spec['hidden_size']} that imitated the task's scripted tutor"
    if spec["imitation"] is None:
        return f"`{spec['name']}`"
    count = spec["imitation"]["steps"] * spec["imitation"]["dialogues_per_step"]
    return (
        f"`{spec['name']}`, which imitated {count} conversations of the scripted tutor of the task `{task}`"
    )


def _recipe(config: Mapping[str, Any]) -> str:
    """Code that makes the base of a run."""
    return f"""\
from dataclasses import replace

from {BASES[config["model"]["class"]]}
from itpo.study.profiles import get_profile
from itpo.runs.store import Store
from itpo.training.build import base_model

model = {_call(config["model"])}
base = base_model(replace(get_profile("laptop").run, task={config["task"]!r}, model=model), Store("runs"))"""


def _call(spec: Mapping[str, Any]) -> str:
    """The expression that makes a dataclass again, from what a config says of it."""
    values = {name: value for name, value in spec.items() if name != "class"}
    written = {n: _call(v) if isinstance(v, Mapping) else repr(v) for n, v in values.items()}
    return f"{spec['class']}({', '.join(f'{name}={text}' for name, text in written.items())})"


def check_name(name: str, option: str) -> None:
    """Refuse what cannot be the name of a model on the hub.

    >>> check_name("/home/me/model", "--base")
    Traceback (most recent call last):
    itpo.apps.export.ExportError: --base /home/me/model: Repo id must be in the form 'repo_name' or 'namespace/repo_name': ...
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ExportError(f"{option} {name}: {error}") from error


def push(folder: Path, name: str) -> str:
    """Put an exported folder into a new repository of the hub; returns its address.

    A repository that is there already is left alone. Raises :class:`ExportError` with the hub's own reason and the command
    that tries again; the folder stays as it is.

    >>> push(Path("adapter"), "a name")
    Traceback (most recent call last):
    itpo.apps.export.ExportError: --push-to-hub a name: Repo id must use alphanumeric chars, ...
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
