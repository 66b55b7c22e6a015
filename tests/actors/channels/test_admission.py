from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pocketpaw.actors.channels.admission import (
    CODE_ALPHABET,
    CODE_LENGTH,
    code_in,
    principal_of,
    session_base,
    standing_of,
)
from pocketpaw.actors.channels.chat_platform import Heard
from pocketpaw.actors.channels.platforms import PLATFORMS, platform_named
from pocketpaw.actors.channels.wording import command_in, decision_in
from pocketpaw.config import Settings
from pocketpaw.config.settings import SETTINGS
from pocketpaw.storage.inbox import Inbound


def heard(sender: str = "42", chat: str = "42", *, is_direct: bool = True) -> Heard:
    return Heard(key="k", chat=chat, sender=sender, sender_name="Ann", text="hi", is_direct=is_direct)


@pytest.mark.parametrize(
    ("channel", "settings", "message", "standing"),
    [
        ("telegram", {}, heard(), "stranger"),
        ("telegram", {"allowed_user_id": 42}, heard(), "trusted"),
        ("telegram", {"allowed_user_id": 42}, heard(chat="-7", is_direct=False), "trusted"),
        ("telegram", {"allowed_user_id": 42}, heard(sender="43"), "stranger"),
        ("discord", {}, heard(), "guest"),
        ("discord", {"discord_allowed_user_ids": (42,)}, heard(), "trusted"),
        ("discord", {"discord_allowed_user_ids": (42,)}, heard(sender="43"), "stranger"),
        ("slack", {}, heard(chat="C1", is_direct=False), "guest"),
        ("slack", {"slack_allowed_channel_ids": ("C2",)}, heard(chat="C1", is_direct=False), "stranger"),
        ("slack", {"slack_allowed_channel_ids": ("C1",)}, heard(chat="C1", is_direct=False), "guest"),
    ],
)
def test_who_may_talk_follows_from_the_settings(
    channel: str, settings: dict[str, object], message: Heard, standing: str
) -> None:
    assert standing_of(PLATFORMS[channel], Settings(**settings), message) == standing  # pyright: ignore[reportArgumentType] - each is of its setting


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_guest_has_nothing_done_but_talk(is_trusted: bool) -> None:
    inbound = Inbound(
        id=1,
        channel="discord",
        key="k",
        chat="1",
        thread="",
        ref=None,
        sender="42",
        sender_name="Ann",
        is_direct=True,
        is_trusted=is_trusted,
        text="hi",
        media=[],
        session_id="discord:1",
        created_at=datetime.now(UTC),
    )
    principal = principal_of(inbound, Settings(channel_scopes=("chat", "memory")))
    assert principal.name == "discord:42"
    assert principal.scopes == ({"chat", "memory"} if is_trusted else {"chat"})


def test_by_default_nobody_on_a_channel_has_admin() -> None:
    assert "admin" not in Settings().channel_scopes


@pytest.mark.parametrize(
    "text", ["ABCDE-FGHJK", "abcdefghjk", "/start ABCDE-FGHJK", "/pair@paw_bot ABCDEFGHJK", " ABCDE-FGHJK "]
)
def test_a_code_is_recognized_however_it_is_sent(text: str) -> None:
    assert code_in(text) == "ABCDEFGHJK"
    assert len("ABCDEFGHJK") == CODE_LENGTH
    assert set("ABCDEFGHJK") <= set(CODE_ALPHABET)


@pytest.mark.parametrize("text", ["", "/start", "hello there", "ABCDE-FGHJ", "ABCDE-FGHJ1", "the code is ABCDE-FGHJK"])
def test_other_words_are_no_code(text: str) -> None:
    assert code_in(text) is None


@given(st.text(max_size=100), st.text(max_size=100))
def test_every_chat_has_a_session(chat: str, thread: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9:._-]{1,120}", session_base("google_chat", chat, thread))


def test_chats_that_look_alike_have_sessions_of_their_own() -> None:
    assert session_base("telegram", "-100", "") == "telegram:-100"
    assert session_base("matrix", "!a:b", "") != session_base("matrix", "!a;b", "")
    assert session_base("slack", "x" * 200, "") != session_base("slack", "x" * 201, "")


@pytest.mark.parametrize(
    ("text", "command"),
    [("/start", "start"), ("/NEW", "new"), ("/stop@paw_bot now", "stop"), ("/news", None), ("stop", None), ("", None)],
)
def test_commands_are_told_from_talk(text: str, command: str | None) -> None:
    assert command_in(text) == command


@pytest.mark.parametrize(
    ("text", "decision"), [("Yes!", True), (" no. ", False), ("/deny", False), ("yes please", None)]
)
def test_yes_and_no_are_told_from_talk(text: str, decision: bool | None) -> None:
    assert decision_in(text) is decision


def test_every_setting_that_a_platform_names_is_one() -> None:
    for info in PLATFORMS.values():
        named = {*info.needs, *info.extra, info.people, info.places, info.mode} - {""}
        assert named <= set(SETTINGS)
        assert named <= set(info.settings)


def test_a_platform_is_known_by_its_alias() -> None:
    assert platform_named("gchat") is PLATFORMS["google_chat"]
    assert platform_named("icq") is None


def test_a_setting_is_known_with_and_without_its_prefix() -> None:
    telegram = PLATFORMS["telegram"]
    for name in ("bot_token", "telegram_bot_token"):
        assert telegram.setting_named(name) == "telegram_bot_token"
    for name in ("allowed_user_id", "telegram_allowed_user_id"):
        assert telegram.setting_named(name) == "allowed_user_id"
    assert telegram.setting_named("discord_bot_token") is None
    assert telegram.setting_named("web_host") is None
