from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from pocketpaw.actors.health import GetHealth, HealthView, Issue
from pocketpaw.actors.tools.daemon import DaemonTools
from pocketpaw.actors.tools.protocol import Execute, ToolOutput
from pocketpaw.runtime import Actor, ActorSystem, Child, Supervisor
from pocketpaw.runtime.errors import InvalidInput
from pocketpaw.storage.turns import AddTurn

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]

NOW = datetime.now(UTC)
ISSUES = [Issue("disk", "Disk", "storage", "critical", "The disk is full.", "Make room.", NOW)]


class FakeHealth(Actor):
    async def get_health(self, message: GetHealth) -> HealthView:
        return HealthView("unhealthy", 7, ISSUES, NOW)


Use = Callable[..., Awaitable[str]]
OpenTools = Callable[[], AbstractAsyncContextManager[tuple[ActorSystem, Use]]]


@pytest.fixture
def tools(store: Supervisor, running: Running) -> OpenTools:
    @asynccontextmanager
    async def open_tools() -> AsyncGenerator[tuple[ActorSystem, Use]]:
        tree = Supervisor("root", [store, Child(FakeHealth, id="health"), Child(DaemonTools, id="daemon")])
        async with running(tree) as system:

            async def use(name: str, **arguments: object) -> str:
                call = Execute(name=name, arguments=arguments, session_id="s-1", turn_id="t-1")
                async with system.stream(call, to="daemon") as events:
                    (output,) = [event async for event in events if isinstance(event, ToolOutput)]
                found_something = name == "search_sessions" and not output.text.startswith("No message")
                assert (output.source, output.is_error) == ("sessions" if found_something else "", False)
                return output.text

            yield system, use

    return open_tools


async def test_the_time_is_told_in_any_time_zone(tools: OpenTools) -> None:
    async with tools() as (_, use):
        for arguments in ({}, {"time_zone": ""}, {"time_zone": "UTC"}, {"time_zone": "Asia/Kathmandu"}):
            text = await use("current_time", **arguments)
            day, _, stamp = text.partition(", ")
            told = datetime.fromisoformat(stamp.partition(" ")[0])
            assert abs(datetime.now(UTC) - told) < timedelta(seconds=30)
            assert day == f"{told:%A}"
        assert "+05:45" in text
        for wrong in ("Mars/Olympus", "../../etc/passwd", "Europe", "/etc/passwd", "\0", "é" * 60):
            with pytest.raises(InvalidInput, match="time_zone"):
                await use("current_time", time_zone=wrong)


async def test_earlier_conversations_are_found(tools: OpenTools) -> None:
    async with tools() as (system, use):
        turn = AddTurn(
            session_id="s-9",
            turn_id="t-9",
            content="Blue whales sing",
            channel="api",
            state="pending",
            boot_id="b",
            principal="ann",
        )
        await system.ask(turn)
        text = await use("search_sessions", query="whales")
        assert text == (
            f"- Blue whales sing (session s-9, last active {datetime.now(UTC):%Y-%m-%d}): user said: Blue whales sing"
        )
        assert (await use("search_sessions", query="submarine")).startswith("No message has")


async def test_the_daemon_s_health_is_told_with_what_to_do(tools: OpenTools) -> None:
    async with tools() as (_, use):
        assert await use("daemon_health") == (
            "unhealthy, by 7 checks.\n- critical: The disk is full. To mend it: Make room."
        )


def test_all_of_it_only_reads() -> None:
    assert {info.name: info.effect for info in DaemonTools.infos("tools/daemon")} == {
        "current_time": "read",
        "search_sessions": "read",
        "daemon_health": "read",
    }
