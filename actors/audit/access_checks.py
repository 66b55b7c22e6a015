"""Security: who gets in, and with what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import trio

from ...storage.api_keys import ApiKey, LoadApiKeys
from ..access.guard import LIMITS
from ..access.locality import is_loopback_address, is_loopback_host
from .security_check import Premises, Seen, fine, security_check, setting, wrong

TOKEN_LENGTH = 32
TOKEN_VARIETY = 12
"""Different characters that a random token of that length has at least, but for one in many millions."""
TOKEN_AGE = timedelta(days=365)
UNUSED = timedelta(days=90)
NAMED = 5


@security_check("Access token", "critical")
async def access_token_strength(premises: Premises) -> Seen:
    token = premises.live.access_token
    if len(token) < TOKEN_LENGTH or len(set(token)) < TOKEN_VARIETY:
        return wrong("the access token could be guessed: POST token/regenerate makes a random one")
    return fine(f"the access token is random, with {len(token)} characters")


@security_check("Age of the access token", "info")
async def access_token_age(premises: Premises) -> Seen:
    found = await trio.to_thread.run_sync(premises.live.home.access_token.stat)
    age = datetime.now(UTC) - datetime.fromtimestamp(found.st_mtime, UTC)
    if age > TOKEN_AGE:
        return wrong(f"the access token is {age.days} days old: POST token/regenerate replaces it")
    return fine(f"the access token is {max(age.days, 0)} days old")


@security_check("Encryption on the way", "critical")
async def encryption(premises: Premises) -> Seen:
    host = premises.live.at_start.web_host
    if is_loopback_address(host):
        return fine("only this machine can connect, so nothing goes over the network")
    return wrong(
        f"the daemon listens on {host} without TLS, so tokens cross the network in the clear: listen on 127.0.0.1 "
        "(web_host) behind a proxy with TLS, or use the tunnel"
    )


@security_check("Localhost bypass", "critical", repair=setting(localhost_auth_bypass=False))
async def localhost_bypass(premises: Premises) -> Seen:
    live = premises.live
    if not live.current.localhost_auth_bypass:
        return fine("programs on this machine need a credential, too")
    if live.is_tunnelled or not is_loopback_address(live.at_start.web_host):
        return wrong(
            "localhost_auth_bypass is on although others can reach the daemon; it is not honoured now, but would be "
            "again without them: switch it off"
        )
    return fine("only programs on this machine get in without a credential (localhost_auth_bypass)")


async def _keep_trustworthy(premises: Premises) -> None:
    allowed = [origin for origin in premises.live.current.api_cors_allowed_origins if _is_trustworthy(origin)]
    await setting(api_cors_allowed_origins=allowed)(premises)


@security_check("Web pages elsewhere", repair=_keep_trustworthy)
async def origins(premises: Premises) -> Seen:
    allowed = premises.live.current.api_cors_allowed_origins
    bad = [origin for origin in allowed if not _is_trustworthy(origin)]
    if bad:
        return wrong(
            f"api_cors_allowed_origins names {', '.join(bad[:NAMED])}: only https:// origins cannot be taken over by "
            "whoever is on the way"
        )
    return fine(f"{len(allowed)} web pages elsewhere may use the API" if allowed else "no web page elsewhere may")


def _is_trustworthy(origin: str) -> bool:
    if "*" in origin or origin == "null":
        return False
    return not origin.startswith("http://") or is_loopback_host(origin.removeprefix("http://"))


def _unlimited(premises: Premises) -> list[str]:
    return [name for name in sorted({name for name, _ in LIMITS.values()}) if not getattr(premises.live.current, name)]


async def _limit(premises: Premises) -> None:
    await setting(**dict.fromkeys(_unlimited(premises)))(premises)


@security_check("Rate limits", repair=_limit)
async def rate_limits(premises: Premises) -> Seen:
    off = _unlimited(premises)
    if off:
        return wrong(f"{', '.join(off)} is off, so credentials can be guessed without end: set a limit")
    return fine("requests and attempts to log in are limited")


@security_check("API keys that may do everything", "critical")
async def powerful_keys(premises: Premises) -> Seen:
    found = [key for key in await _keys(premises) if "admin" in key.scopes and key.expires_at is None]
    if found:
        return wrong(f"{_names(found)} may do everything, for ever: make a key with fewer scopes or an end instead")
    return fine("no API key may do everything for ever")


@security_check("API keys that nobody uses", "info")
async def unused_keys(premises: Premises) -> Seen:
    since = datetime.now(UTC) - UNUSED
    found = [key for key in await _keys(premises) if (key.last_used_at or key.created_at) < since]
    if found:
        return wrong(f"{_names(found)} was not used for {UNUSED.days} days: revoke it if nobody needs it")
    return fine(f"every API key was used within {UNUSED.days} days")


async def _keys(premises: Premises) -> list[ApiKey]:
    """Those that let somebody in."""
    now = datetime.now(UTC)
    keys = await premises.ask(LoadApiKeys())
    return [key for key in keys if not key.revoked and (key.expires_at is None or key.expires_at > now)]


def _names(keys: list[ApiKey]) -> str:
    named = ", ".join(f"{key.name} ({key.prefix}…)" for key in keys[:NAMED])
    return f"the API key {named}" + (f" and {len(keys) - NAMED} more" if len(keys) > NAMED else "")


CHECKS = (
    access_token_strength,
    access_token_age,
    encryption,
    localhost_bypass,
    origins,
    rate_limits,
    powerful_keys,
    unused_keys,
)
