"""Channels as the daemon has them, with a store, agents that echo, and the fake platform that they speak to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio
from pocketpaw.actors.agent import Agent, AgentContext
from pocketpaw.actors.channels.keeper import ChannelsKeeper, Switches
from pocketpaw.actors.channels.protocol import ChannelStatus, GetChannelsStatus
from pocketpaw.actors.health import RecordProblem
from pocketpaw.actors.identity import Identity
from pocketpaw.actors.models.protocol import Finished, Generate, GenerationEvent, TextDelta, ToolCallDelta, Usage
from pocketpaw.actors.settings import LiveSettings, SettingsKeeper
from pocketpaw.actors.tools.catalogue import Catalogue
from pocketpaw.actors.tools.gate import Gate
from pocketpaw.actors.tools.protocol import Execute, ToolEvent, ToolInfo, ToolOutput
from pocketpaw.runtime import Actor, ActorSystem, Backoff, Child, Done, DynamicSupervisor, Supervisor

from ...conftest import run_without_leak
from ...fakes.telegram_server import FakeTelegram
from ..conftest import MakeLive

QUICK = Backoff(min_s=0.05, max_s=0.05)
WITHIN_S = 20.0


@dataclass
class Model:
    """What the model says: the message again, in pieces; what calls it makes first."""

    pieces: int = 1
    pause_s: float = 0.0
    prefix: str = "echo: "
    calls: list[ToolCallDelta] = field(default_factory=list[ToolCallDelta])
    asked: list[str] = field(default_factory=list[str])
    askers: list[tuple[str, list[str], tuple[str, ...]]] = field(
        default_factory=list[tuple[str, list[str], tuple[str, ...]]]
    )
    """Of each question the principal, its scopes, and what may have provoked it."""


class FakeRouter(Actor):
    """Stands at `models/router`."""

    concurrency = 200
    handler_timeout_s = None

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model

    async def generate(self, message: Generate) -> AsyncGenerator[GenerationEvent]:
        model = self._model
        said = message.messages[-1]
        model.asked.append(said.content)
        if model.calls and said.role == "user":
            for call in model.calls:
                yield call
        else:
            text = f"{model.prefix}{said.content}"
            size = -(-len(text) // model.pieces)
            for start in range(0, len(text), size):
                await trio.sleep(model.pause_s)
                yield TextDelta(text[start : start + size])
        yield Usage(1, 1, 2, "fake", "fake")
        yield Finished("stop")


WRITE = ToolInfo("write_file", "Write a file.", {}, "tools/hands", "write", "files:write")
SHELL = ToolInfo("shell", "Run a command.", {}, "tools/hands", "execute", "admin")


class Hands(Actor):
    """Does what the gate lets through."""

    def __init__(self, done: list[str]) -> None:
        super().__init__()
        self._done = done

    async def execute(self, message: Execute) -> AsyncGenerator[ToolEvent]:
        self._done.append(message.name)
        yield ToolOutput("done")


class FakeHealth(Actor):
    """Takes in problems."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__()
        self._problems = problems

    async def record_problem(self, message: RecordProblem) -> Done:
        self._problems.append(message.message)
        return Done()


@dataclass
class Channels:
    """The running channels, and what a test wants of them."""

    system: ActorSystem
    live: LiveSettings
    model: Model
    problems: list[str]
    done: list[str]
    """The tools that were used."""

    async def status(self, name: str = "telegram") -> ChannelStatus:
        return (await self.system.ask(GetChannelsStatus()))[name]

    async def until(self, condition: Callable[[ChannelStatus], object], name: str = "telegram") -> ChannelStatus:
        """Wait, in real time, until the channel is as it should be."""
        with trio.fail_after(WITHIN_S):
            while not condition(status := await self.status(name)):  # noqa: ASYNC110 a socket is waited for
                await trio.sleep(0.01)
        return status

    async def connected(self) -> ChannelStatus:
        return await self.until(lambda status: status.running)


RunChannels = Callable[..., AbstractAsyncContextManager[Channels]]


@pytest.fixture
def run_channels(make_live: MakeLive, make_store: Callable[[], Supervisor]) -> RunChannels:
    """`async with run_channels(telegram, allowed_user_id=42) as channels:` runs them, and sees that nothing is left."""

    @asynccontextmanager
    async def run(
        telegram: FakeTelegram | None = None,
        *,
        model: Model | None = None,
        backoff: Backoff = QUICK,
        max_restarts: int = 1000,
        **settings: object,
    ) -> AsyncGenerator[Channels]:
        if telegram is not None:
            settings = {"telegram_api_url": telegram.url, "telegram_bot_token": telegram.token, **settings}
        live = make_live(**settings)
        catalogue, done = Catalogue(), list[str]()
        catalogue.add([WRITE, SHELL])
        context = AgentContext(live, Identity(live.home.identity), catalogue, "boot")
        model, problems = model or Model(), list[str]()
        adapters = DynamicSupervisor("adapters", backoff=backoff, max_restarts=max_restarts, max_seconds=600.0)
        keeper = Child(ChannelsKeeper, live, "boot", Switches(), id="keeper")
        tree = Supervisor(
            "root",
            [
                make_store(),
                Child(SettingsKeeper, live, id="settings"),
                Child(FakeHealth, problems, id="health"),
                Supervisor("models", [Child(FakeRouter, model, id="router")]),
                Supervisor("tools", [Child(Gate, live, catalogue, "boot"), Child(Hands, done)]),
                DynamicSupervisor("agents", partial(Agent, context=context)),
                Supervisor("channels", [adapters, keeper], strategy="rest_for_one"),
            ],
        )
        async with run_without_leak(tree) as system:
            yield Channels(system, live, model, problems, done)

    return run
