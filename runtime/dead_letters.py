"""Messages that nobody handled: kept, bounded and counted, never silently gone."""

from __future__ import annotations

from collections import Counter, deque
from datetime import UTC, datetime

import msgspec

KEPT = 1000


class DeadLetter(msgspec.Struct, frozen=True):
    to: str
    message_type: str
    reason: str
    timestamp: datetime


class DeadLetters:
    """The latest `KEPT` of them, newest last, and a count by reason of all there ever were."""

    def __init__(self) -> None:
        self.latest: deque[DeadLetter] = deque(maxlen=KEPT)
        self.counts: Counter[str] = Counter()

    def add(self, to: str, message_type: str, reason: str) -> None:
        self.counts[reason] += 1
        self.latest.append(DeadLetter(to, message_type, reason, datetime.now(UTC)))
