"""Whoever holds things up is named, with the line that does it. On the real clock, as the watchdog's is."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import pytest
import trio
from pocketpaw.runtime import (
    Actor,
    ActorSystem,
    Child,
    Done,
    Message,
    Report,
    StreamMessage,
    Supervisor,
    ThreadActor,
    watchdog,
)
from pocketpaw.runtime.errors import ActorDied

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]


class Block(Message[Done], to="blocker"):
    in_task: bool = False


class Hold(Message[Done], to="store"):
    pass


class Fetch(Message[Done], to="fetcher"):
    how: str


class Follow(StreamMessage[Done], to="fetcher"):
    pass


class Fetcher(Actor):
    """Its handlers do not end."""

    concurrency = 4
    handler_timeout_s = 0.2

    async def fetch(self, message: Fetch) -> Done:
        if message.how == "in a task":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_for_ever)
        elif message.how == "shielded":
            with trio.CancelScope(shield=True):
                await trio.sleep(1.5)
        await self._wait_for_ever()
        return Done()

    async def follow(self, message: Follow) -> AsyncGenerator[Done]:
        async for _ in self._items():
            yield Done()

    async def _items(self) -> AsyncGenerator[int]:
        await self._wait_for_ever()
        yield 1

    async def _wait_for_ever(self) -> None:
        await trio.sleep_forever()


class Blocker(Actor):
    has_tasks = True

    async def block(self, message: Block) -> Done:
        if message.in_task:
            self.spawn(self._block)
        else:
            await self._block()
        return Done()

    async def _block(self) -> None:
        time.sleep(0.6)  # noqa: ASYNC251 this is the fault


class Store(ThreadActor):
    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self.gate = gate

    def hold(self, message: Hold) -> Done:
        assert self.gate.wait(30)
        return Done()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "BEAT_S", 0.02)
    monkeypatch.setattr(watchdog, "SLOW_S", 0.1)


@pytest.mark.parametrize("in_task", [False, True])
async def test_an_actor_that_blocks_the_loop_is_named_with_its_stack(
    running: Running, eventually: Eventually, in_task: bool
) -> None:
    reports: list[Report] = []
    async with running(Supervisor("root", [Child(Blocker)]), reports.append) as system:
        await trio.sleep(0.1)
        await system.ask(Block(in_task=in_task))
        await eventually(lambda: any(report.kind == "lag" for report in reports))
        (lag,) = (report for report in reports if report.kind == "lag")
        assert (lag.path, lag.incarnation) == ("blocker", 1)
        assert "time.sleep(0.6)" in lag.traceback
        assert lag.text.startswith("the loop stood still for 0.")
        await trio.sleep(0.1)
        assert system.watchdog.lag_s < 0.25


async def test_a_handler_that_holds_its_thread_is_named_once_with_its_stack(
    running: Running, eventually: Eventually
) -> None:
    reports: list[Report] = []
    gate = threading.Event()
    async with running(Supervisor("root", [Child(Store, gate)]), reports.append) as system:
        await system.tell(Hold())
        await eventually(lambda: any(report.kind == "slow" for report in reports))
        await trio.sleep(0.2)
        gate.set()
        (slow,) = (report for report in reports if report.kind == "slow")
        assert slow.path == "store"
        assert "self.gate.wait(30)" in slow.traceback
        assert slow.text.startswith("Hold has been running for 0.")


async def follow(system: ActorSystem) -> None:
    async with system.stream(Follow()) as answers:
        async for _ in answers:
            pass


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("directly", "in _wait_for_ever\n    await trio.sleep_forever()"),
        ("in a task", "in _wait_for_ever\n    await trio.sleep_forever()"),
        ("as a stream", "in _wait_for_ever\n    await trio.sleep_forever()"),
        ("shielded", "in fetch\n    await trio.sleep(1.5)"),
    ],
)
async def test_a_handler_that_does_not_end_is_crashed_and_told_with_its_stack(
    running: Running, eventually: Eventually, how: str, line: str
) -> None:
    reports: list[Report] = []
    async with running(Supervisor("root", [Child(Fetcher), Child(Fetcher, id="other")]), reports.append) as system:
        with pytest.raises(ActorDied, match="took longer than"):
            await (follow(system) if how == "as a stream" else system.ask(Fetch(how=how)))
        (crash,) = (report for report in reports if report.exit_kind == "crashed")
        assert crash.path == "fetcher"
        assert "took longer than 0.2 s\nIt was here:\n" in crash.traceback
        assert line in crash.traceback
        assert "It was here" not in crash.text
        await eventually(lambda: not system.abandoned)


async def test_a_thread_that_is_given_up_is_told_with_its_stack(running: Running, eventually: Eventually) -> None:
    class Hurried(Store):
        handler_timeout_s = 0.1

    reports: list[Report] = []
    gate = threading.Event()
    async with running(Supervisor("root", [Child(Hurried, gate, id="store")]), reports.append) as system:
        await system.tell(Hold())
        await eventually(lambda: any(report.exit_kind == "crashed" for report in reports))
        gate.set()
        (crash,) = (report for report in reports if report.exit_kind == "crashed")
        assert "self.gate.wait(30)" in crash.traceback
        await eventually(lambda: not system.abandoned)


async def test_waiting_is_no_lag(running: Running) -> None:
    reports: list[Report] = []
    async with running(Supervisor("root", [Child(Blocker)]), reports.append):
        await trio.sleep(0.7)
    assert [report for report in reports if report.kind == "lag"] == []


async def test_a_hold_up_by_no_actor_has_no_name(running: Running, eventually: Eventually) -> None:
    reports: list[Report] = []
    async with running(Supervisor("root", [Child(Blocker)]), reports.append):
        await trio.sleep(0.1)
        time.sleep(0.6)  # noqa: ASYNC251 this is the fault
        await eventually(lambda: any(report.kind == "lag" for report in reports))
        assert next(report.path for report in reports if report.kind == "lag") == ""
