"""JSON lines (one JSON value a line), decoded as their bytes come in."""

from __future__ import annotations

from .sse import EVENT_LIMIT_BYTES, EventTooLarge


class LineDecoder:
    """Takes bytes however they were cut, and gives each whole line that is not empty."""

    def __init__(self, limit_bytes: int = EVENT_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._unfinished = b""

    def feed(self, received: bytes) -> list[bytes]:
        """Decode what `received` completes.

        Raises: EventTooLarge
        """
        *whole, self._unfinished = (self._unfinished + received).split(b"\n")
        if len(self._unfinished) > self._limit_bytes:
            raise EventTooLarge(f"a line of more than {self._limit_bytes} bytes")
        return [line for line in whole if line.strip()]

    def finish(self) -> list[bytes]:
        """Give the last line if it has no end."""
        return self.feed(b"\n")
