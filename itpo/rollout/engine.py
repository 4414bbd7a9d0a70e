"""Engines write the assistant's turns of many dialogues, and ask for what comes between two turns.

An engine knows tokens alone. Who the users are, and what a turn says, is the business of :mod:`itpo.rollout.sampler`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor

from itpo.models.adapters import AdaptedModel
from itpo.models.decoding import Decoder, draw


class Turn(NamedTuple):
    """The tokens of one assistant turn, its end marker included where it has one, and their log-probabilities (nats)."""

    ids: list[int]
    logps: list[float]


class Decoding(NamedTuple):
    """How a turn is decoded: where it ends, what pads, after how many tokens it is cut off, and whether it is greedy."""

    end_ids: tuple[int, ...]
    pad_id: int
    max_turn_tokens: int
    greedy: bool
    max_rows: int  # dialogues held at a time
    lanes: int = 1  # parts of a batch, of which one speaks while the users of the others answer
    read_budget: int = 16384  # padded tokens that are read in one forward pass


# What comes after the turns of these dialogues: the tokens up to the next turn, or None where a dialogue is over.
Following = Sequence[list[int] | None]
# Begins to ask for it; the future has the answers.
Ask = Callable[[Sequence[int], Sequence[Turn]], Future[Following]]


@runtime_checkable
class Engine(Protocol):
    """Writes turns under the model's active adapter."""

    def converse(
        self,
        prompts: Sequence[Sequence[int]],
        uniforms: Float64[Tensor, "B K N"],
        decoding: Decoding,
        ask: Ask,
    ) -> None:
        """Write turns until every dialogue is over.

        ``ask`` gets each turn once, of several dialogues at a time, named by their place in ``prompts``. Token n of a
        dialogue's turn k is drawn by ``uniforms[b, k, n]``, so that no dialogue depends on another.
        """
        ...


@dataclass
class _Row:
    """A dialogue that is still going on, and the tokens that its cache has not seen."""

    number: int
    unseen: list[int]
    turns: int = 0


class TurnEngine:
    """All dialogues of a batch speak, then all users answer: for any model and any users.

    Going on without this barrier, one token of every row at a time, was tried and is slower on a CPU: what users say is then
    read token by token, and every token reads the whole cache.
    """

    def __init__(self, model: AdaptedModel) -> None:
        self.model = model

    def converse(
        self,
        prompts: Sequence[Sequence[int]],
        uniforms: Float64[Tensor, "B K N"],
        decoding: Decoding,
        ask: Ask,
    ) -> None:
        """See :class:`Engine`. Dialogues that have ended leave the batch, and the cache with them."""
        rows = [_Row(number, list(prompt)) for number, prompt in enumerate(prompts)]
        for batch in _batches(rows, decoding.max_rows):
            self._converse(batch, uniforms, decoding, ask)

    def _converse(
        self, batch: list[_Row], uniforms: Float64[Tensor, "B K N"], decoding: Decoding, ask: Ask
    ) -> None:
        """The lanes speak one after the other, in an order that does not depend on how fast users answer."""
        size = -(-len(batch) // decoding.lanes) or 1
        waiting: deque[tuple[Decoder, list[_Row], Future[Following]]] = deque()

        def let_speak(decoder: Decoder, rows: list[_Row]) -> None:
            """Let the policy speak in these dialogues, and begin to ask their users."""
            numbers = [row.number for row in rows]
            noise = uniforms[numbers, [row.turns for row in rows]]
            turns = write_turns(decoder, [row.unseen for row in rows], noise, decoding)
            for row, turn in zip(rows, turns, strict=True):
                row.turns += 1
                row.unseen = turn.ids[-1:]
            waiting.append((decoder, rows, ask(numbers, turns)))

        for lane in (batch[start : start + size] for start in range(0, len(batch), size)):
            let_speak(self.model.decoder(len(lane)), lane)
        while waiting:
            decoder, rows, answers = waiting.popleft()
            stay = []
            for place, (row, block) in enumerate(zip(rows, answers.result(), strict=True)):
                if block is not None:
                    row.unseen += block
                    stay.append(place)
            if stay and len(stay) < len(rows):
                decoder.keep(stay)
            if stay:
                let_speak(decoder, [rows[place] for place in stay])


def _batches(rows: list[_Row], max_rows: int) -> list[list[_Row]]:
    """All rows as they are if they fit into one batch; else those of similar history together, the longest first.

    A row is padded to the longest history of its batch, and a lack of memory shows in the first batch.
    """
    if len(rows) > max_rows:
        rows = sorted(rows, key=lambda row: len(row.unseen), reverse=True)
    return [rows[start : start + max_rows] for start in range(0, len(rows), max_rows)]


def write_turns(
    decoder: Decoder,
    blocks: Sequence[Sequence[int]],
    uniforms: Float64[Tensor, "b N"],
    decoding: Decoding,
) -> list[Turn]:
    """Write one turn after each of these blocks of tokens, which go on from what the decoder has seen of their rows.

    The last token of each turn is not fed to the decoder: it begins the next block.

    >>> class Counting:
    ...     device = torch.device("cpu")
    ...     def append(self, ids, mask):
    ...         return 100.0 * torch.nn.functional.one_hot(ids[:, -1] + 1, 9)
    ...     def keep(self, rows):
    ...         pass
    >>> write_turns(Counting(), [[1, 2]], torch.zeros(1, 0).double(), Decoding((5,), 0, 3, True, 1))[0].ids
    [3, 4, 5]
    """
    device, pad = decoder.device, decoding.pad_id
    width = max(map(len, blocks))
    ids = torch.tensor([[pad] * (width - len(block)) + list(block) for block in blocks], device=device)
    mask = torch.tensor(
        [[False] * (width - len(block)) + [True] * len(block) for block in blocks], device=device
    )
    uniforms, ends = uniforms.to(device), torch.tensor(decoding.end_ids, device=device)
    open_ = torch.ones(len(blocks), dtype=torch.bool, device=device)
    lengths = torch.zeros(len(blocks), dtype=torch.int64, device=device)
    tokens: list[Tensor] = []
    logps: list[Tensor] = []
    for position in range(decoding.max_turn_tokens):
        logp = torch.log_softmax(_read(decoder, ids, mask, decoding.read_budget), dim=-1)
        chosen = logp.argmax(1) if decoding.greedy else draw(logp.exp(), uniforms[:, position])
        tokens.append(torch.where(open_, chosen, pad))
        logps.append(logp.gather(1, chosen[:, None]).squeeze(1))
        lengths += open_
        open_ = open_ & ~torch.isin(chosen, ends)
        if not bool(open_.any()):
            break
        ids, mask = tokens[-1][:, None], open_[:, None]
    written = zip(
        torch.stack(tokens, 1).tolist(), torch.stack(logps, 1).tolist(), lengths.tolist(), strict=True
    )
    return [Turn(ids[:length], logp[:length]) for ids, logp, length in written]


def _read(decoder: Decoder, ids: Tensor, mask: Tensor, budget: int) -> Tensor:
    """Logits after the last column, a few columns being read at a time: whole transcripts of all rows are too much at once."""
    columns = max(budget // len(ids), 2)  # a decoder takes a single column for one that was sampled
    for part, real in zip(ids.split(columns, 1), mask.split(columns, 1), strict=True):
        logits = decoder.append(part, real)
    return logits


def at_once(answers: Following) -> Future[Following]:
    """A future that has its answers already.

    >>> at_once([[5, 6]]).result() == meanwhile(lambda: [[5, 6]]).result()
    True
    """
    future: Future[Following] = Future()
    future.set_result(answers)
    return future


def meanwhile(ask: Callable[[], Following]) -> Future[Following]:
    """Begin to ask in another thread."""
    future: Future[Following] = Future()

    def work() -> None:
        """Leave the answers, or what went wrong, in the future."""
        try:
            future.set_result(ask())
        except BaseException as error:  # raised where the answers are awaited
            future.set_exception(error)

    # A daemon, unlike those of an executor: Ctrl-C need not wait for a slow server.
    threading.Thread(target=work, daemon=True).start()
    return future
