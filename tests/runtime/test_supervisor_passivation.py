"""Children on demand: started by a message, stopped when idle; nothing is lost or reordered on the way."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
from pocketpaw.runtime import DynamicSupervisor, Supervisor
from pocketpaw.runtime.errors import ActorDied, NoSuchActor, Unavailable
from trio.testing import MockClock

from .scripted import Run, Scripted, World, pause, running, settle


def sessions(world: World, **options: Any) -> DynamicSupervisor:
    options.setdefault("passivate_after_s", 100.0)
    return DynamicSupervisor("dyn", lambda name: Scripted(world, name), **options)


# On demand ------------------------------------------------------------------------------------------------------------


async def test_a_message_makes_the_child_that_takes_it(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, sessions(world)) as run:
        assert (await run.do("dyn/a")).incarnation == 1
        assert (await run.do("dyn/a")).incarnation == 1
        assert run.states() == {"dyn": "running", "dyn/a": "running"}


async def test_a_dynamic_supervisor_without_a_factory_makes_none(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, DynamicSupervisor("bare"), Supervisor("sub"), sessions(world)) as run:
        for path in ("bare/a", "sub/a", "dyn/", "nobody/a", "nobody"):
            with pytest.raises(NoSuchActor):
                await run.do(path)


async def test_no_more_children_than_it_may_have(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, sessions(world, max_children=2)) as run:
        await run.do("dyn/a")
        await run.do("dyn/b")
        with pytest.raises(Unavailable, match=r"^dyn has 2 children, as many as it may have$"):
            await run.do("dyn/c")
        await run.supervisor("dyn").terminate_child("a")
        await run.do("dyn/c")


async def test_a_lazy_child_is_started_by_its_first_message(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a", lazy=True), world.child("b")) as run:
        assert run.states() == {"a": "idle", "b": "running"}
        assert (await run.do("a")).incarnation == 1
        await run.make("a", "crash")
        assert run.node_is("a", "running", 2)


async def test_a_lazy_child_may_be_started_while_the_tree_still_starts(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "start", pause(1))
    async with running(world, world.child("a"), world.child("l", lazy=True), world.child("b")) as run:
        assert (await run.do("l")).incarnation == 1
        await trio.sleep(2)
        assert run.states() == {"a": "running", "l": "running", "b": "running"}
        assert run.numbers()["l"] == 1


async def test_a_lazy_child_stays_asleep_when_its_siblings_are_restarted(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a"), world.child("l", lazy=True), strategy="one_for_all") as run:
        await run.make("a", "crash")
        assert run.states() == {"a": "running", "l": "idle"}
        await run.do("l")
        await run.make("a", "crash")
        assert run.states() == {"a": "running", "l": "running"}


async def test_a_lazy_child_that_was_stopped_by_an_operator_is_not_woken(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("l", lazy=True)) as run:
        await run.root.terminate_child("l")
        with pytest.raises(Unavailable, match="l was stopped"):
            await run.do("l")
        await run.root.restart_child("l")
        assert (await run.do("l")).incarnation == 1


async def test_a_lazy_child_that_has_ended_normally_is_woken_by_the_next_message(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("l", lazy=True, restart="transient")) as run:
        await run.make("l", "end")
        assert run.states() == {"l": "idle"}
        assert (await run.do("l")).incarnation == 2
        await run.tell("l", "end")
        await run.tell("l", number=9)
        await settle()
        assert world.handled[-1] == ("l", 3, 9)


async def test_a_lazy_child_with_mail_is_started_by_its_supervisors_next_life(autojump_clock: MockClock) -> None:
    world = World()
    sub = Supervisor("sub", [world.child("x", max_restarts=0), world.child("l", lazy=True)])
    async with running(world, sub) as run:
        await run.make("sub/x", "crash")
        assert run.states()["sub/l"] == "idle"
        await run.tell("sub/l", "crash")
        await run.tell("sub/l", number=1)
        run.system.node("sub").kill(ValueError("now"))
        await settle()
        assert run.states()["sub/l"] == "running"
        assert world.handled[-1] == ("l", run.numbers()["sub/l"], 1)


async def test_a_dynamic_child_with_mail_is_started_by_its_supervisors_next_life(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, sessions(world)) as run:
        await run.do("dyn/b")
        await run.do("dyn/a")
        await run.tell("dyn/a", "hang")
        await settle()
        await run.tell("dyn/a", number=5)
        run.system.node("dyn").kill(ValueError("now"))
        await settle()
        assert run.states() == {"dyn": "running", "dyn/a": "running"}
        assert world.handled[-1] == ("a", 2, 5)


async def test_a_message_to_a_dynamic_supervisor_between_two_lives_waits_for_the_second(
    autojump_clock: MockClock,
) -> None:
    world = World()
    world.once("x", "stop", pause(3))
    sub = Supervisor("sub", [world.child("x"), sessions(world)])
    async with running(world, sub) as run:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.root.restart_child, "sub")
            await trio.sleep(1)
            assert run.states()["sub/dyn"] == "stopped"
            await run.tell("sub/dyn/a", number=4)
        await settle()
        assert world.handled == [("a", 1, 4)]


# Passivation ----------------------------------------------------------------------------------------------------------


async def test_an_idle_child_is_stopped_and_forgotten_and_a_later_message_makes_it_anew(
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with running(world, sessions(world)) as run:
        await run.do("dyn/a")
        await trio.sleep(99)
        assert run.states() == {"dyn": "running", "dyn/a": "running"}
        await trio.sleep(50)
        assert run.states() == {"dyn": "running"}
        assert world.events("stop") == ["a"]
        await run.do("dyn/a")
        await trio.sleep(150)
        assert run.states() == {"dyn": "running"}, "the second time as well"


async def test_an_idle_child_of_the_spec_keeps_its_place(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a", passivate_after_s=100.0), world.child("b")) as run:
        await trio.sleep(150)
        assert run.states() == {"a": "idle", "b": "running"}
        assert (await run.do("a")).incarnation == 2
        await trio.sleep(150)
        assert run.states() == {"a": "idle", "b": "running"}


async def test_an_idle_child_that_was_added_later_is_passivated_too(autojump_clock: MockClock) -> None:
    """Found here: only the limits of the first children were known."""
    world = World()
    async with running(world, world.child("b")) as run:
        await run.root.start_child(world.child("a", passivate_after_s=100.0))
        await trio.sleep(150)
        assert run.states() == {"b": "running", "a": "idle"}


async def test_use_puts_passivation_off(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, sessions(world)) as run:
        for _ in range(10):
            assert (await run.do("dyn/a")).incarnation == 1
            await trio.sleep(90)
        await run.tell("dyn/a", "hang")
        await trio.sleep(30)
        assert run.states()["dyn/a"] == "running", "it is busy"


async def test_an_actor_may_say_that_it_is_not_idle(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "idle", trio.lowlevel.checkpoint)
    async with running(world, sessions(world)) as run:
        await run.do("dyn/a")
        await trio.sleep(500)
        assert run.node_is("dyn/a", "running", 1)


async def test_the_message_that_comes_while_it_stops_is_neither_lost_nor_overtaken(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "stop", pause(2))
    async with running(world, sessions(world)) as run:
        await run.do("dyn/a")
        await trio.sleep(101)
        assert run.states()["dyn/a"] == "stopping"
        answers: list[int] = []

        async def ask(number: int) -> None:
            answers.append((await run.do("dyn/a", number=number)).incarnation)

        async with trio.open_nursery() as nursery:
            for number in (1, 2, 3):
                nursery.start_soon(ask, number)
                await settle()
            assert answers == []
        assert answers == [2, 2, 2]
        assert world.handled == [("a", 1, 0), ("a", 2, 1), ("a", 2, 2), ("a", 2, 3)]
        assert world.most_living["a"] == 1


async def test_many_sessions_come_and_go_and_every_message_is_handled_once_in_order(autojump_clock: MockClock) -> None:
    world = World()
    names = [f"s{n}" for n in range(8)]
    chance = random.Random(7)
    for name in names:
        world.always(name, "stop", pause(0.7))

    async def talk(run: Run, name: str) -> None:
        for number in range(40):
            await run.do(f"dyn/{name}", number=number)
            await trio.sleep(chance.choice([0, 0.1, 4.9, 5.0, 5.1, 5.2, 6.3]))

    async with running(world, sessions(world, passivate_after_s=5.0)) as run, trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(talk, run, name)
    for name in names:
        assert [number for who, _, number in world.handled if who == name] == list(range(40))
        assert world.most_living[name] == 1
    assert len(world.events("stop")) > 20
    assert run.system.dead_letters.counts.total() == 0


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def test_a_thousand_sessions_leave_nothing_behind(autojump_clock: MockClock) -> None:
    """openclaw#86801: lock tables that grow for ever."""
    world = World()
    async with running(world, sessions(world)) as run:
        before = tasks()
        for n in range(1000):
            await run.tell(f"dyn/s{n}")
        await settle()
        assert run.supervisor("dyn").count_children()["active"] == 1000
        await trio.sleep(200)
        assert run.states() == {"dyn": "running"}
        assert len(run.system.nodes) == 2
        assert tasks() == before


async def test_an_operators_word_during_passivation_is_carried_out_after_it(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "stop", pause(2))
    async with running(world, world.child("a", passivate_after_s=10.0)) as run:
        await trio.sleep(11)
        assert run.states()["a"] == "stopping"
        await run.root.restart_child("a")
        assert run.node_is("a", "running", 2)
        assert world.most_living["a"] == 1


async def test_a_child_that_crashes_while_it_is_passivated_is_at_rest_all_the_same(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "stop", ValueError("in on_stop"))
    async with running(world, world.child("a", passivate_after_s=10.0)) as run:
        await trio.sleep(20)
        assert run.states() == {"a": "idle"}
        assert run.said("exited")[0].text == "ValueError: in on_stop"


async def test_a_dynamic_child_that_has_ended_with_mail_in_its_box_is_made_anew(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, sessions(world)) as run:
        await run.tell("dyn/a", "end")
        await run.tell("dyn/a", number=1)
        await settle()
        assert world.handled == [("a", 1, 0), ("a", 2, 1)]


async def test_a_temporary_dynamic_child_is_not_and_its_mail_is_answered(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, sessions(world, restart="temporary")) as run:
        await run.tell("dyn/a", "crash")
        await settle()
        world.once("b", "start", pause(1))
        answers: list[str] = []

        async def ask() -> None:
            with pytest.raises(ActorDied) as caught:
                await run.do("dyn/b", number=2)
            answers.append(caught.value.detail)

        async with trio.open_nursery() as nursery:
            await run.tell("dyn/b", "crash")
            nursery.start_soon(ask)
        assert answers == ["dyn/b has ended before it answered"]
        assert run.states() == {"dyn": "running"}
