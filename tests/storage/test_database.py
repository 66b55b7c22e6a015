from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from pocketpaw.config.load import SEALED_DATABASE
from pocketpaw.runtime.errors import NeedsOperator, Unavailable
from pocketpaw.storage.database import Database, open_database
from pocketpaw.storage.group import run_batch
from pocketpaw.storage.registry import answer
from pocketpaw.storage.sessions import GetSession, ListSessions
from pocketpaw.storage.turns import AddTurn, GetTurn
from sqlalchemy import Connection

from .conftest import Ask
from .test_turns import done, question

WRITE_FOREVER = """
import itertools, sys
from pocketpaw.storage.database import open_database
from pocketpaw.storage.group import run_batch
from pocketpaw.storage.registry import load_all
from pocketpaw.storage.turns import AddTurn, FinishTurn

load_all()
url, start = sys.argv[1:]
writer = open_database(url).connect_writer()
for n in itertools.count():
    ids = [f"t-{start}-{n}-{i}" for i in range(4)]
    common = {"boot_id": start, "content": "hello world " * 50}
    common_to_add = {"channel": "api", "state": "running", "principal": "ann", **common}
    add = [AddTurn(turn_id=i, session_id=f"s-{i[-1]}", **common_to_add) for i in ids]
    end = [FinishTurn(turn_id=i, state="done", **common) for i in ids]
    for outcome in run_batch(writer, [*add, *end]):
        if isinstance(outcome, Exception):
            raise outcome
    print(*ids, flush=True)
"""


def pragma(connection: Connection, name: str) -> object:
    value = connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
    connection.rollback()
    return value


def test_the_writer_syncs_each_commit_and_the_reader_cannot_write(writer: Connection, reader: Connection) -> None:
    for connection in (writer, reader):
        assert pragma(connection, "journal_mode") == "wal"
        assert pragma(connection, "synchronous") == 2  # FULL
        assert pragma(connection, "foreign_keys") == 1
        assert pragma(connection, "busy_timeout") == 5000
        assert pragma(connection, "journal_size_limit") == 64 * 1024 * 1024
    assert (pragma(writer, "query_only"), pragma(reader, "query_only")) == (0, 1)


def test_a_reader_sees_one_snapshot_while_the_writer_goes_on(writer: Connection, reader: Connection) -> None:
    with reader.begin():
        assert reader.exec_driver_sql("SELECT count(*) FROM turns").scalar_one() == 0
        assert run_batch(writer, [question()])[0].created
        assert reader.exec_driver_sql("SELECT count(*) FROM turns").scalar_one() == 0
    assert reader.exec_driver_sql("SELECT count(*) FROM turns").scalar_one() == 1


def test_a_write_transaction_is_one_from_its_first_statement(database: Database, writer: Connection) -> None:
    with database.connect_writer() as other:
        other.exec_driver_sql("PRAGMA busy_timeout = 20")
        other.rollback()
        with writer.begin():
            (refused,) = run_batch(other, [question()])
    assert isinstance(refused, Unavailable)
    assert "locked" in refused.detail


def test_a_checkpoint_empties_the_log(database: Database, write: Ask, tmp_path: Path) -> None:
    write(question())
    log = tmp_path / "pocketpaw.db-wal"
    assert log.stat().st_size > 0
    database.checkpoint()
    assert log.stat().st_size == 0


def test_readers_on_many_threads_see_whole_turns_only(database: Database, writer: Connection) -> None:
    torn: list[str] = []
    stop = threading.Event()

    def look() -> None:
        with database.connect_reader() as reader:
            while not stop.is_set():
                sessions = answer(reader, ListSessions()).sessions
                torn.extend(session.id for session in sessions if session.message_count % 2)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(50):
        run_batch(writer, [question(f"t-{number}"), done(f"t-{number}")])
    stop.set()
    for thread in threads:
        thread.join()
    assert torn == []


def test_what_was_answered_outlives_a_kill_and_the_file_is_sound(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/pocketpaw.db"
    answered: set[str] = set()
    for start in range(6):
        command = [sys.executable, "-c", WRITE_FOREVER, url, str(start)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(5 + start):
                answered.update(child.stdout.readline().split())
            child.send_signal(signal.SIGKILL)
            answered.update(child.stdout.read().split())
        assert child.returncode == -signal.SIGKILL
        database = open_database(url)
        with database.connect_reader() as reader:
            assert reader.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
            reader.rollback()
            assert {answer(reader, GetTurn(turn_id=turn_id)).state for turn_id in answered} == {"done"}
            count = reader.exec_driver_sql("SELECT count(*) FROM turns").scalar_one()
            assert count % 4 == 0  # a batch is there as a whole or not at all
            reader.rollback()
            counted = answer(reader, GetSession(session_id="s-0")).message_count
            assert counted == count // 4 * 2
        database.close()
    assert len(answered) >= 6 * 5 * 4


def test_a_disk_that_takes_no_more_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    """A limit on the file's size stands in for the full disk: the kernel refuses the write itself."""
    url = f"sqlite:///{tmp_path}/pocketpaw.db"
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            writer = open_database(url).connect_writer()
            run_batch(writer, [question("t-before")])
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
            large = [question(f"t-{number}", content="x" * 50_000) for number in range(20)]
            said = {
                f"{type(outcome).__name__}: {getattr(outcome, 'detail', '')}" for outcome in run_batch(writer, large)
            }
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            said = f"{said} {[type(outcome).__name__ for outcome in run_batch(writer, [question('t-after')])]}"
        finally:
            os.write(sink, str(said).encode())
            os._exit(0)
    os.close(sink)
    with os.fdopen(source, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    assert said.startswith("{'Unavailable: the database ")
    assert said.endswith("['TurnAdded']")
    assert "pocketpaw.db cannot be used" in said
    with closing(sqlite3.connect(tmp_path / "pocketpaw.db")) as connection:
        assert {row[0] for row in connection.execute("SELECT id FROM turns")} == {"t-before", "t-after"}
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nowhere"):
        open_database(f"sqlite:///{tmp_path}/nowhere/pocketpaw.db")


def test_an_address_that_only_a_closed_vault_knows_is_no_other_database() -> None:
    with pytest.raises(NeedsOperator, match="in the vault, which cannot be opened"):
        open_database(SEALED_DATABASE)


def test_messages_survive_the_wire(write: Ask) -> None:
    import msgspec

    message = question(media=["/a.png"], key="k")
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=AddTurn)
    assert again == message
    turn = write(again).turn
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(turn), type=type(turn)) == turn


def test_a_new_database_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        database = open_database(f"sqlite:///{tmp_path / 'paw.db'}")
        with database.connect_writer() as writer:
            answer(writer, ListSessions())
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        database.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["paw.db", "paw.db-wal", "paw.db-shm", "paw.db.made"], 0o600)
