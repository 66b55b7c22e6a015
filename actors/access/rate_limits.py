"""Rate limits: token buckets by key, in bounded memory."""

from __future__ import annotations

import math
from typing import NamedTuple

KEPT = 10_000
"""Keys that are remembered; the one that was not seen for longest is forgotten first."""


class Limit(NamedTuple):
    """`burst` requests in one go, and `per_s` more each second after that. A burst of 0 is no limit."""

    burst: int
    per_s: float


class Count(NamedTuple):
    is_allowed: bool
    remaining: int
    reset_s: int
    """Seconds until the bucket is full again."""
    retry_after_s: int
    """Seconds until the next request is let through; 0 if one would be now."""


UNLIMITED = Count(is_allowed=True, remaining=0, reset_s=0, retry_after_s=0)


class TokenBuckets:
    """A bucket for each key. Times are the caller's, in seconds on a clock that only goes forward."""

    def __init__(self) -> None:
        self._spent: dict[str, tuple[float, float]] = {}  # how much was gone, and when; longest unseen first

    def take(self, key: str, limit: Limit, now: float) -> Count:
        """Count one request."""
        if limit.burst <= 0:
            return UNLIMITED
        spent = self._spent_at(key, limit, now)
        is_allowed = spent + 1 <= limit.burst
        if is_allowed:
            spent += 1
        self._spent.pop(key, None)
        self._spent[key] = (spent, now)
        if len(self._spent) > KEPT:
            del self._spent[next(iter(self._spent))]
        wait_s = 0 if is_allowed else max(1, math.ceil((spent + 1 - limit.burst) / limit.per_s))
        return Count(is_allowed, int(limit.burst - spent), math.ceil(spent / limit.per_s), wait_s)

    def retry_after_s(self, key: str, limit: Limit, now: float) -> int:
        """Seconds until one more request for `key` would be let through; counts nothing."""
        if limit.burst <= 0:
            return 0
        missing = self._spent_at(key, limit, now) + 1 - limit.burst
        return max(0, math.ceil(missing / limit.per_s))

    def _spent_at(self, key: str, limit: Limit, now: float) -> float:
        spent, at = self._spent.get(key, (0.0, now))
        return max(0.0, spent - (now - at) * limit.per_s)
