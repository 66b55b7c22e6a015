from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from pocketpaw.actors.scheduler.reminders import ListReminders
from pocketpaw.actors.scheduler.scheduler import Scheduler
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tools.protocol import Execute, ToolOutput
from pocketpaw.actors.tools.reminders import ReminderTools
from pocketpaw.runtime import SYSTEM, Actor, ActorSystem, Child, Message, Supervisor
from pocketpaw.runtime.errors import InvalidInput, NotFound

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Use = Callable[..., Awaitable[ToolOutput]]
OpenTools = Callable[[], AbstractAsyncContextManager[tuple[ActorSystem, Use]]]

WEB = "web https://example.org"


class UseTool(Message[ToolOutput], to="agent"):
    name: str
    arguments: dict[str, object]
    sources: list[str]


class FakeAgent(Actor):
    """Calls a tool under the influence of what it has read."""

    async def use(self, message: UseTool) -> ToolOutput:
        self.mark(*message.sources)
        call = Execute(name=message.name, arguments=message.arguments, session_id="s-1", turn_id="t-1")
        async with self.stream(call, to="reminders") as events:
            (output,) = [event async for event in events if isinstance(event, ToolOutput)]
        return output


@pytest.fixture
def tools(live: LiveSettings, store: Supervisor, running: Running) -> OpenTools:
    @asynccontextmanager
    async def open_tools() -> AsyncGenerator[tuple[ActorSystem, Use]]:
        children = [
            Child(Scheduler, live, "boot-1"),
            Child(ReminderTools, live, id="reminders"),
            Child(FakeAgent, id="agent"),
        ]
        async with running(Supervisor("root", [store, *children])) as system:

            async def use(name: str, *sources: str, **arguments: object) -> ToolOutput:
                message = UseTool(name=name, arguments=arguments, sources=list(sources))
                return await system.ask(message, principal=SYSTEM)

            yield system, use

    return open_tools


async def test_a_reminder_is_set_listed_and_cancelled(tools: OpenTools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    async with tools() as (system, use):
        assert (await use("list_reminders")).text == "There are no reminders."
        said = await use("set_reminder", message="every weekday at 9 stand-up")
        assert said.text.startswith("Set: [r-")
        assert " 09:00 JST, in " in said.text
        assert said.text.endswith(", every weekday at 09:00)")
        (kept,) = (await system.ask(ListReminders())).reminders
        assert (kept.text, kept.session_id) == ("Stand-up", "s-1")
        listed = await use("list_reminders")
        assert (listed.text, listed.source) == (said.text.removeprefix("Set: "), "")
        assert (await use("cancel_reminder", reminder_id=f"[{kept.id}]")).text == f"Cancelled [{kept.id}]."
        with pytest.raises(NotFound, match="there is no reminder"):
            await use("cancel_reminder", reminder_id=kept.id)
        with pytest.raises(InvalidInput, match="there is no time in it"):
            await use("set_reminder", message="stand up")


async def test_a_reminder_that_outside_content_may_have_provoked_says_so(tools: OpenTools) -> None:
    async with tools() as (_, use):
        await use("set_reminder", WEB, message="in 2 hours buy gold")
        listed = await use("list_reminders")
        assert listed.source == "reminders"
        assert f"made while reading {WEB}" in listed.text


def test_what_the_tools_may_do_is_said() -> None:
    said = {info.name: (info.effect, info.scope) for info in ReminderTools.infos("tools/reminders")}
    assert said == {
        "set_reminder": ("keep", "reminders"),
        "list_reminders": ("read", "reminders"),
        "cancel_reminder": ("keep", "reminders"),
    }
