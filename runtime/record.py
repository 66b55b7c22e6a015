"""What a supervisor remembers of one child, and the arithmetic of its limits."""

from __future__ import annotations

from collections import deque

import trio

from .child import CONNECTOR
from .errors import TransientFailure
from .exits import Exit
from .node import Incarnation, Node
from .spec import ChildSpec


class Record:
    """Limits are kept per child: one bad leaf does not use up its siblings' restarts."""

    __slots__ = ("awaited", "failures", "is_on_demand", "is_parked", "node", "restarts_at", "spec", "timer", "turn")

    def __init__(self, spec: ChildSpec, node: Node, turn: trio.Lock, *, is_on_demand: bool) -> None:
        self.spec = spec
        self.node = node
        self.turn = turn  # held by whoever stops or starts it at an operator's word, or with its siblings
        self.is_on_demand = is_on_demand  # a message starts it
        self.restarts_at: deque[float] = deque()  # within the last max_seconds
        self.failures = 0  # in a row, without proven health between them
        self.is_parked = False  # until it has proven health again
        self.timer: trio.CancelScope | None = None  # a pending restart or probe
        self.awaited: Incarnation | None = None  # somebody waits for this start, and deals with its failure

    def leaves_to_starter(self, life: Incarnation) -> bool:
        """Whether the end of `life` is a failed start that somebody waits for, or that of a child meanwhile stopped."""
        return self.node.down is not None or (life is self.awaited and life.ready_at is None)

    def waits_for_sibling(self) -> bool:
        """Whether it was stopped with a sibling that has to start before it."""
        life = self.node.life
        is_asked = life is not None and life.is_stop_requested
        return is_asked and self.node.state == "stopped" and self.node.down is None

    def disarm(self) -> None:
        """Forget a pending restart or probe."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
            self.node.state = "stopped"

    def forgive(self) -> None:
        """Count its failures from here."""
        self.failures = 0
        self.is_parked = False

    def count_failure(self, life: Incarnation) -> None:
        """Count the end of `life`, which starts a new row of failures if it had proven its health."""
        since = life.healthy_since
        if since is not None and life.ended_at - since >= self.spec.backoff.reset_after_s:
            self.forgive()
        self.failures += 1

    def is_over_limit(self, now: float) -> bool:
        """Count a restart; whether there have been more than `max_restarts` within `max_seconds`."""
        self.restarts_at.append(now)
        while now - self.restarts_at[0] > self.spec.max_seconds:
            self.restarts_at.popleft()
        return len(self.restarts_at) > self.spec.max_restarts

    def delay_s(self, exit_: Exit) -> float:
        """The pause before the next restart. What may pass by itself is never retried without one."""
        backoff = self.spec.backoff
        if isinstance(exit_.failure, TransientFailure) and backoff.max_s == 0:
            backoff = CONNECTOR
        return backoff.delay_s(self.failures)
