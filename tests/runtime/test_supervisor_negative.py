"""What went wrong in other actor systems, as tests; each cites the public thread in which it was found."""

from __future__ import annotations

from typing import get_args

import pytest
import trio
from pocketpaw.runtime import Child, DynamicSupervisor, Supervisor
from pocketpaw.runtime.child import Restart
from pocketpaw.runtime.errors import ActorDied, Conflict, NoSuchActor, Unavailable
from pocketpaw.runtime.spec import Strategy
from trio.testing import MockClock

from .scripted import Run, Scripted, World, pause, running, settle
from .test_supervisor_lives import Watcher


async def test_a_constructor_that_throws_leaves_no_suspended_zombie_and_its_watchers_are_told(
    autojump_clock: MockClock,
) -> None:
    """actor-ts#914"""
    world = World()
    watched = world.child("a", on_limit="park", max_restarts=1)
    async with running(world, watched, Child(Watcher, world, "w", id="w")) as run:
        watcher = run.cell("w").actor
        assert isinstance(watcher, Watcher)
        watcher.watch("a")
        world.always("a", "init", ValueError("no"))
        await run.make("a", "crash")
        assert run.states()["a"] == "parked"
        assert [path for path, _, _ in watcher.heard] == ["a"]
        watcher.watch("a")
        await settle()
        assert len(watcher.heard) == 2, "a watch of the dead is answered at once"
        assert world.living["a"] == 0


async def test_waiting_for_a_child_to_end_is_no_busy_spin(autojump_clock: MockClock) -> None:
    """actor-ts#915"""
    world = World()
    world.always("a", "stop", pause(4))

    class Steps(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += 1

    async with running(world, world.child("a")) as run:
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        await run.root.terminate_child("a")
        trio.lowlevel.remove_instrument(steps)
        assert trio.current_time() == 4
        assert steps.count < 40


async def test_a_crash_loop_says_so_each_time(autojump_clock: MockClock) -> None:
    """actor-ts#916: without a line in the log."""
    world = World()
    async with running(world, world.child("a", on_limit="park", max_restarts=2)) as run:
        for _ in range(3):
            await run.make("a", "crash")
        said = [(report.kind, report.incarnation) for report in run.reports if report.path == "a"]
        assert said == [
            ("started", 1), ("exited", 1), ("restarting", 1),
            ("started", 2), ("exited", 2), ("restarting", 2),
            ("started", 3), ("exited", 3), ("parked", 3),
        ]  # fmt: skip
        for report in run.said("exited"):
            assert report.text == "RuntimeError: told to crash"
            assert "in do\n" in report.traceback
            assert report.exit_kind == "crashed"


async def test_the_budget_of_restarts_is_the_childs_not_the_parents(autojump_clock: MockClock) -> None:
    """actor-ts#917"""
    world = World()
    names = [f"c{n}" for n in range(10)]
    async with running(world, *(world.child(name, max_restarts=1) for name in names)) as run:
        for name in names:
            await run.make(name, "crash")
        assert set(run.numbers().values()) == {2}
        assert run.root.is_alive


async def test_a_full_mailbox_makes_the_sender_wait_instead_of_failing_it(autojump_clock: MockClock) -> None:
    """actor-ts#919: MailboxFullError was raised into the sender, which crashed."""

    class Small(Scripted):
        mailbox_capacity = 1

    world = World()
    world.once("a", "handle", pause(1))
    async with running(world, Child(Small, world, "a", id="a")) as run:
        for number in range(5):
            await run.tell("a", number=number)
        await trio.sleep(2)
        assert [number for _, _, number in world.handled] == list(range(5))


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_a_sibling_that_is_terminating_is_not_revived_by_a_crash(
    autojump_clock: MockClock, strategy: Strategy
) -> None:
    """actor-ts#923"""
    world = World()
    world.once("b", "stop", pause(2))
    async with running(world, *world.children("a b"), strategy=strategy) as run:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.root.terminate_child, "b")
            await settle()
            await run.make("a", "crash")
            assert run.states()["b"] == "stopping"
            assert run.numbers() == {"a": 1, "b": 1}, "one thing after the other"
        await settle()
        assert world.most_living["b"] == 1
        assert run.numbers() == {"a": 2, "b": 2}, "as in OTP, a restart of all starts also what was terminated before"


async def test_what_waits_for_one_that_goes_for_good_is_answered_or_a_dead_letter(autojump_clock: MockClock) -> None:
    """actor-ts#518: the stash was dropped without a word."""
    world = World()
    async with running(world, world.child("t", restart="temporary")) as run:
        failures: list[str] = []

        async def ask() -> None:
            with pytest.raises(ActorDied) as caught:
                await run.do("t")
            failures.append(caught.value.detail)

        async with trio.open_nursery() as nursery:
            await run.tell("t", "crash")
            await run.tell("t")
            nursery.start_soon(ask)
        assert failures == ["t has ended before it answered"]
        assert run.system.dead_letters.counts.total() == 3


async def test_a_restarted_supervisor_has_stopped_its_children_and_takes_their_names_again(
    autojump_clock: MockClock,
) -> None:
    """actor-ts#634: duplicate names for ever."""
    world = World()
    async with running(world, Supervisor("sub", world.children("x y"))) as run:
        await run.supervisor("sub").start_child(world.child("added"))
        for number in (2, 3):
            await run.kill("sub")
            assert run.numbers() == {"sub": number, "sub/x": number, "sub/y": number}
        await run.supervisor("sub").start_child(world.child("added"))
        assert run.numbers()["sub/added"] == 1
        assert set(world.most_living.values()) == {1}


async def test_a_subtree_that_is_down_comes_back_whole(autojump_clock: MockClock) -> None:
    """actor-ts#635, #1032: a suspended subtree was never resumed."""
    world = World()
    deep = Supervisor("deep", world.children("x", max_restarts=0), max_restarts=0)
    sub = Supervisor("sub", [*world.children("y"), deep])
    async with running(world, sub) as run:
        await run.make("sub/deep/x", "crash")
        assert run.numbers() == {"sub": 2, "sub/y": 2, "sub/deep": 2, "sub/deep/x": 2}
        assert set(run.states().values()) == {"running"}
        assert (await run.do("sub/deep/x")).incarnation == 2


@pytest.mark.parametrize("site", ["init", "start"])
async def test_what_throws_while_it_is_restarted_is_restarted_again(autojump_clock: MockClock, site: str) -> None:
    """actor-ts#1384: a throw in preRestart, postRestart or the constructor was the end."""
    world = World()
    world.once("a", "init", None, *([ValueError("no")] * 2 if site == "init" else []))
    world.once("a", "start", None, *([ValueError("no")] * 2 if site == "start" else []))
    async with running(world, world.child("a")) as run:
        await run.make("a", "crash")
        assert run.node_is("a", "running", 4)


async def test_a_call_to_one_that_could_not_be_created_does_not_hang(autojump_clock: MockClock) -> None:
    """ray#6612"""
    world = World()
    world.always("s", "init", ValueError("no"))
    dynamic = DynamicSupervisor("dyn", lambda name: Scripted(world, name), max_restarts=2)
    async with running(world, dynamic, world.child("b")) as run:
        with pytest.raises(ActorDied, match=r"dyn/s is down \(ValueError: no\)"):
            await run.do("dyn/s")
        with pytest.raises(Unavailable, match=r"dyn/s is down \(ValueError: no\)"):
            await run.do("dyn/s")
        assert trio.current_time() == 0


async def test_a_caller_may_choose_how_long_to_wait_for_one_that_restarts(autojump_clock: MockClock) -> None:
    """ray#13594: calls queued although the caller wanted to fail fast."""
    world = World()
    async with running(world, world.child("a", **World.slow_restart())) as run:
        await run.make("a", "crash")
        with pytest.raises(Exception, match=r"was not answered within 0.5 s"):
            await run.do("a", timeout_s=0.5)
        assert (await run.do("a", timeout_s=30.0, number=2)).incarnation == 2
        assert [number for _, _, number in world.handled] == [0, 2], "the one that was given up is not handled"


async def test_every_restart_type_is_read_by_somebody(autojump_clock: MockClock) -> None:
    """march PR#426: it was parsed and stored, and read by nobody."""
    after: dict[str, tuple[bool, bool]] = {}
    for restart in get_args(Restart):
        world = World()
        children = [world.child("c", restart=restart), world.child("e", restart=restart)]
        async with running(world, *children) as run:
            await run.make("c", "crash")
            await run.make("e", "end")
            nodes = run.system.nodes
            after[restart] = ("c" in nodes and nodes["c"].is_alive, "e" in nodes and nodes["e"].is_alive)
    assert after == {"permanent": (True, True), "transient": (True, False), "temporary": (False, False)}


async def test_a_message_that_kills_whoever_handles_it_kills_once(autojump_clock: MockClock) -> None:
    """dramatiq#213: the poison was handed to the next one, and the next."""
    world = World()
    async with running(world, world.child("a", max_restarts=1)) as run:
        await run.tell("a", "crash", number=1)
        await run.tell("a", number=2)
        await settle()
        assert world.handled == [("a", 1, 1), ("a", 2, 2)]
        assert run.root.is_alive


async def test_two_starts_of_one_name_at_the_same_time_give_one_child(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "start", pause(1))
    async with running(world) as run:
        outcomes: list[str] = []

        async def start() -> None:
            try:
                await run.root.start_child(world.child("a"))
                outcomes.append("started")
            except Conflict:
                outcomes.append("conflict")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            nursery.start_soon(start)
        assert sorted(outcomes) == ["conflict", "started"]
        assert world.most_living["a"] == 1


async def test_a_start_that_is_given_up_leaves_no_child_behind(autojump_clock: MockClock) -> None:
    """hermes-agent PR#60509: a hung initialize left a process for each try."""
    world = World()
    world.once("a", "start", trio.sleep_forever)
    async with running(world) as run:
        with pytest.raises(Unavailable, match="a could not start: StartTimeout: on_start took longer than 2 s"):
            await run.root.start_child(world.child("a", start_timeout_s=2.0))
        assert run.states() == {}
        with pytest.raises(NoSuchActor):
            await run.do("a")
        await run.root.start_child(world.child("a"))
        assert run.numbers() == {"a": 1}


async def test_stopping_while_a_restart_is_pending_leaves_no_timer_that_rings_later(autojump_clock: MockClock) -> None:
    """openclaw#75915: timers that outlived what they were for."""
    world = World()
    async with running(world, Supervisor("sub", [world.child("a", **World.slow_restart())])) as run:
        await run.make("sub/a", "crash")
        await run.root.terminate_child("sub")
        assert run.states() == {"sub": "stopped", "sub/a": "stopped"}
        await trio.sleep(100)
        assert run.numbers() == {"sub": 1, "sub/a": 1}
        await run.root.restart_child("sub")
        assert run.numbers() == {"sub": 2, "sub/a": 2}
        await trio.sleep(100)
        assert run.numbers() == {"sub": 2, "sub/a": 2}


async def ask_all(run: Run, paths: list[str]) -> list[int]:
    return [(await run.do(path)).incarnation for path in paths]


async def test_a_start_that_hangs_and_ignores_its_cancellation_is_given_up(autojump_clock: MockClock) -> None:
    """home-assistant/core#152592: something is blocking start-up."""
    world = World()
    world.once("a", "start", world.ignore_cancellation)
    async with running(world, world.child("a", start_timeout_s=2.0, wait=False), world.child("b")) as run:
        assert await ask_all(run, ["b"]) == [1]
        assert run.states()["a"] == "starting"
        await run.root.restart_child("a")
        assert await ask_all(run, ["a", "b"]) == [2, 1]
        assert run.system.abandoned == 1
