"""The same commands and queries on PostgreSQL; run where POCKETPAW_TEST_POSTGRES_URL names a database to empty."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import pytest
from alembic import command
from alembic.config import Config
from pocketpaw.runtime import Message
from pocketpaw.runtime.errors import Conflict, NeedsOperator, NotFound, Unavailable
from pocketpaw.storage.api_keys import (
    AddApiKey,
    EndApiKey,
    KeyPair,
    LoadApiKey,
    LoadApiKeys,
    MarkApiKeysUsed,
    ReplaceApiKey,
)
from pocketpaw.storage.audit import Act, AppendToAudit, AuditHead, CheckAuditPage, CheckedPage, ListAudit
from pocketpaw.storage.audit_archives import ArchiveAudit, DropArchived
from pocketpaw.storage.credentials import ListCredentials
from pocketpaw.storage.database import Database, open_database
from pocketpaw.storage.error_log import ListErrors, RecordError
from pocketpaw.storage.export import ExportSession
from pocketpaw.storage.group import run_batch
from pocketpaw.storage.history import GetHistory, GetTurnHistory
from pocketpaw.storage.jobs import DeleteJob, GetJob
from pocketpaw.storage.kits import DropKit, GetStoredKit
from pocketpaw.storage.memories import AddMemory, CountMemories, DeleteMemory, ListMemories, MarkMemoriesUsed
from pocketpaw.storage.migrate import MIGRATIONS
from pocketpaw.storage.oauth import AddOAuthGrant, LoadOAuthGrants, NewTokens, RedeemCode, RotateTokens
from pocketpaw.storage.recollection import PickMemories, SearchMemories
from pocketpaw.storage.registry import answer, commands
from pocketpaw.storage.search import SearchSessions
from pocketpaw.storage.self_audits import AuditCheck, GetSelfAudit, KeepSelfAudit, SelfAuditReport
from pocketpaw.storage.sessions import DeleteSession, GetSession, ListSessions, RenameSession
from pocketpaw.storage.soundness import CheckStorage, ProbeStorage
from pocketpaw.storage.supervision_log import ListSupervisionEvents, RecordSupervisionEvents, SupervisionEvent
from pocketpaw.storage.tokens import ListRevokedTokens, RevokeToken
from pocketpaw.storage.tool_calls import EndCall, ListCalls
from pocketpaw.storage.turn_counts import CountTurns
from pocketpaw.storage.turns import ClaimTurn, GetTurn, ListUnfinishedSessions
from pocketpaw.storage.usage import GetUsage, ListRecentUsage, ResetUsage
from pocketpaw.storage.written_files import ListWrittenFiles
from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.exc import DBAPIError

from .test_tool_calls import call
from .test_turns import done, question

URL = os.environ.get("POCKETPAW_TEST_POSTGRES_URL", "")
pytestmark = pytest.mark.skipif(
    not URL or importlib.util.find_spec("psycopg") is None, reason="needs psycopg and POCKETPAW_TEST_POSTGRES_URL"
)


def empty_the_database() -> None:
    engine = create_engine(URL)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()


@pytest.fixture
def database() -> Iterator[Database]:
    empty_the_database()
    opened = open_database(URL)
    yield opened
    opened.close()


def structure(connection: Connection) -> object:
    """Columns, indexes and constraints of every table, as PostgreSQL tells them."""
    tell = inspect(connection)
    return {
        name: (
            [(column["name"], str(column["type"]), column["nullable"]) for column in tell.get_columns(name)],
            sorted(str(index) for index in tell.get_indexes(name)),
            sorted(str(key) for key in tell.get_foreign_keys(name)),
            tell.get_pk_constraint(name),
            tell.get_check_constraints(name),
            tell.get_unique_constraints(name),
        )
        for name in tell.get_table_names()
    }


def test_both_ways_to_a_new_database_give_the_same_schema(database: Database) -> None:
    with database.connect_reader() as reader:
        made = structure(reader)
    database.close()
    empty_the_database()
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(URL)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        assert structure(connection) == made
    engine.dispose()
    open_database(URL).close()


def test_a_second_daemon_is_told_and_comes_in_when_the_first_has_gone(database: Database) -> None:
    for _ in range(2):
        with pytest.raises(NeedsOperator, match="in use by another pocketpaw"):
            open_database(URL)
    database.close()
    open_database(URL).close()


@pytest.mark.parametrize(
    "message",
    [
        EndApiKey(key_id="\0"),
        LoadApiKey(key_id="\0"),
        DeleteJob(job_id="\0", kind="intention"),
        GetJob(job_id="\0", kind="reminder"),
        DropKit(kit_id="\0"),
        GetStoredKit(kit_id="\0"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_an_id_that_none_can_have_there_is_not_found(
    message: Message[object], writer: Connection, reader: Connection
) -> None:
    if type(message) in commands:
        (outcome,) = run_batch(writer, [message])
        assert isinstance(outcome, NotFound)
    else:
        with pytest.raises(NotFound):
            answer(reader, message)


def test_turns_sessions_and_search_work_there_too(writer: Connection, reader: Connection) -> None:
    write = [
        question("t-0", content="q0 \0 naive", state="pending", key="k", media=["/a.png"]),
        question("t-1", content="what of \"pizza\" & 'soup'?", state="pending"),
        ClaimTurn(turn_id="t-0", boot_id="boot-1"),
        done("t-0", "a0"),
        question("t-0"),
        question("t-2", key="k", content="q0 \0 naive", media=["/a.png"]),
        RenameSession(session_id="s-1", title="Talk"),
    ]
    *_, end, taken, repeated, _ = run_batch(writer, write)
    assert (end.state, end.reply, end.usage.total_tokens) == ("done", "a0", 15)
    assert isinstance(taken, Conflict)
    assert (repeated.created, repeated.turn.id) == (False, "t-0")
    assert answer(reader, GetTurn(turn_id="t-0")) == end
    assert answer(reader, ListUnfinishedSessions(boot_id="boot-2")) == ["s-1"]
    assert [said.content for said in answer(reader, GetTurnHistory(turn_id="t-1"))] == ["q0 \ufffd naive", "a0"]
    assert len(answer(reader, GetHistory(session_id="s-1"))) == 3
    (session,) = answer(reader, ListSessions()).sessions
    assert (session, session.title, session.message_count) == (
        answer(reader, GetSession(session_id="s-1")),
        "Talk",
        3,
    )
    assert session.created_at.tzinfo is UTC
    for q in ("pizza", "piz", "'soup'", '"pizza"', "PIZZA soup"):
        assert [match.id for match in answer(reader, SearchSessions(q=q)).sessions] == ["s-1"], q
    for q in ("\\", "'", "!", "a & | b", ":*", "\0", "🙂", "((", "<->", "' OR 1=1 --"):
        answer(reader, SearchSessions(q=q))
    assert answer(reader, GetUsage()).total_tokens == 15
    assert answer(reader, GetUsage(since=datetime(2020, 1, 1, tzinfo=UTC))).requests == 1
    assert [one.session_id for one in answer(reader, ListRecentUsage())] == ["s-1"]
    assert answer(reader, CountTurns()) == {"done": 1, "pending": 1}
    assert "pizza" in answer(reader, ExportSession(session_id="s-1")).content
    assert answer(reader, CheckStorage(thoroughly=True)).problem is None
    run_batch(writer, [DeleteSession(session_id="s-1")])
    assert answer(reader, ListSessions()).total == 0
    run_batch(writer, [ResetUsage()])
    assert answer(reader, GetUsage()).requests == 0


def test_what_tools_have_written_is_known_there_too(writer: Connection, reader: Connection) -> None:
    begun = msgspec.structs.replace(call("running"), tool="write_file", arguments={"path": "ü.md", "content": "x"})
    run_batch(writer, [question("t-1"), begun])
    opened = answer(reader, ListCalls(turn_id="t-1"))[0]
    run_batch(writer, [EndCall(call_id=opened.id, claim="boot-1/1", state="done")])
    assert [(one.path, one.tool) for one in answer(reader, ListWrittenFiles())] == [("ü.md", "write_file")]


def test_memories_work_there_too(writer: Connection, reader: Connection) -> None:
    tea, soup, again = run_batch(
        writer,
        [
            AddMemory(content="Ann \0 likes 'green' tea", tags=["food"], provenance=["web https://example.org"]),
            AddMemory(content="Bob likes soup"),
            AddMemory(content="bob likes SOUP!"),
        ],
    )
    assert (tea.is_new, soup.is_new, again.is_new) == (True, True, False)
    assert answer(reader, SearchMemories(q="Who likes green?"))[0] == tea.memory
    assert [one.id for one in answer(reader, PickMemories(text="tea")).memories] == [soup.memory.id]
    assert answer(reader, ListMemories(q="likes gre")).memories == [tea.memory]
    for q in ("\\", "'", "a & | b", ":*", "\0", "' OR 1=1 --"):
        answer(reader, SearchMemories(q=q))
        answer(reader, ListMemories(q=q))
    run_batch(writer, [MarkMemoriesUsed(memory_ids=[tea.memory.id]), DeleteMemory(memory_id=soup.memory.id)])
    assert [one.uses for one in answer(reader, ListMemories()).memories] == [1]
    stats = answer(reader, CountMemories())
    assert (stats.total_memories, stats.total_messages) == (1, 0)
    assert stats.size_bytes > 0


def test_access_works_there_too(writer: Connection, reader: Connection) -> None:
    until = datetime(2100, 1, 1, tzinfo=UTC)
    new, newer = KeyPair("k-1", "pp_1", "digest 1"), KeyPair("k-2", "pp_2", "digest 2")
    grant = AddOAuthGrant(
        grant_id="g-1",
        client_id="app",
        scopes=["chat"],
        granted_by="master",
        redirect_uri="app.example:/",
        code_digest="code",
        code_challenge="challenge",
        code_expires_at=until,
    )
    redeem = RedeemCode(
        code_digest="code",
        client_id="app",
        redirect_uri="app.example:/",
        code_challenge="challenge",
        tokens=NewTokens("access 1", until, "refresh 1", until),
    )
    rotate = RotateTokens(
        refresh_digest="refresh 1", client_id="app", tokens=NewTokens("access 2", until, "refresh 2", until)
    )
    outcomes = run_batch(
        writer,
        [
            AddApiKey(new=new, name="a \0 key", scopes=["chat"], expires_at=until, created_by="master"),
            MarkApiKeysUsed(uses={"k-1": datetime(2026, 1, 1, tzinfo=UTC)}),
            ReplaceApiKey(key_id="k-1", new=newer, created_by="master"),
            grant,
            redeem,
            rotate,
        ],
    )
    assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []
    assert [(key.id, key.revoked) for key in answer(reader, LoadApiKeys())] == [("k-2", False), ("k-1", True)]
    assert [one.id for one in answer(reader, LoadOAuthGrants())] == ["g-1"]
    assert {one.digest: one.is_revoked for one in answer(reader, ListCredentials())} == {
        "digest 1": True,
        "digest 2": False,
        "access 1": False,
        "access 2": False,
    }
    (stolen,) = run_batch(writer, [rotate])
    assert stolen.is_reuse
    assert {one.digest for one in stolen.changed} == {"access 1", "access 2"}
    assert answer(reader, LoadOAuthGrants()) == []


def test_the_logs_work_there_too(writer: Connection, reader: Connection) -> None:
    now = datetime.now(UTC)
    happened = SupervisionEvent(timestamp=now, path="http", event="started", incarnation=1)
    run_batch(
        writer,
        [
            RecordError(source="x", message="100%", context={"a": [1, None]}),
            RecordSupervisionEvents(events=[happened]),
            RevokeToken(digest="d", expires_at=datetime(2100, 1, 1, tzinfo=UTC)),
            ProbeStorage(),
        ],
    )
    assert answer(reader, ListErrors(search="100%"))[0].context == {"a": [1, None]}
    assert answer(reader, ListSupervisionEvents()) == [happened]
    assert [revoked.digest for revoked in answer(reader, ListRevokedTokens())] == ["d"]


def test_the_audit_works_there_too(writer: Connection, reader: Connection) -> None:
    acts = [Act(actor="a\0", action="x", category="c", description="d", context={"z": "\0", "n": n}) for n in range(3)]
    _, head = run_batch(writer, [AppendToAudit(acts=acts), AppendToAudit(acts=acts)])
    assert answer(reader, CheckAuditPage(after=AuditHead())) == CheckedPage(head, [], is_end=True)
    assert [entry.id for entry in answer(reader, ListAudit(limit=1, category="c", date_from="2026-01-01"))] == ["6"]
    for statement in ("UPDATE audit SET actor = 'x' WHERE id = 2", "DELETE FROM audit WHERE id = 2"):
        with pytest.raises(DBAPIError, match="append-only"), writer.begin():
            writer.exec_driver_sql(statement)
    with writer.begin():
        writer.exec_driver_sql("ALTER TABLE audit DISABLE TRIGGER ALL")
        writer.exec_driver_sql("UPDATE audit SET actor = 'x' WHERE id = 2")
        writer.exec_driver_sql("ALTER TABLE audit ENABLE TRIGGER ALL")
    (problem,) = answer(reader, CheckAuditPage(after=AuditHead())).problems
    assert problem.startswith("entry 2 was changed")
    run_batch(writer, [ArchiveAudit(head=head, file="a.jsonl", digest="d"), DropArchived()])
    assert answer(reader, ListAudit()) == []
    report = SelfAuditReport("2026-05-04", datetime.now(UTC), 1, 1, 0, [AuditCheck("a", True, "b", "info")])
    run_batch(writer, [KeepSelfAudit(report=report)] * 2)
    assert answer(reader, GetSelfAudit(date="2026-05-04")) == report


def test_a_reader_cannot_write(reader: Connection) -> None:
    (outcome,) = run_batch(reader, [question()])
    assert isinstance(outcome, Exception)


def test_a_lost_connection_is_said_and_comes_back(database: Database, writer: Connection) -> None:
    assert run_batch(writer, [question("t-1")])[0].created
    pid = writer.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    writer.rollback()
    with database.connect_writer() as other:
        other.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
    lost = run_batch(writer, [question("t-2"), question("t-3")])
    assert [type(outcome) for outcome in lost] == [Unavailable, Unavailable]
    assert run_batch(writer, [question("t-4")])[0].created


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1/") as caught:
        open_database("postgresql+psycopg://ann:hunter2@127.0.0.1:1/paw")
    assert "hunter2" not in str(caught.value)
