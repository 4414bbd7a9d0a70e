"""Decoding with any model of transformers: every row sees what it would see alone, whatever it is batched with.

Sliding windows, and states that are handed from token to token, know no padding: they count columns. So the columns of a row
are kept together and end where the others' end. Models of attention alone keep their keys and values over a whole dialogue
(:class:`CachedDecoder`). Those that hand states on (Mamba, linear attention, short convolutions, and hybrids of these) keep a
cache of their own kind within a turn, and read the dialogue anew for the next one (:class:`RereadingDecoder`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, get_layer_types_and_kwargs

from itpo.models.head import find_base

# "dummy": a layer that reads the keys and values of another, or none.
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention", "dummy"}
_CACHES = {"past_key_values", "cache_params"}
_SPARE = 128  # columns that a full buffer gets more: so many tokens for one copy


def decoder_for(model: Any) -> type[CachedDecoder] | type[RereadingDecoder]:
    """The decoder that suits a model. Raises ``ValueError``, which names it, where none does.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> decoder_for(LlamaForCausalLM(LlamaConfig(vocab_size=10, **size))).__name__
    'CachedDecoder'
    """
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"{name} has an encoder: use a causal LM, which reads and writes one text")
    _, base = find_base(model)
    if not _CACHES & _parameters(base):
        raise ValueError(
            f"{name} cannot be decoded step by step here: it takes no cache of transformers; use a model of another kind"
        )
    types, _ = get_layer_types_and_kwargs(model.config.get_text_config(decoder=True))
    attention_alone = set(types) <= _ATTENTION and "past_key_values" in _parameters(base)
    return CachedDecoder if attention_alone else RereadingDecoder


class _Columns(CacheLayerMixin):
    """Keys and values of one layer, written in place; no column is dropped, since masks know the windows."""

    is_sliding = False

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.length = 0
        self.keys: Any = None
        self.values: Any = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room for these and some more."""
        room = key_states.shape[2] + _SPARE
        self.keys, self.values = (
            x.new_empty((*x.shape[:2], room, x.shape[3])) for x in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append columns; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        if end > self.keys.shape[2]:
            self.take(lambda columns: columns, end)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def take(self, chosen: Callable[[Tensor], Tensor], room: int) -> None:
        """Keep what ``chosen`` makes of keys and values, in buffers with room for that many columns and some more."""
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = chosen(getattr(self, name)[:, :, : self.length])
            buffer = old.new_empty((*old.shape[:2], room + _SPARE, old.shape[3]))
            buffer[:, :, : old.shape[2]] = old
            setattr(self, name, buffer)
        self.length = old.shape[2]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns after that many more, and the first of them."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Columns so far."""
        return self.length

    def get_max_length(self) -> int:
        """There is no largest number of columns."""
        return -1


class CachedDecoder:
    """Keys and values of a batch of rows, for models of attention alone.

    A block is fed with its padding at its end, so that no padding comes between a row's tokens; what is then behind the end
    of shorter rows is taken out before the next block. The head makes logits of each row's last state.
    """

    def __init__(self, model: Any, head: Callable[[Tensor], Tensor], rows: int) -> None:
        (_, self.base), self.head = find_base(model), head
        self.device = next(model.parameters()).device
        self.cache = Cache(layer_class_to_replicate=_Columns)
        self.mask = torch.zeros((rows, 0), dtype=torch.bool, device=self.device)
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self._ragged = False

    @torch.no_grad()
    def append(self, ids: Int64[Tensor, "B W"], mask: Bool[Tensor, "B W"]) -> Float[Tensor, "B V"]:
        """Feed a left-padded block and return the logits after its last column; false in ``mask`` is padding.

        A row that is left out of a block of one column must be left out of those after it, up to the next wider block.
        """
        if self._ragged or ids.shape[1] > 1:
            self._align()
        ids, mask, counts = _padding_last(ids, mask)
        columns = torch.arange(ids.shape[1], device=self.device)
        # Padding repeats the last position: there may be none after it.
        positions = self.lengths[:, None] + torch.minimum(columns, (counts - 1).clamp_min(0)[:, None])
        self.mask = torch.cat([self.mask, mask], dim=1)
        states = _forward(
            self.base,
            input_ids=ids,
            attention_mask=self.mask.long(),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.lengths = self.lengths + counts
        self._ragged = ids.shape[1] > 1
        last = (counts - 1).clamp_min(0)
        return self.head(states[torch.arange(len(ids), device=self.device), last]).float()

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these."""
        index = torch.tensor(rows, device=self.device)
        for layer in self.cache.layers:
            layer.take(lambda columns: columns[index], layer.length)
        self.mask, self.lengths = self.mask[index], self.lengths[index]

    def _align(self) -> None:
        """Let all rows end at the last column, without a gap."""
        self._ragged = False
        width = int(self.lengths.max()) if len(self.lengths) else 0
        aligned = torch.arange(width, device=self.device) >= width - self.lengths[:, None]
        if self.mask.shape == aligned.shape and torch.equal(self.mask, aligned):
            return
        source = torch.argsort(self.mask.byte(), dim=1, stable=True)[:, self.mask.shape[1] - width :]

        def chosen(columns: Tensor) -> Tensor:
            """The same columns of all heads."""
            return columns.gather(
                2, source[:, None, :, None].expand(-1, columns.shape[1], -1, columns.shape[3])
            )

        for layer in self.cache.layers:
            layer.take(chosen, width)
        self.mask = aligned


class RereadingDecoder:
    """For models that hand states from token to token: what they keep within a turn is theirs, and of whatever kind.

    A state has read its row's tokens once and cannot leave out padding later. So a block of several columns makes the model
    read the whole dialogues anew, padded on the left.
    """

    def __init__(self, model: Any, head: Callable[[Tensor], Tensor], rows: int) -> None:
        (_, self.base), self.head = find_base(model), head
        self.device = next(model.parameters()).device
        (self.name,) = _CACHES & _parameters(self.base)
        self.cache: Any = None
        self.ids = torch.zeros((rows, 0), dtype=torch.int64, device=self.device)
        self.mask = torch.zeros((rows, 0), dtype=torch.bool, device=self.device)

    @torch.no_grad()
    def append(self, ids: Int64[Tensor, "B W"], mask: Bool[Tensor, "B W"]) -> Float[Tensor, "B V"]:
        """See :meth:`CachedDecoder.append`."""
        self.ids, self.mask = torch.cat([self.ids, ids], dim=1), torch.cat([self.mask, mask], dim=1)
        if ids.shape[1] > 1 or self.cache is None:
            self.cache = None
            width = int(self.mask.sum(1).max())
            order = torch.argsort(self.mask.byte(), dim=1, stable=True)[:, self.mask.shape[1] - width :]
            self.ids, self.mask = self.ids.gather(1, order), self.mask.gather(1, order)
            ids = self.ids
        positions = (self.mask.long().cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        # Without attention, a step sees its own column alone.
        columns = slice(-ids.shape[1] if self.name == "cache_params" else 0, None)
        output = _forward(
            self.base,
            input_ids=ids,
            attention_mask=self.mask[:, columns].long(),
            position_ids=positions,
            use_cache=True,
            **{self.name: self.cache},
        )
        self.cache = getattr(output, self.name, None)
        if self.cache is None:
            raise ValueError("the model hands out no cache")
        return self.head(output.last_hidden_state[:, -1]).float()

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these."""
        index = torch.tensor(rows, device=self.device)
        self.ids, self.mask, self.cache = self.ids[index], self.mask[index], None


def _padding_last(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A left-padded block with its padding at the end, and the tokens of each row."""
    counts = mask.sum(1)
    width = ids.shape[1]
    if width == 1:
        return ids, mask, counts
    columns = torch.arange(width, device=ids.device)
    source = (columns + (width - counts)[:, None]).clamp_max(width - 1)
    return ids.gather(1, source), columns < counts[:, None], counts


def _parameters(model: Any) -> set[str]:
    return set(signature(model.forward).parameters)


def _forward(model: Any, **given: Any) -> Any:
    """One pass, with those of the arguments that the model knows."""
    known = _parameters(model)
    return model(**{name: value for name, value in given.items() if name in known})
