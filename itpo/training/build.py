"""From a run's config to its learner: the base model, made once for all runs that start from it, and what trains on it."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

from itpo.config import RunConfig, TaskSpec
from itpo.models import memory
from itpo.models.adapters import AdaptedModel
from itpo.models.imitation import PACKAGED, imitate
from itpo.models.loading import load_model, locate, model_hashes
from itpo.models.shapes import CannotPlan
from itpo.models.tiny import pretrain_by_imitation
from itpo.rollout.engine import Engine
from itpo.runs.files import sha256
from itpo.runs.store import Run, Store
from itpo.specs import PretrainedModel, RealData, TinyLM
from itpo.training.learner import Learner


def base_model(config: RunConfig, store: Store) -> Path | str:
    """The run's base model: a folder, or a pretrained one's name.

    The folder ships with the library, or is in the store, where it is made the first time and then found again: a tiny model by
    :func:`itpo.models.tiny.pretrain_by_imitation`, a pretrained one that imitates by :func:`itpo.models.imitation.imitate`.
    """
    spec = config.model
    if isinstance(spec, PretrainedModel) and spec.imitation is None:
        if spec.name not in PACKAGED:
            return spec.name
        return store.artifact("base", {"model": spec}, PACKAGED[spec.name])
    assert isinstance(config.task, TaskSpec)  # as the config saw to
    task = config.task.build()

    def make(folder: Path) -> Path:
        """Fill the folder."""
        if isinstance(spec, TinyLM):
            return pretrain_by_imitation(task, task.noisy_expert, spec, folder)
        return imitate(task, task.noisy_expert, spec, folder)

    determinants: dict[str, Any] = {"task": config.task, "model": spec}
    if isinstance(spec, PretrainedModel) and spec.name not in PACKAGED:
        determinants["weights"] = model_hashes(spec.name)  # what a name stands for may change
    return store.artifact("base", determinants, make)


def inputs(config: RunConfig, store: Store) -> dict[str, dict[str, str]]:
    """Hashes of what a run reads beside its config: every file of the base model, and the real examples as they are read.

    :meth:`itpo.runs.store.Run.declare` keeps them, so that a run goes on, and its policy is loaded, with the same alone.
    """
    read = {"base model": model_hashes(base_model(config, store))}
    if isinstance(data := config.task, RealData):
        read["data"] = {data.source or data.format: sha256(repr(data.examples()))}
    return read


def build_learner(config: RunConfig, store: Store, to_train: bool = True) -> Learner:
    """Load base model, tokenizer and task of a run, with fresh adapters, and ``to_train`` it the engine of its rollouts.

    Raises :class:`itpo.models.memory.DoesNotFit`, before anything is loaded, where the GPU has too little memory, and
    :class:`itpo.models.probe.InexactModelError` for a pretrained model that is trained on other numbers than it samples by.
    """
    base = base_model(config, store)
    if isinstance(config.model, PretrainedModel) and (room := memory.free_gib()) is not None:
        try:
            engine = memory.gib_of_share(config.engine_memory) if config.engine == "vllm" else None
            memory.check(memory.find_shape(locate(base)), *memory.of_run(config), room, engine)
        except CannotPlan as error:
            warnings.warn(f"whether it fits the GPU is not known: {error}", stacklevel=2)
    model, tokenizer = load_model(config.model, base)
    make_engine = None
    if to_train and config.engine == "vllm":
        make_engine = partial(_vllm, config, _readable_by_engines(config, store, base, model, tokenizer))
    learner = Learner(config, model, tokenizer, store.root, make_engine=make_engine)
    if isinstance(config.model, PretrainedModel):
        from itpo.models.backbone import Backbone
        from itpo.models.probe import check_parity

        assert isinstance(learner.backbone, Backbone)  # as every pretrained model's
        check_parity(learner.backbone)
    return learner


def _readable_by_engines(
    config: RunConfig, store: Store, base: Path | str, model: Any, tokenizer: Any
) -> Path:
    """The folder from which another engine reads the base that a learner has loaded: its own, or its 4 bits written out."""
    assert isinstance(config.model, PretrainedModel)
    if config.model.precision == "full":
        return Path(locate(base))
    determinants = {"model": config.model, "base": model_hashes(base)}
    return store.artifact("dequantised", determinants, partial(_dequantised, model, tokenizer))


def _dequantised(model: Any, tokenizer: Any, folder: Path) -> Path:
    from itpo.models.dequantise import dequantise

    return dequantise(model, tokenizer, folder)


def _vllm(config: RunConfig, folder: Path, backbone: AdaptedModel) -> Engine:
    """vLLM on the run's base."""
    from itpo.rollout.vllm_engine import VLLMEngine

    return VLLMEngine(backbone, folder, config.adapter.rank, config.max_rows, config.engine_memory)


def trained(run: Run) -> Learner:
    """The learner of a finished run, with the adapters that it ended with.

    Raises ``ValueError`` if the run is not finished, and :class:`itpo.runs.store.RunFolderError` if its base model or its
    examples are no longer those that it began with.
    """
    if not run.done:
        raise ValueError(f"the run {run.folder} is not finished: train it first")
    store = Store(run.folder.parent, mix_platforms=True)  # its inputs are compared; nothing is trained here
    run.declare(inputs(run.config, store))
    learner = build_learner(run.config, store, to_train=False)
    for name in learner.backbone.names:
        learner.backbone.load_adapter(name, run.folder / name)
    return learner
