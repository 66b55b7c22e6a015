"""What of the audit has gone into a file: the chain goes on from the hash with which the latest archive ends."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, select

from ..runtime.errors import Conflict
from ..runtime.message import Done, Message
from .audit import AuditHead, extent, hash_of
from .registry import command, query
from .tables import audit, audit_archives, utc_now

DROPPED_AT_ONCE = 2_000
"""So that the other commands need not wait for long."""


class AuditArchive(msgspec.Struct, frozen=True):
    """A file with the entries `first_id` to `last_id`, the last with `last_hash`; `digest` is the file's SHA-256."""

    first_id: int
    last_id: int
    last_hash: str
    file: str
    digest: str
    created_at: datetime


class ArchiveAudit(Message[Done], to="store/writer"):
    """Take note that the chain up to `head` is in a file, which is on disk; from now on it is no part of the audit."""

    head: AuditHead
    file: str
    digest: str


class DropArchived(Message[bool], to="store/writer"):
    """Delete some of the entries that are in an archive; answers whether there are more."""


class ListAuditArchives(Message[list[AuditArchive]], to="store/reader"):
    """List the archives, the oldest first."""


_LIST = select(
    audit_archives.c.first_id,
    audit_archives.c.last_id,
    audit_archives.c.last_hash,
    audit_archives.c.file,
    audit_archives.c.digest,
    audit_archives.c.created_at,
).order_by(audit_archives.c.last_id)
_INSERT = insert(audit_archives)
_FIRST = select(func.min(audit.c.id))
_DROP = delete(audit).where(audit.c.id <= bindparam("up_to"))


@command
def archive_audit(connection: Connection, message: ArchiveAudit) -> Done:
    base, head = extent(connection).base, message.head
    if head.id <= base.id or hash_of(connection, head.id) != head.hash:
        raise Conflict(f"the audit has no entry {head.id} that could be archived")
    row = {
        "first_id": base.id + 1,
        "last_id": head.id,
        "last_hash": head.hash,
        "file": message.file,
        "digest": message.digest,
        "created_at": utc_now(),
    }
    connection.execute(_INSERT, row)
    return Done()


@command
def drop_archived(connection: Connection, _message: DropArchived) -> bool:
    first: int | None = connection.execute(_FIRST).scalar()
    base = extent(connection).base
    if first is None or first > base.id:
        return False
    up_to = min(base.id, first + DROPPED_AT_ONCE - 1)
    connection.execute(_DROP, {"up_to": up_to})
    return up_to < base.id


@query
def list_audit_archives(connection: Connection, _message: ListAuditArchives) -> list[AuditArchive]:
    return [AuditArchive(*row) for row in connection.execute(_LIST)]
