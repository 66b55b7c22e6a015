"""The way from one thread into the loop: what a thread has to say, in order, and that it has ended."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .cell import Cell

Outcome = bytes | BaseException
"""What became of one message: its encoded answer, an expected failure, or a crash."""


class Bridge:
    """Made in the loop, for one thread. `post` and `close` are for the thread, everything else for the loop."""

    def __init__(self, cell: Cell) -> None:
        self.has_ended = trio.Event()
        self._cell = cell
        self._token = trio.lowlevel.current_trio_token()
        self._posts: deque[list[Outcome]] = deque()
        self._task: trio.lowlevel.Task | None = None
        self._is_abandoned = False

    def post(self, outcomes: list[Outcome]) -> None:
        """Hand something over, and go on."""
        self._run_in_loop(outcomes)

    def close(self) -> None:
        """The thread's last word."""
        self._run_in_loop(None)

    def _run_in_loop(self, outcomes: list[Outcome] | None) -> None:
        try:
            self._token.run_sync_soon(self._arrive, outcomes)
        except trio.RunFinishedError:
            pass  # the loop is gone; an abandoned thread has nobody to tell

    def _arrive(self, outcomes: list[Outcome] | None) -> None:
        if outcomes is None:
            self.has_ended.set()
            if self._is_abandoned:
                self._count(-1)
        elif self._is_abandoned:
            self._cell.system.dead_letters.add(self._cell.path, "an answer", "stale incarnation")
        else:
            self._posts.append(outcomes)
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    async def take(self) -> list[Outcome]:
        """The next thing that the thread hands over. Cancelling loses nothing of it."""
        while not self._posts:
            assert not self.has_ended.is_set(), "the thread has ended without a word"
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._forget)
        return self._posts.popleft()

    def left(self) -> list[Outcome]:
        """What was handed over and not taken."""
        return [outcome for outcomes in self._posts for outcome in outcomes]

    def abandon(self) -> None:
        """The thread did not end in time: it cannot be killed, so it is counted until it ends, and not heard again."""
        self._is_abandoned = True
        self._count(1)

    def _count(self, difference: int) -> None:
        self._cell.system.abandoned += difference
        self._cell.system.abandoned_threads[self._cell.path] += difference

    def _forget(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
