"""Revoked session tokens, by digest, until they would have expired anyway."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select

from ..runtime.message import Done, Message
from .registry import command, query
from .tables import revoked_tokens, utc_now


class RevokedToken(msgspec.Struct, frozen=True):
    digest: str
    expires_at: datetime


class RevokeToken(Message[Done], to="store/writer"):
    """Remember a token's digest as revoked; a second time is no error."""

    digest: str
    expires_at: datetime


class ListRevokedTokens(Message[list[RevokedToken]], to="store/reader"):
    """List the revoked tokens that have not expired."""


_INSERT = insert(revoked_tokens)
_SELECT_ONE = select(revoked_tokens.c.digest).where(revoked_tokens.c.digest == bindparam("digest"))
_SELECT = select(revoked_tokens.c.digest, revoked_tokens.c.expires_at).where(
    revoked_tokens.c.expires_at > bindparam("now")
)
_DELETE_EXPIRED = delete(revoked_tokens).where(revoked_tokens.c.expires_at <= bindparam("now"))


@command
def revoke_token(connection: Connection, message: RevokeToken) -> Done:
    connection.execute(_DELETE_EXPIRED, {"now": utc_now()})
    if connection.execute(_SELECT_ONE, {"digest": message.digest}).first() is None:
        connection.execute(_INSERT, {"digest": message.digest, "expires_at": message.expires_at})
    return Done()


@query
def list_revoked_tokens(connection: Connection, _message: ListRevokedTokens) -> list[RevokedToken]:
    rows = connection.execute(_SELECT, {"now": utc_now()})
    return [RevokedToken(digest, expires_at) for digest, expires_at in rows]
