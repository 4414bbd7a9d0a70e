"""Specifications: frozen dataclasses that say what a run is made of, each field checked when it is made.

A specification can be written to JSON and read back equal, so a run's folder is named by it. What a reader brings along (a
method, task, user or judge of their own) is named by ``module:name`` and a version that it must state itself.

Marks: [P] paper, [C] the authors' released code, [S] secondary sources, [O] our own choice.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from itpo.data import FORMATS, Example, load_examples
from itpo.fields import Options, check, check_fields, check_named, load_named, setting

PRECISIONS = ("full", "nf4")
PROMPTS_VERSION = 1  # of rollout/prompts/*.txt; raise it when their wording changes


@dataclass(frozen=True)
class RealData:
    """A task on real examples, which a language model plays the user of (:mod:`itpo.rollout.real_tasks`).

    ``source`` is what :func:`itpo.data.load_examples` takes; None is the format's dataset on the hub. What becomes of a
    dialogue that cannot be judged is left out ("drop"), or has outcome 0 as in the released code ("zero").
    """

    format: str
    source: str | None = None
    count: int = setting(500, low=2)  # examples, the first ones of the source [S]
    lost: str = setting("drop", among=("drop", "zero"))
    judged: bool = False  # math: a judge compares the answers instead of a rule
    unit: str = setting("characters", among=("characters", "words"))  # documents: of BLEU; characters [C]
    keep_marker: bool = False  # documents: score the document's leading marker with it [C]
    # Medical: outcome 1 from this score on, else 0 [S].
    accurate_from: float | None = setting(None, low=0, high=10)

    def __post_init__(self) -> None:
        check_fields(self)
        check("format", self.format in FORMATS, self.format, f"one of {', '.join(sorted(FORMATS))}")

    @property
    def name(self) -> str:
        """The task of the examples: math, documents or medical."""
        return FORMATS[self.format].task

    def examples(self) -> Sequence[Example]:
        """The first ``count`` examples of the source; raises :class:`itpo.data.DataError` where they cannot be read."""
        return load_examples(self.source, self.format).examples[: self.count]


@dataclass(frozen=True)
class ScriptedUser:
    """The user that a task scripts itself."""


@dataclass(frozen=True)
class RuleJudge:
    """A judge of turns who knows the rules of a scripted task and errs at a known rate."""

    error_rate: float = setting(0.2, low=0, high=1)  # share of scores that are wrong [O]

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class FrozenBase:
    """The policy's own base, its adapters off, as user or judge: one GPU holds them all [O]."""

    max_tokens: int = setting(256, low=1)  # of one reply, its thought included [O]
    prompts: int = PROMPTS_VERSION

    def __post_init__(self) -> None:
        check_fields(self)
        _check_prompts(self.prompts)


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible server as user or judge, and how it answers. The times are our own choice [O].

    Replies are kept in the folder ``cache`` of the run store, so that a rerun or an interrupted run hears the same again;
    another name is another draw of users. Address and times decide no number and are no part of a run's name. The key is read
    from the environment variable ``key_variable`` and is never written anywhere; servers on the own machine need none.

    >>> Endpoint("http://127.0.0.1:8000/v1", "Qwen/Qwen2.5-14B-Instruct").temperature
    1.0
    """

    url: str = setting(names_run=False)
    model: str = setting()
    temperature: float = setting(1.0, low=0)  # of users in training; 0 in evaluation, and for judges [S]
    max_tokens: int = setting(512, low=1)  # of one reply [O]
    concurrency: int = setting(16, low=1, names_run=False)  # questions on their way at a time
    timeout: float = setting(120.0, low=1e-3, names_run=False)  # seconds for one attempt
    attempts: int = setting(4, low=1)
    # Seconds before the second attempt; doubled before each further one, unless the server says when.
    pause: float = setting(1.0, low=0, names_run=False)
    prompts: int = PROMPTS_VERSION
    cache: str | None = "replies"
    key_variable: str = setting("OPENAI_API_KEY", names_run=False)

    def __post_init__(self) -> None:
        check_fields(self)
        _check_prompts(self.prompts)
        # Errors and tables show addresses.
        hidden = re.sub(r"//.*@", "//[hidden]@", self.url).partition("?")[0]
        wanted = (
            "an address such as http://127.0.0.1:8000/v1, beginning with http:// or https://, without user name, password or "
            "query: keys belong into the environment variable that key_variable names"
        )
        check("url", hidden == self.url and _is_address(self.url), hidden, wanted)
        if self.cache is not None:
            plain_name = self.cache.replace("_", "").replace("-", "").isalnum()
            check(
                "cache",
                plain_name,
                self.cache,
                "a name of letters, digits, - and _ for a folder of the run store, or None",
            )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.port != 0 and parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # of a port or a bracket
        return False


def _check_prompts(version: int) -> None:
    check(
        "prompts",
        version == PROMPTS_VERSION,
        version,
        f"{PROMPTS_VERSION}, the version of the prompts that this library ships",
    )


@dataclass(frozen=True)
class Custom:
    """A user or judge of the reader's own: a class ``module:name``, made with ``options``, that states its ``version``.

    A user has the method ``replies`` of :class:`itpo.rollout.users.ModelUser`, and ``open`` where the data's prompts are whole
    problems; a judge has ``scores`` of :class:`itpo.tasks.judging.Judge` where the method reads them, and what the data's task
    asks of its :class:`itpo.rollout.llm_judge.ModelJudge`.
    """

    name: str
    version: int = setting(low=1)
    options: Mapping[str, Any] = dataclasses.field(default_factory=Options)

    def __post_init__(self) -> None:
        check_fields(self)
        check_named(self.name, self.version, (), "name")
        try:
            inspect.signature(load_named(self.name, self.version)).bind(**self.options)
        except TypeError as error:
            raise ValueError(f"options of {self.name}: {error}") from None


@dataclass(frozen=True)
class TinyLM:
    """Size and training of the tiny language model of a scripted task; every value is our own choice [O].

    ``dialogues_per_step`` dialogues of the task's scripted policy are imitated in each of ``steps`` AdamW steps.
    """

    hidden_size: int = setting(64, low=2)
    layers: int = setting(3, low=1)
    heads: int = setting(4, low=1)
    steps: int = setting(1400, low=1)
    dialogues_per_step: int = setting(32, low=1)
    learning_rate: float = setting(3e-3, above=0)
    seed: int = setting(0, low=0)

    def __post_init__(self) -> None:
        check_fields(self)
        fits = self.hidden_size % (2 * self.heads) == 0
        check("hidden_size", fits, self.hidden_size, f"a multiple of twice the {self.heads} heads")


@dataclass(frozen=True)
class Imitation:
    """How long and how fast a pretrained model imitates a scripted policy, all of its weights trained [O]."""

    steps: int = setting(30, low=1)
    dialogues_per_step: int = setting(16, low=1)
    dialogues_per_pass: int = setting(
        4, low=1
    )  # what must fit into memory; changes no result beyond rounding
    learning_rate: float = setting(2e-4, above=0)
    seed: int = setting(0, low=0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class PretrainedModel:
    """A pretrained base: a folder, a model on the hub, or one that a package brings ("smollm2").

    ``precision`` is "full" or "nf4" (see :func:`itpo.models.loading.load_base`).

    >>> PretrainedModel("Qwen/Qwen2.5-3B-Instruct", "nf4").imitation is None
    True
    """

    name: str
    precision: str = setting("full", among=PRECISIONS)
    imitation: Imitation | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Adapter:
    """Shape of the LoRA adapters, on all linear layers; rank and scaling are our choice [O]."""

    rank: int = setting(16, low=1)
    alpha: int = setting(32, low=1)

    def __post_init__(self) -> None:
        check_fields(self)


ALL = (
    RealData,
    ScriptedUser,
    RuleJudge,
    FrozenBase,
    Endpoint,
    Custom,
    TinyLM,
    Imitation,
    PretrainedModel,
    Adapter,
)
