"""OAuth2 grants: the codes and tokens that a person's consent gave a program, each by its SHA-256.

What may be used once is used by the first attempt, in the transaction that answers it; a second one ends the grant
(https://www.rfc-editor.org/rfc/rfc9700, sections 2.1.1 and 2.2.2).
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from sqlalchemy import Connection, bindparam, delete, exists, insert, select, update

from ..runtime.errors import NotFound
from ..runtime.message import Done, Message
from .credentials import ACCESS_TOKENS, Credential, token_credential
from .registry import command, query
from .tables import AnyRow, oauth_grants, oauth_tokens, utc_now

KEPT = timedelta(days=1)
"""How long what has expired is kept, so that who still uses it is told so."""


class NewTokens(msgspec.Struct, frozen=True):
    """The digests of a pair of tokens that a program is about to be given."""

    access_digest: str
    access_expires_at: datetime
    refresh_digest: str
    refresh_expires_at: datetime


class Exchange(msgspec.Struct, frozen=True):
    """What came of an attempt to get tokens. If it was refused, `refusal` says why, and no new token is kept."""

    refusal: str = ""
    grant_id: str = ""
    scopes: list[str] = msgspec.field(default_factory=list[str])
    changed: list[Credential] = msgspec.field(default_factory=list[Credential])
    """The credentials that were added or, if something was used again, revoked."""
    is_reuse: bool = False


class EndedGrant(msgspec.Struct, frozen=True):
    """`client_id` is empty if there was no grant to end."""

    client_id: str
    changed: list[Credential]


class OAuthGrant(msgspec.Struct, frozen=True):
    """A program's access: what a person has allowed it, and until when it can renew that."""

    id: str
    client_id: str
    scopes: list[str]
    granted_by: str
    created_at: datetime
    expires_at: datetime


class AddOAuthGrant(Message[Done], to="store/writer"):
    """Keep a person's consent, with the code that the program is given for it."""

    grant_id: str
    client_id: str
    scopes: list[str]
    granted_by: str
    redirect_uri: str
    code_digest: str
    code_challenge: str
    code_expires_at: datetime


class RedeemCode(Message[Exchange], to="store/writer"):
    """Exchange a code for tokens. `code_challenge` is the one that the program's verifier gives."""

    code_digest: str
    client_id: str
    redirect_uri: str
    code_challenge: str
    tokens: NewTokens


class RotateTokens(Message[Exchange], to="store/writer"):
    """Exchange a refresh token for new tokens."""

    refresh_digest: str
    client_id: str
    tokens: NewTokens


class EndGrantOfToken(Message[EndedGrant], to="store/writer"):
    """End the grant that a token, of either kind, belongs to."""

    token_digest: str


class EndOAuthGrant(Message[EndedGrant], to="store/writer"):
    """End a grant."""

    grant_id: str


class LoadOAuthGrants(Message[list[OAuthGrant]], to="store/reader"):
    """List the grants in force, the newest first."""


_INSERT_GRANT = insert(oauth_grants)
_INSERT_TOKEN = insert(oauth_tokens)
_GRANT = select(oauth_grants)
_BY_CODE = _GRANT.where(oauth_grants.c.code_digest == bindparam("digest"))
_BY_ID = _GRANT.where(oauth_grants.c.id == bindparam("grant_id"))
_TOKEN = select(oauth_tokens).where(oauth_tokens.c.digest == bindparam("digest"))
_USE_CODE = update(oauth_grants).where(oauth_grants.c.id == bindparam("grant")).values(code_used_at=bindparam("now"))
_USE_TOKEN = update(oauth_tokens).where(oauth_tokens.c.digest == bindparam("used")).values(used_at=bindparam("now"))
_REVOKE = (
    update(oauth_grants)
    .where(oauth_grants.c.id == bindparam("grant"), oauth_grants.c.revoked_at.is_(None))
    .values(revoked_at=bindparam("now"))
)
_TOKENS_OF_GRANT = ACCESS_TOKENS.where(oauth_tokens.c.grant_id == bindparam("grant_id"))
_IN_FORCE = (
    select(oauth_grants, oauth_tokens.c.expires_at.label("renewable_until"))
    .join_from(oauth_grants, oauth_tokens)
    .where(
        oauth_grants.c.revoked_at.is_(None),
        oauth_tokens.c.kind == "refresh",
        oauth_tokens.c.used_at.is_(None),
        oauth_tokens.c.expires_at > bindparam("now"),
    )
    .order_by(oauth_grants.c.created_at.desc(), oauth_grants.c.id)
)
_DELETE_TOKENS = delete(oauth_tokens).where(oauth_tokens.c.expires_at <= bindparam("before"))
_DELETE_GRANTS = delete(oauth_grants).where(
    oauth_grants.c.code_expires_at <= bindparam("before"),
    ~exists().where(oauth_tokens.c.grant_id == oauth_grants.c.id),
)

_UNKNOWN = Exchange("it is not known, or has ended")


@command
def add_oauth_grant(connection: Connection, message: AddOAuthGrant) -> Done:
    _forget_old(connection)
    row = {**msgspec.structs.asdict(message), "id": message.grant_id, "created_at": utc_now()}
    del row["grant_id"]
    connection.execute(_INSERT_GRANT, row)
    return Done()


@command
def redeem_code(connection: Connection, message: RedeemCode) -> Exchange:
    grant = connection.execute(_BY_CODE, {"digest": message.code_digest}).first()
    if grant is None:
        return _UNKNOWN
    if grant.code_used_at is not None:
        return _end_for_reuse(connection, grant.id, "the code has been used before, so all that came of it is revoked")
    connection.execute(_USE_CODE, {"grant": grant.id, "now": utc_now()})
    if grant.revoked_at is not None or grant.code_expires_at <= utc_now():
        return Exchange("the code has expired: begin again", grant.id)
    if grant.client_id != message.client_id:
        return Exchange("the code was given to another client", grant.id)
    if grant.redirect_uri != message.redirect_uri:
        return Exchange("redirect_uri is not the one that the code was asked for with", grant.id)
    if grant.code_challenge != message.code_challenge:
        return Exchange("code_verifier is not what the code was asked for with", grant.id)
    return _issue(connection, grant, message.tokens)


@command
def rotate_tokens(connection: Connection, message: RotateTokens) -> Exchange:
    token = connection.execute(_TOKEN, {"digest": message.refresh_digest}).first()
    if token is None or token.kind != "refresh":
        return _UNKNOWN
    grant = connection.execute(_BY_ID, {"grant_id": token.grant_id}).one()
    if token.used_at is not None:
        return _end_for_reuse(connection, grant.id, "it has been used before, so the whole grant is revoked")
    if grant.revoked_at is not None:
        return Exchange("the grant has been revoked: ask for access again", grant.id)
    if grant.client_id != message.client_id:
        return Exchange("it was given to another client", grant.id)
    if token.expires_at <= utc_now():
        return Exchange("it has expired: ask for access again", grant.id)
    connection.execute(_USE_TOKEN, {"used": token.digest, "now": utc_now()})
    _forget_old(connection)
    return _issue(connection, grant, message.tokens)


@command
def end_grant_of_token(connection: Connection, message: EndGrantOfToken) -> EndedGrant:
    token = connection.execute(_TOKEN, {"digest": message.token_digest}).first()
    return EndedGrant("", []) if token is None else _end(connection, token.grant_id)


@command
def end_oauth_grant(connection: Connection, message: EndOAuthGrant) -> EndedGrant:
    return _end(connection, message.grant_id)


@query
def load_oauth_grants(connection: Connection, _message: LoadOAuthGrants) -> list[OAuthGrant]:
    return [
        OAuthGrant(row.id, row.client_id, row.scopes, row.granted_by, row.created_at, row.renewable_until)
        for row in connection.execute(_IN_FORCE, {"now": utc_now()})
    ]


def _issue(connection: Connection, grant: AnyRow, tokens: NewTokens) -> Exchange:
    access, refresh = tokens.access_digest, tokens.refresh_digest
    rows = (access, "access", tokens.access_expires_at), (refresh, "refresh", tokens.refresh_expires_at)
    connection.execute(
        _INSERT_TOKEN,
        [
            {"digest": digest, "grant_id": grant.id, "kind": kind, "expires_at": expires_at}
            for digest, kind, expires_at in rows
        ],
    )
    issued = token_credential(access, grant.client_id, grant.scopes, tokens.access_expires_at, None)
    return Exchange("", grant.id, grant.scopes, [issued])


def _end_for_reuse(connection: Connection, grant_id: str, refusal: str) -> Exchange:
    return Exchange(refusal, grant_id, changed=_end(connection, grant_id).changed, is_reuse=True)


def _end(connection: Connection, grant_id: str) -> EndedGrant:
    """Revoke a grant; a second time is no error."""
    connection.execute(_REVOKE, {"grant": grant_id, "now": utc_now()})
    grant = connection.execute(_BY_ID, {"grant_id": grant_id}).first()
    if grant is None:
        raise NotFound(f"there is no grant {grant_id!r}", grant_id=grant_id)
    rows = connection.execute(_TOKENS_OF_GRANT, {"grant_id": grant_id})
    return EndedGrant(grant.client_id, [token_credential(*row) for row in rows])


def _forget_old(connection: Connection) -> None:
    before = {"before": utc_now() - KEPT}
    connection.execute(_DELETE_TOKENS, before)
    connection.execute(_DELETE_GRANTS, before)
