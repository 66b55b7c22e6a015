"""Actors that run as tasks of the trio loop: for everything that waits on I/O."""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec
import pykka
import trio

from .envelope import SYSTEM, Envelope, Principal, current_envelope
from .errors import BadRequest
from .handlers import Handler, handlers_of
from .mailboxes import Overflow
from .message import Message, StreamMessage, encode
from .node import Incarnation, Kind, start_within
from .reply import ReplyStream, StreamReply, died

if TYPE_CHECKING:
    from .cell import Cell
    from .system import ActorSystem

R = TypeVar("R")

TURNS_BEFORE_CHECKPOINT = 64
TIME_BEFORE_CHECKPOINT_S = 0.005
"""How long an actor may handle messages without letting another task run: whichever comes first."""


class Stop:
    """The control word by which an actor is asked to end."""


STOP = Stop()


class Terminated:
    """The control word by which a watcher learns, exactly once, that an incarnation has ended."""

    __slots__ = ("incarnation", "path", "reason")

    def __init__(self, path: str, incarnation: int, reason: str) -> None:
        self.path = path
        self.incarnation = incarnation
        self.reason = reason


class Actor(pykka.Actor):
    """A pykka actor whose loop is a trio task.

    A handler is an async method with a parameter `message: SomeMessage`; for a `StreamMessage`, an async generator.
    A handler that raises a `PocketPawError` answers with it; any other exception also ends this incarnation.
    State changes belong after the await that might fail: a handler can be cancelled at any await.
    """

    kind: ClassVar[Kind] = "trio"
    concurrency: int = 1
    """How many messages are handled at once; above 1 a crash of one handler ends the others too."""
    has_tasks: ClassVar[bool] = False
    """Whether `spawn` may be used."""
    proves_health: ClassVar[bool] = False
    """Whether it calls `prove_health` itself; otherwise running is health enough."""
    handler_timeout_s: ClassVar[float | None] = 60.0
    """A handler that takes longer crashes its actor (checked by the watchdog, about once a second)."""
    mailbox_capacity: ClassVar[int] = 1000
    overflow: ClassVar[Overflow] = "wait"
    handlers: ClassVar[dict[type[Message[Any]], Handler]] = {}

    _cell: Cell
    _life: Incarnation
    _nursery: trio.Nursery | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.handlers = handlers_of(cls, Actor, is_async=True)

    def __init__(self) -> None:
        """Make the actor, not yet at its address; nothing of ours may be used before `on_start`."""
        # Not pykka's: it makes an identifier, an event and an inbox for each actor, 1.6 KB and 6 µs, where the address
        # and its mailbox do their work.

    # Hooks ------------------------------------------------------------------------------------------------------------

    async def on_start(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] pykka's is not async
        """Run before the first message, within the child's `start_timeout_s`."""

    async def on_stop(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] pykka's is not async
        """Run after the last message of an orderly stop; not after a crash or a kill."""

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Run after a crash or a kill; must not wait."""

    async def terminated(self, word: Terminated) -> None:
        """An incarnation that this actor watches has ended."""

    def is_idle(self) -> bool:
        """Whether it may be passivated now; asked only when its mailbox is empty and no handler runs."""
        return True

    # What an actor can do ---------------------------------------------------------------------------------------------

    @property
    def is_placed(self) -> bool:
        """Whether it has begun to live at an address."""
        return hasattr(self, "_cell")

    @property
    def path(self) -> str:
        return self._cell.path

    @property
    def incarnation(self) -> int:
        """Which life of its address this is; 1 is the first."""
        return self._life.number

    @property
    def system(self) -> ActorSystem:
        return self._cell.system

    @property
    def principal(self) -> Principal:
        """On whose behalf the message in hand was sent."""
        envelope = current_envelope.get()
        return envelope.principal if envelope is not None else SYSTEM

    @property
    def trace_id(self) -> str:
        envelope = current_envelope.get()
        return envelope.trace_id if envelope is not None else ""

    @property
    def provenance(self) -> tuple[str, ...]:
        """The outside content that may have provoked what this task is doing."""
        envelope = current_envelope.get()
        return envelope.provenance if envelope is not None else ()

    def mark(self, *sources: str) -> None:
        """Have all that this task sends from here on say that content from `sources` may have provoked it."""
        if not sources:
            return
        envelope = current_envelope.get() or Envelope(Message, b"", self.path, None, SYSTEM, "", math.inf)
        known = dict.fromkeys((*envelope.provenance, *sources))
        current_envelope.set(msgspec.structs.replace(envelope, provenance=tuple(known)))

    def ask(self, message: Message[R], *, to: str | None = None, timeout_s: float = 30.0) -> Coroutine[Any, Any, R]:
        """Send `message` to its owner and wait for the answer; raises the `PocketPawError` that came instead."""
        if self._life.exit is not None:
            self._fence(message)
        return self._cell.system.ask(message, to=to, timeout_s=timeout_s, sender=self._cell.path)

    def tell(self, message: Message[Any], *, to: str | None = None) -> Coroutine[Any, Any, None]:
        """Send `message` and go on; waits only for room in the mailbox."""
        if self._life.exit is not None:
            self._fence(message)
        return self._cell.system.tell(message, to=to, sender=self._cell.path)

    def try_tell(self, message: Message[Any], *, to: str | None = None) -> None:
        """As `tell`, without waiting; raises `MailboxFull`."""
        self._fence(message)
        self.system.try_tell(message, to=to, sender=self._cell.path)

    def stream(
        self, message: StreamMessage[R], *, to: str | None = None, idle_timeout_s: float = 120.0
    ) -> AbstractAsyncContextManager[ReplyStream[R]]:
        """Send `message` and iterate over its answers; leaving the block ends the producer."""
        self._fence(message)
        return self.system.stream(message, to=to, idle_timeout_s=idle_timeout_s, sender=self._cell.path)

    def publish(self, topic: str, name: str, data: object) -> int:
        """Put a numbered event on a topic; returns its number. `data` is JSON-shaped, or a struct."""
        if self._life.is_over:
            return 0
        return self.system.bus.publish(topic, name, data)

    def watch(self, path: str) -> None:
        """Have `terminated` called once when the present incarnation at `path` ends (at once if there is none).

        A restart of the watcher ends the watch. `path` is an actor's, not a supervisor's.
        """
        self.system.watch(path, self._cell)

    def stop(self) -> None:
        """End this incarnation normally, after the message in hand."""
        if not self._life.is_over:
            self._cell.mailbox.put_control(STOP)

    def prove_health(self) -> None:
        """Say that what it is there for has worked: from now on its time counts towards the reset of its backoff."""
        if self._life.healthy_since is None:
            self._life.healthy_since = self.system.now()

    def spawn(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a task beside the handlers; it ends with this incarnation, and its crash is the actor's."""
        assert self._nursery is not None, f"{type(self).__name__} must set has_tasks"
        name = getattr(task, "__name__", "task")
        self._nursery.start_soon(task, *args, name=f"{self.path}: {name}")

    def _fence(self, message: Message[Any]) -> None:
        if self._life.is_over:
            self.system.dead_letters.add(self.path, type(message).__name__, "stale incarnation")
            raise died(self.path, "is a former incarnation, fenced")

    # The loop ---------------------------------------------------------------------------------------------------------

    async def run_in(self, cell: Cell, life: Incarnation) -> None:
        """Live one incarnation in `cell`: the runtime's way in."""
        self._cell, self._life = cell, life
        try:
            if self.has_tasks:
                async with trio.open_nursery() as self._nursery:
                    await self._start_and_loop()
                    self._nursery.cancel_scope.cancel()
            else:
                await self._start_and_loop()
        except BaseException:
            self.on_failure(*sys.exc_info())
            raise

    async def _start_and_loop(self) -> None:
        await start_within(self._cell.spec.start_timeout_s, self.on_start())
        self._cell.ready(self._life)
        if self.concurrency == 1:
            await self._actor_loop()
        else:
            await self._concurrent_loop()
        if not self._life.is_over:
            current_envelope.set(None)
            await self.on_stop()

    async def _actor_loop(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] pykka's is not async
        """Handle one item after another until told to stop. What is left in the mailbox, the cell's, stays there."""
        cell, life, mailbox = self._cell, self._life, self._cell.mailbox
        turns, since = 0, 0.0
        while life.exit is None:
            item = mailbox.take()
            if isinstance(item, Envelope):
                await self._handle(item)
                turns += 1
                if turns == 1:
                    since = cell.last_active  # the end of the first saves asking for the time at its beginning
                elif turns >= TURNS_BEFORE_CHECKPOINT or cell.last_active - since >= TIME_BEFORE_CHECKPOINT_S:
                    await trio.lowlevel.checkpoint()
                    turns = 0
            elif item is None:
                current_envelope.set(None)  # so that an idle actor keeps no message alive
                await mailbox.wait()
                turns = 0
            elif isinstance(item, Terminated):
                current_envelope.set(None)
                await self.terminated(item)
            else:
                return

    async def _concurrent_loop(self) -> None:
        """As `_actor_loop`, with up to `concurrency` messages in hand; words of control are taken without room too."""
        mailbox, life = self._cell.mailbox, self._life
        async with trio.open_nursery() as nursery:
            while life.exit is None:
                has_room = len(nursery.child_tasks) < self.concurrency
                item = mailbox.take() if has_room else mailbox.take_control()
                if isinstance(item, Envelope):
                    nursery.start_soon(self._handle_one, item)
                elif item is None:
                    await mailbox.wait()
                elif isinstance(item, Terminated):
                    await self.terminated(item)
                else:
                    return

    async def _handle_one(self, envelope: Envelope) -> None:
        try:
            await self._handle(envelope)
        finally:
            self._cell.mailbox.wake()  # there is room again, once this task has ended

    async def _handle(self, envelope: Envelope) -> None:
        cell, reply = self._cell, envelope.reply
        handler = self.handlers.get(envelope.message_type)
        if handler is None:
            cell.refuse(envelope)
            return
        if reply is not None and reply.is_settled:
            cell.dead_letter(envelope, "expired")
            return
        current_envelope.set(envelope)
        started = cell.begin(envelope)
        try:
            if handler.is_stream:
                await self._produce(handler, envelope)
            else:
                answer = await handler.function(self, handler.read(envelope.payload))
                if reply is not None:
                    reply.set(encode(answer))  # pyright: ignore[reportAttributeAccessIssue] a StreamReply only has streams
        except BaseException as error:
            if not cell.is_survived(envelope, error):
                raise
        cell.finish(envelope, handler.name, started)

    async def _produce(self, handler: Handler, envelope: Envelope) -> None:
        """Run a generator. Its time is counted anew from each item on, and not while it waits for its consumer."""
        cell, reply = self._cell, envelope.reply
        if not isinstance(reply, StreamReply):
            raise BadRequest(f"{handler.name} is answered by a stream: use stream()")
        with trio.CancelScope() as reply.producer_scope:
            items = handler.function(self, handler.read(envelope.payload))
            try:
                async for item in items:
                    cell.touch(envelope, math.inf)
                    await reply.put(encode(item))
                    cell.touch(envelope, cell.system.now())
            finally:
                await items.aclose()
        reply.end()

    # What pykka asks implementors for; the runtime starts actors itself, with the mailbox of their address ------------

    def __str__(self) -> str:
        return f"{type(self).__name__} at {self.path if self.is_placed else 'no address yet'}"

    @staticmethod
    def _create_actor_inbox() -> Any:
        raise TypeError("messages come through the mailbox of the actor's address")

    @staticmethod
    def _create_future() -> Any:
        raise TypeError("answers come through ask(), not through pykka's futures")

    def _start_actor_loop(self) -> None:
        raise TypeError("an actor is started by its supervisor: put it in a tree as Child(…)")
