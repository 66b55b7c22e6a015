"""Actors on OS threads, on the real clock: no exception and no hanging thread may be felt elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType

import msgspec
import pykka
import pytest
import trio
from pocketpaw.runtime import Actor, ActorSystem, Child, Done, Message, Report, StreamMessage, Supervisor, ThreadActor
from pocketpaw.runtime.errors import ActorDied, AskTimeout, InvalidInput, NeedsOperator, NoSuchActor, NotFound

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]


class Text(msgspec.Struct, frozen=True):
    text: str


class Say(Message[Text], to="store"):
    text: str = ""


class Act(Message[Text], to="store"):
    what: str


class Unknown(Message[Done], to="store"):
    pass


class Items(StreamMessage[Text], to="store"):
    pass


class World:
    """What a test and the threads share; waiting has a limit, so that a broken test ends."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.fail_start: BaseException | None = None
        self.fail_stop: BaseException | None = None
        self.hang_in_start = False

    def hold(self) -> None:
        self.entered.release()
        assert self.gate.wait(30)

    async def until_held(self) -> None:
        assert await trio.to_thread.run_sync(self.entered.acquire, True, 30.0)


class Store(ThreadActor):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def on_start(self) -> None:
        self.world.log.append("start")
        if self.world.hang_in_start:
            self.world.hold()
        if self.world.fail_start is not None:
            raise self.world.fail_start

    def on_stop(self) -> None:
        self.world.log.append("stop")
        if self.world.fail_stop is not None:
            raise self.world.fail_stop

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.world.log.append(f"failure {exception_type.__name__ if exception_type is not None else None}")

    def say(self, message: Say) -> Text:
        return Text(f"{message.text} on {threading.current_thread().name.partition('-')[0]}")

    def act(self, message: Act) -> Text:
        match message.what:
            case "hold":
                self.world.hold()
            case "refuse":
                raise NotFound("no such row", row=1)
            case "crash":
                raise RuntimeError("as asked")
            case "exit":
                raise SystemExit(3)
            case what:
                self.world.log.append(what)
        return Text(message.what)


class Pool(Store):
    threads = 3


class Batches(Store):
    batch = 10

    def handle_batch(self, messages: Sequence[Message[object]]) -> Sequence[object]:
        self.world.log.append(f"batch of {len(messages)}")
        if any(isinstance(message, Act) and message.what == "lose one" for message in messages):
            return []
        return super().handle_batch(messages)


def root(world: World, cls: type[Store] = Store, **options: object) -> Supervisor:
    return Supervisor("root", [Child(cls, world, id="store", max_restarts=100, **options)])  # pyright: ignore[reportArgumentType]


async def test_a_thread_actor_answers_from_its_own_thread(running: Running) -> None:
    world = World()
    async with running(root(world)) as system:
        assert await system.ask(Say(text="hello")) == Text("hello on Store")
        await system.tell(Act(what="told"))
        await system.ask(Say())
    assert world.log == ["start", "told", "stop"]


async def test_an_expected_failure_answers_and_the_thread_lives_on(running: Running) -> None:
    async with running(root(World())) as system:
        with pytest.raises(NotFound, match="no such row"):
            await system.ask(Act(what="refuse"))
        with pytest.raises(NoSuchActor, match="store takes no Unknown"):
            await system.ask(Unknown())
        with pytest.raises(InvalidInput):
            await system.ask(Say(text=3))  # pyright: ignore[reportArgumentType]
        assert system.node("store").number == 1


@pytest.mark.parametrize(("what", "name"), [("crash", "RuntimeError"), ("exit", "SystemExit")])
async def test_no_exception_of_a_thread_is_felt_by_another_actor(running: Running, what: str, name: str) -> None:
    world, other = World(), World()
    tree = Supervisor("root", [Child(Store, other, id="other"), Child(Store, world, id="store")])
    async with running(tree) as system:
        with pytest.raises(ActorDied, match=f"store crashed .*{name}"):
            await system.ask(Act(what=what))
        assert await system.ask(Say(text="again")) == Text("again on Store")
        assert await system.ask(Say(text="other"), to="other") == Text("other on Store")
        assert system.node("store").number == 2
        assert system.node("other").number == 1
        assert world.log == ["start", f"failure {name}", "start"]


async def test_what_is_queued_is_handled_by_the_next_incarnation(running: Running) -> None:
    world = World()
    async with running(root(world)) as system:
        await system.tell(Act(what="crash"))
        for what in ("one", "two"):
            await system.tell(Act(what=what))
        await system.ask(Say())
        assert world.log == ["start", "failure RuntimeError", "start", "one", "two"]
        assert system.dead_letters.counts == {"died": 1}


async def test_an_ask_whose_asker_has_gone_is_not_handled(running: Running) -> None:
    world = World()
    async with running(root(world)) as system:
        await system.tell(Act(what="hold"))
        await world.until_held()
        with pytest.raises(AskTimeout):
            await system.ask(Act(what="late"), timeout_s=0.02)
        world.gate.set()
        await system.ask(Say())
        assert "late" not in world.log
        assert system.dead_letters.counts == {"expired": 1}


async def test_several_threads_take_from_one_mailbox(running: Running) -> None:
    world = World()
    async with running(root(world, Pool)) as system, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(system.ask, Act(what="hold"))
            await world.until_held()
        assert len(system.cell("store", Say).threads) == 3
        world.gate.set()
    assert sorted(world.log) == ["start"] * 3 + ["stop"] * 3


async def test_a_crash_of_one_of_several_threads_lets_the_others_finish_what_they_have_in_hand(
    running: Running,
) -> None:
    world = World()
    answers: list[Text] = []
    async with running(root(world, Pool)) as system:

        async def hold() -> None:
            answers.append(await system.ask(Act(what="hold")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await world.until_held()
            with pytest.raises(ActorDied):
                await system.ask(Act(what="crash"))
            world.gate.set()
        assert answers == [Text("hold")]
        await system.ask(Say())
        assert system.node("store").number == 2
    assert world.log.count("stop") == 3


async def test_one_of_several_threads_that_cannot_start_fails_the_start_and_leaves_none_behind(
    running: Running,
) -> None:
    world = World()
    starts = 0

    class Third(Pool):
        def on_start(self) -> None:
            nonlocal starts
            starts += 1
            if starts == 3:
                raise RuntimeError("no more threads")

    reports: list[Report] = []
    async with running(root(world, Third, on_limit="park", restart="temporary"), reports.append):
        pass
    assert [r.text for r in reports if r.exit_kind == "crashed"] == ["RuntimeError: no more threads"]


async def test_messages_that_queue_up_are_handled_as_a_batch(running: Running) -> None:
    world = World()
    async with running(root(world, Batches)) as system:
        await system.tell(Act(what="hold"))
        await world.until_held()
        for _ in range(12):
            await system.tell(Say())
        world.gate.set()
        with pytest.raises(NotFound):
            await system.ask(Act(what="refuse"))
        assert world.log[1:] == ["batch of 1", "batch of 10", "batch of 3"]
        assert system.node("store").number == 1


async def test_a_crash_in_a_batch_keeps_the_answers_before_it(running: Running) -> None:
    world = World()
    outcomes: dict[str, str] = {}
    async with running(root(world, Batches)) as system:

        async def ask(what: str) -> None:
            try:
                outcomes[what] = (await system.ask(Act(what=what))).text
            except ActorDied as error:
                outcomes[what] = error.detail

        await system.tell(Act(what="hold"))
        await world.until_held()
        async with trio.open_nursery() as nursery:
            for what in ("before", "crash", "after"):
                nursery.start_soon(ask, what)
                await trio.testing.wait_all_tasks_blocked(0.01)
            world.gate.set()
    died = "store crashed (RuntimeError: as asked) before it answered"
    assert outcomes == {"before": "before", "crash": died, "after": died}


async def test_a_batch_with_too_few_results_is_a_crash_not_a_silence(running: Running) -> None:
    async with running(root(World(), Batches)) as system:
        with pytest.raises(ActorDied, match="gave 0 results for 1 messages"):
            await system.ask(Act(what="lose one"))


async def test_a_start_that_fails_has_its_failure_reported_with_its_type(running: Running) -> None:
    world = World()
    world.fail_start = NeedsOperator("the disk is full")
    async with running(root(world, on_limit="park")) as system:
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert system.node("store").state == "parked"
        assert system.node("store").last_error == "the disk is full"
        assert world.log == ["start", "failure NeedsOperator"]


async def test_a_start_that_hangs_is_a_failed_start_and_its_thread_is_abandoned(
    running: Running, eventually: Eventually
) -> None:
    world = World()
    world.hang_in_start = True
    async with running(root(world, start_timeout_s=0.05, on_limit="park", restart="temporary")) as system:
        await world.until_held()
        await eventually(lambda: system.abandoned == 1)
        world.gate.set()
        await eventually(lambda: system.abandoned == 0)
        assert world.log == ["start", "failure None"]


async def test_a_thread_that_hangs_is_abandoned_and_its_late_answer_is_dropped(
    running: Running, eventually: Eventually
) -> None:
    class Hurried(Store):
        handler_timeout_s = 0.1

    world = World()
    async with running(root(world, Hurried)) as system:
        with pytest.raises(ActorDied, match=r"Act took longer than 0.1 s"):
            await system.ask(Act(what="hold"))
        assert await system.ask(Say(text="again")) == Text("again on Hurried")
        assert system.node("store").number == 2
        assert system.abandoned == 1
        assert system.abandoned_threads == {"store": 1}
        world.gate.set()
        await eventually(lambda: system.abandoned == 0)
        assert system.dead_letters.counts == {"stale incarnation": 1}


async def test_a_stop_that_hangs_is_bounded_and_says_what_it_left_behind(
    running: Running, eventually: Eventually
) -> None:
    world = World()

    class Hanging(Store):
        def on_stop(self) -> None:
            self.world.hold()

    async with running(root(world, Hanging, shutdown_s=0.05)) as system:
        began = time.monotonic()
        assert await system.stop() == ["store"]
        assert time.monotonic() - began < 5
        world.gate.set()
        await trio.to_thread.run_sync(_join_threads_of, "Hanging")
        await eventually(lambda: system.abandoned == 0)


def _join_threads_of(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name.startswith(name):
            thread.join(10)


@pytest.mark.parametrize("error", [RuntimeError("in on_stop"), SystemExit(1)])
async def test_what_on_stop_raises_stops_nobody_else_and_is_reported(running: Running, error: BaseException) -> None:
    world = World()
    world.fail_stop = error
    reports: list[Report] = []
    tree = Supervisor("root", [Child(Store, World(), id="other"), Child(Store, world, id="store", shutdown_s=5.0)])
    async with running(tree, reports.append) as system:
        await system.root.terminate_child("store")
        assert await system.ask(Say(), to="other") == Text(" on Store")
        assert [report.path for report in reports if report.exit_kind == "crashed"] == ["store"]


async def test_pykkas_registry_knows_the_threads_that_run(running: Running) -> None:
    async with running(root(World(), Pool)):
        assert len(pykka.ActorRegistry.get_by_class(Pool)) == 3
    assert pykka.ActorRegistry.get_by_class(Pool) == []


def test_a_thread_actor_has_neither_async_handlers_nor_streams() -> None:
    with pytest.raises(TypeError, match="say_async must be a plain function"):

        class WithAsync(ThreadActor):  # pyright: ignore[reportUnusedClass]
            async def say_async(self, message: Say) -> Text:
                return Text("")

    with pytest.raises(TypeError, match="answers no streams: Items"):

        class WithStream(ThreadActor):  # pyright: ignore[reportUnusedClass]
            def items(self, message: Items) -> Iterator[Text]:
                yield Text("")

    with pytest.raises(TypeError, match="say_plainly must be an async function"):

        class WithPlain(Actor):  # pyright: ignore[reportUnusedClass]
            def say_plainly(self, message: Say) -> Text:
                return Text("")
