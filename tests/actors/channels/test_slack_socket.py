"""Socket Mode in virtual time: the true protocol over streams in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import msgspec
import pytest
import trio
from pocketpaw.actors.channels import slack_socket
from pocketpaw.actors.channels.slack_socket import (
    AT_ONCE,
    DRAIN_S,
    OPEN_WITHIN_S,
    PING_EVERY_S,
    PONG_WITHIN_S,
    SHORTEST_LIFE_S,
    SocketMode,
)
from pocketpaw.runtime.errors import NeedsOperator, PocketPawError, TransientFailure, Unavailable
from structlog.testing import capture_logs
from trio.testing import MockClock, memory_stream_pair

from ...fakes.slack_server import FakeSlack

Take = Callable[[bytes], Awaitable[None]]


class House:
    """A Slack in memory, and what came from it."""

    def __init__(self, slack: FakeSlack, nursery: trio.Nursery) -> None:
        self.slack = slack
        self.nursery = nursery
        self.texts: list[str] = []
        self.proven = 0
        self.opens = 0
        self.opens_in_s = 0.0
        self.failure: PocketPawError | None = None
        self.ended = trio.Event()
        self.serves = True
        """False: connections are taken, and nothing is said on them."""
        self.mute = trio.CancelScope()
        """Of the latest link: cancelled, nobody on the other side reads or writes any more."""

    async def take(self, payload: bytes) -> None:
        self.texts.append(text_of(payload))

    def prove(self) -> None:
        self.proven += 1

    async def open_address(self) -> str:
        self.opens += 1
        await trio.sleep(self.opens_in_s)
        return self.slack.new_address()

    async def connect(self, address: str) -> trio.SocketStream:
        client, server = memory_stream_pair()
        if self.serves:
            self.nursery.start_soon(self._serve, server)
        return cast("trio.SocketStream", client)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        self.mute = trio.CancelScope()
        with self.mute:
            await self.slack.serve_link(stream)
        await trio.sleep_forever()  # the stream stays open, and nobody reads it

    async def run(self, take: Take | None) -> None:
        try:
            await SocketMode(self.open_address, take or self.take, self.prove, self.connect).run()
        except PocketPawError as error:
            self.failure = error
        self.ended.set()

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(3600):
            await self.slack.wait_for(condition)


def text_of(payload: bytes) -> str:
    return msgspec.json.decode(payload)["event"]["text"]


@asynccontextmanager
async def house(take: Take | None = None, *, starts: bool = True) -> AsyncGenerator[House]:
    slack = FakeSlack()
    async with trio.open_nursery() as nursery:
        slack._nursery = nursery  # pyright: ignore[reportPrivateUsage] - as fake_slack does
        made = House(slack, nursery)
        if starts:
            nursery.start_soon(made.run, take)
            await made.until(lambda: slack.links)
        yield made
        nursery.cancel_scope.cancel()


async def test_what_is_said_is_taken_and_acknowledged(autojump_clock: MockClock) -> None:
    async with house() as home:
        home.slack.say("hello")
        await home.until(lambda: home.slack.acknowledged)
        assert (home.texts, home.slack.violations) == (["hello"], [])


async def test_an_event_is_acknowledged_only_once_it_is_kept(autojump_clock: MockClock) -> None:
    kept = trio.Event()

    async def take(_: bytes) -> None:
        await kept.wait()

    async with house(take) as home:
        home.slack.say("hello")
        await trio.sleep(2)
        assert home.slack.acknowledged == []
        kept.set()
        await home.until(lambda: home.slack.acknowledged)
        assert len(home.slack.delivered) == 1


async def test_what_is_kept_too_late_is_not_acknowledged_and_comes_once_more(autojump_clock: MockClock) -> None:
    waits = [4.0, 0.0]

    async def take(_: bytes) -> None:
        await trio.sleep(waits.pop(0))

    async with house(take) as home:
        home.slack.say("hello")
        await home.until(lambda: home.slack.acknowledged)
        await trio.sleep(60)
    attempts = [envelope["retry_attempt"] for envelope in home.slack.delivered]
    assert (attempts, len(home.slack.acknowledged), home.slack.violations) == ([0, 1], 1, [])


async def test_what_cannot_be_kept_comes_once_more(autojump_clock: MockClock) -> None:
    failures: list[PocketPawError] = [Unavailable("the disk is full")]

    async def take(_: bytes) -> None:
        if failures:
            raise failures.pop()

    async with house(take) as home:
        with capture_logs() as logs:
            home.slack.say("hello")
            await home.until(lambda: home.slack.acknowledged)
        assert [envelope["retry_reason"] for envelope in home.slack.delivered] == ["", "timeout"]
        assert [entry["reason"] for entry in logs] == ["the disk is full"]
        assert home.failure is None


async def test_a_credential_that_is_refused_meanwhile_ends_it(autojump_clock: MockClock) -> None:
    async def take(_: bytes) -> None:
        raise NeedsOperator("the token was revoked")

    async with house(take) as home:
        home.slack.say("hello")
        await home.ended.wait()
        assert isinstance(home.failure, NeedsOperator)


async def test_other_envelopes_are_acknowledged_and_left(autojump_clock: MockClock) -> None:
    async with house() as home:
        home.slack.send_envelope("slash_commands", {"command": "/paw"})
        home.slack.send_envelope("interactive", {"type": "block_actions"})
        await home.until(lambda: len(home.slack.acknowledged) == 2)
        assert home.texts == []


async def test_48_hours_of_quiet_are_no_failure_and_are_proven_all_along(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slack_socket, "PING_EVERY_S", 120.0)
    async with house() as home:
        await trio.sleep(48 * 3600)
        assert (home.slack.opened, home.failure) == (1, None)
        assert home.proven == pytest.approx(48 * 3600 / 120, abs=2)


async def test_a_link_that_goes_silent_is_noticed(autojump_clock: MockClock) -> None:
    async with house() as home:
        await trio.sleep(100)
        home.mute.cancel()
        since = trio.current_time()
        await home.ended.wait()
        assert trio.current_time() - since <= PING_EVERY_S + PONG_WITHIN_S + 1.5
        assert isinstance(home.failure, TransientFailure)
        assert home.failure.detail == "Slack has not answered a ping within 10 s"


@pytest.mark.parametrize("reason", ["warning", "refresh_requested"])
async def test_the_next_link_is_open_before_the_old_one_is_left(autojump_clock: MockClock, reason: str) -> None:
    async with house() as home:
        slack = home.slack
        await trio.sleep(3600)
        old = slack.links[0]
        slack.disconnect(reason)
        await home.until(lambda: len(slack.links) == 2)
        for number in range(20):
            slack.say(str(number))  # over both links, as Slack likes
        await home.until(lambda: len(slack.acknowledged) == 20)
        await trio.sleep(DRAIN_S + 5)
        assert sorted(home.texts, key=int) == [str(number) for number in range(20)]
        assert (len(slack.links), slack.opened, slack.most_links) == (1, 2, 2)
        assert old not in slack.links
        assert (home.failure, slack.violations) == (None, [])


async def test_a_link_that_was_asked_to_leave_may_break_before_the_next_one_is_open(autojump_clock: MockClock) -> None:
    async with house() as home:
        slack = home.slack
        await trio.sleep(3600)
        home.opens_in_s = 5
        slack.disconnect("warning")
        slack.disconnect("refresh_requested")
        await trio.sleep(1)
        slack.drop()
        await home.until(lambda: slack.opened == 2 and len(slack.links) == 1)
        slack.say("hello")
        await home.until(lambda: slack.acknowledged)
        assert (home.texts, home.failure) == (["hello"], None)


async def test_links_that_are_replaced_all_the_time_are_no_failure(autojump_clock: MockClock) -> None:
    async with house() as home:
        for _ in range(100):
            await trio.sleep(40)
            home.slack.disconnect("refresh_requested")
        await trio.sleep(60)
        assert (home.slack.opened, len(home.slack.links), home.slack.most_links) == (101, 1, 2)
        assert (home.failure, home.slack.violations) == (None, [])


async def test_a_slack_that_replaces_links_at_once_makes_no_storm(autojump_clock: MockClock) -> None:
    async with house() as home:
        await trio.sleep(SHORTEST_LIFE_S / 2)
        home.slack.disconnect("refresh_requested")
        await home.ended.wait()
        assert home.slack.opened == 1
        assert isinstance(home.failure, TransientFailure)


@pytest.mark.parametrize(
    ("reason", "kind", "words"),
    [
        ("link_disabled", NeedsOperator, "Socket Mode is turned off"),
        ("too_many_websockets", TransientFailure, "too many connections"),
        ("something_new", TransientFailure, "something_new"),
    ],
)
async def test_other_ends_say_why(
    autojump_clock: MockClock, reason: str, kind: type[PocketPawError], words: str
) -> None:
    async with house() as home:
        home.slack.disconnect(reason)
        await home.ended.wait()
        assert type(home.failure) is kind
        assert words in str(home.failure)


async def test_a_dropped_link_is_a_failure_for_the_supervisor_and_nothing_is_lost(autojump_clock: MockClock) -> None:
    async with house() as home:
        home.slack.drop()
        await home.ended.wait()
        assert isinstance(home.failure, TransientFailure)
        assert (home.slack.opened, home.opens) == (1, 1)
        home.slack.say("while nobody listened")
        home.nursery.start_soon(home.run, None)
        await home.until(lambda: home.slack.acknowledged)
        assert home.texts == ["while nobody listened"]


async def test_events_in_hand_when_the_link_breaks_come_on_the_next_one(autojump_clock: MockClock) -> None:
    async def take(payload: bytes) -> None:
        taken.append(text_of(payload))
        await trio.sleep(2)

    taken: list[str] = []
    async with house(take) as home:
        home.slack.say("hello")
        await trio.sleep(1)
        home.slack.drop()
        await home.ended.wait()
        home.nursery.start_soon(home.run, take)
        await home.until(lambda: home.slack.acknowledged)
        assert taken == ["hello", "hello"]
        assert home.slack.delivered[-1]["retry_reason"] == "connection_closed"


async def test_a_slack_that_says_nothing_is_given_up(autojump_clock: MockClock) -> None:
    async with house(starts=False) as home:
        home.slack.skips_hello = True
        home.nursery.start_soon(home.run, None)
        await home.ended.wait()
        assert trio.current_time() == pytest.approx(OPEN_WITHIN_S, abs=2)
        assert isinstance(home.failure, TransientFailure)
        assert (home.proven, home.slack.links) == (0, [])


async def test_a_connection_that_is_taken_and_left_alone_is_given_up(autojump_clock: MockClock) -> None:
    async with house(starts=False) as home:
        home.serves = False
        home.nursery.start_soon(home.run, None)
        await home.ended.wait()
        assert trio.current_time() == pytest.approx(OPEN_WITHIN_S, abs=2)
        assert isinstance(home.failure, TransientFailure)


async def test_another_program_with_the_same_app_is_told_of(autojump_clock: MockClock) -> None:
    async with house(starts=False) as home:
        home.slack.others_connected = 1
        with capture_logs() as logs:
            home.nursery.start_soon(home.run, None)
            await home.until(lambda: home.slack.links)
            await trio.sleep(1)
        assert [(entry["connections"], entry["own"]) for entry in logs] == [(2, 1)]


async def test_a_flood_is_bounded_and_nothing_of_it_is_lost(autojump_clock: MockClock) -> None:
    at_once = most = 0

    async def take(_: bytes) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await trio.sleep(1)
        at_once -= 1

    async with house(take) as home:
        for number in range(3 * AT_ONCE):
            home.slack.say(str(number))
        with capture_logs():
            await home.until(lambda: len(home.slack.acknowledged) == 3 * AT_ONCE)
        assert most == AT_ONCE
        assert (home.failure, home.slack.violations) == (None, [])


async def test_a_stop_closes_the_link(autojump_clock: MockClock) -> None:
    async with house(starts=False) as home:
        with trio.CancelScope() as scope:
            home.nursery.start_soon(_stop_after, scope, home)
            await SocketMode(home.open_address, home.take, home.prove, home.connect).run()
        await home.until(lambda: not home.slack.links)
        assert scope.cancelled_caught


async def _stop_after(scope: trio.CancelScope, home: House) -> None:
    await home.until(lambda: home.slack.links)
    scope.cancel()
