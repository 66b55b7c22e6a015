from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from pocketpaw.runtime.errors import NeedsOperator, Unavailable
from pocketpaw.storage import sqlite_file
from pocketpaw.storage.database import Database, open_database
from pocketpaw.storage.migrate import HEAD, MIGRATIONS, migrate
from sqlalchemy import Connection, create_engine

ADD_A_COLUMN = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade() -> None:
    op.add_column("sessions", sa.Column("pinned", sa.Boolean()))
    {fault}
"""


def schema(path: Path) -> set[tuple[str, str | None]]:
    """What every table, index and trigger was made with, the order of its parts and SQLite's quotes aside."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_schema").fetchall()
    return {
        (
            name,
            None
            if sql is None
            else "\n".join(
                sorted(part.strip(" \t)") for part in re.split(r"[,\n]", sql.replace('"', "")) if part.strip(" \t)"))
            ),
        )
        for name, sql in rows
    }


def newer_code(tmp_path: Path, fault: str = "") -> Path:
    """Our migrations, and one more."""
    migrations = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, migrations, ignore=shutil.ignore_patterns("__pycache__"))
    (migrations / "versions" / "9999_pinned.py").write_text(ADD_A_COLUMN.format(fault=fault, head=HEAD))
    return migrations


def upgrade(database: Database, migrations: Path, head: str = "9999") -> None:
    with database.connect_writer() as connection:
        migrate(connection, database.path, head=head, migrations=migrations)


def columns(connection: Connection) -> set[str]:
    return {row[1] for row in connection.exec_driver_sql("PRAGMA table_info(sessions)")}


def test_both_ways_to_a_new_database_give_the_same_schema(database: Database, tmp_path: Path) -> None:
    migrated = tmp_path / "migrated.db"
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(f"sqlite:///{migrated}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()
    assert schema(migrated) == schema(tmp_path / "pocketpaw.db")


def test_the_head_is_the_newest_script() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_a_start_without_a_migration_imports_no_alembic(tmp_path: Path) -> None:
    script = (
        "import sys; from pocketpaw.storage.database import open_database; "
        f"[open_database('sqlite:///{tmp_path}/x.db').close() for _ in range(2)]; print('alembic' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
    assert list(tmp_path.glob("*.backup-*")) == []


def test_an_upgrade_backs_the_file_up_first(database: Database, tmp_path: Path) -> None:
    before = schema(tmp_path / "pocketpaw.db")
    upgrade(database, newer_code(tmp_path))
    with database.connect_reader() as reader:
        assert "pinned" in columns(reader)
    (backup,) = tmp_path.glob(f"pocketpaw.db.backup-{HEAD}-2*Z")
    assert schema(backup) == before


def test_an_upgrade_that_fails_changes_nothing(database: Database, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        upgrade(database, newer_code(tmp_path, fault="1 / 0"))
    with database.connect_reader() as reader:
        assert "pinned" not in columns(reader)
        assert reader.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == HEAD


def test_a_backup_that_cannot_be_made_stops_the_upgrade(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_stamp", lambda: "now")
    (tmp_path / f"pocketpaw.db.backup-{HEAD}-now").symlink_to(tmp_path / "no such folder" / "x")
    with pytest.raises(Unavailable, match="backed up"):
        upgrade(database, newer_code(tmp_path))
    with database.connect_reader() as reader:
        assert "pinned" not in columns(reader)


def test_only_the_newest_backups_are_kept(database: Database, tmp_path: Path) -> None:
    with database.connect_writer() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        made = [
            sqlite_file.back_up(driver, tmp_path / "pocketpaw.db", version) for version in ("3", "1", "4", "0", "2")
        ]
    assert sorted(tmp_path.glob("*.backup-*")) == sorted(made[-3:])


def test_a_database_of_a_newer_version_is_refused_and_left_alone(database: Database, tmp_path: Path) -> None:
    upgrade(database, newer_code(tmp_path))
    database.close()
    before = (tmp_path / "pocketpaw.db").read_bytes()
    with pytest.raises(NeedsOperator, match=rf"newer PocketPaw .*9999.*{HEAD}"):
        open_database(f"sqlite:///{tmp_path}/pocketpaw.db")
    assert (tmp_path / "pocketpaw.db").read_bytes() == before


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("CREATE TABLE recipes (id INTEGER)")
    with pytest.raises(NeedsOperator, match="not PocketPaw's"):
        open_database(f"sqlite:///{tmp_path}/x.db")


@pytest.mark.parametrize("url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "mysql://x/y", "postgresql://x/y"])
def test_an_address_that_is_none_of_ours_is_refused(url: str) -> None:
    with pytest.raises(NeedsOperator, match="database_url"):
        open_database(url)
