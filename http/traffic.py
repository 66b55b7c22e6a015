"""What the listener has answered since it was started: how often, by endpoint and status."""

from __future__ import annotations

from collections import Counter

import msgspec

from ..runtime import Message
from .route import Route

NO_ROUTE = ""


class Answered(msgspec.Struct, frozen=True):
    """`route` is an endpoint's path with the names of its fields, empty for what is none of ours."""

    method: str
    route: str
    status: int
    count: int


class GetTraffic(Message[list[Answered]], to="http"):
    """Count the answers by endpoint and status."""


class Traffic:
    """Counts; endpoints and statuses are few, whatever clients ask for."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, int]] = Counter()

    def count(self, route: Route | None, status: int) -> None:
        method, path = (NO_ROUTE, NO_ROUTE) if route is None else (route.method, route.mounts[0])
        self._counts[method, path, status] += 1

    def answered(self) -> list[Answered]:
        return [Answered(*key, count) for key, count in sorted(self._counts.items())]
