"""Making a base model: an interrupted training goes on to the same bits, and leaves nothing behind."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from itpo.models import fine_tuning, tiny
from itpo.models.tiny import pretrain_by_imitation
from itpo.runs.artifacts import PROGRESS, UNFINISHED
from itpo.specs import TinyLM
from itpo.tasks.registry import get_task

TASK = get_task("math")
SPEC = TinyLM(hidden_size=16, layers=1, heads=2, steps=7, dialogues_per_step=3)
FILES = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
]
FILES.append("tokenizer_config.json")


class Interrupted(Exception):
    """Stands for a kill."""


def make(folder: Path, spec: TinyLM = SPEC) -> bytes:
    return (pretrain_by_imitation(TASK, TASK.noisy_expert, spec, folder) / "model.safetensors").read_bytes()


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch, unchecked: None):
    """Trains the model until the step of this number begins, a checkpoint after every step before it."""

    def until(folder: Path, step: int) -> None:
        calls, real = [], tiny.scripted_dialogue

        def stopping(*arguments):
            calls.append(arguments)
            if len(calls) > step * SPEC.dialogues_per_step:
                raise Interrupted
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(tiny, "scripted_dialogue", stopping)
            patch.setattr(fine_tuning, "SAVE_SECONDS", 0.0)
            with pytest.raises(Interrupted):
                make(folder)

    return until


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by 1 with every dialogue that is drawn from now on."""
    calls, real = [], tiny.scripted_dialogue
    monkeypatch.setattr(tiny, "scripted_dialogue", lambda *arguments: (calls.append(1), real(*arguments))[1])
    return calls


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, interrupt, monkeypatch):
    whole = make(tmp_path / "whole")
    interrupt(tmp_path / "cut", 2)
    assert len(list((tmp_path / "cut").glob(UNFINISHED))) == 1
    interrupt(tmp_path / "cut", 2)  # and once more, two steps further
    calls = drawn(monkeypatch)
    assert make(tmp_path / "cut") == whole
    assert len(calls) == 3 * SPEC.dialogues_per_step  # of seven steps, four were done
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == FILES


def test_a_damaged_checkpoint_or_one_of_elsewhere_is_not_gone_on_with(tmp_path, interrupt, monkeypatch):
    whole = make(tmp_path / "whole")
    for name in ("damaged", "elsewhere"):
        interrupt(tmp_path / name, 4)
        calls = drawn(monkeypatch)
        with monkeypatch.context() as patch:
            if name == "damaged":
                (path,) = (tmp_path / name).glob(UNFINISHED)
                path.write_bytes(path.read_bytes()[:-1] + b"x")
            else:
                patch.setattr(fine_tuning, "making_platform", lambda: {"processor": "another"})
            assert make(tmp_path / name) == whole
        assert len(calls) == SPEC.steps * SPEC.dialogues_per_step
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == FILES


def test_progress_is_said_while_a_model_is_made(tmp_path, interrupt, monkeypatch):
    monkeypatch.setattr(fine_tuning, "_SHOW_SECONDS", 0.0)
    interrupt(tmp_path, 2)
    assert (tmp_path / PROGRESS).read_text() == "step 2 of 7"


def test_the_number_of_threads_decides_nothing(tmp_path, unchecked):
    spec, before = replace(SPEC, hidden_size=128, dialogues_per_step=16, steps=2), torch.get_num_threads()
    try:
        made = []
        for count in (1, 2):
            torch.set_num_threads(count)
            made.append(make(tmp_path / str(count), spec))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert made[0] == made[1]


def test_a_stop_is_a_part_of_the_whole(tmp_path, interrupt):
    """The weights after some steps of a schedule are those of the whole training at that point."""
    stopped = pretrain_by_imitation(TASK, TASK.noisy_expert, SPEC, tmp_path / "stopped", stop=3)
    interrupt(tmp_path / "cut", 3)
    (path,) = (tmp_path / "cut").glob(UNFINISHED)
    kept, model = fine_tuning.load(path.read_bytes()), tiny.load(stopped)[0]
    assert all(torch.equal(kept[name], weight) for name, weight in model.named_parameters())
    assert int(kept["step"]) == 3
