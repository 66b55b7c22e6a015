"""Finds what holds things up: a loop that does not turn, handlers that do not end. It names the actor and its stack."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import trio

from .cell import Cell
from .exits import StartTimeout
from .node import KILL_GRACE_S
from .stacks import actor_on, stack_of, thread_frames, where

if TYPE_CHECKING:
    from .system import ActorSystem

BEAT_S = 0.25
LAG_S = 0.25
"""A loop that is this late is reported."""

SLOW_S = 2.0
"""A handler on a thread that takes longer is reported, with its stack."""


class HandlerTimeout(Exception):
    """A handler took longer than its actor's `handler_timeout_s`: its actor is restarted."""


class Watchdog:
    """One thread that watches the loop, one task that watches the handlers.

    `lag_s` is how late the loop was at its latest turn.
    """

    def __init__(self, system: ActorSystem) -> None:
        self.lag_s = 0.0
        self._system = system
        self._beat = time.monotonic()
        self._loop_thread = threading.get_ident()
        self._ended = threading.Event()
        self._caught: tuple[str, str] | None = None  # who held the loop, and where
        self._reported: set[tuple[str, float]] = set()

    async def run(self) -> None:
        """Watch until cancelled."""
        self._loop_thread = threading.get_ident()
        self._beat = time.monotonic()
        thread = threading.Thread(target=self._watch_loop, name="watchdog", daemon=True)
        thread.start()
        try:
            while True:
                await trio.sleep(BEAT_S)
                self._turn()
                self._look_at_handlers()
        finally:
            self._ended.set()
            thread.join()  # it is asleep, or about to be

    # On its thread ----------------------------------------------------------------------------------------------------

    def _watch_loop(self) -> None:
        while not self._ended.wait(BEAT_S):
            if self._caught is None and time.monotonic() - self._beat > BEAT_S + LAG_S:
                frame = thread_frames().get(self._loop_thread)
                if frame is not None:
                    self._caught = (actor_on(frame), stack_of(frame))

    # In the loop ------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic()
        self.lag_s = max(0.0, now - self._beat - BEAT_S)
        self._beat = now
        caught, self._caught = self._caught, None
        if caught is not None:
            path, stack = caught
            self._system.report_slow("lag", path, f"the loop stood still for {self.lag_s:.2f} s", stack)

    def _look_at_handlers(self) -> None:
        now = trio.current_time()
        for node in list(self._system.nodes.values()):
            if isinstance(node, Cell):
                if node.in_hand:
                    self._look_at(node, now)
                elif node.state == "starting":
                    self._look_at_start(node, now)

    def _look_at_start(self, cell: Cell, now: float) -> None:
        """A start that ignores the cancellation at its time-out would be waited for for ever."""
        limit_s = cell.spec.start_timeout_s
        if now - cell.since > limit_s + KILL_GRACE_S:
            cell.kill(StartTimeout(f"on_start took longer than {limit_s:g} s"))

    def _look_at(self, cell: Cell, now: float) -> None:
        envelope, since = next(iter(cell.in_hand.items()))
        took_s, name = now - since, envelope.message_type.__name__
        limit_s = cell.handler_timeout_s
        if limit_s is not None and took_s > limit_s:
            error = HandlerTimeout(f"{name} took longer than {limit_s:g} s")
            error.add_note(f"It was here:\n{where(cell, envelope)}")
            cell.kill(error)
        elif cell.kind == "thread" and took_s > SLOW_S and (cell.path, since) not in self._reported:
            self._reported = {(path, at) for path, at in self._reported if now - at < 3600}
            self._reported.add((cell.path, since))
            self._system.report_slow(
                "slow", cell.path, f"{name} has been running for {took_s:.1f} s", where(cell, envelope)
            )
