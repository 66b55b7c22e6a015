"""What was said while nobody listened: Slack sends an event anew for some minutes only, so afterwards chats are read.

What is found takes the way of the events, under the same keys, so that what was heard before is known as a repeat.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import structlog
import trio

from ...config.private_file import write_private
from ...runtime.errors import NeedsOperator, PocketPawError
from ..models.wire_error import UNREADABLE
from .slack_api import MissingScope, Refused, SlackApi, Token

GAP_S = 60.0
"""A shorter silence is left to Slack, which sends anew at once, after 1 and after 5 minutes."""
MARGIN_S = 600.0
"""How far before a silence is read: what was on its way when it began counts to it."""
LONGEST_S = 24 * 3600.0
"""What is older is answered no more."""
KEEP_S = 60.0
RETRY_S = 60.0
PAGE = 200
PAGES = 10
CHATS_LIMIT = 100
THREADS_LIMIT = 50

R = TypeVar("R")
Take = Callable[[bytes], Awaitable[None]]

log = structlog.get_logger()


class _Kept(msgspec.Struct):
    alive_at: float = 0.0
    """Until when everything was heard, in seconds since 1970; 0: never yet."""
    chats: list[str] = msgspec.field(default_factory=list[str])
    threads: list[tuple[str, str]] = msgspec.field(default_factory=list[tuple[str, str]])
    """The latest in which the bot is meant without being named."""


class _Chat(msgspec.Struct, frozen=True):
    id: str


class _Next(msgspec.Struct, frozen=True):
    next_cursor: str = ""


class _Chats(msgspec.Struct, frozen=True):
    channels: tuple[_Chat, ...] = ()


_Time = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,12}(\.[0-9]{1,9})?$")]


class _Message(msgspec.Struct, frozen=True):
    ts: _Time
    latest_reply: _Time | None = None


class _Page(msgspec.Struct, frozen=True):
    messages: tuple[msgspec.Raw, ...] = ()
    response_metadata: _Next | None = None


class CatchUp:
    """Keeps in `file` until when, and where, was listened, and reads what has been missed since."""

    def __init__(self, api: SlackApi, token: Token, file: Path) -> None:
        self._api = api
        self._token = token
        self._file = file
        self._kept = _Kept()
        self._is_current = False
        """Whether nothing is missing: until then a silence goes on, however well is listened."""
        self._is_changed = False

    def alive(self) -> None:
        """Note that events come at this moment."""
        if self._is_current:
            self._kept.alive_at = time.time()
            self._is_changed = True

    def note(self, chat: str, thread: str | None) -> None:
        """Note where the bot is spoken to."""
        _keep_latest(self._kept.chats, chat, CHATS_LIMIT)
        if thread is not None:
            _keep_latest(self._kept.threads, (chat, thread), THREADS_LIMIT)
        self._is_changed = True

    async def load(self) -> None:
        """Read the file anew; without one, or with one that cannot be read, there is nothing to catch up with."""
        self._is_current = False
        try:
            self._kept = msgspec.json.decode(await trio.to_thread.run_sync(self._file.read_bytes), type=_Kept)
        except FileNotFoundError:
            pass
        except (OSError, *UNREADABLE) as error:
            log.warning(
                "what Slack told while nobody listened cannot be found", file=str(self._file), reason=str(error)
            )

    async def keep(self) -> None:
        """Write the file from time to time."""
        while True:
            await self.save()
            await trio.sleep(KEEP_S)

    async def save(self) -> None:
        """Write the file. That this fails costs no more than what is said meanwhile, so it is logged."""
        if self._is_changed:
            self._is_changed = False
            try:
                await trio.to_thread.run_sync(self._write, msgspec.json.encode(self._kept))
            except OSError as error:
                log.warning("until when Slack was heard is not kept", file=str(self._file), reason=str(error))

    async def run(self, take: Take) -> None:
        """Read what has been missed, trying until that succeeds. Raises NeedsOperator."""
        since, now = self._kept.alive_at, time.time()
        while since and since < now - GAP_S:
            try:
                await self._read_all(max(since - MARGIN_S, now - LONGEST_S), take)
                break
            except NeedsOperator:
                raise
            except PocketPawError as error:
                log.warning("what was said in Slack meanwhile is not caught up with yet", reason=error.detail)
                await trio.sleep(RETRY_S)
        self._is_current = True
        self.alive()

    async def _read_all(self, since: float, take: Take) -> None:
        threads = {*self._kept.threads}
        for chat in {*self._kept.chats, *await self._chats_of_the_bot()}:
            for message, raw in reversed(await self._read("conversations.history", since, channel=chat)):
                await take(_as_event(raw, chat))
                if message.latest_reply is not None and float(message.latest_reply) > since:
                    threads.add((chat, message.ts))
        for chat, thread in sorted(threads):
            for _, raw in await self._read("conversations.replies", since, channel=chat, ts=thread):
                await take(_as_event(raw, chat))

    async def _chats_of_the_bot(self) -> list[str]:
        kinds = "im,mpim,public_channel,private_channel"
        try:
            found = await self._api.read_patiently(
                self._token, "users.conversations", _Chats, types=kinds, exclude_archived=True, limit=CHATS_LIMIT
            )
        except (Refused, MissingScope) as error:
            log.info("only chats are caught up with in which the bot was spoken to before", reason=error.detail)
            return []
        return [chat.id for chat in found.channels]

    async def _read(self, method: str, since: float, **where: str) -> list[tuple[_Message, bytes]]:
        """The messages since then: of a channel the newest first, of a thread the oldest, and its root before them."""
        messages: list[bytes] = []
        where |= {"oldest": f"{since:.6f}", "limit": str(PAGE)}
        cursor = None
        for _ in range(PAGES):
            try:
                page = await self._api.read_patiently(self._token, method, _Page, **where, cursor=cursor)
            except (Refused, MissingScope) as error:
                log.info("a chat in Slack cannot be read", chat=where["channel"], reason=error.detail)
                break
            messages += map(bytes, page.messages)
            cursor = page.response_metadata.next_cursor if page.response_metadata is not None else None
            if not cursor:
                break
        else:
            log.warning("more was missed in a Slack chat than is caught up with", chat=where["channel"])
        found = ((_understood(raw), raw) for raw in messages)
        return [(message, raw) for message, raw in found if message is not None and float(message.ts) > since]

    def _write(self, data: bytes) -> None:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._file, data)


def _understood(raw: bytes) -> _Message | None:
    try:
        return msgspec.json.decode(raw, type=_Message)
    except UNREADABLE as error:
        log.warning("a message of Slack's was not understood", reason=str(error))
        return None  # or nothing could be caught up with any more


def _as_event(raw: bytes, chat: str) -> bytes:
    """The payload with which Slack would have told of a message."""
    message = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    where = {"channel": chat, "channel_type": "im" if chat.startswith("D") else "channel"}
    return msgspec.json.encode({"event": {**message, "type": "message", **where}})


def _keep_latest(kept: list[R], item: R, limit: int) -> None:
    if item in kept:
        kept.remove(item)
    kept.append(item)
    del kept[:-limit]
