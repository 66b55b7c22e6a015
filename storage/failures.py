"""What can be wrong with the database as a whole, as typed errors that name place and cause, never a password."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from ..runtime.errors import NeedsOperator, PocketPawError, Unavailable

PRIMARY_CODE = 0xFF  # the low byte of an extended result code (sqlite.org/rescode.html)
DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
CAUSES = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the file or its folder is read-only",
    sqlite3.SQLITE_PERM: "access is denied",
    sqlite3.SQLITE_CANTOPEN: "the file or its folder cannot be opened",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_BUSY: "another process holds it locked",
    sqlite3.SQLITE_LOCKED: "it is locked",
    sqlite3.SQLITE_NOMEM: "memory has run out",
    sqlite3.SQLITE_PROTOCOL: "another process holds it locked",
}


class DatabaseDamaged(NeedsOperator):
    """The database cannot be read as it should; nothing of it was changed.

    `data`: path; copy (a copy set aside, or None where none could be made); reason.
    """

    code = "database_damaged"

    @property
    def path(self) -> Path:
        return Path(str(self.data["path"]))

    @property
    def copy(self) -> Path | None:
        return Path(str(self.data["copy"])) if self.data["copy"] else None

    @property
    def reason(self) -> str:
        return str(self.data["reason"])


class DatabaseDisplaced(Unavailable):
    """The file that is open is no longer the one at its path; what was written to it would be gone."""

    code = "database_displaced"


def damaged(path: Path, copy: Path | None, reason: str) -> DatabaseDamaged:
    kept = f"a copy is at {copy}" if copy else "no copy was made"
    return DatabaseDamaged(
        f"the database {path} is damaged: {reason}; it was left as it is, {kept}",
        path=str(path),
        copy=str(copy) if copy else None,
        reason=reason,
    )


def displaced(path: Path) -> DatabaseDisplaced:
    cause = "it was moved, deleted or replaced while in use"
    return DatabaseDisplaced(f"the database {path} cannot be used: {cause}", path=str(path), cause=cause)


def sqlite_cause(error: sqlite3.Error) -> str:
    """Say in words why SQLite failed, with its own words behind."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    cause = CAUSES.get(code & PRIMARY_CODE)
    return f"{cause} ({error})" if cause else str(error)


def translate(error: DBAPIError, url: URL) -> PocketPawError | None:
    """The typed error for a failure of the database as a whole; None for one of a single statement, which is a bug."""
    origin = error.orig
    if isinstance(origin, sqlite3.Error):
        code = getattr(origin, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & PRIMARY_CODE
        path = Path(url.database or "")
        if code in DAMAGE:
            return damaged(path, None, f"{origin}; the next start sets a copy aside")
        if code in CAUSES:
            return _unavailable(str(path), sqlite_cause(origin))
        return None
    if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
        return _unavailable(url.render_as_string(hide_password=True), str(origin).strip())
    return None


def _unavailable(place: str, cause: str) -> Unavailable:
    return Unavailable(f"the database {place} cannot be used: {cause}", path=place, cause=cause)
