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
    """

    __slots__ = ("_control", "_receiver", "_senders", "capacity", "messages", "on_drop", "overflow", "path")

    def __init__(self, path: str, capacity: int = 1000, overflow: Overflow = "wait") -> None:
        self.path = path
        self.capacity = capacity
        self.overflow: Overflow = overflow
        self.messages: deque[T] = deque()
        self.on_drop: Callable[[T], None] = _ignore
        self._control: deque[C] = deque()
        self._receiver: trio.lowlevel.Task | None = None
        self._senders: deque[trio.lowlevel.Task] = deque()

    def __len__(self) -> int:
        return len(self.messages)

    def put_control(self, word: C) -> None:
        self._control.append(word)
        self._wake_receiver()

    def try_put(self, message: T) -> None:
        """Queue `message` without waiting.

        Raises:
            MailboxFull: there is no room, and the policy is not `drop_oldest`.
        """
        if len(self.messages) >= self.capacity:
            if self.overflow != "drop_oldest":
                raise MailboxFull(f"the mailbox of {self.path} holds its {self.capacity} messages", actor=self.path)
            self.on_drop(self.messages.popleft())
        self.messages.append(message)
        if self._receiver is not None:
            self._wake_receiver()

    async def put(self, message: T) -> None:
        """Queue `message`; with the policy `wait`, waits for room (senders are served in order)."""
        if self.overflow == "wait":
            while len(self.messages) >= self.capacity:
                task = trio.lowlevel.current_task()
                self._senders.append(task)

                def forget(_: object, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                    self._senders.remove(task)
                    return trio.lowlevel.Abort.SUCCEEDED

                await trio.lowlevel.wait_task_rescheduled(forget)
        self.try_put(message)

    def take(self) -> T | C | None:
        """The next control word, else the next message, else None."""
        if self._control:
            return self._control.popleft()
        if self.messages:
            message = self.messages.popleft()
            if self._senders:
                trio.lowlevel.reschedule(self._senders.popleft())
            return message
        return None

    async def get(self) -> T | C:
        """As `take`, but waits for one. One receiver at a time."""
        while True:
            item = self.take()
            if item is not None:
                return item
            assert self._receiver is None, f"two receivers on the mailbox of {self.path}"
            self._receiver = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._forget_receiver)

    def drain(self) -> list[T]:
        """Take out every message at once; senders that wait for room get it."""
        drained = list(self.messages)
        self.messages.clear()
        while self._senders:
            trio.lowlevel.reschedule(self._senders.popleft())
        return drained

    @property
    def has_control(self) -> bool:
        return bool(self._control)

    def clear_control(self) -> None:
        """Forget control words meant for an incarnation that has ended."""
        self._control.clear()

    def _wake_receiver(self) -> None:
        if self._receiver is not None:
            trio.lowlevel.reschedule(self._receiver)
            self._receiver = None

    def _forget_receiver(self, _: object) -> trio.lowlevel.Abort:
        self._receiver = None
        return trio.lowlevel.Abort.SUCCEEDED


def _ignore(_: object) -> None:
    """Nobody asked to hear of dropped messages."""
