"""The health engine on a real store, with what is told to it by a real runtime."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import trio
import trio.testing
from pocketpaw.actors import checks, health
from pocketpaw.actors.channels.keeper import ChannelsKeeper, Switches
from pocketpaw.actors.checks import Check, Finding, Surroundings
from pocketpaw.actors.health import (
    ClearErrors,
    GetErrors,
    GetHealth,
    GetReadiness,
    GetServices,
    Health,
    HealthView,
    RecordProblem,
    Reported,
    RunChecks,
)
from pocketpaw.actors.journal import KEPT, Journal
from pocketpaw.actors.kits.keeper import Kits
from pocketpaw.actors.mcp.keeper import McpKeeper
from pocketpaw.actors.models.router import BackendState, CheckBackends
from pocketpaw.actors.reporter import Reporter
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tools.catalogue import Catalogue
from pocketpaw.config.logs import Redactor
from pocketpaw.runtime import Actor, ActorSystem, Child, Done, DynamicSupervisor, Message, Report, Supervisor
from pocketpaw.runtime.errors import NeedsOperator, PocketPawError, Unavailable
from pocketpaw.storage.error_log import ErrorRecord, ListErrors
from pocketpaw.storage.supervision_log import ListSupervisionEvents, RecordSupervisionEvents

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
MakeLive = Callable[..., LiveSettings]
OpenDaemon = Callable[..., AbstractAsyncContextManager[ActorSystem]]


class FakeRouter(Actor):
    async def check_backends(self, message: CheckBackends) -> list[BackendState]:
        return [BackendState("embedded", "SmolLM2", available=True, detail="", latency_ms=1.0)]


class Attacher(Actor):
    """Comes first, and so attaches the reporter before there is anything to report."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    async def on_start(self) -> None:
        self._reporter.attach(self.system)


class Fail(Message[Done], to="leaf"):
    """Crashes the leaf."""


class Leaf(Actor):
    async def fail(self, message: Fail) -> Done:
        raise ValueError("broke in my hands")


class Picky(Actor):
    """Starts once what it needs is there."""

    is_content = False

    async def on_start(self) -> None:
        if not Picky.is_content:
            raise NeedsOperator("telegram_bot_token is refused: set another one")


ROUTER = Supervisor("models", [Child(FakeRouter, id="router")])


@pytest.fixture
def daemon(live: LiveSettings, store: Supervisor, running: Running) -> OpenDaemon:
    """Health with the store, a router and more children, on the reporter that the daemon has."""

    @asynccontextmanager
    async def open_daemon(*more: Child) -> AsyncGenerator[ActorSystem]:
        reporter = Reporter(Redactor(lambda: live.secrets))
        keeper = Child(McpKeeper, live, Catalogue(), id="keeper")
        mcp = Supervisor("mcp", [DynamicSupervisor("servers"), keeper])
        channels_keeper = Child(ChannelsKeeper, live, "boot-1", Switches(), id="keeper")
        channels = Supervisor("channels", [DynamicSupervisor("adapters"), channels_keeper])
        owners = [store, Child(Health, live), Child(Kits), ROUTER, mcp, channels]
        tree = Supervisor("root", [Child(Attacher, reporter), *owners, *more])
        async with running(tree, reporter.report) as system:
            yield system

    return open_daemon


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "SAVE_AFTER_S", 0.01)
    monkeypatch.setattr(health, "PAUSE_S", 0.01)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    with trio.fail_after(5):
        while not await condition():  # noqa: ASYNC110 what it looks at is answered, not announced
            await trio.sleep(0.01)


async def test_a_daemon_with_nothing_wrong_is_healthy_and_ready(daemon: OpenDaemon) -> None:
    async with daemon() as system:
        before = datetime.now(UTC)
        view = await system.ask(RunChecks())
        services = await system.ask(GetServices())
        readiness = await system.ask(GetReadiness())
        assert await system.ask(GetHealth()) == view
    assert view.issues == []
    assert (view.status, view.check_count) == ("healthy", len(checks.CHECKS))
    assert view.last_check is not None
    assert view.last_check >= before
    assert set(services.services) == set(checks.CHECKS)
    assert {service.status for service in services.services.values()} == {"healthy"}
    assert readiness.ready


async def test_a_crash_is_an_error_with_its_traceback_and_an_event_in_the_log(daemon: OpenDaemon) -> None:
    async with daemon(Child(Leaf)) as system:
        with pytest.raises(PocketPawError):
            await system.ask(Fail())
        await until(lambda: system.ask(GetErrors()))
        (error,) = await system.ask(GetErrors())
        events = [(event.event, event.incarnation) for event in await system.ask(ListSupervisionEvents(path="leaf"))]
        assert (await system.ask(RunChecks())).status == "healthy"
    assert (error.source, error.severity, error.message) == ("leaf", "error", "ValueError: broke in my hands")
    assert "in fail" in (error.traceback or "")
    assert error.context == {"event": "exited", "incarnation": 1}
    assert error.id.isdigit()  # the store has it
    assert events == [("started", 2), ("restarted", 1), ("exited", 1), ("started", 1)]


async def test_a_parked_actor_is_a_repair_item_until_it_is_mended(
    daemon: OpenDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Picky, "is_content", False)
    async with daemon(Child(Picky, on_limit="park")) as system:
        with system.bus.subscribe("events") as events:
            await until(lambda: _has_issue(system, "actors:picky"))
            (issue,) = (await system.ask(GetHealth())).issues
            await system.ask(RunChecks())
            (again,) = (await system.ask(GetHealth())).issues
            monkeypatch.setattr(Picky, "is_content", True)
            await system.root.restart_child("picky")
            await until(lambda: _is(system, "healthy"))
            told = [event.data()["content"] for event in await events.take() if event.name == "health_update"]
    assert (issue.name, issue.category, issue.status) == ("Actors", "runtime", "warning")
    assert again.message == "picky is down: telegram_bot_token is refused: set another one"
    assert "POST runtime/actors/picky/restart" in issue.fix_hint
    assert again.timestamp == issue.timestamp  # since when it is so
    assert told[0] == "degraded"
    assert told[-1] == "healthy"


async def test_a_damaged_database_is_a_repair_item_that_names_file_and_copy(
    live: LiveSettings, daemon: OpenDaemon
) -> None:
    live.home.database.write_bytes(b"this is no database" * 1000)
    async with daemon(Child(Leaf)) as system:
        view = await system.ask(RunChecks())
        with pytest.raises(PocketPawError):
            await system.ask(Fail())
        await until(lambda: _has_error(system, "ValueError: broke in my hands"))
        errors = await system.ask(GetErrors())
        readiness = await system.ask(GetReadiness())
        services = await system.ask(GetServices())
    (copy,) = live.home.root.glob("pocketpaw.db.corrupt-*Z")
    (issue,) = view.issues
    assert (view.status, issue.check_id, issue.status) == ("unhealthy", "storage", "critical")
    assert str(live.home.database) in issue.message
    assert str(copy) in issue.message
    assert ".backup" in issue.fix_hint
    assert any(error.message.startswith("earlier errors cannot be read") for error in errors)
    assert (readiness.ready, readiness.reason) == (False, issue.message)
    assert services.services["storage"].status == "unhealthy"


async def test_problems_are_kept_searched_paged_and_cleared(daemon: OpenDaemon) -> None:
    async with daemon() as system:
        for number in range(5):
            await system.tell(RecordProblem(source="http", message=f"Connection {number}", context={"peer": "a"}))
        await system.tell(RecordProblem(source="channels/telegram", message="Token refused", severity="warning"))
        await until(lambda: _has_error(system, "Token refused"))
        newest = await system.ask(GetErrors(limit=2))
        rest = await system.ask(GetErrors(limit=3, offset=2))
        found = await system.ask(GetErrors(search="TELEGRAM"))
        await system.ask(ClearErrors())
        assert await system.ask(GetErrors()) == []
    assert [error.message for error in newest] == ["Token refused", "Connection 4"]
    assert [error.message for error in rest] == ["Connection 3", "Connection 2", "Connection 1"]
    assert [error.severity for error in found] == ["warning"]
    assert newest[1].context == {"peer": "a"}


async def test_no_problem_keeps_a_secret(live: LiveSettings, daemon: OpenDaemon) -> None:
    token = live.access_token
    async with daemon() as system:
        problem = RecordProblem(
            source="http", message=f"bad {token}", traceback=f"in {token}", context={"url": [f"?token={token}"]}
        )
        await system.tell(problem)
        await until(lambda: system.ask(GetErrors()))
        (error,) = await system.ask(GetErrors())
    assert token not in repr(error)
    assert error.message == "bad [secret]"


async def test_running_the_checks_is_told_to_all(daemon: OpenDaemon) -> None:
    async with daemon() as system:
        await until(lambda: _has_run(system))
        with system.bus.subscribe("events") as events:
            view = await system.ask(RunChecks())
            event = (await events.take())[-1]
    assert event.name == "health_update"
    assert event.data()["content"] == "healthy"
    assert event.data()["metadata"]["check_count"] == view.check_count


async def test_what_held_up_the_loop_is_an_issue_for_a_while(daemon: OpenDaemon) -> None:
    async with daemon() as system:
        now = datetime.now(UTC)
        for at, path in ((now - timedelta(minutes=5), "long/ago"), (now, "agents/s-1")):
            report = Report("lag", path, 1, "the loop stood still for 0.80 s", "File agent.py, in sleep")
            await system.tell(Reported(report=report, at=at))
        view = await system.ask(RunChecks())
        await until(lambda: system.ask(GetErrors()))
        errors = await system.ask(GetErrors())
    (issue,) = view.issues
    assert (issue.check_id, issue.status) == ("event_loop:agents/s-1", "warning")
    assert issue.message == "agents/s-1: the loop stood still for 0.80 s"
    assert errors[0].traceback == "File agent.py, in sleep"


async def _hangs(_: Surroundings) -> list[Finding]:
    await trio.sleep_forever()
    return []


async def _raises(_: Surroundings) -> list[Finding]:
    raise ZeroDivisionError("my own fault")


async def test_a_check_that_hangs_or_fails_is_an_issue_and_hurts_no_other(
    daemon: OpenDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    for look in (_hangs, _raises):
        check = Check(look.__name__[1:], look.__name__[1:], "test", 60.0, 0.05, look)
        monkeypatch.setitem(checks.CHECKS, check.id, check)
    async with daemon() as system:
        view = await system.ask(RunChecks())
        await until(lambda: system.ask(GetErrors()))
        (error,) = await system.ask(GetErrors())
    assert [(issue.check_id, issue.status, issue.message) for issue in view.issues] == [
        ("hangs", "warning", "the check did not end within 0.05 s"),
        ("raises", "warning", "the check failed: ZeroDivisionError: my own fault"),
    ]
    assert error.source == "health/raises"
    assert "in _raises" in (error.traceback or "")


class Stuck(Actor):
    """A store that never answers."""

    async def take(self, message: RecordSupervisionEvents | ListErrors) -> Done:
        await trio.sleep_forever()
        return Done()


async def test_health_is_told_at_once_while_the_store_is_stuck(live: LiveSettings, running: Running) -> None:
    names = ("writer", "reader")
    stuck = Supervisor("store", [Child(Stuck, id=name, shutdown_s="brutal_kill") for name in names])
    tree = Supervisor("root", [stuck, Child(Health, live, shutdown_s="brutal_kill")])
    async with running(tree) as system, trio.open_nursery() as nursery:
        report = Report("exited", "leaf", 1, "", "", "normal")
        await system.tell(Reported(report=report, at=datetime.now(UTC)))
        for _ in range(10):
            nursery.start_soon(system.ask, GetErrors())
        await trio.sleep(0.1)
        with trio.fail_after(0.1):
            await system.ask(GetHealth())
        nursery.cancel_scope.cancel()


async def test_a_check_that_found_something_looks_again_soon_and_others_in_their_own_time(
    live: LiveSettings, running: Running, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    times: dict[str, list[float]] = {"bad": [], "good": []}

    def looker(name: str, findings: list[Finding]) -> Check:
        async def look(_: Surroundings) -> list[Finding]:
            times[name].append(trio.current_time())
            return findings

        return Check(name, name, "test", 300.0, 5.0, look)

    only = {
        "storage": checks.CHECKS["storage"],
        "event_loop": checks.CHECKS["event_loop"],
        "actors": checks.CHECKS["actors"],
        "bad": looker("bad", [Finding("warning", "bad", "hint")]),
        "good": looker("good", []),
    }
    for id_ in list(checks.CHECKS):
        if id_ not in only:
            monkeypatch.delitem(checks.CHECKS, id_)
    for id_, check in only.items():
        monkeypatch.setitem(checks.CHECKS, id_, check)
    async with running(Supervisor("root", [Child(Health, live)])):
        await trio.sleep(301)
    assert len(times["good"]) == 2
    assert {round(later - earlier) for earlier, later in pairwise(times["bad"])} == {30}


class FlakyStore:
    """Stands where a journal asks the store: takes messages while it works, in order, and can be held up."""

    def __init__(self) -> None:
        self.works = False
        self.can_be_read = False
        self.is_open = trio.Event()
        self.is_open.set()
        self.taken: list[Message[object]] = []

    async def ask(self, message: Message[object], /, *, timeout_s: float) -> object:
        await self.is_open.wait()
        if not (self.can_be_read if isinstance(message, ListErrors) else self.works):
            raise Unavailable("the database cannot be used")
        self.taken.append(message)
        return []


def _journal(store: FlakyStore) -> Journal:
    return Journal(store.ask)  # pyright: ignore[reportArgumentType] it answers everything alike


def _add(journal: Journal, text: str) -> None:
    journal.add_error(datetime.now(UTC), "leaf", "error", text, None, {})


async def test_what_the_store_does_not_take_is_kept_bounded_and_saved_in_order_later() -> None:
    store = FlakyStore()
    journal = _journal(store)
    start = datetime.now(UTC)
    for number in range(KEPT + 50):
        _add(journal, f"error {number}")
        journal.add_event(start - timedelta(seconds=number), Report("started", "leaf", number, ""))
    assert not await journal.save()
    unsaved = await journal.errors(500, 0, "")
    assert unsaved[1].message == f"error {KEPT + 49}"
    store.works = True
    assert await journal.save()
    events, *errors = store.taken
    assert isinstance(events, RecordSupervisionEvents)
    assert len(events.events) == KEPT
    assert events.events == sorted(events.events, key=lambda event: event.timestamp)
    assert len(errors) == KEPT
    store.taken.clear()
    assert await journal.save()
    assert store.taken == []


async def test_the_same_error_again_is_counted_until_it_is_saved() -> None:
    store = FlakyStore()
    journal = _journal(store)
    for _ in range(100):
        _add(journal, "again")
    (error,) = await _unsaved(journal, "again")
    assert error.context == {"times": 100}


async def test_events_are_bounded_while_nobody_saves_them_and_when_a_save_fails() -> None:
    store = FlakyStore()
    journal = _journal(store)

    def add(count: int) -> None:
        for number in range(count):
            journal.add_event(datetime.now(UTC), Report("started", "leaf", number, ""))

    store.works = True
    add(KEPT + 50)
    assert await journal.save()
    store.works = False
    store.is_open = trio.Event()
    add(KEPT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.save)
        await trio.testing.wait_all_tasks_blocked()
        add(50)
        store.is_open.set()
    store.works = True
    assert await journal.save()
    saved = [message.events for message in store.taken if isinstance(message, RecordSupervisionEvents)]
    assert [len(events) for events in saved] == [KEPT, KEPT]
    assert [event.incarnation for event in saved[1][-50:]] == list(range(50))


async def test_the_stored_errors_follow_the_unsaved_ones_page_by_page() -> None:
    store = FlakyStore()
    store.can_be_read = True
    journal = _journal(store)
    for number in range(3):
        _add(journal, f"error {number}")
    pages = [await journal.errors(2, offset, "") for offset in (0, 2, 4)]
    asked = [message.offset for message in store.taken if isinstance(message, ListErrors)]
    assert [[error.message for error in page] for page in pages] == [["error 2", "error 1"], ["error 0"], []]
    assert asked == [0, 0, 1]


async def test_that_stored_errors_cannot_be_read_is_an_error_itself() -> None:
    store = FlakyStore()
    journal = _journal(store)
    for number in range(3):
        _add(journal, f"error {number}")
    first = await journal.errors(2, 0, "error ")
    second = await journal.errors(2, 2, "error ")
    assert [error.message for error in first] == [
        "earlier errors cannot be read: the database cannot be used",
        "error 2",
    ]
    assert [error.message for error in second] == ["error 1", "error 0"]


async def test_an_error_that_comes_again_while_it_is_being_saved_is_not_lost() -> None:
    store = FlakyStore()
    store.works = True
    journal = _journal(store)
    _add(journal, "again")
    async with trio.open_nursery() as nursery:
        store.is_open = trio.Event()
        nursery.start_soon(journal.save)
        await trio.testing.wait_all_tasks_blocked()
        _add(journal, "again")
        store.is_open.set()
    assert await journal.save()
    assert len(store.taken) == 2


async def _unsaved(journal: Journal, text: str) -> list[ErrorRecord]:
    return [error for error in await journal.errors(500, 0, "") if error.message == text]


async def _has_issue(system: ActorSystem, check_id: str) -> bool:
    return any(issue.check_id == check_id for issue in (await system.ask(GetHealth())).issues)


async def _is(system: ActorSystem, status: str) -> bool:
    return (await system.ask(GetHealth())).status == status


async def _has_run(system: ActorSystem) -> bool:
    return len((await system.ask(GetServices())).services) == len(checks.CHECKS)


async def _has_error(system: ActorSystem, message: str) -> bool:
    return any(error.message == message for error in await system.ask(GetErrors()))


def test_a_view_knows_what_the_contract_shows() -> None:
    assert HealthView.__struct_fields__ == ("status", "check_count", "issues", "last_check")
    expected = ("check_id", "name", "category", "status", "message", "fix_hint", "timestamp")
    assert health.Issue.__struct_fields__ == expected
