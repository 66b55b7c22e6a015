"""A daemon's scheduler in virtual time: the real SQL in a real file, called in the loop, as no clock sees threads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio
from pocketpaw.actors.agent import Accepted, Chat, session_topic
from pocketpaw.actors.scheduler.scheduler import Scheduler
from pocketpaw.actors.scheduler.standing import Standing
from pocketpaw.config import Settings
from pocketpaw.runtime import Actor, ActorSystem, Backoff, Child, DynamicSupervisor, Message, Supervisor
from pocketpaw.runtime.handlers import Handler
from pocketpaw.storage.database import Database, open_database
from pocketpaw.storage.group import run_batch
from pocketpaw.storage.jobs import AddJob, Job
from pocketpaw.storage.registry import answer, commands, load_all, queries
from pocketpaw.storage.schedule import ListRuns, Run
from pocketpaw.storage.turns import AddTurn, FinishTurn
from sqlalchemy import Connection, text

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
R = TypeVar("R")

load_all()


class VirtualClock:
    """Shows trio's time as a time of day, and can be set."""

    def __init__(self, start: datetime) -> None:
        self._start = start
        self._origin: float | None = None

    def now(self) -> datetime:
        if self._origin is None:
            self._origin = trio.current_time()
        return self._start + timedelta(seconds=trio.current_time() - self._origin)

    def set(self, by: timedelta) -> None:
        self._start += by

    async def sleep_until(self, moment: datetime) -> None:
        await trio.sleep((moment - self.now()).total_seconds())


@dataclass
class Faults:
    """Where the daemon dies: before or after the store has taken the `nth` message of a type."""

    message_type: type[Message[Any]] | None = None
    nth: int = 1
    is_after: bool = False
    died: trio.Event = field(default_factory=trio.Event)
    seen: int = 0

    async def pass_by(self, message: Message[Any], *, is_after: bool) -> None:
        if self.message_type is not type(message) or self.is_after is not is_after:
            return
        self.seen += 1
        if self.seen == self.nth:
            self.died.set()
            await trio.sleep_forever()  # nothing more is heard of this life


class LoopStore(Actor):
    """Runs each command or query at once, in the loop."""

    concurrency = 100
    handler_timeout_s = None

    def __init__(self, writer: Connection, reader: Connection, faults: Faults) -> None:
        super().__init__()
        self._writer, self._reader, self._faults = writer, reader, faults

    async def take(self, request: Message[Any]) -> Any:
        await self._faults.pass_by(request, is_after=False)
        if type(request) in queries:
            outcome = answer(self._reader, request)
        else:
            (outcome,) = run_batch(self._writer, [request])
        if isinstance(outcome, Exception):
            raise outcome
        await self._faults.pass_by(request, is_after=True)
        return outcome


LoopStore.handlers = {type_: Handler(type_, LoopStore.take, is_async=True) for type_ in (*commands, *queries)}


@dataclass
class Answers:
    """What agents were told, and how long they take."""

    takes_s: float = 1.0
    fails: bool = False
    chats: list[tuple[str, str, str, list[str], list[str]]] = field(
        default_factory=list[tuple[str, str, str, list[str], list[str]]]
    )
    """Each as session, key, principal, scopes, provenance: once, however often it was said."""


class FakeAgent(Actor):
    """Commits what it is told as a turn, known by its idempotency key, and ends it after a while."""

    has_tasks = True

    def __init__(self, session_id: str, answers: Answers) -> None:
        super().__init__()
        self._session_id = session_id
        self._answers = answers

    async def chat(self, message: Chat) -> Accepted:
        topic = session_topic(self._session_id)
        after = self.system.bus.last_seq(topic)
        add = AddTurn(
            session_id=message.session_id,
            turn_id=f"t-{message.idempotency_key}",
            content=message.content,
            channel=message.channel,
            state="running",
            boot_id="boot",
            principal=self.principal.name,
            idempotency_key=message.idempotency_key,
        )
        added = await self.ask(add)
        turn = added.turn
        if added.created:
            said = (str(message.idempotency_key), self.principal.name)
            scopes = sorted(self.principal.scopes)
            self._answers.chats.append((self._session_id, *said, scopes, list(self.provenance)))
        if turn.state not in ("pending", "running"):
            return Accepted(turn.session_id, turn.id, after, ended=turn)
        self.spawn(self._end, turn.id)
        return Accepted(turn.session_id, turn.id, after)

    async def _end(self, turn_id: str) -> None:
        await trio.sleep(self._answers.takes_s)
        state = "failed" if self._answers.fails else "done"
        error = "the model is away" if self._answers.fails else None
        await self.ask(FinishTurn(turn_id=turn_id, boot_id="boot", state=state, content="", error=error))
        self.publish(session_topic(self._session_id), "stream_end", {"turn_id": turn_id})


class Live:
    """The settings, as a test has them."""

    def __init__(self, **settings: Any) -> None:
        self.current = Settings(**settings)


@dataclass
class Home:
    """What outlives the daemon: the database, the time of day, and what agents were told."""

    folder: Path
    clock: VirtualClock
    live: Live
    answers: Answers = field(default_factory=Answers)
    boots: int = 0

    def database(self) -> Database:
        return open_database(f"sqlite:///{self.folder}/pocketpaw.db")

    def ask(self, message: Message[R]) -> R:
        """Ask the store while no daemon runs."""
        database = self.database()
        try:
            with database.connect_writer() as connection:
                if type(message) in queries:
                    return answer(connection, message)
                (outcome,) = run_batch(connection, [message])
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome
        finally:
            database.close()

    def add(self, job: Job) -> None:
        self.ask(AddJob(job=job))

    def runs(self, job_id: str | None = None) -> list[Run]:
        """The ledger, in the order of the slots."""
        return self.ask(ListRuns(job_id=job_id, limit=100_000))[::-1]

    @asynccontextmanager
    async def daemon(
        self, running: Running, faults: Faults | None = None, standing: Sequence[Standing] = (), *others: Child
    ) -> AsyncGenerator[ActorSystem]:
        """Run a daemon that has a scheduler and agents."""
        self.boots += 1
        database = self.database()
        writer, reader = database.connect_writer(), database.connect_reader()
        for connection in (writer, reader):
            connection.execute(text("SELECT 1"))  # opens what a file's first reading opens
            connection.rollback()
        store = partial(LoopStore, writer, reader, faults or Faults())
        tree = Supervisor(
            "root",
            [
                Supervisor("store", [Child(store, id="writer"), Child(store, id="reader")]),
                DynamicSupervisor("agents", partial(FakeAgent, answers=self.answers)),
                *others,
                Child(
                    Scheduler,
                    self.live,
                    f"boot-{self.boots}",
                    standing,
                    self.clock,
                    backoff=Backoff(min_s=1.0, max_s=1.0),
                    max_restarts=100,
                    shutdown_s="brutal_kill",
                ),
            ],
        )
        try:
            async with running(tree) as system:
                yield system
        finally:
            writer.close()
            reader.close()
            database.close()


def reminder(job_id: str, at: datetime, schedule: str = "", **others: Any) -> Job:
    facts: dict[str, Any] = {"name": job_id, "principal": "ann", "created_at": at - timedelta(days=1), **others}
    return Job(id=job_id, kind="reminder", schedule=schedule, next_slot=at, **facts)


def intention(job_id: str, at: datetime, schedule: str, **others: Any) -> Job:
    facts: dict[str, Any] = {
        "name": job_id,
        "prompt": f"do {job_id}",
        "scopes": ["chat"],
        "channel": "intention",
        **others,
    }
    return Job(
        id=job_id,
        kind="intention",
        schedule=schedule,
        next_slot=at,
        principal="ann",
        created_at=at - timedelta(days=1),
        **facts,
    )
