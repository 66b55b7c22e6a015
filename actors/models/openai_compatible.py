"""A model behind a server that speaks OpenAI's wire: OpenAI, Ollama, LM Studio, vLLM, LiteLLM, OpenRouter."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from http import HTTPStatus

import httpcore2
import httpx2
import msgspec
import trio

from ...runtime.errors import NeedsOperator, PocketPawError
from .connections import HTTP_ERRORS, Connections
from .errors import (
    ModelCredentialRefused,
    ModelInterrupted,
    ModelMisconfigured,
    ModelRateLimited,
    ModelRefusedInput,
    ModelUnreachable,
)
from .openai_answer import Answer
from .openai_failures import Source, failure_of_status, failure_of_transport, parse_error_body, retry_after
from .openai_wire import DEFAULT_DIALECT, AnswerReader, encode_request
from .protocol import Generate, GenerationEvent

ERROR_BODY_LIMIT_BYTES = 64 * 1024
ERROR_BODY_S = 5.0
_NO_LIST_OF_MODELS = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)


class Limits(msgspec.Struct, frozen=True):
    """How long to wait for what, and how often to try."""

    connect_s: float = 10.0
    silence_s: float = 120.0
    """Between two pieces of an answer, the first included: a local server may load the model first."""
    total_s: float = 600.0
    check_s: float = 5.0
    retries: int = 3
    backoff_s: float = 0.5
    backoff_factor: float = 2.0
    backoff_jitter: float = 0.2
    retry_after_cap_s: float = 30.0
    """A server that asks for a longer pause is not waited for: somebody else may answer meanwhile."""

    def pause_before(self, retry: int, asked_s: object) -> float | None:
        """How long to wait before retry number `retry` (from 0); None: do not."""
        if retry >= self.retries:
            return None
        if isinstance(asked_s, int | float):
            return asked_s if asked_s <= self.retry_after_cap_s else None
        jitter = random.uniform(1 - self.backoff_jitter, 1 + self.backoff_jitter)  # noqa: S311
        return self.backoff_s * self.backoff_factor**retry * jitter


DEFAULT_LIMITS = Limits()


def open_client() -> Connections:
    """Make what every backend shares to reach its server; close it with `aclose()`."""
    return Connections()


class OpenAICompatible:
    """One configured model; a setting that cannot work says so when it is used, so that it harms nobody else."""

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        model: str,
        client: Connections,
        api_key: str = "",
        max_tokens: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.name = name
        self.model = model
        self._client = client
        self._max_tokens = max_tokens or None
        self._limits = limits
        self._dialect = DEFAULT_DIALECT
        self._url, address = _parse_address(base_url)
        self._source = Source(name, model, address, api_key)
        self._fault = self._find_fault()
        self._headers = [] if self._url is None or self._fault is not None else _headers(self._url, api_key)

    def __repr__(self) -> str:
        return f"OpenAICompatible({self.name!r}, {self._source.address!r}, {self.model!r})"

    async def generate(self, request: Generate) -> AsyncGenerator[GenerationEvent]:
        """Stream the answer to `request`; closing the generator closes the connection.

        Failures that may pass are retried, but never once something has been yielded. Raises: see errors.py
        """
        deadline = trio.current_time() + self._limits.total_s
        answer, events = await self._begin(request, deadline)
        try:
            while events:
                for event in events:
                    yield event
                events = await answer.next_events()
        finally:
            await answer.close()

    async def check(self) -> None:
        """Ask for the list of models, which costs nothing; raises what a request would, without retries."""
        deadline = trio.current_time() + self._limits.check_s
        response = await self._send("GET", b"/models", b"", deadline)
        try:
            if response.status != HTTPStatus.OK and response.status not in _NO_LIST_OF_MODELS:
                raise await self._failure_of(response)
        finally:
            await response.aclose()

    async def _begin(self, request: Generate, deadline: float) -> tuple[Answer, list[GenerationEvent]]:
        """Try until an answer has begun; give it with its first events."""
        retry = 0
        while True:
            try:
                return await self._try_once(request, deadline)
            except ModelRefusedInput as refusal:
                dialect = self._dialect.adapted_to(refusal.detail)
                if dialect is None:
                    raise
                self._dialect = dialect
            except (ModelUnreachable, ModelRateLimited, ModelInterrupted) as failure:
                pause_s = self._limits.pause_before(retry, failure.data.get("retry_after_s"))
                if pause_s is None or trio.current_time() + pause_s >= deadline:
                    raise
                retry += 1
                await trio.sleep(pause_s)

    async def _try_once(self, request: Generate, deadline: float) -> tuple[Answer, list[GenerationEvent]]:
        limits = [limit for limit in (request.max_tokens, self._max_tokens) if limit is not None]
        body = encode_request(self.model, request.messages, min(limits, default=None), request.tools, self._dialect)
        response = await self._send("POST", b"/chat/completions", body, deadline)
        reader = AnswerReader(backend=self.name, model=self.model, messages=request.messages)
        answer = Answer(response, reader, self._source, deadline)
        try:
            if response.status != HTTPStatus.OK:
                raise await self._failure_of(response)
            return answer, await answer.next_events()
        except BaseException:
            await answer.close()
            raise

    async def _send(self, method: str, path: bytes, body: bytes, deadline: float) -> httpcore2.Response:
        """Send a request and wait for the head of its response; the caller closes it."""
        if self._fault is not None or self._url is None:
            assert self._fault is not None
            raise type(self._fault)(self._fault.detail, **self._fault.data)
        limits = self._limits
        timeouts = {"connect": limits.connect_s, "read": limits.silence_s, "write": limits.silence_s}
        url = httpcore2.URL(
            scheme=self._url.raw_scheme,
            host=self._url.raw_host,
            port=self._url.port,
            target=self._url.raw_path.rstrip(b"/") + path,
        )
        headers = [*self._headers, (b"content-length", b"%d" % len(body))]
        request = httpcore2.Request(method, url, headers=headers, content=body, extensions={"timeout": timeouts})
        try:
            with trio.fail_at(deadline):
                return await self._client.send(request)
        except (*HTTP_ERRORS, trio.TooSlowError) as error:
            raise failure_of_transport(error, self._source) from error

    async def _failure_of(self, response: httpcore2.Response) -> PocketPawError:
        body = bytearray()
        try:
            with trio.move_on_after(ERROR_BODY_S):
                async with aclosing(response.aiter_stream()) as pieces:
                    async for piece in pieces:
                        body += piece
                        if len(body) > ERROR_BODY_LIMIT_BYTES:
                            break
        except HTTP_ERRORS:
            pass  # the status says enough
        pause_s = retry_after({name.lower(): value for name, value in response.headers}, datetime.now(UTC))
        return failure_of_status(response.status, parse_error_body(bytes(body)), self._source, pause_s)

    def _find_fault(self) -> NeedsOperator | None:
        """Find what makes every request useless."""
        source = self._source
        context: dict[str, object] = {"backend": self.name, "model": self.model}
        if self._url is None:
            expected = "expected something like http://127.0.0.1:11434/v1"
            return ModelMisconfigured(
                f"{self.name}: {source.address!r} is no address of a server; {expected}", **context
            )
        if not self.model:
            return ModelMisconfigured(f"{self.name} at {source.address}: no model is named", **context)
        if not (source.api_key.isascii() and source.api_key.isprintable()):
            return ModelCredentialRefused(f"{self.name}: its API key holds characters that no key has", **context)
        return None


def _headers(url: httpx2.URL, api_key: str) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"host", url.netloc),
        (b"content-type", b"application/json"),
        (b"accept", b"text/event-stream, application/json"),
        (b"accept-encoding", b"identity"),  # compression would hold chunks back
        (b"user-agent", b"pocketpaw"),
    ]
    if api_key:
        headers.append((b"authorization", b"Bearer " + api_key.encode("ascii")))
    elif url.userinfo:
        headers.append((b"authorization", b"Basic " + b64encode(f"{url.username}:{url.password}".encode())))
    return headers


def _parse_address(base_url: str) -> tuple[httpx2.URL | None, str]:
    """Give the URL, None if it is none, and how it may be shown: without a user, a password or a query."""
    try:
        url = httpx2.URL(base_url.strip().rstrip("/"))
    except httpx2.InvalidURL:
        return None, base_url.rpartition("@")[2].partition("?")[0]
    port = f":{url.port}" if url.port else ""
    shown = f"{url.scheme}://{url.host}{port}{url.path.rstrip('/')}"
    return (url if url.scheme in ("http", "https") and url.host else None), shown
