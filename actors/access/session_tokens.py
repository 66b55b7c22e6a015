"""Session tokens: made from the access token, kept nowhere; only the digests of revoked ones are remembered.

A token is `{expiry}.{nonce}:{HMAC-SHA256 of what stands before}`, the key derived from the access token: a new access
token ends them all.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from ...storage.tokens import RevokedToken

State = Literal["valid", "expired", "revoked", "unsure", "unknown"]
"""`unsure`: it is genuine and was made before this start, and which of those are revoked is not known yet."""

PURPOSE = b"pocketpaw session token"


class SessionTokens:
    """The tokens made in this run, and the revoked ones. Times are seconds since 1970."""

    def __init__(self) -> None:
        self._revoked: dict[str, float] = {}  # digest: expiry
        self._made_here: dict[str, float] = {}
        self.knows_revoked = False

    def make(self, access_token: str, ttl_s: float, now: float) -> str:
        claim = f"{int(now + ttl_s)}.{secrets.token_hex(8)}"
        token = f"{claim}:{_signature(access_token, claim)}"
        if not self.knows_revoked:
            self._made_here[digest(token)] = now + ttl_s
        return token

    def state(self, access_token: str, token: str, now: float) -> State:
        expires_at = _expiry(access_token, token)
        if expires_at is None:
            return "unknown"
        if expires_at <= now:
            return "expired"
        key = digest(token)
        if key in self._revoked:
            return "revoked"
        return "valid" if self.knows_revoked or key in self._made_here else "unsure"

    def ends_at(self, access_token: str, token: str) -> float | None:
        """When a genuine token expires; None if it is not ours."""
        return _expiry(access_token, token)

    def revoke(self, access_token: str, token: str, now: float) -> RevokedToken | None:
        """Revoke a genuine token from here on; returns what to store, or None if there is nothing to revoke."""
        if self.state(access_token, token, now) not in ("valid", "unsure"):
            return None
        expires_at = _expiry(access_token, token)
        assert expires_at is not None
        self._revoked = {key: until for key, until in self._revoked.items() if until > now}
        self._revoked[digest(token)] = expires_at
        return RevokedToken(digest(token), datetime.fromtimestamp(expires_at, UTC))

    def take_in(self, stored: Iterable[RevokedToken]) -> None:
        """Learn which tokens were revoked before this start."""
        self._revoked |= {revoked.digest: revoked.expires_at.timestamp() for revoked in stored}
        self.knows_revoked = True
        self._made_here.clear()


def digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _expiry(access_token: str, token: str) -> float | None:
    """When a genuine token expires; None if it is not ours."""
    claim, _, signature = token.partition(":")
    if not is_same(signature, _signature(access_token, claim)):
        return None
    return float(claim.partition(".")[0])


def _signature(access_token: str, claim: str) -> str:
    key = hmac.digest(access_token.encode(), PURPOSE, "sha256")
    return hmac.digest(key, claim.encode(errors="replace"), "sha256").hex()


def is_same(one: str, other: str) -> bool:
    """Compare in a time that says nothing about where they differ."""
    return hmac.compare_digest(one.encode(errors="replace"), other.encode(errors="replace"))
