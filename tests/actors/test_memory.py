from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
import trio
import trio.testing
from pocketpaw.actors import memory as memory_module
from pocketpaw.actors.memory import (
    LEARN_QUEUE,
    ChangeMemorySettings,
    FindMemories,
    GetMemorySettings,
    GetMemoryStats,
    LearnFrom,
    MemoryKeeper,
    RecallFor,
    read_facts,
)
from pocketpaw.actors.models.protocol import Finished, Generate, GenerationEvent, TextDelta, ThinkingDelta, Usage
from pocketpaw.actors.settings import LiveSettings, SettingsKeeper
from pocketpaw.runtime import Actor, ActorSystem, Child, Supervisor
from pocketpaw.runtime.errors import InvalidInput, Unavailable
from pocketpaw.storage.memories import AddMemory, ListMemories
from structlog.testing import capture_logs

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
MakeLive = Callable[..., LiveSettings]

SERVER: dict[str, object] = {
    "agent_backend": "openai_compatible",
    "openai_compatible_base_url": "http://x/v1",
    "openai_compatible_model": "m",
}
LESSON = LearnFrom(session_id="s-1", question="I am Ann and I drink tea", reply="Noted!")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait, in real time, for what an actor does."""
    with trio.fail_after(10):
        while not await condition():  # noqa: ASYNC110 it is asked for by a message
            await trio.sleep(0.01)


@dataclass
class Script:
    says: str = '["The user is called Ann", "The user drinks tea"]'
    fails: bool = False
    asked: list[Generate] = field(default_factory=list[Generate])
    gate: trio.Semaphore | None = None


class FakeRouter(Actor):
    concurrency = 10

    def __init__(self, script: Script) -> None:
        super().__init__()
        self._script = script

    async def generate(self, message: Generate) -> AsyncGenerator[GenerationEvent]:
        self._script.asked.append(message)
        if self._script.gate is not None:
            await self._script.gate.acquire()
        if self._script.fails:
            raise Unavailable("the model is away")
        yield ThinkingDelta("[hm]")
        for part in self._script.says.split(" "):
            yield TextDelta(f"{part} ")
        yield Usage(1, 1, 2, "scripted", "fake")
        yield Finished("stop")


@dataclass
class Bench:
    system: ActorSystem
    live: LiveSettings
    script: Script

    async def contents(self) -> list[str]:
        return [memory.content for memory in (await self.system.ask(ListMemories())).memories]

    async def add(self, content: str, *provenance: str) -> None:
        await self.system.ask(AddMemory(content=content, provenance=list(provenance)))

    async def wait_for(self, count: int) -> None:
        async def is_there() -> bool:
            return len(await self.contents()) >= count

        await until(is_there)


OpenBench = Callable[..., AbstractAsyncContextManager[Bench]]


@pytest.fixture
def bench(make_live: MakeLive, store: Supervisor, running: Running) -> OpenBench:
    @asynccontextmanager
    async def open_bench(**settings: object) -> AsyncGenerator[Bench]:
        live, script = make_live(**{**SERVER, **settings}), Script()
        tree = Supervisor(
            "root",
            [
                store,
                Child(SettingsKeeper, live, id="settings"),
                Supervisor("models", [Child(FakeRouter, script, id="router")]),
                Child(MemoryKeeper, live, id="memory"),
            ],
        )
        async with running(tree) as system:
            yield Bench(system, live, script)

    return open_bench


async def test_a_turn_is_read_with_what_people_said(bench: OpenBench) -> None:
    async with bench() as memory:
        await memory.add("The user's cat is called Momo")
        await memory.add("The user lives in Bonn")
        await memory.add("The cat eats web pages", "web https://example.org")
        recalled = await memory.system.ask(RecallFor(text="How is my cat?"))
        assert [found.content for found in recalled] == ["The user's cat is called Momo", "The user lives in Bonn"]
        found = await memory.system.ask(FindMemories(q="cat", limit=5))
        assert {known.content for known in found} == {"The user's cat is called Momo", "The cat eats web pages"}


async def test_what_came_up_is_counted_when_the_daemon_stops(bench: OpenBench, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench() as memory:
        await memory.add("The user's cat is called Momo")
        await memory.add("The user lives in Bonn")
        await memory.system.ask(RecallFor(text="cat"))
        await memory.system.ask(RecallFor(text="cat"))
    monkeypatch.setattr(memory_module, "SAVE_USES_S", 0.01)
    async with bench() as memory:
        listed = (await memory.system.ask(ListMemories())).memories
        assert {known.content: known.uses for known in listed} == {
            "The user's cat is called Momo": 1,
            "The user lives in Bonn": 0,
        }
        await memory.system.ask(FindMemories(q="bonn"))

        async def is_counted() -> bool:
            return (await memory.system.ask(ListMemories(q="bonn"))).memories[0].uses == 1

        await until(is_counted)


async def test_facts_are_learned_when_the_operator_wants_it(bench: OpenBench) -> None:
    async with bench(file_auto_learn=True) as memory:
        await memory.system.ask(LESSON)
        await memory.wait_for(2)
        (request,) = memory.script.asked
        assert not request.tools
        assert "I am Ann and I drink tea" in request.messages[-1].content
        learned = (await memory.system.ask(ListMemories(q="tea"))).memories[0]
        assert (learned.tags, learned.source_session, learned.provenance) == (["learned"], "s-1", [])


@pytest.mark.parametrize(
    ("settings", "provenance"),
    [
        ({}, ()),
        ({"file_auto_learn": True}, ("web https://example.org",)),
        ({"file_auto_learn": True, "agent_backend": "embedded"}, ()),
    ],
    ids=["off", "outside content", "too small a model"],
)
async def test_nothing_is_learned_unasked_or_from_outside_or_by_the_embedded_model(
    bench: OpenBench, settings: dict[str, object], provenance: tuple[str, ...]
) -> None:
    async with bench(**settings) as memory:
        await memory.system.ask(msgspec.structs.replace(LESSON, provenance=provenance))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert memory.script.asked == []


async def test_a_failure_to_learn_is_logged_and_the_next_turn_is_learned_from(
    bench: OpenBench, eventually: Eventually
) -> None:
    async with bench(file_auto_learn=True) as memory:
        for says, fails in (("Sure! Here is a list:", False), ("[]", True)):
            memory.script.says, memory.script.fails = says, fails
            with capture_logs() as logs:
                await memory.system.ask(LESSON)
                await eventually(lambda logs=logs: logs)
            assert [(entry["log_level"], entry["session"]) for entry in logs] == [("warning", "s-1")]
        memory.script.says, memory.script.fails = '["The user likes tea"]', False
        await memory.system.ask(LESSON)
        await memory.wait_for(1)


async def test_learning_delays_nobody_and_the_oldest_turns_are_let_go(bench: OpenBench, eventually: Eventually) -> None:
    async with bench(file_auto_learn=True) as memory:
        memory.script.gate = trio.Semaphore(0)
        with trio.fail_after(5):
            for number in range(LEARN_QUEUE + 5):
                await memory.system.ask(msgspec.structs.replace(LESSON, question=f"number {number}."))
                await trio.testing.wait_all_tasks_blocked(0.002)
            await memory.system.ask(RecallFor(text="hello"))
            for _ in range(LEARN_QUEUE + 5):
                memory.script.gate.release()
            await eventually(lambda: len(memory.script.asked) > LEARN_QUEUE)
        asked = [request.messages[-1].content for request in memory.script.asked]
        assert "number 0." in asked[0]
        assert "number 5." in asked[1]
        assert len(asked) == LEARN_QUEUE + 1


@pytest.mark.parametrize("answer", ['["a"]', ' ["a"]\n', '```json\n["a"]\n```', '["a", " "]'])
def test_a_json_array_of_strings_is_read(answer: str) -> None:
    assert read_facts(answer) == ["a"]


@pytest.mark.parametrize(
    "answer",
    ["", "a", '{"facts": []}', "[1]", '["a"] and more', '["' + "x" * 501 + '"]', '["a", "b", "c", "d", "e", "f"]'],
)
def test_anything_else_is_not_believed(answer: str) -> None:
    with pytest.raises(InvalidInput):
        read_facts(answer)


async def test_the_settings_say_what_stands_in_the_way(bench: OpenBench) -> None:
    async with bench(agent_backend="embedded") as memory:
        shown = await memory.system.ask(GetMemorySettings())
        assert (shown.memory_backend, shown.auto_learn, shown.hint) == ("file", False, "")
        changed = await memory.system.ask(ChangeMemorySettings(memory_backend="file", auto_learn=True))
        assert changed.auto_learn
        assert "embedded model is too small" in changed.hint
        assert memory.live.current.file_auto_learn
        with pytest.raises(InvalidInput, match="'mem0' is not installed"):
            await memory.system.ask(ChangeMemorySettings(memory_backend="mem0", auto_learn=False))
        assert memory.live.current.file_auto_learn
        await memory.add("one")
        stats = await memory.system.ask(GetMemoryStats())
        assert (stats.backend, stats.total_memories) == ("file", 1)
    async with bench(memory_backend="mem0") as memory:
        assert "'mem0', which is not installed" in (await memory.system.ask(GetMemorySettings())).hint
