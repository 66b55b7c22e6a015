"""A model behind an HTTP server, whichever wire it speaks: how it is asked, how often, and how long at most."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from http import HTTPStatus
from typing import ClassVar

import httpcore2
import httpx2
import msgspec
import trio

from ...runtime.errors import NeedsOperator, PocketPawError
from .abilities import has_images, without_images
from .answer import Answer, Decoder, Reader
from .connections import HTTP_ERRORS, Connections
from .errors import (
    ModelCredentialRefused,
    ModelInterrupted,
    ModelMisconfigured,
    ModelRateLimited,
    ModelRefusedInput,
    ModelUnreachable,
)
from .failures import Source, failure_of_status, failure_of_transport, parse_error_body, retry_after
from .images import Pictures, load_images
from .protocol import Generate, GenerationEvent

ERROR_BODY_LIMIT_BYTES = 64 * 1024
SHORT_BODY_S = 5.0
_NO_SUCH_LIST = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)

Header = tuple[bytes, bytes]


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


class ServerBackend(ABC):
    """One configured model; a setting that cannot work says so when it is used, so that it harms nobody else."""

    chat_path: ClassVar[bytes]
    check_path: ClassVar[bytes]
    """A list that costs nothing, by which a check sees whether the server and its credential are there."""
    example_address: ClassVar[str]

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
        self.limits = limits
        self.max_tokens = max_tokens or None
        self._client = client
        self._url, address = _parse_address(base_url)
        self.source = Source(name, model, address, api_key)
        self._fault = self._find_fault()
        self._headers = [] if self._url is None or self._fault is not None else self._common_headers(self._url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.source.address!r}, {self.model!r})"

    @abstractmethod
    def encode(self, request: Generate, max_tokens: int | None, pictures: Pictures) -> bytes:
        """Write the body of a request for a streamed answer."""

    @abstractmethod
    def open_reader(self, request: Generate) -> tuple[Decoder, Reader]:
        """Make what reads the answer to `request`."""

    def credential(self, api_key: str) -> list[Header]:
        """Write the headers that carry the key."""
        return [(b"authorization", b"Bearer " + api_key.encode("ascii"))]

    def adapt_to(self, refusal: str) -> bool:
        """Ask differently from now on, if that avoids what the server refused; whether there is a point in asking."""
        return False

    async def generate(self, request: Generate) -> AsyncGenerator[GenerationEvent]:
        """Stream the answer to `request`; closing the generator closes the connection.

        Failures that may pass are retried, but never once something has been yielded. Raises: see errors.py
        """
        deadline = trio.current_time() + self.limits.total_s
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
        await self.fetch_list(limit_bytes=0)

    async def fetch_list(self, limit_bytes: int) -> bytes:
        """Fetch so much of what stands at `check_path`; nothing if the server has no such list."""
        response = await self.send("GET", self.check_path, b"", trio.current_time() + self.limits.check_s)
        try:
            if response.status in _NO_SUCH_LIST:
                return b""
            if response.status != HTTPStatus.OK:
                raise await self.failure_of(response)
            return await _read_some(response, limit_bytes) if limit_bytes else b""
        finally:
            await response.aclose()

    async def _begin(self, request: Generate, deadline: float) -> tuple[Answer, list[GenerationEvent]]:
        """Try until an answer has begun; give it with its first events."""
        retry = 0
        pictures = await load_images(request.messages)
        while True:
            body = self._encode(request, pictures)
            try:
                return await self._try_once(request, body, deadline)
            except ModelRefusedInput as refusal:
                # Another request may have been refused meanwhile: then it is asked differently already.
                if self.adapt_to(refusal.detail) or self._encode(request, pictures) != body:
                    continue
                if not has_images(request) or "image" not in refusal.detail.lower():
                    raise
                request = without_images(request)  # it, or this picture, is not to be seen; the rest can be answered
            except (ModelUnreachable, ModelRateLimited, ModelInterrupted) as failure:
                pause_s = self.limits.pause_before(retry, failure.data.get("retry_after_s"))
                if pause_s is None or trio.current_time() + pause_s >= deadline:
                    raise
                retry += 1
                await trio.sleep(pause_s)

    def _encode(self, request: Generate, pictures: Pictures) -> bytes:
        limits = [limit for limit in (request.max_tokens, self.max_tokens) if limit is not None]
        return self.encode(request, min(limits, default=None), pictures)

    async def _try_once(self, request: Generate, body: bytes, deadline: float) -> tuple[Answer, list[GenerationEvent]]:
        response = await self.send("POST", self.chat_path, body, deadline)
        answer = Answer(response, *self.open_reader(request), self.source, deadline)
        try:
            if response.status != HTTPStatus.OK:
                raise await self.failure_of(response)
            return answer, await answer.next_events()
        except BaseException:
            await answer.close()
            raise

    async def send(self, method: str, path: bytes, body: bytes, deadline: float) -> httpcore2.Response:
        """Send a request and wait for the head of its response; the caller closes it.

        Raises: ModelUnreachable, ModelTimedOut, ModelMisconfigured, ModelCredentialRefused
        """
        if self._fault is not None or self._url is None:
            assert self._fault is not None
            raise type(self._fault)(self._fault.detail, **self._fault.data)
        limits = self.limits
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
            raise failure_of_transport(error, self.source) from error

    async def failure_of(self, response: httpcore2.Response) -> PocketPawError:
        """Read what a response with another status than 200 means."""
        body = await _read_some(response, ERROR_BODY_LIMIT_BYTES)
        pause_s = retry_after({name.lower(): value for name, value in response.headers}, datetime.now(UTC))
        return failure_of_status(response.status, parse_error_body(body), self.source, pause_s)

    def _common_headers(self, url: httpx2.URL) -> list[Header]:
        headers = [
            (b"host", url.netloc),
            (b"content-type", b"application/json"),
            (b"accept", b"text/event-stream, application/json"),
            (b"accept-encoding", b"identity"),  # compression would hold chunks back
            (b"user-agent", b"pocketpaw"),
        ]
        if self.source.api_key:
            headers += self.credential(self.source.api_key)
        elif url.userinfo:
            headers.append((b"authorization", b"Basic " + b64encode(f"{url.username}:{url.password}".encode())))
        return headers

    def _find_fault(self) -> NeedsOperator | None:
        """Find what makes every request useless."""
        source = self.source
        context: dict[str, object] = {"backend": self.name, "model": self.model}
        if self._url is None:
            expected = f"expected something like {self.example_address}"
            return ModelMisconfigured(
                f"{self.name}: {source.address!r} is no address of a server; {expected}", **context
            )
        if not self.model:
            return ModelMisconfigured(f"{self.name} at {source.address}: no model is named", **context)
        if not (source.api_key.isascii() and source.api_key.isprintable()):
            return ModelCredentialRefused(f"{self.name}: its API key holds characters that no key has", **context)
        return None


async def _read_some(response: httpcore2.Response, limit_bytes: int) -> bytes:
    """Read a short body: what comes of it in time, and within the limit."""
    body = bytearray()
    try:
        with trio.move_on_after(SHORT_BODY_S):
            async with aclosing(response.aiter_stream()) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > limit_bytes:
                        break
    except HTTP_ERRORS:
        pass  # the status says enough
    return bytes(body)


def _parse_address(base_url: str) -> tuple[httpx2.URL | None, str]:
    """Give the URL, None if it is none, and how it may be shown: without a user, a password or a query."""
    try:
        url = httpx2.URL(base_url.strip().rstrip("/"))
    except httpx2.InvalidURL:
        return None, base_url.rpartition("@")[2].partition("?")[0]
    port = f":{url.port}" if url.port else ""
    shown = f"{url.scheme}://{url.host}{port}{url.path.rstrip('/')}"
    return (url if url.scheme in ("http", "https") and url.host else None), shown
