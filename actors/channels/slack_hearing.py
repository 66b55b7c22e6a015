"""From Slack's events to what was said to the bot: in the order of each chat, with names and files."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog
import trio

from ...runtime.errors import TimedOut, TooLarge, TooManyRequests, TransientFailure, Unavailable
from ..models.wire_error import UNREADABLE
from ..settings import LiveSettings
from .chat_platform import Hear, Heard
from .slack_api import MissingScope, Refused, SlackApi, Token
from .slack_catch_up import CatchUp
from .slack_events import Callback, Said, SharedFile, understand
from .slack_text import people_in, read_markup

REMEMBERED = 2_000
"""Of each of the things that are kept only so as not to be asked for, or heard, again."""
NAMES_WITHIN_S = 1.0
FILES_LIMIT = 10
FILES_WITHIN_S = 60.0
"""For all files of a message, as others wait meanwhile, and Slack does not send it anew for ever."""
LONGEST_NAME = 100

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")

K = TypeVar("K")
V = TypeVar("V")

log = structlog.get_logger()


class _Profile(msgspec.Struct, frozen=True):
    display_name: str | None = None


class _User(msgspec.Struct, frozen=True):
    name: str = ""
    real_name: str | None = None
    profile: _Profile = _Profile()


class _UserFound(msgspec.Struct, frozen=True):
    user: _User


class _Root(msgspec.Struct, frozen=True):
    user: str | None = None
    text: str | None = None
    reply_users: tuple[str, ...] = ()


class _Thread(msgspec.Struct, frozen=True):
    messages: tuple[_Root, ...] = ()


class Hearing:
    """Takes events. Direct messages aside, only those of the channels count that the settings name, if they do."""

    def __init__(
        self,
        api: SlackApi,
        token: Token,
        catch_up: CatchUp,
        folder: Path,
        live: LiveSettings,
    ) -> None:
        self._api = api
        self._catch_up = catch_up
        self._token = token
        self._folder = folder
        self._live = live
        self._names: dict[str, str] = {}
        self._threads: dict[tuple[str, str], bool] = {}
        """Whether the bot takes part in a thread."""
        self._heard: dict[str, None] = {}
        """What was kept lately: Slack sends anew what is acknowledged too late, files and all."""
        self._latest: dict[str, trio.Event] = {}
        """For each chat in which something is being taken: set when the latest of it has been."""

    def join(self, chat: str, thread: str) -> None:
        """From now on what is said in this thread is meant for the bot."""
        self._catch_up.note(chat, thread)
        _remember(self._threads, (chat, thread), True)

    def take(self, payload: bytes, bot: str, hear: Hear) -> Awaitable[None]:
        """Find what was said to `bot`; its turn in its chat is the order of these calls."""
        try:
            said = understand(msgspec.json.decode(payload, type=Callback).event, bot)
        except UNREADABLE as error:
            log.warning("an event from Slack cannot be read, and is left out", reason=str(error))
            return _nothing()
        if said is None or not (said.is_direct or self._is_served(said.chat)):
            return _nothing()
        before, done = self._latest.get(said.chat), trio.Event()
        self._latest[said.chat] = done
        return self._take_in_turn(said, bot, hear, before, done)

    async def _take_in_turn(
        self, said: Said, bot: str, hear: Hear, before: trio.Event | None, done: trio.Event
    ) -> None:
        try:
            if before is not None:
                await before.wait()
            if said.key not in self._heard and await self._is_for(bot, said):
                await hear(await self._complete(said))
                self._catch_up.note(said.chat, said.thread)
                _remember(self._heard, said.key, None)
        finally:
            done.set()
            if self._latest.get(said.chat) is done:
                del self._latest[said.chat]

    def _is_served(self, chat: str) -> bool:
        served = self._live.current.slack_allowed_channel_ids
        return not served or chat in served

    async def _is_for(self, bot: str, said: Said) -> bool:
        """Whether the bot is meant: by name, or as one who takes part in the thread."""
        if said.is_direct or said.thread is None:
            return True
        thread = said.chat, said.thread
        if said.is_addressed:
            self.join(*thread)
        elif thread not in self._threads:
            _remember(self._threads, thread, await self._takes_part(bot, *thread))
        return self._threads[thread]

    async def _takes_part(self, bot: str, chat: str, thread: str) -> bool:
        try:
            found = await self._api.read(
                self._token, "conversations.replies", _Thread, channel=chat, ts=thread, limit=1
            )
        except (Refused, MissingScope) as error:
            log.info("a thread in Slack cannot be read, so only what names the bot is heard", reason=error.detail)
            return False
        root = found.messages[0] if found.messages else _Root()
        return bot in (root.user, *root.reply_users, *people_in(root.text or ""))

    async def _complete(self, said: Said) -> Heard:
        names: dict[str, str] = {}
        with trio.move_on_after(NAMES_WITHIN_S):
            for person in (said.user, *people_in(said.text)):
                names[person] = await self._name_of(person)
        files = said.files[:FILES_LIMIT]
        return Heard(
            key=said.key,
            chat=said.chat,
            sender=said.user,
            sender_name=names.get(said.user, said.user),
            text=read_markup(said.text, names),
            is_direct=said.is_direct,
            thread=said.thread,
            ref=said.ts,
            fetch=partial(self._fetch_files, files) if files else None,
        )

    async def _name_of(self, person: str) -> str:
        """What a person is called; their id if Slack does not say."""
        if person not in self._names:
            try:
                user = (await self._api.read(self._token, "users.info", _UserFound, user=person)).user
                name = user.profile.display_name or user.real_name or user.name or person
            except (Refused, MissingScope) as error:
                log.info("Slack does not tell what a person is called", reason=error.detail)
                name = person
            except (TransientFailure, TooManyRequests):
                return person  # asked for again with their next message
            _remember(self._names, person, name)
        return self._names[person]

    async def _fetch_files(self, files: Iterable[SharedFile]) -> tuple[list[str], list[str]]:
        """Fetch what can be; give the paths, and a line about each that is missing: no message is lost for a file."""
        deadline = trio.current_time() + FILES_WITHIN_S
        paths: list[str] = []
        missing: list[str] = []
        for file in files:
            name = file.name or file.id
            try:
                paths.append(str(await self._fetch_file(file, name, deadline)))
            except (TooLarge, TimedOut, Unavailable) as error:
                missing.append(f"[The file {name} was not fetched: {error.detail}.]")
            except OSError as error:
                missing.append(f"[The file {name} was not fetched: it cannot be stored: {error.strerror}.]")
        return paths, missing

    async def _fetch_file(self, file: SharedFile, name: str, deadline: float) -> Path:
        if not file.url_private_download:
            raise Unavailable("it is not on Slack's own servers")
        limit_mb = self._live.current.media_max_file_size_mb
        if file.size > limit_mb * 1_000_000:
            raise TooLarge(f"it is larger than {limit_mb} MB")
        target = self._folder / f"{_UNSAFE.sub('_', file.id)}-{_UNSAFE.sub('_', name)[-LONGEST_NAME:]}"
        await trio.Path(self._folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._api.fetch(self._token, file.url_private_download, target, limit_mb * 1_000_000, deadline)
        return target


def _remember(known: dict[K, V], key: K, value: V) -> None:
    """Keep the latest of what is known."""
    known.pop(key, None)
    known[key] = value
    if len(known) > REMEMBERED:
        del known[next(iter(known))]


async def _nothing() -> None:
    """What is done about an event that is of no concern."""
