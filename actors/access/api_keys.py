"""API keys: made, shown once, rotated, revoked. The guard judges by them, the store keeps them."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import structlog

from ...runtime import Actor, Done, Message
from ...runtime.errors import InvalidInput
from ...storage.api_keys import (
    AddApiKey,
    AddedKey,
    ApiKey,
    EndApiKey,
    KeyPair,
    LoadApiKey,
    LoadApiKeys,
    ReplaceApiKey,
)
from .known_credentials import KEY_PREFIX, GetUnsavedUses, LearnCredentials, TakeNote
from .scopes import Scope, refuse_wider
from .session_tokens import digest

log = structlog.get_logger()

SHOWN = 12
"""Characters of a key that are kept and shown: enough to tell keys apart, and far from enough to guess one."""

Time = Annotated[datetime, msgspec.Meta(tz=True)]


class NewApiKey(msgspec.Struct, frozen=True):
    """`key` is not kept, so it is shown here only."""

    key: str
    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None


class CreateApiKey(Message[NewApiKey], to="access/keys"):
    """Make an API key, with no scope that its maker does not have.

    It is shown in this answer only. Without `expires_at` it lives until it is revoked.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    scopes: Annotated[list[Scope], msgspec.Meta(min_length=1, max_length=100)] = msgspec.field(
        default_factory=lambda: list[Scope](("chat", "sessions"))
    )
    expires_at: Time | None = None


class RotateApiKey(Message[NewApiKey], to="access/keys"):
    """Make a key of the same name, scopes and expiry, and revoke the old one at once."""

    key_id: str


class RevokeApiKey(Message[Done], to="access/keys"):
    """Revoke an API key: what comes with it is refused from now on."""

    key_id: str


class ListApiKeys(Message[list[ApiKey]], to="access/keys"):
    """List the API keys, the newest first, those that were revoked too; no key itself is shown."""


class ApiKeys(Actor):
    """Takes one message at a time, so that the guard hears of changes in the order in which the store has them."""

    async def on_start(self) -> None:
        if self.incarnation > 1:  # the one before may have died between a change in the store and telling the guard
            await self.tell(LearnCredentials())

    async def create(self, message: CreateApiKey) -> NewApiKey:
        if message.expires_at is not None and message.expires_at <= datetime.now(UTC):
            raise InvalidInput("expected a time in the future", field="expires_at")
        scopes = list(dict.fromkeys(message.scopes))
        refuse_wider(self.principal, scopes)
        key, pair = _new_key()
        by = self.principal.name
        command = AddApiKey(new=pair, name=message.name, scopes=[*scopes], expires_at=message.expires_at, created_by=by)
        made = await self._made(key, await self.ask(command))
        log.info("API key created", actor=self.path, key=made.id, scopes=made.scopes, by=by)
        return made

    async def rotate(self, message: RotateApiKey) -> NewApiKey:
        refuse_wider(self.principal, (await self.ask(LoadApiKey(key_id=message.key_id))).scopes)
        key, pair = _new_key()
        by = self.principal.name
        made = await self._made(key, await self.ask(ReplaceApiKey(key_id=message.key_id, new=pair, created_by=by)))
        log.info("API key rotated", actor=self.path, key=message.key_id, new_key=made.id, by=by)
        return made

    async def revoke(self, message: RevokeApiKey) -> Done:
        ended = await self.ask(EndApiKey(key_id=message.key_id))
        await self.ask(TakeNote(credentials=[ended]))
        log.info("API key revoked", actor=self.path, key=message.key_id, by=self.principal.name)
        return Done()

    async def list(self, message: ListApiKeys) -> list[ApiKey]:
        keys = await self.ask(LoadApiKeys())
        uses = await self.ask(GetUnsavedUses())
        return [msgspec.structs.replace(key, last_used_at=uses.get(key.id, key.last_used_at)) for key in keys]

    async def _made(self, key: str, added: AddedKey) -> NewApiKey:
        """In force from here on."""
        await self.ask(TakeNote(credentials=added.changed))
        kept = added.key
        return NewApiKey(key, kept.id, kept.name, kept.prefix, kept.scopes, kept.created_at, kept.expires_at)


def _new_key() -> tuple[str, KeyPair]:
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return key, KeyPair(secrets.token_hex(8), key[:SHOWN], digest(key))
