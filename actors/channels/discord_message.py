"""Messages as Discord writes them, and which of them are meant for the bot."""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

from .chat_platform import Heard
from .discord_session import Session, Snowflake

DEFAULT, REPLY = 0, 19
"""Of all types of message, those that a person writes (discord.com/developers/docs/resources/message)."""

_MENTION = re.compile(r"<@(!|&)?(\d+)>")


class User(msgspec.Struct, frozen=True):
    id: str
    username: str = ""
    global_name: str | None = None
    bot: bool = False

    @property
    def name(self) -> str:
        return self.global_name or self.username or self.id


class Member(msgspec.Struct, frozen=True):
    """What a person is in one guild."""

    nick: str | None = None


class Attachment(msgspec.Struct, frozen=True):
    id: Snowflake
    url: str
    filename: str = "file"
    size: int = 0


class ReferencedMessage(msgspec.Struct, frozen=True):
    """The message to which another one replies."""

    author: User | None = None


class Message(msgspec.Struct, frozen=True):
    id: Snowflake
    channel_id: Snowflake
    author: User
    content: str = ""
    type: int = DEFAULT
    guild_id: str | None = None
    webhook_id: str | None = None
    member: Member | None = None
    mentions: tuple[User, ...] = ()
    mention_roles: tuple[str, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    referenced_message: ReferencedMessage | None = None


def heard_of(message: Message, session: Session, guild_ids: Collection[str]) -> Heard | None:
    """What a person said to the bot; None if it is not a person's, or not for the bot. Media are still to be fetched.

    Said to it is whatever is said in a direct chat; elsewhere, in the guilds `guild_ids` (all, if there are none),
    what mentions it or replies to it.
    """
    is_person = message.type in (DEFAULT, REPLY) and not (message.author.bot or message.webhook_id)
    if not is_person or message.author.id == session.user_id:
        return None
    is_direct = message.guild_id is None
    if not is_direct and not _is_addressed(message, session, guild_ids):
        return None
    text = _readable(message, session)
    if not text and not message.attachments:
        return None
    return Heard(
        key=message.id,
        chat=message.channel_id,
        sender=message.author.id,
        sender_name=(message.member.nick if message.member else None) or message.author.name,
        text=text,
        is_direct=is_direct,
        ref=message.id,
    )


def _is_addressed(message: Message, session: Session, guild_ids: Collection[str]) -> bool:
    if guild_ids and message.guild_id not in guild_ids:
        return False
    replied_to = message.referenced_message and message.referenced_message.author
    return (
        any(user.id == session.user_id for user in message.mentions)
        or (replied_to is not None and replied_to.id == session.user_id)
        or not session.role_ids.isdisjoint(message.mention_roles)
    )


def _readable(message: Message, session: Session) -> str:
    """The text without the mention of the bot, and with people's names in place of their ids."""
    names = {user.id: user.name for user in message.mentions}

    def replace(match: re.Match[str]) -> str:
        kind, mentioned = match.groups()
        if mentioned == session.user_id or (kind == "&" and mentioned in session.role_ids):
            return ""
        return f"@{names[mentioned]}" if kind != "&" and mentioned in names else match[0]

    return _MENTION.sub(replace, message.content).strip()
