"""What a tool's call costs: by the toolbox alone, through the gate with its record on disk, in a child process.

python tests/bench/tools_bench.py [--times 200] [--json]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

import msgspec
import structlog
import trio
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tools.catalogue import Catalogue
from pocketpaw.actors.tools.daemon import DaemonTools
from pocketpaw.actors.tools.gate import Gate, UseTool
from pocketpaw.actors.tools.protocol import Execute
from pocketpaw.actors.tools.shell import Shell, ShellTool
from pocketpaw.config import open_home
from pocketpaw.runtime import ActorSystem, Child, DynamicSupervisor, Principal, Supervisor
from pocketpaw.storage.store import Storage, StoreReader, StoreWriter
from pocketpaw.storage.turns import AddTurn
from row import Row, print_rows

ANN = Principal("ann", frozenset({"admin"}))
WARM_UP = 5


async def measure(times: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        live = LiveSettings(open_home(Path(folder) / "home"), {}, {"tools_allow": ["*"], "file_jail_path": folder})
        storage = Storage(live.home.database_url(live.current))
        catalogue = Catalogue()
        catalogue.add(DaemonTools.infos("tools/daemon"))
        catalogue.add(ShellTool.infos("tools/shell"))
        tree = Supervisor(
            "root",
            [
                Supervisor(
                    "store", [Child(StoreWriter, storage, id="writer"), Child(StoreReader, storage, id="reader")]
                ),
                Supervisor(
                    "tools",
                    [
                        Child(DaemonTools, id="daemon"),
                        Child(ShellTool, live, id="shell"),
                        DynamicSupervisor("shells", Shell),
                        Child(Gate, live, catalogue, "boot"),
                    ],
                ),
            ],
        )
        system = ActorSystem(tree)
        async with trio.open_nursery() as nursery:
            await nursery.start(system.run)
            rows = await _rows(system, times)
            await system.stop()
        return rows


async def _rows(system: ActorSystem, times: int) -> list[Row]:
    await system.ask(
        AddTurn(
            session_id="s",
            turn_id="t",
            content="x",
            channel="api",
            state="running",
            boot_id="boot",
            principal="ann",
        )
    )
    steps = iter(range(10**9))

    async def execute(tool: str, address: str, **arguments: object) -> None:
        message = Execute(name=tool, arguments=arguments, session_id="s", turn_id="t")
        async with system.stream(message, to=address) as events:
            async for _ in events:
                pass

    async def use(tool: str, **arguments: object) -> None:
        message = UseTool(turn_id="t", session_id="s", step=next(steps), number=0, tool=tool, arguments=arguments)
        async with system.stream(message, principal=ANN) as events:
            async for _ in events:
                pass

    async def bare_shell() -> None:
        await trio.run_process(["bash", "-c", "true"], capture_stdout=True, capture_stderr=True)

    few = max(10, times // 10)
    alone = await _median(lambda: execute("current_time", "tools/daemon"), times)
    gated = await _median(lambda: use("current_time"), times)
    process = await _median(lambda: execute("shell", "tools/shell", command="true"), few)
    whole = await _median(lambda: use("shell", command="true"), few)
    bare = await _median(bare_shell, few)
    return [
        _row("a tool of ours, executed", alone),
        _row("the same through policy and record", gated, note=f"{gated - alone:.2f} ms are two commits to disk"),
        _row("shell, executed in its process", process, bare),
        _row("the same through policy and record", whole, bare),
    ]


async def _median(call: Callable[[], Awaitable[None]], times: int) -> float:
    """In milliseconds."""
    taken: list[float] = []
    for _ in range(times + WARM_UP):
        started = perf_counter()
        await call()
        taken.append((perf_counter() - started) * 1000)
    return statistics.median(taken[WARM_UP:])


def _row(name: str, value_ms: float, peer_ms: float | None = None, note: str = "") -> Row:
    ratio = value_ms / peer_ms if peer_ms else None
    return Row(name=name, value=value_ms, unit="ms", peer=peer_ms, ratio=ratio, note=note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    rows = trio.run(measure, options.times)
    if options.json:
        sys.stdout.buffer.write(msgspec.json.encode(rows))
    else:
        print_rows("A tool's call", "bare", rows)


if __name__ == "__main__":
    main()
