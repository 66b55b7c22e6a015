"""A Discord that speaks the true wire on loopback, gateway and REST, as badly as it is told.

    async with fake_discord() as discord:
        discord.api_url, discord.gateway_url            # for the settings
        discord.say("hello", chat="77", mentions_bot=True, guild_id="5")
        discord.cut(), discord.close(4009), discord.send_op(7), discord.expire_sessions()
        discord.answers.append(Answer(429, {…}))        # for the next calls of REST
        discord.identifies, discord.resumes, discord.heartbeats, discord.messages["77"]

What breaks the protocol goes to `violations`, which a test should find empty.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

Json = dict[str, object]

TOKEN = "fake-bot-token.for.tests"
BOT = "1000"
BOT_ROLE = "1001"
ANN = "42"
EPOCH_MS = 1_420_070_400_000
INTENTS = 1 << 0 | 1 << 9 | 1 << 12 | 1 << 15
BUCKET_SIZE, BUCKET_S = 5, 1.0


class Answer(msgspec.Struct, frozen=True):
    """How the next call of REST is answered instead of being done; `is_done`: although it is done."""

    status: int
    body: object = None
    headers: tuple[tuple[str, str], ...] = ()
    is_done: bool = False
    cuts: bool = False
    """The connection is cut without an answer."""


class Session:
    """Events are kept for those who resume; the first has the number 1."""

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.events: list[Json] = []

    def add(self, name: str, data: object) -> None:
        self.events.append({"op": 0, "t": name, "s": len(self.events) + 1, "d": data})


class _Payload(msgspec.Struct):
    op: int
    d: msgspec.Raw = msgspec.Raw(b"null")


class _Identify(msgspec.Struct):
    token: str
    intents: int
    properties: dict[str, str]


class _Resume(msgspec.Struct):
    token: str
    session_id: str
    seq: int


class _Create(msgspec.Struct):
    content: str
    nonce: str = ""
    enforce_nonce: bool = False
    allowed_mentions: Json = {}
    flags: int = 0
    message_reference: Json | None = None


class FakeDiscord:
    """Counts, records and answers; see the module."""

    def __init__(self) -> None:
        self.api_port = self.gateway_port = 0
        self.heartbeat_s = 30.0
        self.acknowledges = True
        self.greets = True
        self.token = TOKEN
        self.intents = INTENTS
        self.sessions_left = 1000
        self.resume_url = ""
        """Where to resume; empty: here, at a path of its own."""
        self.refuses_sessions = False
        self.has_buckets = False
        """Whether five messages a second are the limit of each channel."""

        self.connections = 0
        self.identifies = 0
        self.resumes: list[tuple[str, int]] = []
        self.heartbeats: list[int | None] = []
        self.violations: list[str] = []
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.created: list[_Create] = []
        self.typing = 0
        self.answers: deque[Answer] = deque()
        self.misfortune: Callable[[], Answer | None] = lambda: None
        """What befalls a call for which nothing is in `answers`."""
        self.messages: dict[str, list[Json]] = {}
        self.files: dict[str, bytes] = {}
        self.is_quiet = False
        """While it is, events are kept with their sessions and not sent."""

        self._ids = itertools.count((int(time.time() * 1000) - EPOCH_MS) << 22)
        self._nonces: dict[str, Json] = {}
        self._buckets: dict[str, list[float]] = {}
        self._sessions: dict[str, Session] = {}
        self._links: list[Link] = []
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}/api/v10"

    @property
    def gateway_url(self) -> str:
        return f"ws://127.0.0.1:{self.gateway_port}"

    @property
    def live(self) -> int:
        """How many connections have a session."""
        return sum(link.session is not None for link in self._links)

    async def wait(self, condition: Callable[[], object]) -> None:
        """Return once `condition` holds; it is looked at after whatever happens here."""
        while not condition():
            await self._changed.park()

    def _note(self) -> None:
        self._changed.unpark_all()

    # What happens on Discord ------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        return str(next(self._ids))

    def say(
        self,
        text: str,
        chat: str = "77",
        *,
        guild_id: str | None = None,
        mentions_bot: bool = False,
        replies_to: str | None = None,
        by: str = ANN,
        times: int = 1,
        is_missed: bool = False,
        **fields: object,
    ) -> Json:
        """Somebody writes; the event is sent `times`, and never if it `is_missed`."""
        mentions = [{"id": BOT, "username": "paw", "bot": True}] if mentions_bot else []
        message: Json = {
            "id": self.new_id(),
            "channel_id": chat,
            "author": {"id": by, "username": "ann", "global_name": "Ann"},
            "content": f"<@{BOT}> {text}" if mentions_bot else text,
            "type": 19 if replies_to else 0,
            "mentions": mentions,
            "attachments": [],
            "timestamp": "2026-11-22T12:00:00+00:00",
            **fields,
        }
        if replies_to:
            message["referenced_message"] = {"id": "1", "author": {"id": replies_to, "username": "x"}}
        self.messages.setdefault(chat, []).append(message)
        told = message if guild_id is None else {**message, "guild_id": guild_id, "member": {"nick": None}}
        if not is_missed:
            for _ in range(times):
                self.tell("MESSAGE_CREATE", told)
        return message

    def tell(self, name: str, data: object) -> None:
        """An event for every session, sent to those that are connected."""
        for session in self._sessions.values():
            session.add(name, data)
        self._wake()

    def release(self) -> None:
        """End the quiet."""
        self.is_quiet = False
        self._wake()

    def send_op(self, op: int, data: object = None) -> None:
        for link in self._links:
            link.controls.append({"op": op, "d": data})
        self._wake()

    def ask_heartbeat(self) -> None:
        """Have every connection prove itself now, which takes no time."""
        self.send_op(1)

    def close(self, code: int) -> None:
        """Close every connection with this code."""
        for link in self._links:
            link.close_code = code
        self._wake()

    def cut(self) -> None:
        """Cut every connection, without a word."""
        for link in self._links:
            link.scope.cancel()

    def expire_sessions(self) -> None:
        self._sessions.clear()

    def _wake(self) -> None:
        for link in self._links:
            link.wake.set()

    # The gateway ------------------------------------------------------------------------------------------------------

    async def serve_gateway(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        try:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    request = await wrap_server_stream(nursery, stream)
                    query = parse_qs(urlsplit(request.path).query)
                    if query != {"v": ["10"], "encoding": ["json"]}:
                        self.violations.append(f"connected with {request.path}")
                    link = Link(await request.accept(), scope)
                    self._links.append(link)
                    try:
                        await self._serve_link(link)
                    finally:
                        self._links.remove(link)
                        nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(stream)
            self._note()

    async def _serve_link(self, link: Link) -> None:
        if not self.greets:
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, link)
            nursery.start_soon(self._miss_heartbeats, link, self.heartbeat_s)
            link.controls.append({"op": 10, "d": {"heartbeat_interval": self.heartbeat_s * 1000}})
            link.wake.set()
            try:
                while True:
                    self._obey(link, msgspec.json.decode(await link.socket.get_message(), type=_Payload))
                    link.wake.set()
                    self._note()
            except ConnectionClosed as closed:
                link.left_with = closed.reason.code if closed.reason else None
                if link.left_with in (1000, 1001) and link.close_code is None:
                    self.violations.append(f"left with {link.left_with}, which ends the session")
            nursery.cancel_scope.cancel()

    async def _write(self, link: Link) -> None:
        try:
            while True:
                link.wake = trio.Event()
                while link.controls:
                    await link.say(link.controls.popleft())
                while link.session is not None and not self.is_quiet and link.sent < len(link.session.events):
                    link.sent += 1
                    await link.say(link.session.events[link.sent - 1])
                if link.close_code is not None:
                    await link.socket.aclose(link.close_code)
                await link.wake.wait()
        except ConnectionClosed:
            pass  # the reader sees it too

    async def _miss_heartbeats(self, link: Link, interval_s: float) -> None:
        while True:
            with trio.move_on_after(2 * interval_s + 30.0):  # however slow this machine is
                await link.beaten.wait()
                link.beaten = trio.Event()
                continue
            self.violations.append("no heartbeat came in time")

    def _obey(self, link: Link, payload: _Payload) -> None:
        match payload.op:
            case 1:
                seq = msgspec.json.decode(payload.d, type=int | None)
                self.heartbeats.append(seq)
                link.beaten.set()
                latest = len(link.session.events) if link.session is not None else link.resumed_after
                if (seq or 0) > latest:
                    self.violations.append(f"a heartbeat says {seq}")
                if self.acknowledges:
                    link.controls.append({"op": 11})
            case 2:
                self._identify(link, msgspec.json.decode(payload.d, type=_Identify))
            case 6:
                self._resume(link, msgspec.json.decode(payload.d, type=_Resume))
            case _:
                self.violations.append(f"opcode {payload.op} was sent")

    def _identify(self, link: Link, asked: _Identify) -> None:
        self.identifies += 1
        self.sessions_left -= 1
        if link.session is not None:
            self.violations.append("identified twice")
        if asked.token != self.token:
            link.close_code = 4004
        elif asked.intents & ~self.intents:
            link.close_code = 4014
        elif self.refuses_sessions:
            link.controls.append({"op": 9, "d": False})
        else:
            if asked.intents != INTENTS:
                self.violations.append(f"intents {asked.intents}")
            session = Session(f"session-{self.identifies}")
            user = {"id": BOT, "username": "paw", "bot": True}
            session.add(
                "READY",
                {
                    "v": 10,
                    "session_id": session.id,
                    "resume_gateway_url": self.resume_url or f"{self.gateway_url}/resume",
                    "user": user,
                },
            )
            role = {"id": BOT_ROLE, "name": "paw", "tags": {"bot_id": BOT}}
            session.add("GUILD_CREATE", {"id": "5", "name": "home", "roles": [{"id": "5", "name": "@everyone"}, role]})
            self._sessions[session.id] = link.session = session

    def _resume(self, link: Link, asked: _Resume) -> None:
        self.resumes.append((asked.session_id, asked.seq))
        link.resumed_after = asked.seq
        session = self._sessions.get(asked.session_id)
        if not link.path.startswith("/resume"):
            self.violations.append("resumed elsewhere than at the address for it")
        if asked.token != self.token:
            link.close_code = 4004
        elif session is None:
            link.controls.append({"op": 9, "d": False})
        elif asked.seq > len(session.events):
            self.violations.append(f"resumed at {asked.seq} of {len(session.events)}")
            link.close_code = 4007
        else:
            session.add("RESUMED", {})
            link.session, link.sent = session, asked.seq

    # REST -------------------------------------------------------------------------------------------------------------

    async def serve_api(self, stream: trio.SocketStream) -> None:
        connection = Connection(stream)
        try:
            while (request := await connection.next_request()) is not None:
                response = self._respond(*request)
                self._note()
                if response is None:
                    break
                await stream.send_all(response)
        except trio.BrokenResourceError:
            pass  # the client has gone
        finally:
            await trio.aclose_forcefully(stream)

    def _respond(self, method: str, target: str, headers: dict[str, str], body: bytes) -> bytes | None:
        url = urlsplit(target)
        if url.path.startswith("/files/"):
            if "authorization" in headers:
                self.violations.append("the token was sent for a file")
            content = self.files.get(url.path)
            return response(404) if content is None else response(200, raw=content)
        self.requests.append(f"{method} {target.removeprefix('/api/v10')}")
        self.headers.append(headers)
        if headers.get("authorization") != f"Bot {self.token}":
            return response(401, {"message": "401: Unauthorized", "code": 0})
        if not headers.get("user-agent", "").startswith("DiscordBot (https://"):
            return response(403, {"message": "internal network error", "code": 40333})
        parts = url.path.removeprefix("/api/v10/").split("/")
        answer = None
        if parts[0] == "channels":
            answer = self.answers.popleft() if self.answers else self.misfortune()
        if answer is not None and not answer.is_done:
            return None if answer.cuts else response(answer.status, answer.body, dict(answer.headers))
        done = self._do(method, parts, parse_qs(url.query), body)
        if answer is not None:
            return None if answer.cuts else response(answer.status, answer.body, dict(answer.headers))
        return done

    def _do(self, method: str, parts: list[str], query: dict[str, list[str]], body: bytes) -> bytes:
        match method, parts:
            case "GET", ["gateway", "bot"]:
                limit = {"total": 1000, "remaining": self.sessions_left, "reset_after": 3_600_000, "max_concurrency": 1}
                return response(200, {"url": self.gateway_url, "shards": 1, "session_start_limit": limit})
            case "GET", ["channels", chat, "messages"]:
                after, limit = int(query["after"][0]), int(query["limit"][0])
                found = [message for message in self.messages.get(chat, []) if int(str(message["id"])) > after]
                return response(200, found[:limit][::-1])
            case "POST", ["channels", chat, "messages"]:
                return self._create(chat, msgspec.json.decode(body, type=_Create))
            case "POST", ["channels", _, "typing"]:
                self.typing += 1
                return response(204)
            case "PATCH", ["channels", chat, "messages", message_id]:
                message = next((m for m in self.messages.get(chat, []) if m["id"] == message_id), None)
                if message is None:
                    return response(404, {"message": "Unknown Message", "code": 10008})
                message["content"] = msgspec.json.decode(body, type=_Create).content
                return response(200, message)
            case _:
                return response(404, {"message": "404: Not Found", "code": 0})

    def _create(self, chat: str, asked: _Create) -> bytes:
        headers = {"x-ratelimit-bucket": "b1", "x-ratelimit-limit": str(BUCKET_SIZE)}
        if self.has_buckets:
            now = trio.current_time()
            recent = self._buckets[chat] = [at for at in self._buckets.get(chat, []) if at > now - BUCKET_S]
            reset_after_s = (recent[0] if recent else now) + BUCKET_S - now
            if len(recent) == BUCKET_SIZE:
                self.violations.append("a message was sent although the bucket is empty")
                refusal = {"message": "You are being rate limited.", "retry_after": reset_after_s, "global": False}
                return response(429, refusal, {**headers, "retry-after": str(reset_after_s)})
            recent.append(now)
            headers["x-ratelimit-remaining"] = str(BUCKET_SIZE - len(recent))
            headers["x-ratelimit-reset-after"] = f"{reset_after_s + 0.001:.3f}"  # rounded, and not down
        if not asked.content:
            return response(400, {"message": "Cannot send an empty message", "code": 50006})
        if len(asked.content) > 2000 or len(asked.nonce) > 25:
            return response(400, {"message": "Invalid Form Body", "code": 50035, "errors": {"content": {}}})
        if asked.enforce_nonce and asked.nonce in self._nonces:
            return response(200, self._nonces[asked.nonce], headers)
        bot = {"id": BOT, "username": "paw", "bot": True}
        message: Json = {"id": self.new_id(), "channel_id": chat, "author": bot, "content": asked.content, "type": 0}
        self._nonces[asked.nonce] = message
        self.messages.setdefault(chat, []).append(message)
        self.created.append(asked)
        self.tell("MESSAGE_CREATE", {**message, "mentions": []})
        return response(200, message, headers)


class Link:
    """One connection to the gateway."""

    def __init__(self, socket: WebSocketConnection, scope: trio.CancelScope) -> None:
        self.socket = socket
        self.scope = scope
        self.path = socket.path or ""
        self.session: Session | None = None
        self.resumed_after = 0
        """What a client's heartbeats say until it hears that its session is no more."""
        self.sent = 0
        """Of the session's events."""
        self.controls: deque[Json] = deque()
        self.close_code: int | None = None
        self.left_with: int | None = None
        self.wake = trio.Event()
        self.beaten = trio.Event()

    async def say(self, payload: Json) -> None:
        await self.socket.send_message(msgspec.json.encode(payload).decode())


class Connection:
    """Reads HTTP/1.1 requests with a Content-Length off a stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next_request(self) -> tuple[str, str, dict[str, str], bytes] | None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not await self._read():
                return None
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = end + 4 + int(headers.get("content-length", "0"))
        while len(self._buffer) < size:
            if not await self._read():
                return None
        body = bytes(self._buffer[end + 4 : size])
        del self._buffer[:size]
        method, target, _ = first.split(" ", 2)
        return method, target, headers, body

    async def _read(self) -> bool:
        data = await self._stream.receive_some(65_536)
        self._buffer += data
        return bool(data)


def response(status: int, body: object = None, headers: Mapping[str, str] | None = None, raw: bytes = b"") -> bytes:
    content = raw if body is None else msgspec.json.encode(body)
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += ["content-type: application/json"] if body is not None else []
    return "\r\n".join([*lines, "", ""]).encode() + content


@asynccontextmanager
async def fake_discord() -> AsyncGenerator[FakeDiscord]:
    """Serve on loopback until the block ends; then every connection is cut."""
    discord = FakeDiscord()
    async with trio.open_nursery() as nursery:
        [api] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        [gateway] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        discord.api_port = api.socket.getsockname()[1]
        discord.gateway_port = gateway.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, discord.serve_api, [api])
        nursery.start_soon(trio.serve_listeners, discord.serve_gateway, [gateway])
        yield discord
        nursery.cancel_scope.cancel()
