"""The store's actors: what they answer while the database comes, goes and breaks."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from pocketpaw.runtime import ActorSystem, Child, Message, Supervisor
from pocketpaw.runtime.errors import ActorDied, Conflict, NotFound, PocketPawError, Unavailable
from pocketpaw.storage import recent
from pocketpaw.storage import store as store_module
from pocketpaw.storage.database import Database
from pocketpaw.storage.failures import DatabaseDamaged
from pocketpaw.storage.registry import Function, commands, queries
from pocketpaw.storage.sessions import CreateSession, GetSession, ListSessions, RenameSession
from pocketpaw.storage.store import READERS, Storage, StoreReader, StoreWriter
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
OpenStore = Callable[[], AbstractAsyncContextManager[ActorSystem]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "pocketpaw.db"


@pytest.fixture
def open_store(file: Path, running: Running, monkeypatch: pytest.MonkeyPatch) -> OpenStore:
    monkeypatch.setattr(store_module, "RETRY_S", 0.05)

    @asynccontextmanager
    async def start() -> AsyncGenerator[ActorSystem]:
        storage = Storage(f"sqlite:///{file}")
        actors = [Child(StoreWriter, storage, id="writer"), Child(StoreReader, storage, id="reader")]
        async with running(Supervisor("root", [Supervisor("store", actors, strategy="rest_for_one")])) as system:
            yield system

    file.parent.mkdir()
    return start


@pytest.fixture
def long_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that only a write makes a kept answer old, however slow the machine is."""
    monkeypatch.setattr(recent, "FRESH_S", 600.0)


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands each batch had."""
    sizes: list[int] = []
    run_batch = store_module.run_batch

    def counting(connection: Connection, messages: list[Message[object]]) -> list[object]:
        sizes.append(len(messages))
        return run_batch(connection, messages)

    monkeypatch.setattr(store_module, "run_batch", counting)
    return sizes


class Gate:
    """Stands before a registered function, on its thread; closed, it holds what comes."""

    def __init__(
        self, functions: dict[type[Message[Any]], Function], message_type: type[Message[Any]], patch: pytest.MonkeyPatch
    ) -> None:
        self.came = 0
        self.opened = threading.Event()
        self.raises: list[Exception] = []
        self._function = functions[message_type]
        patch.setitem(functions, message_type, self)

    def __call__(self, connection: Connection, message: object) -> object:
        self.came += 1
        assert self.opened.wait(20)
        if self.raises:
            raise self.raises.pop()
        return self._function(connection, message)


EITHER: tuple[Message[Any], Message[Any]] = (CreateSession(), ListSessions())


def read(file: Path) -> bytes:
    return file.read_bytes()


def write(file: Path, data: bytes) -> None:
    file.write_bytes(data)


async def create(system: ActorSystem, session_id: str) -> None:
    await system.ask(CreateSession(session_id=session_id))


async def names(system: ActorSystem) -> set[str]:
    return {session.id for session in (await system.ask(ListSessions(limit=500))).sessions}


# Together -------------------------------------------------------------------------------------------------------------


async def test_what_waits_is_committed_together_and_each_gets_its_own_answer(
    open_store: OpenStore, commits: list[int], monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    gate = Gate(commands, CreateSession, monkeypatch)
    failures: list[PocketPawError] = []
    async with open_store() as system:

        async def rename_nothing() -> None:
            try:
                await system.ask(RenameSession(session_id="s-none", title="x"))
            except NotFound as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(create, system, "s-first")
            await eventually(lambda: gate.came)
            for number in range(50):
                nursery.start_soon(create, system, f"s-{number}")
            nursery.start_soon(rename_nothing)
            await trio.testing.wait_all_tasks_blocked(0.01)
            gate.opened.set()
        assert commits == [1, 51]
        assert len(await names(system)) == 51
    assert len(failures) == 1


async def test_what_was_answered_is_read_at_once(open_store: OpenStore) -> None:
    async with open_store() as system:
        for number in range(20):
            await create(system, f"s-{number}")
            assert (await system.ask(GetSession(session_id=f"s-{number}"))).id == f"s-{number}"
        with pytest.raises(Conflict):
            await create(system, "s-1")


async def test_a_slow_query_keeps_neither_the_writer_nor_other_queries(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    gate = Gate(queries, ListSessions, monkeypatch)
    async with open_store() as system, trio.open_nursery() as nursery:
        nursery.start_soon(names, system)
        await eventually(lambda: gate.came == 1)  # one after the other, as what comes together goes to one reader
        nursery.start_soon(names, system)
        await eventually(lambda: gate.came == 2)
        with trio.fail_after(5):
            await create(system, "s-1")
            await system.ask(GetSession(session_id="s-1"))
        gate.opened.set()


# Crashes --------------------------------------------------------------------------------------------------------------


async def test_a_command_that_crashes_the_writer_hurts_neither_its_batch_nor_what_waits(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    gate, bug = Gate(commands, CreateSession, monkeypatch), Gate(commands, RenameSession, monkeypatch)
    bug.opened.set()
    bug.raises.append(RuntimeError("a bug"))
    async with open_store() as system:

        async def rename() -> None:
            with pytest.raises(ActorDied, match="a bug"):
                await system.ask(RenameSession(session_id="s-first", title="x"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(create, system, "s-first")
            await eventually(lambda: gate.came)
            nursery.start_soon(create, system, "s-1")
            nursery.start_soon(rename)
            nursery.start_soon(create, system, "s-2")
            await trio.testing.wait_all_tasks_blocked(0.01)
            gate.opened.set()
        await create(system, "s-3")
        assert await names(system) == {"s-first", "s-1", "s-2", "s-3"}
        assert system.node("store/writer").number == 2


async def test_a_query_that_crashes_restarts_the_readers_only(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = Gate(queries, GetSession, monkeypatch)
    bug.opened.set()
    bug.raises.append(RuntimeError("a bug"))
    async with open_store() as system:
        await create(system, "s-1")
        with pytest.raises(ActorDied):
            await system.ask(GetSession(session_id="s-1"))
        assert (await system.ask(GetSession(session_id="s-1"))).id == "s-1"
        assert (system.node("store/writer").number, system.node("store/reader").number) == (1, 2)


# Safe mode ------------------------------------------------------------------------------------------------------------


async def test_a_damaged_database_is_left_as_it_is_and_every_message_is_told(open_store: OpenStore, file: Path) -> None:
    before = b"this is no database" * 100
    write(file, before)
    async with open_store() as system:
        for message in (*EITHER, CreateSession()):
            with pytest.raises(DatabaseDamaged) as caught:
                await system.ask(message)
            assert caught.value.path == file
            assert caught.value.copy is not None
            assert read(caught.value.copy) == before
            await trio.sleep(0.06)
        assert (system.node("store/writer").number, system.node("store/reader").number) == (1, 1)
    assert read(file) == before
    assert len(list(file.parent.glob("*.corrupt-*"))) == 1


@pytest.mark.parametrize("first", [CreateSession(session_id="s-1"), ListSessions()], ids=["a command", "a query"])
async def test_a_database_that_could_not_be_opened_is_opened_when_it_can_be(
    open_store: OpenStore, file: Path, first: Message[Any]
) -> None:
    folder = file.parent
    folder.rmdir()
    folder.touch()  # nothing can be made in what is no folder
    async with open_store() as system:
        for message in EITHER:
            with pytest.raises(Unavailable, match=str(file)):
                await system.ask(message)
        folder.unlink()
        folder.mkdir()
        await trio.sleep(0.06)
        await system.ask(first)
        await create(system, "s-2")
        assert "s-2" in await names(system)


async def test_it_is_not_tried_with_every_message(
    open_store: OpenStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "RETRY_S", 60.0)
    folder = file.parent
    folder.rmdir()
    folder.touch()
    async with open_store() as system:
        folder.unlink()
        folder.mkdir()
        with pytest.raises(Unavailable):
            await create(system, "s-1")


async def test_a_lock_of_another_process_passes(
    open_store: OpenStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketpaw.storage.database._PRAGMAS", ("PRAGMA busy_timeout = 10",))
    async with open_store() as system:
        await create(system, "s-1")
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match="another process holds it locked"):
                await create(system, "s-2")
            assert await names(system) == {"s-1"}
            other.execute("ROLLBACK")
        await create(system, "s-2")
        assert await names(system) == {"s-1", "s-2"}
        assert system.node("store/writer").number == 1


@pytest.mark.parametrize("method", ["connect_writer", "connect_reader"])
async def test_a_server_that_is_away_is_an_answer_and_not_a_crash(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    async with open_store() as system:

        def refuse(_: Database) -> Connection:
            raise OperationalError("connect", None, OSError("connection refused"))

        with monkeypatch.context() as away:
            away.setattr(Database, method, refuse)
            for _ in range(5):
                with pytest.raises(Unavailable, match="connection refused"):
                    await system.ask(EITHER[method == "connect_reader"])
        await create(system, "s-1")
        assert "s-1" in await names(system)
        assert (system.node("store/writer").number, system.node("store/reader").number) == (1, 1)


@pytest.mark.usefixtures("long_fresh")
async def test_what_is_asked_again_is_read_once_until_something_is_written(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Gate(queries, ListSessions, monkeypatch)
    reads.opened.set()
    async with open_store() as system:
        await system.ask(CreateSession(title="one"))
        for _ in range(3):
            assert [one.title for one in (await system.ask(ListSessions())).sessions] == ["one"]
        assert reads.came == 1
        assert (await system.ask(ListSessions(offset=1))).sessions == []
        assert reads.came == 2
        await system.ask(CreateSession(title="two"))
        assert {one.title for one in (await system.ask(ListSessions())).sessions} == {"one", "two"}


@pytest.mark.usefixtures("long_fresh")
async def test_what_was_read_before_a_write_does_not_hold_after_it(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    async with open_store() as system:
        await system.ask(CreateSession(session_id="s-1", title="before"))
        read = queries[ListSessions]
        has_read, may_answer = threading.Event(), threading.Event()

        def slow(connection: Connection, message: ListSessions) -> object:
            page = read(connection, message)
            has_read.set()
            assert may_answer.wait(20)
            return page

        monkeypatch.setitem(queries, ListSessions, slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(system.ask, ListSessions())
            await eventually(has_read.is_set)
            await system.ask(RenameSession(session_id="s-1", title="after"))
            may_answer.set()
        assert [one.title for one in (await system.ask(ListSessions())).sessions] == ["after"]


async def test_what_another_program_writes_is_seen_soon(
    open_store: OpenStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "FRESH_S", 0.0)
    async with open_store() as system:
        await system.ask(CreateSession(session_id="s-1", title="ours"))
        assert [one.title for one in (await system.ask(ListSessions())).sessions] == ["ours"]
        with closing(sqlite3.connect(file)) as other, other:
            other.execute("UPDATE sessions SET title = 'theirs'")
        assert [one.title for one in (await system.ask(ListSessions())).sessions] == ["theirs"]


@pytest.mark.usefixtures("long_fresh")
def test_what_is_kept_is_bounded() -> None:
    answers = recent.RecentAnswers()
    for number in range(recent.ENTRIES + 1):
        answers.keep((ListSessions, b"%d" % number), answers.generation, b"answer")
    assert answers.get((ListSessions, b"0")) is None
    assert answers.get((ListSessions, b"1")) == b"answer"
    answers.keep((ListSessions, b"large"), answers.generation, b"x" * (recent.ENTRY_BYTES + 1))
    assert answers.get((ListSessions, b"large")) is None
    long = (ListSessions, b"x" * recent.ENTRY_BYTES)
    answers.keep(long, answers.generation, b"answer")
    assert answers.get(long) is None


def test_readers_that_keep_answers_at_the_same_time_do_not_disturb_each_other() -> None:
    answers = recent.RecentAnswers()

    def keep(reader: int) -> None:
        for number in range(50_000):
            answers.keep((ListSessions, b"%d %d" % (reader, number)), answers.generation, b"answer")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(READERS) as readers:
            list(readers.map(keep, range(READERS)))
    finally:
        sys.setswitchinterval(before)
