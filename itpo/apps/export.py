"""A run's policy for others: a standard PEFT folder with a model card, on disk and on the Hugging Face hub.

Everything in the card is read from the run's own files. The adapter's weights are copied as they are; what is changed is the
name of the base, which is never a path of the machine that trained it.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from itpo.apps.configs import finished_run
from itpo.apps.model_card import Base, write_card
from itpo.config import RunConfig, TaskSpec
from itpo.models.imitation import PACKAGED
from itpo.runs.artifacts import SHIPPED
from itpo.runs.files import IN_WORK, sha256, sync
from itpo.specs import PretrainedModel, TinyLM

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"


class ExportError(ValueError):
    """What was asked for cannot be exported; says what to do."""


def export(
    run: Path,
    folder: Path,
    base: str | None = None,
    data: str | None = None,
    license: str | None = None,
    name: str | None = None,
) -> Path:
    """Write the policy of a finished run into a new folder, as PEFT reads it, with a model card; returns the folder.

    ``base`` is the name on the hub of a base that the run knows as a folder, ``data`` replaces the card's text on the data,
    ``license`` is the hub's word for one, ``name`` where the folder will be on the hub; nothing is sent there.

    The folder is there completely or not at all. Raises :class:`ExportError` for a folder that is not empty or inside the run,
    or a base that others could not find, and what :func:`itpo.apps.configs.finished_run` raises.

    >>> export(Path("nowhere"), Path("adapter"))
    Traceback (most recent call last):
    ValueError: nowhere is not the folder of a run: name one, such as runs/0123456789abcdef
    """
    if name is not None:
        check_name(name, "--push-to-hub")
    source = finished_run(run)
    _check_target(folder, source.folder)
    folder = folder.resolve()
    adapter = json.loads((source.folder / "policy" / CONFIG).read_text(encoding="utf-8"))
    found = find_base(source.folder, source.config, adapter["base_model_name_or_path"], base)
    card = write_card(source, found, data, license, name)
    adapter["base_model_name_or_path"] = found.name
    adapter["target_modules"] = sorted(adapter["target_modules"])
    config = json.dumps(adapter, indent=2, sort_keys=True) + "\n"
    try:
        _write(folder, source.folder / "policy" / WEIGHTS, config, card)
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
        for path in [*partial.iterdir(), partial]:
            sync(path)
        os.replace(partial, folder)  # refused by the system if something has come into it meanwhile
    except BaseException:
        shutil.rmtree(partial)
        raise


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


def find_base(run: Path, config: RunConfig, known_as: str, named: str | None = None) -> Base:
    """What a run was trained on: a folder, which comes with the library or the run store made, or a hub's model.

    ``known_as`` is what the run's adapter calls it: a folder by its own name alone, a model of the hub by its name there.
    ``named`` is its name on the hub. Raises :class:`ExportError` where others could not find it.

    >>> from itpo.study.profiles import get_profile
    >>> find_base(Path("run"), get_profile("consumer").run, "Qwen/Qwen2.5-3B-Instruct").text
    '`Qwen/Qwen2.5-3B-Instruct`'
    """
    if named is not None:
        check_name(named, "--base")
        if Path(named).exists():
            raise ExportError(
                f"--base {named} is a folder here, which others do not have: name it as on the hub"
            )
    spec = config.model
    if isinstance(spec, TinyLM) or spec.imitation is not None or spec.name in PACKAGED:
        shipped = (SHIPPED / known_as).is_dir()
        weights = (SHIPPED if shipped else run.parent / "models") / known_as / "model.safetensors"
        digest = sha256(weights.read_bytes()) if weights.is_file() else ""
        precision = spec.precision if isinstance(spec, PretrainedModel) else "full"
        about = (_base_text(config), precision, _recipe(config), digest, named is not None, shipped)
        return Base(named or known_as, *about)
    # The config's name may be the path of a folder that cannot be seen from here.
    name = named or known_as
    if "/" not in name and named is None:
        raise ExportError(
            f"{run} was trained on a base that it knows as {known_as!r}: name it on the hub with --base"
        )
    return Base(name, f"`{name}`", spec.precision)


def _base_text(config: RunConfig) -> str:
    """What a base that the run store made is, in words."""
    spec, task = config.model, config.task.name
    if isinstance(spec, TinyLM):
        text = f"the tiny language model of the task `{task}`, a Llama of {spec.layers} layers of width "
        return f"{text}{spec.hidden_size} that imitated the task's scripted policy"
    if spec.imitation is None:
        return f"`{spec.name}`"
    count = spec.imitation.steps * spec.imitation.dialogues_per_step
    return f"`{spec.name}`, which imitated {count} conversations of the scripted policy of the task `{task}`"


def _recipe(config: RunConfig) -> str:
    """Code that makes the base of a run."""
    # Without imitation the task does not matter.
    task = config.task if isinstance(config.task, TaskSpec) else TaskSpec("math_prose")
    return f"""\
from dataclasses import replace

from itpo.config import TaskSpec
from itpo.runs.store import Store
from itpo.specs import Imitation, PretrainedModel, TinyLM
from itpo.study.profiles import get_profile
from itpo.training.build import base_model

model = {config.model!r}
task = {task!r}
base = base_model(replace(get_profile("laptop").run, task=task, model=model), Store("runs"))"""


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
