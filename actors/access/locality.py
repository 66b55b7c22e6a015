"""Where a request comes from: whether a peer, a Host or an Origin is this machine."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

LOCALHOST = "localhost"


@lru_cache(maxsize=4096)
def is_loopback_address(address: str | None) -> bool:
    """Whether a TCP peer, or an address to listen on, is this machine's own loopback."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return address == LOCALHOST
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return (mapped or parsed).is_loopback


@lru_cache(maxsize=4096)
def is_loopback_host(host: str) -> bool:
    """Whether a Host header names the loopback: no other name can, as anybody's DNS may point it here."""
    name = _name(f"//{host}")
    return name is not None and (name == LOCALHOST or name.endswith(".localhost") or is_loopback_address(name))


@lru_cache(maxsize=4096)
def is_welcome_origin(origin: str, host: str, allowed: tuple[str, ...]) -> bool:
    """Whether a page of `origin` may use the daemon: a local page, one of the daemon's own, or an allowed one."""
    if origin in allowed:
        return True
    if not origin.startswith(("http://", "https://")):
        return False
    authority = origin.partition("://")[2]
    return is_loopback_host(authority) or authority.lower() == host.lower()


@lru_cache(maxsize=4096)
def network_of(peer: str) -> str:
    """What to count a peer by: its address, or of IPv6 the /64 network, in which one machine has all the addresses."""
    try:
        parsed = ip_address(peer)
    except ValueError:
        return peer
    return parsed.exploded[:19] if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None else peer


def _name(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # a port that is none makes it no host
    except ValueError:
        return None
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return parts.hostname.removesuffix(".") if parts.hostname else None
