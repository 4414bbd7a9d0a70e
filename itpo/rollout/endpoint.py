"""A language model behind an OpenAI-compatible server: many questions at a time, each retried, and replies kept on disk.

vLLM, Ollama, llama.cpp and ``transformers serve`` all speak this protocol. A question that stays without a readable reply comes
back as an :class:`EndpointError` in its place, so that one lost reply does not lose the others.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from itpo.dialogue import Message
from itpo.rollout.parsing import ReplyError
from itpo.runs.files import RunFolderError, hash_json, json_bytes, read_json
from itpo.specs import Endpoint

if TYPE_CHECKING:  # imported where a server is asked: it takes a second
    _T = TypeVar("_T")
_LONGEST_PAUSE = 60.0  # seconds
_SHOWN = 160  # characters of a server's answer in a message
# What may pass: time-outs, conflicts, rate limits and faults of the server itself.
_PASSING = {408, 409, 425, 429}


class EndpointError(ConnectionError):
    """A question that a server did not answer, or not readably, in any of the attempts."""


@runtime_checkable
class LanguageModel(Protocol):
    """What plays users and judges.

    ``lanes`` is how many batches of dialogues a rollout should hold at a time: with two, the policy speaks in one while the
    model answers in the other; a model that needs the policy's own processor gains nothing by that and has one.
    """

    lanes: int

    def ask(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int], read: Callable[[str], _T]
    ) -> list[_T | EndpointError]:
        """One reply for each prompt, as ``read`` reads it; it raises ``ReplyError`` for a text that it cannot read."""
        ...


def the_only(answers: Sequence[_T | Exception]) -> _T:
    """The answer to a single question; an error in its place is raised.

    >>> the_only(["yes"])
    'yes'
    """
    (answer,) = answers
    if isinstance(answer, Exception):
        raise answer
    return answer


class EndpointModel:
    """Asks one :class:`Endpoint`; may be used from several threads, which share its bound on concurrency.

    With ``cache``, a folder, every readable reply is kept under the hash of what was asked: model, messages, temperature,
    length and seed, but neither address nor key. A rerun that asks the same needs no server, also at temperature 1; and an
    interrupted run that is taken up again hears the same replies, so that it ends as if it had not been interrupted.

    >>> nobody = Endpoint("http://127.0.0.1:9/v1", "any", attempts=1, timeout=5.0)
    >>> EndpointModel(nobody).ask([[Message("user", "hello")]], [0], str)
    [EndpointError('no reply from http://127.0.0.1:9/v1 (any) in 1 attempts: ...')]
    """

    lanes = 2

    def __init__(self, endpoint: Endpoint, cache: Path | str | None = None) -> None:
        self.endpoint, self.cache = endpoint, None if cache is None else Path(cache)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def ask(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int], read: Callable[[str], _T]
    ) -> list[_T | EndpointError]:
        """One reply for each prompt, in order, all asked at once; an error stands where there is none.

        A reply that ``read`` refuses is asked for again with the next seed. Raises ``ValueError`` unless there are as many
        seeds as prompts, and passes on what ``read`` raises beside ``ReplyError``.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds: pass one for each prompt")

        async def all_of_them() -> list[_T | EndpointError]:
            """Every question with its attempts, all on their way together."""
            return list(
                await asyncio.gather(
                    *(self._answer(*pair, read) for pair in zip(prompts, seeds, strict=True))
                )
            )

        return self._run(all_of_them())

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run ``work`` on the one event loop that owns the connections, from whichever thread."""
        import openai

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True).start()
                self._slots = asyncio.Semaphore(self.endpoint.concurrency)
                self._client = openai.AsyncOpenAI(
                    base_url=self.endpoint.url,
                    # The client insists on a key, also for servers that need none.
                    api_key=os.environ.get(self.endpoint.key_variable) or "none",
                    timeout=self.endpoint.timeout,
                    max_retries=0,  # counted, paused and explained here
                )
        task = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return task.result()
        except BaseException:  # such as Ctrl-C: what is still on its way is not wanted any more
            task.cancel()
            raise

    async def _answer(
        self, prompt: Sequence[Message], seed: int, read: Callable[[str], _T]
    ) -> _T | EndpointError:
        """One question with all its attempts."""
        import openai

        place, wrong = self.endpoint, ""
        for attempt in range(place.attempts):
            pause = place.pause * 2**attempt
            try:
                return await self._attempt(prompt, seed + attempt, read)
            except openai.APIStatusError as error:
                wrong = f"status {error.status_code}, {_short(error.response.text)}"
                if error.status_code < 500 and error.status_code not in _PASSING:
                    return EndpointError(
                        f"{place.url} ({place.model}) refuses the question: {wrong}; correct url, model or key"
                    )
                pause = _wanted_pause(error) or pause
            except (openai.APITimeoutError, TimeoutError):
                wrong = f"no answer within {place.timeout:g} seconds"
            except openai.APIConnectionError as error:
                wrong = f"no connection ({error.__cause__ or error}); is the server running?"
            except (openai.APIResponseValidationError, JSONDecodeError) as error:
                wrong = f"the answer is not JSON: {_short(str(error))}"
            except ReplyError as error:
                wrong = str(error)
            if attempt + 1 < place.attempts:
                await asyncio.sleep(min(pause, _LONGEST_PAUSE))
        return EndpointError(
            f"no reply from {place.url} ({place.model}) in {place.attempts} attempts: {wrong}"
        )

    async def _attempt(self, prompt: Sequence[Message], seed: int, read: Callable[[str], _T]) -> _T:
        place = self.endpoint
        question: dict[str, Any] = {
            "model": place.model,
            "messages": [message.as_dict() for message in prompt],
            "temperature": place.temperature,
            "max_tokens": place.max_tokens,
            "seed": seed,
        }
        path = None if self.cache is None else _cached(self.cache, question)
        if path is not None and path.exists():
            return read(_stored(path))
        # The client's own limit is on each silence, which an answer that comes in drops never breaks.
        async with self._slots, asyncio.timeout(place.timeout):
            text = _text(await self._client.chat.completions.create(**question))
        reply = read(text)  # before it is kept: what cannot be read is asked for again in a rerun too
        if path is not None:
            _keep(path, json_bytes(format="itpo-reply", version=1, question=question, reply=text))
        return reply


def _cached(folder: Path, question: dict[str, Any]) -> Path:
    name = hash_json(question)
    return folder / name[:2] / f"{name[2:]}.json"


def _keep(path: Path, content: bytes) -> None:
    """Write a whole file at once; several threads and processes may share the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    partial.write_bytes(content)
    os.replace(partial, path)


def _stored(path: Path) -> str:
    document = read_json(path, "delete the file to ask again")
    if document.get("format") != "itpo-reply" or not isinstance(document.get("reply"), str):
        raise RunFolderError(path, "is not a reply that this library kept", "delete the file to ask again")
    return document["reply"]


def _text(answer: Any) -> str:
    """The text of a chat completion; raises ``ReplyError`` for anything else, such as the HTML page of a proxy."""
    # The client hands over a body that is not JSON as a string, and does not check the fields of one that is.
    if isinstance(answer, str):
        raise ReplyError(f"the answer is not JSON: {_short(answer)}")
    choices = getattr(answer, "choices", None)
    text = getattr(getattr(choices[0], "message", None), "content", None) if choices else None
    if not isinstance(text, str) or not text.strip():
        raise ReplyError("the answer has no text in choices[0].message.content")
    return text


def _wanted_pause(error: Any) -> float | None:
    """Seconds that the server asks to wait (``Retry-After``; its form as a date is not read)."""
    try:
        seconds = float(error.response.headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return seconds if seconds >= 0 else None  # no comparison holds for NaN


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= _SHOWN else f"{flat[:_SHOWN]}...")
