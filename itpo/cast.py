"""Who takes part in a run on real data: one frozen base plays users and judges too, its adapters off.

So that one GPU holds all of it [O]; the paper's users and judges are a larger model behind a server, for which
:class:`itpo.learner.Learner` takes tasks of one's own (see :mod:`itpo.tasks.real`).
"""

from __future__ import annotations

from collections.abc import Sequence

from itpo.backbone import Backbone
from itpo.config import RealData
from itpo.data import Example, load_examples, split
from itpo.dialogue import ChatFormat
from itpo.endpoint_judge import ModelJudge
from itpo.learner import Cast
from itpo.sampler import Sampling
from itpo.tasks import Task
from itpo.tasks.real import REAL_TASKS
from itpo.users import SharedBase, SharedBaseUser


def cast(data: RealData, max_rows: int, backbone: Backbone, chat: ChatFormat) -> Cast:
    """Read the examples, hold out a tenth for evaluation [C], and let the backbone's base play users and judges.

    Users of plain problems, which hide nothing, first write an opening that does. At most ``max_rows`` users or judges speak
    at a time. Raises :class:`itpo.data.DataError` for data that cannot be read, and ``ValueError`` for fewer than two examples.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from itpo.backbone import Adapter
    >>> from itpo.base import load_base
    >>> from itpo.embedded import EmbeddedModel, warm_start
    >>> from itpo.storage import json_lines
    >>> from itpo.tasks import get_task
    >>> rows = [  # openings, and what users know beside them
    ...     {
    ...         "conv_id": n,
    ...         "prompt": [{"role": "user", "content": f"how many pens in box {n} ?"}],
    ...         "single_turn_prompt": f"what is {n} plus 2 ?",
    ...         "single_turn_completion": f"it is $\\\\boxed{{{n + 2}}}$",
    ...     }
    ...     for n in range(2)
    ... ]
    >>> task = get_task("math")
    >>> with tempfile.TemporaryDirectory() as place:  # a base that has learned nothing yet
    ...     model, tokenizer = load_base(warm_start(task, task.novice, EmbeddedModel(16, 1, 2, steps=1), Path(place) / "base"))
    ...     backbone, chat = Backbone(model, ["policy"], Adapter(4, 8)), ChatFormat(tokenizer)
    ...     (Path(place) / "rows.jsonl").write_bytes(json_lines(rows)) and None
    ...     parts = cast(RealData("collabllm-math", f"{place}/rows.jsonl", user_tokens=4), 8, backbone, chat)
    >>> type(parts.task).__name__
    'RealMath'
    """
    training, held_out = split(load_examples(data.source, data.format).examples[: data.count])

    def task(examples: Sequence[Example], greedy: bool) -> Task:
        """The examples' task, with users of the base."""
        user = SharedBaseUser(backbone, chat, Sampling(data.user_tokens, greedy, max_rows))
        plain = [example for example in examples if example.prompt[-1].content == example.goal]
        hidden = {example.id: example for example in user.open(plain, seed=0)}
        shown = [hidden.get(example.id, example) for example in examples]
        name = examples[0].task
        # Answers to math problems are compared by rule: a judge of the policy's size errs more.
        return REAL_TASKS[name](shown, user) if name == "math" else REAL_TASKS[name](shown, user, judge)

    judge = ModelJudge(SharedBase(backbone, chat, Sampling(data.judge_tokens, True, max_rows)))
    return Cast(task(training, greedy=False), task(held_out, greedy=True), judge)
