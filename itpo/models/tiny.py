"""A tiny causal LM for a scripted task's own words, trained here and saved as an ordinary Hugging Face folder.

No weights need to be downloaded. ``AutoModelForCausalLM`` and ``AutoTokenizer`` load the folder like any other, so the rest of
the library cannot tell it from a large model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from itpo.chat import ChatFormat
from itpo.dialogue import Message
from itpo.models.fine_tuning import Encoded, fine_tune, threads
from itpo.specs import TinyLM
from itpo.tasks.base import ScriptedTask

PAD, END, UNKNOWN, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|unk|>", "<|user|>", "<|assistant|>"
CONTEXT = 512  # tokens of a dialogue
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }} <|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(words: Sequence[str]) -> Any:
    """A word-level tokenizer with a chat template.

    >>> ids = build_tokenizer(["hello", "you"])("hello <|end|> nobody")["input_ids"]
    >>> ids == [5, 1, 2]
    True
    """
    from transformers import PreTrainedTokenizerFast

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
    """Hold one conversation between a task's scripted policy and its user: (example, messages, outcome).

    >>> from itpo.tasks.registry import get_task
    >>> task = get_task("math")
    >>> scripted_dialogue(task, task.expert, random.Random(1))[2]
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


def _check_words(task: ScriptedTask, tokenizer: Any, ids: Sequence[int]) -> None:
    if len(ids) > CONTEXT or tokenizer.unk_token_id in ids:
        raise ValueError(
            f"a scripted dialogue of task {task.name!r} has a word that is not in task.words, or more than {CONTEXT} tokens"
        )


def pretrain_by_imitation(
    task: ScriptedTask, params: Any, spec: TinyLM, folder: Path, stop: int | None = None
) -> Path:
    """Train a tiny model to imitate a task's scripted policy and save it, with its tokenizer, as a Hugging Face folder.

    See :func:`itpo.models.fine_tuning.fine_tune`, also for ``stop``, and :func:`itpo.rollout.sampler.rollout` for an example.
    It runs on one thread of a CPU, where the arguments decide the result bit for bit. Returns ``folder``. Raises
    ``ValueError`` if the scripted policy uses a word that the task does not list.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    _no_bars()
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

    def draw(rng: random.Random) -> Sequence[Encoded]:
        """Encode what the scripted policy says in some dialogues."""
        dialogues = [scripted_dialogue(task, params, rng)[1] for _ in range(spec.dialogues_per_step)]
        encoded = [chat.encode(messages) for messages in dialogues]
        for ids, _ in encoded:
            _check_words(task, tokenizer, ids)
        return encoded

    settings: dict[str, Any] = {"weight_decay": 0.01, "head_everywhere": True, "folder": folder, "stop": stop}
    with threads(1):
        fine_tune(model, draw, rng, spec.steps, spec.learning_rate, chat.pad_id, **settings)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _no_bars() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # for reading one small file they are noise in a notebook


def load(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Read (model, tokenizer) from a local folder, never from a hub.

    Raises ``FileNotFoundError`` when there is no model in ``folder``.
    """
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(
            f"no model in {folder}: expected config.json, model.safetensors and tokenizer.json"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _no_bars()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)
