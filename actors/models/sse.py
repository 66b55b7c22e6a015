"""Server-sent events, decoded as their bytes come in (WHATWG HTML, section 9.2.6); only `data` matters here."""

from __future__ import annotations

EVENT_LIMIT_BYTES = 4 * 1024 * 1024


class EventTooLarge(ValueError):
    """One event is longer than any honest one."""


class EventDecoder:
    """Takes bytes however they were cut, also inside a character or a CRLF, and gives the data of each whole event."""

    def __init__(self, limit_bytes: int = EVENT_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._unfinished_line = b""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, received: bytes) -> list[bytes]:
        """Decode what `received` completes.

        Raises: EventTooLarge
        """
        if self._unfinished_line:
            received = self._unfinished_line + received
        lines = received.splitlines()
        if received.endswith(b"\n"):
            self._unfinished_line = b""
        else:  # a CR at the end may be half of a CRLF: it waits with its line
            self._unfinished_line = lines.pop() + (b"\r" if received.endswith(b"\r") else b"") if lines else b""
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b" ", 5) else line[5:])
                self._data_bytes += len(line)
            elif not line and self._data:
                events.append(self._take())
        if self._data_bytes + len(self._unfinished_line) > self._limit_bytes:
            raise EventTooLarge(f"an event of more than {self._limit_bytes} bytes")
        return events

    def finish(self) -> list[bytes]:
        """Give the event that the end of the stream left without its blank line, which some servers forget."""
        return self.feed(b"\n\n") if self._unfinished_line or self._data else []

    def _take(self) -> bytes:
        event = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data.clear()
        self._data_bytes = 0
        return event
