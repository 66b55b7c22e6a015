"""What every test may use: a running actor system that leaves nothing behind, and a stack when a test crashes hard."""

from __future__ import annotations

import faulthandler
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import psutil
import pykka
import pytest
import trio
from hypothesis import settings
from pocketpaw.runtime import ActorSystem, Report, Supervisor

faulthandler.enable()


def pytest_configure(config: pytest.Config) -> None:
    """The default run tries the same examples each time, and none is too slow; the soaks go and look for new ones."""
    settings.register_profile("steady", deadline=None, derandomize=True)
    settings.register_profile("searching", deadline=None)
    settings.load_profile("searching" if config.getoption("markexpr") == "soak" else "steady")


COLLECTED = pytest.StashKey[frozenset[str]]()

SETTLE_S = 3.0
"""Real time that threads and processes get to vanish after they were ended."""

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Remember what was collected, before any of it is deselected."""
    config.stash[COLLECTED] = frozenset(item.nodeid.partition("[")[0] for item in items)


@pytest.fixture
def collected(request: pytest.FixtureRequest) -> frozenset[str]:
    """The tests that this run has found, selected or not."""
    return request.config.stash[COLLECTED]


def _left_open() -> Counter[str]:
    """How many there are of whatever could leak."""
    threads = [thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")]  # its cache
    folder = Path("/proc/self/fd")
    return Counter(
        {
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "threads": len(threads),
            "processes": len(psutil.Process().children(recursive=True)),
            "descriptors": len(list(folder.iterdir())) if folder.exists() else 0,
            "pykka's actors": len(pykka.ActorRegistry.get_all()),
        }
    )


def _ignore(_: Report) -> None:
    """Nobody listens."""


@asynccontextmanager
async def run_without_leak(
    tree: Supervisor, on_report: Callable[[Report], None] = _ignore
) -> AsyncGenerator[ActorSystem]:
    """Run `tree` for the block, stop it, and see that no task, thread, process or descriptor is left of it."""
    before = _left_open()
    system = ActorSystem(tree, on_report)
    async with trio.open_nursery() as nursery:
        await nursery.start(system.run)
        yield system
        await system.stop()
    until = time.monotonic() + SETTLE_S
    while (more := _left_open() - before) and time.monotonic() < until:
        time.sleep(0.01)  # noqa: ASYNC251 trio's clock may be a virtual one, and nothing else runs any more
    assert not more
    assert system.abandoned == 0


async def wait_until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    """Wait, in real time, for what another thread or process does."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 neither of them can set an event of trio's
            await trio.sleep(0.01)


@pytest.fixture
def eventually() -> Eventually:
    """`await eventually(condition)` waits, in real time, for what another thread or process does."""
    return wait_until


@pytest.fixture
def running() -> Running:
    """`async with running(tree, on_report) as system:` runs an actor system that must leave nothing behind."""
    return run_without_leak
