"""A bounded FIFO with a control lane ahead of it.

It belongs to an address, not to an incarnation: what is queued while an actor restarts is handled by the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

import trio

from .errors import MailboxFull

T = TypeVar("T")
C = TypeVar("C")

Overflow = Literal["wait", "reject", "drop_oldest"]


class Mailbox(Generic[T, C]):
    """`T` are messages, bounded by `capacity`; `C` are control words, which are never refused.

    `on_drop` is told of each message that `drop_oldest` pushes out.
    Invariant: senders wait only while there is no room, and what they bring keeps its place in the queue.
    """

    __slots__ = ("_control", "_receivers", "_senders", "capacity", "messages", "on_drop", "overflow", "path")

    def __init__(self, path: str, capacity: int = 1000, overflow: Overflow = "wait") -> None:
        self.path = path
        self.capacity = capacity
        self.overflow: Overflow = overflow
        self.messages: deque[T] = deque()
        self.on_drop: Callable[[T], None] = _ignore
        # Lists, as they are nearly always empty, and an empty deque takes ten times the memory of an empty list.
        self._control: list[C] = []
        self._receivers: list[trio.lowlevel.Task] = []
        self._senders: list[tuple[trio.lowlevel.Task, T]] = []

    def __len__(self) -> int:
        return len(self.messages)

    # For senders ------------------------------------------------------------------------------------------------------

    def put_control(self, word: C) -> None:
        self._control.append(word)
        self.wake()

    def offer(self, message: T) -> bool:
        """Queue `message` unless its sender has to wait for room; whether it is queued.

        Raises:
            MailboxFull: there is no room, and the policy is `reject`.
        """
        if len(self.messages) >= self.capacity:
            if self.overflow == "wait":
                return False
            if self.overflow == "reject":
                raise self.full()
            self.on_drop(self.messages.popleft())
        self.messages.append(message)
        if self._receivers:
            self.wake()
        return True

    async def put(self, message: T) -> None:
        """Queue `message`, waiting for room where that is the policy. Cancelled while it waits, it is not queued."""
        if not self.offer(message):
            waiting = (trio.lowlevel.current_task(), message)
            self._senders.append(waiting)

            def forget(_: object) -> trio.lowlevel.Abort:
                self._senders.remove(waiting)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(forget)

    def full(self) -> MailboxFull:
        return MailboxFull(f"the mailbox of {self.path} holds its {self.capacity} messages", actor=self.path)

    # For receivers ----------------------------------------------------------------------------------------------------

    def take(self) -> T | C | None:
        """The next control word, else the next message, else None."""
        if self._control:
            return self._control.pop(0)
        if self.messages:
            message = self.messages.popleft()
            if self._senders:
                self._let_in()
            return message
        return None

    def take_control(self) -> C | None:
        return self._control.pop(0) if self._control else None

    async def wait(self) -> None:
        """Sleep until something was put in, or `wake` is called; then `take` again: another may have been quicker."""
        task = trio.lowlevel.current_task()
        self._receivers.append(task)

        def forget(_: object) -> trio.lowlevel.Abort:
            self._receivers.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(forget)

    def wake(self) -> None:
        """Let the receiver that waits longest look again."""
        if self._receivers:
            trio.lowlevel.reschedule(self._receivers.pop(0))

    def wake_all(self) -> None:
        while self._receivers:
            self.wake()

    def drain(self) -> list[T]:
        """Take out every message at once, those of waiting senders included."""
        while self._senders:
            self._let_in()
        drained = list(self.messages)
        self.messages.clear()
        return drained

    @property
    def has_control(self) -> bool:
        return bool(self._control)

    def clear_control(self) -> None:
        """Forget control words meant for an incarnation that has ended."""
        self._control.clear()

    def _let_in(self) -> None:
        task, message = self._senders.pop(0)
        self.messages.append(message)
        trio.lowlevel.reschedule(task)


def _ignore(_: object) -> None:
    """Nobody asked to hear of dropped messages."""
