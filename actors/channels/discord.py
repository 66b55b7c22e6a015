"""Discord: a bot that hears direct messages, and what mentions it or replies to it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import msgspec
import structlog
import trio

from ...config import SETTINGS
from ...runtime import CONNECTOR
from ...runtime.errors import NeedsOperator, PocketPawError, TooManyRequests, TransientFailure
from ...runtime.exits import leaf
from ..models.connections import Connections
from ..models.wire_error import UNREADABLE
from .chat_platform import Hear, NotDelivered, Place
from .discord_attachments import Attachments
from .discord_gateway import Event, GatewayConnection
from .discord_message import Message, heard_of
from .discord_rest import DiscordRest, Page
from .discord_session import KnownChannel, Session, SessionFile
from .discord_socket import open_socket
from .leftovers import sweep
from .media import media_folder

if TYPE_CHECKING:
    from ..settings import LiveSettings

log = structlog.get_logger()

KEEP_S = 10.0
"""How often the session is written. What is heard again because it was older than that has the same key."""
LEAVE_S = 2.0
"""To write it once more, and to close what is open."""
SPARED_SESSIONS = 5
"""So many starts of a session are left alone: Discord takes the token from a bot that uses them up."""

CATCH_UP_S = 24 * 3600.0
"""What was missed longer ago is not answered any more."""
OVERLAP_MS = 60_000
"""Messages do not always come in the order of their ids: those of the last minute before a gap are heard once more."""
CATCH_UP_TRIES = 5
"""For each page; then the connection is given up."""
CATCH_UP_PAGES = 20
"""For each channel."""
EPOCH_MS = 1_420_070_400_000
"""The first moment of Discord's ids (discord.com/developers/docs/reference#snowflakes)."""


class _Tags(msgspec.Struct, frozen=True):
    bot_id: str | None = None


class _Role(msgspec.Struct, frozen=True):
    id: str
    tags: _Tags | None = None


class _Guild(msgspec.Struct, frozen=True):
    roles: tuple[_Role, ...] = ()


class Discord:
    """A bot's way to Discord. What its session needs to be resumed is kept in a file."""

    name: ClassVar[str] = "discord"
    text_limit: ClassVar[int] = 2000
    edit_every_s: ClassVar[float] = 1.5
    is_idempotent: ClassVar[bool] = True
    """Within some minutes, which is as long as Discord remembers a nonce."""

    def __init__(self, live: LiveSettings) -> None:
        settings = live.current
        self._folder = live.home.root / "channels" / self.name
        if not settings.discord_bot_token:
            raise NeedsOperator("Discord: the setting discord_bot_token is missing")
        self._token = settings.discord_bot_token
        self._connections = Connections()
        self._rest = DiscordRest(settings.discord_api_url, self._token, self._connections)
        schemes = ("http", "https") if settings.discord_api_url.startswith("http:") else ("https",)
        self._attachments = Attachments(self._connections, media_folder(live.home, self.name), live, schemes)
        is_named = settings.discord_gateway_url != SETTINGS["discord_gateway_url"].default
        self._gateway_url = settings.discord_gateway_url if is_named else ""
        """The one that the operator named: then there is no other, also for resuming."""
        self._guild_ids = frozenset(map(str, settings.discord_allowed_guild_ids))
        self._file = SessionFile(self._folder / "session.json")
        self._session = Session()

    def length(self, text: str) -> int:
        """In UTF-16 units, as the strictest of Discord's clients counts."""
        return len(text.encode("utf-16-le", errors="replace")) // 2

    # Hearing ----------------------------------------------------------------------------------------------------------

    async def listen(self, hear: Hear, proven: Callable[[], None]) -> None:
        """Hear until it fails. A connection that had proven itself is followed by the next at once, and resumed."""
        await trio.to_thread.run_sync(sweep, self._folder)
        self._session = await self._file.load()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_session)
                while True:
                    pause_s = await self._live_connection(hear, proven)
                    await trio.sleep(pause_s)
        except BaseExceptionGroup as group:
            cause = leaf(group)
            if isinstance(cause, TooManyRequests):  # of the questions that go with listening
                raise TransientFailure(cause.detail) from cause
            raise cause from None
        finally:
            with trio.move_on_after(LEAVE_S, shield=True):
                await self._file.save(self._session)
                await self.aclose()

    async def aclose(self) -> None:
        """Close what was opened to speak; `listen` does so when it ends."""
        await self._connections.aclose()

    async def _live_connection(self, hear: Hear, proven: Callable[[], None]) -> float:
        session = self._session

        async def handle(event: Event) -> None:
            await self._handle(event, hear)

        def alive() -> None:
            session.alive_at = time.time()
            proven()

        if not session.is_resumable:
            session.forget()
        url = self._gateway_url or session.resume_url
        if not session.id:
            url = await self._find_gateway()
        async with open_socket(url) as socket:
            return await GatewayConnection(socket, session, self._token, handle, alive).run()

    async def _find_gateway(self) -> str:
        """Where a new session may be begun; raises TransientFailure while none may."""
        info = await self._rest.gateway()
        limit = info.session_start_limit
        if limit.remaining <= SPARED_SESSIONS:
            raise TransientFailure(
                f"Discord lets this bot begin {limit.remaining} more sessions, which are left alone: a bot that uses "
                f"them up loses its token. There are more in {limit.reset_after / 60_000:.0f} minutes"
            )
        return self._gateway_url or info.url

    async def _keep_session(self) -> None:
        while True:
            await trio.sleep(KEEP_S)
            await self._file.save(self._session)

    async def _handle(self, event: Event, hear: Hear) -> None:
        match event.t:
            case "READY" | "RESUMED":
                await self._file.save(self._session)
                await self._catch_up(hear)
            case "GUILD_CREATE":
                self._learn_roles(event)
            case "MESSAGE_CREATE":
                await self._receive(event, hear)
            case _:
                pass  # of no concern to a bot that talks

    async def _receive(self, event: Event, hear: Hear) -> None:
        try:
            message = msgspec.json.decode(event.d, type=Message)
        except UNREADABLE as error:
            log.warning("a message of Discord's was not understood", reason=str(error), seq=event.s)
            return  # or it would be replayed for ever
        await self._take(message, hear)

    def _learn_roles(self, event: Event) -> None:
        session = self._session
        try:
            roles = msgspec.json.decode(event.d, type=_Guild).roles
        except UNREADABLE as error:
            log.warning("a guild of Discord's was not understood", reason=str(error), seq=event.s)
            return
        session.role_ids.update(role.id for role in roles if role.tags and role.tags.bot_id == session.user_id)

    async def _take(self, message: Message, hear: Hear) -> None:
        session = self._session
        heard = heard_of(message, session, self._guild_ids)
        if heard is not None:
            fetch = partial(self._attachments.fetch, message.attachments) if message.attachments else None
            await hear(msgspec.structs.replace(heard, fetch=fetch))
        if session.note(message.channel_id, message.id, message.guild_id, is_heard=heard is not None):
            await self._file.save(session)

    # Catching up ------------------------------------------------------------------------------------------------------

    async def _catch_up(self, hear: Hear) -> None:
        """Hear what was said while there was no session, in the channels from which something was heard before."""
        while gaps := self._session.gaps:
            channel_id, known = gaps[0]
            try:
                await self._close_gap(channel_id, known, hear)
            except NotDelivered:  # the bot is there no more
                self._session.channels.pop(channel_id, None)
            await self._file.save(self._session)

    async def _close_gap(self, channel_id: str, known: KnownChannel, hear: Hear) -> None:
        oldest = (int((time.time() - CATCH_UP_S) * 1000) - EPOCH_MS) << 22
        after = str(max(int(known.gap_after or 0) - (OVERLAP_MS << 22), oldest))
        for _ in range(CATCH_UP_PAGES):
            page = await self._fetch_page(channel_id, after)
            for message in page.messages:  # as they come this way, they do not name their guild
                await self._take(msgspec.structs.replace(message, guild_id=known.guild_id), hear)
                known.gap_after = after = message.id
            if page.is_last:
                break
        else:
            log.warning("more was missed in a Discord channel than is caught up with", channel_id=channel_id)
        known.gap_after = None

    async def _fetch_page(self, channel_id: str, after: str) -> Page:
        """Try for a while: what is said now waits meanwhile, so that nobody is answered out of turn."""
        for failures in range(1, CATCH_UP_TRIES):
            try:
                return await self._rest.messages_after(channel_id, after)
            except (TransientFailure, TooManyRequests) as failure:
                asked_s = failure.data.get("retry_after_s")
                pause_s = asked_s if isinstance(asked_s, int | float) else CONNECTOR.delay_s(failures)
                await trio.sleep(min(pause_s, CONNECTOR.max_s))
        return await self._rest.messages_after(channel_id, after)

    # Saying -----------------------------------------------------------------------------------------------------------

    async def send(self, place: Place, text: str, key: str) -> str:
        nonce = hashlib.blake2b(key.encode(), digest_size=12).hexdigest()  # Discord takes 25 characters
        return await self._rest.create_message(_channel(place), text, nonce, place.reply_to)

    async def edit(self, place: Place, ref: str, text: str) -> None:
        await self._rest.edit_message(_channel(place), ref, text)

    async def typing(self, place: Place) -> None:
        try:
            await self._rest.show_typing(_channel(place))
        except PocketPawError as error:
            log.debug("typing is not shown", reason=error.detail)


def _channel(place: Place) -> str:
    """A thread is a channel of its own."""
    return place.thread or place.chat
