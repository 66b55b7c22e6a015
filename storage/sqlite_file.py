"""The SQLite file as a file: is it sound, set a copy aside, back it up. Nothing here changes the original."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from ..runtime.errors import Unavailable
from .failures import DAMAGE, PRIMARY_CODE, DatabaseDamaged, damaged, sqlite_cause

CHECKED_AT_START_BYTES = 64 * 1024 * 1024  # above it, the health engine's thorough check has to do
BACKUPS_KEPT = 3
BUSY_TIMEOUT_S = 5.0
SPARE_BYTES = 1024 * 1024  # SQLite needs some room even to read: its shared index is a file


def require_sound(path: Path) -> None:
    """See that the database can be read, without changing it.

    A file that was never made is sound: it is about to be. One that should hold data, and is empty or gone, is damaged.
    Raises: DatabaseDamaged, with a copy set aside; Unavailable, where it is the surroundings that are at fault.
    """
    try:
        reason = _damage(path)
    except OSError as error:
        reason = f"it cannot be read ({error.strerror})"
    if reason is not None:
        raise _set_aside(path, reason)


def mark_as_made(path: Path) -> Path:
    """Leave a file beside a database that is new, by which one that was emptied or is gone is known from a new one.

    From then on all of its files are their owner's alone.
    """
    marker = _beside(path, ".made")
    if marker.exists():
        return marker
    try:
        marker.write_text(f"{path.name} was made at {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}; keep this file beside it\n")
        for made in (marker, path, _beside(path, "-wal"), _beside(path, "-shm")):
            if made.exists():
                made.chmod(0o600)  # SQLite gives the files that it makes later the database's mode
    except OSError as error:
        raise Unavailable(f"cannot write {marker}: {error.strerror}", path=str(marker)) from error
    return marker


def identity(path: Path) -> tuple[int, int] | None:
    """Tell which file is at `path`, whatever it holds; None if none can be seen there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def back_up(connection: sqlite3.Connection, path: Path, version: str) -> Path:
    """Copy the open database to `<name>.backup-<version>-<UTC stamp>` and delete all but the newest few copies."""
    backup = _beside(path, f".backup-{version}-{_stamp()}")
    try:
        with closing(sqlite3.connect(backup)) as target:
            connection.backup(target)
    except sqlite3.Error as error:
        backup.unlink(missing_ok=True)
        raise Unavailable(
            f"the database {path} could not be backed up to {backup}: {sqlite_cause(error)}", path=str(backup)
        ) from error
    backup.chmod(path.stat().st_mode & 0o777)
    by_age = sorted(path.parent.glob(f"{path.name}.backup-*"), key=lambda old: old.name.rpartition("-")[2])
    for old in by_age[:-BACKUPS_KEPT]:
        old.unlink()
    return backup


def _damage(path: Path) -> str | None:
    """What is wrong with the file; None if it is sound or not made yet."""
    log = _beside(path, "-wal")
    has_log = log.exists() and log.stat().st_size > 0
    marker = _beside(path, ".made")
    if not path.exists():
        if has_log:
            return "the file is gone, but its write-ahead log is there"
        return f"the file is gone (to begin anew, delete {marker} too)" if marker.exists() else None
    if path.stat().st_size == 0:
        return "the file is empty, but held data before" if has_log or marker.exists() else None
    if path.is_dir():
        return f"it cannot be read ({os.strerror(errno.EISDIR)})"
    if not os.access(path, os.R_OK):
        return f"it cannot be read ({os.strerror(errno.EACCES)})"
    return _check(path, has_log=has_log)


def _check(path: Path, *, has_log: bool) -> str | None:
    """Let SQLite look at it, read-only: so it neither replays the log into the file nor cuts the log.

    SQLite alone may open the file: whoever else in this process closes it takes the locks of connections that are open
    (sqlite.org/howtocorrupt.html, section 2.2), and any program that then looks at the database deletes its log.
    """
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
        ) as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
            if not has_log and path.stat().st_size % page_size:
                return "the file is cut off within a page"
            if path.stat().st_size > CHECKED_AT_START_BYTES:
                return None
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            return None if verdict == "ok" else str(verdict)
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & PRIMARY_CODE
        if code in DAMAGE:
            return "the file is not a SQLite database" if code == sqlite3.SQLITE_NOTADB else str(error)
        cause = _surroundings(path) or sqlite_cause(error)
        raise Unavailable(f"the database {path} cannot be used: {cause}", path=str(path), cause=cause) from error


def _surroundings(path: Path) -> str | None:
    if not os.access(path.parent, os.W_OK):
        return f"the folder {path.parent} is read-only"
    if shutil.disk_usage(path.parent).free < SPARE_BYTES:
        return "the disk is full"
    return None


def _set_aside(path: Path, reason: str) -> DatabaseDamaged:
    """Copy the file with its log to `<name>.corrupt-<UTC stamp>`, unless an earlier copy is the same, byte for byte."""
    parts = [suffix for suffix in ("", "-wal", "-shm") if _beside(path, suffix).exists()]
    if not parts:
        return damaged(path, None, reason)
    try:
        for copy in sorted(path.parent.glob(f"{path.name}.corrupt-*Z")):
            if all(_is_same(_beside(path, suffix), _beside(copy, suffix)) for suffix in ("", "-wal")):
                return damaged(path, copy, reason)
    except OSError:
        pass  # what cannot be compared is copied, and if it cannot be copied either, that is said below
    copy = _beside(path, f".corrupt-{_stamp()}")
    try:
        for suffix in parts:
            shutil.copy2(_beside(path, suffix), _beside(copy, suffix))
    except OSError as error:
        for suffix in parts:
            _beside(copy, suffix).unlink(missing_ok=True)
        return damaged(path, None, f"{reason}; copying it failed ({error.strerror})")
    return damaged(path, copy, reason)


def _is_same(one: Path, other: Path) -> bool:
    if not one.exists() or not other.exists():
        return one.exists() == other.exists()
    return filecmp.cmp(one, other, shallow=False)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _stamp() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
