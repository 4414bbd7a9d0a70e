"""What sampler and trainer need of a frozen model with named adapters, whatever computes its states.

The reference is the base without adapters; policy, process reward model (PRM) and critic are adapters on it. Tokens come in and
numbers go out on the caller's device, a CPU as a rule; the model may be on another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from safetensors.torch import load_file, save
from torch import Tensor, nn

from itpo.dialogue import TokenBatch
from itpo.models import token_stats
from itpo.models.decoding import Decoder
from itpo.runs.files import explain_full_disk, write_file

_WEIGHTS, _HEAD = "adapter_model.safetensors", "value_head.safetensors"


class AdaptedModel(ABC):
    """A frozen causal LM with named adapters, of which at most one is active at a time; without one it is the reference.

    :class:`itpo.models.backbone.Backbone` is one, for any model of transformers, with an example.
    """

    names: tuple[str, ...]
    device: torch.device
    active: str | None
    head_chunk: int  # positions that have logits at a time
    full_precision: bool  # whether sampling and training agree up to rounding (float32 or finer)
    _heads: dict[str, nn.Linear]  # of the adapters that say values

    @abstractmethod
    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The adapter's own parameters by their full name, those of its value head included."""

    @abstractmethod
    def frozen(self) -> list[Tensor]:
        """The weights of the base, which all adapters share."""

    @abstractmethod
    def states(
        self, input_ids: Int64[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "N H"]:
        """Last hidden states at the N positions that predict a response token, row by row; on the model's device.

        Raises ``ValueError`` if a row's first token is a response token: nothing predicts it.
        """

    @abstractmethod
    def head(self) -> Any:
        """What makes logits of states: a module, frozen."""

    @abstractmethod
    def decoder(self, rows: int) -> Decoder:
        """An empty cache for decoding that many rows under the active adapter."""

    @abstractmethod
    def _write_config(self, name: str, folder: Path) -> None:
        """Write the adapter_config.json by which peft reads this adapter."""

    @abstractmethod
    def _activate(self, name: str | None) -> None:
        """Make this adapter the active one, and say so in ``active``."""

    def _check(self, name: str) -> None:
        if name not in self.names:
            raise ValueError(f"unknown adapter {name!r}; this backbone has: {', '.join(self.names)}")

    @contextmanager
    def use(self, name: str | None) -> Iterator[None]:
        """Make one adapter (``None``: the reference) active inside the block; forward and backward belong inside it.

        Raises ``ValueError`` for an unknown name.
        """
        if name is not None:
            self._check(name)
        before = self.active
        self._activate(name)
        try:
            yield
        finally:
            self._activate(before)

    def save_adapter(self, name: str, folder: Any) -> None:
        """Write one adapter as a standard PEFT folder (safetensors), which ``PeftModel.from_pretrained`` reads.

        A value head goes into a file of its own beside it.
        """
        folder = Path(folder)
        with explain_full_disk(folder):
            self._write_config(name, folder)
            for file, own in self._files(name).items():
                tensors = {key: parameter.detach().cpu().contiguous() for key, parameter in own.items()}
                write_file(folder / file, save(tensors, metadata={"format": "pt"}))

    @torch.no_grad()
    def load_adapter(self, name: str, folder: Path) -> None:
        """Take up the weights of :meth:`save_adapter`, of an adapter with the same shape on the same base.

        Raises ``FileNotFoundError`` without weights in ``folder``, and ``ValueError``, which names the first tensor that is
        missing, left over or of another shape, if they do not fit this adapter.
        """
        for file, own in self._files(name).items():
            if not (Path(folder) / file).is_file():
                raise FileNotFoundError(f"no adapter in {folder}: expected {file}, as save_adapter writes it")
            tensors = load_file(Path(folder) / file)
            for key in sorted(tensors.keys() | own.keys()):
                theirs, ours = (tuple(t[key].shape) if key in t else "no such tensor" for t in (tensors, own))
                if theirs != ours:
                    raise ValueError(
                        f"the adapter in {folder} is not one of this base and rank: {key} is {theirs} there and {ours} here"
                    )
            for key, parameter in own.items():
                parameter.copy_(tensors[key])

    def _files(self, name: str) -> dict[str, dict[str, nn.Parameter]]:
        """The parameters of an adapter by the names of peft, and those of its value head, each in the file they are kept in."""
        adapter, head = {}, {}
        for key, parameter in self.parameters(name).items():
            if key.startswith("value_head."):
                head[key.removeprefix("value_head.")] = parameter
            else:
                adapter["base_model.model." + key.replace(f".{name}.", ".")] = parameter
        return {_WEIGHTS: adapter} | ({_HEAD: head} if head else {})

    def token_stats(
        self, input_ids: Int64[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """Log-probability and entropy (nats) of each response token under the active adapter; 0 elsewhere.

        The language model's head is applied to the positions that predict a response token only. Raises as :meth:`states`.
        """
        ids, mask = input_ids.to(self.device), response_mask.to(self.device)
        logp, entropy = token_stats.token_stats(
            self.head(), self.states(ids, mask), ids[mask], self.head_chunk
        )
        empty = logp.new_zeros(mask.shape)
        spread = [empty.masked_scatter(mask, values).to(input_ids.device) for values in (logp, entropy)]
        return spread[0], spread[1]

    def token_values(
        self, input_ids: Int64[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "S B T"]:
        """The active adapter's S values of the state in which each response token is chosen; 0 elsewhere.

        Raises ``ValueError`` if the active adapter has no value head, or as :meth:`states`.
        """
        if self.active not in self._heads:
            raise ValueError(f"adapter {self.active!r} has no value head; name it in `heads` of the backbone")
        mask = response_mask.to(self.device)
        values = self._heads[self.active](self.states(input_ids.to(self.device), mask).float())
        empty = values.new_zeros(mask.shape)
        spread = torch.stack([empty.masked_scatter(mask, column) for column in values.unbind(1)])
        return spread.to(input_ids.device)

    def log_probs(self, batch: TokenBatch, name: str | None, token_budget: int) -> Float[Tensor, "B T"]:
        """Log-probabilities (nats) of the response tokens under adapter ``name`` (``None``: reference), without gradient."""
        return self._batched(self._log_probs, batch, name, 1, token_budget)[0]

    def log_probs_as_trained(
        self, batch: TokenBatch, name: str, token_budget: int, minibatches: Sequence[Tensor]
    ) -> Float[Tensor, "B T"]:
        """:meth:`log_probs` by the operations that training runs on these ``minibatches``, so that they agree bit for bit.

        In 16 bits a result depends on what a row is batched with, and a 4-bit base has other kernels without gradient.
        """
        result = torch.zeros(batch.input_ids.shape, dtype=torch.float32)
        with self.use(name), torch.enable_grad():
            for minibatch in minibatches:
                for part, width in micro_batches(batch.lengths[minibatch], token_budget):
                    rows = minibatch[part]
                    ids, mask = batch.input_ids[rows, :width], batch.response_mask[rows, :width]
                    result[rows, :width] = self.token_stats(ids, mask)[0].detach()
        return result

    def _log_probs(self, input_ids: Tensor, response_mask: Tensor) -> Float[Tensor, "1 B T"]:
        return self.token_stats(input_ids, response_mask)[0][None]

    def values(self, batch: TokenBatch, name: str, token_budget: int) -> Float[Tensor, "S B T"]:
        """:meth:`token_values` of a whole batch under adapter ``name``, without gradient."""
        outputs = self._heads[name].out_features if name in self._heads else 0
        return self._batched(self.token_values, batch, name, outputs, token_budget)

    @torch.no_grad()
    def _batched(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        batch: TokenBatch,
        name: str | None,
        outputs: int,
        token_budget: int,
    ) -> Float[Tensor, "S B T"]:
        """What ``function`` says of each token, computed in length-sorted micro-batches under one adapter."""
        result = torch.zeros((outputs, *batch.input_ids.shape), dtype=torch.float32)
        with self.use(name):
            for rows, width in micro_batches(batch.lengths, token_budget):
                result[:, rows, :width] = function(
                    batch.input_ids[rows, :width], batch.response_mask[rows, :width]
                )
        return result


def micro_batches(
    lengths: Int64[Tensor, " B"], token_budget: int
) -> Iterator[tuple[Int64[Tensor, " b"], int]]:
    """Split rows into length-sorted pieces of at most ``token_budget`` padded tokens: (row numbers, width) each.

    The longest rows come first, so that a lack of memory shows in the first piece. A row longer than the budget gets a
    piece of its own.

    >>> [(rows.tolist(), width) for rows, width in micro_batches(torch.tensor([2, 5, 4, 1]), 10)]
    [([1, 2], 5), ([0, 3], 2)]
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    start = 0
    while start < len(order):
        width = max(int(lengths[order[start]]), 1)
        count = max(token_budget // width, 1)
        yield order[start : start + count], width
        start += count
