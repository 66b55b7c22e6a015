"""The guard: who is asking, may they, and how often."""

from __future__ import annotations

import time
from collections import deque
from typing import Literal, NamedTuple

import msgspec
import structlog
import trio

from ..runtime import Actor, Done, Message, Principal
from ..runtime.errors import Forbidden, PocketPawError, Unauthenticated
from ..storage.tokens import ListRevokedTokens, RevokedToken, RevokeToken
from .locality import is_loopback_address, is_loopback_host, is_welcome_origin, network_of
from .rate_limits import Limit, TokenBuckets
from .session_tokens import SessionTokens, State, digest, is_same
from .settings import LiveSettings

log = structlog.get_logger()

Bucket = Literal["api", "auth", "ws"]
CredentialKind = Literal["none", "master", "session", "localhost"]
Outcome = Literal["allowed", "unauthenticated", "forbidden", "too_many"]


class Verdict(msgspec.Struct, frozen=True):
    """What became of a request. `principal` is set if `outcome` is `allowed` and somebody was recognized."""

    outcome: Outcome
    reason: str
    """A sentence for whoever was turned away; empty if allowed."""
    principal: Principal | None
    credential_kind: CredentialKind
    subprotocol: str | None
    """The WebSocket subprotocol for the handshake to choose: of those offered, browsers insist on one."""
    limit: int
    """Requests that the rate limit lets through in one go; 0 if there is no limit."""
    remaining: int
    reset_s: int
    """Seconds until the limit is whole again."""
    retry_after_s: int
    """Set if `outcome` is `too_many`."""


class Authenticate(Message[Verdict], to="guard"):
    """Judge one request by its raw facts and count it against its rate limit."""

    bearer: str | None = None
    """What follows `Bearer` in `Authorization`; for any other scheme the whole header, which nobody has."""
    query_token: str | None = None
    cookie: str | None = None
    """The value of `pocketpaw_session`."""
    subprotocols: tuple[str, ...] = ()
    """The entries of `Sec-WebSocket-Protocol`."""
    peer: str | None
    """The address of the TCP peer."""
    forwarded: bool
    """Whether there is any of Forwarded, X-Forwarded-*, X-Real-IP, CF-*."""
    host: str
    origin: str | None
    method: str
    is_upgrade: bool = False
    bucket: Bucket = "api"
    required: bool = True
    """False for what needs no credential (login): then `allowed` may come without a principal."""


class SessionToken(msgspec.Struct, frozen=True):
    session_token: str
    expires_in_hours: int


class CreateSessionToken(Message[SessionToken], to="guard"):
    """Make a session token; a session token itself is not enough to make another."""


class Login(Message[SessionToken], to="guard"):
    """Exchange the access token for a session token."""

    token: str


class Logout(Message[Done], to="guard"):
    """Revoke a session token; any other credential is left as it is."""

    credential: str | None


LIMITS: dict[Bucket, tuple[str, float]] = {
    "api": ("api_rate_limit_per_key", 60 / 600),
    "auth": ("auth_rate_limit_per_peer", 5 / 12),
    "ws": ("ws_rate_limit_per_peer", 10 / 60),
}
"""By bucket: the setting that holds its requests per minute, and what part of them may come in one go."""

EVERYTHING = frozenset({"admin"})
MASTER = Principal("master", EVERYTHING)
SESSION = Principal("session", EVERYTHING)
LOCALHOST = Principal("localhost", EVERYTHING)

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

REASONS: dict[State, str] = {
    "unknown": "the credential is not known",
    "expired": "the session has expired: log in again",
    "revoked": "the session has been logged out: log in again",
    "unsure": "sessions from before this start cannot be told from logged-out ones now: use the access token",
}

SUBPROTOCOLS_TRIED = 4
ACCEPTED_KEPT = 1000
START_WAIT_S = 2.0
RETRY_S = 5.0
LOGOUT_WAIT_S = 0.2
"""How long a logout is held up until it is on disk; it holds in any case from the moment that it is asked for."""


class _Recognized(NamedTuple):
    """Whom a request comes from, or why nobody can say."""

    principal: Principal | None = None
    kind: CredentialKind = "none"
    key: str = ""
    """What its requests are counted by; empty means by the peer's address."""
    reason: str = ""
    is_guess: bool = False
    """The credential was never one of ours."""
    locked_s: int = 0
    """The credential was not looked at: so many seconds are left after too many wrong ones."""


class _Revocation:
    def __init__(self, revoked: RevokedToken) -> None:
        self.revoked = revoked
        self.is_saved = trio.Event()


class Guard(Actor):
    """Judges every request, so it answers from memory and never waits."""

    has_tasks = True

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live
        self._tokens = SessionTokens()
        self._buckets: dict[Bucket, TokenBuckets] = {bucket: TokenBuckets() for bucket in LIMITS}
        self._guesses = TokenBuckets()
        self._accepted: dict[str, None] = {}
        """Digests of credentials that were right, longest unused first: they pass, whatever else their peer tries."""
        self._unsaved: deque[_Revocation] = deque()
        self._has_unsaved = trio.Event()

    async def on_start(self) -> None:
        await self._learn_revoked(START_WAIT_S)
        self.spawn(self._keep_learning)
        self.spawn(self._keep_saving)

    async def authenticate(self, message: Authenticate) -> Verdict:
        now = self.system.now()
        peer = network_of(message.peer or "unknown")
        is_welcome = message.origin is None or is_welcome_origin(
            message.origin, message.host, self._live.current.api_cors_allowed_origins
        )
        known = self._recognize(message, peer, now, is_welcome=is_welcome)
        limit = self._limit(message.bucket)
        key = peer if message.bucket == "auth" else known.key or peer
        count = self._buckets[message.bucket].take(key, limit, now)
        outcome, reason = _judged(message, known, is_welcome=is_welcome)
        if not count.is_allowed:
            outcome, reason = "too_many", f"too many requests: more than {limit.burst} at once"
        is_allowed = outcome == "allowed"
        return Verdict(
            outcome=outcome,
            reason=reason,
            principal=known.principal if is_allowed else None,
            credential_kind=known.kind if is_allowed else "none",
            subprotocol=message.subprotocols[0] if message.subprotocols else None,
            limit=limit.burst,
            remaining=count.remaining,
            reset_s=count.reset_s,
            retry_after_s=max(count.retry_after_s, known.locked_s) if outcome == "too_many" else 0,
        )

    def _recognize(self, message: Authenticate, peer: str, now: float, *, is_welcome: bool) -> _Recognized:
        """Look at the credentials, the most deliberate first; with none, at where the request comes from."""
        stated = [credential for credential in (message.bearer, message.query_token) if credential]
        if stated:
            return self._first_known(stated, peer, now)
        if message.cookie and is_welcome:  # a foreign page must not use the cookie of whoever looks at it
            found = self._session(message.cookie)
            if found.principal is not None:
                return found
        why_not = self._why_not_local(message, is_welcome=is_welcome)
        if why_not is None:
            return _Recognized(LOCALHOST, "localhost")
        offered = list(message.subprotocols[:SUBPROTOCOLS_TRIED])
        return self._first_known(offered, peer, now) if offered else _Recognized(reason=why_not)

    def _first_known(self, credentials: list[str], peer: str, now: float) -> _Recognized:
        """The first credential that is right. Who has sent too many wrong ones gets no answer on further ones."""
        limit = self._limit("auth")
        found = _Recognized()
        for credential in credentials:
            locked_s = self._guesses.retry_after_s(peer, limit, now)
            key = digest(credential)
            if locked_s and key not in self._accepted:
                return _Recognized(reason="too many wrong credentials came from this address", locked_s=locked_s)
            found = self._look_up(credential)
            if found.principal is not None:
                self._accept(key)
                return found
            if found.is_guess:
                self._guesses.take(peer, limit, now)
        return found

    def _look_up(self, credential: str) -> _Recognized:
        if is_same(credential, self._live.access_token):
            return _Recognized(MASTER, "master", "master")
        return self._session(credential)

    def _session(self, token: str) -> _Recognized:
        state = self._tokens.state(self._live.access_token, token, time.time())
        if state == "valid":
            return _Recognized(SESSION, "session", digest(token))
        return _Recognized(reason=REASONS[state], is_guess=state == "unknown")

    def _accept(self, key: str) -> None:
        self._accepted.pop(key, None)
        self._accepted[key] = None
        if len(self._accepted) > ACCEPTED_KEPT:
            del self._accepted[next(iter(self._accepted))]

    def _why_not_local(self, message: Authenticate, *, is_welcome: bool) -> str | None:
        """Why the request is not taken for one of a program on this machine; None if it is."""
        live = self._live
        if not is_loopback_address(message.peer):
            return "a credential is needed: send Authorization: Bearer and the access token"
        facts = {
            "the localhost bypass is switched off": not live.current.localhost_auth_bypass,
            "a proxy has forwarded the request": message.forwarded,
            "the daemon can be reached through a tunnel": live.is_tunnelled,
            "the daemon does not listen on this machine only": not is_loopback_address(live.at_start.web_host),
            "its Host is no name of this machine": not is_loopback_host(message.host),
            "it comes from a web page elsewhere": not is_welcome,
        }
        why = next((why for why, is_so in facts.items() if is_so), None)
        return f"a credential is needed, as {why}" if why is not None else None

    def _limit(self, bucket: Bucket) -> Limit:
        setting, share = LIMITS[bucket]
        per_minute: int = getattr(self._live.current, setting)
        return Limit(max(1, round(per_minute * share)) if per_minute else 0, per_minute / 60)

    async def create_session_token(self, message: CreateSessionToken) -> SessionToken:
        if self.principal == SESSION:
            raise Forbidden("a session token cannot make another one: use the access token")
        return self._make()

    async def login(self, message: Login) -> SessionToken:
        if not is_same(message.token, self._live.access_token):
            raise Unauthenticated("that is not the access token")
        return self._make()

    async def logout(self, message: Logout) -> Done:
        credential = message.credential or ""
        revoked = self._tokens.revoke(self._live.access_token, credential, time.time())
        if revoked is not None:
            revocation = _Revocation(revoked)
            self._unsaved.append(revocation)
            self._has_unsaved.set()
            with trio.move_on_after(LOGOUT_WAIT_S):
                await revocation.is_saved.wait()
        return Done()

    def _make(self) -> SessionToken:
        hours = self._live.current.session_token_ttl_hours
        return SessionToken(self._tokens.make(self._live.access_token, hours * 3600, time.time()), hours)

    async def _keep_learning(self) -> None:
        """Learn of revoked tokens as soon as the store can tell."""
        while not self._tokens.knows_revoked:
            await trio.sleep(RETRY_S)
            await self._learn_revoked(RETRY_S)

    async def _learn_revoked(self, timeout_s: float) -> None:
        try:
            self._tokens.take_in(await self.ask(ListRevokedTokens(), timeout_s=timeout_s))
        except PocketPawError as error:
            log.warning("revoked session tokens are not known", actor=self.path, reason=error.detail)

    async def _keep_saving(self) -> None:
        """Bring revocations to disk, in order, each until the store has taken it."""
        while True:
            while self._unsaved:
                first = self._unsaved[0]
                command = RevokeToken(digest=first.revoked.digest, expires_at=first.revoked.expires_at)
                try:
                    await self.ask(command, timeout_s=RETRY_S)
                except PocketPawError as error:
                    log.warning("a logout is not on disk yet", actor=self.path, reason=error.detail)
                    await trio.sleep(RETRY_S)
                else:
                    first.is_saved.set()
                    self._unsaved.popleft()
            self._has_unsaved = trio.Event()
            await self._has_unsaved.wait()


def _judged(message: Authenticate, known: _Recognized, *, is_welcome: bool) -> tuple[Outcome, str]:
    if not is_welcome and (message.is_upgrade or message.method not in SAFE_METHODS):
        return "forbidden", "web pages of that Origin may not do this; api_cors_allowed_origins names those that may"
    if known.principal is not None or not message.required:
        return "allowed", ""
    if known.locked_s:
        return "too_many", known.reason
    if message.is_upgrade and is_loopback_address(message.peer) and not is_loopback_host(message.host):
        return "forbidden", known.reason
    return "unauthenticated", known.reason
