"""OTP's supervisor_SUITE by name: what follows a child's end.

https://github.com/erlang/otp/blob/master/lib/stdlib/test/supervisor_SUITE.erl
"""

from __future__ import annotations

import math

import pytest
import trio
from pocketpaw.runtime import DynamicSupervisor, Supervisor
from pocketpaw.runtime.errors import Conflict, NoSuchActor, Unavailable
from pocketpaw.runtime.spec import Strategy
from trio.testing import MockClock

from .scripted import Run, Scripted, World, pause, running, settle

# normal, shutdown and abnormal termination ----------------------------------------------------------------------------


async def end(restart: str, how: str) -> tuple[int, str, dict[str, int]]:
    """One child of that restart type ends so: its incarnation after it, its state, and the counts."""
    world = World()
    async with running(world, world.child("a", restart=restart)) as run:
        if how == "killed":
            await run.kill("a")
        else:
            await run.make("a", how)
        node = run.system.nodes.get("a")
        counts = run.root.count_children()
        return (node.number, node.state, counts) if node else (0, "", counts)


ALIVE = {"specs": 1, "active": 1, "supervisors": 0, "workers": 1}
DOWN = {"specs": 1, "active": 0, "supervisors": 0, "workers": 1}
GONE = {"specs": 0, "active": 0, "supervisors": 0, "workers": 0}


async def test_permanent_normal(autojump_clock: MockClock) -> None:
    assert await end("permanent", "end") == (2, "running", ALIVE)


async def test_transient_normal(autojump_clock: MockClock) -> None:
    assert await end("transient", "end") == (1, "stopped", DOWN)


async def test_temporary_normal(autojump_clock: MockClock) -> None:
    assert await end("temporary", "end") == (0, "", GONE)


async def test_permanent_shutdown(autojump_clock: MockClock) -> None:
    assert await end("permanent", "shutdown") == (2, "running", ALIVE)


async def test_transient_shutdown(autojump_clock: MockClock) -> None:
    assert await end("transient", "shutdown") == (1, "stopped", DOWN)


async def test_temporary_shutdown(autojump_clock: MockClock) -> None:
    assert await end("temporary", "shutdown") == (0, "", GONE)


async def test_permanent_abnormal(autojump_clock: MockClock) -> None:
    assert await end("permanent", "crash") == (2, "running", ALIVE)


async def test_transient_abnormal(autojump_clock: MockClock) -> None:
    assert await end("transient", "crash") == (2, "running", ALIVE)


async def test_temporary_abnormal(autojump_clock: MockClock) -> None:
    assert await end("temporary", "crash") == (0, "", GONE)


async def test_permanent_killed(autojump_clock: MockClock) -> None:
    assert await end("permanent", "killed") == (2, "running", ALIVE)


async def test_transient_killed(autojump_clock: MockClock) -> None:
    assert await end("transient", "killed") == (2, "running", ALIVE)


async def test_temporary_killed(autojump_clock: MockClock) -> None:
    assert await end("temporary", "killed") == (0, "", GONE)


async def test_normal_is_what_it_is_called(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a", restart="transient")) as run:
        await run.make("a", "end")
        assert run.exit_of("a") == "normal"
        assert run.said("exited")[0].exit_kind == "normal"


async def test_transient_normal_refuses_what_comes_after(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a", restart="transient"), world.child("t", restart="temporary")) as run:
        await run.make("a", "end")
        await run.make("t", "end")
        with pytest.raises(Unavailable, match=r"^a has ended$"):
            await run.do("a")
        with pytest.raises(NoSuchActor):
            await run.do("t")


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_temporary_bystander(autojump_clock: MockClock, strategy: Strategy) -> None:
    """A temporary child that went down with a sibling stays down, and its spec is gone."""
    world = World()
    children = [world.child("a"), world.child("t", restart="temporary"), world.child("b", restart="transient")]
    async with running(world, *children, strategy=strategy) as run:
        await run.make("a", "crash")
        assert run.numbers() == {"a": 2, "b": 2}
        assert dict(+world.living) == {"a": 1, "b": 1}
        assert run.root.count_children() == {"specs": 2, "active": 2, "supervisors": 0, "workers": 2}
        with pytest.raises(NoSuchActor):
            await run.do("t")


async def test_temporary_bystander_is_left_alone_by_one_for_one(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a"), world.child("t", restart="temporary")) as run:
        await run.make("a", "crash")
        assert run.numbers() == {"a": 2, "t": 1}


async def test_temporary_child_that_ends_takes_nobody_along(autojump_clock: MockClock) -> None:
    world = World()
    async with running(
        world, world.child("a"), world.child("t", restart="temporary"), strategy="one_for_all"
    ) as run:  # fmt: skip
        await run.make("t", "crash")
        assert run.numbers() == {"a": 1}


# multiple restarts ----------------------------------------------------------------------------------------------------


async def crash_until_over(run: Run, path: str = "a") -> int:
    crashes = 0
    while run.root.is_alive:
        await run.make(path, "crash")
        crashes += 1
    return crashes


@pytest.mark.parametrize("max_restarts", [0, 1, 3])
async def test_multiple_restarts(autojump_clock: MockClock, max_restarts: int) -> None:
    """So many restarts, and not one more."""
    world = World()
    async with running(world, world.child("a", max_restarts=max_restarts)) as run:
        assert await crash_until_over(run) == max_restarts + 1
        assert run.system.node("a").number == max_restarts + 1
        assert len(run.said("restarting")) == max_restarts


async def test_multiple_restarts_within_the_window_only(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a", max_restarts=2, max_seconds=5.0)) as run:
        for _ in range(10):
            await run.make("a", "crash")
            await trio.sleep(2.6)
        assert run.node_is("a", "running", 11)
        await run.make("a", "crash")
        await trio.sleep(2.4)
        await run.make("a", "crash")
        assert not run.root.is_alive, "the one before is 5.0 s ago: three within five seconds"


async def test_multiple_restarts_of_two_children_do_not_add_up(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, *world.children("a b", max_restarts=2)) as run:
        for name in "abab":
            await run.make(name, "crash")
        assert run.numbers() == {"a": 3, "b": 3}


# one_for_one ----------------------------------------------------------------------------------------------------------


async def test_one_for_one(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, *world.children("a b c")) as run:
        await run.make("b", "crash")
        assert run.numbers() == {"a": 1, "b": 2, "c": 1}
        assert world.events("stop") == []
        assert run.root.is_alive


async def test_one_for_one_escalation(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, Supervisor("sub", world.children("x y", max_restarts=1)), world.child("a")) as run:
        await run.make("sub/x", "crash")
        await run.make("sub/x", "crash")
        assert run.numbers() == {"sub": 2, "sub/x": 3, "sub/y": 2, "a": 1}
        assert world.events("stop") == ["y"]
        (escalated,) = run.said("escalated")
        assert escalated.path == "sub/x"
        (exited,) = run.said("exited", "sub")
        assert exited.exit_kind == "shutdown"
        assert exited.text == (
            "LimitReached: sub/x: more than 1 restarts in 5 s; the last failure: RuntimeError: told to crash"
        )


async def test_one_for_one_other_child_fails_restart(autojump_clock: MockClock) -> None:
    """A restart that fails is a failure of that child alone."""
    world = World()
    world.once("a", "start", None, ValueError("once"), ValueError("twice"))
    async with running(world, *world.children("a b")) as run:
        await run.make("a", "crash")
        assert run.numbers() == {"a": 4, "b": 1}


# one_for_all ----------------------------------------------------------------------------------------------------------


async def test_one_for_all(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, *world.children("a b c"), strategy="one_for_all") as run:
        world.log.clear()
        await run.make("b", "crash")
        assert run.numbers() == {"a": 2, "b": 2, "c": 2}
        assert [line for line in world.log if not line.endswith(("init", "task"))] == [
            "b gone", "c stop", "c gone", "a stop", "a gone",
            "a start", "a up", "b start", "b up", "c start", "c up",
        ]  # fmt: skip
        assert set(world.most_living.values()) == {1}


async def test_one_for_all_waits_for_each_start(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, *world.children("a b"), strategy="one_for_all") as run:
        world.once("a", "start", pause(2))
        await run.make("b", "crash")
        assert run.states() == {"a": "starting", "b": "stopped"}
        await trio.sleep(3)
        assert run.states() == {"a": "running", "b": "running"}


async def test_one_for_all_escalation(autojump_clock: MockClock) -> None:
    world = World()
    sub = Supervisor("sub", world.children("x y", max_restarts=1), strategy="one_for_all")
    async with running(world, sub, world.child("a")) as run:
        await run.make("sub/x", "crash")
        await run.make("sub/x", "crash")
        assert run.numbers() == {"sub": 2, "sub/x": 3, "sub/y": 3, "a": 1}


async def test_one_for_all_other_child_fails_restart(autojump_clock: MockClock) -> None:
    """The sibling's failed start is counted against the sibling, and all start anew."""
    world = World()
    world.once("b", "start", None, ValueError("not now"))
    async with running(world, *world.children("a b c"), strategy="one_for_all") as run:
        await run.make("a", "crash")
        assert run.numbers() == {"a": 3, "b": 3, "c": 2}
        assert world.events("start") == [*"abc", *"ab", *"abc"]
        assert world.events("stop") == ["c", "b", "a"]


async def test_one_for_all_starts_also_what_was_terminated(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, *world.children("a b"), strategy="one_for_all") as run:
        await run.root.terminate_child("b")
        await run.make("a", "crash")
        assert run.states() == {"a": "running", "b": "running"}
        assert (await run.do("b")).incarnation == 2


# rest_for_one ---------------------------------------------------------------------------------------------------------


async def test_rest_for_one(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, *world.children("a b c d"), strategy="rest_for_one") as run:
        world.log.clear()
        await run.make("b", "crash")
        assert run.numbers() == {"a": 1, "b": 2, "c": 2, "d": 2}
        assert [line for line in world.log if not line.endswith(("init", "task"))] == [
            "b gone", "d stop", "d gone", "c stop", "c gone",
            "b start", "b up", "c start", "c up", "d start", "d up",
        ]  # fmt: skip


async def test_rest_for_one_escalation(autojump_clock: MockClock) -> None:
    world = World()
    sub = Supervisor("sub", world.children("x y", max_restarts=1), strategy="rest_for_one")
    async with running(world, sub, world.child("a")) as run:
        await run.make("sub/y", "crash")
        await run.make("sub/y", "crash")
        assert run.numbers() == {"sub": 2, "sub/x": 2, "sub/y": 3, "a": 1}


async def test_rest_for_one_other_child_fails_restart(autojump_clock: MockClock) -> None:
    """What fails on the way is where the next try begins: those before it have started well."""
    world = World()
    world.once("b", "start", None, ValueError("not now"))
    async with running(world, *world.children("a b c"), strategy="rest_for_one") as run:
        await run.make("a", "crash")
        assert run.numbers() == {"a": 2, "b": 3, "c": 2}
        assert world.events("start") == [*"abc", *"ab", *"bc"]


# simple_one_for_one ---------------------------------------------------------------------------------------------------


async def test_simple_one_for_one(autojump_clock: MockClock) -> None:
    world = World()
    dynamic = DynamicSupervisor("dyn", lambda name: Scripted(world, name), restart="permanent")
    async with running(world, dynamic) as run:
        for name in "abc":
            assert (await run.do(f"dyn/{name}")).incarnation == 1
        await run.make("dyn/b", "crash")
        assert run.numbers() == {"dyn": 1, "dyn/a": 1, "dyn/b": 2, "dyn/c": 1}


async def test_simple_one_for_one_extra(autojump_clock: MockClock) -> None:
    """Children of other kinds may be added beside those that the factory makes."""
    world = World()
    async with running(world, DynamicSupervisor("dyn", lambda name: Scripted(world, name))) as run:
        await run.do("dyn/a")
        await run.supervisor("dyn").start_child(Supervisor("extra", world.children("x")))
        await run.make("dyn/extra/x", "crash")
        assert run.numbers() == {"dyn": 1, "dyn/a": 1, "dyn/extra": 1, "dyn/extra/x": 2}
        await run.kill("dyn")
        assert run.numbers() == {"dyn": 2}


async def test_simple_one_for_one_shutdown(autojump_clock: MockClock) -> None:
    """They stop all at once: as many seconds each take that many in all."""
    world = World()
    async with running(world, DynamicSupervisor("dyn", lambda name: Scripted(world, name))) as run:
        for n in range(20):
            world.always(f"c{n}", "stop", pause(2))
            await run.do(f"dyn/c{n}")
        began = trio.current_time()
        await run.root.terminate_child("dyn")
        assert trio.current_time() - began == 2
        assert len(world.events("stop")) == 20


async def test_simple_one_for_one_escalation(autojump_clock: MockClock) -> None:
    world = World()
    dynamic = DynamicSupervisor(
        "dyn", lambda name: Scripted(world, name), restart="permanent", max_restarts=1, on_limit="escalate"
    )
    async with running(world, dynamic, world.child("a")) as run:
        await run.do("dyn/b")
        await run.make("dyn/a", "crash")
        await run.make("dyn/a", "crash")
        assert run.numbers() == {"dyn": 2, "a": 1}, "as in OTP, dynamic children do not come back by themselves"


# hanging_restart_loop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
async def test_hanging_restart_loop(autojump_clock: MockClock, strategy: Strategy) -> None:
    """A child that fails each start keeps its supervisor neither busy nor deaf, and ends in its limit."""
    world = World()
    world.once("a", "start", None)
    world.always("a", "start", ValueError("never again"))
    sub = Supervisor(
        "sub", world.children("a b", max_restarts=20, max_seconds=10.0), strategy=strategy, restart="transient"
    )
    async with running(world, sub) as run:
        await run.make("sub/a", "crash")
        assert run.system.node("sub/a").number == 21
        assert run.states() == {"sub": "stopped", "sub/a": "crashed", "sub/b": "stopped"}
        assert set(world.most_living.values()) == {1}


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
async def test_hanging_restart_loop_hears_its_operator(autojump_clock: MockClock, strategy: Strategy) -> None:
    world = World()
    world.once("a", "start", None)
    world.always("a", "start", ValueError("never again"))
    children = world.children("a b", max_restarts=10**9)
    async with running(world, Supervisor("sub", children, strategy=strategy)) as run:
        run.system.node("sub/a").kill(RuntimeError("the beginning of it"))
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        sub = run.supervisor("sub")
        assert sub.records["a"].failures > 2
        with pytest.raises(Conflict):
            await sub.start_child(world.child("a"))
        await sub.terminate_child("a")
        await settle()
        number = run.system.node("sub/a").number
        assert run.node_is("sub/a", "stopped", number)
        sub.delete_child("a")
        if strategy != "one_for_one":
            with pytest.raises(Unavailable, match="sub/b went down with a"):
                await run.do("sub/b")
            await sub.restart_child("b")
        assert (await run.do("sub/b")).incarnation >= 1


async def test_hanging_restart_loop_simple(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "start", None)
    world.always("a", "start", ValueError("never again"))
    async with running(world, DynamicSupervisor("dyn", lambda name: Scripted(world, name), max_restarts=5)) as run:
        await run.make("dyn/a", "crash")
        assert run.node_is("dyn/a", "parked", 6)
        await run.supervisor("dyn").terminate_child("a")
        assert run.states() == {"dyn": "running"}


async def test_hanging_restart_loop_rest_for_one(autojump_clock: MockClock) -> None:
    """A start that hangs holds up its dependents and nothing else; stopping the supervisor ends it."""
    world = World()
    world.once("b", "start", None)
    world.always("b", "start", trio.sleep_forever)
    children = [world.child("a"), world.child("b", start_timeout_s=math.inf), world.child("c")]
    async with running(world, Supervisor("sub", children, strategy="rest_for_one"), world.child("z")) as run:
        await run.make("sub/b", "crash")
        assert run.states() == {
            "sub": "running", "sub/a": "running", "sub/b": "starting", "sub/c": "stopped", "z": "running",
        }  # fmt: skip
        began = trio.current_time()
        await run.root.terminate_child("sub")
        assert trio.current_time() == began


# auto_shutdown --------------------------------------------------------------------------------------------------------


def significant(world: World, names: str, restart: str = "transient") -> Supervisor:
    rule = "all_significant"
    children = world.children(names, restart=restart, significant=True)
    return Supervisor("sub", [*children, world.child("z")], auto_shutdown=rule, restart="transient")


async def test_auto_shutdown_any_significant(autojump_clock: MockClock) -> None:
    world = World()
    children = [*world.children("a b", restart="transient", significant=True), world.child("z")]
    sub = Supervisor("sub", children, auto_shutdown="any_significant", restart="transient")
    async with running(world, sub) as run:
        await run.make("sub/a", "end")
        assert run.states()["sub"] == "stopped"
        (exited,) = run.said("exited", "sub")
        assert (exited.exit_kind, exited.text) == ("shutdown", "AutoShutdown: its significant child a has ended")
        assert sorted(world.events("stop")) == ["a", "b", "z"]


async def test_auto_shutdown_all_significant(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, significant(world, "a b")) as run:
        await run.make("sub/a", "end")
        assert run.states()["sub"] == "running"
        await run.make("sub/b", "shutdown")
        assert run.states()["sub"] == "stopped"


async def test_auto_shutdown_all_significant_counts_a_sibling_in_backoff(
    autojump_clock: MockClock,
) -> None:
    world = World()
    a, b = world.children("a b", restart="transient", significant=True, **World.slow_restart())
    async with running(world, Supervisor("sub", [a, b], auto_shutdown="all_significant", restart="transient")) as run:
        await run.make("sub/b", "crash")
        assert run.states()["sub/b"] == "backoff"
        await run.make("sub/a", "end")
        assert run.states()["sub"] == "running"
        await trio.sleep(11)
        assert run.states()["sub/b"] == "running"
        await run.make("sub/b", "end")
        assert run.states()["sub"] == "stopped"


async def test_auto_shutdown_all_significant_counts_a_sibling_that_is_parked(autojump_clock: MockClock) -> None:
    world = World()
    a, b = world.children("a b", restart="transient", significant=True, on_limit="park", max_restarts=0)
    async with running(world, Supervisor("sub", [a, b], auto_shutdown="all_significant", restart="transient")) as run:
        await run.make("sub/b", "crash")
        await run.make("sub/a", "end")
        assert run.states() == {"sub": "running", "sub/a": "stopped", "sub/b": "parked"}


async def test_significant_temporary(autojump_clock: MockClock) -> None:
    """A temporary child ends with its crash too."""
    world = World()
    async with running(world, significant(world, "a", "temporary")) as run:
        await run.make("sub/a", "crash")
        assert run.states() == {"sub": "stopped", "sub/z": "stopped"}


async def test_significant_transient_crash_is_no_end(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, significant(world, "a")) as run:
        await run.make("sub/a", "crash")
        assert run.numbers() == {"sub": 1, "sub/a": 2, "sub/z": 1}


async def test_nonsignificant_children_end_nothing(autojump_clock: MockClock) -> None:
    world = World()
    children = [world.child("a", restart="transient"), world.child("t", restart="temporary")]
    sub = Supervisor("sub", children, auto_shutdown="any_significant", restart="transient")
    async with running(world, sub) as run:
        await run.make("sub/a", "end")
        await run.make("sub/t", "end")
        assert run.states()["sub"] == "running"


async def test_significant_bystander(autojump_clock: MockClock) -> None:
    """What goes down with a sibling, or at an operator's word, has not ended by itself."""
    world = World()
    children = [
        world.child("a"),
        world.child("t", restart="temporary", significant=True),
        world.child("s", restart="transient", significant=True),
    ]
    sub = Supervisor("sub", children, auto_shutdown="any_significant", restart="transient", strategy="one_for_all")
    async with running(world, sub) as run:
        await run.make("sub/a", "crash")
        assert run.numbers() == {"sub": 1, "sub/a": 2, "sub/s": 2}
        await run.supervisor("sub").terminate_child("s")
        assert run.states()["sub"] == "running"


async def test_significant_escalation(autojump_clock: MockClock) -> None:
    """A supervisor that shuts down by itself is itself a significant child that has ended."""
    world = World()
    inner = Supervisor(
        "inner",
        [world.child("a", restart="transient", significant=True)],
        auto_shutdown="any_significant",
        restart="transient",
        significant=True,
    )
    outer = Supervisor("outer", [inner, world.child("z")], auto_shutdown="any_significant", restart="transient")
    async with running(world, outer, world.child("other")) as run:
        await run.make("outer/inner/a", "end")
        assert run.states() == {
            "outer": "stopped", "outer/inner": "stopped", "outer/inner/a": "stopped", "outer/z": "stopped",
            "other": "running",
        }  # fmt: skip


async def test_auto_shutdown_of_a_permanent_supervisor_is_followed_by_its_restart(autojump_clock: MockClock) -> None:
    world = World()
    sub = Supervisor("sub", [world.child("a", restart="transient", significant=True)], auto_shutdown="any_significant")
    async with running(world, sub) as run:
        await run.make("sub/a", "end")
        assert run.numbers() == {"sub": 2, "sub/a": 2}


# escalation up to the root --------------------------------------------------------------------------------------------


async def test_escalation_goes_up_level_by_level_until_the_root_gives_up(autojump_clock: MockClock) -> None:
    world = World()
    deep = Supervisor("deep", world.children("x", max_restarts=1), max_restarts=1)
    async with running(world, Supervisor("mid", [deep], max_restarts=1)) as run:
        crashes = 0
        while run.root.is_alive:
            await run.make("mid/deep/x", "crash")
            crashes += 1
        assert crashes == 2 * 2 * 2
        assert run.root.life is not None
        assert str(run.root.life.exit).startswith("LimitReached: mid: more than 1 restarts in 5 s")
        assert [report.path for report in run.said("escalated")] == [
            "mid/deep/x", "mid/deep/x", "mid/deep",
            "mid/deep/x", "mid/deep/x", "mid/deep", "mid",
        ]  # fmt: skip


async def test_escalation_of_a_transient_supervisor_ends_there(autojump_clock: MockClock) -> None:
    """It ends with reason shutdown, which is no abnormal end, as in OTP."""
    world = World()
    async with running(world, Supervisor("sub", world.children("x", max_restarts=0), restart="transient")) as run:
        await run.make("sub/x", "crash")
        assert run.states() == {"sub": "stopped", "sub/x": "crashed"}
        with pytest.raises(Unavailable, match="sub/x has ended"):
            await run.do("sub/x")


async def test_a_restarted_supervisor_counts_its_childrens_restarts_from_nought(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, Supervisor("sub", world.children("x", max_restarts=2))) as run:
        for _ in range(3):
            await run.make("sub/x", "crash")
        assert run.numbers() == {"sub": 2, "sub/x": 4}
        for _ in range(2):
            await run.make("sub/x", "crash")
        assert run.numbers() == {"sub": 2, "sub/x": 6}
