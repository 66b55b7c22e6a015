"""Slack's Web API over HTTP: its calls, and what its refusals mean. https://docs.slack.dev/apis/web-api"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import aclosing
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import httpcore2
import httpx2
import msgspec
import trio

from ...runtime.errors import (
    NeedsOperator,
    PocketPawError,
    TimedOut,
    TooLarge,
    TooManyRequests,
    TransientFailure,
    Unavailable,
)
from ..models.connections import HTTP_ERRORS, Connections
from ..models.wire_error import UNREADABLE
from .chat_platform import NotDelivered

CONNECT_S = 10.0
CALL_S = 30.0
"""For a call, answer included."""
LAST_CALLS_S = 1.0
"""For the calls that are under way in the end: of one that is cut off nobody knows whether it was carried out."""
ANSWER_LIMIT_BYTES = 8 * 1024 * 1024
REDIRECTS = 3
PAUSE_S = 30.0
"""After a 429 that does not say how long."""
LONGEST_PAUSE_S = 24 * 3600.0
"""What Slack may ask for; who asks for longer is asked again tomorrow."""


_CREDENTIAL_REFUSED = frozenset(
    {
        "account_inactive",
        "invalid_auth",
        "no_permission",
        "not_allowed_token_type",
        "not_authed",
        "org_login_required",
        "team_access_not_granted",
        "token_expired",
        "token_revoked",
        "two_factor_setup_required",
    }
)
_SERVER_FAULTS = frozenset({"internal_error", "fatal_error", "service_unavailable"})
"""After these, "it's possible some aspect of the operation succeeded", say Slack's pages."""
_NOT_NOW = frozenset({"request_timeout", "team_added_to_org"})
_RATE_LIMITED = frozenset({"ratelimited", "rate_limited"})
_UNSENT = (httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.PoolTimeout, httpcore2.ProxyError)
_REDIRECTS = (301, 302, 303, 307, 308)

R = TypeVar("R")


class NoAnswer(TransientFailure):
    """The call was sent, and the connection broke or went silent: it may have been carried out."""

    code = "slack_no_answer"


class ServerFault(TransientFailure):
    """Slack failed while it carried the call out; it is over, and may have been done."""

    code = "slack_server_fault"


class MissingScope(NeedsOperator):
    code = "slack_missing_scope"


class Refused(NotDelivered):
    """Slack will not do this, for the reason `error`, in its own words."""

    code = "slack_refused"

    @property
    def error(self) -> object:
        return self.data.get("error")


class Token(msgspec.Struct, frozen=True):
    """A credential, and the setting that it stands in. Its repr does not show it."""

    setting: str
    value: str

    def __repr__(self) -> str:
        return f"Token({self.setting})"


class _Answer(msgspec.Struct):
    ok: bool = False
    error: str = ""
    needed: str = ""
    """The scope that is missing."""


class SlackApi:
    """Calls methods of the Web API at `base_url`; never tries anything twice.

    Raises NeedsOperator if that is no address.
    """

    def __init__(self, base_url: str) -> None:
        try:
            self.url = httpx2.URL(base_url.rstrip("/"))
        except httpx2.InvalidURL as error:
            raise NeedsOperator(f"the setting slack_api_url is no address: {error}") from error
        if self.url.scheme not in ("http", "https") or not self.url.host:
            raise NeedsOperator("the setting slack_api_url is no address of a web server")
        self._connections = Connections()
        self._calls: set[trio.CancelScope] = set()
        self._call_ended = trio.lowlevel.ParkingLot()
        self._is_open = True

    def open(self) -> None:
        """Allow calls again after `aclose`."""
        self._is_open = True

    async def aclose(self) -> None:
        """Let the calls that are under way end, but not for long, and refuse others."""
        self._is_open = False
        try:
            with trio.move_on_after(LAST_CALLS_S):
                while self._calls:
                    await self._call_ended.park()
        finally:
            for call in self._calls:
                call.cancel()
            await self._connections.aclose()

    async def read(self, token: Token, method: str, reply: type[R], **arguments: object) -> R:
        """Call a method that only takes a form."""
        form = {name: _form_value(value) for name, value in arguments.items() if value is not None}
        return await self._call(token, method, b"application/x-www-form-urlencoded", urlencode(form).encode(), reply)

    async def read_patiently(self, token: Token, method: str, reply: type[R], **arguments: object) -> R:
        """As `read`, as soon as Slack allows."""
        while True:
            try:
                return await self.read(token, method, reply, **arguments)
            except TooManyRequests as error:
                pause_s = error.data["retry_after_s"]
                assert isinstance(pause_s, float)
                await trio.sleep(pause_s)

    async def write(self, token: Token, method: str, reply: type[R], arguments: Mapping[str, object]) -> R:
        """Call a method that takes JSON.

        Raises: Refused, TooManyRequests, NoAnswer, ServerFault, TransientFailure, MissingScope, NeedsOperator
        """
        return await self._call(
            token, method, b"application/json; charset=utf-8", msgspec.json.encode(arguments), reply
        )

    async def fetch(self, token: Token, url: str, target: Path, limit_bytes: int, deadline: float) -> None:
        """Fetch a file that somebody shared to `target`; the token goes to no other host than Slack's.

        Raises: TooLarge, TimedOut, Unavailable, OSError
        """
        try:
            with trio.fail_at(deadline):
                for _ in range(REDIRECTS + 1):
                    moved = await self._fetch_one(token, url, target, limit_bytes)
                    if not moved:
                        return
                    url = moved
        except trio.TooSlowError:
            raise TimedOut("Slack did not send it in time") from None
        except HTTP_ERRORS as error:
            raise Unavailable(f"Slack's file could not be fetched: {_reason(error)}") from error
        raise Unavailable("Slack redirects the file too often")

    async def _call(self, token: Token, method: str, kind: bytes, body: bytes, reply: type[R]) -> R:
        url = self.url.copy_with(path=f"{self.url.path.rstrip('/')}/{method}")
        headers = [*_headers(url, token), (b"content-type", kind), (b"content-length", b"%d" % len(body))]
        timeouts = {"connect": CONNECT_S, "read": CALL_S, "write": CALL_S, "pool": CONNECT_S}
        request = httpcore2.Request(
            "POST", _target(url), headers=headers, content=body, extensions={"timeout": timeouts}
        )
        if not self._is_open:
            raise TransientFailure("the connection to Slack is closed")
        call = trio.CancelScope()
        self._calls.add(call)
        try:
            with trio.fail_after(CALL_S), call:
                response = await self._connections.send(request)
                try:
                    content = await _read(response)
                finally:
                    await response.aclose()
                return _understood(method, token, response, content, reply)
        except _UNSENT as error:
            raise TransientFailure(f"Slack cannot be reached: {_reason(error)}") from error
        except trio.TooSlowError:
            raise NoAnswer(f"Slack did not answer {method} within {CALL_S:g} s") from None
        except HTTP_ERRORS as error:
            raise NoAnswer(f"Slack broke the connection in {method}: {_reason(error)}") from error
        finally:
            self._calls.discard(call)
            self._call_ended.unpark_all()
        raise NoAnswer(f"the connection to Slack was closed before {method} was answered")

    async def _fetch_one(self, token: Token, address: str, target: Path, limit_bytes: int) -> str:
        """Fetch a file, or tell where it has moved to."""
        url = self._slacks_own(address)
        timeouts = {"connect": CONNECT_S, "read": CALL_S, "pool": CONNECT_S}
        request = httpcore2.Request("GET", _target(url), headers=_headers(url, token), extensions={"timeout": timeouts})
        response = await self._connections.send(request)
        try:
            headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            if response.status in _REDIRECTS:
                return str(url.join(headers.get(b"location", "")))
            if response.status != HTTPStatus.OK:
                raise Unavailable(f"Slack answered {response.status} for the file")
            if headers.get(b"content-type", "").startswith("text/html") and target.suffix not in (".html", ".htm"):
                raise Unavailable("Slack showed its login page: the bot needs the scope files:read")
            await _save(response, target, limit_bytes)
        finally:
            await response.aclose()
        return ""

    def _slacks_own(self, address: str) -> httpx2.URL:
        """The file's address if it is of the API's host or one below it (files.slack.com); raises Unavailable."""
        try:
            url = httpx2.URL(address)
        except httpx2.InvalidURL as error:
            raise Unavailable(f"the file has no address: {error}") from None
        own = self.url.host
        is_own = url.host == own and url.port == self.url.port
        if url.scheme != self.url.scheme or not (is_own or (url.host.endswith(f".{own}") and url.port is None)):
            raise Unavailable(f"{url.host or 'nowhere'} is no host of Slack's, and the token is sent to no other")
        return url


def retry_after_s(response: httpcore2.Response) -> float:
    """https://docs.slack.dev/apis/web-api/rate-limits"""
    value = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"")
    return min(float(value), LONGEST_PAUSE_S) if value.isdigit() else PAUSE_S


def _understood(method: str, token: Token, response: httpcore2.Response, content: bytes, reply: type[R]) -> R:
    if response.status == HTTPStatus.TOO_MANY_REQUESTS:
        raise _slower(method, retry_after_s(response))
    if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise ServerFault(f"Slack answered {response.status} to {method}", status=response.status)
    try:
        answer = msgspec.json.decode(content, type=_Answer)
        if answer.ok:
            return msgspec.json.decode(content, type=reply)
    except UNREADABLE as error:
        raise ServerFault(f"Slack answered {response.status} to {method}, in a way that is not its API's") from error
    raise _refusal(method, token, answer, response)


def _refusal(method: str, token: Token, answer: _Answer, response: httpcore2.Response) -> PocketPawError:
    error = answer.error or f"HTTP {response.status}"
    if error == "missing_scope":
        return MissingScope(
            f"Slack: the token in the setting {token.setting} has not the scope {answer.needed or 'that it needs'} "
            f"for {method}: add it in the app's settings and install the app anew",
            scope=answer.needed,
        )
    if error in _CREDENTIAL_REFUSED:
        return NeedsOperator(f"Slack refuses the token in the setting {token.setting}: {error}", error=error)
    if error in _RATE_LIMITED:
        return _slower(method, retry_after_s(response))
    if error in _SERVER_FAULTS:
        return ServerFault(f"Slack answered {error} to {method}", error=error)
    if error in _NOT_NOW:
        return TransientFailure(f"Slack answered {error} to {method}", error=error)
    return Refused(f"Slack refuses {method}: {error}", error=error)


def _slower(method: str, pause_s: float) -> TooManyRequests:
    return TooManyRequests(f"Slack asks to wait {pause_s:g} s with {method}", retry_after_s=pause_s)


def _form_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _headers(url: httpx2.URL, token: Token) -> list[tuple[bytes, bytes]]:
    return [
        (b"host", url.netloc),
        (b"authorization", b"Bearer " + token.value.encode("ascii")),
        (b"accept-encoding", b"identity"),
        (b"user-agent", b"pocketpaw"),
    ]


def _target(url: httpx2.URL) -> httpcore2.URL:
    return httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


async def _read(response: httpcore2.Response) -> bytes:
    body = bytearray()
    async with aclosing(response.aiter_stream()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > ANSWER_LIMIT_BYTES:
                raise ServerFault(f"Slack's answer is larger than {ANSWER_LIMIT_BYTES:,} bytes")
    return bytes(body)


async def _save(response: httpcore2.Response, target: Path, limit_bytes: int) -> None:
    """Write a body to a file that is there only once it is whole."""
    partial = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    size = 0
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        async with trio.wrap_file(os.fdopen(descriptor, "wb")) as file, aclosing(response.aiter_stream()) as pieces:
            async for piece in pieces:
                size += len(piece)
                if size > limit_bytes:
                    raise TooLarge(f"it is larger than {limit_bytes:,} bytes")
                await file.write(piece)
        await trio.to_thread.run_sync(partial.replace, target)
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.Path(partial).unlink(missing_ok=True)
        raise


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
