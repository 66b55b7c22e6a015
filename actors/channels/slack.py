"""Slack: events by Socket Mode, answers by its Web API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar
from urllib.parse import urlsplit

import msgspec
import structlog
import trio

from ...runtime.errors import NeedsOperator, TooManyRequests, TransientFailure
from ...runtime.exits import leaf
from ..settings import LiveSettings
from .chat_platform import Hear, Place
from .leftovers import sweep
from .media import media_folder
from .slack_api import MissingScope, Refused, SlackApi, Token
from .slack_catch_up import CatchUp
from .slack_hearing import Hearing
from .slack_posting import Posting
from .slack_socket import Connect, SocketMode
from .slack_text import length, rich_text

LEAVE_WITHIN_S = 2.0

log = structlog.get_logger()


class Slack:
    """A Slack app, as its bot user."""

    name: ClassVar[str] = "slack"
    text_limit: ClassVar[int] = 12_000
    """Slack refuses blocks beyond some 13,000, text and what contains it together, and does not say how it counts
    (https://github.com/slackapi/bolt-js/issues/2509): so the block counts as it is sent, which is the most it can be.
    """
    edit_every_s: ClassVar[float] = 3.0
    """`chat.update` may be called some 50 times a minute, for all chats together."""
    is_idempotent: ClassVar[bool] = False
    """Slack knows none. `send` looks for what it may have posted, which is no promise: see `Posting`."""

    def __init__(self, live: LiveSettings, connect: Connect | None = None) -> None:
        settings = live.current
        self._bot_token = _token("slack_bot_token", settings.slack_bot_token, "bot token (xoxb-…)")
        self._app_token = _token("slack_app_token", settings.slack_app_token, "app-level token (xapp-…)")
        self._api = SlackApi(settings.slack_api_url)
        self._connect = connect
        self._folder = folder = live.home.root / "channels" / self.name
        self._catch_up = CatchUp(self._api, self._bot_token, folder / "reach.json")
        self._hearing = Hearing(
            self._api,
            self._bot_token,
            self._catch_up,
            media_folder(live.home, self.name),
            live,
        )
        self._posting = Posting(self._api, self._bot_token)
        self._has_status = True

    def length(self, text: str) -> int:
        """The size of the block that it becomes; of a text that is longer than any block may be, its own."""
        return length(rich_text(text)) if len(text) <= self.text_limit else len(text)

    async def aclose(self) -> None:
        await self._api.aclose()

    async def listen(self, hear: Hear, proven: Callable[[], None]) -> None:
        """Hear until the connection fails; Slack's own request for another connection is no failure."""
        self._api.open()
        try:
            await trio.to_thread.run_sync(sweep, self._folder)
            bot = (await self._api.read_patiently(self._bot_token, "auth.test", _Identity)).user_id
            await self._catch_up.load()
            async with trio.open_nursery() as nursery:
                await self._listen_as(bot, hear, proven, nursery)
        except BaseExceptionGroup as group:
            raise _ours(leaf(group)) from None
        except Refused as error:
            raise _ours(error) from error
        finally:
            with trio.move_on_after(LEAVE_WITHIN_S, shield=True):
                await self._catch_up.save()
                await self._api.aclose()

    async def _listen_as(self, bot: str, hear: Hear, proven: Callable[[], None], nursery: trio.Nursery) -> None:
        is_up = trio.Event()

        def take(payload: bytes) -> Awaitable[None]:
            return self._hearing.take(payload, bot, hear)

        def prove() -> None:
            is_up.set()
            self._catch_up.alive()
            proven()

        async def catch_up() -> None:
            await is_up.wait()
            await self._catch_up.run(take)
            await self._catch_up.keep()

        nursery.start_soon(catch_up)
        await SocketMode(self._open_address, take, prove, self._connect).run()

    async def send(self, place: Place, text: str, key: str) -> str:
        posted = await self._posting.post(place, text, key)
        if place.thread is not None:
            self._hearing.join(place.chat, place.thread)
        return posted

    async def edit(self, place: Place, ref: str, text: str) -> None:
        await self._posting.update(place, ref, text)

    async def typing(self, place: Place) -> None:
        """Show a status, which Slack has in threads only."""
        if place.thread is None or not self._has_status:
            return
        status = {"channel_id": place.chat, "thread_ts": place.thread, "status": "is typing…"}
        try:
            await self._api.write(self._bot_token, "assistant.threads.setStatus", _Done, status)
        except MissingScope as error:
            self._has_status = False
            log.info("this Slack app may not show a status", reason=error.detail)
        except (Refused, NeedsOperator, TransientFailure, TooManyRequests):
            pass  # decoration; what is wrong shows where it matters

    async def _open_address(self) -> str:
        address = (await self._api.read_patiently(self._app_token, "apps.connections.open", _Address)).url
        schemes = ("wss", "ws") if self._api.url.scheme == "http" else ("wss",)
        try:
            url = urlsplit(address)
            is_address = url.scheme in schemes and bool(url.hostname) and url.port != 0
        except ValueError:
            is_address = False
        if not is_address:
            raise TransientFailure("Slack gave an address for Socket Mode that is not a secure WebSocket's")
        return address


class _Identity(msgspec.Struct, frozen=True):
    user_id: str


class _Address(msgspec.Struct, frozen=True):
    url: str


class _Done(msgspec.Struct, frozen=True):
    ok: bool


def _ours(error: BaseException) -> BaseException:
    """Slack's refusal to let us listen, of a kind that is not known here, may pass."""
    return TransientFailure(error.detail) if isinstance(error, Refused) else error


def _token(setting: str, value: str, what: str) -> Token:
    if not value:
        raise NeedsOperator(f"the setting {setting} is empty: it wants the Slack app's {what}", setting=setting)
    return Token(setting, value)
