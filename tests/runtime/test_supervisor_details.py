"""What the other supervisor tests leave open: each of these was a mutant that had survived them (`mutation.py`)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import pytest
import trio
import trio.lowlevel
from pocketpaw.runtime import ActorSystem, Child, DynamicSupervisor, IgnoreStart, Report, RootGaveUp, Supervisor
from pocketpaw.runtime.cell import Cell
from pocketpaw.runtime.errors import ActorDied, Conflict, NotFound, Unavailable
from pocketpaw.runtime.exits import SupervisorShutdown
from pocketpaw.runtime.node import Incarnation
from trio.testing import MockClock

from .scripted import World, pause, running, settle

# Before and after -----------------------------------------------------------------------------------------------------


async def test_the_tree_is_laid_out_before_it_runs(autojump_clock: MockClock) -> None:
    world = World()
    system = ActorSystem(Supervisor("root", [world.child("a"), Supervisor("sub", world.children("x"))]))
    assert set(system.nodes) == {"", "a", "sub", "sub/x"}
    a = system.node("a")
    assert (a.state, a.since, a.uptime_s, a.number, a.is_alive, a.last_error) == ("idle", 0.0, 0.0, 0, False, None)
    a.kill(ValueError("nobody lives there yet"))
    await a.stop(5.0)
    assert (a.state, a.last_error) == ("idle", None)
    assert {node.kind for path, node in system.nodes.items() if path in ("", "sub")} == {"supervisor"}
    assert system.root.count_children() == {"specs": 2, "active": 0, "supervisors": 1, "workers": 1}
    with pytest.raises(Unavailable, match=r"^root is not running$"):
        await system.root.restart_child("a")


async def test_a_child_that_is_killed_while_the_tree_starts_ends_the_start(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "start", pause(5))
    system = ActorSystem(Supervisor("root", world.children("a b")))
    reasons: list[str] = []

    async def run() -> None:
        with pytest.raises(RootGaveUp) as caught:
            await system.run()
        reasons.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await settle()
        life = system.node("a").life
        assert life is not None
        life.scope.cancel()
    assert reasons == ["LimitReached: a ended while it started"]


async def test_a_supervisor_that_is_cancelled_from_outside_was_killed(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, Supervisor("sub", world.children("x"))) as run:
        await run.kill("sub")
        (exited,) = run.said("exited", "sub")
        assert (exited.exit_kind, exited.text) == ("killed", "killed")


async def test_a_supervisors_former_life_leaves_no_task_behind(autojump_clock: MockClock) -> None:
    world = World()
    world.always("x", "idle", trio.lowlevel.checkpoint)
    sub = Supervisor("sub", [world.child("x", passivate_after_s=100.0), world.child("y", **World.slow_restart())])
    async with running(world, sub) as run:
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(2):
            await run.make("sub/y", "crash")
            await run.root.restart_child("sub")
            await settle()
        assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_lazy_child_that_has_run_is_lazy_again_in_its_supervisors_next_life(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, Supervisor("sub", [world.child("l", lazy=True)])) as run:
        await run.do("sub/l")
        await run.root.restart_child("sub")
        assert run.states()["sub/l"] == "idle"
        assert (await run.do("sub/l")).incarnation == 2


async def test_a_supervisor_that_was_parked_is_trusted_after_a_minute_of_health(autojump_clock: MockClock) -> None:
    world = World()
    sub = Supervisor("sub", [world.child("x", max_restarts=0)], on_limit="park", max_restarts=1, probe_s=10.0)
    async with running(world, sub) as run:
        await run.make("sub/x", "crash")
        await run.make("sub/x", "crash")
        assert run.states()["sub"] == "parked"
        await trio.sleep(11)
        await run.make("sub/x", "crash")
        assert run.states()["sub"] == "parked", "it has not proven itself"
        await trio.sleep(11 + 61)
        await run.make("sub/x", "crash")
        assert run.states()["sub"] == "running"


# Requests that cross --------------------------------------------------------------------------------------------------


async def test_a_request_for_a_child_that_has_gone_meanwhile_says_so(autojump_clock: MockClock) -> None:
    world = World()
    world.once("t", "stop", pause(1))
    async with running(world, world.child("t", restart="temporary")) as run:
        said: list[str] = []

        async def terminate() -> None:
            try:
                await run.root.terminate_child("t")
                said.append("done")
            except NotFound as error:
                said.append(error.detail)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(terminate)
            nursery.start_soon(terminate)
        assert said == ["done", "t has gone meanwhile"]


async def test_a_child_is_not_deleted_in_the_middle_of_its_restart(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a")) as run:
        refusals: list[str] = []

        def delete_at_exit(report: Report) -> None:
            if report.kind == "exited":
                with pytest.raises(Conflict) as caught:
                    run.root.delete_child("a")
                refusals.append(caught.value.detail)

        run.system.on_report = delete_at_exit
        await run.root.restart_child("a")
        run.system.on_report = run.reports.append
        assert refusals == ["a is stopped: terminate it first"]
        assert run.node_is("a", "running", 2)


async def test_the_end_of_a_former_life_is_no_reason_to_restart_the_present_one(autojump_clock: MockClock) -> None:
    """The decision was held up, and an operator has started the child meanwhile."""
    world = World()
    world.once("c", "stop", pause(2))
    async with running(world, *world.children("a b c d"), strategy="rest_for_one") as run:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.root.restart_child, "c")
            await settle()
            nursery.start_soon(run.root.restart_child, "b")
            await settle()
            await run.make("d", "crash")
            await run.make("b", "crash")
        await settle()
        assert run.numbers() == {"a": 1, "b": 2, "c": 2, "d": 2}


async def test_what_has_crashed_before_it_could_be_terminated_stays_down(autojump_clock: MockClock) -> None:
    """The decision was held up, and an operator has terminated the child meanwhile."""
    world = World()
    world.once("c", "stop", pause(2))
    async with running(world, *world.children("a b c d"), strategy="rest_for_one") as run:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.root.restart_child, "c")
            await settle()
            nursery.start_soon(run.root.terminate_child, "b")
            await settle()
            await run.make("d", "crash")
            await run.make("b", "crash")
        await settle()
        assert run.numbers() == {"a": 1, "b": 1, "c": 2, "d": 2}
        assert run.states()["b"] == "stopped"


async def test_a_significant_child_at_rest_has_not_ended(autojump_clock: MockClock) -> None:
    world = World()
    child = world.child("a", restart="transient", significant=True, lazy=True)
    sub = Supervisor("sub", [child], auto_shutdown="any_significant", restart="transient")
    async with running(world, sub) as run:
        await run.make("sub/a", "end")
        assert run.states() == {"sub": "running", "sub/a": "idle"}


async def test_a_restarted_child_may_ignore_or_end_at_once(autojump_clock: MockClock) -> None:
    """Neither is a failed start."""
    world = World()
    async with running(world, world.child("a", restart="transient")) as run:
        world.once("a", "start", IgnoreStart())
        assert (await run.root.restart_child("a")).state == "ignored"
        world.once("a", "task", SupervisorShutdown("nothing to do any more"))
        assert (await run.root.restart_child("a")).number == 3
        await settle()
        assert run.states() == {"a": "stopped"}


class Flash:
    """Ready and gone in one step, so that whoever waits for its start sees both at once."""

    proves_health: ClassVar[bool] = False

    async def run_in(self, cell: Cell, life: Incarnation) -> None:
        cell.ready(life)

    def is_idle(self) -> bool:
        return True


async def test_a_child_that_ends_as_soon_as_it_is_ready_has_started(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, Child(Flash, restart="transient"), world.child("a", restart="transient")) as run:
        assert run.states() == {"flash": "stopped", "a": "running"}
        assert (await run.root.restart_child("flash")).number == 2
        await run.root.start_child(Child(Flash, id="second", restart="transient"))
        await settle()
        assert run.states() == {"flash": "stopped", "a": "running", "second": "stopped"}
        with pytest.raises(Unavailable, match=r"^second has ended$"):
            await run.do("second")


async def test_what_fails_while_it_is_killed_was_killed_for_its_reason(autojump_clock: MockClock) -> None:
    async def fail_in_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("while it unwinds")

    world = World()
    world.once("a", "handle", fail_in_the_end)
    async with running(world, world.child("a")) as run:
        await run.tell("a")
        await settle()
        run.system.node("a").kill(ValueError("took too long"))
        await settle()
        assert run.said("exited")[0].text == "ValueError: took too long"


async def test_what_is_abandoned_after_it_was_killed_tells_the_reason_with_its_traceback(
    autojump_clock: MockClock,
) -> None:
    world = World()
    world.once("a", "handle", world.ignore_cancellation)
    async with running(world, world.child("a")) as run:
        await run.tell("a")
        await settle()
        reason = ValueError("took too long")
        reason.add_note("It was here")
        run.system.node("a").kill(reason)
        await trio.sleep(1.5)
        (exited,) = run.said("exited")
        assert exited.text.startswith("TimeoutError: ValueError: took too long: it ignored")
        assert "ValueError: took too long\nIt was here\n" in exited.traceback


async def test_requests_that_fail_name_the_supervisor(autojump_clock: MockClock) -> None:
    world = World()
    world.always("x", "stop", pause(60))
    async with running(world, Supervisor("sub", world.children("x", shutdown_s=100.0))) as run:
        sub = run.supervisor("sub")
        with pytest.raises(Conflict, match=r"^sub has a child 'x' already$"):
            await sub.start_child(world.child("x"))
        with pytest.raises(NotFound, match=r"^sub has no child 'y'$"):
            await sub.restart_child("y")
        said: list[str] = []

        async def restart() -> None:
            with pytest.raises(Unavailable) as caught:
                await sub.restart_child("x")
            said.append(caught.value.detail)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            await settle()
            sub.kill(ValueError("now"))
        assert said == ["sub was stopped meanwhile"]
        assert sub.on_demand("x") is None
        said.clear()
        await settle()
        assert run.states() == {"sub": "running", "sub/x": "running"}
        world.always("x", "stop", pause(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            await settle()
            await run.root.terminate_child("sub")
        assert said == ["sub is not running"]


async def test_a_parked_sibling_is_no_pending_restart(autojump_clock: MockClock) -> None:
    """Its probe would not start those who wait for another."""
    world = World()
    world.once("b", "start", None, ValueError("not now"))
    children = [
        world.child("p", on_limit="park", max_restarts=0),
        world.child("a"),
        world.child("b", **World.slow_restart()),
        world.child("c"),
    ]
    async with running(world, *children, strategy="one_for_all") as run:
        await run.make("p", "crash")
        await run.make("a", "crash")
        assert run.states() == {"p": "parked", "a": "running", "b": "backoff", "c": "stopped"}
        await run.root.terminate_child("b")
        with pytest.raises(Unavailable, match=r"^c went down with b$"):
            await run.do("c")


async def test_one_for_one_has_no_siblings_that_wait(autojump_clock: MockClock) -> None:
    """One that is being passivated has been asked to stop too; another that ends in that moment does not concern it."""
    world = World()
    async with running(world, world.child("a", passivate_after_s=10.0), world.child("b")) as run:
        for _ in range(16):  # what happens first in one moment is left to chance
            is_stopping = trio.Event()
            world.once("a", "stop", partial(take_two_seconds, is_stopping))
            world.once("b", "stop", pause(1))
            await run.do("a")
            await is_stopping.wait()
            await trio.sleep(1)
            await run.root.terminate_child("b")
            await settle()
            assert run.states() == {"a": "idle", "b": "stopped"}
            await run.root.restart_child("b")


async def take_two_seconds(has_begun: trio.Event) -> None:
    has_begun.set()
    await trio.sleep(2)


# Passivation ----------------------------------------------------------------------------------------------------------


async def test_idleness_is_looked_at_four_times_in_its_span(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a", passivate_after_s=100.0)) as run:
        await trio.sleep(1)
        await run.do("a")
        await trio.sleep(123.5)
        assert run.states() == {"a": "running"}
        await trio.sleep(1)
        assert run.states() == {"a": "idle"}


async def test_work_that_comes_before_passivation_has_its_turn_puts_it_off(autojump_clock: MockClock) -> None:
    world = World()
    world.once("b", "stop", pause(3))
    world.once("a", "handle", pause(20))
    async with running(
        world, world.child("a", passivate_after_s=10.0), world.child("b"), strategy="one_for_all"
    ) as run, trio.open_nursery() as nursery:  # fmt: skip
        await trio.sleep(9.9)
        nursery.start_soon(run.root.restart_child, "b")
        await trio.sleep(1)
        assert (await run.do("a")).incarnation == 1


async def test_a_supervisor_that_stops_slowly_sends_nobody_to_rest_meanwhile(autojump_clock: MockClock) -> None:
    world = World()
    world.once("slow", "stop", pause(30))
    children = [world.child("p", passivate_after_s=10.0), world.child("slow", shutdown_s=100.0)]
    async with running(world, Supervisor("sub", children)) as run:
        await trio.sleep(5)
        await run.root.terminate_child("sub")
        assert trio.current_time() == 35
        assert run.exit_of("sub/slow") == "shutdown"
        assert run.exit_of("sub") == "shutdown"


async def test_a_supervisor_that_stops_during_a_passivation_does_not_finish_it(autojump_clock: MockClock) -> None:
    world = World()
    world.once("p", "stop", pause(2))
    async with running(world, Supervisor("sub", [world.child("p", passivate_after_s=10.0)])) as run:
        await trio.sleep(11)
        assert run.states()["sub/p"] == "stopping"
        await run.root.terminate_child("sub")
        assert run.states() == {"sub": "stopped", "sub/p": "stopped"}


async def test_a_child_that_was_deleted_is_back_in_its_supervisors_next_life(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, Supervisor("sub", world.children("x y"))) as run:
        await run.supervisor("sub").terminate_child("x")
        run.supervisor("sub").delete_child("x")
        assert "sub/x" not in run.states()
        await run.root.restart_child("sub")
        assert run.states() == {"sub": "running", "sub/x": "running", "sub/y": "running"}
        assert [node.name for node in run.supervisor("sub").which_children()] == ["x", "y"]


# What is said ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("could not start", "dyn/a could not start before it answered"),
        ("ignored", "dyn/a has nothing to do before it answered"),
        ("terminated", "dyn/a was stopped before it answered"),
        ("ended", "dyn/a has ended before it answered"),
        ("finished", "dyn/a has ended before it answered"),
        ("not taken over", "sub/a was not taken over by the supervisor's next incarnation before it answered"),
        ("sibling", "sub/a went down with a sibling before it answered"),
    ],
)
async def test_whoever_waits_for_one_that_goes_is_told_why(autojump_clock: MockClock, way: str, why: str) -> None:
    world = World()
    sub = Supervisor("sub", [world.child("s")], strategy="one_for_all")
    async with running(world, DynamicSupervisor("dyn"), sub) as run, trio.open_nursery() as nursery:
        told: list[str] = []

        async def ask(path: str) -> None:
            with pytest.raises(ActorDied) as caught:
                await run.do(path, number=2)
            told.append(caught.value.detail)

        async def start(path: str, restart: str) -> None:
            try:
                await run.supervisor(path).start_child(world.child("a", restart=restart, start_timeout_s=3.0))
            except Unavailable:
                assert way == "could not start"

        path = why.partition("/")[0]
        if way in ("could not start", "ignored"):
            world.once("a", "start", trio.sleep_forever if way == "could not start" else slow_ignore)
        restart = {"not taken over": "permanent", "finished": "transient"}.get(way, "temporary")
        nursery.start_soon(start, path, restart)
        await settle()
        if way not in ("could not start", "ignored"):
            await run.tell(f"{path}/a", {"ended": "crash", "finished": "end"}.get(way, "hang"))
            if way not in ("ended", "finished"):
                await settle()
        nursery.start_soon(ask, f"{path}/a")
        await trio.lowlevel.checkpoint()
        if way == "terminated":
            await run.supervisor("dyn").terminate_child("a")
        elif way == "not taken over":
            await run.kill("sub")
        elif way == "sibling":
            run.system.node("sub/s").kill(ValueError("now"))
        await trio.sleep(20)
        assert told == [why]


async def slow_ignore() -> None:
    await trio.sleep(1)
    raise IgnoreStart
