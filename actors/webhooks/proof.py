"""How a webhook's caller shows that it has the secret, and how it names what it delivers.

A caller sends the secret itself as `X-Webhook-Secret`, or, as `X-Webhook-Signature` or `X-Hub-Signature-256`, the
hexadecimal HMAC-SHA256 of the raw body under it, with `sha256=` before it or without. If it also sends
`X-Webhook-Timestamp`, in Unix seconds, that has to be near our time, and `X-Webhook-Signature` is of
`TIMESTAMP.BODY`, or of `ID.TIMESTAMP.BODY` where there is an `X-Webhook-Id`: then nobody can send it again, later or
under another id. (`X-Hub-Signature-256` is GitHub's, and always of the body alone.)
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec

from ..access.session_tokens import is_same

WINDOW_S = 300.0
"""How far the time that a caller names may be from ours."""

DIGITS = 12
PREFIX = "sha256="


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """The headers that say who calls, as they came. Nothing here is believed yet."""

    secret: str | None = None
    signature: str | None = None
    """X-Webhook-Signature."""
    hub_signature: str | None = None
    """X-Hub-Signature-256."""
    timestamp: str | None = None
    webhook_id: str | None = None
    delivery_id: str | None = None
    """What else names the delivery, if it has no X-Webhook-Id: X-GitHub-Delivery, Idempotency-Key and the like."""

    def is_made_with(self, secret: str, body: bytes) -> bool:
        """Whether the caller has the secret: something shows it, and nothing that was sent is wrong."""
        shown: list[bool] = []
        if self.secret is not None:
            shown.append(is_same(self.secret, secret))
        if self.signature is not None:
            shown.append(_signs(self.signature, secret, self._signed(body)))
        if self.hub_signature is not None:
            shown.append(_signs(self.hub_signature, secret, body))
        return bool(shown) and all(shown)

    def is_timely(self, now: float) -> bool:
        """Whether the time that the caller names, if it names one, is near `now`, in seconds since 1970."""
        if self.timestamp is None:
            return True
        is_number = self.timestamp.isascii() and self.timestamp.isdigit() and len(self.timestamp) <= DIGITS
        return is_number and abs(int(self.timestamp) - now) <= WINDOW_S

    def key(self) -> str | None:
        """What is the same when the same delivery comes again; None if nothing tells."""
        named = self.webhook_id
        if named is None and self.timestamp is not None and self.signature is not None:
            named = self.signature.lower().removeprefix(PREFIX)  # the signature is of the time as well
        elif named is None:
            named = self.delivery_id
        return None if named is None else hashlib.sha256(named.encode(errors="replace")).hexdigest()

    def _signed(self, body: bytes) -> bytes:
        """What X-Webhook-Signature is of."""
        if self.timestamp is None:
            return body
        names = [self.timestamp] if self.webhook_id is None else [self.webhook_id, self.timestamp]
        return b".".join([*(name.encode(errors="replace") for name in names), body])


def _signs(signature: str, secret: str, signed: bytes) -> bool:
    expected = hmac.digest(secret.encode(), signed, "sha256").hex()
    return is_same(signature.lower().removeprefix(PREFIX), expected)
