"""Telegram: long polling, as a bot (https://core.telegram.org/bots/api).

A batch of updates is confirmed by asking for the next one, so only when all of it is on disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import ClassVar, TypeVar

import msgspec
import structlog
import trio

from ...config.private_file import write_private
from ...runtime.errors import NeedsOperator, PocketPawError, TooManyRequests, TransientFailure
from ..settings import LiveSettings
from .chat_platform import Hear, Heard, NotDelivered, Place, pause_asked
from .media import media_folder
from .telegram_api import BotApi, File, Message, Refused, Sent, Update, UpdateId, User
from .telegram_text import to_html, utf16_units

T = TypeVar("T")

log = structlog.get_logger()

POLL_S = 25.0
"""How long Telegram may hold a poll back while nobody says anything."""

AGAIN_S = 1.0
BATCH = 100
BATCH_S = 30.0
"""A batch that takes longer, for its files, is left there and asked for again: a sign of life is due."""

FILES_WITHIN_S = 60.0
"""For all files of a message, as others wait meanwhile."""

UPDATES = ("message", "edited_message")
FETCH_LIMIT_BYTES = 20 * 1024 * 1024
"""Larger files Telegram gives no bot."""

MB = 1024 * 1024
LEAVE_S = 1.0
UNCHANGED = "message is not modified"
UNREADABLE = ("can't parse entities", "message is too long", "text is empty", "text must be non-empty")
EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,8}")


class Telegram:
    """One bot. Made by its channel for one life of it."""

    name: ClassVar[str] = "telegram"
    text_limit: ClassVar[int] = 4096
    edit_every_s: ClassVar[float] = 3.0  # a group takes 20 messages a minute, and an edit counts as one
    is_idempotent: ClassVar[bool] = False

    def __init__(self, live: LiveSettings) -> None:
        settings = live.current
        if not settings.telegram_bot_token:
            raise NeedsOperator("telegram_bot_token is not set")
        self._live = live
        self._api = BotApi(settings.telegram_api_url, settings.telegram_bot_token)
        self._me = User(0)
        self._offset = 0

    def length(self, text: str) -> int:
        return utf16_units(text)

    # What is heard ----------------------------------------------------------------------------------------------------

    async def listen(self, hear: Hear, proven: Callable[[], None]) -> None:
        try:
            self._me = await self._api.call("getMe", {}, User)
            await self._api.call("deleteWebhook", {"drop_pending_updates": False}, bool)
            proven()
            while True:
                await self._poll_patiently(hear)
                proven()
        finally:
            with trio.move_on_after(LEAVE_S, shield=True):
                await self._api.aclose()

    async def _poll_patiently(self, hear: Hear) -> None:
        """Ask once more where a poll fails that may have been cut by the way: held for long, that is usual."""
        try:
            await self._poll(hear)
        except TooManyRequests as error:
            await trio.sleep(pause_asked(error, AGAIN_S))
        except TransientFailure:
            await trio.sleep(AGAIN_S)
            await self._poll(hear)

    async def _poll(self, hear: Hear) -> None:
        wish = {"offset": self._offset, "limit": BATCH, "timeout": int(POLL_S), "allowed_updates": UPDATES}
        raws = await self._api.call("getUpdates", wish, list[msgspec.Raw], takes_s=POLL_S)
        until = trio.current_time() + BATCH_S
        numbered = [(msgspec.json.decode(raw, type=UpdateId).update_id, raw) for raw in raws]
        for update_id, raw in sorted(numbered, key=itemgetter(0)):
            heard = self._read(raw)
            if heard is not None:
                await hear(heard)
            self._offset = update_id + 1
            if trio.current_time() >= until:
                break

    def _read(self, raw: msgspec.Raw) -> Heard | None:
        """What was said to the bot, if that is what an update is about."""
        try:
            update = msgspec.json.decode(raw, type=Update)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("an update of Telegram's cannot be read", reason=str(error))
            return None
        message = update.message or update.edited_message
        if message is None or message.user is None or message.user.is_bot:
            return None
        text = message.text or message.caption
        is_direct = message.chat.type == "private"
        files = message.files()
        if not (text or files) or not (is_direct or self._is_meant(message, text)):
            return None
        edition = f":{message.edit_date}" if update.edited_message is not None else ""
        return Heard(
            key=f"{message.chat.id}:{message.message_id}{edition}",
            chat=str(message.chat.id),
            sender=str(message.user.id),
            sender_name=message.user.name,
            text=self._without_mention(text),
            is_direct=is_direct,
            thread=str(message.message_thread_id) if message.is_topic_message else None,
            ref=str(message.message_id),
            fetch=partial(self._fetch_all, files) if files else None,
        )

    def _is_meant(self, message: Message, text: str) -> bool:
        """Whether the bot is spoken to in a group: by its name, by a command, or in reply to it."""
        replied = message.reply_to_message
        if replied is not None and replied.user is not None and replied.user.id == self._me.id:
            return True
        return (text.startswith("/") and "@" not in text.split(maxsplit=1)[0]) or self._mention.search(text) is not None

    @property
    def _mention(self) -> re.Pattern[str]:
        return re.compile(rf"@{re.escape(self._me.username or ' ')}\b", re.IGNORECASE)

    def _without_mention(self, text: str) -> str:
        return self._mention.sub("", text).strip()

    # Files ------------------------------------------------------------------------------------------------------------

    async def _fetch_all(self, files: list[File]) -> tuple[list[str], list[str]]:
        """Fetch what came with a message: the paths, and a remark for each that could not be had."""
        paths: list[str] = []
        remarks: list[str] = []
        deadline = trio.current_time() + FILES_WITHIN_S
        for file in files:
            try:
                with trio.fail_at(deadline):
                    paths.append(str(await self._fetch(file)))
            except (Refused, TransientFailure, NotDelivered, OSError, trio.TooSlowError) as error:
                remarks.append(f"(the file {file.file_name} could not be fetched: {_why(error)})".replace("  ", " "))
        return paths, remarks

    async def _fetch(self, file: File) -> Path:
        limit = min(self._live.current.media_max_file_size_mb * MB, FETCH_LIMIT_BYTES)
        too_large = Refused(f"it is larger than {limit // MB} MB")
        if file.file_size > limit:
            raise too_large
        found = await self._api.call("getFile", {"file_id": file.file_id}, File)
        content = await self._api.download(found.file_path, limit)
        if content is None:
            raise too_large
        extension = EXTENSION.fullmatch(Path(found.file_path).suffix)
        name = f"telegram-{_plain(file.file_unique_id)}{extension[0] if extension else ''}"
        path = media_folder(self._live.home, self.name) / name
        await trio.to_thread.run_sync(_keep, path, content)
        return path

    # What is said -----------------------------------------------------------------------------------------------------

    async def send(self, place: Place, text: str, key: str) -> str:
        wish: dict[str, object] = {**_where(place), "link_preview_options": {"is_disabled": True}}
        if place.reply_to is not None:
            wish["reply_parameters"] = {"message_id": int(place.reply_to), "allow_sending_without_reply": True}
        sent = await self._say("sendMessage", wish, text, Sent)
        return "" if sent is None else str(sent.message_id)

    async def edit(self, place: Place, ref: str, text: str) -> None:
        wish: dict[str, object] = {
            "chat_id": place.chat,
            "message_id": int(ref),
            "link_preview_options": {"is_disabled": True},
        }
        await self._say("editMessageText", wish, text, msgspec.Raw)

    async def typing(self, place: Place) -> None:
        try:
            await self._api.call("sendChatAction", {**_where(place), "action": "typing"}, bool)
        except PocketPawError:
            return  # nobody misses it

    async def _say(self, method: str, wish: dict[str, object], text: str, answer: type[T]) -> T | None:
        """Say it as HTML, or as it is written where Telegram cannot read that; None if it stood there already."""
        html: dict[str, object] = {**wish, "text": to_html(text), "parse_mode": "HTML"}
        try:
            return await self._api.say(method, html, answer)
        except Refused as error:
            words = str(error.data.get("description", ""))
            moved = error.data.get("migrate_to_chat_id")
            if UNCHANGED in words:
                return None
            if moved is not None:
                return await self._say(method, {**wish, "chat_id": moved}, text, answer)
            if not any(clue in words for clue in UNREADABLE):
                raise NotDelivered(error.detail) from error
        try:
            return await self._api.say(method, {**wish, "text": text}, answer)
        except Refused as error:
            raise NotDelivered(error.detail) from error


def _where(place: Place) -> dict[str, object]:
    return {"chat_id": place.chat, **({"message_thread_id": int(place.thread)} if place.thread else {})}


def _why(error: Exception) -> str | None:
    if isinstance(error, PocketPawError):
        return error.detail
    return error.strerror if isinstance(error, OSError) else f"it did not arrive within {FILES_WITHIN_S:g} s"


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]


def _keep(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, content)
