"""The agent of a session on the real store; only the language model is scripted."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import msgspec
import pytest
import trio
import trio.testing
from pocketpaw.actors import agent
from pocketpaw.actors.agent import (
    AGENTS_TOPIC,
    Accepted,
    Agent,
    AgentContext,
    Chat,
    ResumeTurns,
    StopTurn,
    session_topic,
)
from pocketpaw.actors.identity import BRIEF, Identity
from pocketpaw.actors.models.protocol import Finished, Generate, GenerationEvent, TextDelta, ThinkingDelta, Usage
from pocketpaw.actors.models.router import Router
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.tools.catalogue import Catalogue
from pocketpaw.runtime import Actor, ActorSystem, Child, DynamicSupervisor, Principal, Supervisor, SupervisorNode
from pocketpaw.runtime.cell import Cell
from pocketpaw.runtime.errors import Conflict, InvalidInput, NoSuchActor, NotFound, TooManyRequests, Unavailable
from pocketpaw.storage.history import GetHistory
from pocketpaw.storage.registry import commands
from pocketpaw.storage.sessions import DeleteSession, ListSessions
from pocketpaw.storage.turns import AddTurn, ClaimTurn, FinishTurn, GetTurn, ListSessionTurns, Turn
from sqlalchemy import Connection

from ..fakes.model_server import Reply, fake_model_server

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
MakeLive = Callable[..., LiveSettings]
Said = list[tuple[str, dict[str, object]]]

BOOT = "boot-1"
ANN = Principal("ann")
USAGE = Usage(input_tokens=7, output_tokens=2, total_tokens=9, model="scripted", backend="fake")
SYSTEM = ("system", BRIEF)


class Model:
    """What the scripted model says to a question, in pieces."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[str, str], ...]] = []
        self.says: Callable[[str], tuple[str, ...]] = lambda question: ("re: ", question)
        self.gate: trio.Semaphore | None = None
        """With a gate, each piece waits for a release."""
        self.fails: Exception | None = None
        """Raised after the first piece."""
        self.crashes = 0
        """So many times it dies before it has said anything."""

    def hold(self) -> trio.Semaphore:
        self.gate = trio.Semaphore(0)
        return self.gate


class FakeRouter(Actor):
    concurrency = 200
    handler_timeout_s = None

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model

    async def generate(self, message: Generate) -> AsyncGenerator[GenerationEvent]:
        model = self._model
        model.asked.append(tuple((said.role, said.content) for said in message.messages))
        if model.crashes:
            model.crashes -= 1
            raise RuntimeError("broke over another session")
        yield ThinkingDelta("hm")
        for piece in model.says(message.messages[-1].content):
            if model.gate is not None:
                await model.gate.acquire()
            yield TextDelta(piece)
            if model.fails is not None:
                raise model.fails
        yield USAGE
        yield Finished("stop")


class House:
    """The running actors, and what tests say to them."""

    def __init__(self, system: ActorSystem, model: Model, live: LiveSettings) -> None:
        self.system = system
        self.model = model
        self.live = live

    async def say(self, content: str, session_id: str = "s-1", key: str | None = None) -> Accepted:
        message = Chat(session_id=session_id, content=content, idempotency_key=key)
        return await self.system.ask(message, principal=ANN)

    async def hear(self, accepted: Accepted) -> Said:
        """All that is said of a turn, through its `stream_end`; nothing may come after that."""
        topic, said = session_topic(accepted.session_id), Said()
        with self.system.bus.subscribe(topic, accepted.after) as events, trio.fail_after(20):
            async for event in events:
                data = event.data()
                if data.pop("turn_id") == accepted.turn_id:
                    said.append((event.name, data))
                    if event.name == "stream_end":
                        break
        return said

    async def chat(self, content: str, session_id: str = "s-1") -> Said:
        return await self.hear(await self.say(content, session_id))

    async def heard(self, accepted: Accepted, name: str) -> None:
        """Wait for the next event of that name."""
        with self.system.bus.subscribe(session_topic(accepted.session_id), accepted.after) as events:
            async for event in events:
                if event.name == name and event.data()["turn_id"] == accepted.turn_id:
                    return

    def ends(self, session_id: str = "s-1") -> list[str]:
        """The turns whose `stream_end` was said, as far as that is still kept."""
        with self.system.bus.subscribe(session_topic(session_id), 0) as past:
            events = list(past._events)  # pyright: ignore[reportPrivateUsage] what is there now, without waiting
        return [event.data()["turn_id"] for event in events if event.name == "stream_end"]

    async def turn(self, accepted: Accepted) -> Turn:
        return await self.system.ask(GetTurn(turn_id=accepted.turn_id))

    async def history(self, session_id: str = "s-1") -> list[tuple[str, str]]:
        said = await self.system.ask(GetHistory(session_id=session_id))
        return [(message.role, message.content) for message in said]

    def cell(self, session_id: str = "s-1") -> Cell:
        node = self.system.node(f"agents/{session_id}")
        assert isinstance(node, Cell)
        return node

    def actor(self, session_id: str = "s-1") -> Agent:
        actor = self.cell(session_id).actor
        assert isinstance(actor, Agent)
        return actor

    def agents(self) -> list[str]:
        supervisor = self.system.node("agents")
        assert isinstance(supervisor, SupervisorNode)
        return [node.name for node in supervisor.which_children()]

    def crash(self, session_id: str = "s-1") -> None:
        self.cell(session_id).kill(RuntimeError("broke in my hands"))

    def change(self, **settings: object) -> None:
        """Settings as an operator would not be allowed to have them: time-outs that a test can wait for."""
        changed = msgspec.structs.replace(self.live.current, **settings)
        self.live.loaded = msgspec.structs.replace(self.live.loaded, settings=changed)


OpenHouse = Callable[..., AbstractAsyncContextManager[House]]


@pytest.fixture
def house(live: LiveSettings, store: Supervisor, running: Running) -> OpenHouse:
    @asynccontextmanager
    async def open_house(passivate_after_s: float | None = None) -> AsyncGenerator[House]:
        model = Model()
        context = AgentContext(live, Identity(live.home.identity), Catalogue(), BOOT)
        factory = partial(Agent, context=context)
        agents = DynamicSupervisor("agents", factory, passivate_after_s=passivate_after_s)
        models = Supervisor("models", [Child(FakeRouter, model, id="router")], max_restarts=100)
        async with running(Supervisor("root", [store, models, agents])) as system:
            yield House(system, model, live)

    return open_house


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "STORE_PAUSES_S", (0.01, 0.02))
    monkeypatch.setattr(agent, "STORE_AWAY_S", 0.02)


class Fault:
    """Stands before a command of the store, on its thread: holds it, or has it fail."""

    def __init__(self, message_type: type, patch: pytest.MonkeyPatch) -> None:
        self.came = 0
        self.fails: Exception | None = None
        self.times = -1
        self.opened = threading.Event()
        self.opened.set()
        self._command = commands[message_type]
        patch.setitem(commands, message_type, self)

    def __call__(self, connection: Connection, message: object) -> object:
        self.came += 1
        self.opened.wait(10)
        if self.fails is not None and self.times != 0:
            self.times -= 1
            raise self.fails
        return self._command(connection, message)


# What is said ---------------------------------------------------------------------------------------------------------


async def test_a_turn_is_told_as_it_comes_and_ends_when_it_is_on_disk(house: OpenHouse) -> None:
    async with house() as home:
        accepted = await home.say("hello")
        said = await home.hear(accepted)
        turn = await home.turn(accepted)
    session = {"session_id": "s-1"}
    usage = {**msgspec.structs.asdict(USAGE), "cost_usd": 0.0}
    del usage["estimated"]
    assert said == [
        ("stream_start", session),
        ("thinking", {**session, "content": "hm"}),
        ("chunk", {**session, "content": "re: ", "type": "text"}),
        ("chunk", {**session, "content": "hello", "type": "text"}),
        ("stream_end", {**session, "state": "done", "usage": usage, "content": "re: hello"}),
    ]
    assert (turn.state, turn.reply, turn.attempts, turn.principal) == ("done", "re: hello", 1, "ann")
    assert turn.usage is not None
    assert turn.usage.total_tokens == 9


async def test_what_a_model_fails_with_is_said_and_kept(house: OpenHouse) -> None:
    async with house() as home:
        home.model.fails = Unavailable("the model is on fire")
        accepted = await home.say("hello")
        said = await home.hear(accepted)
        turn = await home.turn(accepted)
        error = home.actor().activity.error
        home.model.fails = None
        await home.chat("again")
        assert home.actor().activity.error is None
    error_event = {"session_id": "s-1", "detail": "the model is on fire", "code": "unavailable"}
    assert said[-2:] == [
        ("error", error_event),
        ("stream_end", {"session_id": "s-1", "state": "failed", "usage": None, "content": "re: "}),
    ]
    assert (turn.state, turn.error, turn.reply) == ("failed", "the model is on fire", None)
    assert error == "the model is on fire"


async def test_a_turn_that_takes_too_long_is_given_up(house: OpenHouse) -> None:
    async with house() as home:
        home.change(turn_timeout_s=0.05)
        gate = home.model.hold()
        gate.release()
        accepted = await home.say("hello")
        said = await home.hear(accepted)
        turn = await home.turn(accepted)
    assert [name for name, _ in said] == ["stream_start", "thinking", "chunk", "error", "stream_end"]
    assert said[-2][1]["code"] == "timed_out"
    assert (turn.state, turn.error) == ("failed", "the answer took longer than 0.05 s")


async def test_those_who_watch_see_what_agents_are_doing(house: OpenHouse) -> None:
    async with house() as home:
        with home.system.bus.subscribe(AGENTS_TOPIC) as statuses:
            await home.chat("hello")
            while (await statuses.take())[-1].data()["state"] != "idle":
                pass
        assert home.actor().activity.total_tokens == 9


# Context --------------------------------------------------------------------------------------------------------------


async def test_each_turn_is_told_what_was_said_before_it(house: OpenHouse) -> None:
    async with house() as home:
        await home.chat("one")
        await home.chat("two")
        home.model.fails = Unavailable("no")
        await home.chat("three")
        home.model.fails = None
        await home.chat("four")
    one, two = [("user", "one"), ("assistant", "re: one")], [("user", "two"), ("assistant", "re: two")]
    assert [list(asked) for asked in home.model.asked] == [
        [SYSTEM, ("user", "one")],
        [SYSTEM, *one, ("user", "two")],
        [SYSTEM, *one, *two, ("user", "three")],
        [SYSTEM, *one, *two, ("user", "three"), ("user", "four")],
    ]


async def test_another_life_is_told_the_same_as_the_one_before(house: OpenHouse, eventually: Eventually) -> None:
    async with house() as home:
        await home.chat("one")
        home.model.fails = Unavailable("no")
        await home.chat("two")
        home.model.fails = None
        number = home.cell().number
        home.crash()
        await eventually(lambda: home.cell().number > number and home.cell().state == "running")
        await home.chat("three")
    assert home.model.asked[-1] == (
        SYSTEM, ("user", "one"), ("assistant", "re: one"), ("user", "two"), ("user", "three"),
    )  # fmt: skip


async def test_messages_at_once_are_answered_in_order_each_knowing_the_replies_before(house: OpenHouse) -> None:
    async with house() as home:
        gate = home.model.hold()
        accepted = [await home.say(content) for content in ("one", "two", "three")]
        states = [(await home.turn(turn)).state for turn in accepted]
        home.model.gate = None
        gate.release()
        for turn in accepted:
            await home.hear(turn)
        assert home.ends() == [turn.turn_id for turn in accepted]
    assert states == ["running", "pending", "pending"]
    assert [asked[-1][1] for asked in home.model.asked] == ["one", "two", "three"]
    assert home.model.asked[-1][1:] == (
        ("user", "one"), ("assistant", "re: one"), ("user", "two"), ("assistant", "re: two"), ("user", "three"),
    )  # fmt: skip


async def test_a_message_to_an_agent_that_has_just_been_reborn_does_not_double_the_question_in_hand(
    house: OpenHouse,
) -> None:
    async with house() as home:
        gate = home.model.hold()
        first = await home.say("one")
        await home.heard(first, "thinking")
        home.crash()
        second = await home.say("two")
        gate.release()
        gate.release()
        home.model.gate = None
        await home.hear(first)
        await home.hear(second)
    assert home.model.asked[-1][1:] == (("user", "one"), ("assistant", "re: one"), ("user", "two"))


async def test_an_answer_without_words_is_no_part_of_the_context(house: OpenHouse) -> None:
    async with house() as home:
        home.model.says = lambda _: ()
        assert (await home.chat("one"))[-1][1]["state"] == "done"
        await home.chat("two")
        home.crash()
        await home.chat("three")
    assert home.model.asked[-1] == (SYSTEM, ("user", "one"), ("user", "two"), ("user", "three"))


async def test_what_was_said_in_a_deleted_session_is_forgotten(house: OpenHouse) -> None:
    async with house() as home:
        await home.chat("a secret")
        await home.system.ask(DeleteSession(session_id="s-1"))
        await home.chat("hello")
    assert home.model.asked[-1] == (SYSTEM, ("user", "hello"))


async def test_a_session_deleted_in_the_middle_of_a_turn_ends_the_turn(house: OpenHouse) -> None:
    async with house() as home:
        gate = home.model.hold()
        first, second = await home.say("one"), await home.say("two")
        await home.heard(first, "thinking")
        await home.system.ask(DeleteSession(session_id="s-1"))
        third = await home.say("three")
        home.model.gate = None
        gate.release()
        for accepted in (first, second):
            said = await home.hear(accepted)
            assert said[-2][1]["code"] == "not_found"
        await home.hear(third)
    assert home.model.asked[-1] == (SYSTEM, ("user", "three"))


async def test_a_changed_identity_is_used_by_the_next_turn(house: OpenHouse) -> None:
    async with house() as home:
        await home.chat("who are you?")
        home.live.home.identity.mkdir(exist_ok=True)
        (home.live.home.identity / "IDENTITY.md").write_text("You are Rex.")
        await home.chat("and now?")
    first, then = (asked[0][1] for asked in home.model.asked)
    assert first == BRIEF
    assert then.startswith("You are Rex.")


# Crashes --------------------------------------------------------------------------------------------------------------


async def test_a_crash_in_the_middle_of_a_turn_is_made_good_by_the_next_life(house: OpenHouse) -> None:
    async with house() as home:
        gate = home.model.hold()
        gate.release()
        first, second = await home.say("one"), await home.say("two")
        await home.heard(first, "chunk")
        home.crash()
        home.model.gate = None
        said = await home.hear(first)
        await home.hear(second)
        turn = await home.turn(first)
        history = await home.history()
        assert home.ends() == [first.turn_id, second.turn_id]
    assert said[-1][1]["content"] == "re: one"
    assert (turn.state, turn.attempts) == ("done", 2)
    assert sorted(history) == sorted([
        ("user", "one"), ("user", "two"), ("assistant", "re: one"), ("assistant", "re: two"),
    ])  # fmt: skip


async def test_a_turn_that_crashes_its_agent_is_given_up_and_the_next_one_answered(
    house: OpenHouse, eventually: Eventually
) -> None:
    async with house() as home:
        gate = home.model.hold()
        poison, harmless = await home.say("poison"), await home.say("hello")
        for attempt in range(1, 4):
            await eventually(lambda attempt=attempt: len(home.model.asked) == attempt)
            home.crash()
            await eventually(lambda attempt=attempt: home.cell().number > attempt)
        home.model.gate = None
        gate.release()
        said = await home.hear(poison)
        await home.hear(harmless)
        turn = await home.turn(poison)
        assert home.ends() == [poison.turn_id, harmless.turn_id]
    assert (turn.state, turn.attempts) == ("interrupted", 3)
    detail = "the turn was interrupted: gave up after 3 attempts"
    assert said[-2:] == [
        ("error", {"session_id": "s-1", "detail": detail, "code": "unavailable"}),
        ("stream_end", {"session_id": "s-1", "state": "interrupted", "usage": None, "content": ""}),
    ]


async def test_an_agent_that_is_told_twice_to_resume_answers_once(house: OpenHouse) -> None:
    async with house() as home:
        gate = home.model.hold()
        first, second = await home.say("one"), await home.say("two")
        await home.system.ask(ResumeTurns(session_id="s-1"))
        home.model.gate = None
        gate.release()
        await home.hear(second)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert home.ends() == [first.turn_id, second.turn_id]


async def test_a_router_that_crashes_over_another_session_is_asked_again(house: OpenHouse) -> None:
    async with house() as home:
        home.model.crashes = 1
        said = await home.chat("hello")
        home.model.crashes = 2
        twice = await home.chat("hello")
    assert said[-1][1]["state"] == "done"
    assert (twice[-1][1]["state"], twice[-2][1]["code"]) == ("failed", "actor_died")


async def test_an_answer_that_has_begun_is_not_begun_anew(house: OpenHouse) -> None:
    async with house() as home:
        home.model.fails = RuntimeError("broke in the middle")
        said = await home.chat("hello")
    assert len(home.model.asked) == 1
    assert said[-1][1] == {"session_id": "s-1", "state": "failed", "usage": None, "content": "re: "}


async def test_an_agent_that_is_restarted_while_its_reply_is_committed_says_so_once(
    house: OpenHouse, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    fault = Fault(FinishTurn, monkeypatch)
    async with house() as home:
        fault.opened.clear()
        accepted = await home.say("hello")
        await eventually(lambda: fault.came)
        home.crash()
        await trio.testing.wait_all_tasks_blocked(0.02)
        fault.opened.set()
        said = await home.hear(accepted)
        await eventually(lambda: home.cell().number == 2 and home.cell().state == "running")
        await home.chat("again")
        assert home.ends().count(accepted.turn_id) == 1
        assert (await home.turn(accepted)).attempts == 1
    assert said[-1][1]["content"] == "re: hello"


# The store ------------------------------------------------------------------------------------------------------------


async def test_a_message_that_cannot_be_kept_is_refused_and_leaves_nothing(
    house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault(AddTurn, monkeypatch)
    fault.fails = Unavailable("the disk is full")
    async with house() as home:
        with pytest.raises(Unavailable, match="the disk is full"):
            await home.say("hello")
        assert home.ends() == []
        assert home.model.asked == []
        assert (await home.system.ask(ListSessions())).total == 0
        fault.fails = None
        said = await home.chat("hello")
    assert said[-1][1]["state"] == "done"


async def test_a_store_that_restarts_while_a_reply_is_committed_is_not_felt(
    house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault(FinishTurn, monkeypatch)
    fault.fails, fault.times = RuntimeError("a bug"), 1
    async with house() as home:
        accepted = await home.say("hello")
        said = await home.hear(accepted)
        assert (await home.turn(accepted)).reply == "re: hello"
    assert said[-1][1]["state"] == "done"


async def test_a_reply_that_cannot_be_kept_is_said_to_be_so_and_kept_later(
    house: OpenHouse, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    fault = Fault(FinishTurn, monkeypatch)
    fault.fails = Unavailable("the disk is full")
    async with house() as home:
        home.change(agent_idle_s=0.0)
        accepted = await home.say("hello")
        said = await home.hear(accepted)
        assert (await home.turn(accepted)).state == "running"
        await trio.testing.wait_all_tasks_blocked()
        assert not home.actor().is_idle()
        await home.system.ask(ResumeTurns(session_id="s-1"))  # it is nobody's to answer anew
        fault.fails = None
        await eventually(lambda: home.actor().is_idle())
        turn = await home.turn(accepted)
        assert home.ends() == [accepted.turn_id]
    assert len(home.model.asked) == 1
    assert said[-2:] == [
        ("error", {"session_id": "s-1", "detail": "the disk is full", "code": "unavailable"}),
        ("stream_end", {**said[-1][1], "state": "failed", "content": "re: hello"}),
    ]
    assert (turn.state, turn.reply) == ("done", "re: hello")


async def test_a_waiting_turn_waits_for_the_store_to_come_back(
    house: OpenHouse, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    fault = Fault(ClaimTurn, monkeypatch)
    fault.fails = Unavailable("the disk is full")
    async with house() as home:
        gate = home.model.hold()
        await home.say("one")
        second = await home.say("two")
        home.model.gate = None
        gate.release()
        await eventually(lambda: fault.came > 5)
        fault.fails = None
        said = await home.hear(second)
    assert [name for name, _ in said] == ["stream_start", "thinking", "chunk", "chunk", "stream_end"]


# Stop -----------------------------------------------------------------------------------------------------------------


async def test_a_stopped_answer_is_kept_as_far_as_it_came_and_marked(house: OpenHouse) -> None:
    async with house() as home:
        gate = home.model.hold()
        gate.release()
        accepted = await home.say("hello")
        await home.heard(accepted, "chunk")
        stopped = await home.system.ask(StopTurn(session_id="s-1"))
        turn, (_, reply) = await home.turn(accepted), await home.system.ask(GetHistory(session_id="s-1"))
        said = await home.hear(accepted)
        home.model.gate = None
        await home.chat("go on")
    assert (stopped.status, stopped.session_id) == ("ok", "s-1")
    assert (turn.state, turn.reply) == ("stopped", "re: ")
    assert (reply.content, reply.metadata["stopped"]) == ("re: ", True)
    assert said[-1][1] == {"session_id": "s-1", "state": "stopped", "usage": None, "content": "re: "}
    assert home.model.asked[-1][1:] == (("user", "hello"), ("assistant", "re: "), ("user", "go on"))


async def test_there_is_nothing_to_stop_where_nothing_is_being_answered(house: OpenHouse) -> None:
    async with house() as home:
        with pytest.raises(NotFound, match="nothing is being answered in session s-1"):
            await home.system.ask(StopTurn(session_id="s-1"))
        await home.chat("hello")
        with pytest.raises(NotFound):
            await home.system.ask(StopTurn(session_id="s-1"))
        said = await home.chat("again")
    assert said[-1][1]["state"] == "done"


async def test_a_stop_ends_the_answer_in_hand_and_not_the_one_behind_it(house: OpenHouse) -> None:
    async with house() as home:
        home.model.hold()
        first, second = await home.say("one"), await home.say("two")
        await home.heard(first, "thinking")
        home.model.gate = None
        await home.system.ask(StopTurn(session_id="s-1"))
        ends = [(await home.hear(turn))[-1][1]["state"] for turn in (first, second)]
    assert ends == ["stopped", "done"]


async def test_a_stop_that_comes_before_the_answer_has_begun_is_not_lost(
    house: OpenHouse, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    fault = Fault(ClaimTurn, monkeypatch)
    async with house() as home:
        gate = home.model.hold()
        await home.say("one")
        second = await home.say("two")
        fault.opened.clear()
        home.model.gate = None
        gate.release()
        await eventually(lambda: fault.came)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(home.system.ask, StopTurn(session_id="s-1"))
            await trio.testing.wait_all_tasks_blocked(0.01)
            fault.opened.set()
        said = await home.hear(second)
        turn = await home.turn(second)
    assert [name for name, _ in said] == ["stream_start", "stream_end"]
    assert (turn.state, turn.reply) == ("stopped", None)
    assert len(home.model.asked) == 1


async def test_a_stop_that_comes_when_the_answer_is_whole_changes_nothing(
    house: OpenHouse, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    fault = Fault(FinishTurn, monkeypatch)
    fault.opened.clear()
    async with house() as home:
        first = await home.say("one")
        await eventually(lambda: fault.came)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(home.system.ask, StopTurn(session_id="s-1"))
            await trio.testing.wait_all_tasks_blocked(0.01)
            fault.opened.set()
        states = [(await home.hear(first))[-1][1]["state"], (await home.chat("two"))[-1][1]["state"]]
    assert states == ["done", "done"]


# Idempotency ----------------------------------------------------------------------------------------------------------


async def test_a_repeated_key_attaches_to_the_turn_in_hand(house: OpenHouse) -> None:
    async with house() as home:
        await home.chat("before")
        gate = home.model.hold()
        first = await home.say("hello", key="k-1")
        await home.heard(first, "thinking")
        again = await home.say("hello", key="k-1")
        waiting = await home.say("two", key="k-2")
        waiting_again = await home.say("two", key="k-2")
        home.model.gate = None
        gate.release()
        assert await home.hear(again) == await home.hear(first)
        assert (await home.hear(waiting_again))[0][0] == "stream_start"
    assert (again.turn_id, again.after, again.ended) == (first.turn_id, first.after, None)
    assert waiting_again == waiting
    assert len(home.model.asked) == 3


async def test_a_key_repeated_after_the_end_answers_with_what_is_stored(house: OpenHouse) -> None:
    async with house() as home:
        first = await home.say("hello", key="k-1")
        await home.hear(first)
        again = await home.say("hello", key="k-1")
        elsewhere = await home.say("hello", "s-2", key="k-1")
        with pytest.raises(Conflict, match="Idempotency-Key"):
            await home.say("something else", key="k-1")
        assert (await home.system.ask(ListSessions())).total == 1
    assert again.ended is not None
    assert (again.ended.id, again.ended.reply) == (first.turn_id, "re: hello")
    assert elsewhere.ended == again.ended
    assert len(home.model.asked) == 1


async def test_a_key_repeated_without_its_session_is_led_there(house: OpenHouse) -> None:
    async with house() as home:
        gate = home.model.hold()
        first = await home.say("hello", key="k-1")
        elsewhere = await home.say("hello", "s-2", key="k-1")
        home.model.gate = None
        gate.release()
        assert await home.hear(elsewhere) == await home.hear(first)
    assert (elsewhere.session_id, elsewhere.turn_id) == ("s-1", first.turn_id)
    assert len(home.model.asked) == 1


@pytest.mark.parametrize("session_id", ["s-1", "s-2"])
async def test_a_repeated_key_finds_somebody_for_a_turn_that_nobody_has_in_hand(
    house: OpenHouse, session_id: str
) -> None:
    orphan = AddTurn(
        session_id="s-1", turn_id="t-1", content="hello", channel="api", state="running", boot_id=BOOT, principal="ann",
        idempotency_key="k-1",
    )  # fmt: skip
    async with house() as home:
        await home.system.ask(orphan)
        said = await home.hear(await home.say("hello", session_id, key="k-1"))
    assert said[-1][1]["content"] == "re: hello"


# Many -----------------------------------------------------------------------------------------------------------------


async def test_so_many_messages_may_wait_and_no_more(house: OpenHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "WAITING_LIMIT", 2)
    async with house() as home:
        gate = home.model.hold()
        accepted = [await home.say(f"number {number}") for number in range(3)]
        with pytest.raises(TooManyRequests, match="session s-1 has 2 messages waiting already"):
            await home.say("one too many")
        home.model.gate = None
        gate.release()
        for turn in accepted:
            await home.hear(turn)
        assert (await home.chat("now"))[-1][1]["state"] == "done"


async def test_a_chatty_session_does_not_keep_another_from_its_answer(
    make_live: MakeLive, store: Supervisor, running: Running
) -> None:
    live = make_live(max_concurrent_conversations=1, agent_backend="openai_compatible")
    context = AgentContext(live, Identity(live.home.identity), Catalogue(), BOOT)
    agents = DynamicSupervisor("agents", partial(Agent, context=context))
    tree = Supervisor("root", [store, Supervisor("models", [Child(Router, live)]), agents])
    async with running(tree) as system, fake_model_server(default=Reply(delay_s=0.05)) as server:
        home = House(system, Model(), live)
        home.change(openai_compatible_base_url=server.base_url, openai_compatible_model="fake")
        chatty = [await home.say(f"number {number}", "chatty") for number in range(20)]
        await server.wait_for_chats(1)
        asked_before = server.chats
        await home.chat("hello", "quiet")
        assert server.chats <= asked_before + 3  # the one in hand, its own, and the next one
        for accepted in chatty:
            await home.hear(accepted)


async def test_an_agent_sleeps_when_nobody_comes_back_for_its_events(house: OpenHouse, eventually: Eventually) -> None:
    async with house(passivate_after_s=0.02) as home:
        home.change(agent_idle_s=0.3)
        gate = home.model.hold()
        accepted = await home.say("hello")
        await trio.sleep(0.35)  # a long turn: the last message is longer ago than an idle agent lives
        gate.release()
        gate.release()
        home.model.gate = None
        await home.hear(accepted)
        await trio.sleep(0.05)
        assert home.ends() == [accepted.turn_id]
        await eventually(lambda: not home.agents())
        assert home.ends() == []
        await home.chat("again")
        assert home.cell().number == 1
    assert home.model.asked[-1][1:] == (("user", "hello"), ("assistant", "re: hello"), ("user", "again"))


async def test_a_message_that_comes_while_its_agent_goes_to_sleep_is_answered(house: OpenHouse) -> None:
    async with house(passivate_after_s=0.01) as home:
        home.change(agent_idle_s=0.0)
        accepted = list[Accepted]()
        for number in range(40):
            accepted.append(await home.say(f"number {number}"))
            assert (await home.hear(accepted[-1]))[-1][1]["content"] == f"re: number {number}"
            await trio.sleep(0.002 * (number % 5))
        assert await home.system.ask(ListSessionTurns(session_id="s-1")) == []


@pytest.mark.parametrize("session_id", ["a", ".", "..", "a:b_c.d-e", "x" * 128])
async def test_odd_session_ids_are_sessions(house: OpenHouse, session_id: str) -> None:
    async with house() as home:
        assert (await home.chat("hello", session_id))[-1][1]["state"] == "done"
        assert await home.history(session_id) == [("user", "hello"), ("assistant", "re: hello")]


@pytest.mark.parametrize("session_id", ["", "a b", "a/b", "a\n", "é", "x" * 129])
async def test_what_is_no_session_id_is_refused(house: OpenHouse, session_id: str) -> None:
    async with house() as home:
        with pytest.raises((InvalidInput, NoSuchActor)):
            await home.say("hello", session_id)
        assert (await home.system.ask(ListSessions())).total == 0
