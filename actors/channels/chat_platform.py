"""What the channels need of a chat platform: hear, say, edit. Each platform is one class; none of them is an actor.

The actor `Channel` drives one platform, in its own task. What was heard is on disk before the platform is told so, and
what is to be said is on disk before it is tried, so a platform itself keeps nothing that a restart may not lose.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Protocol

import msgspec

from ...runtime.errors import PocketPawError, TooManyRequests


class NotDelivered(PocketPawError):
    """The platform will never take this message, however often it is tried: the chat is gone, the bot was blocked."""

    code = "not_delivered"


class DeliveryUnsure(PocketPawError):
    """The message was sent, and no answer came: it may have arrived."""

    code = "delivery_unsure"


LONGEST_PAUSE_S = 3600.0


def pause_asked(error: TooManyRequests, otherwise_s: float) -> float:
    """For how long a platform wants to be left alone, within reason."""
    asked = error.data.get("retry_after_s")
    pause_s = float(asked) if isinstance(asked, int | float) else otherwise_s
    return min(max(pause_s, 0.0), LONGEST_PAUSE_S)


Fetch = Callable[[], Awaitable[tuple[Sequence[str], Sequence[str]]]]
"""Fetches the files that came with a message: their paths, and a remark for each that could not be had."""


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """A message that somebody sent.

    `key` is the platform's own name for it: a repeat has the same. `chat`, `thread` and `ref` are the platform's, and
    opaque to all others: where an answer goes, and which message it answers. `sender` is the person's lasting id there.
    `media` are the paths of files that came with it, fetched already; with `fetch` they are fetched once it is known
    that the sender may talk, so that strangers fill no disk.
    """

    key: str
    chat: str
    sender: str
    sender_name: str
    text: str
    is_direct: bool
    thread: str | None = None
    ref: str | None = None
    media: tuple[str, ...] = ()
    fetch: Fetch | None = None


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where something is said. `reply_to` is the `ref` of the message that it answers."""

    chat: str
    thread: str | None = None
    reply_to: str | None = None


Hear = Callable[[Heard], Awaitable[None]]
"""Returns when the message is on disk; only then may the platform be told that it has arrived."""


class Platform(Protocol):
    """A chat platform, as the bot that the settings name sees it.

    Every method raises `TransientFailure` where it may go better later, `TooManyRequests` with `retry_after_s` where
    the platform says when, and `NeedsOperator` where only a person can help (a token that is refused, another program
    that uses the same bot). None of them tries again by itself: pace and patience are the channel's.
    """

    name: ClassVar[str]
    text_limit: ClassVar[int]
    """The longest text of one message, in the platform's own units (see `length`)."""
    edit_every_s: ClassVar[float]
    """How often a message that grows may be edited in one chat; 0: never, so it is sent once it is whole."""
    is_idempotent: ClassVar[bool]
    """Whether a second `send` with the same key is known to the platform as a repeat, and shown once."""

    def length(self, text: str) -> int:
        """The length of Markdown text as the platform counts it."""
        ...

    async def listen(self, hear: Hear, proven: Callable[[], None]) -> None:
        """Connect, and pass on what is said, until it fails; it never returns.

        `proven` is called after each round trip that shows that the connection works both ways: a poll that came back,
        a heartbeat that was acknowledged. A silence longer than the platform's own liveness allows is a failure.
        """
        ...

    async def send(self, place: Place, text: str, key: str) -> str:
        """Say Markdown text; return the platform's name for the message. `key` is the same for each try of it.

        Raises: NotDelivered, DeliveryUnsure, and as above
        """
        ...

    async def edit(self, place: Place, ref: str, text: str) -> None:
        """Replace the text of a message. That it has that text already is no failure.

        Raises: NotDelivered, and as above
        """
        ...

    async def typing(self, place: Place) -> None:
        """Show that an answer is being written. A failure of it is nobody's trouble, and is swallowed here."""
        ...
