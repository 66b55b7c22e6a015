"""Backoff, limits, parking, probes and failures with a type: guarantees 3, 4 and 5."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import trio
from pocketpaw.runtime import CONNECTOR, Backoff, Child, DynamicSupervisor, Message, Report, Supervisor
from pocketpaw.runtime.errors import ActorDied, NeedsOperator, TransientFailure, Unavailable
from pocketpaw.runtime.node import KILL_GRACE_S
from pocketpaw.runtime.spec import Strategy
from trio.testing import MockClock

from .scripted import Did, Run, Scripted, World, pause, running, settle

EXACT = Backoff(min_s=1.0, max_s=60.0, jitter=0.0)


def starts(run: Run, path: str = "a") -> list[str]:
    """What was said of `path` since the tree began."""
    return [report.kind for report in run.reports if report.path == path]


# The arithmetic -------------------------------------------------------------------------------------------------------


def test_delays_double_up_to_the_cap() -> None:
    assert [EXACT.delay_s(n) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert EXACT.delay_s(100_000) == 60
    assert Backoff(min_s=2.0, max_s=100.0, factor=3.0, jitter=0.0).delay_s(3) == 18
    assert Backoff().delay_s(5) == 0


def test_jitter_spreads_delays_to_both_sides_within_its_bounds() -> None:
    delays = [CONNECTOR.delay_s(4) for _ in range(500)]
    assert all(8 * 0.8 <= delay <= 8 * 1.2 for delay in delays)
    assert min(delays) < 7
    assert max(delays) > 9


# Backoff --------------------------------------------------------------------------------------------------------------


async def test_a_connector_is_restarted_with_growing_pauses(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "start", *[ConnectionError("down")] * 4)
    child = world.child("a", backoff=EXACT, on_limit="park")
    async with running(world, child) as run:
        assert run.states() == {"a": "backoff"}
        await trio.sleep(16)
        assert world.started_at["a"] == [0, 1, 3, 7, 15]
        assert run.states() == {"a": "running"}
        assert [report.text for report in run.said("backoff")] == [
            "restart in 1.0 s", "restart in 2.0 s", "restart in 4.0 s", "restart in 8.0 s",
        ]  # fmt: skip


async def test_the_row_of_failures_ends_only_with_proven_health_not_with_a_start_that_returns(
    autojump_clock: MockClock,
) -> None:
    """hermes-agent#63724: the counter was reset when `start_polling` returned."""
    world = World()
    child = world.child("a", backoff=Backoff(min_s=1.0, max_s=600.0, jitter=0.0, reset_after_s=60.0))
    async with running(world, child) as run:
        for delay in (1, 2, 4, 8):
            await run.make("a", "crash")
            assert run.said("backoff")[-1].text == f"restart in {delay}.0 s"
            await trio.sleep(delay + 59)
            assert run.states() == {"a": "running"}
        await trio.sleep(1)
        await run.make("a", "crash")
        assert run.said("backoff")[-1].text == "restart in 1.0 s"


class Prove(Message[Did]):
    pass


class Poller(Scripted):
    """Running is not enough for it."""

    proves_health: ClassVar[bool] = True

    async def prove(self, message: Prove) -> Did:
        self.prove_health()
        return Did(self.incarnation)


async def test_an_actor_that_proves_its_health_itself_is_not_healthy_by_running(autojump_clock: MockClock) -> None:
    world = World()
    child = Child(Poller, world, "a", id="a", backoff=Backoff(min_s=1.0, max_s=600.0, jitter=0.0))
    async with running(world, child) as run:
        for delay in (1, 2, 4):
            await trio.sleep(1000)
            await run.make("a", "crash")
            assert run.said("backoff")[-1].text == f"restart in {delay}.0 s"
            await trio.sleep(delay + 1)
        await run.system.ask(Prove(), to="a")
        await trio.sleep(30)
        await run.system.ask(Prove(), to="a")
        await trio.sleep(31)
        await run.make("a", "crash")
        assert run.said("backoff")[-1].text == "restart in 1.0 s", "sixty seconds since the first proof"


async def test_transient_failure_is_retried_with_a_pause_also_where_no_backoff_is_set(
    autojump_clock: MockClock,
) -> None:
    """QwenPaw and others: a fault that may pass by itself was hammered, or ended the whole."""
    world = World()
    world.always("a", "start", TransientFailure("the line is busy"))
    async with running(world, world.child("a"), world.child("b")) as run:
        assert run.states() == {"a": "backoff", "b": "running"}
        await trio.sleep(600)
        assert 10 <= run.system.node("a").number <= 20, "a pause of up to a minute each time"
        assert run.root.is_alive
        world.always("a", "start", None)
        await trio.sleep(75)
        assert run.states()["a"] == "running"


async def test_transient_failure_does_not_override_a_backoff_that_is_set(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "start", TransientFailure("busy"))
    async with running(world, world.child("a", **World.slow_restart())) as run:
        assert run.said("backoff")[-1].text == "restart in 10.0 s"


async def test_transient_failure_over_the_limit_parks_and_never_escalates(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "start", TransientFailure("busy"))
    async with running(world, world.child("a", max_restarts=2, max_seconds=1000.0)) as run:
        await trio.sleep(20)
        assert run.states() == {"a": "parked"}
        assert run.root.is_alive


# The limit and parking ------------------------------------------------------------------------------------------------


def parking(world: World, name: str = "a", max_restarts: int = 1, **options: float) -> Child:
    return world.child(name, on_limit="park", max_restarts=max_restarts, probe_s=options.pop("probe_s", 300.0))


async def test_over_its_limit_a_leaf_is_parked_and_nobody_else_notices(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, parking(world), world.child("b")) as run:
        await run.make("a", "crash")
        assert run.node_is("a", "running", 2)
        await run.make("a", "crash")
        assert run.states() == {"a": "parked", "b": "running"}
        (parked,) = run.said("parked")
        assert (parked.path, parked.text, parked.exit_kind) == ("a", "RuntimeError: told to crash", "crashed")
        assert run.numbers() == {"a": 2, "b": 1}


async def test_a_parked_child_refuses_at_once_and_what_waited_is_answered(autojump_clock: MockClock) -> None:
    """ray#13594: calls queued on an actor that was restarting for ever."""
    world = World()
    async with running(world, parking(world, max_restarts=0)) as run:
        answers: list[str] = []

        async def ask(what: str) -> None:
            try:
                await run.do("a", what)
            except ActorDied as error:
                answers.append(error.detail)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "crash")
            nursery.start_soon(ask, "crash")
            nursery.start_soon(ask, "crash")
        assert len(answers) == 3
        assert any("a is down (RuntimeError: told to crash) before it answered" in answer for answer in answers)
        began = trio.current_time()
        with pytest.raises(Unavailable, match=r"a is down \(RuntimeError: told to crash\)"):
            await run.do("a")
        with pytest.raises(Unavailable):
            await run.tell("a")
        assert trio.current_time() == began


async def test_a_parked_child_is_probed_at_intervals_until_its_cause_is_gone(autojump_clock: MockClock) -> None:
    """openclaw#42843, #75153, clawbox#529: stopped for ever after an outage."""
    world = World()
    world.once("a", "start", None)
    world.always("a", "start", ConnectionError("no network"))
    async with running(world, parking(world, max_restarts=3)) as run:
        await run.make("a", "crash")
        assert run.node_is("a", "parked", 4)
        for probes in range(1, 13):
            await trio.sleep(299)
            assert run.states() == {"a": "parked"}
            await trio.sleep(1.5)
            assert run.node_is("a", "parked", 4 + probes), "one attempt, then parked again"
        world.always("a", "start", None)
        await trio.sleep(300)
        assert run.node_is("a", "running", 17)
        assert (await run.do("a")).incarnation == 17


async def test_six_hours_of_outage_from_before_the_boot(autojump_clock: MockClock) -> None:
    world = World()
    world.always("a", "start", TransientFailure("no network"))
    async with running(world, world.child("a", backoff=CONNECTOR, on_limit="park"), world.child("b")) as run:
        await trio.sleep(6 * 3600)
        assert run.states() == {"a": "backoff", "b": "running"}
        world.always("a", "start", None)
        await trio.sleep(CONNECTOR.max_s * 1.2)
        assert run.states() == {"a": "running", "b": "running"}


async def test_after_a_probe_one_crash_parks_again_until_health_is_proven(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, parking(world, max_restarts=1, probe_s=10.0)) as run:
        await run.make("a", "crash")
        await run.make("a", "crash")
        await trio.sleep(11)
        assert run.node_is("a", "running", 3)
        await run.make("a", "crash")
        assert run.node_is("a", "parked", 3)
        await trio.sleep(11)
        await trio.sleep(60)
        await run.make("a", "crash")
        assert run.node_is("a", "running", 5), "a minute of health: its limit counts anew"


async def test_an_operators_restart_ends_the_parking_and_forgives(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, parking(world, max_restarts=1)) as run:
        await run.make("a", "crash")
        await run.make("a", "crash")
        await run.root.restart_child("a")
        assert run.node_is("a", "running", 3)
        await run.make("a", "crash")
        assert run.node_is("a", "running", 4)
        await trio.sleep(400)
        assert run.node_is("a", "running", 4), "the probe was called off"


async def test_an_operators_restart_forgives_the_pauses_too(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a", backoff=EXACT)) as run:
        for _ in range(3):
            await run.make("a", "crash")
            await run.root.restart_child("a")
        await run.make("a", "crash")
        assert [report.text for report in run.said("backoff")] == ["restart in 1.0 s"] * 4


async def test_a_parked_supervisor_refuses_for_all_below_and_comes_back_whole(autojump_clock: MockClock) -> None:
    world = World()
    deep = Supervisor("deep", world.children("y"))
    sub = Supervisor("sub", [world.child("x", max_restarts=0), deep], max_restarts=0, on_limit="park", probe_s=10.0)
    async with running(world, sub, world.child("a")) as run:
        await run.make("sub/x", "crash")
        assert run.states()["sub"] == "parked"
        for path in ("sub/x", "sub/deep/y"):
            with pytest.raises(Unavailable, match=f"{path} is down"):
                await run.do(path)
        world.once("x", "start", pause(3))
        await trio.sleep(10.5)
        assert run.states()["sub/x"] == "starting"
        assert (await run.do("sub/deep/y")).incarnation == 2, "it is taken as soon as it is known that somebody comes"
        assert trio.current_time() == 13
        assert (await run.do("sub/x")).incarnation == 2
        assert run.numbers()["a"] == 1


async def test_a_parked_dynamic_supervisor_makes_no_children(autojump_clock: MockClock) -> None:
    world = World()
    dynamic = DynamicSupervisor("dyn", lambda name: Scripted(world, name))
    async with running(world, dynamic) as run:
        await run.root.terminate_child("dyn")
        with pytest.raises(Unavailable, match="dyn was stopped"):
            await run.do("dyn/a")
        assert run.states() == {"dyn": "stopped"}


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_a_group_goes_on_without_its_parked_member_and_keeps_its_probe(
    autojump_clock: MockClock, strategy: Strategy
) -> None:
    """Found here: the siblings' restart had called off the probe, so that it stayed down for ever."""
    world = World()
    async with running(
        world, world.child("a"), parking(world, "b", 0, probe_s=10.0), world.child("c"), strategy=strategy
    ) as run:
        await run.make("b", "crash")
        assert run.states() == {"a": "running", "b": "parked", "c": "running"}
        await run.make("a", "crash")
        assert run.numbers() == {"a": 2, "b": 1, "c": 2}
        assert run.states()["b"] == "parked"
        await trio.sleep(11)
        assert run.numbers() == {"a": 2, "b": 2, "c": 2}, "a probe concerns nobody else"
        await run.make("a", "crash")
        assert run.numbers() == {"a": 3, "b": 3, "c": 3}, "once it is back it is one of them"


async def test_a_group_starts_the_others_when_one_of_them_is_parked_on_the_way(autojump_clock: MockClock) -> None:
    world = World()
    world.once("b", "start", None, NeedsOperator("no credential"))
    async with running(world, *world.children("a b c"), strategy="one_for_all") as run:
        await run.make("a", "crash")
        assert run.states() == {"a": "running", "b": "parked", "c": "running"}
        assert run.numbers() == {"a": 2, "b": 2, "c": 2}


async def test_a_group_waits_for_the_pause_of_the_one_that_failed_on_the_way(autojump_clock: MockClock) -> None:
    world = World()
    world.once("b", "start", None, ValueError("not now"))
    b = world.child("b", **World.slow_restart())
    async with running(world, world.child("a"), b, world.child("c"), strategy="one_for_all") as run:
        await run.make("a", "crash")
        assert run.states() == {"a": "running", "b": "backoff", "c": "stopped"}
        await trio.sleep(11)
        assert set(run.states().values()) == {"running"}
        assert run.numbers() == {"a": 3, "b": 3, "c": 2}


# A person has to mend it ----------------------------------------------------------------------------------------------


async def test_needs_operator_parks_at_once_whatever_the_policy_and_boots_the_rest(autojump_clock: MockClock) -> None:
    """nanoclaw PR#1785, openclaw#106379: one expired token, and the whole gateway was in a crash loop."""
    world = World()
    world.always("a", "start", NeedsOperator("the token was revoked"))
    async with running(world, world.child("a"), world.child("b"), world.child("z", wait=False)) as run:
        assert run.states() == {"a": "parked", "b": "running", "z": "running"}
        assert run.numbers()["a"] == 1
        with pytest.raises(Unavailable, match="the token was revoked"):
            await run.do("a")
        await trio.sleep(650)
        assert run.numbers()["a"] == 3, "one attempt for each interval"
        world.always("a", "start", None)
        await run.root.restart_child("a")
        assert run.states()["a"] == "running"


async def test_needs_operator_raised_by_a_running_actor_parks_it(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "task", pause(5), None)
    async with running(world, world.child("a")) as run:
        run.system.node("a").kill(NeedsOperator("another poller uses this token"))
        await settle()
        assert run.states() == {"a": "parked"}
        assert run.said("parked")[0].text == "another poller uses this token"


# The start's time-out -------------------------------------------------------------------------------------------------


async def test_a_start_that_takes_too_long_has_failed(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "start", trio.sleep_forever)
    async with running(world, world.child("a", start_timeout_s=3.0, wait=False), world.child("b")) as run:
        await trio.sleep(2.9)
        assert run.states() == {"a": "starting", "b": "running"}
        await trio.sleep(0.2)
        assert run.node_is("a", "running", 2)
        (exited,) = run.said("exited")
        assert exited.text == "StartTimeout: on_start took longer than 3 s"


async def test_a_start_that_ignores_its_time_out_is_abandoned(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "start", world.ignore_cancellation)
    async with running(world, world.child("a", start_timeout_s=3.0), world.child("b"), beat_s=0.25) as run:
        await trio.sleep(3 + KILL_GRACE_S)
        assert run.states() == {"a": "starting", "b": "idle"}
        await trio.sleep(KILL_GRACE_S + 0.5)
        assert run.system.abandoned == 1
        assert run.root.state == "crashed", "the first start of a tree escalates"
        assert run.root.last_error is not None
        assert "on_start took longer than 3 s" in run.root.last_error


async def test_a_start_within_its_time_is_none_too_long(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "start", pause(9.9))
    async with running(world, world.child("a")) as run:
        await trio.sleep(10)
        assert run.node_is("a", "running", 1)
        assert run.said("exited") == []


async def test_a_hung_start_does_not_keep_others_from_restarting(autojump_clock: MockClock) -> None:
    world = World()
    world.once("a", "start", None, trio.sleep_forever)
    async with running(world, *world.children("a b", start_timeout_s=math.inf)) as run:
        await run.make("a", "crash")
        await run.make("b", "crash")
        assert run.states() == {"a": "starting", "b": "running"}


# The storm ------------------------------------------------------------------------------------------------------------


async def test_many_connectors_failing_at_once_make_no_storm(autojump_clock: MockClock) -> None:
    """LibreChat PR#12162: 280,313 log lines in a minute. Here: one attempt for each step of the backoff."""
    world = World()
    names = [f"m{n}" for n in range(37)]
    for name in names:
        world.always(name, "start", ConnectionError("gone"))
    children = [world.child(name, backoff=CONNECTOR, on_limit="park", wait=False) for name in names]
    async with running(world, *children) as run:
        for _ in range(20):
            for name in names:
                await run.tell(name)
        await trio.sleep(60)
        for name in names:
            assert 4 <= run.system.node(name).number <= 7
            assert len(starts(run, name)) <= 3 * run.system.node(name).number


async def test_quiet_is_not_dead(autojump_clock: MockClock) -> None:
    """openclaw#62258: the watchdog restarted what had had no message for half an hour."""
    world = World()
    async with running(world, *world.children("a b")) as run:
        await trio.sleep(3 * 3600)
        assert run.numbers() == {"a": 1, "b": 1}
        assert run.said("restarting") == []


# An operator ends what a group waits for ------------------------------------------------------------------------------


async def test_siblings_that_waited_for_one_that_is_terminated_are_said_to_be_down(autojump_clock: MockClock) -> None:
    """Found here: they waited for ever, and so did whoever asked them."""
    world = World()
    world.once("b", "start", None, ValueError("not now"))
    children = [
        world.child("a"),
        world.child("gone"),
        world.child("b", **World.slow_restart()),
        world.child("c"),
        world.child("l", lazy=True),
    ]
    async with running(world, *children, strategy="one_for_all") as run:
        await run.make("a", "crash")
        assert run.states() == {"a": "running", "gone": "running", "b": "backoff", "c": "stopped", "l": "idle"}
        await run.root.terminate_child("gone")
        assert run.system.node("c").down is None, "it will start again with b"
        await run.root.terminate_child("b")
        assert run.states() == {"a": "running", "gone": "stopped", "b": "stopped", "c": "stopped", "l": "idle"}
        for name, why in {"gone": "was stopped", "b": "was stopped", "c": "went down with b"}.items():
            with pytest.raises(Unavailable, match=f"^{name} {why}$"):
                await run.do(name)
        assert (await run.do("a")).incarnation == 2
        assert (await run.do("l")).incarnation == 1
        await trio.sleep(100)
        assert run.states()["c"] == "stopped"
        await run.root.restart_child("c")
        assert (await run.do("c")).incarnation == 2
        await run.make("a", "crash")
        assert set(run.states().values()) == {"running"}, "as in OTP, all are started"


async def test_a_sibling_that_has_just_ended_by_itself_is_not_said_to_be_down(autojump_clock: MockClock) -> None:
    world = World()
    world.once("c", "stop", pause(2))
    async with running(world, *world.children("a b c d"), strategy="rest_for_one") as run:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.root.restart_child, "c")
            await settle()
            nursery.start_soon(run.root.terminate_child, "a")
            await settle()
            await run.make("d", "crash")  # its restart waits for its turn, and the next decision for that
            await run.make("b", "end")
        await settle()
        assert run.states() == {"a": "stopped", "b": "running", "c": "running", "d": "running"}
        assert (await run.do("b")).incarnation == 2


async def test_nobody_waits_for_a_sibling_who_has_ended_otherwise(autojump_clock: MockClock) -> None:
    """Neither who has ended by itself a moment ago, nor who is at rest."""
    world = World()
    async with running(
        world, *world.children("a b"), world.child("i", passivate_after_s=9.0), strategy="one_for_all"
    ) as run:
        await trio.sleep(20)
        waited: list[bool] = []

        def look(report: Report) -> None:
            if report.kind == "exited":
                waited.append(run.root.records["b"].waits_for_sibling())

        run.system.on_report = look
        await run.tell("b", "end")
        await trio.lowlevel.checkpoint()
        await settle()
        assert waited[0] is False
        await trio.sleep(20)
        await run.root.terminate_child("a")
        assert run.states() == {"a": "stopped", "b": "running", "i": "idle"}
        assert (await run.do("i")).incarnation == 2, "it slept through the restart of all"


async def test_a_restart_that_is_called_off_leaves_no_task_behind(autojump_clock: MockClock) -> None:
    world = World()
    async with running(world, world.child("a", **World.slow_restart())) as run:
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(3):
            await run.make("a", "crash")
            await run.root.restart_child("a")
            await settle()
        assert trio.lowlevel.current_statistics().tasks_living == before
