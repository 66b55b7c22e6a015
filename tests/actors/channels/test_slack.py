"""Slack as a platform, against a Slack on loopback that speaks the true wire."""

from __future__ import annotations

import random
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from pocketpaw.actors.channels import slack, slack_api, slack_catch_up, slack_hearing, slack_socket
from pocketpaw.actors.channels.chat_platform import DeliveryUnsure, Hear, Heard, NotDelivered, Place
from pocketpaw.actors.channels.slack import Slack
from pocketpaw.actors.channels.slack_text import escape
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime.errors import NeedsOperator, PocketPawError, TooManyRequests, TransientFailure
from structlog.testing import capture_logs

from ...fakes.slack_server import ANN, APP_TOKEN, BOT, BOT_TOKEN, Answer, FakeSlack, Posted, fake_slack
from .admitted import with_files

MakeLive = Callable[..., LiveSettings]

TOKENS = {"slack_bot_token": BOT_TOKEN, "slack_app_token": APP_TOKEN}
DIRECT = Place(chat="D1")
WITHIN_S = 20.0


class House:
    """A Slack, a bot that listens to it, and what it has heard."""

    def __init__(self, slack: FakeSlack, live: LiveSettings) -> None:
        self.slack = slack
        self.live = live
        self.platform = Slack(live)
        self.heard: list[Heard] = []
        self.proven = 0
        self.failure: PocketPawError | None = None
        self.hear: Hear = self._hear

    @property
    def texts(self) -> list[str]:
        return [heard.text for heard in self.heard]

    async def listen(self) -> None:
        try:
            await self.platform.listen(self._pass_on, self._prove)
        except PocketPawError as error:
            self.failure = error

    async def until(self, condition: Callable[[], object], within_s: float = WITHIN_S) -> None:
        with trio.fail_after(within_s):
            while not condition():  # noqa: ASYNC110 what changes may be on either side
                await trio.sleep(0.005)

    async def all_acknowledged(self, events: int) -> None:
        await self.until(lambda: len(self.slack.acknowledged) >= events)

    async def _pass_on(self, heard: Heard) -> None:
        await self.hear(heard)

    async def _hear(self, heard: Heard) -> None:
        await trio.lowlevel.checkpoint()
        self.heard.append(await with_files(heard))

    def _prove(self) -> None:
        self.proven += 1


OpenHouse = Callable[..., AbstractAsyncContextManager[House]]


@pytest.fixture
def house(make_live: MakeLive) -> OpenHouse:
    """`async with house(listens=False, slack_…=…) as home:` is a Slack and a bot; nothing may break the protocol."""

    @asynccontextmanager
    async def open_house(*, listens: bool = True, **settings: object) -> AsyncGenerator[House]:
        async with fake_slack() as slack, trio.open_nursery() as nursery:
            live = make_live(**{"slack_api_url": slack.api_url, **TOKENS, **settings})
            home = House(slack, live)
            if listens:
                nursery.start_soon(home.listen)
                await home.until(lambda: home.proven or home.failure)
            try:
                yield home
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await home.platform.aclose()
        assert slack.violations == []

    return open_house


@pytest.mark.parametrize("missing", ["slack_bot_token", "slack_app_token"])
def test_a_setting_that_is_missing_is_named(make_live: MakeLive, missing: str) -> None:
    with pytest.raises(NeedsOperator, match=f"the setting {missing} is empty"):
        Slack(make_live(**{**TOKENS, missing: ""}))


# Hearing


async def test_a_direct_message_is_heard(house: OpenHouse) -> None:
    async with house() as home:
        ts = home.slack.say("hello &amp; <@UBOB>: <https://a.example|this>")
        home.slack.users["UBOB"] = "Bob"
        await home.all_acknowledged(1)
        assert home.heard == [
            Heard(
                key=f"D1:{ts}",
                chat="D1",
                sender=ANN,
                sender_name="Ann",
                text="hello & @Bob: this (https://a.example)",
                is_direct=True,
                ref=ts,
            )
        ]


async def test_a_mention_comes_twice_and_is_heard_once_and_answered_in_a_thread(house: OpenHouse) -> None:
    async with house() as home:
        ts = home.slack.say(f"<@{BOT}> hi", channel="C1")
        await home.all_acknowledged(2)
        heard = home.heard[0]
        assert len(home.heard) == 1
        assert (heard.key, heard.text, heard.thread, heard.is_direct) == (f"C1:{ts}", "hi", ts, False)


async def test_what_is_not_said_to_the_bot_is_not_heard(house: OpenHouse) -> None:
    async with house() as home:
        slack = home.slack
        slack.say("talk among people", channel="C1")
        slack.say("a bot", bot_id="B9")
        slack.say("myself", user=BOT)
        slack.say("joined", subtype="channel_join")
        slack.tell({"type": "reaction_added", "user": ANN, "item": {"type": "message"}})
        slack.tell({"type": "message", "text": 5})
        slack.say("heard")
        await home.all_acknowledged(7)
        assert home.texts == ["heard"]


async def test_only_the_channels_that_are_served_count_and_direct_messages(house: OpenHouse) -> None:
    async with house(slack_allowed_channel_ids=["C1"]) as home:
        for channel in ("C1", "C2", "D1"):
            home.slack.say(f"<@{BOT}> {channel}", channel=channel)
        await home.all_acknowledged(5)
        assert sorted(home.texts) == ["C1", "D1"]


async def test_the_channels_that_are_served_are_those_of_the_settings_as_they_are_now(
    make_live: MakeLive, house: OpenHouse
) -> None:
    async with house(slack_allowed_channel_ids=["C1"]) as home:
        home.slack.say(f"<@{BOT}> before", channel="C2")
        await home.all_acknowledged(2)
        home.live.replace(make_live(slack_allowed_channel_ids=["C2"]).loaded)
        home.slack.say(f"<@{BOT}> after", channel="C2")
        await home.all_acknowledged(4)
        assert home.texts == ["after"]


async def test_a_thread_that_the_bot_takes_part_in_needs_no_name(house: OpenHouse) -> None:
    async with house() as home:
        slack = home.slack
        root = slack.say(f"<@{BOT}> hi", channel="C1")
        other = slack.say("people only", channel="C1")
        await home.all_acknowledged(3)
        slack.say("go on", channel="C1", thread_ts=root)
        slack.say("not you", channel="C1", thread_ts=other)
        slack.say("<@UBOB> nor this", channel="C1", thread_ts=root)
        await home.all_acknowledged(6)
        assert home.texts == ["hi", "go on"]
        assert [heard.thread for heard in home.heard] == [root, root]
        assert len(slack.calls_of("conversations.replies")) == 1


async def test_a_thread_is_known_again_after_a_restart(house: OpenHouse) -> None:
    async with house() as home:
        slack = home.slack
        by_people = slack.say("what do you think?", channel="C1")
        await home.platform.send(Place(chat="C1", thread=by_people), "This.", "k")
        home.platform._hearing._threads.clear()  # pyright: ignore[reportPrivateUsage] - as a new process begins
        slack.say("why?", channel="C1", thread_ts=by_people)
        await home.all_acknowledged(2)
        assert home.texts == ["why?"]


async def test_an_edit_is_heard_as_a_message_of_its_own_and_a_preview_is_not(house: OpenHouse) -> None:
    async with house() as home:
        slack = home.slack
        ts = slack.say("two and two")
        old = {"type": "message", "user": ANN, "text": "two and two", "ts": ts}
        new = {**old, "text": "two and three", "edited": {"user": ANN, "ts": "99.1"}}
        changed = {"type": "message", "subtype": "message_changed", "channel": "D1", "channel_type": "im", "ts": "99.1"}
        slack.tell({**changed, "message": new, "previous_message": old})
        slack.tell({**changed, "message": {**new, "attachments": [{"id": 1}]}, "previous_message": new})
        slack.tell({**changed, "message": {**old, "attachments": [{"id": 1}]}, "previous_message": old})
        await home.all_acknowledged(4)
        assert sorted((heard.key, heard.text) for heard in home.heard) == [
            (f"D1:{ts}", "two and two"),
            (f"D1:{ts}:99.1", "two and three"),
        ]


async def test_an_event_is_acknowledged_after_it_is_kept_and_a_repeat_is_known(house: OpenHouse) -> None:
    async with house() as home:
        kept = trio.Event()
        hear = home.hear

        async def keep(heard: Heard) -> None:
            await kept.wait()
            await hear(heard)

        home.hear = keep
        home.slack.redeliver_after_s = 0.1
        home.slack.say("hello", copies=2)
        await home.until(lambda: len(home.slack.delivered) >= 6)
        assert home.slack.acknowledged == []
        kept.set()
        await home.all_acknowledged(2)
        assert home.texts == ["hello"]


async def test_each_chat_keeps_its_order_and_none_waits_for_another(house: OpenHouse) -> None:
    async with house() as home:
        slow = trio.Event()
        hear = home.hear

        async def keep(heard: Heard) -> None:
            if heard.chat == "D1":
                await slow.wait()
            await hear(heard)

        home.hear = keep
        home.slack.redeliver_after_s = WITHIN_S
        for number in range(20):
            home.slack.tell(
                {"type": "message", "channel_type": "im", "channel": "D1", "user": ANN, "ts": f"{number}.1"}
            )
            await home.until(lambda count=number + 1: len(home.slack.delivered) == count)
        home.slack.say("quick", channel="D2")
        await home.until(lambda: home.texts == ["quick"])
        slow.set()
        await home.all_acknowledged(21)
        assert [heard.ref for heard in home.heard[1:]] == [f"{number}.1" for number in range(20)]


async def test_a_person_without_a_name_is_heard_all_the_same(house: OpenHouse) -> None:
    async with house() as home:
        home.slack.answer("users.info", Answer(429, retry_after="30"))
        for text in ("one", "two", "three"):
            home.slack.say(text)
            await home.until(lambda text=text: text in home.texts)
        assert [heard.sender_name for heard in home.heard] == [ANN, "Ann", "Ann"]
        assert len(home.slack.calls_of("users.info")) == 2


async def test_shared_files_are_fetched_and_what_is_not_is_said(house: OpenHouse, make_live: MakeLive) -> None:
    async with house(media_max_file_size_mb=1) as home:
        slack = home.slack
        origin = slack.api_url.removesuffix("/api")
        slack.files = {
            "/files-pri/F1/a.png": (b"picture", "image/png"),
            "/files-pri/F3/c.txt": (b"x" * 1_000_001, "text/plain"),
            "/files-pri/F4/d.txt": (b"<html>sign in</html>", "text/html"),
            "/files-pri/F5/e.txt": (b"", "http://127.0.0.1:1/elsewhere"),
            "/files-pri/F6/f.txt": (b"", f"{origin}/files-pri/F1/a.png"),
        }
        files = [
            {"id": "F1", "name": "../../a b.png", "url_private_download": f"{origin}/files-pri/F1/a.png"},
            {"id": "F2", "name": "b.mp4", "size": 2_000_000, "url_private_download": f"{origin}/files-pri/F1/a.png"},
            {"id": "F3", "name": "c.txt", "url_private_download": f"{origin}/files-pri/F3/c.txt"},
            {"id": "F4", "name": "d.txt", "url_private_download": f"{origin}/files-pri/F4/d.txt"},
            {"id": "F5", "name": "e.txt", "url_private_download": f"{origin}/files-pri/F5/e.txt"},
            {"id": "F6", "name": "f.txt", "url_private_download": f"{origin}/files-pri/F6/f.txt"},
            {"id": "F7", "name": "g.txt", "url_private_download": "https://evil.example/g.txt"},
            {"id": "F8", "name": "h.txt", "mode": "external"},
            {"id": "F9", "name": "i.txt", "url_private_download": f"{origin}/files-pri/F9/i.txt"},
        ]
        slack.say("look", subtype="file_share", files=files)
        await home.all_acknowledged(1)
        heard = home.heard[0]
        assert [Path(path).name for path in heard.media] == ["F1-.._.._a_b.png", "F6-f.txt"]
        assert {await trio.Path(path).read_bytes() for path in heard.media} == {b"picture"}
        folder = Path(heard.media[0]).parent
        assert {path.name for path in folder.iterdir()} == {Path(path).name for path in heard.media}
        assert (folder.stat().st_mode & 0o777, folder.parts[-3:]) == (0o700, ("channels", "slack", "media"))
        assert heard.text.split("\n") == [
            "look",
            "[The file b.mp4 was not fetched: it is larger than 1 MB.]",
            "[The file c.txt was not fetched: it is larger than 1,000,000 bytes.]",
            "[The file d.txt was not fetched: Slack showed its login page: the bot needs the scope files:read.]",
            "[The file e.txt was not fetched: 127.0.0.1 is no host of Slack's, and the token is sent to no other.]",
            "[The file g.txt was not fetched: evil.example is no host of Slack's, and the token is sent to no other.]",
            "[The file h.txt was not fetched: it is not on Slack's own servers.]",
            "[The file i.txt was not fetched: Slack answered 404 for the file.]",
        ]


async def test_files_that_do_not_arrive_hold_nobody_up_for_long(
    house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slack_hearing, "FILES_WITHIN_S", 0.3)
    async with house() as home:
        home.slack.withheld = {"/a", "/b", "/c"}
        origin = home.slack.api_url.removesuffix("/api")
        files = [{"id": f"F{path[1:]}", "url_private_download": origin + path} for path in sorted(home.slack.withheld)]
        home.slack.say("look", files=files)
        await home.all_acknowledged(1)
        assert home.texts == [
            "\n".join(
                ["look", *(f"[The file F{one} was not fetched: Slack did not send it in time.]" for one in "abc")]
            )
        ]
        assert home.slack.awaited == ["/a"]


async def test_a_file_that_is_shared_in_two_chats_at_once_is_whole_in_both(house: OpenHouse) -> None:
    async with house() as home:
        url = home.slack.api_url.removesuffix("/api") + "/files-pri/F1/a.bin"
        home.slack.files = {"/files-pri/F1/a.bin": (b"x" * 1_000_000, "application/octet-stream")}
        for chat in ("D1", "D2"):
            home.slack.say("look", channel=chat, files=[{"id": "F1", "name": "a.bin", "url_private_download": url}])
        await home.all_acknowledged(2)
        assert home.texts == ["look", "look"]
        assert {(await trio.Path(path).stat()).st_size for heard in home.heard for path in heard.media} == {1_000_000}


@pytest.mark.parametrize(
    ("address", "is_own"),
    [
        ("https://files.slack.com/files-pri/T1-F1/a.png", True),
        ("https://slack.com/files-pri/T1-F1/a.png", True),
        ("http://files.slack.com/a.png", False),
        ("https://evilslack.com/a.png", False),
        ("https://slack.com.evil.example/a.png", False),
        ("https://files.slack.com:8443/a.png", False),
        ("https://files.slack.com@evil.example/a.png", False),
        ("file:///etc/passwd", False),
        ("", False),
    ],
)
def test_the_token_goes_to_slacks_own_hosts_only(address: str, is_own: bool) -> None:
    api = slack_api.SlackApi("https://slack.com/api")
    try:
        api._slacks_own(address)  # pyright: ignore[reportPrivateUsage] - nothing may be sent to find out
        found = True
    except PocketPawError:
        found = False
    assert found is is_own


# Connecting


@pytest.mark.parametrize(
    ("method", "answer", "words"),
    [
        ("auth.test", Answer(error="invalid_auth"), "the token in the setting slack_bot_token: invalid_auth"),
        ("auth.test", Answer(error="account_inactive"), "the token in the setting slack_bot_token: account_inactive"),
        ("apps.connections.open", Answer(error="not_authed"), "the token in the setting slack_app_token: not_authed"),
        (
            "apps.connections.open",
            Answer(error="missing_scope", needed="connections:write"),
            "the token in the setting slack_app_token has not the scope connections:write",
        ),
    ],
)
async def test_what_only_a_person_can_mend_names_the_setting(
    house: OpenHouse, method: str, answer: Answer, words: str
) -> None:
    async with house(listens=False) as home:
        home.slack.answer(method, answer)
        await home.listen()
        assert isinstance(home.failure, NeedsOperator)
        assert words in home.failure.detail


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500),
        Answer(error="internal_error"),
        Answer(error="team_added_to_org"),
        Answer(error="brand_new"),
        Answer(cuts=True),
    ],
    ids=str,
)
async def test_what_may_pass_is_left_to_the_supervisor(house: OpenHouse, answer: Answer) -> None:
    async with house(listens=False) as home:
        home.slack.answer("apps.connections.open", answer)
        await home.listen()
        assert isinstance(home.failure, TransientFailure)
        assert (home.proven, len(home.slack.calls_of("apps.connections.open"))) == (0, 1)


@pytest.mark.parametrize("address", ["https://a.example", "wss://", "wss://[", "wss://a.example:0/", "", "ws:"])
async def test_an_address_of_a_link_that_is_none_is_not_gone_to(house: OpenHouse, address: str) -> None:
    async with house(listens=False) as home:
        home.slack.gives_address = address
        await home.listen()
        assert isinstance(home.failure, TransientFailure)
        assert "not a secure WebSocket's" in home.failure.detail


async def test_a_slack_that_is_not_there_may_come_back(make_live: MakeLive) -> None:
    home = House(FakeSlack(), make_live(**TOKENS, slack_api_url="http://127.0.0.1:1/api"))
    platform = home.platform
    await home.listen()
    assert isinstance(home.failure, TransientFailure)
    with pytest.raises(TransientFailure, match="is closed"):
        await platform.send(DIRECT, "hello", "k1")
    with pytest.raises(TransientFailure, match="cannot be reached"):
        await Slack(make_live(**TOKENS, slack_api_url="http://127.0.0.1:1/api")).send(DIRECT, "hello", "k1")


async def test_a_call_that_is_under_way_for_long_ends_with_the_connection(
    house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slack_api, "LAST_CALLS_S", 0.1)
    async with house(listens=False) as home, trio.open_nursery() as nursery:
        home.slack.answer("chat.postMessage", Answer(500, delay_s=600))

        async def close() -> None:
            await home.until(lambda: home.slack.calls_of("chat.postMessage"))
            await home.platform.aclose()

        nursery.start_soon(close)
        with pytest.raises(DeliveryUnsure, match="was closed before"):
            await home.platform.send(DIRECT, "hello", "k1")


async def test_what_is_being_said_when_a_link_breaks_is_said(house: OpenHouse) -> None:
    async with house() as home, trio.open_nursery() as nursery:

        async def drop() -> None:
            await home.until(lambda: home.slack.calls_of("chat.postMessage"))
            home.slack.drop()

        home.slack.answer("chat.postMessage", Answer(delay_s=0.2, body=b'{"ok": true, "ts": "5.5"}'))
        nursery.start_soon(drop)
        assert await home.platform.send(DIRECT, "hello", "k1") == "5.5"
        await home.until(lambda: home.failure)
        with pytest.raises(TransientFailure, match="is closed"):
            await home.platform.send(DIRECT, "hello", "k2")


@pytest.mark.parametrize("method", ["auth.test", "apps.connections.open"])
async def test_a_limit_of_connections_is_waited_for_and_is_no_failure(house: OpenHouse, method: str) -> None:
    async with house(listens=False) as home, trio.open_nursery() as nursery:
        home.slack.answer(method, Answer(429, retry_after="0"), Answer(error="ratelimited", retry_after="0"))
        nursery.start_soon(home.listen)
        await home.until(lambda: home.proven or home.failure)
        assert home.failure is None
        assert len(home.slack.calls_of(method)) == 3
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("asked", "pause_s"), [("7", 7.0), ("9" * 400, 86_400.0), ("soon", 30.0), (None, 30.0)])
async def test_a_pause_that_slack_asks_for_is_one_within_reason(
    house: OpenHouse, asked: str | None, pause_s: float
) -> None:
    async with house(listens=False) as home:
        home.slack.answer("chat.update", Answer(429, retry_after=asked))
        with pytest.raises(TooManyRequests) as raised:
            await home.platform.edit(DIRECT, "1.1", "x")
        assert raised.value.data["retry_after_s"] == pause_s


async def test_an_answer_that_is_no_text_is_slacks_failure(house: OpenHouse) -> None:
    async with house(listens=False) as home:
        home.slack.answer("chat.update", Answer(body=b'{"ok": true, "ts": "\xff"}'), Answer(body=b"[" * 100_000))
        for _ in range(2):
            with pytest.raises(TransientFailure, match="not its API's"):
                await home.platform.edit(DIRECT, "1.1", "x")


async def test_nothing_is_lost_or_heard_twice_over_dropped_and_replaced_links(
    house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slack_socket, "SHORTEST_LIFE_S", 0.0)
    monkeypatch.setattr(slack_socket, "DRAIN_S", 0.1)
    async with house(listens=False) as home, trio.open_nursery() as nursery:
        slack, ends, opened = home.slack, 0, 0

        async def listen_for_ever() -> None:
            nonlocal ends
            while True:
                await home.listen()
                ends += 1

        nursery.start_soon(listen_for_ever)
        expected = [str(number) for number in range(200)]
        for number in expected:
            slack.say(number, copies=1 + int(number) % 2)
            if int(number) % 50 == 25:
                await home.until(
                    lambda opened=opened: slack.opened > opened
                )  # a link that is left may break without a failure
                slack.drop()
            elif int(number) % 50 == 0:
                await home.until(lambda: slack.links)
                opened = slack.opened
                slack.disconnect("refresh_requested")
            await trio.sleep(0.002)
        await home.all_acknowledged(300)
        assert sorted(set(home.texts)) == sorted(expected)
        assert len({heard.key for heard in home.heard}) == 200
        assert len(home.heard) - 200 <= 4 * 20  # what was in hand when a link broke is the inbox's to know again
        assert isinstance(home.failure, TransientFailure)
        assert ends == 4
        nursery.cancel_scope.cancel()


# Catching up


def _silent_for(live: LiveSettings, seconds: float) -> Path:
    """Make it so that all was heard until so long ago."""
    file = live.home.root / "channels" / "slack" / "reach.json"
    kept = msgspec.json.decode(file.read_bytes() if file.exists() else b"{}", type=dict[str, object])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.encode({**kept, "alive_at": time.time() - seconds}))
    return file


async def test_what_was_said_in_an_outage_is_heard_afterwards(house: OpenHouse, make_live: MakeLive) -> None:
    async with house() as home:
        slack = home.slack
        root = slack.say(f"<@{BOT}> first", channel="C1")
        await home.all_acknowledged(2)
    file = _silent_for(make_live(), 6 * 3600)
    async with house(listens=False) as home:
        slack = home.slack
        slack.messages.append(Posted(root, "C1", ANN, f"<@{BOT}> first"))
        for number in range(250):
            slack.say(str(number), is_told=False)
        slack.say("not for the bot", channel="C1", is_told=False)
        slack.say(f"<@{BOT}> by name", channel="C2", is_told=False)
        slack.say("in the thread", channel="C1", thread_ts=root, is_told=False)
        people = slack.say("people", channel="C3", is_told=False)
        slack.say("among themselves", channel="C3", thread_ts=people, is_told=False)
        slack.messages.append(Posted(slack.next_ts(), "D1", BOT, "an answer", bot_id="B1"))
        before = time.time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(home.listen)
            await home.until(lambda: _alive_at(file) >= before or home.failure)
            nursery.cancel_scope.cancel()
        assert home.failure is None
        assert [heard.text for heard in home.heard if heard.chat == "D1"] == [str(number) for number in range(250)]
        others = {(heard.text, heard.thread == root) for heard in home.heard if heard.chat != "D1"}
        assert others == {("first", True), ("by name", False), ("in the thread", True)}
        assert len({heard.key for heard in home.heard}) == len(home.heard)
        assert f"C1:{root}" in {heard.key for heard in home.heard}  # the inbox knows it


def _alive_at(file: Path) -> float:
    return msgspec.json.decode(file.read_bytes())["alive_at"]


async def test_a_short_silence_is_left_to_slack(house: OpenHouse, make_live: MakeLive) -> None:
    _silent_for(make_live(), 30)
    async with house() as home:
        home.slack.say("hello")
        await home.all_acknowledged(1)
        assert not home.slack.calls_of("users.conversations")
        assert not home.slack.calls_of("conversations.history")


async def test_catching_up_goes_on_until_it_succeeds(
    house: OpenHouse, make_live: MakeLive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slack_catch_up, "RETRY_S", 0.01)
    monkeypatch.setattr(slack_catch_up, "KEEP_S", 0.01)
    file = _silent_for(make_live(), 3600)
    since = _alive_at(file)
    async with house(listens=False) as home:
        slack = home.slack
        slack.say("missed", is_told=False)
        slack.answer(
            "users.conversations", Answer(error="missing_scope", needed="im:read"), Answer(429, retry_after="0")
        )
        slack.answer("conversations.history", *[Answer(500)] * 3)
        _note_chat(file, "D1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(home.listen)
            await home.until(lambda: len(slack.calls_of("conversations.history")) == 2)
            assert _alive_at(file) == since
            slack.say("now")
            await home.until(lambda: _alive_at(file) > since)
            nursery.cancel_scope.cancel()
        assert sorted(home.texts) == ["missed", "now"]
        assert home.failure is None


def _note_chat(file: Path, chat: str) -> None:
    file.write_bytes(msgspec.json.encode({**msgspec.json.decode(file.read_bytes()), "chats": [chat]}))


@pytest.mark.parametrize(
    "damaged", [b"{", b'{"chats": ["\xff"]}', b'{"x": ' + b"[" * 100_000], ids=["cut", "text", "deep"]
)
async def test_a_file_that_cannot_be_read_costs_only_what_was_missed(
    house: OpenHouse, make_live: MakeLive, damaged: bytes
) -> None:
    _silent_for(make_live(), 3600).write_bytes(damaged)
    with capture_logs() as logs:
        async with house() as home:
            home.slack.say("hello")
            await home.all_acknowledged(1)
            assert home.texts == ["hello"]
    assert "reach.json" in str(logs)


async def test_a_message_that_cannot_be_understood_keeps_nobody_from_being_heard(
    house: OpenHouse, make_live: MakeLive
) -> None:
    _silent_for(make_live(), 3600)
    async with house(listens=False) as home, trio.open_nursery() as nursery:
        ts = home.slack.say("missed", is_told=False)
        told = {"user": ANN, "text": "missed"}
        odd = [{**told, "ts": "soon"}, {"ts": 5}, "what?", {**told, "ts": "9.1", "latest_reply": "later"}]
        odd.insert(2, {**told, "ts": ts})
        home.slack.answer("conversations.history", Answer(body=msgspec.json.encode({"ok": True, "messages": odd})))
        nursery.start_soon(home.listen)
        await home.until(lambda: home.heard or home.failure)
        assert [heard.ref for heard in home.heard] == [ts]
        await home.until(lambda: home.platform._catch_up._is_current or home.failure)  # pyright: ignore[reportPrivateUsage] - it shows nowhere else before a minute has passed
        assert home.failure is None
        nursery.cancel_scope.cancel()


async def test_what_a_killed_daemon_left_half_written_is_removed(house: OpenHouse, make_live: MakeLive) -> None:
    folder = make_live().home.root / "channels" / "slack"
    folder.mkdir(parents=True)
    leftover = folder / ".reach.json.1234abcd.tmp"
    leftover.write_bytes(b"{")
    async with house():
        assert not leftover.exists()


# Saying


async def test_a_message_is_posted_as_a_block_with_words_beside_it(house: OpenHouse) -> None:
    async with house(listens=False) as home:
        ts = await home.platform.send(
            Place(chat="C1", thread="5.1"), "**Hi** <!channel> & [you](https://a.example)", "k1"
        )
        posted = home.slack.posted[0]
        assert (posted.ts, posted.channel, posted.thread_ts) == (ts, "C1", "5.1")
        assert posted.text == "Hi &lt;!channel&gt; &amp; you"
        arguments = home.slack.calls_of("chat.postMessage")[0]
        assert (arguments["unfurl_links"], arguments["unfurl_media"], "link_names" in arguments) == (
            False,
            False,
            False,
        )
        blocks = msgspec.convert(posted.blocks, list[dict[str, object]])
        assert [block["type"] for block in blocks] == ["rich_text"]
        assert b"channel" not in msgspec.json.encode(blocks).replace(b" <!channel> & ", b"")


async def test_a_block_that_slack_refuses_is_sent_as_plain_words(house: OpenHouse) -> None:
    async with house(listens=False) as home:
        home.slack.answer("chat.postMessage", Answer(error="invalid_blocks"))
        await home.platform.send(DIRECT, "**a** < b", "k1")
        assert (home.slack.said_by_bot, home.slack.posted[0].blocks) == (["a &lt; b"], [])


def test_what_is_too_long_anyway_is_not_parsed_to_know_it(make_live: MakeLive, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = Slack(make_live(**TOKENS))
    assert platform.length("a" * 12_000) > 12_000
    monkeypatch.setattr(slack, "rich_text", None)
    assert platform.length("*" * 12_001) == 12_001


async def test_the_words_beside_a_long_message_are_short(house: OpenHouse) -> None:
    async with house(listens=False) as home:
        text = "word & " * 1000
        await home.platform.send(DIRECT, text, "k1")
        shown = home.slack.posted[0].text
        assert shown == escape(text[:3_000]) + "…"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(error="channel_not_found"), NotDelivered),
        (Answer(error="not_in_channel"), NotDelivered),
        (Answer(error="is_archived"), NotDelivered),
        (Answer(error="cannot_dm_bot"), NotDelivered),
        (Answer(error="restricted_action"), NotDelivered),
        (Answer(error="invalid_auth"), NeedsOperator),
        (Answer(error="missing_scope", needed="chat:write"), NeedsOperator),
        (Answer(error="ratelimited", retry_after="3"), TooManyRequests),
        (Answer(429, retry_after="3"), TooManyRequests),
        (Answer(500), TransientFailure),
        (Answer(error="fatal_error"), TransientFailure),
    ],
    ids=str,
)
async def test_a_refusal_is_what_it_is_and_the_next_try_works(
    house: OpenHouse, answer: Answer, kind: type[PocketPawError]
) -> None:
    async with house(listens=False) as home:
        await home.platform.send(DIRECT, "first", "k0")
        home.slack.answer("chat.postMessage", answer)
        with pytest.raises(kind) as raised:
            await home.platform.send(DIRECT, "hello", "k1")
        assert raised.value.data.get("retry_after_s") == (3 if kind is TooManyRequests else None)
        assert BOT_TOKEN not in str(raised.value)
        await home.platform.send(DIRECT, "hello", "k1")
        assert home.slack.said_by_bot == ["first", "hello"]


@pytest.mark.parametrize("answer", [Answer(500, is_done=True), Answer(error="internal_error", is_done=True)], ids=str)
@pytest.mark.parametrize("place", [DIRECT, Place(chat="C1", thread="T")], ids=["chat", "thread"])
async def test_a_message_that_was_posted_although_slack_failed_is_found(
    house: OpenHouse, answer: Answer, place: Place
) -> None:
    async with house(listens=False) as home:
        if place.thread is not None:
            place = Place(chat="C1", thread=home.slack.messages[0].ts if home.slack.messages else _root(home.slack))
        home.slack.answer("chat.postMessage", answer)
        ts = await home.platform.send(place, "hello", "k1")
        assert [message.ts for message in home.slack.posted] == [ts]


async def test_a_message_whose_answer_was_lost_is_found(house: OpenHouse) -> None:
    async with house(listens=False) as home:
        home.slack.answer("chat.postMessage", Answer(is_done=True, cuts=True))
        ts = await home.platform.send(DIRECT, "hello", "k1")
        assert [message.ts for message in home.slack.posted] == [ts]


async def test_a_message_that_nobody_knows_of_is_unsure_and_found_with_the_next_try(house: OpenHouse) -> None:
    async with house(listens=False) as home:
        home.slack.answer("chat.postMessage", Answer(is_done=True, cuts=True))
        home.slack.answer("conversations.history", Answer(), Answer(500))
        with pytest.raises(DeliveryUnsure):
            await home.platform.send(DIRECT, "hello", "k1")
        ts = await home.platform.send(DIRECT, "hello", "k1")
        assert [message.ts for message in home.slack.posted if message.channel == "D1"] == [ts]


async def test_a_message_that_may_still_be_under_way_is_unsure(house: OpenHouse) -> None:
    async with house(listens=False) as home:
        home.slack.answer("chat.postMessage", Answer(cuts=True))
        with pytest.raises(DeliveryUnsure):
            await home.platform.send(DIRECT, "hello", "k1")
        await home.platform.send(DIRECT, "hello", "k1")
        assert home.slack.said_by_bot == ["hello"]


async def test_what_a_killed_process_had_posted_is_found_by_the_next_one(house: OpenHouse, make_live: MakeLive) -> None:
    async with house(listens=False) as home:
        first = await home.platform.send(DIRECT, "hello", "k1")
        again = Slack(make_live(**TOKENS, slack_api_url=home.slack.api_url))
        assert await again.send(DIRECT, "hello", "k1") == first
        assert await again.send(DIRECT, "hello", "k2") != first
        assert home.slack.said_by_bot == ["hello", "hello"]
        await again.aclose()


async def test_a_mark_of_somebody_elses_is_not_believed(house: OpenHouse, make_live: MakeLive) -> None:
    async with house(listens=False) as home:
        await home.platform.send(DIRECT, "hello", "k1")
        home.slack.posted[0].bot_id = None
        again = Slack(make_live(**TOKENS, slack_api_url=home.slack.api_url))
        await again.send(DIRECT, "hello", "k1")
        assert home.slack.said_by_bot == ["hello", "hello"]
        await again.aclose()


async def test_a_bot_that_may_not_read_posts_all_the_same(house: OpenHouse) -> None:
    async with house(listens=False) as home:
        missing = Answer(error="missing_scope", needed="im:history")
        home.slack.answer("conversations.history", missing, missing)
        home.slack.answer("chat.postMessage", Answer(500))
        with pytest.raises(DeliveryUnsure):
            await home.platform.send(DIRECT, "hello", "k1")
        await home.platform.send(DIRECT, "hello", "k1")
        assert home.slack.said_by_bot == ["hello"]


async def test_a_message_is_edited(house: OpenHouse) -> None:
    async with house(listens=False) as home:
        ts = await home.platform.send(DIRECT, "hel", "k1")
        await home.platform.edit(DIRECT, ts, "**hello**")
        await home.platform.edit(DIRECT, ts, "**hello**")
        posted = home.slack.posted[0]
        assert (posted.text, posted.edits, len(home.slack.posted)) == ("hello", 2, 1)
        with pytest.raises(NotDelivered, match="message_not_found"):
            await home.platform.edit(DIRECT, "1.1", "x")


async def test_a_status_shows_in_threads_and_its_failures_are_nobodys_trouble(house: OpenHouse) -> None:
    async with house(listens=False) as home:
        method, place = "assistant.threads.setStatus", Place(chat="C1", thread="5.1")
        await home.platform.typing(DIRECT)
        assert home.slack.calls_of(method) == []
        home.slack.answer(method, Answer(), Answer(500), Answer(429), Answer(error="missing_scope"))
        for _ in range(6):
            await home.platform.typing(place)
        status = {"channel_id": "C1", "thread_ts": "5.1", "status": "is typing…"}
        assert home.slack.calls_of(method) == [status] * 4


async def test_no_token_and_no_address_of_a_link_is_logged(house: OpenHouse) -> None:
    with capture_logs() as logs:
        async with house() as home:
            home.slack.answer("users.info", Answer(error="missing_scope", needed="users:read"))
            home.slack.answer("chat.postMessage", Answer(error="invalid_blocks"))
            home.slack.say("hello")
            await home.all_acknowledged(1)
            await home.platform.send(DIRECT, "hello", "k1")
            home.slack.drop()
            await home.until(lambda: home.failure)
    assert logs
    shown = f"{logs} {home.failure!r} {home.platform!r}"
    assert not [secret for secret in (BOT_TOKEN, APP_TOKEN, "ticket") if secret in shown]


class Correspondent:
    """What a channel does: each message once into its inbox, and its answer tried, in each chat in order, until it is
    there. A connection that fails ends all that is under way, and the platform is made anew.
    """

    def __init__(self, home: House, live: LiveSettings) -> None:
        self.home = home
        self.live = live
        self.inbox: set[str] = set()
        self.waiting: defaultdict[int, deque[Heard]] = defaultdict(deque)
        self.answered: set[str] = set()
        self.failures: list[str] = []
        self.incarnations = 0

    async def run(self) -> None:
        while True:
            self.incarnations += 1
            self.home.platform, self.home.failure = Slack(self.live), None
            async with trio.open_nursery() as nursery:
                for number in range(25):
                    nursery.start_soon(self.answer, number)
                await self.home.listen()
                nursery.cancel_scope.cancel()

    async def hear(self, heard: Heard) -> None:
        await trio.lowlevel.checkpoint()
        if heard.key not in self.inbox:
            self.inbox.add(heard.key)
            self.waiting[int(heard.chat[1:])].append(heard)

    async def answer(self, number: int) -> None:
        """Serve one chat of the twenty-five."""
        while True:
            while self.waiting[number]:
                await self.try_until_answered(self.waiting[number][0])
                self.waiting[number].popleft()
            await trio.sleep(0.01)

    async def try_until_answered(self, heard: Heard) -> None:
        place = Place(chat=heard.chat, thread=heard.thread, reply_to=heard.ref)
        while heard.key not in self.answered:
            try:
                await self.home.platform.send(place, f"re {heard.text}", heard.key)
                self.answered.add(heard.key)
            except (TransientFailure, TooManyRequests, DeliveryUnsure) as error:
                self.failures.append(error.code)
                await trio.sleep(0.001)


@pytest.mark.parametrize("count", [100, pytest.param(1_000, marks=pytest.mark.soak)])
async def test_many_messages_are_each_answered_once_whatever_fails(
    house: OpenHouse, make_live: MakeLive, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(slack_socket, "SHORTEST_LIFE_S", 0.0)
    monkeypatch.setattr(slack_socket, "DRAIN_S", 0.1)
    chance = random.Random(7)
    async with house(listens=False) as home, trio.open_nursery() as nursery:
        slack = home.slack
        channel = Correspondent(home, make_live(**TOKENS, slack_api_url=slack.api_url))
        home.hear = channel.hear
        nursery.start_soon(channel.run)
        faults = [
            Answer(429, retry_after="1"),
            Answer(500),
            Answer(500, is_done=True),
            Answer(cuts=True),
            Answer(cuts=True, is_done=True),
            Answer(error="ratelimited"),
        ]
        for at, number in enumerate(chance.sample(range(count), count)):
            name, chat = ("", f"D{number % 25}") if number % 2 else (f"<@{BOT}> ", f"C{number % 25}")
            slack.say(f"{name}{number}", channel=chat, copies=1 + (number % 3 == 0))
            if at % 4 == 0:
                slack.answer("chat.postMessage", faults[at // 4 % len(faults)])
            if at % 9 == 0:
                slack.answer(("conversations.history", "conversations.replies")[at % 2], Answer(500))
            if at % 25 == 24:
                await home.until(lambda: slack.links)
                slack.drop() if at % 2 else slack.disconnect("warning")
            await trio.sleep(0.001)
        await home.until(lambda: len(channel.answered) == count, within_s=100)
        await home.all_acknowledged(count)
        answers = sorted(int(message.text.removeprefix("re ")) for message in slack.posted)
        assert answers == list(range(count))
        assert channel.incarnations > count / 100
        assert {"slack_server_fault", "too_many_requests"} <= {*channel.failures}
        nursery.cancel_scope.cancel()


def _root(slack: FakeSlack) -> str:
    return slack.say("people", channel="C1")
