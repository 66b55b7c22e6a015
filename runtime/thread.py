"""Actors that run on OS threads: for what blocks (a database, the file system), never for what computes.

One busy Python thread slows every other to a crawl (the interpreter lock); computing belongs in a `ProcessActor`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pykka
import trio

from .actor import Terminated
from .bridge import Bridge, Outcome
from .child import Child
from .envelope import Envelope
from .errors import PocketPawError
from .handlers import Handler, handlers_of
from .mailboxes import Overflow
from .message import Message, encode
from .node import Incarnation, Kind, start_within
from .reply import Reply

if TYPE_CHECKING:
    from .cell import Cell

THREAD_GRACE_S = 0.4
"""How long a thread may go on with what it has in hand, and then with its hook, before it is abandoned.

Twice it is less than the grace of its incarnation.
"""


class ThreadActor(pykka.ThreadingActor):
    """A pykka threading actor, fed from the loop.

    Handlers are plain methods with a parameter `message: SomeMessage`. With `threads > 1` there are that many instances
    (the child's factory is called for each), each on its own thread, all taking from the one mailbox. With `batch > 1`
    an instance gets up to that many messages at once, through `handle_batch`.
    A thread that does not end in time cannot be killed: it is abandoned, counted, and what it still says is dropped.
    """

    kind: ClassVar[Kind] = "thread"
    threads: ClassVar[int] = 1
    batch: ClassVar[int] = 1
    proves_health: ClassVar[bool] = False
    handler_timeout_s: ClassVar[float | None] = 60.0
    mailbox_capacity: ClassVar[int] = 1000
    overflow: ClassVar[Overflow] = "wait"
    use_daemon_thread: ClassVar[bool] = True  # an abandoned thread must not keep the process alive
    handlers: ClassVar[dict[type[Message[Any]], Handler]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.handlers = handlers_of(cls, ThreadActor, is_async=False)
        streams = [handler.name for handler in cls.handlers.values() if handler.is_stream]
        if streams:
            raise TypeError(f"{cls.__name__} runs on a thread, which answers no streams: {', '.join(streams)}")

    def __init__(self) -> None:
        super().__init__()
        self._bridge: Bridge | None = None  # before it starts
        self._thread_id = 0
        self._is_orderly = False  # it ends because it was asked to, with nothing in hand
        self._crash: BaseException | None = None

    # Hooks, all run on its thread -------------------------------------------------------------------------------------

    def on_start(self) -> None:
        """Run before the first message, within the child's `start_timeout_s`."""

    def on_stop(self) -> None:
        """Run after the last message of an orderly stop."""

    # `on_failure(type, value, traceback)`, pykka's, runs instead after a crash or a kill (then with three Nones).

    def handle_batch(self, messages: Sequence[Message[Any]]) -> Sequence[object]:
        """Handle several messages at once; the n-th result (an answer, or the error to give) is the n-th message's.

        A result that is an exception, but no `PocketPawError`, crashes the actor; messages without a result go with it.
        """
        results: list[object] = []
        for message in messages:
            try:
                results.append(self.handlers[type(message)].function(self, message))
            except PocketPawError as error:
                results.append(error)
            except BaseException as error:  # noqa: BLE001 as a result it crosses to the loop, where it crashes the actor
                results.append(error)
                break
        return results

    def at_hand(self, message_type: type[Message[Any]], payload: bytes) -> bytes | None:
        """The encoded answer to an encoded message, where no thread is needed for it. Asked in the loop: be quick."""
        return None

    def is_idle(self) -> bool:
        """Whether it may be passivated now; asked in the loop, only when its mailbox is empty and no handler runs."""
        return True

    # On the thread ----------------------------------------------------------------------------------------------------

    def on_receive(self, message: list[Message[Any]]) -> None:
        """Handle a batch and hand the outcomes to the loop. Raises nothing: pykka would stop every actor there is."""
        assert self._bridge is not None
        outcomes: list[Outcome] = []
        try:
            results = self.handle_batch(message)
            outcomes += [result if isinstance(result, BaseException) else encode(result) for result in results]
            if len(results) != len(message) and _crash_in(outcomes) is None:
                raise RuntimeError(f"handle_batch gave {len(results)} results for {len(message)} messages")
        except BaseException as error:  # noqa: BLE001 it crosses to the loop, where it crashes the actor
            outcomes.append(error)
        self._crash = _crash_in(outcomes)
        self._bridge.post(outcomes)

    def _actor_loop_setup(self) -> None:
        assert self._bridge is not None
        self._thread_id = threading.get_ident()
        try:
            self.on_start()
        except BaseException as error:  # noqa: BLE001 it crosses to the loop, where it fails the start
            self._crash = error
            self._bridge.post([error])
        else:
            self._bridge.post([])

    def _stop(self) -> None:
        """Take pykka's word to end. Replaced, as pykka swallows what `on_stop` raises, or stops every actor for it."""
        assert self._bridge is not None
        pykka.ActorRegistry.unregister(self.actor_ref)
        self.actor_stopped.set()
        try:
            if self._is_orderly:
                self.on_stop()
            elif self._crash is not None:
                self.on_failure(type(self._crash), self._crash, self._crash.__traceback__)
            else:
                self.on_failure(None, None, None)
        except BaseException as error:  # noqa: BLE001 it crosses to the loop, where it is the incarnation's end
            self._bridge.post([error])

    def _actor_loop_teardown(self) -> None:
        super()._actor_loop_teardown()
        assert self._bridge is not None
        self._bridge.close()

    # In the loop ------------------------------------------------------------------------------------------------------

    async def run_in(self, cell: Cell, life: Incarnation) -> None:
        """Live one incarnation in `cell`: the runtime's way in. Starts the threads, feeds them, ends them."""
        assert isinstance(cell.spec, Child)
        workers: list[ThreadActor] = [self]
        for _ in range(self.threads - 1):
            other = cell.spec.make()
            assert isinstance(other, ThreadActor)
            workers.append(other)
        feed = _Feed(cell, life)
        try:
            await start_within(cell.spec.start_timeout_s, _begin(workers, cell))
            cell.ready(life)
            async with trio.open_nursery() as nursery:
                for worker in workers:
                    nursery.start_soon(worker._serve, feed)
        finally:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for worker in workers:
                        nursery.start_soon(worker._end)

    async def _begin(self, cell: Cell) -> None:
        """Start the thread and wait until `on_start` is done there."""
        self._bridge = Bridge(cell)
        pykka.ActorRegistry.register(self.actor_ref)
        self._start_actor_loop()
        outcomes = await self._bridge.take()
        cell.threads.append(self._thread_id)
        for outcome in outcomes:
            assert isinstance(outcome, BaseException)
            raise outcome

    async def _serve(self, feed: _Feed) -> None:
        """Feed this thread until the feed ends; then have it end."""
        assert self._bridge is not None
        while envelopes := await feed.next(self.batch):
            await self._handle(envelopes, feed.cell)
        self._is_orderly = True
        self.actor_ref.stop(block=False)
        await self._bridge.has_ended.wait()
        for outcome in self._bridge.left():
            assert isinstance(outcome, BaseException)
            raise outcome

    async def _end(self) -> None:
        """Have the thread end, if it has begun and not ended; abandon it if it does not. Its last words are dropped."""
        if self._bridge is None or self._bridge.has_ended.is_set():
            return
        self.actor_ref.stop(block=False)
        with trio.move_on_after(THREAD_GRACE_S):
            await self._bridge.has_ended.wait()
            return
        self._bridge.abandon()

    async def _handle(self, envelopes: list[Envelope], cell: Cell) -> None:
        assert self._bridge is not None
        messages: list[Message[Any]] = []
        taken: list[Envelope] = []
        for envelope in envelopes:
            message = self._read(envelope, cell)
            if message is not None:
                taken.append(envelope)
                messages.append(message)
        if not taken:
            return
        started = [cell.begin(envelope) for envelope in taken]
        self.actor_ref.tell(messages)
        try:
            outcomes = await self._bridge.take()
        except trio.Cancelled:
            # Others end it: a sibling's crash, say. What this thread has in hand may still be done in time.
            with trio.move_on_after(THREAD_GRACE_S, shield=True):
                self._answer(taken, started, await self._bridge.take(), cell)
            raise
        self._answer(taken, started, outcomes, cell)

    def _read(self, envelope: Envelope, cell: Cell) -> Message[Any] | None:
        """The message, or None if there is nothing left to do: the envelope is answered then."""
        handler = self.handlers.get(envelope.message_type)
        if handler is None:
            cell.refuse(envelope)
        elif envelope.reply is not None and envelope.reply.is_settled:
            cell.dead_letter(envelope, "expired")
        elif (answer := self.at_hand(envelope.message_type, envelope.payload)) is not None:
            started = cell.begin(envelope)
            if isinstance(envelope.reply, Reply):
                envelope.reply.set(answer)
            cell.finish(envelope, envelope.message_type.__name__, started)
        else:
            try:
                return handler.read(envelope.payload)
            except PocketPawError as error:
                cell.fail(envelope, error)
        return None

    def _answer(self, envelopes: list[Envelope], started: list[float], outcomes: list[Outcome], cell: Cell) -> None:
        """Give each its outcome; then raise the first crash, which those without an outcome share."""
        crash = _crash_in(outcomes)
        for index, (envelope, since) in enumerate(zip(envelopes, started, strict=True)):
            outcome = outcomes[index] if index < len(outcomes) else crash
            if isinstance(outcome, bytes):
                if isinstance(envelope.reply, Reply):
                    envelope.reply.set(outcome)
                cell.finish(envelope, envelope.message_type.__name__, since)
            elif outcome is not None and cell.is_survived(envelope, outcome):
                cell.finish(envelope, envelope.message_type.__name__, since)
        if crash is not None:
            raise crash


async def _begin(workers: Sequence[ThreadActor], cell: Cell) -> None:
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker._begin, cell)  # pyright: ignore[reportPrivateUsage]


def _crash_in(outcomes: Sequence[Outcome]) -> BaseException | None:
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, PocketPawError):
            return outcome
    return None


class _Feed:
    """Hands the mailbox's messages to whichever thread is free; ends for all when one takes the word to stop."""

    def __init__(self, cell: Cell, life: Incarnation) -> None:
        self.cell = cell
        self._life = life
        self._is_over = False

    async def next(self, most: int) -> list[Envelope]:
        """The next messages, at least one and at most `most`; none at the end."""
        mailbox = self.cell.mailbox
        while not self._is_over and not self._life.is_over:
            item = mailbox.take()
            if isinstance(item, Envelope):
                return [item, *self._more(most - 1)]
            if item is None:
                await mailbox.wait()
            elif not isinstance(item, Terminated):
                self._is_over = True
                mailbox.wake_all()
        return []

    def _more(self, most: int) -> list[Envelope]:
        """What else is queued; a word of control ends the taking and is seen by the next turn."""
        taken: list[Envelope] = []
        mailbox = self.cell.mailbox
        while len(taken) < most and mailbox.messages and not mailbox.has_control:
            item = mailbox.take()
            assert isinstance(item, Envelope)
            taken.append(item)
        return taken
