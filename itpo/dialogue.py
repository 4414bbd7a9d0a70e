"""Messages, dialogues and the token batch that every estimator reads.

A dialogue exists twice: as text, which users and scores read, and as the exact token ids that the policy
sampled, which are kept and never re-tokenised (decoding and encoding again may change them).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from itpo.turns import turn_ids as number_turns

_MARK = "\x02"
_BREAK = "\u200b"  # a zero-width space: no special token has one, and people do not see it

# What opens and what closes a thought, as common models write it.
THOUGHT_TAGS: dict[str, str] = {
    "<think>": "</think>",  # Qwen, DeepSeek, GLM and most others
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<scratchpad>": "</scratchpad>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",  # Magistral
    "◁think▷": "◁/think▷",  # Kimi
    "<unused94>thought": "<unused95>",  # MedGemma
    "<|channel>thought": "<channel|>",  # Gemma
    "<|channel|>analysis<|message|>": "<|channel|>final<|message|>",  # gpt-oss
    "<|begin_of_thought|>": "<|end_of_thought|>",  # Sky-T1, OpenThinker
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A
}


class Speech(NamedTuple):
    """What a text says aloud, from which character on (after the thoughts before it), and whether every thought ends."""

    text: str
    begins: int = 0
    whole: bool = True


def split_thoughts(text: str, tags: Mapping[str, str] = THOUGHT_TAGS) -> Speech:
    """Part speech from thought, wherever a model's text is read: of users, of judges, and of the policy.

    Case and spaces within the tags do not matter. Before a closing tag without an opening one, everything is thought (chat
    templates may open it); so is everything after an opening tag that is never closed. A text without tags stays as it is.

    >>> split_thoughts("<think>12 + 18, hm</think> It is 30.")
    Speech(text='It is 30.', begins=26, whole=True)
    >>> split_thoughts("hm</think>30").text, split_thoughts("30 <THINK>hm").text
    ('30', '30')
    """
    closing = {_squeezed(tag) for tag in tags.values()}
    thoughts: list[tuple[int, int]] = []
    start: int | None = None
    for tag in _tag_pattern(tags).finditer(text):
        if _squeezed(tag[0]) not in closing:
            start = tag.start() if start is None else start
        elif start is None:
            thoughts = [(0, tag.end())]
        else:
            thoughts.append((start, tag.end()))
            start = None
    if start is not None:
        thoughts.append((start, len(text)))
    if not thoughts:
        return Speech(text)
    begins = 0
    for opened, closed in thoughts:
        begins = begins if text[begins:opened].strip() else closed
    edges = [(0, 0), *thoughts, (len(text), len(text))]
    said = "".join(text[end:begin] for (_, end), (begin, _) in pairwise(edges))
    return Speech(said.strip(), begins, start is None)


def _squeezed(tag: str) -> str:
    return "".join(tag.split()).casefold()


def _tag_pattern(tags: Mapping[str, str]) -> re.Pattern[str]:
    """Any of the tags, the longer ones first, in any case and with spaces beside its signs."""
    names = sorted({*tags, *tags.values()}, key=len, reverse=True)
    spaced = [r"\s*".join(map(re.escape, re.findall(r"\w+|\W", _squeezed(name)))) for name in names]
    return re.compile("|".join(spaced) or "(?!)", re.IGNORECASE)


@dataclass(frozen=True)
class Message:
    """One message of a conversation, in the field's role/content form."""

    role: Literal["system", "user", "assistant"]
    content: str

    def as_dict(self) -> dict[str, str]:
        """The message as chat templates and OpenAI-compatible servers take it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Dialogue:
    """A finished conversation: text, the token ids it was made of, and its outcome.

    ``response_mask[t]`` is true where the policy chose token ``t``; ``sampled_logp[t]`` is the log-probability
    it had when it was chosen (nats; 0 at the other tokens). ``outcome`` is the task's score in [0, 1]. ``failure``
    says why the user or the judge of the outcome failed, where one did: the outcome then means nothing. The policy's first
    turn begins after ``prompt_length`` tokens; ``None``: with the first token that it chose.
    """

    example: Any
    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    response_mask: tuple[bool, ...]
    sampled_logp: tuple[float, ...]
    outcome: float
    failure: str | None = None
    prompt_length: int | None = None

    @property
    def assistant_turns(self) -> int:
        """How many assistant turns the dialogue has."""
        return sum(message.role == "assistant" for message in self.messages)


@dataclass(frozen=True)
class TokenBatch:
    """B dialogues as right-padded tensors of T tokens; rows of one group (same prompt) are contiguous.

    ``sampled_logp`` is the log-probability (nats) that a response token had when it was sampled, 0 at other tokens.
    """

    input_ids: Int64[Tensor, "B T"]
    attention_mask: Bool[Tensor, "B T"]
    response_mask: Bool[Tensor, "B T"]
    turn_ids: Int64[Tensor, "B T"]
    outcome: Float[Tensor, " B"]
    sampled_logp: Float[Tensor, "B T"]
    group_size: int
    prompt_lengths: Int64[Tensor, " B"] | None = None

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def lengths(self) -> Int64[Tensor, " B"]:
        """Number of real tokens of each row."""
        return self.attention_mask.sum(1)

    @property
    def kept(self) -> Bool[Tensor, " B"]:
        """Which rows have a response: those that were not left out."""
        return self.response_mask.any(1)

    @property
    def response_lengths(self) -> Float[Tensor, " B"]:
        """Tokens after the prompt (assistant and user): the N of the length penalty ``S = R - lambda N`` [S]."""
        first = self.response_mask.int().argmax(1) if self.prompt_lengths is None else self.prompt_lengths
        first = torch.where(self.response_mask.any(1), first, self.lengths)
        return (self.lengths - first).to(self.outcome.dtype)

    def without(self, rows: Sequence[int]) -> TokenBatch:
        """The same batch with the responses of these rows masked out: they earn nothing, teach nothing and leave their group.

        >>> d = Dialogue(None, (), (5, 6), (False, True), (0.0, -0.1), 1.0)
        >>> collate([d, d], group_size=2, pad_id=0).without([1]).response_mask.tolist()
        [[False, True], [False, False]]
        """
        if not rows:
            return self
        mask = self.response_mask.clone()
        mask[list(rows)] = False
        return replace(self, response_mask=mask, turn_ids=number_turns(mask))


def collate(dialogues: Sequence[Dialogue], group_size: int, pad_id: int) -> TokenBatch:
    """Stack dialogues into one right-padded batch, in which those with a ``failure`` have no responses.

    Padding is marked by the attention mask alone, never by the token id. Raises ``ValueError`` for an empty list or
    a number of dialogues that ``group_size`` does not divide.

    >>> d = Dialogue(None, (), (5, 6, 7), (False, True, True), (0.0, -0.1, -0.2), 1.0)
    >>> collate([d, d], group_size=2, pad_id=0).turn_ids.tolist()
    [[-1, 0, 0], [-1, 0, 0]]
    """
    if not dialogues or len(dialogues) % group_size:
        raise ValueError(
            f"cannot form groups of {group_size} from {len(dialogues)} dialogues: "
            "pass a positive multiple of group_size"
        )
    width = max(len(d.ids) for d in dialogues)

    def pad(rows: list[Sequence[Any]], fill: Any, dtype: torch.dtype) -> Tensor:
        return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=dtype)

    response_mask = pad([d.response_mask for d in dialogues], False, torch.bool)
    return TokenBatch(
        input_ids=pad([d.ids for d in dialogues], pad_id, torch.int64),
        attention_mask=pad([[True] * len(d.ids) for d in dialogues], False, torch.bool),
        response_mask=response_mask,
        turn_ids=number_turns(response_mask),
        outcome=torch.tensor([d.outcome for d in dialogues], dtype=torch.float32),
        sampled_logp=pad([d.sampled_logp for d in dialogues], 0.0, torch.float32),
        group_size=group_size,
        prompt_lengths=torch.tensor([_prompt_length(d) for d in dialogues]),
    ).without([row for row, d in enumerate(dialogues) if d.failure is not None])


def _prompt_length(dialogue: Dialogue) -> int:
    if dialogue.prompt_length is not None:
        return dialogue.prompt_length
    return next((t for t, chosen in enumerate(dialogue.response_mask) if chosen), len(dialogue.ids))


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
