"""What another PocketPaw's home held, put where it belongs here.

Invariant: what is here is never changed, and what was taken once is not taken again: each thing keeps the name that it
had there, or is known by its words. With `dry_run` nothing is kept, and the answer is the same, but that what stands
there twice is told twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import Connection, bindparam, insert, or_, select, update

from ..runtime.message import Message
from .api_keys import AddApiKey, AddedKey, KeyPair, add_api_key
from .memories import AddMemory, Content, Tags, add_memory
from .registry import command
from .sessions import SessionId
from .tables import JsonObject, api_keys, memories, messages, sessions

IMPORTED_ID = "imported_id"
"""In a message's metadata, its id in the home that it came from."""

Outcome = Literal["taken", "known", "changed"]
"""`changed` is a session that has gone on here, so that what was said there since has no place in it."""


class ImportedMessage(msgspec.Struct, frozen=True):
    id: str
    role: Literal["user", "assistant", "system"]
    content: str
    created_at: datetime


class ImportMessages(Message[Outcome], to="store/writer"):
    """Put what was said in a session behind what of it is here, making the session if there is none of that id."""

    session_id: SessionId
    title: str | None
    channel: str
    messages: list[ImportedMessage]
    dry_run: bool


class ImportMemory(Message[Outcome], to="store/writer"):
    """Keep a memory with the time when it was made, unless one that says the same is here."""

    content: Content
    tags: Tags
    created_at: datetime
    dry_run: bool


class ImportApiKey(Message[AddedKey | None], to="store/writer"):
    """Keep an API key that others have, of which only the SHA-256 is known; None if it is here."""

    key: KeyPair
    name: str
    scopes: list[str]
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    created_by: str
    dry_run: bool


_SESSION = select(sessions.c.id).where(sessions.c.id == bindparam("session_id"))
_METADATA = select(messages.c.metadata).where(messages.c.session_id == bindparam("session_id"))
_ADD_SESSION = insert(sessions)
_ADD_MESSAGES = insert(messages)
_COUNT = (
    update(sessions)
    .where(sessions.c.id == bindparam("of_session"))
    .values(
        message_count=sessions.c.message_count + bindparam("added"),
        last_activity=bindparam("latest"),
        updated_at=bindparam("latest"),
    )
)
_MADE_THEN = (
    update(memories)
    .where(memories.c.id == bindparam("memory_id"))
    .values(created_at=bindparam("then"), updated_at=bindparam("then"))
)
_KNOWN_KEY = select(api_keys.c.id).where(
    or_(api_keys.c.id == bindparam("key_id"), api_keys.c.digest == bindparam("sha"))
)
_KEY_THEN = (
    update(api_keys)
    .where(api_keys.c.id == bindparam("key_id"))
    .values(created_at=bindparam("then"), last_used_at=bindparam("used"))
)


@command
def import_messages(connection: Connection, message: ImportMessages) -> Outcome:
    here = {"session_id": message.session_id}
    said: list[JsonObject] = [row[0] or {} for row in connection.execute(_METADATA, here)]
    taken = {metadata.get(IMPORTED_ID) for metadata in said}
    new = [one for one in message.messages if one.id not in taken]
    is_here = connection.execute(_SESSION, here).first() is not None
    if is_here and not new:
        return "known"
    if None in taken:
        return "changed"
    if not message.dry_run:
        _add_messages(connection, message, new, is_here=is_here)
    return "taken"


@command
def import_memory(connection: Connection, message: ImportMemory) -> Outcome:
    with connection.begin_nested() as attempt:
        # By its own rules for what says the same; but what is here stays as it is.
        added = add_memory(connection, AddMemory(content=message.content, tags=message.tags))
        if not added.is_new or message.dry_run:
            attempt.rollback()
        else:
            connection.execute(_MADE_THEN, {"memory_id": int(added.memory.id), "then": message.created_at})
    return "taken" if added.is_new else "known"


@command
def import_api_key(connection: Connection, message: ImportApiKey) -> AddedKey | None:
    key = message.key
    if connection.execute(_KNOWN_KEY, {"key_id": key.id, "sha": key.digest}).first() is not None:
        return None
    with connection.begin_nested() as attempt:
        new = AddApiKey(
            new=key,
            name=message.name,
            scopes=message.scopes,
            expires_at=message.expires_at,
            created_by=message.created_by,
        )
        added = add_api_key(connection, new)
        then = {"key_id": key.id, "then": message.created_at, "used": message.last_used_at}
        connection.execute(_KEY_THEN, then)
        if message.dry_run:
            attempt.rollback()
    return added


def _add_messages(
    connection: Connection, message: ImportMessages, new: list[ImportedMessage], *, is_here: bool
) -> None:
    latest = new[-1].created_at
    if not is_here:
        session = {
            "id": message.session_id,
            "title": message.title,
            "channel": message.channel,
            "created_at": new[0].created_at,
            "updated_at": latest,
            "last_activity": latest,
            "message_count": 0,
        }
        connection.execute(_ADD_SESSION, session)
    rows = [
        {
            "session_id": message.session_id,
            "role": one.role,
            "content": one.content,
            "created_at": one.created_at,
            "metadata": {IMPORTED_ID: one.id},
        }
        for one in new
    ]
    connection.execute(_ADD_MESSAGES, rows)
    connection.execute(_COUNT, {"of_session": message.session_id, "added": len(new), "latest": latest})
