"""What an operator sees of the tree, and what they can do to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import msgspec
import pytest
import trio
import trio.testing
from pocketpaw.actors.agent import Agent, AgentContext
from pocketpaw.actors.identity import Identity
from pocketpaw.actors.inspector import (
    GetActor,
    GetAgentStatus,
    GetTree,
    Inspector,
    ListDeadLetters,
    RestartActor,
)
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tools.catalogue import Catalogue
from pocketpaw.runtime import Actor, ActorSystem, Child, Done, DynamicSupervisor, Message, Supervisor, SupervisorNode
from pocketpaw.runtime.cell import Cell
from pocketpaw.runtime.errors import ActorDied, Conflict, NeedsOperator, NoSuchActor
from pocketpaw.storage.sessions import CreateSession

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
OpenTree = Callable[..., AbstractAsyncContextManager[ActorSystem]]

SECRET = "sk-a-canary-that-nobody-may-see"


class Crash(Message[Done], to="leaves/leaf"):
    """Crash, with a secret in the words."""


class Work(Message[Done], to="leaves/leaf"):
    """Do something."""


class Unknown(Message[Done], to="leaves/leaf"):
    """Nobody takes this."""


class Leaf(Actor):
    async def crash(self, message: Crash) -> Done:
        raise ValueError(f"refused: {SECRET}")

    async def work(self, message: Work) -> Done:
        return Done()


class Stubborn(Actor):
    """Takes its time to stop, as `http` does while it answers."""

    async def on_stop(self) -> None:
        await trio.sleep(4)


class Broken(Actor):
    is_broken = False

    async def on_start(self) -> None:
        if Broken.is_broken:
            raise NeedsOperator("the token is refused")


@pytest.fixture
def tree(live: LiveSettings, running: Running) -> OpenTree:
    @asynccontextmanager
    async def open_tree(*more: Child | Supervisor) -> AsyncGenerator[ActorSystem]:
        live.secrets |= {SECRET}
        leaves = Supervisor("leaves", [Child(Leaf)])
        async with running(Supervisor("root", [leaves, Child(Inspector, live), *more])) as system:
            yield system

    return open_tree


async def test_the_tree_is_shown_as_it_is(tree: OpenTree) -> None:
    async with tree() as system:
        view = await system.ask(GetTree())
    assert (view.name, view.kind, view.strategy, view.state) == ("root", "supervisor", "one_for_one", "running")
    assert view.children is not None
    assert [child.path for child in view.children] == ["leaves", "inspector"]
    assert view.children[1].mailbox is not None


@pytest.mark.parametrize("path", ["root", "", "leaves", "leaves/leaf"])
async def test_one_place_is_shown_in_detail(tree: OpenTree, path: str) -> None:
    async with tree() as system:
        await system.ask(Work())
        view = await system.ask(GetActor(path=path))
    assert view.node.path == ("" if path == "root" else path)
    assert view.messages == ({"Work": 1} if path == "leaves/leaf" else {})


async def test_the_last_error_shows_no_secret(tree: OpenTree) -> None:
    async with tree() as system:
        with pytest.raises(ActorDied):
            await system.ask(Crash())
        whole = await system.ask(GetTree())
        one = await system.ask(GetActor(path="leaves/leaf"))
    assert one.node.last_error == "ValueError: refused: [secret]"
    assert SECRET not in repr(whole)


async def test_an_unknown_path_is_said_to_be_one(tree: OpenTree) -> None:
    async with tree() as system:
        with pytest.raises(NoSuchActor, match="no actor at 'leaves/nobody'"):
            await system.ask(GetActor(path="leaves/nobody"))
        with pytest.raises(NoSuchActor):
            await system.ask(RestartActor(path="leaves/nobody"))


async def test_an_actor_is_restarted_through_its_supervisor_and_nobody_else(tree: OpenTree) -> None:
    async with tree() as system:
        view = await system.ask(RestartActor(path="leaves/leaf"))
        whole = await system.ask(GetTree())
    assert (view.path, view.state, view.incarnation, view.restarts) == ("leaves/leaf", "running", 2, 1)
    assert whole.children is not None
    assert [child.incarnation for child in whole.children] == [1, 1]


async def test_a_supervisor_is_restarted_with_all_below_it(tree: OpenTree) -> None:
    async with tree() as system:
        view = await system.ask(RestartActor(path="leaves"))
    assert view.children is not None
    assert (view.incarnation, view.children[0].incarnation) == (2, 2)


@pytest.mark.parametrize("path", ["root", ""])
async def test_the_root_is_not_restarted(tree: OpenTree, path: str) -> None:
    async with tree() as system:
        with pytest.raises(Conflict, match="restart the daemon"):
            await system.ask(RestartActor(path=path))


async def test_a_restart_that_fails_says_why(tree: OpenTree, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tree(Child(Broken, on_limit="park")) as system:
        monkeypatch.setattr(Broken, "is_broken", True)
        with pytest.raises(NeedsOperator, match="the token is refused"):
            await system.ask(RestartActor(path="broken"))
        await trio.testing.wait_all_tasks_blocked()
        assert (await system.ask(GetActor(path="broken"))).node.state == "parked"


@pytest.mark.parametrize("path", ["stubborn", "inspector"])
async def test_a_restart_that_takes_long_is_answered_before_it_is_done(
    tree: OpenTree, path: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with tree(Child(Stubborn)) as system:
        view = await system.ask(RestartActor(path=path))
        await trio.sleep(5)
        later = await system.ask(GetActor(path=path))
    assert view.state == "stopping"
    assert (later.node.state, later.node.incarnation) == ("running", 2)


async def test_dead_letters_are_listed_newest_first(tree: OpenTree) -> None:
    async with tree() as system:
        for _ in range(3):
            with pytest.raises(NoSuchActor):
                await system.ask(Unknown())
        letters = await system.ask(ListDeadLetters(limit=2))
    assert [(letter.to, letter.message_type, letter.reason) for letter in letters] == [
        ("leaves/leaf", "Unknown", "unhandled")
    ] * 2
    assert letters[0].timestamp >= letters[1].timestamp


async def test_without_agents_the_daemon_is_idle(tree: OpenTree) -> None:
    async with tree() as system:
        status = await system.ask(GetAgentStatus())
    overall, wire = status.global_, msgspec.to_builtins(status)
    assert (overall.state, overall.active_sessions, overall.max_concurrent) == ("idle", 0, 32)
    assert status.sessions == []
    assert set(wire) == {"global", "sessions"}


async def start_agent(system: ActorSystem, agents: DynamicSupervisor, session_id: str) -> Agent:
    supervisor = system.nodes["agents"]
    assert isinstance(supervisor, SupervisorNode)
    cell = await supervisor.start_child(agents.child(session_id))
    assert isinstance(cell, Cell)
    assert isinstance(cell.actor, Agent)
    return cell.actor


async def test_each_agent_that_is_awake_is_shown_with_what_it_does(
    live: LiveSettings, store: Supervisor, tree: OpenTree
) -> None:
    context = AgentContext(live, Identity(live.home.identity), Catalogue(), "boot")
    agents = DynamicSupervisor("agents", partial(Agent, context=context))
    async with tree(store, agents) as system:
        session = await system.ask(CreateSession(title="Tea"))
        first = await start_agent(system, agents, session.id)
        await start_agent(system, agents, "unknown-to-the-store")
        first.activity.state, first.activity.since = "streaming", system.now() - 2
        first.activity.total_tokens, first.activity.error = 12, f"refused: {SECRET}"
        status = await system.ask(GetAgentStatus())
    busy, idle = status.sessions
    assert (status.global_.state, status.global_.active_sessions) == ("active", 1)
    assert (busy.session_key, busy.session_id, busy.title) == (f"api:{session.id}", session.id, "Tea")
    assert (busy.state, busy.token_usage, busy.tool_name) == ("streaming", 12, None)
    assert busy.duration_seconds == pytest.approx(2, abs=0.5)
    assert busy.error_message == "refused: [secret]"
    assert (idle.state, idle.title, idle.duration_seconds) == ("idle", None, 0.0)


async def test_the_agents_are_shown_without_titles_while_the_store_cannot_be_asked(
    live: LiveSettings, tree: OpenTree
) -> None:
    context = AgentContext(live, Identity(live.home.identity), Catalogue(), "boot")
    agents = DynamicSupervisor("agents", partial(Agent, context=context))
    async with tree(agents) as system:
        await start_agent(system, agents, "s-1")
        status = await system.ask(GetAgentStatus())
    assert [(session.session_id, session.title) for session in status.sessions] == [("s-1", None)]
