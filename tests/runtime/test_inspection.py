"""The tree as it is shown: true at that moment."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import msgspec
import pytest
import trio
from pocketpaw.runtime import Actor, ActorSystem, Child, Done, DynamicSupervisor, Message, Supervisor
from pocketpaw.runtime.errors import ActorDied
from pocketpaw.runtime.inspection import detail, quantile_ms, tree, view
from trio.testing import wait_all_tasks_blocked

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]


class Act(Message[Done], to="actor"):
    what: str = ""


class Worker(Actor):
    def __init__(self, _: str = "") -> None:
        super().__init__()

    async def act(self, message: Act) -> Done:
        if message.what == "crash":
            raise RuntimeError("as asked")
        if message.what == "wait":
            await trio.sleep(10)
        return Done()


async def test_the_tree_shows_what_is_true_at_this_moment(
    running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    spec = Supervisor(
        "root",
        [
            Child(Worker, id="actor"),
            Supervisor("group", [Child(Worker, id="lazy", lazy=True)], strategy="rest_for_one"),
            DynamicSupervisor("many", Worker),
        ],
    )
    async with running(spec) as system:
        await system.ask(Act(), to="many/one")
        with pytest.raises(ActorDied):
            await system.ask(Act(what="crash"))
        await system.ask(Act())
        await trio.sleep(5)
        await system.tell(Act(what="wait"))
        await wait_all_tasks_blocked()
        for _ in range(3):
            await system.tell(Act())
        root = tree(system)
        assert (root.name, root.kind, root.state) == ("root", "supervisor", "running")
        assert root.children is not None
        actor, group, many = root.children
        assert (actor.path, actor.kind, actor.state, actor.incarnation) == ("actor", "trio", "running", 2)
        assert (actor.restarts, actor.last_error, actor.processed) == (1, "RuntimeError: as asked", 1)
        assert actor.uptime_seconds == pytest.approx(5, abs=0.1)
        assert actor.mailbox is not None
        assert (actor.mailbox.depth, actor.mailbox.capacity) == (3, 1000)
        assert group.strategy == "rest_for_one"
        assert group.children is not None
        assert (group.children[0].path, group.children[0].state) == ("group/lazy", "idle")
        assert many.children is not None
        assert [child.path for child in many.children] == ["many/one"]
        assert msgspec.json.decode(msgspec.json.encode(root), type=type(root)) == root
        assert view(system.root, depth=1).children is not None
        assert (view(system.root, depth=1).children or [])[1].children == []


async def test_an_actors_detail_counts_its_messages_and_their_time(
    running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(Supervisor("root", [Child(Worker, id="actor")])) as system:
        for _ in range(9):
            await system.ask(Act())
        await system.ask(Act(what="wait"))
        shown = detail(system.cell("actor", Act))
        assert shown.messages == {"Act": 10}
        assert shown.latency_ms["p50"] == pytest.approx(0.001)
        assert 10_000 <= shown.latency_ms["p99"] <= 20_000


def test_a_quantile_is_the_upper_bound_of_its_bucket() -> None:
    assert quantile_ms([], 0.5) == 0
    assert quantile_ms([0, 4], 0.99) == 0.002
    assert quantile_ms([98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], 0.98) == 0.001
    assert quantile_ms([98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], 0.99) == 1.024
