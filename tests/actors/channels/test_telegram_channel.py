"""Telegram, from a person's message to the answer in the chat, over the true wire."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import trio
from pocketpaw.actors.channels import channel, telegram_api
from pocketpaw.actors.channels import telegram as module
from pocketpaw.actors.channels.media import media_folder
from pocketpaw.actors.channels.platforms import PLATFORMS
from pocketpaw.actors.channels.protocol import MakePairingCode, SaveChannel, ToggleChannel
from pocketpaw.actors.channels.wording import REPEAT_MARK
from pocketpaw.actors.models.protocol import ToolCallDelta
from pocketpaw.storage.delivery import DeliverReminders
from pocketpaw.storage.jobs import AddJob, Job
from pocketpaw.storage.schedule import Claim, ClaimSlots

from ...fakes.telegram_server import Cut, Fault, Status, TooMany, fake_telegram
from .conftest import WITHIN_S, Channels, Model, RunChannels

GROUP = -100_200


def once(method: str, *faults: Fault) -> Callable[[str], Fault]:
    """These befall the first requests of a method, one each."""
    left = list(faults)
    return lambda called: left.pop(0) if called == method and left else None


async def test_a_message_is_answered_in_its_chat(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42) as channels:
        telegram.say("**hello** <you>")
        (answer,) = await telegram.wait_for(1)
        assert (answer.chat, answer.text, answer.reply_to) == (42, "echo: hello <you>", None)
        status = await channels.connected()
        assert (status.configured, status.restarts, status.state, status.incarnation) == (True, 0, "connected", 1)
        await channels.until(lambda status: status.last_ok_out)
        with trio.fail_after(5):
            while telegram.unconfirmed:  # noqa: ASYNC110 the other side of a socket
                await trio.sleep(0.01)


async def test_the_next_batch_is_asked_for_when_this_one_is_on_disk(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42):
        for number in range(5):
            telegram.say(f"m{number}")
        await telegram.wait_for(5)
        offsets = [wish["offset"] for method, wish in telegram.bodies if method == "getUpdates"]
        assert offsets[0] == 0
        assert offsets == sorted(offsets)
        assert [message.text for message in telegram.messages] == [f"echo: m{number}" for number in range(5)]


async def test_in_a_group_it_answers_whoever_speaks_to_it(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42):
        telegram.say("not for you", chat=GROUP, sender=42)
        named = telegram.say("@Paw_Bot what is it", chat=GROUP, sender=42)
        bot = {"from": {"id": telegram.bot_id, "is_bot": True, "first_name": "Paw"}}
        telegram.say("and this", chat=GROUP, sender=42, reply_to_message=bot)
        telegram.say("@paw_bot hey", chat=GROUP, sender=66)
        first, second = await telegram.wait_for(2)
        assert (first.text, first.reply_to) == ("echo: P42: what is it", named)
        assert second.text == "echo: P42: and this"
        await trio.sleep(0.2)
        assert len(telegram.messages) == 2


async def test_a_topic_of_a_forum_is_a_conversation_of_its_own(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42) as channels:
        telegram.say("@paw_bot hi", chat=GROUP, sender=42, message_thread_id=9, is_topic_message=True)
        (answer,) = await telegram.wait_for(1)
        assert answer.thread == 9
        assert f"agents/telegram:{GROUP}:9" in channels.system.nodes


async def test_an_edited_message_is_answered_anew_and_a_repeat_is_not(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42):
        message_id = telegram.say("first")
        telegram.say("first", message_id=message_id)
        await telegram.wait_for(1)
        person = {"id": 42, "is_bot": False, "first_name": "P42"}
        chat = {"id": 42, "type": "private"}
        edited = {"message_id": message_id, "chat": chat, "from": person, "text": "second", "edit_date": 1_700_000_009}
        for _ in range(2):
            telegram.update(edited_message=edited)
        await telegram.wait_for(2)
        await trio.sleep(0.2)
        assert telegram.said_to(42) == ["echo: first", "echo: second"]


async def test_what_is_no_message_is_passed_over(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42) as channels:
        telegram.update(poll={"id": "1"})
        telegram.update(message={"message_id": "not a number", "chat": {"id": 42}})
        telegram.say("", sticker={"file_id": "x"})
        chat = {"id": 42, "type": "private"}
        bot = {"id": 42, "is_bot": True, "first_name": "B"}
        telegram.update(message={"message_id": 9, "chat": chat, "from": bot, "text": "from a bot"})
        telegram.say("hello")
        (answer,) = await telegram.wait_for(1)
        assert answer.text == "echo: hello"
        assert (await channels.status()).restarts == 0


async def test_files_come_with_the_message(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42) as channels:
        telegram.files["photos/1.jpg"] = b"jpeg"
        sizes = [{"file_id": name, "file_unique_id": "u"} for name in ("small.jpg", "photos/1.jpg")]
        telegram.say("", caption="look", photo=sizes)
        await telegram.wait_for(1)
        telegram.say("", document={"file_id": "big", "file_unique_id": "b", "file_size": 10**9})
        answer = (await telegram.wait_for(2))[1]
        assert "could not be fetched" in answer.text
        (path,) = media_folder(channels.live.home, "telegram").iterdir()
        assert (path.suffix, path.read_bytes(), path.stat().st_mode & 0o777) == (".jpg", b"jpeg", 0o600)


async def test_of_a_stranger_no_file_is_fetched_and_of_who_is_paired_each_once(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram) as channels:
        telegram.files["a.jpg"] = b"jpeg"
        photo = [{"file_id": "a.jpg", "file_unique_id": "u"}]
        telegram.say("", chat=66, caption="look", photo=photo)
        telegram.say("", chat=GROUP, sender=66, caption="@paw_bot look", photo=photo)
        await telegram.wait_for(1)
        made = await channels.system.ask(MakePairingCode(channel="telegram"))
        telegram.say(made.code, chat=66)
        await telegram.wait_for(2)
        assert "getFile" not in telegram.calls
        message_id = telegram.say("", chat=66, caption="look", photo=photo)
        telegram.say("", chat=66, caption="look", photo=photo, message_id=message_id)
        telegram.say("and that", chat=66)
        first, second = (await telegram.wait_for(4))[2:]
        assert (first.text.splitlines()[0], second.text) == ("echo: look", "echo: and that")
        assert telegram.calls["getFile"] == 1


async def test_files_that_come_slowly_end_neither_the_channel_nor_what_was_heard(
    run_channels: RunChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILES_WITHIN_S", 0.2)
    monkeypatch.setattr(module, "BATCH_S", 0.1)
    async with fake_telegram(most_s=0.1) as telegram, run_channels(telegram, allowed_user_id=42) as channels:
        telegram.holds.add("getFile")
        document = {"file_id": "a", "file_unique_id": "a", "file_name": "a.pdf"}
        for number in range(6):
            telegram.say("", caption=f"m{number}", document=document)
        answers = await telegram.wait_for(6)
        assert answers[5].text == "echo: m5\n(the file a.pdf could not be fetched: it did not arrive within 0.2 s)"
        assert (await channels.status()).restarts == 0
        assert telegram.calls["getFile"] == 6
        offsets = {wish["offset"] for method, wish in telegram.bodies if method == "getUpdates"}
        assert len(offsets) >= 6  # each is a sign of life, and confirms what is on disk


async def test_an_update_that_cannot_be_decoded_keeps_nobody_waiting(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42) as channels:
        telegram.garbled = b"\xff"  # no UTF-8
        telegram.say("GARBLED")
        telegram.say("hello")
        (answer,) = await telegram.wait_for(1)
        assert answer.text == "echo: hello"
        assert (await channels.status()).restarts == 0


async def test_an_answer_of_which_telegram_would_show_nothing_is_sent_as_it_is_written(
    run_channels: RunChannels,
) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, model=Model(prefix=""), allowed_user_id=42):
        telegram.say("[1]: https://example.com")
        (answer,) = await telegram.wait_for(1)
        assert answer.text == "[1]: https://example.com"


def unreadable(text: str) -> str:
    return f"<blink>{text}</blink>"


async def test_text_that_telegram_cannot_read_is_sent_as_it_is_written(
    run_channels: RunChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "to_html", unreadable)
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42):
        telegram.say("*hi*")
        (answer,) = await telegram.wait_for(1)
        assert answer.text == "echo: *hi*"


async def test_a_long_answer_comes_in_parts_that_telegram_takes(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42):
        telegram.say("😀 words " * 1_000)
        answers = await telegram.wait_for(3)
        assert sum(answer.text.count("words") for answer in answers) == 1_000


async def test_requests_that_fail_are_made_again(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42) as channels:
        telegram.faults = once("sendMessage", TooMany(0.1), Status(500))
        telegram.say("hello")
        (answer,) = await telegram.wait_for(1)
        assert answer.text == "echo: hello"
        assert telegram.calls["sendMessage"] == 3
        assert (await channels.status()).restarts == 0


async def test_a_pause_that_telegram_asks_for_is_no_reason_to_start_anew_however_odd(
    run_channels: RunChannels,
) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42) as channels:
        telegram.faults = once("getUpdates", TooMany(-1.0), TooMany(-1.0))
        telegram.say("hello")
        await telegram.wait_for(1)
        telegram.faults = once("sendMessage", TooMany(1e12))
        telegram.say("hello again")
        with trio.fail_after(WITHIN_S):
            while telegram.calls["sendMessage"] < 2:  # noqa: ASYNC110 the other side of a socket
                await trio.sleep(0.01)
        await trio.sleep(0.2)
        assert (await channels.connected()).restarts == 0


async def test_a_message_whose_answer_was_lost_is_marked_as_a_repeat(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42):
        telegram.faults = once("sendMessage", Cut(is_late=True))
        telegram.say("hello")
        first, second = await telegram.wait_for(2)
        assert (first.text, second.text) == ("echo: hello", f"{REPEAT_MARK}echo: hello")


async def test_a_poll_that_is_cut_is_no_reason_to_start_anew(
    run_channels: RunChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.05)
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42) as channels:
        telegram.faults = once("getUpdates", Cut(), None, Status(502))
        telegram.say("hello")
        await telegram.wait_for(1)
        assert (await channels.status()).restarts == 0


async def test_who_blocked_the_bot_gets_nothing_and_others_do(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42) as channels:
        telegram.faults = once("sendMessage", Status(403, "Forbidden: bot was blocked by the user"))
        telegram.say("one")
        telegram.say("two")
        await telegram.wait_for(1)
        assert telegram.said_to(42) == ["echo: two"]
        assert (await channels.status()).restarts == 0


async def test_a_growing_answer_is_edited_into_the_whole_one(
    run_channels: RunChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.Telegram, "edit_every_s", 0.1)
    model = Model(pieces=10, pause_s=0.1)
    async with fake_telegram() as telegram, run_channels(telegram, model=model, allowed_user_id=42):
        telegram.say("a b c d e f g h i j k l m n o p")
        with trio.fail_after(10):
            while not telegram.messages or telegram.messages[0].text.endswith("…"):  # noqa: ASYNC110 over a socket
                await trio.sleep(0.01)
        (answer,) = telegram.messages
        assert answer.text == "echo: a b c d e f g h i j k l m n o p"
        assert answer.edits >= 3


# Before something is done ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "answer", "done"), [("yes", "is approved", ["write_file"]), ("no", "is denied", [])])
async def test_a_person_is_asked_in_the_chat_and_decides_there(
    run_channels: RunChannels, word: str, answer: str, done: list[str]
) -> None:
    model = Model(calls=[ToolCallDelta(0, id="c", name="write_file", arguments='{"path": "a.txt"}')])
    async with fake_telegram() as telegram, run_channels(telegram, model=model, allowed_user_id=42) as channels:
        telegram.say("write it")
        (question,) = await telegram.wait_for(1)
        assert "May I use write_file?" in question.text
        assert "a.txt" in question.text
        assert channels.done == []
        telegram.say(word)
        decided, reply = (await telegram.wait_for(3))[1:]
        assert answer in decided.text
        assert reply.text.startswith("echo: ")
        assert channels.done == done


async def test_who_may_not_do_it_may_not_approve_it(run_channels: RunChannels) -> None:
    model = Model(calls=[ToolCallDelta(0, id="c", name="shell", arguments="{}")])
    async with fake_telegram() as telegram, run_channels(telegram, model=model, allowed_user_id=42) as channels:
        telegram.say("run it")
        await telegram.wait_for(1)
        telegram.say("yes")
        told = (await telegram.wait_for(2))[1].text
        assert "still waits: Missing required scope: admin" in told
        assert "pocketpaw approve a-" in told
        assert channels.done == []


# When it does not work ------------------------------------------------------------------------------------------------


async def test_a_refused_token_is_one_thing_to_mend(run_channels: RunChannels) -> None:
    wrong = {"telegram_bot_token": "1:wrong", "allowed_user_id": 42}
    async with fake_telegram() as telegram, run_channels(telegram, **wrong) as channels:
        status = await channels.until(lambda status: status.state == "parked")
        assert not status.running
        assert "telegram_bot_token" in str(status.last_error)
        assert "1:wrong" not in str(status.last_error)


async def test_another_poller_is_named(run_channels: RunChannels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    async with fake_telegram() as telegram:
        telegram.faults = lambda method: Status(409, "Conflict") if method == "getUpdates" else None
        async with run_channels(telegram, allowed_user_id=42, max_restarts=3) as channels:
            status = await channels.until(lambda status: status.state == "parked")
            assert "another poller uses this bot token" in str(status.last_error)


async def test_a_connection_that_never_answers_is_given_up_and_made_anew(
    run_channels: RunChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telegram_api, "ANSWER_S", 0.1)
    monkeypatch.setattr(module, "POLL_S", 0.2)
    monkeypatch.setattr(module, "AGAIN_S", 0.05)
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42) as channels:
        await channels.connected()
        telegram.holds.add("getUpdates")
        await channels.until(lambda status: not status.running)
        telegram.say("are you there?")
        telegram.holds.clear()
        await telegram.wait_for(1)
        assert (await channels.connected()).incarnation > 1


async def save(channels: Channels, **config: object) -> None:
    await channels.system.ask(SaveChannel(channel="telegram", config=config))


async def test_a_change_of_its_settings_is_in_force_at_once(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, fake_telegram() as other, run_channels() as channels:
        assert (await channels.status()).state == "off"
        await save(channels, bot_token=telegram.token, telegram_api_url=telegram.url, allowed_user_id=42)
        telegram.say("hello")
        await telegram.wait_for(1)
        before = await channels.connected()
        await save(channels, allowed_user_id=43)
        telegram.say("hello", chat=43)
        assert (await telegram.wait_for(2))[1].text == "echo: hello"
        assert (await channels.connected()).incarnation == before.incarnation  # who may talk is read each time
        await save(channels, api_url=other.url)
        other.say("here I am", chat=43)
        assert (await other.wait_for(1))[0].text == "echo: here I am"
        await save(channels, bot_token=None)
        await channels.until(lambda status: status.state == "off")


async def test_a_channel_is_switched_off_and_on(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42) as channels:
        await channels.connected()
        off = await channels.system.ask(ToggleChannel(channel="telegram", action="stop"))
        assert (off.configured, off.running) == (True, False)
        telegram.say("are you there?")
        await channels.system.ask(ToggleChannel(channel="telegram", action="start"))
        await channels.connected()
        await telegram.wait_for(1)


async def test_what_was_being_said_when_it_was_switched_off_is_said_again_by_its_next_life(
    run_channels: RunChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "LAST_WORDS_S", 0.1)
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42) as channels:
        telegram.holds.add("sendMessage")
        telegram.say("hello")
        with trio.fail_after(WITHIN_S):
            while "sendMessage" not in telegram.calls:  # noqa: ASYNC110 the other side of a socket
                await trio.sleep(0.01)
        await channels.system.ask(ToggleChannel(channel="telegram", action="stop"))
        telegram.holds.clear()
        await channels.system.ask(ToggleChannel(channel="telegram", action="start"))
        assert (await telegram.wait_for(1))[0].text == f"{REPEAT_MARK}echo: hello"


async def test_of_settings_that_are_saved_at_once_none_is_lost(run_channels: RunChannels) -> None:
    async with run_channels() as channels, trio.open_nursery() as nursery:
        for name in PLATFORMS:
            save_off = SaveChannel(channel=name, config={"autostart": False})
            nursery.start_soon(channels.system.ask, save_off)
    assert channels.live.current.channel_autostart == dict.fromkeys(PLATFORMS, False)


async def test_a_reminder_comes_to_the_chat_that_it_was_made_in(run_channels: RunChannels) -> None:
    async with fake_telegram() as telegram, run_channels(telegram, allowed_user_id=42) as channels:
        telegram.say("remind me")
        await telegram.wait_for(1)
        now = datetime.now(UTC)
        job = Job(
            id="j",
            kind="reminder",
            name="stretch",
            next_slot=now,
            session_id="telegram:42",
            channel="telegram",
            principal="telegram:42",
            created_at=now,
        )
        await channels.system.ask(AddJob(job=job))
        claim = Claim("j", now, now, is_late=False, skipped=[], next_slot=None)
        await channels.system.ask(ClaimSlots(claims=[claim], now=now))
        for _ in range(2):  # the second time nothing is left to come
            await channels.system.ask(DeliverReminders(claim="c", now=now, chats=[("telegram", "42")]))
            channels.system.bus.publish("events", "notification", {})
        assert (await telegram.wait_for(2))[1].text == "Reminder: stretch"
        await trio.sleep(0.2)
        assert len(telegram.messages) == 2


async def test_nothing_shows_the_token(run_channels: RunChannels, capsys: pytest.CaptureFixture[str]) -> None:
    async with fake_telegram() as telegram:
        telegram.faults = lambda method: Cut() if method != "getMe" else None
        async with run_channels(telegram, allowed_user_id=42, max_restarts=2) as channels:
            status = await channels.until(lambda status: status.last_error)
            assert telegram.token not in str(status)
    out = capsys.readouterr()
    assert telegram.token not in out.out + out.err
