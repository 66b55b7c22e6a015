"""Topics of numbered events, each kept for a while, so that a listener that was cut off can go on where it stopped."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import msgspec
import trio

from .handlers import decoder
from .message import encode

RETAINED = 2048
"""Events that a topic keeps for replay."""

BUFFERED = 1024
"""Events that a subscriber may be behind before it is cut off (it can come back and have them replayed)."""


class Event(msgspec.Struct, frozen=True):
    """Number `seq` of its topic: numbers follow one another without a gap while the topic lives, and never repeat."""

    topic: str
    seq: int
    name: str
    payload: bytes
    """MessagePack of the data, so that a listener shares nothing with the publisher."""

    def data(self) -> Any:
        return decoder(Any).decode(self.payload)


class _Topic:
    __slots__ = ("events", "next_seq", "subscriptions")

    def __init__(self, next_seq: int) -> None:
        self.events: deque[Event] = deque(maxlen=RETAINED)
        self.next_seq = next_seq
        self.subscriptions: set[Subscription] = set()


class Subscription:
    """What one listener has not read yet. Iterate it, or `take` all that is there at once.

    `has_gap` says that the events after the number that was asked for are not all here: some are no longer kept, or the
    number is of another count. `is_cut_off` says that the listener fell `BUFFERED` events behind, what was replayed to
    it not counted, and gets no more; iteration then ends.
    """

    def __init__(self, bus: Bus, topic: str, replay: Iterable[Event], *, has_gap: bool) -> None:
        self.topic = topic
        self.has_gap = has_gap
        self.is_cut_off = False
        self._bus = bus
        self._events: deque[Event] = deque(replay)
        self._most = BUFFERED + len(self._events)
        self._task: trio.lowlevel.Task | None = None
        self._is_closed = False

    def push(self, event: Event) -> None:
        if len(self._events) >= self._most:
            self.is_cut_off = True
            self.close()
            return
        self._events.append(event)
        self._wake()

    async def take(self) -> list[Event]:
        """All events that wait, at least one; an empty list once the subscription is closed."""
        if not self._events and not self._is_closed:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._forget)
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        events = list(self._events)
        self._events.clear()
        return events

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            events = await self.take()
            if not events:
                raise StopAsyncIteration
            self._events.extend(events)
        return self._events.popleft()

    def close(self) -> None:
        self._is_closed = True
        self._bus.unsubscribe(self)
        self._wake()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _wake(self) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def _forget(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Bus:
    """Publishing never waits and never fails: a slow listener is cut off instead."""

    def __init__(self) -> None:
        self._topics: dict[str, _Topic] = {}
        # Where a new topic begins to count: ahead of every number that an earlier topic of its name, or an earlier
        # daemon, can have reached, as none publishes a million events a second; and far below 2**53, which is as far as
        # JavaScript counts.
        self._next_seq = time.time_ns() // 1000

    def publish(self, topic: str, name: str, data: object) -> int:
        """Number an event and hand it to whoever listens; returns its number."""
        found = self._topic(topic)
        event = Event(topic, found.next_seq, name, encode(data))
        found.next_seq += 1
        found.events.append(event)
        for subscription in tuple(found.subscriptions):
            subscription.push(event)
        return event.seq

    def subscribe(self, topic: str, after: int | None = None) -> Subscription:
        """Listen from now on, or from the event that follows number `after`."""
        found = self._topic(topic)
        if after is None:
            subscription = Subscription(self, topic, (), has_gap=False)
        else:
            first = found.events[0].seq if found.events else found.next_seq
            replay = [event for event in found.events if event.seq > after]
            subscription = Subscription(self, topic, replay, has_gap=not first - 1 <= after < found.next_seq)
        found.subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        found = self._topics.get(subscription.topic)
        if found is not None:
            found.subscriptions.discard(subscription)
            self._drop_if_empty(subscription.topic, found)

    def last_seq(self, topic: str) -> int:
        """The number of the newest event of `topic` so far: what comes after it is news."""
        found = self._topics.get(topic)
        return (found.next_seq if found is not None else self._next_seq) - 1

    def has_listeners(self, topic: str) -> bool:
        found = self._topics.get(topic)
        return found is not None and bool(found.subscriptions)

    def forget(self, topic: str) -> None:
        """Drop what is kept of `topic`; those who listen keep listening."""
        found = self._topics.get(topic)
        if found is not None:
            found.events.clear()
            self._drop_if_empty(topic, found)

    def __len__(self) -> int:
        """How many topics there are."""
        return len(self._topics)

    def _topic(self, name: str) -> _Topic:
        found = self._topics.get(name)
        if found is None:
            found = self._topics[name] = _Topic(self._next_seq)
        return found

    def _drop_if_empty(self, name: str, topic: _Topic) -> None:
        if not topic.subscriptions and not topic.events:
            del self._topics[name]
            self._next_seq = max(self._next_seq, topic.next_seq)
