"""API keys: what is known of each but the key itself, of which only the SHA-256 is kept."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import Connection, bindparam, insert, or_, select, update

from ..runtime.errors import Conflict, NotFound
from ..runtime.message import Done, Message
from .credentials import Credential, key_credential
from .registry import command, query, recurring_query
from .tables import AnyRow, api_keys, utc_now


class ApiKey(msgspec.Struct, frozen=True):
    """`prefix` is the key's beginning. None in `expires_at` is never."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked: bool


class KeyPair(msgspec.Struct, frozen=True):
    """What tells a new key from all others."""

    id: str
    prefix: str
    digest: str


class AddedKey(msgspec.Struct, frozen=True):
    """A new key, and the credentials that have changed with it."""

    key: ApiKey
    changed: list[Credential]


class AddApiKey(Message[AddedKey], to="store/writer"):
    """Keep a new key."""

    new: KeyPair
    name: str
    scopes: list[str]
    expires_at: datetime | None
    created_by: str


class ReplaceApiKey(Message[AddedKey], to="store/writer"):
    """Revoke a key and keep a new one of the same name, scopes and expiry, in one."""

    key_id: str
    new: KeyPair
    created_by: str


class EndApiKey(Message[Credential], to="store/writer"):
    """Revoke a key; a second time is no error."""

    key_id: str


class LoadApiKeys(Message[list[ApiKey]], to="store/reader"):
    """List the keys, the newest first, revoked and expired ones too."""


class LoadApiKey(Message[ApiKey], to="store/reader"):
    """Look one key up."""

    key_id: str


class MarkApiKeysUsed(Message[Done], to="store/writer"):
    """Remember when keys were last used, by id."""

    uses: dict[str, datetime]


_KEYS = select(
    api_keys.c.id,
    api_keys.c.name,
    api_keys.c.prefix,
    api_keys.c.scopes,
    api_keys.c.created_at,
    api_keys.c.last_used_at,
    api_keys.c.expires_at,
    api_keys.c.revoked_at,
    api_keys.c.digest,
)
_NEWEST = _KEYS.order_by(api_keys.c.created_at.desc(), api_keys.c.id)
_ONE = _KEYS.where(api_keys.c.id == bindparam("key_id"))
_INSERT = insert(api_keys)
_REVOKE = (
    update(api_keys)
    .where(api_keys.c.id == bindparam("key_id"), api_keys.c.revoked_at.is_(None))
    .values(revoked_at=bindparam("now"))
)
_USE = (
    update(api_keys)
    .where(
        api_keys.c.id == bindparam("used"),
        or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < bindparam("at")),
    )
    .values(last_used_at=bindparam("at"))
)


@command
def add_api_key(connection: Connection, message: AddApiKey) -> AddedKey:
    return _add(connection, message.new, message.name, message.scopes, message.expires_at, message.created_by)


@command
def replace_api_key(connection: Connection, message: ReplaceApiKey) -> AddedKey:
    old = _read(_row(connection, message.key_id))
    if old.revoked:
        raise Conflict(f"the API key {message.key_id!r} has been revoked: create a new one", key_id=message.key_id)
    if old.expires_at is not None and old.expires_at <= utc_now():
        raise Conflict(f"the API key {message.key_id!r} has expired: create a new one", key_id=message.key_id)
    ended = _revoke(connection, message.key_id)
    added = _add(connection, message.new, old.name, old.scopes, old.expires_at, message.created_by)
    return AddedKey(added.key, [ended, *added.changed])


@command
def end_api_key(connection: Connection, message: EndApiKey) -> Credential:
    return _revoke(connection, message.key_id)


@recurring_query
def load_api_keys(connection: Connection, _message: LoadApiKeys) -> list[ApiKey]:
    return [_read(row) for row in connection.execute(_NEWEST)]


@query
def load_api_key(connection: Connection, message: LoadApiKey) -> ApiKey:
    return _read(_row(connection, message.key_id))


@command
def mark_api_keys_used(connection: Connection, message: MarkApiKeysUsed) -> Done:
    if message.uses:
        connection.execute(_USE, [{"used": key_id, "at": at} for key_id, at in message.uses.items()])
    return Done()


def _add(
    connection: Connection, new: KeyPair, name: str, scopes: list[str], expires_at: datetime | None, created_by: str
) -> AddedKey:
    row = {
        **msgspec.structs.asdict(new),
        "name": name,
        "scopes": scopes,
        "created_by": created_by,
        "created_at": utc_now(),
        "expires_at": expires_at,
    }
    connection.execute(_INSERT, row)
    credential = key_credential(new.digest, new.id, scopes, expires_at, None)
    return AddedKey(_read(_row(connection, new.id)), [credential])


def _revoke(connection: Connection, key_id: str) -> Credential:
    connection.execute(_REVOKE, {"key_id": key_id, "now": utc_now()})
    row = _row(connection, key_id)
    return key_credential(row.digest, row.id, row.scopes, row.expires_at, row.revoked_at)


def _row(connection: Connection, key_id: str) -> AnyRow:
    row = connection.execute(_ONE, {"key_id": key_id}).first()
    if row is None:
        raise NotFound(f"there is no API key {key_id!r}", key_id=key_id)
    return row


def _read(row: AnyRow) -> ApiKey:
    key_id, name, prefix, scopes, created_at, last_used_at, expires_at, revoked_at, _ = row
    return ApiKey(key_id, name, prefix, scopes, created_at, last_used_at, expires_at, revoked_at is not None)
