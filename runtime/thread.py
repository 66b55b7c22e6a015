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
from .child import Child
from .envelope import Envelope
from .errors import NoSuchActor, PocketPawError
from .exits import describe, is_cancellation
from .handlers import Handler, handlers_of
from .mailbox import Overflow
from .message import Message, encode
from .node import Incarnation, Kind, start_within
from .reply import Reply, died

if TYPE_CHECKING:
    from .cell import Cell

Outcome = bytes | PocketPawError | BaseException
"""What became of one message: its encoded answer, an expected failure, or the crash."""


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
        cls.handlers = handlers_of(cls, ThreadActor)

    def __init__(self) -> None:
        super().__init__()
        self.thread_id = 0
        self._bridge: _Bridge | None = None

    def on_start(self) -> None:
        """Run on its thread before the first message, within the child's `start_timeout_s`."""

    def on_stop(self) -> None:
        """Run on its thread after the last message of an orderly stop; not after a crash."""

    def is_idle(self) -> bool:
        return True

    def handle_batch(self, messages: Sequence[Message[Any]]) -> list[object]:
        """Handle several messages at once; the n-th result (an answer, or the error to give) is the n-th message's."""
        return [self._handle_one(message) for message in messages]

    def _handle_one(self, message: Message[Any]) -> object:
        try:
            return self.handlers[type(message)].function(self, message)
        except PocketPawError as error:
            return error

    # On the thread ----------------------------------------------------------------------------------------------------

    def on_receive(self, message: list[Message[Any]]) -> None:
        """Handle a batch and hand the outcomes to the loop. Nothing is raised: pykka would stop every actor there is."""
        assert self._bridge is not None
        outcomes: list[Outcome] = []
        try:
            for result in self.handle_batch(message):
                outcomes.append(result if isinstance(result, BaseException) else encode(result))
        except BaseException as error:  # noqa: BLE001 it crosses to the loop, where it crashes the actor
            outcomes.append(error)
        self._bridge.post(outcomes)

    def _actor_loop_setup(self) -> None:
        assert self._bridge is not None
        self.thread_id = threading.get_ident()
        try:
            self.on_start()
        except BaseException as error:  # noqa: BLE001 it crosses to the loop, where it fails the start
            self.actor_stopped.set()
            self._bridge.post([error])
        else:
            self._bridge.post([])

    def _actor_loop_teardown(self) -> None:
        super()._actor_loop_teardown()
        assert self._bridge is not None
        self._bridge.post(None)

    # In the loop ------------------------------------------------------------------------------------------------------

    async def run_in(self, cell: Cell, life: Incarnation) -> None:
        """Live one incarnation in `cell`: the runtime's way in. Starts the threads, feeds them, ends them."""
        assert isinstance(cell.spec, Child)
        others = [cell.spec.make() for _ in range(self.threads - 1)]
        workers = [self, *(other for other in others if isinstance(other, ThreadActor))]
        feed = _Feed(cell, life)
        async with trio.open_nursery() as nursery:
            for worker in workers:
                await start_within(cell.spec.start_timeout_s, worker.begin(cell))
            cell.ready(life)
            for worker in workers:
                nursery.start_soon(worker.serve, feed)

    async def begin(self, cell: Cell) -> None:
        """Start the thread and wait until `on_start` is done there."""
        self._bridge = _Bridge(cell)
        pykka.ActorRegistry.register(self.actor_ref)
        self._start_actor_loop()
        try:
            outcomes = await self._bridge.wait()
        except trio.Cancelled:
            self._bridge.abandon()
            self.actor_ref.stop(block=False)
            raise
        cell.threads.append(self.thread_id)
        if outcomes:
            pykka.ActorRegistry.unregister(self.actor_ref)
            assert isinstance(outcomes[0], BaseException)
            raise outcomes[0]

    async def serve(self, feed: _Feed) -> None:
        """Feed this thread until the feed ends."""
        assert self._bridge is not None
        try:
            while envelopes := await feed.next(self.batch):
                await self._handle(envelopes, feed.cell)
            self.actor_ref.stop(block=False)
            await self._bridge.wait()
        except BaseException:
            if self._bridge.is_waiting:
                self._bridge.abandon()
            self.actor_ref.stop(block=False)
            raise

    async def _handle(self, envelopes: list[Envelope], cell: Cell) -> None:
        assert self._bridge is not None
        messages: list[Message[Any]] = []
        taken: list[Envelope] = []
        for envelope in envelopes:
            handler = self.handlers.get(envelope.message_type)
            if handler is None:
                cell.dead_letter(envelope, "unhandled")
                if envelope.reply is not None:
                    text = f"{cell.path} takes no {envelope.message_type.__name__}"
                    envelope.reply.fail(NoSuchActor(text, actor=cell.path))
            elif envelope.reply is not None and envelope.reply.is_settled:
                cell.dead_letter(envelope, "expired")
            else:
                taken.append(envelope)
                messages.append(handler.decode(envelope.payload))
        if not taken:
            return
        started = [cell.begin(envelope) for envelope in taken]
        try:
            self.actor_ref.tell(messages)
            outcomes = await self._bridge.wait()
            self._answer(taken, outcomes, cell)
        except BaseException as error:
            how = "was stopped" if is_cancellation(error) else f"crashed ({describe(error)})"
            for envelope in taken:
                if envelope.reply is not None:
                    envelope.reply.fail(died(cell.path, how))
                else:
                    cell.dead_letter(envelope, how)
            raise
        finally:
            for envelope, since in zip(taken, started, strict=True):
                cell.finish(envelope, envelope.message_type.__name__, since)

    def _answer(self, envelopes: list[Envelope], outcomes: list[Outcome], cell: Cell) -> None:
        """Give each its outcome; then raise the first crash, if there was one."""
        crash: BaseException | None = None
        for envelope, outcome in zip(envelopes, outcomes, strict=False):  # a crash of the batch leaves the rest out
            if isinstance(outcome, PocketPawError):
                cell.fail(envelope, outcome)
            elif isinstance(outcome, BaseException):
                crash = crash or outcome
            elif isinstance(envelope.reply, Reply):
                envelope.reply.set(outcome)
        if crash is not None:
            raise crash


class _Feed:
    """Hands the mailbox's messages to whichever thread is free; ends for all when one of them takes the word to stop."""

    def __init__(self, cell: Cell, life: Incarnation) -> None:
        self.cell = cell
        self._life = life
        self._is_over = False
        self._turn = trio.Lock()

    async def next(self, most: int) -> list[Envelope]:
        """The next messages, at least one and at most `most`; none at the end."""
        async with self._turn:
            while not self._is_over and not self._life.is_over:
                item = await self.cell.mailbox.get()
                if isinstance(item, Envelope):
                    return [item, *self._more(most - 1)]
                self._is_over = not isinstance(item, Terminated)
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


class _Bridge:
    """The way from one thread into the loop: one post for each thing that the loop waits for."""

    def __init__(self, cell: Cell) -> None:
        self.is_waiting = False
        self._cell = cell
        self._token = trio.lowlevel.current_trio_token()
        self._task: trio.lowlevel.Task | None = None
        self._outcomes: list[Outcome] | None = None
        self._is_abandoned = False

    def post(self, outcomes: list[Outcome] | None) -> None:
        """On the thread: hand over, and go on. None is the thread's last word. A loop that has ended wants nothing."""
        try:
            self._token.run_sync_soon(self._arrive, outcomes)
        except trio.RunFinishedError:
            pass  # the daemon is gone; an abandoned thread has nobody to tell

    def _arrive(self, outcomes: list[Outcome] | None) -> None:
        system = self._cell.system
        if self._is_abandoned:
            if outcomes is None:
                system.abandoned -= 1
            else:
                system.dead_letters.add(self._cell.path, "an answer", "stale incarnation")
            return
        self._outcomes = outcomes or []
        self.is_waiting = False
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    async def wait(self) -> list[Outcome]:
        if self._outcomes is None:
            self.is_waiting = True
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._forget)
        outcomes, self._outcomes = self._outcomes, None
        assert outcomes is not None
        return outcomes

    def abandon(self) -> None:
        """The thread did not end in time: it cannot be killed, so it is counted, and never heard again."""
        self._is_abandoned = True
        self._cell.system.abandoned += 1

    def _forget(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
