"""An embedded language model: a tiny causal LM for a task's own words, trained here and saved as a normal folder.

No weights need to be downloaded. The folder it writes is loaded by ``AutoModelForCausalLM`` and ``AutoTokenizer`` like any
other model's, so the rest of the library cannot tell it from a large one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from itpo.dialogue import ChatFormat, Message
from itpo.specs import TinyLM
from itpo.tasks.base import ScriptedTask

disable_progress_bar()  # a bar for reading one small file is noise in a notebook

PAD, END, UNKNOWN, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|unk|>", "<|user|>", "<|assistant|>"
CONTEXT = 512  # tokens of a dialogue
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }} <|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with a chat template.

    >>> ids = build_tokenizer(["hello", "you"])("hello <|end|> nobody")["input_ids"]
    >>> ids == [5, 1, 2]
    True
    """
    special = [PAD, END, UNKNOWN, USER, ASSISTANT]
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def scripted_dialogue(
    task: ScriptedTask, params: Any, rng: random.Random
) -> tuple[Any, list[Message], float]:
    """One conversation between a scripted tutor and the task's user: (example, messages, outcome).

    >>> from itpo.tasks.registry import get_task
    >>> from itpo.tasks.math import EXPERT
    >>> scripted_dialogue(get_task("math"), EXPERT, random.Random(1))[2]
    1.0
    """
    example = task.sample(rng)
    messages = task.opening(example)
    for turn in range(task.max_turns):
        messages.append(Message("assistant", task.scripted_policy(example, messages, rng, params)))
        reply = task.reply(example, messages, rng) if turn + 1 < task.max_turns else None
        if reply is None:
            break
        messages.append(Message("user", reply))
    return example, messages, task.score(example, messages)


def _training_batch(
    task: ScriptedTask, chat: ChatFormat, params: Any, count: int, rng: random.Random
) -> tuple[torch.Tensor, torch.Tensor]:
    encoded = [chat.encode(scripted_dialogue(task, params, rng)[1]) for _ in range(count)]
    width = max(len(ids) for ids, _ in encoded)
    if width > CONTEXT or any(chat.tokenizer.unk_token_id in ids for ids, _ in encoded):
        raise ValueError(
            f"a scripted dialogue of task {task.name!r} has a word that is not in task.words, or more than {CONTEXT} tokens"
        )
    ids = torch.tensor([row + [chat.pad_id] * (width - len(row)) for row, _ in encoded])
    targets = ids.masked_fill(~torch.tensor([m + [False] * (width - len(m)) for _, m in encoded]), -100)
    return ids, targets


def pretrain_by_imitation(task: ScriptedTask, params: Any, spec: TinyLM, folder: Path) -> Path:
    """Train an embedded model by imitation and save it, with its tokenizer, as a Hugging Face folder.

    Supervised fine-tuning on assistant tokens only, linear learning-rate decay. On a CPU the result is decided by the
    arguments bit for bit. Returns ``folder``. Raises ``ValueError`` if the tutor uses a word that the task does not list.

    >>> import tempfile
    >>> from itpo.tasks.registry import get_task
    >>> task, spec = get_task("math"), TinyLM(hidden_size=16, layers=1, heads=2, steps=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model, tokenizer = load(pretrain_by_imitation(task, task.noisy_expert, spec, Path(folder)))
    >>> tokenizer.decode(tokenizer("are you sure ?")["input_ids"])
    'are you sure ?'
    """
    rng = random.Random(f"warm start/{spec.seed}")
    tokenizer = build_tokenizer(task.words)
    chat = ChatFormat(tokenizer)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden_size,
        intermediate_size=3 * spec.hidden_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=spec.steps)
    for _ in range(spec.steps):
        ids, targets = _training_batch(task, chat, params, spec.dialogues_per_step, rng)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Read (model, tokenizer) from a local folder, never from a hub.

    Raises ``FileNotFoundError`` when there is no model in ``folder``.
    """
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(
            f"no model in {folder}: expected config.json, model.safetensors and tokenizer.json"
        )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)
