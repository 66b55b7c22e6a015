"""Tickets of the consent page: proof that a decision comes from the page that was shown to whoever sends it.

A ticket is `{expiry}.{HMAC-SHA256}` over what was asked and who was shown it, the key derived from the access token.
Nothing is kept.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import msgspec

from .session_tokens import is_same

LIFETIME_S = 600
PURPOSE = b"pocketpaw consent page"


def make(access_token: str, shown: Sequence[str | None], now: float) -> str:
    """Make a ticket for what is `shown`. Times are seconds since 1970."""
    expiry = str(int(now) + LIFETIME_S)
    return f"{expiry}.{_signature(access_token, expiry, shown)}"


def is_valid(access_token: str, ticket: str, shown: Sequence[str | None], now: float) -> bool:
    expiry, _, signature = ticket.partition(".")
    return is_same(signature, _signature(access_token, expiry, shown)) and int(expiry) > now


def _signature(access_token: str, expiry: str, shown: Sequence[str | None]) -> str:
    key = hmac.digest(access_token.encode(), PURPOSE, "sha256")
    return hmac.digest(key, msgspec.json.encode([expiry, *shown]), "sha256").hex()
