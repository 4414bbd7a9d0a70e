"""Simulated users in TRL's rollout hook: whole conversations with the users of one of our tasks."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Float64
from torch import Tensor

from itpo.chat import ChatFormat, generation_ends
from itpo.dialogue import Dialogue
from itpo.rollout.engine import Ask, Decoding, Turn
from itpo.rollout.sampler import Sampling, rollout
from itpo.tasks.base import Task
from itpo.tasks.judging import Judge, judge_dialogues


def outcome_reward(outcome: Sequence[float | None], **_: Any) -> list[float | None]:
    """The reward function that goes with :class:`Conversations`: the task's score, ``None`` where user or judge failed.

    >>> outcome_reward(outcome=[1.0, None], prompts=[], completions=[])
    [1.0, None]
    """
    return list(outcome)


class Conversations:
    """Holds the conversations of a batch with the users of ``task``: a ``rollout_func`` of TRL.

    Turns are sampled as TRL samples (transformers or vLLM, its temperature), at most ``max_turn_tokens`` each. Each prompt of
    :meth:`problems` stands for a problem of the task. Beside the outcome, a ``judge`` gives the scores of turns that methods
    such as "judge" read; a dialogue that it cannot judge is left out.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: Any,
        max_turn_tokens: int = 24,
        seed: int = 0,
        judge: Judge | None = None,
    ) -> None:
        self.task, self.chat, self.seed, self.judge = task, ChatFormat(tokenizer), seed, judge
        self.sampling = Sampling(max_turn_tokens)

    def problems(self, count: int) -> Dataset:
        """A data set of problems, numbered from 0."""
        return Dataset.from_dict({"prompt": [f"{self.task.name}/{i}" for i in range(count)]})

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, list[Any]]:
        """Hold one conversation for each prompt; tokens, masks and outcomes as TRL wants them."""
        first = trainer.accelerator.process_index * len(prompts)
        streams = [
            f"{self.seed}/{prompt}/{trainer.state.global_step}/{first + row}"
            for row, prompt in enumerate(prompts)
        ]
        examples = [self.task.sample(random.Random(f"{self.seed}/problem/{prompt}")) for prompt in prompts]
        users = [random.Random(f"user/{stream}") for stream in streams]
        engine = TRLEngine(trainer)
        generator = torch.Generator()  # for numbers that this engine leaves aside
        dialogues = rollout(
            None, self.chat, self.task, examples, users, generator, self.sampling, engine=engine
        )
        failed = {row for row, dialogue in enumerate(dialogues) if dialogue.failure is not None}
        fields: dict[str, list[Any]] = {}
        if self.judge is not None:
            rngs = [random.Random(f"judge/{stream}") for stream in streams]
            judgement = judge_dialogues(self.judge, dialogues, rngs, retries=2)
            failed |= set(judgement.failed)
            fields["judge_scores"] = judgement.scores
        outcomes = [None if row in failed else d.outcome for row, d in enumerate(dialogues)]
        return _as_fields(dialogues, trainer.use_vllm) | {"outcome": outcomes} | fields


def _as_fields(dialogues: Sequence[Dialogue], with_logprobs: bool) -> dict[str, Any]:
    """Tokens and masks of dialogues by TRL's names."""
    starts = [d.response_mask.index(True) if d.prompt_length is None else d.prompt_length for d in dialogues]
    pairs = list(zip(dialogues, starts, strict=True))
    return {
        "prompt_ids": [list(d.ids[:start]) for d, start in pairs],
        "completion_ids": [list(d.ids[start:]) for d, start in pairs],
        "env_mask": [[int(own) for own in d.response_mask[start:]] for d, start in pairs],
        "logprobs": [list(d.sampled_logp[start:]) for d, start in pairs] if with_logprobs else None,
    }


def _union(*ids: Sequence[int]) -> list[int]:
    """Each id once, in the order of the lists."""
    return list(dict.fromkeys(chain(*ids)))


class TRLEngine:
    """An :class:`itpo.rollout.engine.Engine` that samples as the trainer does, by the trainer's own random numbers."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    @contextmanager
    def _ending(self, decoding: Decoding) -> Iterator[None]:
        """Let a turn end as the chat template ends it, or after so many tokens, where TRL has limits for a whole completion."""
        trainer = self.trainer
        # These stay: TRL reads them after the rollout too, to tell which conversations were cut off.
        ends = _union(trainer.eos_token_ids, generation_ends(trainer), decoding.end_ids)
        trainer.eos_token_ids = ends
        limits: dict[str, Any]
        if trainer.use_vllm:
            limited, given = trainer.vllm_generation, trainer.vllm_generation.generation_kwargs
            stops = {"stop_token_ids": _union(given.get("stop_token_ids") or (), ends)}
            limits = {"max_completion_length": decoding.max_turn_tokens, "generation_kwargs": given | stops}
        else:
            limited = trainer.generation_config
            limits = {"max_new_tokens": decoding.max_turn_tokens, "eos_token_id": ends}
        before = {name: getattr(limited, name) for name in limits}
        for name, value in limits.items():
            setattr(limited, name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(limited, name, value)

    def _rows(self, open_: int) -> int:
        """How many turns are sampled next: here as many as in the process with most, where all must generate together."""
        trainer = self.trainer
        if not (trainer.use_vllm or trainer._dist.is_fsdp or trainer._dist.is_zero3):
            return open_
        accelerator = trainer.accelerator
        return int(accelerator.gather(torch.tensor([open_], device=accelerator.device)).max())

    def converse(
        self,
        prompts: Sequence[Sequence[int]],
        uniforms: Float64[Tensor, "B K N"],
        decoding: Decoding,
        ask: Ask,
    ) -> None:
        """See :class:`itpo.rollout.engine.Engine`; the ``uniforms`` are left aside."""
        open_ = {row: list(prompt) for row, prompt in enumerate(prompts)}
        with self._ending(decoding):
            while count := self._rows(len(open_)):
                rows = list(open_)
                # TRL finds a process's share of the turns by its number of prompts, as if all had as many.
                idle = [[decoding.pad_id]] * (count - len(rows))
                turns = self._write([open_[row] for row in rows] + idle)[: len(rows)]
                if not rows:
                    continue
                for row, turn, block in zip(rows, turns, ask(rows, turns).result(), strict=True):
                    if block is None:
                        del open_[row]
                    else:
                        open_[row] += turn.ids + block

    def _write(self, histories: list[list[int]]) -> list[Turn]:
        # Each history has its own next turn: one generation a prompt.
        ids, logps = self.trainer._generate_single_turn(histories, None, {}, num_generations=1)
        if logps is None:
            logps = [[0.0] * len(turn) for turn in ids]
        kept = [[math.nan if logp is None else logp for logp in turn] for turn in logps]
        return [Turn(list(turn), own) for turn, own in zip(ids, kept, strict=True)]
