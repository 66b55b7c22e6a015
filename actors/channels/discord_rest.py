"""Discord's REST API, as far as a bot needs it to talk."""

from __future__ import annotations

import re
from contextlib import aclosing
from functools import cache
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version

import httpcore2
import httpx2
import msgspec
import structlog
import trio

from ...runtime.errors import NeedsOperator, PocketPawError, TransientFailure
from ..models.connections import HTTP_ERRORS, Connections
from ..models.wire_error import UNREADABLE
from .chat_platform import DeliveryUnsure, NotDelivered
from .discord_limits import RateLimits, Route, limited, seconds
from .discord_message import Message

log = structlog.get_logger()

CONNECT_S = 10.0
WITHIN_S = 30.0
"""For all of a request."""
ANSWER_LIMIT_BYTES = 8_000_000
PAGE_MESSAGES = 100
"""Messages that Discord gives at once."""
UNSAID_PAUSE_S = 5.0
"""After a refusal as one too many that does not say how long."""

SUPPRESS_EMBEDS = 1 << 2
"""A preview would fetch whatever address the model was talked into writing, with all that stands in it."""
NO_MENTIONS: dict[str, object] = {"parse": [], "replied_user": False}

_NOT_SENT = (
    httpcore2.ConnectError,
    httpcore2.ConnectTimeout,
    httpcore2.PoolTimeout,
    httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol,
    httpcore2.LocalProtocolError,
)
_ID = re.compile(r"[0-9]{1,20}")
_QUOTE_LIMIT = 300
_PASSING_CODES = frozenset({40062, 40333})
"""A service that is overloaded, and trouble in Discord's own network."""


class SessionLimit(msgspec.Struct, frozen=True):
    """How many sessions may still be started; Discord takes the token from a bot that starts more."""

    remaining: int = 1
    reset_after: int = 0
    """Milliseconds."""


class GatewayInfo(msgspec.Struct, frozen=True):
    """Where the gateway is."""

    url: str
    session_start_limit: SessionLimit = msgspec.field(default_factory=SessionLimit)


class Page(msgspec.Struct, frozen=True):
    """Messages of a channel, the oldest first."""

    messages: list[Message]
    is_last: bool


class _Refusal(msgspec.Struct, frozen=True):
    message: str = ""
    code: int = 0
    retry_after: float | None = None
    is_global: bool = msgspec.field(name="global", default=False)
    errors: msgspec.Raw = msgspec.Raw(b"")


class _Sent(msgspec.Struct, frozen=True):
    id: str


class DiscordRest:
    """Sends a request once, and says what came of it; the token goes nowhere else."""

    def __init__(self, api_url: str, token: str, connections: Connections) -> None:
        try:
            self._url = httpx2.URL(api_url)
        except httpx2.InvalidURL:
            raise _no_address() from None
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise _no_address()
        self._token = token
        self._connections = connections
        self._limits = RateLimits()

    async def gateway(self) -> GatewayInfo:
        """Ask where the gateway is, and how many sessions may be started."""
        route = Route("GET /gateway/bot")
        try:
            answer = await self._call(route, "/gateway/bot")
        except NotDelivered as refusal:
            raise TransientFailure(refusal.detail) from refusal
        try:
            return msgspec.json.decode(answer, type=GatewayInfo)
        except UNREADABLE as error:
            raise self._misunderstood(route, error) from error

    async def create_message(self, channel_id: str, text: str, nonce: str, reply_to: str | None) -> str:
        """Say something; return the message's id. Within some minutes the same `nonce` gives the same message."""
        body: dict[str, object] = {
            "content": text,
            "nonce": nonce,
            "enforce_nonce": True,
            "allowed_mentions": NO_MENTIONS,
            "flags": SUPPRESS_EMBEDS,
        }
        if reply_to is not None:
            body["message_reference"] = {"message_id": reply_to, "fail_if_not_exists": False}
        route = Route("POST /channels/messages", checked(channel_id))
        answer = await self._call(route, f"/channels/{channel_id}/messages", body, is_once=True)
        try:
            return msgspec.json.decode(answer, type=_Sent).id
        except UNREADABLE as error:
            raise DeliveryUnsure(self._misunderstood(route, error).detail) from error

    async def edit_message(self, channel_id: str, message_id: str, text: str) -> None:
        """Replace a message's text."""
        body = {"content": text, "allowed_mentions": NO_MENTIONS, "flags": SUPPRESS_EMBEDS}
        route = Route("PATCH /channels/messages", checked(channel_id))
        await self._call(route, f"/channels/{channel_id}/messages/{checked(message_id)}", body)

    async def show_typing(self, channel_id: str) -> None:
        """Show for ten seconds, or until a message is sent, that the bot is writing."""
        await self._call(Route("POST /channels/typing", checked(channel_id)), f"/channels/{channel_id}/typing", {})

    async def messages_after(self, channel_id: str, message_id: str) -> Page:
        """The next messages of a channel."""
        route = Route("GET /channels/messages", checked(channel_id))
        path = f"/channels/{channel_id}/messages?after={checked(message_id)}&limit={PAGE_MESSAGES}"
        answer = await self._call(route, path)
        try:
            written = msgspec.json.decode(answer, type=list[msgspec.Raw])
        except UNREADABLE as error:
            raise self._misunderstood(route, error) from error
        messages = [message for raw in written if (message := _read_message(raw)) is not None]
        return Page(sorted(messages, key=lambda message: int(message.id)), len(written) < PAGE_MESSAGES)

    async def _call(self, route: Route, path: str, body: object = None, *, is_once: bool = False) -> bytes:
        """Send a request and read its answer; one that `is_once` may have had its effect if no answer comes.

        Raises: NotDelivered, DeliveryUnsure, TooManyRequests, TransientFailure, NeedsOperator
        """
        self._limits.take(route)
        unsure = DeliveryUnsure if is_once else TransientFailure
        try:
            with trio.fail_after(WITHIN_S):
                status, headers, answer = await self._exchange(self._request(route, path, body))
        except _NOT_SENT as error:
            raise TransientFailure(f"Discord cannot be reached: {self._quote(error)}") from error
        except HTTP_ERRORS as error:
            raise unsure(f"Discord broke the connection: {self._quote(error)}") from error
        except trio.TooSlowError as error:
            raise unsure(f"Discord did not answer {route.template} within {WITHIN_S:g} s") from error
        self._limits.note(route, headers)
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return answer
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise unsure(f"Discord answered {route.template} with the status {status}")
        raise self._refusal(route, status, headers, answer)

    def _request(self, route: Route, path: str, body: object) -> httpcore2.Request:
        url = self._url
        target = url.raw_path.rstrip(b"/") + path.encode("ascii")
        headers = [
            (b"host", url.netloc),
            (b"authorization", b"Bot " + self._token.encode("ascii")),
            (b"user-agent", user_agent()),
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
        ]
        content = b"" if body is None else msgspec.json.encode(body)
        if body is not None:
            headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        address = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=target)
        method = route.template.partition(" ")[0]
        extensions = {"timeout": {"connect": CONNECT_S}}
        return httpcore2.Request(method, address, headers=headers, content=content, extensions=extensions)

    async def _exchange(self, request: httpcore2.Request) -> tuple[int, dict[bytes, bytes], bytes]:
        response = await self._connections.send(request)
        body = bytearray()
        try:
            async with aclosing(response.aiter_stream()) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > ANSWER_LIMIT_BYTES:
                        break
        finally:
            await response.aclose()
        return response.status, {name.lower(): value for name, value in response.headers}, bytes(body)

    def _refusal(self, route: Route, status: int, headers: dict[bytes, bytes], answer: bytes) -> PocketPawError:
        """What an answer that is neither a success nor the server's own failure means."""
        try:
            refusal, is_discords = msgspec.json.decode(answer, type=_Refusal), True
        except UNREADABLE:
            refusal, is_discords = _Refusal(), False  # what stands in front of Discord says
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return self._too_many(route, headers, refusal, is_discords=is_discords)
        if status == HTTPStatus.UNAUTHORIZED:
            return NeedsOperator("Discord refuses the bot token: set discord_bot_token to a valid one", status=status)
        said = f"Discord answered {route.template} with the status {status}"
        if refusal.message:
            said += f": {self._quote(refusal.message)}"
        if refusal.errors:
            said += f" {self._quote(bytes(refusal.errors).decode(errors='replace'))}"
        if refusal.code in _PASSING_CODES:
            return TransientFailure(said, status=status, discord_code=refusal.code)
        if refusal.code or status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            # discord.com/developers/docs/topics/opcodes-and-status-codes: 10003 no such channel, 50001 no access,
            # 50007 does not take messages from bots, 50013 no permission, 50035 not as Discord wants it, …
            return NotDelivered(said, status=status, discord_code=refusal.code)
        return TransientFailure(f"{said}; is the setting discord_api_url right?", status=status)

    def _too_many(
        self, route: Route, headers: dict[bytes, bytes], refusal: _Refusal, *, is_discords: bool
    ) -> PocketPawError:
        pause_s = refusal.retry_after if refusal.retry_after is not None else seconds(headers.get(b"retry-after"))
        pause_s = seconds(str(pause_s).encode())
        pause_s = UNSAID_PAUSE_S if pause_s is None else pause_s
        is_global = refusal.is_global or b"x-ratelimit-global" in headers or not is_discords
        self._limits.note_refusal(route, pause_s, is_global=is_global)
        return limited(pause_s)

    def _misunderstood(self, route: Route, error: Exception) -> TransientFailure:
        return TransientFailure(f"Discord answered {route.template} with something else: {self._quote(error)}")

    def _quote(self, text: object) -> str:
        return quote(text, self._token)


def _read_message(raw: msgspec.Raw) -> Message | None:
    try:
        return msgspec.json.decode(raw, type=Message)
    except UNREADABLE as error:
        log.warning("a message of Discord's was not understood", reason=str(error))
        return None  # or nothing of its channel could be read any more


def _no_address() -> NeedsOperator:
    return NeedsOperator("Discord: the setting discord_api_url is no address of a server")


def quote(text: object, token: str) -> str:
    """Shorten a server's words to one line without the token."""
    line = " ".join(str(text).split()).replace(token, "[redacted]")
    return line if len(line) <= _QUOTE_LIMIT else line[:_QUOTE_LIMIT] + "…"


def checked(identifier: str) -> str:
    """An id that may stand in a path; raises NotDelivered for any other text."""
    if not _ID.fullmatch(identifier):
        raise NotDelivered(f"{identifier[:50]!r} is no id of Discord's")
    return identifier


@cache
def user_agent() -> bytes:
    """What Discord asks of bots, in its form (discord.com/developers/docs/reference#user-agent)."""
    try:
        ours = version("pocketpaw")
    except PackageNotFoundError:
        ours = "0"
    return f"DiscordBot (https://github.com/pocketpaw/pocketpaw, {ours}) pocketpaw".encode("ascii")
