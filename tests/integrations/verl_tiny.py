"""A model of 6,000 weights, with a tokenizer of numbered words, that verl can load; and a batch as its workers get it."""

from __future__ import annotations

from pathlib import Path

import torch
from tensordict import TensorDict
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from verl.utils import tensordict_utils

WORDS = 64
# Every message is its role's word, what is said, and an end; the assistant's word prompts the assistant.
TEMPLATE = (
    "{% for m in messages %}{{ 'w60 ' if m['role'] == 'user' else 'w61 ' }}{{ m['content'] }}{{ ' END ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'w61 ' }}{% endif %}"
)


def save(folder: Path) -> str:
    """Write model and tokenizer; the path as verl's config wants it."""
    special = {"unk_token": "UNK", "pad_token": "PAD", "eos_token": "END"}  # the numbers 0 to 2
    numbers = {word: i for i, word in enumerate([*special.values(), *(f"w{i}" for i in range(3, WORDS))])}
    words = Tokenizer(models.WordLevel(numbers, unk_token="UNK"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=WORDS, num_key_value_heads=2, tie_word_embeddings=True, **sizes)
    ).save_pretrained(folder)
    return str(folder)


def jagged(rows: list[torch.Tensor]) -> torch.Tensor:
    """Rows of several lengths as verl keeps them."""
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def rows(
    prompts: list, responses: list, mask: list, outcome: list, ref: list, **values: object
) -> TensorDict:
    """A batch of dialogues as verl's workers get it, outcomes at the last token of a response."""
    ids = [torch.cat(pair) for pair in zip(prompts, responses, strict=True)]
    scores = [
        torch.nn.functional.pad(value[None], (len(row) - 1, 0))
        for value, row in zip(outcome, mask, strict=True)
    ]
    fields = {
        "prompts": jagged(prompts),
        "responses": jagged(responses),
        "input_ids": jagged(ids),
        "position_ids": jagged([torch.arange(len(row)) for row in ids]),
        "response_mask": jagged(mask),
        "loss_mask": jagged(mask),
        "rm_scores": jagged(scores),
        "ref_log_prob": jagged(ref),
    }
    data = TensorDict(fields, batch_size=len(ids))
    tensordict_utils.assign_non_tensor(data, temperature=1.0, **values)
    return data
