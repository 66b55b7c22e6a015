"""The embedded model as an actor: the real one, in its process."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
from pocketpaw.actors.models import embedded as embedded_module
from pocketpaw.actors.models.embedded import EmbeddedModel
from pocketpaw.actors.models.errors import ModelNotInstalled
from pocketpaw.actors.models.protocol import ChatMessage, Finished, Generate, GenerationEvent, TextDelta, Usage
from pocketpaw.actors.models.router import EMBEDDED, Router
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import ActorSystem, Child, Supervisor
from pocketpaw.runtime.cell import Cell
from pocketpaw.runtime.errors import ActorDied, Unavailable

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
OpenModels = Callable[..., AbstractAsyncContextManager[ActorSystem]]

QUESTION = Generate(messages=(ChatMessage("user", "What colour is the sky?"),), max_tokens=2)
STORY = Generate(messages=(ChatMessage("user", "Tell me a long story about a cat."),), max_tokens=400)


@pytest.fixture
def models(live: LiveSettings, running: Running) -> OpenModels:
    @asynccontextmanager
    async def open_models(idle_s: float = 60.0) -> AsyncGenerator[ActorSystem]:
        embedded = Child(
            EmbeddedModel, id="embedded", lazy=True, passivate_after_s=idle_s, start_timeout_s=60.0, on_limit="park"
        )
        async with running(Supervisor("root", [Supervisor("models", [Child(Router, live), embedded])])) as system:
            yield system

    return open_models


async def ask(system: ActorSystem, request: Generate = QUESTION, to: str = EMBEDDED) -> list[GenerationEvent]:
    async with system.stream(request, to=to) as events:
        return [event async for event in events]


def is_whole(events: list[GenerationEvent]) -> bool:
    *_, usage, finished = events
    return isinstance(events[0], TextDelta) and isinstance(usage, Usage) and isinstance(finished, Finished)


def pid_of(system: ActorSystem) -> int | None:
    node = system.node(EMBEDDED)
    assert isinstance(node, Cell)
    return node.actor.pid if isinstance(node.actor, EmbeddedModel) else None


def kill_the_model(system: ActorSystem) -> int:
    pid = pid_of(system)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


async def rest_of(events: AsyncIterator[GenerationEvent]) -> list[GenerationEvent]:
    return [event async for event in events]


async def test_it_is_loaded_by_its_first_question_and_let_go_when_it_is_idle(
    models: OpenModels, eventually: Eventually
) -> None:
    async with models(idle_s=0.3) as system:
        node = system.node(EMBEDDED)
        assert (node.state, pid_of(system)) == ("idle", None)
        assert is_whole(await ask(system))
        assert node.state == "running"
        await eventually(lambda: node.state == "idle")
        assert (pid_of(system), node.number, node.restarts) == (None, 1, 0)


async def test_one_that_is_killed_in_its_words_ends_that_answer_only(models: OpenModels) -> None:
    async with models() as system:
        async with system.stream(STORY, to=EMBEDDED) as events:
            await anext(aiter(events))
            pid = kill_the_model(system)
            with pytest.raises(ActorDied, match="SIGKILL"):
                await rest_of(events)
        assert is_whole(await ask(system))
        assert pid_of(system) != pid


async def test_one_that_is_killed_while_it_loads_is_not_noticed_through_the_router(
    models: OpenModels, eventually: Eventually
) -> None:
    async with models() as system:
        answers: list[list[GenerationEvent]] = []

        async def question() -> None:
            answers.append(await ask(system, to="models/router"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(question)
            await eventually(lambda: pid_of(system) is not None)
            kill_the_model(system)
        assert is_whole(answers[0])
        assert system.node(EMBEDDED).restarts == 1


async def test_whoever_leaves_has_the_model_leave_off(models: OpenModels) -> None:
    async with models() as system:
        async with system.stream(STORY, to=EMBEDDED) as events:
            await anext(aiter(events))
        with trio.fail_after(5):
            assert is_whole(await ask(system))
        assert system.node(EMBEDDED).restarts == 0


async def test_what_is_not_installed_is_said_at_once_and_looked_for_again_later(
    models: OpenModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_nothing() -> None:
        raise ModelNotInstalled("the embedded model needs xllamacpp: pip install xllamacpp")

    monkeypatch.setattr(embedded_module, "find_model", find_nothing)
    async with models() as system:
        for expected in (ActorDied, Unavailable):
            with trio.fail_after(2), pytest.raises(expected, match="needs xllamacpp: pip install xllamacpp"):
                await ask(system)
        assert system.node(EMBEDDED).state == "parked"
