"""What Slack tells a bot, and which of it is said to the bot. https://docs.slack.dev/reference/events/message"""

from __future__ import annotations

import msgspec

from .slack_text import people_in, without_mention

SAID_BY_PEOPLE = frozenset({"", "file_share", "thread_broadcast", "me_message"})
"""The subtypes of a message that is what somebody says; the others tell of joins, topics, bots and the like."""


class SharedFile(msgspec.Struct, frozen=True):
    id: str = ""
    name: str | None = None
    mimetype: str = ""
    size: int = 0
    url_private_download: str = ""


class Edited(msgspec.Struct, frozen=True):
    ts: str = ""


class Event(msgspec.Struct, frozen=True):
    """A `message` or an `app_mention`. `message_changed` has the new message inside, and the one before it."""

    type: str = ""
    subtype: str | None = None
    channel: str = ""
    channel_type: str | None = None
    user: str | None = None
    bot_id: str | None = None
    text: str | None = None
    ts: str = ""
    thread_ts: str | None = None
    edited: Edited | None = None
    files: list[SharedFile] | None = None
    message: Event | None = None
    previous_message: Event | None = None


class Callback(msgspec.Struct, frozen=True):
    """The payload of an `events_api` envelope."""

    event: Event = Event()


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a person that the bot may be meant by; the text is still Slack's markup."""

    key: str
    """The channel and the time: an `app_mention` and the `message` that it is have the same. An edit has its own."""
    chat: str
    user: str
    text: str
    ts: str
    thread: str | None
    """Where an answer goes: in a channel always a thread, this message's own if it is in none."""
    is_direct: bool
    is_addressed: bool
    """Whether it is said to the bot for certain; else it is in a thread, in which the bot may take part."""
    files: tuple[SharedFile, ...] = ()


def understand(event: Event, bot: str) -> Said | None:
    """Find what a person said with this event; None if it is nobody, the bot itself, or meant for others."""
    if event.type not in ("message", "app_mention"):
        return None
    new = event
    if event.subtype == "message_changed":
        new, old = event.message or Event(), event.previous_message or Event()
        if new.edited is None or new.text == old.text:  # Slack added a preview to it, for instance
            return None
    if new.bot_id or not new.user or new.user == bot or (new.subtype or "") not in SAID_BY_PEOPLE or not new.ts:
        return None
    chat, text = event.channel, new.text or ""
    is_direct = event.channel_type == "im"
    mentioned = people_in(text)
    is_addressed = is_direct or event.type == "app_mention" or bot in mentioned
    if not is_addressed and (mentioned or new.thread_ts in (None, new.ts)):
        return None
    return Said(
        key=f"{chat}:{new.ts}" + (f":{new.edited.ts}" if new.edited is not None else ""),
        chat=chat,
        user=new.user,
        text=without_mention(text, bot),
        ts=new.ts,
        thread=new.thread_ts if is_direct else new.thread_ts or new.ts,
        is_direct=is_direct,
        is_addressed=is_addressed,
        files=tuple(new.files or ()),
    )
