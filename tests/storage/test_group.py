from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pocketpaw.runtime.errors import Conflict, Unavailable
from pocketpaw.runtime.message import Done, Message
from pocketpaw.storage.database import Database
from pocketpaw.storage.failures import DatabaseDamaged, DatabaseDisplaced
from pocketpaw.storage.group import run_batch
from pocketpaw.storage.registry import answer, command, commands, query
from pocketpaw.storage.sessions import CreateSession, DeleteSession, ListSessions, Ok, Session
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from .conftest import Ask


class Crash(Message[Done], to="store/writer"):
    """Write something, then fall over."""


class BreakTheCommit(Message[Done], to="store/writer"):
    """Leave something behind that COMMIT refuses."""


@pytest.fixture(autouse=True)
def faults() -> Iterator[None]:
    @command
    def crash(connection: Connection, _message: Crash) -> Done:
        connection.exec_driver_sql("INSERT INTO sessions VALUES ('half', NULL, 'x', '', '', '', 0)")
        raise ZeroDivisionError("a bug")

    @command
    def break_the_commit(connection: Connection, _message: BreakTheCommit) -> Done:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        connection.exec_driver_sql(
            "INSERT INTO turns (id, session_id, state, channel, principal, boot_id, attempts, created_at, updated_at) "
            "VALUES ('t', 'no', 'done', '', '', '', 0, '', '')"
        )
        return Done()

    yield
    del commands[Crash], commands[BreakTheCommit]


def session(name: str) -> CreateSession:
    return CreateSession(session_id=name)


def kept(read: Ask) -> set[str]:
    return {found.id for found in read(ListSessions()).sessions}


def test_a_command_that_crashes_hurts_no_other(writer: Connection, read: Ask) -> None:
    first, crash, again, last = run_batch(writer, [session("a"), Crash(), session("a"), session("b")])
    assert (first.id, last.id) == ("a", "b")
    assert isinstance(crash, ZeroDivisionError)
    assert isinstance(again, Conflict)
    assert kept(read) == {"a", "b"}


def test_a_command_alone_is_undone_when_it_crashes(writer: Connection, read: Ask) -> None:
    (crash,) = run_batch(writer, [Crash()])
    assert isinstance(crash, ZeroDivisionError)
    assert kept(read) == set()
    assert run_batch(writer, [session("a")])[0].id == "a"


def test_a_refused_commit_is_the_outcome_of_every_command(writer: Connection, read: Ask) -> None:
    outcomes = run_batch(writer, [session("a"), BreakTheCommit(), session("b")])
    assert [type(outcome) for outcome in outcomes] == [IntegrityError] * 3
    assert kept(read) == set()
    assert run_batch(writer, [session("c")])[0].id == "c"


def fill_the_disk(writer: Connection) -> None:
    """Let SQLite meet the limit of its file, which is the same error as a full disk."""
    pages = writer.exec_driver_sql("PRAGMA page_count").scalar_one()
    writer.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    writer.rollback()


@pytest.mark.parametrize("count", [1, 30])
def test_a_full_disk_is_said_to_every_command_and_passes(
    writer: Connection, read: Ask, tmp_path: Path, count: int
) -> None:
    run_batch(writer, [session("before")])
    fill_the_disk(writer)
    large = "x" * 200
    outcomes = run_batch(writer, [CreateSession(title=large, channel=large * 100) for _ in range(count)])
    assert len(outcomes) == count
    for outcome in outcomes:
        assert isinstance(outcome, Unavailable)
        assert "the disk is full" in outcome.detail
        assert str(tmp_path / "pocketpaw.db") in outcome.detail
    assert kept(read) == {"before"}
    writer.exec_driver_sql("PRAGMA max_page_count = 1000000")
    writer.rollback()
    assert run_batch(writer, [session("after")])[0].id == "after"


def test_a_read_only_database_says_so(reader: Connection) -> None:
    (outcome,) = run_batch(reader, [session("a")])
    assert isinstance(outcome, Unavailable)
    assert "read-only" in outcome.detail


def test_damage_that_shows_while_running_is_typed(writer: Connection, reader: Connection, tmp_path: Path) -> None:
    run_batch(writer, [session(f"s{number}") for number in range(500)])
    writer.exec_driver_sql("PRAGMA cache_size = 0")
    writer.rollback()
    driver = writer.connection.driver_connection
    assert driver is not None
    driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    writer.rollback()
    file = tmp_path / "pocketpaw.db"
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    (outcome,) = run_batch(writer, [DeleteSession(session_id="s1")])
    assert isinstance(outcome, DatabaseDamaged)
    assert outcome.path == file
    with pytest.raises(DatabaseDamaged):
        answer(reader, ListSessions())


def test_a_function_must_fit_its_message() -> None:
    with pytest.raises(TypeError, match="store/writer"):

        @query
        def not_a_query(connection: Connection, message: CreateSession) -> Session:
            raise NotImplementedError

    with pytest.raises(TypeError, match="SessionCreated"):

        @command
        def wrong_reply(connection: Connection, message: CreateSession) -> Session:
            raise NotImplementedError

    with pytest.raises(TypeError, match="twice"):

        @command
        def second(connection: Connection, message: DeleteSession) -> Ok:
            raise NotImplementedError


def test_a_file_that_was_moved_away_takes_nothing_until_it_is_back(
    database: Database, writer: Connection, read: Ask
) -> None:
    run_batch(writer, [session("before")])
    path = database.path
    assert path is not None
    elsewhere = path.rename(path.with_suffix(".elsewhere"))
    for outcome in run_batch(writer, [session("lost"), session("lost too")]):
        assert isinstance(outcome, DatabaseDisplaced)
        assert "moved, deleted or replaced" in outcome.detail
    elsewhere.rename(path)
    run_batch(writer, [session("after")])
    assert kept(read) == {"before", "after"}


def test_another_file_in_its_place_is_not_taken_for_it(database: Database, writer: Connection) -> None:
    path = database.path
    assert path is not None
    another = path.with_suffix(".restored")
    another.write_bytes(path.read_bytes())
    another.replace(path)
    (outcome,) = run_batch(writer, [session("lost")])
    assert isinstance(outcome, DatabaseDisplaced)
