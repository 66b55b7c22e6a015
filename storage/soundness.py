"""What the health engine asks about the database: does it take a write, how large is it, is it sound."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, delete, insert, text

from ..runtime.message import Done, Message
from .registry import command, query
from .tables import revoked_tokens, utc_now


class StorageReport(msgspec.Struct, frozen=True):
    """`problem` is None where nothing wrong was found."""

    database: str
    size_bytes: int
    problem: str | None


class CheckStorage(Message[StorageReport], to="store/reader"):
    """Measure the database and, if asked, read all of it in search of damage (about a second for 500 MB)."""

    thoroughly: bool = False


class ProbeStorage(Message[Done], to="store/writer"):
    """Write to the database, and leave nothing behind: the answer means that a write has come to the disk."""


_PROBE = "a probe, and no digest"
_PUT = insert(revoked_tokens).values(digest=_PROBE)
_TAKE = delete(revoked_tokens).where(revoked_tokens.c.digest == _PROBE)
_SIZE = {
    "sqlite": text("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"),
    "postgresql": text("SELECT pg_database_size(current_database())"),
}
_QUICK_CHECK = text("PRAGMA quick_check(1)")


@command
def probe_storage(connection: Connection, _message: ProbeStorage) -> Done:
    connection.execute(_PUT, {"expires_at": utc_now()})
    connection.execute(_TAKE)
    return Done()


@query
def check_storage(connection: Connection, message: CheckStorage) -> StorageReport:
    dialect = connection.dialect.name
    problem: str | None = None
    if message.thoroughly and dialect == "sqlite":  # PostgreSQL keeps its own house
        verdict: str = connection.execute(_QUICK_CHECK).scalar_one()
        problem = None if verdict == "ok" else verdict
    size: int = connection.execute(_SIZE[dialect]).scalar_one()
    return StorageReport(connection.engine.url.render_as_string(hide_password=True), size, problem)
