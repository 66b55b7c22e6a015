"""The database, open and up to date: one engine that writes and one that reads.

SQLite is told here what a daemon needs of it; PostgreSQL is as it should be and told little.
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack
from pathlib import Path

import msgspec
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from ..config.load import SEALED_DATABASE
from ..runtime.errors import NeedsOperator, Unavailable
from .claim import holding_file, holding_server
from .failures import displaced, sqlite_cause, translate
from .migrate import migrate
from .sqlite_file import BUSY_TIMEOUT_S, identity, mark_as_made, require_sound

LOG_LIMIT_BYTES = 64 * 1024 * 1024
_OPENED = "opened file"
"""What a connection knows of the file that it has opened."""

_PRAGMAS = (
    f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}",
    "PRAGMA synchronous = FULL",  # in WAL mode only FULL syncs each commit: an answer means that it is on disk
    "PRAGMA foreign_keys = ON",
    f"PRAGMA journal_size_limit = {LOG_LIMIT_BYTES}",
    "PRAGMA temp_store = MEMORY",
)


class Database:
    """Engines on one database; a connection belongs to the thread that uses it, one writing connection to the whole."""

    def __init__(self, writer: Engine, reader: Engine) -> None:
        self._writer = writer
        self._reader = reader
        self._claim = ExitStack()
        self.url: URL = writer.url

    @property
    def path(self) -> Path | None:
        """The file; None where a server keeps the data."""
        return Path(self.url.database) if self.url.database and _is_sqlite(self.url) else None

    def connect_writer(self) -> Connection:
        return self._writer.connect()

    def connect_reader(self) -> Connection:
        return self._reader.connect()

    def claim(self) -> None:
        """Keep other daemons out until it is closed. Raises: NeedsOperator, where another one is in."""
        path = self.path
        holding = holding_server(self.connect_writer()) if path is None else holding_file(mark_as_made(path))
        self._claim.enter_context(holding)

    def checkpoint(self) -> None:
        """Bring the write-ahead log into the file and cut it, as far as readers allow. Not within a transaction."""
        if _is_sqlite(self.url):
            with self.connect_writer() as connection:
                driver = connection.connection.driver_connection
                assert isinstance(driver, sqlite3.Connection)
                try:
                    driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                except sqlite3.Error as error:
                    raise Unavailable(
                        f"the log of {self.path} could not be checkpointed: {sqlite_cause(error)}"
                    ) from error

    def close(self) -> None:
        """Close what is not in use; the last connection to close leaves one whole file."""
        self._claim.close()
        self._reader.dispose()
        self._writer.dispose()


def open_database(url: str) -> Database:
    """Open the database, making it if it is not there and migrating it if it is of an older version.

    Raises: DatabaseDamaged (a copy was set aside); Unavailable (disk full, read-only, locked, no server); NeedsOperator
    (no such kind of database, one made by a newer version, or one that another daemon has open).
    """
    parsed = _parse(url)
    database = _sqlite(parsed) if _is_sqlite(parsed) else _postgresql(parsed)
    try:
        with database.connect_writer() as connection:
            migrate(connection, database.path)
        database.claim()
    except DBAPIError as error:
        database.close()
        raise translate(error, parsed) or error from error
    except BaseException:
        database.close()
        raise
    return database


def require_in_place(connection: Connection) -> None:
    """See that the file which a connection has open is still the one at its path.

    SQLite goes on with a file that was deleted or replaced under it: what it commits then is gone with the connection.
    Raises: DatabaseDisplaced
    """
    opened = connection.info.get(_OPENED)
    path = Path(connection.engine.url.database or "")
    if opened is not None and identity(path) != opened:
        raise displaced(path)


def _parse(url: str) -> URL:
    if url == SEALED_DATABASE:
        raise NeedsOperator("where the database is stands in the vault, which cannot be opened")
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise NeedsOperator(
            "database_url is not a database address: sqlite:///file or postgresql+psycopg://…"
        ) from error
    if _is_sqlite(parsed):
        if parsed.database in {None, "", ":memory:"}:
            raise NeedsOperator("database_url must name a file: sqlite:////folder/pocketpaw.db")
    elif parsed.drivername != "postgresql+psycopg":
        raise NeedsOperator(
            f"database_url: {parsed.drivername} is not supported, use sqlite:///file or postgresql+psycopg://…"
        )
    return parsed


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _sqlite(url: URL) -> Database:
    require_sound(Path(url.database or ""))
    return Database(
        _sqlite_engine(url, (*_PRAGMAS, "PRAGMA journal_mode = WAL"), "BEGIN IMMEDIATE"),
        _sqlite_engine(url, (*_PRAGMAS, "PRAGMA query_only = ON"), "BEGIN"),
    )


def _sqlite_engine(url: URL, pragmas: tuple[str, ...], begin: str) -> Engine:
    """An engine that begins transactions itself: the driver would begin them too late, and never around a savepoint."""
    engine = create_engine(url, json_serializer=_to_json, json_deserializer=msgspec.json.decode)

    def prepare(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(pragma)
        record.info[_OPENED] = identity(Path(url.database or ""))

    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin_transaction)
    return engine


def _postgresql(url: URL) -> Database:
    try:
        writer, reader = (
            create_engine(
                url,
                json_serializer=_to_json,
                json_deserializer=msgspec.json.decode,
                pool_pre_ping=True,
                connect_args={"connect_timeout": 5, "options": f"-c default_transaction_read_only={read_only}"},
            )
            for read_only in ("off", "on")
        )
    except ModuleNotFoundError as error:
        raise NeedsOperator("PostgreSQL needs psycopg: install pocketpaw[postgres]") from error
    return Database(writer, reader)


def _to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()
