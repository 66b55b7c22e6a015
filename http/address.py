"""The address under which a client reaches the daemon, as that client has it."""

from __future__ import annotations

from .call import Call


def is_https(call: Call) -> bool:
    """Whether the client speaks HTTPS, to us or to the proxy before us."""
    return "https" in (call.request.scheme, call.request.headers.get("X-Forwarded-Proto"))


def base_url(call: Call) -> str:
    """Scheme, host and port, as the request names them."""
    return f"{'https' if is_https(call) else 'http'}://{call.request.headers.get('Host', '')}"
