"""A Telegram that speaks the bot API's wire on loopback, or fails in just the ways that it is told.

    async with fake_telegram() as telegram:
        live = make_live(telegram_api_url=telegram.url, telegram_bot_token=telegram.token, …)
        telegram.say("hello", chat=42)                    # a person writes; chat=42 is a direct chat with user 42
        await telegram.wait_for(1)                        # messages in the chats
        telegram.messages[-1].text, .chat, .reply_to, .edits, telegram.actions
        telegram.faults = lambda method: TooMany(2)       # asked before each request; None does no harm
        telegram.holds.add("sendMessage")                 # requests that are never answered

What getUpdates gave stays until a later offset confirms it; who polls while another does has that one end with a 409.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import msgspec
import trio

TAGS = {"b", "i", "u", "s", "code", "pre", "a", "blockquote"}
LIMIT_UNITS = 4096
GROUP = -100_000
"""Chats with lower ids are groups."""


@dataclass(frozen=True)
class TooMany:
    """429 with `retry_after`."""

    retry_after_s: float


@dataclass(frozen=True)
class Status:
    """Any error; nothing is done."""

    code: int
    description: str = "Internal Server Error"


@dataclass(frozen=True)
class Cut:
    """The connection is cut: before anything is done, or, with `is_late`, before that is said."""

    is_late: bool = False


Fault = TooMany | Status | Cut | None


@dataclass
class SentMessage:
    """A message of the bot's, as the chat shows it now; `edits` counts how often it was changed."""

    id: int
    chat: int
    text: str
    thread: int | None
    reply_to: int | None
    edits: int = 0


class _Refused(Exception):
    def __init__(self, code: int, description: str, **parameters: object) -> None:
        super().__init__(description)
        self.code, self.description, self.parameters = code, description, parameters


class _Text(HTMLParser):
    """The text of Telegram's HTML; refuses what Telegram would."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            raise _Refused(400, f'Bad Request: can\'t parse entities: Unsupported start tag "{tag}"')
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            raise _Refused(400, f'Bad Request: can\'t parse entities: Unmatched end tag "{tag}"')

    def handle_data(self, data: str) -> None:
        self.text += data

    def whole(self) -> str:
        self.close()
        if self._open:
            raise _Refused(400, f'Bad Request: can\'t parse entities: no end tag for "{self._open[-1]}"')
        return self.text


def text_of_html(html: str) -> str:
    """What is left of Telegram's HTML when it is shown; raises for what Telegram refuses."""
    parser = _Text()
    parser.feed(html)
    return parser.whole()


def _no_fault(_method: str) -> Fault:
    return None


@dataclass
class FakeTelegram:
    token: str = "4242:fake-telegram-token-AAAAAAAAAAAA"
    username: str = "paw_bot"
    bot_id: int = 4242
    port: int = 0
    faults: Callable[[str], Fault] = _no_fault
    holds: set[str] = field(default_factory=set[str])
    garbled: bytes = b"GARBLED"
    """What the word GARBLED is on the wire."""
    shuffle: random.Random | None = None
    """Has each batch of updates come in another order."""
    messages: list[SentMessage] = field(default_factory=list[SentMessage])
    actions: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    calls: dict[str, int] = field(default_factory=dict[str, int])
    bodies: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])
    called_at: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    most_s: float = 60.0
    """The longest that a poll is held back."""

    def __post_init__(self) -> None:
        self._updates: list[dict[str, Any]] = []
        self._next_update = 1000
        self._next_message = 1
        self._said = trio.Event()
        self._poll = trio.CancelScope()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def unconfirmed(self) -> int:
        """Updates that the bot has not confirmed yet."""
        return len(self._updates)

    # People -----------------------------------------------------------------------------------------------------------

    def say(self, text: str, chat: int = 42, sender: int | None = None, **fields: Any) -> int:
        """Somebody writes; returns the message's id."""
        message_id = self._new_id()
        kind = "supergroup" if chat <= GROUP else "private"
        person = abs(chat) if sender is None else sender
        message = {
            "message_id": message_id,
            "chat": {"id": chat, "type": kind},
            "from": {"id": person, "is_bot": False, "first_name": f"P{person}"},
            "date": 1_700_000_000,
            "text": text or None,
            **fields,
        }
        self.update(message={name: value for name, value in message.items() if value is not None})
        return message_id

    def update(self, **content: Any) -> None:
        """Anything that getUpdates may tell."""
        self._updates.append({"update_id": self._next_update, **content})
        self._next_update += 1
        self._said.set()
        self._said = trio.Event()

    def said_to(self, chat: int) -> list[str]:
        return [message.text for message in self.messages if message.chat == chat]

    async def wait_for(self, count: int, within_s: float = 20.0) -> list[SentMessage]:
        """Wait, in real time, until the bot has said so much."""
        with trio.fail_after(within_s):
            while len(self.messages) < count:  # noqa: ASYNC110 what is waited for is on the other side of a socket
                await trio.sleep(0.01)
        return self.messages

    def _new_id(self) -> int:
        self._next_message += 1
        return self._next_message

    # The bot API ------------------------------------------------------------------------------------------------------

    async def answer(self, method: str, wish: dict[str, Any]) -> object:
        match method:
            case "getMe":
                return {"id": self.bot_id, "is_bot": True, "first_name": "Paw", "username": self.username}
            case "getUpdates":
                return await self._get_updates(wish)
            case "sendMessage":
                return self._send(wish)
            case "editMessageText":
                return self._edit(wish)
            case "sendChatAction":
                self.actions.append((int(wish["chat_id"]), wish["action"]))
                return True
            case "getFile":
                return {"file_id": wish["file_id"], "file_unique_id": wish["file_id"], "file_path": wish["file_id"]}
            case "deleteWebhook":
                return True
            case _:
                raise _Refused(404, "Not Found")

    async def _get_updates(self, wish: dict[str, Any]) -> object:
        self._poll.cancel()
        self._poll = poll = trio.CancelScope()
        offset = int(wish.get("offset", 0))
        self._updates = [update for update in self._updates if update["update_id"] >= offset]
        with poll:
            if not self._updates:
                with trio.move_on_after(min(float(wish.get("timeout", 0)), self.most_s)):
                    await self._said.wait()
        if poll.cancelled_caught:
            raise _Refused(409, "Conflict: terminated by other getUpdates request; make sure that only one runs")
        batch = self._updates[: int(wish.get("limit", 100))]
        if self.shuffle is not None:
            self.shuffle.shuffle(batch)
        return batch

    def _send(self, wish: dict[str, Any]) -> object:
        text = self._text(wish)
        replied = wish.get("reply_parameters", {}).get("message_id")
        message = SentMessage(self._new_id(), int(wish["chat_id"]), text, wish.get("message_thread_id"), replied)
        self.messages.append(message)
        return {"message_id": message.id, "chat": {"id": message.chat, "type": "private"}, "text": text}

    def _edit(self, wish: dict[str, Any]) -> object:
        text = self._text(wish)
        found = [message for message in self.messages if message.id == wish["message_id"]]
        if not found:
            raise _Refused(400, "Bad Request: message to edit not found")
        if found[0].text == text:
            raise _Refused(400, "Bad Request: message is not modified: specified new message content is the same")
        found[0].text = text
        found[0].edits += 1
        return {"message_id": found[0].id}

    def _text(self, wish: dict[str, Any]) -> str:
        text = str(wish["text"])
        if wish.get("parse_mode") == "HTML":
            text = text_of_html(text)
        if not text.strip():
            raise _Refused(400, "Bad Request: message text is empty")
        if len(text.encode("utf-16-le")) // 2 > LIMIT_UNITS:
            raise _Refused(400, "Bad Request: message is too long")
        return text

    # The wire ---------------------------------------------------------------------------------------------------------

    async def serve(self, stream: trio.SocketStream) -> None:
        buffer = bytearray()
        try:
            while True:
                reply: bytes | None = None
                path, body = await _request(stream, buffer)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_when_gone, stream, buffer, nursery.cancel_scope)
                    reply = await self._handle(path, body)
                    nursery.cancel_scope.cancel()
                if reply is None:
                    return
                await stream.send_all(reply)
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            return  # the client went
        finally:
            with trio.move_on_after(1, shield=True):
                await stream.aclose()

    async def _handle(self, path: str, body: bytes) -> bytes | None:
        if path.startswith(f"/file/bot{self.token}/"):
            content = self.files.get(path.removeprefix(f"/file/bot{self.token}/"))
            return _response(404, b"") if content is None else _response(200, content)
        if not path.startswith(f"/bot{self.token}/"):
            return _error(_Refused(401, "Unauthorized"))
        method = path.rpartition("/")[2]
        self.calls[method] = self.calls.get(method, 0) + 1
        self.called_at.append((method, trio.current_time()))
        wish: dict[str, Any] = msgspec.json.decode(body) if body else {}
        self.bodies.append((method, wish))
        if method in self.holds:
            await trio.sleep_forever()
        fault = self.faults(method)
        if isinstance(fault, Cut) and not fault.is_late:
            return None
        if isinstance(fault, TooMany):
            return _error(_Refused(429, "Too Many Requests: retry later", retry_after=fault.retry_after_s))
        if isinstance(fault, Status):
            return _error(_Refused(fault.code, fault.description))
        try:
            result = await self.answer(method, wish)
        except _Refused as error:
            return _error(error)
        answer = msgspec.json.encode({"ok": True, "result": result}).replace(b"GARBLED", self.garbled)
        return None if fault is not None else _response(200, answer)


async def _cancel_when_gone(stream: trio.SocketStream, buffer: bytearray, scope: trio.CancelScope) -> None:
    """A client that goes away while it waits is not answered."""
    try:
        data = await stream.receive_some(65_536)
    except trio.BrokenResourceError:
        data = b""
    buffer += data
    if not data:
        scope.cancel()


async def _request(stream: trio.SocketStream, buffer: bytearray) -> tuple[str, bytes]:
    while b"\r\n\r\n" not in buffer:
        await _more(stream, buffer)
    head, _, rest = bytes(buffer).partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    length = int(headers.get("content-length", "0"))
    del buffer[: len(buffer) - len(rest)]
    while len(buffer) < length:
        await _more(stream, buffer)
    body = bytes(buffer[:length])
    del buffer[:length]
    return lines[0].split(" ")[1], body


async def _more(stream: trio.SocketStream, buffer: bytearray) -> None:
    data = await stream.receive_some(65_536)
    if not data:
        raise EOFError
    buffer += data


def _response(status: int, body: bytes) -> bytes:
    return (
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    )


def _error(error: _Refused) -> bytes:
    told: dict[str, object] = {"ok": False, "error_code": error.code, "description": error.description}
    if error.parameters:
        told["parameters"] = error.parameters
    return _response(error.code, msgspec.json.encode(told))


@asynccontextmanager
async def fake_telegram(**options: Any) -> AsyncGenerator[FakeTelegram]:
    """Serve on loopback until the block ends; then every connection is cut."""
    telegram = FakeTelegram(**options)

    async def listen(*, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        await trio.serve_tcp(telegram.serve, 0, host="127.0.0.1", task_status=task_status)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(listen)
        telegram.port = listeners[0].socket.getsockname()[1]
        yield telegram
        nursery.cancel_scope.cancel()
