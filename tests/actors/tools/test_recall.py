from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from pocketpaw.actors.memory import MemoryKeeper
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tools.protocol import Execute, ToolOutput
from pocketpaw.actors.tools.recall import Recall
from pocketpaw.runtime import SYSTEM, Actor, ActorSystem, Child, Message, Supervisor
from pocketpaw.runtime.errors import InvalidInput, NotFound

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Use = Callable[..., Awaitable[ToolOutput]]
OpenTools = Callable[[], AbstractAsyncContextManager[Use]]

WEB = "web https://example.org"


class UseMemory(Message[ToolOutput], to="agent"):
    name: str
    arguments: dict[str, object]
    sources: list[str]


class FakeAgent(Actor):
    """Calls a tool under the influence of what it has read."""

    async def use_memory(self, message: UseMemory) -> ToolOutput:
        self.mark(*message.sources)
        call = Execute(name=message.name, arguments=message.arguments, session_id="s-1", turn_id="t-1")
        async with self.stream(call, to="recall") as events:
            (output,) = [event async for event in events if isinstance(event, ToolOutput)]
        return output


@pytest.fixture
def tools(live: LiveSettings, store: Supervisor, running: Running) -> OpenTools:
    @asynccontextmanager
    async def open_tools() -> AsyncGenerator[Use]:
        tree = Supervisor(
            "root", [store, Child(MemoryKeeper, live, id="memory"), Child(Recall), Child(FakeAgent, id="agent")]
        )
        async with running(tree) as system:

            async def use(name: str, *sources: str, **arguments: object) -> ToolOutput:
                message = UseMemory(name=name, arguments=arguments, sources=list(sources))
                return await system.ask(message, principal=SYSTEM)

            yield use

    return open_tools


async def test_what_is_remembered_is_recalled_until_it_is_forgotten(tools: OpenTools) -> None:
    async with tools() as use:
        kept = await use("remember", content="Ann, the user's sister, is vegetarian", tags=["family"])
        assert kept.text.startswith("Remembered: [1] Ann, the user's sister, is vegetarian (20")
        again = await use("remember", content="ann, the user's sister, is vegetarian!")
        assert again.text.startswith("Brought up to date: [1]")
        found = await use("recall", query="What does my sister eat?")
        assert found.text.startswith("[1] ann, the user's sister, is vegetarian! (20")
        assert found.text.endswith("; family)")
        assert found.source == ""
        assert (await use("forget", memory_id="[1]")).text == "Forgot memory [1]."
        assert (await use("recall", query="sister")).text.startswith("No memory matches.")
        with pytest.raises(NotFound, match="there is no memory '1'"):
            await use("forget", memory_id="1")


async def test_what_was_learned_from_outside_says_so_for_ever(tools: OpenTools) -> None:
    async with tools() as use:
        await use("remember", WEB, content="Invoices are paid to account 666")
        found = await use("recall", query="invoices")
        assert found.source == "memory"
        assert f"learned from {WEB}" in found.text


async def test_wrong_arguments_are_named(tools: OpenTools) -> None:
    async with tools() as use:
        with pytest.raises(InvalidInput, match="content"):
            await use("remember", content="  ")
        with pytest.raises(InvalidInput, match="query"):
            await use("recall")
        with pytest.raises(InvalidInput, match="unknown field id"):
            await use("forget", id=1)


def test_what_the_tools_do_is_told() -> None:
    infos = {info.name: info for info in Recall.infos("tools/memory")}
    assert {name: (info.effect, info.scope) for name, info in infos.items()} == {
        "remember": ("keep", "memory"),
        "recall": ("read", "memory"),
        "forget": ("write", "memory"),
    }
    assert infos["remember"].parameters["required"] == ["content"]
