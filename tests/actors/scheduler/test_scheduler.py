"""What people ask of the scheduler, on the real store, by the real clock."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import quantiles
from typing import Any

import msgspec
import pytest
import trio
from pocketpaw.actors.scheduler.intentions import (
    AddIntention,
    ChangeIntention,
    DeleteIntention,
    ListIntentions,
    RunIntention,
    SetWorkflows,
    ToggleIntention,
    Trigger,
    Workflow,
)
from pocketpaw.actors.scheduler.reminders import DeleteReminder, ListReminders, Remind
from pocketpaw.actors.scheduler.scheduler import Scheduler
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import ActorSystem, Child, DynamicSupervisor, Principal, Supervisor
from pocketpaw.runtime.errors import Conflict, InvalidInput, NotFound
from pocketpaw.storage.database import open_database
from pocketpaw.storage.group import run_batch
from pocketpaw.storage.history import GetHistory
from pocketpaw.storage.jobs import AddJob, ListJobs
from pocketpaw.storage.schedule import ListRuns
from pocketpaw.storage.sessions import CreateSession, GetSession

from .virtual import Answers, FakeAgent, reminder

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
Daemon = Callable[[], AbstractAsyncContextManager[ActorSystem]]

ANN = Principal("ann", frozenset({"reminders", "chat"}))
DAILY = Trigger("0 9 * * *")


@pytest.fixture
def answers() -> Answers:
    return Answers(takes_s=0.0)


@pytest.fixture
def daemon(live: LiveSettings, store: Supervisor, running: Running, answers: Answers) -> Daemon:
    @asynccontextmanager
    async def start() -> AsyncGenerator[ActorSystem]:
        tree = Supervisor(
            "root",
            [
                store,
                DynamicSupervisor("agents", partial(FakeAgent, answers=answers)),
                Child(Scheduler, live, "boot-1"),
            ],
        )
        async with running(tree) as system:
            yield system

    return start


async def test_a_reminder_is_made_of_words_and_listed_until_it_is_deleted(daemon: Daemon) -> None:
    async with daemon() as system:
        before = datetime.now(UTC)
        words = Remind(message="remind me in 2 hours to feed the cat", session_id="s-1")
        later = (await system.ask(Remind(message="tomorrow at 23:59 sleep"))).reminder
        soon = (await system.ask(words, principal=ANN)).reminder
        assert soon.text == "Feed the cat"
        assert timedelta(0) <= soon.trigger_at - before - timedelta(hours=2) < timedelta(seconds=30)
        assert (soon.time_remaining, soon.session_id, soon.recurrence) == ("in 2h", "s-1", None)
        again = (await system.ask(Remind(message="every weekday at 9 stand-up"))).reminder
        assert (again.text, again.recurrence) == ("Stand-up", "every weekday at 09:00")
        listed = (await system.ask(ListReminders())).reminders
        assert {one.id for one in listed} == {soon.id, later.id, again.id}
        assert [one.trigger_at for one in listed] == sorted(one.trigger_at for one in listed)
        assert (await system.ask(DeleteReminder(reminder_id=soon.id))).deleted
        with pytest.raises(NotFound, match="there is no reminder"):
            await system.ask(DeleteReminder(reminder_id=soon.id))
        with pytest.raises(InvalidInput, match="in 10 minutes to stretch") as refused:
            await system.ask(Remind(message="feed the cat"))
        assert refused.value.data["field"] == "message"


async def test_a_reminder_comes_to_its_session_and_as_an_event(daemon: Daemon) -> None:
    async with daemon() as system:
        await system.ask(CreateSession(session_id="s-1"))
        with system.bus.subscribe("events") as events, trio.fail_after(10):
            await system.ask(Remind(message="in 1 second to stretch", session_id="s-1"))
            event = await anext(events)
        assert event.name == "notification"
        assert event.data()["content"] == "Reminder: Stretch"
        assert event.data()["metadata"]["session_id"] == "s-1"
        (note,) = await system.ask(GetHistory(session_id="s-1"))
        assert note.content == "Reminder: Stretch"
        assert (await system.ask(GetSession(session_id="s-1"))).message_count == 1
        assert (await system.ask(ListReminders())).reminders == []


async def test_an_intention_is_changed_switched_and_deleted(daemon: Daemon) -> None:
    async with daemon() as system:
        add = AddIntention(name="Daily", prompt="hi", trigger=DAILY, context_sources=["datetime"])
        made = (await system.ask(add, principal=ANN)).intention
        assert (made.name, made.trigger, made.enabled, made.last_run) == ("Daily", DAILY, True, None)
        assert made.next_run is not None
        change = ChangeIntention(intention_id=made.id, name="Hourly", trigger=Trigger("0 * * * *"))
        changed = (await system.ask(change)).intention
        assert (changed.name, changed.prompt, changed.context_sources) == ("Hourly", "hi", ["datetime"])
        assert changed.next_run is not None
        assert changed.next_run - datetime.now(UTC) <= timedelta(hours=1)
        off = (await system.ask(ToggleIntention(intention_id=made.id))).intention
        assert (off.enabled, off.next_run) == (False, None)
        still_off = (await system.ask(ChangeIntention(intention_id=made.id, trigger=DAILY))).intention
        assert (still_off.trigger, still_off.next_run) == (DAILY, None)
        on = (await system.ask(ToggleIntention(intention_id=made.id))).intention
        assert on.next_run == made.next_run
        assert (await system.ask(ListIntentions())).intentions == [on]
        assert (await system.ask(DeleteIntention(intention_id=made.id))).deleted
        with pytest.raises(NotFound, match="there is no intention"):
            await system.ask(DeleteIntention(intention_id=made.id))
        with pytest.raises(NotFound, match="there is no intention"):
            await system.ask(ToggleIntention(intention_id=made.id))
        with pytest.raises(NotFound, match="there is no intention"):
            await system.ask(RunIntention(intention_id=made.id))
        with pytest.raises(NotFound, match="there is no intention"):
            await system.ask(ChangeIntention(intention_id=made.id, name="x"))


@pytest.mark.parametrize("change", [{"prompt": "send me the keys"}, {"context_sources": ["the keys"]}])
async def test_who_changes_what_an_intention_says_gives_it_no_more_than_their_own_scopes(
    daemon: Daemon, change: dict[str, Any]
) -> None:
    admin, ben = Principal("master", frozenset({"admin"})), Principal("ben", frozenset({"reminders", "memory"}))
    async with daemon() as system:
        for owner, changer, scopes in (
            (admin, ben, ["memory", "reminders"]),
            (ben, admin, ["memory", "reminders"]),
            (ANN, ben, ["reminders"]),
        ):
            made = await system.ask(AddIntention(name="Daily", prompt="hi", trigger=DAILY), principal=owner)
            wanted = ChangeIntention(intention_id=made.intention.id, name="Often", enabled=False)
            await system.ask(wanted, principal=changer)
            (job,) = await system.ask(ListJobs(kind="intention"))
            assert (job.principal, job.scopes) == (owner.name, sorted(owner.scopes))
            await system.ask(msgspec.structs.replace(wanted, **change), principal=changer)
            (job,) = await system.ask(ListJobs(kind="intention"))
            assert (job.principal, job.scopes) == (changer.name, scopes)
            await system.ask(DeleteIntention(intention_id=job.id))


@pytest.mark.parametrize(
    "line", ["nonsense", "0 9 * *", "61 * * * *", "0 0 31 2 *", "0 0 9 * * *", "@daily", "0 9 * * ä"]
)
async def test_a_bad_cron_line_is_refused(daemon: Daemon, line: str) -> None:
    async with daemon() as system:
        with pytest.raises(InvalidInput) as refused:
            await system.ask(AddIntention(name="x", prompt="x", trigger=Trigger(line)))
        assert refused.value.data["field"] == ["trigger", "schedule"]
        assert (await system.ask(ListIntentions())).intentions == []


async def test_an_intention_runs_when_a_person_says_so(
    daemon: Daemon, answers: Answers, eventually: Eventually
) -> None:
    async with daemon() as system:
        add = AddIntention(name="Daily", prompt="hi", trigger=DAILY, enabled=False)
        made = (await system.ask(add, principal=ANN)).intention
        with system.bus.subscribe("events") as events, trio.fail_after(10):
            run = await system.ask(RunIntention(intention_id=made.id))
            assert (run.status, run.session_id) == ("ok", f"intention:{made.id}")
            assert [(await anext(events)).name for _ in range(2)] == ["intention_started", "intention_completed"]
        ((session, _, principal, scopes, provenance),) = answers.chats
        assert (session, principal, scopes, provenance) == (run.session_id, "ann", ["chat", "reminders"], [])
        (row,) = await system.ask(ListRuns(job_id=made.id))
        assert row.state == "done"
        assert (await system.ask(GetSession(session_id=run.session_id))).title == "Daily"
        (shown,) = (await system.ask(ListIntentions())).intentions
        assert shown.last_run is not None
        answers.takes_s = 60.0
        await system.ask(RunIntention(intention_id=made.id))
        with pytest.raises(Conflict, match="runs already"):
            await system.ask(RunIntention(intention_id=made.id))


async def test_workflows_are_their_owners_and_no_others(daemon: Daemon) -> None:
    async with daemon() as system:
        own = (await system.ask(AddIntention(name="Mine", prompt="hi", trigger=DAILY))).intention
        first = Workflow("Brief", "write a brief", "0 7 * * *")
        second = Workflow("Tidy", "tidy up", "0 8 * * 5")
        await system.ask(SetWorkflows(owner="kit:home", workflows=[first, second]))
        before = {one.name: one for one in (await system.ask(ListIntentions())).intentions}
        assert before.keys() == {"Mine", "Brief", "Tidy"}
        changed = Workflow("Brief", "write a short brief", "0 7 * * *")
        await system.ask(SetWorkflows(owner="kit:home", workflows=[changed]))
        after = {one.name: one for one in (await system.ask(ListIntentions())).intentions}
        assert after.keys() == {"Mine", "Brief"}
        assert (after["Brief"].id, after["Brief"].prompt) == (before["Brief"].id, "write a short brief")
        assert after["Brief"].next_run == before["Brief"].next_run
        await system.ask(SetWorkflows(owner="kit:home", workflows=[]))
        assert (await system.ask(ListIntentions())).intentions == [own]


@pytest.fixture
def quick_switches() -> Generator[None]:
    """As the daemon has it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.001)
    yield
    sys.setswitchinterval(before)


@pytest.mark.soak
async def test_ten_thousand_reminders_at_once_leave_the_loop_to_others(
    live: LiveSettings, daemon: Daemon, quick_switches: None, record_property: Callable[[str, object], None]
) -> None:
    database = open_database(live.home.database_url(live.current))
    due = datetime.now(UTC)
    with database.connect_writer() as connection:
        made = [AddJob(job=reminder(f"r-{number}", due, "0 0 * * *")) for number in range(10_000)]
        assert not [outcome for outcome in run_batch(connection, made) if isinstance(outcome, Exception)]
    database.close()
    lags_s, told = list[float](), 0
    async with daemon() as system:
        began = time.perf_counter()
        with system.bus.subscribe("events") as events, trio.fail_after(60):
            while told < 10_000:
                before = time.perf_counter()
                with trio.move_on_after(0.005):
                    told += len(await events.take())
                    continue
                lags_s.append(time.perf_counter() - before - 0.005)
        took_s = time.perf_counter() - began
        runs = await system.ask(ListRuns(limit=100_000))
    assert len({run.job_id for run in runs}) == len(runs) == 10_000
    assert {run.state for run in runs} == {"done"}
    most_ms, p99_ms = max(lags_s) * 1000, quantiles(lags_s, n=100)[-1] * 1000
    print(f"10,000 due at once, with threads: {took_s:.1f} s, loop lag p99 {p99_ms:.0f} ms, at most {most_ms:.0f} ms")
    record_property("loop_lag_p99_ms", p99_ms)
    assert p99_ms < 100  # the very longest is as much the machine's as ours
