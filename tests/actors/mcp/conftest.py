"""MCP servers as the daemon has them, and the fake server that they are."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
from pocketpaw.actors.health import RecordProblem
from pocketpaw.actors.mcp.configuration import FILE
from pocketpaw.actors.mcp.keeper import McpKeeper
from pocketpaw.actors.mcp.protocol import KEEPER, GetMcpStatus, ListMcpTools, ServerStatus
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tools.catalogue import Catalogue
from pocketpaw.actors.tools.protocol import Execute, ToolEvent, ToolInfo, ToolOutput
from pocketpaw.runtime import Actor, ActorSystem, Backoff, Child, Done, DynamicSupervisor, Supervisor
from pocketpaw.runtime.errors import ActorDied, Unavailable

from ...conftest import SETTLE_S, run_without_leak

PROGRAM = str(Path(__file__).parents[2] / "fakes" / "mcp_server.py")
QUICK = Backoff(min_s=0.05, max_s=0.05)
WITHIN_S = 20.0

GONE = (Unavailable, ActorDied)
"""How a call fails whose server ends meanwhile: which of the two depends on who is told first."""


class FakeHealth(Actor):
    """Takes in problems."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__()
        self._problems = problems

    async def record_problem(self, message: RecordProblem) -> Done:
        self._problems.append(message.message)
        return Done()


class Mcp:
    """The running keeper and its servers, and what a test wants of them."""

    def __init__(self, system: ActorSystem, live: LiveSettings, catalogue: Catalogue, problems: list[str]) -> None:
        self.catalogue = catalogue
        self.system = system
        self.live = live
        self.problems = problems

    @property
    def file(self) -> Path:
        return self.live.home.root / FILE

    async def status(self, name: str) -> ServerStatus:
        return (await self.system.ask(GetMcpStatus()))[name]

    async def until(self, condition: Callable[[ServerStatus], object], name: str = "fake") -> ServerStatus:
        """Wait, in real time, until the server is as it should be."""
        with trio.fail_after(WITHIN_S):
            while not condition(status := await self.status(name)):  # noqa: ASYNC110 a process is waited for
                await trio.sleep(0.01)
        return status

    async def connected(self, name: str = "fake") -> ServerStatus:
        return await self.until(lambda status: status.connected, name)

    async def tools(self) -> dict[str, ToolInfo]:
        return {tool.name: tool for tool in await self.system.ask(ListMcpTools())}

    async def events(self, tool: str, arguments: dict[str, object], server: str = "fake") -> list[ToolEvent]:
        """Call a tool as the gate does: at the address that is offered, or at the keeper's."""
        message = Execute(name=f"mcp__{server}__{tool}", arguments=arguments, session_id="s", turn_id="t")
        offered = self.catalogue.get(message.name)
        async with self.system.stream(message, to=offered.address if offered else KEEPER) as events:
            return [event async for event in events]

    async def call(self, tool: str, server: str = "fake", **arguments: object) -> ToolOutput:
        output = (await self.events(tool, arguments, server))[-1]
        assert isinstance(output, ToolOutput)
        return output

    async def wait_for(self, seconds: float, server: str = "fake") -> None:
        """Call the tool that takes so long."""
        await self.call("wait", server, seconds=seconds)


def stdio(name: str, *options: str, **fields: object) -> dict[str, object]:
    """The configuration of a fake server that runs here."""
    command = {"command": sys.executable, "args": ["-S", PROGRAM, "--name", name, *options]}
    return {"name": name, "transport": "stdio", **command, **fields}


RunMcp = Callable[..., AbstractAsyncContextManager[Mcp]]


@pytest.fixture
def run_mcp(live: LiveSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunMcp:
    """`async with run_mcp(stdio("a"), …) as mcp:` runs these servers, and sees that nothing is left of them."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # inherited by all that they start, which is known by it

    @asynccontextmanager
    async def run(
        *servers: dict[str, object], backoff: Backoff = QUICK, max_restarts: int = 1000, text: str | None = None
    ) -> AsyncGenerator[Mcp]:
        problems: list[str] = []
        catalogue = Catalogue()
        if servers or text is not None:
            (live.home.root / FILE).write_text(text or json.dumps({"servers": servers}))
        tree = Supervisor(
            "root",
            [
                Child(FakeHealth, problems, id="health"),
                Supervisor(
                    "mcp",
                    [
                        DynamicSupervisor("servers", backoff=backoff, max_restarts=max_restarts, max_seconds=600.0),
                        Child(McpKeeper, live, catalogue, id="keeper"),
                    ],
                    strategy="rest_for_one",
                ),
            ],
        )
        async with run_without_leak(tree) as system:
            yield Mcp(system, live, catalogue, problems)
        until = time.monotonic() + SETTLE_S
        while (left := processes_with(str(tmp_path))) and time.monotonic() < until:
            time.sleep(0.01)  # noqa: ASYNC251 nothing else runs any more
        assert left == []

    return run


def processes_with(text: str) -> list[int]:
    """The processes, whoever's child they are, that have `text` in their environment."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                if text.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it has ended, or is somebody else's
    return found
