"""How messages are posted to Slack, and looked for where it is open whether they were.

Slack has no idempotency: `client_msg_id` is for its own apps alone, say its maintainers
(https://github.com/slackapi/java-slack-sdk/issues/852). So each message carries a mark in its metadata, and a chat is
looked through for marks before the first message is posted there, as an earlier process may have died over it, and
whenever it is unknown whether a message was posted. That finds what Slack shows by then, where the bot may read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from hashlib import blake2s

import msgspec
import structlog

from ...runtime.errors import PocketPawError, TooManyRequests, TransientFailure
from .chat_platform import DeliveryUnsure, Place
from .slack_api import MissingScope, NoAnswer, Refused, ServerFault, SlackApi, Token
from .slack_text import escape, plain, rich_text

METADATA_TYPE = "pocketpaw_message"
NOTICE_LIMIT = 3_000
"""Of the plain words beside a block, which only notifications show."""
LOOKED_BACK_S = 24 * 3600.0
LOOKED_THROUGH = 200
REMEMBERED = 10_000

_BLOCK_REFUSED = frozenset({"invalid_blocks", "invalid_blocks_format", "msg_blocks_too_long", "msg_too_long"})

log = structlog.get_logger()


class _Posted(msgspec.Struct, frozen=True):
    ts: str


class _Payload(msgspec.Struct, frozen=True):
    key: object = None


class _Metadata(msgspec.Struct, frozen=True):
    event_type: str = ""
    event_payload: _Payload = _Payload()


class _Message(msgspec.Struct, frozen=True):
    ts: str = ""
    bot_id: str | None = None
    metadata: _Metadata | None = None


class _Messages(msgspec.Struct, frozen=True):
    messages: tuple[_Message, ...] = ()


class Posting:
    """Posts as the bot that `token` belongs to."""

    def __init__(self, api: SlackApi, token: Token) -> None:
        self._api = api
        self._token = token
        self._posted: dict[str, str] = {}
        """The names of messages by their marks: posted, or found, lately."""
        self._unsure: set[str] = set()
        """The marks of messages that were sent, and of which nobody knows whether they were posted."""
        self._seen: set[Place] = set()
        """Where was looked, or tried to, what an earlier process has posted."""

    async def post(self, place: Place, text: str, key: str) -> str:
        """Post a message, unless one with this key is there already; return its name.

        Raises: DeliveryUnsure if Slack left open whether it did, and looking for it did not help
        """
        mark = blake2s(key.encode(), digest_size=16).hexdigest()
        if _where(place) not in self._seen or mark in self._unsure:
            await self._look(place)
        if mark in self._posted:
            return self._posted[mark]
        arguments: dict[str, object] = {
            "channel": place.chat,
            "unfurl_links": False,
            "unfurl_media": False,
            "metadata": {"event_type": METADATA_TYPE, "event_payload": {"key": mark}},
        }
        if place.thread is not None:
            arguments["thread_ts"] = place.thread
        self._unsure.add(mark)
        try:
            posted = (await self._write("chat.postMessage", arguments, text)).ts
        except (NoAnswer, ServerFault) as error:
            posted = await self._find_after(error, place, mark)
        except PocketPawError:
            self._unsure.discard(mark)  # it was not posted, that is sure
            raise
        self._note(mark, posted)
        return posted

    async def update(self, place: Place, ref: str, text: str) -> None:
        await self._write("chat.update", {"channel": place.chat, "ts": ref}, text)

    def _note(self, mark: str, posted: str) -> None:
        self._unsure.discard(mark)
        self._posted[mark] = posted
        if len(self._posted) > REMEMBERED:
            del self._posted[next(iter(self._posted))]

    async def _find_after(self, error: NoAnswer | ServerFault, place: Place, mark: str) -> str:
        """Find a message that may have been posted; raises `error` if Slack has done with it, and did not post it."""
        try:
            was_seen = await self._look(place)
        except (TransientFailure, TooManyRequests) as unknown:
            raise DeliveryUnsure(f"{error.detail}; whether the message was posted is unknown") from unknown
        if mark in self._posted:
            return self._posted[mark]
        if not was_seen or isinstance(error, NoAnswer):
            raise DeliveryUnsure(f"{error.detail}; the message may have been posted all the same") from error
        self._unsure.discard(mark)
        raise error

    async def _look(self, place: Place) -> bool:
        """Note which marks there are; False if the bot may not look."""
        method = "conversations.history" if place.thread is None else "conversations.replies"
        if len(self._seen) >= REMEMBERED:
            self._seen.clear()  # costs each place one look
        try:
            found = await self._api.read(
                self._token,
                method,
                _Messages,
                channel=place.chat,
                ts=place.thread,
                oldest=f"{time.time() - LOOKED_BACK_S:.6f}",
                limit=LOOKED_THROUGH,
                include_all_metadata=True,
            )
        except (Refused, MissingScope) as error:
            log.info("a chat in Slack cannot be looked through for a repeat", reason=error.detail)
            self._seen.add(_where(place))
            return False
        self._seen.add(_where(place))
        for message in found.messages:
            if message.bot_id and (mark := _mark(message)):
                self._note(mark, message.ts)
        return True

    async def _write(self, method: str, arguments: Mapping[str, object], text: str) -> _Posted:
        """Write a message as a block; as mere words if Slack refuses that."""
        block = rich_text(text)
        words = plain(block) or text
        notice = words if len(words) <= NOTICE_LIMIT else words[:NOTICE_LIMIT] + "…"
        blocks = [block] if block.elements else []
        try:
            shown = {**arguments, "text": escape(notice), "blocks": blocks}
            return await self._api.write(self._token, method, _Posted, shown)
        except Refused as error:
            if not blocks or error.error not in _BLOCK_REFUSED:
                raise
            log.warning("Slack refuses a message's block, and gets plain text", reason=error.detail)
        worded: dict[str, object] = {**arguments, "text": escape(words), "blocks": (), "mrkdwn": False}
        return await self._api.write(self._token, method, _Posted, worded)


def _where(place: Place) -> Place:
    return Place(chat=place.chat, thread=place.thread)


def _mark(message: _Message) -> str:
    metadata = message.metadata
    if metadata is None or metadata.event_type != METADATA_TYPE or not isinstance(metadata.event_payload.key, str):
        return ""
    return metadata.event_payload.key
