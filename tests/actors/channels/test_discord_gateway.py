"""One gateway connection over memory, by a virtual clock: greeting, heart, order, endings."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from pocketpaw.actors.channels import discord_gateway
from pocketpaw.actors.channels.discord_gateway import BACKLOG, INTENTS, Event, GatewayConnection, SocketClosed
from pocketpaw.actors.channels.discord_session import Session
from pocketpaw.runtime.errors import NeedsOperator, PocketPawError, TransientFailure, Unavailable
from trio.testing import MockClock, wait_all_tasks_blocked

INTERVAL_S = 40.0
TOKEN = "a-token-that-nobody-may-see"
LONG_S = 10_000_000.0

Payload = dict[str, object]


class Line:
    """A socket whose other end is the test. `acknowledges` answers heartbeats as Discord does."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, Payload]] = []
        self.acknowledges = True
        self.is_stuck = False
        self._put, self._get = trio.open_memory_channel[str | SocketClosed](100_000)

    async def send(self, text: str) -> None:
        if self.is_stuck:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        payload = json.loads(text)
        self.sent.append((trio.current_time(), payload))
        if payload["op"] == 1 and self.acknowledges:
            self.say(11)

    async def receive(self) -> str:
        said = await self._get.receive()
        if isinstance(said, SocketClosed):
            raise said
        return said

    def say(self, op: int, data: object = None, **more: object) -> None:
        self.put(json.dumps({"op": op, "d": data, **more}))

    def put(self, text: str) -> None:
        self._put.send_nowait(text)

    def close(self, code: int, reason: str = "") -> None:
        self._put.send_nowait(SocketClosed(code, reason))

    def hello(self) -> None:
        self.say(10, {"heartbeat_interval": INTERVAL_S * 1000})

    def ready(self) -> None:
        data = {"session_id": "s1", "resume_gateway_url": "wss://there", "user": {"id": "1000"}}
        self.say(0, data, s=1, t="READY")

    def event(self, seq: int) -> None:
        self.say(0, {"number": seq}, s=seq, t="MESSAGE_CREATE")

    def beats(self) -> list[tuple[float, object]]:
        return [(at, payload["d"]) for at, payload in self.sent if payload["op"] == 1]


class Call:
    """A connection under way."""

    def __init__(self, session: Session | None = None) -> None:
        self.line = Line()
        self.session = session or Session()
        self.handled: list[int | None] = []
        self.proofs = 0
        self.again_s: float | None = None
        self.failure: PocketPawError | None = None
        self.over = trio.Event()
        self.handle: Callable[[Event], Awaitable[None]] = self.just_note

    async def just_note(self, event: Event) -> None:
        await trio.lowlevel.checkpoint()
        self.handled.append(event.s)

    def prove(self) -> None:
        self.proofs += 1

    async def run(self) -> None:
        async def handle(event: Event) -> None:
            await self.handle(event)

        try:
            self.again_s = await GatewayConnection(self.line, self.session, TOKEN, handle, self.prove).run()
        except PocketPawError as failure:
            self.failure = failure
        self.over.set()


@asynccontextmanager
async def calling(call: Call) -> AsyncGenerator[Call]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run)
        with trio.fail_after(LONG_S):
            yield call
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def in_session(call: Call | None = None) -> AsyncGenerator[Call]:
    """A connection whose session has begun."""
    async with calling(call or Call()) as call:
        call.line.hello()
        call.line.ready()
        await wait_all_tasks_blocked()
        yield call


@pytest.fixture
def half_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discord_gateway.random, "random", lambda: 0.5)


def a_session(seq: int = 7) -> Session:
    return Session(id="s0", seq=seq, resume_url="wss://there", user_id="1000")


async def test_the_greeting_is_answered_with_who_the_bot_is(autojump_clock: MockClock) -> None:
    async with in_session() as call:
        [(_, identify)] = call.line.sent
    assert identify["op"] == 2
    assert msgspec.convert(identify["d"], dict[str, object]) | {"properties": None} == {
        "token": TOKEN,
        "intents": INTENTS,
        "properties": None,
    }
    assert INTENTS == (1 << 0 | 1 << 9 | 1 << 12 | 1 << 15)
    assert (call.session.id, call.session.seq, call.session.resume_url, call.session.user_id) == (
        "s1",
        1,
        "wss://there",
        "1000",
    )


async def test_a_session_is_resumed_after_the_last_event_that_was_handled(autojump_clock: MockClock) -> None:
    async with calling(Call(a_session(7))) as call:
        call.line.hello()
        call.line.event(8)
        call.line.say(0, {}, s=9, t="RESUMED")
        await wait_all_tasks_blocked()
        assert call.line.sent[0][1] == {"op": 6, "d": {"token": TOKEN, "session_id": "s0", "seq": 7}}
    assert call.handled == [8, 9]
    assert call.session.seq == 9


async def test_the_first_heartbeat_comes_at_random_and_the_others_at_the_interval(
    autojump_clock: MockClock, half_jitter: None
) -> None:
    async with in_session() as call:
        start = trio.current_time()
        call.line.event(5)
        await trio.sleep(3 * INTERVAL_S)
    assert [at - start for at, _ in call.line.beats()] == pytest.approx([20.0, 60.0, 100.0])
    assert {seq for _, seq in call.line.beats()} == {5}
    assert call.proofs == 1 + 3


async def test_two_days_of_quiet_are_no_failure(autojump_clock: MockClock) -> None:
    async with in_session() as call:
        await trio.sleep(48 * 3600)
        assert not call.over.is_set()
    assert len(call.line.beats()) >= 48 * 3600 / INTERVAL_S - 1


async def test_a_heartbeat_that_is_asked_for_is_sent_at_once(autojump_clock: MockClock, half_jitter: None) -> None:
    async with in_session() as call:
        start = trio.current_time()
        call.line.say(1)
        await trio.sleep(1.0)
    assert [(at - start, seq) for at, seq in call.line.beats()] == [(0.0, 1)]


async def test_a_heartbeat_without_an_answer_ends_the_connection_and_the_next_follows_at_once(
    autojump_clock: MockClock, half_jitter: None
) -> None:
    async with in_session() as call:
        start = trio.current_time()
        await trio.sleep(INTERVAL_S)
        call.line.acknowledges = False
        await call.over.wait()
        assert trio.current_time() - start == pytest.approx(2.5 * INTERVAL_S)
    assert call.again_s == 0.0
    assert call.session.id == "s1"


async def test_a_connection_that_never_answers_a_heartbeat_is_a_failure(
    autojump_clock: MockClock, half_jitter: None
) -> None:
    call = Call()
    call.line.acknowledges = False
    async with in_session(call):
        await call.over.wait()
    assert isinstance(call.failure, TransientFailure)
    assert "heartbeat" in call.failure.detail


async def test_a_heartbeat_that_cannot_even_be_sent_ends_the_connection(
    autojump_clock: MockClock, half_jitter: None
) -> None:
    async with in_session() as call:
        await trio.sleep(INTERVAL_S)
        call.line.is_stuck = True
        await call.over.wait()
        assert trio.current_time() <= 2.5 * INTERVAL_S
    assert call.again_s == 0.0


async def test_a_handler_that_takes_its_time_stops_neither_the_heart_nor_the_acknowledgements(
    autojump_clock: MockClock,
) -> None:
    call = Call()

    async def slowly(event: Event) -> None:
        if event.t != "READY":
            await trio.sleep(600)
        call.handled.append(event.s)

    call.handle = slowly
    async with in_session(call):
        call.line.event(2)
        call.line.event(3)
        await trio.sleep(599)
        assert call.handled == [1]
        assert {seq for _, seq in call.line.beats()} == {1}  # what is not handled is not said to have arrived
        await trio.sleep(602)
        assert call.handled == [1, 2, 3]
        assert not call.over.is_set()


async def test_a_full_backlog_is_no_sign_of_death_and_loses_nothing(autojump_clock: MockClock) -> None:
    call = Call()
    stored = trio.Event()

    async def wait_first(event: Event) -> None:
        await stored.wait()
        await call.just_note(event)

    call.handle = wait_first
    async with in_session(call):
        for seq in range(2, BACKLOG + 100):
            call.line.event(seq)
        await trio.sleep(20 * INTERVAL_S)
        assert not call.over.is_set()
        stored.set()
        await trio.sleep(5 * INTERVAL_S)
        assert not call.over.is_set()
    assert call.handled == list(range(1, BACKLOG + 100))


async def test_what_came_before_the_end_is_handled_before_the_end(autojump_clock: MockClock) -> None:
    call = Call()

    async def slowly(event: Event) -> None:
        await trio.sleep(1)
        call.handled.append(event.s)

    call.handle = slowly
    async with in_session(call):
        await trio.sleep(2 * INTERVAL_S)
        for seq in range(2, 7):
            call.line.event(seq)
        call.line.close(1006)
        await call.over.wait()
    assert call.again_s == 0.0
    assert call.handled == [1, 2, 3, 4, 5, 6]
    assert call.session.seq == 6


async def test_an_event_that_could_not_be_handled_is_not_passed_over(autojump_clock: MockClock) -> None:
    call = Call()

    async def fail_at_3(event: Event) -> None:
        if event.s == 3:
            raise Unavailable("the store is down")
        call.handled.append(event.s)

    call.handle = fail_at_3
    async with in_session(call):
        for seq in (2, 3, 4):
            call.line.event(seq)
        await call.over.wait()
    assert isinstance(call.failure, Unavailable)
    assert call.handled == [1, 2]
    assert call.session.seq == 2


async def test_discord_may_ask_to_connect_anew(autojump_clock: MockClock) -> None:
    async with in_session() as call:
        await trio.sleep(2 * INTERVAL_S)
        call.line.say(7)
        await call.over.wait()
    assert call.again_s == 0.0
    assert call.session.id == "s1"


async def test_to_be_asked_to_connect_anew_before_the_heart_has_beaten_is_a_failure(autojump_clock: MockClock) -> None:
    async with in_session() as call:
        call.line.say(7)
        await call.over.wait()
    assert isinstance(call.failure, TransientFailure)
    assert call.session.id == "s1"


async def test_a_session_that_is_gone_is_followed_by_a_new_one_after_a_pause(autojump_clock: MockClock) -> None:
    async with calling(Call(a_session())) as call:
        call.line.hello()
        call.line.say(9, data=False)
        await call.over.wait()
    assert call.again_s is not None
    assert 1.0 <= call.again_s <= 5.0
    assert call.session.id == ""
    assert call.session.seq is None


@pytest.mark.parametrize("is_resumable", [True, False])
async def test_a_new_session_that_is_refused_is_a_failure(autojump_clock: MockClock, *, is_resumable: bool) -> None:
    async with calling(Call()) as call:
        call.line.hello()
        call.line.say(9, data=is_resumable)
        await call.over.wait()
    assert isinstance(call.failure, TransientFailure)


async def test_a_session_that_is_to_be_resumed_once_more_is_kept(autojump_clock: MockClock) -> None:
    async with calling(Call(a_session())) as call:
        call.line.hello()
        call.line.say(9, data=True)
        await call.over.wait()
    assert isinstance(call.failure, TransientFailure)
    assert call.session.id == "s0"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (4004, "discord_bot_token"),
        (4010, "shard"),
        (4011, "sharding"),
        (4012, "version 10"),
        (4013, "invalid intents"),
        (4014, "Message Content Intent"),
    ],
)
async def test_what_only_a_person_can_mend_says_so(autojump_clock: MockClock, code: int, words: str) -> None:
    async with calling(Call()) as call:
        call.line.hello()
        call.line.close(code, "Disallowed")
        await call.over.wait()
    assert isinstance(call.failure, NeedsOperator)
    assert words in call.failure.detail


@pytest.mark.parametrize("code", [1000, 1001, 1006, 4000, 4001, 4002, 4003, 4005, 4007, 4008, 4009])
async def test_a_closed_connection_is_resumed_unless_the_session_is_lost(autojump_clock: MockClock, code: int) -> None:
    async with in_session() as call:
        await trio.sleep(2 * INTERVAL_S)
        call.line.close(code)
        await call.over.wait()
    assert call.again_s == 0.0
    assert bool(call.session.id) == (code not in (4003, 4005, 4007, 4009))


@pytest.mark.parametrize("is_asked", [True, False])
async def test_a_session_that_is_lost_leaves_nothing_behind_although_its_last_events_come_late(
    autojump_clock: MockClock, is_asked: bool
) -> None:
    call = Call()

    async def slowly(event: Event) -> None:
        await trio.sleep(1)
        call.handled.append(event.s)

    call.handle = slowly
    async with in_session(call):
        await trio.sleep(2 * INTERVAL_S)
        call.line.event(2)
        if is_asked:
            call.line.say(9, False)
        else:
            call.line.close(4009)
        await call.over.wait()
    assert call.handled == [1, 2]
    assert (call.session.id, call.session.seq) == ("", None)  # or the next heartbeat says what the next session is not


async def test_a_gateway_that_does_not_greet_is_left(autojump_clock: MockClock) -> None:
    async with calling(Call()) as call:
        await call.over.wait()
        assert trio.current_time() == pytest.approx(discord_gateway.HELLO_S)
    assert isinstance(call.failure, TransientFailure)


async def test_a_session_that_does_not_begin_is_no_proof_and_ends_after_a_while(autojump_clock: MockClock) -> None:
    async with calling(Call()) as call:
        call.line.hello()
        await call.over.wait()
        assert trio.current_time() < discord_gateway.READY_S + 2 * INTERVAL_S
    assert call.proofs == 0
    assert isinstance(call.failure, TransientFailure)
    assert "no session" in call.failure.detail


@pytest.mark.parametrize("garbage", ["", "{", '{"op": "x"}', '{"op": 0, "d": {}, "t": "READY", "s": 1}', "[]"])
async def test_what_cannot_be_read_is_a_failure(autojump_clock: MockClock, garbage: str) -> None:
    async with calling(Call()) as call:
        call.line.hello()
        call.line.put(garbage)
        await call.over.wait()
    assert isinstance(call.failure, TransientFailure)


@pytest.mark.parametrize("interval_ms", ["-1", "0", "null", '"soon"'])
async def test_a_greeting_without_an_interval_is_a_failure(autojump_clock: MockClock, interval_ms: str) -> None:
    async with calling(Call()) as call:
        call.line.put(f'{{"op": 10, "d": {{"heartbeat_interval": {interval_ms}}}}}')
        await call.over.wait()
    assert isinstance(call.failure, TransientFailure)
    assert "cannot be read" in call.failure.detail


@pytest.mark.parametrize("op", [0, 3, 12])
async def test_a_connection_that_begins_otherwise_is_a_failure(autojump_clock: MockClock, op: int) -> None:
    async with calling(Call()) as call:
        call.line.say(op)
        await call.over.wait()
    assert isinstance(call.failure, TransientFailure)


async def test_the_token_is_in_no_error_although_the_other_side_repeats_it(autojump_clock: MockClock) -> None:
    async with calling(Call()) as call:
        call.line.hello()
        call.line.close(4000, f"bad token {TOKEN}")
        await call.over.wait()
    assert call.failure is not None
    assert TOKEN not in call.failure.detail
    assert "bad token" in call.failure.detail
