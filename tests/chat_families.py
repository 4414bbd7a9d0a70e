"""Small tokenizers with the chat templates that trl ships, and the markers of each family."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(find_spec("trl").submodule_search_locations[0]) / "chat_templates"
# Words and spaces as Qwen and Llama 3 split them: line breaks stay together whatever follows.
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Anything in a template's source that looks like a marker of its family.
MARKER = re.compile(
    r"<\|[^|>\s]+\|>|<｜[^｜>]+｜>|<\|\w+>|<\w+\|>|\[gMASK\]|<sop>|</?s>"
    r"|<(?:bos|eos|pad|start_of_turn|end_of_turn|end_of_utterance|start_of_image|image)>"
)
PLAIN = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<｜User｜>",
    "<｜Assistant｜>",
)  # added, not special
# The first part of a template's name, its tokenizer's eos_token, bos_token.
FAMILIES = {
    "cohere": ("<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>"),
    "deepseek": ("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"),
    "diffusion_gemma": ("<eos>", "<bos>"),
    "gemma": ("<eos>", "<bos>"),
    "glm4moe": ("<|endoftext|>", "<s>"),
    "gptoss": ("<|return|>", "<|startoftext|>"),
    "idefics3": ("<end_of_utterance>", "<s>"),
    "llama3": ("<|eot_id|>", "<|begin_of_text|>"),
    "llava_next": ("</s>", "<s>"),
    "muse": ("<|eot|>", "<|begin_of_text|>"),
    "phi3": ("<|endoftext|>", "<s>"),
    "smolvlm": ("<end_of_utterance>", "<|im_start|>"),
}
CHATML = ("<|im_end|>", "<|startoftext|>")  # Qwen, LFM2, Nemotron
NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


def byte_level(split: str | None = SPLIT) -> Tokenizer:
    """A small byte-level BPE."""
    return Tokenizer.from_str(_byte_level(split))


@cache
def _byte_level(split: str | None) -> str:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    if split:
        isolated = pre_tokenizers.Split(Regex(split), "isolated")
        raw.pre_tokenizer = pre_tokenizers.Sequence(
            [isolated, pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(
        ["how many pens are there?\n\nuser\nassistant\nsystem\n\nSeven.\n\n"] * 5, trainer
    )
    return raw.to_str()


def sentence_pieces(scheme: str) -> Tokenizer:
    """Pieces that begin with a sign for the space before them, as those of Llama 2 and Mistral do."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ[/].?-"
    pieces = [
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *letters,
        *(f"▁{letter}" for letter in letters),
    ]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    raw = Tokenizer(models.BPE(vocabulary, [("▁", letter) for letter in letters], byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return raw


def tokenizer_of(template: str, raw: Tokenizer, eos: str, bos: str, plain: tuple[str, ...] = PLAIN):
    """A tokenizer with this template, whose markers are its special tokens but for the ``plain`` ones."""
    markers = {*MARKER.findall(template), eos, bos} - {*plain}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=eos, bos_token=bos, pad_token=eos)
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(markers)})
    added = [token for token in plain if token in template]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    tokenizer.chat_template = template
    return tokenizer


@cache
def family(name: str):
    """The tokenizer of one of trl's templates."""
    known = [FAMILIES[start] for start in sorted(FAMILIES, key=len) if name.startswith(start)]
    tokenizer = tokenizer_of(
        (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"), byte_level(), *(known or [CHATML])[-1]
    )
    tokenizer.name_or_path = name
    return tokenizer
