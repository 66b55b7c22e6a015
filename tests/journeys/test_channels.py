"""Channels of the real daemon: however often it is killed, and whatever the platform does, each message is answered."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
import trio
from pocketpaw.actors.channels.wording import REPEAT_MARK

from ..fakes.telegram_server import Cut, FakeTelegram, Fault, Status, TooMany, fake_telegram
from .conftest import MakeDaemon
from .daemon import Daemon, with_model_server
from .model_server_process import ModelServerProcess

PEOPLE = (41, 42, 43, 44, 45)
MARK = REPEAT_MARK.strip()


class Misfortune:
    """What befalls requests, by a seed: the answer 429 or 500, a cut connection. `rarity` 1 is every 16th message."""

    def __init__(self, seed: int, rarity: float) -> None:
        self._random = random.Random(seed)
        self._rarity = rarity

    def __call__(self, method: str) -> Fault:
        lot = self._random.random() * self._rarity
        if method == "getUpdates":
            return Cut() if lot < 0.02 else Status(500) if lot < 0.03 else None
        if method != "sendMessage" or lot > 0.06:
            return None
        return TooMany(0.2) if lot < 0.02 else Status(500) if lot < 0.04 else Cut()


def channel_settings(telegram: FakeTelegram, model: ModelServerProcess) -> dict[str, str]:
    return {
        **with_model_server(model.base_url),
        "telegram_api_url": telegram.url,
        "telegram_bot_token": telegram.token,
        "allowed_user_id": "42",
    }


def pair_everybody(daemon: Daemon) -> list[str]:
    """A code for each of the people whom the settings do not name; the first one by the command."""
    done = daemon.run("pair", "telegram")
    assert done.returncode == 0, done.stderr
    codes = [done.stdout.split()[0]]
    with daemon.http as http:
        for _ in PEOPLE[2:]:
            made = http.post("/api/v1/channels/pairings", json={"channel": "telegram"})
            codes.append(made.raise_for_status().json()["code"])
    return codes


def telegram_status(daemon: Daemon) -> dict[str, object]:
    with daemon.http as http:
        status: dict[str, object] = http.get("/api/v1/channels/status").raise_for_status().json()["telegram"]
    return status


async def until_answered(telegram: FakeTelegram, count: int, within_s: float) -> None:
    with trio.fail_after(within_s):
        while len(answers(telegram)) < count:  # noqa: ASYNC110 the daemon is another process
            await trio.sleep(0.05)


async def until_running(daemon: Daemon, within_s: float) -> None:
    """Wait until the channel says so."""
    with trio.fail_after(within_s):
        while not (await trio.to_thread.run_sync(telegram_status, daemon))["running"]:  # noqa: ASYNC110 as above
            await trio.sleep(0.05)


def answers(telegram: FakeTelegram) -> Counter[str]:
    """How often each message was answered, marked repeats included."""
    texts = (message.text.removeprefix(MARK).strip() for message in telegram.messages)
    return Counter(text for text in texts if text.startswith("echo: message "))


async def live_through(
    telegram: FakeTelegram, daemon: Daemon, *, count: int, kills: int, seed: int, within_s: float, rarity: float = 1.0
) -> None:
    """Have people write `count` messages, some of them twice, while the daemon is killed now and then."""
    rng = random.Random(seed)
    await trio.to_thread.run_sync(daemon.start)
    for person, code in zip([one for one in PEOPLE if one != 42], pair_everybody(daemon), strict=True):
        telegram.say(code, chat=person)
    with trio.fail_after(within_s):
        while len(telegram.messages) < len(PEOPLE) - 1:  # noqa: ASYNC110 as above
            await trio.sleep(0.05)
    telegram.faults, telegram.shuffle = Misfortune(seed, rarity), rng
    kill_at = sorted(rng.sample(range(5, count), kills))
    for number in range(count):
        person = rng.choice(PEOPLE)
        message_id = telegram.say(f"message {number}", chat=person)
        if rng.random() < 0.1:
            telegram.say(f"message {number}", chat=person, message_id=message_id)
        if number in kill_at:
            await until_answered(telegram, number - 4, within_s)  # with the others on their way
            await trio.to_thread.run_sync(daemon.kill)
            await trio.to_thread.run_sync(daemon.start)
            await until_running(daemon, within_s)
    await until_answered(telegram, count, within_s)


def check(telegram: FakeTelegram, daemon: Daemon, *, count: int, kills: int) -> None:
    found = answers(telegram)
    assert set(found) == {f"echo: message {number}" for number in range(count)}
    doubled = {text: times for text, times in found.items() if times > 1}
    unmarked = Counter(message.text for message in telegram.messages if not message.text.startswith(MARK))
    assert sum(times - 1 for times in doubled.values()) <= kills
    assert all(times == 1 for text, times in unmarked.items() if text.startswith("echo:"))
    status = telegram_status(daemon)
    assert status["running"] is True
    assert status["state"] == "connected"
    assert telegram.calls["getMe"] <= kills + 5, "a life of the daemon has one connection, but for bad luck"
    assert telegram.token not in daemon.log


async def test_each_message_is_answered_once_although_the_daemon_is_killed(
    make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    async with fake_telegram() as telegram:
        daemon = make_daemon(settings=channel_settings(telegram, model_server))
        await live_through(telegram, daemon, count=40, kills=2, seed=1, within_s=90.0, rarity=2.0)
        await trio.to_thread.run_sync(check_at_rest, telegram, daemon, 40, 2)
        await trio.to_thread.run_sync(daemon.close)


def check_at_rest(telegram: FakeTelegram, daemon: Daemon, count: int, kills: int) -> None:
    time.sleep(0.5)  # a repeat would come now
    check(telegram, daemon, count=count, kills=kills)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_thousand_messages_are_answered_once_although_the_daemon_is_killed_twenty_times(
    make_daemon: MakeDaemon, model_server: ModelServerProcess
) -> None:
    async with fake_telegram() as telegram:
        daemon = make_daemon(settings=channel_settings(telegram, model_server))
        await live_through(telegram, daemon, count=1000, kills=20, seed=2, within_s=300.0)
        await trio.to_thread.run_sync(check_at_rest, telegram, daemon, 1000, 20)
        found = answers(telegram)
        print(f"\n{len(found)} answered, {sum(found.values()) - len(found)} twice, {telegram.calls}")
        await trio.to_thread.run_sync(daemon.close)
