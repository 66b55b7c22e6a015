"""What an earlier run left undone is taken up at start, whatever state the store is in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from pocketpaw.actors import recovery
from pocketpaw.actors.agent import Agent, AgentContext
from pocketpaw.actors.identity import Identity
from pocketpaw.actors.models.protocol import Finished, Generate, GenerationEvent, TextDelta, Usage
from pocketpaw.actors.recovery import Recovery
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tools.catalogue import Catalogue
from pocketpaw.runtime import Actor, ActorSystem, Backoff, Child, DynamicSupervisor, Supervisor
from pocketpaw.storage import store as store_module
from pocketpaw.storage.database import open_database
from pocketpaw.storage.group import run_batch
from pocketpaw.storage.history import GetHistory
from pocketpaw.storage.turns import AddTurn, ClaimTurn, GetTurn, ListUnfinishedSessions, TurnState

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]

QUICK = Backoff(min_s=0.02, max_s=0.05)


class FakeRouter(Actor):
    concurrency = 200

    def __init__(self, asked: list[str]) -> None:
        super().__init__()
        self._asked = asked

    async def generate(self, message: Generate) -> AsyncGenerator[GenerationEvent]:
        self._asked.append(" | ".join(said.content for said in message.messages[1:]))
        yield TextDelta(f"re: {message.messages[-1].content}")
        yield Usage(1, 1, 2, "scripted", "fake")
        yield Finished("stop")


def left_by_another_boot(live: LiveSettings, *turns: AddTurn, claims: int = 0) -> None:
    """Write as a daemon would that was then killed; `claims` are attempts of the first turn."""
    database = open_database(live.home.database_url(live.current))
    with database.connect_writer() as connection:
        tries = [ClaimTurn(turn_id="t-1", boot_id="boot-1") for _ in range(claims)]
        for outcome in run_batch(connection, [*turns, *tries]):
            assert not isinstance(outcome, Exception), outcome
    database.close()


def question(number: int, session_id: str, state: str) -> AddTurn:
    return AddTurn(
        session_id=session_id,
        turn_id=f"t-{number}",
        content=f"number {number}",
        channel="api",
        state="running" if state == "running" else "pending",
        boot_id="boot-1",
        principal="ann",
    )


def tree(live: LiveSettings, store: Supervisor, asked: list[str]) -> Supervisor:
    context = AgentContext(live, Identity(live.home.identity), Catalogue(), "boot-2")
    return Supervisor(
        "root",
        [
            store,
            Supervisor("models", [Child(FakeRouter, asked, id="router")]),
            DynamicSupervisor("agents", partial(Agent, context=context)),
            Child(Recovery, "boot-2", wait=False, backoff=QUICK, on_limit="park", max_restarts=99),
        ],
    )


async def states(system: ActorSystem, *numbers: int) -> list[tuple[TurnState, int]]:
    turns = [await system.ask(GetTurn(turn_id=f"t-{number}")) for number in numbers]
    return [(turn.state, turn.attempts) for turn in turns]


def is_done(system: ActorSystem) -> bool:
    return system.node("recovery").state == "running"


async def unfinished(system: ActorSystem) -> int:
    return len(await system.ask(ListUnfinishedSessions(boot_id="nobody's")))


async def until_finished(system: ActorSystem, eventually: Eventually) -> None:
    await eventually(lambda: is_done(system))
    agents = [node for path, node in system.nodes.items() if path.startswith("agents/")]
    await eventually(lambda: all(getattr(node, "actor").activity.state == "idle" for node in agents))  # noqa: B009


async def test_pending_and_running_turns_are_finished_in_order(
    live: LiveSettings, store: Supervisor, running: Running, eventually: Eventually
) -> None:
    left_by_another_boot(
        live, question(1, "s-1", "running"), question(2, "s-1", "pending"), question(3, "s-2", "pending")
    )
    asked = list[str]()
    async with running(tree(live, store, asked)) as system:
        await until_finished(system, eventually)
        assert await states(system, 1, 2, 3) == [("done", 2), ("done", 1), ("done", 1)]
        history = await system.ask(GetHistory(session_id="s-1"))
        assert await unfinished(system) == 0
    assert sorted(asked) == ["number 1", "number 1 | re: number 1 | number 2", "number 3"]
    assert [message.content for message in history] == ["number 1", "number 2", "re: number 1", "re: number 2"]


async def test_a_turn_that_was_tried_too_often_is_interrupted(
    live: LiveSettings, store: Supervisor, running: Running, eventually: Eventually
) -> None:
    left_by_another_boot(live, question(1, "s-1", "running"), question(2, "s-1", "pending"), claims=2)
    asked = list[str]()
    async with running(tree(live, store, asked)) as system:
        await until_finished(system, eventually)
        assert await states(system, 1, 2) == [("interrupted", 3), ("done", 1)]
    assert asked == ["number 1 | number 2"]


async def test_many_unfinished_turns_are_taken_up_bit_by_bit(
    live: LiveSettings, store: Supervisor, running: Running, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "AT_ONCE", 3)
    left_by_another_boot(live, *(question(number, f"s-{number}", "pending") for number in range(8)))
    asked = list[str]()
    async with running(tree(live, store, asked)) as system:
        await until_finished(system, eventually)
        assert await unfinished(system) == 0
    assert len(asked) == 8


async def test_turns_are_taken_up_once_the_store_can_be_read(
    live: LiveSettings,
    store: Supervisor,
    running: Running,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(store_module, "RETRY_S", 0.05)
    left_by_another_boot(live, question(1, "s-1", "running"))
    folder = live.home.database.parent
    away = folder.rename(tmp_path / "away")
    folder.touch()  # a file where the folder should be: nothing can be opened there, and nothing made
    asked = list[str]()
    async with running(tree(live, store, asked)) as system:
        await eventually(lambda: system.node("recovery").restarts > 2)
        assert asked == []
        folder.unlink()
        away.rename(folder)
        await until_finished(system, eventually)
        assert await states(system, 1) == [("done", 2)]
    assert asked == ["number 1"]


async def test_turns_that_lost_their_agent_are_taken_up_again(
    live: LiveSettings, store: Supervisor, running: Running, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "SWEEP_S", 0.05)
    asked = list[str]()
    async with running(tree(live, store, asked)) as system:
        await eventually(lambda: is_done(system))
        orphan = msgspec.structs.replace(question(1, "s-1", "running"), boot_id="boot-2")
        await system.ask(orphan)  # as when an agent's supervisor was restarted with the answer half written
        await eventually(lambda: asked)
        await until_finished(system, eventually)
        assert await states(system, 1) == [("done", 2)]
        await trio.sleep(0.2)  # several sweeps
    assert asked == ["number 1"]
