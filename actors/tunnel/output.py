"""What cloudflared prints, and what of it is of use: the tunnel's address, where it can be asked how it is, its end."""

from __future__ import annotations

import re

LINE_LIMIT_BYTES = 8192
"""A longer line is cut: nothing of use is as long."""
WORDS_LIMIT = 300

# cmd/cloudflared/tunnel/quick_tunnel.go and metrics/metrics.go in https://github.com/cloudflare/cloudflared
_URL = re.compile(rb"\|\s+(https://[A-Za-z0-9.-]+)\s+\|")
_METRICS = re.compile(rb"Starting metrics server on 127\.0\.0\.1:(\d{1,5})/metrics")
_PREFIX = re.compile(r"^\S+Z (?:INF|WRN|ERR|FTL|DBG) ")


class Output:
    """Takes what it prints, in pieces as they come, and keeps next to nothing of it."""

    def __init__(self) -> None:
        self.url: str | None = None
        self.metrics_port: int | None = None
        self._rest = b""
        self._last_line = b""

    def feed(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:LINE_LIMIT_BYTES]
        for line in lines:
            self._take(line[:LINE_LIMIT_BYTES])

    @property
    def last_words(self) -> str:
        """The last line that says something, without its date."""
        text = (self._rest.strip() or self._last_line).decode(errors="replace")
        return _PREFIX.sub("", text)[:WORDS_LIMIT]

    def _take(self, line: bytes) -> None:
        self._last_line = line.strip() or self._last_line
        if found := _URL.search(line):
            self.url = found[1].decode()
        elif found := _METRICS.search(line):
            self.metrics_port = int(found[1])
