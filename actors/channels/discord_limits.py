"""Discord's rate limits, as its answers tell them: nothing is sent that is known to be refused.

Discord bans addresses that send too much of that (discord.com/developers/docs/topics/rate-limits).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import trio

from ...runtime.errors import TooManyRequests

REMEMBERED = 1000
LONGEST_PAUSE_S = 24 * 3600.0
"""What Discord may ask for; who asks for longer is asked again tomorrow."""


class Route(NamedTuple):
    """What is limited together until an answer names a bucket: `template` with the method, and the channel."""

    template: str
    channel_id: str = ""


class _Bucket:
    __slots__ = ("remaining", "resets_at")

    def __init__(self, remaining: int, resets_at: float) -> None:
        self.remaining = remaining
        self.resets_at = resets_at


class RateLimits:
    """Buckets by their names and channels, and the limit that holds for everything."""

    def __init__(self) -> None:
        self._free_at = -math.inf
        self._names: dict[str, str] = {}
        """The bucket that Discord named for a template."""
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def take(self, route: Route) -> None:
        """Count a request that is about to be sent; raises TooManyRequests if it would be refused."""
        now = trio.current_time()
        bucket = self._buckets.get(self._key(route))
        free_at = self._free_at
        if bucket is not None and bucket.resets_at > now and bucket.remaining <= 0:
            free_at = max(free_at, bucket.resets_at)
        if free_at > now:
            raise limited(free_at - now)
        if bucket is not None:
            bucket.remaining -= 1

    def note(self, route: Route, headers: Mapping[bytes, bytes]) -> None:
        """Learn from an answer's headers, if it has any to learn from."""
        name = headers.get(b"x-ratelimit-bucket", b"").decode("latin-1")
        remaining = seconds(headers.get(b"x-ratelimit-remaining"))
        reset_after_s = seconds(headers.get(b"x-ratelimit-reset-after"))
        if name:
            self._names[route.template] = name
        if remaining is None or reset_after_s is None:
            return
        now = trio.current_time()
        known = self._buckets.get(self._key(route))
        if known is not None and known.resets_at > now:  # others may be under way, which this answer did not count
            remaining = min(known.remaining, remaining)
        self._set(route, int(remaining), now + reset_after_s)

    def note_refusal(self, route: Route, retry_after_s: float, *, is_global: bool) -> None:
        """Discord refused a request as one too many."""
        until = trio.current_time() + retry_after_s
        if is_global:
            self._free_at = max(self._free_at, until)
        else:
            self._set(route, 0, until)

    def _set(self, route: Route, remaining: int, resets_at: float) -> None:
        if len(self._buckets) >= REMEMBERED:
            now = trio.current_time()
            self._buckets = {key: bucket for key, bucket in self._buckets.items() if bucket.resets_at > now}
        self._buckets[self._key(route)] = _Bucket(remaining, resets_at)

    def _key(self, route: Route) -> tuple[str, str]:
        return self._names.get(route.template, route.template), route.channel_id


def limited(retry_after_s: float) -> TooManyRequests:
    return TooManyRequests(f"Discord takes no more for {retry_after_s:.1f} s", retry_after_s=retry_after_s)


def seconds(text: bytes | None) -> float | None:
    """Read a header's number, within reason; None if it is none."""
    try:
        value = float(text or b"")
    except ValueError:
        return None
    return min(max(0.0, value), LONGEST_PAUSE_S) if math.isfinite(value) else None
