"""One daemon to a database: two homes that name the same one would each finish the other's turns.

A lock ends with its process, however that ends; on PostgreSQL with its connection, so also when the server restarts.
"""

from __future__ import annotations

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, text

from ..runtime.errors import NeedsOperator, Unavailable

_TRY_LOCK = text(f"SELECT pg_try_advisory_lock({int.from_bytes(b'pocketpa')})")


@contextmanager
def holding_file(path: Path) -> Generator[None]:
    """Hold the lock on the file at `path`, which lies beside a SQLite database and is not it: SQLite has its own locks.

    Raises: NeedsOperator, where another process holds it; Unavailable, where there can be no lock.
    """
    try:
        file = path.open("r+b")
    except OSError as error:
        raise _no_lock(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken() from None
        except OSError as error:
            raise _no_lock(path, error) from error
        yield


@contextmanager
def holding_server(connection: Connection) -> Generator[None]:
    """Hold PostgreSQL's lock on the database of `connection`, which is closed at the end.

    Raises: NeedsOperator, where another connection holds it.
    """
    with connection:
        has_lock: bool = connection.execute(_TRY_LOCK).scalar_one()
        connection.commit()  # the lock stays
        if not has_lock:
            raise _taken()
        try:
            yield
        finally:
            connection.invalidate()  # a pool would keep it open, and with it the lock


def _taken() -> NeedsOperator:
    return NeedsOperator(
        "the database is in use by another pocketpaw, which has another home: give each home its own database_url"
    )


def _no_lock(path: Path, error: OSError) -> Unavailable:
    return Unavailable(f"{path} cannot be locked: {error.strerror}", path=str(path))
