"""What the health engine asks about the database: its size, and whether it is sound."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, text

from ..runtime.message import Message
from .registry import query


class StorageReport(msgspec.Struct, frozen=True):
    """`problem` is None where nothing wrong was found."""

    database: str
    size_bytes: int
    problem: str | None


class CheckStorage(Message[StorageReport], to="store/reader"):
    """Measure the database and, if asked, read all of it in search of damage (about a second for 500 MB)."""

    thoroughly: bool = False


_SIZE = {
    "sqlite": text("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"),
    "postgresql": text("SELECT pg_database_size(current_database())"),
}
_QUICK_CHECK = text("PRAGMA quick_check(1)")


@query
def check_storage(connection: Connection, message: CheckStorage) -> StorageReport:
    dialect = connection.dialect.name
    problem: str | None = None
    if message.thoroughly and dialect == "sqlite":  # PostgreSQL keeps its own house
        verdict: str = connection.execute(_QUICK_CHECK).scalar_one()
        problem = None if verdict == "ok" else verdict
    size: int = connection.execute(_SIZE[dialect]).scalar_one()
    return StorageReport(connection.engine.url.render_as_string(hide_password=True), size, problem)
