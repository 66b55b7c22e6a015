"""Credentials that are kept: API keys and OAuth2 access tokens, by their SHA-256."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import Connection, select

from ..runtime.message import Message
from .registry import query
from .tables import api_keys, oauth_grants, oauth_tokens


class Credential(msgspec.Struct, frozen=True):
    """`principal` is the name of whoever has it. None in `expires_at` is never."""

    digest: str
    kind: Literal["api_key", "oauth"]
    principal: str
    scopes: list[str]
    expires_at: datetime | None
    is_revoked: bool = False


class ListCredentials(Message[list[Credential]], to="store/reader"):
    """List every credential that is kept, those that have ended too: so they are told from guesses."""


_KEYS = select(api_keys.c.digest, api_keys.c.id, api_keys.c.scopes, api_keys.c.expires_at, api_keys.c.revoked_at)
ACCESS_TOKENS = (
    select(
        oauth_tokens.c.digest,
        oauth_grants.c.client_id,
        oauth_grants.c.scopes,
        oauth_tokens.c.expires_at,
        oauth_grants.c.revoked_at,
    )
    .join_from(oauth_tokens, oauth_grants)
    .where(oauth_tokens.c.kind == "access")
)


@query
def list_credentials(connection: Connection, _message: ListCredentials) -> list[Credential]:
    keys = [key_credential(*row) for row in connection.execute(_KEYS)]
    return [*keys, *(token_credential(*row) for row in connection.execute(ACCESS_TOKENS))]


def key_credential(
    digest: str, key_id: str, scopes: list[str], expires_at: datetime | None, revoked_at: datetime | None
) -> Credential:
    return Credential(digest, "api_key", f"key:{key_id}", scopes, expires_at, revoked_at is not None)


def token_credential(
    digest: str, client_id: str, scopes: list[str], expires_at: datetime, revoked_at: datetime | None
) -> Credential:
    return Credential(digest, "oauth", f"oauth:{client_id}", scopes, expires_at, revoked_at is not None)
