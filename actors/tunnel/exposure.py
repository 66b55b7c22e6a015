"""Whether anybody may come through the tunnel: what outlives the actors that open and close it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from ..settings import LiveSettings


class Exposure:
    """The operator's wish, and the processes that there may be.

    Invariant: `live.is_tunnelled` from before the first process is started until it is neither wanted nor has a process
    that may live. So the guard takes nobody for local in between, whichever actor crashes or is restarted.
    """

    def __init__(self, live: LiveSettings) -> None:
        self._live = live
        self._is_wanted = False
        self._processes = 0

    @property
    def is_wanted(self) -> bool:
        return self._is_wanted

    @is_wanted.setter
    def is_wanted(self, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        self._tell_guard()

    @property
    def has_process(self) -> bool:
        return self._processes > 0

    @contextmanager
    def process(self) -> Generator[None]:
        """Around the whole life of a process, from before its start until after it was reaped."""
        self._processes += 1
        self._tell_guard()
        try:
            yield
        finally:
            self._processes -= 1
            self._tell_guard()

    def _tell_guard(self) -> None:
        self._live.is_tunnelled = self.is_wanted or self.has_process
