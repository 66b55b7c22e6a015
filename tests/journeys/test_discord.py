"""Discord on the real daemon: however often it is killed, and whatever Discord does, each message is answered once."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio
from pocketpaw.actors.channels.wording import REPEAT_MARK

from ..fakes.discord_server import ANN, BOT, Answer, FakeDiscord, fake_discord
from .conftest import MakeDaemon
from .daemon import Daemon, with_model_server
from .model_server_process import ModelServerProcess

CHATS = ("77", "78", "79", "80", "81")
AUTHOR = {"id": BOT, "username": "paw", "bot": True}
REST_S = 1.0
"""A repeat would come within this time."""


class Misfortune:
    """What befalls calls, by a seed; done or not, as nobody can tell who gets no answer."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def __call__(self) -> Answer | None:
        lot = self._chance.random()
        if lot > 0.06:
            return None
        if lot < 0.02:
            return Answer(429, {"message": "limited", "retry_after": 0.2, "global": False})
        is_done = self._chance.random() < 0.5
        return Answer(500, is_done=is_done) if lot < 0.04 else Answer(200, cuts=True, is_done=is_done)


def settings_of(discord: FakeDiscord, model: ModelServerProcess) -> dict[str, str]:
    return {
        **with_model_server(model.base_url),
        "discord_api_url": discord.api_url,
        "discord_bot_token": discord.token,
        "discord_allowed_user_ids": ANN,
    }


def answers(discord: FakeDiscord) -> Counter[str]:
    """How often each message was answered, as it stands in the chats in the end."""
    said = (message for messages in discord.messages.values() for message in messages)
    ours = (str(message["content"]) for message in said if message["author"] == AUTHOR)
    return Counter(ours)


async def until_answered(discord: FakeDiscord, count: int, within_s: float) -> None:
    with trio.fail_after(within_s):
        while sum(text.startswith("echo: message ") for text in answers(discord)) < count:  # noqa: ASYNC110 polled
            await trio.sleep(0.05)


async def live_through(
    discord: FakeDiscord, daemon: Daemon, *, count: int, kills: int, seed: int, within_s: float
) -> None:
    """Have people write `count` messages, some told twice or late, while daemon and connections come to grief."""
    chance = random.Random(seed)
    await trio.to_thread.run_sync(daemon.start)
    with trio.fail_after(within_s):
        await discord.wait(lambda: discord.live)
    for chat in CHATS:
        discord.say(f"message in {chat}, so that the chat is known", chat=chat)
    await until_answered(discord, len(CHATS), within_s)
    discord.misfortune = Misfortune(seed)
    # Apart, as a turn that was killed three times is given up.
    kill_at = {count * (kill + 1) // (kills + 1) for kill in range(kills)}
    late: list[dict[str, object]] = []
    for number in range(count):
        told = chance.random()
        message = discord.say(
            f"message {number}", chat=chance.choice(CHATS), times=1 + (told < 0.1), is_missed=told > 0.9
        )
        late += [message] if told > 0.9 else []
        if chance.random() < 0.1 or number == count - 1:
            for message in chance.sample(late, len(late)):
                discord.tell("MESSAGE_CREATE", message)
            late.clear()
        if chance.random() < 0.04:
            beats = len(discord.heartbeats)
            discord.ask_heartbeat()
            await discord.wait(lambda: len(discord.heartbeats) > beats)  # noqa: B023 waited for here
            await trio.sleep(0.2)
            if chance.random() < 0.5:
                discord.cut()
            else:
                discord.send_op(7)
        if number in kill_at:
            await until_answered(discord, max(0, number - 15), within_s)  # with some of them on their way
            await trio.sleep(chance.random() * 0.3)
            await trio.to_thread.run_sync(daemon.kill)
            if chance.random() < 0.3:
                discord.expire_sessions()
            await trio.to_thread.run_sync(daemon.start)
    await until_answered(discord, count + len(CHATS), within_s)
    await trio.sleep(REST_S)


def check(discord: FakeDiscord, daemon: Daemon, *, count: int, kills: int) -> None:
    found = answers(discord)
    expected = {f"echo: message {number}" for number in range(count)}
    expected |= {f"echo: message in {chat}, so that the chat is known" for chat in CHATS}
    marked = sum(text.startswith(REPEAT_MARK) for text in found)
    print(
        f"{count} messages, {kills} kills: {len(found)} answers, {marked} of them marked, {discord.connections} "
        f"connections, {discord.identifies} sessions, {len(discord.resumes)} resumptions"
    )
    assert {text.removeprefix(REPEAT_MARK) for text in found} == expected
    assert all(times == 1 for times in found.values())
    assert marked <= kills
    assert discord.violations == []
    with daemon.http as http:
        status = http.get("/api/v1/channels/status").raise_for_status().json()["discord"]
    assert status["running"] is True
    assert discord.token not in daemon.log


async def journey(
    make_daemon: MakeDaemon, model: ModelServerProcess, *, count: int, kills: int, seed: int, within_s: float
) -> None:
    async with fake_discord() as discord:
        daemon = make_daemon(settings=settings_of(discord, model))
        await live_through(discord, daemon, count=count, kills=kills, seed=seed, within_s=within_s)
        await trio.to_thread.run_sync(lambda: check(discord, daemon, count=count, kills=kills))
        await trio.to_thread.run_sync(daemon.close)


async def test_each_message_is_answered_once_although_the_daemon_is_killed(
    make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    await journey(make_daemon, model_server, count=12, kills=1, seed=1, within_s=90.0)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_thousand_messages_are_each_answered_once_although_the_daemon_is_killed_twenty_times(
    make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    await journey(make_daemon, model_server, count=1000, kills=20, seed=2, within_s=900.0)
