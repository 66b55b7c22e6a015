"""Topics: numbered without a gap, replayed, bounded; a slow listener is cut off and slows nobody."""

from __future__ import annotations

import time

import pytest
import trio
from pocketpaw.runtime import Bus, Event, Subscription
from pocketpaw.runtime.bus import BUFFERED, RETAINED
from trio.testing import wait_all_tasks_blocked


def publish(bus: Bus, count: int, topic: str = "t") -> list[int]:
    return [bus.publish(topic, "said", {"n": number}) for number in range(count)]


async def read(subscription: Subscription, count: int) -> list[int]:
    return [(await anext(subscription)).seq for _ in range(count)]


async def test_events_are_numbered_one_after_another_per_topic() -> None:
    bus = Bus()
    numbers = publish(bus, 3)
    publish(bus, 5, "other")
    assert numbers + publish(bus, 1) == list(range(numbers[0], numbers[0] + 4))
    assert bus.last_seq("t") == numbers[0] + 3


async def test_a_listener_gets_what_is_published_after_it_came() -> None:
    bus = Bus()
    publish(bus, 3)
    with bus.subscribe("t") as subscription:
        numbers = publish(bus, 2)
        event = await anext(subscription)
        assert event == Event("t", numbers[0], "said", event.payload)
        assert event.data() == {"n": 0}
        assert await read(subscription, 1) == numbers[1:]


async def test_an_event_shares_nothing_with_its_publisher() -> None:
    bus = Bus()
    data = {"items": [1]}
    with bus.subscribe("t") as subscription:
        bus.publish("t", "said", data)
        data["items"].append(2)
        assert (await anext(subscription)).data() == {"items": [1]}


async def test_a_listener_that_comes_back_has_what_it_missed_replayed_without_a_gap() -> None:
    bus = Bus()
    numbers = publish(bus, 10)
    with bus.subscribe("t", after=numbers[3]) as subscription:
        numbers += publish(bus, 2)
        assert await read(subscription, 8) == numbers[4:]
        assert not subscription.has_gap


async def test_a_listener_is_told_when_what_it_missed_is_no_longer_kept() -> None:
    bus = Bus()
    numbers = publish(bus, RETAINED + 10)
    assert bus.subscribe("t", after=numbers[8]).has_gap
    assert not bus.subscribe("t", after=numbers[9]).has_gap
    assert not bus.subscribe("t", after=numbers[-1]).has_gap
    assert bus.subscribe("t", after=numbers[-1] + 1).has_gap  # a number of another count


async def test_a_replay_may_be_longer_than_a_buffer() -> None:
    bus = Bus()
    numbers = publish(bus, RETAINED)
    with bus.subscribe("t", after=numbers[0] - 1) as subscription:
        assert [event.seq for event in await subscription.take()] == numbers
        assert not subscription.is_cut_off


async def test_a_slow_listener_is_cut_off_and_the_others_are_not() -> None:
    bus = Bus()
    slow, quick = bus.subscribe("t"), bus.subscribe("t")
    numbers: list[int] = []
    for _ in range(BUFFERED + 1):
        numbers += publish(bus, 1)
        assert await read(quick, 1) == numbers[-1:]
    assert slow.is_cut_off
    assert [event.seq async for event in slow] == numbers[:-1]  # what it had, and then the end
    assert not quick.is_cut_off
    again = bus.subscribe("t", after=numbers[-2])
    assert await read(again, 1) == numbers[-1:]


async def test_a_waiting_listener_wakes_and_one_that_is_closed_ends() -> None:
    bus = Bus()
    got: list[int] = []
    subscription = bus.subscribe("t")

    async def listen() -> None:
        async for event in subscription:
            got.append(event.seq)  # noqa: PERF401 what came before the end counts

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await wait_all_tasks_blocked()
        numbers = publish(bus, 2)
        await wait_all_tasks_blocked()
        assert got == numbers
        subscription.close()


async def test_a_cancelled_listener_misses_nothing() -> None:
    bus = Bus()
    with bus.subscribe("t") as subscription:
        with trio.move_on_after(0):
            await subscription.take()
        numbers = publish(bus, 1)
        assert await read(subscription, 1) == numbers


async def test_no_topic_is_left_once_it_is_forgotten_and_nobody_listens() -> None:
    bus = Bus()
    for number in range(100):
        topic = f"session/{number}"
        assert bus.last_seq(topic) > 0
        assert not bus.has_listeners(topic)
        with bus.subscribe(topic):
            publish(bus, 3, topic)
            assert bus.has_listeners(topic)
            bus.forget(topic)
            publish(bus, 1, topic)
        bus.forget(topic)
        assert len(bus) == 0
        with bus.subscribe(topic, after=3):
            pass
        assert len(bus) == 0


async def test_numbers_do_not_repeat_when_a_topic_begins_anew() -> None:
    bus = Bus()
    first = publish(bus, 100)
    bus.forget("t")
    assert bus.last_seq("t") == first[-1]
    again = bus.subscribe("t", after=first[-1])
    assert not again.has_gap
    assert publish(bus, 1) == [first[-1] + 1]


async def test_numbers_of_a_later_daemon_are_ahead_of_an_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    (last,) = publish(Bus(), 1)
    later_ns = time.time_ns() + 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later_ns)
    later = Bus()
    assert publish(later, 1)[0] > last
    assert later.last_seq("t") < 2**53
    assert later.subscribe("t", after=last).has_gap
