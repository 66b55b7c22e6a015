"""Streams: bounded, ended by whoever leaves first, never silent about a failure."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager

import msgspec
import pytest
import trio
from pocketpaw.runtime import Actor, ActorSystem, Child, Message, StreamMessage, Supervisor
from pocketpaw.runtime.errors import ActorDied, AskTimeout, BadRequest, NotFound
from pocketpaw.runtime.reply import STREAM_BUFFER
from trio.testing import wait_all_tasks_blocked

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]


class Item(msgspec.Struct, frozen=True):
    number: int


class Count(StreamMessage[Item], to="counter"):
    up_to: int = 3
    then: str = "end"


class Plain(Message[Item], to="counter"):
    pass


class Counter(Actor):
    handler_timeout_s = 5.0

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    async def count(self, message: Count) -> AsyncGenerator[Item]:
        try:
            for number in range(message.up_to):
                self.log.append(f"made {number}")
                yield Item(number)
            match message.then:
                case "fail":
                    raise NotFound("no more")
                case "crash":
                    raise RuntimeError("as asked")
                case "hang":
                    await trio.sleep_forever()
                case _:
                    pass
        finally:
            self.log.append("left")

    async def plain(self, message: Plain) -> Item:
        return Item(0)


class Relay(Actor):
    """Passes on a stream of another actor."""

    async def relay(self, message: Count) -> AsyncGenerator[Item]:
        async with self.stream(message) as items:
            async for item in items:
                yield Item(item.number * 10)


def tree(log: list[str]) -> Supervisor:
    return Supervisor("root", [Child(Counter, log, max_restarts=100), Child(Relay)])


async def numbers(system: ActorSystem, message: Count, **options: object) -> list[int]:
    async with system.stream(message, **options) as items:  # pyright: ignore[reportArgumentType]
        return [item.number async for item in items]


async def read(system: ActorSystem, message: Count, got: list[int]) -> None:
    async with system.stream(message) as items:
        async for item in items:
            got.append(item.number)  # noqa: PERF401 what came before a failure counts


async def test_a_stream_gives_every_item_in_order_and_ends(running: Running) -> None:
    async with running(tree([])) as system:
        assert await numbers(system, Count(up_to=200)) == list(range(200))


async def test_an_actor_passes_on_another_actors_stream(running: Running) -> None:
    log: list[str] = []
    async with running(tree(log)) as system:
        assert await numbers(system, Count(), to="relay") == [0, 10, 20]
        async with system.stream(Count(up_to=10**6), to="relay") as items:
            assert (await anext(items)).number == 0
        assert await system.ask(Plain()) == Item(0)  # so its turn has ended
        assert log[-1] == "left"


async def test_a_producer_waits_for_a_slow_consumer(running: Running) -> None:
    log: list[str] = []
    async with running(tree(log)) as system, system.stream(Count(up_to=1000)) as items:
        await wait_all_tasks_blocked()
        assert len(log) == STREAM_BUFFER + 1
        for _ in range(10):
            await anext(items)
        await wait_all_tasks_blocked()
        assert len(log) == STREAM_BUFFER + 11


async def test_a_consumer_that_leaves_ends_the_producer_and_the_actor_lives_on(running: Running) -> None:
    log: list[str] = []
    async with running(tree(log)) as system:
        async with system.stream(Count(up_to=1, then="hang")) as items:
            assert await anext(items) == Item(0)
        assert await system.ask(Plain()) == Item(0)
        assert log == ["made 0", "left"]
        assert system.node("counter").number == 1


async def test_a_consumer_that_is_cancelled_ends_the_producer(running: Running) -> None:
    log: list[str] = []
    async with running(tree(log)) as system:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(numbers, system, Count(then="hang"))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert await system.ask(Plain()) == Item(0)
        assert log[-1] == "left"


async def test_a_stream_that_was_left_while_it_waited_in_the_mailbox_is_not_begun(running: Running) -> None:
    log: list[str] = []
    async with running(tree(log)) as system, system.stream(Count(then="hang")):
        await wait_all_tasks_blocked()
        async with system.stream(Count(up_to=99)):
            pass
        await system.tell(Plain())
    assert "made 3" not in log
    assert system.dead_letters.counts["expired"] == 1


async def test_a_producer_that_fails_midway_gives_its_items_and_then_the_failure(running: Running) -> None:
    async with running(tree([])) as system:
        got: list[int] = []
        with pytest.raises(NotFound, match="no more"):
            await read(system, Count(then="fail"), got)
        assert got == [0, 1, 2]
        assert system.node("counter").number == 1


async def test_a_producer_that_crashes_midway_gives_its_items_and_then_its_death(running: Running) -> None:
    async with running(tree([])) as system:
        got: list[int] = []
        with pytest.raises(ActorDied, match=r"counter crashed \(RuntimeError: as asked\)"):
            await read(system, Count(then="crash"), got)
        assert got == [0, 1, 2]
        assert await numbers(system, Count()) == [0, 1, 2]
        assert system.node("counter").number == 2


async def test_a_stream_that_falls_silent_times_out(running: Running, autojump_clock: trio.testing.MockClock) -> None:
    async with running(tree([])) as system:
        began = trio.current_time()
        with pytest.raises(AskTimeout, match="Count to counter was not answered within 2 s"):
            await numbers(system, Count(then="hang"), idle_timeout_s=2)
        assert trio.current_time() - began == pytest.approx(2)


async def test_a_stream_that_finds_no_room_times_out_too(
    running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tree([])) as system, system.stream(Count(then="hang")) as items:
        assert await anext(items) == Item(0)
        for _ in range(1000):
            await system.tell(Plain())
        began = trio.current_time()
        with pytest.raises(AskTimeout):
            await numbers(system, Count(), idle_timeout_s=3)
        assert trio.current_time() - began == pytest.approx(3)


async def test_the_time_of_a_slow_consumer_is_not_the_handlers(
    running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tree([])) as system:
        async with system.stream(Count(up_to=STREAM_BUFFER * 2)) as items:
            await trio.sleep(60)  # the handler may take 5 s
            assert len([item async for item in items]) == STREAM_BUFFER * 2
        assert system.node("counter").number == 1


async def test_a_generator_that_falls_silent_is_crashed_by_the_watchdog(
    running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tree([])) as system:
        with pytest.raises(ActorDied, match="Count took longer than 5 s"):
            await numbers(system, Count(then="hang"))


async def test_a_stream_message_is_not_asked_and_a_plain_one_not_streamed(running: Running) -> None:
    async with running(tree([])) as system:
        with pytest.raises(BadRequest, match=r"use stream\(\)"):
            await system.ask(Count())
        with pytest.raises(TypeError, match=r"ask\(\)"):
            async with system.stream(Plain()):  # pyright: ignore[reportArgumentType]
                pass
        assert system.node("counter").number == 1
