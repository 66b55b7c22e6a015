"""A circuit breaker: a backend that keeps failing is left alone for a while, then tried by one request.

It spares a wait to those who have another backend to go to; where there is none, the one that failed is asked all the
same, as nothing can be lost by it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

import trio

from ...runtime.errors import ActorDied, NeedsOperator, PocketPawError, TimedOut, Unavailable
from .errors import ModelSuspended

FAILURES = 5
"""In a row, after which a backend is left alone."""

COOL_DOWN_S = 15.0

BreakerState = Literal["closed", "open", "half_open"]


class Breaker:
    """Counts one backend's failures. Closed: all may ask. Open: none. Half open, once it has cooled down: one may."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._opened_until: float | None = None
        self._is_probed = False
        self.failures = 0
        """In a row, and the backend's own fault."""
        self.last_failure = ""

    @property
    def state(self) -> BreakerState:
        if self._opened_until is None:
            return "closed"
        return "half_open" if trio.current_time() >= self._opened_until else "open"

    @contextmanager
    def attempt(self, *, has_fallback: bool) -> Generator[None]:
        """Count what becomes of the block: an end is a success, and whoever is cancelled or leaves counts for nothing.

        Raises: ModelSuspended, if there is a backend to go to instead.
        """
        is_probe = self.state == "half_open"
        if has_fallback and (self.state == "open" or (is_probe and self._is_probed)):
            raise self.refusal()
        self._is_probed = self._is_probed or is_probe
        try:
            yield
        except PocketPawError as error:
            self._count(error)
            raise
        else:
            self._close()
        finally:
            if is_probe:
                self._is_probed = False

    def refusal(self) -> ModelSuspended:
        """Say why nobody is let through, and until when."""
        left_s = max(0.0, (self._opened_until or 0.0) - trio.current_time())
        when = f"for another {left_s:.0f} s" if left_s else "while one request tries it"
        return ModelSuspended(
            f"{self._name} failed {self.failures} times in a row and is left alone {when}; "
            f"the last failure: {self.last_failure}",
            backend=self._name,
            retry_after_s=left_s,
        )

    def _count(self, error: PocketPawError) -> None:
        if not is_its_own_fault(error):
            self._close()  # it did answer: it was the question that it did not like
            return
        self.failures += 1
        self.last_failure = error.detail
        if self.failures >= FAILURES:
            asked_s = error.data.get("retry_after_s")
            cool_down_s = max(COOL_DOWN_S, asked_s) if isinstance(asked_s, int | float) else COOL_DOWN_S
            self._opened_until = trio.current_time() + cool_down_s

    def _close(self) -> None:
        self.failures, self.last_failure, self._opened_until = 0, "", None


def is_its_own_fault(error: PocketPawError) -> bool:
    """Tell whether a backend's failure says something of the backend, rather than of what it was asked."""
    return isinstance(error, Unavailable | TimedOut | NeedsOperator | ActorDied)
