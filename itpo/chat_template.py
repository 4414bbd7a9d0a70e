"""What a chat template does with messages: how a turn begins and ends in it, and which roles it can take.

Templates are programs, and families differ: some raise on a system message, some move it, some leave out of earlier turns what
they put before the latest. So each one is probed, once, and what it cannot do is folded into what it can, or refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, Protocol, runtime_checkable

# What templates that ask for the day are told: a run must not change at midnight. Llama 3's own day where none is told.
TODAY = date(2024, 7, 26)
# Tokens that end a text in every family that has them, whatever the template ends a turn with.
TEXT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>", "<|eot_id|>")
_BREAK = "\u200b"  # a zero-width space: no special token has one, and people do not see it
_BRACKETED = re.compile(r"[\[<][^\s\[\]<>]+[\]>]")
_CLOCK = re.compile(r"""strftime_now\(\s*(['"])([^'"]*)\1\s*\)""")
_BARRED = re.compile(r"<[|｜].+[|｜]>")


@runtime_checkable
class Tokenizer(Protocol):
    """All that is asked of a tokenizer; those of transformers have it."""

    chat_template: Any
    eos_token_id: int | None
    pad_token_id: int | None
    all_special_tokens: list[str]

    def get_added_vocab(self) -> dict[str, int]:
        """Tokens that are never split, special ones among them, and their ids."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any:
        """The text of a conversation.

        Options are ``tokenize=False`` and ``add_generation_prompt``; where its template asks for the day, ``date_string`` or
        ``chat_template``, which is used in place of its own.
        """
        ...

    def __call__(self, text: str, add_special_tokens: bool = True) -> Mapping[str, Any]:
        """The ids of a text, as "input_ids"; special tokens that it spells become their own."""
        ...

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        """The text of ids."""
        ...


@dataclass(frozen=True)
class Message:
    """One message of a conversation, in the field's role/content form."""

    role: Literal["system", "user", "assistant"]
    content: str

    def as_dict(self) -> dict[str, str]:
        """The message as chat templates and OpenAI-compatible servers take it."""
        return {"role": self.role, "content": self.content}


# Messages whose words no template has, to find in what is rendered.
_SYSTEM = Message("system", "\x02s\x02")
_ASKED, _AGAIN, _ONCE_MORE = (Message("user", f"\x02u{n}\x02") for n in range(3))
_SAID, _SAID_AGAIN = (Message("assistant", f"\x02a{n}\x02") for n in range(2))


class ChatTemplate:
    """The chat template of a tokenizer, probed.

    ``prompt`` stands between a user's words and those that the policy is to write, ``past`` between them where the turn is an
    earlier one. ``lead`` is what the policy itself writes before its words, as gpt-oss does its channel. ``gap`` and ``close``
    come after the words of an earlier turn, the next message after those. ``end`` is the last token of a turn that is written
    now, and ``departures`` says, in words, where earlier turns cannot be as the template would render them anew.

    Raises ``ValueError`` for a tokenizer without a template, and for a template that does not end a turn by a token of its own,
    does not show what is said, or renders a turn otherwise the more follow.

    >>> from itpo.models.tiny import build_tokenizer
    >>> template = ChatTemplate(build_tokenizer(["hello"]))
    >>> template.prompt, template.close, template.end
    (' <|end|><|assistant|>', '<|end|>', 1)
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        tags: Mapping[str, str] | None = None,
        end_ids: Collection[int] = (),
        today: date = TODAY,
    ) -> None:
        self.name = str(getattr(tokenizer, "name_or_path", "") or "this model")
        if getattr(tokenizer, "chat_template", None) is None:
            raise ValueError(
                f"the tokenizer of {self.name} has no chat template: "
                "use an instruction-tuned model, or set tokenizer.chat_template"
            )
        self.tokenizer, self.tags = tokenizer, dict(tags or {})
        self._options, self._source = self._fix_day(today)
        self._in_parts = (
            False  # whether it takes contents as lists of parts only, as those of vision models do
        )
        self.special = {token: self._only_id(token) for token in tokenizer.all_special_tokens}
        self.markers = self.special | tokenizer.get_added_vocab()
        self._ends = {tokenizer.eos_token_id, *end_ids}
        self.departures: tuple[str, ...] = ()
        self._read_frame()
        self._read_end()
        self._check_stable()
        self._read_spelled()

    # What it renders

    def render(self, messages: Sequence[Message], prompt: bool = True) -> str:
        """The text of a conversation. Raises ``ValueError`` with the template's own words where it refuses."""
        said: list[dict[str, Any]] = [message.as_dict() for message in messages]
        if self._in_parts:
            said = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in said]
        try:
            return self.tokenizer.apply_chat_template(
                said, tokenize=False, add_generation_prompt=prompt, **self._options
            )
        except Exception as error:  # a template is a program and may raise anything
            roles = ", ".join(message.role for message in messages)
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"the chat template of {self.name} refuses a conversation of {roles}: {reason}"
            ) from error

    def take(self, messages: Sequence[Message]) -> list[Message]:
        """The messages in roles that the template can take, their words harmless.

        Where it has no place for a system message, the next user message begins with it; where it wants roles to alternate,
        messages of one role become one. Raises ``ValueError`` for a conversation that it still cannot take.
        """
        taken: list[Message] = []
        joins = False  # whether the message before was one of the system
        for place, message in enumerate(messages):
            role, content = message.role, self.harmless(message.content, message.role)
            folded = role == "system" and not self._takes_as_system(messages, place)
            role = "user" if folded else role
            again = bool(taken) and taken[-1].role == role
            if again and (joins or folded or not self._takes_repetition):
                taken[-1] = Message(role, f"{taken[-1].content}\n\n{content}")
            else:
                taken.append(Message(role, content))
            joins = folded
        return taken

    def _takes_as_system(self, messages: Sequence[Message], place: int) -> bool:
        if place:
            return self._takes_late_system
        greeted = len(messages) > 1 and messages[1].role == "assistant"
        return self._takes_system and (not greeted or self._takes_greeting)

    def harmless(self, text: str, role: str = "user") -> str:
        """The text with every marker that it spells broken up, overlapping ones too; an assistant may spell its thoughts."""
        return self._spelled[role == "assistant"].sub(rf"\1{_BREAK}", text)

    def between(self, text: str) -> str:
        """What stands between the words of a turn and those of the next, around a user's (harmless) text."""
        return self.render([_ASKED, _SAID, Message("user", text)]).partition(_SAID.content)[2]

    def closed_by(self, after: str) -> tuple[str, str]:
        """Part what follows a turn's words after its end: (gap and end, the rest)."""
        size = len(self.gap + self.close)
        return after[:size], after[size:]

    # What it is, by probes

    def _fix_day(self, today: date) -> tuple[dict[str, str], str]:
        """The options that tell a template the day, where it asks for one, and its source."""
        template = self.tokenizer.chat_template
        source = str(template["default"] if isinstance(template, Mapping) else template)
        # Functions cannot be passed to templates, so what is asked of the clock is answered in the source.
        fixed = _CLOCK.sub(lambda call: repr(today.strftime(call[2])), source)
        if "strftime_now(" in fixed:
            raise self._refuse(
                "asks the clock for more than a day in a format of its own, which would change its tokens"
            )
        options = {"date_string": today.strftime("%d %b %Y")} if "date_string" in source else {}
        return options | ({"chat_template": fixed} if fixed != source else {}), source

    def _only_id(self, token: str) -> int:
        ids = self.tokenizer(token, add_special_tokens=False)["input_ids"]
        return ids[0] if len(ids) == 1 else -1

    def _refuse(self, what: str) -> ValueError:
        return ValueError(
            f"the chat template of {self.name} {what}: use another model, or set tokenizer.chat_template to one that does not"
        )

    def _read_frame(self) -> None:
        """Learn what stands around the words of users and of the assistant."""
        conversation = [_ASKED, _SAID, _AGAIN]
        self._in_parts = not self._shows(conversation) and self._shows(conversation, in_parts=True)
        if not self._shows(conversation):
            self.render(conversation)  # raises where it raises
            raise self._refuse("leaves out what is said, or changes its order")
        before, _, after = self.render(conversation).partition(_SAID.content)
        self.past = before.partition(_ASKED.content)[2]
        self._after, _, self.prompt = after.partition(_AGAIN.content)
        first = self.render([_ASKED]).partition(_ASKED.content)[2]
        if first != self.prompt:
            raise self._refuse(
                f"opens the first turn by {first!r} and the next by {self.prompt!r}, which cannot be continued"
            )
        latest = self.render([_ASKED, _SAID], prompt=False).partition(_ASKED.content)[2]
        self._latest, _, self._last = latest.partition(_SAID.content)
        opened = self.prompt.rstrip()
        # Some templates open the thought themselves, so that only its end is written.
        self.opened = next((tag for tag in self.tags if opened.endswith(tag)), "")
        self.lead = self._lead()
        self._note_dropped_thoughts()

    def _lead(self) -> str:
        """What the policy writes before its words; where earlier turns do not show it, the latest does."""
        if self.past.startswith(self.prompt):
            return self.past[len(self.prompt) :]
        self.departures += (
            f"the template opens a turn by {self.prompt!r}, of which earlier turns keep {self.past!r}; those that the policy "
            "wrote stay as they were written",
        )
        if self._latest.startswith(self.prompt):
            return self._latest[len(self.prompt) :]
        if self.opened:
            return f"\n{self.tags[self.opened]}\n\n"
        raise self._refuse(
            f"opens a turn by {self.prompt!r} and renders it as {self.past!r}, which cannot be continued"
        )

    @property
    def keeps_openings(self) -> bool:
        """Whether earlier turns begin as the policy was prompted to begin them."""
        return self.past == self.prompt + self.lead

    def _note_dropped_thoughts(self) -> None:
        for opening, closing in self.tags.items():
            if closing not in self._source:
                continue
            text = f"{opening}\n{_SYSTEM.content}\n{closing}\n\n{_SAID.content}"
            try:
                kept = _SYSTEM.content in self.render([_ASKED, Message("assistant", text), _AGAIN])
            except ValueError:  # thoughts are no text to it
                kept = False
            if not kept:
                note = "the template drops the thoughts of earlier turns; those that the policy wrote stay"
                self.departures += (note,)
                return

    def _read_end(self) -> None:
        """Learn how a turn ends: the marker that comes after its words, of several the one that ends generation."""
        self.gap, run = self._run(self._after)
        _, last = self._run(self._last)
        shared = [one for one, other in zip(run, last, strict=False) if one == other]
        if not shared and last and run and run[0] not in self._run(self.prompt)[1][:1]:
            run = []  # it is the next message that begins
        known = [n for n, marker in enumerate(shared) if self.markers[marker] in self._ends]
        length = (known or [0])[0] + 1
        self.close = "".join(run[:length])
        written = run[:length] if shared or not last else last[:1]
        if not written:
            raise ValueError(
                f"the chat template of {self.name} ends a turn by {self._after or self._last!r}, which is no token of its own, "
                "so that generation could not stop: set tokenizer.chat_template to one that ends turns by a special token"
            )
        self.written_close, self.end = "".join(written), self.markers[written[-1]]
        if self.written_close != self.close:
            self.departures += (
                f"the template ends the latest turn by {self.written_close!r} and earlier ones by {self.close!r}; "
                "turns that the policy wrote keep theirs",
            )
        ends = [self.end, *self._ends, *(self.markers.get(token) for token in TEXT_ENDS)]
        self.end_ids = tuple(dict.fromkeys(end for end in ends if end is not None))

    def _run(self, text: str) -> tuple[str, list[str]]:
        """The white space that a text begins with, and the markers that then follow one upon the other."""
        gap = text[: len(text) - len(text.lstrip())]
        names, rest, run = sorted(self.markers, key=len, reverse=True), text[len(gap) :], []
        while marker := next((name for name in names if name.strip() and rest.startswith(name)), ""):
            run.append(marker)
            rest = rest[len(marker) :]
        return gap, run

    def _check_stable(self) -> None:
        """Compare a longer conversation with what was learnt from a shorter one."""
        wanted = self.render([_ASKED]).partition(_ASKED.content)[0]
        for asked, said in ((_ASKED, _SAID), (_AGAIN, _SAID_AGAIN)):
            wanted += asked.content + self.past + said.content + self._after
        wanted += _ONCE_MORE.content + self.prompt
        rendered = self.render([_ASKED, _SAID, _AGAIN, _SAID_AGAIN, _ONCE_MORE])
        if rendered != wanted:
            place = next(
                (n for n, (a, b) in enumerate(zip(rendered, wanted, strict=False)) if a != b), len(wanted)
            )
            raise self._refuse(
                f"renders a turn otherwise the more turns follow (from {rendered[max(place - 20, 0) : place + 40]!r} on)"
            )

    def _read_spelled(self) -> None:
        """Collect what no message may spell."""
        frame = self.render([*[_SYSTEM] * self._takes_system, _ASKED, _SAID, _AGAIN])
        thoughts = {*self.tags, *self.tags.values()} - {*self.special}
        # Tokens that are added for their length (spaces, HTML) are left alone; those of control without a name of their own,
        # such as <file_sep>, are special by their flag alone.
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        spelled = {*self.special, *(str(token) for token in added if token.special)}
        spelled |= {*_BRACKETED.findall(frame)}
        spelled |= {name for name in self.markers if name in self._source or _BARRED.fullmatch(name)}
        self._spelled = [
            re.compile(f"(?={_either(names)})(.)", re.DOTALL) for names in (spelled, spelled - thoughts)
        ]
        self.unspoken = re.compile(_either({*self.special, *self._run(self.close)[1]}))

    def _shows(self, messages: Sequence[Message], in_parts: bool | None = None) -> bool:
        """Whether the template renders these messages, each once and in their order."""
        before = self._in_parts
        self._in_parts = before if in_parts is None else in_parts
        try:
            text = self.render(messages)
        except ValueError:
            return False
        finally:
            self._in_parts = before
        places = [text.find(message.content) for message in messages]
        once = all(text.count(message.content) == 1 for message in messages)
        return once and all(one < other for one, other in pairwise(places))

    @cached_property
    def _takes_system(self) -> bool:
        if not self._shows([_SYSTEM, _ASKED, _SAID, _AGAIN]):
            return False
        # Some move it to the last user message, so that what was written before changes.
        opening = self.render([_SYSTEM, _ASKED]).removesuffix(self.prompt) + self.past
        return self.render([_SYSTEM, _ASKED, _SAID, _AGAIN]).startswith(opening + _SAID.content)

    @cached_property
    def _takes_greeting(self) -> bool:
        return self._shows([_SYSTEM, _SAID, _AGAIN])

    @cached_property
    def _takes_late_system(self) -> bool:
        return self._shows([_ASKED, _SAID, _SYSTEM, _AGAIN])

    @cached_property
    def _takes_repetition(self) -> bool:
        twice = [_ASKED, _AGAIN, _SAID], [_ASKED, _SAID, _SAID_AGAIN, _AGAIN]
        return all(map(self._shows, twice))


def _either(names: Collection[str]) -> str:
    """A pattern of any of these names that is more than a sign or space."""
    longer = sorted((name for name in names if len(name.strip()) > 1), key=lambda name: (-len(name), name))
    return "|".join(map(re.escape, longer)) or "(?!)"
