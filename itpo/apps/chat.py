"""A person in the terminal talks to a policy, freely or as the user of an example, or takes the assistant's place."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from itpo.apps.configs import check_name
from itpo.apps.terminal import visible
from itpo.chat import ChatFormat
from itpo.config import RunConfig, TaskSpec
from itpo.data import FORMATS, Example, load_examples
from itpo.dialogue import Message
from itpo.models.loading import adapted, load_base, load_model
from itpo.rollout.endpoint import EndpointError, EndpointModel
from itpo.rollout.llm_judge import ModelJudge
from itpo.rollout.real_tasks import RealDocuments, RealMath, RealMedical
from itpo.rollout.sampler import Sampling, speak
from itpo.rollout.users import ModelUser
from itpo.runs.store import Run, Store
from itpo.specs import Adapter, Endpoint
from itpo.tasks.base import MAX_TURNS, ScriptedTask
from itpo.tasks.prose import Prose, read
from itpo.thoughts import THOUGHT_TAGS
from itpo.training.build import base_model

Role = Literal["user", "assistant"]
Party = Callable[[list[Message]], str | None]  # what is said next; ``None`` ends the conversation

_POLICY = "policy"
_LETTERS = "abcdefgh"  # no digits: they may be what a person wants to say
_DRAWS = 60  # of which the moves are those that came up


class Talker:
    """A policy that answers one conversation at a time: a base model, or the policy that a finished run trained on it."""

    def __init__(self, base: Path | str, run: Run | None, max_turn_tokens: int, seed: int) -> None:
        model, tokenizer = load_base(base) if run is None else load_model(run.config.model, base)
        tags = THOUGHT_TAGS if run is None else run.config.thought_tags
        self.chat, self.sampling = ChatFormat(tokenizer, tags, model), Sampling(max_turn_tokens)
        self.generator = torch.Generator().manual_seed(seed)
        self.backbone = adapted(model, [_POLICY], run.config.adapter if run else Adapter())
        self.adapter = None if run is None else _POLICY
        if run is not None:
            self.backbone.load_adapter(_POLICY, run.folder / _POLICY)

    def answer(self, messages: list[Message]) -> str:
        """What the policy says next, sampled at temperature 1."""
        with self.backbone.use(self.adapter):
            return speak(self.backbone, self.chat, [messages], self.generator, self.sampling)[0]


@dataclass(frozen=True)
class Scene:
    """An example to be talked about: what its user knows, the opening, and how many assistant turns there are.

    ``parties`` can speak for "user" or "assistant": they take the place that the person leaves, and say what they would in
    the person's own. ``moves`` are what a scripted one may say there. ``score`` is the outcome of a finished conversation.
    ``example`` is the problem of a scripted task; ``plain`` asks for its words in that task's own spelling.
    """

    knows: str
    opening: tuple[Message, ...]
    max_turns: int
    parties: Mapping[str, Party] = field(default_factory=dict)
    moves: Mapping[str, Callable[[list[Message]], list[str]]] = field(default_factory=dict)
    score: Callable[[list[Message]], float] | None = None
    plain: bool = False
    example: Any = None


def scripted_scene(task: ScriptedTask, seed: int) -> Scene:
    """A problem of a scripted task, with its user and its scripted policy.

    >>> scene = scripted_scene(TaskSpec("medical").build(), seed=0)
    >>> scene.knows, scene.opening[0].content
    ('complaint: pain, place: ..., time: ..., allergy: ...', 'doctor , this pain worries me .')
    """
    rng = random.Random(f"chat/{seed}")
    example = task.sample(rng)

    def speak(messages: list[Message], rng: random.Random) -> str:
        """What the expert may say, or the policy that the base model imitates."""
        return task.scripted_policy(example, messages, rng, rng.choice((task.expert, task.noisy_expert)))

    # A reader's own task may draw anything.
    known = asdict(example) if is_dataclass(example) and not isinstance(example, type) else {}
    return Scene(
        ", ".join(f"{name}: {value}" for name, value in known.items()) or str(example),
        tuple(task.opening(example)),
        task.max_turns,
        {
            "user": lambda messages: task.reply(example, messages, rng),
            "assistant": lambda messages: task.scripted_policy(example, messages, rng, task.expert),
        },
        {
            "user": partial(_moves, partial(task.reply, example), getattr(task, "reply_kind", str)),
            "assistant": partial(_moves, speak, task.act),
        },
        partial(task.score, example),
        plain=not isinstance(task, Prose),
        example=example,
    )


def _moves(draw: Callable[..., str | None], kind: Callable[[str], str], messages: list[Message]) -> list[str]:
    """What is said most often in this place, one of each kind."""
    rng = random.Random(f"moves/{len(messages)}")  # its own: to look at the moves changes nothing
    drawn = [text for _ in range(_DRAWS) if (text := draw(messages, rng=rng))]
    counts = Counter(map(kind, drawn))
    first = {kind(text): text for text in reversed(drawn)}
    return [first[name] for name, _ in counts.most_common(len(_LETTERS))]


def real_scene(examples: Sequence[Example], seed: int, endpoint: Endpoint | None = None) -> Scene:
    """One of real examples; a language model behind ``endpoint``, if any, plays its user and judges the outcome.

    Raises :class:`itpo.rollout.endpoint.EndpointError` where that user has to open the conversation and does not.

    >>> from itpo.data import generate_gsm
    >>> real_scene(generate_gsm(3, seed=0), seed=0).max_turns
    5
    """
    rng = random.Random(f"chat/{seed}")
    example = rng.choice(examples)
    if endpoint is None:
        return Scene(example.goal, example.prompt, MAX_TURNS[example.task])
    user = ModelUser(EndpointModel(endpoint))
    judge = ModelJudge(EndpointModel(replace(endpoint, temperature=0.0)))
    if example.prompt[-1].content == example.goal:  # a plain problem, which hides nothing
        (example,) = user.open([example], seed)
    kinds = {kind.name: kind for kind in (RealMath, RealDocuments, RealMedical)}
    task = kinds[example.task]([example], user, judge)
    parties = {"user": lambda messages: task.reply(example, messages, rng)}
    return Scene(example.goal, example.prompt, task.max_turns, parties, score=partial(task.score, example))


def find_scene(
    task: TaskSpec, data: str | None, format: str | None, endpoint: Endpoint | None, seed: int
) -> Scene:
    """An example of a scripted task, or of real ``data`` in this format.

    Raises ``ValueError`` for an unknown format, and :class:`itpo.data.DataError` for data that cannot be read.

    >>> find_scene(TaskSpec("medical"), None, None, None, seed=0).opening[0].content
    'doctor , this pain worries me .'
    """
    if data is None or format is None:
        return scripted_scene(task.build(), seed)
    check_name("format", format, FORMATS)
    return real_scene(load_examples(data, format).examples, seed, endpoint)


def find_policy(
    config: RunConfig, run: Run | None, base: Path | None, max_tokens: int, seed: int, root: Path
) -> Party:
    """The policy of a run, or a base alone: that of ``config``, made in the store ``root`` if missing, unless one is named.

    Raises ``FileNotFoundError`` where there is no model in the folder ``base``.
    """
    if base and not base.is_dir():
        raise FileNotFoundError(f"no model in {base}: name the folder of one")
    if base is None:
        base_of = (run.config, Store(run.folder.parent, mix_platforms=True)) if run else (config, Store(root))
        return Talker(base_model(*base_of), run, max_tokens, seed).answer
    return Talker(base, run, max_tokens, seed).answer


def person(role: str, scene: Scene | None, hear: Callable[[str], str], say: Callable[[str], None]) -> Party:
    """The person at the keyboard, who is shown the moves there are, and may type the letter of one.

    An empty line ends the conversation, a question mark asks for a hint.

    >>> lines = iter(["What is my name?", ""])
    >>> me = person("user", None, lambda prompt: next(lines), print)
    >>> me([]), me([])
    ('What is my name?', None)
    """
    hint = scene.parties.get(role) if scene else None
    moves = scene.moves.get(role) if scene else None

    def speak_up(messages: list[Message]) -> str | None:
        """The next line that is not a question mark, or the move it means; ``None`` for an empty one."""
        offered = dict(zip(_LETTERS, moves(messages), strict=False)) if moves else {}
        for letter, move in offered.items():
            say(f"  {letter}  {move}")
        if moves and not offered:
            say("(a scripted one would end the conversation here)")
        text = _line(hear, role)
        while text == "?" and hint:
            advice = hint(messages)
            say(f"(you might {'end the conversation' if advice is None else f'say: {advice}'})")
            text = _line(hear, role)
        text = offered.get(text.rstrip(")."), text)
        return (read(text) if scene and scene.plain else text) or None

    return speak_up


def ask(prompt: str) -> str:
    """A line of standard input, which is shown too where nobody types it, so that the conversation can be read."""
    text = input(prompt)
    if not sys.stdin.isatty():
        print(visible(text))
    return text


def converse(
    other: Party,
    scene: Scene | None,
    role: Role = "user",
    say: Callable[[str], None] = print,
    hear: Callable[[str], str] = ask,
) -> list[Message]:
    """Hold one conversation between a person in this role and the ``other`` party; returns its messages.

    Without a scene the person opens the conversation, about anything and for as long as wanted. What is said is shown as
    :func:`itpo.apps.terminal.visible` makes it.

    >>> lines = iter(["hello", ""])
    >>> messages = converse(lambda messages: "hi", None, hear=lambda prompt: next(lines))
    assistant> hi
    >>> [message.content for message in messages]
    ['hello', 'hi']
    """

    def show(text: str) -> None:
        say(visible(text))

    me = person(role, scene, hear, show)
    messages = list(scene.opening) if scene else []
    if scene:
        say(_instructions(scene, role))
    for message in messages:
        show(f"{message.role}> {message.content}")
    turns = 0
    while True:
        speaker: Role = "assistant" if messages and messages[-1].role == "user" else "user"
        if scene and speaker == "user" and turns == scene.max_turns:
            break
        text = (me if speaker == role else other)(messages)
        if text is None:
            break
        messages.append(Message(speaker, text))
        turns += speaker == "assistant"
        if speaker != role:
            show(f"{speaker}> {text}")
    if scene:
        _conclude(scene, role, messages, show)
    return messages


def _instructions(scene: Scene, role: str) -> str:
    task = visible(f"What you know: {scene.knows}") if role == "user" else "Find out what the user wants."
    ways = ["Type your own words"]
    ways += ["or the letter of a move"] * (role in scene.moves) + ["? for a hint"] * (role in scene.parties)
    return f"You play the {role}. There are {scene.max_turns} assistant turns. {', '.join(ways)}; an empty line ends.\n{task}"


def _conclude(scene: Scene, role: str, messages: list[Message], say: Callable[[str], None]) -> None:
    """What the user had in mind, and what the conversation is worth."""
    if role == "assistant":
        say(f"The user knew: {scene.knows}")
    if scene.score and any(message.role == "assistant" for message in messages):
        try:
            say(f"score: {scene.score(messages):.2f}")
        except EndpointError as error:
            say(f"no score: {error}")


def _line(hear: Callable[[str], str], role: str) -> str:
    try:
        return hear(f"{role}> ").strip()
    except EOFError:
        return ""
