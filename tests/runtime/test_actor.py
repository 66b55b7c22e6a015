"""Ask, tell, crash, stop: what an actor in the loop promises."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Annotated

import msgspec
import pytest
import trio
from pocketpaw.runtime import (
    SYSTEM,
    Actor,
    ActorSystem,
    Child,
    Done,
    DynamicSupervisor,
    Message,
    Principal,
    Report,
    Supervisor,
    Terminated,
)
from pocketpaw.runtime.errors import (
    ActorDied,
    AskTimeout,
    InvalidInput,
    MailboxFull,
    NeedsOperator,
    NoSuchActor,
    NotFound,
    Unavailable,
)
from trio.testing import wait_all_tasks_blocked

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]

ANNA = Principal("anna", frozenset({"chat"}))


class Text(msgspec.Struct, frozen=True):
    text: str


class Number(msgspec.Struct, frozen=True):
    number: int


class Say(Message[Text], to="talker"):
    text: str = ""


class Count(Message[Number], to="talker"):
    up_to: Annotated[int, msgspec.Meta(ge=1, le=10)]


class Crash(Message[Done], to="talker"):
    how: str = "exception"


class Refuse(Message[Done], to="talker"):
    wrapped: bool = False


class Wait(Message[Text], to="talker"):
    name: str = ""


class WhoAsks(Message[Text], to="talker"):
    pass


class PassOn(Message[Text], to="relay"):
    on_to: str = "talker"


class Unknown(Message[Done], to="talker"):
    pass


class Homeless(Message[Done]):
    pass


class Keep(Message[Done], to="keeper"):
    items: list[int]


class Watch(Message[Done], to="watcher"):
    path: str


class Talker(Actor):
    """Does what its messages say; `gates` hold `Wait`s until the test opens them."""

    def __init__(self, log: list[str] | None = None, gates: dict[str, trio.Event] | None = None) -> None:
        super().__init__()
        self.log = log if log is not None else []
        self.gates = gates if gates is not None else {}

    async def on_start(self) -> None:
        self.log.append(f"start as {self.principal.name}")

    async def on_stop(self) -> None:
        self.log.append(f"stop as {self.principal.name}")

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.log.append(f"failure {exception_type.__name__ if exception_type else None}")

    async def say(self, message: Say) -> Text:
        self.log.append(message.text)
        return Text(message.text)

    async def count(self, message: Count) -> Number:
        return Number(message.up_to)

    async def crash(self, message: Crash) -> Done:
        self.log.append("crash")
        match message.how:
            case "exit":
                raise SystemExit(3)
            case "interrupt":
                raise KeyboardInterrupt
            case _:
                raise RuntimeError("as asked")

    async def refuse(self, message: Refuse) -> Done:
        if message.wrapped:
            async with trio.open_nursery():
                raise NotFound("no such thing", name="thing", when={"a": {1}})
        raise NotFound("no such thing", name="thing", when={"a": {1}})

    async def wait(self, message: Wait) -> Text:
        self.log.append(f"wait {message.name}")
        await self.gates.setdefault(message.name, trio.Event()).wait()
        return Text(message.name)

    async def who_asks(self, message: WhoAsks) -> Text:
        return Text(f"{self.principal.name} {self.trace_id}")


class Keeper(Actor):
    def __init__(self, kept: list[list[int]]) -> None:
        super().__init__()
        self.kept = kept

    async def keep(self, message: Keep) -> Done:
        self.kept.append(message.items)
        return Done()


class Relay(Actor):
    async def pass_on(self, message: PassOn) -> Text:
        return await self.ask(WhoAsks(), to=message.on_to)


class Parallel(Talker):
    concurrency = 2


class Reject(Talker):
    mailbox_capacity = 2
    overflow = "reject"


class DropOldest(Talker):
    mailbox_capacity = 2
    overflow = "drop_oldest"


class Narrow(Talker):
    mailbox_capacity = 2


class Watcher(Actor):
    def __init__(self, words: list[Terminated]) -> None:
        super().__init__()
        self.words = words

    async def watch_it(self, message: Watch) -> Done:
        self.watch(message.path)
        return Done()

    async def crash(self, message: Crash) -> Done:
        raise RuntimeError("as asked")

    async def terminated(self, word: Terminated) -> None:
        self.words.append(word)
        self.words.sort(key=lambda word: word.incarnation)
        assert self.principal is SYSTEM


def talker(cls: type[Talker] = Talker, log: list[str] | None = None, **options: object) -> Child:
    gates = options.pop("gates", None)
    return Child(cls, log, gates, id="talker", max_restarts=100, **options)  # pyright: ignore[reportArgumentType]


def root(*children: Child | Supervisor) -> Supervisor:
    return Supervisor("root", children)


# Ask and tell ---------------------------------------------------------------------------------------------------------


async def test_an_ask_is_answered_by_the_owner_of_its_type(running: Running) -> None:
    async with running(root(talker())) as system:
        assert await system.ask(Say(text="hello")) == Text("hello")


async def test_what_arrives_shares_nothing_with_what_was_sent(running: Running) -> None:
    kept: list[list[int]] = []
    sent = Keep(items=[1])
    async with running(root(Child(Keeper, kept))) as system:
        await system.ask(sent)
        sent.items.append(2)
        assert kept == [[1]]


async def test_a_tell_is_handled_though_nobody_waits_for_it(running: Running) -> None:
    log: list[str] = []
    async with running(root(talker(log=log))) as system:
        await system.tell(Say(text="one"))
        system.try_tell(Say(text="two"))
        await system.ask(Say(text="three"))
        assert log[1:] == ["one", "two", "three"]


async def test_an_expected_failure_answers_and_the_actor_lives_on(running: Running) -> None:
    async with running(root(talker())) as system:
        for wrapped in (False, True):
            with pytest.raises(NotFound, match="no such thing") as caught:
                await system.ask(Refuse(wrapped=wrapped))
            assert caught.value.data == {"name": "thing", "when": {"a": [1]}}
        assert system.node("talker").number == 1


async def test_an_expected_failure_that_nobody_asked_for_is_reported(running: Running) -> None:
    reports: list[Report] = []
    async with running(root(talker()), reports.append) as system:
        await system.tell(Refuse())
        await system.ask(Say())
        assert [report.text for report in reports if report.kind == "failure"] == ["Refuse: no such thing"]


async def test_a_message_that_breaks_its_bounds_is_its_senders_mistake(running: Running) -> None:
    async with running(root(talker())) as system:
        with pytest.raises(InvalidInput, match=r"Count: .*<= 10 - at `\$.up_to`"):
            await system.ask(Count(up_to=11))
        assert system.node("talker").number == 1


@pytest.mark.parametrize("how", ["exception", "exit", "interrupt"])
async def test_a_crash_answers_its_asker_and_restarts_that_actor_only(running: Running, how: str) -> None:
    sibling = Child(Talker, id="sibling")
    async with running(root(sibling, talker())) as system:
        with pytest.raises(ActorDied, match="talker crashed"):
            await system.ask(Crash(how=how))
        assert await system.ask(Say(text="again")) == Text("again")
        assert system.node("talker").number == 2
        assert system.node("sibling").number == 1


async def test_the_message_in_hand_is_never_retried_and_those_queued_are_handled_next(running: Running) -> None:
    log: list[str] = []
    async with running(root(talker(log=log))) as system:
        await system.tell(Crash())
        await system.tell(Say(text="queued"))
        assert await system.ask(Say(text="asked")) == Text("asked")
        assert log == [
            "start as system",
            "crash",
            "failure RuntimeError",
            "start as system",
            "queued",
            "asked",
        ]
        assert system.dead_letters.counts == {"died": 1}


async def test_a_message_without_a_handler_is_refused_and_a_dead_letter(running: Running) -> None:
    async with running(root(talker())) as system:
        with pytest.raises(NoSuchActor, match="talker takes no Unknown"):
            await system.ask(Unknown())
        (letter,) = system.dead_letters.latest
        assert (letter.to, letter.message_type, letter.reason) == ("talker", "Unknown", "unhandled")


async def test_a_message_for_nobody_is_its_senders_error(running: Running) -> None:
    async with running(root(talker())) as system:
        with pytest.raises(NoSuchActor, match="'nobody'"):
            await system.tell(Say(), to="nobody")
        with pytest.raises(NoSuchActor, match="Homeless names no owner"):
            await system.ask(Homeless())


async def test_principal_and_trace_are_inherited_by_what_a_handler_sends(running: Running) -> None:
    async with running(root(talker(), Child(Relay))) as system:
        answer = await system.ask(PassOn(), principal=ANNA, trace_id="t-1")
        assert answer == Text("anna t-1")
        assert await system.ask(WhoAsks()) == Text("system ")


async def test_an_actor_that_a_message_starts_does_not_start_in_its_senders_name(running: Running) -> None:
    log: list[str] = []

    def make(_: str) -> Talker:
        return Talker(log)

    async with running(root(DynamicSupervisor("many", make), Child(Relay))) as system:
        answer = await system.ask(PassOn(on_to="many/x"), principal=ANNA, trace_id="t-2")
        assert answer == Text("anna t-2")
    assert log == ["start as system", "stop as system"]


# Deadlines ------------------------------------------------------------------------------------------------------------


async def test_an_ask_ends_at_its_deadline(running: Running, autojump_clock: trio.testing.MockClock) -> None:
    async with running(root(talker(Parallel))) as system:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for timeout_s in (5.0, 2.0, 5.0, 1.0):
                nursery.start_soon(_expect_timeout, system, timeout_s)
        assert trio.current_time() - began == pytest.approx(5.0)
        assert len(system._deadlines) == 0  # pyright: ignore[reportPrivateUsage]


async def _expect_timeout(system: ActorSystem, timeout_s: float) -> None:
    began = trio.current_time()
    with pytest.raises(AskTimeout, match=f"Wait to talker was not answered within {timeout_s:g} s"):
        await system.ask(Wait(name=f"{timeout_s}"), timeout_s=timeout_s)
    assert trio.current_time() - began == pytest.approx(timeout_s)


async def test_a_deadline_holds_while_the_ask_waits_for_room(
    running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    gates: dict[str, trio.Event] = {"": trio.Event()}
    log: list[str] = []
    async with running(root(talker(Narrow, log, gates=gates))) as system:
        await system.tell(Wait())
        await wait_all_tasks_blocked()
        for name in ("one", "two"):
            await system.tell(Say(text=name))
        with pytest.raises(AskTimeout):
            await system.ask(Say(text="late"), timeout_s=3)
        gates[""].set()
        await system.ask(Say(text="last"))
    assert "late" not in log
    assert system.dead_letters.counts == {}  # it was never queued


async def test_an_ask_whose_asker_has_gone_is_not_handled(
    running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    gates: dict[str, trio.Event] = {"": trio.Event()}
    log: list[str] = []
    async with running(root(talker(log=log, gates=gates))) as system:
        await system.tell(Wait())
        with pytest.raises(AskTimeout):
            await system.ask(Say(text="expired"), timeout_s=1)
        with trio.move_on_after(1):
            await system.ask(Say(text="cancelled"))
        gates[""].set()
        await system.ask(Say(text="last"))
        assert log[1:] == ["wait ", "last"]
        assert system.dead_letters.counts == {"expired": 2}


# Mailboxes ------------------------------------------------------------------------------------------------------------


async def test_senders_wait_for_room_and_keep_their_order(running: Running) -> None:
    gates: dict[str, trio.Event] = {"": trio.Event()}
    log: list[str] = []
    async with running(root(talker(Narrow, log, gates=gates))) as system, trio.open_nursery() as nursery:
        await system.tell(Wait())
        await wait_all_tasks_blocked()
        for name in "abcdef":
            nursery.start_soon(system.tell, Say(text=name))
            await wait_all_tasks_blocked()
        gates[""].set()
        await system.ask(Say(text="g"))
        assert log[2:] == list("abcdefg")


async def test_a_sender_that_leaves_while_it_waits_for_room_has_sent_nothing(running: Running) -> None:
    gates: dict[str, trio.Event] = {"": trio.Event()}
    log: list[str] = []
    async with running(root(talker(Narrow, log, gates=gates))) as system:
        await system.tell(Wait())
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(system.tell, Say(text=name))
                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with pytest.raises(MailboxFull, match="mailbox of talker holds its 2 messages"):
            system.try_tell(Say(text="x"))
        gates[""].set()
        await system.ask(Say(text="d"))
        assert log[2:] == ["a", "b", "d"]


async def test_a_mailbox_that_rejects_says_so_at_once(running: Running) -> None:
    gates: dict[str, trio.Event] = {"": trio.Event()}
    async with running(root(talker(Reject, gates=gates))) as system:
        await system.tell(Wait())
        await wait_all_tasks_blocked()
        await system.tell(Say())
        await system.tell(Say())
        with pytest.raises(MailboxFull):
            await system.ask(Say())
        with pytest.raises(MailboxFull):
            await system.tell(Say())
        gates[""].set()


async def test_a_mailbox_that_drops_the_oldest_counts_them_and_tells_their_askers(running: Running) -> None:
    gates: dict[str, trio.Event] = {"": trio.Event()}
    log: list[str] = []
    async with running(root(talker(DropOldest, log, gates=gates))) as system, trio.open_nursery() as nursery:
        await system.tell(Wait())
        await wait_all_tasks_blocked()
        nursery.start_soon(_expect_dropped, system)
        await wait_all_tasks_blocked()
        for name in "bcd":
            await system.tell(Say(text=name))
        gates[""].set()
        await system.ask(Say(text="e"))
        assert log[2:] == ["d", "e"]
        assert system.dead_letters.counts == {"overflow": 3}


async def _expect_dropped(system: ActorSystem) -> None:
    with pytest.raises(ActorDied, match="had no room"):
        await system.ask(Say(text="a"))


async def test_the_word_to_stop_overtakes_what_is_queued(running: Running) -> None:
    log: list[str] = []
    gates: dict[str, trio.Event] = {"": trio.Event()}
    async with running(root(talker(log=log, gates=gates))) as system, trio.open_nursery() as nursery:
        await system.tell(Wait())
        for _ in range(3):
            await system.tell(Say(text="queued"))
        await wait_all_tasks_blocked()
        nursery.start_soon(system.stop)
        await wait_all_tasks_blocked()
        gates[""].set()
    assert log == ["start as system", "wait ", "stop as system"]
    assert system.dead_letters.counts == {"dead": 3}


async def test_a_sender_that_waits_for_room_is_answered_when_nobody_will_come(running: Running) -> None:
    async with running(root(talker(Narrow, shutdown_s=0.0))) as system, trio.open_nursery() as nursery:
        await system.tell(Wait())
        await wait_all_tasks_blocked()
        for _ in range(2):
            await system.tell(Say())
        nursery.start_soon(system.tell, Say())
        nursery.start_soon(_expect_death, system)
        await wait_all_tasks_blocked()
        await system.stop()
        assert system.dead_letters.counts == {"dead": 4, "died": 1}


async def test_a_stopped_system_refuses_messages_at_once(running: Running) -> None:
    async with running(root(talker())) as system:
        await system.stop()
        with pytest.raises(Unavailable, match="talker was stopped"):
            await system.ask(Say())


async def test_a_parked_actor_refuses_what_waits_and_what_comes(
    running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    class Down(Actor):
        async def on_start(self) -> None:
            raise NeedsOperator("the key is not valid")

    async with running(root(Child(Down, id="talker", wait=False, on_limit="park"))) as system:
        await wait_all_tasks_blocked()
        with pytest.raises(Unavailable, match="the key is not valid"):
            await system.ask(Say())


async def test_one_busy_actor_does_not_starve_the_others(running: Running) -> None:
    async with running(root(talker(), Child(Talker, id="other"))) as system:
        for _ in range(900):
            await system.tell(Say())
        await system.ask(Say(text="other"), to="other")
        assert len(system.cell("talker", Say).mailbox) > 0


# Concurrency, tasks, watches ------------------------------------------------------------------------------------------


async def test_a_concurrent_actor_handles_as_many_at_once_as_it_says(running: Running) -> None:
    gates: dict[str, trio.Event] = {}
    log: list[str] = []
    async with running(root(talker(Parallel, log, gates=gates))) as system, trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(system.ask, Wait(name=name))
            await wait_all_tasks_blocked()
        assert log[1:] == ["wait a", "wait b"]
        gates["b"].set()
        await wait_all_tasks_blocked()
        assert log[1:] == ["wait a", "wait b", "wait c"]
        gates["a"].set()
        gates["c"].set()


async def test_a_crash_of_one_of_several_handlers_answers_all_in_hand_with_its_cause(running: Running) -> None:
    async with running(root(talker(Parallel))) as system, trio.open_nursery() as nursery:
        nursery.start_soon(_expect_crash, system)
        await wait_all_tasks_blocked()
        with pytest.raises(ActorDied):
            await system.ask(Crash())


async def _expect_crash(system: ActorSystem) -> None:
    with pytest.raises(ActorDied, match=r"talker crashed \(RuntimeError: as asked\)"):
        await system.ask(Wait())


async def test_a_concurrent_actor_with_its_hands_full_still_hears_of_a_watched_end(running: Running) -> None:
    words: list[Terminated] = []

    class Busy(Parallel):
        async def terminated(self, word: Terminated) -> None:
            words.append(word)

    gates: dict[str, trio.Event] = {}
    tree = root(talker(Busy, gates=gates), Child(Watcher, [], id="other"))
    async with running(tree) as system, trio.open_nursery() as nursery:
        for name in "ab":
            nursery.start_soon(system.ask, Wait(name=name))
        await wait_all_tasks_blocked()
        system.watch("other", system.cell("talker", Wait))
        with pytest.raises(ActorDied):
            await system.ask(Crash(), to="other")
        await wait_all_tasks_blocked()
        assert [word.path for word in words] == ["other"]
        for gate in gates.values():
            gate.set()


async def test_a_watcher_hears_exactly_once_of_the_incarnation_that_it_watches(running: Running) -> None:
    words: list[Terminated] = []
    async with running(root(Child(Watcher, words), talker())) as system:
        await system.ask(Watch(path="talker"))
        await system.ask(Watch(path="talker"))
        for _ in range(2):
            with pytest.raises(ActorDied):
                await system.ask(Crash())
        await wait_all_tasks_blocked()
        assert [(word.path, word.incarnation, word.reason) for word in words] == [
            ("talker", 1, "RuntimeError: as asked")
        ]


async def test_watching_what_is_not_there_is_answered_at_once(running: Running) -> None:
    words: list[Terminated] = []
    async with running(root(Child(Watcher, words))) as system:
        await system.ask(Watch(path="nowhere"))
        await wait_all_tasks_blocked()
        assert [(word.path, word.reason) for word in words] == [("nowhere", "not running")]


async def test_a_restart_of_the_watcher_ends_its_watch(running: Running) -> None:
    words: list[Terminated] = []
    async with running(root(Child(Watcher, words, id="watcher"), talker())) as system:
        await system.ask(Watch(path="talker"))
        for path in ("watcher", "talker"):
            with pytest.raises(ActorDied):
                await system.ask(Crash(), to=path)
            await wait_all_tasks_blocked()
            assert system.node(path).number == 2
        assert words == []


async def test_a_spawned_task_crashes_its_actor_and_ends_with_it(running: Running) -> None:
    ended: list[int] = []

    class Spawner(Talker):
        has_tasks = True

        async def on_start(self) -> None:
            self.spawn(self._beside, self.incarnation)

        async def _beside(self, incarnation: int) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append(incarnation)

        async def say(self, message: Say) -> Text:
            self.spawn(self._crash)
            await trio.sleep_forever()
            return Text("")

        async def _crash(self) -> None:
            raise RuntimeError("in a task")

    async with running(root(talker(Spawner))) as system:
        with pytest.raises(ActorDied, match=r"talker crashed \(RuntimeError: in a task\)"):
            await system.ask(Say())
        await wait_all_tasks_blocked()
        assert system.node("talker").number == 2
        assert ended == [1]
    assert ended == [1, 2]


async def test_a_handler_past_its_time_is_crashed_by_the_watchdog(
    running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    class Hurried(Talker):
        handler_timeout_s = 10.0

    reports: list[Report] = []
    async with running(root(talker(Hurried)), reports.append) as system:
        began = trio.current_time()
        with pytest.raises(ActorDied, match=r"talker crashed .*Wait took longer than 10 s"):
            await system.ask(Wait())
        assert 10 <= trio.current_time() - began < 11
        assert await system.ask(Say(text="again")) == Text("again")
        assert [r.text for r in reports if r.exit_kind == "crashed"] == ["HandlerTimeout: Wait took longer than 10 s"]


# Fences ---------------------------------------------------------------------------------------------------------------


async def test_what_a_former_incarnation_still_says_is_fenced(
    running: Running, autojump_clock: trio.testing.MockClock
) -> None:
    release = trio.Event()
    fenced: list[type[BaseException] | int] = []
    stops: list[int] = []

    class Deaf(Talker):
        """Ignores its cancellation until it is released, then speaks as if nothing had happened."""

        async def on_stop(self) -> None:
            stops.append(self.incarnation)

        async def wait(self, message: Wait) -> Text:
            with trio.CancelScope(shield=True):
                await release.wait()
                for send in (self.ask, self.tell):
                    try:
                        await send(Say(text="late"))
                    except ActorDied as error:
                        fenced.append(type(error))
                fenced.append(self.publish("topic", "late", {}))
            return Text("late")

    log: list[str] = []
    async with running(root(talker(Deaf, log, shutdown_s=1.0))) as system:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_death, system)
            await wait_all_tasks_blocked()
            await system.root.restart_child("talker")
        assert system.node("talker").number == 2
        assert system.abandoned == 1
        release.set()
        await wait_all_tasks_blocked()
        assert system.abandoned == 0
        assert fenced == [ActorDied, ActorDied, 0]
        assert system.dead_letters.counts == {"stale incarnation": 3}  # two sent, and its answer
        assert "late" not in log
        assert stops == []
        assert await system.ask(Say(text="now")) == Text("now")
    assert stops == [2]


async def _expect_death(system: ActorSystem) -> None:
    with pytest.raises(ActorDied):
        await system.ask(Wait())


async def test_an_idle_actor_keeps_no_message_alive(running: Running) -> None:
    from pocketpaw.runtime.envelope import current_envelope

    tasks: list[trio.lowlevel.Task] = []

    class Looked(Talker):
        async def say(self, message: Say) -> Text:
            tasks.append(trio.lowlevel.current_task())
            return Text("")

    async with running(root(talker(Looked))) as system:
        await system.ask(Say(text="large"), principal=ANNA)
        await wait_all_tasks_blocked()
        assert tasks[0].context.run(current_envelope.get) is None


async def test_an_actor_can_end_itself_normally(running: Running) -> None:
    class Brief(Talker):
        async def say(self, message: Say) -> Text:
            self.stop()
            return Text("good-bye")

    log: list[str] = []
    reports: list[Report] = []
    async with running(root(talker(Brief, log, restart="transient")), reports.append) as system:
        assert await system.ask(Say()) == Text("good-bye")
        await wait_all_tasks_blocked()
        assert log[-1] == "stop as system"
        assert [report.exit_kind for report in reports if report.kind == "exited"] == ["normal"]
        assert str(Brief()) == "Brief at no address yet"


async def test_an_actor_whose_factory_is_a_function_has_its_classs_policies(running: Running) -> None:
    def make() -> Reject:
        return Reject()

    async with running(root(Child(make, id="talker"))) as system:
        await system.ask(Say())
        cell = system.cell("talker", Say)
        assert (cell.mailbox.capacity, cell.mailbox.overflow) == (2, "reject")
