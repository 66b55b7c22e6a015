"""Codes that log a browser in, once and soon: what a QR code carries. They are kept in memory only."""

from __future__ import annotations

import secrets
from typing import NamedTuple

from .session_tokens import digest

LIFETIME_S = 60.0
MOST = 100
"""Codes that wait at once; beyond that the oldest is forgotten."""


class _Waiting(NamedTuple):
    expires_at: float
    access_token: str
    """The one in force when the code was made: a new one ends it."""
    session_ends_at: float


class LoginCodes:
    """Times are seconds since 1970."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}  # by digest, oldest first

    def make(self, access_token: str, session_ends_at: float, now: float) -> str:
        """Make a code for a session that ends at a certain time."""
        code = secrets.token_urlsafe(24)
        self._waiting[digest(code)] = _Waiting(now + LIFETIME_S, access_token, session_ends_at)
        if len(self._waiting) > MOST:
            del self._waiting[next(iter(self._waiting))]
        return code

    def redeem(self, code: str, access_token: str, now: float) -> float | None:
        """Use a code up: when its session ends, or None if it is not known, used or expired."""
        waiting = self._waiting.pop(digest(code), None)
        if waiting is None or waiting.expires_at <= now or waiting.access_token != access_token:
            return None
        return waiting.session_ends_at
