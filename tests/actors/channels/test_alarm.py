"""The operator is told of trouble, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
import trio
from pocketpaw.actors.channels.alarm import AGAIN_S, OVER_AFTER_S, TOLD_AFTER_S, Alarm
from pocketpaw.actors.checks import IssueStatus
from pocketpaw.actors.health import GetHealth, HealthView, Issue
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import Actor, ActorSystem, Child, Done, Supervisor, watchdog
from pocketpaw.runtime.errors import Unavailable
from pocketpaw.storage.outbox import AddOutgoing
from trio.testing import MockClock

from ...conftest import run_without_leak
from ..conftest import MakeLive

DOWN = "actors:channels/adapters/telegram"


@dataclass
class State:
    issues: list[Issue] = field(default_factory=list[Issue])
    said: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    is_away: bool = False


class Doctor(Actor):
    """Stands at `health`."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state

    async def get_health(self, message: GetHealth) -> HealthView:
        return HealthView("healthy", 1, self._state.issues, None)


class Writer(Actor):
    """Stands at `store/writer`."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state

    async def add_outgoing(self, message: AddOutgoing) -> Done:
        if self._state.is_away:
            raise Unavailable("the store is away")
        self._state.said.append((message.line.channel, message.line.chat, message.line.text))
        return Done()


class Owner(Actor):
    """Has an alarm."""

    has_tasks = True

    def __init__(self, live: LiveSettings) -> None:
        super().__init__()
        self._live = live

    async def on_start(self) -> None:
        self.spawn(Alarm(self, self._live).run)


class Ward:
    """A daemon in which something may be wrong, and what the operator was told of it."""

    def __init__(self, system: ActorSystem, state: State) -> None:
        self.state = state
        self._system = system

    def set(self, *issues: tuple[str, IssueStatus]) -> None:
        now = datetime.now(UTC)
        self.state.issues = [Issue(id_, "", "", status, f"{id_} is down", "", now) for id_, status in issues]
        self._system.bus.publish("events", "health_update", {})

    @property
    def told(self) -> list[str]:
        return [text for channel, chat, text in self.state.said if (channel, chat) == ("telegram", "42")]


@asynccontextmanager
async def ward(make_live: MakeLive, **settings: object) -> AsyncGenerator[Ward]:
    state = State()
    live = make_live(**{"notification_channels": ["telegram:42", "slack:C1"], **settings})
    tree = Supervisor(
        "root",
        [
            Supervisor("store", [Child(Writer, state)]),
            Child(Doctor, state, id="health"),
            Child(Owner, live),
        ],
    )
    async with run_without_leak(tree) as system:
        yield Ward(system, state)


@pytest.fixture(autouse=True)
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "BEAT_S", 3600.0)


async def test_what_stays_wrong_is_told_once_in_every_chat_and_that_it_is_over(
    make_live: MakeLive, autojump_clock: MockClock
) -> None:
    async with ward(make_live) as daemon:
        daemon.set((DOWN, "warning"))
        await trio.sleep(TOLD_AFTER_S - 1)
        assert daemon.told == []
        await trio.sleep(2)
        assert daemon.state.said == [
            (*chat, f"Trouble: {DOWN} is down") for chat in (("telegram", "42"), ("slack", "C1"))
        ]
        for _ in range(10):
            daemon.set((DOWN, "warning"), ("models", "warning"))
            await trio.sleep(600)
        daemon.set()
        await trio.sleep(OVER_AFTER_S + 1)
        assert daemon.told == [f"Trouble: {DOWN} is down", f"Over: {DOWN} is down"]
        await trio.sleep(3600)
        assert len(daemon.told) == 2


async def test_what_seems_well_for_a_moment_is_not_over(make_live: MakeLive, autojump_clock: MockClock) -> None:
    """As a channel that is parked, each time that it is probed."""
    async with ward(make_live) as daemon:
        for _ in range(60):
            daemon.set((DOWN, "warning"))
            await trio.sleep(50)
            daemon.set()
            await trio.sleep(10)
        assert daemon.told == [f"Trouble: {DOWN} is down"]


async def test_what_passes_or_is_no_grave_matter_is_not_told(make_live: MakeLive, autojump_clock: MockClock) -> None:
    async with ward(make_live) as daemon:
        daemon.set((DOWN, "warning"), ("storage", "critical"))
        await trio.sleep(60)
        daemon.set(("models", "warning"), ("actors:mcp/servers/x", "warning"))
        await trio.sleep(7200)
        assert daemon.told == []


async def test_what_is_critical_is_told_as_soon_as_it_can_be_kept(
    make_live: MakeLive, autojump_clock: MockClock
) -> None:
    async with ward(make_live) as daemon:
        daemon.state.is_away = True
        daemon.set(("storage", "critical"))
        await trio.sleep(TOLD_AFTER_S + 60)
        assert daemon.told == []
        daemon.state.is_away = False
        await trio.sleep(AGAIN_S)
        assert daemon.told == ["Trouble: storage is down"]


async def test_nobody_is_told_where_notices_are_switched_off(make_live: MakeLive, autojump_clock: MockClock) -> None:
    async with ward(make_live, notifications_enabled=False) as daemon:
        daemon.set(("storage", "critical"))
        await trio.sleep(7200)
        assert daemon.state.said == []
