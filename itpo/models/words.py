"""The tokenizer of an embedded tiny model, read from its folder without transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer


class Words:
    """What :class:`itpo.chat.ChatFormat` asks of a tokenizer, with the ids that ``AutoTokenizer`` gives.

    Raises ``FileNotFoundError`` without a tokenizer in ``folder``.

    >>> import tempfile
    >>> from itpo.models.tiny import build_tokenizer
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = build_tokenizer(["hello", "you"]).save_pretrained(folder)
    ...     words = Words(folder)
    >>> words("hello <|end|> nobody")["input_ids"], words.decode([5, 1], skip_special_tokens=True)
    ([5, 1, 2], 'hello')
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        files = [folder / name for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")]
        for path in files:
            if not path.is_file():
                raise FileNotFoundError(f"no tokenizer of a tiny model in {folder}: expected {path.name}")
        self.name_or_path, self.chat_template = str(folder), files[2].read_text(encoding="utf-8")
        self._tokenizer = Tokenizer.from_file(str(files[0]))
        config = json.loads(files[1].read_text(encoding="utf-8"))
        named = [config[key] for key in ("eos_token", "unk_token", "pad_token") if config.get(key)]
        self.all_special_tokens: list[str] = [*named, *config.get("extra_special_tokens", [])]
        self.eos_token_id = self._id(config.get("eos_token"))
        self.pad_token_id = self._id(config.get("pad_token"))
        # As chat templates are run everywhere: in a sandbox, and no line for a tag alone.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self._compiled = lru_cache(maxsize=4)(environment.from_string)

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self._tokenizer.token_to_id(token)

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def get_added_vocab(self) -> dict[str, int]:
        """Tokens that are never split, and their ids."""
        return {token.content: number for number, token in self._tokenizer.get_added_tokens_decoder().items()}

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, Any]], chat_template: str | None = None, **options: Any
    ) -> str:
        """The text of a conversation."""
        return self._compiled(chat_template or self.chat_template).render(messages=conversation, **options)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """The ids of a text, as "input_ids"."""
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of ids."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
