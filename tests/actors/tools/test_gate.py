"""The gate by itself, on the real store: odd calls, tools that are away, a store that fails."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec
import pytest
import trio
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tools import gate as gate_module
from pocketpaw.actors.tools.catalogue import Catalogue
from pocketpaw.actors.tools.gate import ApprovalRequired, DecideApproval, Gate, GateEvent, UseTool
from pocketpaw.actors.tools.protocol import Execute, ToolEvent, ToolInfo, ToolOutput, ToolProgress
from pocketpaw.runtime import Actor, ActorSystem, Child, Message, Principal, Supervisor
from pocketpaw.runtime.errors import Conflict, Forbidden, TooManyRequests, Unavailable
from pocketpaw.storage import registry
from pocketpaw.storage.tool_calls import DecideCall, EndCall, ListCalls
from pocketpaw.storage.turns import AddTurn
from sqlalchemy import Connection

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]

ANN = Principal("ann", frozenset({"admin"}))
SECRET = "a-secret-that-nobody-may-see"
NAMED = {"path": {"type": "string", "default": "."}}

LIST = ToolInfo("list_files", "", {"properties": NAMED}, "tools/hands", "read", "files:read", "path")
FETCH = ToolInfo("web_fetch", "", {}, "tools/hands", "egress", "admin", "url")
FIND = ToolInfo("mcp__shop__find", "", {}, "tools/hands", "read", "mcp", source="mcp shop")
BUY = ToolInfo("mcp__shop__buy", "", {}, "tools/hands", "execute", "mcp", source="mcp shop")


class Hands(Actor):
    """Does what the gate lets through; what it says is written by others."""

    concurrency = 10

    def __init__(self, done: list[str]) -> None:
        super().__init__()
        self._done = done

    async def execute(self, message: Execute) -> AsyncGenerator[ToolEvent]:
        if message.arguments.get("fail"):
            raise Forbidden("shop.example redirects to https://other.example/now-buy-everything")
        yield ToolProgress(f"saw {SECRET}")
        self._done.append(message.name)
        yield ToolOutput("a lamp", source="mcp shop")


class House:
    """A gate, and a turn whose calls go through it."""

    def __init__(self, system: ActorSystem, catalogue: Catalogue) -> None:
        self.system = system
        self.catalogue = catalogue

    @staticmethod
    def message(tool: ToolInfo, number: int = 0, **arguments: object) -> UseTool:
        return UseTool(turn_id="t-1", session_id="s-1", step=0, number=number, tool=tool.name, arguments=arguments)

    async def use(self, tool: ToolInfo, number: int = 0, **arguments: object) -> list[GateEvent]:
        message = self.message(tool, number, **arguments)
        with trio.fail_after(20):
            async with self.system.stream(message, principal=ANN) as events:
                heard: list[GateEvent] = []
                async for event in events:
                    heard.append(event)
                    if isinstance(event, ApprovalRequired):
                        break
                return heard

    async def output(self, tool: ToolInfo, number: int = 0, **arguments: object) -> ToolOutput:
        last = (await self.use(tool, number, **arguments))[-1]
        assert isinstance(last, ToolOutput)
        return last

    async def held(self, tool: ToolInfo, number: int = 0, **arguments: object) -> str:
        last = (await self.use(tool, number, **arguments))[-1]
        assert isinstance(last, ApprovalRequired)
        return last.request_id

    async def through_approval(self, tool: ToolInfo, number: int = 0) -> ToolOutput:
        last: GateEvent | None = None
        async with self.system.stream(self.message(tool, number), principal=ANN) as events:
            async for event in events:
                last = event
        assert isinstance(last, ToolOutput)
        return last

    @property
    def gates(self) -> int:
        """How many there have been."""
        return self.system.cell("tools/gate", UseTool).number


OpenHouse = Callable[..., AbstractAsyncContextManager[House]]


@pytest.fixture
def house(live: LiveSettings, make_store: Callable[[], Supervisor], running: Running) -> OpenHouse:
    @asynccontextmanager
    async def open_house(
        *tools: ToolInfo, boot: str = "boot-1", done: list[str] | None = None, **settings: object
    ) -> AsyncGenerator[House]:
        changed = msgspec.structs.replace(live.current, **settings)
        live.loaded = msgspec.structs.replace(live.loaded, settings=changed)
        catalogue = Catalogue()
        catalogue.add(tools)
        hands = Child(Hands, [] if done is None else done, id="hands")
        gate = Child(Gate, live, catalogue, boot)
        async with running(Supervisor("root", [make_store(), Supervisor("tools", [hands, gate])])) as system:
            if boot == "boot-1":
                await system.ask(
                    AddTurn(
                        session_id="s-1",
                        turn_id="t-1",
                        content="hello",
                        channel="api",
                        state="running",
                        boot_id=boot,
                        principal="ann",
                    )
                )
            yield House(system, catalogue)

    return open_house


@pytest.mark.parametrize("url", ["http://[::1", "https://[shop]/", "https://\u2100.example/", "://", "http://", ""])
async def test_an_address_that_is_none_is_held_like_any_other(house: OpenHouse, url: str) -> None:
    async with house(FETCH) as home:
        await home.held(FETCH, url=url)
        assert home.gates == 1


@pytest.mark.parametrize(
    "url",
    ["https://SHOP.example/a", "HTTPS://shop.example:443/a", "https://shop\u3002example/a", "https://shop.example"],
)
async def test_a_rule_for_a_host_holds_however_the_host_is_written(house: OpenHouse, url: str) -> None:
    async with house(FETCH, tools_deny=("web_fetch(https://shop.example/*)",)) as home:
        assert "the operator denies" in (await home.output(FETCH, url=url)).text


async def test_a_rule_for_what_a_tool_takes_by_itself_holds_when_it_is_left_out(
    house: OpenHouse, live: LiveSettings
) -> None:
    async with house(LIST, tools_deny=(f"list_files({live.current.file_jail_path})", "list_files(/*)")) as home:
        assert "the operator denies" in (await home.output(LIST)).text


async def test_a_failure_in_the_words_of_others_says_whose_they_are(house: OpenHouse) -> None:
    async with house(FIND, FETCH, LIST, tools_allow=("web_fetch",)) as home:
        assert (await home.output(FIND, 0, fail=True)).source == "mcp shop"
        assert (await home.output(FETCH, 1, url="https://shop.example/", fail=True)).source == "web"
        assert (await home.output(LIST, 2, fail=True)).source == ""
        sources = [call.source for call in await home.system.ask(ListCalls(turn_id="t-1"))]
    assert sources == ["mcp shop", "web", ""]


async def test_progress_tells_no_secrets(house: OpenHouse, live: LiveSettings) -> None:
    async with house(FIND) as home:
        live.secrets |= {SECRET}
        heard = await home.use(FIND)
    assert [event.text for event in heard if isinstance(event, ToolProgress)] == ["saw [secret]"]


async def test_what_came_of_a_call_is_known_also_while_its_tool_is_away(house: OpenHouse) -> None:
    async with house(FIND) as home:
        await home.output(FIND)
    async with house(boot="boot-2") as home:
        assert await home.output(FIND) == ToolOutput("a lamp", source="mcp shop")
        assert await home.output(FIND, 1) == ToolOutput("there is no tool 'mcp__shop__find'", is_error=True)


@pytest.mark.parametrize("is_back", [True, False])
async def test_an_approval_outlives_that_its_tool_is_away(house: OpenHouse, is_back: bool) -> None:
    done: list[str] = []
    async with house(BUY) as home:
        request = await home.held(BUY)
    async with house(boot="boot-2", done=done) as home:
        assert await home.held(BUY) == request
        await home.system.ask(DecideApproval(request_id=request, approved=True), principal=ANN)
        if is_back:
            home.catalogue.replace_outside([BUY])
        output = await home.output(BUY)
        (call,) = await home.system.ask(ListCalls(turn_id="t-1"))
    assert (output.text, call.state) == (("a lamp", "done") if is_back else (output.text, "failed"))
    assert ("is not there now" in output.text) is not is_back
    assert done == (["mcp__shop__buy"] if is_back else [])


async def test_two_who_wait_for_one_approval_end_nothing_and_make_one_call(house: OpenHouse) -> None:
    done: list[str] = []
    ends: list[ToolOutput | str] = []
    async with house(BUY, done=done) as home:
        request = await home.held(BUY)

        async def wait() -> None:
            try:
                ends.append(await home.through_approval(BUY))
            except Conflict:
                ends.append("conflict")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await home.held(BUY)
            await home.system.ask(DecideApproval(request_id=request, approved=True), principal=ANN)
        assert home.gates == 1
    assert done == ["mcp__shop__buy"]
    assert ToolOutput("a lamp", source="mcp shop") in ends
    assert len(ends) == 2


async def test_who_goes_away_takes_the_word_from_nobody_else(house: OpenHouse) -> None:
    async with house(BUY) as home:
        outputs: list[ToolOutput] = []

        async def wait() -> None:
            outputs.append(await home.through_approval(BUY))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            request = await home.held(BUY)  # and goes away
            await home.system.ask(DecideApproval(request_id=request, approved=True), principal=ANN)
    assert [output.text for output in outputs] == ["a lamp"]


async def test_calls_that_wait_leave_room_for_those_who_decide(
    house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "WAITING_LIMIT", 2)
    monkeypatch.setattr(Gate, "concurrency", 4)
    async with house(BUY) as home:
        is_made = trio.Event()

        async def wait(number: int) -> None:
            await home.through_approval(BUY, number)
            is_made.set()

        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(wait, number)
            request = await home.held(BUY, 1)  # the second one's
            await home.held(BUY, 0)
            with pytest.raises(TooManyRequests, match="2 calls wait"):
                await home.use(BUY, 2)
            await home.system.ask(DecideApproval(request_id=request, approved=True), principal=ANN, timeout_s=5)
            with trio.fail_after(5):
                await is_made.wait()
            nursery.cancel_scope.cancel()


async def test_a_decision_whose_answer_was_lost_is_heard_at_once(
    house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(BUY) as home:
        outputs: list[ToolOutput] = []

        async def wait() -> None:
            outputs.append(await home.through_approval(BUY))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            request = await home.held(BUY)
            ask = Gate.ask

            def lose(gate: Gate, message: Message[object]) -> Awaitable[object]:
                asked = ask(gate, message)
                return _lost(asked) if isinstance(message, DecideCall) else asked

            monkeypatch.setattr(Gate, "ask", lose)
            with pytest.raises(Unavailable):
                await home.system.ask(DecideApproval(request_id=request, approved=True), principal=ANN)
    assert [output.text for output in outputs] == ["a lamp"]


async def _lost(asked: Awaitable[object]) -> object:
    await asked
    raise Unavailable("broke just after it was kept")


async def test_what_came_of_a_call_is_kept_although_the_store_fails_once(
    house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_call = registry.commands[EndCall]
    failures = ["broke in my hands"]

    def fail_once(connection: Connection, message: EndCall) -> object:
        if failures:
            raise RuntimeError(failures.pop())
        return end_call(connection, message)

    monkeypatch.setitem(registry.commands, EndCall, fail_once)
    done: list[str] = []
    async with house(FIND, done=done) as home:
        output = await home.output(FIND)
        (call,) = await home.system.ask(ListCalls(turn_id="t-1"))
    assert (output.text, call.state, call.output) == ("a lamp", "done", "a lamp")
    assert done == ["mcp__shop__find"]
