"""P4: what is due comes once, over changes of the clocks, restarts at any moment, sleep, and a crowded midnight."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import trio
import trio.testing
from pocketpaw.actors.scheduler.standing import Standing
from pocketpaw.runtime import Actor, ActorSystem, Child, Done, Message
from pocketpaw.storage.delivery import DeliverReminders
from pocketpaw.storage.history import GetHistory
from pocketpaw.storage.jobs import AddJob, ChangeJob, GetJob, ListDueJobs, add_job
from pocketpaw.storage.outbox import ClaimDelivery, EndDelivery, SumUpOutbox
from pocketpaw.storage.schedule import AddRun, ClaimSlots, FinishRun, ListRuns, Run, StartRuns
from pocketpaw.storage.sessions import CreateSession

from .conftest import MakeHome
from .virtual import Faults, Home, LoopStore, intention, reminder

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]

BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SPRING = datetime(2027, 3, 27, 11, 0, tzinfo=UTC)
"""A day before clocks go ahead in Berlin, at 02:00."""

AUTUMN = datetime(2026, 10, 24, 10, 0, tzinfo=UTC)
"""A day before they go back there, at 03:00."""

DAILY = "30 2 * * *"
AT_3 = "0 3 * * *"
HALF_HOURLY = "*/30 * * * *"
EACH_2_HOURS = "PT120M"
EACH_DAY = "P1D 02:30"


def at(text: str) -> datetime:
    """A time of day in Berlin, given with its offset."""
    return datetime.fromisoformat(text).astimezone(UTC)


def ended(runs: list[Run]) -> Counter[str]:
    return Counter(run.state for run in runs)


@pytest.mark.parametrize(
    ("start", "of_half_past_two", "of_three"),
    [
        (SPRING, ["2027-03-28T03:00:00+02:00", "2027-03-29T02:30:00+02:00"], ["2027-03-28T03:00:00+02:00"]),
        (AUTUMN, ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"], ["2026-10-25T03:00:00+01:00"]),
    ],
    ids=["spring", "autumn"],
)
async def test_in_48_hours_over_a_change_of_the_clocks_each_slot_comes_once(
    make_home: MakeHome,
    running: Running,
    autojump_clock: trio.testing.MockClock,
    start: datetime,
    of_half_past_two: list[str],
    of_three: list[str],
) -> None:
    home = make_home(start, time_zone="Europe/Berlin")
    first_half_past_two = at(of_half_past_two[0])
    home.add(reminder("daily", first_half_past_two, DAILY))
    home.add(reminder("each-day", first_half_past_two, EACH_DAY))
    home.add(intention("at-three", at(of_three[0]), AT_3))
    home.add(reminder("half-hourly", start + HOUR / 2, HALF_HOURLY))
    home.add(intention("each-two-hours", start + 2 * HOUR, EACH_2_HOURS))
    home.add(reminder("once", start + timedelta(hours=40, minutes=7)))
    async with home.daemon(running):
        await home.clock.sleep_until(start + 48 * HOUR + timedelta(minutes=5))
    slots = {job: [run.slot for run in home.runs(job)] for job in ("daily", "each-day", "at-three")}
    assert slots["daily"] == [at(text) for text in of_half_past_two]
    assert slots["each-day"] == slots["daily"]
    assert slots["at-three"] == [at(of_three[0]), at(of_three[0]) + timedelta(days=1)]
    assert [run.slot for run in home.runs("half-hourly")] == [start + HOUR / 2 * n for n in range(1, 97)]
    assert [run.slot for run in home.runs("each-two-hours")] == [start + 2 * HOUR * n for n in range(1, 25)]
    assert len(home.runs("once")) == 1
    assert ended(home.runs()) == {"done": 2 + 2 + 2 + 96 + 24 + 1}
    assert not any(run.is_late for run in home.runs())
    assert len(home.answers.chats) == len({key for _, key, *_ in home.answers.chats}) == 26


PHASES: list[tuple[type[Message[Any]], bool, int]] = [
    (phase, is_after, nth)
    for phase in (ListDueJobs, ClaimSlots, DeliverReminders, StartRuns, FinishRun)
    for is_after in (False, True)
    for nth in (1, 2, 3)
]


@pytest.mark.parametrize(("phase", "is_after", "nth"), PHASES, ids=str)
async def test_a_daemon_that_dies_at_any_phase_of_a_slot_leaves_none_out_and_repeats_none(
    make_home: MakeHome,
    running: Running,
    autojump_clock: trio.testing.MockClock,
    phase: type[Message[Any]],
    is_after: bool,
    nth: int,
) -> None:
    home = make_home(MONDAY)
    home.ask(CreateSession(session_id="s-1"))
    for number in range(3):
        home.add(reminder(f"r-{number}", MONDAY + HOUR, session_id="s-1"))
        home.add(intention(f"i-{number}", MONDAY + HOUR, "0 * * * *"))
    faults = Faults(phase, nth, is_after)
    async with home.daemon(running, faults):
        await faults.died.wait()
    async with home.daemon(running):
        await home.clock.sleep_until(max(home.clock.now(), MONDAY + HOUR) + HOUR / 2)
        hours = int((home.clock.now() - MONDAY) / HOUR)
    runs = home.runs()
    expected = [(f"i-{number}", MONDAY + hour * HOUR) for number in range(3) for hour in range(1, hours + 1)]
    expected += [(f"r-{number}", MONDAY + HOUR) for number in range(3)]
    assert sorted((run.job_id, run.slot) for run in runs) == sorted(expected)
    assert ended(runs) == {"done": 3 * hours + 3}
    assert len(home.answers.chats) == 3 * hours
    notes = home.ask(GetHistory(session_id="s-1"))
    assert sorted(note.content for note in notes) == [f"Reminder: r-{number}" for number in range(3)]


@pytest.mark.parametrize("is_asleep", [True, False], ids=["asleep", "not running"])
async def test_after_five_missed_slots_the_latest_runs_once(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock, is_asleep: bool
) -> None:
    home = make_home(MONDAY)
    home.add(reminder("hourly", MONDAY + HOUR, "PT60M"))
    home.add(intention("prompt", MONDAY + HOUR, "0 * * * *"))
    home.add(reminder("once", MONDAY + 3 * HOUR))
    night = timedelta(hours=5, minutes=10)
    if is_asleep:
        async with home.daemon(running):
            await trio.sleep(300)
            home.clock.set(night)
            await trio.sleep(300)
    else:
        home.clock.now()
        home.clock.set(night)
        async with home.daemon(running):
            await trio.sleep(300)
    for job in ("hourly", "prompt"):
        runs = home.runs(job)
        assert [run.slot for run in runs] == [MONDAY + n * HOUR for n in range(1, 6)]
        assert [run.state for run in runs] == ["skipped"] * 4 + ["done"]
        assert runs[-1].is_late
    (once,) = home.runs("once")
    assert (once.state, once.is_late) == ("done", True)
    assert len(home.answers.chats) == 1
    assert home.ask(GetJob(job_id="hourly", kind="reminder")).next_slot == MONDAY + 6 * HOUR


async def test_what_was_missed_for_long_shares_a_row(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY + timedelta(days=60, seconds=30))
    home.add(reminder("each-minute", MONDAY, "* * * * *"))
    async with home.daemon(running):
        await trio.sleep(10)
    runs = home.runs("each-minute")
    assert ended(runs) == {"skipped": 101, "done": 1}
    assert runs[-1].slot == MONDAY + timedelta(days=60)
    shared = runs[-2]
    assert (shared.slot, shared.until) == (MONDAY + timedelta(minutes=100), runs[-1].slot)


class Steps(trio.abc.Instrument):
    """The longest time that a task had the loop for itself; the store's apart, which has threads in a daemon."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.longest_of_store_s = 0.0
        self._began = time.perf_counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took_s = time.perf_counter() - self._began
        if is_of_store(task):
            self.longest_of_store_s = max(self.longest_of_store_s, took_s)
        else:
            self.longest_s = max(self.longest_s, took_s)


def is_of_store(task: trio.lowlevel.Task) -> bool:
    frame = task.coro.cr_frame
    return frame is None or isinstance(frame.f_locals.get("self"), LoopStore)


async def test_ten_thousand_jobs_at_midnight_leave_the_loop_to_others(
    make_home: MakeHome,
    running: Running,
    autojump_clock: trio.testing.MockClock,
    record_property: Callable[[str, object], None],
) -> None:
    home = make_home(datetime(2026, 11, 23, 22, 59, tzinfo=UTC), time_zone="Europe/Berlin")
    midnight = datetime(2026, 11, 23, 23, 0, tzinfo=UTC)
    home.ask(CreateSession(session_id="s-1"))
    database = home.database()
    with database.connect_writer() as connection, connection.begin():
        for number in range(10_000):
            job = reminder(f"r-{number}", midnight, f"0 0 * * {number % 7},{(number + 1) % 7},1,2", session_id="s-1")
            add_job(connection, AddJob(job=job))
    database.close()
    async with home.daemon(running):
        await trio.sleep(1)
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        began = time.perf_counter()
        await home.clock.sleep_until(midnight + timedelta(minutes=1))
        took_s = time.perf_counter() - began
        trio.lowlevel.remove_instrument(steps)
    runs = home.runs()
    assert len({run.job_id for run in runs}) == len(runs) == 10_000
    assert {(run.state, run.slot, run.is_late) for run in runs} == {("done", midnight, False)}
    lag_ms, store_ms = steps.longest_s * 1000, steps.longest_of_store_s * 1000
    print(
        f"10,000 due at midnight: done in {took_s:.1f} s, loop lag {lag_ms:.0f} ms, a store's batch {store_ms:.0f} ms"
    )
    record_property("loop_lag_ms", lag_ms)
    assert lag_ms < 100


async def test_a_clock_that_is_set_back_repeats_nothing(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY)
    home.add(reminder("hourly", MONDAY + HOUR, "0 * * * *"))
    async with home.daemon(running):
        await home.clock.sleep_until(MONDAY + 2 * HOUR + timedelta(minutes=5))
        home.clock.set(-2 * HOUR)
        await home.clock.sleep_until(MONDAY + 4 * HOUR + timedelta(minutes=5))
    runs = home.runs("hourly")
    assert [run.slot for run in runs] == [MONDAY + n * HOUR for n in range(1, 5)]
    assert ended(runs) == {"done": 4}


async def test_jobs_planned_by_a_clock_that_ran_years_ahead_are_planned_anew(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY)
    years = timedelta(days=3650)
    home.add(reminder("hourly", MONDAY + years + HOUR, "0 * * * *"))
    home.add(reminder("each-two-hours", MONDAY + years + HOUR, EACH_2_HOURS))
    async with home.daemon(running):
        await home.clock.sleep_until(MONDAY + 2 * HOUR + timedelta(minutes=5))
    assert [run.slot for run in home.runs("hourly")] == [MONDAY + HOUR, MONDAY + 2 * HOUR]
    assert [run.slot for run in home.runs("each-two-hours")] == [MONDAY + 2 * HOUR]


async def test_another_time_zone_holds_at_once(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY, time_zone="Europe/Berlin")
    home.add(reminder("at-noon", MONDAY + 3 * HOUR, "0 12 * * *"))
    async with home.daemon(running):
        await trio.sleep(120)
        home.live.current = type(home.live.current)(time_zone="America/New_York")
        await home.clock.sleep_until(MONDAY + 12 * HOUR)
    assert [run.slot for run in home.runs("at-noon")] == [MONDAY + 9 * HOUR]


async def test_an_intention_that_still_runs_is_not_begun_again(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY)
    home.answers.takes_s = 2.5 * 3600
    home.add(intention("slow", MONDAY + HOUR, "0 * * * *"))
    async with home.daemon(running):
        await home.clock.sleep_until(MONDAY + 4 * HOUR + timedelta(minutes=5))
    assert [run.state for run in home.runs("slow")] == ["done", "skipped", "skipped", "running"]


async def test_an_intention_runs_for_its_maker_and_not_as_the_daemon(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY)
    home.add(intention("mine", MONDAY + HOUR, "0 * * * *", scopes=["chat", "memory"]))
    home.add(intention("a-pages", MONDAY + HOUR, "0 * * * *", provenance=["web https://example.org"]))
    async with home.daemon(running):
        await home.clock.sleep_until(MONDAY + HOUR + timedelta(minutes=5))
    slot = (MONDAY + HOUR).isoformat()
    assert sorted(home.answers.chats) == [
        ("intention:a-pages", f"a-pages/{slot}", "ann", ["chat"], ["web https://example.org"]),
        ("intention:mine", f"mine/{slot}", "ann", ["chat", "memory"], []),
    ]
    (run,) = home.runs("mine")
    assert run.turn_id == f"t-mine/{slot}"


async def test_a_failed_turn_is_a_failed_run(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY)
    home.answers.fails = True
    home.add(intention("hopeless", MONDAY + HOUR, "0 * * * *"))
    async with home.daemon(running):
        await home.clock.sleep_until(MONDAY + 2 * HOUR + timedelta(minutes=5))
    assert [(run.state, run.error) for run in home.runs("hopeless")] == [("failed", "the model is away")] * 2


async def test_a_run_that_outlives_three_daemons_is_interrupted(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY)
    home.answers.takes_s = 1e9
    home.add(intention("deadly", MONDAY + HOUR, "0 12 * * *"))
    home.clock.now()
    home.clock.set(HOUR)
    for _ in range(4):
        async with home.daemon(running):
            await trio.sleep(60)
    (run,) = home.runs("deadly")
    assert (run.state, run.attempts, run.error) == ("interrupted", 3, "gave up after 3 attempts")
    assert len(home.answers.chats) == 1


async def test_a_run_left_for_a_day_is_not_begun_again(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY)
    home.answers.takes_s = 1e9
    home.add(intention("old", MONDAY + HOUR, "0 9 * * 1"))
    async with home.daemon(running):
        await home.clock.sleep_until(MONDAY + HOUR + timedelta(minutes=5))
    home.clock.set(timedelta(days=1))
    async with home.daemon(running):
        await trio.sleep(60)
    (run,) = home.runs("old")
    assert run.state == "interrupted"


async def test_who_switches_an_intention_off_also_stops_what_waits(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY)
    home.add(intention("off", MONDAY + HOUR, "0 * * * *"))
    home.ask(AddRun(job_id="off", kind="intention", now=MONDAY))
    home.ask(ChangeJob(job_id="off", kind="intention", enabled=False, next_slot=None))
    async with home.daemon(running):
        await home.clock.sleep_until(MONDAY + 3 * HOUR)
    assert [run.state for run in home.runs("off")] == ["skipped"]


async def test_a_job_whose_schedule_cannot_be_read_is_switched_off_and_stops_no_other(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY)
    home.add(reminder("broken", MONDAY + HOUR, "every full moon"))
    home.add(reminder("well", MONDAY + HOUR, "0 * * * *"))
    async with home.daemon(running):
        await home.clock.sleep_until(MONDAY + 2 * HOUR + timedelta(minutes=1))
    assert not home.ask(GetJob(job_id="broken", kind="reminder")).enabled
    assert ended(home.runs("well")) == {"done": 2}


class Audit(Message[Done], to="auditor"):
    """Look at everything."""


class Auditor(Actor):
    def __init__(self, asked: list[datetime], home: Home) -> None:
        super().__init__()
        self._asked, self._home = asked, home

    async def audit(self, message: Audit) -> Done:
        self._asked.append(self._home.clock.now().replace(microsecond=0))
        return Done()


async def test_a_standing_task_comes_by_the_settings_schedule(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY, time_zone="UTC")
    asked: list[datetime] = []
    audit = Standing(
        "self_audit",
        "Self-audit",
        lambda settings: settings.self_audit_schedule if settings.self_audit_enabled else "",
        Audit,
    )
    auditor = Child(Auditor, asked, home)
    at_three = MONDAY.replace(hour=3)
    async with home.daemon(running, None, [audit], auditor):
        await home.clock.sleep_until(at_three + timedelta(days=2, minutes=1))
        assert asked == [at_three + timedelta(days=1), at_three + timedelta(days=2)]
        home.live.current = type(home.live.current)(time_zone="UTC", self_audit_schedule="0 5 * * *")
        await trio.sleep(3 * 3600)
        assert asked[2:] == [at_three + timedelta(days=2, hours=2)]
        home.live.current = type(home.live.current)(time_zone="UTC", self_audit_enabled=False)
        await trio.sleep(3 * 86_400)
    assert len(asked) == 3
    assert ended(home.runs("task:self_audit")) == {"done": 3}


async def test_the_ledger_is_kept_for_a_month(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY)
    home.add(reminder("daily", MONDAY + HOUR, "P1D 09:00"))
    home.add(reminder("once", MONDAY + HOUR))
    async with home.daemon(running) as system:
        await home.clock.sleep_until(MONDAY + 2 * HOUR)
        assert len(await system.ask(ListRuns())) == 2
        home.clock.set(timedelta(days=31))
        await trio.sleep(120)
    assert [run.created_at > MONDAY + timedelta(days=30) for run in home.runs("daily")] == [True] * 31
    assert home.runs("once") == []


async def test_reminders_are_told_as_events(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY)
    home.ask(CreateSession(session_id="s-1", channel="telegram"))
    home.add(reminder("r-1", MONDAY + HOUR, session_id="s-1", name="Stretch", provenance=["file /x"]))
    home.add(reminder("r-2", MONDAY + HOUR, session_id="deleted", name="Drink"))
    async with home.daemon(running) as system:
        with system.bus.subscribe("events") as events:
            with trio.fail_after(7200):
                told = [(await anext(events)).data() for _ in range(2)]
    assert {event["event_type"] for event in told} == {"notification"}
    assert [(event["content"], event["metadata"]["channel"]) for event in told] == [
        ("Reminder: Stretch", "telegram"),
        ("Reminder: Drink", "api"),
    ]
    assert [event["metadata"]["session_id"] for event in told] == ["s-1", None]
    (note,) = home.ask(GetHistory(session_id="s-1"))
    assert (note.role, note.content) == ("assistant", "Reminder: Stretch")
    assert (note.metadata["reminder_id"], note.metadata["provenance"]) == ("r-1", ["file /x"])


async def test_reminders_go_to_the_chats_that_notices_go_to_and_each_once(
    make_home: MakeHome, running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    home = make_home(MONDAY)
    chats = ("telegram:42", "gchat:spaces/A", "telegram:42")
    home.live.current = type(home.live.current)(time_zone="UTC", notification_channels=chats)
    home.add(reminder("r-1", MONDAY + HOUR, name="Stretch"))
    async with home.daemon(running):
        await home.clock.sleep_until(MONDAY + 2 * HOUR)
    for channel, chat in (("telegram", "42"), ("google_chat", "spaces/A")):
        claim = ClaimDelivery(channel=channel, claim="c", now=home.clock.now())
        said = home.ask(claim).outgoing
        assert said is not None
        assert (said.chat, said.text) == (chat, "Reminder: Stretch")
        home.ask(EndDelivery(outgoing_id=said.id, claim="c", outcome="sent", ref="1", now=home.clock.now()))
    assert home.ask(SumUpOutbox(now=home.clock.now())) == []
    home.live.current = type(home.live.current)(
        time_zone="UTC", notification_channels=chats, notifications_enabled=False
    )
    home.add(reminder("r-2", MONDAY + 3 * HOUR, name="Drink"))
    async with home.daemon(running):
        await home.clock.sleep_until(MONDAY + 4 * HOUR)
    assert ended(home.runs("r-2")) == {"done": 1}
    assert home.ask(SumUpOutbox(now=home.clock.now())) == []
