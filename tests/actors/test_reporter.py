"""What becomes of a report: a line, an event, something for health; and never an exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from pocketpaw.actors.health import EVENTS, Reported, severity
from pocketpaw.actors.reporter import Reporter
from pocketpaw.config.logs import Redactor
from pocketpaw.runtime import Actor, ActorSystem, Child, Done, DynamicSupervisor, Message, Report, Supervisor
from pocketpaw.runtime.errors import ActorDied
from structlog.testing import capture_logs

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Line = dict[str, Any]

SECRET = "sk-a-canary-that-nobody-may-see"


class FakeHealth(Actor):
    """Remembers what it is told."""

    def __init__(self, told: list[Reported]) -> None:
        super().__init__()
        self._told = told

    async def reported(self, message: Reported) -> Done:
        self._told.append(message)
        return Done()


class Crash(Message[Done], to="agents/s-1"):
    """Crash, with a secret in the words."""


class WhereAmI(Message[dict[str, str]], to="agents/s-1"):
    """What a line of the log would say."""

    in_a_task: bool = False


class Leaf(Actor):
    has_tasks = True

    def __init__(self, name: str, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    async def crash(self, message: Crash) -> Done:
        raise ValueError(f"refused: {SECRET}")

    async def where(self, message: WhereAmI) -> dict[str, str]:
        if not message.in_a_task:
            return self._reporter.context()
        found: list[dict[str, str]] = []
        done = trio.Event()

        async def look() -> None:
            found.append(self._reporter.context())
            done.set()

        self.spawn(look)
        await done.wait()
        return found[0]


class Scene:
    """A system with a reporter in it, and what came of the reports."""

    def __init__(self) -> None:
        self.reporter = Reporter(Redactor(lambda: frozenset({SECRET})))
        self.told: list[Reported] = []
        agents = DynamicSupervisor("agents", lambda name: Leaf(name, self.reporter))
        self.tree = Supervisor("root", [Child(FakeHealth, self.told, id="health"), agents])


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def logged() -> Iterator[list[Line]]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines  # pyright: ignore[reportReturnType] dicts of the events


async def test_a_crash_is_a_line_an_event_and_something_for_health_all_without_secrets(
    scene: Scene, running: Running, logged: list[Line]
) -> None:
    async with running(scene.tree, scene.reporter.report) as system:
        scene.reporter.attach(system)
        with system.bus.subscribe(EVENTS) as events:
            with pytest.raises(ActorDied):
                await system.ask(Crash())
            await trio.testing.wait_all_tasks_blocked()
            published = {event.name: event.data() for event in await events.take()}
    (line,) = [line for line in logged if line["log_level"] == "error"]
    assert (line["event"], line["actor"], line["session"]) == ("actor ended", "agents/s-1", "s-1")
    assert line["reason"] == "ValueError: refused: [secret]"
    assert "in crash" in line["exception"]
    assert published["actor_exited"] == {
        "event_type": "actor_exited",
        "content": "ValueError: refused: [secret]",
        "metadata": {"actor": "agents/s-1", "session": "s-1", "incarnation": 1, "exit_kind": "crashed"},
    }
    kinds = [told.report.kind for told in scene.told if told.report.path == "agents/s-1"]
    assert kinds[:4] == ["started", "exited", "restarting", "started"]
    assert SECRET not in repr((logged, published, scene.told))


@pytest.mark.parametrize(
    ("report", "level", "bad"),
    [
        (Report("started", "a", 1, ""), "debug", None),
        (Report("started", "a", 2, ""), "info", None),
        (Report("exited", "a", 1, "shutdown", "", "shutdown"), "debug", None),
        (Report("exited", "a", 1, "normal", "", "normal"), "debug", None),
        (Report("exited", "a", 1, "ValueError", "", "crashed"), "error", "error"),
        (Report("exited", "a", 1, "killed", "", "killed"), "warning", "warning"),
        (Report("restarting", "a", 1, ""), "info", None),
        (Report("backoff", "a", 1, "restart in 1.0 s", "", "crashed"), "warning", None),
        (Report("parked", "a", 1, "bad key", "", "crashed"), "error", "error"),
        (Report("escalated", "a", 1, "ValueError", "", "crashed"), "critical", "critical"),
        (Report("failure", "a", 1, "Rename: no"), "error", "error"),
        (Report("slow", "a", 1, "slow"), "warning", "warning"),
        (Report("lag", "a", 1, "lag"), "warning", "warning"),
    ],
)
def test_how_loud_a_report_is(scene: Scene, logged: list[Line], report: Report, level: str, bad: str | None) -> None:
    scene.reporter.report(report)
    assert [line["log_level"] for line in logged] == [level]
    assert severity(report) == bad


def test_only_what_tells_something_new_shows_its_stack(scene: Scene, logged: list[Line]) -> None:
    for kind in ("exited", "parked", "slow"):
        scene.reporter.report(Report(kind, "a", 1, "why", "the stack", "crashed"))  # pyright: ignore[reportArgumentType]
    assert ["exception" in line for line in logged] == [True, False, True]


async def test_health_without_room_or_gone_costs_no_line_and_raises_nothing(
    running: Running, logged: list[Line]
) -> None:
    reporter = Reporter(Redactor(frozenset))
    async with running(Supervisor("root", []), reporter.report) as system:
        reporter.attach(system)
        logged.clear()
        reporter.report(Report("parked", "leaf", 1, "bad key"))
    assert logged[0]["not_passed_on"] == ["tell: there is no actor at 'health'"]
    assert reporter.lost >= 1


def test_a_broken_log_raises_nothing_either(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no log")

    monkeypatch.setattr("pocketpaw.actors.reporter.log", type("Log", (), {"debug": broken}))
    scene.reporter.report(Report("started", "leaf", 1, ""))
    assert scene.reporter.lost == 1


async def test_a_line_says_which_actor_session_and_request_it_belongs_to(scene: Scene, running: Running) -> None:
    async with running(scene.tree, scene.reporter.report) as system:
        scene.reporter.attach(system)
        in_handler = await system.ask(WhereAmI(), trace_id="r-7")
        in_task = await system.ask(WhereAmI(in_a_task=True), trace_id="r-8")
        outside = scene.reporter.context()
    assert in_handler == {"actor": "agents/s-1", "session": "s-1", "request_id": "r-7"}
    assert (in_task["actor"], in_task["session"]) == ("agents/s-1", "s-1")
    assert outside == {}


def test_outside_the_loop_a_line_belongs_to_nobody(scene: Scene) -> None:
    assert scene.reporter.context() == {}
