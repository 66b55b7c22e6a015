"""What a bot says through Discord's REST API, and what comes of it when that goes wrong."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

import msgspec
import pytest
import trio
from pocketpaw.actors.channels import discord_rest
from pocketpaw.actors.channels.chat_platform import DeliveryUnsure, NotDelivered, Place
from pocketpaw.actors.channels.discord import Discord
from pocketpaw.runtime.errors import NeedsOperator, PocketPawError, TooManyRequests, TransientFailure

from ...fakes.discord_server import BOT, TOKEN, Answer, FakeDiscord
from .discord_bot import MakeLive, a_discord

HERE = Place(chat="77")


@asynccontextmanager
async def speaking(discord: FakeDiscord, make_live: MakeLive, **settings: object) -> AsyncGenerator[Discord]:
    platform = Discord(make_live(**{"discord_bot_token": TOKEN, "discord_api_url": discord.api_url, **settings}))
    yield platform
    await platform.aclose()


def said(status: int, code: int = 0, message: str = "no") -> Answer:
    return Answer(status, {"message": message, "code": code})


async def test_what_is_said_arrives_once_however_often_it_is_sent(make_live: MakeLive) -> None:
    async with a_discord() as discord, speaking(discord, make_live) as platform:
        first = await platform.send(HERE, "hello", "inbox/1/0")
        again = await platform.send(HERE, "hello", "inbox/1/0")
        other = await platform.send(HERE, "hello", "inbox/1/1")
    assert first == again != other
    assert [message["content"] for message in discord.messages["77"]] == ["hello", "hello"]
    assert all(len(created.nonce) <= 25 and created.enforce_nonce for created in discord.created)


async def test_what_is_said_pings_nobody_and_shows_no_preview(make_live: MakeLive) -> None:
    async with a_discord() as discord, speaking(discord, make_live) as platform:
        await platform.send(HERE, "@everyone <@42> https://there/?all=secrets", "k")
    [created] = discord.created
    assert created.allowed_mentions == {"parse": [], "replied_user": False}
    assert created.flags == 4
    assert created.message_reference is None


async def test_an_answer_refers_to_what_it_answers_although_that_may_be_gone(make_live: MakeLive) -> None:
    async with a_discord() as discord, speaking(discord, make_live) as platform:
        await platform.send(Place(chat="77", reply_to="5"), "hello", "k")
    [created] = discord.created
    assert created.message_reference == {"message_id": "5", "fail_if_not_exists": False}


async def test_a_thread_is_a_channel_of_its_own(make_live: MakeLive) -> None:
    async with a_discord() as discord, speaking(discord, make_live) as platform:
        await platform.send(Place(chat="77", thread="78"), "hello", "k")
    assert list(discord.messages) == ["78"]


async def test_a_message_can_be_edited(make_live: MakeLive) -> None:
    async with a_discord() as discord, speaking(discord, make_live) as platform:
        ref = await platform.send(HERE, "hel", "k")
        await platform.edit(HERE, ref, "hello")
        await platform.edit(HERE, ref, "hello")
        [message] = discord.messages["77"]
        assert message["content"] == "hello"
        with pytest.raises(NotDelivered, match="Unknown Message"):
            await platform.edit(HERE, "123", "hello")


async def test_typing_is_shown_and_a_failure_of_it_is_nobodys_trouble(make_live: MakeLive) -> None:
    async with a_discord() as discord, speaking(discord, make_live) as platform:
        await platform.typing(HERE)
        assert discord.typing == 1
        discord.answers.append(said(500))
        await platform.typing(HERE)
        await platform.typing(Place(chat="no id"))
    assert discord.typing == 1


async def test_discord_is_told_who_asks_in_its_own_form(make_live: MakeLive) -> None:
    async with a_discord() as discord, speaking(discord, make_live) as platform:
        await platform.send(HERE, "hello", "k")
    headers = discord.headers[-1]
    assert headers["user-agent"].startswith(
        f"DiscordBot (https://github.com/pocketpaw/pocketpaw, {version('pocketpaw')})"
    )
    assert headers["authorization"] == f"Bot {TOKEN}"
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (said(400, 50035, "Invalid Form Body"), NotDelivered),
        (said(400, 50006, "Cannot send an empty message"), NotDelivered),
        (said(403, 50001, "Missing Access"), NotDelivered),
        (said(403, 50007, "Cannot send messages to this user"), NotDelivered),
        (said(403, 50013, "Missing Permissions"), NotDelivered),
        (said(404, 10003, "Unknown Channel"), NotDelivered),
        (Answer(413, "<html>"), NotDelivered),
        (said(401), NeedsOperator),
        (said(403, 40333, "internal network error"), TransientFailure),
        (Answer(403, "<html>"), TransientFailure),
        (said(404, 0, "404: Not Found"), TransientFailure),
        (Answer(302, None, (("location", "https://elsewhere"),)), TransientFailure),
        (said(500), DeliveryUnsure),
        (Answer(502, "<html>"), DeliveryUnsure),
        (Answer(200, ["what?"]), DeliveryUnsure),
        (Answer(200, msgspec.Raw(b'{"id": "\xff"}')), DeliveryUnsure),
        (Answer(404, msgspec.Raw(b'{"message": "\xff"}')), TransientFailure),
        (Answer(200, cuts=True), DeliveryUnsure),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value.status),
)
async def test_each_refusal_says_whether_it_may_go_better_later(
    make_live: MakeLive, answer: Answer, failure: type[PocketPawError]
) -> None:
    async with a_discord() as discord, speaking(discord, make_live) as platform:
        discord.answers.append(answer)
        with pytest.raises(PocketPawError) as caught:
            await platform.send(HERE, "hello", "k")
        assert type(caught.value) is failure
        assert TOKEN not in f"{caught.value!r} {dict(caught.value.data)}"
        assert discord.created == []


@pytest.mark.parametrize("answer", [said(500), Answer(200, cuts=True)])
async def test_an_edit_leaves_no_doubt_as_it_can_be_made_again(make_live: MakeLive, answer: Answer) -> None:
    async with a_discord() as discord, speaking(discord, make_live) as platform:
        ref = await platform.send(HERE, "hel", "k")
        discord.answers.append(answer)
        with pytest.raises(TransientFailure):
            await platform.edit(HERE, ref, "hello")


async def test_what_was_said_without_an_answer_is_not_said_twice(make_live: MakeLive) -> None:
    async with a_discord() as discord, speaking(discord, make_live) as platform:
        discord.answers += [Answer(500, is_done=True), Answer(200, cuts=True, is_done=True)]
        for _ in range(2):
            with pytest.raises(DeliveryUnsure):
                await platform.send(HERE, "hello", "k")
        await platform.send(HERE, "hello", "k")
    assert len(discord.messages["77"]) == 1


async def test_a_server_that_is_not_there_leaves_no_doubt(make_live: MakeLive) -> None:
    async with a_discord() as discord, speaking(discord, make_live, discord_api_url="http://127.0.0.1:1") as platform:
        with pytest.raises(TransientFailure, match="cannot be reached"):
            await platform.send(HERE, "hello", "k")


async def test_silence_is_not_waited_for_for_ever(make_live: MakeLive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discord_rest, "WITHIN_S", 0.1)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    async with listener, a_discord() as discord, speaking(discord, make_live, discord_api_url=address) as platform:
        with pytest.raises(DeliveryUnsure, match="did not answer"):
            await platform.send(HERE, "hello", "k")


async def test_what_is_under_way_when_all_is_closed_is_in_doubt(make_live: MakeLive) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    ended = trio.Event()

    async def send() -> None:
        with pytest.raises(DeliveryUnsure):
            await platform.send(HERE, "hello", "k")
        ended.set()

    async with (
        listener,
        a_discord() as discord,
        speaking(discord, make_live, discord_api_url=address) as platform,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(send)
        peer = await listener.accept()
        async with peer:
            await peer.receive_some(1000)
            await platform.aclose()
            await ended.wait()


@pytest.mark.parametrize("chat", ["", "me", "77/messages", "../users", "7?x=1", "7\n", "\u0667"])
async def test_what_is_no_id_leads_nowhere(make_live: MakeLive, chat: str) -> None:
    async with a_discord() as discord, speaking(discord, make_live) as platform:
        tries: list[Callable[[], Awaitable[object]]] = [
            lambda: platform.send(Place(chat=chat), "hello", "k"),
            lambda: platform.edit(Place(chat=chat), "5", "hello"),
            lambda: platform.edit(HERE, chat, "hello"),
        ]
        for attempt in tries:
            with pytest.raises(NotDelivered):
                await attempt()
    assert discord.requests == []


# Limits


@pytest.mark.parametrize(
    ("answer", "pause_s", "is_global"),
    [
        (Answer(429, {"message": "limited", "retry_after": 64.57, "global": False}), 64.57, False),
        (Answer(429, {"message": "limited", "retry_after": 300, "global": True}), 300.0, True),
        (Answer(429, {"message": "limited", "retry_after": 60}, (("x-ratelimit-global", "true"),)), 60.0, True),
        (Answer(429, "<html>", (("retry-after", "120"),)), 120.0, True),
        (Answer(429, "<html>"), discord_rest.UNSAID_PAUSE_S, True),
        (Answer(429, {"retry_after": "soon"}, (("retry-after", "70"),)), 70.0, True),
    ],
    ids=["bucket", "global", "global by header", "in front of Discord", "without a time", "unreadable"],
)
async def test_too_much_says_how_long_to_wait_and_is_not_asked_again_before(
    make_live: MakeLive, answer: Answer, pause_s: float, *, is_global: bool
) -> None:
    async with a_discord() as discord, speaking(discord, make_live) as platform:
        discord.answers.append(answer)
        with pytest.raises(TooManyRequests) as caught:
            await platform.send(HERE, "hello", "k")
        assert caught.value.data["retry_after_s"] == pytest.approx(pause_s)
        with pytest.raises(TooManyRequests):
            await platform.send(HERE, "hello", "k")
        assert len(discord.requests) == 1
        if is_global:
            with pytest.raises(TooManyRequests):
                await platform.send(Place(chat="78"), "hello", "k")
        else:
            await platform.send(Place(chat="78"), "hello", "k")


async def test_an_empty_bucket_is_never_asked_for_more(make_live: MakeLive) -> None:
    """The server takes every refusal that it has to speak for a violation."""
    async with a_discord() as discord, speaking(discord, make_live) as platform:
        discord.has_buckets = True
        for number in range(12):
            while True:
                try:
                    await platform.send(HERE, f"number {number}", f"k{number}")
                    break
                except TooManyRequests as limit:
                    await trio.sleep(float(str(limit.data["retry_after_s"])))
        await platform.send(Place(chat="78"), "elsewhere", "k")
    assert [message["content"] for message in discord.messages["77"]] == [f"number {number}" for number in range(12)]


# Length


@pytest.mark.parametrize(("text", "length"), [("", 0), ("hello", 5), ("Grüße", 5), ("🐾", 2), ("\ud800", 1)])
def test_length_is_as_the_strictest_client_counts(make_live: MakeLive, text: str, length: int) -> None:
    assert Discord(make_live(discord_bot_token=TOKEN)).length(text) == length


async def test_the_longest_text_is_taken(make_live: MakeLive) -> None:
    async with a_discord() as discord, speaking(discord, make_live) as platform:
        await platform.send(HERE, "x" * platform.text_limit, "k")
        with pytest.raises(NotDelivered, match="content"):
            await platform.send(HERE, "x" * (platform.text_limit + 1), "k2")
    assert discord.messages["77"][0]["author"]["id"] == BOT  # pyright: ignore[reportIndexIssue] - JSON
