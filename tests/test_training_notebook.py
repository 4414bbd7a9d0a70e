"""The cells of notebook 01 that are a step of Algorithm 1 are the trainer's step."""

from pathlib import Path

import golden_runs
import jupytext
import torch

from itpo import estimators, trainer
from itpo.rollout.seeding import seeded
from itpo.runs.store import Store
from itpo.training.build import build_learner
from itpo.training.profiling import Timer

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "01_training.py"


def test_the_step_cells_of_the_notebook_do_what_training_step_does(tmp_path: Path):
    cells = jupytext.read(NOTEBOOK).cells
    step = [cell.source for cell in cells if "step" in cell.metadata.get("tags", [])]
    assert len(step) == 6  # one for each line of Algorithm 1
    config = golden_runs.configs()["norm_itpo, rloo"]
    by_cells, by_trainer = (build_learner(config, Store(tmp_path)) for _ in range(2))
    names = {"learner": by_cells, "config": config, "stream": "0/0", "seeded": seeded}
    names |= {"estimators": estimators, "reward_sources": trainer.reward_sources}
    for source in step:
        exec(source, names)
    batch, metrics = trainer.training_step(by_trainer, "0/0", Timer())
    assert torch.equal(names["batch"].input_ids, batch.input_ids) and 0 < batch.outcome.mean() < 1
    assert names["metrics"].items() <= metrics.items()
    before, after = by_cells.state(), by_trainer.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
