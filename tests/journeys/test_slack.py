"""Slack on the real daemon: however often it is killed, and whatever Slack does, each message is answered once."""

from __future__ import annotations

import random
import re
from collections import Counter

import msgspec
import pytest
import trio
from pocketpaw.actors.channels.wording import REPEAT_MARK

from ..fakes.slack_server import APP_TOKEN, BOT, BOT_TOKEN, Answer, FakeSlack, fake_slack
from .conftest import MakeDaemon
from .daemon import Daemon, with_model_server
from .model_server_process import ModelServerProcess

CHATS = ("D1", "D2", "D3", "C1", "C2")
MARK = REPEAT_MARK.strip()
OUTAGE_S = 3600.0
"""For how long nobody seems to have listened, after a kill."""
REST_S = 0.5
"""A repeat would come within this time."""


class Misfortune:
    """What befalls calls, by a seed; done or not, as nobody can tell who gets no answer."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def __call__(self, method: str) -> Answer | None:
        if method not in ("chat.postMessage", "users.info"):
            return None
        lot = self._chance.random()
        if lot > 0.06:
            return None
        if lot < 0.02:
            return Answer(429, retry_after="1")
        return Answer(500, is_done=self._chance.random() < 0.5) if lot < 0.04 else Answer(cuts=True, is_done=True)


def settings_of(slack: FakeSlack, model: ModelServerProcess) -> dict[str, str]:
    tokens = {"slack_bot_token": BOT_TOKEN, "slack_app_token": APP_TOKEN}
    return {**with_model_server(model.base_url), **tokens, "slack_api_url": slack.api_url}


def answered(slack: FakeSlack) -> Counter[int]:
    """How often each message was answered, marked repeats included."""
    found = (re.search(r"echo: (?:\w+: )?message (\d+)$", text) for text in slack.said_by_bot)
    return Counter(int(match[1]) for match in found if match)


async def until_answered(slack: FakeSlack, count: int, within_s: float) -> None:
    with trio.fail_after(within_s):
        await slack.wait_for(lambda: len(answered(slack)) >= count)


def age(daemon: Daemon) -> None:
    """Have Slack not be heard for so long that it has given up to tell, and is asked."""
    file = daemon.home.root / "channels" / "slack" / "reach.json"
    kept = msgspec.json.decode(file.read_bytes(), type=dict[str, object])
    assert isinstance(kept["alive_at"], float)
    file.write_bytes(msgspec.json.encode({**kept, "alive_at": kept["alive_at"] - OUTAGE_S}))


async def live_through(slack: FakeSlack, daemon: Daemon, *, count: int, kills: int, seed: int, within_s: float) -> None:
    """Have people write `count` messages, some told twice or never, while daemon and links come to grief."""
    chance = random.Random(seed)
    slack.misfortune = Misfortune(seed)
    await trio.to_thread.run_sync(daemon.start)
    # Apart, as a turn that was killed three times is given up.
    kill_at = {count * (kill + 1) // (kills + 1) for kill in range(kills)}
    drop_at = {number - count // (kills + 1) // 2 for number in kill_at}
    for number in range(count):
        chat = chance.choice(CHATS)
        text = f"message {number}" if chat.startswith("D") else f"<@{BOT}> message {number}"
        if number in drop_at:
            with trio.fail_after(within_s):
                await slack.wait_for(lambda: slack.links)
            slack.drop()
        if number in kill_at:
            await until_answered(slack, number - min(8, count // 6), within_s)  # with some of them on their way
            await trio.sleep(chance.random() * 0.3)
            await trio.to_thread.run_sync(daemon.kill)
            await trio.to_thread.run_sync(age, daemon)
            slack.say(text, channel=chat, is_told=False)
            await trio.to_thread.run_sync(daemon.start)
        else:
            slack.say(text, channel=chat, copies=1 + (chance.random() < 0.1))
    await until_answered(slack, count, within_s)
    await trio.sleep(REST_S)


def check(slack: FakeSlack, daemon: Daemon, *, count: int, kills: int) -> None:
    found = answered(slack)
    marked = sum(text.startswith(MARK) for text in slack.said_by_bot)
    print(
        f"{count} messages, {kills} kills: {found.total()} answers, {marked} of them marked, "
        f"{len(slack.delivered)} events, {slack.opened} links, {len(slack.calls)} calls"
    )
    assert set(found) == set(range(count))
    unmarked = Counter(text for text in slack.said_by_bot if not text.startswith(MARK))
    assert all(times == 1 for times in unmarked.values())
    assert marked <= kills
    assert slack.violations == []
    with daemon.http as http:
        status = http.get("/api/v1/channels/status").raise_for_status().json()["slack"]
    assert status["running"] is True
    assert slack.opened <= 3 * kills + 3, "a life of the daemon has two links, but for bad luck"
    assert BOT_TOKEN not in daemon.log
    assert APP_TOKEN not in daemon.log


async def journey(
    make_daemon: MakeDaemon, model: ModelServerProcess, *, count: int, kills: int, seed: int, within_s: float
) -> None:
    async with fake_slack() as slack:
        daemon = make_daemon(settings=settings_of(slack, model))
        await live_through(slack, daemon, count=count, kills=kills, seed=seed, within_s=within_s)
        await trio.to_thread.run_sync(lambda: check(slack, daemon, count=count, kills=kills))
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
