"""A small client of a running daemon's API, for the commands; it knows the wire and nothing of the daemon's inside."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

import httpx2
import msgspec

from .failure import Failure, NoDaemon

API = "/api/v1"
CONNECT_S = 5.0
ANSWER_S = 5.0
SILENCE_S = 60.0
"""A daemon that sends nothing for so long is taken for gone: a stream has a comment line every 15 s."""

T = TypeVar("T")


class Refused(Failure):
    """The daemon has answered with an error; the text is its own."""

    def __init__(self, status: int, detail: str) -> None:
        is_unknown = status == HTTPStatus.UNAUTHORIZED
        super().__init__(f"{detail} (give its token with --token or POCKETPAW_TOKEN)" if is_unknown else detail)


class MailboxDepth(msgspec.Struct, frozen=True):
    depth: int
    capacity: int


class TreeNode(msgspec.Struct, frozen=True):
    """A place in the supervision tree; what supervisors have and actors have not is None, and the reverse."""

    name: str
    kind: str
    state: str
    incarnation: int
    restarts: int
    uptime_seconds: float
    mailbox: MailboxDepth | None = None
    last_error: str | None = None
    children: list[TreeNode] | None = None


class ErrorRow(msgspec.Struct, frozen=True):
    timestamp: str
    source: str
    severity: str
    message: str


class HealthIssue(msgspec.Struct, frozen=True):
    name: str
    status: str
    message: str
    fix_hint: str = ""


class DaemonHealth(msgspec.Struct, frozen=True):
    status: str
    issues: list[HealthIssue]


class VaultRotated(msgspec.Struct, frozen=True):
    secrets: int


class ChatEvent(msgspec.Struct, frozen=True):
    """One event of an answer; which fields hold something depends on `name`."""

    name: str = ""
    content: str = ""
    detail: str = ""
    tool: str = ""
    call_id: str = ""
    request_id: str = ""
    reason: str = ""
    input: dict[str, object] = {}


class ApprovalRow(msgspec.Struct, frozen=True):
    """A call that waits for a person."""

    request_id: str
    session_id: str
    tool: str
    input: dict[str, object]
    reason: str
    expires_at: str


class PairingCode(msgspec.Struct, frozen=True):
    code: str
    hint: str
    expires_at: str


class _ErrorBody(msgspec.Struct, frozen=True):
    detail: msgspec.Raw = msgspec.Raw(b'""')


class _FieldError(msgspec.Struct, frozen=True):
    loc: list[str | int]
    msg: str


@dataclass(frozen=True)
class Client:
    """`token` is sent only if there is one: a daemon on this machine lets its own user in without."""

    url: str
    token: str = field(default="", repr=False)

    def get(self, path: str, answer: type[T], **query: str | int) -> T:
        """Ask for `path` below the API. Raises: NoDaemon, Refused."""
        return _decoded(self.get_raw(path, **query), answer, self.url)

    def get_raw(self, path: str, **query: str | int) -> bytes:
        """As `get`, and return the JSON as it came."""
        try:
            with httpx2.Client(**self._options()) as http:
                response = http.get(API + path, params=query)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise _unreachable(self.url, error) from error
        return _checked(response)

    def post(self, path: str, answer: type[T], *, body: object = None, answer_s: float = ANSWER_S) -> T:
        """Have `path` below the API done, with `body` as JSON if there is one. Raises: NoDaemon, Refused."""
        try:
            with httpx2.Client(**self._options(answer_s)) as http:
                response = http.post(API + path, json=body)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise _unreachable(self.url, error) from error
        return _decoded(_checked(response), answer, self.url)

    @asynccontextmanager
    async def answer(self, session_id: str, content: str) -> AsyncGenerator[AsyncGenerator[ChatEvent]]:
        """Say `content` in a session and iterate over the events of its answer; the last one is `stream_end`.

        Leaving early does not stop it. Raises: NoDaemon, also when the stream ends before the answer does; Refused.
        """
        try:
            async with (
                httpx2.AsyncClient(**self._options(SILENCE_S)) as http,
                http.stream(
                    "POST", f"{API}/chat/stream", json={"session_id": session_id, "content": content}
                ) as response,
            ):
                if response.status_code != HTTPStatus.OK:
                    await response.aread()
                    _checked(response)
                yield self._events(response)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise _unreachable(self.url, error) from error

    async def stop(self, session_id: str) -> bool:
        """Stop the answer that is being written in a session; False if there is none. Raises: NoDaemon, Refused."""
        try:
            async with httpx2.AsyncClient(**self._options()) as http:
                response = await http.post(f"{API}/chat/stop", params={"session_id": session_id})
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise _unreachable(self.url, error) from error
        if response.status_code == HTTPStatus.NOT_FOUND:
            return False
        _checked(response)
        return True

    async def decide(self, request_id: str, scope: str | None) -> None:
        """Approve a call that waits, `once`, for its `session` or `always`; None denies. Raises: NoDaemon, Refused."""
        body = {"request_id": request_id, "approved": scope is not None, "scope": scope or "once"}
        try:
            async with httpx2.AsyncClient(**self._options()) as http:
                response = await http.post(f"{API}/chat/approve", json=body)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise _unreachable(self.url, error) from error
        _checked(response)

    async def _events(self, response: httpx2.Response) -> AsyncGenerator[ChatEvent]:
        is_whole = False
        async for event in httpx2.EventSource(response):
            data = _decoded(event.data.encode() or b"{}", ChatEvent, self.url)
            is_whole = event.event == "stream_end"
            yield msgspec.structs.replace(data, name=event.event)
        if not is_whole:
            raise NoDaemon(f"{self.url} ended the stream before the answer was whole")

    def _options(self, silence_s: float = ANSWER_S) -> dict[str, Any]:
        return {
            "base_url": self.url,
            "headers": {"authorization": f"Bearer {self.token}"} if self.token else {},
            "timeout": httpx2.Timeout(silence_s, connect=CONNECT_S),
            "trust_env": not is_loopback(self.url),  # no proxy stands between us and our own daemon
        }


def is_loopback(url: str) -> bool:
    """Tell whether `url` leads to this machine by its loopback interface."""
    try:
        host = httpx2.URL(url).host
    except httpx2.InvalidURL:
        return False
    return host in {"localhost", "::1"} or host.startswith("127.")


def _checked(response: httpx2.Response) -> bytes:
    if response.is_success:
        return response.content
    raise Refused(response.status_code, _detail(response))


def _detail(response: httpx2.Response) -> str:
    """The sentence in an error's body; for bad fields, which ones and why."""
    fallback = f"{response.status_code} {response.reason_phrase}".strip()
    try:
        detail = msgspec.json.decode(response.content, type=_ErrorBody).detail
        wrong = msgspec.json.decode(detail, type=str | list[_FieldError])
    except msgspec.DecodeError:
        return fallback
    if isinstance(wrong, str):
        return wrong or fallback
    return "; ".join(f"{'.'.join(map(str, error.loc[1:])) or 'the request'}: {error.msg}" for error in wrong)


def _decoded(body: bytes, answer: type[T], url: str) -> T:
    try:
        return msgspec.json.decode(body, type=answer)
    except msgspec.DecodeError as error:
        raise NoDaemon(f"what answers at {url} is not PocketPaw, or of another version ({error})") from error


def _unreachable(url: str, error: Exception) -> NoDaemon:
    return NoDaemon(f"nothing answers at {url} ({str(error) or type(error).__name__})")
