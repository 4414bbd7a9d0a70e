"""Put dialogues of finished runs into ``docs/credit.html``: ``python tools/make_credit_page.py runs/HASH [runs/HASH ...]``.

Each run is one task of the page and needs a process reward model. Its final policy holds 8 dialogues with each of 16 fresh
users. The page gets the first 4 of these problems whose best and worst dialogue differ in outcome by half or more: where all
end alike, there is no credit to give. Everything else on the page is computed there.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from itpo import prm
from itpo.apps.configs import finished_run
from itpo.attribution import get_method
from itpo.config import TaskSpec
from itpo.dialogue import Dialogue
from itpo.runs.store import RunFolderError
from itpo.tasks.base import ScriptedTask
from itpo.training.build import trained
from itpo.training.learner import Learner

PAGE = Path(__file__).parents[1] / "docs" / "credit.html"
METHODS = (
    "trajectory_share",
    "equal_share",
    "judge",
    "prime",
    "itpo",
    "norm_itpo",
    "signed_norm_itpo",
)
DRAWN, SHOWN, ROLLOUTS = 16, 4, 8
_BLOCK = re.compile(r'(<script type="application/json" id="data">\n).*?(\n</script>)', re.DOTALL)
TITLES = {"math": "Math tutoring", "documents": "Writing a document", "medical": "Medical advice"}


def read_page(text: str) -> Any:
    """The data in a page.

    >>> read_page('<script type="application/json" id="data">\\n{"tasks": []}\\n</script>')
    {'tasks': []}
    """
    block = _BLOCK.search(text)
    assert block, "the page has no place for data"
    return json.loads(block[0].removeprefix(block[1]).removesuffix(block[2]))


def fill_page(text: str, data: Any) -> str:
    """The page with these data, one problem a line.

    >>> page = '<script type="application/json" id="data">\\n{}\\n</script>'
    >>> read_page(fill_page(page, {"tasks": ["</script>"]}))
    {'tasks': ['</script>']}
    """
    written = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")
    lines = written.replace('{"hidden":', '\n{"hidden":')
    return _BLOCK.sub(lambda block: block[1] + lines + block[2], text)


def task_of(folder: Path) -> dict[str, Any]:
    """What the page shows of one run. Raises ``ValueError`` for a run that has nothing to show."""
    run = finished_run(folder)
    config = run.config
    if not isinstance(config.task, TaskSpec) or not config.method.entry.needs_prm:
        raise ValueError(f"{folder} is not a run of a scripted task with a process reward model: name one")
    learner, stream = trained(run), f"credit page/{config.seed}"
    problems = _problems(learner, stream)
    if len(problems) < SHOWN:
        raise ValueError(
            f"only {len(problems)} of {DRAWN} problems of {folder} have dialogues of unlike outcome"
        )
    return {
        "name": config.task.name,
        "title": TITLES.get(config.task.name, config.task.name),
        "outcome": config.task.entry.outcome,
        "trained": f"{config.method.entry.label}, {config.estimator.entry.label} "
        f"with baseline {config.estimator.baseline}, learning rate {config.method.policy_lr:g}, "
        f"{config.steps} steps, seed {config.seed}",
        "error_rate": getattr(config.judge, "error_rate", 0.0),
        "baseline": config.estimator.baseline if config.estimator.name == "rloo" else "released",
        "beta": config.method.beta,
        "eta": dict(config.method.options).get("temperature", 0.4),
        "problems": problems[:SHOWN],
    }


def _problems(learner: Learner, stream: str) -> list[dict[str, Any]]:
    assert isinstance(learner.config.task, TaskSpec)
    dialogues, batch = learner.collect(stream, DRAWN, ROLLOUTS, "policy", evaluate=True)
    _, judged, _ = learner.judge_turns(dialogues, batch, stream)
    mask = batch.response_mask
    ratios = prm.log_ratio(learner.log_probs(batch, "prm"), learner.log_probs(batch, None), mask)
    held = [
        _rollout(learner, dialogue, scores.tolist(), ratio[ids >= 0], ids[ids >= 0])
        for dialogue, scores, ratio, ids in zip(dialogues, judged, ratios, batch.turn_ids, strict=True)
    ]
    problems = []
    for first in range(0, len(held), ROLLOUTS):
        group = held[first : first + ROLLOUTS]
        outcomes = [rollout["outcome"] for rollout in group]
        if max(outcomes) - min(outcomes) >= 0.5:
            hidden = learner.config.task.entry.hidden(dialogues[first].example)
            problems.append({"hidden": hidden, "rollouts": group})
    return problems


def _rollout(
    learner: Learner, dialogue: Dialogue, judged: Sequence[float], ratios: torch.Tensor, ids: torch.Tensor
) -> dict[str, Any]:
    assert isinstance(learner.task, ScriptedTask)
    turns = dialogue.assistant_turns
    tokens = [[round(value, 4) + 0.0 for value in ratios[ids == k].tolist()] for k in range(turns)]
    assert all(tokens), "every turn of an assistant has a token, its end marker if no other"
    return {
        "messages": [[message.role, message.content] for message in dialogue.messages],
        "kinds": [kind.replace("_", " ") for kind in learner.task.turn_kinds(dialogue.messages)],
        "outcome": round(dialogue.outcome, 4),
        "judge": [round(score, 4) for score in judged[:turns]],
        "log_ratios": tokens,
    }


def main(folders: Sequence[str]) -> int:
    """Fill the page; returns the exit status (2: nothing to fill it with)."""
    try:
        if not folders:
            raise ValueError("name the folder of a finished run, such as runs/0123456789abcdef")
        methods = [get_method(name) for name in METHODS]
        data = {
            "methods": [{"name": m.name, "label": m.label, "color": m.color} for m in methods],
            "tasks": [task_of(Path(folder)) for folder in folders],
        }
    except (ValueError, RunFolderError) as error:
        print(error, file=sys.stderr)
        return 2
    PAGE.write_text(fill_page(PAGE.read_text(encoding="utf-8"), data), encoding="utf-8")
    print(f"{PAGE.relative_to(PAGE.parents[1])}: {PAGE.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
