"""OAuth2 for programs that cannot keep a secret: authorization code with PKCE, refresh tokens that rotate.

https://www.rfc-editor.org/rfc/rfc6749, rfc7636 (PKCE, S256 only), rfc7009 (revocation), rfc8252 (native programs),
rfc9207 (issuer), and rfc9700 for what to refuse.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec
import structlog

from ...runtime import Actor, Done, Message
from ...runtime.errors import BadRequest, Forbidden
from ...storage.oauth import (
    AddOAuthGrant,
    EndedGrant,
    EndGrantOfToken,
    EndOAuthGrant,
    Exchange,
    LoadOAuthGrants,
    NewTokens,
    OAuthGrant,
    RedeemCode,
    RotateTokens,
)
from ..settings import LiveSettings
from . import consent_tickets
from .known_credentials import ACCESS_PREFIX, REFRESH_PREFIX, LearnCredentials, TakeNote, is_derived
from .oauth_clients import check_redirect, redirects_of
from .scopes import SCOPES, refuse_wider
from .session_tokens import digest

log = structlog.get_logger()

CODE_LIFETIME = timedelta(seconds=60)
ACCESS_LIFETIME = timedelta(hours=1)
REFRESH_LIFETIME = timedelta(days=30)

VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
"""https://www.rfc-editor.org/rfc/rfc7636#section-4.1"""

Refusal = Literal["invalid_request", "invalid_client", "invalid_grant", "unsupported_grant_type"]
"""https://www.rfc-editor.org/rfc/rfc6749#section-5.2"""

ClientId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
RedirectUri = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
Challenge = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._~-]{1,128}$")]
Text = Annotated[str, msgspec.Meta(max_length=2000)]


class TokenRefused(BadRequest):
    """`error` is OAuth2's own code for the failure."""

    code = "token_refused"


class Wish(msgspec.Struct, frozen=True):
    """What a program asks for, and where the answer goes."""

    client_id: ClientId
    redirect_uri: RedirectUri
    code_challenge: Challenge
    code_challenge_method: Text = "S256"
    scope: Text = "chat sessions"
    state: Text | None = None
    response_type: Text = "code"


class ConsentForm(msgspec.Struct, frozen=True):
    """What a person is to decide on."""

    scopes: list[str]
    ticket: str


class PrepareConsent(Message[ConsentForm], to="access/oauth"):
    """Check what a program asks for before a person is asked."""

    wish: Wish
    credential: str | None
    """What the request carries: the decision has to come with the same."""


class Decision(msgspec.Struct, frozen=True):
    """`code` is for the program; None if the person said no."""

    code: str | None


class DecideConsent(Message[Decision], to="access/oauth"):
    """Take a person's decision."""

    wish: Wish
    credential: str | None
    ticket: Text
    is_allowed: bool


class Tokens(msgspec.Struct, frozen=True):
    """https://www.rfc-editor.org/rfc/rfc6749#section-5.1"""

    access_token: str
    refresh_token: str
    token_type: str
    expires_in: int
    scope: str


class GetTokens(Message[Tokens], to="access/oauth"):
    """Exchange a code, or a refresh token, for new tokens.

    A code or a refresh token works once; a second use ends all that came of it.
    """

    grant_type: Text | None = None
    """`authorization_code` or `refresh_token`."""
    client_id: Text | None = None
    code: Text | None = None
    code_verifier: Text | None = None
    redirect_uri: Text | None = None
    refresh_token: Text | None = None


class RevokeOAuthToken(Message[Done], to="access/oauth"):
    """End the grant that a token belongs to, with all of its tokens; an unknown token is no error."""

    token: Text


class ListOAuthGrants(Message[list[OAuthGrant]], to="access/oauth"):
    """List the programs that have access by OAuth2, and to what."""


class RevokeOAuthGrant(Message[Done], to="access/oauth"):
    """Take a program's access back: its tokens are refused from now on."""

    grant_id: str


class OAuth(Actor):
    """Takes one message at a time, so that the guard hears of changes in the order in which the store has them."""

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live

    async def on_start(self) -> None:
        if self.incarnation > 1:  # the one before may have died between a change in the store and telling the guard
            await self.tell(LearnCredentials())

    async def prepare_consent(self, message: PrepareConsent) -> ConsentForm:
        scopes = self._checked(message.wish)
        ticket = consent_tickets.make(
            self._live.access_token, self._shown(message.wish, message.credential), time.time()
        )
        return ConsentForm(scopes, ticket)

    async def decide_consent(self, message: DecideConsent) -> Decision:
        wish, by = message.wish, self.principal.name
        scopes = self._checked(wish)
        shown = self._shown(wish, message.credential)
        if not consent_tickets.is_valid(self._live.access_token, message.ticket, shown, time.time()):
            raise Forbidden("this does not come from a consent page that you were shown lately: begin again")
        if not message.is_allowed:
            log.info("OAuth consent denied", actor=self.path, client=wish.client_id, by=by)
            return Decision(None)
        code = secrets.token_urlsafe(32)
        await self.ask(
            AddOAuthGrant(
                grant_id=secrets.token_hex(8),
                client_id=wish.client_id,
                scopes=scopes,
                granted_by=by,
                redirect_uri=wish.redirect_uri,
                code_digest=digest(code),
                code_challenge=wish.code_challenge,
                code_expires_at=datetime.now(UTC) + CODE_LIFETIME,
            )
        )
        log.info("OAuth consent given", actor=self.path, client=wish.client_id, scopes=scopes, by=by)
        return Decision(code)

    def _checked(self, wish: Wish) -> list[str]:
        """See that a wish may be put to whoever asks; returns its scopes."""
        check_redirect(self._live.current.oauth_clients, wish.client_id, wish.redirect_uri)
        if wish.response_type != "code":
            raise BadRequest(f"response_type: expected code, got {wish.response_type}")
        if wish.code_challenge_method != "S256":
            raise BadRequest(f"code_challenge_method: expected S256, got {wish.code_challenge_method}")
        scopes = list(dict.fromkeys(wish.scope.split()))
        if not scopes or not set(scopes) <= set(SCOPES):
            raise BadRequest(f"scope: expected some of {' '.join(SCOPES)}, got {wish.scope!r}")
        if is_derived(self.principal):
            raise Forbidden("only a person gives access, not an API key or another program")
        refuse_wider(self.principal, scopes)
        return scopes

    def _shown(self, wish: Wish, credential: str | None) -> list[str | None]:
        return [self.principal.name, digest(credential or ""), *msgspec.structs.astuple(wish)]

    async def get_tokens(self, message: GetTokens) -> Tokens:
        client_id = message.client_id
        if not client_id:
            raise _refused("invalid_request", "client_id is missing")
        if not redirects_of(self._live.current.oauth_clients, client_id):
            raise _refused("invalid_client", f"there is no OAuth client {client_id!r}")
        access, refresh = ACCESS_PREFIX + secrets.token_urlsafe(32), REFRESH_PREFIX + secrets.token_urlsafe(32)
        now = datetime.now(UTC)
        new = NewTokens(digest(access), now + ACCESS_LIFETIME, digest(refresh), now + REFRESH_LIFETIME)
        exchange = await self.ask(_exchange(message, client_id, new))
        await self._tell_guard(exchange, client_id)
        if exchange.refusal:
            raise _refused("invalid_grant", exchange.refusal)
        log.info("OAuth tokens issued", actor=self.path, client=client_id, grant=exchange.grant_id)
        scope = " ".join(exchange.scopes)
        return Tokens(access, refresh, "Bearer", int(ACCESS_LIFETIME.total_seconds()), scope)

    async def _tell_guard(self, exchange: Exchange, client_id: str) -> None:
        if exchange.changed:
            await self.ask(TakeNote(credentials=exchange.changed))
        if exchange.is_reuse:
            log.warning("OAuth grant revoked for a reuse", actor=self.path, client=client_id, grant=exchange.grant_id)
        elif exchange.refusal:
            log.warning("OAuth tokens refused", actor=self.path, client=client_id, reason=exchange.refusal)

    async def revoke_token(self, message: RevokeOAuthToken) -> Done:
        ended = await self.ask(EndGrantOfToken(token_digest=digest(message.token)))
        return await self._ended(ended) if ended.client_id else Done()

    async def list_grants(self, message: ListOAuthGrants) -> list[OAuthGrant]:
        return await self.ask(LoadOAuthGrants())

    async def revoke_grant(self, message: RevokeOAuthGrant) -> Done:
        return await self._ended(await self.ask(EndOAuthGrant(grant_id=message.grant_id)))

    async def _ended(self, ended: EndedGrant) -> Done:
        await self.ask(TakeNote(credentials=ended.changed))
        log.info("OAuth grant revoked", actor=self.path, client=ended.client_id, by=self.principal.name)
        return Done()


def _exchange(message: GetTokens, client_id: str, new: NewTokens) -> RedeemCode | RotateTokens:
    """The attempt that a request for tokens means.

    Raises:
        TokenRefused: it is none.
    """
    if message.grant_type == "authorization_code":
        verifier = _present("code_verifier", message.code_verifier)
        if not VERIFIER.fullmatch(verifier):
            raise _refused("invalid_request", "code_verifier: expected 43 to 128 letters, digits and -._~")
        return RedeemCode(
            code_digest=digest(_present("code", message.code)),
            client_id=client_id,
            redirect_uri=_present("redirect_uri", message.redirect_uri),
            code_challenge=challenge_of(verifier),
            tokens=new,
        )
    if message.grant_type == "refresh_token":
        refresh_digest = digest(_present("refresh_token", message.refresh_token))
        return RotateTokens(refresh_digest=refresh_digest, client_id=client_id, tokens=new)
    expected = "grant_type: expected authorization_code or refresh_token"
    raise _refused("unsupported_grant_type" if message.grant_type else "invalid_request", expected)


def challenge_of(verifier: str) -> str:
    """https://www.rfc-editor.org/rfc/rfc7636#section-4.2"""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest()).rstrip(b"=").decode("ascii")


def _present(name: str, value: str | None) -> str:
    if not value:
        raise _refused("invalid_request", f"{name} is missing")
    return value


def _refused(error: Refusal, detail: str) -> TokenRefused:
    return TokenRefused(detail, error=error)
