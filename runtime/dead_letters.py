"""Messages that nobody handled: kept, bounded and counted, never silently gone."""

from __future__ import annotations

from collections import Counter, deque
from datetime import UTC, datetime
from typing import Literal

import msgspec

KEPT = 1000

Reason = Literal["dead", "died", "expired", "overflow", "stale incarnation", "unhandled"]
"""
dead: it waited for an actor that will not come
died: its actor ended with it in hand
expired: its asker had gone when its turn came
overflow: a fuller mailbox pushed it out
stale incarnation: a former incarnation sent it, or has answered it too late
unhandled: its actor has no handler for it
"""


class DeadLetter(msgspec.Struct, frozen=True):
    to: str
    message_type: str
    reason: Reason
    timestamp: datetime


class DeadLetters:
    """The latest `KEPT` of them, newest last, and a count by reason of all there ever were."""

    def __init__(self) -> None:
        self.latest: deque[DeadLetter] = deque(maxlen=KEPT)
        self.counts: Counter[Reason] = Counter()

    def add(self, to: str, message_type: str, reason: Reason) -> None:
        self.counts[reason] += 1
        self.latest.append(DeadLetter(to, message_type, reason, datetime.now(UTC)))
