"""OTP's supervisor_SUITE by name: starting, stopping and administering children.

https://github.com/erlang/otp/blob/master/lib/stdlib/test/supervisor_SUITE.erl
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from pocketpaw.runtime import (
    CONNECTOR,
    ActorSystem,
    Backoff,
    Child,
    DynamicSupervisor,
    IgnoreStart,
    RootGaveUp,
    Supervisor,
)
from pocketpaw.runtime.child import snake_case
from pocketpaw.runtime.errors import ActorDied, Conflict, NotFound, TransientFailure, Unavailable
from trio.testing import MockClock

from .scripted import Do, Scripted, World, pause, running, settle

# sup_start ------------------------------------------------------------------------------------------------------------


async def test_sup_start_normal(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world) as run:
        assert run.root.state == "running"
        assert run.root.number == 1
    assert run.root.state == "stopped"
    assert run.root.life is not None
    assert str(run.root.life.exit) == "shutdown"


async def test_sup_start_children_in_order_each_when_the_one_before_is_ready(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "start", pause(3))
    async with running(world, *world.children("a b c")) as run:
        assert run.states() == {"a": "starting", "b": "idle", "c": "idle"}
        await trio.sleep(3.1)
        order = [line for line in world.log if not line.endswith(("init", "task"))]
        assert order == ["a start", "a up", "b start", "b up", "c start", "c up"]
        assert set(run.states().values()) == {"running"}


async def test_sup_start_ignore_child(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "start", IgnoreStart())
    async with running(world) as run:
        a = await run.root.start_child(world.child("a"))
        await run.root.start_child(world.child("b"))
        assert (a.state, a.is_alive) == ("ignored", False)
        assert run.root.count_children() == {"specs": 2, "active": 1, "supervisors": 0, "workers": 2}
        with pytest.raises(Unavailable, match=r"^a has nothing to do$"):
            await run.do("a")


async def test_sup_start_ignore_child_of_the_spec(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "start", IgnoreStart())
    async with running(world, *world.children("a b")) as run:
        assert run.states() == {"a": "ignored", "b": "running"}


async def test_sup_start_ignore_init(autojump_clock: MockClock) -> None:
    """A constructor may say so too."""
    world = World()
    world.always("a", "init", IgnoreStart())
    async with running(world, *world.children("a b")) as run:
        assert run.states() == {"a": "ignored", "b": "running"}
        assert run.said("restarting") == []


async def test_sup_start_ignore_child_that_nobody_waits_for(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "start", IgnoreStart())
    world.always("t", "start", IgnoreStart())
    async with running(world, world.child("a", wait=False), world.child("t", wait=False, restart="temporary")) as run:
        assert run.states() == {"a": "ignored"}
        with pytest.raises(Unavailable, match=r"^a has nothing to do$"):
            await run.do("a")


async def test_sup_start_ignore_temporary_child(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "start", IgnoreStart())
    async with running(world, *world.children("a b", restart="temporary")) as run:
        assert run.states() == {"b": "running"}
        assert run.root.count_children() == {"specs": 1, "active": 1, "supervisors": 0, "workers": 1}


async def test_sup_start_ignore_temporary_child_start_child(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "start", IgnoreStart())
    async with running(world) as run:
        await run.root.start_child(world.child("a", restart="temporary"))
        await run.root.start_child(world.child("b", restart="temporary"))
        assert run.states() == {"b": "running"}


@pytest.mark.parametrize("restart", ["temporary", "permanent"])
async def test_sup_start_ignore_child_start_child_simple(autojump_clock: MockClock, restart: str) -> None:
    world = World()
    world.always("a", "start", IgnoreStart())
    async with running(world, DynamicSupervisor("dyn")) as run:
        dynamic = run.supervisor("dyn")
        await dynamic.start_child(world.child("a", restart=restart))
        await dynamic.start_child(world.child("b", restart=restart))
        assert run.states() == {"dyn": "running", "dyn/b": "running"}


async def test_sup_start_restarted_child_may_ignore(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "start", None, IgnoreStart())
    async with running(world, *world.children("a b")) as run:
        await run.make("a", "crash")
        assert run.states() == {"a": "ignored", "b": "running"}
        assert run.root.is_alive
        with pytest.raises(Unavailable):
            await run.do("a")


async def test_sup_start_error_return(autojump_clock: MockClock) -> None:
    """A child of the spec that fails to start fails its supervisor, and so the root; what had started is stopped."""
    world = World()
    world.always("b", "start", ValueError("bad weather"))
    system = ActorSystem(Supervisor("root", world.children("a b c")))
    with pytest.raises(RootGaveUp, match=r"^ValueError: bad weather$"):
        await system.run()
    assert world.events("start") == ["a", "b"]
    assert world.events("stop") == ["a"]
    assert system.root.number == 1


async def test_sup_start_fail(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "init", SystemError("no constructor"))
    with pytest.raises(RootGaveUp, match="no constructor"):
        await ActorSystem(Supervisor("root", world.children("a"))).run()


async def test_sup_start_of_a_subtree_that_fails_is_the_parents_failure(autojump_clock: MockClock) -> None:
    world = World()
    world.always("x", "start", ValueError("deep"))
    with pytest.raises(RootGaveUp, match="ValueError: deep"):
        await ActorSystem(
            Supervisor("root", [*world.children("a"), Supervisor("sub", world.children("x")), *world.children("b")])
        ).run()
    assert world.events("start") == ["a", "x"]


async def test_sup_start_child_returns_error(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "start", ValueError("not today"))
    world.always("t", "start", TransientFailure("not yet"))
    async with running(world, *world.children("z")) as run:
        with pytest.raises(Unavailable, match="a could not start: ValueError: not today") as caught:
            await run.root.start_child(world.child("a"))
        assert isinstance(caught.value.__cause__, ValueError)
        with pytest.raises(TransientFailure, match="not yet"):
            await run.root.start_child(world.child("t"))
        assert run.states() == {"z": "running"}
        await settle()
        assert run.said("restarting") == []
        assert world.events("start") == ["z", "a", "t"]


async def test_sup_start_restart_child_returns_error(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, *world.children("a")) as run:
        await run.root.terminate_child("a")
        world.once("a", "start", ValueError("still broken"))
        with pytest.raises(Unavailable, match="a could not start: ValueError: still broken"):
            await run.root.restart_child("a")
        await settle()
        assert run.node_is("a", "running", 3), "unlike OTP it goes on as after any failure: permanent is permanent"


async def test_sup_start_nobody_waits_for_a_child_with_wait_false(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "start", trio.sleep_forever)
    async with running(world, world.child("a", wait=False, on_limit="park"), world.child("b")) as run:
        assert run.states() == {"a": "starting", "b": "running"}
        assert run.root.state == "running"


# sup_start_map --------------------------------------------------------------------------------------------------------


def test_sup_start_map_defaults() -> None:
    world = World()
    child, supervisor, dynamic = Child(Scripted, world, "a"), Supervisor("s"), DynamicSupervisor("d")
    common: dict[str, object] = {
        "restart": "permanent", "max_restarts": 3, "max_seconds": 5.0, "on_limit": "escalate", "probe_s": 300.0,
        "backoff": Backoff(0.0, 0.0, 2.0, 0.2, 60.0), "wait": True, "lazy": False, "passivate_after_s": None,
        "significant": False,
    }  # fmt: skip
    of_child = {"factory": Scripted, "args": (world, "a"), "id": "scripted", "shutdown_s": 5.0, "start_timeout_s": 10.0}
    assert vars(child) == {**common, **of_child, "asks": ()}
    of_supervisor = {"children": (), "strategy": "one_for_one", "auto_shutdown": "never", "shutdown_s": math.inf}
    assert vars(supervisor) == {**common, **of_supervisor, "id": "s"}
    of_dynamic = {"factory": None, "max_children": 100_000, "id": "d"}
    options = {"child_options": {"restart": "transient", "on_limit": "park"}}
    assert vars(dynamic) == {**common, **of_supervisor, **of_dynamic, **options}
    assert Child(Scripted, world, "a", asks=("b",)).asks == ("b",)
    assert Backoff(1.0, 60.0) == CONNECTOR == Backoff(1.0, 60.0, 2.0, 0.2, 60.0)
    assert [snake_case(name) for name in ("Store", "StoreWriter", "Mp3Player", "MCP")] == [
        "store", "store_writer", "mp3_player", "mcp",
    ]  # fmt: skip


async def test_sup_start_map(autojump_clock: MockClock) -> None:
    """The defaults are OTP's."""
    world = World()
    async with running(world, Child(Scripted, world, "a"), Supervisor("sub"), id_of_a := world.child("b")) as run:
        spec = run.root.get_childspec("scripted")
        assert (spec.restart, spec.shutdown_s, spec.significant) == ("permanent", 5.0, False)
        sub = run.root.get_childspec("sub")
        assert isinstance(sub, Supervisor)
        assert (sub.restart, sub.shutdown_s, sub.strategy, sub.auto_shutdown) == (
            "permanent",
            math.inf,
            "one_for_one",
            "never",
        )
        assert (sub.max_restarts, sub.max_seconds) == (3, 5.0)
        assert run.root.get_childspec("b") is id_of_a
        with pytest.raises(NotFound, match="root has no child 'child4'"):
            run.root.get_childspec("child4")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"id": ""}, "a child's id is one part of an address, without a slash: ''"),
        ({"id": "a/b"}, "a child's id is one part of an address, without a slash: 'a/b'"),
        ({"restart": "sometimes"}, "restart is one of permanent, transient, temporary, not 'sometimes'"),
        ({"on_limit": "shrug"}, "on_limit is one of escalate, park, not 'shrug'"),
        ({"shutdown_s": -1}, "shutdown_s of 'a' is a number of seconds or 'brutal_kill', not -1"),
        ({"shutdown_s": math.nan}, "shutdown_s of 'a' is a number of seconds or 'brutal_kill', not nan"),
        ({"max_restarts": -1}, "max_restarts of 'a' is at least 0, max_seconds and probe_s are more"),
        ({"max_seconds": 0}, "max_restarts of 'a' is at least 0, max_seconds and probe_s are more"),
        ({"probe_s": 0}, "max_restarts of 'a' is at least 0, max_seconds and probe_s are more"),
        (
            {"significant": True},
            "'a' is significant, so transient or temporary: a permanent child never ends by itself",
        ),
    ],
)
def test_sup_start_map_faulty_specs(options: dict[str, Any], complaint: str) -> None:
    world = World()
    merged: dict[str, Any] = {"id": "a", **options}
    with pytest.raises(ValueError, match=f"^{complaint}$"):
        Child(Scripted, world, "a", **merged)
    with pytest.raises(ValueError, match=f"^{complaint}$"):
        Supervisor(**merged)


def test_child_specs() -> None:
    world = World()
    edge = world.child("a", shutdown_s=0, max_restarts=0, max_seconds=0.1, probe_s=0.1)
    assert (edge.shutdown_s, edge.max_restarts) == (0, 0)
    assert Child(Scripted, world, "a").id == "scripted"
    with pytest.raises(ValueError, match=r"^supervisor 'root' has two children with the same id: \['a', 'a'\]$"):
        Supervisor("root", world.children("a a"))
    significant = world.child("s", restart="transient", significant=True)
    with pytest.raises(
        ValueError, match=r"^child 's' is significant, but supervisor 'root' has auto_shutdown='never'$"
    ):
        Supervisor("root", [significant])
    Supervisor("root", [significant], auto_shutdown="any_significant")


def test_sup_flags() -> None:
    with pytest.raises(ValueError, match="strategy is one of one_for_one, one_for_all, rest_for_one, not 'all'"):
        Supervisor("s", strategy="all")  # pyright: ignore[reportArgumentType] that is the point
    with pytest.raises(ValueError, match="auto_shutdown is one of never, any_significant, all_significant, not 'yes'"):
        Supervisor("s", auto_shutdown="yes")  # pyright: ignore[reportArgumentType] that is the point


async def test_sup_start_child_checks_its_spec(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world) as run:
        with pytest.raises(ValueError, match="significant"):
            await run.root.start_child(world.child("s", restart="transient", significant=True))
        assert run.states() == {}


# sup_stop -------------------------------------------------------------------------------------------------------------


async def test_sup_stop_in_reverse_order_each_when_the_one_before_is_gone(autojump_clock: MockClock) -> None:
    world = World()
    world.always("b", "stop", pause(0.2))
    async with running(world, *world.children("a b"), Supervisor("sub", world.children("x y")), world.child("c")):
        world.log.clear()
    assert [line for line in world.log if not line.endswith("task")] == [
        "c stop", "c gone", "y stop", "y gone", "x stop", "x gone", "b stop", "b gone", "a stop", "a gone",
    ]  # fmt: skip


async def test_sup_stop_infinity(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "stop", pause(1000))
    async with running(world, world.child("a", shutdown_s=math.inf), *world.children("b")) as run:
        began = trio.current_time()
        await run.root.terminate_child("a")
        assert trio.current_time() - began == 1000
        assert run.exit_of("a") == "shutdown"


async def test_sup_stop_timeout(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, *world.children("a b", shutdown_s=2.0)) as run:
        await run.tell("b", "hang")
        await settle()
        began = trio.current_time()
        await run.system.stop(60)
        assert trio.current_time() - began == 2
        assert (run.exit_of("a"), run.exit_of("b")) == ("shutdown", "killed")
        assert run.states() == {"a": "stopped", "b": "stopped"}
    assert world.events("stop") == ["a"], "what was killed had no time for on_stop"


async def test_sup_stop_brutal_kill(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a"), world.child("b", shutdown_s="brutal_kill")) as run:
        began = trio.current_time()
        await run.system.stop(60)
        assert trio.current_time() == began
        assert (run.exit_of("a"), run.exit_of("b")) == ("shutdown", "killed")
    assert world.events("stop") == ["a"]


async def test_sup_stop_of_a_child_that_is_still_starting(autojump_clock: MockClock) -> None:
    world = World()
    world.always("b", "start", trio.sleep_forever)
    async with running(world, *world.children("a b c")) as run:
        assert run.states() == {"a": "running", "b": "starting", "c": "idle"}
        began = trio.current_time()
        await run.system.stop(60)
        assert trio.current_time() == began, "there is nobody yet who could be asked to stop"
    assert world.events("start") == ["a", "b"]
    assert world.events("stop") == ["a"]


# child_adm ------------------------------------------------------------------------------------------------------------


async def test_child_adm(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world) as run:
        root = run.root
        a = await root.start_child(world.child("a"))
        assert a.state == "running"
        assert root.which_children() == [a]
        with pytest.raises(Conflict, match=r"^root has a child 'a' already$"):
            await root.start_child(world.child("a"))
        with pytest.raises(Conflict, match=r"^a is running: terminate it first$"):
            root.delete_child("a")

        await root.terminate_child("a")
        assert (a.state, a.is_alive) == ("stopped", False)
        assert root.count_children() == {"specs": 1, "active": 0, "supervisors": 0, "workers": 1}
        await root.terminate_child("a")  # again: nothing to do
        with pytest.raises(Conflict, match="already"):
            await root.start_child(world.child("a"))

        assert await root.restart_child("a") is a
        assert (a.state, a.number, a.restarts) == ("running", 2, 1)

        await root.terminate_child("a")
        root.delete_child("a")
        assert root.which_children() == []
        for request in (root.terminate_child, root.restart_child):
            with pytest.raises(NotFound, match=r"^root has no child 'a'$"):
                await request("a")
        with pytest.raises(NotFound):
            root.delete_child("a")
        assert (await root.start_child(world.child("a"))).number == 1


async def test_child_adm_an_operators_restart_of_a_running_child_stops_it_first(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, *world.children("a b")) as run:
        await run.root.restart_child("a")
        assert run.numbers() == {"a": 2, "b": 1}
        assert world.events("stop") == ["a"]
        assert world.most_living["a"] == 1


async def test_child_adm_messages_to_a_stopped_child_are_refused_at_once(
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with running(world, *world.children("a")) as run:
        await run.tell("a", "hang")
        await settle()
        await run.tell("a", number=7)
        await run.root.terminate_child("a")
        with pytest.raises(Unavailable, match="a was stopped"):
            await run.do("a")
        assert run.system.dead_letters.counts["dead"] == 1
        await run.root.restart_child("a")
        assert (await run.do("a")).incarnation == 2


async def test_child_adm_simple(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, DynamicSupervisor("dyn")) as run:
        dynamic = run.supervisor("dyn")
        await dynamic.start_child(world.child("a"))
        await dynamic.start_child(world.child("b"))
        assert dynamic.count_children() == {"specs": 2, "active": 2, "supervisors": 0, "workers": 2}
        await dynamic.terminate_child("a")
        assert dynamic.count_children()["specs"] == 1, "a dynamic child is forgotten with its end"
        with pytest.raises(NotFound):
            await dynamic.restart_child("a")
        with pytest.raises(NotFound):
            dynamic.delete_child("a")


async def test_child_adm_two_requests_for_one_child_take_turns(
    autojump_clock: MockClock,
) -> None:
    world = World()
    world.always("a", "stop", pause(1))
    async with running(world, *world.children("a")) as run:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.root.restart_child, "a")
            nursery.start_soon(run.root.restart_child, "a")
        assert run.node_is("a", "running", 3)
        assert world.most_living["a"] == 1


async def test_child_adm_requests_for_two_children_do_not_wait_for_each_other(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "stop", pause(4))
    async with running(world, DynamicSupervisor("dyn")) as run:
        dynamic = run.supervisor("dyn")
        for name in "ab":
            await dynamic.start_child(world.child(name))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dynamic.terminate_child, "a")
            await settle()
            began = trio.current_time()
            await dynamic.terminate_child("b")
            assert trio.current_time() == began


async def test_child_adm_a_request_is_carried_out_even_if_whoever_asked_goes_away(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "stop", pause(1))
    async with running(world, *world.children("a")) as run:
        with trio.move_on_after(0.5) as scope:
            await run.root.restart_child("a")
        assert scope.cancelled_caught
        await trio.sleep(1)
        assert run.node_is("a", "running", 2)


async def test_child_adm_requests_to_a_supervisor_that_does_not_run_are_refused(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, Supervisor("sub", world.children("a"))) as run:
        sub = run.supervisor("sub")
        await run.root.terminate_child("sub")
        with pytest.raises(Unavailable, match=r"^sub is not running$"):
            await sub.start_child(world.child("b"))
        with pytest.raises(Unavailable, match=r"^sub is not running$"):
            await sub.restart_child("a")
    with pytest.raises(Unavailable, match="root is not running"):
        await run.root.restart_child("sub")


async def test_child_adm_requests_are_answered_when_the_supervisor_goes_down(
    autojump_clock: MockClock,
) -> None:
    world = World()
    world.always("b", "start", trio.sleep_forever)
    async with running(world, Supervisor("sub", world.children("a"))) as run:
        refused: list[str] = []

        async def start_b() -> None:
            try:
                await run.supervisor("sub").start_child(world.child("b", start_timeout_s=math.inf))
            except Unavailable as error:
                refused.append(error.detail)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start_b)
            await settle()
            await run.root.terminate_child("sub")
        assert refused in (["sub/b could not start: killed"], ["sub was stopped meanwhile"])


async def test_child_adm_requests_wait_until_the_supervisor_has_started(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "start", pause(2))
    async with running(world, *world.children("a b")) as run:
        await run.root.terminate_child("b")
        assert trio.current_time() >= 2
        assert run.states() == {"a": "running", "b": "stopped"}


async def test_child_adm_terminate_child_of_one_that_waits_for_its_restart(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a", **World.slow_restart())) as run:
        await run.make("a", "crash")
        assert run.states() == {"a": "backoff"}
        with pytest.raises(Conflict, match="a is backoff: terminate it first"):
            run.root.delete_child("a")
        await run.root.terminate_child("a")
        await trio.sleep(100)
        assert run.node_is("a", "stopped", 1)
        run.root.delete_child("a")


async def test_child_adm_restart_child_of_one_that_waits_for_its_restart(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a", **World.slow_restart())) as run:
        await run.make("a", "crash")
        await run.root.restart_child("a")
        assert run.node_is("a", "running", 2)
        await trio.sleep(100)
        assert run.node_is("a", "running", 2)


async def test_child_adm_terminate_child_wins_over_a_crash_at_the_same_time(
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with running(world, *world.children("a b")) as run:
        run.system.node("a").kill(RuntimeError("at the same time"))
        await run.root.terminate_child("a")
        await settle()
        assert run.node_is("a", "stopped", 1)


# tree, counts ---------------------------------------------------------------------------------------------------------


async def test_tree(autojump_clock: MockClock) -> None:
    world = World()
    async with running(
        world,
        world.child("a"),
        Supervisor("sub", [world.child("x"), Supervisor("deep", [world.child("y")])]),
        DynamicSupervisor("dyn"),
    ) as run:
        await run.supervisor("dyn").start_child(Supervisor("made", [world.child("z")], restart="temporary"))
        assert set(run.states()) == {"a", "sub", "sub/x", "sub/deep", "sub/deep/y", "dyn", "dyn/made", "dyn/made/z"}
        assert (await run.do("sub/deep/y")).incarnation == 1
        await run.supervisor("dyn").terminate_child("made")
        assert "dyn/made/z" not in run.states()
        await run.root.terminate_child("sub")
        assert (run.states()["sub"], run.states()["sub/deep/y"]) == ("stopped", "stopped")
        with pytest.raises(Unavailable, match="sub/deep/y was stopped"):
            await run.do("sub/deep/y")
        await run.root.restart_child("sub")
        assert (await run.do("sub/deep/y")).incarnation == 2


async def test_count_children_supervisor(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a"), Supervisor("sub", [world.child("x")])) as run:
        assert run.root.count_children() == {"specs": 2, "active": 2, "supervisors": 1, "workers": 1}
        await run.root.terminate_child("sub")
        assert run.root.count_children() == {"specs": 2, "active": 1, "supervisors": 1, "workers": 1}


async def test_count_restarting_children(autojump_clock: MockClock) -> None:
    world = World()
    children = world.children("a b", **World.slow_restart())
    async with running(world, *children) as run:
        await run.make("a", "crash")
        assert run.root.count_children() == {"specs": 2, "active": 1, "supervisors": 0, "workers": 2}
        await trio.sleep(60)
        assert run.root.count_children() == {"specs": 2, "active": 2, "supervisors": 0, "workers": 2}


async def test_which_children_and_order_of_children(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, *world.children("a b c")) as run:
        await run.root.start_child(world.child("d"))
        await run.make("b", "crash")
        assert [node.name for node in run.root.which_children()] == ["a", "b", "c", "d"]
        world.log.clear()
    assert world.events("stop") == ["d", "c", "b", "a"]


async def test_scale_start_stop_many_children(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, DynamicSupervisor("dyn")) as run:
        dynamic = run.supervisor("dyn")
        for n in range(1000):
            await dynamic.start_child(world.child(f"c{n}", restart="temporary"))
        assert dynamic.count_children()["active"] == 1000
    assert not +world.living


async def test_do_not_save_child_specs_for_temporary_children(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, *world.children("a b c d", restart="temporary")) as run:
        await run.make("a", "crash")
        await run.make("b", "end")
        await run.kill("c")
        await run.root.terminate_child("d")
        assert run.root.count_children() == {"specs": 0, "active": 0, "supervisors": 0, "workers": 0}


async def test_simple_one_for_one_scale_many_temporary_children(autojump_clock: MockClock) -> None:
    """What has ended leaves nothing behind, however much of it there was."""
    world = World()
    async with running(world, DynamicSupervisor("dyn", lambda name: Scripted(world, name), restart="temporary")) as run:
        for n in range(500):
            await run.do(f"dyn/c{n}", "end")
        await settle()
        assert run.states() == {"dyn": "running"}


async def test_child_unlink(autojump_clock: MockClock) -> None:
    """A child that ends without a word is noticed all the same: nothing can be unlinked from its supervisor."""
    world = World()
    async with running(world, world.child("a", shutdown_s=1.0)) as run:
        await run.kill("a")
        assert run.node_is("a", "running", 2)
        began = trio.current_time()
        await run.root.terminate_child("a")
        assert trio.current_time() == began


async def test_simple_global_supervisor(autojump_clock: MockClock) -> None:
    """Children keep their addresses when their supervisor is itself started anew (OTP: globally registered names)."""
    world = World()
    async with running(world, Supervisor("sub", world.children("x y"), max_restarts=3), max_restarts=3) as run:
        node = run.system.node("sub/x")
        await run.kill("sub")
        assert run.numbers() == {"sub": 2, "sub/x": 2, "sub/y": 2}
        assert run.system.node("sub/x") is node
        assert (await run.do("sub/x")).incarnation == 2


async def test_sup_manual_the_root_is_stopped_from_outside(autojump_clock: MockClock) -> None:
    world = World()
    system = ActorSystem(Supervisor("root", world.children("a b")))
    async with trio.open_nursery() as nursery:
        await nursery.start(system.run)
        nursery.cancel_scope.cancel()
    assert not +world.living
    assert not any(node.is_alive for node in system.nodes.values())
    with pytest.raises((ActorDied, Unavailable)):
        await system.ask(Do(), to="a", timeout_s=1)
