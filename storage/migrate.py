"""Bring the database's schema up to date, after a backup.

A new database is made from the metadata, without Alembic, whose import takes longer than making it; a test holds both
ways to the same schema.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, insert, inspect, select

from ..runtime.errors import NeedsOperator
from .sqlite_file import back_up
from .tables import metadata

HEAD = "0010"
MIGRATIONS = Path(__file__).parent / "migrations"

_versions = Table(  # as Alembic makes it
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def migrate(connection: Connection, path: Path | None, *, head: str = HEAD, migrations: Path = MIGRATIONS) -> None:
    """Make or upgrade the schema, in one transaction; a SQLite file at `path` is backed up before an upgrade.

    Raises: NeedsOperator if the database was made by a newer version, or is not one of ours.
    """
    with connection.begin():
        tables = set(inspect(connection).get_table_names())
        if not tables:
            _make(connection, head)
            return
        version = (
            connection.execute(select(_versions.c.version_num)).scalar_one_or_none()
            if "alembic_version" in tables
            else None
        )
    if version is None:
        raise NeedsOperator(f"{_place(connection)} holds tables that are not PocketPaw's: set database_url to another")
    if version != head:
        _upgrade(connection, path, version, head, migrations)


def _make(connection: Connection, head: str) -> None:
    metadata.create_all(connection, checkfirst=False)
    _versions.create(connection)
    connection.execute(insert(_versions), {"version_num": head})


def _upgrade(connection: Connection, path: Path | None, version: str, head: str, migrations: Path) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if version not in known:
        raise NeedsOperator(
            f"{_place(connection)} was made by a newer PocketPaw (its schema is {version}, "
            f"this version knows up to {head}): install that version again, or restore a backup from before",
            version=version,
            head=head,
        )
    if path is not None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        back_up(driver, path, version)
        connection.rollback()
    config.attributes["connection"] = connection
    with connection.begin():
        command.upgrade(config, head)


def _place(connection: Connection) -> str:
    return connection.engine.url.render_as_string(hide_password=True)
