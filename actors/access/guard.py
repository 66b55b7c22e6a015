"""The guard: who is asking, may they, and how often."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import msgspec
import structlog

from ...runtime import Actor, Done, Message, Principal
from ...runtime.errors import Forbidden, PocketPawError, Unauthenticated
from ..audit.trail import RecordAct
from ..settings import LiveSettings
from .guard_records import Records
from .known_credentials import (
    ENDED_TOPIC,
    GetUnsavedUses,
    LearnCredentials,
    TakeNote,
    is_derived,
    looks_kept,
)
from .known_credentials import State as KeptState
from .locality import is_loopback_address, is_loopback_host, is_welcome_origin, network_of
from .login_codes import LoginCodes
from .rate_limits import Limit, TokenBuckets
from .session_tokens import State, digest, is_same

log = structlog.get_logger()

Bucket = Literal["api", "auth", "ws", "webhook"]
CredentialKind = Literal["none", "master", "session", "localhost", "api_key", "oauth"]
Outcome = Literal["allowed", "unauthenticated", "forbidden", "too_many"]


class Verdict(msgspec.Struct, frozen=True):
    """What became of a request. `principal` is set if `outcome` is `allowed` and somebody was recognized."""

    outcome: Outcome
    reason: str
    """A sentence for whoever was turned away; empty if allowed."""
    principal: Principal | None
    credential_kind: CredentialKind
    credential: str
    """What tells the credential from others; see `CredentialsEnded`. Empty if there is none."""
    judged_after: int
    """The number of the last event of `ENDED_TOPIC` before this: what ends later, it does not know of."""
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


class LoginCode(msgspec.Struct, frozen=True):
    """Logs one browser in, within a minute."""

    code: str


class CreateLoginCode(Message[LoginCode], to="guard"):
    """Make a code for another device. The session that it begins ends no later than the one that asks for it."""

    credential: str | None = None
    """What the request that asks for it carries."""


class LoginWithCode(Message[SessionToken], to="guard"):
    """Exchange a code for a session token; it works once."""

    code: str


class Logout(Message[Done], to="guard"):
    """Revoke a session token; any other credential is left as it is."""

    credential: str | None


class GetAccessProblems(Message[list[str]], to="guard"):
    """What of the credentials is not known, or not on disk."""


LIMITS: dict[Bucket, tuple[str, float]] = {
    "api": ("api_rate_limit_per_key", 60 / 600),
    "auth": ("auth_rate_limit_per_peer", 5 / 12),
    "ws": ("ws_rate_limit_per_peer", 10 / 60),
    "webhook": ("api_rate_limit_per_key", 60 / 600),
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

KEPT_REASONS: dict[KeptState, str] = {
    "unknown": "the credential is not known",
    "expired": "the credential has expired",
    "revoked": "the credential has been revoked",
    "unsure": "API keys and OAuth tokens cannot be looked up now: use the access token",
}

SUBPROTOCOLS_TRIED = 4
ACCEPTED_KEPT = 1000


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


class Guard(Actor):
    """Judges every request, so it answers from memory and never waits."""

    has_tasks = True

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live
        self._records = Records(self)
        self._login_codes = LoginCodes()
        self._buckets: dict[Bucket, TokenBuckets] = {bucket: TokenBuckets() for bucket in LIMITS}
        self._guesses = TokenBuckets()
        self._accepted: dict[str, None] = {}
        """Digests of credentials that were right, longest unused first: they pass, whatever else their peer tries."""

    async def on_start(self) -> None:
        await self._records.open()

    async def on_stop(self) -> None:
        await self._records.close()

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
            credential=known.key if is_allowed else "",
            judged_after=self.system.bus.last_seq(ENDED_TOPIC),
            subprotocol=message.subprotocols[0] if message.subprotocols else None,
            limit=limit.burst,
            remaining=count.remaining,
            reset_s=count.reset_s,
            retry_after_s=max(count.retry_after_s, known.locked_s) if outcome == "too_many" else 0,
        )

    def _recognize(self, message: Authenticate, peer: str, now: float, *, is_welcome: bool) -> _Recognized:
        """Look at the credentials, the most deliberate first; with none, at where the request comes from."""
        if message.bucket == "webhook":
            return _Recognized()  # a webhook has a secret of its own; what else its caller sends is not meant for us
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
                self._tell_guess(peer)
        return found

    def _tell_guess(self, peer: str) -> None:
        act = RecordAct(
            action="use_credential",
            category="auth",
            description="Somebody showed a credential that is none of ours.",
            context={"peer": peer},
            status="refused",
        )
        try:
            self.try_tell(act)
        except PocketPawError as error:  # no request waits for the audit
            log.warning("a wrong credential is not in the audit", actor=self.path, peer=peer, reason=error.detail)

    def _look_up(self, credential: str) -> _Recognized:
        if is_same(credential, self._live.access_token):
            return _Recognized(MASTER, "master", "master")
        return self._kept(credential) if looks_kept(credential) else self._session(credential)

    def _kept(self, token: str) -> _Recognized:
        key, now = digest(token), datetime.now(UTC)
        state, credential = self._records.known.find(key, now)
        if credential is None or state != "valid":
            return _Recognized(reason=KEPT_REASONS[state], is_guess=state == "unknown")
        self._records.known.note_use(credential, now)
        return _Recognized(Principal(credential.principal, frozenset(credential.scopes)), credential.kind, key)

    def _session(self, token: str) -> _Recognized:
        state = self._records.tokens.state(self._live.access_token, token, time.time())
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
        if self.principal == SESSION or is_derived(self.principal):
            raise Forbidden("only the access token makes a session token")
        log.info("session token created", actor=self.path, by=self.principal.name)
        return self._make(self._session_end())

    async def login(self, message: Login) -> SessionToken:
        if not is_same(message.token, self._live.access_token):
            log.warning("login refused", actor=self.path)
            raise Unauthenticated("that is not the access token")
        log.info("logged in", actor=self.path)
        return self._make(self._session_end())

    async def create_login_code(self, message: CreateLoginCode) -> LoginCode:
        if is_derived(self.principal):
            raise Forbidden("an API key or an OAuth token logs nobody in: use the access token")
        live, ends_at = self._live, self._session_end()
        if self.principal == SESSION:
            parent = self._records.tokens.ends_at(live.access_token, message.credential or "")
            if parent is None:
                raise Forbidden("the session that asks could not be found: use the access token")
            ends_at = min(ends_at, parent)
        log.info("login code created", actor=self.path, by=self.principal.name)
        return LoginCode(self._login_codes.make(live.access_token, ends_at, time.time()))

    async def login_with_code(self, message: LoginWithCode) -> SessionToken:
        ends_at = self._login_codes.redeem(message.code, self._live.access_token, time.time())
        if ends_at is None:
            log.warning("login with a code refused", actor=self.path)
            raise Unauthenticated("the code is not known, was used, or is older than a minute: make a new one")
        log.info("logged in with a code", actor=self.path)
        return self._make(ends_at)

    async def take_note(self, message: TakeNote) -> Done:
        self._records.take_note(message.credentials)
        return Done()

    async def learn_credentials(self, message: LearnCredentials) -> Done:
        self._records.learn_again()
        return Done()

    async def get_unsaved_uses(self, message: GetUnsavedUses) -> dict[str, datetime]:
        return dict(self._records.known.unsaved_uses)

    async def get_access_problems(self, message: GetAccessProblems) -> list[str]:
        return self._records.problems()

    async def logout(self, message: Logout) -> Done:
        credential = message.credential or ""
        revoked = self._records.tokens.revoke(self._live.access_token, credential, time.time())
        if revoked is not None:
            await self._records.end_session(revoked)
        return Done()

    def _session_end(self) -> float:
        return time.time() + self._live.current.session_token_ttl_hours * 3600

    def _make(self, ends_at: float) -> SessionToken:
        now = time.time()
        left_s = ends_at - now
        token = self._records.tokens.make(self._live.access_token, left_s, now)
        return SessionToken(token, math.ceil(left_s / 3600))


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
