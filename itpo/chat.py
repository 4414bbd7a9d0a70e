"""Messages, and the token blocks that a chat template makes of them."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from itpo.thoughts import THOUGHT_TAGS, Speech, split_thoughts

_MARK = "\x02"
_BREAK = "\u200b"  # a zero-width space: no special token has one, and people do not see it


@dataclass(frozen=True)
class Message:
    """One message of a conversation, in the field's role/content form."""

    role: Literal["system", "user", "assistant"]
    content: str

    def as_dict(self) -> dict[str, str]:
        """The message as chat templates and OpenAI-compatible servers take it."""
        return {"role": self.role, "content": self.content}


class ChatFormat:
    """Turns messages into token blocks that can be appended one at a time.

    A fresh application of the chat template to a longer conversation may change tokens at turn boundaries, so every
    block is cut out of a rendered template once and appended as it is. ``eos_id`` ends an assistant turn.

    What a message says never becomes a special token: where it spells one, such as ``<|im_end|>``, a zero-width space goes
    in after the first character. (To have the tokenizer split special tokens is not enough: to one of whole words they are
    words of its vocabulary.) The text of the message itself stays as it is. ``thought_tags`` part the policy's speech from
    its thoughts, which nobody else is shown (:func:`split_thoughts`).
    """

    def __init__(self, tokenizer: Any, thought_tags: Mapping[str, str] = THOUGHT_TAGS) -> None:
        if getattr(tokenizer, "chat_template", None) is None:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template: "
                "use an instruction-tuned model, or set tokenizer.chat_template"
            )
        self.tokenizer = tokenizer
        self.eos_id: int = tokenizer.eos_token_id
        self.end_ids: tuple[int, ...] = (self.eos_id,)
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_id
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        special.update(tokenizer.all_special_tokens)
        spelled = "|".join(re.escape(token) for token in sorted(special) if len(token) > 1)
        self._special = re.compile(spelled or "(?!)")
        self._spelled = re.compile(f"(?={spelled or '(?!)'})(.)", re.DOTALL)
        self.thought_tags = dict(thought_tags)
        # Some templates open the thought themselves, so that only its end is sampled.
        prompt = self._render([Message("user", "x")], prompt=True).rstrip()
        self._opened = next((tag for tag in self.thought_tags if prompt.endswith(tag)), "")

    def _harmless(self, text: str) -> str:
        """The text with every special token that it spells broken up, overlapping ones too."""
        return self._spelled.sub(rf"\1{_BREAK}", text)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _render(self, messages: Sequence[Message], prompt: bool) -> str:
        return self.tokenizer.apply_chat_template(
            [{**m.as_dict(), "content": self._harmless(m.content)} for m in messages],
            tokenize=False,
            add_generation_prompt=prompt,
        )

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the messages before the first assistant turn, ending where the assistant begins to speak."""
        return self._ids(self._render(messages, prompt=True))

    def user_block(self, text: str, closed: bool = True) -> list[int]:
        """Tokens from the end of an assistant turn to the start of the next, around the user's ``text``.

        ``closed`` says whether the sampled turn ended with ``eos_id`` itself; a turn cut off by its token limit did
        not, and the block then begins with the end marker.
        """
        around = [Message("user", "x"), Message("assistant", _MARK), Message("user", text)]
        # The first mark: ``text`` may have one, too.
        tail = self._render(around, prompt=True).partition(_MARK)[2].lstrip(" ")
        ids = self._ids(tail)
        return ids[1:] if closed and ids[:1] == [self.eos_id] else ids

    def assistant_ids(self, text: str) -> list[int]:
        """Tokens of an assistant turn, its end marker included."""
        return [*self._ids(self._harmless(text)), self.eos_id]

    def text(self, ids: Sequence[int]) -> str:
        """What tokens say, without special ones."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def _written(self, ids: Sequence[int]) -> str:
        """An assistant turn with its special tokens, which tags of thoughts may be, and the tag that the template opened."""
        return self._opened + self.tokenizer.decode(list(ids))

    def speech(self, ids: Sequence[int]) -> Speech:
        """What an assistant turn says aloud; nothing where it is all thought."""
        written = self._written(ids)
        speech = split_thoughts(written, self.thought_tags)
        # Without thoughts the tokens are decoded as ever.
        text = self.text(ids) if speech.text == written else self._special.sub("", speech.text).strip()
        return speech._replace(text=text)

    def speech_begins(self, ids: Sequence[int]) -> int:
        """The first token of an assistant turn after its opening thoughts; the last one where the turn has no speech."""
        begins = self.speech(ids).begins
        if not begins:
            return 0
        first = bisect_left(range(len(ids)), begins, key=lambda n: len(self._written(ids[:n])))
        return min(first, len(ids) - 1)

    def encode(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """A whole conversation as ids and response mask, built from the same blocks as a rollout."""
        start = next((i for i, m in enumerate(messages) if m.role == "assistant"), len(messages))
        ids = self.opening(messages[:start])
        mask = [False] * len(ids)
        for message in messages[start:]:
            is_reply = message.role == "assistant"
            block = self.assistant_ids(message.content) if is_reply else self.user_block(message.content)
            ids += block
            mask += [is_reply] * len(block)
        return ids, mask
