"""Which of Discord's messages are meant for the bot, and what is said in them."""

from __future__ import annotations

import msgspec
import pytest
from pocketpaw.actors.channels.discord_message import Message, heard_of
from pocketpaw.actors.channels.discord_session import Session

BOT, ROLE, ANN, BEN = "1000", "1001", "42", "43"
SESSION = Session(user_id=BOT, role_ids={ROLE})
NOBODY = frozenset[str]()


def a_message(content: object = "hello", **fields: object) -> Message:
    author = {"id": ANN, "username": "ann", "global_name": "Ann"}
    return msgspec.convert({"id": "9", "channel_id": "77", "author": author, "content": content, **fields}, Message)


def in_guild(content: str = "hello", **fields: object) -> Message:
    return a_message(content, guild_id="5", **fields)


def user(user_id: str, name: str = "paw") -> dict[str, object]:
    return {"id": user_id, "username": name}


def test_whatever_is_said_in_a_direct_chat_is_meant_for_the_bot() -> None:
    heard = heard_of(a_message("hello"), SESSION, NOBODY)
    assert heard is not None
    assert (heard.text, heard.is_direct, heard.chat, heard.key, heard.ref) == ("hello", True, "77", "9", "9")


def test_a_guild_is_only_listened_to_when_it_speaks_to_the_bot() -> None:
    assert heard_of(in_guild(), SESSION, NOBODY) is None
    assert heard_of(in_guild("hello <@43>", mentions=[user(BEN)]), SESSION, NOBODY) is None
    assert heard_of(in_guild(type=19, referenced_message={"author": user(BEN)}), SESSION, NOBODY) is None
    assert heard_of(in_guild(type=19, referenced_message=None), SESSION, NOBODY) is None
    assert heard_of(in_guild("<@&5>", mention_roles=["5"]), SESSION, NOBODY) is None


@pytest.mark.parametrize("mention", [f"<@{BOT}>", f"<@!{BOT}>"])
def test_a_mention_is_heard_and_left_out(mention: str) -> None:
    heard = heard_of(in_guild(f"{mention} what is up?", mentions=[user(BOT)]), SESSION, NOBODY)
    assert heard is not None
    assert (heard.text, heard.is_direct) == ("what is up?", False)


def test_a_mention_of_the_role_that_bears_the_bots_name_is_one_of_the_bot() -> None:
    heard = heard_of(in_guild(f"<@&{ROLE}> what is up?", mention_roles=[ROLE]), SESSION, NOBODY)
    assert heard is not None
    assert heard.text == "what is up?"


def test_a_reply_to_the_bot_is_heard_without_a_mention() -> None:
    heard = heard_of(in_guild("yes", type=19, referenced_message={"author": user(BOT)}), SESSION, NOBODY)
    assert heard is not None
    assert heard.text == "yes"


def test_others_are_called_by_their_names() -> None:
    said = f"<@{BOT}> greet <@{BEN}> and <@!{BEN}>, not <@44> or <@&7>"
    heard = heard_of(in_guild(said, mentions=[user(BOT), user(BEN, "ben")]), SESSION, NOBODY)
    assert heard is not None
    assert heard.text == "greet @ben and @ben, not <@44> or <@&7>"


def test_only_the_guilds_that_are_served_are_heard() -> None:
    message = in_guild(f"<@{BOT}> hi", mentions=[user(BOT)])
    assert heard_of(message, SESSION, frozenset({"5"})) is not None
    assert heard_of(message, SESSION, frozenset({"6"})) is None
    assert heard_of(a_message("hi"), SESSION, frozenset({"6"})) is not None  # a direct chat is in none


@pytest.mark.parametrize(
    "fields",
    [
        {"author": {"id": BOT, "username": "paw"}},
        {"author": {"id": "50", "username": "other", "bot": True}},
        {"webhook_id": "60"},
        {"type": 7},
        {"type": 20},
        {"content": ""},
        {"content": f"<@{BOT}>", "mentions": [{"id": BOT}]},
    ],
    ids=["itself", "a bot", "a webhook", "a join", "a command", "nothing", "nothing but the mention"],
)
def test_what_no_person_says_is_not_heard(fields: dict[str, object]) -> None:
    assert heard_of(a_message(**fields), SESSION, NOBODY) is None


def test_a_file_says_something_without_words() -> None:
    heard = heard_of(a_message("", attachments=[{"id": "1", "url": "https://there/1"}]), SESSION, NOBODY)
    assert heard is not None
    assert heard.text == ""


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"member": {"nick": "Annie"}}, "Annie"),
        ({"member": {"nick": None}}, "Ann"),
        ({"author": {"id": ANN, "username": "ann", "global_name": None}}, "ann"),
        ({"author": {"id": ANN}}, ANN),
    ],
)
def test_a_person_has_the_name_that_others_see(fields: dict[str, object], name: str) -> None:
    heard = heard_of(a_message(**fields), SESSION, NOBODY)
    assert heard is not None
    assert heard.sender_name == name
    assert heard.sender == ANN
