"""Token blocks of a conversation, which are appended one at a time as it goes on."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any

from itpo.chat_template import TODAY, ChatTemplate, Message, Tokenizer
from itpo.thoughts import THOUGHT_TAGS, Speech, split_thoughts

_KEPT, _SHORT = 4096, 1000  # texts and turns that are remembered, and of how many signs or tokens at most


class ContextError(ValueError):
    """A conversation leaves no room for a turn in the model's context."""


class ChatFormat:
    """Turns messages into token blocks that can be appended one at a time.

    A fresh application of the chat template to a longer conversation may change tokens at turn boundaries, so what the policy
    wrote stays as it was, and what the template puts around users' words is appended to it. For most families this is the fresh
    application, token for token; ``departures`` says for the others in which way earlier turns would differ, such as by
    thoughts that the template drops. Histories, which are text, are always encoded as the template renders them anew.

    ``eos_id`` ends an assistant turn in the template, ``end_ids`` are all the ids at which generation stops: that one, the
    tokenizer's, those of the ``model``'s generation config, and the ends of text that the family has. ``context`` is the number
    of positions of the ``model``, ``None`` without one. Templates that ask for the day are told ``today``, which is fixed.

    What a message says never becomes a marker of the template: where it spells one, such as ``<|im_end|>``, a zero-width space
    goes in after the first character. (To have the tokenizer split special tokens is not enough: to one of whole words they are
    words of its vocabulary.) The text of the message itself stays as it is. ``thought_tags`` part the policy's speech from
    its thoughts, which nobody else is shown (:func:`itpo.thoughts.split_thoughts`).

    Raises ``ValueError``, in one line, for a model without chat template or turn end, and for a template that cannot be
    continued (see :class:`itpo.chat_template.ChatTemplate`).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        thought_tags: Mapping[str, str] = THOUGHT_TAGS,
        model: Any = None,
        today: date = TODAY,
    ) -> None:
        self.tokenizer: Any = tokenizer
        self.thought_tags = dict(thought_tags)
        self.template = ChatTemplate(tokenizer, self.thought_tags, generation_ends(model), today)
        self.eos_id, self.end_ids = self.template.end, self.template.end_ids
        self.departures, self.context = self.template.departures, context_of(model)
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_id
        self._ids = _remember(self._tokenise)
        self._opening = lru_cache(_KEPT // 16)(self._render_opening)
        self._block = _remember(self._render_block)
        self._speech = _remember(self._split_speech)
        self._check()

    def _tokenise(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _after(self, before: str, text: str) -> tuple[int, ...]:
        """Tokens of a text that follows a marker: by itself, a tokenizer may put a space before it."""
        return self._ids(before + text)[len(self._ids(before)) :]

    def check_room(self, tokens: int, turn: int) -> None:
        """Raises :class:`ContextError` if a turn of so many tokens may not fit into the model's context after ``tokens``."""
        if self.context is not None and tokens + turn > self.context:
            raise ContextError(
                f"{tokens} tokens of conversation leave no room for a turn of {turn} in the model's context of {self.context}: "
                "use a model with a longer context, shorter turns (max_turn_tokens, max_tokens) or fewer"
            )

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation up to where the assistant begins to speak: a fresh application of the template."""
        return list(self._opening(tuple(messages)))

    def _render_opening(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        return self._tokenise(self.template.render(self.template.take(messages)))

    def user_block(self, text: str, closed: bool = True) -> list[int]:
        """Tokens from the end of an assistant turn to the start of the next, around the user's ``text``.

        ``closed`` says whether the sampled turn ended with ``eos_id`` itself; a turn cut off by its token limit did
        not, and the block then begins with the end marker.
        """
        return list(self._block(text, closed))

    def _render_block(self, text: str, closed: bool) -> tuple[int, ...]:
        template = self.template
        close, rest = template.closed_by(template.between(template.harmless(text)))
        return (
            self._after(template.close or template.written_close, rest) if closed else self._ids(close + rest)
        )

    def assistant_ids(self, text: str) -> list[int]:
        """Tokens of an assistant turn as a policy that says this would write it, its end marker included."""
        ids, mask = self.encode([Message("user", "x"), Message("assistant", text)], written=True)
        return [i for i, mine in zip(ids, mask, strict=True) if mine]

    def text(self, ids: Sequence[int]) -> str:
        """What tokens say, without special ones."""
        return self.tokenizer.decode([i for i in ids if i != self.eos_id], skip_special_tokens=True).strip()

    def _written(self, ids: Sequence[int]) -> str:
        """An assistant turn with its special tokens, which tags of thoughts may be, and the tag that the template opened."""
        return self.template.opened + self.tokenizer.decode(list(ids))

    def speech(self, ids: Sequence[int]) -> Speech:
        """What an assistant turn says aloud; nothing where it is all thought."""
        return self._speech(tuple(ids))

    def _split_speech(self, ids: tuple[int, ...]) -> Speech:
        written, lead = self._written(ids), self.template.lead
        lead = lead if lead.strip() and written.startswith(lead) else ""
        speech = split_thoughts(written[len(lead) :], self.thought_tags)
        # Without thoughts the tokens are decoded as ever.
        text = (
            self.text(ids) if speech.text == written else self.template.unspoken.sub("", speech.text).strip()
        )
        return Speech(text, speech.begins + len(lead), speech.whole)

    def speech_begins(self, ids: Sequence[int]) -> int:
        """The first token of an assistant turn after its opening thoughts; the last one where the turn has no speech."""
        begins = self.speech(ids).begins
        if not begins:
            return 0
        first = bisect_left(range(len(ids)), begins, key=lambda n: len(self._written(ids[:n])))
        return min(first, len(ids) - 1)

    def encode(self, messages: Sequence[Message], written: bool = False) -> tuple[list[int], list[bool]]:
        """A whole conversation as ids and response mask, which marks the assistant's turns with their end markers.

        It is a fresh application of the template up to the last turn's end, or up to where the next begins. With ``written``,
        assistant turns are as a policy would have written them in a rollout, for it to imitate; the two are the same where the
        template has no ``departures``.
        """
        ids: list[int] = []
        mask: list[bool] = []
        close = ""
        for before, turn, after in self._pieces(messages, written):
            head, both = self._after(close, before), self._after(close, before + turn)
            shared = _shared(head, both)
            if written and shared < len(head):  # the policy cannot take back what was there before it began
                both = (*head, *self._ids(turn))
                shared = len(head)
            ids += both
            mask += [False] * shared + [bool(turn)] * (len(both) - shared)
            close = after
        return ids, mask

    def _pieces(self, messages: Sequence[Message], written: bool) -> Iterator[tuple[str, str, str]]:
        """What comes before each assistant turn, the turn, and its end marker, which the next piece follows."""
        template, taken = self.template, self.template.take(messages)
        finished = bool(taken) and taken[-1].role == "assistant"
        # Templates may render the last turn in a way of its own; it is to be as it will be once it is answered.
        frames, texts = self._frames([*taken, Message("user", "x")] if finished else taken)
        as_written = written or template.keeps_openings
        over = template.gap + template.close
        for number, (frame, text) in enumerate(zip(frames, [*texts, None], strict=True)):
            before = frame.removeprefix(over) if number else frame
            if text is None:
                if not finished:
                    yield before, "", ""
                return
            past = next((p for p in (template.past, template.past.rstrip()) if before.endswith(p)), None)
            # Before a message that no user says, a turn may end otherwise.
            closed = frames[number + 1].startswith(over)
            close = (template.written_close if written else template.close) if closed else ""
            turn = text + template.gap * closed + close
            if past is not None and as_written:
                before = before.removesuffix(past) + template.prompt
                turn = (template.lead if past == template.past else template.lead.rstrip()) + turn
            yield before, turn, close or template.written_close * closed

    def _frames(self, messages: Sequence[Message]) -> tuple[list[str], list[str]]:
        """What the template renders around and in place of the assistant's words."""
        mark = "\x02"
        while any(mark in message.content for message in messages):
            mark += "\x02"
        blank = [Message("assistant", mark) if m.role == "assistant" else m for m in messages]
        rendered, frames = self.template.render(messages), self.template.render(blank).split(mark)
        texts: list[str] = []
        place = 0
        for number, frame in enumerate(frames):
            last = number == len(frames) - 1
            found = rendered.find(frame, place) if not last else len(rendered) - len(frame)
            if (
                found < 0 or rendered[found : found + len(frame)] != frame
            ):  # without words, white space may go too
                frames[number] = frame = frame.rstrip()
                found = rendered.find(frame, place)
            if found < 0 or (not number and found):
                raise ValueError(
                    f"the chat template of {self.template.name} renders a conversation otherwise for what turn {number} says"
                )
            if number:
                texts.append(rendered[place:found])
            place = found + len(frame)
        return frames, texts

    def _check(self) -> None:
        """Compare blocks with one application of the template, token for token."""
        template, asked, said = self.template, Message("user", "How many?\n  Two"), "Seven.\n- one"
        messages = [asked, Message("assistant", said), asked, Message("assistant", said), asked]
        fresh, (ids, mask) = self._tokenise(template.render(messages)), self.encode(messages)
        block = self.user_block(asked.content)
        if tuple(ids) != fresh or not any(mask) or (template.keeps_openings and ids[-len(block) :] != block):
            place = _shared(ids, fresh)
            here, there = (
                self.tokenizer.decode(list(x[max(place - 3, 0) : place + 5])) for x in (ids, fresh)
            )
            raise ValueError(
                f"the tokens of {template.name} depend on what follows an end marker: {here!r} is {there!r} in a conversation; "
                "use another model or tokenizer"
            )
        turn = self.assistant_ids(said)
        alike = template.keeps_openings and template.close == template.written_close
        if alike and [*self.opening([asked]), *turn, *block, *turn, *block] != ids:
            self.departures += (
                f"the tokenizer splits the start of a turn, {template.prompt + template.lead!r}, otherwise once its words "
                "follow; those that the policy wrote follow the prompt as it is split alone",
            )


def generation_ends(model: Any) -> tuple[int, ...]:
    """The ids at which a model's generation config says that generation ends; none without a model or such a config.

    >>> from types import SimpleNamespace
    >>> generation_ends(SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[7, 9])))
    (7, 9)
    """
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return (ends,) if isinstance(ends, int) else tuple(ends or ())


def context_of(model: Any) -> int | None:
    """How many positions a model was made for, in tokens; ``None`` without a model, or where it does not say.

    Where one row beyond some length turns the positions of its whole batch into others ("longrope", as in Phi-3), it is that
    length: a row must not depend on its batch, nor a token on those that come later.

    >>> from types import SimpleNamespace
    >>> context_of(SimpleNamespace(config=SimpleNamespace(max_position_embeddings=512)))
    512
    """
    config = getattr(model, "config", None)
    for part in (getattr(config, "text_config", None), config, model):
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "context"):
            if isinstance(limit := getattr(part, name, None), int):
                rope = getattr(part, "rope_parameters", None) or {}
                turns = (
                    rope.get("original_max_position_embeddings")
                    if rope.get("rope_type") == "longrope"
                    else None
                )
                return min(limit, turns or limit)
    return None


def _remember(function: Any) -> Any:
    """The function with a bounded memory for short texts or turns, its first argument."""
    remembered = lru_cache(_KEPT)(function)
    return lambda given, *options: (remembered if len(given) <= _SHORT else function)(given, *options)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two lists begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))
