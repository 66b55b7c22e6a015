"""A bot against a Discord on loopback that speaks the true wire: what it hears, and what it does when that breaks."""

from __future__ import annotations

import random
import time
from pathlib import Path

import msgspec
import pytest
import trio
from pocketpaw.actors.channels import discord as discord_module
from pocketpaw.actors.channels import discord_attachments, discord_gateway
from pocketpaw.actors.channels.chat_platform import Heard
from pocketpaw.actors.channels.discord import CATCH_UP_TRIES, Discord
from pocketpaw.actors.channels.discord_session import Session
from pocketpaw.runtime import Backoff
from pocketpaw.runtime.errors import NeedsOperator, TransientFailure, Unavailable
from structlog.testing import capture_logs

from ...fakes.discord_server import ANN, BOT, BOT_ROLE, EPOCH_MS, TOKEN, Answer, FakeDiscord
from .discord_bot import Bot, MakeLive, a_discord, listening

TROUBLE = Answer(500, {"message": "500: Internal Server Error", "code": 0})


@pytest.fixture(autouse=True)
def hardly_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discord_gateway, "INVALID_PAUSE_S", (0.0, 0.01))


async def beaten(discord: FakeDiscord, bot: Bot) -> None:
    """Wait until a heartbeat was acknowledged in the session."""
    await bot.wait(lambda: bot.proofs)
    discord.ask_heartbeat()
    await bot.wait(lambda: bot.proofs >= 2)


# Hearing


async def test_a_direct_message_is_heard(make_live: MakeLive) -> None:
    async with a_discord() as discord, listening(discord, make_live) as bot:
        await discord.wait(lambda: discord.live)
        said = discord.say("hello there")
        await bot.wait(lambda: bot.heard)
    ref = str(said["id"])
    assert bot.heard == [
        Heard(key=ref, chat="77", sender=ANN, sender_name="Ann", text="hello there", is_direct=True, ref=ref)
    ]
    assert bot.proofs >= 1
    assert discord.identifies == 1


async def test_in_a_guild_only_what_is_meant_for_the_bot_is_heard(make_live: MakeLive) -> None:
    async with a_discord() as discord, listening(discord, make_live, discord_allowed_guild_ids=[5]) as bot:
        await discord.wait(lambda: discord.live)
        discord.say("among themselves", guild_id="5")
        discord.say("by mention", guild_id="5", mentions_bot=True)
        discord.say("elsewhere", guild_id="6", mentions_bot=True)
        discord.say("by reply", guild_id="5", replies_to=BOT)
        discord.say(f"<@&{BOT_ROLE}> by role", guild_id="5", mention_roles=[BOT_ROLE])
        discord.say("directly")
        await bot.wait(lambda: len(bot.heard) == 4)
    assert bot.texts == ["by mention", "by reply", "by role", "directly"]


async def test_what_the_bot_says_itself_is_not_heard(make_live: MakeLive) -> None:
    async with a_discord() as discord, listening(discord, make_live) as bot:
        await discord.wait(lambda: discord.live)
        discord.say("my own words", by=BOT)
        discord.say("a person's")
        await bot.wait(lambda: bot.heard)
    assert bot.texts == ["a person's"]


async def test_a_message_that_cannot_be_understood_is_said_and_keeps_nobody_from_being_heard(
    make_live: MakeLive,
) -> None:
    with capture_logs() as logs:
        async with a_discord() as discord, listening(discord, make_live) as bot:
            await discord.wait(lambda: discord.live)
            discord.tell("MESSAGE_CREATE", {"id": "../..", "channel_id": "77"})
            discord.tell("GUILD_CREATE", {"roles": 5})
            discord.tell("NEW_THING", {"x": [1]})
            discord.say("hello")
            await bot.wait(lambda: bot.heard)
    assert bot.texts == ["hello"]
    told = [line["event"] for line in logs if line["log_level"] == "warning"]
    assert told == ["a message of Discord's was not understood", "a guild of Discord's was not understood"]


# Connections that break


async def test_a_cut_connection_is_resumed_at_once_and_nothing_is_lost_or_doubled(make_live: MakeLive) -> None:
    async with a_discord() as discord, listening(discord, make_live) as bot:
        await beaten(discord, bot)
        discord.is_quiet = True
        discord.say("one")
        discord.say("two")
        discord.cut()
        await discord.wait(lambda: discord.resumes)
        discord.say("three")
        discord.release()
        await bot.wait(lambda: len(bot.heard) == 3)
    assert bot.texts == ["one", "two", "three"]
    assert discord.resumes == [("session-1", 2)]  # READY and GUILD_CREATE had been handled
    assert (discord.identifies, bot.failure) == (1, None)


async def test_a_connection_that_is_cut_before_it_proved_itself_is_a_failure(make_live: MakeLive) -> None:
    async with a_discord() as discord:
        discord.heartbeat_s = 1e6  # as the first one comes at random
        async with listening(discord, make_live) as bot:
            await bot.wait(lambda: bot.proofs)
            discord.cut()
            assert isinstance(await bot.has_failed(), TransientFailure)
        assert discord.connections == 1  # it is for the supervisor to say when the next follows
        discord.say("meanwhile")
        async with listening(discord, make_live) as bot:
            await bot.wait(lambda: bot.heard)
    assert bot.texts == ["meanwhile"]
    assert [session for session, _ in discord.resumes] == ["session-1"]
    assert discord.identifies == 1


async def test_a_daemon_that_was_killed_resumes_where_it_was(
    make_live: MakeLive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discord_module, "KEEP_S", 3600.0)  # a chat that is new is written down at once
    async with a_discord() as discord:
        async with listening(discord, make_live) as bot:
            await discord.wait(lambda: discord.live)
            discord.say("before")
            await bot.wait(lambda: bot.heard)
            path = make_live().home.root / "channels/discord/session.json"
            while b"77" not in path.read_bytes():  # noqa: ASYNC110 written by a thread
                await trio.sleep(0.01)
            as_killed = path.read_bytes()
        path.write_bytes(as_killed)  # without what it wrote when it was stopped
        discord.say("while it was down")
        async with listening(discord, make_live) as bot:
            await bot.wait(lambda: "while it was down" in bot.texts)
    assert discord.identifies == 1
    assert len(discord.resumes) == 1


async def test_what_a_killed_daemon_left_half_written_is_removed(make_live: MakeLive) -> None:
    folder = make_live().home.root / "channels/discord"
    (folder / "media").mkdir(parents=True)
    leftovers = [folder / ".session.json.0123.tmp", folder / "media" / ".5-a.png.0123.tmp"]
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    async with a_discord() as discord, listening(discord, make_live):
        await discord.wait(lambda: discord.live)
    assert not any(leftover.exists() for leftover in leftovers)


async def test_withheld_acknowledgements_are_noticed_and_the_session_goes_on(make_live: MakeLive) -> None:
    async with a_discord() as discord:
        discord.heartbeat_s = 1.0
        async with listening(discord, make_live) as bot:
            await beaten(discord, bot)
            discord.acknowledges, discord.heartbeat_s = False, 30.0  # for the connections that follow
            await discord.wait(lambda: discord.resumes)
            discord.acknowledges = True
            discord.say("hello")
            await bot.wait(lambda: bot.heard)
    assert (discord.identifies, bot.failure) == (1, None)


async def test_discord_may_ask_for_another_connection(make_live: MakeLive) -> None:
    async with a_discord() as discord, listening(discord, make_live) as bot:
        await beaten(discord, bot)
        discord.send_op(7)
        await discord.wait(lambda: discord.resumes)
        discord.say("hello")
        await bot.wait(lambda: bot.heard)
    assert (discord.identifies, bot.failure) == (1, None)


@pytest.mark.parametrize("code", [4007, 4009])
async def test_a_lost_session_is_followed_by_a_new_one(make_live: MakeLive, code: int) -> None:
    async with a_discord() as discord, listening(discord, make_live) as bot:
        await beaten(discord, bot)
        discord.close(code)
        await discord.wait(lambda: discord.identifies == 2 and discord.live)
        discord.say("hello")
        await bot.wait(lambda: bot.heard)
    assert (discord.resumes, bot.failure) == ([], None)


async def test_what_cannot_be_stored_is_heard_again_by_the_next_life(make_live: MakeLive) -> None:
    async with a_discord() as discord:
        async with listening(discord, make_live) as bot:
            await discord.wait(lambda: discord.live)
            bot.fails_to_store = True
            discord.say("keep this")
            assert isinstance(await bot.has_failed(), Unavailable)
        async with listening(discord, make_live) as bot:
            await bot.wait(lambda: bot.heard)
    assert bot.texts == ["keep this"]
    assert discord.identifies == 1


async def test_a_platform_that_listens_leaves_the_session_alive_when_it_is_stopped(make_live: MakeLive) -> None:
    async with a_discord() as discord:  # which minds codes that would end it
        async with listening(discord, make_live) as bot:
            await bot.wait(lambda: bot.proofs)
        await discord.wait(lambda: discord.live == 0)


# What was missed


async def test_what_was_said_without_a_session_is_caught_up_with(make_live: MakeLive) -> None:
    heard: set[str] = set()
    async with a_discord() as discord:
        async with listening(discord, make_live, heard) as bot:
            await discord.wait(lambda: discord.live)
            discord.say("known")
            discord.say("known too", chat="78", guild_id="5", mentions_bot=True)
            await bot.wait(lambda: len(bot.heard) == 2)
        discord.expire_sessions()
        for number in range(130):
            discord.say(f"missed {number}")
        discord.say("among themselves", chat="78")
        discord.say("missed in the guild", chat="78", mentions_bot=True)
        discord.say(f"<@&{BOT_ROLE}> missed by role", chat="78", mention_roles=[BOT_ROLE])
        discord.say("a chat that nobody knew", chat="79")
        async with listening(discord, make_live, heard) as bot:
            await discord.wait(lambda: discord.live)
            discord.say("after", chat="80")
            await bot.wait(lambda: "after" in bot.texts)
    in_guild = ["missed in the guild", "missed by role"]
    assert bot.texts == [*(f"missed {number}" for number in range(130)), *in_guild, "after"]
    assert {item.is_direct for item in bot.heard if item.chat == "78"} == {False}
    assert discord.identifies == 2


@pytest.mark.parametrize("trouble", [TROUBLE, Answer(429, {"message": "slow down", "retry_after": 0.05})])
async def test_catching_up_survives_a_failure(
    make_live: MakeLive, monkeypatch: pytest.MonkeyPatch, trouble: Answer
) -> None:
    monkeypatch.setattr(discord_module, "CONNECTOR", Backoff(min_s=0.01, max_s=0.1))
    heard: set[str] = set()
    async with a_discord() as discord:
        async with listening(discord, make_live, heard) as bot:
            await discord.wait(lambda: discord.live)
            discord.say("known")
            await bot.wait(lambda: bot.heard)
        discord.expire_sessions()
        discord.messages["77"].append({"id": discord.new_id(), "what": "is this?"})
        discord.say("missed")
        discord.answers += [trouble] * (CATCH_UP_TRIES - 1)
        async with listening(discord, make_live, heard) as bot:
            await bot.wait(lambda: bot.heard)
            assert bot.failure is None
    assert bot.texts == ["missed"]


@pytest.mark.parametrize("trouble", [TROUBLE, Answer(429, {"message": "slow down", "retry_after": 0.01})])
async def test_catching_up_that_fails_for_good_goes_on_in_the_next_life(
    make_live: MakeLive, monkeypatch: pytest.MonkeyPatch, trouble: Answer
) -> None:
    monkeypatch.setattr(discord_module, "CONNECTOR", Backoff(min_s=0.01, max_s=0.1))
    heard: set[str] = set()
    async with a_discord() as discord:
        async with listening(discord, make_live, heard) as bot:
            await discord.wait(lambda: discord.live)
            discord.say("known")
            await bot.wait(lambda: bot.heard)
        discord.expire_sessions()
        discord.say("missed")
        discord.answers += [trouble] * CATCH_UP_TRIES
        async with listening(discord, make_live, heard) as bot:
            assert isinstance(await bot.has_failed(), TransientFailure)
        discord.say("in the new session")
        async with listening(discord, make_live, heard) as bot:
            await bot.wait(lambda: len(bot.heard) >= 2)
    assert sorted(bot.texts) == ["in the new session", "missed"]
    assert (discord.identifies, len(discord.resumes)) == (2, 2)


async def test_a_chat_that_the_bot_may_no_longer_read_is_let_go(make_live: MakeLive) -> None:
    heard: set[str] = set()
    async with a_discord() as discord:
        async with listening(discord, make_live, heard) as bot:
            await discord.wait(lambda: discord.live)
            discord.say("known")
            await bot.wait(lambda: bot.heard)
        discord.expire_sessions()
        discord.answers.append(Answer(403, {"message": "Missing Access", "code": 50001}))
        async with listening(discord, make_live, heard) as bot:
            await discord.wait(lambda: discord.live)
            discord.say("elsewhere", chat="78")
            await bot.wait(lambda: bot.heard)
        path = make_live().home.root / "channels/discord/session.json"
        assert list(msgspec.json.decode(path.read_bytes(), type=Session).channels) == ["78"]


async def test_what_was_said_long_ago_is_not_answered(make_live: MakeLive) -> None:
    long_ago = (int(time.time() * 1000) - EPOCH_MS - 25 * 3600 * 1000) << 22
    async with a_discord() as discord:
        discord.messages["77"] = [
            {"id": str(long_ago + 1), "channel_id": "77", "author": {"id": ANN}, "content": "yesterday"}
        ]
        path = make_live().home.root / "channels/discord/session.json"
        path.parent.mkdir(parents=True)
        session = Session(user_id=BOT)
        session.note("77", str(long_ago), None, is_heard=True)
        path.write_bytes(msgspec.json.encode(session))
        async with listening(discord, make_live) as bot:
            await discord.wait(lambda: discord.live)
            discord.say("today")
            await bot.wait(lambda: "today" in bot.texts)
    assert bot.texts == ["today"]


async def test_more_than_can_be_caught_up_with_is_said(make_live: MakeLive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discord_module, "CATCH_UP_PAGES", 1)
    heard: set[str] = set()
    async with a_discord() as discord:
        async with listening(discord, make_live, heard) as bot:
            await discord.wait(lambda: discord.live)
            discord.say("known")
            await bot.wait(lambda: bot.heard)
        discord.expire_sessions()
        for number in range(101):
            discord.say(f"missed {number}")
        with capture_logs() as logs:
            async with listening(discord, make_live, heard) as bot:
                await bot.wait(lambda: len(bot.heard) == 99)  # what was known is asked for once more
                await discord.wait(lambda: discord.live)
                discord.say("after")
                await bot.wait(lambda: "after" in bot.texts)
    assert [line["channel_id"] for line in logs if line["log_level"] == "warning"] == ["77"]


# What a person has to mend


def test_a_bot_without_a_token_says_which_setting_is_missing(make_live: MakeLive) -> None:
    with pytest.raises(NeedsOperator, match="discord_bot_token"):
        Discord(make_live())


@pytest.mark.parametrize("address", ["", "ftp://there", "http://"])
def test_an_api_that_is_no_address_says_which_setting_is_wrong(make_live: MakeLive, address: str) -> None:
    live = make_live(discord_bot_token=TOKEN)
    live.loaded = msgspec.structs.replace(
        live.loaded, settings=msgspec.structs.replace(live.current, discord_api_url=address)
    )
    with pytest.raises(NeedsOperator, match="discord_api_url"):
        Discord(live)


async def test_a_refused_token_is_a_matter_for_the_operator_and_is_shown_nowhere(make_live: MakeLive) -> None:
    wrong = "wrong-token-canary-5"
    with capture_logs() as logs:
        async with a_discord() as discord, listening(discord, make_live, discord_bot_token=wrong) as bot:
            failure = await bot.has_failed()
    assert isinstance(failure, NeedsOperator)
    assert "discord_bot_token" in failure.detail
    assert wrong not in f"{failure!r} {dict(failure.data)} {logs} {failure.__cause__!r}"
    assert (discord.connections, discord.identifies) == (0, 0)


async def test_a_switch_that_is_off_in_the_portal_is_named(make_live: MakeLive) -> None:
    async with a_discord() as discord:
        discord.intents &= ~(1 << 15)
        async with listening(discord, make_live) as bot:
            failure = await bot.has_failed()
    assert isinstance(failure, NeedsOperator)
    assert "Message Content Intent" in failure.detail


async def test_a_token_that_is_revoked_in_the_middle_is_not_tried_again(make_live: MakeLive) -> None:
    async with a_discord() as discord, listening(discord, make_live) as bot:
        await beaten(discord, bot)
        discord.token = "another"
        discord.cut()
        assert isinstance(await bot.has_failed(), NeedsOperator)
    assert discord.connections == 2


async def test_the_last_sessions_of_a_day_are_left_alone(make_live: MakeLive) -> None:
    async with a_discord() as discord:
        discord.sessions_left = 5
        async with listening(discord, make_live) as bot:
            failure = await bot.has_failed()
    assert isinstance(failure, TransientFailure)
    assert "60 minutes" in failure.detail
    assert discord.connections == 0


async def test_a_new_session_that_is_refused_is_not_tried_again_at_once(make_live: MakeLive) -> None:
    async with a_discord() as discord:
        discord.refuses_sessions = True
        async with listening(discord, make_live) as bot:
            assert isinstance(await bot.has_failed(), TransientFailure)
    assert (discord.identifies, discord.connections) == (1, 1)


async def test_the_gateway_that_an_operator_names_is_the_only_one(make_live: MakeLive) -> None:
    async with a_discord() as discord, a_discord() as elsewhere:
        address = f"{discord.gateway_url}/resume"
        elsewhere.token = discord.token
        discord.resume_url = elsewhere.gateway_url
        async with listening(elsewhere, make_live, discord_gateway_url=address) as bot:
            await beaten(discord, bot)
            discord.cut()
            await discord.wait(lambda: discord.resumes)
    assert (elsewhere.requests, elsewhere.connections) == (["GET /gateway/bot"], 0)


async def test_a_gateway_that_cannot_be_reached_is_a_failure_that_may_pass(make_live: MakeLive) -> None:
    async with a_discord() as discord:
        address = "ws://127.0.0.1:1"
        async with listening(discord, make_live, discord_gateway_url=address) as bot:
            failure = await bot.has_failed()
    assert isinstance(failure, TransientFailure)
    assert "127.0.0.1" in failure.detail


async def test_a_server_that_is_no_gateway_is_a_failure_that_may_pass(make_live: MakeLive) -> None:
    async with a_discord() as discord:
        address = f"ws://127.0.0.1:{discord.api_port}"  # it answers the upgrade with a 401
        async with listening(discord, make_live, discord_gateway_url=address) as bot:
            failure = await bot.has_failed()
    assert isinstance(failure, TransientFailure)
    assert "401" in failure.detail


# Files


async def test_files_are_fetched_within_the_limit_and_what_is_missing_is_said(make_live: MakeLive) -> None:
    async with a_discord() as discord:
        address = f"http://127.0.0.1:{discord.api_port}/files"
        discord.files = {"/files/a.png": b"\x89PNG", "/files/liar": b"x" * 1_000_001}
        attachments = [
            {"id": "1", "filename": "a b/../c.png", "size": 4, "url": f"{address}/a.png?ex=1"},
            {"id": "2", "filename": "large.bin", "size": 2_000_000, "url": f"{address}/a.png"},
            {"id": "3", "filename": "liar.bin", "size": 1, "url": f"{address}/liar"},
            {"id": "4", "filename": "gone.txt", "size": 1, "url": f"{address}/gone"},
            {"id": "5", "filename": "local.txt", "size": 1, "url": "file:///etc/passwd"},
        ]
        async with listening(discord, make_live, media_max_file_size_mb=1) as bot:
            await discord.wait(lambda: discord.live)
            discord.say("look", attachments=attachments)
            await bot.wait(lambda: bot.heard)
    [heard] = bot.heard
    [path] = map(Path, heard.media)
    assert path.read_bytes() == b"\x89PNG"
    assert path.name == "1-a_b_.._c.png"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert heard.text.splitlines() == [
        "look",
        "[The file large.bin was not fetched: it is larger than 1 MB.]",
        "[The file liar.bin was not fetched: it is larger than 1 MB.]",
        "[The file gone.txt was not fetched: Discord's server answers with the status 404.]",
        "[The file local.txt was not fetched: its address is none that is fetched from.]",
    ]


async def test_the_limit_of_files_is_that_of_the_settings_as_they_are_now(make_live: MakeLive) -> None:
    async with a_discord() as discord, listening(discord, make_live) as bot:
        await discord.wait(lambda: discord.live)
        bot.live.replace(make_live(media_max_file_size_mb=1).loaded)
        url = f"http://127.0.0.1:{discord.api_port}/files/a.png"
        discord.say("look", attachments=[{"id": "1", "filename": "a.png", "size": 2_000_000, "url": url}])
        await bot.wait(lambda: bot.heard)
    assert bot.texts == ["look\n[The file a.png was not fetched: it is larger than 1 MB.]"]


async def test_a_file_that_does_not_arrive_holds_nobody_up_for_long(
    make_live: MakeLive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discord_attachments, "WITHIN_S", 0.1)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener, a_discord() as discord, listening(discord, make_live) as bot:
        await discord.wait(lambda: discord.live)
        url = f"http://127.0.0.1:{port}/never"
        discord.say("look", attachments=[{"id": "1", "filename": "a.png", "size": 4, "url": url}])
        await bot.wait(lambda: bot.heard)
    assert bot.texts == ["look\n[The file a.png was not fetched: it did not arrive within 0.1 s.]"]


# All of it at once


async def make_trouble(discord: FakeDiscord, chance: random.Random) -> None:
    """One of the things that happen between messages."""
    discord.ask_heartbeat()
    await trio.sleep(0.01)
    match chance.randrange(8):
        case 0 | 1:
            discord.cut()
        case 2:
            discord.send_op(7)
        case 3:
            discord.close(chance.choice([4000, 4009]))
        case 4:
            discord.expire_sessions()
            discord.cut()
        case _:
            pass


async def talk(discord: FakeDiscord, said: set[str], chance: random.Random) -> None:
    """Say a thousand things, some of them twice, in disorder, and while nobody listens."""
    while len(said) < 1000:
        batch = [discord.say(f"number {number}", is_missed=True) for number in range(chance.randint(1, 40))]
        said.update(str(message["id"]) for message in batch)
        for message in chance.sample(batch, len(batch)):
            for _ in range(chance.choice([1, 1, 2])):
                discord.tell("MESSAGE_CREATE", message)
        await make_trouble(discord, chance)


async def test_a_thousand_messages_through_every_trouble_are_each_heard(make_live: MakeLive) -> None:
    said: set[str] = set()
    heard: set[str] = set()
    lives = 0

    def is_over() -> bool:
        return len(said) >= 1000 and said == heard

    async with a_discord() as discord, trio.open_nursery() as nursery:
        while not is_over():
            lives += 1
            async with listening(discord, make_live, heard=heard) as bot:
                if lives == 1:
                    await discord.wait(lambda: discord.live)
                    said.add(str(discord.say("the first, so that the chat is known")["id"]))
                    await bot.wait(lambda: bot.heard)
                    nursery.start_soon(talk, discord, said, random.Random(7))
                await bot.wait(lambda: bot.failure or is_over())
            assert bot.failure is None or isinstance(bot.failure, TransientFailure)
    assert heard == said
    assert min(len(discord.resumes), discord.identifies, lives) > 1  # there was trouble of each kind
