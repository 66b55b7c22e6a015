"""Telegram's Bot API (https://core.telegram.org/bots/api): its requests, what it answers, and what its errors mean.

The token is part of each address, so no error here repeats one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import quote

import httpcore2
import httpx2
import msgspec
import trio

from ...runtime.errors import NeedsOperator, PocketPawError, TooManyRequests, TransientFailure
from ..models.connections import HTTP_ERRORS, Connections
from .chat_platform import DeliveryUnsure, NotDelivered

T = TypeVar("T")

CONNECT_S = 10.0
ANSWER_S = 20.0
ANSWER_LIMIT_BYTES = 16 * 1024 * 1024
QUOTED_CHARS = 200

NOT_SENT = (httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.ProxyError, httpcore2.UnsupportedProtocol)
"""Failures from before the request was out; after any other one nobody knows."""


class User(msgspec.Struct):
    id: int
    is_bot: bool = False
    first_name: str = ""
    last_name: str = ""
    username: str = ""

    @property
    def name(self) -> str:
        return f"{self.first_name} {self.last_name}".strip() or self.username or str(self.id)


class Chat(msgspec.Struct):
    id: int
    type: str = "private"


class File(msgspec.Struct):
    """A file that came with a message; `file_path` only in the answer of getFile."""

    file_id: str
    file_unique_id: str
    file_size: int = 0
    file_name: str = ""
    file_path: str = ""


class Replied(msgspec.Struct):
    user: User | None = msgspec.field(default=None, name="from")


class Message(msgspec.Struct):
    message_id: int
    chat: Chat
    date: int = 0
    user: User | None = msgspec.field(default=None, name="from")
    edit_date: int = 0
    message_thread_id: int | None = None
    is_topic_message: bool = False
    text: str = ""
    caption: str = ""
    reply_to_message: Replied | None = None
    photo: list[File] = []
    document: File | None = None
    voice: File | None = None
    audio: File | None = None
    video: File | None = None

    def files(self) -> list[File]:
        """What came with it; of a photo, which comes in several sizes, the largest."""
        single = [file for file in (self.document, self.voice, self.audio, self.video) if file is not None]
        return [*self.photo[-1:], *single]


class Update(msgspec.Struct):
    update_id: int
    message: Message | None = None
    edited_message: Message | None = None


class UpdateId(msgspec.Struct):
    update_id: int


class Sent(msgspec.Struct):
    message_id: int


class _Parameters(msgspec.Struct, frozen=True):
    retry_after: float | None = None
    migrate_to_chat_id: int | None = None


class _Answer(msgspec.Struct):
    ok: bool
    result: msgspec.Raw = msgspec.Raw(b"null")
    description: str = ""
    error_code: int = 0
    parameters: _Parameters = _Parameters()


class Refused(NotDelivered):
    """A request that Telegram understood and will not do; data: migrate_to_chat_id, where the chat has moved."""

    code = "telegram_refused"


class BotApi:
    """Makes requests, each once."""

    def __init__(self, base_url: str, token: str) -> None:
        try:
            self._base = httpx2.URL(base_url.rstrip("/"))
        except httpx2.InvalidURL as error:
            raise NeedsOperator(f"telegram_api_url is no address: {base_url}") from error
        self._token = quote(token, safe=":")
        self._connections = Connections()

    async def aclose(self) -> None:
        await self._connections.aclose()

    async def call(self, method: str, parameters: Mapping[str, object], answer: type[T], *, takes_s: float = 0.0) -> T:
        """Make a request that does no harm if it is made twice.

        Raises:
            TransientFailure, TooManyRequests, NeedsOperator, Refused
        """
        try:
            return await self.say(method, parameters, answer, takes_s=takes_s)
        except DeliveryUnsure as error:
            raise TransientFailure(error.detail) from error

    async def say(self, method: str, parameters: Mapping[str, object], answer: type[T], *, takes_s: float = 0.0) -> T:
        """Make a request. `takes_s` is how long the answer may be held back on purpose.

        Raises:
            DeliveryUnsure: it is out, and no answer came.
            TransientFailure, TooManyRequests, NeedsOperator, Refused
        """
        body = msgspec.json.encode(parameters)
        status, content = await self._send("POST", f"/bot{self._token}/{method}", body, takes_s)
        try:
            said = msgspec.json.decode(content, type=_Answer)
            if said.ok:
                return msgspec.json.decode(said.result, type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            said = _Answer(ok=False, description=f"no answer of a bot API ({error})", error_code=status)
            if status == HTTPStatus.OK:
                raise DeliveryUnsure(f"Telegram's answer to {method} cannot be read: {error}") from error
        raise _failure(method, said, said.error_code or status)

    async def download(self, file_path: str, limit_bytes: int) -> bytes | None:
        """Fetch a file; None if it is larger than allowed.

        Raises:
            TransientFailure, Refused
        """
        try:
            status, content = await self._send(
                "GET", f"/file/bot{self._token}/{quote(file_path)}", b"", 40.0, limit_bytes + 1
            )
        except DeliveryUnsure as error:
            raise TransientFailure(error.detail) from error
        if status != HTTPStatus.OK:
            raise Refused(f"Telegram answered {status} when a file was fetched")
        return content if len(content) <= limit_bytes else None

    async def _send(
        self, method: str, path: str, body: bytes, takes_s: float, limit_bytes: int = ANSWER_LIMIT_BYTES
    ) -> tuple[int, bytes]:
        base, wait_s = self._base, takes_s + ANSWER_S
        url = httpcore2.URL(
            scheme=base.raw_scheme,
            host=base.raw_host,
            port=base.port,
            target=base.raw_path.rstrip(b"/") + path.encode(),
        )
        headers = [
            (b"host", base.netloc),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"user-agent", b"pocketpaw"),
        ]
        timeouts = {"connect": CONNECT_S, "read": wait_s, "write": ANSWER_S, "pool": CONNECT_S}
        request = httpcore2.Request(method, url, headers=headers, content=body, extensions={"timeout": timeouts})
        try:
            with trio.fail_after(wait_s + CONNECT_S):
                response = await self._connections.send(request)
                try:
                    return response.status, await _read(response, limit_bytes)
                finally:
                    await response.aclose()
        except NOT_SENT as error:
            raise TransientFailure(f"Telegram cannot be reached: {_why(error)}") from error
        except (*HTTP_ERRORS, trio.TooSlowError) as error:
            raise DeliveryUnsure(f"Telegram did not answer: {_why(error)}") from error


async def _read(response: httpcore2.Response, limit_bytes: int) -> bytes:
    body = bytearray()
    async with aclosing(response.aiter_stream()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > limit_bytes:
                break
    return bytes(body)


def _failure(method: str, said: _Answer, status: int) -> PocketPawError:
    words = said.description[:QUOTED_CHARS]
    text = f"Telegram answered {status} to {method}: {words}"
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.NOT_FOUND:
            return NeedsOperator("Telegram refuses the bot token: set telegram_bot_token to the one from @BotFather")
        case HTTPStatus.CONFLICT:
            return TransientFailure(
                f"another poller uses this bot token; stop that program, or make a bot anew ({words})"
            )
        case HTTPStatus.TOO_MANY_REQUESTS:
            return TooManyRequests(text, retry_after_s=said.parameters.retry_after)
        case HTTPStatus.BAD_GATEWAY | HTTPStatus.GATEWAY_TIMEOUT:
            return DeliveryUnsure(text)
        case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return TransientFailure(text)
        case HTTPStatus.FORBIDDEN:
            return NotDelivered(text)
        case _:
            moved = said.parameters.migrate_to_chat_id
            return Refused(text, description=words.lower(), migrate_to_chat_id=moved)


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__
