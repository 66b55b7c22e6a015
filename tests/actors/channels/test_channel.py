"""A channel's life and its deliveries, in virtual time (what comes over sockets is in test_telegram_channel.py)."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import trio
from pocketpaw.actors.channels.admission import digest_of
from pocketpaw.actors.channels.channel import FRESH_S, SILENCE_LIMIT_S
from pocketpaw.actors.channels.chat_platform import DeliveryUnsure, NotDelivered
from pocketpaw.actors.channels.wording import BROKEN, REPEAT_MARK
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import watchdog
from pocketpaw.runtime.errors import NeedsOperator, TooManyRequests, TransientFailure
from pocketpaw.storage.pairings import KeepPairingCode
from trio.testing import MockClock

from ..conftest import MakeLive
from .conftest import Model
from .virtual import World, virtual_channel

HOUR = 3600.0

WATCHDOG_BEAT_S = 3600.0
"""In virtual time it would beat half a million times a day."""


@pytest.fixture
def live(make_live: MakeLive, monkeypatch: pytest.MonkeyPatch) -> LiveSettings:
    monkeypatch.setattr(watchdog, "BEAT_S", WATCHDOG_BEAT_S)
    return make_live(allowed_user_id=42, telegram_bot_token="t")


def failing(until: float, error: type[Exception] = TransientFailure) -> Any:
    """A platform that cannot be reached before `until`."""
    return lambda: error("it is away") if trio.current_time() < until else None


# Its life -------------------------------------------------------------------------------------------------------------


async def test_what_was_said_is_answered(live: LiveSettings, autojump_clock: MockClock) -> None:
    world = World()
    async with virtual_channel(live, world) as running:
        world.say("hello")
        await trio.sleep(5)
        assert world.shown == ["echo: hello"]
        assert running.channel.is_connected
        assert running.node.restarts == 0


async def test_after_an_outage_of_six_hours_it_is_back_within_its_pause(
    live: LiveSettings, autojump_clock: MockClock
) -> None:
    until = trio.current_time() + 6 * HOUR
    world = World(fails=failing(until))
    world.say("are you there?")
    async with virtual_channel(live, world) as running:
        await trio.sleep_until(until - 1)
        assert running.node.state in ("backoff", "parked")
        assert world.shown == []
        await trio.sleep_until(until + 75)
        assert running.channel.is_connected
        assert world.shown == ["echo: are you there?"]
    pauses = [after - before for before, after in pairwise(world.attempts)]
    for number, pause_s in enumerate(pauses):
        expected = min(2.0**number, 60.0)
        assert 0.79 * expected <= pause_s <= 1.21 * expected
    assert len(world.attempts) < 6 * 60 * 1.3  # no storm: one in a minute


async def test_two_days_of_quiet_are_no_reason_to_start_anew(live: LiveSettings, autojump_clock: MockClock) -> None:
    world = World()
    async with virtual_channel(live, world) as running:
        await trio.sleep(48 * HOUR)
        assert running.node.restarts == 0
        assert running.channel.is_connected
    assert len(world.attempts) == 1


async def test_a_refused_token_is_tried_once_in_a_probe_and_is_one_thing_to_mend(
    live: LiveSettings, autojump_clock: MockClock
) -> None:
    world = World(fails=lambda: NeedsOperator("the token is refused"))
    async with virtual_channel(live, world) as running:
        await trio.sleep(HOUR)
        assert running.node.state == "parked"
        assert running.node.last_error == "the token is refused"
        assert len(world.attempts) <= 61


async def test_a_success_that_does_not_last_does_not_shorten_the_pauses(
    live: LiveSettings, autojump_clock: MockClock
) -> None:
    """As where another program uses the same bot: what comes first works each time."""
    polls = {"count": 0}

    def conflict() -> Exception | None:
        polls["count"] += 1
        return TransientFailure("another poller") if polls["count"] % 2 == 0 else None

    world = World(fails=conflict)
    async with virtual_channel(live, world) as running:
        await trio.sleep(HOUR)
        assert running.node.state in ("backoff", "parked", "running")
    pauses = [after - before for before, after in pairwise(world.attempts)]
    assert pauses[5] > 50
    assert len(world.attempts) < 60


async def test_a_connection_that_is_silent_counts_as_dead(live: LiveSettings, autojump_clock: MockClock) -> None:
    world = World()
    async with virtual_channel(live, world) as running:
        await trio.sleep(10)
        world.is_deaf = True
        await trio.sleep(FRESH_S + 30)
        assert not running.channel.is_connected
        world.is_deaf = False
        world.say("hello?")
        await trio.sleep(SILENCE_LIMIT_S)
        assert running.node.restarts == 1
        assert running.channel.is_connected
        assert world.shown == ["echo: hello?"]


async def test_a_platform_that_returns_has_failed(live: LiveSettings, autojump_clock: MockClock) -> None:
    world = World(returns=True)
    async with virtual_channel(live, world) as running:
        await trio.sleep(0.5)
        assert running.node.state == "backoff"
        assert "has ended" in str(running.node.last_error)
        world.returns = False
        await trio.sleep(5)
        assert running.channel.is_connected


async def test_it_is_stopped_after_what_it_is_saying_and_before_the_next(
    live: LiveSettings, autojump_clock: MockClock
) -> None:
    world = World(takes_s=2.0)
    world.say("one", chat="1", sender="42")
    world.say("two", chat="2", sender="42")
    async with virtual_channel(live, world):
        while not world.tries:  # noqa: ASYNC110 in virtual time that is free
            await trio.sleep(0.01)
    assert len(world.shown) == len(world.tries) == 1
    async with virtual_channel(live, world, boot="next"):
        await trio.sleep(10)
    assert sorted(world.shown) == ["echo: one", "echo: two"]


async def test_what_was_being_said_when_it_was_killed_is_said_again_and_marked(
    live: LiveSettings, autojump_clock: MockClock
) -> None:
    world = World(takes_s=2.0)
    world.say("one")
    async with virtual_channel(live, world) as running:
        while not world.tries:  # noqa: ASYNC110 in virtual time that is free
            await trio.sleep(0.01)
        await running.node.stop("brutal_kill")
    world.inbox.clear()
    async with virtual_channel(live, world, boot="next"):
        await trio.sleep(10)
    assert world.shown == [f"{REPEAT_MARK}echo: one"]


# Deliveries -----------------------------------------------------------------------------------------------------------


async def test_a_platform_that_had_too_much_is_left_alone_for_as_long_as_it_says(
    live: LiveSettings, autojump_clock: MockClock
) -> None:
    world = World()
    told = iter([TooManyRequests("slow down", retry_after_s=30.0)])
    world.says = lambda _text: next(told, None)
    world.say("one", chat="1")
    world.say("two", chat="2")
    async with virtual_channel(live, world):
        await trio.sleep(60)
    first, second, _ = (at for at, _ in world.tries)
    assert 30 <= second - first < 32  # whatever the chat
    assert sorted(world.shown) == ["echo: one", "echo: two"]


async def test_what_did_not_go_out_is_tried_again_after_growing_pauses_and_is_no_repeat(
    live: LiveSettings, autojump_clock: MockClock
) -> None:
    began = trio.current_time()
    world = World(says=lambda _text: TransientFailure("away") if trio.current_time() < began + 60 else None)
    world.say("hello")
    async with virtual_channel(live, world) as running:
        await trio.sleep(200)
        assert running.node.restarts == 0
    assert world.shown == ["echo: hello"]
    times = [at for at, _ in world.tries]
    pauses = [after - before for before, after in pairwise(times)]
    assert len(world.tries) < 10
    assert pauses == sorted(pauses)


async def test_a_message_that_may_have_arrived_is_marked_when_it_is_said_again(
    live: LiveSettings, autojump_clock: MockClock
) -> None:
    told = iter([DeliveryUnsure("no answer came")])
    world = World(says=lambda _text: next(told, None))
    world.say("hello")
    async with virtual_channel(live, world):
        await trio.sleep(20)
    assert world.shown == [f"{REPEAT_MARK}echo: hello"]


async def test_a_message_that_nobody_takes_is_set_aside_and_the_next_one_goes(
    live: LiveSettings, autojump_clock: MockClock
) -> None:
    world = World(says=lambda text: NotDelivered("blocked") if "one" in text else None)
    world.say("one")
    world.say("two")
    async with virtual_channel(live, world) as running:
        await trio.sleep(30)
        assert running.node.restarts == 0
    assert world.shown == ["echo: two"]
    assert len(world.tries) == 2


async def test_a_message_that_breaks_the_channel_is_set_aside_in_the_end(
    live: LiveSettings, autojump_clock: MockClock
) -> None:
    world = World(says=lambda text: RuntimeError("a bug") if "poison" in text else None)
    world.say("poison")
    async with virtual_channel(live, world) as running:
        await trio.sleep(120)
        world.say("hello")
        await trio.sleep(60)
        assert running.channel.is_connected
    assert world.shown == ["echo: hello"]


async def test_in_a_chat_answers_come_in_the_order_of_the_questions(
    live: LiveSettings, autojump_clock: MockClock
) -> None:
    world = World()
    for number in range(20):
        world.say(str(number))
    async with virtual_channel(live, world):
        await trio.sleep(30)
    assert world.shown == [f"echo: {number}" for number in range(20)]


async def test_a_repeat_of_the_platforms_is_answered_once(live: LiveSettings, autojump_clock: MockClock) -> None:
    world = World()
    for _ in range(3):
        world.say("hello", key="same")
    async with virtual_channel(live, world) as running:
        await trio.sleep(30)
        world.fails = lambda: TransientFailure("cut")
        await trio.sleep(30)
        world.fails = lambda: None  # all of it is heard again
        await trio.sleep(120)
        assert running.channel.is_connected
    assert world.shown == ["echo: hello"]


async def test_a_long_answer_comes_in_parts(live: LiveSettings, autojump_clock: MockClock) -> None:
    world = World()
    world.say("word " * 100)
    async with virtual_channel(live, world):
        await trio.sleep(30)
    assert len(world.shown) > 2
    assert " ".join(world.shown).split() == ["echo:", *["word"] * 100]
    assert all(len(text) <= 200 for text in world.shown)


async def test_a_message_over_which_something_breaks_is_answered_and_the_channel_lives(
    live: LiveSettings, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_inbound: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("pocketpaw.actors.channels.wording.question_for", broken)
    world = World()
    world.say("hello")
    async with virtual_channel(live, world) as running:
        await trio.sleep(10)
        assert running.node.restarts == 0
        assert "ZeroDivisionError" in running.problems[0]
    assert world.shown == [BROKEN]


# As it grows ----------------------------------------------------------------------------------------------------------


async def test_an_answer_is_shown_as_it_grows_and_ends_whole(live: LiveSettings, autojump_clock: MockClock) -> None:
    world = World(edit_every_s=3.0)
    world.say("a b c d e f g h i j k l m n o p q r s t")
    async with virtual_channel(live, world, Model(pieces=20, pause_s=1.0)):
        await trio.sleep(40)
    assert len(world.shown) == 1  # one message, edited
    assert world.shown == ["echo: a b c d e f g h i j k l m n o p q r s t"]
    assert 4 <= len(world.edits) <= 8  # at the platform's pace
    assert all(text.endswith("…") for _, text in world.edits[:-1])
    assert world.is_typing > 2


async def test_a_short_answer_is_not_shown_before_it_is_whole(live: LiveSettings, autojump_clock: MockClock) -> None:
    world = World(edit_every_s=3.0)
    world.say("hello")
    async with virtual_channel(live, world, Model(pieces=3, pause_s=0.5)):
        await trio.sleep(20)
    assert world.shown == ["echo: hello"]
    assert world.edits == []


async def test_an_answer_that_was_growing_when_it_was_killed_is_whole_in_the_end(
    live: LiveSettings, autojump_clock: MockClock
) -> None:
    world = World(edit_every_s=3.0)
    world.say("a b c d e f g h i j")
    async with virtual_channel(live, world, Model(pieces=10, pause_s=1.0)) as running:
        while not world.edits:  # noqa: ASYNC110 in virtual time that is free
            await trio.sleep(0.1)
        await running.node.stop("brutal_kill")
        await trio.sleep(20)  # the agent goes on
    async with virtual_channel(live, world, boot="next"):
        await trio.sleep(20)
    assert world.shown == ["echo: a b c d e f g h i j"]


async def test_where_the_first_words_may_have_arrived_the_answer_is_marked(
    live: LiveSettings, autojump_clock: MockClock
) -> None:
    told = iter([DeliveryUnsure("no answer came")])
    world = World(edit_every_s=2.0, says=lambda _text: next(told, None))
    world.say("a b c d e f g h i j")
    async with virtual_channel(live, world, Model(pieces=10, pause_s=1.0)):
        await trio.sleep(40)
    assert world.shown == [f"{REPEAT_MARK}echo: a b c d e f g h i j"]
    assert world.edits == []


# Who may talk ---------------------------------------------------------------------------------------------------------


async def test_a_stranger_gets_one_polite_line_and_the_agent_hears_nothing(
    live: LiveSettings, autojump_clock: MockClock
) -> None:
    world, model = World(), Model()
    for _ in range(3):
        world.say("let me in", sender="66", chat="66")
    world.say("let me in", sender="66", chat="-9", is_direct=False)
    async with virtual_channel(live, world, model):
        await trio.sleep(30)
    assert len(world.shown) == 1
    assert "only talk with people" in world.shown[0]
    assert model.asked == []


async def test_where_everybody_may_talk_a_guests_words_are_outside_content(
    make_live: MakeLive, autojump_clock: MockClock
) -> None:
    live = make_live(telegram_bot_token="t")
    world, model = World(), Model()
    world.say("hello", sender="66", chat="-9", is_direct=False)
    async with virtual_channel(live, world, model, is_open=True):
        await trio.sleep(20)
    assert model.asked == ["Ann: hello"]
    assert model.askers == [("telegram:66", ["chat"], ("telegram Ann",))]


async def test_what_one_of_a_chat_was_marked_with_is_not_the_next_ones(
    make_live: MakeLive, autojump_clock: MockClock
) -> None:
    """A guest and somebody who is paired, in one chat and so one after the other."""
    live = make_live(telegram_bot_token="t", channel_scopes=["chat", "memory"])
    world, model = World(), Model()
    async with virtual_channel(live, world, model, is_open=True) as running:
        now = running.channel.clock.now()
        code = KeepPairingCode(
            digest=digest_of("ABCDEFGHJK"),
            channel="telegram",
            made_by="me",
            expires_at=now + timedelta(hours=1),
            now=now,
        )
        await running.system.ask(code)
        world.say("ABCDE-FGHJK", sender="42", chat="42")
        await trio.sleep(5)
        world.say("hello", sender="66", chat="-9", is_direct=False)
        world.say("hello too", sender="42", chat="-9", is_direct=False)
        await trio.sleep(20)
    guest, paired = model.askers
    assert guest == ("telegram:66", ["chat"], ("telegram Ann",))
    assert paired == ("telegram:42", ["chat", "memory"], ())


async def test_commands_are_answered_by_the_channel(live: LiveSettings, autojump_clock: MockClock) -> None:
    world, model = World(), Model()
    for text in ("/start", "/help", "/new", "hello"):
        world.say(text)
    async with virtual_channel(live, world, model) as running:
        await trio.sleep(30)
        assert "agents/telegram:42.2" in running.system.nodes
    assert [text.split()[0] for text in world.shown] == ["Hello,", "Write", "A", "echo:"]
    assert model.asked == ["hello"]


async def test_stop_ends_the_answer_that_is_being_written(live: LiveSettings, autojump_clock: MockClock) -> None:
    world = World()
    world.say("tell me all")
    async with virtual_channel(live, world, Model(pieces=10, pause_s=5.0)):
        await trio.sleep(12)
        world.say("/stop")
        await trio.sleep(10)
    assert world.shown[0] == "I stop."
    assert world.shown[1].startswith("echo")
    assert world.shown[1].endswith("(stopped)")
