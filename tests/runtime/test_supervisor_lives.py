"""Incarnations: how each ends, what it may still say, and what its end does to others. Guarantees 2 and 6."""

from __future__ import annotations

import math
import traceback

import pytest
import trio
import trio.lowlevel
from pocketpaw.runtime import ActorSystem, Child, DynamicSupervisor, RootGaveUp, Supervisor, Terminated
from pocketpaw.runtime.errors import ActorDied, NeedsOperator, Unavailable
from pocketpaw.runtime.exits import Exit, IgnoreStart, SupervisorShutdown, describe, is_cancellation, leaf
from pocketpaw.runtime.node import KILL_GRACE_S
from trio.testing import MockClock

from .scripted import Do, Scripted, Site, World, pause, running, settle

# How a life is said to have ended -------------------------------------------------------------------------------------


def test_exit_names_the_one_cause_inside_groups() -> None:
    cause = ValueError("the cause")
    nested = BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [cause])])
    assert Exit.of(nested) == Exit("crashed", cause)
    several = BaseExceptionGroup("two", [cause, KeyError("other")])
    assert Exit.of(several).failure is several
    assert Exit.of(ExceptionGroup("g", [IgnoreStart()])).kind == "ignored"
    assert Exit.of(SupervisorShutdown("enough")).kind == "shutdown"


def test_exit_says_it_in_one_line() -> None:
    assert str(Exit("killed")) == "killed"
    assert str(Exit.of(ValueError("bad: "))) == "ValueError: bad"
    assert describe(NeedsOperator("set a token")) == "set a token"
    assert Exit("normal").traceback() == ""
    group = ExceptionGroup("why", [ValueError("deep"), KeyError("too")])
    assert Exit.of(group).traceback() == "".join(traceback.format_exception(group))


def test_exit_is_abnormal_after_a_crash_or_a_kill_only() -> None:
    kinds = ("normal", "shutdown", "crashed", "killed", "ignored")
    assert [kind for kind in kinds if Exit(kind).is_abnormal] == ["crashed", "killed"]


async def test_cancellations_are_no_cause(autojump_clock: MockClock) -> None:
    cancelled = await one_cancellation()
    cause = ValueError("the cause")
    assert leaf(BaseExceptionGroup("both", [cancelled, cause])) is cause
    only = BaseExceptionGroup("only", [cancelled])
    assert is_cancellation(only)
    assert is_cancellation(cancelled)
    assert not is_cancellation(BaseExceptionGroup("both", [only, cause]))
    assert not is_cancellation(cause)


async def one_cancellation() -> trio.Cancelled:
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep(1)
        except trio.Cancelled as cancelled:
            return cancelled
    raise AssertionError("trio did not cancel")


async def test_the_record_of_a_life(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "start", pause(2))
    async with running(world, world.child("a", wait=False)) as run:
        node = run.system.node("a")
        assert node.last_error is None
        assert (node.name, node.state, node.uptime_s, node.is_alive) == ("a", "starting", 0.0, True)
        await trio.sleep(5)
        assert (node.state, node.uptime_s, node.since) == ("running", 3.0, 2.0)
        run.system.node("a").kill(ValueError("why"))
        await settle()
        assert (node.number, node.restarts, node.last_error) == (2, 1, "ValueError: why")
        life = node.life
        await trio.sleep(4)
        assert node.uptime_s == 2.0
        await run.root.terminate_child("a")
        assert (node.uptime_s, node.is_alive) == (0.0, False)
        assert life is not None
        assert life.ended_at == 9.0
        assert [report.kind for report in run.reports if report.path == "a"] == [
            "started", "exited", "restarting", "started", "exited",
        ]  # fmt: skip


# Failures at every site leave siblings alone --------------------------------------------------------------------------

FAILURES = [RuntimeError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("bare")]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("site", ["init", "start", "handle", "task", "stop", "idle"])
async def test_no_exception_at_any_site_touches_a_sibling(
    autojump_clock: MockClock, site: Site, failure: BaseException
) -> None:
    """dramatiq#505, nanobot PR#1331: one failing worker took the others along."""
    world = World()
    leaf_ = world.child("a", on_limit="park", passivate_after_s=4.0)
    async with running(world, world.child("b"), leaf_, Supervisor("sub", world.children("x")), world.child("z")) as run:
        world.once("a", site, failure)
        await trio.lowlevel.checkpoint()
        if site in ("init", "start", "task", "stop"):
            try:
                await run.root.restart_child("a")
            except Exception:
                assert site in ("init", "start")
        elif site == "handle":
            with pytest.raises(ActorDied, match="a crashed"):
                await run.do("a")
        await trio.sleep(20)
        assert {path: number for path, number in run.numbers().items() if path != "a"} == {
            "b": 1, "sub": 1, "sub/x": 1, "z": 1,
        }  # fmt: skip
        assert run.root.number == 1
        assert (await run.do("a")).incarnation >= 2
        assert type(failure).__name__ in "".join(report.text for report in run.said("exited", "a"))


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_no_exception_of_a_dynamic_child_touches_another(
    autojump_clock: MockClock, failure: BaseException
) -> None:
    world = World()
    async with running(world, DynamicSupervisor("dyn", lambda name: Scripted(world, name))) as run:
        await run.do("dyn/b")
        world.once("a", "handle", failure)
        with pytest.raises(ActorDied):
            await run.do("dyn/a")
        await settle()
        assert run.numbers() == {"dyn": 1, "dyn/a": 2, "dyn/b": 1}


# Stop: ask, deadline, cancel, abandon ---------------------------------------------------------------------------------


async def test_stop_asks_first(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "stop", pause(4.9))
    async with running(world, world.child("a")) as run:
        await run.root.terminate_child("a")
        assert trio.current_time() == 4.9
        assert run.exit_of("a") == "shutdown"


async def test_stop_cancels_at_the_deadline(autojump_clock: MockClock) -> None:
    """openclaw#75519: stop() hung, so the child was never started again."""
    world = World()
    world.once("a", "stop", trio.sleep_forever)
    async with running(world, world.child("a", shutdown_s=3.0)) as run:
        await run.root.restart_child("a")
        assert trio.current_time() == 3.0
        assert run.node_is("a", "running", 2)
        (exited,) = run.said("exited")
        assert exited.text == "killed"


async def test_stop_abandons_what_ignores_its_cancellation(autojump_clock: MockClock) -> None:
    """openclaw#70024, #82310. One incarnation too many is counted while it lives, and reported."""
    world = World()
    world.once("a", "stop", world.ignore_cancellation)
    async with running(world, world.child("a", shutdown_s=3.0), world.child("b")) as run:
        former, life = run.cell("a").actor, run.cell("a").life
        assert isinstance(former, Scripted)
        assert life is not None
        await run.root.restart_child("a")
        assert trio.current_time() == 3.0 + KILL_GRACE_S == 4.0
        assert life.is_abandoned
        assert run.node_is("a", "running", 2)
        assert run.system.abandoned == 1
        assert world.living["a"] == 2
        (exited,) = run.said("exited")
        assert exited.text == "TimeoutError: killed: it ignored its cancellation and was abandoned"

        with pytest.raises(ActorDied, match="a is a former incarnation, fenced"):
            await former.tell(Do(), to="b")
        assert run.system.dead_letters.counts["stale incarnation"] == 1

        reports = len(run.reports)
        world.release.set()
        await settle()
        assert run.system.abandoned == 0
        assert not life.is_abandoned
        assert world.living["a"] == 1
        assert len(run.reports) == reports, "its late end is no news"
        assert run.node_is("a", "running", 2)
        assert (await run.do("a")).incarnation == 2


async def test_a_zombie_that_becomes_ready_late_is_not_taken_for_the_living(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "start", world.ignore_cancellation)
    async with running(world, world.child("a", wait=False), world.child("b")) as run:
        await run.root.restart_child("a")
        await settle()
        assert run.node_is("a", "running", 2)
        world.release.set()
        await settle()
        assert run.node_is("a", "running", 2)
        assert len(run.said("started", "a")) == 1
        assert (await run.do("a")).incarnation == 2
        assert [line for line in world.handled if line[0] == "a"] == [("a", 2, 0)]


async def test_a_start_that_ends_just_after_its_cancellation_is_no_start(autojump_clock: MockClock) -> None:
    """Cancelled while it starts, but it shields that and comes through within its grace."""

    async def nearly() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(KILL_GRACE_S / 2)

    world = World()
    world.once("a", "start", nearly)
    async with running(world, world.child("a", wait=False)) as run:
        node = run.system.node("a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.root.terminate_child, "a")
            await trio.sleep(KILL_GRACE_S * 0.75)
        assert (node.state, run.exit_of("a")) == ("stopped", "killed")
        assert run.said("started", "a") == []
        assert run.system.abandoned == 0


async def test_brutal_kill_gives_no_time_and_still_abandons(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "handle", world.ignore_cancellation)
    async with running(world, world.child("a", shutdown_s="brutal_kill")) as run:
        await run.tell("a")
        await settle()
        await run.root.terminate_child("a")
        assert trio.current_time() == KILL_GRACE_S
        assert run.system.abandoned == 1


async def test_a_kill_waits_for_the_unwinding_before_the_next_life_begins(autojump_clock: MockClock) -> None:
    """Found here: the next incarnation began while the former still cleaned up."""

    async def clean_up_slowly() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(KILL_GRACE_S / 2)

    world = World()
    world.once("a", "handle", clean_up_slowly)
    async with running(world, world.child("a")) as run:
        await run.tell("a")
        await settle()
        node = run.system.node("a")
        node.kill(ValueError("took too long"))
        node.kill(ValueError("said twice"))
        assert (node.state, node.number) == ("stopping", 1)
        await trio.sleep(KILL_GRACE_S)
        assert run.node_is("a", "running", 2)
        assert world.most_living["a"] == 1
        assert node.last_error == "ValueError: took too long"
        (exited,) = run.said("exited")
        assert exited.exit_kind == "crashed"
    node.kill(ValueError("nobody lives there"))
    assert node.last_error == "ValueError: took too long"


async def test_a_kill_that_is_ignored_is_named_by_its_reason(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "handle", world.ignore_cancellation)
    async with running(world, world.child("a")) as run:
        await run.tell("a")
        await settle()
        run.system.node("a").kill(ValueError("took too long"))
        await trio.sleep(KILL_GRACE_S + 0.1)
        assert run.node_is("a", "running", 2)
        (exited,) = run.said("exited")
        assert exited.exit_kind == "crashed"
        assert exited.text == ("TimeoutError: ValueError: took too long: it ignored its cancellation and was abandoned")


async def test_a_killed_supervisor_takes_its_children_down_before_it_comes_back(autojump_clock: MockClock) -> None:
    """Found here: it was launched again while its children still lived."""
    world = World()
    world.always("x", "stop", pause(2))
    async with running(world, Supervisor("sub", world.children("x y")), world.child("a")) as run:
        run.system.node("sub").kill(ValueError("a defect"))
        await settle()
        assert run.numbers() == {"sub": 2, "sub/x": 2, "sub/y": 2, "a": 1}
        assert set(world.most_living.values()) == {1}
        (exited,) = run.said("exited", "sub")
        assert (exited.exit_kind, exited.text) == ("crashed", "ValueError: a defect")


async def test_a_former_incarnation_takes_no_message_and_publishes_nothing(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "handle", world.ignore_cancellation)
    async with running(world, world.child("a", shutdown_s=1.0)) as run:
        former = run.cell("a").actor
        assert isinstance(former, Scripted)
        await run.tell("a", number=1)
        await settle()
        await run.tell("a", number=2)
        await run.root.restart_child("a")
        await settle()
        world.release.set()
        await settle()
        assert world.handled == [("a", 1, 1), ("a", 2, 2)]
        last = run.system.bus.last_seq("t")
        assert former.publish("t", "late", {}) == 0
        assert run.system.bus.last_seq("t") == last


# The whole tree stops within one deadline -----------------------------------------------------------------------------


async def test_stop_has_one_deadline_for_the_whole_tree(autojump_clock: MockClock) -> None:
    """actor-ts#920: none. Here each of nine hanging children would take its five seconds."""
    world = World()
    for name in "abcxyzuvw":
        world.always(name, "stop", trio.sleep_forever)
    deep = Supervisor("deep", world.children("u v w"))
    async with running(world, *world.children("a b c"), Supervisor("sub", [*world.children("x y z"), deep])) as run:
        assert await run.system.stop(7.0) == []
        assert trio.current_time() == 7.0
        assert run.root.state == "stopped"


async def test_stop_ends_within_its_deadline_and_grace_whoever_ignores_it(autojump_clock: MockClock) -> None:
    world = World()
    for name in "abxyu":
        world.always(name, "task", world.ignore_cancellation)
    deep = Supervisor("deep", world.children("u"))
    async with running(world, *world.children("a b"), Supervisor("sub", [*world.children("x y"), deep])) as run:
        left = await run.system.stop(7.0)
        assert trio.current_time() == 7.0 + KILL_GRACE_S
        assert sorted(left) == ["a", "b", "sub/deep/u", "sub/x", "sub/y"]
        assert run.system.abandoned == 5


async def test_stop_within_a_stop_that_takes_too_long(autojump_clock: MockClock) -> None:
    """A subtree that is being stopped at an operator's word is killed when the root's time is up."""
    world = World()
    world.always("x", "stop", trio.sleep_forever)
    async with running(world, Supervisor("sub", world.children("x", shutdown_s=math.inf)), world.child("a")) as run:

        async def terminate() -> None:
            with pytest.raises(Unavailable, match="root was stopped meanwhile"):
                await run.root.terminate_child("sub")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(terminate)
            await trio.sleep(1)
            await run.system.stop(2.0)
        assert trio.current_time() == 3.0


async def test_cancelling_the_daemons_task_kills_the_tree_at_once(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "stop", trio.sleep_forever)
    system = ActorSystem(Supervisor("root", [*world.children("a"), Supervisor("sub", world.children("x"))]))
    async with trio.open_nursery() as nursery:
        await nursery.start(system.run)
        nursery.cancel_scope.cancel()
    assert trio.current_time() == 0
    assert not +world.living
    exits = {path: node.life.exit for path, node in system.nodes.items() if node.life is not None}
    assert exits == dict.fromkeys(("", "a", "sub", "sub/x"), Exit("killed"))


async def test_a_root_that_gives_up_says_why_and_ends_the_run(autojump_clock: MockClock) -> None:
    world = World()
    system = ActorSystem(Supervisor("root", world.children("a", max_restarts=0)))
    reasons: list[str] = []

    async def run() -> None:
        with pytest.raises(RootGaveUp) as caught:
            await system.run()
        reasons.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await settle()
        with pytest.raises(ActorDied):
            await system.ask(Do(what="crash"), to="a")
    assert reasons == ["LimitReached: a: more than 0 restarts in 5 s; the last failure: RuntimeError: told to crash"]


async def test_a_defect_in_the_supervisor_itself_stops_its_children_and_is_told(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, Supervisor("sub", world.children("x")), world.child("a"), max_restarts=9) as run:
        sub = run.supervisor("sub")
        del sub.records["x"].spec  # as a defect would
        run.system.node("sub/x").kill(ValueError("look"))
        await settle()
        exited = run.said("exited", "sub")[0]
        assert exited.exit_kind == "crashed"
        assert "AttributeError" in exited.text
        assert run.numbers()["a"] == 1


# Messages over restarts -----------------------------------------------------------------------------------------------


async def test_mail_is_kept_across_a_restart_but_for_the_message_in_hand(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a", **World.slow_restart())) as run:
        world.once("a", "handle", None)
        await run.tell("a", "crash", number=1)
        for number in range(2, 7):
            await run.tell("a", number=number)
        await settle()
        assert world.handled == [("a", 1, 1)]
        assert run.system.dead_letters.counts.total() == 1
        await run.tell("a", number=7)
        await trio.sleep(11)
        assert world.handled == [("a", 1, 1), *(("a", 2, number) for number in range(2, 8))]


async def test_mail_is_kept_across_a_supervisors_own_restart(autojump_clock: MockClock) -> None:
    """kameo PR#364: it was lost when the restarts were used up at that moment."""
    world = World()
    sub = Supervisor("sub", [world.child("x", max_restarts=0), world.child("y")])
    async with running(world, sub) as run:
        world.once("y", "handle", pause(1))
        await run.tell("sub/y", number=1)
        await settle()
        await run.tell("sub/y", number=2)
        await run.tell("sub/x", "crash", number=3)
        await run.tell("sub/x", number=4)
        await settle()
        await trio.sleep(2)
        assert run.numbers() == {"sub": 2, "sub/x": 2, "sub/y": 2}
        assert ("x", 2, 4) in world.handled
        assert ("y", 2, 2) in world.handled


async def test_a_message_during_the_start_of_the_tree_waits_for_its_actors_turn(autojump_clock: MockClock) -> None:
    """Found here: it started its actor out of order, and the supervisor then fell over it."""
    world = World()
    world.once("a", "start", pause(1))
    async with running(world, *world.children("a b c")) as run:
        await run.tell("c", number=1)
        assert run.states() == {"a": "starting", "b": "idle", "c": "idle"}
        await trio.sleep(2)
        assert world.events("start") == ["a", "b", "c"]
        assert world.handled == [("c", 1, 1)]
        assert run.numbers() == {"a": 1, "b": 1, "c": 1}


# Watch ----------------------------------------------------------------------------------------------------------------


class Watcher(Scripted):
    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.heard: list[tuple[str, int, str]] = []

    async def terminated(self, word: Terminated) -> None:
        self.heard.append((word.path, word.incarnation, word.reason))


@pytest.mark.parametrize("how", ["crash", "end", "kill", "terminate", "park"])
async def test_a_watcher_hears_of_one_end_exactly_once(autojump_clock: MockClock, how: str) -> None:
    world = World()
    limit = 0 if how == "park" else 3
    watched = world.child("a", on_limit="park", max_restarts=limit, restart="permanent")
    async with running(world, watched, Child(Watcher, world, "w", id="w")) as run:
        watcher = run.cell("w").actor
        assert isinstance(watcher, Watcher)
        watcher.watch("a")
        if how == "terminate":
            await run.root.terminate_child("a")
        elif how == "kill":
            await run.kill("a")
        else:
            await run.make("a", "crash" if how == "park" else how)
        if how in ("crash", "kill", "end"):
            await run.make("a", "crash")
        await settle()
        assert [(path, number) for path, number, _ in watcher.heard] == [("a", 1)]


async def test_a_watch_of_nobody_is_answered_at_once(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a", restart="transient"), Child(Watcher, world, "w", id="w")) as run:
        await run.make("a", "end")
        watcher = run.cell("w").actor
        assert isinstance(watcher, Watcher)
        watcher.watch("a")
        watcher.watch("nobody")
        await settle()
        assert watcher.heard == [("a", 1, "not running"), ("nobody", 0, "not running")]


async def test_a_watch_ends_with_the_watcher(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a"), Child(Watcher, world, "w", id="w")) as run:
        former = run.cell("w").actor
        assert isinstance(former, Watcher)
        former.watch("a")
        await run.make("w", "crash")
        watcher = run.cell("w").actor
        assert isinstance(watcher, Watcher)
        watcher.watch("a")
        await run.make("a", "crash")
        assert former.heard == []
        assert len(watcher.heard) == 1


async def test_the_abandoned_are_over_for_their_watchers(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "stop", world.ignore_cancellation)
    async with running(world, world.child("a", shutdown_s=1.0), Child(Watcher, world, "w", id="w")) as run:
        watcher = run.cell("w").actor
        assert isinstance(watcher, Watcher)
        watcher.watch("a")
        await run.root.restart_child("a")
        await settle()
        world.release.set()
        await settle()
        assert len(watcher.heard) == 1
