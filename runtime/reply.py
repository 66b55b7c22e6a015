"""Where answers arrive: one value, or a bounded stream.

Both live in the loop's thread and are awaited by one task. They are built on trio's lowest layer because a pair of
memory channels per ask costs twice the whole round trip.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Generic, TypeVar

import msgspec
import trio

from .errors import ActorDied, AskTimeout, PocketPawError

T = TypeVar("T")

STREAM_BUFFER = 64
"""Items a producer may be ahead of its consumer before it waits."""


class Reply:
    """The place for one answer. What comes after the first answer, or after the asker has gone, is dropped."""

    __slots__ = ("_error", "_payload", "_task", "is_settled")

    def __init__(self) -> None:
        self.is_settled = False
        self._payload: bytes | None = None
        self._error: PocketPawError | None = None
        self._task: trio.lowlevel.Task | None = None

    def set(self, payload: bytes) -> None:
        if not self.is_settled:
            self.is_settled = True
            self._payload = payload
            self._wake()

    def fail(self, error: PocketPawError) -> None:
        if not self.is_settled:
            self.is_settled = True
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    async def wait(self) -> bytes:
        """Return the answer's bytes, or raise the error that came instead. Cancelling drops a later answer."""
        if not self.is_settled:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._forget)
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        if self._error is not None:
            raise self._error
        assert self._payload is not None
        return self._payload

    def _forget(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        self.is_settled = True
        return trio.lowlevel.Abort.SUCCEEDED


class StreamReply:
    """The place for many answers; the producer waits when it is `STREAM_BUFFER` ahead.

    Whoever leaves first tells the other: a consumer that closes cancels the producer's scope; a producer that ends or
    fails ends the consumer's iteration.
    """

    __slots__ = ("_consumer", "_error", "_items", "_producer", "is_settled", "producer_scope")

    def __init__(self) -> None:
        self.is_settled = False
        """True once the producer has ended or the consumer has gone: nothing is put in after it."""
        self.producer_scope: trio.CancelScope | None = None
        self._items: deque[bytes] = deque()
        self._error: PocketPawError | None = None
        self._consumer: trio.lowlevel.Task | None = None
        self._producer: trio.lowlevel.Task | None = None

    async def put(self, payload: bytes) -> None:
        """Hand over one item; waits for room."""
        while len(self._items) >= STREAM_BUFFER and not self.is_settled:
            self._producer = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._forget_producer)
        if not self.is_settled:
            self._items.append(payload)
            self._wake_consumer()

    def end(self) -> None:
        self.is_settled = True
        self._wake_consumer()

    def fail(self, error: PocketPawError) -> None:
        if not self.is_settled:
            self._error = error
            self.end()

    @property
    def is_ready(self) -> bool:
        """Whether `take` would not wait."""
        return bool(self._items) or self.is_settled

    async def wait(self) -> None:
        """Wait until the next item, the end or a failure has come."""
        if not self.is_ready:
            self._consumer = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._forget_consumer)

    async def take(self) -> bytes | None:
        """The next item, or None at the end; raises the error with which the producer failed."""
        await self.wait()
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._items:
            payload = self._items.popleft()
            self._wake_producer()
            return payload
        if self._error is not None:
            raise self._error
        return None

    def close(self) -> None:
        """The consumer goes away: the producer is cancelled, what was not read is dropped."""
        self._items.clear()
        self.is_settled = True
        if self.producer_scope is not None:
            self.producer_scope.cancel()
        self._wake_producer()

    def _wake_consumer(self) -> None:
        if self._consumer is not None:
            trio.lowlevel.reschedule(self._consumer)
            self._consumer = None

    def _wake_producer(self) -> None:
        if self._producer is not None:
            trio.lowlevel.reschedule(self._producer)
            self._producer = None

    def _forget_consumer(self, _: object) -> trio.lowlevel.Abort:
        self._consumer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _forget_producer(self, _: object) -> trio.lowlevel.Abort:
        self._producer = None
        return trio.lowlevel.Abort.SUCCEEDED


class ReplyStream(Generic[T]):
    """What `async with stream(message) as items` gives: iterate it once; leaving the block ends the producer."""

    def __init__(
        self, reply: StreamReply, decoder: msgspec.msgpack.Decoder[Any], idle_timeout_s: float, what: str
    ) -> None:
        self._reply = reply
        self._decode = decoder.decode
        self._idle_timeout_s = idle_timeout_s
        self._what = what

    def __aiter__(self) -> ReplyStream[T]:
        return self

    async def __anext__(self) -> T:
        if not self._reply.is_ready:
            await self._wait()
        payload = await self._reply.take()
        if payload is None:
            raise StopAsyncIteration
        return self._decode(payload)

    async def _wait(self) -> None:
        with trio.move_on_after(self._idle_timeout_s):
            await self._reply.wait()
            return
        raise timed_out(self._what, self._idle_timeout_s)


def died(path: str, why: str) -> ActorDied:
    return ActorDied(f"{path} {why} before it answered", actor=path)


def timed_out(what: str, timeout_s: float) -> AskTimeout:
    return AskTimeout(f"{what} was not answered within {timeout_s:g} s", timeout_s=timeout_s)
