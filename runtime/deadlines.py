"""Ends the asks whose time has passed: one task for all, as a cancel scope for each would cost a third of an ask."""

from __future__ import annotations

import math

import trio

from .envelope import Envelope
from .reply import timed_out


class Deadlines:
    """Invariant: within one time-out, asks stand in the order of their deadlines, so only the first can be next."""

    def __init__(self) -> None:
        self._waiting: dict[float, dict[Envelope, str]] = {}
        self._scope = trio.CancelScope()

    def add(self, ask: Envelope, timeout_s: float, path: str) -> None:
        """Fail `ask` at its deadline unless it is removed first. `path` names whom it was for in the error."""
        same = self._waiting.get(timeout_s)
        if same is None:
            same = self._waiting[timeout_s] = {}
        same[ask] = path
        if ask.deadline < self._scope.deadline:
            self._scope.deadline = ask.deadline

    def remove(self, ask: Envelope, timeout_s: float) -> None:
        same = self._waiting.get(timeout_s)
        if same is not None and same.pop(ask, None) is not None and not same:
            del self._waiting[timeout_s]

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def run(self) -> None:
        """Sleep until the next deadline, for ever. A deadline that is added earlier than that moves the alarm."""
        while True:
            self._scope = trio.CancelScope(deadline=self._next())
            with self._scope:
                await trio.sleep_forever()
            self._expire(trio.current_time())

    def _next(self) -> float:
        firsts = (next(iter(same)).deadline for same in self._waiting.values())
        return min(firsts, default=math.inf)

    def _expire(self, now: float) -> None:
        for timeout_s, same in list(self._waiting.items()):
            for ask, path in list(same.items()):
                if ask.deadline > now:
                    break
                self.remove(ask, timeout_s)
                if ask.reply is not None:
                    ask.reply.fail(timed_out(f"{ask.message_type.__name__} to {path}", timeout_s))
