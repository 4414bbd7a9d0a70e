"""A language model behind an OpenAI-compatible server: many questions at a time, each retried, and replies kept on disk.

vLLM, Ollama, llama.cpp and ``transformers serve`` all speak this protocol. A question that stays without a readable reply comes
back as an :class:`EndpointError` in its place, so that one lost reply does not lose the others.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable
from urllib.parse import quote

from itpo.dialogue import Message
from itpo.rollout.parsing import ReplyError
from itpo.runs.files import RunFolderError, hash_json, json_bytes, read_json
from itpo.specs import Endpoint

if TYPE_CHECKING:  # imported where a server is asked: it takes a second
    _T = TypeVar("_T")
_LONGEST_PAUSE = 60.0  # seconds
# A body may be this long; so may be a text for each of its tokens. Beyond, it is not what was asked for.
_MOST_BYTES, _MOST_CHARACTERS = 4_000_000, 64
_SHOWN = 160  # characters of a server's answer in a message
# What may pass: time-outs, conflicts, rate limits and faults of the server itself.
_PASSING = {408, 409, 425, 429}
_BEARER = re.compile(r"\b(Bearer)\s+[^\s\"',}]+", re.IGNORECASE)
# Of files with kept replies; those of version 1 may have been cut off.
_KEPT = 2


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


def _serve(loop: asyncio.AbstractEventLoop, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run an event loop until it is stopped, then ``close`` its connections and give back its threads and files."""
    try:
        loop.run_forever()
        loop.run_until_complete(close())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


class EndpointModel:
    """Asks one :class:`Endpoint`; may be used from several threads, which share its bound on concurrency.

    Only a reply that the server says is complete (``finish_reason`` "stop") is a reply. Redirections are not followed, and the
    key is struck out of all that a server sends.

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
                self._loop = loop = asyncio.new_event_loop()
                self._slots = asyncio.Semaphore(self.endpoint.concurrency)
                self._key = os.environ.get(self.endpoint.key_variable, "").strip()
                self._client = openai.AsyncOpenAI(
                    base_url=self.endpoint.url,
                    # The client insists on a key, also for servers that need none.
                    api_key=self._key or "none",
                    timeout=self.endpoint.timeout,
                    max_retries=0,  # counted, paused and explained here
                    # Whoever is redirected to would read prompts and key.
                    http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
                )
                threading.Thread(
                    target=_serve, args=(loop, self._client.close), name="endpoint", daemon=True
                ).start()
                weakref.finalize(self, loop.call_soon_threadsafe, loop.stop).atexit = False
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
        place, wrong = self.endpoint, ""
        for attempt in range(place.attempts):
            pause = place.pause * 2**attempt
            try:
                return await self._attempt(prompt, seed + attempt, read)
            except ReplyError as error:
                wrong = str(error)
            except _Refused as error:
                wrong, pause = str(error), error.pause or pause
                if error.final:
                    text = f"{place.url} ({place.model}) refuses the question: {wrong}; correct url, model or key"
                    return self._error(text)
            if attempt + 1 < place.attempts:
                await asyncio.sleep(min(pause, _LONGEST_PAUSE))
        text = f"no reply from {place.url} ({place.model}) in {place.attempts} attempts: {wrong}"
        return self._error(text)

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
        kept = None if path is None or not path.exists() else _stored(path)
        if kept is not None:
            return read(kept)
        text = self._without_key(_text(await self._fetch(question), place.max_tokens))
        reply = read(text)  # before it is kept: what cannot be read is asked for again in a rerun too
        if path is not None:
            _keep(path, json_bytes(format="itpo-reply", version=_KEPT, question=question, reply=text))
        return reply

    async def _fetch(self, question: dict[str, Any]) -> Any:
        """The server's answer, from JSON. Raises ``_Refused`` for whatever comes in its place."""
        import openai

        place = self.endpoint
        try:
            # The client's own limit is on each silence, which an answer that comes in drops never breaks.
            async with self._slots, asyncio.timeout(place.timeout):
                stream = self._client.chat.completions.with_streaming_response
                async with stream.create(**question) as answer:
                    kind, body = answer.headers.get("content-type", ""), b""
                    async for part in answer.iter_bytes(65536):
                        body += part
                        if len(body) > _MOST_BYTES:
                            raise _Refused(f"the answer is longer than {_MOST_BYTES} bytes")
            text = body.decode("utf-8-sig")
        except _Refused:
            raise
        except openai.APIStatusError as error:
            code, text = error.status_code, self._short(error.response.text)
            if 300 <= code < 400:
                target = self._short(error.response.headers.get("location", "nowhere"))
                text = f"a redirection to {target}, which prompts do not follow"
            final = code < 500 and code not in _PASSING
            raise _Refused(f"status {code}, {text}", _wanted_pause(error), final) from None
        except (openai.APITimeoutError, TimeoutError):
            raise _Refused(f"no answer within {place.timeout:g} seconds") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            wrong = str(cause) or type(cause).__name__
            raise _Refused(f"no connection ({wrong}); is the server running?") from None
        except UnicodeDecodeError:
            raise _Refused("the answer is not text in UTF-8") from None
        except Exception as error:  # of the connection, in the middle of an answer: its library has many
            raise _Refused(f"the answer broke off ({type(error).__name__}: {error})") from None
        try:
            answered = json.loads(text if "json" in kind else "")
        except (ValueError, RecursionError):
            raise _Refused(f"the answer is not JSON: {self._short(text)}") from None
        if isinstance(answered, dict) and answered.get("error") and not answered.get("choices"):
            raise _Refused(f"the server reports an error: {self._short(json.dumps(answered['error']))}")
        return answered

    def _without_key(self, text: str) -> str:
        """A server may send back what it was sent."""
        forms = {
            self._key,
            quote(self._key, safe=""),
            json.dumps(self._key)[1:-1],
            self._key.replace("/", r"\/"),
        }
        for form in forms - {""}:
            text = text.replace(form, "[key]")
        return text

    def _error(self, text: str) -> EndpointError:
        return EndpointError(_BEARER.sub(r"\1 [key]", self._without_key(text)))

    def _short(self, text: str) -> str:
        """The beginning of what a server sent, on one line."""
        flat = " ".join(self._without_key(text).split())
        return repr(flat if len(flat) <= _SHOWN else f"{flat[:_SHOWN]}...")


class _Refused(Exception):
    """An attempt without a reply; ``pause`` are the seconds that the server asks to wait, ``final`` is not asked again."""

    def __init__(self, wrong: str, pause: float | None = None, final: bool = False) -> None:
        super().__init__(wrong)
        self.pause, self.final = pause, final


def _cached(folder: Path, question: dict[str, Any]) -> Path:
    name = hash_json(question)
    return folder / name[:2] / f"{name[2:]}.json"


def _keep(path: Path, content: bytes) -> None:
    """Write a whole file at once; several threads and processes may share the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    partial.write_bytes(content)
    os.replace(partial, path)


def _stored(path: Path) -> str | None:
    """The reply that was kept; ``None`` for one of an older version, which is asked for again."""
    document = read_json(path, "delete the file to ask again")
    if document.get("format") != "itpo-reply" or not isinstance(document.get("reply"), str):
        raise RunFolderError(path, "is not a reply that this library kept", "delete the file to ask again")
    return document["reply"] if document.get("version") == _KEPT else None


def _text(answer: Any, max_tokens: int) -> str:
    """The whole text of a chat completion; raises ``ReplyError`` for anything else."""
    try:
        choice = answer["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
    except (TypeError, KeyError, IndexError, AttributeError):
        text, reason = None, "stop"
    if reason != "stop":
        wanted = "; raise max_tokens" if reason == "length" else ""
        raise ReplyError(
            f"the reply is not complete: finish_reason is {repr(reason)[:_SHOWN]}, not 'stop'{wanted}"
        )
    if not isinstance(text, str) or not text.strip():
        raise ReplyError("the answer has no text in choices[0].message.content")
    if len(text) > _MOST_CHARACTERS * max_tokens:
        raise ReplyError(f"the reply has {len(text)} characters, more than max_tokens {max_tokens} can have")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ReplyError("the reply has half of a surrogate pair, which is no text") from None
    return text


def _wanted_pause(error: Any) -> float | None:
    """Seconds that the server asks to wait (``Retry-After``; its form as a date is not read)."""
    try:
        seconds = float(error.response.headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return seconds if seconds >= 0 else None  # no comparison holds for NaN
