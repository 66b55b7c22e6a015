"""One connection to Discord's gateway, from its greeting to its end. It knows the protocol, and nothing of sockets.

discord.com/developers/docs/events/gateway, version 10.

Invariant: the session's `seq` moves on only after an event was handled, so that what was not is replayed.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Annotated, Protocol, TypeVar

import msgspec
import structlog
import trio

from ...runtime.errors import NeedsOperator, PocketPawError, TransientFailure
from ...runtime.exits import leaf
from ..models.wire_error import UNREADABLE
from .discord_rest import quote
from .discord_session import Session

log = structlog.get_logger()

T = TypeVar("T")

DISPATCH, HEARTBEAT, IDENTIFY, RESUME, RECONNECT, INVALID_SESSION, HELLO, HEARTBEAT_ACK = 0, 1, 2, 6, 7, 9, 10, 11

GUILDS, GUILD_MESSAGES, DIRECT_MESSAGES, MESSAGE_CONTENT = 1 << 0, 1 << 9, 1 << 12, 1 << 15
INTENTS = GUILDS | GUILD_MESSAGES | DIRECT_MESSAGES | MESSAGE_CONTENT

HELLO_S = 20.0
"""For the greeting of a new connection."""
READY_S = 300.0
"""For the session to begin. In an outage of Discord's it may take a while, heartbeats being answered meanwhile."""
BACKLOG = 1000
"""Events that wait to be handled; then the connection is not read, and Discord waits."""
INVALID_PAUSE_S = (1.0, 5.0)
"""Before a session is begun after one was declared invalid."""

_FATAL = {
    4004: "Discord refuses the bot token: set discord_bot_token to a valid one",
    4010: "Discord refuses the connection (4010, invalid shard)",
    4011: "the bot is in more Discord servers than one connection may serve (4011, sharding required)",
    4012: "Discord no longer speaks version 10 of its gateway (4012): a newer PocketPaw is needed",
    4013: "Discord refuses what the bot wants to hear (4013, invalid intents): a newer PocketPaw is needed",
    4014: "Discord refuses what the bot wants to hear (4014): in the Developer Portal, on the application's page Bot, "
    "under Privileged Gateway Intents, switch Message Content Intent on",
}
_SESSION_LOST = frozenset({4003, 4005, 4007, 4009})


class SocketClosed(Exception):
    """The other side closed, or the network did (then `code` is 1006)."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Socket(Protocol):
    """A WebSocket. Both methods raise SocketClosed once it is closed."""

    async def send(self, text: str) -> None: ...

    async def receive(self) -> str | bytes: ...


class Event(msgspec.Struct, frozen=True):
    """What Discord sends; `d` depends on `op` and, for a dispatch, on `t`."""

    op: int
    d: msgspec.Raw = msgspec.Raw(b"null")
    s: int | None = None
    t: str | None = None


class _Hello(msgspec.Struct, frozen=True):
    heartbeat_interval: Annotated[float, msgspec.Meta(gt=0)]


class _Self(msgspec.Struct, frozen=True):
    id: str


class _Ready(msgspec.Struct, frozen=True):
    session_id: str
    resume_gateway_url: str
    user: _Self


class _Ending(msgspec.Struct, frozen=True):
    """Why a connection ends. `again_s`: after so long the next may be opened, as this cannot go round and round.

    `is_lost`: the session is; it is forgotten once all that came of it is handled, as that still moves its `seq`.
    """

    error: PocketPawError
    again_s: float | None = None
    is_lost: bool = False


class GatewayConnection:
    """Greets, identifies or resumes, keeps the heart beating, and hands on events in their order."""

    def __init__(
        self,
        socket: Socket,
        session: Session,
        token: str,
        handle: Callable[[Event], Awaitable[None]],
        proven: Callable[[], None],
    ) -> None:
        self._socket = socket
        self._session = session
        self._token = token
        self._handle = handle
        self._proven = proven
        self._resumes = bool(session.id)
        self._is_ready = False
        self._has_beaten = False
        """Whether a heartbeat was ever acknowledged."""
        self._awaits_ack = False
        self._is_full = False
        """Whether the next event waits for room, and so whatever is behind it, acknowledgements included."""
        self._ending: _Ending | None = None

    async def run(self) -> float:
        """Live until the connection ends; return after how many seconds the next may be opened.

        At once may follow on a connection whose heart has beaten. One that ends before is a failure, even if Discord
        asks for it politely: then it is the supervisor who says when.

        Raises: TransientFailure, NeedsOperator, and whatever `handle` raises
        """
        interval_s = await self._greet()
        put, get = trio.open_memory_channel[Event](BACKLOG)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._work, get)  # ends when all is handled that came before the end
                async with trio.open_nursery() as link:
                    link.start_soon(self._beat, interval_s, link.cancel_scope)
                    await self._read(put)
                    link.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise leaf(group) from None
        assert self._ending is not None
        self._forget_what_is_lost(self._ending)
        if self._ending.again_s is None:
            raise self._ending.error
        log.info("the Discord gateway is connected anew", reason=self._ending.error.detail)
        return self._ending.again_s

    async def _greet(self) -> float:
        """Wait for the greeting, and answer it; return the heartbeat's interval in seconds."""
        try:
            with trio.fail_after(HELLO_S):
                event = self._decode(await self._socket.receive(), Event)
                if event.op != HELLO:
                    raise TransientFailure(f"Discord's gateway begins with opcode {event.op} instead of a greeting")
                interval_s = self._decode(event.d, _Hello).heartbeat_interval / 1000
                await (self._resume() if self._resumes else self._identify())
        except trio.TooSlowError:
            raise TransientFailure(f"Discord's gateway is silent after {HELLO_S:g} s") from None
        except SocketClosed as closed:
            ending = self._closing(closed)
            self._forget_what_is_lost(ending)
            raise ending.error from None
        return interval_s

    async def _identify(self) -> None:
        properties = {"os": "linux", "browser": "pocketpaw", "device": "pocketpaw"}
        await self._send(IDENTIFY, {"token": self._token, "intents": INTENTS, "properties": properties})

    async def _resume(self) -> None:
        session = self._session
        await self._send(RESUME, {"token": self._token, "session_id": session.id, "seq": session.seq or 0})

    async def _send(self, op: int, data: object) -> None:
        await self._socket.send(msgspec.json.encode({"op": op, "d": data}).decode())

    # Reading ----------------------------------------------------------------------------------------------------------

    async def _read(self, put: trio.MemorySendChannel[Event]) -> None:
        async with put:
            while self._ending is None:
                try:
                    event = self._decode(await self._socket.receive(), Event)
                    await self._take(event, put)
                except SocketClosed as closed:
                    self._ending = self._closing(closed)
                except TransientFailure as failure:
                    self._ending = _Ending(failure)

    async def _take(self, event: Event, put: trio.MemorySendChannel[Event]) -> None:
        if event.op == DISPATCH:
            if event.t in ("READY", "RESUMED"):
                self._is_ready = True
                self._proven()
            await self._queue(event, put)
        elif event.op == HEARTBEAT:
            await self._send(HEARTBEAT, self._session.seq)
        elif event.op == HEARTBEAT_ACK:
            self._awaits_ack, self._has_beaten = False, True
            if self._is_ready:
                self._proven()
        elif event.op == RECONNECT:
            self._ending = self._interrupted("Discord asks to connect anew")
        elif event.op == INVALID_SESSION:
            self._ending = self._invalidated(is_resumable=self._decode(event.d, bool))

    async def _queue(self, event: Event, put: trio.MemorySendChannel[Event]) -> None:
        try:
            put.send_nowait(event)
        except trio.WouldBlock:
            self._is_full = True
            await put.send(event)
            self._is_full = False

    async def _work(self, get: trio.MemoryReceiveChannel[Event]) -> None:
        async for event in get:
            if event.t == "READY":
                ready = self._decode(event.d, _Ready)
                self._session.begin(ready.session_id, ready.resume_gateway_url, ready.user.id)
            await self._handle(event)
            self._session.advance(event.s)

    # The heart --------------------------------------------------------------------------------------------------------

    async def _beat(self, interval_s: float, link: trio.CancelScope) -> None:
        """Send heartbeats; end the connection when one stays without an answer, or cannot even be sent."""
        deadline = trio.current_time() + READY_S
        await trio.sleep(interval_s * random.random())  # noqa: S311 spreads load, hides nothing
        while self._ending is None:
            if not self._is_ready and trio.current_time() > deadline:
                self._ending = _Ending(TransientFailure(f"Discord began no session within {READY_S:g} s"))
                break
            if self._awaits_ack and not self._is_full:
                self._ending = self._interrupted(f"a heartbeat stays without an answer for {interval_s:g} s")
                break
            self._awaits_ack = True
            next_at = trio.current_time() + interval_s
            with trio.move_on_at(next_at):  # a dead line may not even take it
                await self._send_heartbeat()
            await trio.sleep_until(next_at)
        link.cancel()

    async def _send_heartbeat(self) -> None:
        try:
            await self._send(HEARTBEAT, self._session.seq)
        except SocketClosed as closed:
            self._ending = self._ending or self._closing(closed)

    # Endings ----------------------------------------------------------------------------------------------------------

    def _forget_what_is_lost(self, ending: _Ending) -> None:
        if ending.is_lost:
            self._session.forget()

    def _interrupted(self, reason: str) -> _Ending:
        return _Ending(TransientFailure(reason), 0.0 if self._is_ready and self._has_beaten else None)

    def _invalidated(self, *, is_resumable: bool) -> _Ending:
        failure = TransientFailure("Discord declares the session invalid")
        if not self._resumes or is_resumable:
            return _Ending(failure, is_lost=not is_resumable)  # it would do so again
        pause_s = random.uniform(*INVALID_PAUSE_S)  # noqa: S311 spreads load, hides nothing
        return _Ending(failure, pause_s, is_lost=True)

    def _closing(self, closed: SocketClosed) -> _Ending:
        if closed.code in _FATAL:
            return _Ending(NeedsOperator(_FATAL[closed.code], close_code=closed.code))
        reason = f": {quote(closed.reason, self._token)}" if closed.reason else ""
        ending = self._interrupted(f"Discord's gateway closed the connection with code {closed.code}{reason}")
        return msgspec.structs.replace(ending, is_lost=closed.code in _SESSION_LOST)

    def _decode(self, data: str | bytes | msgspec.Raw, type_: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=type_)
        except UNREADABLE as error:
            raise TransientFailure(
                f"Discord's gateway says what cannot be read: {quote(error, self._token)}"
            ) from error
