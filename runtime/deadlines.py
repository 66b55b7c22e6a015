"""Ends the asks whose time has passed: one task for all of them, as a cancel scope per ask would cost a third of the ask."""

from __future__ import annotations

import math

import trio

from .reply import Reply, timed_out


class Deadlines:
    """Invariant: within one time-out, replies stand in the order of their deadlines, so only the first can be next."""

    def __init__(self) -> None:
        self._waiting: dict[float, dict[Reply, tuple[float, str, str]]] = {}
        self._scope = trio.CancelScope()

    def add(self, reply: Reply, timeout_s: float, deadline: float, path: str, message: str) -> None:
        """Fail `reply` at `deadline` unless it is removed first. `path` and `message` name the ask in the error."""
        same = self._waiting.get(timeout_s)
        if same is None:
            same = self._waiting[timeout_s] = {}
        same[reply] = (deadline, path, message)
        if deadline < self._scope.deadline:
            self._scope.deadline = deadline

    def remove(self, reply: Reply, timeout_s: float) -> None:
        same = self._waiting.get(timeout_s)
        if same is not None and same.pop(reply, None) is not None and not same:
            del self._waiting[timeout_s]

    async def run(self) -> None:
        """Sleep until the next deadline, for ever. A deadline that is added earlier than that moves the alarm."""
        while True:
            self._scope = trio.CancelScope(deadline=self._next())
            with self._scope:
                await trio.sleep_forever()
            self._expire(trio.current_time())

    def _next(self) -> float:
        firsts = (next(iter(same.values()))[0] for same in self._waiting.values())
        return min(firsts, default=math.inf)

    def _expire(self, now: float) -> None:
        for timeout_s, same in list(self._waiting.items()):
            for reply, (deadline, path, message) in list(same.items()):
                if deadline > now:
                    break
                self.remove(reply, timeout_s)
                reply.fail(timed_out(f"{message} to {path}", timeout_s))
