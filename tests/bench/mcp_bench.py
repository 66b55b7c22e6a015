"""Measure an MCP call through our actors against the bare SDK: `python tests/bench/mcp_bench.py [--rounds 9]`.

The server is the fake one of the tests, twice: one behind the keeper and its own actor, one behind the SDK's own stdio
client. Rounds are interleaved; a row is the median of its rounds, a ratio the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from mcp.client.session import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from pocketpaw.actors.mcp.configuration import FILE
from pocketpaw.actors.mcp.keeper import McpKeeper
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tools.catalogue import Catalogue
from pocketpaw.actors.tools.protocol import Execute, ToolOutput
from pocketpaw.config import open_home
from pocketpaw.runtime import ActorSystem, Child, DynamicSupervisor, Supervisor

sys.path.insert(0, str(Path(__file__).parent))
from row import Row, print_rows

PROGRAM = str(Path(__file__).parents[1] / "fakes" / "mcp_server.py")
CALLS = 300
CONCURRENCY = 16
TARGET = 1.3

Call = Callable[[], Awaitable[None]]


async def one_by_one(call: Call) -> float:
    """Milliseconds a call."""
    started = time.perf_counter()
    for _ in range(CALLS):
        await call()
    return (time.perf_counter() - started) / CALLS * 1000


async def side_by_side(call: Call) -> float:
    """Milliseconds a call, with `CONCURRENCY` on their way."""

    async def work() -> None:
        for _ in range(CALLS // CONCURRENCY):
            await call()

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(CONCURRENCY):
            nursery.start_soon(work)
    return (time.perf_counter() - started) / (CALLS // CONCURRENCY * CONCURRENCY) * 1000


async def measure(rounds: int) -> list[Row]:
    folder = Path(tempfile.mkdtemp())
    live = LiveSettings(open_home(folder / "home"), {}, {})
    server = {"name": "fake", "command": sys.executable, "args": ["-S", PROGRAM]}
    (live.home.root / FILE).write_text(json.dumps({"servers": [server]}))
    catalogue = Catalogue()
    tree = Supervisor(
        "root",
        [
            Supervisor(
                "mcp",
                [DynamicSupervisor("servers"), Child(McpKeeper, live, catalogue, id="keeper")],
                strategy="rest_for_one",
            )
        ],
    )
    system = ActorSystem(tree)
    parameters = StdioServerParameters(command=sys.executable, args=["-S", PROGRAM])
    async with trio.open_nursery() as nursery:
        await nursery.start(system.run)
        while catalogue.get("mcp__fake__echo") is None:  # noqa: ASYNC110 a process is waited for
            await trio.sleep(0.01)
        async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
            await session.initialize()
            await session.list_tools()

            async def ours() -> None:
                message = Execute(name="mcp__fake__echo", arguments={"text": "hello"}, session_id="s", turn_id="t")
                tool = catalogue.get(message.name)
                assert tool is not None
                async with system.stream(message, to=tool.address) as events:
                    found = [event async for event in events]
                assert found == [ToolOutput("fake: hello", source="mcp fake")]

            async def bare() -> None:
                result = await session.call_tool("echo", {"text": "hello"})
                assert not result.is_error

            rows = [
                await compare(rounds, "MCP call, one by one", one_by_one, ours, bare),
                await compare(rounds, f"MCP call, {CONCURRENCY} at once", side_by_side, ours, bare),
            ]
        await system.stop()
    return rows


async def compare(rounds: int, name: str, measured: Callable[[Call], Awaitable[float]], ours: Call, bare: Call) -> Row:
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        mine.append(await measured(ours))
        theirs.append(await measured(bare))
    ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
    return Row(
        name=name,
        target=f"<= {TARGET} x the bare SDK",
        value=statistics.median(mine),
        unit="ms",
        peer=statistics.median(theirs),
        ratio=ratio,
        is_met=ratio <= TARGET,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rows = trio.run(measure, parser.parse_args().rounds)
    print_rows("MCP", "bare SDK", rows)


if __name__ == "__main__":
    main()
