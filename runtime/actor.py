"""Actors that run as tasks of the trio loop: for everything that waits on I/O."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pykka
import trio

from .envelope import SYSTEM, Envelope, Principal, current_envelope
from .errors import NoSuchActor, PocketPawError
from .exits import describe, is_cancellation
from .handlers import Handler, handlers_of
from .mailbox import Overflow
from .message import Message, StreamMessage, encode
from .node import Incarnation, Kind, start_within
from .reply import ReplyStream, StreamReply, died

if TYPE_CHECKING:
    from .cell import Cell
    from .system import ActorSystem

R = TypeVar("R")

TURNS_BEFORE_CHECKPOINT = 64
"""Messages that an actor may handle without letting another task run."""


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


class _NoInbox:
    """pykka gives every actor an inbox of its own; ours belongs to the address, and is put in when the actor starts."""


class Actor(pykka.Actor):
    """A pykka actor whose loop is a trio task.

    A handler is an async method with a parameter `message: SomeMessage`; one for a `StreamMessage` is an async generator.
    A handler that raises a `PocketPawError` answers with it; any other exception also ends this incarnation.
    State changes belong after the await that might fail: a handler can be cancelled at any await.
    """

    kind: ClassVar[Kind] = "trio"
    concurrency: ClassVar[int] = 1
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
        cls.handlers = handlers_of(cls, Actor)

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
    def path(self) -> str:
        return self._cell.path

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

    async def ask(self, message: Message[R], *, to: str | None = None, timeout_s: float = 30.0) -> R:
        """Send `message` to its owner and wait for the answer; raises the `PocketPawError` that came instead."""
        self._fence(message)
        return await self.system.ask(message, to=to, timeout_s=timeout_s, sender=self._cell.path)

    async def tell(self, message: Message[Any], *, to: str | None = None) -> None:
        """Send `message` and go on; waits only for room in the mailbox."""
        self._fence(message)
        await self.system.tell(message, to=to, sender=self._cell.path)

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
        """Have `terminated` called once when the present incarnation at `path` ends (at once if there is none)."""
        self.system.watch(path, self._cell)

    def prove_health(self) -> None:
        """Say that what it is there for has worked: from now on its time counts towards the reset of its backoff."""
        if self._life.healthy_since is None:
            self._life.healthy_since = self.system.now()

    def spawn(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a task beside the handlers; it ends with this incarnation, and its crash is the actor's."""
        assert self._nursery is not None, f"{type(self).__name__} must set has_tasks"
        self._nursery.start_soon(task, *args)

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
        finally:
            self.actor_stopped.set()

    async def _start_and_loop(self) -> None:
        await start_within(self._cell.spec.start_timeout_s, self.on_start())
        self._cell.ready(self._life)
        if self.concurrency == 1:
            await self._actor_loop()
        else:
            await self._concurrent_loop()
        await self.on_stop()

    async def _actor_loop(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] pykka's is not async
        """Handle one item after another until told to stop. The mailbox is the cell's: what is left in it stays there."""
        mailbox, life = self._cell.mailbox, self._life
        turns = 0
        while not life.is_over:
            item = mailbox.take()
            if item is None:
                item = await mailbox.get()
                turns = 0
            if item.__class__ is Envelope:
                await self._handle(item)
                turns += 1
                if turns >= TURNS_BEFORE_CHECKPOINT:
                    turns = 0
                    await trio.lowlevel.checkpoint()
            elif isinstance(item, Terminated):
                await self.terminated(item)
            else:
                return

    async def _concurrent_loop(self) -> None:
        mailbox = self._cell.mailbox
        room = trio.Semaphore(self.concurrency)
        async with trio.open_nursery() as nursery:
            while not self._life.is_over:
                await room.acquire()
                item = await mailbox.get()
                if isinstance(item, Envelope):
                    nursery.start_soon(self._handle_and_release, item, room)
                elif isinstance(item, Terminated):
                    room.release()
                    await self.terminated(item)
                else:
                    return

    async def _handle_and_release(self, envelope: Envelope, room: trio.Semaphore) -> None:
        try:
            await self._handle(envelope)
        finally:
            room.release()

    async def _handle(self, envelope: Envelope) -> None:
        cell, reply = self._cell, envelope.reply
        handler = self.handlers.get(envelope.message_type)
        if handler is None:
            self._refuse(envelope)
            return
        if reply is not None and reply.is_settled:
            cell.dead_letter(envelope, "expired")
            return
        current_envelope.set(envelope)
        started = cell.begin(envelope)
        try:
            message = handler.decode(envelope.payload)
            if handler.is_stream:
                await self._produce(handler, message, envelope)
            else:
                answer = await handler.function(self, message)
                if reply is not None:
                    reply.set(encode(answer))  # pyright: ignore[reportAttributeAccessIssue] a StreamReply only has streams
        except PocketPawError as error:
            cell.fail(envelope, error)
        except BaseException as error:
            how = "was stopped" if is_cancellation(error) else f"crashed ({describe(error)})"
            if reply is not None:
                reply.fail(died(cell.path, how))
            else:
                cell.dead_letter(envelope, how)
            raise
        finally:
            cell.finish(envelope, handler.name, started)

    async def _produce(self, handler: Handler, message: Message[Any], envelope: Envelope) -> None:
        reply = envelope.reply
        assert isinstance(reply, StreamReply), f"{handler.name} is answered by a stream: use stream(), not ask()"
        with trio.CancelScope() as reply.producer_scope:
            items = handler.function(self, message)
            try:
                async for item in items:
                    await reply.put(encode(item))
            finally:
                await items.aclose()
        reply.end()

    def _refuse(self, envelope: Envelope) -> None:
        self._cell.dead_letter(envelope, "unhandled")
        if envelope.reply is not None:
            text = f"{self.path} takes no {envelope.message_type.__name__}"
            envelope.reply.fail(NoSuchActor(text, actor=self.path))

    # What pykka asks implementors for; the runtime starts actors itself, with the mailbox of their address. ------------

    @staticmethod
    def _create_actor_inbox() -> Any:
        return _NoInbox()

    @staticmethod
    def _create_future() -> Any:
        raise TypeError("answers come through ask(), not through pykka's futures")

    def _start_actor_loop(self) -> None:
        raise TypeError("an actor is started by its supervisor: put it in a tree as Child(…)")
