"""A person in the terminal, in the user's place: talking to a policy freely, or playing the user of an example."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from itpo.backbone import Adapter, Backbone
from itpo.data import Example
from itpo.dialogue import ChatFormat, Message
from itpo.embedded import load
from itpo.sampler import Sampling, speak
from itpo.tasks import Task
from itpo.tasks.real import MAX_TURNS

_BASE, _POLICY = "models", "policy"


class Talker:
    """A policy that answers one conversation at a time: a base model, or the policy that a finished run trained on it."""

    def __init__(self, base: Path, run: Path | None, max_turn_tokens: int, seed: int) -> None:
        model, tokenizer = load(base)
        self.chat, self.sampling = ChatFormat(tokenizer), Sampling(max_turn_tokens)
        self.generator = torch.Generator().manual_seed(seed)
        self.backbone = Backbone(model, [_POLICY], _adapter(run))
        self.adapter = None if run is None else _POLICY
        if run is not None:
            self.backbone.load_adapter(_POLICY, run / _POLICY)

    def answer(self, messages: list[Message]) -> str:
        """What the policy says next, sampled at temperature 1."""
        with self.backbone.use(self.adapter):
            return speak(self.backbone, self.chat, [messages], self.generator, self.sampling)[0]


def _adapter(run: Path | None) -> Adapter:
    if run is None:
        return Adapter()
    config = _adapter_config(run)
    return Adapter(config["r"], config["lora_alpha"])


def _adapter_config(run: Path) -> dict:
    path = run / _POLICY / "adapter_config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} has no trained policy: name the folder of a finished run, such as runs/0123456789abcdef"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def base_of(run: Path) -> Path:
    """The folder of the base model that a run of the store was trained on.

    Raises ``FileNotFoundError`` if the run is not finished, or its base is elsewhere (name it then).

    >>> base_of(Path("nowhere"))
    Traceback (most recent call last):
    FileNotFoundError: nowhere has no trained policy: ...
    """
    base = run.parent / _BASE / _adapter_config(run)["base_model_name_or_path"]
    if not (base / "config.json").is_file():
        raise FileNotFoundError(f"the base model of {run} is not at {base}: name its folder with --model")
    return base


@dataclass(frozen=True)
class Scene:
    """What a person is told before playing the user: what the user knows, the opening, and how many turns there are."""

    knows: str
    opening: tuple[Message, ...]
    max_turns: int
    score: Callable[[list[Message]], float] | None = None


def embedded_scene(task: Task, seed: int) -> Scene:
    """A problem of an embedded task, which is scored at the end.

    >>> from itpo.tasks import get_task
    >>> embedded_scene(get_task("math"), seed=0).max_turns
    5
    """
    example = task.sample(random.Random(f"chat/{seed}"))
    return Scene(str(example), tuple(task.opening(example)), task.max_turns, partial(task.score, example))


def real_scene(examples: Sequence[Example], seed: int) -> Scene:
    """One of real examples; nobody scores it here.

    >>> from itpo.data import generate_gsm
    >>> real_scene(generate_gsm(3, seed=0), seed=0).max_turns
    5
    """
    example = random.Random(f"chat/{seed}").choice(examples)
    return Scene(example.goal, example.prompt, MAX_TURNS[example.task])


def converse(
    answer: Callable[[list[Message]], str],
    scene: Scene | None,
    say: Callable[[str], None] = print,
    hear: Callable[[str], str] = input,
) -> list[Message]:
    """Hold one conversation with a person, who ends it by an empty line; returns its messages.

    Without a scene the person opens the conversation, about anything and for as long as wanted.

    >>> lines = iter(["hello", ""])
    >>> said = converse(lambda messages: "hi", None, hear=lambda prompt: next(lines))
    assistant> hi
    >>> [message.content for message in said]
    ['hello', 'hi']
    """
    messages = list(scene.opening) if scene else []
    if scene:
        say(f"You play the user. What you know: {scene.knows}\nAn empty line ends the conversation.")
    for message in messages:
        say(f"{message.role}> {message.content}")
    turns = 0
    while scene is None or turns < scene.max_turns:
        if not messages or messages[-1].role == "assistant":
            text = _hear(hear)
            if not text:
                break
            messages.append(Message("user", text))
        messages.append(Message("assistant", answer(messages)))
        say(f"assistant> {messages[-1].content}")
        turns += 1
    if scene and scene.score:
        say(f"score: {scene.score(messages):.2f}")
    return messages


def _hear(hear: Callable[[str], str]) -> str:
    try:
        return hear("user> ").strip()
    except EOFError:
        return ""
